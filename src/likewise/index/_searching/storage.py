"""Stored rows in 4, 2 or about 1 byte a number, and what the smaller ones change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import check_choice
from likewise.errors import InputError


def _pack_int8(rows: Float[Tensor, "n d"]) -> Tensor:
    # One scale a row, as four bytes behind its numbers, so that a row stays one piece.
    scales = rows.abs().amax(dim=1, keepdim=True) / 127
    codes = (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    return torch.cat([codes.view(torch.uint8), scales.contiguous().view(torch.uint8)], dim=1)


STORAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda rows: rows,
    "float16": lambda rows: rows.half(),
    "int8": _pack_int8,
}


def pack(rows: Float[Tensor, "n d"], storage: str) -> Tensor:
    """Rows as they are kept: float32, float16, or uint8 (n, d + 4) for `int8`.

    Raises:
        InputError: another storage, or a number that float16 cannot hold.
    """
    check_choice("storage", storage, STORAGES)
    packed = STORAGES[storage](rows)
    if storage == "float16" and not bool(packed.isfinite().all()):
        raise InputError(
            f"embeddings must be at most 65504 in float16, got {float(rows.abs().max())}. "
            "Use storage='float32', or normalize them."
        )
    return packed


def unpack(packed: Tensor) -> Float[Tensor, "n d"]:
    """The rows that `packed` stands for, float32; what is float32 already is not copied."""
    if packed.dtype != torch.uint8:
        return packed.float()
    codes = packed[:, :-4].view(torch.int8)
    scales = packed[:, -4:].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return codes.float() * scales


def dimension(packed: Tensor) -> int:
    """How many numbers a row of `packed` stands for."""
    return packed.shape[1] - (4 if packed.dtype == torch.uint8 else 0)


def row_format(storage: str, dimension: int | None) -> tuple[np.dtype[Any], int]:
    """Of which type a packed row is, and how many of them; of float32 before the first row."""
    width = dimension or 0
    kinds: dict[str, tuple[npt.DTypeLike, int]] = {
        "float32": (np.float32, width),
        "float16": (np.float16, width),
        "int8": (np.uint8, width + 4),
    }
    dtype, columns = kinds[storage] if width else (np.float32, 0)
    return np.dtype(dtype), columns
