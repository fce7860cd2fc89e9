"""From pairs whose truth is known to a threshold, and what that threshold costs."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise import intervals
from likewise._checks import check_count, check_rate
from likewise.intervals import Estimate
from likewise.metrics import Sweep, sweep

Goal = Callable[[Sweep], int]
"""Chooses one position of a sweep, or raises ValueError if none will do."""


def best_f1(counts: Sweep) -> int:
    """The position with the highest F1; the strictest of equals."""
    return int(counts.f1.argmax())


def best_accuracy(counts: Sweep) -> int:
    """The position with the highest accuracy; the strictest of equals."""
    return int(counts.accuracy.argmax())


def equal_error(counts: Sweep) -> int:
    """The position where false accept and false reject rate differ least; the strictest of equals.

    No threshold may make them exactly equal: `metrics.equal_error_rate` interpolates, a
    threshold cannot.
    """
    # In whole numbers, so that equals are equal.
    false_rejects = counts.same_total - counts.true_accepts
    gap = counts.false_accepts * counts.same_total - false_rejects * counts.different_total
    return int(gap.abs().argmin())


def at_most_false_accepts(rate: float) -> Goal:
    """The loosest threshold whose false accept rate stays at or below `rate`.

    The promise holds for the pairs at hand. On new pairs the rate is as often above `rate`
    as below.

    Args:
        rate: between 0 and 1.

    Raises:
        ValueError: if `rate` is outside [0, 1]; by the goal, if every threshold accepts more.
    """
    check_rate("rate", rate)

    def goal(counts: Sweep) -> int:
        allowed = int((counts.false_accept_rate <= rate).sum())  # it never falls
        if allowed == 0:
            raise ValueError(
                f"no threshold keeps false accepts at or below {rate:.3g}: the closest pair of "
                "all is already a wrong one, and the strictest threshold has "
                f"{float(counts.false_accept_rate[0]):.3g}. Raise the rate, or train further."
            )
        return allowed - 1

    return _named(goal, "at_most_false_accepts", rate)


def at_least_precision(precision: float) -> Goal:
    """The loosest threshold whose precision is `precision` or better.

    Stricter thresholds may fall short of it, as precision goes up and down.

    Args:
        precision: between 0 and 1.

    Raises:
        ValueError: if `precision` is outside [0, 1]; by the goal, if no threshold reaches it.
    """
    check_rate("precision", precision)

    def goal(counts: Sweep) -> int:
        reached = torch.nonzero(counts.precision >= precision)
        if len(reached) == 0:
            raise ValueError(
                f"no threshold reaches a precision of {precision:.3g}: the highest is "
                f"{float(counts.precision.max()):.3g}. Ask for less, or train further."
            )
        return int(reached[-1])

    return _named(goal, "at_least_precision", precision)


def at_least_recall(recall: float) -> Goal:
    """The strictest threshold whose recall is `recall` or better.

    Args:
        recall: between 0 and 1.

    Raises:
        ValueError: if `recall` is outside [0, 1]; by the goal, if no threshold reaches it. That
            happens in search, where a known query can have a wrong nearest neighbour.
    """
    check_rate("recall", recall)

    def goal(counts: Sweep) -> int:
        reached = torch.nonzero(counts.recall >= recall)
        if len(reached) == 0:
            raise ValueError(
                f"no threshold reaches a recall of {recall:.3g}: the highest is "
                f"{float(counts.recall[-1]):.3g}, as other known queries have a wrong nearest "
                "neighbour. Ask for less, or train further."
            )
        return int(reached[0])

    return _named(goal, "at_least_recall", recall)


_PLAIN_GOALS = {"f1": best_f1, "accuracy": best_accuracy, "equal-error": equal_error}
_PROMISES = {
    "far": at_most_false_accepts,
    "precision": at_least_precision,
    "recall": at_least_recall,
}


def goal_name(goal: Goal) -> str:
    """How a goal reads, e.g. "best_f1" or "at_most_false_accepts(0.001)".

    A function of the caller's goes by its own name, any other callable by that of its class.
    """
    return str(getattr(goal, "__name__", type(goal).__name__))


def parse_goal(text: str) -> Goal:
    """The goal that a word of the command line means.

    Args:
        text: f1, accuracy, equal-error, far=RATE, precision=P or recall=R.

    Raises:
        ValueError: for any other word, or a number that is none or outside [0, 1].

    Example:
        >>> goal_name(parse_goal("far=0.001"))
        'at_most_false_accepts(0.001)'
    """
    if text in _PLAIN_GOALS:
        return _PLAIN_GOALS[text]
    word, equals, number = text.partition("=")
    if word not in _PROMISES or not equals:
        raise ValueError(
            "goal must be one of f1, accuracy, equal-error, far=RATE, precision=P, recall=R, "
            f"got {text!r}."
        )
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(
            f"goal {word}= must be followed by a number between 0 and 1, got {number!r}. "
            f"Write e.g. {word}=0.01."
        )
    return _PROMISES[word](value)


@dataclass(frozen=True)
class Calibration:
    """A threshold, what it was made for, and what it costs on the pairs it was chosen on.

    The intervals take the pairs as independent. As the threshold was chosen on the very
    same pairs, the numbers are a little better than new pairs would give; `method` says so.

    Attributes:
        threshold: accept where `distance <= threshold`.
        goal: the name of the goal, see `goal_name`.
        rule: "pairs" for verification, else the matching rule whose distances these were.
        k: how many neighbours the rule looked at; None for pairs.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        true_accept_rate: share of the same pairs accepted. In search this is TensorFlow
            Similarity's "recall".
        false_accept_rate: share of the different pairs accepted.
        precision: share of the accepted pairs that are the same.
        recall: share of what was to be found that was accepted and right; differs from
            `true_accept_rate` in search, where a known query with a wrong neighbour is missed.
        f1: of precision and recall.
        f1_tensorflow_similarity: of precision and true_accept_rate, as that library has it.
        accuracy: share of all pairs accepted and the same, or rejected and different.
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
    recall: Estimate
    f1: Estimate
    f1_tensorflow_similarity: Estimate
    accuracy: Estimate
    sweep: Sweep | None = dataclasses.field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """All fields but the sweep, ready for JSON."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {
            name: value.to_dict() if isinstance(value, Estimate) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_dict(cls, fields: object) -> "Calibration":
        """The calibration that `to_dict` wrote, without a sweep.

        Raises:
            ValueError: if `fields` is not such a dict; the sentence names what is wrong.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"a calibration must be a dict, got {type(fields).__name__}.")
        for problem, names in [
            ("lacks", _FIELDS.keys() - fields.keys()),
            ("has the unknown", fields.keys() - _FIELDS.keys()),
        ]:
            if names:
                listed = ", ".join(sorted(map(str, names)))
                raise ValueError(
                    f"a calibration must have the fields of `Calibration`, got one that {problem} "
                    f"{listed}. Calibrate again with this version."
                )
        return cls(**{name: read(name, fields[name]) for name, read in _FIELDS.items()})


def calibrate(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    goal: Goal = best_f1,
    known: Bool[Tensor, " p"] | None = None,
    rule: str = "pairs",
    k: int | None = None,
    keep_sweep: bool = False,
) -> Calibration:
    """Choose a threshold from pairs whose truth is known.

    Search and verification both end here: in search a "pair" is a query with its nearest
    neighbour (or what the matching rule makes of its k neighbours), and `same` says whether
    their labels agree. The choice is exact over every distinct distance, in O(p log p). No
    item may be its own neighbour.

    Args:
        distances: one per pair; smaller is closer.
        same: whether the pair truly belongs together.
        goal: chooses among the thresholds; it may refuse.
        known: in search, whether the query's class is indexed; see `metrics.sweep`.
        rule: what made the distances: "pairs", or the name of a matching rule.
        k: how many neighbours that rule looked at.
        keep_sweep: also keep the counts at every threshold, for plots.

    Raises:
        ValueError: if the pairs are all the same or all different, if a distance is not
            finite, or if no threshold reaches the goal.

    Example:
        >>> distances, same = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([True, False, True])
        >>> calibration = calibrate(distances, same)
        >>> f"{calibration.threshold:.1f}", str(calibration.recall)
        ('0.2', '1.000 [0.158, 1.000]')
    """
    if k is not None:
        check_count("k", k)
    counts = sweep(distances, same, known=known)
    at = goal(counts)
    if not 0 <= at < len(counts.thresholds):
        raise ValueError(
            f"goal must return a position from 0 to {len(counts.thresholds) - 1}, got {at}."
        )
    threshold = float(counts.thresholds[at])
    hits, wrong = int(counts.true_accepts[at]), int(counts.false_accepts[at])
    missed = counts.to_be_found - hits
    # A known query that accepts a wrong neighbour is wrong and missed: one case, two errors.
    both = 0
    if known is not None:
        both = int(((distances.double() <= threshold) & known & ~same).sum())
    rejected_right = counts.different_total - wrong
    return Calibration(
        threshold=threshold,
        goal=goal_name(goal),
        rule=rule,
        k=k,
        same_total=counts.same_total,
        different_total=counts.different_total,
        true_accept_rate=_here(intervals.binomial(hits, counts.same_total)),
        false_accept_rate=_here(intervals.binomial(wrong, counts.different_total)),
        precision=_here(intervals.binomial(hits, hits + wrong)),
        recall=_here(intervals.binomial(hits, counts.to_be_found)),
        f1=_here(intervals.f1(hits, wrong + missed - 2 * both, both)),
        f1_tensorflow_similarity=_here(intervals.f1(hits, wrong + counts.same_total - hits)),
        accuracy=_here(intervals.binomial(hits + rejected_right, len(same))),
        sweep=counts if keep_sweep else None,
    )


def _named(goal: Goal, factory: str, promise: float) -> Goal:
    goal.__name__ = f"{factory}({promise!r})"
    return goal


def _here(estimate: Estimate) -> Estimate:
    return dataclasses.replace(
        estimate, method=f"{estimate.method}; on the pairs the threshold was chosen on"
    )


def _read_estimate(name: str, value: object) -> Estimate:
    try:
        return Estimate.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{name} of a calibration cannot be read: {error}") from error


def _read_threshold(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} of a calibration must be a finite number, got {value!r}.")
    return float(value)


def _read_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} of a calibration must be text, got {value!r}.")
    return value


def _read_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} of a calibration must be a whole number above 0, got {value!r}.")
    return value


def _read_k(name: str, value: object) -> int | None:
    return None if value is None else _read_count(name, value)


# How each saved field is read back.
_FIELDS: dict[str, Callable[[str, object], Any]] = {
    "threshold": _read_threshold,
    "goal": _read_text,
    "rule": _read_text,
    "k": _read_k,
    "same_total": _read_count,
    "different_total": _read_count,
    **dict.fromkeys(
        (
            "true_accept_rate",
            "false_accept_rate",
            "precision",
            "recall",
            "f1",
            "f1_tensorflow_similarity",
            "accuracy",
        ),
        _read_estimate,
    ),
}
