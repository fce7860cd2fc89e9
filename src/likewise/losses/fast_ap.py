"""FastAP: average precision by a soft histogram of the distances."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise._checks import check_count, check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where
from likewise.masks import compared
from likewise.miners.anchor_rows import row_blocks


def fast_ap_loss(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    bins: int,
    farthest: float,
) -> Float[Tensor, " n"]:
    """1 − Σ_j h⁺_j H⁺_j / H_j / N⁺, one value per anchor: 1 less its average precision by bins.

    h_j counts the references at edge j of `bins` equal bins over [0, farthest], each reference
    shared between its two nearest edges; H_j sums h up to j; ⁺ counts positives only. An anchor
    without positives gives 1.

    Args:
        distances: from every anchor to every reference; smaller is closer. Those beyond
            `farthest` count as there.
        positive: which entries are positives of their row.
        negative: which entries are negatives of their row.
        bins: how many; more are truer to the order, and tell less of how to change it.
        farthest: the largest possible distance, 2 for cosine.

    Source:
        Cakir, He, Xia, Kulis & Sclaroff, "Deep Metric Learning to Rank", CVPR 2019, equations
        4, 7 and 8; there with squared Euclidean distances of unit vectors over [0, 4], which
        are twice their cosine distances.
    """
    up_to: Tensor = _SoftCounts.apply(  # type: ignore[no-untyped-call]
        distances, positive, negative, bins, farthest
    )
    positives, every = up_to[:, 0], up_to.sum(dim=1)
    at = positives.diff(dim=1, prepend=positives.new_zeros(len(positives), 1))
    # Where no reference is within an edge, no positive is either.
    precision = positives / every.masked_fill(every == 0, 1)
    return 1 - (at * precision).sum(dim=1) / positive.sum(dim=1).clamp(min=1)


class _SoftCounts(torch.autograd.Function):
    """How many positives and negatives lie up to each edge, (n, 2, bins + 1), softly.

    A reference x bins away counts min(1, max(0, j + 1 − x)) up to edge j, so that only the
    edge below it moves with it.
    """

    @staticmethod
    def forward(
        ctx: Any, distances: Tensor, positive: Tensor, negative: Tensor, bins: int, farthest: float
    ) -> Tensor:
        counts = distances.new_empty(len(distances), 2, bins + 1)
        kinds = torch.stack([positive, negative], dim=1).to(distances.dtype)
        places = (distances * (bins / farthest)).clamp_(0, bins)
        for edge in range(bins + 1):
            within = (edge + 1 - places).clamp_(0, 1)
            counts[:, :, edge] = torch.bmm(kinds, within[:, :, None]).squeeze(2)
        ctx.save_for_backward(places, positive, negative)
        ctx.per_bin = farthest / bins
        return counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        places, positive, negative = ctx.saved_tensors
        slopes = slopes / -ctx.per_bin
        gradient = torch.empty_like(places)
        last = slopes.shape[2] - 1
        for rows in row_blocks(places, width=1):
            # Beyond the last edge nothing moves, and no reference is counted less before it.
            edge = places[rows].long()
            outside = edge == last
            edge.clamp_(0, last - 1)  # NaN is at no edge
            below, other = (slopes[rows, kind].gather(1, edge) for kind in (0, 1))
            gradient[rows] = (
                (below * positive[rows]).addcmul_(other, negative[rows].to(other.dtype))
            ).masked_fill_(outside, 0)
        return gradient, None, None, None, None


class FastAPLoss(nn.Module):
    """Mean of `fast_ap_loss` over the anchors that have positives.

    After each call `facts` holds what `batch_facts` tells.

    Args:
        bins: how many; the fewer, the smoother.
        farthest: the largest possible distance, where the last bin ends.
        distance: how embeddings are compared.

    Source:
        As `fast_ap_loss`, with 10 bins.

    Example:
        >>> import torch
        >>> loss = FastAPLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    by_rows = True  # so that processes may share a batch

    def __init__(
        self, *, bins: int = 10, farthest: float = 2.0, distance: Distance = COSINE
    ) -> None:
        super().__init__()
        check_count("bins", bins)
        check_positive("farthest", farthest)
        self.bins = bins
        self.farthest = farthest
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
        """The mean over the anchors with positives; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        values = fast_ap_loss(
            distances,
            *batch.pairs,
            bins=self.bins,
            farthest=self.farthest,
        )
        mean = batch_mean_where(values, batch.is_positive.any(dim=1))
        return shown(mean, distances, embeddings)
