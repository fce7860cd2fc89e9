"""Search judged by a table of relevance: graded, several relevant items and labels per query."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables, metrics
from likewise._checks import check_choice, check_count, is_finite_number
from likewise.data.relevance import Relevance, as_names
from likewise.errors import InputError, InputTypeError
from likewise.evaluation._plain import plain_fields
from likewise.evaluation.retrieval.estimating import over_queries
from likewise.evaluation.retrieval.evaluating import RANKS
from likewise.index import Neighbors
from likewise.intervals import Estimate

GAINS = ("linear", "exponential")

_Array = np.ndarray[Any, Any]
Ids = Sequence[str | int] | _Array | Tensor
Found = Neighbors | Sequence[Ids] | _Array | Tensor


@dataclass(frozen=True, eq=False)
class SearchResult:
    """How good the items found for each query are, as means over queries, each 0 to 1.

    Attributes:
        ndcg_at_k: by k, the discounted gain of the k nearest, as a share of the ideal order's.
        share_found_at_k: by k, share of the relevant items that are among the k nearest; the
            recall@k of information retrieval.
        hit_rate_at_k: by k, share of queries with a relevant item among the k nearest; the
            recall@k of metric learning.
        precision_at_k: by k, share of the k nearest that are relevant.
        mean_average_precision: MAP over the ranks given, divided by all relevant items.
        mean_reciprocal_rank: mean of 1 / rank of the nearest relevant item; 0 where none is found.
        ranks: how many items were looked at for each query.
        queries: queries that were counted.
        left_out: queries that were not, as the table has no relevant item for them.
        not_asked: queries of the table that have a relevant item and were not asked.
        per_query: the scores of each counted query by name ("ndcg_at_5", "share_found_at_5",
            "hit_rate_at_5", "precision_at_5", ..., "average_precision", "reciprocal_rank"), (q,)
            float64.
        counted: which of the queries given were counted, ascending, (q,).
    """

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    ndcg_at_k: dict[int, Estimate]
    share_found_at_k: dict[int, Estimate]
    hit_rate_at_k: dict[int, Estimate]
    precision_at_k: dict[int, Estimate]
    mean_average_precision: Estimate
    mean_reciprocal_rank: Estimate
    ranks: int
    queries: int
    left_out: int
    not_asked: int
    per_query: dict[str, Float[Tensor, " q"]] = field(repr=False)
    counted: Int[Tensor, " q"] = field(repr=False)

    def _table(self) -> _tables.Table:
        told = self.headline()
        counts = [(name, f"{getattr(self, name):,}") for name in ("ranks", "left_out", "not_asked")]
        return _tables.Table(
            f"SearchResult: {self.queries:,} queries",
            [
                *((name, str(estimate)) for name, estimate in told),
                *((name.replace("_", " "), count) for name, count in counts),
            ],
        )

    def headline(self) -> list[tuple[str, Estimate]]:
        """The numbers by name, as a person reads them."""
        by_k = [
            (f"{name} at {k}", of[k])
            for k in self.ndcg_at_k
            for name, of in (
                ("nDCG", self.ndcg_at_k),
                ("share found", self.share_found_at_k),
                ("hit rate", self.hit_rate_at_k),
                ("precision", self.precision_at_k),
            )
        ]
        return [
            *by_k,
            ("mean average precision", self.mean_average_precision),
            ("mean reciprocal rank", self.mean_reciprocal_rank),
        ]

    def to_dict(self) -> dict[str, object]:
        """The numbers of all queries together, ready for JSON; the k become text."""
        return plain_fields(
            self,
            "ndcg_at_k",
            "share_found_at_k",
            "hit_rate_at_k",
            "precision_at_k",
            "mean_average_precision",
            "mean_reciprocal_rank",
            "ranks",
            "queries",
            "left_out",
            "not_asked",
        )


def evaluate_search(
    found: Found,
    relevance: Relevance,
    *,
    queries: Ids | None = None,
    ks: Iterable[int] | None = None,
    relevant_from: float | None = None,
    gain: str = "linear",
    skip_own: bool = False,
) -> SearchResult:
    """How well a search ranks the items that a table calls relevant, with intervals over queries.

    The values are those of trec_eval: `ndcg_cut`, `recall` (here the share found), `success` (the
    hit rate), `P`, `map` and `recip_rank`. trec_eval orders equal scores by the items' ids; here
    items count in the order given. It gives 0 to a query without relevant items; here such a query
    is left out, and counted.

    Relevant items that were not found count as missed, those that are not indexed too. A rank
    without an item counts as one that is not relevant. The intervals take queries as independent:
    Clopper-Pearson where all scores are 0 or 1, Student t elsewhere.

    Args:
        found: what `Index.lookup` gives; or the ids of the items found for each query, best first,
            as rows of any length.
        relevance: which items are relevant; see `data.load_relevance` and
            `data.relevance_of_labels`.
        queries: the ids of the queries as the table has them; positions if None.
        ks: ranks at which scores are wanted; without it those of 1, 5 and 10 that are there.
        relevant_from: the lowest grade that counts as relevant, for all scores but nDCG; any
            above 0 if None.
        gain: "linear", the grade itself as in trec_eval, or "exponential", 2**grade - 1.
        skip_own: pass over an item with the id of the query, where queries are items themselves.
            All rows are then one rank shorter.

    Raises:
        InputError: a query or a found item comes twice, a k above the number of ranks, or no
            query has a relevant item in the table.
        InputTypeError: ids of other kinds, `ks` that are no ranks, a table that is none.

    Source:
        The National Institute of Standards and Technology's trec_eval.

    Example:
        >>> from likewise.data import Relevance
        >>> relevance = Relevance(["q1", "q1", "q2"], ["a", "b", "c"], [2, 1, 1])
        >>> found = [["a", "d"], ["e", "c"]]
        >>> evaluate_search(found, relevance, queries=["q1", "q2"], ks=[2]).ndcg_at_k[2].value
        0.6955...
    """
    if not isinstance(relevance, Relevance):
        raise InputTypeError(
            f"relevance must be a data.Relevance, got {type(relevance).__name__}. "
            "Use data.Relevance(queries, items, grades) or data.load_relevance(path)."
        )
    if ks is not None and not isinstance(ks, Iterable):
        raise InputTypeError(f"ks must be ranks, got {ks!r}. Use e.g. ks=(1, 5).")
    if relevant_from is not None and (not is_finite_number(relevant_from) or relevant_from <= 0):
        raise InputError(f"relevant_from must be a grade above 0, got {relevant_from!r}.")
    check_choice("gain", gain, GAINS)
    ids, is_item = _found(found)
    names = as_names("queries", range(len(ids)) if queries is None else queries)
    _check_queries(names, len(ids))
    if skip_own:
        relevance = relevance.without_own()
        ids, is_item = _without_own(ids, is_item, names)
    _check_once(ids, is_item, names)
    ranks = ids.shape[1]
    ks = _checked_ks(ks, ranks)
    total = relevance.total(names, relevant_from)
    (counted,) = torch.where(total > 0)
    if not len(counted):
        raise InputError(
            f"relevance must hold a relevant item for some query, got {len(names)} queries such as "
            f"{names[0]!r} where the table has {relevance.queries[0]!r}. Use the same ids for both."
        )
    asked = [names[row] for row in counted.tolist()]
    grades = relevance.grades_of(asked, ids[counted.numpy()])
    grades[~is_item[counted]] = 0
    best = relevance.best(asked, max(ks))
    per_query = _scores(grades, best, total[counted], ks, relevant_from, gain)
    means = {name: over_queries(values, name) for name, values in per_query.items()}
    given = set(names)
    others = [name for name in relevance.queries if name not in given]
    return SearchResult(
        ndcg_at_k={k: means[f"ndcg_at_{k}"] for k in ks},
        share_found_at_k={k: means[f"share_found_at_{k}"] for k in ks},
        hit_rate_at_k={k: means[f"hit_rate_at_{k}"] for k in ks},
        precision_at_k={k: means[f"precision_at_{k}"] for k in ks},
        mean_average_precision=means["average_precision"],
        mean_reciprocal_rank=means["reciprocal_rank"],
        ranks=ranks,
        queries=len(counted),
        left_out=len(names) - len(counted),
        not_asked=int((relevance.total(others, relevant_from) > 0).sum()),
        per_query=per_query,
        counted=counted,
    )


def _scores(
    grades: Float[Tensor, "q k"],
    best: Float[Tensor, "q r"],
    total: Int[Tensor, " q"],
    ks: Sequence[int],
    relevant_from: float | None,
    gain: str,
) -> dict[str, Float[Tensor, " q"]]:
    """Every score of each query, by name."""
    relevant = (grades > 0) & (grades >= (relevant_from or 0.0))
    if gain == "exponential":
        grades, best = torch.expm1(grades * np.log(2)), torch.expm1(best * np.log(2))
    scores = {}
    for k in ks:
        scores[f"ndcg_at_{k}"] = metrics.graded_ndcg_at(grades, best, k)
        scores[f"share_found_at_{k}"] = metrics.share_found_at(relevant, total, k)
        scores[f"hit_rate_at_{k}"] = metrics.recall_at(relevant, k)
        scores[f"precision_at_{k}"] = metrics.precision_at(relevant, k)
    scores["average_precision"] = metrics.average_precision_of_ranking(relevant, total)
    scores["reciprocal_rank"] = 1 / metrics.first_relevant_rank(relevant)
    return scores


def _found(found: object) -> tuple[_Array, Bool[Tensor, "q k"]]:
    """Ids of the items found, (q, k), and where there are any."""
    if isinstance(found, Neighbors):
        return np.asarray(found.ids), ~found.distances.cpu().isposinf()
    if isinstance(found, (Tensor, np.ndarray)):
        if found.ndim != 2:
            raise InputError(
                f"found must be ids of shape (q, k), got shape {tuple(found.shape)}. "
                "Give a row of ids for each query."
            )
        found = found.tolist()
    if isinstance(found, (str, bytes)) or not isinstance(found, Sequence):
        raise InputTypeError(
            "found must be the neighbors of an index, or a row of ids for each query, got "
            f"{type(found).__name__}."
        )
    rows = [as_names("found", row) for row in found]
    width = max(map(len, rows), default=0)
    if not width:
        raise InputError("found must hold an item for some query, got none. Look up items.")
    missing = ("-1", "")  # how an index fills up its rows
    is_item = [[name not in missing for name in row] + [False] * (width - len(row)) for row in rows]
    ids = [row + [""] * (width - len(row)) for row in rows]
    return np.array(ids), torch.tensor(is_item)


def _check_queries(names: Sequence[str], rows: int) -> None:
    if len(names) != rows or not rows:
        raise InputError(
            f"queries must be one per row found, {rows}, got {len(names)}. "
            "Give the ids of the queries that were looked up, in that order."
        )
    if len(set(names)) < rows:
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"queries must be different ids, got {twice!r} several times. Ask each query once."
        )


def _without_own(
    ids: _Array, is_item: Tensor, names: Sequence[str]
) -> tuple[_Array, Bool[Tensor, "q k"]]:
    """The same without the item that has the query's id; the rest moves up."""
    own = (ids.astype(str) == np.array(names)[:, None]) & is_item.numpy()
    order = np.argsort(own, axis=1, kind="stable")[:, : ids.shape[1] - 1]
    if not order.shape[1]:
        raise InputError(
            "found must hold at least 2 ranks with skip_own, got 1. Look up more neighbors."
        )
    kept = np.take_along_axis(is_item.numpy() & ~own, order, axis=1)
    return np.take_along_axis(ids, order, axis=1), torch.from_numpy(kept)


def _check_once(ids: _Array, is_item: Tensor, names: Sequence[str]) -> None:
    """Refuse an item that was found twice for a query."""
    _, code = np.unique(ids, return_inverse=True)
    codes = code.reshape(ids.shape)
    # Each rank without an item has a code of its own.
    codes = np.where(is_item.numpy(), codes, -1 - np.arange(ids.shape[1]))
    ordered = np.sort(codes, axis=1)
    (rows,) = np.nonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(rows):
        raise InputError(
            f"found must hold an item once for each query, got one twice for {names[rows[0]]!r}. "
            "Keep the better rank."
        )


def _checked_ks(ks: Iterable[int] | None, ranks: int) -> tuple[int, ...]:
    if ks is None:
        return tuple(k for k in RANKS if k <= ranks)
    ks = tuple(ks)
    if not ks:
        raise InputError("ks must hold at least one rank, got none. Use e.g. ks=(1, 5).")
    for k in ks:
        check_count("ks", k)
        if k > ranks:
            raise InputError(
                f"must be at most {ranks}, the ranks that were found, got {k}.",
                argument="ks",
                remedy="Look up more neighbors.",
                command="Index more items, or ask for a lower rank.",
            )
    return ks
