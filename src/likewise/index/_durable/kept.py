"""A trained search beside the items of a gallery, so that opening does not train again.

It can always be trained anew: what is kept is used only where it is of this very gallery, of items
that are still what they were, and every byte of it is what was written.
"""

import json
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise.distances import by_name
from likewise.index._durable.checksums import Integers
from likewise.index._searching.approximate import STEP, Trained
from likewise.index._searching.inside import KINDS, read_inside, written
from likewise.index._snapshots import Snapshot

KEPT = "gallery.search"
_MARKS = 1000  # items by which it is known whether they are what they were
_TAIL = struct.Struct("<QI")  # length and checksum of what is told, behind all else
_FORMAT = 1


def write_kept(folder: Path, now: Snapshot) -> None:
    """Put the file in place, whole, unless it is there; where it cannot be, it is left out."""
    with now.searching.trained_lists() as lists:
        if lists is None or not lists.effort or _holds_nearly(folder, now, lists):
            return
        rows = lists.now.numpy()
        positions = np.where(rows >= 0, now.positions[rows.clip(min=0)], -1)
        inside = written(lists.inside)
        tail = _tail(now, lists, inside, positions)
    part = folder / f"{KEPT}.part"
    try:
        with part.open("wb") as file:
            file.write(inside)
            file.write(positions.tobytes())
            file.write(tail)
        os.replace(part, folder / KEPT)  # whoever has mapped the one before keeps it
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_kept(folder: Path, now: Snapshot) -> None:
    """Give the search of a snapshot what is kept for it; nothing where that does not fit."""
    path = folder / KEPT
    told = _told(path)
    if told is None or not _is_for(told, now):
        return
    content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    size, count = told["bytes"], told["count"]
    ends = [size, size + 8 * count]
    parts = [content[:size], content[size : ends[1]]]
    if len(content) < ends[1] or [zlib.crc32(part.data) for part in parts] != told["checksums"]:
        return
    positions = content[size : ends[1]].view(np.int64)
    rows = np.where(positions >= 0, now.rows_at(positions.clip(min=0)), -1)
    at = int((rows >= 0).sum())
    # Those that are there must be the first, as new ones go behind them.
    if not at or not np.array_equal(np.sort(rows[rows >= 0]), np.arange(at)):
        return
    inside = read_inside(told["kind"], str(path))
    if inside.index.ntotal != count or _told(path) != told:  # replaced since it was looked at
        return
    lists = Trained(by_name(now.facts.distance), inside, rows, rows=at, trained_on=told["size"])
    lists.effort, lists.recall, lists.asked = told["effort"], told["recall"], told["asked"]
    now.searching.take(lists, now.packed)


def _holds_nearly(folder: Path, now: Snapshot, lists: Trained) -> bool:
    """Whether the file holds these, but for few that are searched exactly meanwhile."""
    told = _told(folder / KEPT)
    if told is None or not _is_for(told, now):
        return False
    same = (told["kind"], told["size"]) == (lists.inside.kind, lists.trained_on)
    return same and told["asked"] == lists.asked and abs(len(lists.now) - told["count"]) < STEP


def _is_for(told: dict[str, Any], now: Snapshot) -> bool:
    """Whether it is of this gallery, and the items that it marks are what they were."""
    facts = now.facts
    made_for = [facts.key, facts.distance, facts.storage, facts.dimension]
    if told["made_for"] != made_for:
        return False
    rows = now.rows_at(np.array(told["marks"], dtype=np.int64))
    there = rows >= 0
    if not there.any():
        return False
    checksums = np.array(told["marked"], dtype=np.int64)
    return bool((_checksums(now, rows[there]) == checksums[there]).all())


def _tail(now: Snapshot, lists: Trained, inside: bytes, positions: Integers) -> bytes:
    facts = now.facts
    rows = np.random.default_rng(0).permutation(lists.rows)[:_MARKS]
    text = json.dumps(
        {
            "format": _FORMAT,
            "made_for": [facts.key, facts.distance, facts.storage, facts.dimension],
            "kind": lists.inside.kind,
            "size": lists.trained_on,
            "effort": lists.effort,
            "recall": lists.recall,
            "asked": lists.asked,
            "bytes": len(inside),
            "count": len(positions),
            "checksums": [zlib.crc32(inside), zlib.crc32(positions.tobytes())],
            "marks": now.positions[rows].tolist(),
            "marked": _checksums(now, rows).tolist(),
        }
    ).encode()
    return text + _TAIL.pack(len(text), zlib.crc32(text))


def _told(path: Path) -> dict[str, Any] | None:
    """What the file says of itself; None where it is not there, or not what was written."""
    with suppress(OSError, ValueError, struct.error):
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END) - _TAIL.size
            file.seek(end)
            length, checksum = _TAIL.unpack(file.read())
            file.seek(end - length)
            text = file.read(length)
        if zlib.crc32(text) == checksum:
            told: dict[str, Any] = json.loads(text)
            return told if told.get("format") == _FORMAT and told["kind"] in KINDS else None
    return None


def _checksums(now: Snapshot, rows: npt.NDArray[Any]) -> Integers:
    packed = now.packed.numpy()
    sums = [zlib.crc32(packed[row].tobytes()) for row in rows.tolist()]
    return np.array(sums, dtype=np.int64)
