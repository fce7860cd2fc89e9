"""Image files: decoding of any mode and size, and the dataset that decodes when fetched."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset

from likewise._checks import check_count
from likewise._files import open_regular
from likewise.data.datasets import Batch
from likewise.data.labels import Labels, encode_labels
from likewise.data.limits import check_pixels, max_kept, max_pixels
from likewise.errors import InputError

# What Pillow knows by its first bytes and reads by itself, and the suffixes of its files. EPS is
# left out as Pillow hands it to another program; PPM is the whole family, PGM too.
_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp",),
    "PPM": (".pgm", ".ppm", ".pnm", ".pbm"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "PSD": (".psd",),
    "DDS": (".dds",),
    "ICO": (".ico",),
}
_SIXTEEN = ("PNG", "PPM")  # where mode I holds 16 bits, not 32
_UNSIGNED = {"TGA": (".tga", ".icb", ".vda", ".vst")}  # has no first bytes: by its suffix only
_SUFFIXES = {suffix for known in (_FORMATS, _UNSIGNED) for s in known.values() for suffix in s}
KINDS = "PNG, JPEG, WebP, TIFF, GIF, BMP, PGM or other common image"


class ImageFiles(TorchDataset[tuple[Tensor, int]]):
    """Images on disk, decoded when first fetched.

    Reads PNG, JPEG, WebP, TIFF, GIF, BMP, PGM and what else Pillow knows by its first bytes, of
    any mode with 8 or 16 bits; of several pictures in a file the first. An image lies as its EXIF
    orientation says, transparent pixels are white, 16-bit gray keeps its precision, and values
    lie in 0..1. A JPEG that is made smaller is decoded at a scale near its new size, which is
    several times quicker than decoding all of it.

    What is decoded is kept as bytes, up to a limit on memory, so that a second pass decodes
    nothing; the rest is decoded again at each pass, so that a source may be larger than memory.
    An image of more pixels than allowed is refused undecoded. `likewise.data.limits` has both
    limits.

    Args:
        paths: one file per item.
        labels: strings or integers, shape (n,); codes where `class_names` is given.
        class_names: the name of every code; by default the sorted labels.
        image_size: (height, width), or one number for both; every image is resized to it,
            antialiased. By default all images must have the size of the first one.
        channels: 1 for gray, 3 for color; by default as the first image is.

    Raises:
        InputError: no paths, labels of another number, or an unreadable first image. When
            fetched: an image that cannot be read or has another size than the first.
        FileNotFoundError: a file is not there when fetched.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Labels,
        class_names: Sequence[str] | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.labels, self.class_names = encode_labels(labels, class_names)
        if len(self.labels) != len(self.paths) or not self.paths:
            raise InputError(
                f"labels must be one per path and at least one, got {len(self.labels)} for "
                f"{len(self.paths)} paths. Check that both come from the same source."
            )
        check_channels(channels)
        self._resize = check_image_size(image_size)
        first = None
        if self._resize is None or channels is None:
            first = _open(self.paths[0], channels, self._resize)
            channels = channels or (1 if _is_gray(first) else 3)
            height, width = self._resize or (first.height, first.width)
        else:
            height, width = self._resize
        self.item_shape: tuple[int, ...] = (channels, height, width)
        self._kept: dict[int, Tensor] = {}
        self._room = max_kept()
        if first is not None:
            self._keep(0, _pixels(first, channels, self._resize))

    def __getstate__(self) -> dict[str, Any]:
        """All but the decoded images, which a worker process decodes again."""
        return {**self.__dict__, "_kept": {}, "_room": max_kept()}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = range(len(self))[index]
        return _scaled(self._pixels(row)), int(self.labels[row])

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        items = torch.empty((len(rows), *self.item_shape), dtype=torch.float32)
        for i, row in enumerate(rows.tolist()):
            items[i] = _scaled(self._pixels(row))
        return [Batch(items, self.labels[rows])]

    def _pixels(self, row: int) -> Tensor:
        pixels = self._kept.get(row)
        if pixels is not None:
            return pixels
        path, channels = self.paths[row], self.item_shape[0]
        pixels = _pixels(_open(path, channels, self._resize), channels, self._resize)
        if pixels.shape != self.item_shape:
            _, height, width = self.item_shape
            raise InputError(
                f"{path!r} must have the size of the first image, {height}x{width}, got "
                f"{pixels.shape[1]}x{pixels.shape[2]}. Give image_size= to resize all images."
            )
        self._keep(row, pixels)
        return pixels

    def _keep(self, row: int, pixels: Tensor) -> None:
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[row] = pixels


def read_image(
    path: str | Path, *, channels: int, image_size: tuple[int, int] | None = None
) -> Float[Tensor, "c h w"]:
    """One image file as numbers in 0..1, by the rules of `ImageFiles`.

    Args:
        path: the file.
        channels: 1 or 3.
        image_size: (height, width) to resize to; by default the size it has.

    Raises:
        InputError: the file cannot be read as an image.
        FileNotFoundError: there is no such file.
    """
    return _scaled(_pixels(_open(path, channels, image_size), channels, image_size))


def pixels_of(
    image: Image.Image, *, channels: int | None = None, image_size: tuple[int, int] | None = None
) -> Float[Tensor, "c h w"]:
    """A Pillow image as numbers in 0..1, by the rules of `ImageFiles`.

    Args:
        image: of any mode with 8 or 16 bits.
        channels: 1 or 3; by default as the image is.
        image_size: (height, width) to resize to; by default the size it has.

    Raises:
        InputError: its pixels are floats or of 32 bits.
    """
    plain = _plain(image)
    return _scaled(_pixels(plain, channels or (1 if _is_gray(plain) else 3), image_size))


def fit_images(
    items: Tensor, image_size: tuple[int, int] | None, channels: int | None
) -> Float[Tensor, "n c h w"]:
    """Images in memory with the size and the channels asked for; None leaves them as they are.

    Resized as image files are: bilinear and antialiased. Gray is repeated to make color;
    color becomes gray by its luma (0.299 R + 0.587 G + 0.114 B).

    Raises:
        InputError: the items are no images of 1 or 3 channels.
    """
    if image_size is None and channels is None:
        return items
    if items.ndim != 4 or items.shape[1] not in (1, 3):
        raise InputError(
            "image_size and channels must be left out unless items are gray or color images, "
            f"got items of shape {tuple(items.shape[1:])}. Leave both out."
        )
    channels = channels or items.shape[1]
    image_size = image_size or (items.shape[2], items.shape[3])
    fitted = torch.empty((len(items), channels, *image_size), dtype=items.dtype)
    for start in range(0, len(items), 1024):  # floats of all items at once might not fit
        part = items[start : start + 1024].float()
        if part.shape[2:] != image_size:
            part = F.interpolate(part, image_size, mode="bilinear", antialias=True)
        if channels == 1 and part.shape[1] == 3:
            part = torch.einsum("nchw,c->nhw", part, torch.tensor([0.299, 0.587, 0.114]))[:, None]
        if items.dtype == torch.uint8:
            part = part.round().clamp(0, 255)
        fitted[start : start + 1024] = part
    return fitted


def is_image_name(path: str | Path) -> bool:
    """Whether a file's suffix is that of an image format read here."""
    return os.path.splitext(path)[1].lower() in _SUFFIXES


def check_image_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of an `image_size` argument, refusing sizes below 1."""
    if image_size is None:
        return None
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2:
        raise InputError(
            f"image_size must be one number or (height, width), got {image_size!r}. "
            "Use image_size=64 for square images."
        )
    for side in sides:
        check_count("image_size", side)
    return (sides[0], sides[1])


def check_channels(channels: int | None) -> None:
    """Refuse anything but 1, 3 and None."""
    if channels not in (None, 1, 3):
        raise InputError(
            f"must be 1 (gray) or 3 (color), got {channels!r}. "
            "Leave it out to take what the first image has.",
            argument="channels",
        )


def _open(
    path: str | Path, channels: int | None = None, image_size: tuple[int, int] | None = None
) -> Image.Image:
    """The whole image upright: gray or color of 8 bits, or mode F in 0..255 for 16-bit gray.

    A JPEG that will be resized is decoded at the smallest scale that is large enough.
    """
    name = repr(os.fspath(path))
    suffix = os.path.splitext(path)[1].lower()
    formats = (*_FORMATS, *(each for each, known in _UNSIGNED.items() if suffix in known))
    limit = max_pixels()
    try:
        with open_regular(path) as file, Image.open(file, formats=formats) as image:
            check_pixels(name, *image.size)
            if image_size is not None and image.format in ("JPEG", "MPO"):
                height, width = image_size
                lies = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
                image.draft(
                    "L" if channels == 1 else None, (height, width) if lies else (width, height)
                )
            return _plain(image, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"image {name} must exist, got no such file. Check the path."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{name} must have at most {limit:,} pixels, got more. "
            "Resize it, or set LIKEWISE_MAX_PIXELS to allow more."
        ) from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever their parsers meet
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise InputError(
            f"{name} must be a whole {KINDS}, got a file that cannot be read ({reason}). "
            "Replace or remove it."
        ) from error


def _plain(image: Image.Image, name: str = "image") -> Image.Image:
    """The image upright, gray or color of 8 bits, or mode F in 0..255 for 16-bit gray."""
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN):
        raise InputError(
            f"{name} must have pixels of 8 or 16 bits, got mode {image.mode!r}, which has 32. "
            "Save it with 8 or 16 bits, or give its numbers as an array."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.array(image, dtype=np.float32)
        if "transparency" in image.info:  # the one value that is transparent
            values[values == image.info["transparency"]] = 65535
        return Image.fromarray(values / 257)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        gray = _is_gray(image)
        image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("L" if gray else "RGB")
    return image.convert("L" if _is_gray(image) else "RGB")


def _pixels(
    image: Image.Image, channels: int, image_size: tuple[int, int] | None
) -> UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"]:
    """A plain image as bytes, or as floats in 0..255 where it has 16 bits."""
    if image.mode == "F":  # 16-bit gray, here in 0..255 with fractions
        image = _resized(image, image_size)
        return torch.from_numpy(np.array(image)).clamp(0, 255)[None].expand(channels, -1, -1)
    image = _resized(image.convert("L" if channels == 1 else "RGB"), image_size)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _scaled(pixels: Tensor) -> Float[Tensor, "c h w"]:
    return pixels.float() / 255


def _is_gray(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def _resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or size == (image.height, image.width):
        return image
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
