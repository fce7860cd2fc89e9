"""Small pictures of many items, and sheets of them that a page can hold."""

import base64
import io
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from likewise._checks import check_count
from likewise.errors import InputError, InputTypeError
from likewise.plots.style import check_items

_COLUMNS = 32
_PER_SHEET = _COLUMNS * _COLUMNS  # a sheet is decoded when the first item on it is looked at
_LOSSLESS = 4_000_000  # bytes of pixels; more become JPEG
_MOST = 7_000_000  # bytes of all sheets, as far as quality can go down
_QUALITIES = (85, 70, 50, 30)
_BLOCK = 8  # JPEG's, which must not span two pictures


def thumbnails(
    items: Float[Tensor, "n ..."], side: int = 48, *, chunk_size: int = 256
) -> UInt8[Tensor, "n c h w"]:
    """Images as bytes, none larger than `side`, their proportions kept.

    Args:
        items: images (n, h, w) or (n, c, h, w), clipped to 0..1; bytes stay bytes.
        side: the most pixels of a side; smaller images keep their size.
        chunk_size: images made smaller at a time.

    Raises:
        InputError: if items are no images.
        InputTypeError: for whole numbers that are no bytes.

    Example:
        >>> thumbnails(torch.rand(2, 3, 100, 50), side=32).shape
        torch.Size([2, 3, 32, 16])
    """
    check_items(items, "items")
    check_count("side", side)
    if items.ndim < 3:
        raise InputError(
            f"items must be images, got shape {tuple(items.shape)}. Give (n, h, w) or (n, c, h, w)."
        )
    if not (items.is_floating_point() or items.dtype in (torch.uint8, torch.bool)):
        raise InputTypeError(
            f"items must be floating point in 0..1 or uint8, got {items.dtype}. "
            "Use items.byte() for pixels of 0 to 255."
        )
    images = items[:, None] if items.ndim == 3 else items
    images = images[:, : 3 if images.shape[1] >= 3 else 1]
    height, width = images.shape[-2:]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if size == (height, width) and images.dtype == torch.uint8:
        return images.cpu()
    parts = []
    for chunk in torch.split(images, chunk_size):
        values = chunk.cpu().float().nan_to_num()
        values = values / 255 if items.dtype == torch.uint8 else values.clamp(0, 1)
        if size != (height, width):
            values = F.interpolate(values, size=size, mode="area")
        parts.append((values * 255).round().to(torch.uint8))
    return torch.cat(parts)


def sheets(images: UInt8[Tensor, "n c h w"]) -> dict[str, Any]:
    """The images side by side on few sheets, as data URIs, and where each stands."""
    lossless = images.numel() <= _LOSSLESS
    height, width = images.shape[-2:]
    # Where a JPEG block spanned two pictures, the one would shine through in the other.
    cell = (height, width) if lossless else (_whole(height), _whole(width))
    pixels = images.permute(0, 2, 3, 1).numpy()
    room = [(0, 0), (0, cell[0] - height), (0, cell[1] - width), (0, 0)]
    padded = np.pad(pixels, room, mode="edge")
    tiled = [_tiled(padded[at : at + _PER_SHEET]) for at in range(0, len(padded), _PER_SHEET)]
    kind, files = "png", []
    if lossless:
        files = [_encoded(sheet, "PNG", optimize=True) for sheet in tiled]
    else:
        kind = "jpeg"
        for quality in _QUALITIES:
            files = [_encoded(sheet, "JPEG", quality=quality, subsampling=0) for sheet in tiled]
            if sum(map(len, files)) <= _MOST:
                break
    return {
        "files": [f"data:image/{kind};base64,{base64.b64encode(f).decode('ascii')}" for f in files],
        "columns": _COLUMNS,
        "each": _PER_SHEET,
        "cell": [cell[1], cell[0]],
        "size": [width, height],
    }


def _whole(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _tiled(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, h, w, c) as one image, `_COLUMNS` in a row, empty places black."""
    n, height, width, channels = images.shape
    rows = -(-n // _COLUMNS)
    sheet = np.zeros((rows * _COLUMNS, height, width, channels), dtype=np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, _COLUMNS, height, width, channels).transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, _COLUMNS * width, channels)


def _encoded(sheet: NDArray[np.uint8], format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(
        content, format=format, **options
    )
    return content.getvalue()
