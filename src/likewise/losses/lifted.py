"""Lifted structure: a positive pair against the negatives of both its items, or of an anchor."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_at_least
from likewise.distances import EUCLIDEAN, Distance
from likewise.losses._log_sum_exp import HUGE, TINY, is_small, log_sum_exp, pull_and_push
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts, batch_mean_over, mean_over, mean_where
from likewise.masks import compared
from likewise.miners import PairMiner, Pairs, all_pairs, works_by_rows


def lifted_structure_loss(
    distances: Float[Tensor, "n m"], negative: Bool[Tensor, "n m"], *, margin: float
) -> Float[Tensor, "n m"]:
    """J = d⁺ + log(Σ e^(m − d⁻) of the anchor + Σ e^(m − d⁻) of the reference), per entry.

    The negatives of an anchor are those of its row, the negatives of a reference those of its
    column: within one batch and with a symmetric distance these are the reference's own
    negatives, as in the paper. Against references they are the batch's items that are negatives
    of it, so that no distance between two references is needed.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        negative: the selected negative pairs.
        margin: m, in the unit of the distances.

    Returns:
        J for every entry taken as a positive pair; where neither item has a negative, a number
        far below zero.

    Source:
        Song, Xiang, Jegelka & Savarese, "Deep Metric Learning via Lifted Structured Feature
        Embedding", CVPR 2016, equation 4.
    """
    of_anchor = log_sum_exp(distances, negative, scale=-1.0)
    of_reference = log_sum_exp(distances, negative, scale=-1.0, dim=0)
    return torch.logaddexp(of_anchor[:, None], of_reference[None, :]) + (distances + margin)


def generalized_lifted_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    margin: float,
) -> Float[Tensor, " n"]:
    """max(0, log Σ e^(d⁺) + log Σ e^(m − d⁻)), one value per anchor.

    An anchor without a positive or without a negative costs 0.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: the selected positive pairs.
        negative: the selected negative pairs.
        margin: m, in the unit of the distances.

    Source:
        Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
        2017, section 2.
    """
    pull, push = pull_and_push(distances, positive, negative, pull_scale=1.0, push_scale=-1.0)
    return F.relu(pull + push + margin)


class LiftedStructureLoss(nn.Module):
    """Mean of max(0, J)² / 2 over the selected positive pairs, J as `lifted_structure_loss`.

    After each call `facts` holds the share of the selected positive pairs that cost something
    and what `batch_facts` tells.

    Args:
        margin: the gap asked for, in the unit of the distance.
        distance: how embeddings are compared.
        miner: which pairs count.
        squared: whether max(0, J) is squared before it is halved.

    Source:
        As `lifted_structure_loss`; the value is that of pytorch-metric-learning, which has no
        meaning against references. TensorFlow Similarity's loss of this name is another one. It
        takes the anchor's farthest positive only and halves J without squaring it. It also adds 1
        inside the logarithm, and gathers the anchor's negatives twice where the paper takes the
        positive's. No setting here gives its value.

    Example:
        >>> import torch
        >>> loss = LiftedStructureLoss()
        >>> loss(torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([1, 1, 2]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: Distance = EUCLIDEAN,
        miner: PairMiner = all_pairs,
        squared: bool = True,
    ) -> None:
        super().__init__()
        check_at_least("margin", margin, 0)
        self.margin = margin
        self.distance = distance
        self.miner = miner
        self.squared = squared
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
        """The mean over the selected positive pairs; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        above = F.relu(lifted_structure_loss(distances, pairs.negative, margin=self.margin))
        above_0 = above.detach() > 0
        self.facts = batch_facts(
            embeddings,
            distances,
            *batch.pairs,
            active=lambda: mean_where(above_0.float(), pairs.positive),
        )
        mean = mean_where(above.square() if self.squared else above, pairs.positive) / 2
        return shown(mean, distances, embeddings)


class GeneralizedLiftedLoss(nn.Module):
    """Mean of `generalized_lifted_loss` over the anchors of a batch.

    After each call `facts` holds the share of the anchors that cost something and what
    `batch_facts` tells.

    Args:
        margin: the gap asked for, in the unit of the distance.
        distance: how embeddings are compared.
        miner: which pairs count.

    Source:
        As `generalized_lifted_loss`. In pytorch-metric-learning an anchor that has only one kind
        of pair, such as an item alone of its class, costs what that kind alone sums to; here it
        costs 0. Otherwise the value is the same.

    Example:
        >>> import torch
        >>> loss = GeneralizedLiftedLoss()
        >>> loss(torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([1, 1, 2]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: Distance = EUCLIDEAN,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        check_at_least("margin", margin, 0)
        self.margin = margin
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
        """The mean over the labeled anchors, those without both kinds of pairs counting 0."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        found = _mean_of_few(distances, pairs, self.margin)
        if found is None:
            costs = generalized_lifted_loss(distances, *pairs, margin=self.margin)
            found = batch_mean_over(costs, batch.labeled), costs.detach() > 0
        (mean, costly), labeled = found, batch.labeled
        self.facts = batch_facts(
            embeddings, distances, *batch.pairs, active=lambda: mean_over(costly, labeled)
        )
        return shown(mean, distances, embeddings)


def _mean_of_few(distances: Tensor, pairs: Pairs, margin: float) -> tuple[Tensor, Tensor] | None:
    # The mean over all anchors of a small batch, with its gradient, and which of them cost; None
    # if an anchor lacks a kind of pair, or if the exponentials need more care than float32 gives.
    if not is_small(distances) or _shares.current() is not None:
        return None
    with np.errstate(all="ignore"):
        each = np.exp(distances.detach().numpy())
        pulls, pushes = each * pairs.positive.numpy(), pairs.negative.numpy() / each
        pull, push = pulls.sum(axis=1, keepdims=True), pushes.sum(axis=1, keepdims=True)
        if not (min(pull.min(), push.min()) > TINY and max(pull.max(), push.max()) < HUGE):
            return None
        costs = np.log(pull) + np.log(push) + margin
        costly = costs > 0
        share = costly * each.dtype.type(1 / len(costs))
        slopes = pulls * (share / pull) - pushes * (share / push)
        mean = np.maximum(costs, 0).mean()
    value = with_slopes(distances, distances.new_tensor(mean), torch.from_numpy(slopes))
    return value, torch.from_numpy(costly[:, 0])
