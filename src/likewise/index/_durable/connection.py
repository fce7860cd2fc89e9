"""SQLite connections to a gallery's database."""

import sqlite3
from pathlib import Path

DATABASE = "gallery.sqlite"
LOCK = "gallery.lock"
_PATIENCE = 30.0  # seconds to wait for another process
_LOG_PAGES = 16384  # 64 MB of log; copied into the database when there are more


def connect(folder: Path, *, read_only: bool) -> tuple[sqlite3.Connection, bool]:
    """A connection, and whether SQLite was told that nobody changes the database.

    Raises:
        sqlite3.Error: there is no database, or it cannot be opened.
    """
    path = folder / DATABASE
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    try:
        return _prepared(address, read_only), False
    except sqlite3.OperationalError:
        # SQLite wants to write beside the database even to read it, except where it is told
        # that nobody will change it.
        log = path.with_name(f"{DATABASE}-wal")
        if not read_only or (log.exists() and log.stat().st_size):
            raise
        return _prepared(f"{address}&immutable=1", read_only), True


def _prepared(address: str, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            # What cannot be written SQLite opens all the same, and would fail later.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA user_version = 0")
            connection.execute("ROLLBACK")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
