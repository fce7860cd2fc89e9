"""The tuplet margin loss and the intra-pair variance loss that is added to it."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_at_least, check_positive
from likewise.distances import COSINE
from likewise.losses._log_sum_exp import log_sum_exp
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts, batch_mean_where
from likewise.losses.margin_softmax import turned
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def tuplet_margin_loss(
    distances: Float[Tensor, "n m"], negative: Bool[Tensor, "n m"], *, margin: float, scale: float
) -> Float[Tensor, "n m"]:
    """log(1 + Σ exp(s (cos θ⁻ − cos(θ⁺ − β)))) for every entry taken as a positive at angle θ⁺.

    The sum runs over the selected negatives of the anchor. Without negatives the cost is 0.

    Args:
        distances: Cosine distances from every anchor to every reference.
        negative: The selected negative pairs.
        margin: β, the angle in radians that a positive pair may keep.
        scale: s; the larger, the more the nearest negatives count.

    Returns:
        A cost per entry, to be read where a pair is positive.

    Source:
        Yu & Tao, "Deep Metric Learning with Tuplet Margin Loss", ICCV 2019, equation 6.
    """
    push = log_sum_exp(distances, negative, scale=-scale)
    return F.softplus(turned(distances, -margin) * scale + push[:, None])


class TupletMarginLoss(nn.Module):
    """Mean of `tuplet_margin_loss` over the selected positive pairs of a batch.

    The slack of the margin keeps pairs that are already near from pulling, which limits overfitting
    to them. After each call `facts` holds what `batch_facts` tells, of cosine distances.

    Args:
        margin: β, the angle in radians that a positive pair may keep.
        scale: s; the larger, the more the nearest negatives count.
        miner: Miner of the pairs that count.

    Source:
        As `tuplet_margin_loss`; margin 0.1 and scale 64 are the paper's. The value is that of
        pytorch-metric-learning, whose margin is in degrees (0.1 is 5.73). The paper adds
        `IntraPairVarianceLoss`.

    Example:
        >>> import torch
        >>> loss = TupletMarginLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(
        self, *, margin: float = 0.1, scale: float = 64.0, miner: PairMiner = all_pairs
    ) -> None:
        super().__init__()
        check_at_least("margin", margin, 0)
        check_positive("scale", scale)
        self.margin = margin
        self.scale = scale
        self.distance = COSINE
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
        """The mean over the selected positive pairs; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        costs = tuplet_margin_loss(distances, pairs.negative, margin=self.margin, scale=self.scale)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        return shown(batch_mean_where(costs, pairs.positive), distances, embeddings)


def intra_pair_variance_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    positive_slack: float,
    negative_slack: float,
) -> Float[Tensor, ""]:
    """Mean of max(0, (1 − ε⁺) s̄⁺ − s⁺)² plus mean of max(0, s⁻ − (1 + ε⁻) s̄⁻)², s = 1 − d.

    s̄ is the mean cosine of the pairs of a kind: pairs farther than their kind's mean are pulled
    to it, or pushed from it. The gradient is that of the whole, means included. Without pairs of
    a kind its mean is 0.

    Args:
        distances: Cosine distances from every anchor to every reference.
        positive: The selected positive pairs.
        negative: The selected negative pairs.
        positive_slack: ε⁺, the share of the mean by which a positive pair may fall below it.
        negative_slack: ε⁻, the share of the mean by which a negative pair may exceed it.

    Source:
        Yu & Tao, "Deep Metric Learning with Tuplet Margin Loss", ICCV 2019, equations 9 and 10.
    """
    with torch.no_grad():
        cosines = 1 - distances
        pull, pull_slopes = _variance(cosines, positive, 1 - positive_slack, -1)
        push, push_slopes = _variance(cosines, negative, 1 + negative_slack, 1)
    return with_slopes(distances, pull + push, pull_slopes.sub_(push_slopes))


def _variance(cosines: Tensor, mask: Tensor, share: float, sign: int) -> tuple[Tensor, Tensor]:
    # The mean of one kind and, with the sign of a positive pair, its slopes by the distances.
    count = torch.count_nonzero(mask).clamp(min=1).to(cosines.dtype)
    mean = torch.where(mask, cosines, 0).sum() / count
    beyond = torch.where(mask, (cosines - share * mean).mul_(sign).relu_(), 0)
    value = beyond.square().sum() / count
    # The mean of the kind moves with each of its pairs.
    slopes = torch.where(mask, beyond - beyond.sum() * (share / count), 0)
    return value, slopes.mul_(2 / count)


class IntraPairVarianceLoss(nn.Module):
    """`intra_pair_variance_loss` of a batch, an addition to another loss: see `Sum`.

    After each call `facts` holds what `batch_facts` tells, of cosine distances.

    Args:
        positive_slack: Share of the mean cosine by which a positive pair may fall below it.
        negative_slack: Share of the mean cosine by which a negative pair may exceed it.
        miner: Miner of the pairs that count.

    Source:
        As `intra_pair_variance_loss`. The value and the defaults are pytorch-metric-learning's.

    Example:
        >>> import torch
        >>> loss = IntraPairVarianceLoss()
        >>> loss(torch.eye(2).repeat_interleave(2, dim=0), torch.tensor([0, 0, 1, 1]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        positive_slack: float = 0.01,
        negative_slack: float = 0.01,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        check_at_least("positive_slack", positive_slack, 0)
        check_at_least("negative_slack", negative_slack, 0)
        self.positive_slack = positive_slack
        self.negative_slack = negative_slack
        self.distance = COSINE
        self.miner = miner
        self.facts: Mapping[str, Tensor] = {}

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
        """The two means, added; a kind without pairs counts 0."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        loss = intra_pair_variance_loss(
            distances,
            *pairs,
            positive_slack=self.positive_slack,
            negative_slack=self.negative_slack,
        )
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        return shown(loss, distances, embeddings)
