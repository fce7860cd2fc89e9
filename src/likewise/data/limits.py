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

from likewise._pixels import TooManyPixels as TooManyPixels
from likewise._pixels import check_pixels as check_pixels
from likewise._pixels import from_environment
from likewise._pixels import max_pixels as max_pixels
from likewise.errors import InputError

_UNPACKED = _KEPT = 2**30
_RATIO = 100  # honest arrays of bytes pack to a fifth, drawings to a thirtieth


def max_kept() -> int:
    """The bytes of decoded images that a data set may keep in memory.

    Raises:
        InputError: LIKEWISE_MAX_KEPT is no whole number.
    """
    kept = from_environment("LIKEWISE_MAX_KEPT", least=0)
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
    limit = from_environment("LIKEWISE_MAX_UNPACKED")
    if limit is None:
        limit = max(_UNPACKED, _RATIO * packed)
    if unpacked > limit:
        raise InputError(
            f"{name} must unpack to at most {limit:,} bytes, got {unpacked:,} from {packed:,}. "
            "Save it without compression, or set LIKEWISE_MAX_UNPACKED to allow more."
        )
