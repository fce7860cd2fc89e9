"""Limits on memory: what a small file may unpack to, and what is kept of decoded images.

================================  ==========================================  ====================
environment variable              limits                                      by default
================================  ==========================================  ====================
``LIKEWISE_MAX_PIXELS``           pixels of one image                         that of Pillow,
                                                                              89 million
``LIKEWISE_MAX_UNPACKED``         bytes of one gzip file or member of a zip   1 GiB, or 100 times
                                                                              the packed size
``LIKEWISE_MAX_KEPT``             bytes of decoded images that a data set     1 GiB
                                  keeps; 0 keeps none
================================  ==========================================  ====================

They are read when a file or a source is opened. Pillow's own limit, `PIL.Image.MAX_IMAGE_PIXELS`,
counts where the variable is not set.
"""

import os

from PIL import Image

from likewise.errors import InputError

_UNPACKED = _KEPT = 2**30
_RATIO = 100  # honest arrays of bytes pack to a fifth, drawings to a thirtieth


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
    limit = _from_environment("LIKEWISE_MAX_PIXELS")
    if limit is None:
        return Image.MAX_IMAGE_PIXELS
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # else Pillow would refuse what was allowed here
    return limit


def max_kept() -> int:
    """The bytes of decoded images that a data set may keep in memory.

    Raises:
        InputError: LIKEWISE_MAX_KEPT is no whole number.
    """
    kept = _from_environment("LIKEWISE_MAX_KEPT", least=0)
    return _KEPT if kept is None else kept


def check_unpacked(name: str, packed: int, unpacked: int) -> None:
    """Refuse packed content that says it is far larger than it should be, before unpacking.

    Args:
        name: Name of the file, for the sentence.
        packed: bytes that it takes.
        unpacked: bytes that its header announces.

    Raises:
        InputError: these are above the limit.
    """
    limit = _from_environment("LIKEWISE_MAX_UNPACKED")
    if limit is None:
        limit = max(_UNPACKED, _RATIO * packed)
    if unpacked > limit:
        raise InputError(
            f"{name} must unpack to at most {limit:,} bytes, got {unpacked:,} from {packed:,}. "
            "Save it without compression, or set LIKEWISE_MAX_UNPACKED to allow more."
        )


def _from_environment(variable: str, least: int = 1) -> int | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"{variable} must be a whole number of at least {least}, got {text!r}.")
    return int(text)
