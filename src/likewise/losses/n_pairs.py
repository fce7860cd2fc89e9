"""The N-pairs loss: one pair of each class, each told apart from all the others at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_at_least, free_to_look
from likewise.distances import INNER_PRODUCT, Distance
from likewise.losses._log_sum_exp import has_any, is_small, log_sum_exp
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts, mean_over, mean_where
from likewise.masks import compared


@torch.no_grad()
def first_of_each_class(
    labels: Int[Tensor, " n"], counted: Bool[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """True for the first counted item of each class, False for all others.

    Example:
        >>> import torch
        >>> first_of_each_class(torch.tensor([7, 3, 7, 3]), torch.tensor([True, False, True, True]))
        tensor([ True, False, False,  True])
    """
    if free_to_look(labels):
        found = np.flatnonzero(counted.numpy())
        _, first_found = np.unique(labels.numpy()[found], return_index=True)
        chosen = np.zeros(len(labels), dtype=bool)
        chosen[found[first_found]] = True
        return torch.from_numpy(chosen)
    order = (~counted).int().argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    ordered = labels[order]
    first = torch.ones_like(counted)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.zeros_like(first).scatter_(0, order, first) & counted


def n_pairs_loss(
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
    chosen: Bool[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Mean of log(1 + Σ exp(d⁺ − d⁻)) over the chosen anchors; 0 if there are none.

    Each chosen anchor has its first positive. The sum runs over the positives of the other
    chosen anchors, as far as they are negatives.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        is_positive: same class, and not the anchor itself.
        is_negative: another class.
        chosen: which anchors form pairs; each has a positive.

    Source:
        Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS
        2016, equation 6, with d = −x·y.
    """
    if not distances.numel():
        return distances.sum()
    column = is_positive.to(torch.uint8).argmax(dim=1, keepdim=True)  # of equals the first
    taken = torch.zeros_like(is_positive[:1], dtype=torch.uint8)
    taken.scatter_reduce_(1, column.T, chosen[None].to(torch.uint8), "amax")
    push = log_sum_exp(distances, is_negative & taken.bool(), scale=-1.0)
    return mean_where(F.softplus(distances.gather(1, column)[:, 0] + push), chosen)


class NPairsLoss(nn.Module):
    """Mean over N pairs, one of each class, of log(1 + Σ e^(d⁺ − d⁻)).

    A pair is the first anchor of a class that has a positive, with its first positive; the sum
    runs over the positives of the other N − 1 pairs. Over all pairs of a batch the same loss is
    `NTXentLoss(temperature=1.0, distance=INNER_PRODUCT)`. After each call `facts` holds what
    `batch_facts` tells.

    Args:
        distance: how embeddings are compared.
        length_weight: how much the mean squared length of the embeddings adds to the loss.

    Source:
        As `n_pairs_loss`; its penalty on the lengths is summed there. Same pairs and value as
        pytorch-metric-learning, which has it within a batch only and makes embeddings unit
        length first.

    Example:
        >>> import torch
        >>> loss = NPairsLoss()
        >>> apart = torch.tensor([[2.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [-2.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    def __init__(self, *, distance: Distance = INNER_PRODUCT, length_weight: float = 0.0) -> None:
        super().__init__()
        check_at_least("length_weight", length_weight, 0)
        self.distance = distance
        self.length_weight = length_weight
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
        """The mean over one pair of each class that has one; 0 if none has."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        chosen = first_of_each_class(labels, has_any(batch.is_positive))
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_small(batch.is_positive)):
            distances = self.distance.matrix(batch.anchors, batch.references)
        if free_to_look(chosen) and distances.numel():
            rows = np.flatnonzero(chosen.numpy())
            columns = batch.is_positive.numpy()[rows].argmax(axis=1)
            pairs = rows[:, None], columns
            negative = batch.is_negative.numpy()[pairs]
            if is_small(distances):
                numbers = distances.detach().numpy()
                value, of_pairs = _mean_and_slopes(numbers[pairs], negative)
                slopes = np.zeros_like(numbers)
                slopes[pairs] = of_pairs
                few = distances
            else:
                # The chosen pairs are few, so their gradient is far less work than that of all.
                few = self.distance.matrix(batch.anchors[rows], batch.references[columns])
                value, slopes = _mean_and_slopes(few.detach().numpy(), negative)
            mean = with_slopes(few, few.new_tensor(value), torch.from_numpy(slopes))
        else:
            mean = n_pairs_loss(
                self.distance.matrix(batch.anchors, batch.references),
                *batch.pairs,
                chosen,
            )
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        mean = shown(mean, distances, embeddings)
        if not self.length_weight:
            return mean
        squares = embeddings.to(distances.dtype).square().sum(dim=1)
        return mean + self.length_weight * mean_over(squares, batch.labeled)


def _mean_and_slopes(distances: Any, is_negative: Any) -> tuple[float, Any]:
    # `n_pairs_loss` of the chosen pairs alone, item i with positive i, and its gradient.
    count = max(len(distances), 1)
    with np.errstate(all="ignore"):  # NaN and infinity show in the loss
        gaps = np.where(is_negative, np.diagonal(distances)[:, None] - distances, -np.inf)
        most = gaps.max(axis=1, keepdims=True, initial=0)  # the 1 beside the sum is e⁰
        each = np.exp(gaps - most)
        every = np.exp(-most) + each.sum(axis=1, keepdims=True)
        mean = float((np.log(every) + most).sum()) / count
        shares = each / (every * count)
        slopes = -shares
        np.fill_diagonal(slopes, np.diagonal(slopes) + shares.sum(axis=1))
    return mean, slopes.astype(distances.dtype)
