"""Arrays in the idx format of MNIST, plain or gzipped."""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from likewise.errors import InputError

_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(\.gz)?")


def read_idx(path: Path) -> np.ndarray:
    """The array of one idx file, of the shape its header states.

    The file starts with two zero bytes, a type code and the number of dimensions; then comes
    each dimension as a 32-bit number, then the values, everything big-endian. Whether it is
    gzipped is seen from its content.

    Raises:
        InputError: it is no idx file, a damaged gzip, or its header and size disagree.

    Source:
        LeCun, Cortes & Burges, "The MNIST database of handwritten digits", file formats.
    """
    raw = _read_bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _DTYPES:
        raise InputError(
            f"{str(path)!r} must start with an idx header (0, 0, type, dimensions), "
            f"got bytes {raw[:4].hex(' ') or '(empty file)'}. Check that it is the right file."
        )
    dtype, start = np.dtype(_DTYPES[raw[2]]), 4 + 4 * raw[3]
    if len(raw) < start:
        raise InputError(
            f"{str(path)!r} must have a header of {start} bytes, got {len(raw)} in all. "
            "The file is damaged; fetch it again."
        )
    shape = tuple(np.frombuffer(raw[4:start], ">u4").tolist())
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InputError(
            f"{str(path)!r} must have {expected} bytes for the shape {shape} of its header, "
            f"got {len(raw)}. The file is damaged; fetch it again."
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape)


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


def _read_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{str(path)!r} must be a complete gzip file, got a damaged one ({error}). "
            "Fetch it again."
        ) from error
