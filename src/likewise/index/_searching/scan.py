"""The best of a matrix product, tile by tile, without a full sort of it."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.index._searching.storage import unpack

TILE = 2**22  # values in one product; 16 MB, smaller ones wake the threads too often
GROUP = 32  # columns, of which only the largest value is compared at first
ROOM = 4  # times as many places as asked for, so that the best are sorted out less often


def best_products(
    queries: Float[Tensor, "q d"],
    stored: Tensor,
    count: int,
    *,
    offsets: Float[Tensor, " n"] | None = None,
    scales: Float[Tensor, " n"] | None = None,
    middle: Float[Tensor, " d"] | None = None,
) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
    """The `count` largest of `queries @ stored.T * scales + offsets`, and where; in no order.

    Once some columns are seen, nearly nothing of the next tile is among the best: a comparison
    with the least of the best so far finds what is, and costs a fraction of a sort.

    Args:
        queries: float32.
        stored: rows in any storage.
        count: from 1 to n.
        offsets: added to each column; -inf leaves it out.
        scales: each column is multiplied by, before that.
        middle: taken from every stored row first.
    """
    asked, size = len(queries), len(stored)
    width = max(count, TILE // asked)
    # Fresh memory for each tile would cost more than the product.
    room = queries.new_empty(asked * min(width, size))

    def product(start: int) -> Tensor:
        columns = slice(start, start + width)
        tile = unpack(stored[columns])
        if middle is not None:
            tile = tile - middle
        columns_here = len(tile)
        values = room[: asked * columns_here].view(asked, columns_here)
        torch.mm(queries, tile.T, out=values)
        if scales is not None:
            values *= scales[columns]
        if offsets is not None:
            values += offsets[columns]
        return values

    if width >= size:  # few queries have room for all in one tile
        return _largest(product(0), count)
    larger = np.empty(len(room), dtype=np.bool_)
    best = _Best(product(0), count)
    for start in range(width, size, width):
        values = product(start)
        # Equal values are left where they are: those before them are as good.
        # By NumPy: torch takes twice as long, or the same with both of two cores.
        is_larger = larger[: values.numel()].reshape(values.shape)
        np.greater(values.numpy(), best.limits.numpy(), out=is_larger)
        best.take(values, np.flatnonzero(is_larger), start)
    return best.sorted_out()


def _largest(values: Float[Tensor, "q n"], count: int) -> tuple[Tensor, Tensor]:
    """What `topk` gives, several times faster for long rows."""
    rows, size = values.shape
    groups = size // GROUP
    if groups < 2 * count:
        return values.topk(min(count, size), dim=1)
    # The largest values lie in the groups that have the largest.
    whole = values[:, : groups * GROUP].view(rows, groups, GROUP)
    chosen = whole.amax(dim=2).topk(count, dim=1, sorted=False).indices
    columns = (chosen[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
    if groups * GROUP < size:
        rest = torch.arange(groups * GROUP, size).expand(rows, -1)
        columns = torch.cat([columns, rest], dim=1)
    found, order = values.gather(1, columns).topk(count, dim=1)
    return found, columns.gather(1, order)


class _Best:
    """The best of each row so far, and behind them what came later and may be better."""

    def __init__(self, values: Float[Tensor, "q n"], count: int) -> None:
        self.count = count
        self.values = values.new_empty(len(values), ROOM * count)
        self.positions = torch.full(self.values.shape, -1)
        self._keep(*_largest(values, count))

    def take(self, values: Tensor, at: np.ndarray[Any, Any], start: int) -> None:
        """Those of `values` that are larger than the limits, `at` places in its memory."""
        rows, columns = np.divmod(at, values.shape[1])
        sizes = np.bincount(rows, minlength=len(values))
        if (self.used + sizes).max() > ROOM * self.count:
            self.sorted_out()
            if sizes.max() > (ROOM - 1) * self.count:  # values that grow along a row
                found, where = _largest(values, self.count)
                most = self.count + found.shape[1]
                self.values[:, self.count : most] = found
                self.positions[:, self.count : most] = where + start
                self.used += found.shape[1]
                return
        places = np.arange(len(at)) + np.repeat(self.used + sizes - sizes.cumsum(), sizes)
        self.values.numpy()[rows, places] = values.view(-1).numpy()[at]
        self.positions.numpy()[rows, places] = columns + start
        self.used += sizes
        if self.used.sum() > 2 * self.count * len(values):
            self.sorted_out()

    def sorted_out(self) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
        """The best, and where they are."""
        most = int(self.used.max())
        if most > self.count:
            chosen, order = self.values[:, :most].topk(self.count, dim=1)
            self._keep(chosen, self.positions.gather(1, order))
        return self.values[:, : self.count], self.positions[:, : self.count]

    def _keep(self, values: Tensor, positions: Tensor) -> None:
        self.values[:, : self.count], self.positions[:, : self.count] = values, positions
        self.values[:, self.count :], self.positions[:, self.count :] = -torch.inf, -1
        self.used = np.full(len(values), self.count)
        self.limits = values[:, -1:].contiguous()
