"""What an index answers: neighbors, items, and itself in numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int
from torch import Tensor


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
