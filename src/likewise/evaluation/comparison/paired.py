"""The difference of two models on the same data: an interval, and a p-value that agrees with it."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr, stdtr, stdtrit
from torch import Tensor

from likewise import intervals
from likewise.intervals import FEWEST_GROUPS, Estimate

Tested = tuple[Estimate, float]  # a difference and its p-value


def of_scores(a: Float[Tensor, " q"], b: Float[Tensor, " q"]) -> Tested:
    """The mean difference of scores, queries taken as independent."""
    if bool(((a == 0) | (a == 1)).all()) and bool(((b == 0) | (b == 1)).all()):
        return of_hits(a == 1, b == 1)
    return of_values(a - b)


def of_values(values: Float[Tensor, " n"]) -> Tested:
    """The mean of differences by Student's t, which are taken as independent."""
    # What float32 scores round to is no spread.
    if len(values) and float(values.max() - values.min()) <= 1e-6 * float(values.abs().max()):
        values = torch.full_like(values, float(values.mean()))
    return _student(intervals.mean(values), values, len(values) - 1)


def of_groups(values: Float[Tensor, " n"], groups: Int[Tensor, " n"]) -> Tested:
    """The mean of differences by Student's t, leaving out one group at a time."""
    return _student(intervals.mean(values, groups=groups), values, len(torch.unique(groups)) - 1)


def of_parts(whole: float, without: Float[Tensor, " p"], *, groups: int | None = None) -> Tested:
    """A difference by Student's t, from its values without each part of the data."""
    estimate = intervals.from_left_out(whole, without, groups=groups)
    return _student(estimate, F.pad(without, (1, 0), value=whole), len(without) - 1)


def of_left_out(
    differences: Callable[[Bool[Tensor, " n"]], Sequence[float]],
    groups: Int[Tensor, "n s"],
    *,
    most_groups: int,
) -> list[Tested]:
    """Differences of the rows to keep, by Student's t, leaving out groups of rows."""
    found = intervals.leave_out(differences, groups, most_groups=most_groups, fewest=FEWEST_GROUPS)
    if not len(found.without):
        return [of_few(float(whole), found.groups) for whole in found.whole]
    return [
        of_parts(float(whole), without, groups=found.groups)
        for whole, without in zip(found.whole, found.without.T, strict=True)
    ]


def of_few(value: float, groups: int) -> Tested:
    """A difference over too few groups for an interval; equal models need none."""
    return intervals.too_few(value, groups), 1.0 if value == 0 else math.nan


def of_hits(a: Bool[Tensor, " q"], b: Bool[Tensor, " q"]) -> Tested:
    """The difference of two shares of the same queries, by the exact test of McNemar.

    With m queries on which the two differ, of which a has k right, the difference is
    (2 k / m - 1) * m / q. Both factors have exact binomial intervals, and the interval of the
    product is its range over the ellipse that the two span. The sign is that of the first
    factor alone, whose interval misses 0 exactly when the p-value is below 0.05.
    """
    wins, losses = int((a & ~b).sum()), int((b & ~a).sum())
    differing = wins + losses
    share = intervals.binomial(differing, len(a))
    method = (
        f"95% from exact binomials of the {differing} of {len(a)} queries where the two differ "
        "and of those that each has right, queries taken as independent; McNemar's exact test"
    )
    if differing == 0:
        return Estimate(0.0, -share.high, share.high, method), 1.0
    lead = intervals.binomial(wins, differing)
    angle = np.linspace(0, 2 * math.pi, 721)  # with the ends of both axes
    first, second = (
        factor.value
        + np.where(turn > 0, factor.high - factor.value, factor.value - factor.low) * turn
        for factor, turn in ((lead, np.cos(angle)), (share, np.sin(angle)))
    )
    product = (2 * first - 1) * second
    p_value = min(1.0, 2 * float(bdtr(min(wins, losses), differing, 0.5)))
    value = (wins - losses) / len(a)
    return Estimate(value, float(product.min()), float(product.max()), method), p_value


def _student(estimate: Estimate, values: Tensor, freedom: int) -> Tested:
    if math.isnan(estimate.low):
        return estimate, 1.0 if bool((values == 0).all()) else math.nan
    reach = (estimate.high - estimate.low) / 2
    ratio = abs(estimate.value) / reach * float(stdtrit(freedom, 0.975))
    return estimate, 2 * float(stdtr(freedom, -ratio))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several (Holm); nan stays, and counts as no test."""
    order = sorted(
        (place for place, p in enumerate(p_values) if not math.isnan(p)), key=p_values.__getitem__
    )
    adjusted, most = list(p_values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = most
    return adjusted
