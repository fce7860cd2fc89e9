"""What a caller asks about, as the numbers an encoder takes: by the rules of `data.as_items`."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from likewise._pixels import file_pixels, plain, plain_pixels
from likewise.errors import InputError, InputTypeError
from likewise.runtime.answers import Numbers
from likewise.runtime.exported import Frame

BATCH = 64  # items encoded at once


def batches(items: Any, shape: Sequence[int], frame: Frame | None) -> Iterator[Numbers]:
    """Items (n, *shape) as float32, some at a time: numbers, Pillow images, or image files.

    Raises:
        InputTypeError: they are none of these.
        InputError: they have another shape, are not finite, or a file cannot be read.
    """
    if isinstance(items, (str, Path)):
        raise InputTypeError(f"items must be a list of paths, got one path. Use [{str(items)!r}].")
    if isinstance(items, Image.Image):
        items = [items]
    pictures = (str, Path, bytes, Image.Image)
    if isinstance(items, (list, tuple)) and any(isinstance(each, pictures) for each in items):
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise InputError(
                f"items must have shape {tuple(shape)}, got images. Give the items as an array."
            )
        for start in range(0, len(items), BATCH):
            yield np.stack([_picture(each, shape, frame) for each in items[start : start + BATCH]])
        return
    numbers = _numbers(items, tuple(shape))
    for start in range(0, len(numbers), BATCH):
        batch = numbers[start : start + BATCH]
        is_bytes = batch.dtype == np.uint8 and batch.ndim > 2
        batch = batch.astype(np.float32)
        if is_bytes:
            batch *= np.float32(1 / 255)
        if not np.isfinite(batch).all():
            raise InputError("items must be finite, got NaN or infinity. Look for a broken input.")
        yield batch


def framing_of(shape: Sequence[int], frame: Frame | None) -> Frame:
    """How images of a shape (c, h, w) are brought to its size, where nothing else is said too."""
    return frame or Frame(shape[1], shape[2], 1.0, "squash", "bilinear", [0.0])


def _picture(item: Any, shape: Sequence[int], frame: Frame | None) -> Numbers:
    channels = shape[0]
    frame = framing_of(shape, frame)
    if isinstance(item, Image.Image):
        pixels = plain_pixels(plain(item), channels, frame)
    elif isinstance(item, bytes):
        pixels = file_pixels("image", channels, frame, item)
    elif isinstance(item, (str, Path)):
        pixels = file_pixels(os.fspath(item), channels, frame)
    else:
        raise InputTypeError(
            f"items must be all images or all numbers, got {type(item).__name__} among images."
        )
    return pixels.astype(np.float32) / np.float32(255)


def _numbers(items: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if not isinstance(items, (list, tuple)) and not hasattr(items, "__array__"):
        raise InputTypeError(
            f"items must be an array, images or image files, got {type(items).__name__}."
        )
    try:
        numbers = np.asarray(items)
    except ValueError as error:  # NumPy's word for rows of several lengths
        raise InputError("items must all have the same shape, got several.") from error
    if numbers.size == 0 and isinstance(items, (list, tuple)):
        return np.empty((0, *shape), np.float32)
    if numbers.dtype.kind not in "biuf":
        raise InputTypeError(f"items must be real numbers, got {numbers.dtype}.")
    numbers = _laid_out(numbers, shape)
    if numbers.shape[1:] != shape:
        raise InputError(
            f"items must have shape (n, {', '.join(map(str, shape))}), which this model was made "
            f"for, got {numbers.shape}. Resize them as the training data was resized."
        )
    return numbers


def _laid_out(items: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Items with the shape asked for where it is plain how; else as they are, to be refused."""
    if items.shape[1:] == shape:
        return items
    if items.shape == shape:
        return items[None]
    if len(shape) == 3:
        channels, height, width = shape
        for lead in (items.shape[:-3], items.shape[:-2]):
            rest = items.shape[len(lead) :]
            if len(lead) > 1 or rest not in ((height, width, channels), (height, width)):
                continue
            many = items if lead else items[None]
            if rest == (height, width, channels):
                return np.moveaxis(many, -1, 1)
            if channels == 1:
                return many[:, None]
    return items
