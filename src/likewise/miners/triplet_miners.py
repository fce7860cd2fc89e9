"""Rules that select triplets one by one: a triplet per anchor, or per positive pair."""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_choice, check_count, check_positive
from likewise.errors import InputError
from likewise.miners.anchor_rows import (
    or_infinite,
    or_minus_infinite,
    positive_columns,
    sorted_rows,
)
from likewise.miners.sets import AllTriplets, TripletMiner, Triplets


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
    if not distances.numel():
        return _none(distances)
    # One pass gives value and place; a value left infinite tells that there is none.
    farthest, positive = or_minus_infinite(distances, is_positive).max(dim=1)
    nearest, negative = or_infinite(distances, is_negative).min(dim=1)
    return Triplets(
        anchor=torch.arange(len(distances), device=distances.device),
        positive=positive,
        negative=negative,
        keep=(farthest != -torch.inf) & (nearest != torch.inf),
    )


def batch_easy_hard(positive: str = "hard", negative: str = "hard") -> TripletMiner:
    """A miner of one positive and one negative per anchor, each the easiest or the hardest.

    A hard positive is the farthest, a hard negative the nearest; easy ones are the opposite. A
    semi-hard negative is the nearest that is farther than the chosen positive, a semi-hard
    positive the farthest that is nearer than the chosen negative; an anchor without one keeps
    nothing. With "all" there is a triplet for every one of that kind. Of equals the first
    column is taken.

    Args:
        positive: "easy", "hard", "semi_hard" or "all".
        negative: the same; not "semi_hard" if positive is that or "all", nor the other way.

    Source:
        Xuan, Stylianou & Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV
        2020; pytorch-metric-learning's BatchEasyHardMiner. TensorFlow Similarity takes the
        farthest negative where none is semi-hard; such a triplet costs the margin or more.

    Example:
        >>> from likewise.masks import masks
        >>> distances = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
        >>> is_positive = torch.tensor([[False, True, True, False]])
        >>> mine = batch_easy_hard(positive="easy", negative="hard")
        >>> mined = mine(distances, is_positive, torch.tensor([[False, False, False, True]]))
        >>> mined.positive.tolist(), mined.negative.tolist()
        ([1], [3])
    """
    kinds = ("easy", "hard", "semi_hard", "all")
    check_choice("positive", positive, kinds)
    check_choice("negative", negative, kinds)
    if {positive, negative} in ({"semi_hard"}, {"semi_hard", "all"}):
        raise InputError(
            f"negative must be easy or hard beside {positive}, got {negative!r}. "
            "Semi-hard is relative to one chosen item of the other kind; see also all_semi_hard."
        )

    return partial(_batch_easy_hard, positive=positive, negative=negative)


@torch.no_grad()
def _batch_easy_hard(
    distances: Tensor,
    is_positive: Tensor,
    is_negative: Tensor,
    *,
    positive: str,
    negative: str,
) -> Triplets | AllTriplets:
    if positive == negative == "all":
        return AllTriplets(is_positive, is_negative)
    if not distances.numel():
        return _none(distances)
    near, far = is_positive, is_negative
    if positive == "semi_hard":
        chosen = _chosen(distances, is_negative, farthest=negative == "easy")
        near = is_positive & (distances < distances.gather(1, chosen))
    if negative == "semi_hard":
        chosen = _chosen(distances, is_positive, farthest=positive == "hard")
        far = is_negative & (distances > distances.gather(1, chosen))
    # A semi-hard one lies as close to the other kind as it can: the farthest positive,
    # the nearest negative.
    positives = _chosen(distances, near, farthest=positive != "easy")
    negatives = _chosen(distances, far, farthest=negative == "easy")
    # Without any of the other kind the bound of a semi-hard one means nothing.
    keep = (near.any(dim=1) & far.any(dim=1))[:, None]
    keep = keep & is_positive.any(dim=1, keepdim=True) & is_negative.any(dim=1, keepdim=True)
    if positive == "all":
        positives, valid = positive_columns(is_positive)
        keep = keep & valid
    if negative == "all":
        negatives = torch.arange(distances.shape[1], device=distances.device)[None]
        keep = keep & is_negative
    return _per_positive(positives.expand_as(keep), negatives.expand_as(keep), keep)


def _chosen(distances: Tensor, mask: Tensor, *, farthest: bool) -> Int[Tensor, "n 1"]:
    if farthest:
        return or_minus_infinite(distances, mask).max(dim=1, keepdim=True).indices
    return or_infinite(distances, mask).min(dim=1, keepdim=True).indices


@torch.no_grad()
def hardest_negative(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Triplets:
    """For each positive pair, the anchor's nearest negative.

    As many triplets per row as the fullest row has positives (on a GPU, as it has entries),
    kept where there is a positive and the anchor has a negative. Of equals the first column
    is taken.

    Args:
        distances: from every anchor to every reference; smaller is closer. Read, never
            differentiated.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.

    Source:
        Bielski, "siamese-triplet", 2018, HardestNegativeTripletSelector (there only where the
        loss is above zero, which leaves value and gradient as they are).
    """
    if not distances.numel():
        return _none(distances)
    columns, valid = positive_columns(is_positive)
    nearest, negative = or_infinite(distances, is_negative).min(dim=1, keepdim=True)
    return _per_positive(columns, negative.expand_as(columns), valid & (nearest != torch.inf))


@torch.no_grad()
def semi_hard(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> Triplets:
    """For each positive pair, the nearest negative that is farther away than the positive.

    As many triplets per row as the fullest row has positives (on a GPU, as it has entries),
    kept where there is a positive and such a negative. Of equals the first column is taken.

    Args:
        distances: from every anchor to every reference; smaller is closer. Read, never
            differentiated.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.

    Source:
        Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.2 (there inside the
        margin as well; the loss is zero outside of it).
    """
    columns, valid = positive_columns(is_positive)
    ordered, order = sorted_rows(or_infinite(distances, is_negative))
    farther = torch.searchsorted(ordered, distances.gather(1, columns), right=True)
    keep = valid & (farther < is_negative.sum(dim=1, keepdim=True))
    return _per_positive(columns, order.gather(1, farther.clamp_(max=order.shape[1] - 1)), keep)


def random_hard(margin: float, generator: torch.Generator | None = None) -> TripletMiner:
    """A miner of one random negative per positive pair, among those that cost something.

    A negative costs something when it is less than `margin` farther away than the positive.
    As many triplets per row as the fullest row has positives (on a GPU, as it has entries),
    kept where there is a positive that has such a negative.

    Args:
        margin: The margin of the loss, in the unit of the distances.
        generator: where chance comes from; torch's own generator if None, so that
            `torch.manual_seed` decides. It must live on the device of the distances.

    Source:
        Bielski, "siamese-triplet", 2018, RandomNegativeTripletSelector.
    """
    check_positive("margin", margin)
    return partial(_random_up_to, margin=margin, generator=generator, beyond_positive=False)


def random_semi_hard(margin: float, generator: torch.Generator | None = None) -> TripletMiner:
    """A miner of one random negative per positive pair, farther than it by less than `margin`.

    As many triplets per row as the fullest row has positives (on a GPU, as it has entries),
    kept where there is a positive that has such a negative.

    Args:
        margin: The margin of the loss, in the unit of the distances.
        generator: where chance comes from; torch's own generator if None, so that
            `torch.manual_seed` decides. It must live on the device of the distances.

    Source:
        Bielski, "siamese-triplet", 2018, SemihardNegativeTripletSelector.
    """
    check_positive("margin", margin)
    return partial(_random_up_to, margin=margin, generator=generator, beyond_positive=True)


@torch.no_grad()
def _random_up_to(
    distances: Tensor,
    is_positive: Tensor,
    is_negative: Tensor,
    *,
    margin: float,
    generator: torch.Generator | None,
    beyond_positive: bool,
) -> Triplets:
    columns, valid = positive_columns(is_positive)
    near = distances.gather(1, columns)
    ordered, order = sorted_rows(or_infinite(distances, is_negative))
    # Sorted by distance, those that qualify lie side by side.
    end = torch.searchsorted(ordered, near + margin)
    start = torch.searchsorted(ordered, near, right=True) if beyond_positive else 0
    choices = end - start
    chance = torch.rand(near.shape, generator=generator, device=near.device)
    # float32 chance just below 1 may round up to the count itself.
    pick = start + torch.minimum((chance * choices).long(), choices - 1).clamp_(min=0)
    negative = order.gather(1, pick.clamp_(max=max(order.shape[1] - 1, 0)))
    return _per_positive(columns, negative, valid & (choices > 0))


def distance_weighted(
    dimension: int,
    *,
    nearest: float = 0.5,
    farthest: float = 1.4,
    generator: torch.Generator | None = None,
) -> TripletMiner:
    """A miner of one negative per positive pair, drawn as if all distances were equally common.

    Between random points on a sphere almost all distances are about √2. A negative at distance
    d is drawn with weight 1 / q(d), where q(d) = d^(D − 2) (1 − d² / 4)^((D − 3) / 2) is how
    common d is; below `nearest` the weight is that of `nearest`, from `farthest` on it is 0.
    An anchor without a negative nearer than `farthest` keeps nothing.

    Args:
        dimension: D, of the embeddings, which must have length 1. Distances must be plain
            Euclidean.
        nearest: below it distances count as equal, since very near negatives give noise.
        farthest: from it on negatives cost nothing.
        generator: where chance comes from; torch's own generator if None, so that
            `torch.manual_seed` decides. It must live on the device of the distances.

    Source:
        Wu, Manmatha, Smola & Krähenbühl, "Sampling Matters in Deep Embedding Learning", ICCV
        2017, section 4; 0.5 and 1.4 are those of its code, which falls back to a uniform draw
        where nothing is near enough.

    Example:
        >>> from likewise.losses import TripletLoss
        >>> loss = TripletLoss(margin=0.2, miner=distance_weighted(64))
    """
    check_count("dimension", dimension, 2)
    check_positive("nearest", nearest)
    if not nearest < farthest <= 2:
        raise InputError(
            f"farthest must be above nearest, {nearest}, and at most 2, got {farthest}. "
            "Points on a sphere are never more than 2 apart."
        )

    return partial(
        _distance_weighted,
        dimension=dimension,
        nearest=nearest,
        farthest=farthest,
        generator=generator,
    )


@torch.no_grad()
def _distance_weighted(
    distances: Tensor,
    is_positive: Tensor,
    is_negative: Tensor,
    *,
    dimension: int,
    nearest: float,
    farthest: float,
    generator: torch.Generator | None,
) -> Triplets:
    columns, valid = positive_columns(is_positive)
    apart = distances.clamp(min=nearest)
    possible = is_negative & (apart < farthest)
    common = (dimension - 2) * apart.log()
    common += (dimension - 3) / 2 * (1 - apart.square_() / 4).clamp_(min=1e-12).log_()
    weights = torch.softmax(or_minus_infinite(-common, possible), dim=1)
    heaped = weights.nan_to_num_(0).cumsum(dim=1)  # softmax of nothing is not a number
    total = heaped[:, -1:]
    chance = torch.rand(columns.shape, generator=generator, device=distances.device)
    # Strictly below the total, the first sum above the chance is at a possible negative.
    chance = torch.minimum(chance * total, torch.nextafter(total, torch.zeros_like(total)))
    pick = torch.searchsorted(heaped, chance, right=True).clamp_(max=heaped.shape[1] - 1)
    return _per_positive(columns, pick, valid & possible.any(dim=1, keepdim=True))


def _none(distances: Tensor) -> Triplets:
    none = torch.empty(0, dtype=torch.int64, device=distances.device)
    return Triplets(none, none, none, none.bool())


def _per_positive(
    positive: Int[Tensor, "n w"], negative: Int[Tensor, "n w"], keep: Bool[Tensor, "n w"]
) -> Triplets:
    rows, width = keep.shape
    return Triplets(
        anchor=torch.arange(rows, device=keep.device).repeat_interleave(width),
        positive=positive.flatten(),
        negative=negative.flatten(),
        keep=keep.flatten(),
    )
