"""The margin loss: one learned distance apart from which positives stay near, negatives far."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_at_least, check_count, check_number
from likewise.distances import EUCLIDEAN, Distance
from likewise.losses._centers import labeled_codes
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts
from likewise.losses.triplet import triplets_of_pairs
from likewise.masks import compared
from likewise.miners import AllTriplets, TripletMiner, all_triplets, works_by_rows


def margin_loss(
    distances: Float[Tensor, "..."],
    same: Bool[Tensor, "..."],
    *,
    beta: float | Float[Tensor, "..."],
    margin: float,
) -> Float[Tensor, "..."]:
    """max(0, d − β + α) where same, max(0, β − d + α) where different; one value per distance.

    Args:
        distances: Distances of any shape; smaller is closer.
        same: True where the pair belongs together, same shape.
        beta: β, the boundary between both kinds, in the unit of the distances.
        margin: α, how far from the boundary a pair must be to cost nothing.

    Source:
        Wu, Manmatha, Smola & Krähenbühl, "Sampling Matters in Deep Embedding Learning", ICCV 2017,
        equation 4.
    """
    apart = distances - beta
    return F.relu(torch.where(same, apart, -apart) + margin)


class MarginLoss(nn.Module):
    """Sum of `margin_loss` over the pairs of the selected triplets, per pair that costs something.

    A pair counts once for every selected triplet it is in, so that either kind weighs the same. The
    boundary β belongs to the loss: `fit` trains it along with the encoder. After each call `facts`
    holds β (the mean over the classes), the share of the pairs that cost something, and what
    `batch_facts` tells.

    Args:
        margin: α, in the unit of the distance.
        beta: β to start with, in the unit of the distance.
        class_count: Number of codes, for a boundary of each class; the anchor's counts. None for
            one boundary.
        learn_beta: Whether β is trained.
        nu: ν; ν times the β of a triplet's anchor is added to the sum. Above 0 it lowers β.
        distance: Distance of the embeddings, which should have length 1.
        miner: Miner of the triplets; `distance_weighted(d)` is the paper's.

    Source:
        As `margin_loss`; margin 0.2, beta 1.2 and the mean are those of the authors' code. The
        value is that of pytorch-metric-learning, which adds ν β itself for a single boundary, and
        does not train β unless asked.

    Example:
        >>> import torch
        >>> loss = MarginLoss(margin=0.2, beta=1.2)
        >>> loss(torch.tensor([[0.0], [1.1], [5.0]]), torch.tensor([0, 0, 1]))
        tensor(0.1000, grad_fn=<_WithSlopesBackward>)
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        beta: float = 1.2,
        class_count: int | None = None,
        learn_beta: bool = True,
        nu: float = 0.0,
        distance: Distance = EUCLIDEAN,
        miner: TripletMiner = all_triplets,
    ) -> None:
        super().__init__()
        check_at_least("margin", margin, 0)
        check_number("beta", beta)
        check_at_least("nu", nu, 0)
        if class_count is not None:
            check_count("class_count", class_count, 2)
        self.margin = margin
        self.class_count = class_count
        self.beta = nn.Parameter(torch.full((class_count or 1,), float(beta)), learn_beta)
        self.nu = nu
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
        """The sum per pair that costs something; 0 if none does."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        beta: Tensor = self.beta
        if self.class_count is not None:
            labeled_codes(labels, len(labels), self.class_count)
            beta = beta[labels.long()]  # of an item without a label any one, as it is in no triplet
        distances = self.distance.matrix(batch.anchors, batch.references)
        selected = self.miner(distances, *batch.pairs)
        between = None
        if isinstance(selected, AllTriplets) and selected.rule is not None:
            between = self.distance.matrix(batch.references, batch.references)
        apart = distances - beta.to(distances.dtype)[:, None]
        with torch.no_grad():
            times = triplets_of_pairs(distances, between, selected)
            costs = margin_loss(apart, batch.is_positive, beta=0, margin=self.margin)
            slopes = torch.where(costs > 0, times, 0)
            count = slopes.sum()
            every = _shares.counted(count)
            share = 1 / every.clamp(min=1)
            value = costs.mul_(slopes).sum() * share
            slopes = torch.where(batch.is_positive, slopes, -slopes).mul_(share)
        value = with_slopes(apart, value, slopes)
        if self.nu:
            # Each triplet has one positive pair, so that these sums count an anchor's triplets.
            triplets = torch.where(batch.is_positive, times, 0).sum(dim=1) * (share * (every > 0))
            value = value + self.nu * (triplets * beta.to(distances.dtype)).sum()
        self.facts = batch_facts(
            embeddings,
            distances,
            *batch.pairs,
            active=lambda: count / times.sum().clamp(min=1),
            beta=self.beta.detach().mean(),
        )
        return shown(value, distances, embeddings)
