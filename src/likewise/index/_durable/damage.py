"""What goes wrong with a gallery's folder, in one sentence each."""

import errno
import os
import sqlite3
import stat
from pathlib import Path

from likewise.errors import GalleryError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def damaged(folder: Path, what: str) -> GalleryError:
    """The sentence for a gallery that is not what was written."""
    return GalleryError(
        f"gallery must be whole, got {str(folder)!r}, in which {what}. "
        f"Run `likewise gallery check {folder}` to see what is left, and "
        f"`likewise gallery repair {folder}` to keep that."
    )


def sentence(folder: Path, error: Exception, *, writing: bool) -> GalleryError:
    """What a failure of SQLite or of the disk means to the caller."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF  # the rest tells no more that matters
    number = error.errno if isinstance(error, OSError) else None
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if busy or isinstance(error, BlockingIOError):
        return GalleryError(
            f"gallery must have one writer at a time, got {str(folder)!r}, which is being written "
            "to already. Open it with read_only=True to look things up."
        )
    if code == sqlite3.SQLITE_FULL or number in _FULL:
        return GalleryError(
            f"path must have room on its disk, got {str(folder)!r}: {said}. Nothing was changed; "
            "make room and try again."
        )
    unusable = code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
    failed = code == sqlite3.SQLITE_IOERR and writing
    if unusable or failed or isinstance(error, OSError):
        return GalleryError(
            f"path must be a folder that can be {'written' if writing else 'read'}, got "
            f"{str(folder)!r}: {said}. Nothing was changed; choose another folder, or open with "
            "read_only=True to look things up."
        )
    return damaged(folder, f"SQLite finds {said!r}")


def check_regular(folder: Path) -> None:
    """Refuse a folder in which a file of a gallery is none: a pipe, say, would never end.

    Raises:
        GalleryError: there is one, or that may not be known.
    """
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.startswith("gallery.") and (kind := _odd_kind(entry)):
                    raise GalleryError(
                        f"{entry.name} must be a regular file, got {kind} in "
                        f"{str(folder)!r}. Take it away, or take a backup."
                    )
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise sentence(folder, error, writing=False) from error


def _odd_kind(entry: "os.DirEntry[str]") -> str | None:
    if entry.is_file() or entry.is_dir():  # to open a folder fails at once
        return None
    if entry.is_symlink() and not Path(entry.path).exists():
        return "a link that leads nowhere"
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:  # it went meanwhile
        return None
    return {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device"}.get(stat.S_IFMT(mode), "another")


def is_there(folder: Path, name: str) -> bool:
    """Whether the file is in `folder`.

    Raises:
        GalleryError: The folder cannot be looked into.
    """
    try:
        return (folder / name).exists()
    except OSError as error:
        raise sentence(folder, error, writing=False) from error
