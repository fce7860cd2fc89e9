"""`migrate`: another encoder for a model and its known items, switched in one step, and back."""

import contextlib
import dataclasses
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

import likewise
from likewise import _tables
from likewise import data as sources
from likewise._checks import check_exists, check_format, check_rate
from likewise._files import Lock, read_regular, write_whole
from likewise.calibration import Calibration, named_goal
from likewise.data.parts import label_names
from likewise.embedded import Embedded
from likewise.errors import ArtifactError, GalleryError, InputError
from likewise.evaluation.comparison import compare
from likewise.index import Gallery, Index, name_of
from likewise.intervals import Estimate, binomial
from likewise.journeys.calibration_items import calibrated_on, pairs_of
from likewise.journeys.embedding_map import EmbeddingMap, fit_map
from likewise.journeys.migrating_items import (
    Encode,
    Known,
    Marks,
    as_known,
    by_map,
    by_model,
    follow,
    is_followed,
    kept_source,
    rows_in,
)
from likewise.journeys.opening import PLAIN, open_fitting
from likewise.model import SimilarityModel, load
from likewise.model.folders import Folder
from likewise.model.switching import copy_model, described_in, switch_model
from likewise.model.trials import PAIRS

SUFFIX = ".migration"  # of the folder beside the model
RECORD, LOCK = "migration.json", "migration.lock"
BEFORE, AFTER, KNOWN, MARKS = "before", "after", "known", "known.marks"
FORMAT = 1
LARGEST = 1 << 22  # bytes of a record
MOST = 10_000  # known items that are compared where there are no others
ROUNDS = 10  # in which a gallery that is being changed is followed
_MADE = re.compile(r"\.[0-9a-f]{8}(\.mapped)?\Z")  # the end of a name of a new gallery
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PointChange:
    """An operating point, decided by the model before and by the one after, on the same items.

    Attributes:
        decisions: Decisions that were compared.
        changed: How many differ.
        share: Their share, with its interval; its upper bound is what to expect at most.
        to_unknown: Decisions that were accepted before, and are not now; pairs: the same before.
        from_unknown: Decisions that are accepted now, and were not before.
        right: Difference of the shares that are right, after less before, where labels tell;
            None where they do not. The new threshold was chosen on these items, which favors it a
            little; to judge the new model, evaluate it on others.
        threshold_before: The threshold of the model before; None where it had none.
        threshold_after: Threshold of the model after; None where there is none.
    """

    decisions: int
    changed: int
    share: Estimate
    to_unknown: int
    from_unknown: int
    right: Estimate | None
    threshold_before: float | None
    threshold_after: float | None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        return _tables.Table("Operating point", _tables.fields(self))

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        right = None if self.right is None else self.right.to_dict()
        return {**dataclasses.asdict(self), "share": self.share.to_dict(), "right": right}


@dataclass(frozen=True)
class Migration:
    """What became of a migration.

    Attributes:
        model: The folder that was switched, or would be.
        gallery: The new gallery; None where the known items are kept in the model's folder.
        way: "items" where these were encoded anew, "map" where their embeddings were mapped.
        items: Known items.
        compared: Items that both models decided on.
        points: What changed, by operating point; "lookup" is the class of the nearest known item,
            where no rule was calibrated.
        mapped_by: The map and its loss; None where items were encoded anew.
        switched: Whether the model is the new one now.
    """

    model: str
    gallery: str | None
    way: str
    items: int
    compared: int
    points: dict[str, PointChange] = field(default_factory=dict)
    mapped_by: dict[str, Any] | None = None
    switched: bool = False

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [["", "decisions", "changed", "share", "right, after less before", "threshold"]]
        for name, each in self.points.items():
            moved = [each.threshold_before, each.threshold_after]
            told = ["none" if one is None else f"{one:.4g}" for one in moved]
            rows.append(
                [
                    name,
                    f"{each.decisions:,}",
                    f"{each.changed:,}",
                    str(each.share),
                    "" if each.right is None else str(each.right),
                    " to ".join(told),
                ]
            )
        title = f"Migration of {self.items:,} known items, {self.compared:,} others compared"
        return _tables.Table(title, rows, headings=True)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        points = {name: each.to_dict() for name, each in self.points.items()}
        return {
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)},
            "points": points,
        }


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """How far a migration is; written before and after each stage."""

    format: int
    likewise: str
    encoder: str  # the fingerprint of the one after
    way: Literal["items", "map"]
    gallery: str  # of the model after, while it is filled and later
    stage: Literal["filling", "ready", "switched", "back"]
    before: str  # the key of the model's folder
    after: str | None
    seen_from: str  # the folder that was copied


@dataclass(frozen=True)
class _Workplace:
    """The folder beside a model in which it is migrated."""

    folder: Path

    @classmethod
    def of(cls, model: Path) -> "_Workplace":
        place = Path(os.path.realpath(model))
        return cls(place.with_name(place.name + SUFFIX))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self.folder.mkdir(exist_ok=True)
        try:
            lock = Lock(self.folder / LOCK)
        except BlockingIOError as error:
            raise ArtifactError(
                f"model must be migrated by one process at a time, got another in "
                f"{str(self.folder)!r}. Wait for it."
            ) from error
        with lock:
            yield

    def read(self) -> _Record | None:
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            told = msgspec.json.decode(read_regular(path, LARGEST))
            if isinstance(told, dict):
                check_format(f"migration {str(path)!r}", told.get("format"), FORMAT)
            return msgspec.convert(told, _Record)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(
                f"migration must be whole, got {str(path)!r} damaged. Remove the folder "
                f"{str(self.folder)!r}, and begin again; the model is as it was."
            ) from error

    def forget_marks(self) -> None:
        """From now on others may write the new gallery."""
        (self.folder / MARKS).unlink(missing_ok=True)

    def write(self, record: _Record) -> None:
        content = msgspec.json.format(msgspec.json.encode(record), indent=1)
        write_whole(self.folder / RECORD, content)


def migrate(
    model: str | Path,
    to: str | Path | SimilarityModel,
    *,
    items: Any = None,
    mapped_on: Any = None,
    aside: Any = None,
    unknowns: Any = None,
    allowed: float | None = None,
    switch: bool = True,
    before: SimilarityModel | None = None,
    reading: sources.Reading | None = None,
    progress: Progress | None = None,
) -> Migration:
    """Give a saved model another encoder, and its known items new embeddings.

    The known items are encoded into a new gallery beside the old one, under their ids and with
    their labels, metadata and pictures. The operating points are calibrated again, for the goals
    that they had. Both models then decide on the same items, and the folder of the model is
    replaced in one step: whoever loads it finds the model before with its gallery, or the one
    after with its own. `take_back` undoes that.

    Work is kept in a folder beside the model, named after it with ".migration". After a kill,
    calling this again with the same arguments goes on where it was. A gallery that is changed
    meanwhile is followed; for the last step nobody else may have it open for writing.

    Args:
        model: The folder of a saved model, which is replaced. Or a gallery without one: `to` is
            then the folder that is replaced, so that it answers from the gallery's items.
        to: The model with the new encoder, or its folder. Its own known items play no part. A
            model becomes the one after, and its gallery is closed; give the folder to keep it.
        items: The known items: a source as `data.load` takes it, or a dataset. Without, they are
            read by the texts or the files that their metadata tell.
        mapped_on: A sample of items to fit a map from old to new embeddings on, where the known
            items themselves are gone. Their embeddings are then mapped, not encoded.
        aside: Labeled items to calibrate and to compare on, neither known nor trained on. Without,
            those that the model was calibrated on, in the data that it was trained on.
        unknowns: Real unknowns, to calibrate with; see `SimilarityModel.calibrate`.
        allowed: Share of decisions that may change at any operating point; else nothing is
            switched, and what was done is kept. None for any.
        switch: Whether to switch; else it ends before that step.
        before: The model as it was loaded, where `load` needs arguments for that.
        reading: Which columns of tables hold what.
        progress: Called as progress(done, total) while known items are encoded.

    Raises:
        InputError: Items are missing, there is nothing to calibrate on, or too many decisions
            change.
        ArtifactError: Another process migrates the model, or saved it meanwhile.
        GalleryError: Another process has the gallery open for writing; stop it and call again.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> digits = lw.data.load("digits", split="train")
        >>> known, aside = lw.data.split_items(digits, [0.3, 0.7])
        >>> with tempfile.TemporaryDirectory() as place:
        ...     for name, width in (("old", 16), ("new", 24)):
        ...         encoder = lw.encoders.MLPEncoder(digits.item_shape, embedding_dim=width)
        ...         model = lw.SimilarityModel(encoder)
        ...         if name == "old":
        ...             _ = model.add(known), model.calibrate(aside)
        ...         _ = model.save(f"{place}/{name}")
        ...     done = migrate(f"{place}/old", f"{place}/new", items=known, aside=aside)
        ...     print(done.switched, lw.load(f"{place}/old").index.dimension)
        ...     take_back(f"{place}/old")
        ...     print(lw.load(f"{place}/old").index.dimension)
        True 24
        True
        16
    """
    if allowed is not None:
        check_rate("allowed", allowed)
    if items is not None and mapped_on is not None:
        raise InputError(
            "items must come without a sample to fit a map on, got both. Give either.",
            argument="items",
        )
    path = Path(model)
    check_exists("model", path)
    new = to if isinstance(to, SimilarityModel) else load(to, read_only=True)
    is_gallery = Gallery.is_at(path)
    target = path
    if is_gallery:
        if isinstance(to, SimilarityModel):
            raise InputError("to must be a folder for a gallery without a model, got a model.")
        target = Path(to)
    old = None if is_gallery else before or load(path, read_only=True)
    _check_can(old, new)
    if old is not None and not new.reading.columns:
        new.reading = old.reading
    workplace = _Workplace.of(target)
    with workplace.locked():
        gallery = os.path.realpath(path) if old is None else old.gallery
        record = _begun(workplace, target, gallery, new, "items" if mapped_on is None else "map")
        work = _Migrating(workplace, record, target, path, old, new, reading or PLAIN)
        if record.stage == "switched":
            return work.told_again()
        with contextlib.closing(work.known_index()) as index:
            done = work.prepared(index, items, mapped_on, aside, unknowns, progress)
        _check_allowed(done, allowed)
        return work.switched(done) if switch else done


def take_back(model: str | Path) -> bool:
    """Put the model of before the last migration back in its folder; whether it was not there.

    The gallery of the model after stays where it is, with items that were added since.

    Args:
        model: The folder that was migrated. For a gallery, the folder of its new model.

    Raises:
        ArtifactError: It was not migrated, or another model was saved there since.
    """
    target = Path(model)
    check_exists("model", target)
    workplace = _Workplace.of(target)
    if not (workplace.folder / RECORD).exists():
        raise ArtifactError(
            f"model must have been migrated to be taken back, got {str(target)!r}, which was not."
        )
    with workplace.locked():
        record = workplace.read()
        if record is None:
            raise ArtifactError("migration must have been begun to be taken back, got none.")
        workplace.forget_marks()
        key = described_in(target).manifest.get("key")
        if key == record.before:
            workplace.write(msgspec.structs.replace(record, stage="back"))
            return False
        switch_model(
            target,
            workplace.folder / BEFORE,
            seen_from=Path(record.seen_from),
            may=lambda there: there is not None and there.manifest.get("key") == record.after,
        )
        workplace.write(msgspec.structs.replace(record, stage="back"))
    return True


class _Migrating:
    """One migration, from its first stage to the switch."""

    def __init__(
        self,
        workplace: _Workplace,
        record: _Record,
        target: Path,
        path: Path,
        old: SimilarityModel | None,
        new: SimilarityModel,
        reading: sources.Reading,
    ) -> None:
        self.workplace, self.record, self.target, self.path = workplace, record, target, path
        self.old, self.new, self.reading = old, new, reading
        self.seen: Folder | None = None

    def told_again(self) -> Migration:
        """What is known of a migration that was done already."""
        place = None if self.gallery is None else self.record.gallery
        count = 0 if self.old is None else len(self.old.index)
        return Migration(str(self.target), place, self.record.way, count, 0, switched=True)

    @property
    def gallery(self) -> str | None:
        """The gallery of the items before; None where they are in the model's folder."""
        return os.path.realpath(self.path) if self.old is None else self.old.gallery

    def known_index(self) -> Index:
        """The items before, as nobody changes them here."""
        if self.gallery is None and self.old is not None:
            return self.old.index
        return Gallery(str(self.gallery), read_only=True)

    def prepared(
        self,
        index: Index,
        items: Any,
        mapped_on: Any,
        aside: Any,
        unknowns: Any,
        progress: Progress | None,
    ) -> Migration:
        """Everything but the switch: items, thresholds, and what changes."""
        known, new = Known(index), self.new
        if not len(known.ids):
            raise InputError("model must hold known items to be migrated, got none.")
        asked = self._asked()
        before, after = self._aside(aside, asked)
        fitted = None
        if mapped_on is not None:
            fitted, before, after = self._map(mapped_on, before, after)
        encode = self._encoder(known, items, fitted)  # refuses before the work begins
        self._start(fresh=fitted is not None)
        place = Path(self.record.gallery)
        if isinstance(new.index, Gallery):
            new.index.close()
        like = index if self.old is None else self.old.index
        searched: dict[str, Any] = {"recall": like.recall, "approximate": like.approximate}
        with Gallery(
            place,
            distance=new.distance,
            encoder=new.fingerprint,
            storage=like.storage,
            **searched,
        ) as staged:
            marks = Marks(self.workplace.folder / MARKS, staged)
            for _ in range(ROUNDS):
                follow(known, staged, marks, encode, progress)
                known = Known(index)
                if is_followed(known, staged, marks):
                    break
                encode = self._encoder(known, items, fitted)
            if self.gallery is not None:
                staged.wait()  # so that an approximate search is trained here, and once
        for each in (new.calibrations, new.class_thresholds, new.probabilities):
            each.clear()
        if self.gallery is None:
            new.index = Index(new.distance, storage=like.storage, **searched)
            _fill(new.index, place)
            new.gallery = new.collection = None
        else:
            new.use_gallery(place, read_only=True, **searched)
        if after is not None:
            _calibrate(asked, new, after, None if unknowns is None else self._opened(new, unknowns))
        if before is not None and after is not None and self.old is not None:
            points = _compared(self.old, new, (before, after))
        else:
            points = _compared_known(index, new)
        told = None if fitted is None else fitted.to_dict()
        made_by = index.encoder if self.old is None else self.old.fingerprint
        origin = {"from": made_by, "way": self.record.way, "map": told}
        new.origin = {**new.origin, "migrated": origin}
        shutil.rmtree(self.workplace.folder / AFTER, ignore_errors=True)
        new.save(self.workplace.folder / AFTER)
        if isinstance(new.index, Gallery):
            new.index.close()
        key = described_in(self.workplace.folder / AFTER).manifest["key"]
        self._note(stage="ready", after=key)
        return Migration(
            str(self.target),
            None if self.gallery is None else str(place),
            self.record.way,
            len(known.ids),
            0 if before is None else len(before),
            points,
            told,
        )

    def switched(self, done: Migration) -> Migration:
        """The one step, taken while nobody else can write the items before."""
        with contextlib.ExitStack() as stack:
            if self.gallery is not None:
                try:
                    writer = stack.enter_context(Gallery(self.gallery))
                except GalleryError as error:
                    raise GalleryError(
                        f"gallery must be written by nobody while it is switched, got "
                        f"{self.gallery!r}, which another process has open or cannot be opened. "
                        "Stop what writes it, and run this again: it goes on from here."
                    ) from error
                with Gallery(done.gallery or "", read_only=True) as staged:
                    marks = Marks(self.workplace.folder / MARKS, staged)
                    if not is_followed(Known(writer), staged, marks):
                        raise GalleryError(
                            f"gallery must stay as it is while it is switched, got "
                            f"{self.gallery!r}, which was changed. Run this again: it goes on "
                            "from here."
                        )
            seen = self.seen
            switch_model(
                self.target,
                self.workplace.folder / AFTER,
                seen_from=self.workplace.folder / AFTER,
                may=lambda there: (
                    there is not None and seen is not None and there.content == seen.content
                ),
            )
        self._note(stage="switched")
        self.workplace.forget_marks()
        return dataclasses.replace(done, switched=True)

    def _start(self, *, fresh: bool) -> None:
        """Copy the model that is to be replaced, and say that the work has begun."""
        copy = self.workplace.folder / BEFORE
        part = copy.with_name(f"{BEFORE}.part")
        shutil.rmtree(part, ignore_errors=True)
        self.seen = copy_model(self.target, part)
        self._note(  # first, or `take_back` would take the new copy for the one before it
            stage="filling",
            before=self.seen.manifest["key"],
            after=None,
            seen_from=os.path.realpath(self.target),
        )
        shutil.rmtree(copy, ignore_errors=True)
        os.rename(part, copy)
        if fresh:  # mapping takes seconds, and another map would not go with what is there
            shutil.rmtree(self.record.gallery, ignore_errors=True)

    def _note(self, **changes: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)
        self.workplace.write(self.record)

    def _asked(self) -> "_Asked":
        """The operating points to choose again."""
        model = self.new if self.old is None else self.old
        return _Asked(dict(model.calibrations), set(model.class_thresholds), dict(model.rules))

    def _opened(self, model: SimilarityModel, source: Any) -> Any:
        """A source as a model's items are read."""
        if isinstance(source, (str, Path)):
            told = {**model.reading.columns, **self.reading.columns}
            split = "all" if sources.has_splits(source, **told) else None
            return open_fitting(model, source, split, default_split="all", reading=self.reading)
        return sources.as_dataset(source)

    def _aside(self, aside: Any, asked: "_Asked") -> tuple[Embedded | None, Embedded | None]:
        """Items to decide on that are new to both models, embedded by either where it can."""
        encodes = self.old is not None and self.old.has_encoder
        if aside is None and (self.old is None or not asked.points):
            return None, None
        if aside is None and self.old is not None:
            with _naming_aside():
                if not encodes:
                    raise InputError("the model before has no encoder to read it")
                of_old: Any = calibrated_on(self.old)
                of_new: Any = calibrated_on(self.old, self.new)
        else:
            of_old = self._opened(self.old, aside) if self.old is not None and encodes else None
            of_new = self._opened(self.new, aside)
        after = self.new.embedded(of_new)
        is_new = ~torch.isin(after.fingerprints, self.new.trained_prints)
        before = None
        if self.old is not None and of_old is not None:
            before = self.old.embedded(of_old)
            if len(before) != len(after):
                raise InputError(
                    f"aside must hold the same items for both models, got {len(before)} and "
                    f"{len(after)}."
                )
            is_new &= ~torch.isin(before.fingerprints, self.old.known_prints())
        if not bool(is_new.any()):
            raise InputError(
                "aside must hold items that are neither known nor trained on, got none. Give "
                "others."
            )
        return None if before is None else before.take(is_new), after.take(is_new)

    def _map(
        self, sample: Any, before: Embedded | None, after: Embedded | None
    ) -> tuple[EmbeddingMap, Embedded | None, Embedded | None]:
        """The map, and the items to decide on that it was not fitted on."""
        if self.old is None or not self.old.has_encoder:
            raise InputError(
                "model must have an encoder for a map to be fitted, got none. Give the items."
            )
        a, b = (each.embedded(self._opened(each, sample)) for each in (self.old, self.new))
        chosen = torch.ones(len(a), dtype=torch.bool)
        if before is not None:
            shared = torch.isin(a.fingerprints, before.fingerprints)
            if int((~shared).sum()) >= len(a) // 2:
                chosen = ~shared
            else:  # half of what both have is for the map
                chosen[shared.nonzero().flatten()[1::2]] = False
        fitted = fit_map(a.embeddings[chosen], b.embeddings[chosen], distance=self.new.distance)
        if before is None or after is None:
            return fitted, before, after
        rest = ~torch.isin(before.fingerprints, a.fingerprints[chosen])
        if not bool(rest.any()):
            raise InputError(
                "aside must hold items that the map was not fitted on, got none. Give others."
            )
        return fitted, before.take(rest), after.take(rest)

    def _encoder(self, known: Known, items: Any, fitted: EmbeddingMap | None) -> Encode:
        """What gives the new embeddings of known items."""
        old, new = self.old, self.new
        if fitted is not None:
            alike = old is not None and old.preprocess == new.preprocess
            return by_map(known, fitted, keeps_prints=alike)
        if items is None:
            told = kept_source(new, known)
            reads = None
            if old is not None and old.has_encoder:
                reads = sources.TextDataset if old.preprocess is None else old.preprocess.files
            return by_model(new, told, np.arange(len(told)), as_known(known, told, reads))
        source = self._opened(new, items)
        reader = old if old is not None and old.has_encoder else None
        prints = sources.fingerprints(source if reader is None else self._opened(reader, items))
        rows, missing = rows_in(known, source, prints, loosely=reader is None)
        if len(missing):
            shown = ", ".join(repr(each) for each in known.ids[missing[:3]].tolist())
            raise InputError(
                f"must hold all {len(known.ids):,} known items, got {len(missing):,} missing, such "
                f"as the ids {shown}.",
                argument="items",
                remedy="Give more data, remove these items, or fit a map with mapped_on.",
                command="Give more data, remove these items, or fit a map with --map DATA.",
            )
        return by_model(new, source, rows)


@dataclass(frozen=True)
class _Asked:
    """Operating points that are chosen again: their calibrations, which are by class, own rules."""

    points: dict[str, Calibration]
    by_class: set[str]
    rules: dict[str, Any]


def _check_can(old: SimilarityModel | None, new: SimilarityModel) -> None:
    for model in (old, new):
        if model is not None:
            model.check_one_tower("a migration")
    if not new.has_encoder:
        raise InputError(
            "to must be a model with an encoder, got one over embeddings made elsewhere. Wrap the "
            "new embeddings with likewise wrap.",
            argument="to",
        )
    if old is not None and old.collection is not None:
        raise InputError(
            "model must keep its known items in a folder to be migrated, got them in Milvus. "
            "Index the items into a new collection with the new model."
        )


def _place_of(workplace: _Workplace, gallery: str | None, encoder: str, way: str) -> Path:
    """Where the known items go, each time the same: beside their gallery, or in the workplace."""
    name = f"{encoder[:8]}{'.mapped' if way == 'map' else ''}"
    if gallery is None:
        return workplace.folder / f"{KNOWN}.{name}"
    place = Path(gallery)
    return place.with_name(f"{_MADE.sub('', place.name)}.{name}")


def _begun(
    workplace: _Workplace,
    target: Path,
    gallery: str | None,
    new: SimilarityModel,
    way: Literal["items", "map"],
) -> _Record:
    """The record of a migration that is to be gone on with, or of a new one."""
    there = described_in(target)
    key = str(there.manifest.get("key"))
    encoder = str(new.fingerprint)
    record = workplace.read()
    if record is not None and record.after == key and record.stage != "back":
        if record.encoder == encoder and record.way == way:
            if record.stage != "switched":  # a kill came between the switch and its record
                record = msgspec.structs.replace(record, stage="switched")
                workplace.write(record)
            return record
        record = None  # of a migration that was done; this is the next one
    elif record is not None and record.stage in ("filling", "ready") and record.encoder != encoder:
        raise ArtifactError(
            f"model must not be within a migration to another encoder, got "
            f"{str(workplace.folder)!r}. Go on with that one, or remove the folder."
        )
    place = _place_of(workplace, gallery, encoder, way)
    if gallery is not None and os.path.realpath(gallery) == os.path.realpath(place):
        raise InputError(
            f"to must have another encoder than the items of the gallery {gallery!r}, got the "
            "same. There is nothing to migrate."
        )
    return _Record(
        FORMAT,
        likewise.__version__,
        encoder,
        way,
        str(place),
        "filling",
        key,
        None,
        os.path.realpath(target),
    )


@contextlib.contextmanager
def _naming_aside() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(
            "must be given to calibrate and compare on, got none, and what the model was "
            "calibrated on cannot be found.",
            argument="aside",
            remedy="Give labeled items.",
            command="Give --aside DATA.",
        ) from error


def _fill(index: Index, place: Path) -> None:
    with Gallery(place, read_only=True) as staged:
        index.name_classes(staged.class_names)
        index.add(
            staged.embeddings,
            labels=staged.labels,
            ids=staged.ids,
            metadata=staged.metadata(staged.ids),
            payloads=staged.payloads(staged.ids),
        )


def _calibrate(asked: _Asked, new: SimilarityModel, aside: Embedded, unknowns: Any) -> None:
    """Choose the operating points again, for the goals that they had."""
    real = None if unknowns is None else new.embedded(unknowns)
    new.rules = dict(asked.rules)
    for name, made in asked.points.items():
        if real is None and any(each.kind == "given" for each in made.unknowns):
            warnings.warn(
                f"point {name!r} was calibrated with real unknowns, which must be given again to "
                "count, got none.",
                stacklevel=2,
            )
        told: dict[str, Any] = {}
        if made.guarantee is not None and "item" in made.guarantee.holds_for:
            told["leave_out"] = "items"
        if made.rule != PAIRS:
            is_by_class = name in asked.by_class
            told |= {
                "for_gallery_of": made.gallery_size,
                "unknowns": None if is_by_class else real,
                "per_class": is_by_class,
            }
        new.calibrate(
            aside,
            goal=named_goal(made.goal),
            rule=asked.rules.get(made.rule, made.rule),
            k=made.k or 1,
            point=name,
            **told,
        )


def _compared(
    old: SimilarityModel, new: SimilarityModel, both: tuple[Embedded, Embedded]
) -> dict[str, PointChange]:
    """Every operating point, decided by both models."""
    found = {}
    truth = label_names(both[0])
    labels = old.index.labels
    codes = torch.unique(labels[labels >= 0]).tolist()
    known = {name_of(code, old.class_names, "") for code in codes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a guarantee outgrown, which each match tells
        for name, made in old.calibrations.items():
            thresholds = made.threshold, new.calibrations[name].threshold
            if made.rule == PAIRS:
                pairs = torch.from_numpy(pairs_of(both[0]))
                same = [
                    each.verify(*(items.take(side) for side in pairs.T), point=name).same
                    for each, items in zip((old, new), both, strict=True)
                ]
                codes = both[0].labels[pairs]
                is_same = codes[:, 0] == codes[:, 1]
                told = bool((codes >= 0).all())
                right = [each == is_same for each in same] if told else None
                found[name] = _change(same[0], same[1], same[0], same[1], right, thresholds)
                continue
            names = [
                each.match(items, point=name).names
                for each, items in zip((old, new), both, strict=True)
            ]
            found[name] = _of_names(names, truth, known, thresholds)
        if all(made.rule == PAIRS for made in old.calibrations.values()):
            near = [
                each.lookup(items, k=1).names for each, items in zip((old, new), both, strict=True)
            ]
            names = [[row[0] for row in side] for side in near]
            found["lookup"] = _of_names(names, truth, known, (None, None))
    return found


def _compared_known(index: Index, new: SimilarityModel) -> dict[str, PointChange]:
    """The nearest other item of each known one, before and after, where there are no others."""
    if len(index) < 2:
        return {}
    rows = np.linspace(0, len(index) - 1, min(len(index), MOST)).round().astype(int)
    ids = index.ids[rows]
    names = []
    for each in (index, new.index):
        near = each.lookup(each.get(ids).embeddings, k=2)
        first = torch.from_numpy((near.ids[:, 0] == ids).astype(np.int64))
        told = near.names
        names.append([told[row][at] for row, at in enumerate(first.tolist())])
    own = [row[0] for row in index.lookup(index.get(ids).embeddings, k=1).names]
    return {"lookup": _of_names(names, list(own), set(own), (None, None))}


def _of_names(
    names: list[list[str]],
    truth: list[str | None],
    known: set[str],
    thresholds: tuple[float | None, float | None],
) -> PointChange:
    before, after = (np.array(each, dtype=object) for each in names)
    right = None
    told = np.array([each is not None for each in truth])
    if told.any():
        wanted = np.array([each if each in known else "unknown" for each in truth], dtype=object)
        right = [torch.from_numpy((each == wanted)[told]) for each in (before, after)]
    accepted = [torch.from_numpy(each != "unknown") for each in (before, after)]
    return _change(before, after, accepted[0], accepted[1], right, thresholds)


def _change(
    before: Any,
    after: Any,
    accepted_before: Tensor,
    accepted_after: Tensor,
    right: list[Tensor] | None,
    thresholds: tuple[float | None, float | None],
) -> PointChange:
    changed = int((before != after).sum())
    difference = None
    if right is not None:
        scores = [{"right": each.double()} for each in right]
        difference = compare(scores[1], scores[0]).measures["right"].difference
    return PointChange(
        len(before),
        changed,
        binomial(changed, len(before)),
        int((accepted_before & ~accepted_after).sum()),
        int((~accepted_before & accepted_after).sum()),
        difference,
        *thresholds,
    )


def _check_allowed(done: Migration, allowed: float | None) -> None:
    if allowed is None:
        return
    for name, each in done.points.items():
        if each.changed > allowed * each.decisions:
            raise InputError(
                f"migration must change at most {allowed:.2%} of the decisions, got "
                f"{each.changed:,} of {each.decisions:,} changed at {name!r}. Nothing was "
                "switched, and what was done is kept.",
                remedy="Allow more with allowed=.",
                command="Allow more with --allow.",
            )
