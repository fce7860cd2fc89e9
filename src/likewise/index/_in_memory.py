"""Items in memory, for as long as the process lives."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from msgspec.structs import replace
from torch import Tensor

from likewise.distances import Distance
from likewise.index._answers import Items
from likewise.index._durable.checksums import Integers
from likewise.index._durable.contract import Facts
from likewise.index._given import check_enough
from likewise.index._snapshots import Arrays, Held, Snapshot, chunk_of, facts_after
from likewise.index._store import NONE, Added
from likewise.index._where import Column, Condition, Filters


class InMemory:
    """Keeps items as snapshots: readers take the newest, writers take turns.

    Args:
        distance: what near means.
        class_names: Names of label codes 0, 1, …
        recall: see `Search`.
        approximate: likewise.
        storage: see `_searching/storage`.
    """

    def __init__(
        self,
        distance: Distance,
        class_names: Sequence[str],
        *,
        recall: float | None,
        approximate: str = "IVF",
        storage: str,
    ) -> None:
        self.distance = distance
        self.recall = recall
        self.approximate = approximate
        facts = Facts("", distance.name, None, storage=storage)  # type: ignore[arg-type]
        self.held = Held(facts, class_names, distance, recall=recall, approximate=approximate)
        self._filters = Filters()
        self._columns: dict[str, Column] = {}

    @property
    def facts(self) -> Facts:
        """What the index is made for and holds."""
        return self.held.current.facts

    @property
    def shown(self) -> str:
        """What it holds, in few words."""
        facts = self.facts
        return f"{facts.distance}, {facts.items} items, dimension {facts.dimension}"

    def newest(self) -> Snapshot:
        """The newest items."""
        return self.held.current

    def reading(self) -> AbstractContextManager[Snapshot]:
        """The newest items; nobody needs to wait."""
        return nullcontext(self.held.current)

    def writing(self) -> AbstractContextManager[Snapshot]:
        """The newest items, which nobody else changes while this lasts."""
        return self.held

    def chosen(self, condition: Condition | None) -> tuple[Snapshot, Bool[Tensor, " n"] | None]:
        """The newest items, and which of them pass."""
        now = self.held.current
        return now, None if condition is None else self.allowed(now, condition)

    def allowed(self, now: Snapshot, condition: Condition) -> Bool[Tensor, " n"]:
        """Which items of a snapshot pass a condition."""
        check_enough(1, len(now))
        return torch.from_numpy(self._filters.mask(now.positions, condition, _Texts(now)))

    def commit(
        self,
        now: Snapshot,
        *,
        class_names: Sequence[str],
        added: Added | None = None,
        removed: Integers = NONE,
        changed: Integers = NONE,
        labels: Integers = NONE,
    ) -> None:
        """Put one batch in place, all of it or nothing."""
        chunk = None
        if added is not None:
            first = now.facts.next_position
            chunk = chunk_of(first, added, added.metadata, added.payloads)
        self.held.take_in(
            facts_after(now.facts, added=chunk, removed=len(removed)),
            class_names,
            removed=removed,
            changed=changed,
            labels=labels,
            added=[] if chunk is None else [chunk],
        )

    def settle(self) -> None:
        """Train the search, where there is something to train."""
        self.held.current.train()

    def reserve(self, count: int) -> None:
        """Make room for `count` items in all."""
        self.held.reserve(count)

    def clear(self, now: Snapshot) -> None:
        """Forget all items."""
        self.commit(now, class_names=now.class_names, removed=np.arange(len(now)))

    def items(self, now: Snapshot, rows: Integers) -> Items:
        """What is stored in these rows."""
        return now.items(rows, self.metadata(now, rows))

    def metadata(self, now: Snapshot, rows: Integers | None = None) -> list[dict[str, Any]]:
        """Of these rows, or of all."""
        found = range(len(now)) if rows is None else rows.tolist()
        return [json.loads(now.metadata[row]) for row in found]

    def payloads(self, now: Snapshot, rows: Integers | None = None) -> list[bytes | None]:
        """Of these rows, or of all."""
        found = range(len(now)) if rows is None else rows.tolist()
        return [now.payloads[row] if now.payloads else None for row in found]

    def column(self, now: Snapshot, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """Values under a key, kept for the next time, and the labels."""
        column = self._columns.setdefault(key, Column(key))
        return column.of(now.positions, _Texts(now)), now.labels

    def bytes(self, now: Snapshot) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in now.arrays)

    def copied(self, *, deep: bool) -> "InMemory":
        """Another that shares memory with this one, or none if `deep`, and changes alone."""
        # Rows are only ever written behind those that are there, and each has room of its own.
        made_of = _parts(self)
        if deep:
            made_of = made_of._replace(arrays=Arrays(*map(np.copy, made_of.arrays)))
        return _made(made_of)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, tuple(_parts(self))

    def go_on(self, next_id: int, dimension: int | None) -> None:
        """Hand out ids from `next_id` on; of this dimension where there is no item yet."""
        with self.held as now:
            width = now.facts.dimension or dimension
            facts = replace(now.facts, next_id=next_id, dimension=width)
            self.held.take_in(facts, now.class_names)

    def close(self) -> None:
        """Nothing is held open."""


class _Parts(NamedTuple):
    distance: Distance
    recall: float | None
    approximate: str
    facts: Facts
    class_names: tuple[str, ...]
    arrays: Arrays
    metadata: list[str]
    payloads: list[bytes | None]


def _parts(store: InMemory) -> _Parts:
    now = store.held.current
    return _Parts(
        store.distance,
        store.recall,
        store.approximate,
        now.facts,
        tuple(now.class_names),
        now.arrays,
        now.metadata[: len(now)],
        now.payloads[: len(now)],
    )


def _made(parts: _Parts) -> InMemory:
    made = InMemory(
        parts.distance,
        (),
        recall=parts.recall,
        approximate=parts.approximate,
        storage=parts.facts.storage,
    )
    made.held.restart(
        parts.facts,
        parts.class_names,
        arrays=parts.arrays,
        metadata=parts.metadata,
        payloads=parts.payloads,
    )
    return made


def _unpickled(*parts: Any) -> InMemory:
    of = _Parts(*parts)
    # joblib may map arrays that cannot be written to.
    arrays = Arrays(*map(_writeable, of.arrays))
    made = _made(of._replace(arrays=arrays))
    if of.facts.kind == "strings":  # hashes of another process
        now = made.newest()
        made = _made(of._replace(arrays=arrays._replace(keys=now.keys_for(now.ids.tolist()))))
    return made


def _writeable(array: Any) -> Any:
    return array if array.flags.writeable else array.copy()


class _Texts:
    """Metadata as JSON, from positions of a snapshot."""

    def __init__(self, now: Snapshot) -> None:
        self._now = now

    def __call__(self, positions: list[int]) -> list[str]:
        rows = self._now.rows_at(np.array(positions, dtype=np.int64))
        return [self._now.metadata[row] for row in rows.tolist()]
