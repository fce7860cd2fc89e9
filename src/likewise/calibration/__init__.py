"""From pairs whose truth is known to a threshold, and what that threshold costs and guarantees."""

from likewise.calibration.by_class import ClassThresholds, calibrate_per_class
from likewise.calibration.calibrated import Calibration
from likewise.calibration.calibrating import (
    GivenUnknowns,
    calibrate,
    calibrate_all,
    calibrate_matching,
)
from likewise.calibration.changing import ThresholdChange, threshold_change
from likewise.calibration.cross_fit import CrossFit, carried, class_folds
from likewise.calibration.goals import (
    Goal,
    at_least_precision,
    at_least_recall,
    at_most_false_accepts,
    balanced,
    best_accuracy,
    best_f1,
    equal_error,
    goal_name,
    least_cost,
    named_goal,
    parse_goal,
)
from likewise.calibration.guarantee import Guarantee, KeptGuarantee, MeanGuarantee, disjoint_rows
from likewise.calibration.known_distances import KnownDistances
from likewise.calibration.unknowns import UnknownsJudged

__all__ = [
    "Calibration",
    "ClassThresholds",
    "CrossFit",
    "GivenUnknowns",
    "Goal",
    "Guarantee",
    "KeptGuarantee",
    "KnownDistances",
    "MeanGuarantee",
    "ThresholdChange",
    "UnknownsJudged",
    "at_least_precision",
    "at_least_recall",
    "at_most_false_accepts",
    "balanced",
    "best_accuracy",
    "best_f1",
    "calibrate",
    "calibrate_all",
    "calibrate_matching",
    "calibrate_per_class",
    "carried",
    "class_folds",
    "disjoint_rows",
    "equal_error",
    "goal_name",
    "least_cost",
    "named_goal",
    "parse_goal",
    "threshold_change",
]
