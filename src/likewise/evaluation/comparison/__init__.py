"""Two models on the same queries, pairs or seeds: which is ahead, by how much, how surely."""

from likewise.evaluation.comparison.comparison_result import Comparison, Difference, together
from likewise.evaluation.comparison.two_models import compare, compare_classes, compare_runs

__all__ = [
    "Comparison",
    "Difference",
    "compare",
    "compare_classes",
    "compare_runs",
    "together",
]
