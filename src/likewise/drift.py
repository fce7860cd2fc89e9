"""Do today's distances still look like those that were calibrated on?"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from likewise import _tables
from likewise._checks import check_finite, check_rate
from likewise.calibration import Calibration
from likewise.errors import InputError

__all__ = ["Drift", "check_drift"]

MOST = 10_000  # new distances that are looked at
FALSE_ALARM = 0.01


@dataclass(frozen=True)
class Drift:
    """How far the distances of today are from those calibrated on.

    Attributes:
        drifted: whether the gap is too large for chance.
        gap: largest difference between the shares of both that lie at or below any one distance.
        at: The distance where the gap is largest.
        noticed: About the smallest gap that this number of distances tells from chance.
        p_value: chance of such a gap, or a larger one, where nothing has changed.
        false_alarm: chance of an alarm where nothing has changed, at most.
        before: how many distances of the calibration were looked at.
        now: how many of today's.
        accepted_before: share of those at or below the threshold.
        accepted_now: the same of today's.
    """

    drifted: bool
    gap: float
    at: float
    noticed: float
    p_value: float
    false_alarm: float
    before: int
    now: int
    accepted_before: float
    accepted_now: float

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def advice(self) -> str:
        """What to do, in one sentence."""
        if self.drifted:
            return (
                f"The distances have changed (gap {self.gap:.3f}, chance {self.p_value:.2g}; "
                f"{self.accepted_now:.1%} accepted, {self.accepted_before:.1%} before): calibrate "
                "again, with data of today."
            )
        return (
            f"No change is seen: the gap is {self.gap:.3f}, and about {self.noticed:.3f} is the "
            f"least that {self.now:,} distances would show."
        )

    def __str__(self) -> str:
        return self.advice

    def to_dict(self) -> dict[str, object]:
        """The fields, ready for JSON, and the advice."""
        return {**dataclasses.asdict(self), "advice": self.advice}


def check_drift(
    calibration: Calibration, distances: Float[Tensor, " n"], *, false_alarm: float = FALSE_ALARM
) -> Drift:
    """Whether distances of today look like those of a calibration, by the two-sample KS test.

    Where nothing has changed there is an alarm with a chance of `false_alarm` or less, whatever
    the distances, exactly and for any number of them; ties make it rarer. That is the chance of
    one check: of 100 with 0.01, one alarm is to be expected.

    The distances must be made as those of the calibration were: of independent pairs that share
    no item, or one per query by the same rule; with as large a share of same pairs, or of
    unknowns, for another mixture is a change too. Of more than 10,000 some are drawn at random,
    always the same ones.

    Args:
        calibration: keeps a sample of the distances it was made from.
        distances: Distances of today; inf where no neighbor had a vote.
        false_alarm: above 0 and below 1.

    Raises:
        InputError: no distances, NaN, a false alarm out of range, or a calibration without a
            sample.

    Source:
        Smirnov 1939; its exact distribution as in Hodges, "The Significance Probability of the
        Smirnov Two-Sample Test", Arkiv för Matematik 1958, from SciPy.

    Example:
        >>> import torch
        >>> from likewise.calibration import calibrate
        >>> rng = torch.Generator().manual_seed(0)
        >>> before = torch.rand(400, generator=rng)
        >>> calibration = calibrate(before, before < 0.5)
        >>> check_drift(calibration, torch.rand(300, generator=rng)).drifted
        False
        >>> check_drift(calibration, 0.2 + torch.rand(300, generator=rng)).drifted
        True
    """
    check_rate("false_alarm", false_alarm)
    if false_alarm in (0, 1):
        raise InputError(f"false_alarm must be above 0 and below 1, got {false_alarm}.")
    if not calibration.sample:
        raise InputError(
            "calibration must keep a sample of its distances, got none. "
            "Calibrate again with this version."
        )
    if not isinstance(distances, Tensor) or distances.ndim != 1 or not len(distances):
        got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise InputError(f"distances must be a tensor of shape (n,) with n >= 1, got {got}.")
    check_finite(distances[~distances.isposinf()], "distances")
    now = distances.detach().cpu().double().numpy()
    if len(now) > MOST:
        now = now[np.random.default_rng(0).permutation(len(now))[:MOST]]
    before, now = np.array(calibration.sample), np.sort(now)
    m, n = len(before), len(now)
    test = stats.ks_2samp(before, now, method="exact")
    return Drift(
        drifted=bool(test.pvalue <= false_alarm),
        gap=float(test.statistic),
        at=float(test.statistic_location),
        # Smirnov's bound for large samples.
        noticed=min(1.0, math.sqrt((math.log(2) - math.log(false_alarm)) * (m + n) / (2 * m * n))),
        p_value=float(test.pvalue),
        false_alarm=float(false_alarm),
        before=m,
        now=n,
        accepted_before=float((before <= calibration.threshold).mean()),
        accepted_now=float((now <= calibration.threshold).mean()),
    )
