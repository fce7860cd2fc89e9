"""What an index answers: neighbors, items, and itself in numbers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables
from likewise._tables import name_of as name_of
from likewise.errors import InputError

NEAREST = 4  # of a query that are printed


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest stored items of each query, nearest first; always two-dimensional.

    Equal distances stand in the order of insertion. A query with fewer than k results is padded
    at its end: distance inf, label -1, id -1 or "". Stored ids are never negative and never
    empty, so the id tells padding from an item; label -1 alone also marks an unlabeled item.

    Args:
        ids: (q, k), int64 or strings.
        distances: (q, k), float32.
        labels: (q, k), int64.
        class_names: Names of the label codes; empty where labels are plain integers.
        index: Where the items are stored, to read their metadata and payloads when asked. It is
            not copied or pickled.
    """

    ids: np.ndarray[Any, Any]
    distances: Float[Tensor, "q k"]
    labels: Int[Tensor, "q k"]
    class_names: Sequence[str] = ()
    index: Any = field(default=None, repr=False)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def names(self) -> list[list[str]]:
        """The class of each neighbor: its name, "unlabeled", or "" for padding.

        Example:
            >>> import likewise as lw, torch
            >>> index = lw.Index()
            >>> _ = index.add(torch.eye(2), labels=["cat", None])
            >>> index.lookup(torch.tensor([[1.0, 0.1]]), k=2).names
            [['cat', 'unlabeled']]
        """
        found = self._is_found().tolist()
        return [
            [
                name_of(code, self.class_names, "unlabeled") if is_found else ""
                for code, is_found in zip(codes, row, strict=True)
            ]
            for codes, row in zip(self.labels.tolist(), found, strict=True)
        ]

    @property
    def metadata(self) -> list[list[dict[str, Any]]]:
        """The metadata of each neighbor, read now from the index; empty for padding.

        Raises:
            InputError: An item was removed since, or there is no index to ask.
        """
        return self._asked("metadata", dict)

    @property
    def payloads(self) -> list[list[bytes | None]]:
        """The payload of each neighbor, such as its picture, read now from the index.

        None for padding, and where an item has none; raises as `metadata`.
        """
        return self._asked("payloads", lambda: None)

    def _asked(self, verb: str, absent: Callable[[], Any]) -> list[list[Any]]:
        if self.index is None:
            raise InputError(
                f"neighbors must know their index to read {verb}, got some that were copied or "
                "made by hand. Ask index.get(neighbors.ids[row])."
            )
        found = self._is_found()
        has_some = hasattr(self.index, verb) and bool(found.any())
        read = iter(getattr(self.index, verb)(self.ids[found.numpy()]) if has_some else ())
        return [
            [next(read, None) if is_found else absent() for is_found in row]
            for row in found.tolist()
        ]

    def _is_found(self) -> Bool[Tensor, "q k"]:
        return ~self.distances.isposinf()

    def _table(self) -> _tables.Table:
        queries, k = self.labels.shape
        shown = Neighbors(
            self.ids[: _tables.MOST_ROWS],
            self.distances[: _tables.MOST_ROWS],
            self.labels[: _tables.MOST_ROWS],
            self.class_names,
        )
        near = min(k, NEAREST)
        rows = [("query", *(f"neighbor {rank}" for rank in range(1, near + 1)))]
        for row, names in enumerate(shown.names):
            told = [
                f"{_tables.cell(names[rank], 14)} {float(self.distances[row, rank]):.4g}"
                if names[rank]
                else ""
                for rank in range(near)
            ]
            rows.append((str(row), *told))
        title = f"{k} neighbor{'s' * (k != 1)} of {queries:,} quer{'ies' if queries != 1 else 'y'}"
        return _tables.Table(title, rows, headings=True, more=max(0, queries - len(rows) + 1))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "index": None}


@dataclass(frozen=True, eq=False)
class Items:
    """Stored items, one per row: what was added under each of some ids."""

    ids: np.ndarray[Any, Any]  # (n,) int64 or strings
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    metadata: list[dict[str, Any]]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html


@dataclass(frozen=True)
class SearchedBy:
    """How lookups search.

    Attributes:
        kind: "exact", or the kind of approximate search.
        recall: Share of the true nearest that it was measured to find; None where it is exact, or
            not measured yet.
    """

    kind: str = "exact"
    recall: float | None = None

    def __str__(self) -> str:
        if self.kind == "exact":
            return "exact search"
        return self.kind if self.recall is None else f"{self.kind}, at recall {self.recall:.4g}"


@dataclass(frozen=True)
class Summary:
    """An index or a gallery in numbers."""

    items: int
    classes: int  # that have items
    items_per_class: dict[str, int]  # by class name, or by code where there are no names
    dimension: int | None
    distance: str
    encoder: str | None
    search: str  # "exact", or the kind of approximate search
    measured_recall: float | None  # of that; None where the search is exact
    bytes: int  # on disk, or in memory for an index that is there only
    lookup_seconds: dict[str, float]  # p50, p95, p99 of recent lookups; empty before the first
    storage: str  # of the vectors
    batches: int  # of changes so far

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def per_class(labels: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """`classes` and `items_per_class` of a summary; unlabeled items count nowhere."""
    known = np.asarray(labels)
    codes, counts = np.unique(known[known >= 0], return_counts=True)
    names = [class_names[code] if class_names else str(code) for code in codes.tolist()]
    return {
        "classes": len(names),
        "items_per_class": dict(zip(names, counts.tolist(), strict=True)),
    }


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """The 50th, 95th and 99th of durations; empty of none."""
    durations = list(seconds)
    if not durations:
        return {}
    values = np.percentile(durations, [50, 95, 99]).tolist()
    return dict(zip(("p50", "p95", "p99"), values, strict=True))
