"""How far rounding may take a distance by `matrix` from the same one by `paired`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.distances import EUCLIDEAN, INNER_PRODUCT, MANHATTAN, SNR, SQUARED_EUCLIDEAN, Distance

# Rounding is in proportion to the numbers that are summed on the way to a value: for `matrix`,
# from the norms of the query and of the longest stored row, and the value. Those of a user's own
# distance are taken to be about 1, as cosine's are.
_Size = Callable[[Tensor, float, Tensor], Tensor]
_SUMMED_BY_MATRIX: dict[Distance, _Size] = {
    INNER_PRODUCT: lambda query, longest, value: query * longest,
    **dict.fromkeys(
        (EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, SNR), lambda query, longest, value: value.abs()
    ),
}
# How far both factors of a product may be off, by torch's setting for float32: TF32, bfloat16.
_FACTORS = {"highest": 0.0, "high": 2**-10, "medium": 2**-7}


def relative_error(queries: Float[Tensor, "q d"]) -> float:
    """How far a float32 sum of d products may be off, as a share of its size.

    At most d + a few half-units in the last place, in whatever order; twice, as the definition
    rounds as well.
    """
    factors = _FACTORS[torch.get_float32_matmul_precision()]
    return 2 * ((queries.shape[1] + 16) * 2**-24 + factors)


def matrix_error(
    distance: Distance,
    queries: Float[Tensor, "q d"],
    longest: float,
    values: Float[Tensor, " q"],
) -> Float[Tensor, " q"]:
    """How far `distance.matrix` and `distance.paired` may be apart where one of them is `values`.

    Args:
        distance: One of this library's, or one whose numbers are about 1.
        queries: Embeddings.
        longest: Norm of the longest stored one.
        values: Distances, one per query.
    """
    summed = _SUMMED_BY_MATRIX.get(distance, _about_one)
    norms = torch.linalg.vector_norm(queries, dim=1)
    return summed(norms, longest, values) * relative_error(queries)


def _about_one(query: Tensor, longest: float, value: Tensor) -> Tensor:
    return value.abs() + 1
