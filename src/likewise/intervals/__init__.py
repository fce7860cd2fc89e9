"""Numbers with their intervals: exact binomial bounds, means, and a jackknife over groups."""

from likewise.intervals.estimate import A_RATE, ANYWHERE, Estimate
from likewise.intervals.leaving_out import (
    FEWEST_GROUPS,
    checked_items,
    from_left_out,
    jackknife,
    jackknife_all,
    leave_out,
    merge_groups,
    too_few,
)
from likewise.intervals.means import mean
from likewise.intervals.shares import binomial, f1

__all__ = [
    "ANYWHERE",
    "A_RATE",
    "FEWEST_GROUPS",
    "Estimate",
    "binomial",
    "checked_items",
    "f1",
    "from_left_out",
    "jackknife",
    "jackknife_all",
    "leave_out",
    "mean",
    "merge_groups",
    "too_few",
]
