"""What an exported model answers, in NumPy; the same fields as the answers of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise import _tables
from likewise._tables import name_of

UNKNOWN = -1
Numbers = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest known items of each query, nearest first.

    Args:
        ids: (q, k), int64 or strings; padding has -1 or "".
        distances: (q, k), float32; padding has inf.
        labels: (q, k), class codes; -1 for padding and for unlabeled items.
        class_names: Names of the codes; empty where labels are plain integers.
        known: Metadata of each known item, by its id.
    """

    ids: npt.NDArray[Any]
    distances: Numbers
    labels: Codes
    class_names: Sequence[str] = ()
    known: dict[Any, dict[str, Any]] = field(default_factory=dict, repr=False)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def names(self) -> list[list[str]]:
        """The class of each neighbor: its name, "unlabeled", or "" for padding."""
        return [
            [
                "" if np.isposinf(far) else name_of(code, self.class_names, "unlabeled")
                for code, far in zip(codes, row, strict=True)
            ]
            for codes, row in zip(self.labels.tolist(), self.distances, strict=True)
        ]

    @property
    def metadata(self) -> list[list[dict[str, Any]]]:
        """The metadata of each neighbor; empty for padding."""
        return [[self.known.get(id_, {}) for id_ in row] for row in self.ids.tolist()]


@dataclass(frozen=True, eq=False)
class Matches:
    """One decision per query, as `likewise.matching.Matches`.

    Args:
        labels: The class code decided on, or UNKNOWN, (q,).
        distances: What was compared with the threshold, (q,); inf where nobody had a vote.
        neighbors: The neighbors that decided.
        threshold: A distance up to it was accepted; with thresholds by class, that of the others.
        rule: Name of the matching rule.
        limits: With thresholds by class, that of each query's label, (q,).
        probabilities: Chance that the label is right, before it is accepted or not, (q,); 0 where
            nobody had a vote; None for a threshold that was given.
    """

    labels: Codes
    distances: Numbers
    neighbors: Neighbors
    threshold: float
    rule: str
    limits: Wide | None = None
    probabilities: Wide | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def names(self) -> list[str]:
        """The class of each query by its name, or "unknown"; (q,)."""
        return [
            name_of(code, self.neighbors.class_names, "unknown") for code in self.labels.tolist()
        ]

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """Whether a query was matched to a known thing, (q,)."""
        return np.not_equal(self.labels, UNKNOWN)


@dataclass(frozen=True, eq=False)
class Verified:
    """Whether each pair is the same: distance <= threshold, as that of a model."""

    distances: Numbers
    same: npt.NDArray[np.bool_]
    threshold: float
    probabilities: Wide | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html
