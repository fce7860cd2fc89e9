"""What a calibration found: a threshold, what it costs and what it guarantees."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from likewise import _tables
from likewise._checks import check_count, is_finite_number
from likewise.calibration.guarantee import KeptGuarantee
from likewise.calibration.known_distances import KnownDistances
from likewise.calibration.unknowns import UnknownsJudged
from likewise.errors import InputError
from likewise.intervals import Estimate
from likewise.metrics import Sweep

SLACK = 0.01  # of recall, within which two measurements of one search differ


@dataclass(frozen=True)
class Calibration:
    """A threshold, what it was made for, and what it costs on the pairs it was chosen on.

    The intervals leave out items where `calibrate` was told which a pair holds, else they take
    the pairs as independent. As the threshold was chosen on the very same pairs, the numbers
    are a little better than new pairs would give; `method` says so.

    Attributes:
        threshold: accept where `distance <= threshold`.
        goal: the name of the goal, see `goal_name`.
        rule: "pairs" for verification, else the matching rule whose distances these were.
        k: how many neighbors the rule looked at; None for pairs.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        true_accept_rate: share of the same pairs accepted. In search this is TensorFlow
            Similarity's "recall".
        false_accept_rate: share of the different pairs accepted; in matching, of the unknowns,
            see `false_positive_rate`.
        precision: share of the accepted pairs that are the same.
        f1: of precision and the identification rate; for pairs, of precision and the true accept
            rate.
        f1_tensorflow_similarity: of precision and true_accept_rate, as that library has it.
        accuracy: share of all pairs accepted and the same, or rejected and different.
        identification_rate: in matching, share of the known queries that are accepted and given
            their class (TPIR); 1 less it is FNIR. A known query with a wrong neighbor is missed.
            None for pairs, and where `known` was not told.
        guarantee: on the true false accept rate, if the goal has a confidence.
        gallery_size: the gallery that the rates are for, in items; None for pairs.
        unknowns: the unknowns that it was judged on, by kind, the kind that gave the threshold
            first; none for pairs.
        known: Distances of the known items to their own class, for prediction sets; None for pairs.
        search: How the gallery was searched, "exact" or a kind of approximate search. What that
            misses counts: a known query whose own class is missed is missed.
        search_recall: Recall measured of that; None where it is exact.
        sample: distances of at most 1,000 independent pairs, drawn at random and ascending, for
            `drift.check_drift`.
        sweep: all thresholds, if asked to be kept; not saved.
    """

    threshold: float
    goal: str
    rule: str
    k: int | None
    same_total: int
    different_total: int
    true_accept_rate: Estimate
    false_accept_rate: Estimate
    precision: Estimate
    f1: Estimate
    f1_tensorflow_similarity: Estimate
    accuracy: Estimate
    identification_rate: Estimate | None = None
    guarantee: KeptGuarantee | None = None
    gallery_size: int | None = None
    unknowns: tuple[UnknownsJudged, ...] = ()
    known: KnownDistances | None = dataclasses.field(default=None, repr=False)
    search: str = "exact"
    search_recall: float | None = None
    sample: tuple[float, ...] = dataclasses.field(default=(), repr=False)
    sweep: Sweep | None = dataclasses.field(default=None, repr=False, compare=False)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = _tables.fields(self)
        if self.false_positive_rate is not None:  # what matching costs comes first
            rows[1:1] = [
                ("unknowns accepted (FPIR)", _tables.value(self.false_positive_rate)),
                ("knowns missed (FNIR)", _tables.value(self.false_negative_rate)),
            ]
        return _tables.Table("Calibration", rows)

    @property
    def false_positive_rate(self) -> Estimate | None:
        """Share of the unknowns accepted (FPIR); None for pairs, and where there were none."""
        return self.false_accept_rate if self.unknowns else None

    @property
    def false_negative_rate(self) -> Estimate | None:
        """Share of the known queries rejected or confused (FNIR): 1 less `identification_rate`."""
        found = self.identification_rate
        if found is None:
            return None
        return Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.method)

    @property
    def guaranteed(self) -> str | None:
        """The guarantee as a phrase, with the size of gallery that it was made for."""
        if self.guarantee is None or self.gallery_size is None:
            return None if self.guarantee is None else str(self.guarantee)
        return f"{self.guarantee}, in a gallery of up to {self.gallery_size:,} items"

    @property
    def measured_through(self) -> str | None:
        """The approximate search that this was measured through, in words; None where exact."""
        if self.search == "exact":
            return None
        recall = "" if self.search_recall is None else f" at recall {self.search_recall:.4g}"
        return f"{self.search}{recall}"

    def searched_otherwise(self, recall: float | None) -> str | None:
        """What this is worth where lookups find less, or more, than those it was measured through.

        Args:
            recall: Recall of the search that serves; None where that is exact.
        """
        made = self.search_recall if self.search != "exact" else 1.0
        now = 1.0 if recall is None else recall
        if made is None or abs(made - now) <= SLACK or (now > made and self.guarantee is None):
            return None
        told = "exact search" if made == 1.0 else f"a search at recall {made:.4g}"
        serves = "exact" if recall is None else f"one at recall {recall:.4g}"
        worth = (
            "known items are missed more often than this calibration says"
            if now < made
            else "unknowns meet items that were missed, and more may be accepted than guaranteed"
        )
        return (
            f"search must be the one that a calibration was measured through, {told}, got "
            f"{serves}: {worth}. Calibrate again."
        )

    def outgrown(self, gallery_size: int) -> str | None:
        """What the guarantee is worth in a gallery of this size; None where it holds as it is.

        Items that are like those indexed can accept as many unknowns as those did, and no
        unknown need be one that others accept already: a gallery grown g-fold may accept up
        to g times as many.
        """
        check_count("gallery_size", gallery_size)
        made_for = self.gallery_size
        if self.guarantee is None or made_for is None or gallery_size <= made_for:
            return None
        growth = gallery_size / made_for
        return (
            f"gallery must hold at most {made_for:,} items for the guarantee of this calibration, "
            f"got {gallery_size:,}. Calibrate again: unknowns may be accepted up to "
            f"{growth:.3g} times as often, at a rate of "
            f"{min(1.0, growth * self.guarantee.rate):.3g} "
            f"instead of {self.guarantee.rate:.3g}."
        )

    def to_dict(self) -> dict[str, object]:
        """All fields but the sweep, ready for JSON."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {
            name: value.to_dict()
            if isinstance(value, (Estimate, KeptGuarantee, KnownDistances))
            else value
            for name, value in fields.items()
        } | {
            "sample": list(self.sample),
            "unknowns": [each.to_dict() for each in self.unknowns],
        }

    @classmethod
    def from_dict(cls, fields: object) -> "Calibration":
        """The calibration that `to_dict` wrote, without a sweep.

        Raises:
            InputError: if `fields` is not such a dict; the sentence names what is wrong.
        """
        if not isinstance(fields, Mapping):
            raise InputError(f"a calibration must be a dict, got {type(fields).__name__}.")
        for problem, names in [
            ("lacks", _FIELDS.keys() - fields.keys()),
            ("has the unknown", fields.keys() - _FIELDS.keys()),
        ]:
            if names:
                listed = ", ".join(sorted(map(str, names)))
                raise InputError(
                    f"a calibration must have the fields of `Calibration`, got one that {problem} "
                    f"{listed}. Calibrate again with this version."
                )
        return cls(**{name: read(name, fields[name]) for name, read in _FIELDS.items()})


def _by(read: Callable[[object], Any]) -> Callable[[str, object], Any]:
    def named(name: str, value: object) -> Any:
        try:
            return read(value)
        except ValueError as error:
            raise InputError(f"{name} of a calibration cannot be read: {error}") from error

    return named


def _read_threshold(name: str, value: object) -> float:
    if not is_finite_number(value):
        raise InputError(f"{name} of a calibration must be a finite number, got {value!r}.")
    return float(cast(float, value))


def _read_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} of a calibration must be text, got {value!r}.")
    return value


def _read_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} of a calibration must be a whole number above 0, got {value!r}.")
    return value


def _or_none(read: Callable[[str, object], Any]) -> Callable[[str, object], Any]:
    return lambda name, value: None if value is None else read(name, value)


def _read_sample(name: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} of a calibration must be a list of numbers, got {value!r}.")
    return tuple(_read_threshold(name, each) for each in value)


def _read_unknowns(name: str, value: object) -> tuple[UnknownsJudged, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} of a calibration must be a list, got {value!r}.")
    try:
        return tuple(map(UnknownsJudged.from_dict, value))
    except ValueError as error:
        raise InputError(f"{name} of a calibration cannot be read: {error}") from error


# How each saved field is read back.
_FIELDS: dict[str, Callable[[str, object], Any]] = {
    "threshold": _read_threshold,
    "goal": _read_text,
    "rule": _read_text,
    "k": _or_none(_read_count),
    "same_total": _read_count,
    "different_total": _read_count,
    **dict.fromkeys(
        (
            "true_accept_rate",
            "false_accept_rate",
            "precision",
            "f1",
            "f1_tensorflow_similarity",
            "accuracy",
        ),
        _by(Estimate.from_dict),
    ),
    "identification_rate": _or_none(_by(Estimate.from_dict)),
    "guarantee": _or_none(_by(KeptGuarantee.from_dict)),
    "gallery_size": _or_none(_read_count),
    "unknowns": _read_unknowns,
    "known": _or_none(_by(KnownDistances.from_dict)),
    "search": _read_text,
    "search_recall": _or_none(_read_threshold),
    "sample": _read_sample,
}
