"""Image files to pixels, by Pillow and NumPy alone: decoding of any mode, and framing.

Whatever decodes an image does it here, so that a model and what it is exported to see the same.
"""

import io
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from likewise._files import open_regular
from likewise.errors import InputError

# What Pillow knows by its first bytes and reads by itself, and the suffixes of its files. EPS is
# left out as Pillow hands it to another program; PPM is the whole family, PGM too.
FORMATS = {
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
    "ICNS": (".icns",),
    "PCX": (".pcx",),
    "SUN": (".ras",),
}
_SIXTEEN = ("PNG", "PPM")  # where mode I holds 16 bits, not 32
UNSIGNED = {"TGA": (".tga", ".icb", ".vda", ".vst")}  # has no first bytes: by its suffix only
SUFFIXES = {suffix for known in (FORMATS, UNSIGNED) for s in known.values() for suffix in s}
_EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # in what Pillow has read
KINDS = "PNG, JPEG, WebP, TIFF, GIF, BMP, PGM or other common image"
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


class Frame(Protocol):
    """How images are brought to one size, as `data.Framing` says it."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def crop(self) -> float: ...
    @property
    def mode(self) -> str: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def fill(self) -> Sequence[float]: ...


class TooManyPixels(InputError):
    """An image of more pixels than allowed."""


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse an image of more pixels than the limit, before it is decoded.

    Raises:
        TooManyPixels: it has more.
    """
    limit = max_pixels()
    if limit is not None and width * height > limit:
        raise TooManyPixels(
            f"{name} must have at most {limit:,} pixels, got {width} x {height}. "
            "Resize it, or set LIKEWISE_MAX_PIXELS to allow more."
        )


def max_pixels() -> int | None:
    """The most pixels an image may have; None where Pillow's limit was taken away.

    Raises:
        InputError: LIKEWISE_MAX_PIXELS is no whole number above 0.
    """
    limit = from_environment("LIKEWISE_MAX_PIXELS")
    if limit is None:
        return Image.MAX_IMAGE_PIXELS
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # else Pillow would refuse what was allowed here
    return limit


def from_environment(variable: str, least: int = 1) -> int | None:
    """A whole number that the environment sets; None where it does not.

    Raises:
        InputError: it is none, or below `least`.
    """
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"{variable} must be a whole number of at least {least}, got {text!r}.")
    return int(text)


def decoded_at(frame: Frame) -> tuple[int, int]:
    """The least (height, width) that a larger image may be decoded at."""
    return math.floor(frame.height / frame.crop), math.floor(frame.width / frame.crop)


def resized_to(frame: Frame, height: int, width: int) -> tuple[int, int]:
    """(height, width) that an image of a size is resized to before it is cropped."""
    tall, wide = decoded_at(frame)
    if frame.mode == "squash":
        return tall, wide
    if frame.mode == "center" and tall == wide:  # rounded as torchvision does
        if height <= width:
            return tall, int(tall * width / height)
        return int(tall * height / width), tall
    choose = min if frame.mode == "center" else max
    ratio = choose(height / tall, width / wide)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def framed(image: Image.Image, frame: Frame) -> Image.Image:
    """A Pillow image of the frame's size."""
    size = frame.height, frame.width
    height, width = resized_to(frame, image.height, image.width)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), INTERPOLATIONS[frame.interpolation])
    if (height, width) == size:
        return image
    top, left = start(height, frame.height), start(width, frame.width)
    if top >= 0 and left >= 0:
        return image.crop((left, top, left + frame.width, top + frame.height))
    fill = [255 * value for value in frame.fill]
    gray = sum(fill) / len(fill)
    color: Any = gray if image.mode == "F" else round(gray)
    if image.mode == "RGB":
        color = tuple(round(value) for value in (fill * 3)[:3])
    whole = Image.new(image.mode, (frame.width, frame.height), color)
    whole.paste(image, (-left, -top))
    return whole


def start(length: int, kept: int) -> int:
    """Where the middle begins; below 0 where more is kept than there is."""
    return round((length - kept) / 2.0) if length >= kept else -((kept - length) // 2)


def file_pixels(
    path: str | Path, channels: int, frame: Frame | None, content: bytes | None = None
) -> npt.NDArray[Any]:
    """The pixels (c, h, w) of an image file, or of what one holds; see `plain_pixels`."""
    name = repr(os.fspath(path))
    with reading(path, None if content is None else io.BytesIO(content)) as image:
        return plain_pixels(upright(image, name, channels, frame), channels, frame)


def upright(
    image: Image.Image, name: str, channels: int | None, frame: Frame | None
) -> Image.Image:
    if frame is not None and image.format in ("JPEG", "MPO"):
        height, width = decoded_at(frame)
        image.draft(
            "L" if channels == 1 else None,
            (height, width) if lies(image) else (width, height),
        )
    return plain(image, name)


def lies(image: Image.Image) -> bool:
    """Whether width and height change places where the image is brought upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)


def tells_no_exif(image: Image.Image) -> bool:
    """Whether a PNG has no EXIF, by the names of its chunks: Pillow decodes it all to know."""
    file: BinaryIO | None = getattr(image, "fp", None)
    if image.format != "PNG" or file is None or not _EXIF.isdisjoint(image.info):
        return False
    place = file.tell()
    file.seek(8)
    name, seen_pixels, late = b"", False, False
    while name != b"IEND" and not late and len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        seen_pixels = seen_pixels or name == b"IDAT"
        late = seen_pixels and name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(place)
    return not late


@contextmanager
def reading(
    path: str | Path,
    content: BinaryIO | None = None,
    formats: tuple[str, ...] | None = None,
    name: str | None = None,
) -> Iterator[Image.Image]:
    """An image file, open; what its decoder raises becomes one sentence."""
    name = name or repr(os.fspath(path))
    suffix = os.path.splitext(path)[1].lower()
    if formats is None:
        formats = (*FORMATS, *(each for each, known in UNSIGNED.items() if suffix in known))
    limit = max_pixels()
    try:
        with content or open_regular(path) as file, Image.open(file, formats=formats) as image:
            check_pixels(name, *image.size)
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"image {name} must exist, got no such file. Check the path."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(
            f"{name} must have at most {limit:,} pixels, got more. "
            "Resize it, or set LIKEWISE_MAX_PIXELS to allow more."
        ) from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever their parsers meet
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            # Pillow would tell an address in memory, or the number of an open file.
            reason = "of no known kind"
        raise InputError(
            f"{name} must be a whole {KINDS}, got a file that cannot be read ({reason}).",
            remedy="Replace or remove it.",
            command="Replace or remove it, or leave such files out with --skip-unreadable.",
        ) from error


def plain(image: Image.Image, name: str = "image") -> Image.Image:
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
        gray = is_gray(image)
        image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("L" if gray else "RGB")
    return image.convert("L" if is_gray(image) else "RGB")


def plain_pixels(image: Image.Image, channels: int, frame: Frame | None) -> npt.NDArray[Any]:
    """A plain image (c, h, w) as bytes, or as floats in 0..255 where it has 16 bits."""
    if image.mode == "F":  # 16-bit gray, here in 0..255 with fractions
        image = image if frame is None else framed(image, frame)
        values = np.clip(np.array(image), 0, 255)
        return np.repeat(values[None], channels, axis=0)
    image = image.convert("L" if channels == 1 else "RGB")
    image = image if frame is None else framed(image, frame)
    values = np.array(image)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def is_gray(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
