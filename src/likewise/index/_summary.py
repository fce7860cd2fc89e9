"""What a home of items holds and how it fares, in numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise import _tables


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
    batches: int  # committed; 0 for an index in memory

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
