"""Pictures of a few embedded items, each read once for a page."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from likewise import data
from likewise.embedded import Embedded


class Pictures:
    """Items of an `Embedded`, by position; one that was asked for before is not read again.

    Args:
        embedded: where the items stand in their source.
    """

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded
        self._read: dict[int, Tensor] = {}

    def __call__(self, positions: Sequence[int]) -> Float[Tensor, "n ..."]:
        """The items at these positions, stacked."""
        missing = [at for at in dict.fromkeys(positions) if at not in self._read]
        rows = self._embedded.rows[missing].tolist()
        self._read |= zip(missing, data.items(self._embedded.source, rows), strict=True)
        return torch.stack([self._read[at] for at in positions])
