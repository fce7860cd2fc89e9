"""Distances in the unit of how far each side is from a cohort: adaptive symmetric norm."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import (
    as_tensor,
    as_tensors,
    check_count,
    check_embeddings,
    check_finite,
    check_same_width,
)
from likewise.distances import COSINE, Distance
from likewise.errors import InputError

__all__ = ["AdaptiveNorm", "CohortFacts", "normalize"]

MOST = 1 << 22  # distances to the cohort in memory at once


class CohortFacts(NamedTuple):
    """Mean and standard deviation of the distances to the nearest of a cohort, any shape."""

    mean: Tensor
    spread: Tensor


def normalize(
    distances: Float[Tensor, "*s"], of_a: CohortFacts, of_b: CohortFacts
) -> Float[Tensor, "*s"]:
    """Half the sum of (distance - mean) / spread by the facts of either side; smaller is closer.

    A normalized distance tells how much closer two sides are than either is to its nearest
    unknowns. So one threshold fits sides that are close to everything and sides that are far
    from everything.

    Args:
        distances: between a and b, (p,), (n, m) or any other shape.
        of_a: facts of the first sides, of the same shape, or one that broadcasts, as (n, 1).
        of_b: facts of the second sides.

    Source:
        Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition",
        Interspeech 2017, section 2 (AS-norm1); there for similarities, of the opposite sign.

    Example:
        >>> facts = CohortFacts(torch.tensor([2.0]), torch.tensor([0.5]))
        >>> normalize(torch.tensor([1.0]), facts, CohortFacts(torch.tensor([4.0]), torch.ones(1)))
        tensor([-2.5000])
    """
    (distances,) = as_tensors(distances=distances)
    of_a, of_b = (CohortFacts(*as_tensors(mean=f.mean, spread=f.spread)) for f in (of_a, of_b))
    return ((distances - of_a.mean) / of_a.spread + (distances - of_b.mean) / of_b.spread) / 2


class AdaptiveNorm:
    """Normalizes distances by the nearest of a cohort, for verification and for matching.

    The cohort is of none of the classes compared: classes that are neither indexed nor
    asked about. `as_distance()` is a distance like any other, so that pairs and galleries can
    use it; `matching.normalize_neighbors` normalizes what a quick lookup found.

    Args:
        cohort: embeddings of its items; kept on their device.
        distance: what is normalized.
        nearest: how many of the cohort, the nearest to either side, give its mean and spread.

    Raises:
        InputError: fewer in the cohort than `nearest`, NaN or infinity, `nearest` below 2.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> norm = AdaptiveNorm(torch.randn(100, 4, generator=rng), nearest=20)
        >>> a, b = torch.randn(2, 3, 4, generator=rng)
        >>> bool((norm.as_distance().paired(a, a) < norm.as_distance().paired(a, b)).all())
        True
    """

    def __init__(
        self, cohort: Float[Tensor, "c d"], distance: Distance = COSINE, *, nearest: int = 200
    ) -> None:
        cohort = as_tensor(cohort, "cohort")
        check_embeddings(cohort, "cohort")
        check_finite(cohort, "cohort")
        check_count("nearest", nearest, 2)
        if len(cohort) < nearest:
            raise InputError(
                f"cohort must hold at least nearest={nearest} items, got {len(cohort)}. "
                "Give more items, or a smaller nearest."
            )
        self.cohort = cohort.detach()
        self.distance = distance
        self.nearest = nearest

    def facts(self, embeddings: Float[Tensor, "n d"], *, second: bool = False) -> CohortFacts:
        """Mean and spread of the distances to the nearest of the cohort, (n,) each.

        A spread of 0, where all these are equally far, counts as the smallest that the precision
        allows, so that nothing becomes infinite.

        Args:
            embeddings: first sides, such as queries.
            second: whether they are second sides, such as items of a gallery; of importance only
                where a distance is not symmetric.
        """
        embeddings = as_tensor(embeddings, "embeddings")
        check_embeddings(embeddings)
        check_same_width(self.cohort, embeddings, ("cohort", "embeddings"))
        cohort = self.cohort.to(embeddings.device)
        parts = []
        for rows in torch.split(embeddings, max(1, MOST // len(cohort))):
            matrix = self.distance.matrix
            distances = matrix(cohort, rows).T if second else matrix(rows, cohort)
            near = distances.topk(self.nearest, dim=1, largest=False).values
            mean = near.mean(dim=1)
            variance = (near - mean[:, None]).square().mean(dim=1)
            least = torch.finfo(near.dtype).eps * mean.abs().clamp(min=1e-3)
            parts.append((mean, variance.clamp(min=least.detach().square()).sqrt()))
        if not parts:
            return CohortFacts(embeddings.new_empty(0), embeddings.new_empty(0))
        means, spreads = zip(*parts, strict=True)
        return CohortFacts(torch.cat(means), torch.cat(spreads))

    def as_distance(self) -> Distance:
        """The normalized distance, named e.g. "as_norm(cosine)": any number, smaller is closer."""
        return Distance(f"as_norm({self.distance.name})", self._matrix, self._paired)

    def _matrix(self, a: Tensor, b: Tensor) -> Tensor:
        of_a, of_b = self.facts(a), self.facts(b, second=True)
        return normalize(
            self.distance.matrix(a, b),
            CohortFacts(of_a.mean[:, None], of_a.spread[:, None]),
            of_b,
        )

    def _paired(self, a: Tensor, b: Tensor) -> Tensor:
        return normalize(self.distance.paired(a, b), self.facts(a), self.facts(b, second=True))
