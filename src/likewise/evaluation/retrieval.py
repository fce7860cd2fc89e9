"""Retrieval: are a query's nearest items of its class?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import intervals, metrics
from likewise._checks import (
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
    check_same_width,
)
from likewise.distances import COSINE, Distance
from likewise.evaluation._plain import plain_fields
from likewise.intervals import FEWEST_GROUPS, Estimate

MOST_PARTS = 100


@dataclass(frozen=True)
class RetrievalResult:
    """How good the nearest items of each query are, as means over queries, each 0 to 1.

    Attributes:
        precision_at_1: share of queries whose nearest item is of their class.
        r_precision: share of the R nearest that are of the class, R being all there are.
        map_at_r: mean average precision at R, which also rewards a good order.
        recall_at_k: by k, share of queries with any item of their class among the k nearest.
        precision_at_k: by k, share of the k nearest that are of the class.
        queries: queries that were counted.
        left_out: queries that were not, as no other item is of their class.
    """

    precision_at_1: Estimate
    r_precision: Estimate
    map_at_r: Estimate
    recall_at_k: dict[int, Estimate]
    precision_at_k: dict[int, Estimate]
    queries: int
    left_out: int

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON; the k become text."""
        return plain_fields(
            self,
            "precision_at_1",
            "r_precision",
            "map_at_r",
            "recall_at_k",
            "precision_at_k",
            "queries",
            "left_out",
        )


@torch.no_grad()
def evaluate_retrieval(
    embeddings: Float[Tensor, "q d"],
    labels: Int[Tensor, " q"],
    *,
    distance: Distance = COSINE,
    references: Float[Tensor, "m d"] | None = None,
    reference_labels: Int[Tensor, " m"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    classes_as_sample: bool = False,
    chunk_size: int = 1024,
) -> RetrievalResult:
    """How well distance finds items of the same class, exactly, over all queries.

    Every embedding is a query. It is compared with the references, or, where none are given,
    with all other embeddings, never with itself. References at the same distance rank in the
    order given. A query without any reference of its class is left out, and counted.

    The intervals take queries as independent and the references as given: Clopper-Pearson
    for the hit rates, Student t for the others. With `classes_as_sample` the claim is about
    new classes instead: each class is left out in turn, as queries and as references
    (jackknife), for other classes are also what a query is mistaken for.

    Args:
        embeddings: the queries, (q, d).
        labels: their class codes, at least 0, (q,).
        distance: what is compared; smaller is closer.
        references: the items to be found, (m, d).
        reference_labels: their class codes, (m,); -1 for an item of no class.
        ks: ranks at which recall and precision are wanted.
        classes_as_sample: intervals for new classes instead of new queries.
        chunk_size: queries compared at once. Memory is chunk_size * m distances, and with
            `classes_as_sample` also a number per query and item of about two classes.

    Raises:
        ValueError: for mismatched shapes, NaN, negative labels, a k larger than the number of
            references, no query with a relevant reference, or fewer than 10 classes with
            `classes_as_sample`.

    Source:
        Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3
        (R-precision and MAP@R).

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> result = evaluate_retrieval(embeddings, torch.tensor([0, 0, 1, 1]), ks=[1])
        >>> print(result.precision_at_1)
        1.000 [0.398, 1.000]
    """
    check_count("chunk_size", chunk_size)
    _check_queries(embeddings, labels)
    own = int(references is None)  # how many of the references a query must not be compared with
    references, reference_labels = _checked_references(
        embeddings, labels, references, reference_labels
    )
    gallery = len(references) - own
    _check_ks(ks, gallery)

    query_class, reference_class, class_sizes = _numbered(labels.cpu(), reference_labels.cpu())
    relevant_total = class_sizes[query_class] - own
    (counted,) = torch.where(relevant_total > 0)
    if len(counted) == 0:
        raise ValueError(
            f"labels must give some query a reference of its own class, got {len(labels)} queries "
            "without any. Evaluate on classes with two items or more."
        )
    query_class, relevant_total = query_class[counted], relevant_total[counted]
    if classes_as_sample:
        _check_enough(query_class)
    ranks = max(int(relevant_total.max()), *ks)
    # Leaving out classes moves others up, so that many more ranks must be known.
    depth = ranks + (_largest_part(class_sizes) if classes_as_sample else 0)
    chunks = torch.arange(len(counted)).tensor_split(math.ceil(len(counted) / chunk_size))

    def near_class(chunk: Int[Tensor, " n"]) -> Int[Tensor, "n depth"]:
        distances = distance.matrix(embeddings[counted[chunk]], references)
        check_finite(distances, "distances")
        if own:
            distances[torch.arange(len(chunk)), counted[chunk]] = torch.inf
        found = reference_class[_nearest(distances, min(depth, gallery))]
        return F.pad(found, (0, depth - found.shape[1]), value=len(class_sizes)).int()

    def scores(near: Int[Tensor, "n ranks"], chunk: Int[Tensor, " n"]) -> Float[Tensor, "n s"]:
        relevant = near == query_class[chunk, None]
        return torch.stack(_scores(relevant, relevant_total[chunk], ks), dim=1)

    if classes_as_sample:
        near = [near_class(chunk) for chunk in chunks]

        def means(keep: Bool[Tensor, " c"]) -> list[float]:
            left = [_without(classes, keep, ranks) for classes in near]
            score = torch.cat([scores(*pair) for pair in zip(left, chunks, strict=True)])
            return [float(mean) for mean in score[keep[query_class]].mean(dim=0)]

        each_class = torch.arange(len(class_sizes))
        estimates = intervals.jackknife_all(
            means, each_class, most_groups=MOST_PARTS, within=intervals.A_RATE
        )
    else:
        score = torch.cat([scores(near_class(chunk), chunk) for chunk in chunks])
        estimates = [_over_queries(column) for column in score.T]
    precision_at_1, r_precision, map_at_r, *by_k = estimates
    return RetrievalResult(
        precision_at_1=precision_at_1,
        r_precision=r_precision,
        map_at_r=map_at_r,
        recall_at_k=dict(zip(ks, by_k[: len(ks)], strict=True)),
        precision_at_k=dict(zip(ks, by_k[len(ks) :], strict=True)),
        queries=len(counted),
        left_out=len(labels) - len(counted),
    )


def _scores(relevant: Tensor, relevant_total: Tensor, ks: Sequence[int]) -> list[Tensor]:
    return [
        metrics.precision_at(relevant, 1),
        metrics.r_precision(relevant, relevant_total),
        metrics.average_precision_at_r(relevant, relevant_total),
        *(metrics.recall_at(relevant, k) for k in ks),
        *(metrics.precision_at(relevant, k) for k in ks),
    ]


def _over_queries(score: Float[Tensor, " q"]) -> Estimate:
    if bool(((score == 0) | (score == 1)).all()):
        return intervals.binomial(int(score.sum()), len(score))
    return intervals.mean(score, within=intervals.A_RATE)


def _nearest(distances: Float[Tensor, "n m"], depth: int) -> Int[Tensor, "n depth"]:
    """Positions of each row's smallest distances, smallest first, earlier first in a tie."""
    values, positions = distances.topk(min(depth + 1, distances.shape[1]), largest=False)
    # topk breaks ties as it likes, also between its last and what it leaves out.
    tied = (values.diff(dim=1) == 0).any(dim=1)
    positions = positions[:, :depth]
    positions[tied] = distances[tied].argsort(dim=1, stable=True)[:, :depth]
    return positions.cpu()


def _without(
    near: Int[Tensor, "n depth"], keep: Bool[Tensor, " c"], ranks: int
) -> Int[Tensor, "n ranks"]:
    """The classes of the nearest references that are left, as many in every row."""
    keep = torch.cat([keep, torch.ones(1, dtype=torch.bool)])  # what has no class stays
    kept = keep.index_select(0, near.flatten()).view_as(near)
    kept &= kept.cumsum(dim=1, dtype=torch.int32) <= ranks
    return near[kept].view(-1, ranks)


def _numbered(labels: Tensor, reference_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class numbers 0 to c - 1 of queries and references, and how many references each has.

    References of no class have the number c.
    """
    both = torch.cat([labels, reference_labels]).numpy()
    classes, numbers = np.unique(both[both >= 0], return_inverse=True)
    number = torch.full((len(both),), len(classes))
    number[torch.from_numpy(both >= 0)] = torch.from_numpy(numbers)
    query_class, reference_class = number[: len(labels)], number[len(labels) :]
    return query_class, reference_class, reference_class.bincount(minlength=len(classes) + 1)[:-1]


def _largest_part(class_sizes: Tensor) -> int:
    """At most so many references go when the jackknife leaves out one part of the classes."""
    classes_per_part = math.ceil(len(class_sizes) / MOST_PARTS)
    return int(class_sizes.sort(descending=True).values[:classes_per_part].sum())


def _checked_references(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What queries are compared with: the references, or the queries themselves."""
    if references is None and reference_labels is None:
        return embeddings, labels
    if references is None or reference_labels is None:
        raise ValueError(
            "references and reference_labels must be given together, got only one of them."
        )
    check_embeddings(references, "references")
    check_finite(references, "references")
    check_same_width(embeddings, references, ("embeddings", "references"))
    check_labels(reference_labels, len(references), "reference_labels")
    return references, reference_labels


def _check_queries(embeddings: Tensor, labels: Tensor) -> None:
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_labels(labels, len(embeddings))
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(
            f"labels must be class codes of at least 0, got {int(labels.min())}. "
            "Leave unlabelled items out."
        )


def _check_ks(ks: Sequence[int], gallery: int) -> None:
    if not ks:
        raise ValueError("ks must hold at least one rank, got none. Use e.g. ks=(1, 5).")
    for k in ks:
        check_count("each of ks", k)
        if k > gallery:
            raise ValueError(
                f"ks must be at most {gallery}, the references that a query is compared with, "
                f"got {k}. Ask for fewer ranks, or give more references."
            )


def _check_enough(query_class: Tensor) -> None:
    classes = int((query_class.bincount() > 0).sum())
    if classes < FEWEST_GROUPS:
        raise ValueError(
            f"classes_as_sample must have at least {FEWEST_GROUPS} classes to find, got "
            f"{classes}. So few say too little about new ones: leave it off, and claim nothing "
            "about new classes."
        )
