"""Files that appear whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from likewise._checks import check_exists


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
