"""Numbers with their intervals: exact binomial bounds, means, and a jackknife over groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Num
from scipy.special import betaincinv, expit, logit, stdtrit
from torch import Tensor

from likewise._checks import check_count, check_finite, check_labels

ANYWHERE = (-math.inf, math.inf)
A_RATE = (0.0, 1.0)
FEWEST_GROUPS = 10
"""With fewer items or classes no claim is made about others: every evaluation asks for these."""


@dataclass(frozen=True)
class Estimate:
    """A number, its interval, and how the interval was made.

    `float(estimate)` is the value, `format(estimate, ".3f")` formats it, and
    `str(estimate)` reads "0.912 [0.881, 0.937]". Where no interval can be given, `low` and
    `high` are nan and `method` says why.
    """

    value: float
    low: float
    high: float
    method: str

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float | str | None]:
        """The four fields, ready for JSON: nan becomes None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        kept = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return {**kept, "method": self.method}

    @classmethod
    def from_dict(cls, fields: object) -> "Estimate":
        """The estimate that `to_dict` wrote.

        Raises:
            ValueError: if `fields` is not such a dict.
        """
        if not isinstance(fields, Mapping) or set(fields) != {"value", "low", "high", "method"}:
            raise ValueError(
                f"an estimate must be a dict of value, low, high and method, got {fields!r}."
            )
        numbers = [fields["value"], fields["low"], fields["high"]]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float, type(None))):
                raise ValueError(f"an estimate must hold numbers or None, got {number!r}.")
        if not isinstance(fields["method"], str):
            raise ValueError(f"an estimate's method must be text, got {fields['method']!r}.")
        value, low, high = (math.nan if number is None else float(number) for number in numbers)
        return cls(value, low, high, fields["method"])


def binomial(successes: int, total: int, *, confidence: float = 0.95) -> Estimate:
    """The share successes / total with its exact (Clopper-Pearson) interval.

    Cases are taken as independent. The interval covers the true share with at least
    `confidence`, whatever the share, and has a width even for 0 or all successes. With a
    total of 0, value and bounds are nan.

    Args:
        successes: how many cases went well, 0 to total.
        total: how many cases there were.
        confidence: between 0 and 1, exclusive.

    Raises:
        ValueError: for more successes than cases, or a confidence outside (0, 1).

    Source:
        Clopper & Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case
        of the Binomial", Biometrika 1934.

    Example:
        >>> print(binomial(9, 10))
        0.900 [0.555, 0.997]
    """
    check_count("total", total, least=0)
    check_count("successes", successes, least=0)
    _check_confidence(confidence)
    if successes > total:
        raise ValueError(f"successes must be at most the total of {total}, got {successes}.")
    if total == 0:
        return _without_interval(math.nan, "there are no cases")
    tail = (1 - confidence) / 2
    failures = total - successes
    low = 0.0 if successes == 0 else float(betaincinv(successes, failures + 1, tail))
    high = 1.0 if failures == 0 else float(betaincinv(successes + 1, failures, 1 - tail))
    method = f"{confidence:.0%} exact binomial (Clopper-Pearson), cases taken as independent"
    return Estimate(successes / total, low, high, method)


def f1(hits: int, failures: int, double_failures: int = 0, *, confidence: float = 0.95) -> Estimate:
    """The F1 of counts, 2 hits / (2 hits + failures + 2 double_failures), with its interval.

    F1 rises with the share of hits among hits and failures, and that share is binomial, so
    its Clopper-Pearson bounds carry over. That is exact when no failure can be double; else
    the share of double ones among the failures is held at the one observed (none, if nothing
    failed). With no hit and no failure, value and bounds are nan.

    Args:
        hits: right answers (true positives).
        failures: cases that are a wrong answer or a missing one.
        double_failures: cases that are both, a wrong answer where a right one existed;
            they count in precision and in recall.
        confidence: between 0 and 1, exclusive.

    Raises:
        ValueError: for a negative count, or a confidence outside (0, 1).

    Example:
        >>> print(f1(90, 20))
        0.900 [0.846, 0.939]
    """
    check_count("hits", hits, least=0)
    check_count("failures", failures, least=0)
    check_count("double_failures", double_failures, least=0)
    wrong = failures + double_failures
    share = binomial(hits, hits + wrong, confidence=confidence)
    if hits + wrong == 0:
        return share
    weight = (failures + 2 * double_failures) / wrong if wrong else 1.0

    def of(p: float) -> float:
        return 2 * p / (2 * p + weight * (1 - p))

    method = (
        f"{confidence:.0%} exact binomial (Clopper-Pearson) of hits among hits and failures, "
        "turned into F1, cases taken as independent"
    )
    return Estimate(of(share.value), of(share.low), of(share.high), method)


def mean(
    values: Num[Tensor, " n"],
    *,
    groups: Int[Tensor, " n"] | None = None,
    confidence: float = 0.95,
    within: tuple[float, float] = ANYWHERE,
) -> Estimate:
    """The mean of values with a Student t interval.

    Without groups the values are taken as independent (n - 1 degrees of freedom). With
    groups only the groups are, and the interval comes from leaving out one group at a time
    (G - 1 degrees of freedom), however many there are. Fewer than two values or groups, or
    values without any spread, give no interval; no values give nan.

    Args:
        values: finite, (n,).
        groups: which group a value belongs to, (n,); any integers.
        confidence: between 0 and 1, exclusive.
        within: the range a mean can have; the bounds are cut to it.

    Raises:
        ValueError: for NaN or infinity among the values, or groups of another length.

    Example:
        >>> print(mean(torch.tensor([0.2, 0.4, 0.9])))
        0.500 [-0.396, 1.396]
        >>> print(mean(torch.tensor([0.2, 0.4, 0.9]), within=(0.0, 1.0)))
        0.500 [0.000, 1.000]
    """
    _check_confidence(confidence)
    _check_values(values)
    x = values.detach().cpu().double().numpy()
    if len(x) == 0:
        return _without_interval(math.nan, "there are no values")
    value = float(x.mean())
    if groups is None:
        if len(x) < 2:
            return _without_interval(value, "there is only one value")
        error = float(x.std(ddof=1)) / math.sqrt(len(x))
        method = f"{confidence:.0%} Student t over {len(x)} values taken as independent"
        return _student(value, error, len(x) - 1, confidence, within, method)
    check_labels(groups, len(x), "groups")
    _, group = np.unique(groups.cpu().numpy(), return_inverse=True)
    sizes = np.bincount(group)
    if len(sizes) < 2:
        return _without_interval(value, "all values are of one group")
    without = (x.sum() - np.bincount(group, weights=x)) / (len(x) - sizes)
    method = _jackknife_method(confidence, len(sizes), len(sizes))
    return _from_left_out(value, without, confidence, within, method)


def jackknife(
    statistic: Callable[[Bool[Tensor, " n"]], float],
    groups: Int[Tensor, "n *slots"],
    *,
    confidence: float = 0.95,
    most_groups: int = 100,
    within: tuple[float, float] = ANYWHERE,
) -> Estimate:
    """A statistic of grouped rows, with its leave-one-group-out interval.

    The value is the statistic of all rows. With G groups and the G values that leave one of
    them out, the standard error is sqrt((G - 1) / G * sum of squared deviations from their
    mean), the same as that of the mean of the pseudo-values, and the interval is Student's
    with G - 1 degrees of freedom. Groups may differ in size; they are taken as independent,
    rows within them are not.

    For a rate, `within=(0.0, 1.0)`, all of this is done with its log-odds and turned back: near
    0 and 1 a rate strays farther inwards than outwards, and an even interval would miss it on
    one side. With 12 classes and an area under the ROC of 0.95 the even one covered 85%, this
    one 97%.

    A row can belong to several groups, as a pair does to both of its items: it goes when any
    of them is left out. More than `most_groups` groups are first merged at random (always
    the same way) into that many of equal number, so that the statistic is called at most
    `most_groups + 1` times.

    Args:
        statistic: called with the rows to keep, (n,); may return nan where it is undefined.
        groups: the group of each row, (n,), or its groups, (n, s); any integers.
        confidence: between 0 and 1, exclusive.
        most_groups: at least 2.
        within: the range the statistic can have; (0.0, 1.0) for a rate. The bounds stay in it.

    Returns:
        The estimate; without an interval if the statistic is undefined without one of the
        groups, or has the same value without any of them.

    Raises:
        ValueError: if there are fewer than two groups.

    Source:
        Tukey, "Bias and Confidence in Not-Quite Large Samples", 1958; Efron & Stein, "The
        Jackknife Estimate of Variance", Annals of Statistics 1981. The value here is not
        corrected for bias. Log-odds: Pepe, "The Statistical Evaluation of Medical Tests", 2003.

    Example:
        >>> x, person = torch.tensor([1.0, 1.2, 3.0, 3.4, 2.0]), torch.tensor([0, 0, 1, 1, 2])
        >>> print(jackknife(lambda keep: float(x[keep].median()), person))
        2.000 [-3.163, 7.163]
    """
    (estimate,) = jackknife_all(
        lambda keep: [statistic(keep)],
        groups,
        confidence=confidence,
        most_groups=most_groups,
        within=within,
    )
    return estimate


def jackknife_all(
    statistics: Callable[[Bool[Tensor, " n"]], Sequence[float]],
    groups: Int[Tensor, "n *slots"],
    *,
    confidence: float = 0.95,
    most_groups: int = 100,
    within: tuple[float, float] = ANYWHERE,
) -> list[Estimate]:
    """Like `jackknife`, for several statistics that share their work; one estimate each."""
    _check_confidence(confidence)
    check_count("most_groups", most_groups, least=2)
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.ndim not in (1, 2):
        raise ValueError(
            "groups must be an integer tensor of shape (n,) or (n, s), "
            f"got {_describe(groups)}. Give one row of group numbers per row of the data."
        )
    names, part = np.unique(groups.cpu().numpy(), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"groups must hold at least 2 different groups, got {len(names)}. "
            "Nothing can be learnt about their spread from one."
        )
    count = min(len(names), most_groups)
    if len(names) > most_groups:
        part = (np.random.default_rng(0).permutation(len(names)) % most_groups)[part]
    slots = torch.from_numpy(part.reshape(len(groups), -1).T.astype(np.int32))

    def keep(left_out: int) -> Bool[Tensor, " n"]:
        kept = torch.ones(len(groups), dtype=torch.bool)
        for slot in slots:  # a few columns; far faster than `all` along a dimension of two
            kept &= slot != left_out
        return kept

    whole = statistics(torch.ones(len(groups), dtype=torch.bool))
    without = np.array([statistics(keep(left_out)) for left_out in range(count)])
    method = _jackknife_method(confidence, count, len(names))
    return [
        _from_left_out(float(value), left_out, confidence, within, method)
        for value, left_out in zip(whole, without.T, strict=True)
    ]


def checked_items(items: object, pairs: int) -> Int[Tensor, "p s"]:
    """The items (or classes) that each pair holds, as groups to be left out, (p, s).

    Raises:
        ValueError: for anything but a row per pair, or fewer than 10 different items.
        TypeError: for numbers that are no integers.
    """
    if not isinstance(items, Tensor) or items.ndim not in (1, 2) or len(items) != pairs:
        got = tuple(items.shape) if isinstance(items, Tensor) else type(items).__name__
        raise ValueError(
            f"items must be a tensor of shape ({pairs}, 2) or ({pairs},), one row per pair, "
            f"got {got}. Give the two items, or the class, that each pair holds."
        )
    if items.is_floating_point() or items.dtype == torch.bool:
        raise TypeError(f"items must be integers, got {items.dtype}. Use items.long().")
    distinct = len(np.unique(items.cpu().numpy()))
    if distinct < FEWEST_GROUPS:
        raise ValueError(
            f"items must name at least {FEWEST_GROUPS} different items (or classes), got "
            f"{distinct}. Leave items out, and claim nothing beyond these."
        )
    return items.cpu().reshape(pairs, -1)


def _jackknife_method(confidence: float, parts: int, groups: int) -> str:
    merged = f", {groups} groups merged into {parts}" if parts < groups else ""
    return (
        f"{confidence:.0%} jackknife leaving out each of {parts} groups in turn{merged}, "
        "Student t; groups taken as independent"
    )


def _from_left_out(
    value: float,
    without: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    confidence: float,
    within: tuple[float, float],
    method: str,
) -> Estimate:
    if not np.isfinite(without).all():
        return _without_interval(value, "it is undefined without some of the groups")
    plain = _student(value, _error(without), len(without) - 1, confidence, within, method)
    if within != A_RATE or not 0 < value < 1 or math.isnan(plain.low):
        return plain
    error = _error(without) / (value * (1 - value))  # by the slope, where some are 0 or 1
    if ((without > 0) & (without < 1)).all():
        error = _error(logit(without))
    reach = float(stdtrit(len(without) - 1, (1 + confidence) / 2)) * error
    low, high = (float(expit(logit(value) + step)) for step in (-reach, reach))
    return Estimate(value, low, high, method.replace("Student t", "Student t on log-odds"))


def _error(without: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    g = len(without)
    return math.sqrt((g - 1) / g * float(((without - without.mean()) ** 2).sum()))


def _student(
    value: float,
    error: float,
    freedom: int,
    confidence: float,
    within: tuple[float, float],
    method: str,
) -> Estimate:
    # Equal values would give an interval of width zero, a certainty that nobody has.
    if error <= 1e-12 * max(1.0, abs(value)):
        return _without_interval(value, "it is the same in every part of the data")
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Estimate(value, max(value - reach, within[0]), min(value + reach, within[1]), method)


def _without_interval(value: float, why: str) -> Estimate:
    return Estimate(value, math.nan, math.nan, f"no interval: {why}")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be between 0 and 1, exclusive, got {confidence}. Use e.g. 0.95."
        )


def _check_values(values: object) -> None:
    if not isinstance(values, Tensor) or values.ndim != 1:
        raise ValueError(
            f"values must be a tensor of shape (n,), got {_describe(values)}. Use .flatten()."
        )
    check_finite(values, "values")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
