"""The index in memory."""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import check_choice, check_count
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.index._answers import Items, Neighbors
from likewise.index._durable.facts import Facts
from likewise.index._entries import (
    LARGEST_ID,
    UNLABELED,
    Rows,
    Values,
    Where,
    check_filled,
    check_k,
    check_kind,
    metadata_texts,
)
from likewise.index._given import (
    Given,
    checked_embeddings,
    chunk_of,
    codes_of,
    ids_to_add,
    ids_to_put,
    rows_of_all,
)
from likewise.index._searching.storage import STORAGES, pack, unpack
from likewise.index._snapshots import NONE, Arrays, Held, Snapshot, facts_after
from likewise.index._summary import Summary, per_class, percentiles
from likewise.index._where import Column, Filters, Texts, parsed

__all__ = ["Index", "Items", "Neighbors"]


class Index:
    """Labeled embeddings by stable ids, and the nearest of them to any query.

    Kept in memory, in order of insertion. Every call either does all that it was asked to, or
    raises and changes nothing. The dimension is set by the first items and stays; embeddings
    of another encoder belong into another index.

    Any number of threads may read and write one index. Each call reads the items as of one moment
    and waits for no writer; writers take turns. To read several attributes as of one moment, use
    `state()` or a `copy.copy(index)`, which shares memory with the index but changes alone. After
    a fork both processes have an index of their own; fork while no other thread uses it.

    Args:
        distance: what "near" means. COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN and INNER_PRODUCT are
            searched by matrix products, MANHATTAN by FAISS, any other by its own `matrix`, in
            chunks. Either way the answers are those of a full sort by its `paired`.
        class_names: names of label codes 0, 1, … where they are fixed beforehand, as a
            dataset's are. Names seen for the first time in `add` go behind them.
        recall: the share of the true nearest that a lookup shall find, such as 0.99: from
            50,000 items on they are then searched by an approximate index, which is trained in
            the background and never returns what was removed. Without, always exact.
        storage: "float32", or "float16" or "int8" for half or about a quarter of the memory;
            then embeddings come back, and are compared, as rounded to that.

    Example:
        >>> import torch
        >>> index = Index()
        >>> index.add(torch.eye(3), labels=["cat", "dog", "cat"])
        array([0, 1, 2])
        >>> found = index.lookup(torch.tensor([[1.0, 0.1, 0.0]]), k=2)
        >>> found.ids
        array([[0, 1]])
        >>> [index.class_names[label] for label in found.labels[0]]
        ['cat', 'dog']
    """

    def __init__(
        self,
        distance: Distance = COSINE,
        *,
        class_names: Sequence[str] = (),
        recall: float | None = None,
        storage: str = "float32",
    ) -> None:
        check_kind(distance, class_names)
        check_choice("storage", storage, STORAGES)
        self.distance = distance
        self.storage = storage
        self.recall = recall
        facts = Facts("", distance.name, None, storage=storage)  # type: ignore[arg-type]
        self._held = Held(facts, class_names, distance, recall=recall)
        self._filters = Filters()
        self._columns: dict[str, Column] = {}
        self._seconds: deque[float] = deque(maxlen=1000)  # of recent lookups

    def __copy__(self) -> "Index":
        # Rows are only ever written behind those that are there, and each has room of its own.
        return self._copied(self._held.current, lambda array: array)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Index":
        return self._copied(self._held.current, np.copy)

    def __len__(self) -> int:
        return len(self._held.current)

    def __repr__(self) -> str:
        now = self._held.current
        return f"Index({self.distance.name}, {len(now)} items, dimension {now.facts.dimension})"

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first item."""
        return self._held.current.facts.dimension

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Ids in order of insertion, int64 or strings, (n,)."""
        return self._held.current.ids

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32. Shared memory: read, do not write."""
        return self._held.current.embeddings

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion, -1 unlabeled. Shared memory: read, do not write."""
        return self._held.current.labels

    @property
    def class_names(self) -> list[str]:
        """The name of each label code; empty where labels are plain integers."""
        return list(self._held.current.class_names)

    def add(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        labels: Values | None = None,
        ids: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, and give back their ids.

        Args:
            embeddings: (n, d) or a single vector (d,), of floating point: a tensor, a NumPy array
                (memory-mapped too) or lists of numbers. Kept as float32 on the CPU.
            labels: one per item: codes >= 0, -1 for unlabeled, or class names (None for
                unlabeled). Without, no item has a label.
            ids: one per item, new and distinct: integers >= 0, or non-empty strings, the same
                kind throughout the index. Without, the next integers above all ever used.
            metadata: one dict per item, of what JSON can hold; given back as JSON has it, so
                a tuple comes back as a list. Without, empty ones.

        Returns:
            The ids, (n,).

        Raises:
            InputError: wrong shapes or numbers of things, NaN or infinity, another dimension
                than the stored items have, an id that is taken, a label without a name.
            InputTypeError: ids or labels of mixed or other kinds, metadata that JSON cannot hold.
        """
        with self._writing() as snapshot:
            rows = checked_embeddings(embeddings, "embeddings", snapshot)
            added = ids_to_add(snapshot, ids, len(rows))
            return self._put(snapshot, rows, added, labels, metadata, NONE)

    def upsert(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        ids: Values,
        labels: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, in place of those that have their ids; arguments and errors as in `add`.

        A replaced item keeps nothing of what it was, and stands behind all others.

        Example:
            >>> import torch
            >>> index = Index()
            >>> _ = index.add(torch.eye(2), ids=["a", "b"], labels=[0, 1])
            >>> index.upsert(torch.ones(2, 2), ids=["a", "c"], labels=[5, 6]).tolist()
            ['a', 'c']
            >>> index.ids.tolist(), index.labels.tolist()
            (['b', 'a', 'c'], [1, 5, 6])
        """
        with self._writing() as snapshot:
            rows = checked_embeddings(embeddings, "embeddings", snapshot)
            added, gone = ids_to_put(snapshot, ids, len(rows))
            return self._put(snapshot, rows, added, labels, metadata, gone)

    def relabel(self, ids: Values, labels: Values) -> int:
        """Give items other labels, and give back how many were asked for.

        Labels are as in `add`; of an id given twice the last counts.

        Raises:
            InputError: an id that is not stored, wrong labels; then nothing is changed.
        """
        with self._writing() as snapshot:
            rows = rows_of_all(snapshot, ids)
            codes, names = codes_of(snapshot, labels, len(rows))
            last = dict(zip(rows.tolist(), codes, strict=True))
            if last:
                facts = facts_after(snapshot.facts, added=None, removed=0)
                changed, new = (np.array(list(part)) for part in (last.keys(), last.values()))
                self._held.take_in(facts, names, changed=changed, labels=new)
            return len(rows)

    def name_classes(self, class_names: Sequence[str]) -> bool:
        """Name label codes 0, 1, … anew while there is no item; whether there was none.

        Raises:
            InputError: two names are alike; then nothing is changed.

        Example:
            >>> import torch
            >>> index = Index()
            >>> index.name_classes(["cat", "dog"])
            True
            >>> _ = index.add(torch.eye(2), labels=["dog", "cat"])
            >>> index.labels.tolist(), index.name_classes(["dog", "cat"])
            ([1, 0], False)
        """
        check_kind(self.distance, class_names)
        with self._writing() as snapshot:
            if not len(snapshot):
                facts = facts_after(snapshot.facts, added=None, removed=0)
                self._held.take_in(facts, class_names)
            return not len(snapshot)

    def column(self, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """What each item's metadata has under a key, None without, and the labels.

        Both in order of insertion, as of one moment. Values are kept, so that asking again reads
        only the metadata of items that came since.

        Example:
            >>> import torch
            >>> index = Index()
            >>> _ = index.add(torch.eye(2), labels=[3, 4], metadata=[{"year": 1999}, {}])
            >>> index.column("year")
            ([1999, None], tensor([3, 4]))
        """
        snapshot = self._held.current
        column = self._columns.setdefault(key, Column(key))
        return column.of(snapshot, self._texts_of(snapshot)), snapshot.labels

    def get(self, ids: Values) -> Items:
        """What is stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        snapshot = self._held.current
        rows = rows_of_all(snapshot, ids)
        return Items(
            ids=snapshot.ids_at(rows),
            embeddings=unpack(snapshot.packed[rows]),
            labels=snapshot.labels[rows],
            metadata=_metadata_at(snapshot, rows),
        )

    def metadata(self, ids: Values) -> list[dict[str, Any]]:
        """The metadata stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        snapshot = self._held.current
        return _metadata_at(snapshot, rows_of_all(snapshot, ids))

    def remove(self, ids: Values) -> int:
        """Forget items, and give back how many. Their ids are not handed out again.

        An id given twice counts once.

        Raises:
            InputError: an id that is not stored; then nothing is removed.
        """
        with self._writing() as snapshot:
            return self._forget(snapshot, np.unique(rows_of_all(snapshot, ids)))

    def clear(self) -> int:
        """Forget all items, and give back how many. Dimension and class names stay."""
        with self._writing() as snapshot:
            return self._forget(snapshot, np.arange(len(snapshot)))

    @torch.no_grad()
    def lookup(
        self, queries: Float[Tensor, "q d"] | Rows, *, k: int = 5, where: Where | None = None
    ) -> Neighbors:
        """The k nearest stored items of each query.

        Distances are those of `distance.paired`, whatever found the items: equal vectors are
        exactly 0 apart in Euclidean distance, and thresholds hold for every way of searching.
        The query is the first argument of the distance, the item the second.

        Args:
            queries: embeddings from the same encoder, (q, d) or (d,), as in `add`.
            k: how many; at most `len(self)`.
            where: which items may be found, by their metadata: a value for each key, a list of
                values, or operators, such as `{"camera": "front", "year": {">=": 2000}}`.
                Operators are `==`, `in`, `<`, `<=`, `>` and `>=`; numbers compare with numbers,
                strings with strings. `{"or": [...]}`, `{"and": [...]}` and `{"not": {...}}` hold
                further dicts. Where fewer than k items pass, rows are padded.

        Raises:
            InputError: the index is empty, k is larger than it, queries of another dimension
                or not finite, a key in `where` that no item has, an operator that does not exist.
            InputTypeError: `where` is not a mapping with strings for keys, or JSON cannot hold it.

        Example:
            >>> import torch
            >>> from likewise.distances import EUCLIDEAN
            >>> index = Index(EUCLIDEAN)
            >>> _ = index.add(torch.tensor([[0.0], [3.0]]), labels=[7, 8], ids=["a", "b"])
            >>> found = index.lookup(torch.tensor([[1.0]]), k=2)
            >>> found.ids.tolist(), found.distances.tolist(), found.labels.tolist()
            ([['a', 'b']], [[1.0, 2.0]], [[7, 8]])
            >>> _ = index.upsert([[0.0], [3.0]], ids=["a", "b"], metadata=[{"year": 1999}, {}])
            >>> index.lookup([1.0], k=2, where={"year": {">=": 1990, "<": 2000}}).ids.tolist()
            [['a', '']]
        """
        snapshot = self._held.current
        check_filled(len(snapshot))
        asked = checked_embeddings(queries, "queries", snapshot)
        check_k(k, len(snapshot))
        started = time.perf_counter()
        allowed = None if where is None else self._allowed(snapshot, where)
        distances, rows = snapshot.search.nearest(asked, snapshot.packed, k, allowed)
        self._seconds.append(time.perf_counter() - started)
        labels = snapshot.labels[rows]
        if allowed is not None:
            labels[rows < 0] = UNLABELED
        ids = snapshot.ids_at(rows.numpy())
        return Neighbors(ids, distances, labels, snapshot.class_names, self)

    def summary(self) -> Summary:
        """What the index holds and how it searches, in numbers."""
        snapshot = self._held.current
        return Summary(
            items=len(snapshot),
            dimension=snapshot.facts.dimension,
            distance=self.distance.name,
            search=snapshot.search.kind,
            measured_recall=snapshot.search.measured_recall,
            bytes=sum(array.nbytes for array in snapshot.arrays),
            lookup_seconds=percentiles(self._seconds),
            storage=self.storage,
            encoder=None,
            batches=0,
            **per_class(snapshot.labels, snapshot.class_names),
        )

    def wait(self) -> None:
        """Until no approximate index is in training; then answers do not depend on timing."""
        self._held.current.search.wait()

    def state(self) -> dict[str, Any]:
        """Everything but the distance, in plain arrays and lists, to be saved.

        `Index.from_state` is the inverse.
        """
        snapshot = self._held.current
        return {
            "embeddings": snapshot.embeddings,
            "labels": snapshot.labels,
            "ids": snapshot.ids,
            "metadata": _metadata_at(snapshot, range(len(snapshot))),
            "next_id": snapshot.facts.next_id,
            "class_names": list(snapshot.class_names),
            "storage": self.storage,
            "recall": self.recall,
        }

    @classmethod
    def from_state(cls, distance: Distance, state: Mapping[str, Any]) -> "Index":
        """The index that `state` was taken from.

        Args:
            distance: the one that index was made with.
            state: from `Index.state`; checked as `add` checks, as it may come from a file.

        Raises:
            InputError: a part is missing, or the parts do not fit together.
        """
        parts = {"embeddings", "labels", "ids", "metadata", "next_id", "class_names"}
        if missing := sorted(parts - state.keys()):
            raise InputError(f"state must hold {', '.join(sorted(parts))}, got no {missing[0]}.")
        kind = {name: state[name] for name in ("storage", "recall") if name in state}
        index = cls(distance, class_names=state["class_names"], **kind)
        embeddings = state["embeddings"]
        if len(embeddings):
            index.add(embeddings, **{name: state[name] for name in ("labels", "ids", "metadata")})
        facts = index._held.current.facts
        check_count("next_id", state["next_id"], facts.next_id)
        if state["next_id"] > LARGEST_ID + 1:
            raise InputError(f"next_id must be at most {LARGEST_ID + 1}, got a larger number.")
        width = facts.dimension or embeddings.shape[1] or None
        facts = replace(facts, next_id=state["next_id"], dimension=width)
        index._held.take_in(facts, index.class_names)
        return index

    @contextmanager
    def _writing(self) -> Iterator[Snapshot]:
        """The newest items, which nobody else changes while this lasts."""
        with self._held.lock:
            yield self._held.current

    def _put(
        self,
        snapshot: Snapshot,
        embeddings: Tensor,
        given: Given,
        labels: Values | None,
        metadata: Sequence[Mapping[str, Any]] | None,
        gone: np.ndarray[Any, Any],
    ) -> np.ndarray[Any, Any]:
        codes, names = codes_of(snapshot, labels, len(given.ids))
        texts = metadata_texts(metadata, len(given.ids))
        if not given.ids:
            return np.empty(0, dtype=np.int64)
        packed = pack(embeddings, self.storage)
        chunk = chunk_of(snapshot, given, codes, packed, texts)
        facts = facts_after(snapshot.facts, added=chunk, removed=len(gone))
        given_back = np.array(given.ids)  # what may fail comes before the change
        self._held.take_in(facts, names, removed=gone, added=[chunk])
        return given_back

    def _forget(self, snapshot: Snapshot, gone: np.ndarray[Any, Any]) -> int:
        if len(gone):
            facts = facts_after(snapshot.facts, added=None, removed=len(gone))
            self._held.take_in(facts, snapshot.class_names, removed=gone)
        return len(gone)

    def _allowed(self, snapshot: Snapshot, where: Where) -> Tensor:
        texts = self._texts_of(snapshot)
        return torch.from_numpy(self._filters.mask(snapshot, parsed(where), texts))

    @staticmethod
    def _texts_of(snapshot: Snapshot) -> Texts:
        def texts(positions: Sequence[int]) -> list[str]:
            rows = snapshot.rows_at(np.array(positions, dtype=np.int64))
            return [snapshot.metadata[row] for row in rows.tolist()]

        return texts

    def _copied(self, snapshot: Snapshot, take: Any) -> "Index":
        copied = Index(self.distance, recall=self.recall, storage=self.storage)
        copied._held.restart(
            snapshot.facts,
            snapshot.class_names,
            arrays=Arrays(*map(take, snapshot.arrays)),
            metadata=snapshot.metadata[: len(snapshot)],
        )
        copied._seconds.extend(self._seconds)
        return copied


def _metadata_at(snapshot: Snapshot, rows: Any) -> list[dict[str, Any]]:
    return [json.loads(snapshot.metadata[row]) for row in rows]
