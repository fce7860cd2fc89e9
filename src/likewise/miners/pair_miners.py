"""Rules that select pairs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise._checks import check_at_least, check_number
from likewise.miners.anchor_rows import or_infinite, or_minus_infinite, sorted_values


class Pairs(NamedTuple):
    """The selected pairs: anchor i (row) with reference j (column) where a mask is True."""

    positive: Bool[Tensor, "n m"]
    negative: Bool[Tensor, "n m"]


PairMiner = Callable[[Tensor, Tensor, Tensor], Pairs]


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


def balanced_positive_pairs(generator: torch.Generator | None = None) -> PairMiner:
    """A miner of every positive pair and as many random negative ones.

    All negatives when there are fewer of them than positives.

    Args:
        generator: where chance comes from; torch's own generator if None, so that
            `torch.manual_seed` decides. It must live on the device of the distances.

    Source:
        Bielski, "siamese-triplet", 2018, AllPositivePairSelector(balance=True).

    Example:
        >>> from likewise.masks import masks
        >>> mine = balanced_positive_pairs(torch.Generator().manual_seed(0))
        >>> pairs = mine(torch.rand(6, 6), *masks(torch.tensor([0, 0, 1, 1, 2, 2])))
        >>> int(pairs.positive.sum()), int(pairs.negative.sum())
        (6, 6)
    """
    return partial(_balanced_positive_pairs, generator=generator)


@torch.no_grad()
def _balanced_positive_pairs(
    distances: Tensor,
    is_positive: Tensor,
    is_negative: Tensor,
    *,
    generator: torch.Generator | None,
) -> Pairs:
    chance = torch.rand(distances.shape, generator=generator, device=distances.device)
    return Pairs(is_positive, _smallest(chance, is_negative, torch.count_nonzero(is_positive)))


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
    return Pairs(is_positive, _smallest(distances, is_negative, torch.count_nonzero(is_positive)))


def _smallest(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    # The `count` smallest values of the mask, as a mask; of equals those that come first.
    if not values.numel():
        return mask
    flat = or_infinite(values, mask).flatten()
    # Not by [...]: an index without dimensions would be read as a number, and waited for.
    last = sorted_values(flat).take((count - 1).clamp(min=0))
    below, level = flat < last, flat == last
    left = count - torch.count_nonzero(below)
    return mask & (below | (level & (level.cumsum(0) <= left))).view_as(mask)


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
    return partial(_multi_similarity, epsilon=epsilon)


@torch.no_grad()
def _multi_similarity(
    distances: Tensor, is_positive: Tensor, is_negative: Tensor, *, epsilon: float
) -> Pairs:
    if not distances.numel():
        return Pairs(is_positive, is_negative)
    nearest = or_infinite(distances, is_negative).amin(dim=1, keepdim=True)
    farthest = or_minus_infinite(distances, is_positive).amax(dim=1, keepdim=True)
    return Pairs(
        # An infinite bound means that the other kind is missing, and then nothing is hard.
        # As "and not", for NaN is neither and must not be passed over.
        is_positive > (distances <= nearest - epsilon),
        is_negative > (distances >= farthest + epsilon),
    )


def pair_margin(positive_margin: float = 0.2, negative_margin: float = 0.8) -> PairMiner:
    """A miner of positive pairs beyond one margin and of negative pairs within another.

    Args:
        positive_margin: Distance up to which positive pairs are left out.
        negative_margin: Distance from which negative pairs are left out.

    Source:
        pytorch-metric-learning, PairMarginMiner, whose defaults these are; there distances are
        Euclidean, between unit vectors.

    Example:
        >>> from likewise.masks import masks
        >>> distances = torch.tensor([[0.0, 0.1, 0.5], [0.1, 0.0, 0.9], [0.5, 0.9, 0.0]])
        >>> pairs = pair_margin()(distances, *masks(torch.tensor([0, 0, 1])))
        >>> int(pairs.positive.sum()), pairs.negative.nonzero().tolist()
        (0, [[0, 2], [2, 0]])
    """
    check_number("positive_margin", positive_margin)
    check_number("negative_margin", negative_margin)
    return partial(_pair_margin, positive_margin=positive_margin, negative_margin=negative_margin)


@torch.no_grad()
def _pair_margin(
    distances: Tensor,
    is_positive: Tensor,
    is_negative: Tensor,
    *,
    positive_margin: float,
    negative_margin: float,
) -> Pairs:
    # As "and not", for NaN is neither and must not be passed over.
    return Pairs(
        is_positive > (distances <= positive_margin),
        is_negative > (distances >= negative_margin),
    )
