"""What a gallery holds in memory: arrays that only grow, and views of them that never change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import by_name
from likewise.index._durable.checksums import Integers
from likewise.index._durable.facts import Facts
from likewise.index._durable.store import Chunk, row_format
from likewise.index._rows import Rows
from likewise.index._searching.approximate import Search
from likewise.index._searching.storage import unpack

Run = tuple[Integers, Integers]  # keys, ascending, and their positions


class Arrays(NamedTuple):
    """What of a snapshot cannot be told from anything else of it."""

    positions: Integers
    keys: Integers
    labels: Integers
    packed: npt.NDArray[Any]
    ends: Integers
    text: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All items as of one batch; whoever holds it sees that batch, whatever is written since.

    Row i of every array is one item, in order of insertion.
    """

    facts: Facts
    class_names: tuple[str, ...]
    positions: Integers  # (n,) in the file; ascending, and never given to another item
    keys: Integers  # (n,) integer ids, or hashes of string ids
    labels: Int[Tensor, " n"]
    packed: Tensor  # embeddings as they are kept, see `_storage`
    ends: Integers  # (n,) where each string id ends in `text`; empty for integer ids
    text: npt.NDArray[np.uint8]  # all string ids, one behind the other
    runs: tuple[Run, ...]
    search: Search

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings, float32."""
        return unpack(self.packed)

    @property
    def arrays(self) -> Arrays:
        """To make the same snapshot of again."""
        labels, packed = self.labels.numpy(), self.packed.numpy()
        return Arrays(self.positions, self.keys, labels, packed, self.ends, self.text)

    def __len__(self) -> int:
        return len(self.positions)

    def rows_of(self, keys: Integers) -> Integers:
        """The row of each key, -1 where there is none."""
        positions = np.full(len(keys), -1, dtype=np.int64)
        for known, at in reversed(self.runs):  # a key that came again lies in a later run
            left = np.flatnonzero(positions < 0)
            places = np.searchsorted(known, keys[left]).clip(max=len(known) - 1)
            hit = known[places] == keys[left]
            positions[left[hit]] = at[places[hit]]
        return self.rows_at(positions)

    def rows_at(self, positions: Integers) -> Integers:
        """The row of each position in the file, -1 where nothing is."""
        if not len(self):
            return np.full(len(positions), -1, dtype=np.int64)
        rows = np.searchsorted(self.positions, positions).clip(max=len(self) - 1)
        return np.where(self.positions[rows] == positions, rows, -1)

    def ids_at(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Ids of the rows, in the shape of `rows`; padding where a row is -1."""
        if self.facts.kind != "strings":
            return np.where(rows < 0, -1, self.keys[rows] if len(self) else -1)
        ends = np.append(self.ends, 0)  # row -1 is as long as nothing
        starts = np.where(rows > 0, ends[rows - 1], 0)
        text = self.text.data
        ids = [
            str(text[start:end], "utf-8")
            for start, end in zip(starts.flat, ends[rows].flat, strict=True)
        ]
        return np.array(ids, dtype=np.str_).reshape(rows.shape)


class Columns:
    """The arrays behind the snapshots of one gallery. One thread at a time may change them.

    Args:
        facts: say for how many items there is room, more are taken in as well, and how
            embeddings are kept.
        recall: see `Search`.
        arrays: the items, if they are at hand; kept, not copied.
    """

    def __init__(self, facts: Facts, recall: float | None, arrays: Arrays | None = None) -> None:
        integers = torch.empty(0, dtype=torch.int64)
        room = facts.items if arrays is None else 0
        dtype, width = row_format(facts)
        vectors = torch.from_numpy(np.empty((0, width), dtype=dtype))
        self._positions = Rows(integers, room=room)
        self._keys = Rows(integers, room=room)
        self._labels = Rows(integers, room=room)
        self._embeddings = Rows(vectors, room=room)
        self._ends = Rows(integers)
        self._text = Rows(torch.empty(0, dtype=torch.uint8))
        self._runs: tuple[Run, ...] = ()
        self._is_sorted = 0  # so many of the keys are in the runs
        self._search = Search(by_name(facts.distance), recall=recall)
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
        )

    def append(self, chunk: Chunk) -> None:
        """Put items behind those there are."""
        self._positions.append(torch.from_numpy(chunk.positions))
        self._keys.append(torch.from_numpy(chunk.keys))
        self._labels.append(torch.from_numpy(chunk.labels))
        self._embeddings.append(torch.from_numpy(chunk.embeddings))
        if chunk.texts:
            lengths = np.fromiter(map(len, chunk.texts), dtype=np.int64)
            last = int(self._ends.view[-1]) if len(self._ends) else 0
            self._ends.append(torch.from_numpy(last + lengths.cumsum()))
            joined = bytearray().join(chunk.texts)
            self._text.append(torch.frombuffer(joined, dtype=torch.uint8))

    def remove(self, rows: Integers) -> None:
        """Leave out some rows. Snapshots taken before keep them, but are not searched again."""
        keep = torch.ones(len(self._keys), dtype=torch.bool)
        keep[torch.from_numpy(rows)] = False
        if len(self._ends):
            ends = self._ends.view
            lengths = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
            self._text.keep(keep.repeat_interleave(lengths))
            self._ends = Rows(lengths[keep].cumsum(0))
        for column in (self._positions, self._keys, self._labels, self._embeddings):
            column.keep(keep)
        self._is_sorted = len(self._keys)
        self._search.keep(keep)
        if sum(len(keys) for keys, _ in self._runs) > 2 * len(self._keys):
            self._runs, self._is_sorted = (), 0

    def relabel(self, rows: Integers, labels: Integers) -> None:
        """Give some rows other labels. Snapshots taken before keep theirs."""
        changed = self._labels.view.clone()
        changed[torch.from_numpy(rows)] = torch.from_numpy(labels)
        self._labels = Rows(changed)


def _with_run(runs: tuple[Run, ...], new: Run) -> tuple[Run, ...]:
    # Each run is more than twice as long as the next, so there are few, and every key is moved
    # a few times only.
    keys, positions = new
    while runs and len(runs[-1][0]) <= 2 * len(keys):
        keys = np.concatenate([runs[-1][0], keys])
        positions = np.concatenate([runs[-1][1], positions])
        runs = runs[:-1]
    if (keys[1:] > keys[:-1]).all():  # as ids that are handed out are; nothing to copy
        return (*runs, (keys, positions))
    order = np.argsort(keys, kind="stable")
    keys, positions = keys[order], positions[order]
    last = np.append(keys[1:] != keys[:-1], True)  # of equal keys, the one that came last
    return (*runs, (keys, positions) if last.all() else (keys[last], positions[last]))
