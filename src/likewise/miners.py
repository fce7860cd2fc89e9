"""Rules that select pairs and triplets from a matrix of distances and two masks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_at_least, check_positive


class Pairs(NamedTuple):
    """The selected pairs: anchor i (row) with reference j (column) where a mask is True."""

    positive: Bool[Tensor, "n m"]
    negative: Bool[Tensor, "n m"]


class AllTriplets(NamedTuple):
    """Every positive of a row together with every negative of the same row, never listed."""

    positive: Bool[Tensor, "n m"]
    negative: Bool[Tensor, "n m"]


class Triplets(NamedTuple):
    """Triplet i is (anchor[i], positive[i], negative[i]) of one distance matrix, where keep[i].

    There are as many as the rule could give at most, so that a GPU never waits for a count.
    """

    anchor: Int[Tensor, " t"]  # rows
    positive: Int[Tensor, " t"]  # columns
    negative: Int[Tensor, " t"]  # columns
    keep: Bool[Tensor, " t"]


PairMiner = Callable[[Tensor, Tensor, Tensor], Pairs]
TripletMiner = Callable[[Tensor, Tensor, Tensor], Triplets | AllTriplets]


def all_pairs(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Pairs:
    """Every positive and every negative pair.

    Args:
        distances: from every anchor to every reference; not looked at.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.
    """
    return Pairs(is_positive, is_negative)


@torch.no_grad()
def hard_negative_pairs(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Pairs:
    """Every positive pair and as many negative ones, the closest of the whole matrix.

    All negatives when there are fewer of them than positives. Of equally close pairs the one
    that comes first row by row is taken.

    Args:
        distances: from every anchor to every reference; smaller is closer. Read, never
            differentiated.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.

    Source:
        Bielski, "siamese-triplet", 2018, HardNegativePairSelector (there an error when
        negatives are the fewer).
    """
    order = _or_infinite(distances, is_negative).flatten().argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    closest = rank.view_as(distances) < is_positive.sum()
    return Pairs(is_positive, is_negative & closest)


def multi_similarity(epsilon: float = 0.1) -> PairMiner:
    """A miner of the pairs that are not yet clear by `epsilon` against the anchor's hardest one.

    A positive is kept when it is farther than the anchor's nearest negative less epsilon, a
    negative when it is nearer than the anchor's farthest positive plus epsilon. An anchor
    without positives or without negatives keeps nothing.

    Args:
        epsilon: in the unit of the distances.

    Source:
        Wang, Han, Huang, Dong & Scott, "Multi-Similarity Loss with General Pair Weighting for
        Deep Metric Learning", CVPR 2019, equations 7 and 8 (there for similarities).
    """
    check_at_least("epsilon", epsilon, 0)

    @torch.no_grad()
    def mine(distances: Tensor, is_positive: Tensor, is_negative: Tensor) -> Pairs:
        nearest = _or_infinite(distances, is_negative).amin(dim=1, keepdim=True)
        farthest = _or_minus_infinite(distances, is_positive).amax(dim=1, keepdim=True)
        return Pairs(
            # An infinite bound means that the other kind is missing, and then nothing is hard.
            is_positive & (distances > nearest - epsilon),
            is_negative & (distances < farthest + epsilon),
        )

    return mine


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


@torch.no_grad()
def batch_hard(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Triplets:
    """For each anchor, its farthest positive and its nearest negative.

    One triplet per row; anchors without a positive or without a negative are not kept. Of
    equals the first column is taken.

    Args:
        distances: from every anchor to every reference; smaller is closer. Read, never
            differentiated.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.

    Source:
        Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person
        Re-Identification", 2017, "Batch Hard".
    """
    return Triplets(
        anchor=torch.arange(len(distances), device=distances.device),
        positive=_or_minus_infinite(distances, is_positive).argmax(dim=1),
        negative=_or_infinite(distances, is_negative).argmin(dim=1),
        keep=is_positive.any(dim=1) & is_negative.any(dim=1),
    )


@torch.no_grad()
def hardest_negative(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Triplets:
    """For each positive pair, the anchor's nearest negative.

    One triplet per entry of the matrix, kept where the entry is a positive pair whose anchor
    has a negative. Of equals the first column is taken.

    Args:
        distances: from every anchor to every reference; smaller is closer. Read, never
            differentiated.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.

    Source:
        Bielski, "siamese-triplet", 2018, HardestNegativeTripletSelector (there only where the
        loss is above zero, which leaves value and gradient as they are).
    """
    nearest = _or_infinite(distances, is_negative).argmin(dim=1, keepdim=True)
    keep = is_positive & is_negative.any(dim=1, keepdim=True)
    return _per_entry(nearest.expand_as(distances), keep)


@torch.no_grad()
def semi_hard(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Triplets:
    """For each positive pair, the nearest negative that is farther away than the positive.

    One triplet per entry of the matrix, kept where the entry is a positive pair and such a
    negative exists. Of equals the first column is taken.

    Args:
        distances: from every anchor to every reference; smaller is closer. Read, never
            differentiated.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.

    Source:
        Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.2 (there inside the
        margin as well; the loss is zero outside of it).
    """
    ordered, columns = _or_infinite(distances, is_negative).sort(dim=1, stable=True)
    farther = torch.searchsorted(ordered, distances.contiguous(), right=True)
    keep = is_positive & (farther < is_negative.sum(dim=1, keepdim=True))
    return _per_entry(columns.gather(1, farther.clamp(max=columns.shape[1] - 1)), keep)


def random_hard(margin: float, generator: torch.Generator | None = None) -> TripletMiner:
    """A miner of one random negative per positive pair, among those that cost something.

    A negative costs something when it is less than `margin` farther away than the positive.
    One triplet per entry of the matrix, kept where the entry is a positive pair that has such
    a negative.

    Args:
        margin: that of the loss, in the unit of the distances.
        generator: where chance comes from; torch's own generator if None, so that
            `torch.manual_seed` decides. It must live on the device of the distances.

    Source:
        Bielski, "siamese-triplet", 2018, RandomNegativeTripletSelector.
    """
    check_positive("margin", margin)

    @torch.no_grad()
    def mine(distances: Tensor, is_positive: Tensor, is_negative: Tensor) -> Triplets:
        ordered, columns = _or_infinite(distances, is_negative).sort(dim=1, stable=True)
        # Sorted by distance, the negatives that cost something are the first so many.
        costly = torch.searchsorted(ordered, distances + margin)
        chance = torch.rand(distances.shape, generator=generator, device=distances.device)
        # float32 chance just below 1 may round up to the count itself.
        pick = torch.minimum((chance * costly).long(), costly - 1).clamp(min=0)
        return _per_entry(columns.gather(1, pick), is_positive & (costly > 0))

    return mine


def _per_entry(negative: Int[Tensor, "n m"], keep: Bool[Tensor, "n m"]) -> Triplets:
    rows, columns = keep.shape
    return Triplets(
        anchor=torch.arange(rows, device=keep.device).repeat_interleave(columns),
        positive=torch.arange(columns, device=keep.device).repeat(rows),
        negative=negative.flatten(),
        keep=keep.flatten(),
    )


def _or_infinite(distances: Tensor, mask: Tensor) -> Tensor:
    return distances.masked_fill(~mask, torch.inf)


def _or_minus_infinite(distances: Tensor, mask: Tensor) -> Tensor:
    return distances.masked_fill(~mask, -torch.inf)
