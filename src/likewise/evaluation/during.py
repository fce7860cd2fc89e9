"""`EvaluateEpochs`: a callback of `fit` that scores the encoder while it learns."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from likewise import metrics
from likewise._checks import check_count
from likewise.data import (
    Dataset,
    GivenPairs,
    PairDataset,
    Subset,
    fingerprints,
    items_per_class,
)
from likewise.data.parts import labeled_items
from likewise.distances import COSINE, Distance, check_distance
from likewise.encoders import RawInput, SiameseNet, TripletNet, TwoTowers, encode
from likewise.errors import InputError, InputTypeError
from likewise.evaluation.retrieval import RetrievalResult, evaluate_retrieval

OF_RETRIEVAL = ("precision_at_1", "r_precision", "map_at_r")
OF_PAIRS = ("roc_auc", "equal_error_rate")
TOGETHER = 4  # items that a class gives before the next one does


class EvaluateEpochs:
    """Adds to the records of `fit` how well the encoder does on items that it does not learn from.

    For each part, say of seen and of unseen classes, the record gets `<part>_precision_at_1`,
    `<part>_r_precision` and `<part>_map_at_r` of retrieval, and `<part>_roc_auc` and
    `<part>_equal_error_rate` of fixed pairs, half same, half different. Without a gallery each
    item is a query for the others of its part. With one, the gallery is indexed and queries are
    looked up in it alone; those without any item of their class there do not count for
    retrieval. A part of given pairs has the numbers of pairs only. Unlabeled items (−1), of parts
    and of the gallery, are left out, as nothing is known of what they are the same as.

    Epoch 1 is scored, so that what is wrong shows at once, and then each that `every` divides; the
    records of others have no such numbers. These are values without intervals, to follow a
    training by. A number that an epoch was chosen by is biased by the choice: judge the
    encoder on other items in the end, with the rest of `likewise.evaluation`.

    Args:
        parts: labeled items, or given pairs, by the name that their numbers begin with.
        gallery: items to look queries up in; they must not be among the queries. Used whole.
        distance: what is compared; smaller is closer.
        preprocess: the same that `fit` gets.
        every: Epochs from one scoring to the next; the first is always scored.
        raw: Whether to score the raw input too, see `encoders.RawInput`: the same numbers in every
            record, as `<part>_raw_map_at_r`. An encoder that does not pass them has not helped.
        most: items of a part that are scored at most, at least 5, in an order drawn once: a few
            of each class, as many of each as far as there are.
        per_item: pairs per item.
        seed: Seed of items and pairs; same seed, same items and pairs in every epoch.

    Raises:
        InputError: no part; a part without pairs of both kinds, or none of whose classes is in
            the gallery; or queries that are in the gallery.
        InputTypeError: parts that are no datasets or pairs by name, or a distance that is none.

    Example:
        >>> from likewise import data, fit, losses
        >>> points = data.load((torch.randn(90, 5), torch.arange(90) % 6))
        >>> train, unseen = data.split_by_class(points, [3, 3])
        >>> encoder, loss = nn.Linear(5, 2), losses.TripletLoss()
        >>> scores = [EvaluateEpochs({"unseen": unseen}, every=2)]
        >>> history = fit(encoder, loss, train, epochs=3, callbacks=scores)
        >>> ["unseen_map_at_r" in record for record in history.records]
        [True, True, False]
    """

    def __init__(
        self,
        parts: Mapping[str, Dataset | GivenPairs],
        *,
        gallery: Dataset | None = None,
        distance: Distance = COSINE,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        every: int = 1,
        raw: bool = False,
        most: int = 2000,
        per_item: float = 10.0,
        seed: int = 0,
    ) -> None:
        check_count("every", every)
        check_count("most", most, least=TOGETHER + 1)
        check_distance(distance)
        _check_parts(parts)
        if not parts:
            raise InputError('parts must hold at least one, got none. Give e.g. {"unseen": ...}.')
        self.gallery = None if gallery is None else labeled_items(gallery)
        self.distance = distance
        self.preprocess = preprocess
        self.every = every
        self.raw = raw
        self._of_raw: dict[str, float] = {}
        self.parts = {
            name: _given(name, part, most, seed)
            if isinstance(part, GivenPairs)
            else _drawn(name, part, most, per_item, seed)
            for name, part in parts.items()
        }
        if self.gallery is not None:
            _check_gallery(self.parts, self.gallery)

    @property
    def names(self) -> list[str]:
        """Of all numbers that come into the records."""
        return [
            f"{name}_{number}"
            for name, part in self.parts.items()
            for number in (*OF_RETRIEVAL * part.retrieval, *OF_PAIRS)
        ]

    def __call__(self, record: dict[str, float], encoder: nn.Module) -> None:
        """Score the encoder, if this is an epoch to do so, and add the numbers to the record."""
        if record["epoch"] != 1 and record["epoch"] % self.every:
            return
        if isinstance(encoder, TwoTowers):
            raise InputError(
                "encoder must be one for all items to be scored, got TwoTowers. Score a tower, "
                "such as encoder.a, in a callback of your own."
            )
        one = encoder.encoder if isinstance(encoder, (SiameseNet, TripletNet)) else encoder
        record.update(self._scores(one, ""))
        if self.raw and not self._of_raw:
            items = next(iter(self.parts.values())).items
            self._of_raw = self._scores(RawInput(items.item_shape), "raw_")
        record.update(self._of_raw)

    def _scores(self, encoder: nn.Module, which: str) -> dict[str, float]:
        scores, gallery = {}, None
        if self.gallery is not None:
            gallery = encode(encoder, self.gallery, preprocess=self.preprocess)
        for name, part in self.parts.items():
            embeddings = encode(encoder, part.items, preprocess=self.preprocess)
            if part.retrieval:
                found = self._retrieval(embeddings, part.items, gallery)
                for number in OF_RETRIEVAL:
                    scores[f"{name}_{which}{number}"] = float(getattr(found, number))
            a, b = part.pairs.T
            counts = metrics.sweep(self.distance.paired(embeddings[a], embeddings[b]), part.same)
            scores[f"{name}_{which}roc_auc"] = metrics.roc_auc(counts)
            scores[f"{name}_{which}equal_error_rate"] = metrics.equal_error_rate(counts)
        return scores

    def _retrieval(
        self, embeddings: Tensor, queries: Dataset, gallery: Tensor | None
    ) -> RetrievalResult:
        if gallery is None or self.gallery is None:
            labels, known = queries.labels, None
        else:  # two sources meet by class name
            labels, known = _common_codes(queries, self.gallery)
        return evaluate_retrieval(
            embeddings,
            labels,
            distance=self.distance,
            references=gallery,
            reference_labels=known,
            ks=(1,),
        )


def seen_and_unseen(data: Dataset, trained: Dataset) -> dict[str, Dataset]:
    """The items of classes that were trained on, as "seen", and those of others, as "unseen".

    Items that were trained on themselves are left out, and so are unlabeled ones (−1) and a part
    without any item.
    Classes are told by name, items by their fingerprints.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> animals = ArrayDataset(np.eye(5), ["cat", "dog", "cat", "owl", "owl"])
        >>> parts = seen_and_unseen(animals, Subset(animals, [0, 1]))
        >>> {name: part.source_indices.tolist() for name, part in parts.items()}
        {'seen': [2], 'unseen': [3, 4]}
    """
    data = labeled_items(data)
    known = set(items_per_class(trained))
    is_seen = np.array([name in known for name in data.class_names])[data.labels.numpy()]
    new = ~np.isin(fingerprints(data).numpy(), fingerprints(trained).numpy())
    parts: dict[str, Dataset] = {
        "seen": Subset(data, np.flatnonzero(new & is_seen)),
        "unseen": Subset(data, np.flatnonzero(new & ~is_seen)),
    }
    return {name: part for name, part in parts.items() if len(part)}


class _Part(NamedTuple):
    items: Dataset
    pairs: Int[Tensor, "p 2"]  # positions in items
    same: Bool[Tensor, " p"]
    retrieval: bool


def _check_parts(parts: object) -> None:
    remedy = 'Give e.g. {"unseen": dataset}.'
    if not isinstance(parts, Mapping):
        raise InputTypeError(
            f"parts must be datasets or pairs by name, got {type(parts).__name__}. {remedy}"
        )
    for name, part in parts.items():
        if not isinstance(part, GivenPairs) and not hasattr(part, "class_names"):
            raise InputTypeError(
                f"parts must be datasets or pairs by name, got {type(part).__name__} as {name!r}. "
                f"{remedy}"
            )


def _drawn(name: str, part: Dataset, most: int, per_item: float, seed: int) -> _Part:
    chosen = _at_most(labeled_items(part), most, seed)
    counts = items_per_class(chosen)
    if len(counts) < 2 or max(counts.values()) < 2:
        raise InputError(
            f"parts must each hold 2 classes, one of them with 2 items, got {name!r} with "
            f"{len(chosen)} items of {len(counts)}. Keep more items aside, or leave it out."
        )
    drawn = PairDataset(chosen, per_item=per_item, seed=seed)
    return _Part(chosen, drawn.pairs, drawn.same, retrieval=True)


def _given(name: str, part: GivenPairs, most: int, seed: int) -> _Part:
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(part.pairs), generator=rng)[: most // 2]
    same = int(part.same[chosen].sum())
    if same in (0, len(chosen)):
        raise InputError(
            f"parts must each hold pairs of both kinds, got {name!r} with {same} same and "
            f"{len(chosen) - same} different among those scored. Give pairs of both."
        )
    rows, pairs = torch.unique(part.pairs[chosen], return_inverse=True)
    return _Part(Subset(part.data, rows), pairs, part.same[chosen], retrieval=False)


def _at_most(data: Dataset, most: int, seed: int) -> Dataset:
    if len(data) <= most:
        return data
    return Subset(data, rows_of_each(data.labels, most, seed))


def rows_of_each(labels: Int[Tensor, " n"], most: int, seed: int) -> Int[Tensor, " m"]:
    """At most `most` rows: in rounds, every class gives a few, in an order drawn once."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    classes, numbers, sizes = np.unique(
        labels.numpy()[shuffled], return_inverse=True, return_counts=True
    )
    by_class = np.argsort(numbers, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)  # of an item among those of its class
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = rng.permutation(len(classes))[numbers]
    chosen = shuffled[np.lexsort((turn, rank // TOGETHER))[:most]]
    return torch.from_numpy(np.sort(chosen))


def _common_codes(queries: Dataset, gallery: Dataset) -> tuple[Tensor, Tensor]:
    names = dict.fromkeys([*gallery.class_names, *queries.class_names])
    code_of = {name: code for code, name in enumerate(names)}
    labels, known = (
        torch.tensor([code_of[name] for name in data.class_names])[data.labels]
        for data in (queries, gallery)
    )
    return labels, known


def _check_gallery(parts: Mapping[str, _Part], gallery: Dataset) -> None:
    known, prints = set(items_per_class(gallery)), fingerprints(gallery)
    for name, part in parts.items():
        if not part.retrieval:
            continue
        if not known & set(items_per_class(part.items)):
            raise InputError(
                f"gallery must hold some class of every part, got none of those of {name!r}. "
                "Add items of them."
            )
        both = int(torch.isin(fingerprints(part.items), prints).sum())
        if both:
            raise InputError(
                f"gallery must not hold queries, got {both} of {name!r}, which would find "
                "themselves. Split them first, e.g. with data.split_items."
            )
