"""Counts at every threshold and what is read off them; probabilities; rankings; clusters."""

from likewise.metrics.clustering import cluster, mutual_information
from likewise.metrics.pair_curves import (
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
from likewise.metrics.ranking import (
    average_precision_at,
    average_precision_at_r,
    average_precision_of_ranking,
    first_relevant_rank,
    graded_ndcg_at,
    mean_by_class,
    ndcg_at,
    precision_at,
    r_precision,
    recall_at,
    share_found_at,
)
from likewise.metrics.sweeps import Sweep, sweep

__all__ = [
    "Sweep",
    "average_precision",
    "average_precision_at",
    "average_precision_at_r",
    "average_precision_of_ranking",
    "brier_score",
    "cllr",
    "cluster",
    "det_curve",
    "equal_error_rate",
    "expected_calibration_error",
    "first_relevant_rank",
    "graded_ndcg_at",
    "mean_by_class",
    "min_cllr",
    "min_detection_cost",
    "mutual_information",
    "ndcg_at",
    "precision_at",
    "r_precision",
    "recall_at",
    "reliability",
    "roc_auc",
    "roc_curve",
    "share_found_at",
    "sweep",
    "true_accept_rate_at",
]
