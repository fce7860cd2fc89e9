"""What requests ask and how answers are told, whatever answers them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from likewise._tables import name_of
from likewise.service import bodies
from likewise.service.items import Ready

Fields = tuple[str | None, float | None, float, float | None]  # of a `MatchAnswer`
HIDDEN = ("fingerprint", "idempotency", "source")  # metadata that is ours


@dataclass
class Job:
    """What one request asks.

    Attributes:
        asked: Its body.
        items: Items to encode; the two sides of pairs one behind the other.
        names: What sentences about the items call them.
        queries: Number of queries; known items come behind them.
        ready: The items, decoded.
    """

    asked: Any
    items: Sequence[bodies.Item]
    names: Sequence[str]
    queries: int
    ready: list[Ready] = field(default_factory=list)


def label_of(code: int, class_names: Sequence[str]) -> str | None:
    """The name of a class; None of −1."""
    return None if code < 0 else name_of(code, class_names, "")


def shown_metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as clients see it: without what is ours, and paths by their last part.

    Example:
        >>> shown_metadata({"fingerprint": 7, "path": "/data/till/1.png", "year": 1999})
        {'path': '1.png', 'year': 1999}
    """
    told = {key: value for key, value in facts.items() if key not in HIDDEN}
    if isinstance(told.get("path"), str):
        told["path"] = told["path"].replace("\\", "/").rpartition("/")[2]
    return told


def fields_of(decided: Any) -> list[Fields]:
    """What is told of each item that was matched: `Matches` of the model or of the runtime."""
    labels, distances = decided.labels.tolist(), decided.distances.tolist()
    limits = [decided.threshold] * len(labels)
    if decided.limits is not None:
        limits = decided.limits.tolist()
    names = decided.neighbors.class_names
    return [
        (label_of(code, names), distance if math.isfinite(distance) else None, limit, chance)
        for code, distance, limit, chance in zip(
            labels, distances, limits, _chances(decided, len(labels)), strict=True
        )
    ]


def verify_answers(decided: Any) -> list[bodies.VerifyAnswer]:
    """What is told of each pair that was verified, by the model or by the runtime."""
    same, distances = decided.same.tolist(), decided.distances.tolist()
    return [
        bodies.VerifyAnswer(is_same, distance, decided.threshold, chance)
        for is_same, distance, chance in zip(
            same, distances, _chances(decided, len(same)), strict=True
        )
    ]


def _chances(decided: Any, count: int) -> Sequence[float | None]:
    if decided.probabilities is None:
        return [None] * count
    chances: list[float | None] = decided.probabilities.tolist()
    return chances
