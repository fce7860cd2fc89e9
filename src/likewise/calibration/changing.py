"""Two calibrations of one operating point side by side, and the decisions that change."""

import dataclasses
from dataclasses import dataclass

from likewise import _tables
from likewise.calibration.calibrated import Calibration


@dataclass(frozen=True)
class ThresholdChange:
    """An old and a new threshold, and what the new one decides otherwise.

    Attributes:
        before: The old threshold.
        after: The new one.
        judged: Distances that were looked at: the sample that the new calibration keeps, up to
            1,000; 0 where the two are for another rule or k, so that they cannot be compared.
        accepted_now: How many of them are accepted by the new threshold alone.
        rejected_now: How many were accepted by the old threshold alone.
    """

    before: float
    after: float
    judged: int
    accepted_now: int
    rejected_now: int

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        return _tables.Table("Threshold", _tables.fields(self))

    def __str__(self) -> str:
        moved = f"threshold before {self.before:.4g}, now {self.after:.4g}"
        if not self.judged:
            return f"{moved}; another rule, so decisions cannot be compared"
        changed = self.accepted_now + self.rejected_now
        return (
            f"{moved}; of {self.judged:,} judged distances {changed:,} are decided otherwise: "
            f"{self.accepted_now:,} accepted now, {self.rejected_now:,} no longer"
        )

    def to_dict(self) -> dict[str, float]:
        """All of it, ready for JSON."""
        return dataclasses.asdict(self)


def threshold_change(before: Calibration, after: Calibration) -> ThresholdChange:
    """What a new calibration of an operating point decides otherwise than the old one.

    Args:
        before: The old calibration.
        after: The new one, on whose distances both thresholds are compared.

    Example:
        >>> import torch
        >>> from likewise.calibration import calibrate
        >>> distances = torch.linspace(0.05, 1, 20)
        >>> before = calibrate(distances, distances < 0.31)
        >>> print(threshold_change(before, calibrate(distances, distances < 0.51)))
        threshold before 0.3, now 0.5; of 20 judged distances 4 are decided otherwise: 4 accepted
        now, 0 no longer
    """
    sample = after.sample if (before.rule, before.k) == (after.rule, after.k) else ()
    old, new = ([far <= made.threshold for far in sample] for made in (before, after))
    return ThresholdChange(
        before.threshold,
        after.threshold,
        len(sample),
        sum(b and not a for a, b in zip(old, new, strict=True)),
        sum(a and not b for a, b in zip(old, new, strict=True)),
    )
