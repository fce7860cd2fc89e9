"""Retrieval: are a query's nearest items of its class?"""

from likewise.evaluation.retrieval.evaluating import evaluate_retrieval
from likewise.evaluation.retrieval.retrieval_result import RetrievalResult

__all__ = ["RetrievalResult", "evaluate_retrieval"]
