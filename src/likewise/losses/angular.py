"""The angular loss: a bound on the angle at the negative, whatever the scale of the triplet."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise._checks import check_count, check_positive
from likewise.distances import COSINE
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts
from likewise.masks import compared
from likewise.miners.anchor_rows import positive_columns, row_blocks


def angular_loss(
    distances: Float[Tensor, "n m"],
    between: Float[Tensor, "m m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    degrees: float,
    most_positives: int | None = None,
) -> Float[Tensor, ""]:
    """log(1 + Σ_n exp(4 t (a + p)·n − 2 (1 + t) a·p)), t = tan²(degrees), summed over pairs.

    The sum inside runs over the negatives of the anchor, that outside over its positives p; with
    cosine distances every a·p is 1 − d(a, p). A pair without negatives costs 0. O(n m K) time
    for K positives, a few rows at a time; differentiable once.

    Args:
        distances: cosine distances from every anchor to every reference.
        between: cosine distances from every reference to every reference.
        positive: which entries are positives of their row.
        negative: which entries are negatives of their row.
        degrees: the angle allowed at the negative, above 0 and below 90.
        most_positives: a bound on the positives of a row, which saves time on a GPU.

    Source:
        Wang, Zhou, Wen, Liu & Lin, "Deep Metric Learning with Angular Loss", ICCV 2017,
        equations 6 and 8 (8 without its batch mean, and with every positive of an anchor
        where the paper draws one).
    """
    total: Tensor = _Angular.apply(  # type: ignore[no-untyped-call]
        distances, between, positive, negative, degrees, most_positives
    )
    return total


class _Angular(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        between: Tensor,
        positive: Tensor,
        negative: Tensor,
        degrees: float,
        most: int | None,
    ) -> Tensor:
        tangent = math.tan(math.radians(degrees)) ** 2
        columns, valid = positive_columns(positive, most)
        slopes, slopes_between = torch.zeros_like(distances), torch.zeros_like(between)
        total = distances.new_zeros((), dtype=torch.float64)
        floor = torch.finfo(distances.dtype).min
        for rows in row_blocks(distances, columns.shape[1]):
            near = distances[rows].gather(1, columns[rows])
            exponents = between[columns[rows]].add_(distances[rows][:, None, :])
            exponents.sub_(2).mul_(-4 * tangent).add_(2 * (1 + tangent) * (near - 1)[:, :, None])
            counts = valid[rows][:, :, None] & negative[rows][:, None, :]
            exponents.masked_fill_(~counts, floor)
            # log(1 + Σ exp), with the one as an exponent of zero beside the others.
            costs = torch.nn.functional.softplus(exponents.logsumexp(dim=2))
            total += costs.sum(dtype=torch.float64)
            shares = exponents.sub_(costs[:, :, None]).exp_()
            slopes[rows].scatter_add_(1, columns[rows], 2 * (1 + tangent) * shares.sum(dim=2))
            slopes[rows].sub_(shares.sum(dim=1), alpha=4 * tangent)
            slopes_between.index_add_(
                0, columns[rows].flatten(), shares.flatten(0, 1), alpha=-4 * tangent
            )
        ctx.save_for_backward(slopes, slopes_between)
        return total.to(distances.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor) -> tuple[Tensor | None, ...]:
        slopes, slopes_between = ctx.saved_tensors
        return slopes * total, slopes_between * total, None, None, None, None


class AngularLoss(nn.Module):
    """Mean of `angular_loss` over the positive pairs of a batch.

    After each call `facts` holds what `batch_facts` tells, of cosine distances.

    Args:
        degrees: the angle allowed at the negative; 36 to 55 in the paper.
        most_positives: a bound on the positives that an anchor has, which saves time on a GPU;
            a CPU counts them.

    Source:
        As `angular_loss`. pytorch-metric-learning's AngularLoss does not bring negatives to
        length 1; for embeddings of length 1 value and gradient are the same.

    Example:
        >>> import torch
        >>> loss = AngularLoss(degrees=45)
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(self, *, degrees: float = 40.0, most_positives: int | None = None) -> None:
        super().__init__()
        check_positive("degrees", degrees)
        if degrees >= 90:
            raise InputError(f"degrees must be below 90, got {degrees}. 36 to 55 are usual.")
        if most_positives is not None:
            check_count("most_positives", most_positives)
        self.degrees = degrees
        self.most_positives = most_positives
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
        """The mean over the positive pairs; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = COSINE.matrix(batch.anchors, batch.references)
        between = distances
        if references is not None:
            between = COSINE.matrix(batch.references, batch.references)
        total = angular_loss(
            distances,
            between,
            *batch.pairs,
            degrees=self.degrees,
            most_positives=self.most_positives,
        )
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        mean = total / torch.count_nonzero(batch.is_positive).clamp(min=1)
        return shown(mean, distances, embeddings)
