"""The supervised contrastive loss: all positives of an anchor together against everything."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_choice, check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._log_sum_exp import has_any, log_sum_exp
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_over
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def supervised_contrastive_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    temperature: float,
) -> Float[Tensor, " n"]:
    """Mean over d⁺ of −log(e^(−d⁺/T) / Σ e^(−d/T)), one value per anchor.

    The sum runs over all selected pairs of the anchor, positive and negative. An anchor without
    a positive costs 0.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: the selected positive pairs.
        negative: the selected negative pairs.
        temperature: T, in the unit of the distances; the lower, the more near negatives count.

    Source:
        Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu & Krishnan, "Supervised
        Contrastive Learning", NeurIPS 2020, equation 2 (mean outside of the logarithm), with
        s = 1 − d for cosine distances.
    """
    everything = log_sum_exp(distances, positive | negative, scale=-1 / temperature)
    count = torch.count_nonzero(positive, dim=1)
    pull = torch.where(positive, distances, 0).sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 0, pull / temperature + everything, 0)


class SupervisedContrastiveLoss(nn.Module):
    """Mean of `supervised_contrastive_loss` over the anchors of a batch.

    After each call `facts` holds what `batch_facts` tells.

    Args:
        temperature: in the unit of the distance; the lower, the more near negatives count.
        distance: how embeddings are compared.
        miner: which pairs count.
        average: over "active" anchors, those that have a positive, or over "all".

    Source:
        As `supervised_contrastive_loss`; temperature 0.1 is the paper's. In
        pytorch-metric-learning the value is the same, but 0 where the whole batch has no
        negative; here its items are then pulled together evenly, as the paper's formula says.

    Example:
        >>> import torch
        >>> loss = SupervisedContrastiveLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        distance: Distance = COSINE,
        miner: PairMiner = all_pairs,
        average: str = "active",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_choice("average", average, ("active", "all"))
        self.temperature = temperature
        self.distance = distance
        self.miner = miner
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
        """The mean over the labeled anchors; 0 if none has a positive."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        costs = supervised_contrastive_loss(distances, *pairs, temperature=self.temperature)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        counted = has_any(pairs.positive)
        mean = batch_mean_over(costs, counted if self.average == "active" else batch.labeled)
        return shown(mean, distances, embeddings)
