"""Arrays in the idx format of MNIST, plain or gzipped."""

import gzip
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from likewise._files import open_regular
from likewise.data.limits import check_unpacked
from likewise.errors import InputError

_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz)?")


def read_idx(path: Path) -> np.ndarray:
    """The array of one idx file, of the shape its header states.

    The file starts with two zero bytes, a type code and the number of dimensions; then comes
    each dimension as a 32-bit number, then the values, everything big-endian. Whether it is
    gzipped is seen from its content.

    Raises:
        InputError: it is no regular file, no idx file or a damaged gzip, its header and size
            disagree, or a gzip unpacks to more than `likewise.data.limits` allows.

    Source:
        LeCun, Cortes & Burges, "The MNIST database of handwritten digits", file formats.
    """
    with _opened(path) as (file, packed):
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES:
            raise InputError(
                f"{str(path)!r} must start with an idx header (0, 0, type, dimensions), "
                f"got bytes {head.hex(' ') or '(empty file)'}. Check that it is the right file."
            )
        dtype, start = np.dtype(_DTYPES[head[2]]), 4 + 4 * head[3]
        sizes = file.read(start - 4)
        if len(sizes) < start - 4:
            raise InputError(
                f"{str(path)!r} must have a header of {start} bytes, got {4 + len(sizes)} in all. "
                "The file is damaged; fetch it again."
            )
        shape = tuple(np.frombuffer(sizes, ">u4").tolist())
        expected = math.prod(shape) * dtype.itemsize
        if packed is None:  # seen before memory is taken for it
            got, values = os.fstat(file.fileno()).st_size - start, b""
        else:
            check_unpacked(repr(str(path)), packed, expected)
            values = file.read(expected + 1)  # one more, as a longer file is another one
            got = len(values)
        if got != expected:
            more = "more" if packed is not None and got > expected else f"{start + got}"
            raise InputError(
                f"{str(path)!r} must have {start + expected} bytes for the shape {shape} of its "
                f"header, got {more}. The file is damaged; fetch it again."
            )
        if packed is None:
            values = file.read(expected)
    return np.frombuffer(values, dtype).reshape(shape)


def idx_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The (images, labels) files of the parts "train" and "test" that a folder holds.

    Files are named as those of MNIST: train-images-idx3-ubyte, t10k-labels-idx1-ubyte.gz.
    Where both a plain and a gzipped file exist, the plain one is meant.

    Raises:
        InputError: a part has images without labels, or labels without images.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match:
            part = "train" if match[1] == "train" else "test"
            found.setdefault((part, match[2]), path)
    parts = {}
    for part in dict.fromkeys(part for part, _ in found):
        for kind, other in (("images", "labels"), ("labels", "images")):
            if (part, kind) not in found:
                raise InputError(
                    f"{str(folder)!r} must hold {kind} for its {part} part, got only "
                    f"{found[part, other].name!r}. Add the missing file."
                )
        parts[part] = (found[part, "images"], found[part, "labels"])
    return {part: parts[part] for part in ("train", "test") if part in parts}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """The content to read, and for a gzip file how many bytes it takes packed."""
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file, None
            return
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked), os.fstat(file.fileno()).st_size
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(
                f"{str(path)!r} must be a complete gzip file, got a damaged one ({error}). "
                "Fetch it again."
            ) from error
