"""Known items in another gallery, embedded by another encoder: filled, and followed until equal."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise import data as sources
from likewise._files import write_whole
from likewise.data.parts import ids_of, paths_of
from likewise.embedded import Embedded
from likewise.encoders import takes_texts
from likewise.errors import InputError
from likewise.index import Gallery, Index
from likewise.model import SimilarityModel

CHUNK = 512  # items on disk at once; what a kill can cost
Progress = Callable[[int, int], None]
Encode = Callable[[np.ndarray[Any, Any]], tuple[Float[Tensor, "n e"], list[int] | None]]
"""From rows of the known items to their new embeddings, and fingerprints where they are known."""


class Known:
    """The items of an index, as of now.

    Args:
        index: Where they are. It may be changed later by another process; then look again.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        is_whole = False
        while not is_whole:  # another process may write between two of these
            self.ids = index.ids
            self.class_names = index.class_names
            self.labels = index.labels[: len(self.ids)]
            self.embeddings = index.embeddings[: len(self.ids)]
            is_whole = np.array_equal(index.ids[: len(self.ids)], self.ids)
        self.metadata = index.metadata(self.ids) if len(self.ids) else []
        self.marks = {
            key_of(id_): _mark(embedding, facts)
            for id_, embedding, facts in zip(
                self.ids.tolist(), self.embeddings.numpy(), self.metadata, strict=True
            )
        }

    def column(self, name: str) -> list[Any]:
        """What each item's metadata has under a name; None without."""
        return [facts.get(name) for facts in self.metadata]


class Marks:
    """What each item was when it was put into another gallery, in a file that lasts.

    An id alone does not tell: another item may have been put under it since.

    Args:
        path: The file.
        staged: The other gallery. Marks of a gallery that was there before are forgotten.
    """

    def __init__(self, path: Path, staged: Gallery) -> None:
        self.path = path
        head = staged.key.encode()
        content = path.read_bytes() if path.exists() else b""
        rows = content.removeprefix(head) if content.startswith(head) else b""
        rows = rows[: len(rows) // 16 * 16]  # a kill may have cut off the last
        self._of = dict(np.frombuffer(rows, dtype="<i8").reshape(-1, 2).tolist())
        write_whole(path, head + rows)

    def put(self, marks: dict[int, int]) -> None:
        """Keep these; called before the items are put, so that no item is there without."""
        with self.path.open("ab") as file:
            file.write(np.array([*marks.items()], dtype="<i8").tobytes())
        self._of |= marks

    def has(self, known: Known, key: int) -> bool:
        """Whether an item is still what it was when it was put."""
        return key in self._of and self._of[key] == known.marks.get(key)


def key_of(id_: Any) -> int:
    """A number that stands for an id."""
    return _number(repr(id_).encode())


def _mark(embedding: np.ndarray[Any, Any], facts: dict[str, Any]) -> int:
    return _number(json.dumps(facts, sort_keys=True).encode() + embedding.tobytes())


def _number(content: bytes) -> int:
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def rows_in(
    known: Known, source: Any, prints: Tensor, *, loosely: bool
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Which item of a source each known one is, and which are not there.

    An item is known again by its id where the source has ids, else by its fingerprint.

    Args:
        known: The known items.
        source: A dataset.
        prints: Fingerprints of its items.
        loosely: Whether these may have been read otherwise than the known ones were: an item is
            then known again by its file or its text too.

    Returns:
        For each known item the row of the source, -1 where there is none; and the known items
        without one.
    """
    keys: list[tuple[Sequence[Any], Sequence[Any]]] = []
    if (own := ids_of(source)) is not None:
        keys.append(([str(each) for each in known.ids.tolist()], [str(each) for each in own]))
    else:
        keys.append((known.column("fingerprint"), prints.tolist()))
    if own is None and loosely:
        keys.append((known.column("path"), paths_of(source)))
        if sources.is_text(source):
            keys.append((known.column("text"), list(sources.items(source))))
    rows = np.full(len(known.ids), -1)
    for wanted, there in keys:
        at = {key: row for row, key in enumerate(there)}
        found = np.array([at.get(key, -1) for key in wanted], dtype=np.int64)
        rows = np.where(rows < 0, found, rows)
    return rows, np.flatnonzero(rows < 0)


def kept_source(model: SimilarityModel, known: Known) -> Any:
    """The known items themselves, where their texts or their files are told by their metadata.

    Raises:
        InputError: They are not, for at least one.
    """
    name = "text" if takes_texts(model.encoder) else "path"
    told = known.column(name)
    lost = sum(not isinstance(each, str) for each in told)
    if name == "path":
        lost += sum(isinstance(each, str) and not Path(each).is_file() for each in told)
    if lost or not told:
        what = "text" if name == "text" else "file"
        raise InputError(
            f"must be given, or the {what} of each known item be there, got {lost:,} of "
            f"{len(told):,} without.",
            argument="items",
            remedy="Give the items, or a sample of others to fit a map on, with mapped_on.",
            command="Give --items DATA, or a sample of others to fit a map on, with --map DATA.",
        )
    return told


def follow(
    known: Known,
    staged: Gallery,
    marks: Marks,
    encode: Encode,
    progress: Progress | None = None,
) -> bool:
    """Make a gallery hold the same items as another, each under its id; whether any was missing.

    What is there already stays, so that an interrupted call goes on where it was.

    Args:
        known: The items that it shall hold.
        staged: The gallery; nobody else may write it.
        marks: What the items were that it holds.
        encode: Gives the embeddings of items that it lacks.
        progress: Called as progress(done, total) while encoding.
    """
    if not len(staged):
        staged.name_classes(known.class_names)
    there = staged.ids.tolist() if len(staged) else []
    wanted = known.ids.tolist()
    # An item that was put anew stands behind all others, so those that stay are the first.
    place = {id_: row for row, id_ in enumerate(there)}
    same, last = 0, -1
    for id_ in wanted:
        row = place.get(id_, -1)
        if row <= last or not marks.has(known, key_of(id_)):
            break
        same, last = same + 1, row
    stays = wanted[:same]
    kept = set(stays)
    gone = [id_ for id_ in there if id_ not in kept]
    if gone:
        staged.remove(gone)
    _relabel(known, staged, stays)
    total = len(wanted)
    for start in range(same, total, CHUNK):
        rows = np.arange(start, min(start + CHUNK, total))
        embeddings, prints = encode(rows)
        keys = [key_of(id_) for id_ in wanted[start : start + CHUNK]]
        marks.put({key: known.marks[key] for key in keys})
        staged.add(
            embeddings,
            labels=_codes(known, staged, rows),
            ids=known.ids[rows],
            metadata=[_facts(known.metadata[row], prints, at) for at, row in enumerate(rows)],
            payloads=known.index.payloads(known.ids[rows]),
        )
        if progress is not None:
            progress(int(rows[-1]) + 1, total)
    return bool(gone) or same < total


def is_followed(known: Known, staged: Gallery, marks: Marks) -> bool:
    """Whether a gallery holds the same items with the same labels, in the same order."""
    if len(staged) != len(known.ids):
        return False
    if not len(staged):
        return True
    names = [_names(known.class_names, known.labels), _names(staged.class_names, staged.labels)]
    if staged.ids.tolist() != known.ids.tolist() or names[0] != names[1]:
        return False
    return all(marks.has(known, key) for key in known.marks)


def by_model(
    model: SimilarityModel,
    items: Any,
    rows: np.ndarray[Any, Any],
    check: Callable[[np.ndarray[Any, Any]], None] | None = None,
) -> Encode:
    """Encodes known items anew.

    Args:
        model: Encodes.
        items: A dataset, or a list of files or texts.
        rows: Which of these each known item is.
        check: Refuses rows that are not what was indexed.
    """

    def encode(some: np.ndarray[Any, Any]) -> tuple[Tensor, list[int]]:
        if check is not None:
            check(some)
        chosen = rows[some].tolist()
        is_list = isinstance(items, list)
        part = [items[row] for row in chosen] if is_list else sources.Subset(items, chosen)
        made: Embedded = model.embedded(part)
        return made.embeddings, made.fingerprints.tolist()

    return encode


def as_known(
    known: Known, told: list[str], reads: Callable[[list[str]], Any] | None
) -> Callable[[np.ndarray[Any, Any]], None]:
    """Refuses files or texts that are not what was indexed, by their fingerprints.

    Args:
        known: The known items.
        told: The file, or the text, of each.
        reads: Makes a dataset of some as the model before read them; None if that is not known.
    """
    wanted = known.column("fingerprint")

    def check(rows: np.ndarray[Any, Any]) -> None:
        if reads is None:
            return
        some = [told[row] for row in rows.tolist()]
        found = sources.fingerprints(reads(some)).tolist()
        for row, text, print_ in zip(rows.tolist(), some, found, strict=True):
            if wanted[row] not in (None, print_):
                raise InputError(
                    f"known items must be as they were indexed, got {text[:80]!r} changed.",
                    remedy="Index the data again, or give the items.",
                    command="Index the data again, or give --items DATA.",
                )

    return check


def by_map(known: Known, mapped: Callable[[Tensor], Tensor], *, keeps_prints: bool) -> Encode:
    """Maps the embeddings of known items."""
    embeddings = known.embeddings
    prints = known.column("fingerprint")

    def encode(some: np.ndarray[Any, Any]) -> tuple[Tensor, list[int] | None]:
        kept = [prints[row] for row in some.tolist()]
        return mapped(embeddings[torch.from_numpy(some)]), kept if keeps_prints else None

    return encode


def _relabel(known: Known, staged: Gallery, stays: list[Any]) -> None:
    if not stays:
        return
    now = _names(staged.class_names, staged.labels[: len(stays)])
    wanted = _names(known.class_names, known.labels[: len(stays)])
    other = [row for row, (a, b) in enumerate(zip(now, wanted, strict=True)) if a != b]
    if other:
        staged.relabel([stays[row] for row in other], _codes(known, staged, np.array(other)))


def _codes(known: Known, staged: Gallery, rows: np.ndarray[Any, Any]) -> Any:
    """The labels of known items as the other gallery takes them: names, or codes without names."""
    labels = known.labels[torch.from_numpy(rows)]
    if not known.class_names:
        return labels
    named = _names(known.class_names, labels)
    return named if any(name is not None for name in named) else None


def _names(class_names: Sequence[str], labels: Tensor) -> list[Any]:
    names = dict(enumerate(class_names))
    return [None if code < 0 else names.get(code, code) for code in labels.tolist()]


def _facts(facts: dict[str, Any], prints: list[int] | None, at: int) -> dict[str, Any]:
    plain = {name: value for name, value in facts.items() if name != "fingerprint"}
    if prints is None or prints[at] is None:
        return plain
    return {**plain, "fingerprint": prints[at]}
