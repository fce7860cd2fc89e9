"""NT-Xent, also InfoNCE: each positive picked out from among the anchor's negatives."""

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._log_sum_exp import log_sum_exp
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def nt_xent_loss(
    distances: Float[Tensor, "n m"], negative: Bool[Tensor, "n m"], *, temperature: float
) -> Float[Tensor, "n m"]:
    """−log(e^(−d⁺/T) / (e^(−d⁺/T) + Σ e^(−d⁻/T))) for every entry taken as a positive d⁺.

    The sum runs over the selected negatives of the anchor; other positives play no part. One
    log-sum-exp per row serves all positives of it. Without negatives the cost is 0.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        negative: the selected negative pairs.
        temperature: T, in the unit of the distances; the lower, the more near negatives count.

    Returns:
        A cost per entry, to be read where a pair is positive.

    Source:
        Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS
        2016, equation 6; van den Oord, Li & Vinyals, "Representation Learning with Contrastive
        Predictive Coding", 2018, equation 4; Chen, Kornblith, Norouzi & Hinton, "A Simple
        Framework for Contrastive Learning of Visual Representations", ICML 2020, equation 1.
        With one positive per anchor the three agree, with s = 1 − d for cosine distances.
    """
    push = log_sum_exp(distances, negative, scale=-1 / temperature)
    return F.softplus(distances / temperature + push[:, None])


class NTXentLoss(nn.Module):
    """Mean of `nt_xent_loss` over the selected positive pairs of a batch.

    After each call `facts` holds what `batch_facts` tells.

    Args:
        temperature: in the unit of the distance; the lower, the more near negatives count.
        distance: how embeddings are compared.
        miner: which pairs count.

    Source:
        As `nt_xent_loss`. Several positives are each compared with the negatives alone, as in
        pytorch-metric-learning, whose value and default temperature these are; there a pair
        never costs more than 87.3 in float32. `SupervisedContrastiveLoss` instead compares a
        positive with the other positives too.

    Example:
        >>> import torch
        >>> loss = NTXentLoss(temperature=0.5)
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        distance: Distance = COSINE,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
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
        """The mean over the selected positive pairs; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        costs = nt_xent_loss(distances, pairs.negative, temperature=self.temperature)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        return shown(batch_mean_where(costs, pairs.positive), distances, embeddings)
