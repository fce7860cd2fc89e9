"""What a triplet miner returns, and the rules that select by a condition without listing."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_positive
from likewise.errors import InputError

TripletRule = Callable[[Tensor, Tensor, Tensor], Tensor]


class AllTriplets(NamedTuple):
    """Every positive of a row together with every negative of the same row, never listed.

    With `within` only those whose negative is farther away than the positive, but by less than
    `within`; they are counted in closed form too. With `rule` only those for which it holds: it
    is called as rule(anchor to positive, anchor to negative, positive to negative) with
    distances whose shapes broadcast to (rows, positives, negatives), a few rows at a time.

    Example:
        A miner of your own, of triplets whose negative is nearer than the positive:

        >>> import torch
        >>> from likewise.losses import TripletLoss
        >>> def all_hard(distances, is_positive, is_negative):
        ...     return AllTriplets(is_positive, is_negative, rule=lambda ap, an, pn: an < ap)
        >>> loss = TripletLoss(margin=0.5, miner=all_hard)
        >>> loss(torch.tensor([[0.0], [1.0], [0.75]]), torch.tensor([0, 0, 1]))
        tensor(1.)
    """

    positive: Bool[Tensor, "n m"]
    negative: Bool[Tensor, "n m"]
    within: float | None = None
    rule: TripletRule | None = None


class Triplets(NamedTuple):
    """Triplet i is (anchor[i], positive[i], negative[i]) of one distance matrix, where keep[i].

    There are as many as the rule could give at most, so that a GPU never waits for a count.

    Example:
        A miner of your own, of the next item as positive and the one after as negative:

        >>> import torch
        >>> from likewise.losses import TripletLoss
        >>> def in_turn(distances, is_positive, is_negative):
        ...     anchor = torch.arange(len(distances) - 2)
        ...     positive, negative = anchor + 1, anchor + 2
        ...     keep = is_positive[anchor, positive] & is_negative[anchor, negative]
        ...     return Triplets(anchor, positive, negative, keep)
        >>> loss = TripletLoss(margin=0.5, miner=in_turn)
        >>> loss(torch.tensor([[0.0], [1.0], [0.75]]), torch.tensor([0, 0, 1]))
        tensor(0.7500)
    """

    anchor: Int[Tensor, " t"]  # rows
    positive: Int[Tensor, " t"]  # columns
    negative: Int[Tensor, " t"]  # columns
    keep: Bool[Tensor, " t"]


TripletMiner = Callable[[Tensor, Tensor, Tensor], Triplets | AllTriplets]


def all_triplets(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> AllTriplets:
    """Every anchor with each of its positives and each of its negatives.

    Only the masks are returned: a loss over all triplets is summed in closed form, since a
    list of them would be longer than memory for batches of a few thousand.

    Args:
        distances: from every anchor to every reference; not looked at.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.
    """
    return AllTriplets(is_positive, is_negative)


def all_semi_hard(margin: float) -> TripletMiner:
    """A miner of every triplet whose negative is farther than its positive, by less than `margin`.

    None is listed: a loss counts them in closed form.

    Args:
        margin: Usually the margin of the loss, in the unit of the distances.

    Source:
        Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, equation 4 (which then takes
        one of them). All of them: pytorch-metric-learning,
        TripletMarginMiner(type_of_triplets="semihard").

    Example:
        >>> import torch
        >>> from likewise.losses import TripletLoss
        >>> loss = TripletLoss(margin=0.5, miner=all_semi_hard(0.5))
        >>> points = torch.tensor([[0.0], [1.0], [1.25], [9.0]])
        >>> loss(points, torch.tensor([0, 0, 1, 2]))  # 0 and 1 with 2: 1 + 0.5 - 1.25
        tensor(0.2500)
    """
    check_positive("margin", margin)
    return partial(_all_semi_hard, margin=margin)


def _all_semi_hard(
    distances: Tensor, is_positive: Tensor, is_negative: Tensor, *, margin: float
) -> AllTriplets:
    return AllTriplets(is_positive, is_negative, within=margin)


def angular(degrees: float = 20.0) -> TripletMiner:
    """A miner of every triplet that spans more than an angle, seen from its negative.

    With c the middle between anchor a and positive p, the angle is atan(|a − p| / 2 |n − c|).
    None is listed: the loss asks the rule a few rows at a time. As
    |n − c|² = |a − n|² / 2 + |p − n|² / 2 − |a − p|² / 4, the three distances are enough.

    Args:
        degrees: above 0 and below 90. Distances must be plain Euclidean.

    Source:
        Wang, Zhou, Wen, Liu & Lin, "Deep Metric Learning with Angular Loss", ICCV 2017,
        section 3.2; as pytorch-metric-learning's AngularMiner.
    """
    check_positive("degrees", degrees)
    if degrees >= 90:
        raise InputError(f"degrees must be below 90, got {degrees}. 20 to 45 are usual.")
    slope = 2 * math.tan(math.radians(degrees))
    return partial(_angular, slope=slope)


def _angular(
    distances: Tensor, is_positive: Tensor, is_negative: Tensor, *, slope: float
) -> AllTriplets:
    return AllTriplets(is_positive, is_negative, rule=partial(_is_wide, slope=slope))


def _is_wide(positive: Tensor, negative: Tensor, between: Tensor, *, slope: float) -> Tensor:
    squares = (negative.square() + between.square()) / 2 - positive.square() / 4
    return positive > slope * squares.clamp_(min=0).sqrt_()
