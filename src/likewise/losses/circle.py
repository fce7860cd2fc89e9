"""The circle loss: every pair pulls as hard as it is far from where it should be."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_choice, check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._log_sum_exp import is_empty, log_sum_exp
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_over, mean_over
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def circle_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    margin: float,
    gamma: float,
    constant_weights: bool = True,
    coupled: bool = True,
) -> Float[Tensor, " n"]:
    """log(1 + Σ exp(γ w⁺ (d⁺ − m)) · Σ exp(γ w⁻ (1 − m − d⁻))), one value per anchor.

    The weights are w⁺ = max(0, d⁺ + m) and w⁻ = max(0, 1 + m − d⁻): how far a pair is from
    beyond its goal. The sums run over the selected pairs of the anchor; an anchor without a
    positive or without a negative costs 0.

    Args:
        distances: from every anchor to every reference, as cosine distances: a goal of 0 for
            positives and of 1 for negatives is built in.
        positive: the selected positive pairs.
        negative: the selected negative pairs.
        margin: m, the relaxation; smaller asks for more.
        gamma: γ, the sharpness.
        constant_weights: whether the gradient takes the weights as constants.
        coupled: whether positives and negatives share one logarithm, as above; otherwise the
            value is log(1 + Σ⁺) + log(1 + Σ⁻).

    Source:
        Sun, Cheng, Zhang, Zhang, Zheng, Wang & Wei, "Circle Loss: A Unified Perspective of Pair
        Similarity Optimization", CVPR 2020, equations 5 and 6, with s = 1 − d. The weights are
        constants of the gradient there and in pytorch-metric-learning. TensorFlow
        Similarity differentiates them and takes two logarithms: constant_weights=False,
        coupled=False.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not constant_weights):
        pull_weights = (distances + margin).relu_()
        push_weights = (1 + margin - distances).relu_()
    pull = log_sum_exp(pull_weights * (distances - margin), positive, scale=gamma)
    push = log_sum_exp(push_weights * (1 - margin - distances), negative, scale=gamma)
    costs = F.softplus(pull + push) if coupled else F.softplus(pull) + F.softplus(push)
    return torch.where(is_empty(pull) | is_empty(push), 0, costs)


class CircleLoss(nn.Module):
    """Mean of `circle_loss` over the anchors of a batch.

    After each call `facts` holds the share of the anchors that cost something and what
    `batch_facts` tells.

    Args:
        margin: the relaxation, for cosine distances; smaller asks for more.
        gamma: the sharpness; the larger, the more the hardest pair alone decides.
        distance: how embeddings are compared. The loss is made for COSINE.
        miner: which pairs count.
        average: over "active" anchors, those above zero, or over "all".
        constant_weights: whether the gradient takes the weights as constants.
        coupled: whether positives and negatives share one logarithm.

    Source:
        As `circle_loss`; margin 0.4 and gamma 80 are the paper's for image retrieval, 0.25 and
        256 its for faces. The defaults give the value of pytorch-metric-learning.

    Example:
        >>> import torch
        >>> loss = CircleLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(
        self,
        *,
        margin: float = 0.4,
        gamma: float = 80.0,
        distance: Distance = COSINE,
        miner: PairMiner = all_pairs,
        average: str = "active",
        constant_weights: bool = True,
        coupled: bool = True,
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        check_positive("gamma", gamma)
        check_choice("average", average, ("active", "all"))
        self.margin = margin
        self.gamma = gamma
        self.distance = distance
        self.miner = miner
        self.average = average
        self.constant_weights = constant_weights
        self.coupled = coupled
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
        """The mean over the labeled anchors; 0 if none costs anything."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        costs = circle_loss(
            distances,
            *pairs,
            margin=self.margin,
            gamma=self.gamma,
            constant_weights=self.constant_weights,
            coupled=self.coupled,
        )
        active, labeled = costs.detach() > 0, batch.labeled
        self.facts = batch_facts(
            embeddings, distances, *batch.pairs, active=lambda: mean_over(active, labeled)
        )
        mean = batch_mean_over(costs, active if self.average == "active" else batch.labeled)
        return shown(mean, distances, embeddings)
