"""Mistakes worth a look: classes taken for others, wrong items that are near, right ones far."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import (
    as_tensor,
    as_tensors,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
)
from likewise.distances import COSINE, Distance, check_distance
from likewise.errors import InputError
from likewise.evaluation.retrieval.evaluating import checked_references
from likewise.evaluation.retrieval.nearest import smallest


class FoundPairs(NamedTuple):
    """Pair i is items[i] at distances[i]: positions of a query and of what it is paired with."""

    items: Int[Tensor, "p 2"]
    distances: Float[Tensor, " p"]


@dataclass(frozen=True, eq=False)
class ConfusedClasses:
    """`count` of the `queries` of class `truth` were answered with class `answer`."""

    truth: int
    answer: int
    count: int
    queries: int
    examples: Int[Tensor, " e"]  # positions of such queries, nearest mistakes first

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html


@torch.no_grad()
def nearest_wrong(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    k: int = 12,
    *,
    distance: Distance = COSINE,
    references: Float[Tensor, "m d"] | None = None,
    reference_labels: Int[Tensor, " m"] | None = None,
    chunk_size: int = 1024,
) -> FoundPairs:
    """The k closest pairs of two classes, closest first.

    An item stands in one pair only, lest one odd item fill the list: the closest pair of all
    comes first, then the closest of those that share no item with it, and so on. Equal distances
    keep the order of the items. Fewer are found where there are no more.

    Args:
        embeddings: the items, (n, d).
        labels: their class codes; items labeled -1 are left out.
        k: how many pairs.
        distance: what is compared; smaller is closer.
        references: what the items are paired with; without it, each other.
        reference_labels: their class codes.
        chunk_size: items compared at once. Memory is chunk_size * m distances, and 2k per item.

    Raises:
        InputError: for mismatched shapes, or values that are not finite.

    Example:
        >>> from likewise.distances import EUCLIDEAN
        >>> embeddings = torch.tensor([[0.0], [0.1], [0.2], [1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> found = nearest_wrong(embeddings, labels, 2, distance=EUCLIDEAN)
        >>> found.items.tolist()
        [[1, 2], [0, 3]]
    """
    references, reference_labels = as_tensors(
        references=references, reference_labels=reference_labels
    )
    embeddings, labels = as_tensors(embeddings=embeddings, labels=labels)
    checked = _checked(embeddings, labels, references, reference_labels)
    return _extreme_pairs(*checked, k, distance, chunk_size, same=False)


@torch.no_grad()
def farthest_right(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    k: int = 12,
    *,
    distance: Distance = COSINE,
    references: Float[Tensor, "m d"] | None = None,
    reference_labels: Int[Tensor, " m"] | None = None,
    chunk_size: int = 1024,
) -> FoundPairs:
    """The k farthest pairs of one class, farthest first.

    Otherwise as `nearest_wrong`.

    Example:
        >>> from likewise.distances import EUCLIDEAN
        >>> embeddings = torch.tensor([[0.0], [0.1], [0.2], [1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> found = farthest_right(embeddings, labels, 2, distance=EUCLIDEAN)
        >>> found.items.tolist()
        [[2, 3], [0, 1]]
    """
    references, reference_labels = as_tensors(
        references=references, reference_labels=reference_labels
    )
    embeddings, labels = as_tensors(embeddings=embeddings, labels=labels)
    checked = _checked(embeddings, labels, references, reference_labels)
    return _extreme_pairs(*checked, k, distance, chunk_size, same=True)


@torch.no_grad()
def nearest_others(
    embeddings: Float[Tensor, "n d"], *, distance: Distance = COSINE, chunk_size: int = 1024
) -> FoundPairs:
    """Each item with the nearest of the others, in the order of the items.

    Of equally near ones the first counts, as in `evaluate_retrieval`.

    Args:
        embeddings: two items or more, (n, d).
        distance: what is compared; smaller is closer.
        chunk_size: items compared at once. Memory is chunk_size * n distances.

    Raises:
        InputError: for fewer than two items, or values that are not finite.

    Example:
        >>> nearest_others(torch.eye(3)[[0, 1, 0]]).items.tolist()
        [[0, 2], [1, 0], [2, 0]]
    """
    embeddings = as_tensor(embeddings, "embeddings")
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_distance(distance)
    check_count("chunk_size", chunk_size)
    if len(embeddings) < 2:
        raise InputError(f"embeddings must hold at least 2 rows, got {len(embeddings)}. Add items.")
    rows = torch.arange(len(embeddings), device=embeddings.device)
    others, distances = [], []
    for chunk in torch.split(rows, chunk_size):
        between = distance.matrix(embeddings[chunk], embeddings)
        check_finite(between, "distances")
        between[chunk - chunk[0], chunk] = torch.inf
        nearest = between.argmin(dim=1)
        others.append(nearest)
        distances.append(between.gather(1, nearest[:, None])[:, 0])
    items = torch.stack([rows, torch.cat(others)], dim=1)
    return FoundPairs(items.cpu(), torch.cat(distances).cpu())


def confused_classes(
    answers: Int[Tensor, " q"],
    truth: Int[Tensor, " q"],
    distances: Float[Tensor, " q"] | None = None,
    *,
    most: int = 6,
    examples: int = 3,
) -> list[ConfusedClasses]:
    """The classes most often answered for others, by falling count, with examples.

    Unknown is no class: answers of -1, and queries of class -1, do not count. Of equal counts
    the first codes come first.

    Args:
        answers: class codes: of matches, or of the nearest items.
        truth: the true class codes.
        distances: Distances of the answers; examples are then the nearest mistakes, else the first.
        most: pairs of classes listed.
        examples: queries told of each.

    Raises:
        InputError: for answers, truth and distances of different length.

    Example:
        >>> answers, truth = torch.tensor([1, 1, 0, 1, -1]), torch.tensor([0, 0, 0, 1, 1])
        >>> first, = confused_classes(answers, truth)
        >>> first.truth, first.answer, first.count, first.queries, first.examples.tolist()
        (0, 1, 2, 3, [0, 1])
    """
    answers, truth, distances = as_tensors(answers=answers, truth=truth, distances=distances)
    check_labels(truth, len(truth), "truth")
    check_labels(answers, len(truth), "answers")
    check_count("most", most)
    check_count("examples", examples, least=0)
    answers, truth = answers.cpu().long(), truth.cpu().long()
    order = torch.arange(len(truth))
    if distances is not None:
        check_finite(distances, "distances")
        if distances.shape != truth.shape:
            raise InputError(
                f"distances must have shape ({len(truth)},), one per query, "
                f"got {tuple(distances.shape)}."
            )
        order = distances.cpu().argsort(stable=True)
    wrong = order[((answers != truth) & (answers >= 0) & (truth >= 0))[order]]
    pairs, which, counts = torch.unique(
        torch.stack([truth[wrong], answers[wrong]], dim=1),
        dim=0,
        return_inverse=True,
        return_counts=True,
    )
    ranked = counts.argsort(descending=True, stable=True)[:most].tolist()
    return [
        ConfusedClasses(
            truth=int(pairs[pair, 0]),
            answer=int(pairs[pair, 1]),
            count=int(counts[pair]),
            queries=int((truth == pairs[pair, 0]).sum()),
            examples=wrong[which == pair][:examples],
        )
        for pair in ranked
    ]


def _extreme_pairs(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor,
    k: int,
    distance: Distance,
    chunk_size: int,
    *,
    same: bool,
) -> FoundPairs:
    check_distance(distance)
    check_count("k", k)
    check_count("chunk_size", chunk_size)
    others = embeddings if references is None else references
    columns = torch.arange(len(others), device=others.device)
    # k - 1 pairs before take at most 2k - 2 items from a row, so one candidate is always left.
    width = min(2 * k - 1, len(others))
    found = []
    for start in range(0, max(1, len(embeddings)), chunk_size):  # of no items, one empty chunk
        stop = min(start + chunk_size, len(embeddings))
        values = distance.matrix(embeddings[start:stop], others)
        check_finite(values, "distances")
        values = -values if same else values
        own = labels[start:stop, None]
        allowed = (own == reference_labels) == same
        allowed &= (own >= 0) & (reference_labels >= 0)
        rows = torch.arange(start, stop, device=others.device)
        if references is None:  # each pair once
            allowed &= columns > rows[:, None]
        values.masked_fill_(~allowed, torch.inf)
        positions = smallest(values, width)
        kept = positions >= 0
        pairs = torch.stack([rows[:, None].expand_as(positions), positions], dim=-1)
        found.append((pairs[kept].cpu(), values.gather(1, positions.clamp(min=0))[kept].cpu()))
    pairs = torch.cat([part for part, _ in found])
    values = torch.cat([part for _, part in found])
    chosen = _without_repeats(pairs, values, k, one_set=references is None)
    return FoundPairs(pairs[chosen], -values[chosen] if same else values[chosen])


def _without_repeats(
    pairs: Int[Tensor, "p 2"], values: Float[Tensor, " p"], k: int, *, one_set: bool
) -> Int[Tensor, " k"]:
    """The first k of the pairs by value, an item in one of them only."""
    left = values.argsort(stable=True)
    chosen: list[int] = []
    while len(chosen) < k and len(left):
        first = left[0]
        chosen.append(int(first))
        rest = pairs[left]
        shares = rest == pairs[first]
        if one_set:
            shares |= rest == pairs[first].flip(0)
        left = left[~shares.any(dim=1)]
    return torch.tensor(chosen, dtype=torch.int64)


def _checked(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_labels(labels, len(embeddings))
    others, other_labels = checked_references(embeddings, labels, references, reference_labels)
    device = embeddings.device
    references = None if references is None else others
    return embeddings, labels.to(device), references, other_labels.to(device)
