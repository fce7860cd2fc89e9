"""Known items taken from data: added, put in place of all others, or kept the same as a folder."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise import _tables
from likewise import data as sources
from likewise._checks import check_choice
from likewise.data.parts import ids_of, label_names, paths_of
from likewise.errors import InputError
from likewise.model import SimilarityModel
from likewise.model.embedding import embed_kept, opened

Progress = Callable[[int, int], None]
WAYS = ("add", "replace", "sync")


@dataclass(frozen=True)
class Indexed:
    """What became of the known items of a model: how many of each.

    Attributes:
        added: items that are new.
        already_there: items of the data that were there, with the same class.
        as_another_class: added items that are there as another class too.
        relabeled: items that moved to another class, and kept their id.
        moved: items whose file moved within its class, and kept their id.
        removed: items that are gone.
        changed: items with another content under the same id, where the data bring ids.
    """

    added: int = 0
    already_there: int = 0
    as_another_class: int = 0
    relabeled: int = 0
    moved: int = 0
    removed: int = 0
    changed: int = 0

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def has_changed(self) -> bool:
        """Whether any answer may differ from before."""
        return bool(self.added or self.relabeled or self.removed or self.changed)

    def to_dict(self) -> dict[str, int]:
        """As plain values."""
        return asdict(self)


def index(
    model: SimilarityModel,
    data: sources.Dataset,
    *,
    way: str = "add",
    source: str | Path | None = None,
    keep_pictures: bool = False,
    progress: Progress | None = None,
) -> Indexed:
    """Take the items of a dataset into the index of a model, each of them once.

    An item is known again by its id where the data bring ids (`data.ids_of`), and else by its
    fingerprint and its class, so doing it twice changes nothing.

    - "add" adds what is not there.
    - "replace" puts the data in place of all that is there, in one step: whoever looks meanwhile
      finds all old or all new items (in Milvus, for a moment, both).
    - "sync" makes the items that came from `source` the same as the data: what is new is added,
      what is gone is removed, and an item that is now of another class is relabeled. Items from
      elsewhere are left alone. Where it was interrupted, doing it again completes it. With ids,
      an item that is there takes on the content that the data have under its id.

    Args:
        model: its index changes; save it afterwards, unless the items are in a gallery.
        data: a labeled dataset.
        way: "add", "replace" or "sync".
        source: where the data is from, such as its folder. Kept with every item; "sync" needs it
            to be the same each time.
        keep_pictures: keep a small picture of each image that is added, as its payload.
        progress: called as progress(done, total) while embedding.

    Raises:
        InputError: an id comes twice, is of another kind than those indexed, or, with "add", is
            that of an indexed item with another content or class.

    Example:
        >>> import torch
        >>> import likewise as lw
        >>> model = lw.SimilarityModel(torch.nn.Identity())
        >>> index(model, lw.data.load((torch.eye(3), ["a", "b", "b"])), source="mine").added
        3
        >>> moved = lw.data.load((torch.eye(3)[:2], ["a", "a"]))
        >>> found = index(model, moved, way="sync", source="mine")
        >>> (found.already_there, found.relabeled, found.removed, len(model.index))
        (1, 1, 1, 2)
    """
    check_choice("way", way, WAYS)
    data = sources.as_dataset(data)
    place = place_of(source)
    facts = _whereabouts(data, place)
    own = _as_indexed(ids_of(data), model)
    if way == "add" and own is None:
        ids = model.add_new(data, metadata=facts, keep_pictures=keep_pictures, progress=progress)
        return Indexed(
            added=len(ids),
            already_there=len(data) - len(ids),
            as_another_class=_doubtful(model, len(ids)),
        )
    wanted = _Wanted(
        model, data, facts, is_all=way == "replace", keep_pictures=keep_pictures, progress=progress
    )
    if way == "replace":
        rows = list(wanted.first.values()) if own is None else list(range(len(data)))
        removed, added = len(model.index), wanted.given(model, rows)
        names = list(sources.items_per_class(data))
        model.index.replace(**added, ids=own, class_names=names)
        return Indexed(
            added=len(rows), removed=removed, as_another_class=_doubtful(model, len(rows))
        )
    if own is not None:
        return _put_by_id(model, wanted, place, own, is_sync=way == "sync")
    return _synced(model, wanted, place)


class _Wanted:
    """The items of a dataset by fingerprint and class, each read once.

    Encoded are all, or those whose fingerprint is not indexed.
    """

    def __init__(
        self,
        model: SimilarityModel,
        data: sources.Dataset,
        facts: Sequence[dict[str, Any]],
        *,
        is_all: bool,
        keep_pictures: bool,
        progress: Progress | None,
    ) -> None:
        self.data, self.facts = data, facts
        stored, there, _ = model.index.fingerprints()
        known, prints = stored[there], torch.zeros(len(data), dtype=torch.int64)

        def keep(rows: Tensor, found: Tensor) -> Tensor:
            prints[rows] = found
            return torch.ones_like(rows, dtype=torch.bool) if is_all else ~torch.isin(found, known)

        self.encoded = embed_kept(
            model.encoder,
            opened(data, model.preprocess, model.encoder),
            model.preprocess,
            keep,
            keep_pictures=keep_pictures,
            progress=progress,
            cache=model.cache,
        )
        self.prints: list[int] = prints.tolist()
        self.names = label_names(data)
        self.first: dict[tuple[int, str | None], int] = {}  # key -> first row
        self.paths: dict[tuple[int, str | None], set[str]] = defaultdict(set)
        self.classes: dict[int, list[str | None]] = defaultdict(list)  # of a fingerprint
        self.row_at: dict[str, int] = {}  # by path
        for row, key in enumerate(zip(self.prints, self.names, strict=True)):
            if key not in self.first:
                self.first[key] = row
                self.classes[key[0]].append(key[1])
            if "path" in facts[row]:
                self.paths[key].add(facts[row]["path"])
                self.row_at[facts[row]["path"]] = row

    def given(self, model: SimilarityModel, rows: Sequence[int]) -> dict[str, Any]:
        """Some rows as an index takes them."""
        at = {row: place for place, row in enumerate(self.encoded.rows.tolist())}
        # An item that is indexed under another class has not been encoded again.
        rest = [row for row in rows if row not in at]
        parts = [self.encoded] if len(self.encoded) else []
        if rest:
            keeps = self.encoded.pictures is not None
            parts.append(model.embedded(sources.Subset(self.data, rest), keep_pictures=keeps))
            at |= {row: len(self.encoded) + place for place, row in enumerate(rest)}
        chosen = [at[row] for row in rows]
        embeddings = torch.cat([part.embeddings for part in parts])[chosen]
        pictures = [picture for part in parts for picture in part.pictures or ()]
        labels = [self.names[row] for row in rows]
        return {
            "embeddings": embeddings,
            "payloads": [pictures[place] for place in chosen] if pictures else None,
            "labels": labels if any(label is not None for label in labels) else None,
            "metadata": [{**self.facts[row], "fingerprint": self.prints[row]} for row in rows],
        }


def _synced(model: SimilarityModel, wanted: _Wanted, place: str | None) -> Indexed:
    known, ids = model.indexed_prints(), model.index.ids
    paths, _ = model.index.column("path")
    origins, _ = model.index.column("source")
    there: set[tuple[int | None, str | None]] = set()  # keys that need not be added
    changed: list[tuple[int, int]] = []  # row of the index, row of the data
    left: list[tuple[int, int | None]] = []  # row of the index, its fingerprint
    relabeled = 0
    for row, (print_, name) in enumerate(known):
        path = paths[row] if isinstance(paths[row], str) else None
        if not _is_from(place, origins[row], path):
            there.add((print_, name))
            continue
        if print_ is None and path in wanted.row_at:
            print_ = wanted.prints[wanted.row_at[path]]
        key = (print_, name)
        if print_ is None or key not in wanted.first:
            left.append((row, print_))
            continue
        there.add(key)
        if wanted.paths[key] and path not in wanted.paths[key]:
            changed.append((row, wanted.first[key]))
    moved, gone = len(changed), []
    for row, print_ in left:
        open_keys = [
            (print_, name)
            for name in wanted.classes.get(print_, [])  # type: ignore[arg-type]
            if (print_, name) not in there
        ]
        if open_keys:
            there.add(open_keys[0])
            changed.append((row, wanted.first[open_keys[0]]))  # type: ignore[index]
            relabeled += 1
        else:
            gone.append(row)
    new = [row for key, row in wanted.first.items() if key not in there]
    _move(model, wanted, [ids[row] for row, _ in changed], [row for _, row in changed])
    if new:
        added = wanted.given(model, new)
        if not len(model.index):
            model.index.name_classes(list(sources.items_per_class(wanted.data)))
        model.index.add(**added)
    doubtful = _doubtful(model, len(new))
    if gone:
        model.index.remove(ids[np.array(gone)])
    return Indexed(
        added=len(new),
        already_there=len(wanted.data) - len(new) - relabeled - moved,
        as_another_class=doubtful,
        relabeled=relabeled,
        moved=moved,
        removed=len(gone),
    )


def _put_by_id(
    model: SimilarityModel, wanted: _Wanted, place: str | None, own: list[Any], *, is_sync: bool
) -> Indexed:
    """Items put under their own ids; with `is_sync` also those that are there already."""
    known = dict(zip(model.index.ids.tolist(), model.indexed_prints(), strict=True))
    paths = dict(zip(known, model.index.column("path")[0], strict=True))
    origins = dict(zip(known, model.index.column("source")[0], strict=True))
    new, changed, relabeled, moved = [], [], [], []
    for row, id_ in enumerate(own):
        print_, name = known.get(id_, (None, None))
        if id_ not in known:
            new.append(row)
        elif print_ != wanted.prints[row]:
            changed.append(row)
        elif name != wanted.names[row]:
            relabeled.append(row)
        elif wanted.facts[row].get("path") not in (None, paths[id_]):
            moved.append(row)
    if not is_sync and (changed or relabeled):
        row = (changed or relabeled)[0]
        raise InputError(
            f"must be new or of the same item, got {own[row]!r}, which is in the index with "
            f"another {'content' if changed else 'class'}.",
            argument="id",
            remedy='Use way="sync" to put the data in its place.',
            command="Use --sync to put the data in its place.",
        )
    gone = []
    if is_sync:
        _move(model, wanted, [own[row] for row in relabeled + moved], relabeled + moved)
        gone = [
            id_
            for id_ in known.keys() - set(own)
            if _is_from(place, origins[id_], paths[id_] if isinstance(paths[id_], str) else None)
        ]
    if new or changed:
        if not known:
            model.index.name_classes(list(sources.items_per_class(wanted.data)))
        put = changed + new
        model.index.upsert(**wanted.given(model, put), ids=[own[row] for row in put])
    doubtful = _doubtful(model, len(new))
    if gone:
        model.index.remove(gone)
    there = len(own) - len(new) - len(changed) - len(relabeled) - len(moved)
    return Indexed(
        added=len(new),
        already_there=there if is_sync else len(own) - len(new),
        as_another_class=doubtful,
        relabeled=len(relabeled) if is_sync else 0,
        moved=len(moved) if is_sync else 0,
        removed=len(gone),
        changed=len(changed),
    )


def _as_indexed(own: list[Any] | None, model: SimilarityModel) -> list[Any] | None:
    """Ids of a table as those indexed are: a CSV has texts only, where others have numbers."""
    if own is None:
        return None
    if len(model.index) and model.index.ids.dtype.kind == "U":
        own = list(map(str, own))
    elif len(model.index) and all(
        isinstance(id_, int) or (len(id_) < 19 and id_.isdecimal()) for id_ in own
    ):
        own = list(map(int, own))
    if len(set(own)) < len(own):
        twice = Counter(own).most_common(1)[0][0]
        raise InputError(
            f"must name a column whose ids all differ, got {twice!r} more than once. Correct or "
            "remove a row.",
            argument="id",
        )
    return own


def _move(model: SimilarityModel, wanted: _Wanted, ids: list[Any], rows: list[int]) -> None:
    """Give items the class and whereabouts of rows of the data; embeddings stay."""
    if not ids:
        return
    items, payloads = model.index.get(ids), model.index.payloads(ids)
    metadata = [
        {**kept, **wanted.facts[row], "fingerprint": wanted.prints[row]}
        for kept, row in zip(items.metadata, rows, strict=True)
    ]
    names = [wanted.names[row] for row in rows]
    labels = names if any(name is not None for name in names) else None
    model.index.upsert(
        items.embeddings, ids=ids, labels=labels, metadata=metadata, payloads=payloads
    )


def _doubtful(model: SimilarityModel, count: int) -> int:
    """How many of the last `count` items are there as another class too."""
    if not count:
        return 0
    indexed = model.indexed_prints()
    classes = defaultdict(set)
    for print_, name in indexed:
        classes[print_].add(name)
    return sum(len(classes[print_]) > 1 for print_, _ in indexed[-count:])


def place_of(source: str | Path | None) -> str | None:
    """A source by the one name that it has from anywhere."""
    if source is None:
        return None
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


def _is_from(place: str | None, origin: object, path: str | None) -> bool:
    """Whether an item that tells this of itself is from a place."""
    if origin is not None or path is None or place is None:
        return origin == place
    return Path(path).is_relative_to(place)


def _whereabouts(data: sources.Dataset, place: str | None) -> list[dict[str, Any]]:
    facts: dict[str, Any] = {} if place is None else {"source": place}
    if sources.is_text(data):
        return [{**facts, "text": text} for text in sources.items(data)]
    paths = paths_of(data)
    return [{**facts, "path": path} for path in paths] or [dict(facts) for _ in range(len(data))]
