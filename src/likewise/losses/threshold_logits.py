"""Two logits from a distance and a learned threshold, so that cross entropy trains both."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_positive
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where, mean_where
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs, works_by_rows


def threshold_logits(
    distances: Float[Tensor, "..."],
    threshold: float | Float[Tensor, ""],
    scale: float | Float[Tensor, ""] = 1.0,
) -> Float[Tensor, "... 2"]:
    """Logits of being different, scale · (d − t), and of being the same, scale · (t − d).

    Args:
        distances: Distances of any shape; smaller is closer.
        threshold: t, where both logits are 0, in the unit of the distances.
        scale: how sharply they part, per unit of the distances.

    Source:
        Zehavi, "similarity-learning", 2022, Threshold (there on squared Euclidean distances
        of unit vectors, scale 1).
    """
    gap = (distances - threshold) * scale
    return torch.stack([gap, -gap], dim=-1)


def threshold_loss(
    distances: Float[Tensor, "..."],
    same: Bool[Tensor, "..."],
    threshold: float | Float[Tensor, ""],
    scale: float | Float[Tensor, ""] = 1.0,
) -> Float[Tensor, "..."]:
    """Cross entropy of `threshold_logits`, one value per distance.

    That is softplus(2 scale (d − t)) where same, softplus(2 scale (t − d)) where different:
    log 2 at the threshold, and hardly anything far on the right side of it.

    Args:
        distances: Distances of any shape; smaller is closer.
        same: True where the pair belongs together, same shape.
        threshold: t, in the unit of the distances.
        scale: Steepness; see `threshold_logits`.
    """
    if distances.shape != same.shape:
        raise InputError(
            f"same must have the shape of distances, {tuple(distances.shape)}, "
            f"got {tuple(same.shape)}. Another shape would compare pairs that do not belong."
        )
    gap = (distances - threshold) * (2 * scale)
    return F.softplus(torch.where(same, gap, -gap))


class LearnedThreshold(nn.Module):
    """A threshold that is trained along with an encoder: `threshold_loss` of given pairs.

    It is the cost of a `GivenPairsLoss`, belongs to a `ThresholdLoss`, and decides for a
    `ThresholdSiamese`; give the same one to a loss and to a siamese, and training the loss trains
    the siamese. After each call `facts` holds threshold, scale, and as accuracy the share of
    the pairs on their side of the threshold. `float(threshold)` is its value.

    Args:
        threshold: to start with, in the unit of the distance.
        scale: how sharply the logits part; stays above zero.
        learn_scale: whether the scale is trained too.

    Source:
        As `threshold_logits`. On cosine distances the defaults give its logits: the squared
        distance of unit vectors is twice the cosine distance, and its threshold starts at 1.

    Example:
        >>> threshold = LearnedThreshold(0.5, scale=2.0)
        >>> threshold.logits(torch.tensor([0.2, 1.0])).tolist()
        [[-0.6000000238418579, 0.6000000238418579], [1.0, -1.0]]
    """

    def __init__(
        self, threshold: float = 0.5, *, scale: float = 2.0, learn_scale: bool = False
    ) -> None:
        super().__init__()
        check_positive("scale", scale)
        if not math.isfinite(threshold):
            raise InputError(f"threshold must be a finite number, got {threshold}.")
        self.value = nn.Parameter(torch.tensor(float(threshold)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learn_scale)
        self.facts: Mapping[str, Tensor] = {}

    def __float__(self) -> float:
        """The threshold as it is now."""
        return float(self.value.detach())

    def logits(self, distances: Float[Tensor, "..."]) -> Float[Tensor, "... 2"]:
        """Logits of being different and of being the same, so that the class is `same.long()`."""
        return threshold_logits(distances, self.value, self.log_scale.exp())

    def forward(
        self, distances: Float[Tensor, "..."], same: Bool[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The cost of each pair."""
        scale = self.log_scale.exp()
        right = ((distances <= self.value) == same).sum()
        self.facts = {
            "threshold": self.value.detach().clone(),
            "scale": scale.detach(),
            "accuracy": right / max(same.numel(), 1),
        }
        return threshold_loss(distances, same, self.value, scale)


class ThresholdLoss(nn.Module):
    """Mean of `threshold_loss` over the selected pairs of a batch, either kind weighing half.

    As half of drawn pairs are the same, the threshold means here what it means there, however
    many more negative than positive pairs a batch holds. The threshold belongs to the loss: `fit`
    trains it along with the encoder. After each call `facts` holds threshold, scale, as
    accuracy the mean of the shares of either kind on their side of the threshold, and what
    `batch_facts` tells.

    Args:
        threshold: what is learned; one of its own if None.
        distance: how embeddings are compared.
        miner: which pairs count.

    Source:
        As `threshold_logits`, there on drawn pairs: GivenPairsLoss(LearnedThreshold()).

    Example:
        >>> loss = ThresholdLoss(LearnedThreshold(0.5))
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss(torch.eye(2).repeat_interleave(2, dim=0), labels)  # log(1 + e⁻²)
        tensor(0.1269, grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        threshold: LearnedThreshold | None = None,
        *,
        distance: Distance = COSINE,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        self.threshold = LearnedThreshold() if threshold is None else threshold
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
        """Half the mean over the positive pairs and half that over the negative ones."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, *batch.pairs)
        costs = self.threshold(distances, batch.is_positive)
        with torch.no_grad():
            accepted = (distances <= self.threshold.value).to(distances.dtype)
            hits, wrong = (mean_where(accepted, kind) for kind in pairs)
        of_pairs = {**self.threshold.facts, "accuracy": (hits + 1 - wrong) / 2}
        self.facts = batch_facts(embeddings, distances, *batch.pairs, **of_pairs)
        mean = (
            batch_mean_where(costs, pairs.positive) + batch_mean_where(costs, pairs.negative)
        ) / 2
        return shown(mean, distances, embeddings)
