"""What an index answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest stored items of each query, nearest first; always two-dimensional.

    Equal distances stand in the order of insertion. A query with fewer than k results is padded
    at its end: distance inf, label -1, id -1 or "". Stored ids are never negative and never
    empty, so the id tells padding from an item; label -1 alone also marks an unlabeled item.

    Args:
        ids: (q, k), int64 or strings.
        distances: (q, k), float32.
        labels: (q, k), int64.
    """

    ids: np.ndarray[Any, Any]
    distances: Float[Tensor, "q k"]
    labels: Int[Tensor, "q k"]


@dataclass(frozen=True, eq=False)
class Items:
    """Stored items, one per row: what was added under each of some ids."""

    ids: np.ndarray[Any, Any]  # (n,) int64 or strings
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    metadata: list[dict[str, Any]]
