"""Items in memory, for every store: arrays that only grow, and snapshots that never change."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from msgspec.structs import replace
from torch import Tensor

from likewise.distances import Distance
from likewise.index._answers import Items
from likewise.index._durable.checksums import Integers
from likewise.index._durable.contract import Facts
from likewise.index._given import (
    UNLABELED,
    check_apart,
    check_enough,
    check_same_text,
    lasting_keys,
    utf8,
    whole_prints,
)
from likewise.index._growing import GrowingArray
from likewise.index._searching.approximate import Search
from likewise.index._searching.storage import dimension, row_format, unpack
from likewise.index._store import NONE, Added, Found, Given

Run = tuple[Integers, Integers]  # keys, ascending, and their positions
TAIL = 256  # keys that need not be in a run yet
FEW = 64  # ids that are as fast one by one
BLOCK = 2**16  # ids that are decoded together


class Texts(NamedTuple):
    """Strings as UTF-8."""

    lengths: Integers  # in bytes
    joined: bytes


class Chunk(NamedTuple):
    """Items on their way into memory, one per row."""

    positions: Integers
    keys: Integers
    texts: Texts | None  # the ids, where they are strings
    labels: Integers
    embeddings: npt.NDArray[Any]  # packed, see `_searching/storage`
    prints: Integers  # see `Added`
    checksums: Integers = NONE  # of rows in a folder
    metadata: Sequence[str] = ()  # as JSON, where memory keeps it
    payloads: Sequence[bytes | None] = ()  # likewise


def chunk_of(
    first: int,
    added: Added,
    metadata: Sequence[str] = (),
    payloads: Sequence[bytes | None] = (),
) -> Chunk:
    """New items, at positions from `first` on; with metadata and payloads where memory keeps them.

    Raises:
        InputError: ids that UTF-8 cannot hold or that could not be told apart.
    """
    (ids, keys), texts = added.given, None
    if added.given.are_text:
        texts = _texts(ids)
        check_apart(keys)
    positions = np.arange(first, first + len(ids), dtype=np.int64)
    packed = added.packed.numpy()
    return Chunk(
        positions, keys, texts, added.labels, packed, added.prints, NONE, metadata, payloads
    )


class Arrays(NamedTuple):
    """What of a snapshot cannot be told from anything else of it."""

    positions: Integers
    keys: Integers
    labels: Integers
    packed: npt.NDArray[Any]
    prints: Integers
    ends: Integers
    text: npt.NDArray[np.uint8]


def facts_after(facts: Facts, *, added: Chunk | None, removed: int) -> Facts:
    """Facts of a store after one batch more."""
    if added is None:
        return replace(facts, items=facts.items - removed, batches=facts.batches + 1)
    is_text = added.texts is not None
    return replace(
        facts,
        kind="strings" if is_text else "integers",
        next_id=facts.next_id if is_text else max(facts.next_id, int(added.keys.max()) + 1),
        dimension=facts.dimension or dimension(torch.from_numpy(added.embeddings)),
        next_position=facts.next_position + len(added.positions),
        items=facts.items - removed + len(added.positions),
        batches=facts.batches + 1,
    )


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All items as of one batch; whoever holds it sees that batch, whatever is written since.

    Row i of every array is one item, in order of insertion. Any number of threads may read and
    search it.
    """

    facts: Facts
    class_names: tuple[str, ...]
    positions: Integers  # (n,) ascending, and never given to another item
    keys: Integers  # (n,) integer ids, or hashes of string ids; see `keys_for`
    labels: Int[Tensor, " n"]
    packed: Tensor  # embeddings as they are kept, see `_searching/storage`
    prints: Integers  # see `Added`
    ends: Integers  # (n,) where each string id ends in `text`; empty for integer ids
    text: npt.NDArray[np.uint8]  # all string ids, one behind the other
    runs: tuple[Run, ...]
    run_count: int  # of the keys are in `runs`; those behind them are few
    searching: Search
    metadata: list[str]  # as JSON, perhaps of later items too; empty where a folder keeps it
    payloads: list[bytes | None]  # likewise; empty where no item has one

    @property
    def is_in_memory(self) -> bool:
        """Whether the items are nowhere else."""
        return not self.facts.key

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings, float32."""
        return unpack(self.packed)

    @property
    def arrays(self) -> Arrays:
        """To make the same snapshot of again."""
        labels, packed = self.labels.numpy(), self.packed.numpy()
        return Arrays(self.positions, self.keys, labels, packed, self.prints, self.ends, self.text)

    @property
    def fingerprints(self) -> Integers:
        """The fingerprint of each item, and 1 where it has one, (n, 2)."""
        return whole_prints(self.prints, len(self))

    @property
    def search(self) -> tuple[str, float | None]:
        """How lookups search, and the recall measured where that is not exact."""
        return self.searching.kind, self.searching.measured_recall

    @cached_property
    def ids(self) -> npt.NDArray[Any]:
        """Ids, int64 or strings, (n,). Shared memory, which cannot be written to."""
        strings = self.facts.kind == "strings"
        ids = self._decoded(np.arange(len(self))) if strings else self.keys.view()
        ids.flags.writeable = False
        return ids

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self) -> Integers:
        """The row numbers of all items."""
        return np.arange(len(self))

    def has_labels(self) -> bool:
        """Whether any item has one."""
        return bool((self.labels >= 0).any())

    def keys_for(self, ids: Sequence[Any]) -> Integers:
        """Ids as numbers of 64 bits, by which they are found."""
        if self.is_in_memory and ids and isinstance(ids[0], str):
            # Python's own hashes are much faster, and die with the process.
            return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        return lasting_keys(ids)

    def rows_of(self, given: Given) -> Integers:
        """The row of each id, -1 where it is not stored."""
        ids = given.ids
        if not ids or not len(self) or given.are_text != (self.facts.kind == "strings"):
            return np.full(len(ids), -1, dtype=np.int64)
        rows = self._rows_of_keys(given.keys)
        if given.are_text and (rows >= 0).any():
            at = np.flatnonzero(rows >= 0)
            check_same_text([ids[place] for place in at.tolist()], self.ids_at(rows[at]).tolist())
        return rows

    def items(self, rows: Integers, metadata: list[dict[str, Any]]) -> Items:
        """What is in these rows, with this metadata."""
        return Items(self.ids_at(rows), unpack(self.packed[rows]), self.labels[rows], metadata)

    def nearest(
        self, queries: Float[Tensor, "q d"], k: int, allowed: Bool[Tensor, " n"] | None
    ) -> Found:
        """The k nearest items of each query; padded where fewer are allowed."""
        check_enough(k, len(self))
        distances, rows = self.searching.nearest(queries, self.packed, k, allowed)
        labels = self.labels[rows]
        if allowed is not None:
            labels[rows < 0] = UNLABELED
        return self.ids_at(rows.numpy()), distances, labels

    def train(self) -> None:
        """Train the approximate search, if the items ask for it, and return when it is done."""
        self.searching.ready(self.packed)

    def _rows_of_keys(self, keys: Integers) -> Integers:
        positions = np.full(len(keys), -1, dtype=np.int64)
        for known, at in self._all_runs:  # a key that came again lies in a later run, too
            places = known.searchsorted(keys)
            places[places == len(known)] = 0
            hit = known[places] == keys
            if hit.any():
                positions[hit] = at[places[hit]]
        return self.rows_at(positions) if (positions >= 0).any() else positions

    def rows_at(self, positions: Integers) -> Integers:
        """The row of each position, -1 where nothing is."""
        if not len(self):
            return np.full(len(positions), -1, dtype=np.int64)
        rows = self.positions.searchsorted(positions)
        rows[rows == len(self)] = 0
        return np.where(self.positions[rows] == positions, rows, -1)

    def ids_at(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Ids of the rows, in the shape of `rows`; padding where a row is -1."""
        if self.facts.kind != "strings":
            return np.where(rows < 0, -1, self.keys[rows] if len(self) else -1)
        if not len(self):
            return np.full(rows.shape, "", dtype=np.str_)
        if "ids" not in self.__dict__:
            # Once as many were asked for as there are, all are made.
            asked = self.__dict__["_asked"] = self.__dict__.get("_asked", 0) + rows.size
            if asked < len(self):
                return self._decoded(rows)
        ids: npt.NDArray[Any] = self.ids[rows]
        if (rows < 0).any():
            ids[rows < 0] = ""
        return ids

    @cached_property
    def _all_runs(self) -> tuple[Run, ...]:
        if self.run_count == len(self):
            return self.runs
        return (*self.runs, _run(self.keys[self.run_count :], self.positions[self.run_count :]))

    def _decoded(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not rows.size:
            return np.empty(rows.shape, dtype=np.str_)
        ends = np.where(rows < 0, 0, self.ends[rows]).ravel()
        starts = np.where(rows > 0, self.ends[rows - 1], 0).ravel()
        ids = None if len(starts) < FEW else _ascii(self.text, starts, ends)
        if ids is None:
            text, pairs = self.text.data, zip(starts.tolist(), ends.tolist(), strict=True)
            ids = np.array([str(text[start:end], "utf-8") for start, end in pairs], dtype=np.str_)
        return ids.reshape(rows.shape)


class Columns:
    """The arrays behind the snapshots of one store. One thread at a time may change them.

    Args:
        facts: say for how many items there is room, more are taken in as well, and how
            embeddings are kept.
        search: What searches the items.
        room: Number of items that fit, at least; see `reserve`.
        arrays: the items, if they are there already; kept, not copied.
        metadata: Metadata of them, where memory keeps it.
        payloads: likewise.
    """

    def __init__(
        self,
        facts: Facts,
        search: Search,
        room: int = 0,
        arrays: Arrays | None = None,
        metadata: Sequence[str] = (),
        payloads: Sequence[bytes | None] = (),
    ) -> None:
        dtype, width = row_format(facts.storage, facts.dimension)
        self._positions = GrowingArray(NONE)
        self._keys = GrowingArray(NONE)
        self._labels = GrowingArray(NONE)
        self._embeddings = GrowingArray(np.empty((0, width), dtype=dtype))
        self._prints = GrowingArray(np.empty((0, 2), dtype=np.int64))
        self._ends = GrowingArray(NONE)
        self._text = GrowingArray(np.empty(0, dtype=np.uint8))
        self._metadata = list(metadata)
        self._payloads = list(payloads)
        self._runs: tuple[Run, ...] = ()
        self._run_count = 0  # of the keys are in the runs
        self._search = search
        if arrays is not None:
            held = [GrowingArray(array) for array in arrays]
            self._positions, self._keys, self._labels, self._embeddings = held[:4]
            self._prints, self._ends, self._text = held[4:]
        self.reserve(max(room, facts.items))

    def reserve(self, room: int) -> None:
        """Make room for `room` items in all, so that none is copied to make some."""
        for column in (self._positions, self._keys, self._labels, self._embeddings):
            column.reserve(room)

    def snapshot(self, facts: Facts, class_names: Sequence[str]) -> Snapshot:
        """Everything there is, under these facts."""
        keys, positions = self._keys.view, self._positions.view
        if len(keys) - self._run_count > TAIL:
            new = (keys[self._run_count :], positions[self._run_count :])
            self._runs = _with_run(self._runs, new)
            self._run_count = len(keys)
        return Snapshot(
            facts,
            tuple(class_names),
            positions,
            keys,
            torch.from_numpy(self._labels.view),
            torch.from_numpy(self._embeddings.view),
            self._prints.view,
            self._ends.view,
            self._text.view,
            self._runs,
            self._run_count,
            self._search,
            self._metadata,
            self._payloads,
        )

    def append(self, chunk: Chunk) -> None:
        """Put items behind those there are."""
        if len(self._prints) or chunk.prints.any():  # they take room only once an item has one
            if not len(self._prints):
                self._prints.append(np.zeros((len(self._positions), 2), dtype=np.int64))
            self._prints.append(whole_prints(chunk.prints, len(chunk.positions)))
        if self._payloads or chunk.payloads.count(None) < len(chunk.payloads):  # likewise
            self._payloads += [None] * (len(self._positions) - len(self._payloads))
            self._payloads += chunk.payloads
        self._positions.append(chunk.positions)
        self._keys.append(chunk.keys)
        self._labels.append(chunk.labels)
        self._embeddings.append(chunk.embeddings)
        self._metadata += chunk.metadata  # behind what snapshots see of it
        if chunk.texts is not None:
            self._ends.append(len(self._text) + chunk.texts.lengths.cumsum())
            self._text.append(np.frombuffer(chunk.texts.joined, dtype=np.uint8))

    def remove(self, rows: Integers) -> None:
        """Leave out some rows. Snapshots taken before keep them."""
        keep = np.ones(len(self._keys), dtype=np.bool_)
        keep[rows] = False
        if len(self._ends):
            lengths = np.diff(self._ends.view, prepend=0)
            self._text.keep(keep.repeat(lengths))
            self._ends = GrowingArray(lengths[keep].cumsum())
        for column in (self._positions, self._keys, self._labels, self._embeddings):
            column.keep(keep)
        if len(self._prints):
            self._prints.keep(keep)
        if self._metadata:
            self._metadata = list(compress(self._metadata, keep.tolist()))
        if self._payloads:
            self._payloads = list(compress(self._payloads, keep.tolist()))
        self._run_count = int(keep[: self._run_count].sum())
        self._search = self._search.kept(torch.from_numpy(keep))
        if sum(len(keys) for keys, _ in self._runs) > 2 * len(self._keys):
            self._runs, self._run_count = (), 0

    def relabel(self, rows: Integers, labels: Integers) -> None:
        """Give some rows other labels. Snapshots taken before keep theirs."""
        changed = self._labels.view.copy()
        changed[rows] = labels
        self._labels = GrowingArray(changed)


class Held:
    """The newest snapshot of a store's items, and the only place where it is replaced.

    Readers take `current`, which is put in place whole, and wait for nobody. `with held as now` is
    for a thread that writes, and lasts until `take_in` has returned.

    Args:
        facts: Facts of the store.
        class_names: Names of its labels.
        distance: what near means.
        recall: see `Search`.
        approximate: likewise.
    """

    def __init__(
        self,
        facts: Facts,
        class_names: Sequence[str],
        distance: Distance,
        *,
        recall: float | None,
        approximate: str,
    ) -> None:
        self.lock = threading.RLock()
        self._distance, self._recall, self._approximate = distance, recall, approximate
        self._room = 0
        self._columns: Columns
        self.current: Snapshot
        self.restart(facts, class_names)

    def __enter__(self) -> Snapshot:
        self.lock.acquire()
        return self.current

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def reserve(self, room: int) -> None:
        """Make room for `room` items in all, also once their dimension is known."""
        with self.lock:
            self._columns.reserve(room)
            self._room = room

    def restart(
        self,
        facts: Facts,
        class_names: Sequence[str],
        chunks: Iterable[Chunk] = (),
        arrays: Arrays | None = None,
        metadata: Sequence[str] = (),
        payloads: Sequence[bytes | None] = (),
    ) -> None:
        """Hold these items in place of all there were.

        Args:
            facts: Facts of the store.
            class_names: Names of its labels.
            chunks: the items; they may be read while this goes on.
            arrays: or the items as arrays, which are kept, not copied.
            metadata: Metadata of them, where memory keeps it.
            payloads: likewise.
        """
        search = self._search()
        columns = Columns(facts, search, self._room, arrays, metadata, payloads)
        for chunk in chunks:
            columns.append(chunk)
        current = columns.snapshot(facts, class_names)
        self._columns, self.current = columns, current

    def _search(self) -> Search:
        return Search(self._distance, recall=self._recall, approximate=self._approximate)

    def take_in(
        self,
        facts: Facts,
        class_names: Sequence[str],
        *,
        removed: Integers = NONE,
        changed: Integers = NONE,
        labels: Integers = NONE,
        added: Sequence[Chunk] = (),
    ) -> None:
        """Put one batch in place: all of it, or on failure nothing.

        Args:
            facts: Facts of the store after it.
            class_names: after it.
            removed: rows of the current snapshot.
            changed: rows of the current snapshot that get other labels.
            labels: these.
            added: items behind all others.
        """
        before = self.current
        try:
            if facts.dimension != before.facts.dimension:
                search = self._search()
                self._columns = Columns(facts, search, self._room)
            if len(changed):
                self._columns.relabel(changed, labels)
            if len(removed):
                self._columns.remove(removed)
            for chunk in added:
                self._columns.append(chunk)
            self.current = self._columns.snapshot(facts, class_names)
        except BaseException:  # also an interruption, in the midst of it
            count = len(before)
            self.restart(
                before.facts,
                before.class_names,
                arrays=before.arrays,
                metadata=before.metadata[:count],
                payloads=before.payloads[:count],
            )
            raise


def _with_run(runs: tuple[Run, ...], new: Run) -> tuple[Run, ...]:
    # Each run is more than eight times as long as the next, so there are few, and every key is
    # moved a few times only.
    keys, positions = new
    while runs and len(runs[-1][0]) <= 8 * len(keys):
        keys = np.concatenate([runs[-1][0], keys])
        positions = np.concatenate([runs[-1][1], positions])
        runs = runs[:-1]
    return (*runs, _run(keys, positions))


def _run(keys: Integers, positions: Integers) -> Run:
    if (keys[1:] > keys[:-1]).all():  # as ids that are handed out are; nothing to copy
        return keys, positions
    order = keys.argsort()
    if (keys[order[1:]] > keys[order[:-1]]).all():
        return keys[order], positions[order]
    order = keys.argsort(kind="stable")  # takes three times as long
    keys, positions = keys[order], positions[order]
    last = np.append(keys[1:] != keys[:-1], True)  # of equal keys, the one that came last
    return keys[last], positions[last]


def _ascii(
    text: npt.NDArray[np.uint8], starts: Integers, ends: Integers
) -> npt.NDArray[np.str_] | None:
    """The pieces of `text` as strings; None where one has other letters than those of ASCII."""
    lengths = ends - starts
    width = max(1, int(lengths.max()))
    letters = np.zeros((len(starts), width), dtype=np.uint32)  # as NumPy keeps a string
    for first in range(0, len(starts), BLOCK):
        block = slice(first, first + BLOCK)
        some = lengths[block]
        before = starts[block] - (some.cumsum() - some)
        found = text[before.repeat(some) + np.arange(some.sum())]
        if (found > 127).any():
            return None
        letters[block][np.arange(width) < some[:, None]] = found
    return letters.view(f"U{width}")


def _texts(ids: Sequence[Any]) -> Texts:
    joined = "".join(ids)
    if joined.isascii():  # each letter is one byte
        return Texts(np.fromiter(map(len, ids), np.int64, len(ids)), joined.encode())
    parts = [utf8(id_) for id_ in ids]
    return Texts(np.fromiter(map(len, parts), np.int64, len(ids)), b"".join(parts))
