"""Files that appear whole or not at all, reads of regular files only, and the lock of a folder."""

import os
import stat
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from likewise._arguments import check_exists
from likewise.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
BLOCK = 2**16  # bytes read at once of a file that is longer than the system said
_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def check_regular(path: str | Path) -> None:
    """Refuse a folder, pipe, socket or device, or a link to one; reading it might never end.

    Raises:
        InputError: it is no regular file.
        OSError: it is not there.
    """
    _check_mode(path, os.stat(path).st_mode)


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, opened for reading; raises as `check_regular`."""
    check_regular(path)  # opening a device may already act on it
    names = ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY")
    handle = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in names))
    try:
        _check_mode(path, os.fstat(handle).st_mode)  # it may have been replaced since
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file, at most `limit`.

    Raises:
        InputError: it is no regular file, or longer.
        OSError: it is not there, or cannot be read.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        size = os.fstat(file.fileno()).st_size
        # A file may grow between these lines, and some systems give no size.
        parts, left = [], limit + 1 if size <= limit else 0
        while left and (part := file.read(min(left, max(size + 1, BLOCK)))):
            parts.append(part)
            left -= len(part)
        content = b"".join(parts)
    if size > limit or len(content) > limit:
        raise InputError(
            f"{str(path)!r} must have at most {limit:,} bytes, got more. Check that it is the "
            "right file."
        )
    return content


def _check_mode(path: str | Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special file")
        raise InputError(
            f"{os.fspath(path)!r} must be a regular file, got a {kind}. Give the file itself."
        )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of `path` at the end; on failure that stays.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if it cannot be written to.
    """
    check_exists("folder of path", path.parent)
    # Threads and machines that write the same path must not share this file.
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"path must be a file that can be written, got {str(path)!r} "
            f"({error.strerror or error}). Choose another folder or make room; "
            "what was there before is unchanged."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Put the content at `path` in one step; raises as `whole`."""
    with whole(path) as part:
        part.write_bytes(content)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk."""
    if sys.platform == "win32":  # where a folder cannot be opened
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class Lock:
    """What one thread of one process holds at a time, until it releases it or the process ends.

    A process that was forked does not hold the lock of its parent.

    Args:
        path: An empty file, made if it is not there. Its folder must exist.
        patience: Seconds to wait for another holder.

    Raises:
        BlockingIOError: another thread or process holds it.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, *, patience: float = 0.0) -> None:
        self._handle: int | None = None
        end = time.monotonic() + patience
        pause = 0.001
        while (handle := _locked(path)) is None:
            if time.monotonic() >= end:
                raise BlockingIOError(f"{str(path)!r} is locked")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        self._handle = handle
        _HELD.add(self)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._handle is not None

    def release(self) -> None:
        """Let others have it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            if sys.platform != "win32":  # a child just forked may have a copy of the handle yet
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def forget(self) -> None:
        """Give up a lock that a fork copied; the parent keeps it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def _locked(path: Path) -> int | None:
    """A handle on the file that alone has its lock; None where another has."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            # Unlike other locks of the system, this one also keeps threads of a process apart.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held, there = os.fstat(handle), os.stat(path)
        if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
            return handle
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass  # held by another, or the folder was replaced meanwhile
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _forget_locks() -> None:
    # A copy of the handle in the child would keep the lock after the parent was killed.
    for lock in list(_HELD):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
