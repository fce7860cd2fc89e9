"""The threshold-consistent margin: one threshold for all classes, as an addition to a loss."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_at_least
from likewise.distances import COSINE, Distance
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def threshold_consistency_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    positive_margin: float,
    negative_margin: float,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean of d⁺ − m⁺ over the hard positives plus mean of m⁻ − d⁻ over the hard negatives.

    A positive pair is hard from m⁺ on, a negative pair up to m⁻; either mean is 0 without any.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: the selected positive pairs.
        negative: the selected negative pairs.
        positive_margin: m⁺, in the unit of the distances.
        negative_margin: m⁻, in the unit of the distances.
        positive_weight: how much the first mean counts.
        negative_weight: how much the second mean counts.

    Source:
        Zhang, Xu, Tang, Fang, Wu, Tighe & Xing, "Threshold-Consistent Margin Loss for Open-World
        Deep Metric Learning", ICLR 2024, with s = 1 − d for cosine distances.
    """
    # What is not easy, for NaN is neither: it must not be passed over.
    hard_positive = positive & ~(distances < positive_margin)
    hard_negative = negative & ~(distances > negative_margin)
    pull = batch_mean_where(distances - positive_margin, hard_positive)
    push = batch_mean_where(negative_margin - distances, hard_negative)
    return positive_weight * pull + negative_weight * push


class ThresholdConsistencyLoss(nn.Module):
    """`threshold_consistency_loss` of a batch, to be added to another loss.

    After each call `facts` holds the share of the selected pairs that are hard and what
    `batch_facts` tells.

    Args:
        positive_margin: from where on positive pairs cost, in the unit of the distance.
        negative_margin: up to where negative pairs cost, in the unit of the distance.
        positive_weight: how much the positive pairs count.
        negative_weight: how much the negative pairs count.
        distance: how embeddings are compared.
        miner: which pairs count.

    Source:
        As `threshold_consistency_loss`. The defaults are the similarities 0.9 and 0.5 of the
        paper and of pytorch-metric-learning, whose value this is.

    Example:
        >>> import torch
        >>> loss = ThresholdConsistencyLoss()
        >>> loss(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 1, 2]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        positive_margin: float = 0.1,
        negative_margin: float = 0.5,
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        distance: Distance = COSINE,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        check_at_least("positive_weight", positive_weight, 0)
        check_at_least("negative_weight", negative_weight, 0)
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight
        self.distance = distance
        self.miner = miner
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
        """The means over the hard pairs of either kind, added; 0 if there are none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        loss = threshold_consistency_loss(
            distances,
            *pairs,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
            positive_weight=self.positive_weight,
            negative_weight=self.negative_weight,
        )
        apart, margins = distances.detach(), (self.positive_margin, self.negative_margin)

        def active() -> Tensor:
            hard = torch.where(pairs.positive, apart >= margins[0], apart <= margins[1])
            selected = pairs.positive | pairs.negative
            count = torch.count_nonzero(selected)
            return torch.count_nonzero(hard & selected) / count.clamp(min=1)

        self.facts = batch_facts(embeddings, distances, *batch.pairs, active=active)
        return shown(loss, distances, embeddings)
