"""The sigmoid loss over pairs: each pair judged alone, with a learned scale and bias."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_over
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def sigmoid_pairs_loss(
    logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"], negative: Bool[Tensor, "n m"]
) -> Float[Tensor, " n"]:
    """Σ log(1 + e^(−logit⁺)) + Σ log(1 + e^(logit⁻)), one value per anchor.

    Args:
        logits: Logits of being the same, for every anchor and reference; larger is closer.
        positive: the selected positive pairs.
        negative: the selected negative pairs.

    Source:
        Zhai, Mustafa, Kolesnikov & Beyer, "Sigmoid Loss for Language Image Pre-Training", ICCV
        2023, section 3.
    """
    costs = F.softplus(torch.where(positive, -logits, logits))
    return torch.where(positive | negative, costs, 0).sum(dim=1)


class SigmoidPairsLoss(nn.Module):
    """Mean over the anchors of `sigmoid_pairs_loss` of the logits scale · (center − d) + bias.

    Scale and bias belong to the loss: `fit` trains them along with the encoder. The scale stays
    above zero. After each call `facts` holds both of them and what `batch_facts` tells.

    Args:
        scale: to start with.
        bias: to start with; far below zero, since nearly all pairs are negatives.
        center: what a distance is subtracted from, in the unit of the distance. With 1 and
            cosine distances the logit is scale · cos + bias; with INNER_PRODUCT use 0.
        distance: how embeddings are compared.
        miner: which pairs count.

    Source:
        As `sigmoid_pairs_loss`; scale 10 and bias −10 are the paper's, and it compares queries
        with keys: loss(queries, labels, keys, labels) with labels from torch.arange(n).

    Example:
        >>> import torch
        >>> loss = SigmoidPairsLoss()
        >>> queries, order = torch.eye(4), torch.arange(4)
        >>> loss(queries, order, queries, order) < loss(queries, order, queries.flip(0), order)
        tensor(True)
    """

    def __init__(
        self,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        center: float = 1.0,
        distance: Distance = COSINE,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        check_positive("scale", scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.center = center
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
        """The sum over the selected pairs of an anchor, then the mean over the labeled anchors."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        scale = self.log_scale.exp()
        costs = sigmoid_pairs_loss((self.center - distances) * scale + self.bias, *pairs)
        self.facts = batch_facts(
            embeddings,
            distances,
            *batch.pairs,
            scale=scale.detach(),
            bias=self.bias.detach().clone(),
        )
        return shown(batch_mean_over(costs, batch.labeled), distances, embeddings)
