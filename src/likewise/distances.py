"""Distances between embeddings; smaller is closer, always."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import check_choice, check_embeddings, check_same_width


@dataclass(frozen=True)
class Distance:
    """A named way to compare embeddings; smaller means more alike.

    `matrix` compares every row with every row, `paired` row with same row, and the two agree:
    `paired(a, b)` is the diagonal of `matrix(a, b)`. Those of this module compute in float32 at
    least, under autocast too, and give a finite gradient everywhere, at equal rows included.

    Args:
        name: what the distance is called on the command line and in a saved model.
        matrix: (n, d), (m, d) -> (n, m).
        paired: (n, d), (n, d) -> (n,).

    Example:
        >>> import torch
        >>> chebyshev = Distance(
        ...     "chebyshev",
        ...     lambda a, b: torch.cdist(a, b, p=torch.inf),
        ...     lambda a, b: (a - b).abs().amax(dim=1),
        ... )
        >>> chebyshev.paired(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([2.])
    """

    name: str
    matrix: Callable[[Tensor, Tensor], Tensor]
    paired: Callable[[Tensor, Tensor], Tensor]


def by_name(name: str) -> Distance:
    """The distance of this module called `name`.

    Raises:
        ValueError: no distance has that name; the sentence lists those there are.

    Example:
        >>> by_name("cosine") is COSINE
        True
    """
    check_choice("distance", name, NAMED)
    return NAMED[name]


def _widened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # Squares of float16 embeddings overflow from 256 on, and bfloat16 keeps three digits.
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype)


def _distance(
    name: str,
    matrix: Callable[[Tensor, Tensor], Tensor],
    paired: Callable[[Tensor, Tensor], Tensor],
) -> Distance:
    def checked_matrix(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        check_embeddings(a, "a")
        check_embeddings(b, "b")
        check_same_width(a, b)
        with torch.autocast(a.device.type, enabled=False):
            return matrix(*_widened(a, b))

    def checked_paired(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        check_embeddings(a, "a")
        check_embeddings(b, "b")
        check_same_width(a, b)
        if len(a) != len(b):
            raise ValueError(
                f"b must have as many rows as a, {len(a)}, got {len(b)}. "
                "Use matrix to compare every row with every row."
            )
        with torch.autocast(a.device.type, enabled=False):
            return paired(*_widened(a, b))

    return Distance(name, checked_matrix, checked_paired)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def _euclidean_matrix(a: Tensor, b: Tensor) -> Tensor:
    # cdist's matmul shortcut is faster, but reports up to 1e-3 between equal unit vectors.
    distances: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _euclidean_paired(a: Tensor, b: Tensor) -> Tensor:
    # Not F.pairwise_distance: it adds 1e-6 and so disagrees with the matrix.
    distances: Tensor = torch.linalg.vector_norm(a - b, dim=1)
    return distances


def _noise_to_signal(a: Tensor, noise: Tensor) -> Tensor:
    signal = (a - a.mean(dim=1, keepdim=True)).square().sum(dim=1)
    # A constant anchor has no signal at all; a tiny one keeps the ratio finite.
    return noise / signal.clamp(min=torch.finfo(a.dtype).tiny ** 0.5).view(
        -1, *[1] * (noise.ndim - 1)
    )


def _centred(x: Tensor) -> Tensor:
    if x.shape[1] < 2:
        raise ValueError(
            f"embeddings must have at least 2 dimensions for snr, got {x.shape[1]}. "
            "A single number has no variance."
        )
    return x - x.mean(dim=1, keepdim=True)


COSINE = _distance(
    "cosine",
    lambda a, b: (1 - _unit(a) @ _unit(b).T).clamp(min=0),
    lambda a, b: (1 - (_unit(a) * _unit(b)).sum(dim=1)).clamp(min=0),
)  # 1 - cos, in [0, 2]; lengths do not matter, and a zero vector is 1 away from everything
EUCLIDEAN = _distance("euclidean", _euclidean_matrix, _euclidean_paired)  # in [0, inf)
SQUARED_EUCLIDEAN = _distance(
    "squared_euclidean",
    lambda a, b: _euclidean_matrix(a, b).square(),
    lambda a, b: (a - b).square().sum(dim=1),
)  # in [0, inf); for unit vectors twice the cosine distance
MANHATTAN = _distance(
    "manhattan",
    lambda a, b: torch.cdist(a, b, p=1),
    lambda a, b: (a - b).abs().sum(dim=1),
)  # in [0, inf)
INNER_PRODUCT = _distance(
    "inner_product",
    lambda a, b: -(a @ b.T),
    lambda a, b: -(a * b).sum(dim=1),
)  # minus the inner product, so that smaller is closer: any number, and not 0 between equals
SNR = _distance(
    "snr",
    lambda a, b: _noise_to_signal(a, _euclidean_matrix(_centred(a), _centred(b)).square()),
    lambda a, b: _noise_to_signal(a, (_centred(a) - _centred(b)).square().sum(dim=1)),
)  # variance of the difference over the variance of the anchor a, in [0, inf); not symmetric
# Source of SNR: Yuan, Deng, Tang, Tang & Chen, "Signal-to-Noise Ratio: A Robust Distance Metric for
# Deep Metric Learning", CVPR 2019, equation 4.

NAMED = {
    distance.name: distance
    for distance in (COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, INNER_PRODUCT, SNR)
}
