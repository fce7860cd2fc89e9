"""Means with Student t intervals."""

import math

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor

from likewise._checks import as_tensors, check_finite, check_labels
from likewise.errors import InputError
from likewise.intervals.estimate import (
    ANYWHERE,
    Estimate,
    check_confidence,
    student,
    without_interval,
)
from likewise.intervals.leaving_out import from_left_out


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
        InputError: for NaN or infinity among the values, or groups of another length.

    Example:
        >>> print(mean(torch.tensor([0.2, 0.4, 0.9])))
        0.500 [-0.396, 1.396]
        >>> print(mean(torch.tensor([0.2, 0.4, 0.9]), within=(0.0, 1.0)))
        0.500 [0.000, 1.000]
    """
    check_confidence(confidence)
    values, groups = as_tensors(values=values, groups=groups)
    _check_values(values)
    x = values.detach().cpu().double().numpy()
    if len(x) == 0:
        return without_interval(math.nan, "there are no values")
    value = float(x.mean())
    if groups is None:
        if len(x) < 2:
            return without_interval(value, "there is only one value")
        error = float(x.std(ddof=1)) / math.sqrt(len(x))
        method = f"{confidence:.0%} Student t over {len(x)} values taken as independent"
        return student(value, error, len(x) - 1, confidence, within, method)
    check_labels(groups, len(x), "groups")
    _, group = np.unique(groups.cpu().numpy(), return_inverse=True)
    sizes = np.bincount(group)
    if len(sizes) < 2:
        return without_interval(value, "all values are of one group")
    without = torch.from_numpy((x.sum() - np.bincount(group, weights=x)) / (len(x) - sizes))
    return from_left_out(value, without, confidence=confidence, within=within)


def _check_values(values: object) -> None:
    if not isinstance(values, Tensor) or values.ndim != 1:
        got = type(values).__name__
        if isinstance(values, Tensor):
            got = f"{values.dtype} of shape {tuple(values.shape)}"
        raise InputError(f"values must be a tensor of shape (n,), got {got}. Use .flatten().")
    check_finite(values, "values")
