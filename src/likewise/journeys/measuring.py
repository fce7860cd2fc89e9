"""A calibration as the plain values that a service and an exported model tell of it."""

import math
from dataclasses import replace
from typing import Any

from likewise.calibration import Calibration
from likewise.intervals import Estimate
from likewise.model.trials import PAIRS
from likewise.runtime.measured import Guarantee, Measured, Rate, UnknownsJudged


def measured(made: Calibration, guarantee: Any, gallery_size: int) -> Measured:
    """What an operating point guarantees, and what was measured of it.

    Args:
        made: Its calibration.
        guarantee: Its guarantee, or that of all classes together; None for none.
        gallery_size: Known items now.

    Example:
        >>> import torch
        >>> from likewise.calibration import calibrate
        >>> distances = torch.tensor([0.1, 0.2, 0.8, 0.9])
        >>> made = calibrate(distances, distances < 0.5, rule="pairs")
        >>> measured(made, None, 0).same_rejected.value
        0.0
    """
    pairs = made.rule == PAIRS
    kept = None
    if guarantee is not None:
        whole = replace(made, guarantee=guarantee)
        kept = Guarantee(
            sentence=str(whole.guaranteed),
            rate=guarantee.rate,
            confidence=guarantee.confidence,
            holds_for=guarantee.holds_for,
            gallery_size=made.gallery_size,
            outgrown=None if pairs else whole.outgrown(gallery_size),
        )
    return Measured(
        guarantee=kept,
        unknowns_accepted=None if pairs else _rate(made.false_positive_rate),
        knowns_missed=None if pairs else _rate(made.false_negative_rate),
        unknowns=[
            UnknownsJudged(
                sentence=str(each),
                kind=each.kind,
                items=each.items,
                classes=each.classes,
                accepted=_as_rate(each.accepted),
                asked=each.asked,
                expected=each.expected,
            )
            for each in made.unknowns
        ],
        different_accepted=_rate(made.false_accept_rate) if pairs else None,
        same_rejected=_less(made.true_accept_rate) if pairs else None,
    )


def _rate(told: Estimate | None) -> Rate | None:
    return None if told is None else _as_rate(told)


def _as_rate(told: Estimate) -> Rate:
    value, low, high = _finite(told.value), _finite(told.low), _finite(told.high)
    return Rate(value, low, high, told.method)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _less(told: Estimate | None) -> Rate | None:
    if told is None:
        return None
    return _as_rate(Estimate(1 - told.value, 1 - told.high, 1 - told.low, told.method))
