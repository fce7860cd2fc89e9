"""The multi-similarity loss: hard pairs weigh more, by a softened maximum on either side."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import miners
from likewise._checks import check_positive
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.losses._log_sum_exp import pull_and_push
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_over
from likewise.masks import compared
from likewise.miners import PairMiner, Pairs, works_by_rows


def multi_similarity_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    alpha: float,
    beta: float,
    center: float,
) -> Float[Tensor, " n"]:
    """log(1 + Σ exp(α (d⁺ − c))) / α + log(1 + Σ exp(β (c − d⁻))) / β, one value per anchor.

    The sums run over the selected pairs of the anchor; an anchor without any costs 0.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: the selected positive pairs.
        negative: the selected negative pairs.
        alpha: how much farther positives outweigh nearer ones.
        beta: how much nearer negatives outweigh farther ones.
        center: c, the distance that separates, in the unit of the distances.

    Source:
        Wang, Han, Huang, Dong & Scott, "Multi-Similarity Loss with General Pair Weighting for
        Deep Metric Learning", CVPR 2019, equation 15; with cosine distance d = 1 − S and
        c = 1 − λ it is the same number.
    """
    pull, push = pull_and_push(distances, positive, negative, pull_scale=alpha, push_scale=-beta)
    return F.softplus(pull - alpha * center) / alpha + F.softplus(push + beta * center) / beta


CENTERS = {  # the distance that separates: 60° between unit vectors, as in the paper
    "cosine": 0.5,
    "euclidean": 1.0,
    "squared_euclidean": 1.0,
    "inner_product": -0.5,
}


def fitting_center(distance: Distance) -> float:
    """The distance that separates positives from negatives before any training.

    Raises:
        InputError: There is none for this distance.

    Example:
        >>> fitting_center(COSINE)
        0.5
    """
    if distance.name not in CENTERS:
        raise InputError(
            f"must be one of {', '.join(CENTERS)} for multi-similarity, got {distance.name}.",
            argument="distance",
            remedy="Give center=, or use another loss.",
            command="Use another --loss with it.",
        )
    return CENTERS[distance.name]


class MultiSimilarityLoss(nn.Module):
    """Mean of `multi_similarity_loss` over the anchors of a batch.

    After each call `facts` holds the share of all pairs that the miner selected and what
    `batch_facts` tells.

    Args:
        alpha: how much farther positives outweigh nearer ones.
        beta: how much nearer negatives outweigh farther ones.
        center: The distance that separates; None for the one that fits the distance, 0.5 for
            cosine and 1 for Euclidean.
        distance: how embeddings are compared.
        miner: which pairs count; pairs within 0.1 of the anchor's hardest if None.

    Source:
        As `multi_similarity_loss`; alpha 2, beta 50, λ 0.5 (center 0.5) and epsilon 0.1 are
        the paper's.

    Example:
        >>> import torch
        >>> loss = MultiSimilarityLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        center: float | None = None,
        distance: Distance = COSINE,
        miner: PairMiner | None = None,
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        check_positive("beta", beta)
        self.alpha = alpha
        self.beta = beta
        self.center = fitting_center(distance) if center is None else center
        self.distance = distance
        self.miner = miners.multi_similarity(0.1) if miner is None else miner
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
        """The mean over the labeled anchors, those without a selected pair counting 0."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        costs = multi_similarity_loss(
            distances, *pairs, alpha=self.alpha, beta=self.beta, center=self.center
        )
        possible = Pairs(*batch.pairs)
        self.facts = batch_facts(
            embeddings, distances, *batch.pairs, active=lambda: _share(pairs, possible)
        )
        return shown(batch_mean_over(costs, batch.labeled), distances, embeddings)


def _share(selected: Pairs, possible: Pairs) -> Tensor:
    of_all = possible.positive | possible.negative
    taken = (selected.positive | selected.negative) & of_all
    # Not by sum(), which would make eight bytes of each entry first.
    return torch.count_nonzero(taken) / torch.count_nonzero(of_all).clamp(min=1)
