"""Counts at every threshold, and what is read off them; scores of probabilities; rankings."""

from likewise.metrics.pairs import (
    average_precision,
    det_curve,
    equal_error_rate,
    min_detection_cost,
    roc_auc,
    roc_curve,
    true_accept_rate_at,
)
from likewise.metrics.probabilities import (
    brier_score,
    cllr,
    expected_calibration_error,
    min_cllr,
    reliability,
)
from likewise.metrics.ranking import average_precision_at_r, precision_at, r_precision, recall_at
from likewise.metrics.sweeps import Sweep, sweep

__all__ = [
    "Sweep",
    "average_precision",
    "average_precision_at_r",
    "brier_score",
    "cllr",
    "det_curve",
    "equal_error_rate",
    "expected_calibration_error",
    "min_cllr",
    "min_detection_cost",
    "precision_at",
    "r_precision",
    "recall_at",
    "reliability",
    "roc_auc",
    "roc_curve",
    "sweep",
    "true_accept_rate_at",
]
