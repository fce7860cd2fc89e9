"""The soft nearest neighbor loss, also NCA: a neighbor drawn by distance is of the class."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_choice, check_positive
from likewise.distances import SQUARED_EUCLIDEAN, Distance
from likewise.losses._log_sum_exp import HUGE, TINY, has_any, is_empty, is_small, pull_and_push
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts, batch_mean_over
from likewise.masks import compared
from likewise.miners import PairMiner, Pairs, all_pairs, works_by_rows


def soft_nearest_neighbor_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    temperature: float,
) -> Float[Tensor, " n"]:
    """−log(Σ e^(−d⁺/T) / Σ e^(−d/T)), one value per anchor.

    The upper sum runs over the selected positives of the anchor, the lower over all its selected
    pairs. An anchor without a positive or without a negative costs 0.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: the selected positive pairs.
        negative: the selected negative pairs.
        temperature: T, in the unit of the distances; the higher, the more far items count.

    Source:
        Frosst, Papernot & Hinton, "Analyzing and Improving Representations with the Soft Nearest
        Neighbor Loss", ICML 2019, equation 1. With T = 1 it is neighborhood components analysis
        in the form with a logarithm: Goldberger, Roweis, Hinton & Salakhutdinov,
        "Neighborhood Components Analysis", NeurIPS 2004, section 2.
    """
    pull, push = pull_and_push(
        distances, positive, negative, pull_scale=-1 / temperature, push_scale=-1 / temperature
    )
    # As a softplus of the difference no digits cancel where the loss is nearly zero.
    return torch.where(is_empty(pull), 0, nn.functional.softplus(push - pull))


class SoftNearestNeighborLoss(nn.Module):
    """Mean of `soft_nearest_neighbor_loss` over the anchors of a batch.

    After each call `facts` holds what `batch_facts` tells.

    Args:
        temperature: in the unit of the distance; the higher, the more far items count.
        distance: how embeddings are compared.
        miner: which pairs count.
        average: over "active" anchors, those that have a positive, or over "all".

    Source:
        As `soft_nearest_neighbor_loss`. The paper and TensorFlow Similarity take the mean over
        "all" anchors, NCALoss of pytorch-metric-learning over the "active" ones; its
        softmax_scale is 1 / temperature, and it makes embeddings unit length first. TensorFlow
        Similarity adds 1e-9 inside the logarithm.

    Example:
        >>> import torch
        >>> loss = SoftNearestNeighborLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        distance: Distance = SQUARED_EUCLIDEAN,
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
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        mean = _mean_of_few(distances, pairs, self.temperature)
        if mean is None:
            costs = soft_nearest_neighbor_loss(distances, *pairs, temperature=self.temperature)
            counted = has_any(pairs.positive)
            mean = batch_mean_over(costs, counted if self.average == "active" else batch.labeled)
        return shown(mean, distances, embeddings)


def _mean_of_few(distances: Tensor, pairs: Pairs, temperature: float) -> Tensor | None:
    # The mean over all anchors of a small batch, with its gradient; None if an anchor has no
    # positive, or if the exponentials need more care than float32 gives.
    if not is_small(distances) or _shares.current() is not None:
        return None
    with np.errstate(all="ignore"):
        each = np.exp(distances.detach().numpy() * (-1 / temperature))
        pulls, pushes = each * pairs.positive.numpy(), each * pairs.negative.numpy()
        pull, push = pulls.sum(axis=1, keepdims=True), pushes.sum(axis=1, keepdims=True)
        if not (min(pull.min(), push.min()) > TINY and max(pull.max(), push.max()) < HUGE):
            return None
        mean = np.log1p(push / pull).mean()
        both = (pull + push) * (temperature * len(pull))
        slopes = pulls * (push / pull / both) - pushes * (1 / both)
    return with_slopes(distances, distances.new_tensor(mean), torch.from_numpy(slopes))
