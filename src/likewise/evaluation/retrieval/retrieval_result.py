"""What an evaluation of retrieval says."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise.evaluation._plain import plain_fields
from likewise.evaluation.retrieval.estimating import over_queries
from likewise.intervals import Estimate


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """How good the nearest items of each query are, mostly as means over queries, each 0 to 1.

    Attributes:
        precision_at_1: share of queries whose nearest item is of their class.
        r_precision: share of the R nearest that are of the class, R being all there are.
        map_at_r: mean average precision at R, which also rewards a good order.
        mean_reciprocal_rank: mean of 1 / rank of the nearest item of the class.
        recall_at_k: by k, share of queries with any item of their class among the k nearest; the
            field's recall@k, which is the hit rate.
        share_found_at_k: by k, mean share of the R items of the class that are among the k
            nearest; the recall@k of information retrieval.
        precision_at_k: by k, share of the k nearest that are of the class.
        map_at_k: by k, mean average precision among the k nearest, divided by min(k, R).
        ndcg_at_k: by k, the discounted gain of the k nearest, as a share of the ideal order's.
        rank: "mean", "median" and "worst" rank of the nearest item of the class, from 1.
        macro: every score, and the rank, as the mean over classes of the class's mean, by the
            names of `per_query`.
        clustering: "nmi" and "ami" of k-means clusters with the classes, if asked for.
        queries: queries that were counted.
        left_out: queries that were not, as no item they may find is of their class.
        unlabeled: queries and references that had no label, and are left out of everything.
        per_query: the scores of each counted query by name ("precision_at_1", "r_precision",
            "map_at_r", "reciprocal_rank", "recall_at_5", "share_found_at_5", "precision_at_5",
            "map_at_5", "ndcg_at_5", ..., "rank"), (q,) float64.
        counted: which of the queries given were counted, ascending, (q,).
        query_labels: their class codes, (q,).
        without_classes: by the names of `per_query`, the mean without each of the parts that the
            jackknife leaves out, (parts,); None unless classes were taken as a sample.
    """

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    precision_at_1: Estimate
    r_precision: Estimate
    map_at_r: Estimate
    mean_reciprocal_rank: Estimate
    recall_at_k: dict[int, Estimate]
    share_found_at_k: dict[int, Estimate]
    precision_at_k: dict[int, Estimate]
    map_at_k: dict[int, Estimate]
    ndcg_at_k: dict[int, Estimate]
    rank: dict[str, Estimate]
    macro: dict[str, Estimate]
    clustering: dict[str, Estimate] | None
    queries: int
    left_out: int
    unlabeled: int
    per_query: dict[str, Float[Tensor, " q"]]
    counted: Int[Tensor, " q"]
    query_labels: Int[Tensor, " q"]
    without_classes: dict[str, Float[Tensor, " parts"]] | None = None

    def per_class(self, *names: str) -> dict[int, dict[str, Estimate]]:
        """By class code, the means over the class's queries of these scores, or of all, by name.

        The intervals take these queries as independent.
        """
        return {
            int(label): {
                name: over_queries(score[self.query_labels == label], name)
                for name, score in self.per_query.items()
                if not names or name in names
            }
            for label in np.unique(self.query_labels.numpy())
        }

    def to_dict(self) -> dict[str, object]:
        """The numbers of all queries together, ready for JSON; the k become text."""
        return plain_fields(
            self,
            "precision_at_1",
            "r_precision",
            "map_at_r",
            "mean_reciprocal_rank",
            "recall_at_k",
            "share_found_at_k",
            "precision_at_k",
            "map_at_k",
            "ndcg_at_k",
            "rank",
            "macro",
            "clustering",
            "queries",
            "left_out",
            "unlabeled",
        )
