"""From pairs whose truth is known to a threshold, and what that threshold costs and promises."""

from likewise.calibration.calibrating import Calibration, calibrate
from likewise.calibration.goals import (
    Goal,
    at_least_precision,
    at_least_recall,
    at_most_false_accepts,
    best_accuracy,
    best_f1,
    equal_error,
    goal_name,
    least_cost,
    parse_goal,
)
from likewise.calibration.promise import KeptPromise, Promise, disjoint_rows

__all__ = [
    "Calibration",
    "Goal",
    "KeptPromise",
    "Promise",
    "at_least_precision",
    "at_least_recall",
    "at_most_false_accepts",
    "best_accuracy",
    "best_f1",
    "calibrate",
    "disjoint_rows",
    "equal_error",
    "goal_name",
    "least_cost",
    "parse_goal",
]
