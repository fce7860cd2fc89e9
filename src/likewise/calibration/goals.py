"""Goals: which of all thresholds to choose."""

import ast
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from likewise._checks import check_positive, check_rate
from likewise.calibration.guarantee import Guarantee, MeanGuarantee, check_inside
from likewise.errors import InputError
from likewise.metrics import Sweep

Goal = Callable[[Sweep], int]
"""Chooses one position of a sweep, or raises ValueError if none will do."""


def best_f1(counts: Sweep) -> int:
    """The position with the highest F1; the strictest of equals."""
    return int(counts.f1.argmax())


def best_accuracy(counts: Sweep) -> int:
    """The position with the highest accuracy; the strictest of equals."""
    return int(counts.accuracy.argmax())


for _goal in (best_f1, best_accuracy):  # they depend on how many knowns and unknowns there are
    _goal.of_mix = True  # type: ignore[attr-defined]


def equal_error(counts: Sweep) -> int:
    """The position where false accept and false reject rate differ least; the strictest of equals.

    No threshold may make them exactly equal: `metrics.equal_error_rate` interpolates, a
    threshold cannot.
    """
    # Over a common denominator, so that equals are equal.
    false_rejects = counts.same_total - counts.true_accepts
    gap = _accepted(counts) * counts.same_total - false_rejects * counts.impostor_total
    return int(gap.abs().argmin())


def balanced(unknowns: float = 0.5) -> Goal:
    """The threshold with the least mean of both error rates; the strictest of equals.

    It minimizes unknowns · FPIR + (1 − unknowns) · FNIR: the share of the unknowns that are
    accepted, and the share of the known queries that are rejected or confused with another class.
    So how many of either the calibration holds does not matter. For pairs, FPIR is the false
    accept rate and FNIR the false reject rate. The default for matching.

    Args:
        unknowns: Weight of the unknowns, between 0 and 1, exclusive: their share among the
            queries to come, where both mistakes cost the same.

    Raises:
        InputError: `unknowns` is out of range.

    Example:
        >>> from likewise.metrics import sweep
        >>> distances, known = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1, 1, 0, 0]) > 0
        >>> counts = sweep(distances, known, known=known)
        >>> balanced()(counts), goal_name(balanced())
        (1, 'balanced(0.5)')
    """
    check_inside("unknowns", unknowns, "Use e.g. 0.5.")
    return _named(partial(_balanced, unknowns=unknowns), f"balanced({unknowns!r})")


def _balanced(counts: Sweep, *, unknowns: float) -> int:
    # Over a common denominator, so that equals are equal.
    missed = (counts.to_be_found - counts.true_accepts) * counts.impostor_total
    accepted = _accepted(counts) * counts.to_be_found
    return int((accepted * unknowns + missed.double() * (1 - unknowns)).argmin())


def _accepted(counts: Sweep) -> Tensor:
    """The numerators of the false accept rate, over `impostor_total`; whole without growth."""
    grown = counts.impostor_accepts.double() * counts.growth
    return grown.clamp(max=counts.impostor_total)


def at_most_false_accepts(
    rate: float,
    confidence: float | None = None,
    *,
    on_average: bool = False,
    cautious: bool = False,
) -> Goal:
    """The loosest threshold whose false accept rate stays at or below `rate`.

    A false accept is a different pair that is accepted, and in matching an unknown that is; a
    known query accepted as another class is a miss there.

    As it is, the rate holds for the calibrated pairs: on new ones it is as often above `rate` as
    below. With a confidence it holds for new pairs too, see `Guarantee`; `calibrate` then asks
    which items each pair holds. In matching it holds for queries of new unknown classes, see
    `calibrate_matching`.

    Args:
        rate: between 0 and 1; with a confidence exclusive.
        confidence: with which the true false accept rate is to be at most `rate`, between 0
            and 1, exclusive.
        on_average: Whether, in matching, the mean over all calibrations that could have been
            is at most `rate`, for new unknown classes, see `MeanGuarantee`. It takes fewer
            classes than a confidence, and says less.
        cautious: Whether half of `rate` is aimed at, which new classes exceed twofold less often.

    Raises:
        InputError: if `rate` or `confidence` is out of range, or two of the other three are given;
            by the goal, if every threshold accepts more, or if there are too few independent
            negatives.

    Example:
        >>> goal_name(at_most_false_accepts(0.01, confidence=0.95))
        'at_most_false_accepts(0.01, confidence=0.95)'
    """
    if (confidence is not None) + on_average + cautious > 1:
        raise InputError(
            "confidence, on_average and cautious must be given one at a time, got "
            f"{confidence}, {on_average} and {cautious}."
        )
    if on_average:
        return MeanGuarantee(rate)
    if confidence is not None:
        return Guarantee(rate, confidence)
    check_rate("rate", rate)
    name = f"at_most_false_accepts({rate!r}{', cautious=True' if cautious else ''})"
    goal = _named(partial(_at_most_false_accepts, aim=rate / 2 if cautious else rate), name)
    goal.rate = rate  # type: ignore[attr-defined]  # what the answer says was asked for
    return goal


def _at_most_false_accepts(counts: Sweep, *, aim: float) -> int:
    allowed = int((counts.false_accept_rate <= aim).sum())  # it never falls
    if allowed == 0:
        raise InputError(
            f"no threshold keeps false accepts at or below {aim:.3g}: the closest pair of "
            "all is already a wrong one, and the strictest threshold has "
            f"{float(counts.false_accept_rate[0]):.3g}. Raise the rate, or train further."
        )
    return allowed - 1


def least_cost(*, prior: float, miss_cost: float = 1.0, false_accept_cost: float = 1.0) -> Goal:
    """The threshold whose mistakes are expected to cost least; the strictest of equals.

    The cost of a pair is prior · miss_cost · (1 − true accept rate) + (1 − prior) ·
    false_accept_cost · (false accept rate), so the share of same pairs in the calibration does
    not matter. Accepting nothing is no threshold, even where it would cost less.

    Args:
        prior: share of the pairs to come that are the same, between 0 and 1, exclusive.
        miss_cost: Cost of rejecting a same pair, above 0.
        false_accept_cost: Cost of accepting a different pair, above 0.

    Raises:
        InputError: if an argument is out of range.
    """
    check_inside("prior", prior, "Give the share of pairs that are the same where it is used.")
    check_positive("miss_cost", miss_cost)
    check_positive("false_accept_cost", false_accept_cost)
    goal = partial(_least_cost, missed=prior * miss_cost, accepted=(1 - prior) * false_accept_cost)
    return _named(
        goal,
        f"least_cost(prior={prior!r}, miss_cost={miss_cost!r}, "
        f"false_accept_cost={false_accept_cost!r})",
    )


def _least_cost(counts: Sweep, *, missed: float, accepted: float) -> int:
    misses = counts.same_total - counts.true_accepts
    # Over a common denominator and in whole numbers at first, so that equals are equal.
    of_misses = (misses * counts.impostor_total).double() * missed
    of_accepts = (_accepted(counts) * counts.same_total) * accepted
    return int((of_misses + of_accepts).argmin())


def at_least_precision(precision: float) -> Goal:
    """The loosest threshold whose precision is `precision` or better.

    Stricter thresholds may fall short of it, as precision goes up and down.

    Args:
        precision: between 0 and 1.

    Raises:
        InputError: if `precision` is outside [0, 1]; by the goal, if no threshold reaches it.
    """
    check_rate("precision", precision)
    name = f"at_least_precision({precision!r})"
    goal = _named(partial(_at_least_precision, precision=precision), name)
    goal.of_mix = True  # type: ignore[attr-defined]
    return goal


def _at_least_precision(counts: Sweep, *, precision: float) -> int:
    reached = torch.nonzero(counts.precision >= precision)
    if len(reached) == 0:
        raise InputError(
            f"no threshold reaches a precision of {precision:.3g}: the highest is "
            f"{float(counts.precision.max()):.3g}. Ask for less, or train further."
        )
    return int(reached[-1])


def at_least_recall(recall: float) -> Goal:
    """The strictest threshold whose recall is `recall` or better.

    Recall is the true accept rate of pairs, and the identification rate of matching.

    Args:
        recall: between 0 and 1.

    Raises:
        InputError: if `recall` is outside [0, 1]; by the goal, if no threshold reaches it. That
            happens in search, where a known query can have a wrong nearest neighbor.
    """
    check_rate("recall", recall)
    return _named(partial(_at_least_recall, recall=recall), f"at_least_recall({recall!r})")


def _at_least_recall(counts: Sweep, *, recall: float) -> int:
    reached = torch.nonzero(counts.recall >= recall)
    if len(reached) == 0:
        raise InputError(
            f"no threshold reaches a recall of {recall:.3g}: the highest is "
            f"{float(counts.recall[-1]):.3g}, as other known queries have a wrong nearest "
            "neighbor. Ask for less, or train further."
        )
    return int(reached[0])


def goal_name(goal: Goal) -> str:
    """How a goal reads, e.g. "best_f1" or "at_most_false_accepts(0.001)".

    A function of the caller's goes by its own name, any other callable by that of its class.
    """
    return str(getattr(goal, "__name__", type(goal).__name__))


def named_goal(name: str) -> Goal:
    """The goal that reads so, see `goal_name`: to calibrate again for what was chosen before.

    Raises:
        InputError: No goal of this library reads so.

    Example:
        >>> goal_name(named_goal("at_most_false_accepts(0.01, confidence=0.95)"))
        'at_most_false_accepts(0.01, confidence=0.95)'
    """
    try:
        said = ast.parse(name, mode="eval").body
        called = said.func if isinstance(said, ast.Call) else said
        found = (_MADE if isinstance(said, ast.Call) else _CHOOSE)[ast.unparse(called)]
        made: Goal = found
        if isinstance(said, ast.Call):
            words = {str(each.arg): ast.literal_eval(each.value) for each in said.keywords}
            made = found(*map(ast.literal_eval, said.args), **words)
    except (SyntaxError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"goal must be one of likewise to be chosen for again, got {name!r}. Calibrate again "
            "with the function."
        ) from error
    return made


def _named(goal: Goal, name: str) -> Goal:
    goal.__name__ = name
    return goal


_CHOOSE: dict[str, Any] = {each.__name__: each for each in (best_f1, best_accuracy, equal_error)}
_MADE: dict[str, Any] = {
    each.__name__: each
    for each in (balanced, at_most_false_accepts, least_cost, at_least_precision, at_least_recall)
}
_PLAIN_GOALS: dict[str, Goal] = {
    "balanced": balanced(),
    "best-f1": best_f1,
    "f1": best_f1,
    "accuracy": best_accuracy,
    "equal-error": equal_error,
}
_RATED_GOALS: dict[str, Callable[[float], Goal]] = {
    "balanced": balanced,
    "far": at_most_false_accepts,
    "precision": at_least_precision,
    "recall": at_least_recall,
    "cost": lambda prior: least_cost(prior=prior),
}


def parse_goal(text: str) -> Goal:
    """The goal that a word of the command line means.

    Args:
        text: balanced, balanced=UNKNOWNS, best-f1 (or f1), accuracy, equal-error, far=RATE,
            far=RATE@CONFIDENCE, far=RATE@average, far=RATE@cautious, precision=P, recall=R or
            cost=PRIOR.

    Raises:
        InputError: for any other word, or a number that is none or out of range.

    Example:
        >>> goal_name(parse_goal("far=0.001@0.95"))
        'at_most_false_accepts(0.001, confidence=0.95)'
        >>> goal_name(parse_goal("far=0.05@cautious"))
        'at_most_false_accepts(0.05, cautious=True)'
    """
    if text in _PLAIN_GOALS:
        return _PLAIN_GOALS[text]
    word, equals, number = text.partition("=")
    if word not in _RATED_GOALS or not equals:
        raise InputError(
            "must be one of balanced, balanced=UNKNOWNS, best-f1, accuracy, equal-error, far=RATE, "
            "far=RATE@CONFIDENCE, far=RATE@average, far=RATE@cautious, precision=P, recall=R, "
            f"cost=PRIOR, got {text!r}.",
            argument="goal",
        )
    number, at, kind = number.partition("@") if word == "far" else (number, "", "")
    value = _number(word, number)
    if not at:
        return _RATED_GOALS[word](value)
    if kind in ("average", "cautious"):
        return at_most_false_accepts(
            value, on_average=kind == "average", cautious=kind == "cautious"
        )
    return at_most_false_accepts(value, _number(word, kind))


def _number(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(
            f"{word}= must be followed by a number between 0 and 1, got {text!r}. "
            f"Write e.g. {word}=0.01.",
            argument="goal",
        )
    return value
