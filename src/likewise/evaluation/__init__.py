"""What a model is worth: retrieval, matching and verification, every number with an interval."""

from likewise.evaluation.baseline import Baseline, compare_with_baseline
from likewise.evaluation.comparison import (
    Comparison,
    Difference,
    compare,
    compare_classes,
    compare_runs,
    together,
)
from likewise.evaluation.dimensions import DimensionsResult, evaluate_dimensions
from likewise.evaluation.during import EvaluateEpochs, seen_and_unseen
from likewise.evaluation.few_shot import (
    FewShotResult,
    OneShotResult,
    evaluate_few_shot,
    evaluate_one_shot_runs,
)
from likewise.evaluation.folds import FoldsResult, evaluate_folds
from likewise.evaluation.judged_search import SearchResult, evaluate_search
from likewise.evaluation.matching import MatchingResult, evaluate_matching
from likewise.evaluation.mistakes import (
    ConfusedClasses,
    FoundPairs,
    confused_classes,
    farthest_right,
    nearest_others,
    nearest_wrong,
)
from likewise.evaluation.open_set import OpenSetResult, evaluate_open_set
from likewise.evaluation.protocols import evaluate_benchmark
from likewise.evaluation.repetition import Repeated, repeat
from likewise.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from likewise.evaluation.verifying import VerificationResult, evaluate_verification

__all__ = [
    "Baseline",
    "Comparison",
    "ConfusedClasses",
    "Difference",
    "DimensionsResult",
    "EvaluateEpochs",
    "FewShotResult",
    "FoldsResult",
    "FoundPairs",
    "MatchingResult",
    "OneShotResult",
    "OpenSetResult",
    "Repeated",
    "RetrievalResult",
    "SearchResult",
    "VerificationResult",
    "compare",
    "compare_classes",
    "compare_runs",
    "compare_with_baseline",
    "confused_classes",
    "evaluate_benchmark",
    "evaluate_dimensions",
    "evaluate_few_shot",
    "evaluate_folds",
    "evaluate_matching",
    "evaluate_one_shot_runs",
    "evaluate_open_set",
    "evaluate_retrieval",
    "evaluate_search",
    "evaluate_verification",
    "farthest_right",
    "nearest_others",
    "nearest_wrong",
    "repeat",
    "seen_and_unseen",
    "together",
]
