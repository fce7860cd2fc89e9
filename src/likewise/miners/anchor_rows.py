"""Rows of a matrix in order, and the positives of each row side by side."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import free_to_look
from likewise.errors import InputError

MOST = 1 << 20  # entries of a temporary, which a processor's cache holds
MOST_ON_A_GPU = 1 << 26  # where a launch costs more than memory


def row_blocks(matrix: Float[Tensor, "n m"], width: int) -> Iterator[slice]:
    """Slices of rows so short that (rows, width, m) stays small."""
    most = MOST if free_to_look(matrix) else MOST_ON_A_GPU
    step = max(1, most // max(1, width * matrix.shape[1]))
    for start in range(0, len(matrix), step):
        yield slice(start, start + step)


def or_infinite(distances: Tensor, mask: Tensor) -> Tensor:
    """The distances where the mask is True, infinity elsewhere."""
    return torch.where(mask, distances, torch.inf)


def or_minus_infinite(distances: Tensor, mask: Tensor) -> Tensor:
    """The distances where the mask is True, minus infinity elsewhere."""
    return torch.where(mask, distances, -torch.inf)


def sorted_rows(values: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Each row in rising order, and the column that each value came from; of equals the first."""
    if not free_to_look(values) or values.dtype != torch.float32:
        ordered, columns = values.sort(dim=1, stable=True)
        return ordered, columns
    # numpy sorts whole numbers ten times as fast as torch sorts rows with their columns. So the
    # bits of a value, in an order that is its own, go above its column in one number.
    bits = (values + 0.0).view(torch.int32)  # the sum turns -0 into 0, its equal
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = bits.long().mul_(1 << 32).add_(torch.arange(values.shape[1]))
    keys.numpy().sort(axis=1)
    bits = (keys >> 32).int()
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.view(torch.float32), keys.bitwise_and_(0xFFFFFFFF)


def sorted_values(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The values in rising order, without where they came from."""
    if not free_to_look(values):
        return values.sort().values
    ordered = values.clone()
    ordered.numpy().sort()
    return ordered


def positive_columns(
    positive: Bool[Tensor, "n m"], most: int | None = None
) -> tuple[Int[Tensor, "n w"], Bool[Tensor, "n w"]]:
    """The columns of each row's positives, in order and side by side, and which of them count.

    On a CPU the width w is the largest number of positives that a row has. A GPU would have to
    be waited for to know it; there w is `most`, or the number of columns if that is None.

    Args:
        positive: which entries are positives of their row.
        most: a bound on the positives of a row.

    Raises:
        InputError: a row has more positives than `most`. On a GPU CUDA itself refuses.
    """
    rows, columns = positive.shape
    if free_to_look(positive):
        counts = positive.sum(dim=1).numpy()
        width = int(counts.max()) if positive.numel() else 0
        if most is not None and width > most:
            raise InputError(
                f"most_positives must be a bound on the positives of every anchor, {width} here, "
                f"got {most}. Use None if you do not know one."
            )
        valid = np.arange(width) < counts[:, None]
        side_by_side = np.zeros((rows, width), dtype=np.int64)
        side_by_side[valid] = np.flatnonzero(positive.numpy()) % max(columns, 1)
        return torch.from_numpy(side_by_side), torch.from_numpy(valid)
    if most is None or most >= columns:
        return torch.arange(columns, device=positive.device).expand(rows, columns), positive
    torch._assert_async((positive.sum(dim=1) <= most).all())
    first = positive.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return first, positive.gather(1, first)
