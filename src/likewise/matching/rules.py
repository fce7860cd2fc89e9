"""Matching rules: from neighbors to one label and one distance per query."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_choice, free_to_look
from likewise.errors import InputError
from likewise.index import Neighbors

UNKNOWN = -1

Rule = Callable[[Neighbors], tuple[Int[Tensor, " q"], Float[Tensor, " q"]]]
"""From neighbors to one label and one distance per query; label -1 where there is none."""


def nearest(neighbors: Neighbors) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """Label and distance of the nearest neighbor; the others do not count."""
    return neighbors.labels[:, 0], neighbors.distances[:, 0]


def majority(neighbors: Neighbors) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """The label most neighbors have, and the mean distance of those that have it.

    Among equally frequent labels, the one whose first neighbor is nearer. Unlabeled and padded
    neighbors have no vote; where nobody has, label -1 and distance inf.
    """
    return _elect(neighbors, torch.ones_like(neighbors.distances, dtype=torch.float64))


def weighted(neighbors: Neighbors) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """The label with the largest sum of weights, and the weighted mean distance of those with it.

    A neighbor's weight falls evenly from 1 for the nearest voter to 0 for the farthest; all
    weigh 1 if all are equally far. It therefore does not depend on the unit of the distance,
    nor on its zero, which the inner product does not have. Ties and missing voters as in
    `majority`.

    Source:
        Dudani, "The Distance-Weighted k-Nearest-Neighbor Rule", IEEE Transactions on Systems,
        Man, and Cybernetics 1976, equation 1.
    """
    distances = neighbors.distances.double()
    may_vote = _may_vote(neighbors)
    least = distances.masked_fill(~may_vote, torch.inf).amin(dim=1, keepdim=True)
    most = distances.masked_fill(~may_vote, -torch.inf).amax(dim=1, keepdim=True)
    weights = torch.where(most > least, (most - distances) / (most - least), 1.0)
    return _elect(neighbors, weights)


def center(neighbors: Neighbors) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """Label and distance of the nearest class center.

    The neighbors must come from a lookup in `class_centers`, not from one among items.

    Raises:
        InputError: for neighbors whose ids are not their class codes, as those of centers are.

    Source:
        Mensink, Verbeek, Perronnin & Csurka, "Distance-Based Image Classification: Generalizing
        to New Classes at Near-Zero Cost", IEEE TPAMI 2013, section 3 (nearest class mean).
    """
    return _of_centers(neighbors, "center", "class_centers")


def relative(neighbors: Neighbors) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """Label and relative Mahalanobis distance of the class that is nearest by it.

    The neighbors must come from a lookup in `relative_centers`, not from one among items.

    Raises:
        InputError: for neighbors whose ids are not their class codes, as those of centers are.
    """
    return _of_centers(neighbors, "relative", "relative_centers")


def _of_centers(neighbors: Neighbors, rule: str, made_by: str) -> tuple[Tensor, Tensor]:
    codes = neighbors.ids
    if codes.dtype.kind == "U" or (codes != neighbors.labels.cpu().numpy()).any():
        raise InputError(
            f"neighbors must be class centers for the rule {rule!r}, got items. "
            f"Look them up in {made_by}(embeddings, labels, distance=...)."
        )
    return nearest(neighbors)


RULES: dict[str, Rule] = {
    "center": center,
    "majority": majority,
    "nearest": nearest,
    "relative": relative,
    "weighted": weighted,
}
OF_CENTERS = ("center", "relative")  # look at one center of each class


def decide(
    neighbors: Neighbors, rule: str | Rule = "nearest"
) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    """The label each query would get if it were accepted, and the distance to judge it by.

    What `match` compares with its threshold, and what a threshold is therefore calibrated on:
    `calibrate(distances, labels == truth, rule=rule, k=k)`.

    Args:
        neighbors: from `Index.lookup`.
        rule: a name in RULES, or a function like those.

    Returns:
        Labels (q,), -1 where the rule finds none, and distances (q,).

    Raises:
        InputError: the rule is not known, or does not give one label and distance per query;
            NaN or minus infinity among the distances.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> distances = torch.tensor([[0.1, 0.2, 0.4]])
        >>> found = Neighbors(np.array([[5, 6, 7]]), distances, torch.tensor([[0, 1, 1]]))
        >>> decide(found)
        (tensor([0]), tensor([0.1000]))
        >>> decide(found, "majority")
        (tensor([1]), tensor([0.3000]))
    """
    distances = neighbors.distances
    # The least of numbers with NaN is NaN, and is found in one step.
    if free_to_look(distances) and distances.numel() and not float(distances.min()) > -torch.inf:
        bad = int((~(distances > -torch.inf)).sum())
        raise InputError(
            "distances of neighbors must be finite, or inf for padding, got "
            f"{bad} NaN or minus infinity. Look queries up again."
        )
    elect = RULES[rule_name(rule)] if isinstance(rule, str) else rule
    labels, distances = elect(neighbors)
    count = len(neighbors.labels)
    if labels.shape != (count,) or distances.shape != (count,):
        raise InputError(
            f"rule must give one label and one distance for each of {count} queries, "
            f"got shapes {tuple(labels.shape)} and {tuple(distances.shape)}."
        )
    return labels, distances


def rule_name(rule: str | Rule) -> str:
    """The name under which a Calibration remembers a rule: that of RULES, or the function's.

    Raises:
        InputError: a name that is not in RULES.

    Example:
        >>> rule_name(majority)
        'majority'
    """
    if isinstance(rule, str):
        check_choice("rule", rule, RULES)
        return rule
    return str(getattr(rule, "__name__", type(rule).__name__))


def _may_vote(neighbors: Neighbors) -> Bool[Tensor, "q k"]:
    return (neighbors.labels != UNKNOWN) & ~neighbors.distances.isposinf()


def _elect(
    neighbors: Neighbors, weights: Float[Tensor, "q k"]
) -> tuple[Int[Tensor, " q"], Float[Tensor, " q"]]:
    labels, distances = neighbors.labels, neighbors.distances
    may_vote = _may_vote(neighbors)
    weights = weights.where(may_vote, 0)
    votes = torch.zeros_like(weights)  # that the label of each neighbor gets
    for voter in range(labels.shape[1]):  # k steps, and never (q, k, k) numbers
        votes += weights[:, voter, None] * (labels == labels[:, voter, None])
    winner = votes.argmax(dim=1, keepdim=True)  # the first of equals, so the nearer
    elected = may_vote & (labels == labels.gather(1, winner))
    share = weights.where(elected, 0)
    mean = (share * distances.double().where(elected, 0)).sum(dim=1) / share.sum(dim=1)
    anyone = may_vote.any(dim=1)
    return (
        labels.gather(1, winner).squeeze(1).where(anyone, UNKNOWN),
        mean.where(anyone, torch.inf).to(distances.dtype),
    )
