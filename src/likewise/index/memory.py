"""The index in memory."""

import copy
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import check_choice, check_count
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.index._answers import Items, Neighbors
from likewise.index._entries import (
    UNLABELLED,
    Values,
    Where,
    check_filled,
    check_k,
    check_kind,
    checked_rows,
    holding,
    label_codes,
    metadata_texts,
    new_ids,
    next_ids,
    plain_ids,
    positions_of,
)
from likewise.index._rows import Rows
from likewise.index._searching.approximate import Search
from likewise.index._searching.storage import STORAGES, dimension, pack, unpack
from likewise.index._summary import Summary, per_class, percentiles
from likewise.index._where import checked_where

__all__ = ["Index", "Items", "Neighbors"]


class Index:
    """Labelled embeddings by stable ids, and the nearest of them to any query.

    Kept in memory, in order of insertion. Every call either does all that it was asked to, or
    raises and changes nothing. The dimension is set by the first items and stays; embeddings
    of another encoder belong into another index.

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
        self._class_names = list(class_names)
        self._embeddings: Rows | None = None
        self._labels = Rows(torch.empty(0, dtype=torch.int64))
        self._metadata: list[str] = []  # as JSON, which no later change of the caller's reaches
        self._positions: dict[Any, int] = {}  # from ids; in order of insertion
        self._ids: np.ndarray[Any, Any] | None = None  # the keys of _positions, made when needed
        self._next_id = 0
        self._search = Search(distance, recall=recall)
        self._seconds: deque[float] = deque(maxlen=1000)  # of recent lookups

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"Index({self.distance.name}, {len(self)} items, dimension {self.dimension})"

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first item."""
        return None if self._embeddings is None else dimension(self._packed)

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Ids in order of insertion, int64 or strings, (n,)."""
        if self._ids is None:
            empty = np.empty(0, dtype=np.int64)
            self._ids = np.array(list(self._positions)) if self._positions else empty
            self._ids.flags.writeable = False
        return self._ids

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32. Shared memory: read, do not write."""
        return unpack(self._packed)

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion, -1 unlabelled. Shared memory: read, do not write."""
        return self._labels.view

    @property
    def class_names(self) -> list[str]:
        """The name of each label code; empty where labels are plain integers."""
        return list(self._class_names)

    def add(
        self,
        embeddings: Float[Tensor, "n d"],
        *,
        labels: Values | None = None,
        ids: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, and give back their ids.

        Args:
            embeddings: kept as float32 on the CPU.
            labels: one per item: codes >= 0, -1 for unlabelled, or class names. Without, no item
                has a label.
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
        packed, codes, class_names, added, texts = self._check(embeddings, labels, ids, metadata)
        count = len(added)
        if not added:
            return np.empty(0, dtype=np.int64)
        new_labels, given_back = torch.tensor(codes), np.array(added)  # before anything changes

        if self._embeddings is None:
            self._embeddings = Rows(packed[:0])
        self._embeddings.append(packed)
        self._labels.append(new_labels)
        self._class_names = class_names
        self._metadata += texts
        self._positions.update(zip(added, range(len(self), len(self) + count), strict=True))
        self._ids = None
        self._next_id = max([self._next_id, *(id_ + 1 for id_ in added if isinstance(id_, int))])
        return given_back

    def upsert(
        self,
        embeddings: Float[Tensor, "n d"],
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
        plain = plain_ids(ids)
        stored: list[Any] = [id_ for id_ in dict.fromkeys(plain) if id_ in self._positions]
        if gone := set(stored):
            # Tried on an index without the old items, so that a refusal leaves all as it was.
            trial = copy.copy(self)
            trial._positions = {i: p for i, p in self._positions.items() if i not in gone}
            trial._check(embeddings, labels, ids, metadata)
            self.remove(stored)
        return self.add(embeddings, labels=labels, ids=ids, metadata=metadata)

    def relabel(self, ids: Values, labels: Values) -> int:
        """Give items other labels, and give back how many were asked for.

        Labels are as in `add`; of an id given twice the last counts.

        Raises:
            InputError: an id that is not stored, wrong labels; then nothing is changed.
        """
        positions = positions_of(ids, self._positions)
        has_codes = bool((self.labels >= 0).any())
        codes, names = label_codes(labels, len(positions), self._class_names, has_codes=has_codes)
        changed = self.labels.clone()  # what a caller took earlier stays as it was
        changed.numpy()[positions] = codes
        self._labels, self._class_names = Rows(changed), names
        return len(positions)

    def get(self, ids: Values) -> Items:
        """What is stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        positions = positions_of(ids, self._positions)
        return Items(
            ids=self.ids[positions],
            embeddings=unpack(self._packed[positions]),
            labels=self.labels[positions],
            metadata=[json.loads(self._metadata[position]) for position in positions],
        )

    def metadata(self, ids: Values) -> list[dict[str, Any]]:
        """The metadata stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        return [json.loads(self._metadata[at]) for at in positions_of(ids, self._positions)]

    def remove(self, ids: Values) -> int:
        """Forget items, and give back how many. Their ids are not handed out again.

        An id given twice counts once.

        Raises:
            InputError: an id that is not stored; then nothing is removed.
        """
        keep = torch.ones(len(self), dtype=torch.bool)
        keep[positions_of(ids, self._positions)] = False
        removed = len(self) - int(keep.sum())
        if removed and self._embeddings is not None:
            kept = keep.tolist()
            self._embeddings.keep(keep)
            self._labels.keep(keep)
            self._metadata = [m for m, stays in zip(self._metadata, kept, strict=True) if stays]
            left = [id_ for id_, stays in zip(self._positions, kept, strict=True) if stays]
            self._positions = dict(zip(left, range(len(left)), strict=True))
            self._ids = None
            self._search.keep(keep)
        return removed

    def clear(self) -> int:
        """Forget all items, and give back how many. Dimension and class names stay."""
        return self.remove(self.ids)

    @torch.no_grad()
    def lookup(
        self, queries: Float[Tensor, "q d"], *, k: int = 5, where: Where | None = None
    ) -> Neighbors:
        """The k nearest stored items of each query.

        Distances are those of `distance.paired`, whatever found the items: equal vectors are
        exactly 0 apart in Euclidean distance, and thresholds hold for every way of searching.
        The query is the first argument of the distance, the item the second.

        Args:
            queries: from the same encoder.
            k: how many; at most `len(self)`.
            where: what the metadata of a found item must hold: a value for each key, or a list
                of values of which it has one. Where fewer than k do, rows are padded.

        Raises:
            InputError: the index is empty, k is larger than it, queries of another dimension
                or not finite.
            InputTypeError: `where` is not a mapping with strings for keys.

        Example:
            >>> import torch
            >>> from likewise.distances import EUCLIDEAN
            >>> index = Index(EUCLIDEAN)
            >>> _ = index.add(torch.tensor([[0.0], [3.0]]), labels=[7, 8], ids=["a", "b"])
            >>> found = index.lookup(torch.tensor([[1.0]]), k=2)
            >>> found.ids.tolist(), found.distances.tolist(), found.labels.tolist()
            ([['a', 'b']], [[1.0, 2.0]], [[7, 8]])
        """
        check_filled(len(self))
        queries = checked_rows("queries", queries, self.dimension)
        check_k(k, len(self))
        allowed = (
            None if where is None else torch.tensor(holding(checked_where(where), self._metadata))
        )
        started = time.perf_counter()
        distances, positions = self._search.nearest(queries, self._packed, k, allowed)
        self._seconds.append(time.perf_counter() - started)
        ids, labels = self.ids[positions.numpy()], self.labels[positions]
        if allowed is not None:
            is_padding = positions < 0
            ids[is_padding.numpy()] = "" if ids.dtype.kind == "U" else -1
            labels[is_padding] = UNLABELLED
        return Neighbors(ids, distances, labels)

    def summary(self) -> Summary:
        """What the index holds and how it searches, in numbers."""
        return Summary(
            items=len(self),
            dimension=self.dimension,
            distance=self.distance.name,
            search=self._search.kind,
            measured_recall=self._search.measured_recall,
            bytes=self._packed.nbytes + self.labels.nbytes + self.ids.nbytes,
            lookup_seconds=percentiles(self._seconds),
            storage=self.storage,
            encoder=None,
            batches=0,
            **per_class(self.labels, self._class_names),
        )

    def wait(self) -> None:
        """Until no approximate index is in training; then answers do not depend on timing."""
        self._search.wait()

    def state(self) -> dict[str, Any]:
        """Everything but the distance, in plain arrays and lists, to be saved.

        `Index.from_state` is the inverse.
        """
        return {
            "embeddings": self.embeddings,
            "labels": self.labels,
            "ids": self.ids,
            "metadata": [json.loads(text) for text in self._metadata],
            "next_id": self._next_id,
            "class_names": self.class_names,
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
        elif embeddings.shape[1]:
            index._embeddings = Rows(pack(embeddings, index.storage))
        check_count("next_id", state["next_id"], index._next_id)
        index._next_id = state["next_id"]
        return index

    @property
    def _packed(self) -> Tensor:
        return torch.empty(0, 0) if self._embeddings is None else self._embeddings.view

    def _check(
        self,
        embeddings: Tensor,
        labels: Values | None,
        ids: Values | None,
        metadata: Sequence[Mapping[str, Any]] | None,
    ) -> tuple[Tensor, list[int], list[str], list[int] | list[str], list[str]]:
        """What `add` would store, or its refusal: rows, codes, class names, ids, metadata."""
        embeddings = checked_rows("embeddings", embeddings, self.dimension)
        count = len(embeddings)
        has_codes = bool((self.labels >= 0).any())
        codes, class_names = label_codes(labels, count, self._class_names, has_codes=has_codes)
        added = new_ids(
            next_ids(self._positions, self._next_id, count) if ids is None else ids,
            count,
            self._positions,
        )
        texts = metadata_texts(metadata, count)
        return pack(embeddings, self.storage), codes, class_names, added, texts
