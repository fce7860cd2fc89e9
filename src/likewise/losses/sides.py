"""Losses of given pairs and given triplets, where no others are formed within the batch."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_embeddings, check_same, check_same_width
from likewise.distances import EUCLIDEAN, Distance
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses.contrastive import contrastive_loss
from likewise.losses.facts import mean_where, spread
from likewise.losses.triplet import triplet_loss


class GivenPairsLoss(nn.Module):
    """Mean cost of given pairs: called as loss(a, b, same), no other pairs are formed.

    For a `SiameseNet`, or any encoder, that `fit` trains on a `PairDataset`, and for `TwoTowers`
    that it trains on `CrossPairs`. After each call `facts` holds the share of the pairs that cost
    something, the mean distance of either kind and the spread; and what `cost.facts` tells, as of a
    `LearnedThreshold`.

    Args:
        cost: from distances (p,) and same (p,), True for the same, to costs (p,);
            `contrastive_loss` with margin 1 if None.
        distance: how the sides are compared.

    Source:
        Bielski, "siamese-triplet", 2018, ContrastiveLoss (there with a factor ½).

    Example:
        >>> a, b = torch.tensor([[0.0], [0.0]]), torch.tensor([[3.0], [0.5]])
        >>> GivenPairsLoss()(a, b, torch.tensor([True, False]))  # mean of 3² and (1 − 0.5)²
        tensor(4.6250)
    """

    by_rows = True  # so that processes may share a batch
    takes_pairs = True  # by which `fit` knows how to call it on pairs of two towers

    def __init__(
        self,
        cost: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        distance: Distance = EUCLIDEAN,
    ) -> None:
        super().__init__()
        self.cost = partial(contrastive_loss, margin=1.0) if cost is None else cost
        self.distance = distance
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self, a: Float[Tensor, "p d"], b: Float[Tensor, "p d"], same: Bool[Tensor, " p"]
    ) -> Float[Tensor, ""]:
        """The mean over the pairs; 0 if there is none."""
        check_sides(a=a, b=b)
        check_same(same, len(a))
        distances = self.distance.paired(a, b)
        costs = self.cost(distances, same)
        with torch.no_grad():
            self.facts = {
                "active": (costs > 0).sum() / max(len(costs), 1),
                "positive_distance": mean_where(distances, same),
                "negative_distance": mean_where(distances, ~same),
                "spread": spread(torch.cat([a, b])),
                **getattr(self.cost, "facts", {}),
            }
        return shown(costs.sum() / max(_shares.counted(len(costs)), 1), distances, a)


class GivenTripletsLoss(nn.Module):
    """Mean cost of given triplets: called as loss(anchor, positive, negative).

    For a `TripletNet`, or any encoder, that `fit` trains on a `TripletDataset`. After each call
    `facts` holds what `GivenPairsLoss` tells, of triplets.

    Args:
        cost: from positive (t,) and negative distances (t,) to costs (t,); `triplet_loss` with
            margin 0.2 if None.
        distance: how anchors are compared with the others.

    Source:
        Bielski, "siamese-triplet", 2018, TripletLoss (there with squared distances and margin 1).

    Example:
        >>> anchor, positive, negative = torch.tensor([[[0.0]], [[1.0]], [[1.1]]])
        >>> GivenTripletsLoss()(anchor, positive, negative)
        tensor(0.1000)
    """

    by_rows = True  # so that processes may share a batch

    def __init__(
        self,
        cost: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        distance: Distance = EUCLIDEAN,
    ) -> None:
        super().__init__()
        self.cost = partial(triplet_loss, margin=0.2) if cost is None else cost
        self.distance = distance
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self,
        anchor: Float[Tensor, "t d"],
        positive: Float[Tensor, "t d"],
        negative: Float[Tensor, "t d"],
    ) -> Float[Tensor, ""]:
        """The mean over the triplets; 0 if there is none."""
        check_sides(anchor=anchor, positive=positive, negative=negative)
        to_positive = self.distance.paired(anchor, positive)
        to_negative = self.distance.paired(anchor, negative)
        costs = self.cost(to_positive, to_negative)
        count = max(len(costs), 1)
        with torch.no_grad():
            self.facts = {
                "active": (costs > 0).sum() / count,
                "positive_distance": to_positive.sum() / count,
                "negative_distance": to_negative.sum() / count,
                "spread": spread(torch.cat([anchor, positive, negative])),
            }
        mean = costs.sum() / max(_shares.counted(len(costs)), 1)
        return shown(mean, torch.cat([to_positive, to_negative]), anchor)


def check_sides(**sides: Tensor) -> None:
    """Refuse sides that are no embeddings (n, d) of the same n and d."""
    (first, reference), *others = sides.items()
    check_embeddings(reference, first)
    for name, side in others:
        check_embeddings(side, name)
        check_same_width(reference, side, (first, name))
        if len(side) != len(reference):
            raise InputError(
                f"{name} must have as many rows as {first}, {len(reference)}, got {len(side)}. "
                "Row i of every side belongs together."
            )
