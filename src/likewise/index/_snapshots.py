"""Items in memory, for every store: arrays that only grow, and snapshots that never change."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import Distance
from likewise.index._durable.checksums import Integers
from likewise.index._durable.facts import Facts
from likewise.index._rows import Rows
from likewise.index._searching.approximate import Search
from likewise.index._searching.storage import dimension, row_format, unpack

Run = tuple[Integers, Integers]  # keys, ascending, and their positions
NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Items on their way into memory, one per row."""

    positions: Integers
    keys: Integers
    texts: list[bytes] | None  # the ids, where they are strings
    labels: Integers
    embeddings: npt.NDArray[Any]  # packed, see `_searching/storage`
    checksums: Integers  # of rows in a folder; empty for others
    metadata: list[str] | None = None  # as JSON, where memory keeps it


class Arrays(NamedTuple):
    """What of a snapshot cannot be told from anything else of it."""

    positions: Integers
    keys: Integers
    labels: Integers
    packed: npt.NDArray[Any]
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
        dimension=dimension(torch.from_numpy(added.embeddings)),
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
    ends: Integers  # (n,) where each string id ends in `text`; empty for integer ids
    text: npt.NDArray[np.uint8]  # all string ids, one behind the other
    runs: tuple[Run, ...]
    search: Search
    metadata: list[str]  # as JSON, perhaps of later items too; empty where a folder keeps it

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
        return Arrays(self.positions, self.keys, labels, packed, self.ends, self.text)

    @cached_property
    def ids(self) -> npt.NDArray[Any]:
        """Ids, int64 or strings, (n,). Shared memory, which cannot be written to."""
        strings = self.facts.kind == "strings"
        ids = self._decoded(np.arange(len(self))) if strings else self.keys.view()
        ids.flags.writeable = False
        return ids

    def __len__(self) -> int:
        return len(self.positions)

    def rows_of(self, keys: Integers) -> Integers:
        """The row of each key, -1 where there is none."""
        positions = np.full(len(keys), -1, dtype=np.int64)
        for known, at in self.runs:  # a key that came again lies in a later run, too
            places = known.searchsorted(keys)
            places[places == len(known)] = 0
            hit = known[places] == keys
            if hit.any():
                positions[hit] = at[places[hit]]
        return self.rows_at(positions)

    def rows_at(self, positions: Integers) -> Integers:
        """The row of each position, -1 where nothing is."""
        if not len(self):
            return np.full(len(positions), -1, dtype=np.int64)
        rows = np.searchsorted(self.positions, positions).clip(max=len(self) - 1)
        return np.where(self.positions[rows] == positions, rows, -1)

    def ids_at(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Ids of the rows, in the shape of `rows`; padding where a row is -1."""
        if self.facts.kind != "strings":
            return np.where(rows < 0, -1, self.keys[rows] if len(self) else -1)
        if rows.size < len(self) and "ids" not in self.__dict__:
            return self._decoded(rows)
        # Where many are asked for, all are made, once.
        return np.where(rows < 0, "", self.ids[rows] if len(self) else "")

    def _decoded(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not len(self):
            return np.full(rows.shape, "", dtype=np.str_)
        ends = np.where(rows < 0, 0, self.ends[rows])
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        text = self.text.data
        ids = [
            str(text[start:end], "utf-8") for start, end in zip(starts.flat, ends.flat, strict=True)
        ]
        return np.array(ids, dtype=np.str_).reshape(rows.shape)


class Columns:
    """The arrays behind the snapshots of one store. One thread at a time may change them.

    Args:
        facts: say for how many items there is room, more are taken in as well, and how
            embeddings are kept.
        search: of the items.
        arrays: the items, if they are there already; kept, not copied.
        metadata: of these.
    """

    def __init__(
        self,
        facts: Facts,
        search: Search,
        arrays: Arrays | None = None,
        metadata: Sequence[str] = (),
    ) -> None:
        integers = torch.empty(0, dtype=torch.int64)
        room = facts.items if arrays is None else 0
        dtype, width = row_format(facts.storage, facts.dimension)
        vectors = torch.from_numpy(np.empty((0, width), dtype=dtype))
        self._positions = Rows(integers, room=room)
        self._keys = Rows(integers, room=room)
        self._labels = Rows(integers, room=room)
        self._embeddings = Rows(vectors, room=room)
        self._ends = Rows(integers)
        self._text = Rows(torch.empty(0, dtype=torch.uint8))
        self._metadata = list(metadata)
        self._runs: tuple[Run, ...] = ()
        self._is_sorted = 0  # so many of the keys are in the runs
        self._search = search
        if arrays is not None:
            held = [Rows(torch.from_numpy(array)) for array in arrays]
            self._positions, self._keys, self._labels = held[:3]
            self._embeddings, self._ends, self._text = held[3:]

    def snapshot(self, facts: Facts, class_names: Sequence[str]) -> Snapshot:
        """Everything there is, under these facts."""
        keys, positions = self._keys.view.numpy(), self._positions.view.numpy()
        if self._is_sorted < len(keys):
            new = (keys[self._is_sorted :], positions[self._is_sorted :])
            self._runs = _with_run(self._runs, new)
            self._is_sorted = len(keys)
        return Snapshot(
            facts,
            tuple(class_names),
            positions,
            keys,
            self._labels.view,
            self._embeddings.view,
            self._ends.view.numpy(),
            self._text.view.numpy(),
            self._runs,
            self._search,
            self._metadata,
        )

    def append(self, chunk: Chunk) -> None:
        """Put items behind those there are."""
        self._positions.append(torch.from_numpy(chunk.positions))
        self._keys.append(torch.from_numpy(chunk.keys))
        self._labels.append(torch.from_numpy(chunk.labels))
        self._embeddings.append(torch.from_numpy(chunk.embeddings))
        if chunk.metadata is not None:
            self._metadata += chunk.metadata  # behind what snapshots see of it
        if chunk.texts:
            lengths = np.fromiter(map(len, chunk.texts), dtype=np.int64)
            last = int(self._ends.view[-1]) if len(self._ends) else 0
            self._ends.append(torch.from_numpy(last + lengths.cumsum()))
            joined = bytearray().join(chunk.texts)
            self._text.append(torch.frombuffer(joined, dtype=torch.uint8))

    def remove(self, rows: Integers) -> None:
        """Leave out some rows. Snapshots taken before keep them."""
        keep = torch.ones(len(self._keys), dtype=torch.bool)
        keep[torch.from_numpy(rows)] = False
        if len(self._ends):
            ends = self._ends.view
            lengths = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
            self._text.keep(keep.repeat_interleave(lengths))
            self._ends = Rows(lengths[keep].cumsum(0))
        for column in (self._positions, self._keys, self._labels, self._embeddings):
            column.keep(keep)
        if self._metadata:
            self._metadata = list(compress(self._metadata, keep.tolist()))
        self._is_sorted = len(self._keys)
        self._search = self._search.kept(keep)
        if sum(len(keys) for keys, _ in self._runs) > 2 * len(self._keys):
            self._runs, self._is_sorted = (), 0

    def relabel(self, rows: Integers, labels: Integers) -> None:
        """Give some rows other labels. Snapshots taken before keep theirs."""
        changed = self._labels.view.clone()
        changed[torch.from_numpy(rows)] = torch.from_numpy(labels)
        self._labels = Rows(changed)


class Held:
    """The newest snapshot of a store's items, and the only place where it is replaced.

    Readers take `current`, which is put in place whole, and wait for nobody. A thread that writes
    holds `lock` from looking at `current` until `take_in` has returned.

    Args:
        facts: of the store.
        class_names: of its labels.
        distance: what near means.
        recall: see `Search`.
    """

    def __init__(
        self,
        facts: Facts,
        class_names: Sequence[str],
        distance: Distance,
        *,
        recall: float | None,
    ) -> None:
        self.lock = threading.RLock()
        self._distance, self._recall = distance, recall
        self._columns: Columns
        self.current: Snapshot
        self.restart(facts, class_names)

    def restart(
        self,
        facts: Facts,
        class_names: Sequence[str],
        chunks: Iterable[Chunk] = (),
        arrays: Arrays | None = None,
        metadata: Sequence[str] = (),
    ) -> None:
        """Hold these items in place of all there were.

        Args:
            facts: of the store.
            class_names: of its labels.
            chunks: the items; they may be read while this goes on.
            arrays: or the items as arrays, which are kept, not copied.
            metadata: of these.
        """
        search = Search(self._distance, recall=self._recall)
        columns = Columns(facts, search, arrays, metadata)
        for chunk in chunks:
            columns.append(chunk)
        current = columns.snapshot(facts, class_names)
        self._columns, self.current = columns, current

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
            facts: of the store after it.
            class_names: after it.
            removed: rows of the current snapshot.
            changed: rows of the current snapshot that get other labels.
            labels: these.
            added: items behind all others.
        """
        before = self.current
        try:
            if facts.dimension != before.facts.dimension:
                search = Search(self._distance, recall=self._recall)
                self._columns = Columns(facts, search)
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
                before.facts, before.class_names, (), before.arrays, before.metadata[:count]
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
    if (keys[1:] > keys[:-1]).all():  # as ids that are handed out are; nothing to copy
        return (*runs, (keys, positions))
    order = np.argsort(keys, kind="stable")
    keys, positions = keys[order], positions[order]
    last = np.append(keys[1:] != keys[:-1], True)  # of equal keys, the one that came last
    return (*runs, (keys, positions) if last.all() else (keys[last], positions[last]))
