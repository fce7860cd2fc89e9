"""Files that appear whole, or not at all."""

import os
from pathlib import Path

from likewise._checks import check_exists


def write_whole(path: Path, content: bytes) -> None:
    """Put the content at `path` in one step; on failure what was there stays.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if it cannot be written to.
    """
    check_exists("folder of path", path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
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
