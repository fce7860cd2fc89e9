"""What requests ask and how answers are told, whatever answers them."""

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
        ready: The same, decoded.
    """

    asked: Any
    items: Sequence[bodies.Item]
    names: Sequence[str]
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
