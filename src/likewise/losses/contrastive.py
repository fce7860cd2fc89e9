"""The contrastive loss: pull the same together, push the different beyond a margin."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_at_least, check_choice, check_positive, free_to_look
from likewise.distances import EUCLIDEAN, INNER_PRODUCT, SNR, Distance
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts, batch_mean_over
from likewise.masks import compared, labeled_among
from likewise.miners import PairMiner, Pairs, all_pairs, works_by_rows


def contrastive_loss(
    distances: Float[Tensor, "..."],
    same: Bool[Tensor, "..."],
    *,
    margin: float,
    squared: bool = True,
    positive_margin: float = 0.0,
    halved: bool = False,
) -> Float[Tensor, "..."]:
    """d² where same, max(0, margin − d)² where different; one value per distance.

    With squared=False d and max(0, margin − d). With a positive margin max(0, d − it) in
    place of d. With halved=True half of it all.

    Args:
        distances: Distances of any shape; smaller is closer.
        same: True where the pair belongs together, same shape.
        margin: from where on different pairs cost nothing, in the unit of the distances.
        squared: whether both terms are squared.
        positive_margin: up to where same pairs cost nothing, in the unit of the distances.
        halved: whether both terms carry the factor ½ of the paper.

    Source:
        Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
        CVPR 2006, equation 4 (there halved=True, and 1 meaning different). The hinge on squared
        distances, d² and max(0, margin − d²), is squared=False on squared distances.
    """
    if distances.shape != same.shape:
        raise InputError(
            f"same must have the shape of distances, {tuple(distances.shape)}, "
            f"got {tuple(same.shape)}. Another shape would compare pairs that do not belong."
        )
    # Distances below 0 cannot be, but a hinge at 0 would cost a pass over the matrix.
    pull = F.relu(distances - positive_margin) if positive_margin else distances
    cost = torch.where(same, pull, F.relu(margin - distances))
    if squared:
        cost = cost.square()
    return cost / 2 if halved else cost


class ContrastiveLoss(nn.Module):
    """Mean of `contrastive_loss` over the selected pairs of a batch.

    Zero when every selected positive pair coincides and every selected negative pair is at
    least `margin` apart. After each call `facts` holds the share of the selected pairs that
    cost something and what `batch_facts` tells.

    Args:
        margin: from where on different pairs cost nothing, in the unit of the distance.
        squared: whether both terms are squared.
        distance: how embeddings are compared.
        miner: which pairs count.
        positive_margin: up to where same pairs cost nothing, in the unit of the distance.
        halved: whether both terms carry the factor ½ of the paper.
        average: over all selected "pairs"; or the mean of the positive ones plus the mean of the
            negative ones, either "kind" of its own; or so over the "active" ones, which cost
            something.

    Source:
        As `contrastive_loss`; pairs within a batch as in Bielski, "siamese-triplet", 2018,
        OnlineContrastiveLoss; its ContrastiveLoss has halved=True. The value of ContrastiveLoss in
        pytorch-metric-learning is that of squared=False, average="active".

    Example:
        >>> import torch
        >>> loss = ContrastiveLoss(margin=1.0)
        >>> loss(torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([1, 1, 2]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        squared: bool = True,
        distance: Distance = EUCLIDEAN,
        miner: PairMiner = all_pairs,
        positive_margin: float = 0.0,
        halved: bool = False,
        average: str = "pairs",
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        check_at_least("positive_margin", positive_margin, 0)
        check_choice("average", average, ("active", "kind", "pairs"))
        if distance is INNER_PRODUCT:
            raise InputError(
                "distance must be 0 between equals for the contrastive loss, got inner_product. "
                "Use COSINE, or another loss."
            )
        self.margin = margin
        self.squared = squared
        self.distance = distance
        self.miner = miner
        self.positive_margin = positive_margin
        self.halved = halved
        self.average = average
        self.facts: Mapping[str, Tensor] = {}

    @property
    def by_rows(self) -> bool:
        """Whether processes may share a batch: whether the miner selects row by row."""
        return works_by_rows(self.miner)

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Float[Tensor, "m d"] | None = None,
        reference_labels: Int[Tensor, " m"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        reference_ids: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over the selected pairs; 0 if none is."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        value, active = _mean(
            distances,
            pairs,
            batch.is_positive,
            margin=self.margin,
            squared=self.squared,
            positive_margin=self.positive_margin,
            halved=self.halved,
            average=self.average,
        )
        self.facts = batch_facts(embeddings, distances, *batch.pairs, active=active)
        return shown(value, distances, embeddings)


def _mean(
    distances: Tensor,
    pairs: Pairs,
    same: Tensor,
    *,
    margin: float,
    squared: bool,
    positive_margin: float,
    halved: bool,
    average: str,
) -> tuple[Tensor, Tensor]:
    # `contrastive_loss` averaged, and the share of the pairs that cost something. Value and
    # gradient are made together in two matrices; autograd would fill a dozen.
    with torch.no_grad():
        beyond = (distances - margin).clamp_(max=0)
        pull = (distances - positive_margin).clamp_(min=0) if positive_margin else distances
        torch.where(same, pull, beyond, out=beyond)
        costs = beyond != 0
        costly = Pairs(pairs.positive & costs, pairs.negative & costs)
        active, selected = ([_count(mask) for mask in part] for part in (costly, pairs))
        counts = active if average == "active" else selected
        if average == "pairs":
            counts = [selected[0] + selected[1]] * 2
        counts = [_shares.counted(count) for count in counts]
        pull_share, push_share = (
            distances.new_tensor((0.5 if halved else 1.0) / max(count, 1))
            if isinstance(count, int)
            else (0.5 if halved else 1.0) / count.clamp(min=1).to(distances.dtype)
            for count in counts
        )
        # For negatives `beyond` is below 0, so either kind has the slope 2 · beyond, or its sign.
        slopes = torch.where(costly.negative, push_share if squared else -push_share, 0)
        torch.where(costly.positive, pull_share, slopes, out=slopes)
        if squared:
            slopes.mul_(beyond)
        value = beyond.mul_(slopes).sum()
        if squared:
            slopes.mul_(2)
        some, every = active[0] + active[1], selected[0] + selected[1]
        share = (
            torch.tensor(some / max(every, 1))
            if isinstance(every, int)
            else (some / every.clamp(min=1))
        )
    return with_slopes(distances, value, slopes), share


def _count(mask: Tensor) -> Any:
    # A number where it may be looked at, which saves the steps that a tensor of it takes.
    return int(np.count_nonzero(mask.numpy())) if free_to_look(mask) else torch.count_nonzero(mask)


class SNRContrastiveLoss(nn.Module):
    """The contrastive loss on signal-to-noise distances, embeddings kept at mean zero.

    The mean of d over the positive pairs that cost something, plus the mean of max(0, margin −
    d) over such negative pairs, plus `mean_weight` times the mean absolute sum of an
    embedding's numbers. After each call `facts` holds what `ContrastiveLoss` tells.

    Args:
        margin: from where on different pairs cost nothing: noise as a share of the signal.
        positive_margin: up to where same pairs cost nothing.
        mean_weight: how much the sums of the embeddings cost.
        miner: which pairs count.
        average: Pairs that the means are over; see `ContrastiveLoss`.

    Source:
        Yuan, Deng, Tang, Tang & Chen, "Signal-to-Noise Ratio: A Robust Distance Metric for Deep
        Metric Learning", CVPR 2019, contrastive form. Same value as
        pytorch-metric-learning, which makes embeddings unit length first, for mean_weight 0.

    Example:
        >>> import torch
        >>> loss = SNRContrastiveLoss(margin=0.5)
        >>> loss(torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), torch.tensor([1, 1, 2]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        positive_margin: float = 0.0,
        mean_weight: float = 0.0,
        miner: PairMiner = all_pairs,
        average: str = "active",
    ) -> None:
        super().__init__()
        check_at_least("mean_weight", mean_weight, 0)
        self.mean_weight = mean_weight
        self.pairs = ContrastiveLoss(
            margin=margin,
            squared=False,
            distance=SNR,
            miner=miner,
            positive_margin=positive_margin,
            average=average,
        )
        self.distance = SNR
        self.facts: Mapping[str, Tensor] = {}

    @property
    def by_rows(self) -> bool:
        """Whether processes may share a batch: whether the miner selects row by row."""
        return self.pairs.by_rows

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Float[Tensor, "m d"] | None = None,
        reference_labels: Int[Tensor, " m"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        reference_ids: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, ""]:
        """The contrastive loss; 0 if no pair costs anything and the sums are not counted."""
        loss: Tensor = self.pairs(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        self.facts = self.pairs.facts
        if not self.mean_weight:
            return loss
        sums = embeddings.to(loss.dtype).sum(dim=1).abs()
        return loss + self.mean_weight * batch_mean_over(sums, labeled_among(labels))
