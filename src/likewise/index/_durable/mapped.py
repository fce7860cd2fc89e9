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

import msgspec
import numpy as np
import numpy.typing as npt

from likewise.errors import InputError
from likewise.index._durable.contract import Facts
from likewise.index._durable.database import size_of
from likewise.index._searching.storage import row_format
from likewise.index._snapshots import Arrays, Snapshot

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
    with suppress(OSError, ValueError, struct.error):
        content = np.asarray(np.memmap(folder / MAPPED, dtype=np.uint8, mode="c"))
        written, sizes, checksums = _of_head(content[:_HEAD].tobytes(), folder)
        if written == facts and _fit(sizes, facts, size_of(folder)):
            arrays = _arrays(content, facts, sizes)
            whole = [_checksum(array) for array in arrays] == checksums
            return arrays if whole and _are_items(arrays, facts) else None
    return None


def _is_of(folder: Path, facts: Facts) -> bool:
    with suppress(OSError, ValueError, struct.error):
        with (folder / MAPPED).open("rb") as file:
            return _of_head(file.read(_HEAD), folder)[0] == facts
    return False


def _fit(sizes: Sequence[int], facts: Facts, room: int) -> bool:
    # Before anything is read: a forged size could be that of a file without end.
    dtype, width = row_format(facts.storage, facts.dimension)
    count, is_text = facts.items, facts.kind == "strings"
    vectors, prints = count * width * dtype.itemsize, 16 * count
    if sizes[4:5] == [0]:  # no item has one
        prints = 0
    fixed = [*[8 * count] * 3, vectors, prints, 8 * count * is_text]
    return list(sizes[:-1]) == fixed and 0 <= sizes[-1] <= room * is_text


def _are_items(arrays: Arrays, facts: Facts) -> bool:
    """Whether the numbers can be what they stand for, so that no use of them fails later."""
    positions, ends, text = arrays.positions, arrays.ends, arrays.text
    labels, names = arrays.labels, facts.names
    if not len(positions):
        return True
    is_sound = positions[0] >= 0 and positions[-1] < facts.next_position
    is_sound &= bool((positions[1:] > positions[:-1]).all())
    is_sound &= bool(labels.min() >= -1) and not (names and labels.max() >= names)
    is_sound &= bool(np.isin(arrays.prints[:, 1], (0, 1)).all())
    if facts.kind != "strings":
        return bool(is_sound and arrays.keys.min() >= 0)
    starts = np.append(0, ends)
    is_sound &= starts[-1] == len(text) and bool((starts[1:] > starts[:-1]).all())
    text.tobytes().decode()  # a ValueError where it is none
    return bool(is_sound and (text[starts[:-1]] & 0xC0 != 0x80).all())  # no letter is cut


def _arrays(content: npt.NDArray[np.uint8], facts: Facts, sizes: Sequence[int]) -> Arrays:
    dtype, width = row_format(facts.storage, facts.dimension)
    dtypes: list[Any] = [np.int64, np.int64, np.int64, dtype, np.int64, np.int64, np.uint8]
    arrays, start = [], _HEAD
    for kind, size in zip(dtypes, sizes, strict=True):
        start += -start % 64
        arrays.append(content[start : start + size].view(kind))
        start += size
    positions, keys, labels, vectors, prints, ends, text = arrays
    rows = vectors.reshape(facts.items, width)
    return Arrays(positions, keys, labels, rows, prints.reshape(-1, 2), ends, text)


def _head(facts: Facts, arrays: Arrays) -> bytes:
    checksums = [_checksum(array) for array in arrays]
    text = json.dumps(
        [facts.text(), [array.nbytes for array in arrays], checksums], ensure_ascii=False
    ).encode()
    return (_LENGTH.pack(len(text)) + _LENGTH.pack(zlib.crc32(text)) + text).ljust(_HEAD, b"\0")


def _of_head(head: bytes, folder: Path) -> tuple[Facts, list[int], list[int]]:
    (length,), (checksum,) = _LENGTH.unpack(head[:4]), _LENGTH.unpack(head[4:8])
    text = head[8 : 8 + length]
    if zlib.crc32(text) != checksum:
        raise InputError("the head is not what was written")
    try:
        facts, sizes, checksums = msgspec.json.decode(text, type=tuple[str, list[int], list[int]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError("the head is none") from error
    return Facts.of_text(facts.encode(), folder), sizes, checksums


def _checksum(array: npt.NDArray[Any]) -> int:
    return zlib.crc32(_bytes(array))


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
