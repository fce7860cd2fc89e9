"""Fingerprints of items, by which the same item is known again in another dataset."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from likewise._checks import as_floats
from likewise.data.datasets import Dataset, items
from likewise.data.texts import are_texts, is_text


def fingerprints(
    data: Dataset | Tensor | Sequence[str], batch_size: int = 1024
) -> Int[Tensor, " n"]:
    """One 64-bit number per item, made from every bit of its values, or every byte of its text.

    Equal items have equal fingerprints, on every machine. That two of a million different items
    share one is a chance of about one in 10⁷.

    Args:
        data: a dataset, read a batch at a time, or items: numbers (n, ...) or a list of texts.
        batch_size: how many at once.
    """
    if isinstance(data, (list, tuple)) and are_texts(data):
        return _of_texts(data)
    if is_text(data):
        return _of_texts(items(data, batch_size=batch_size))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    prints, factors = [], None
    for part in torch.split(torch.arange(len(data)), batch_size):
        values = as_floats(data[part]) if isinstance(data, Tensor) else items(data, part.tolist())  # type: ignore[arg-type]
        # Adding 0 makes -0 and 0, which are equal, the same bits.
        bits = _mixed((values.flatten(1).cpu() + 0.0).view(torch.int32).long())
        if factors is None:
            # Odd factors lose no bit; sums of int64 wrap around, the same in any order.
            factors = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator) * 2 + 1
        prints.append((bits * factors).sum(dim=1))
    return torch.cat(prints) if prints else torch.empty(0, dtype=torch.int64)


def _of_texts(texts: Sequence[str]) -> Int[Tensor, " n"]:
    digests = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts
    )
    return torch.tensor(
        [int.from_bytes(each.digest(), "little", signed=True) for each in digests],
        dtype=torch.int64,
    )


def _mixed(bits: Int[Tensor, "n v"]) -> Int[Tensor, "n v"]:
    # Round numbers such as pixels end in zero bits, which a product alone would hand on.
    for factor in (-7046029254386353131, -4658895280553007687):
        bits = bits * factor
        bits = bits ^ (bits >> 32)
    return bits
