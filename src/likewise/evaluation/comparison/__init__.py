"""Two models on the same queries, pairs or seeds: which is ahead, by how much, how surely."""

from likewise.evaluation.comparison.comparing import compare, compare_classes, compare_runs
from likewise.evaluation.comparison.result import Comparison, Difference, together

__all__ = [
    "Comparison",
    "Difference",
    "compare",
    "compare_classes",
    "compare_runs",
    "together",
]
