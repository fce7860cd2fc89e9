"""What a model is worth: retrieval, matching and verification, every number with an interval."""

from likewise.evaluation.folds import FoldsResult, evaluate_folds
from likewise.evaluation.matching import MatchingResult, evaluate_matching
from likewise.evaluation.open_set import OpenSetResult, evaluate_open_set
from likewise.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from likewise.evaluation.verification import VerificationResult, evaluate_verification

__all__ = [
    "FoldsResult",
    "MatchingResult",
    "OpenSetResult",
    "RetrievalResult",
    "VerificationResult",
    "evaluate_folds",
    "evaluate_matching",
    "evaluate_open_set",
    "evaluate_retrieval",
    "evaluate_verification",
]
