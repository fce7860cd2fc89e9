"""A copy of what a gallery holds in memory, in a file that opening maps instead of reading rows.

It can always be made anew: it is used only where it is of the very batch that the database has,
and every byte of it is what was written.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise.errors import InputError
from likewise.index._durable.facts import Facts
from likewise.index._durable.snapshot import Arrays, Snapshot
from likewise.index._durable.store import row_format

MAPPED = "gallery.vectors"
LEAST = 65536  # items; fewer are read as fast
_HEAD = 8192  # the facts and checksums of the arrays; these follow, each from a multiple of 64
_LENGTH = struct.Struct("<I")


def write_mapped(folder: Path, snapshot: Snapshot) -> None:
    """Put the file in place, whole, unless it is there; where it cannot be, it is left out."""
    if _is_of(folder, snapshot.facts):
        return
    part = folder / f"{MAPPED}.part"
    arrays = snapshot.arrays
    try:
        with part.open("wb") as file:
            file.write(_head(snapshot.facts, arrays))
            for array in arrays:
                file.write(b"\0" * (-file.tell() % 64))
                file.write(_bytes(array))
        os.replace(part, folder / MAPPED)  # whoever has mapped the one before keeps it
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_mapped(folder: Path, facts: Facts) -> Arrays | None:
    """The arrays, mapped; None where the file is not of the batch of `facts`, or altered.

    Their pages are shared with every process that maps the file, until one writes to them.
    """
    with suppress(OSError, ValueError, TypeError, KeyError, struct.error):
        content = np.asarray(np.memmap(folder / MAPPED, dtype=np.uint8, mode="c"))
        written, sizes, checksums = _of_head(content[:_HEAD].tobytes())
        if written == facts:
            arrays = _arrays(content, facts, sizes)
            return arrays if [_checksum(array) for array in arrays] == checksums else None
    return None


def _is_of(folder: Path, facts: Facts) -> bool:
    with suppress(OSError, ValueError, TypeError, KeyError, struct.error):
        with (folder / MAPPED).open("rb") as file:
            return _of_head(file.read(_HEAD))[0] == facts
    return False


def _arrays(content: npt.NDArray[np.uint8], facts: Facts, sizes: Sequence[int]) -> Arrays:
    dtype, width = row_format(facts)
    dtypes: list[Any] = [np.int64, np.int64, np.int64, dtype, np.int64, np.uint8]
    arrays, start = [], _HEAD
    for kind, size in zip(dtypes, sizes, strict=True):
        start += -start % 64
        arrays.append(content[start : start + size].view(kind))
        start += size
    positions, keys, labels, vectors, ends, text = arrays
    return Arrays(positions, keys, labels, vectors.reshape(facts.items, width), ends, text)


def _head(facts: Facts, arrays: Arrays) -> bytes:
    checksums = [_checksum(array) for array in arrays]
    text = json.dumps(
        [facts.text(), [array.nbytes for array in arrays], checksums], ensure_ascii=False
    ).encode()
    return (_LENGTH.pack(len(text)) + _LENGTH.pack(zlib.crc32(text)) + text).ljust(_HEAD, b"\0")


def _of_head(head: bytes) -> tuple[Facts, list[int], list[int]]:
    (length,), (checksum,) = _LENGTH.unpack(head[:4]), _LENGTH.unpack(head[4:8])
    text = head[8 : 8 + length]
    if zlib.crc32(text) != checksum:
        raise InputError("the head is not what was written")
    facts, sizes, checksums = json.loads(text)
    return Facts.of_text(facts), sizes, checksums


def _checksum(array: npt.NDArray[Any]) -> int:
    return zlib.crc32(_bytes(array))


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
