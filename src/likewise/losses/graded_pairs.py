"""Pairs with grades of likeness: the order of the distances is that of the grades (CoSENT)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from likewise._checks import check_finite, check_positive, free_to_look
from likewise.distances import COSINE, Distance
from likewise.errors import InputError, InputTypeError
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import Told, spread
from likewise.losses.sides import check_sides

WIDEST = 600  # e^WIDEST and its inverse are numbers of float64


def graded_pairs_loss(
    distances: Float[Tensor, " p"], grades: Num[Tensor, " p"], *, scale: float
) -> Float[Tensor, ""]:
    """log(1 + Σ exp(s (d_i − d_j))) over all i, j where pair i is graded higher than pair j.

    O(p log p) time: the pairs are sorted by grade, and sums run along. Equal grades ask for
    nothing.

    Args:
        distances: Distance of each pair; smaller is closer.
        grades: How alike each pair is; larger is more alike. Only their order counts.
        scale: s, in the inverse unit of the distances; the larger, the more the worst order counts.

    Source:
        Huang, Peng, Zou, Liu, Li, Liu, Wu, Su & Yu, "CoSENT: Consistent Sentence Embedding via
        Similarity Ranking", IEEE/ACM TASLP 2024.
    """
    grades = grades.detach()
    if grades.dtype in (torch.bool, torch.bfloat16):
        grades = grades.float()  # torch searches no bool, and NumPy has no bfloat16
    if free_to_look(distances):
        found = _value_and_slopes(distances.detach().numpy(), grades.numpy(), scale)
        if found is not None:
            value, slopes = found
            return with_slopes(distances, distances.new_tensor(value), torch.from_numpy(slopes))
    grades, order = grades.sort()
    logits = distances[order] * scale
    # Of each pair, the sum over those graded lower.
    lower = torch.searchsorted(grades, grades)
    sums = torch.logcumsumexp(-logits, dim=0)
    nothing = logits.new_full((1,), -torch.inf)
    costs = logits + torch.cat([nothing, sums])[lower]
    return torch.cat([costs, logits.new_zeros(1)]).logsumexp(dim=0)


def _value_and_slopes(distances: Any, grades: Any, scale: float) -> tuple[float, Any] | None:
    # Both from plain sums, in fewer steps than torch takes; None if float64 could not hold them.
    order = np.argsort(grades, kind="stable")
    ordered, logits = grades[order], scale * distances[order].astype(np.float64)
    least, most = logits.min(initial=np.inf), logits.max(initial=-np.inf)
    if not most - least < WIDEST:
        return None
    far, near = np.exp(logits - most), np.exp(least - logits)
    lower = np.searchsorted(ordered, ordered)
    higher = np.searchsorted(ordered, ordered, side="right")
    # Of each pair the sum over those graded lower, and over those graded higher.
    pulls = far * np.concatenate([[0], near.cumsum()])[lower]
    pushes = near * np.concatenate([far[::-1].cumsum()[::-1], [0]])[higher]
    reach = math.exp(most - least)
    total = reach * pulls.sum()
    slopes = np.empty_like(distances)
    slopes[order] = (pulls - pushes) * (scale * reach / (1 + total))
    return math.log1p(total), slopes


class GradedPairsLoss(nn.Module):
    """`graded_pairs_loss` of given pairs: called as loss(a, b, grades).

    For a `SiameseNet`, or any encoder, that `fit` trains on `data.GradedPairs`: sentences or images
    that people rated by how alike they are. After each call `facts` holds the share of the pairs of
    pairs in the right order and the spread.

    Args:
        scale: How much the worst order counts; 1 / temperature.
        distance: Distance of the sides.

    Source:
        As `graded_pairs_loss`. The defaults give the value of CoSENTLoss in sentence-transformers.

    Example:
        >>> loss, a = GradedPairsLoss(), torch.eye(2)
        >>> b = torch.tensor([[1.0, 0.1], [1.0, 0.0]])  # the first pair is nearer
        >>> grades = torch.tensor([5.0, 0.5])
        >>> loss(a, b, grades) < loss(a, b, grades.flip(0))
        tensor(True)
    """

    def __init__(self, *, scale: float = 20.0, distance: Distance = COSINE) -> None:
        super().__init__()
        check_positive("scale", scale)
        self.scale = scale
        self.distance = distance
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self, a: Float[Tensor, "p d"], b: Float[Tensor, "p d"], grades: Num[Tensor, " p"]
    ) -> Float[Tensor, ""]:
        """The loss of the batch; 0 for fewer than two pairs, or if all have one grade."""
        check_sides(a=a, b=b)
        if not isinstance(grades, Tensor) or grades.is_complex():
            raise InputTypeError(f"grades must be a tensor of numbers, got {grades!r}.")
        if grades.shape != (len(a),):
            raise InputError(
                f"grades must have shape ({len(a)},), one per pair, got {tuple(grades.shape)}."
            )
        if free_to_look(grades):
            check_finite(grades, "grades")
        distances = self.distance.paired(a, b)
        value = graded_pairs_loss(distances, grades, scale=self.scale)
        apart, truth, sides = distances.detach(), grades.clone(), torch.cat([a, b]).detach()

        def told() -> dict[str, Tensor]:
            above = truth[:, None] > truth
            right = above & (apart[:, None] < apart)
            return {"ordered": right.sum() / above.sum().clamp(min=1), "spread": spread(sides)}

        self.facts = Told(told)
        return shown(value, distances, a)
