"""Fingerprints of items, by which the same item is known again in another dataset."""

import math

import torch
from jaxtyping import Int
from torch import Tensor

from likewise._checks import as_floats
from likewise.data.datasets import Dataset, items

_MOST_NUMBERS = 1 << 23  # at once


def fingerprints(data: Dataset | Tensor, batch_size: int = 1024) -> Int[Tensor, " n"]:
    """One 64-bit number per item, made from every bit of its values.

    Equal items have equal fingerprints, on every machine. That two of a million different items
    share one is a chance of about one in 10⁷.

    Args:
        data: a dataset, read a batch at a time, or items (n, ...).
        batch_size: how many at once.
    """
    generator = torch.Generator().manual_seed(0)
    prints, factors = [], None
    # Photographs of 224 pixels a side would take gigabytes, 1,024 at once.
    shape = data.shape[1:] if isinstance(data, Tensor) else data.item_shape
    batch_size = max(1, min(batch_size, _MOST_NUMBERS // max(1, math.prod(shape))))
    for part in torch.split(torch.arange(len(data)), batch_size):
        values = as_floats(data[part]) if isinstance(data, Tensor) else items(data, part.tolist())
        # Adding 0 makes -0 and 0, which are equal, the same bits.
        bits = _mixed((values.flatten(1).cpu() + 0.0).view(torch.int32).long())
        if factors is None:
            # Odd factors lose no bit; sums of int64 wrap around, the same in any order.
            factors = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator) * 2 + 1
        prints.append((bits * factors).sum(dim=1))
    return torch.cat(prints) if prints else torch.empty(0, dtype=torch.int64)


def _mixed(bits: Int[Tensor, "n v"]) -> Int[Tensor, "n v"]:
    # Round numbers such as pixels end in zero bits, which a product alone would hand on.
    for factor in (-7046029254386353131, -4658895280553007687):
        bits = bits * factor
        bits = bits ^ (bits >> 32)
    return bits
