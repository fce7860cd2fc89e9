"""The database of a gallery: rows in SQLite, each with its checksum, and whole batches only."""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise._files import Lock
from likewise.errors import GalleryError, InputError, InputTypeError
from likewise.index._durable.checksums import Integers, keys_of, part_checksum, row_checksums
from likewise.index._durable.connection import DATABASE, LOCK, connect
from likewise.index._durable.contract import (
    Facts,
    acknowledge,
    create_acknowledged,
    last_acknowledged,
)
from likewise.index._durable.damage import check_regular, damaged, sentence
from likewise.index._searching.storage import row_format
from likewise.index._snapshots import Chunk, Texts

CHUNK = 4096  # rows that are read at once
NAME_BYTES = 8  # at least, of a class name in SQLite
FACTS = "SELECT value, checksum FROM facts"
_SCHEMA = {
    "changes": "CREATE TABLE changes (batch INTEGER, position INTEGER, before INTEGER)",
    "facts": "CREATE TABLE facts (value TEXT, checksum INTEGER)",
    "items": "CREATE TABLE items (position INTEGER PRIMARY KEY, id, label INTEGER,"
    " metadata_checksum INTEGER, payload_checksum INTEGER, checksum INTEGER, fingerprint INTEGER,"
    " embedding BLOB, metadata TEXT, payload BLOB)",
    "names": "CREATE TABLE names (code INTEGER PRIMARY KEY, name TEXT, checksum INTEGER)",
}


class Database:
    """Reads and writes the rows of one gallery; the caller's lock keeps threads apart.

    Args:
        folder: holds a gallery, or is to.
        read_only: take no lock, and refuse to write.
        made_for: facts of the gallery to make if there is none.
        names: Names of its classes.

    Raises:
        GalleryError: there is none, another process writes, or it is damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool,
        made_for: Facts | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._process = os.getpid()
        self._lock: Lock | None = None
        self._read: tuple[object, Facts] | None = None  # what was last read as facts, and these
        check_regular(folder)
        if made_for is not None:
            with self._sentences(writing=True):
                folder.mkdir(parents=True, exist_ok=True)
        if not read_only:
            with self._sentences(writing=True):
                self._lock = Lock(folder / LOCK)
        try:
            with self._sentences(writing=not read_only):
                acknowledged = last_acknowledged(folder)  # before the database, which goes ahead
                self._connection, self._is_immutable = connect(folder, read_only=read_only)
                if made_for is not None and self._is_new(acknowledged):
                    self._create(made_for, names)
            with self.reading():
                facts = self._check(acknowledged)
            if acknowledged is None and not read_only:  # making it was interrupted
                with self._sentences(writing=True):
                    create_acknowledged(folder, facts)
        except BaseException:
            self.close()
            raise

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process opened it; SQLite's connections do not outlive a fork."""
        return os.getpid() == self._process

    def close(self) -> None:
        """Give the files back; in a fork nothing is done, as they are the first process's."""
        if not self.is_of_this_process:
            return
        connection = getattr(self, "_connection", None)
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        if self._lock is not None:
            self._lock.release()

    def __del__(self) -> None:
        # A connection refers to itself, so that it would stay open, and the folder locked, until
        # the collector comes by.
        self.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All that is read within is of one batch."""
        with self._sentences():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def facts(self) -> Facts:
        """What the gallery holds, as of the batch that is read."""
        found = self._connection.execute(FACTS).fetchall()
        if self._read is not None and self._read[0] == found:  # most reads follow no write
            return self._read[1]
        with self._readable():
            ((text, checksum),) = found
            if zlib.crc32(text) != checksum:
                raise self.damaged("what it says of itself is not what was written")
            facts = Facts.of_text(text, self.folder)
        # What follows makes room for so much.
        dtype, width = row_format(facts.storage, facts.dimension)
        least = max(facts.names * NAME_BYTES, facts.items * (1 + width * dtype.itemsize))
        if least > size_of(self.folder):
            raise self.damaged("there is less than it says of itself")
        self._read = found, facts
        return facts

    def names(self, count: int) -> list[str]:
        """The class names."""
        found = self._connection.execute(
            "SELECT code, name, checksum FROM names ORDER BY code LIMIT ?", (count + 1,)
        ).fetchall()
        with self._readable():
            whole = [row for row in found if row[2] == name_checksum(row[0], row[1])]
            if len(whole) != count or [code for code, _, _ in whole] != list(range(count)):
                raise self.damaged("class names are missing or not what was written")
            return [name.decode() for _, name, _ in whole]

    def rows(
        self, facts: Facts, *, after: int = -1, within: Sequence[int] | None = None
    ) -> Iterator[Chunk]:
        """Items behind the position `after`, or those at the positions `within`."""
        query = (
            "SELECT position, id, label, metadata_checksum, payload_checksum, checksum, "
            "fingerprint, embedding FROM items WHERE position "
        )
        if within is not None:
            for some in _parts(within):
                asked = f"{query} IN ({','.join(map(str, some))}) ORDER BY position"
                yield self._chunk(self._connection.execute(asked).fetchall(), facts)
            return
        cursor = self._connection.execute(query + "> ? ORDER BY position", (after,))
        seen = 0
        # A damaged tree could lead in a circle.
        while seen <= facts.items and (found := cursor.fetchmany(CHUNK)):
            seen += len(found)
            yield self._chunk(found, facts)

    def changes(self, since: int) -> list[tuple[int, int]]:
        """Position, and checksum before, of what changed or went in later batches than `since`."""
        return self._connection.execute(
            "SELECT position, before FROM changes WHERE batch > ? ORDER BY rowid", (since,)
        ).fetchall()

    def checksums(self, positions: Integers) -> Integers:
        """Of the rows at the positions."""
        found: dict[int, int] = {}
        for some in _parts(positions.tolist()):
            found.update(
                self._connection.execute(
                    "SELECT position, checksum FROM items "
                    f"WHERE position IN ({','.join(map(str, some))})"
                )
            )
        with self._readable():
            return np.array([found[position] for position in positions.tolist()], dtype=np.int64)

    def refresh(self, batches: int) -> None:
        """Open the database anew where SQLite was told that it does not change, yet it did."""
        if self._is_immutable:
            acknowledged = last_acknowledged(self.folder)
            if acknowledged is not None and acknowledged.batches != batches:
                with self._sentences():
                    self._connection.close()
                    self._connection, self._is_immutable = connect(self.folder, read_only=True)

    def parts(self, column: str, positions: Sequence[int]) -> list[bytes | None]:
        """The metadata or the payload at each position."""
        found: dict[int, bytes | None] = {}
        with self._readable():
            for some in _parts(positions):
                found.update(
                    (position, part)
                    for position, part, checksum in self._connection.execute(
                        f"SELECT position, {column}, {column}_checksum FROM items "
                        f"WHERE position IN ({','.join(map(str, some))})"
                    )
                    if part_checksum(part) == checksum
                )
        if len(found) < len(set(positions)):
            raise self.damaged(f"{column} of some items is not what was written")
        return [found[position] for position in positions]

    def metadata(self, positions: Integers) -> list[dict[str, Any]]:
        """The metadata at each position, as it was given."""
        texts = self.parts("metadata", positions.tolist())
        with self._readable():
            return [{} if text is None else _as_dict(text) for text in texts]

    def metadata_at(self, positions: Sequence[int]) -> list[bytes | None]:
        """As `parts`, of the metadata."""
        return self.parts("metadata", positions)

    def commit(
        self,
        facts: Facts,
        *,
        removed: Iterable[int] = (),
        rows: Iterable[tuple[Any, ...]] = (),
        labels: Iterable[tuple[int, int, int]] = (),
        names: Sequence[str] = (),
        changes: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Write one batch, all of it or nothing, and wait until it is on disk.

        Args:
            facts: Facts of the gallery after it.
            removed: positions.
            rows: columns of `items`, in their order.
            labels: label, checksum of the row, position.
            names: Names of the last classes, in place of those that have their codes or later ones.
            changes: position, and checksum before, of what is removed or relabeled.
        """
        with self._sentences(writing=True):
            write = self._connection
            write.execute("BEGIN IMMEDIATE")
            try:
                write.executemany("DELETE FROM items WHERE position = ?", ((p,) for p in removed))
                write.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                write.executemany(
                    "UPDATE items SET label = ?, checksum = ? WHERE position = ?", labels
                )
                write.executemany(
                    "INSERT INTO changes VALUES (?, ?, ?)",
                    ((facts.batches, position, before) for position, before in changes),
                )
                texts = list(names)
                first = facts.names - len(texts)
                write.execute("DELETE FROM names WHERE code >= ?", (first,))
                write.executemany("INSERT INTO names VALUES (?, ?, ?)", _name_rows(first, texts))
                write.execute("UPDATE facts SET value = ?, checksum = ?", _sealed(facts))
                write.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # where SQLite has rolled back already
                    write.execute("ROLLBACK")
                raise

    def acknowledge(self, facts: Facts) -> None:
        """Note beside the database that the last batch is in it."""
        try:
            acknowledge(self.folder, facts)
        except OSError as error:
            raise GalleryError(
                f"path must be a folder that can be written, got {str(self.folder)!r}: "
                f"{error.strerror}. What was asked for is stored; close the gallery and look at "
                "the disk before more is."
            ) from error

    def compact(self, facts: Facts) -> None:
        """Forget the log of changes, and give space that is not used back to the disk."""
        with self._sentences(writing=True):
            self._connection.execute("DELETE FROM changes")
            self._connection.execute("UPDATE facts SET value = ?, checksum = ?", _sealed(facts))
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def damaged(self, what: str) -> GalleryError:
        """The sentence for a gallery that is not what was written."""
        return damaged(self.folder, what)

    def _check(self, acknowledged: Facts | None) -> Facts:
        schema = self._connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
        if dict(schema) != {name.encode(): sql.encode() for name, sql in _SCHEMA.items()}:
            raise self.damaged("the tables are not those that were written")
        facts = self.facts()
        if acknowledged is None and facts.batches:
            raise self.damaged("the record of what was acknowledged is missing or altered")
        if acknowledged is not None and acknowledged.key != facts.key:
            raise self.damaged("files of two galleries are mixed")
        if acknowledged is not None and acknowledged.batches > facts.batches:
            raise self.damaged(
                f"the last {acknowledged.batches - facts.batches} of {acknowledged.batches} "
                "batches are missing"
            )
        return facts

    def _chunk(self, rows: list[tuple[Any, ...]], facts: Facts) -> Chunk:
        with self._readable():
            chunk, whole = as_chunk(rows, facts)
        if not whole.all():
            raise self.damaged(f"{int((~whole).sum())} rows are not what was written")
        return chunk

    def _is_new(self, acknowledged: Facts | None) -> bool:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return acknowledged is None and tables == 0

    def _create(self, facts: Facts, names: Sequence[str]) -> None:
        write = self._connection
        write.execute("BEGIN IMMEDIATE")
        for sql in _SCHEMA.values():
            write.execute(sql)
        write.execute("INSERT INTO facts VALUES (?, ?)", _sealed(facts))
        write.executemany("INSERT INTO names VALUES (?, ?, ?)", _name_rows(0, names))
        write.execute("COMMIT")

    @contextmanager
    def _sentences(self, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise sentence(self.folder, error, writing=writing) from error

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except GalleryError:
            raise
        except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
            raise self.damaged("values are not what was written") from error


def as_chunk(rows: list[tuple[Any, ...]], facts: Facts) -> tuple[Chunk, npt.NDArray[np.bool_]]:
    """Rows as arrays, and which of them their checksum holds for.

    Raises:
        TypeError, ValueError, OverflowError: a value of another kind than was written.
    """
    if not rows:
        rows_of: list[Any] = [()] * 8
    else:
        rows_of = list(zip(*rows, strict=True))
    ids = list(rows_of[1])
    kind = bytes if facts.kind == "strings" else int
    if not all(isinstance(id_, kind) for id_ in ids):
        raise InputTypeError("ids are of another kind")
    if kind is bytes and not all(id_ and id_.decode() for id_ in ids):
        raise InputError("ids are empty")
    numbers = [np.array(rows_of[at], dtype=np.int64) for at in (0, 2, 3, 4, 5)]
    positions, labels, metadata, payloads, checksums = numbers
    keys = keys_of(ids)
    prints = prints_in(rows_of[6])
    dtype, width = row_format(facts.storage, facts.dimension)
    vectors = np.frombuffer(bytearray().join(rows_of[7]), dtype=dtype)
    embeddings = vectors.reshape(len(ids), width)
    if any(len(row) != width * dtype.itemsize for row in rows_of[7]):
        raise InputError("embeddings are of another length")
    expected = row_checksums(positions, keys, labels, metadata, payloads, prints, embeddings)
    texts = None
    if kind is bytes:
        texts = Texts(np.fromiter(map(len, ids), np.int64, len(ids)), b"".join(ids))
    whole = (expected == checksums) & (positions >= 0) & (labels >= -1)
    if facts.names:
        whole &= labels < facts.names
    if texts is None:
        whole &= keys >= 0
    return Chunk(positions, keys, texts, labels, embeddings, prints, checksums), whole


def prints_in(fingerprints: Sequence[int | None]) -> Integers:
    """The column of fingerprints, and 1 where there is one, (n, 2)."""
    pairs = [(0, 0) if value is None else (value, 1) for value in fingerprints]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def size_of(folder: Path) -> int:
    """Bytes of the database with its log."""
    names = (DATABASE, f"{DATABASE}-wal")
    return sum((folder / n).stat().st_size for n in names if (folder / n).exists())


def name_checksum(code: int, name: bytes) -> int:
    """The checksum of a class name and the code it stands for."""
    return zlib.crc32(name, code)


def _as_dict(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise InputTypeError("metadata is of another kind")
    return value


def _name_rows(first: int, names: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    for code, name in enumerate(names, first):
        yield code, name, name_checksum(code, name.encode())


def _sealed(facts: Facts) -> tuple[str, int]:
    text = facts.text()
    return text, zlib.crc32(text.encode())


def _parts(values: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(values), 500):
        yield values[start : start + 500]
