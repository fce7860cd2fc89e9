"""`evaluate_retrieval`: over all queries, exactly, by chunks of them."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from likewise import intervals, metrics
from likewise._checks import (
    as_tensors,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
    check_same_width,
)
from likewise.distances import COSINE, Distance, check_distance
from likewise.errors import InputError, InputTypeError
from likewise.evaluation._labeled import kept, labeled
from likewise.evaluation.retrieval import estimating
from likewise.evaluation.retrieval.classes_left_out import MOST_PARTS, LeftOut
from likewise.evaluation.retrieval.nearest import Search
from likewise.evaluation.retrieval.retrieval_result import RetrievalResult
from likewise.intervals import FEWEST_GROUPS, Estimate, merge_groups

RANKS = (1, 5, 10)  # at which scores are told unless others are asked for


@torch.no_grad()
def evaluate_retrieval(
    embeddings: Float[Tensor, "q d"],
    labels: Int[Tensor, " q"],
    *,
    distance: Distance = COSINE,
    references: Float[Tensor, "m d"] | None = None,
    reference_labels: Int[Tensor, " m"] | None = None,
    groups: Int[Tensor, " q"] | None = None,
    reference_groups: Int[Tensor, " m"] | None = None,
    ks: Iterable[int] | None = None,
    classes_as_sample: bool = False,
    clustering: bool = False,
    chunk_size: int = 1024,
) -> RetrievalResult:
    """How well distance finds items of the same class, exactly, over all queries.

    Every embedding is a query. It is compared with the references, or, where none are given,
    with all other embeddings, never with itself. With `groups`, such as the camera or the
    sequence an image is from, a query does not see the references of its own group: they are
    neither hits nor misses, nor counted in R. References at the same distance rank in the
    order given. A query that sees no reference of its class is left out, and counted.
    Unlabeled items are neither queries nor references, and are counted too.

    The intervals take queries as independent and the references as given: Clopper-Pearson
    for the hit rates, Student t for other means, order statistics for the median rank. With
    `classes_as_sample` the claim is about new classes instead: each class is left out in turn,
    as queries and as references (jackknife), for other classes are also what a query is
    mistaken for.

    Args:
        embeddings: the queries, (q, d).
        labels: their class codes of any size, -1 for unlabeled, (q,).
        distance: what is compared; smaller is closer.
        references: the items to be found, (m, d).
        reference_labels: their class codes, -1 for unlabeled, (m,). A distractor has the code of
            a class that no query has.
        groups: any integers, (q,). Without references also the groups of what is found.
        reference_groups: the same of the references, (m,).
        ks: ranks at which recall, share found, precision, MAP and nDCG are wanted; without it
            those of 1, 5 and 10 that every query has references for.
        classes_as_sample: intervals for new classes instead of new queries; with fewer than 10
            classes there are none.
        clustering: also NMI and AMI of as many k-means clusters of the queries as they have
            classes; for cosine of their directions. Always the same start.
        chunk_size: queries whose neighbors are held at once. They are compared in smaller
            pieces where the references are many, so that memory does not grow with these: about
            300 MB at most, and a few numbers per query and neighbor.

    Raises:
        InputError: for mismatched shapes, NaN, no labels, a k larger than the number of
            references that some query sees, or no query that sees a relevant reference.
        InputTypeError: for `ks` that are no ranks, or a distance that is none, such as its name.

    Source:
        Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3
        (R-precision and MAP@R). The other scores: `likewise.metrics`.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> result = evaluate_retrieval(embeddings, torch.tensor([0, 0, 1, 1]), ks=[1])
        >>> print(result.precision_at_1)
        1.000 [0.398, 1.000]
    """
    groups, reference_groups = as_tensors(groups=groups, reference_groups=reference_groups)
    references, reference_labels = as_tensors(
        references=references, reference_labels=reference_labels
    )
    embeddings, labels = as_tensors(embeddings=embeddings, labels=labels)
    if ks is not None and not isinstance(ks, Iterable):
        raise InputTypeError(f"ks must be ranks, got {ks!r}. Use e.g. ks=(1, 5).")
    check_distance(distance)
    check_count("chunk_size", chunk_size)
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    has_label = labeled(labels, len(embeddings))
    own = references is None
    references, reference_labels = checked_references(
        embeddings, labels, references, reference_labels
    )
    groups, reference_groups = _checked_groups(
        groups, reference_groups, embeddings, references, own
    )
    unlabeled = int((~has_label).sum())
    if own:
        references_have = has_label
    else:
        references_have = labeled(reference_labels, len(references), "reference_labels")
        unlabeled += int((~references_have).sum())
    given = torch.where(has_label.cpu())[0]
    embeddings, labels = kept(has_label, embeddings, labels)
    references, reference_labels = kept(references_have, references, reference_labels)
    if groups is not None and reference_groups is not None:
        (groups,) = kept(has_label, groups)
        (reference_groups,) = kept(references_have, reference_groups)
    query_class, reference_class, class_sizes = _numbered(labels.cpu(), reference_labels.cpu())
    relevant_total, seen = _seen(query_class, reference_class, class_sizes, own)
    if groups is not None and reference_groups is not None:
        relevant_total, seen = _seen_of_others(
            (query_class, groups.cpu()), (reference_class, reference_groups.cpu()), class_sizes
        )
    (counted,) = torch.where(relevant_total > 0)
    if len(counted) == 0:
        raise _nothing_to_find(query_class, class_sizes, own)
    fewest_seen = int(seen[counted].min())
    if ks is None:
        ks = tuple(k for k in RANKS if k <= fewest_seen)
    else:
        ks = tuple(ks)
        _check_ks(ks, fewest_seen)
    query_class, relevant_total = query_class[counted], relevant_total[counted]
    parts = torch.zeros(len(class_sizes), dtype=torch.int64)
    spare = 0
    classes = len(torch.unique(query_class))
    too_few = classes_as_sample and classes < FEWEST_GROUPS
    if classes_as_sample and not too_few:
        parts = merge_groups(len(class_sizes), MOST_PARTS)
        # Leaving out classes moves others up, so that many more ranks must be known.
        spare = int(parts.bincount(class_sizes.double()).max())

    search = Search(distance, references, reference_class, reference_groups, parts, chunk_size)
    left_out = LeftOut(parts, query_class) if classes_as_sample and not too_few else None
    order = relevant_total.argsort(stable=True)  # as R is how many neighbors must be known
    per_query: dict[str, Tensor] = {}
    for chunk in torch.split(order, chunk_size):
        at, total = counted[chunk], relevant_total[chunk]
        ranks = max(int(total.max()), *ks)
        near = search.nearest(
            embeddings[at],
            query_class[chunk],
            at if own else None,
            None if groups is None else groups[at],
            ranks + spare,
        )
        relevant = near.classes[:, :ranks] == query_class[chunk, None]
        for name, score in estimating.scores_of(relevant, total, near.rank, ks).items():
            per_query.setdefault(name, torch.empty(len(counted)).double())[chunk] = score
        if left_out is not None:
            left_out.add(near, chunk, total, ks)

    means, macro = (
        estimating.over_queries_and_classes(per_query, query_class)
        if left_out is None
        else left_out.estimates(list(per_query))
    )
    if too_few:
        means, macro = (
            {name: intervals.too_few(float(mean), classes) for name, mean in of.items()}
            for of in (means, macro)
        )
    return RetrievalResult(
        precision_at_1=means["precision_at_1"],
        r_precision=means["r_precision"],
        map_at_r=means["map_at_r"],
        mean_reciprocal_rank=means["reciprocal_rank"],
        recall_at_k={k: means[f"recall_at_{k}"] for k in ks},
        share_found_at_k={k: means[f"share_found_at_{k}"] for k in ks},
        precision_at_k={k: means[f"precision_at_{k}"] for k in ks},
        map_at_k={k: means[f"map_at_{k}"] for k in ks},
        ndcg_at_k={k: means[f"ndcg_at_{k}"] for k in ks},
        rank=estimating.ranks_of(per_query["rank"], means["rank"], classes_as_sample),
        macro=macro,
        clustering=_clustered(embeddings, labels, distance) if clustering else None,
        queries=len(counted),
        left_out=len(labels) - len(counted),
        unlabeled=unlabeled,
        per_query=per_query,
        counted=given[counted],
        query_labels=labels.cpu()[counted],
        without_classes=None if left_out is None else left_out.without(list(per_query)),
    )


def _clustered(embeddings: Tensor, labels: Tensor, distance: Distance) -> dict[str, Estimate]:
    if distance is COSINE:
        embeddings = F.normalize(embeddings, dim=1)
    clusters = metrics.cluster(embeddings, len(np.unique(labels.cpu().numpy())))
    agreement = metrics.mutual_information(clusters, labels.cpu())
    method = "no interval: all queries are clustered together, once"
    return {
        "nmi": Estimate(agreement.normalized, math.nan, math.nan, method),
        "ami": Estimate(agreement.adjusted, math.nan, math.nan, method),
    }


def _numbered(labels: Tensor, reference_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class numbers 0 to c - 1 of queries and references, and how many references each has."""
    both = torch.cat([labels, reference_labels]).numpy()
    classes, numbers = np.unique(both, return_inverse=True)
    number = torch.from_numpy(numbers)
    query_class, reference_class = number[: len(labels)], number[len(labels) :]
    return query_class, reference_class, reference_class.bincount(minlength=len(classes))


def _seen(
    query_class: Tensor, reference_class: Tensor, class_sizes: Tensor, own: bool
) -> tuple[Tensor, Tensor]:
    """How many references of its class, and how many in all, each query is compared with."""
    seen = torch.full((len(query_class),), len(reference_class) - own)
    return class_sizes[query_class] - int(own), seen


def _seen_of_others(
    queries: tuple[Tensor, Tensor], references: tuple[Tensor, Tensor], class_sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """The same where a query does not see the references of its own group.

    Args:
        queries: their classes and their groups.
        references: the same.
        class_sizes: how many references each class has.
    """
    (query_class, groups), (reference_class, reference_groups) = queries, references
    number = torch.cat([query_class, reference_class]).numpy()
    _, group = np.unique(torch.cat([groups, reference_groups]).numpy(), return_inverse=True)
    _, both = np.unique(number * (group.max() + 1) + group, return_inverse=True)
    hidden, hidden_of_class = (
        torch.from_numpy(np.bincount(of[len(groups) :], minlength=len(of))[of[: len(groups)]])
        for of in (group, both)
    )
    return class_sizes[query_class] - hidden_of_class, len(reference_class) - hidden


def checked_references(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What queries are compared with: the references, or the queries themselves."""
    if references is None and reference_labels is None:
        return embeddings, labels
    if references is None or reference_labels is None:
        raise InputError(
            "references and reference_labels must be given together, got only one of them."
        )
    check_embeddings(references, "references")
    check_finite(references, "references")
    check_same_width(embeddings, references, ("embeddings", "references"))
    check_labels(reference_labels, len(references), "reference_labels")
    return references, reference_labels


def _checked_groups(
    groups: Tensor | None,
    reference_groups: Tensor | None,
    embeddings: Tensor,
    references: Tensor,
    own: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The groups of queries and references, where the embeddings are."""
    if own and reference_groups is not None:
        raise InputError(
            "reference_groups must be left out where references are, got some. The groups of "
            "the queries are those of what is found."
        )
    if groups is None and reference_groups is None:
        return None, None
    if groups is None or (reference_groups is None and not own):
        raise InputError(
            "groups and reference_groups must be given together, got only one of them."
        )
    check_labels(groups, len(embeddings), "groups")
    if reference_groups is None:
        reference_groups = groups
    check_labels(reference_groups, len(references), "reference_groups")
    return groups.to(embeddings.device), reference_groups.to(embeddings.device)


def _nothing_to_find(query_class: Tensor, class_sizes: Tensor, own: bool) -> InputError:
    """Why no query sees a reference of its class: there is none, or groups hide them all."""
    if bool((class_sizes[query_class] > int(own)).any()):
        return InputError(
            f"groups must leave some query a reference of its own class, got {len(query_class)} "
            "queries whose matches are all of their own group. Give items of a class in two "
            "groups or more, or leave groups out."
        )
    if own:
        return InputError(
            f"labels must give some query a reference of its own class, got {len(query_class)} "
            "queries without any. Evaluate on classes with two items or more."
        )
    return InputError(
        f"reference_labels must hold the class of some query, got {len(query_class)} queries of "
        "other classes. Use the same codes for both, or add references of these classes."
    )


def _check_ks(ks: Sequence[int], seen: int) -> None:
    if not ks:
        raise InputError("ks must hold at least one rank, got none. Use e.g. ks=(1, 5).")
    for k in ks:
        check_count("each of ks", k)
        if k > seen:
            raise InputError(
                f"ks must be at most {seen}, the references that a query is compared with, "
                f"got {k}. Ask for fewer ranks, or give more references."
            )
