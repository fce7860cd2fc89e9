"""A map from the embeddings of one encoder to those of another, fitted on a sample of items."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from likewise import _tables, intervals
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.intervals import Estimate

FOLDS = 5
FEWEST = 20  # items to fit on and to judge by
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of ridge regression, in units of the mean variance
_Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """A map from old to new embeddings, and how far it misses.

    Attributes:
        method: "orthogonal" (turned and scaled as one), or "ridge" (any linear map).
        strength: Penalty of the ridge regression; None for "orthogonal".
        items: How many it was fitted on.
        loss: Mean distance between the mapped and the true new embedding of items that the map
            was not fitted on (cross-fitted), with its interval.
        apart: Mean distance between the new embeddings of different items, to compare it with.
        matrix: The linear part, (d, e).
        centers: Middle of the old embeddings and of the new ones.
        scales: Whether embeddings are brought to length 1 first, as the cosine distance does.
    """

    method: str
    strength: float | None
    items: int
    loss: Estimate
    apart: float
    matrix: Float[Tensor, "d e"] = field(repr=False)
    centers: tuple[Float[Tensor, " d"], Float[Tensor, " e"]] = field(repr=False)
    scales: bool = field(repr=False)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __call__(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """New embeddings, as far as the map knows them."""
        old, new = self.centers
        return (_ready(embeddings, self.scales) - old) @ self.matrix + new

    def to_dict(self) -> dict[str, Any]:
        """What is told of it, ready for JSON."""
        told = {name: getattr(self, name) for name in ("method", "strength", "items", "apart")}
        return {**told, "loss": self.loss.to_dict()}


def fit_map(
    old: Float[Tensor, "n d"], new: Float[Tensor, "n e"], *, distance: Distance = COSINE
) -> EmbeddingMap:
    """The map with the least loss on items that it was not fitted on.

    An orthogonal map and ridge regressions of several strengths are tried, each cross-fitted in
    five parts. The best is fitted on all items. The loss told is that of the best, of which a few
    were tried, so it is a little too good; the interval takes the items as independent.

    Args:
        old: Embeddings of items by the encoder before.
        new: Embeddings of the same items by the encoder after.
        distance: Distance that the loss is measured in, that of the model after.

    Raises:
        InputError: There are fewer than 20 items, or not as many on both sides.

    Source:
        Schönemann, "A Generalized Solution of the Orthogonal Procrustes Problem", Psychometrika
        1966. Hoerl & Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
        Technometrics 1970.

    Example:
        >>> old = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        >>> turned = old.flip(1)
        >>> found = fit_map(old, turned)
        >>> found.method, round(found.loss.value, 6)
        ('orthogonal', 0.0)
    """
    if len(old) != len(new):
        raise InputError(f"new must hold as many items as old, {len(old)}, got {len(new)}.")
    if len(old) < FEWEST:
        raise InputError(
            f"items must be at least {FEWEST} to fit a map on, got {len(old)}. Give more."
        )
    scales = distance.name == "cosine"
    x, y = _ready(old, scales).double(), _ready(new, scales).double()
    part = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % FOLDS
    tried: dict[float | None, Tensor] = {
        strength: torch.empty(len(x), dtype=torch.float64) for strength in (None, *STRENGTHS)
    }
    for fold in range(FOLDS):
        rest, held = part != fold, part == fold
        for strength, (matrix, old_middle, new_middle) in _fitted(x[rest], y[rest]).items():
            mapped = (x[held] - old_middle) @ matrix + new_middle
            tried[strength][held] = distance.paired(mapped.float(), y[held].float()).double()
    best = min(tried, key=lambda strength: float(tried[strength].mean()))
    matrix, *middles = _fitted(x, y)[best]
    return EmbeddingMap(
        "orthogonal" if best is None else "ridge",
        best,
        len(x),
        intervals.mean(tried[best]),
        float(distance.paired(y.float(), y.roll(1, dims=0).float()).mean()),
        matrix.float(),
        (middles[0].float(), middles[1].float()),
        scales,
    )


def _fitted(x: Tensor, y: Tensor) -> dict[float | None, tuple[Tensor, Tensor, Tensor]]:
    """The linear part of each map, by its strength, and both middles."""
    old_middle, new_middle = x.mean(dim=0), y.mean(dim=0)
    a, b = x - old_middle, y - new_middle
    product = a.T @ b
    left, sizes, right = torch.linalg.svd(product, full_matrices=False)
    scale = sizes.sum() / a.square().sum().clamp(min=1e-300)
    maps: dict[float | None, tuple[Tensor, Tensor, Tensor]] = {
        None: (scale * left @ right, old_middle, new_middle)
    }
    values, vectors = torch.linalg.eigh(a.T @ a)
    turned = vectors.T @ product
    for strength in STRENGTHS:
        shrunk = (values.clamp(min=0) + strength * values.mean().clamp(min=1e-300))[:, None]
        maps[strength] = (vectors @ (turned / shrunk), old_middle, new_middle)
    return maps


def _ready(embeddings: Tensor, scales: bool) -> Tensor:
    return torch.nn.functional.normalize(embeddings, dim=1) if scales else embeddings
