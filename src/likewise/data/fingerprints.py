"""Fingerprints of items, by which the same item is known again in another dataset."""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import as_floats
from likewise.data.datasets import Dataset, items
from likewise.embedded import Embedded


def fingerprints(data: Dataset | Tensor | Embedded, batch_size: int = 1024) -> Int[Tensor, " n"]:
    """One 64-bit number per item, made from every bit of its values.

    Equal items have equal fingerprints, on every machine. That two of a million different items
    share one is a chance of about one in 10⁷.

    Args:
        data: a dataset, read a batch at a time, or items (n, ...); of an `Embedded` those it has.
        batch_size: how many at once.
    """
    if isinstance(data, Embedded):
        return data.fingerprints
    prints = []
    for part in torch.split(torch.arange(len(data)), batch_size):
        values = as_floats(data[part]) if isinstance(data, Tensor) else items(data, part.tolist())
        if len(part):
            prints.append(item_fingerprints(values))
    return torch.cat(prints) if prints else torch.empty(0, dtype=torch.int64)


def item_fingerprints(values: Float[Tensor, "n ..."]) -> Int[Tensor, " n"]:
    """`fingerprints` of one batch of items, whose values are float32.

    Example:
        >>> batch = torch.eye(3)
        >>> bool((item_fingerprints(batch) == fingerprints(batch)).all())
        True
    """
    # Adding 0 makes -0 and 0, which are equal, the same bits.
    bits = _mixed((values.flatten(1).cpu() + 0.0).view(torch.int32).long())
    # Sums of int64 wrap around, the same in any order.
    return (bits * _factors(bits.shape[1])).sum(dim=1)


@lru_cache(maxsize=4)
def _factors(count: int) -> Int[Tensor, " v"]:
    generator = torch.Generator().manual_seed(0)
    # Odd factors lose no bit.
    return torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1


def _mixed(bits: Int[Tensor, "n v"]) -> Int[Tensor, "n v"]:
    # Round numbers such as pixels end in zero bits, which a product alone would hand on.
    for factor in (-7046029254386353131, -4658895280553007687):
        bits = bits * factor
        bits = bits ^ (bits >> 32)
    return bits
