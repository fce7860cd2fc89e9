"""Which unknowns a calibration for matching judged, and what its rate rests on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from likewise import _tables
from likewise._checks import check_choice, check_count, is_finite_number
from likewise.errors import InputError
from likewise.intervals import Estimate

KINDS = {
    "given": "real unknowns",
    "left out": "items judged without their own class",
    "cross-fit": "items judged by encoders that were not trained on their class",
    "trained": "items of trained classes, judged without their own class",
}


@dataclass(frozen=True)
class UnknownsJudged:
    """One kind of unknowns, and the share of them that is accepted.

    Attributes:
        kind: "given": real unknowns, of classes that are not indexed. "left out": items whose own
            class was left out of the index, of classes that the encoder was not trained on.
            "cross-fit": items judged by encoders that were not trained on their class. "trained":
            items whose own class was left out though the encoder was trained on it, which makes
            their rate optimistic.
        items: How many there were.
        classes: Number of their classes; None if that is not known.
        threshold: The threshold that the goal chose by these unknowns. The calibration keeps the
            strictest of all kinds.
        accepted: Share accepted at the threshold that was kept (FPIR).
        asked: The rate that the goal asked for, if it asked for one.
    """

    kind: str
    items: int
    classes: int | None
    threshold: float
    accepted: Estimate
    asked: float | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def expected(self) -> float | None:
        """The highest rate to expect for new classes: the rate asked for + 1 / (classes + 1)."""
        if self.asked is None or self.classes is None:
            return None
        return min(1.0, self.asked + 1 / (self.classes + 1))

    def __str__(self) -> str:
        of = "" if self.classes is None else f" of {_count(self.classes, 'class', 'classes')}"
        said = [f"{self.items:,} {KINDS[self.kind]}{of}: {self.accepted} accepted"]
        if self.expected is not None and self.asked is not None and self.classes is not None:
            said.append(
                f"{self.asked:.3g} asked; rests on {_count(self.classes, 'class', 'classes')}; "
                f"expect up to {self.asked:.3g} + {1 / (self.classes + 1):.2g}"
            )
        elif self.classes is not None:
            said.append(
                f"rests on {_count(self.classes, 'class', 'classes')}; expect up to "
                f"{1 / (self.classes + 1):.2g} more for new ones"
            )
        if self.kind == "trained":
            classes = _count(self.classes or 0, "trained class", "trained classes")
            said.append(f"optimistic: {classes} stood in for unknowns")
        return "; ".join(said)

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self) | {"accepted": self.accepted.to_dict()}

    @classmethod
    def from_dict(cls, fields: object) -> "UnknownsJudged":
        """What `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) != set(names):
            raise InputError(f"unknowns must be a dict of {', '.join(names)}, got {fields!r}.")
        check_choice("kind", fields["kind"], KINDS)
        check_count("items", fields["items"])
        if fields["classes"] is not None:
            check_count("classes", fields["classes"])
        for name in ("threshold", "asked"):
            value = fields[name]
            if not is_finite_number(value) and not (name == "asked" and value is None):
                raise InputError(f"{name} must be a finite number, got {value!r}.")
        return cls(**{**fields, "accepted": Estimate.from_dict(fields["accepted"])})


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
