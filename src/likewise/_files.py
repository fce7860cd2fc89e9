"""Files that appear whole, or not at all; and reading of regular files only."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from likewise._checks import check_exists
from likewise.errors import InputError

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


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
    flags = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    descriptor = os.open(path, os.O_RDONLY | sum(flags))
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)  # it may have been replaced since
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file, at most `limit`.

    Raises:
        InputError: it is no regular file, or longer.
        OSError: it is not there, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(content) > limit:
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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
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
