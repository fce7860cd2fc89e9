"""Small pictures of items as bytes, to be kept with the items."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from likewise._checks import as_floats, check_count
from likewise.data.images import pixels_of
from likewise.data.limits import check_pixels
from likewise.errors import InputError

SIDE = 96  # pixels
LOSSLESS = 64 * 64  # pixels up to which PNG is small enough


def encode_pictures(items: Float[Tensor, "n ..."], side: int = SIDE) -> list[bytes | None]:
    """A small picture of each item as PNG, or as JPEG where it is large; None for vectors.

    Args:
        items: Images (n, h, w) or (n, c, h, w) with 1, 3 or 4 channels in 0..1, or bytes; of 4
            channels the first 3 count. Other items have no picture.
        side: Larger images are made smaller until no side has more pixels; proportions are kept.

    Example:
        >>> (picture,) = encode_pictures(torch.rand(1, 3, 200, 100), side=50)
        >>> decode_picture(picture).shape
        torch.Size([3, 50, 25])
    """
    check_count("side", side)
    if items.ndim == 3:
        items = items[:, None]
    if items.ndim != 4 or items.shape[1] not in (1, 3, 4) or 0 in items.shape:
        return [None] * len(items)
    values = as_floats(items.detach().cpu()).nan_to_num().clamp(0, 1)
    pixels = (values[:, :3] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [_encoded(each, side) for each in pixels]


def decode_picture(picture: bytes) -> Float[Tensor, "c h w"]:
    """What `encode_pictures` made, or any other small PNG or JPEG, as numbers in 0..1.

    Raises:
        InputError: The bytes are no PNG or JPEG, or one with too many pixels.
    """
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")) as image:
            check_pixels("picture", *image.size)
            return pixels_of(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(
            "picture must be a whole PNG or JPEG, got bytes that cannot be read as one. "
            "Keep pictures with encode_pictures."
        ) from error


def stack_pictures(pictures: Sequence[Float[Tensor, "c h w"]]) -> Float[Tensor, "n c h w"]:
    """Pictures of any size as one tensor: color if one is, on white, in the middle.

    Example:
        >>> stack_pictures([torch.rand(1, 4, 4), torch.rand(3, 2, 8)]).shape
        torch.Size([2, 3, 4, 8])
    """
    channels, height, width = (max(each.shape[side] for each in pictures) for side in range(3))
    stacked = torch.ones(len(pictures), channels, height, width)
    for place, each in zip(stacked, pictures, strict=True):
        top, left = (height - each.shape[1]) // 2, (width - each.shape[2]) // 2
        place[:, top : top + each.shape[1], left : left + each.shape[2]] = each
    return stacked


def _encoded(pixels: np.ndarray, side: int) -> bytes:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((side, side))
    content = io.BytesIO()
    if image.width * image.height <= LOSSLESS:
        image.save(content, "PNG")
    else:
        image.save(content, "JPEG", quality=85)
    return content.getvalue()
