"""SimilarityModel: the parts that answer lookup, match and verify, and their saved folder."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import data as sources
from likewise._checks import check_choice, check_count
from likewise.calibration import Calibration, ClassThresholds, CrossFit, Goal
from likewise.data import CrossPairs, GivenPairs, fingerprints
from likewise.data.parts import label_names, paths_of
from likewise.distances import COSINE, Distance
from likewise.embedded import Embedded
from likewise.encoders import TwoTowers, encode
from likewise.errors import ArtifactError, GalleryError, InputError, InputTypeError
from likewise.index import Gallery, Index, MilvusGallery, Neighbors
from likewise.matching import OF_CENTERS, RULES, Matches, Rule, match, rule_name
from likewise.model import saving
from likewise.model.embedding import MOST_RAW, Progress, embed, embed_kept, opened
from likewise.model.merging import Kept
from likewise.model.rebuilding import encoder_fingerprint
from likewise.model.results import Evaluation, Verified, evaluated, verified
from likewise.model.trials import (
    LEAVE_OUT,
    PAIRS,
    calibrated,
    calibrated_per_class,
    candidates_for,
    check_candidates,
    check_some_indexed,
    cross_trials,
    given_unknowns,
    labeled,
    matching_trials,
    neighbors_for,
    pair_trials,
    warn_of_many,
    warn_of_spelling,
)
from likewise.normalization import AdaptiveNorm
from likewise.probability import Probability, fit_logistic

Items = Any  # numbers (n, ...), images, a dataset, image paths, texts, or an Embedded of this model


class SimilarityModel:
    """Everything that answers lookup, match and verify, kept together.

    Each method is a few lines that call the parts; the parts are open and can be used alone.
    Label codes inside are those of the index; a dataset brings class names of its own, and its
    codes are translated by name. Whatever takes items or data also takes an `Embedded` that this
    model made, so that a caller who asks twice reads and encodes once.

    Args:
        encoder: any module from a batch of preprocessed items to embeddings (n, d). None, or
            `nn.Identity()`, for items that are embeddings already, made elsewhere.
        distance: how embeddings are compared.
        preprocess: what is done to items first, and how image files are read.
        trained: The dataset that the encoder was trained on, so that it is known again. Its
            items are then left out of calibration and evaluation, where they would look too good.
        origin: what the model was made from, as JSON can hold it; kept, not read.
        reading: which columns of a table hold texts, labels or vectors; a table that a command
            is given later is read so too.
        query_encoder: Encoder of what is asked about, for two towers: `encoder` is then that of the
            known items. None where one encoder does both.
        query_preprocess: What is done to queries first, for a `query_encoder`.

    Attributes:
        index: the known items; open to `remove` and the rest.
        gallery: where these are, if they are in a gallery; see `use_gallery` and `use_milvus`.
        collection: which one of Milvus there, if they are in Milvus.
        calibrations: the operating points, by name, which is that of the rule unless another was
            given; "pairs" is that of `verify`.
        class_thresholds: by operating point, for those calibrated with `per_class`; their
            thresholds for all other classes are in `calibrations`.
        probabilities: by operating point, that a pair is the same, or that a label is right, by
            the distance; made when calibrated.
        norm: what normalizes distances before they are judged; see `use_cohort`.
        rules: matching rules of the user's own that were calibrated for, by name.
        cross_fit: what encoders said of classes that they were not trained on; made by `train`.
        trained_on: names of the classes that the encoder was trained on.
        trained_prints: `data.fingerprints` of the items that it was trained on.
        calibrated_prints: Fingerprints of the items that any calibration saw.
        cache: a folder that keeps embeddings for the next call or process, if it is set; see
            `likewise.embed`. It is not saved with the model.

    Example:
        >>> import likewise as lw
        >>> digits = lw.data.load("digits", split="train")
        >>> model = SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
        >>> ids = model.add(lw.data.sample_items(digits, per_class=5))
        >>> model.lookup(lw.data.load("digits", split="test"), k=3).labels.shape
        torch.Size([447, 3])
    """

    def __init__(
        self,
        encoder: nn.Module | None,
        *,
        distance: Distance = COSINE,
        preprocess: sources.Preprocess | None = None,
        trained: sources.Dataset | None = None,
        origin: Mapping[str, Any] | None = None,
        reading: sources.Reading | None = None,
        query_encoder: nn.Module | None = None,
        query_preprocess: sources.Preprocess | None = None,
    ) -> None:
        if isinstance(encoder, TwoTowers):
            raise InputTypeError(
                "encoder must be that of the known items, got TwoTowers. Use "
                "SimilarityModel(towers.b, query_encoder=towers.a)."
            )
        if query_encoder is None and query_preprocess is not None:
            raise InputError("query_preprocess must come with a query_encoder, got it alone.")
        self.query_encoder = None if query_encoder is None else query_encoder.eval()
        self.query_preprocess = query_preprocess
        self.encoder = (nn.Identity() if encoder is None else encoder).eval()
        self.reading = sources.Reading.from_columns({} if reading is None else reading.columns)
        self.distance = distance
        self.preprocess = preprocess
        self.origin = dict(origin or {})
        self.index = Index(distance)
        self.gallery: str | None = None
        self.cache: str | Path | None = None
        self.collection: str | None = None
        self.calibrations: dict[str, Calibration] = {}
        self.class_thresholds: dict[str, ClassThresholds] = {}
        self.norm: AdaptiveNorm | None = None
        self.rules: dict[str, Rule] = {}
        self._gallery_key: str | None = None
        self._may_write_gallery = False  # though it was opened read-only
        self._kept: dict[str, Kept] = {}  # by folder, what was last loaded or saved
        self.cross_fit: CrossFit | None = None
        self.probabilities: dict[str, Probability] = {}
        self.trained_on: list[str] = []
        self.trained_prints = torch.empty(0, dtype=torch.int64)
        self.calibrated_prints = torch.empty(0, dtype=torch.int64)
        if trained is not None:
            trained = sources.as_dataset(trained)
            self.trained_on = list(sources.items_per_class(trained))
            self.trained_prints = fingerprints(trained)

    def tower(self, *, queries: bool) -> tuple[nn.Module, sources.Preprocess | None]:
        """Encoder and preprocess of queries, or of known items; the same without two towers."""
        if queries and self.query_encoder is not None:
            return self.query_encoder, self.query_preprocess
        return self.encoder, self.preprocess

    def check_one_tower(self, what: str) -> None:
        """Refuse what compares items with items of their own side, if there are two towers.

        Raises:
            InputError: There are two towers.
        """
        if self.query_encoder is not None:
            raise InputError(
                f"model must have one encoder for {what}, got two towers. Use lookup, match or "
                "verify, which go from one side to the other."
            )

    @property
    def class_names(self) -> list[str]:
        """The names that label codes stand for."""
        return self.index.class_names

    def embed(
        self,
        items: Items,
        *,
        queries: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n d"]:
        """Embeddings of items: numbers (n, ...), images, a dataset, image paths or texts.

        A list of strings is texts for an encoder that takes texts, and else image files.

        Tensors, arrays and lists of any type of number are taken, one item alone too where the
        model has a preprocess, and Pillow images; see `data.as_items`. Equal numbers have equal
        embeddings whatever their type: bytes of images count as 0..1.

        With two towers items are taken for known ones, or with `queries` for what is asked about.
        """
        if isinstance(items, Embedded):
            return items.embeddings
        if self.cache is not None:
            return self.embedded(
                items, queries=queries, batch_size=batch_size, progress=progress
            ).embeddings
        encoder, preprocess = self.tower(queries=queries)
        return encode(
            encoder,
            opened(items, preprocess, encoder),
            batch_size=batch_size,
            preprocess=None if preprocess is None else preprocess.apply,
            progress=progress,
        )

    def embedded(
        self,
        items: Items,
        *,
        queries: bool = False,
        only_new: bool = False,
        keep_pictures: bool = False,
        keep_raw: bool = False,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Embedded:
        """`likewise.embed` of items, by this model: each is read and encoded once.

        Args:
            items: Items; see `embed`.
            queries: Side of two towers; see `embed`.
            only_new: Leave out the items that are indexed or were trained on; they are counted.
            keep_pictures: Whether pictures are kept; see `likewise.embed`.
            keep_raw: Whether the raw input is kept; see `likewise.embed`.
            batch_size: Items encoded at once.
            progress: Called as progress(done, total) after each batch.

        Example:
            >>> import likewise as lw
            >>> digits = lw.data.load("digits", split="train")
            >>> model = SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
            >>> ids = model.add(lw.data.sample_items(digits, per_class=5))
            >>> aside = model.embedded(digits, only_new=True)
            >>> made = [model.calibrate(aside, rule=rule) for rule in ("nearest", "pairs")]
            >>> aside.skipped, len(made)
            (50, 2)
        """
        if isinstance(items, Embedded):
            return items.without(self.known_prints()) if only_new else items
        encoder, preprocess = self.tower(queries=queries)
        return embed(
            encoder,
            items,
            preprocess,
            batch_size=batch_size,
            progress=progress,
            skip=self.known_prints() if only_new else None,
            keep_pictures=keep_pictures,
            keep_raw=keep_raw,
            cache=self.cache,
        )

    @property
    def has_encoder(self) -> bool:
        """Whether items are encoded; else they are embeddings already."""
        return not isinstance(self.encoder, nn.Identity)

    @property
    def fingerprint(self) -> str | None:
        """By which a gallery knows the encoder again: its architecture and weights, hashed.

        None for a model without an encoder, as for a gallery of embeddings made elsewhere.
        """
        return encoder_fingerprint(self.encoder) if self.has_encoder else None

    @property
    def query_fingerprint(self) -> str | None:
        """The same of the encoder of queries, which is another one with two towers."""
        encoder, _ = self.tower(queries=True)
        return None if isinstance(encoder, nn.Identity) else encoder_fingerprint(encoder)

    def use_gallery(
        self,
        path: str | Path,
        *,
        recall: float | None = None,
        approximate: str | None = None,
        read_only: bool = False,
        adopt: bool = False,
    ) -> Gallery:
        """Keep the known items in a gallery, a folder that lasts, instead of in memory.

        The gallery is made if it is not there, and refused if it was made with another encoder or
        distance. Thresholds for matching that were chosen on another one are forgotten.

        Args:
            path: its folder.
            recall: The share of the true nearest that a lookup shall find, see `Gallery`; 1 for
                exact search, None for what the index in use has. Saved with the model.
            approximate: What searches then, likewise.
            read_only: look things up in a gallery that another process may write.
            adopt: take over a gallery of embeddings whose encoder is not told, as they are this
                model's; which is not checked.
        """
        place = os.path.realpath(path)
        recall = self.index.recall if recall is None else recall
        approximate = approximate or self.index.approximate
        if place == self.gallery:
            self.index.close()  # else the folder would stay locked
        self.index = self._opened_gallery(
            place, recall, approximate, read_only=read_only, adopt=adopt
        )
        self._moved_to(place, None)
        return self.index

    def use_milvus(
        self, uri: str | Path, *, collection: str, token: str | None = None, **options: Any
    ) -> MilvusGallery:
        """Keep the known items in Milvus instead of in memory; otherwise as `use_gallery`.

        Args:
            uri: see `MilvusGallery`.
            collection: likewise.
            token: likewise. It is not saved with the model; give it to `load` again.
            options: What else `MilvusGallery` takes, such as `index_type` and `recall`.
        """
        place = os.path.realpath(uri) if MilvusGallery.is_file(uri) else str(uri)
        opened_there = MilvusGallery(
            place,
            collection=collection,
            distance=self.distance,
            encoder=self.fingerprint,
            token=token,
            **options,
        )
        try:
            _check_maker(place, opened_there.encoder, self.fingerprint)
        except BaseException:
            opened_there.close()
            raise
        self.index = opened_there
        self._moved_to(place, collection)
        return self.index

    def _opened_gallery(
        self, place: str, recall: float | None, approximate: str, *, read_only: bool, adopt: bool
    ) -> Gallery:
        own = self.fingerprint
        is_new = not Gallery.is_at(place)
        gallery = Gallery(
            place,
            distance=self.distance,
            encoder=own if is_new else None,
            recall=recall,
            approximate=approximate,
            read_only=read_only and not adopt,
        )
        try:
            if adopt and own is not None:
                gallery.adopt(own)
            _check_maker(place, gallery.encoder, own)
        except BaseException:
            gallery.close()
            raise
        if adopt and read_only:
            gallery.close()
            return self._opened_gallery(place, recall, approximate, read_only=True, adopt=False)
        return gallery

    def _moved_to(self, place: str, collection: str | None) -> None:
        """Remember where the known items are; forget thresholds chosen on others."""
        is_same = (place, collection) == (self.gallery, self.collection)
        if not is_same and self.index.key != self._gallery_key:
            self._forget([name for name, made in self.calibrations.items() if made.rule != PAIRS])
        self.gallery, self.collection, self._gallery_key = place, collection, self.index.key
        self._may_write_gallery = False

    def use_cohort(self, items: Items, *, nearest: int = 200) -> AdaptiveNorm:
        """Normalize distances by a cohort, adaptively and symmetrically, before they are judged.

        One threshold then fits items that are close to everything and items that are far from
        everything. Neighbors are found by the distance as it is, and normalized then: with a
        larger k fewer are missed that would be nearer. Calibrations so far are forgotten.

        Args:
            items: Items of classes that are neither indexed nor asked about.
            nearest: How many of them, the nearest to either side, give mean and spread.

        Raises:
            InputError: there are fewer items than `nearest`.

        Example:
            >>> import likewise as lw
            >>> digits = lw.data.load("digits", split="train")
            >>> model = SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
            >>> model.use_cohort(lw.data.sample_items(digits, per_class=3), nearest=20).nearest
            20
        """
        self.check_one_tower("a cohort")
        self.norm = AdaptiveNorm(self.embed(items), self.distance, nearest=nearest)
        self._forget(list(self.calibrations))
        return self.norm

    @property
    def compared_by(self) -> Distance:
        """What pairs are judged by: the distance, normalized if there is a cohort."""
        return self.distance if self.norm is None else self.norm.as_distance()

    def add(
        self,
        items: Items,
        *,
        ids: Any = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        keep_pictures: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray[Any, Any]:
        """Embed items and put them into the index, with their labels if they are a dataset; ids.

        A gallery that `load` opened is opened for writing first. With `keep_pictures` a small
        picture of each image is kept as its payload, which `likewise.show` and reports draw.
        Metadata tell the file of each item under "path" where items come from image files.
        """
        self._open_for_writing()
        found = self.embedded(items, keep_pictures=keep_pictures, progress=progress)
        return self._add(found, ids, metadata)

    def add_new(
        self,
        data: sources.Dataset | Embedded,
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        keep_pictures: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray[Any, Any]:
        """As `add`, without what the index holds already: the same item with the same class.

        So adding the same data twice, or data that grew, leaves each item there once. Repeats
        among those given count as well. An item that is there with another class is added.

        Args:
            data: a labeled dataset, or an `Embedded`.
            metadata: one dict per item of `data`.
            keep_pictures: Whether pictures are kept; see `add`.
            progress: called as progress(done, total) while embedding.

        Returns:
            The ids of the items that were added.
        """
        self._open_for_writing()
        source = data if isinstance(data, Embedded) else opened(data, self.preprocess, self.encoder)
        names = label_names(source)
        there = set(self.indexed_prints())

        def is_absent(rows: Tensor, prints: Tensor) -> Tensor:
            keys = zip(prints.tolist(), [names[row] for row in rows.tolist()], strict=True)
            return torch.tensor([key not in there for key in keys], dtype=torch.bool)

        if isinstance(source, Embedded):
            rows = is_absent(torch.arange(len(source)), source.fingerprints).nonzero().flatten()
            absent = source.take(rows)
        else:
            absent = embed_kept(
                self.encoder,
                source,
                self.preprocess,
                is_absent,
                keep_pictures=keep_pictures,
                progress=progress,
                cache=self.cache,
            )
            rows = absent.rows
        first: dict[tuple[int, str | None], int] = {}
        for at, key in enumerate(
            zip(absent.fingerprints.tolist(), label_names(absent), strict=True)
        ):
            first.setdefault(key, at)
        if not first:
            return np.empty(0, dtype=self.index.ids.dtype)
        chosen = list(first.values())
        facts = None if metadata is None else [metadata[row] for row in rows[chosen].tolist()]
        return self._add(absent.take(chosen), None, facts)

    def indexed_prints(self) -> list[tuple[int | None, str | None]]:
        """Fingerprint and class of each indexed item; None where it came without."""
        stored, there, codes = (part.tolist() for part in self.index.fingerprints())
        names = dict(enumerate(self.class_names))  # after the codes, as names only come behind
        return [
            (each if has else None, names.get(code))
            for each, has, code in zip(stored, there, codes, strict=True)
        ]

    def _open_for_writing(self) -> None:
        if self._may_write_gallery and self.gallery is not None:
            self.use_gallery(self.gallery)

    def _add(
        self, items: Embedded, ids: Any, metadata: Sequence[Mapping[str, Any]] | None
    ) -> np.ndarray[Any, Any]:
        facts = [{}] * len(items) if metadata is None else metadata
        if any("fingerprint" in fact for fact in facts):
            raise InputError(
                "metadata must leave the name fingerprint free, got it in use. It is how an "
                "indexed item is known again."
            )
        if not any("path" in fact for fact in facts) and (paths := paths_of(items)):
            facts = [{**f, "path": p} for f, p in zip(facts, paths, strict=True)]
        prints = items.fingerprints.tolist()
        facts = [{**f, "fingerprint": p} for f, p in zip(facts, prints, strict=True)]
        is_labeled = bool((items.labels >= 0).any())
        if is_labeled and not len(self.index):
            # Codes then follow the data's own order, in which tables and plots are read.
            self.index.name_classes(list(sources.items_per_class(items)))
        return self.index.add(
            items.embeddings,
            labels=label_names(items) if is_labeled else None,
            ids=ids,
            metadata=facts,
            payloads=items.pictures,
        )

    def lookup(
        self, items: Items, *, k: int = 5, where: Mapping[str, Any] | None = None
    ) -> Neighbors:
        """The k nearest indexed items of each item, of those whose metadata pass `where`."""
        return self.index.lookup(self.embed(items, queries=True), k=k, where=where)

    def calibrate(
        self,
        data: sources.Dataset | GivenPairs | CrossPairs | Embedded,
        *,
        goal: Goal | None = None,
        rule: str | Rule = "nearest",
        k: int = 1,
        point: str | None = None,
        per_class: bool = False,
        fewest: int = 30,
        per_item: float = 10.0,
        leave_out: str | None = None,
        unknowns: sources.Dataset | Embedded | None = None,
        for_gallery_of: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Calibration:
        """Choose and keep the threshold for a matching rule, or with rule="pairs" for `verify`.

        For matching every item is judged twice: with its class known, where it is missed if it is
        rejected or confused (FNIR), and as an unknown, where it must not be accepted (FPIR). For
        the second, its own class is left out of the index if the encoder was not trained on it;
        trained classes are judged by the encoders of a cross-fit. The answer's `unknowns` says
        which, and what the rate rests on. Items of classes that are not indexed are unknowns as
        they are.

        For verification pairs are drawn from the data, half same, half different, or come as
        `GivenPairs`. The distances also make the probability of this operating point. Items that
        are in the index themselves, or that the encoder was trained on, are left out.

        With two towers labeled items are queries, and pairs for verification are `CrossPairs` of
        queries and known items, of which those with a query that was trained on are left out.

        Args:
            data: a labeled dataset, an `Embedded`, or for verification given pairs.
            goal: what to choose for, such as `likewise.at_most_false_accepts(0.001)`; None for
                `balanced()`, or `best_f1` for pairs.
            rule: "pairs", or a rule of `likewise.matching`, such as "nearest" or "majority", or a
                function like those, which a saved model is loaded with.
            k: how many neighbors decide, for matching.
            point: the name under which the operating point is kept, that of the rule if None.
                Several can be kept, each with a rule and a goal of its own.
            per_class: Whether classes with data enough get thresholds of their own, for matching.
            fewest: Right and wrong answers that such a class must have.
            per_item: pairs drawn per item, for verification.
            leave_out: What the intervals leave out, and what a goal with a confidence holds for.
                For pairs, "items" (the default): new items of these classes; "classes": new
                classes. For matching a goal with a confidence holds for new unknown classes, of
                which one query each counts, unless "items" is given: new items of the same
                unknown classes. "classes" leaves out classes for all intervals.
            unknowns: Real unknowns, for matching: items of classes that are not indexed. They give
                a second threshold, and the stricter of both is kept.
            for_gallery_of: Number of items that the index may grow to, for matching: unknowns are
                then accepted more often, at most in proportion. A number below what is indexed
                changes nothing.
            seed: Seed of the pairs.
            progress: called as progress(done, total) while embedding.

        Raises:
            InputError: nothing is left to calibrate on, or the goal cannot be reached.
        """
        if leave_out is not None:
            check_choice("leave_out", leave_out, LEAVE_OUT)
        if for_gallery_of is not None:
            check_count("for_gallery_of", for_gallery_of)
        name = PAIRS if rule == PAIRS else rule_name(rule)
        is_own = not isinstance(rule, str) and RULES.get(name) is not rule
        decides = rule if is_own else name
        if is_own and name in (*RULES, PAIRS):
            raise InputError(f"rule must have a name that is free, got {name!r}. Rename it.")
        if name == PAIRS and per_class:
            raise InputError("per_class must be False for pairs, got True. Name a rule.")
        if name == PAIRS and (unknowns is not None or for_gallery_of is not None):
            raise InputError(
                "must be left out for pairs, which have no gallery. Name a rule for matching.",
                argument="for_gallery_of" if unknowns is None else "unknowns",
            )
        if per_class and unknowns is not None:
            raise InputError("unknowns must be left out with per_class, got both.")
        items: Any = data if isinstance(data, Embedded) else sources.as_dataset(data, pairs=True)
        given = items if isinstance(items, (CrossPairs, GivenPairs)) else None
        if name == PAIRS and not isinstance(given, CrossPairs):
            self.check_one_tower("pairs of one side, which are no CrossPairs")
        if given is not None and name != PAIRS:
            raise InputError(f'data must be labeled items for {name}, got pairs. Use rule="pairs".')
        if name != PAIRS:
            check_some_indexed(self.index, items)  # before the work rather than after it
        if given is None:
            new = self._new(items, progress)
        elif isinstance(given, CrossPairs):
            new = self.embedded(given.a, queries=True, only_new=True, progress=progress)
        else:
            # Without an encoder nothing was trained, and pairs are of known items by their ids.
            new = self.embedded(given.data, only_new=self.has_encoder, progress=progress)
        if isinstance(given, CrossPairs):
            trials = cross_trials(
                new,
                self.embedded(given.b, progress=progress),
                self.compared_by,
                given,
                leave_out=leave_out or "items",
            )
        elif name == PAIRS:
            trials = pair_trials(
                new,
                self.compared_by,
                given,
                per_item=per_item,
                seed=seed,
                leave_out=leave_out or "items",
            )
        else:
            trials = matching_trials(
                new,
                self.index,
                norm=self.norm,
                rule=decides,
                k=k,
                leave_out=leave_out,
                trained_on=self.trained_on,
                cross_fit=self.cross_fit,
                for_gallery_of=for_gallery_of,
            )
        thresholds = real = None
        seen = [self.calibrated_prints, trials.prints]
        if unknowns is not None:
            told = unknowns if isinstance(unknowns, Embedded) else sources.as_dataset(unknowns)
            judged = self._new(told, progress)
            real = given_unknowns(judged, self.index, norm=self.norm, rule=decides, k=k)
            seen.append(judged.fingerprints)
        if per_class:
            thresholds = calibrated_per_class(trials, goal=goal, rule=name, k=k, fewest=fewest)
            chosen = thresholds.everywhere
        else:
            chosen = calibrated(trials, goal=goal, rule=name, k=k, given=real)
        warn_of_many(chosen, stacklevel=3)
        point = point or name
        self._forget([point])
        self.probabilities[point] = fit_logistic(trials.distances, trials.same, prior=trials.prior)
        self.calibrations[point] = chosen
        if thresholds is not None:
            self.class_thresholds[point] = thresholds
        if not isinstance(rule, str) and is_own:
            self.rules[name] = rule
        self.calibrated_prints = torch.unique(torch.cat(seen))
        return chosen

    def match(
        self,
        items: Items,
        *,
        point: str = "nearest",
        threshold: float | None = None,
        rule: str | Rule = "nearest",
        k: int = 1,
        where: Mapping[str, Any] | None = None,
        candidates: float | None = None,
        progress: Progress | None = None,
    ) -> Matches:
        """Which class each item is, or UNKNOWN, at an operating point or by a threshold.

        With `candidates`, such as 0.95, the answer also has the classes that each item may be of:
        for known items, the set holds the right class at least that often. An empty set means
        UNKNOWN. Such a set says what is left to decide, where a threshold says what to accept; the
        labels stay those of the threshold. It rests on the items calibrated on, see
        `Candidates.rests_on`. It holds as long as none of the indexed items are removed.

        Args:
            items: a tensor (n, ...), a dataset, or a sequence of image paths.
            point: a calibration, by its name; it brings its rule and k.
            threshold: used instead of a calibration.
            rule: how neighbors decide under a threshold.
            k: how many decide under a threshold.
            where: which known items may decide, by their metadata; see `Index.lookup`.
            candidates: Share of known items whose set of classes holds the right one, at least;
                above 0 and below 1. None for no sets.
            progress: called as progress(done, total) while embedding.

        Raises:
            InputError: no calibration of this name; or candidates that it has too few items for,
                or that come with a threshold or with `where`.

        Example:
            >>> import likewise as lw
            >>> digits = lw.data.load("digits", split="train")
            >>> model = SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
            >>> known, aside, queries = lw.data.split_items(digits, [0.4, 0.4, 0.2])
            >>> _ = model.add(known), model.calibrate(aside)
            >>> sets = model.match(queries, candidates=0.95).candidates
            >>> len(sets.names) == len(queries), sets.level
            (True, 0.95)
        """
        made = self.bound(point, threshold)  # refuses before the work rather than after it
        if candidates is not None:
            check_candidates(candidates, made, where)
        embeddings = self.embed(items, queries=True, progress=progress)
        bound: float | Calibration | ClassThresholds = self.bound(point, threshold)
        sets = None
        if isinstance(bound, Calibration):
            rule, k = self.rules.get(bound.rule, bound.rule), bound.k or k
            if candidates is not None:
                sets = candidates_for(
                    self.index, embeddings, bound, candidates, norm=self.norm, rule=rule
                )
            bound = self.class_thresholds.get(point, bound)
        decided = match(
            neighbors_for(self.index, embeddings, norm=self.norm, rule=rule, k=k, where=where),
            bound,
            rule=rule,
            gallery_size=len(self.index),
            searched_by=None if rule in OF_CENTERS else self.index.searched_by,
            probability=self.probabilities.get(point) if threshold is None else None,
        )
        return decided if sets is None else dataclasses.replace(decided, candidates=sets)

    def verify(
        self,
        a: Items,
        b: Items,
        *,
        point: str = PAIRS,
        threshold: float | None = None,
        prior: float | None = None,
    ) -> Verified:
        """Whether a[i] and b[i] are the same, by a threshold or else by the calibration.

        Args:
            a: a tensor (n, ...), a dataset, or a sequence of image paths. Queries of two towers.
            b: the other sides, as many.
            point: a calibration for pairs, by its name.
            threshold: used instead of the calibration.
            prior: share of such pairs that are the same, for the probabilities; 0.5 if None.
        """
        limit = self.limit_of_pairs(point, threshold)
        sides = []
        for side, is_query in ((a, True), (b, False)):
            encoder, preprocess = self.tower(queries=is_query)
            sides.append(side if isinstance(side, Embedded) else opened(side, preprocess, encoder))
        if len(sides[0]) != len(sides[1]):
            raise InputError(
                f"b must hold as many items as a, {len(sides[0])}, got {len(sides[1])}."
            )
        left, right = self.embed(sides[0], queries=True), self.embed(sides[1])
        return verified(
            self.compared_by.paired(left, right),
            limit,
            probability=self.probabilities.get(point),
            prior=prior,
        )

    def evaluate(
        self,
        data: sources.Dataset | Embedded,
        *,
        point: str = "nearest",
        per_item: float = 10.0,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Matching against the index, verification of drawn pairs, retrieval among the items.

        Items that are in the index themselves, or that the encoder was trained on, are left out
        and counted. Items that a threshold was calibrated on stay, and are counted too: at that
        threshold they do a little better than new ones.

        Retrieval and verification of classes never trained on are also compared with the raw
        input (see `encoders.RawInput`), in `baseline`, for up to 20,000 items. An `Embedded` must
        have it, see `keep_raw`.

        With two towers items are queries. Retrieval and verification are then among queries, where
        no threshold was calibrated for pairs.

        Args:
            data: a labeled dataset, or an `Embedded`.
            point: Calibration for matching, by its name, if anything is indexed.
            per_item: pairs drawn per item, for verification.
            seed: Seed of the pairs.
            progress: called as progress(done, total) while embedding.
        """
        if not isinstance(data, Embedded):
            data = sources.as_dataset(data)
        if len(self.index):
            self.bound(point, None)  # refuses before the work rather than after it
        compares = self.has_encoder and len(data) <= MOST_RAW
        all_new = self._new(data, progress, keep_raw=compares)
        new = labeled(all_new)
        matches = None
        if len(self.index):
            warn_of_spelling(self.index, new)
            self.index.wait()  # as for a calibration
            matches = self.match(new, point=point)
        judges_pairs = self.query_encoder is None
        of_pairs = self.calibrations.get(PAIRS) if judges_pairs else None
        return evaluated(
            all_new,
            self.index,
            matches,
            distance=self.compared_by,
            per_item=per_item,
            seed=seed,
            trained_on=self.trained_on,
            calibrated_prints=self.calibrated_prints,
            threshold=None if of_pairs is None else of_pairs.threshold,
            probability=self.probabilities.get(PAIRS) if judges_pairs else None,
        )

    def is_new(self, data: sources.Dataset | Embedded) -> Bool[Tensor, " n"]:
        """Which items of a dataset are neither in the index nor were trained on."""
        return ~torch.isin(fingerprints(data), self.known_prints())

    def known_prints(self) -> Int[Tensor, " k"]:
        """`data.fingerprints` of the items that are in the index or were trained on."""
        stored, there, _ = self.index.fingerprints()
        return torch.cat([stored[there], self.trained_prints])

    def _new(
        self,
        data: sources.Dataset | Embedded,
        progress: Progress | None,
        *,
        keep_raw: bool = False,
    ) -> Embedded:
        new = self.embedded(data, queries=True, only_new=True, keep_raw=keep_raw, progress=progress)
        if not len(new):
            raise InputError(
                "data must hold items that are neither indexed nor trained on, got "
                f"{new.skipped} that all are. Keep some aside."
            )
        return new

    def save(self, path: str | Path) -> Path:
        """Write the model into a folder, all or nothing; the folder. See `likewise.load`.

        Nothing is pickled. Items in a gallery stay there: the folder tells where it is, also as
        seen from the folder, so that both can be moved together. An encoder of this library, or
        a `nn.Sequential` of its modules and of common layers of torch, is built again by `load`;
        of any other the weights are kept. `torch.compile` and `DataParallel` are left off.

        A folder is written by one thread of one process at a time. Where another has changed it
        since this model was loaded from it or saved to it, both changes are kept if they touch
        different parts: the encoder, the index, the origin, or calibrations by name. A model that
        has nothing to do with the one in the folder replaces it. A kill or a full disk leaves
        what was there. The parts of the model before go with the next save.

        Raises:
            ArtifactError: the folder holds something else, cannot be written, or the same part
                was changed by another; or the model holds what cannot be saved.
        """
        place = None
        if self.gallery is not None:
            searched: dict[str, Any] = {}  # Milvus keeps that itself
            if self.collection is None:
                searched = {"recall": self.index.recall, "approximate": self.index.approximate}
            place = saving.Place(
                self.gallery, key=self._gallery_key, collection=self.collection, **searched
            )
        contents = saving.Contents(
            encoder=self.encoder,
            distance=self.distance,
            preprocess=self.preprocess,
            origin=self.origin,
            trained_on=self.trained_on,
            trained_prints=self.trained_prints,
            calibrated_prints=self.calibrated_prints,
            index=self.index,
            place=place,
            calibrations=self.calibrations,
            class_thresholds=self.class_thresholds,
            probabilities=self.probabilities,
            norm=self.norm,
            reading=self.reading,
            cross_fit=self.cross_fit,
            query_encoder=self.query_encoder,
            query_preprocess=self.query_preprocess,
        )
        return saving.write(contents, path, self._kept)

    def _forget(self, points: Sequence[str]) -> None:
        for name in points:
            for kept in (self.calibrations, self.class_thresholds, self.probabilities):
                kept.pop(name, None)

    def bound(self, point: str, threshold: float | None = None) -> float | Calibration:
        """The calibration of an operating point, or the threshold that is given instead.

        Raises:
            InputError: the model is not calibrated for it.
        """
        if threshold is not None:
            if math.isnan(threshold):
                raise InputError("must be a number, got nan.", argument="threshold")
            return float(threshold)
        if point not in self.calibrations:
            made = ", ".join(sorted(self.calibrations)) or "no calibration"
            raise InputError(
                f"model must be calibrated for {point}, got {made}.",
                remedy=f'Use calibrate(data, rule="{point}"), or give a threshold.',
                command=f"Run likewise calibrate with --rule {point} (and --point for a name of "
                "your own)"
                + (", name the one there is with --point" if self.calibrations else "")
                + ", or give --threshold where there is one.",
            )
        return self.calibrations[point]

    def limit_of_pairs(self, point: str = PAIRS, threshold: float | None = None) -> float:
        """The threshold of an operating point for pairs, or the one that is given instead.

        Raises:
            InputError: the model is not calibrated for it, or it is one for matching.
        """
        bound = self.bound(point, threshold)
        if not isinstance(bound, Calibration):
            return bound
        if bound.rule != PAIRS:
            raise InputError(
                f"must be one for pairs, got {point!r}, for {bound.rule}.", argument="point"
            )
        return bound.threshold


def _check_maker(place: str, told: str | None, own: str | None) -> None:
    """Refuse a gallery with embeddings of another kind than the model's."""
    if told == own:
        return
    if own is None:
        raise GalleryError(
            "gallery must hold embeddings made elsewhere for a model without an encoder, got "
            f"{place!r}, which an encoder of likewise made. Use the model of that encoder."
        )
    if told is None:
        raise GalleryError(
            f"gallery must tell which encoder made its embeddings, got {place!r}, which does not.",
            remedy="If it was this model's, use use_gallery(path, adopt=True).",
            command="If it was this model's, use likewise gallery adopt GALLERY MODEL.",
        )
    raise GalleryError(
        f"encoder must be {told!r}, as the gallery {place!r} was made with, got {own!r}. "
        "Use the model that made it, or another gallery."
    )


def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    query_encoder: nn.Module | None = None,
    distance: Distance | None = None,
    rules: Mapping[str, Rule] | None = None,
    gallery: str | Path | None = None,
    read_only: bool | None = None,
    token: str | None = None,
    without_encoder: bool = False,
) -> SimilarityModel:
    """The model that `SimilarityModel.save` wrote into a folder.

    Its embeddings are bit-equal to those of the model that was saved, in the same number type.
    Encoders and distances of this library are rebuilt; no code from the folder is ever run. A
    gallery that holds the known items is opened too, the one beside the folder first.

    Args:
        path: The folder.
        encoder: A module of the architecture that was saved, if it is not one of this library's;
            it receives the saved weights.
        query_encoder: The same for the encoder of queries, of a model with two towers.
        distance: The distance that was used, if it is not one of this library's.
        rules: Matching rules of your own that the model was calibrated for, by name.
        gallery: A gallery to use instead of the one that was saved, such as that one elsewhere.
        read_only: False opens the gallery for writing at once, and True never does. By default
            `add` opens it for writing when it is called.
        token: For a gallery in Milvus that asks for one; see `MilvusGallery`.
        without_encoder: True leaves the encoder out. What the model holds can be read, whatever
            its encoder needs; nothing can be embedded.

    Raises:
        ArtifactError: the folder is no model, is damaged, was written by another version, needs
            an encoder, a distance or a rule that was not given, or its gallery is missing.
        GalleryError: the gallery is damaged, or was made with another encoder.
    """
    contents, kept = saving.read(
        path,
        encoder=encoder,
        query_encoder=query_encoder,
        distance=distance,
        rules=rules,
        without_encoder=without_encoder,
    )
    model = SimilarityModel(
        contents.encoder,
        distance=contents.distance,
        preprocess=contents.preprocess,
        origin=contents.origin,
        reading=contents.reading,
        query_encoder=contents.query_encoder,
        query_preprocess=contents.query_preprocess,
    )
    model.trained_on = contents.trained_on
    model.trained_prints = contents.trained_prints
    model.calibrated_prints = contents.calibrated_prints
    model.index = contents.index
    model.norm = contents.norm
    model.cross_fit = contents.cross_fit
    model.rules = contents.rules
    model.calibrations = contents.calibrations
    model.class_thresholds = contents.class_thresholds
    model.probabilities = contents.probabilities
    model._kept[os.path.realpath(path)] = kept
    opened = None if gallery is None else os.path.realpath(gallery)
    if contents.place is not None:
        found = contents.place.found(Path(path))
        if found is None and opened is None:
            raise ArtifactError(
                f"gallery must be there for the model {str(path)!r}, whose known items it holds, "
                f"got none at {contents.place.absolute!r}. Use load(path, gallery=...), or "
                "--gallery, with its folder."
            )
        model.gallery, model._gallery_key = found, contents.place.key
        model.collection = contents.place.collection
        if model.collection is not None and opened is None:
            if without_encoder:
                model.index = MilvusGallery(
                    str(found),
                    collection=model.collection,
                    distance=model.distance,
                    token=token,
                )
                return model
            model.use_milvus(str(found), collection=model.collection, token=token)
            return model
        opened = opened or found
    if opened is not None and without_encoder:
        model.index = Gallery(opened, distance=model.distance, read_only=True)
    elif opened is not None:
        searched = contents.place or saving.Place(opened)
        model.use_gallery(
            opened,
            recall=searched.recall,
            approximate=searched.approximate,
            read_only=read_only is not False,
        )
        model._may_write_gallery = read_only is None
    return model
