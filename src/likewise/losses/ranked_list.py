"""The ranked list loss: every class within a ball, the others beyond it by a margin."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_at_least, check_positive, check_rate
from likewise.distances import EUCLIDEAN, Distance
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_over, mean_where
from likewise.masks import compared


def ranked_list_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    margin: float,
    boundary: float,
    balance: float,
    positive_temperature: float,
    negative_temperature: float,
) -> Float[Tensor, " n"]:
    """(1 − λ) Σ w⁺ (d⁺ − (α − m)) + λ Σ w⁻ (α − d⁻), one value per anchor.

    Positives count beyond α − m, negatives within α. Either weights are a softmax over those
    that count, of their cost times the temperature: with 0 all weigh the same. A side on which
    none counts costs 0.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: which entries are positives of their row.
        negative: which entries are negatives of their row.
        margin: m, between where positives and where negatives stop to cost.
        boundary: α, from where on negatives cost nothing.
        balance: λ, the weight of the negatives.
        positive_temperature: how much costly positives outweigh others.
        negative_temperature: how much costly negatives outweigh others.

    Source:
        Wang, Hua, Kodirov, Hu, Garnier & Robertson, "Ranked List Loss for Deep Metric
        Learning", CVPR 2019, equations 4 to 9. The gradient is that of the whole, weights
        included. pytorch-metric-learning adds 1e-5 per reference to the sum of the weights.
    """
    pull = _weighted_mean(distances - (boundary - margin), positive, positive_temperature)
    push = _weighted_mean(boundary - distances, negative, negative_temperature)
    return (1 - balance) * pull + balance * push


def _weighted_mean(costs: Tensor, mask: Tensor, temperature: float) -> Tensor:
    # What is not free, for NaN is neither: it must not be passed over.
    counts = mask & ~(costs.detach() <= 0)
    if temperature == 0:
        return torch.where(counts, costs, 0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    # The floor, and not an infinity, keeps the softmax of a row without any costs finite.
    exponents = (costs * temperature).masked_fill(~counts, torch.finfo(costs.dtype).min)
    return (exponents.softmax(dim=1) * torch.where(counts, costs, 0)).sum(dim=1)


class RankedListLoss(nn.Module):
    """Mean of `ranked_list_loss` over the anchors of a batch.

    After each call `facts` holds `active`, the share of all pairs that cost something, and what
    `batch_facts` tells. Meant for embeddings of unit length.

    Args:
        margin: m, between where positives and where negatives stop to cost.
        boundary: α, from where on negatives cost nothing.
        balance: λ in [0, 1], the weight of the negatives.
        positive_temperature: how much costly positives outweigh others; 0: not at all.
        negative_temperature: how much costly negatives outweigh others.
        distance: how embeddings are compared.

    Source:
        As `ranked_list_loss`; margin 0.4, boundary 1.2, balance 0.5, temperatures 0 and 10 are
        the paper's simpler form.

    Example:
        >>> import torch
        >>> loss = RankedListLoss()
        >>> loss(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([1, 1, 2]))
        tensor(0.1000)
    """

    by_rows = True  # so that processes may share a batch

    def __init__(
        self,
        *,
        margin: float = 0.4,
        boundary: float = 1.2,
        balance: float = 0.5,
        positive_temperature: float = 0.0,
        negative_temperature: float = 10.0,
        distance: Distance = EUCLIDEAN,
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        check_rate("balance", balance)
        check_at_least("positive_temperature", positive_temperature, 0)
        check_at_least("negative_temperature", negative_temperature, 0)
        self.margin = margin
        self.boundary = boundary
        self.balance = balance
        self.positive_temperature = positive_temperature
        self.negative_temperature = negative_temperature
        self.distance = distance
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
        """The mean over the labeled anchors, a side on which nothing costs counting 0."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        costs = ranked_list_loss(
            distances,
            *batch.pairs,
            margin=self.margin,
            boundary=self.boundary,
            balance=self.balance,
            positive_temperature=self.positive_temperature,
            negative_temperature=self.negative_temperature,
        )
        apart, (positive, negative) = distances.detach(), batch.pairs
        margin, boundary = self.margin, self.boundary

        def active() -> Tensor:
            bounds = torch.where(positive, margin - boundary, boundary)
            costly = torch.where(positive, apart, -apart) + bounds > 0
            return mean_where(costly.float(), positive | negative)

        self.facts = batch_facts(embeddings, distances, *batch.pairs, active=active)
        return shown(batch_mean_over(costs, batch.labeled), distances, embeddings)
