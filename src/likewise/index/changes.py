"""What a smaller storage costs: decisions that come out otherwise."""

from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import Distance
from likewise.index._searching.exact import ExactSearch
from likewise.index._searching.storage import pack


def changed_decisions(
    distance: Distance,
    queries: Float[Tensor, "q d"],
    *,
    stored: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    threshold: float,
    storage: str,
) -> float:
    """The share of queries that another storage decides otherwise than float32.

    A decision is the label of the nearest item, or unknown where that is farther than the
    threshold.

    Example:
        >>> import torch
        >>> from likewise.distances import EUCLIDEAN
        >>> rows = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> changed_decisions(
        ...     *(EUCLIDEAN, rows + 0.1),
        ...     stored=rows,
        ...     labels=torch.arange(100),
        ...     threshold=1.0,
        ...     storage="float16",
        ... )
        0.0
    """

    def decided(rows: Tensor) -> Tensor:
        distances, positions = ExactSearch(distance).nearest(queries.float(), rows, 1)
        return labels[positions[:, 0]].masked_fill(~(distances[:, 0] <= threshold), -1)

    before = decided(stored.float())
    return float((before != decided(pack(stored.float(), storage))).float().mean())
