"""What is left of a damaged gallery, and a whole one made of it."""

import os
import shutil
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import torch

from likewise import _tables
from likewise._files import Lock, sync_folder
from likewise.errors import GalleryError
from likewise.index._durable.checksums import part_checksum
from likewise.index._durable.connection import DATABASE, LOCK, connect
from likewise.index._durable.contract import ACKNOWLEDGED, Facts, last_acknowledged
from likewise.index._durable.damage import check_regular, is_there, sentence
from likewise.index._durable.database import (
    CHUNK,
    FACTS,
    NAME_BYTES,
    as_chunk,
    name_checksum,
    prints_in,
    size_of,
)
from likewise.index._durable.folder import InFolder
from likewise.index._searching.storage import row_format
from likewise.index._store import Added, Given

_COLUMNS = (
    "SELECT position, id, label, metadata_checksum, payload_checksum, checksum, fingerprint, "
    "embedding, metadata, payload FROM items WHERE position >= ? AND position < ? "
    "ORDER BY position LIMIT ?"
)
Row = tuple[Any, ...]


@dataclass(frozen=True)
class GalleryReport:
    """What a check found in the folder of a gallery, or what a repair kept of it."""

    path: str
    problems: list[str]  # none if it is whole
    items: int  # that are whole
    lost: int  # of those acknowledged
    stripped: int  # items whose metadata or payload is lost, but nothing else
    damaged_copy: str | None = None  # where a repair put the files as they were

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def is_whole(self) -> bool:
        """Every byte that counts is as it was written."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def check_gallery(path: str | Path) -> GalleryReport:
    """What is whole of the gallery at `path`, metadata and payloads included; changes nothing.

    Raises:
        GalleryError: there is no gallery, or it cannot be read at all.
    """
    folder = _existing(path)
    problems = []
    try:
        InFolder(folder, read_only=True, may_map=False).close()  # every row is read
    except GalleryError as error:
        problems.append(str(error))
    rows = items = stripped = 0
    facts = None
    with suppress(sqlite3.Error), closing(connect(folder, read_only=True)[0]) as connection:
        facts = _facts(folder, connection)
        rows, items, stripped = _counted(connection, facts)
        if not problems:
            problems += _integrity(connection)
    facts = facts or _facts(folder, None)
    if rows > items:
        problems.append(f"{rows - items} rows are not what was written")
    if stripped:
        problems.append(f"the metadata or payload of {stripped} items is not what was written")
    return GalleryReport(str(folder), problems, items, max(0, facts.items - items), stripped)


def repair_gallery(path: str | Path) -> GalleryReport:
    """Make the gallery at `path` whole: keep every row that its checksum holds for.

    The files as they were are kept in a folder beside them. Where only metadata or a payload is
    lost, the item stays without. A gallery that is whole is left as it is.

    Raises:
        GalleryError: there is no gallery, nothing can be read of it, it is being written, or
            there is no room for the copies.
    """
    folder = _existing(path)
    try:
        with Lock(folder / LOCK):
            found = check_gallery(folder)
            return found if found.is_whole else _repaired(folder, found)
    except (sqlite3.Error, OSError) as error:
        raise sentence(folder, error, writing=True) from error


def _repaired(folder: Path, found: GalleryReport) -> GalleryReport:
    part = folder / ".repair.part"
    shutil.rmtree(part, ignore_errors=True)
    aside = next(a for n in range(1, 1000) if not (a := folder / f"damaged-{n}").exists())
    aside.mkdir()
    for file in folder.glob("gallery.*"):
        if file.name != LOCK:
            _keep(file, aside / file.name)
    try:
        connection: sqlite3.Connection | None = connect(folder, read_only=True)[0]
    except sqlite3.Error:
        connection = None
    facts = _facts(folder, connection)
    try:
        _write_anew(part, facts, connection)
    finally:
        if connection is not None:
            connection.close()
    for suffix in ("-wal", "-shm"):
        (folder / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    for name in (DATABASE, ACKNOWLEDGED):
        os.replace(part / name, folder / name)
    sync_folder(folder)
    shutil.rmtree(part)
    return replace(found, damaged_copy=str(aside))


def _keep(file: Path, copy: Path) -> None:
    # Files are only ever replaced below, so a second name keeps one as it was, whatever its size.
    try:
        os.link(file, copy, follow_symlinks=True)
    except OSError:
        shutil.copy2(file, copy)


def _write_anew(part: Path, facts: Facts, connection: sqlite3.Connection | None) -> None:
    names = _names(facts, connection)
    made_for = msgspec.structs.replace(
        Facts(uuid4().hex, facts.distance, facts.encoder, facts.dimension),
        storage=facts.storage,
        next_id=facts.next_id,
        names=len(names),
    )
    store = InFolder(part, read_only=False, made_for=made_for, names=names)
    try:
        if connection is None or facts.dimension is None:
            return
        dtype, _ = row_format(facts.storage, facts.dimension)
        for found in _all(connection, facts):
            if not (chunk := [_stripped(row) for row in _whole(found, facts)]):
                continue
            ids = [row[1].decode() if facts.kind == "strings" else row[1] for row in chunk]
            vectors = np.frombuffer(bytearray().join(row[7] for row in chunk), dtype=dtype)
            now = store.current
            added = Added(
                given=Given(ids, now.keys_for(ids)),
                labels=np.array([row[2] for row in chunk], dtype=np.int64),
                packed=torch.from_numpy(vectors).view(len(chunk), -1),
                metadata=["{}" if row[8] is None else row[8].decode() for row in chunk],
                payloads=[row[9] for row in chunk],
                prints=prints_in([row[6] for row in chunk]),
            )
            store.commit(now, class_names=names, added=added)
    finally:
        store.close()


def _existing(path: str | Path) -> Path:
    folder = Path(path)
    check_regular(folder)
    if not is_there(folder, DATABASE):
        raise GalleryError(
            f"path must be the folder of a gallery, got {str(folder)!r} without {DATABASE}. "
            "Check the spelling, or take a backup."
        )
    return folder


def _facts(folder: Path, connection: sqlite3.Connection | None) -> Facts:
    # Of the two places where they stand, the one that knows more.
    acknowledged = found = last_acknowledged(folder)
    with suppress(sqlite3.Error, TypeError, ValueError):
        if connection is not None:
            ((text, checksum),) = connection.execute(FACTS).fetchall()
            facts = Facts.of_text(text, folder)
            if zlib.crc32(text) == checksum:
                other = acknowledged is not None and acknowledged.key == facts.key
                if acknowledged is None or not other or facts.batches >= acknowledged.batches:
                    found = facts
    if found is None:
        raise GalleryError(
            f"gallery must say what it is, got {str(folder)!r}, in which that is lost in both "
            "places. Take a backup."
        )
    most = size_of(folder) // NAME_BYTES  # more cannot have been there
    return msgspec.structs.replace(found, names=min(found.names, most))


def _names(facts: Facts, connection: sqlite3.Connection | None) -> list[str]:
    names = [f"class {code}" for code in range(facts.names)]
    with suppress(sqlite3.Error, TypeError, ValueError):
        if connection is not None:
            for code, name, checksum in connection.execute("SELECT * FROM names"):
                if 0 <= code < len(names) and checksum == name_checksum(code, name):
                    names[code] = name.decode()
    times = Counter(names)
    if len(times) < len(names):
        names = [name if times[name] == 1 else f"{name} {n}" for n, name in enumerate(names)]
    return names


def _counted(connection: sqlite3.Connection, facts: Facts) -> tuple[int, int, int]:
    rows = items = stripped = 0
    for found in _all(connection, facts):
        rows += len(found)
        for row in _whole(found, facts):
            items += 1
            stripped += _stripped(row) != row
    return rows, items, stripped


def _all(connection: sqlite3.Connection, facts: Facts) -> Iterator[list[Row]]:
    # Where SQLite cannot read a range of positions, its halves, down to single ones; but not
    # more often than there can be rows, for a range may be forged to have no end.
    (_, _, file), *_ = connection.execute("PRAGMA database_list").fetchall()
    tries = 1000 + size_of(Path(os.fsdecode(file)).parent) // 64
    ranges = [(0, facts.next_position)]
    while ranges:
        start, end = ranges.pop()
        try:
            found = connection.execute(_COLUMNS, (start, end, CHUNK)).fetchall()
        except sqlite3.Error:
            tries -= 1
            if end - start > 1 and tries > 0:
                middle = (start + end) // 2
                ranges += [(middle, end), (start, middle)]
            continue
        # A damaged tree may give a position twice, or one that was not asked for.
        asked = {row[0]: row for row in found if isinstance(row[0], int) and start <= row[0] < end}
        if len(found) == CHUNK and asked:
            ranges.append((max(asked) + 1, end))
        yield [asked[position] for position in sorted(asked)]


def _whole(rows: list[Row], facts: Facts) -> list[Row]:
    try:
        whole = as_chunk([row[:8] for row in rows], facts)[1].tolist()
    except (TypeError, ValueError, OverflowError):
        if len(rows) == 1:
            return []
        return [row for single in rows for row in _whole([single], facts)]
    return [row for row, is_whole in zip(rows, whole, strict=True) if is_whole]


def _stripped(row: Row) -> Row:
    parts = [
        part if _holds(part, checksum) else None
        for part, checksum in zip(row[8:], row[3:5], strict=True)
    ]
    return (*row[:8], *parts)


def _holds(part: object, checksum: int) -> bool:
    return (part is None or isinstance(part, bytes)) and part_checksum(part) == checksum


def _integrity(connection: sqlite3.Connection) -> list[str]:
    try:
        found = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.Error as error:
        return [f"SQLite finds {str(error)!r}"]
    said = [text.decode(errors="replace") for (text,) in found]
    return [] if said == ["ok"] else [f"SQLite finds {text!r}" for text in said]
