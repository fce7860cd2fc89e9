"""The index in memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import check_count, check_embeddings, check_finite
from likewise.distances import COSINE, Distance
from likewise.index._entries import Values, label_codes, metadata_texts, new_ids, positions_of
from likewise.index._rows import Rows
from likewise.index._search import ExactSearch


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest stored items of each query, nearest first; always two-dimensional.

    Equal distances stand in the order of insertion. A query with fewer than k results is padded
    at its end: distance inf, label -1, id -1 or "". Stored ids are never negative and never
    empty, so the id tells padding from an item; label -1 alone also marks an unlabelled item.

    Args:
        ids: (q, k), int64 or strings.
        distances: (q, k), float32.
        labels: (q, k), int64.
    """

    ids: np.ndarray[Any, Any]
    distances: Float[Tensor, "q k"]
    labels: Int[Tensor, "q k"]


@dataclass(frozen=True, eq=False)
class Items:
    """Stored items, one per row: what was added under each of some ids."""

    ids: np.ndarray[Any, Any]  # (n,) int64 or strings
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    metadata: list[dict[str, Any]]


class Index:
    """Labelled embeddings by stable ids, and the exact nearest of them to any query.

    Kept in memory, in order of insertion. Every call either does all that it was asked to, or
    raises and changes nothing. The dimension is set by the first items and stays; embeddings
    of another encoder belong into another index.

    Args:
        distance: what "near" means. COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, INNER_PRODUCT and
            MANHATTAN are searched by FAISS, any other by its own `matrix`, in chunks. Either
            way the answers are those of a full sort by its `paired`.
        class_names: names of label codes 0, 1, … where they are fixed beforehand, as a
            dataset's are. Names seen for the first time in `add` go behind them.

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

    def __init__(self, distance: Distance = COSINE, *, class_names: Sequence[str] = ()) -> None:
        if not isinstance(distance, Distance):
            raise TypeError(
                f"distance must be a Distance, got {distance!r}. "
                "Use one of likewise.distances, or distances.by_name(name)."
            )
        if len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must all differ, got {list(class_names)}.")
        self.distance = distance
        self._class_names = list(class_names)
        self._embeddings: Rows | None = None
        self._labels = Rows(torch.empty(0, dtype=torch.int64))
        self._metadata: list[str] = []  # as JSON, which no later change of the caller's reaches
        self._positions: dict[Any, int] = {}  # from ids; in order of insertion
        self._ids: np.ndarray[Any, Any] | None = None  # the keys of _positions, made when needed
        self._next_id = 0
        self._search = ExactSearch(distance)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"Index({self.distance.name}, {len(self)} items, dimension {self.dimension})"

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first item."""
        return None if self._embeddings is None else self.embeddings.shape[1]

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
        return torch.empty(0, 0) if self._embeddings is None else self._embeddings.view

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
            ValueError: wrong shapes or numbers of things, NaN or infinity, another dimension
                than the stored items have, an id that is taken, a label without a name.
            TypeError: ids or labels of mixed or other kinds, metadata that JSON cannot hold.
        """
        embeddings = self._checked(embeddings, "embeddings")
        count = len(embeddings)
        has_codes = bool((self.labels >= 0).any())
        codes, class_names = label_codes(labels, count, self._class_names, has_codes=has_codes)
        added = new_ids(self._next_ids(count) if ids is None else ids, count, self._positions)
        texts = metadata_texts(metadata, count)
        if not added:
            return np.empty(0, dtype=np.int64)
        new_labels, given_back = torch.tensor(codes), np.array(added)  # before anything changes

        if self._embeddings is None:
            self._embeddings = Rows(embeddings[:0])
        self._embeddings.append(embeddings)
        self._labels.append(new_labels)
        self._class_names = class_names
        self._metadata += texts
        self._positions.update(zip(added, range(len(self), len(self) + count), strict=True))
        self._ids = None
        self._next_id = max([self._next_id, *(id_ + 1 for id_ in added if isinstance(id_, int))])
        return given_back

    def get(self, ids: Values) -> Items:
        """What is stored under each of `ids`, in their order.

        Raises:
            ValueError: an id that is not stored.
        """
        positions = positions_of(ids, self._positions)
        return Items(
            ids=self.ids[positions],
            embeddings=self.embeddings[positions],
            labels=self.labels[positions],
            metadata=[json.loads(self._metadata[position]) for position in positions],
        )

    def metadata(self, ids: Values) -> list[dict[str, Any]]:
        """The metadata stored under each of `ids`, in their order.

        Raises:
            ValueError: an id that is not stored.
        """
        return [
            json.loads(self._metadata[position]) for position in positions_of(ids, self._positions)
        ]

    def remove(self, ids: Values) -> int:
        """Forget items, and give back how many. Their ids are not handed out again.

        An id given twice counts once.

        Raises:
            ValueError: an id that is not stored; then nothing is removed.
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
            self._search.forget()
        return removed

    def clear(self) -> int:
        """Forget all items, and give back how many. Dimension and class names stay."""
        return self.remove(self.ids)

    @torch.no_grad()
    def lookup(self, queries: Float[Tensor, "q d"], *, k: int = 5) -> Neighbors:
        """The k nearest stored items of each query.

        Distances are those of `distance.paired`, whatever found the items: equal vectors are
        exactly 0 apart in Euclidean distance, and thresholds hold for every way of searching.
        The query is the first argument of the distance, the item the second.

        Args:
            queries: embeddings from the same encoder.
            k: how many; at most `len(self)`.

        Raises:
            ValueError: the index is empty, k is larger than it, queries of another dimension
                or not finite.

        Example:
            >>> import torch
            >>> from likewise.distances import EUCLIDEAN
            >>> index = Index(EUCLIDEAN)
            >>> _ = index.add(torch.tensor([[0.0], [3.0]]), labels=[7, 8], ids=["a", "b"])
            >>> found = index.lookup(torch.tensor([[1.0]]), k=2)
            >>> found.ids.tolist(), found.distances.tolist(), found.labels.tolist()
            ([['a', 'b']], [[1.0, 2.0]], [[7, 8]])
        """
        if len(self) == 0:
            raise ValueError(
                "index must hold at least one item before a lookup, got 0. "
                "Add some with index.add(embeddings, labels=labels)."
            )
        queries = self._checked(queries, "queries")
        check_count("k", k)
        if k > len(self):
            raise ValueError(
                f"k must be at most {len(self)}, the number of items in the index, got {k}. "
                "Ask for fewer, or add more items."
            )
        distances, positions = self._search.nearest(queries, self.embeddings, k)
        return Neighbors(self.ids[positions.numpy()], distances, self.labels[positions])

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
        }

    @classmethod
    def from_state(cls, distance: Distance, state: Mapping[str, Any]) -> "Index":
        """The index that `state` was taken from.

        Args:
            distance: the one that index was made with.
            state: from `Index.state`; checked as `add` checks, as it may come from a file.

        Raises:
            ValueError: a part is missing, or the parts do not fit together.
        """
        parts = {"embeddings", "labels", "ids", "metadata", "next_id", "class_names"}
        if missing := sorted(parts - state.keys()):
            raise ValueError(f"state must hold {', '.join(sorted(parts))}, got no {missing[0]}.")
        index = cls(distance, class_names=state["class_names"])
        embeddings = state["embeddings"]
        if len(embeddings):
            index.add(
                embeddings,
                labels=state["labels"],
                ids=state["ids"],
                metadata=state["metadata"],
            )
        elif embeddings.shape[1]:
            index._embeddings = Rows(embeddings)
        check_count("next_id", state["next_id"], index._next_id)
        index._next_id = state["next_id"]
        return index

    def _checked(self, embeddings: Tensor, name: str) -> Tensor:
        check_embeddings(embeddings, name)
        embeddings = embeddings.detach().to("cpu", torch.float32).contiguous()
        check_finite(embeddings, name)
        if self.dimension not in (None, embeddings.shape[1]):
            raise ValueError(
                f"{name} must have dimension {self.dimension}, as the items in the index have, "
                f"got {embeddings.shape[1]}. Encode all with the same encoder."
            )
        return embeddings

    def _next_ids(self, count: int) -> range:
        if isinstance(next(iter(self._positions), 0), str):
            raise ValueError(
                "ids must be given where those in the index are strings, got None. "
                "Pass ids=, one new string per item."
            )
        return range(self._next_id, self._next_id + count)
