"""What goes wrong with a gallery's folder, in one sentence each."""

from pathlib import Path
from typing import Any, cast

from likewise.errors import GalleryError


def damaged(folder: Path, what: str) -> GalleryError:
    """The sentence for a gallery that is not what was written."""
    return GalleryError(
        f"gallery must be whole, got {str(folder)!r}, in which {what}. "
        f"Run `likewise gallery check {folder}` to see what is left, and "
        f"`likewise gallery repair {folder}` to keep that."
    )


def sentence(folder: Path, error: Exception, *, writing: bool) -> GalleryError:
    """What a failure of SQLite or of the disk means to the caller."""
    said = str(cast(Any, error).strerror if isinstance(error, OSError) else error)
    if isinstance(error, BlockingIOError) or "locked" in said or "busy" in said:
        return GalleryError(
            f"gallery must have one writer at a time, got {str(folder)!r}, which is being written "
            "to already. Open it with read_only=True to look things up."
        )
    if "full" in said or "No space" in said or "too large" in said:
        return GalleryError(
            f"path must have room on its disk, got {str(folder)!r}: {said}. Nothing was changed; "
            "make room and try again."
        )
    unreadable = any(word in said for word in ("readonly", "Read-only", "unable", "denied"))
    if unreadable or (writing and "I/O" in said) or isinstance(error, OSError):
        return GalleryError(
            f"path must be a folder that can be {'written' if writing else 'read'}, got "
            f"{str(folder)!r}: {said}. Nothing was changed; choose another folder, or open with "
            "read_only=True to look things up."
        )
    return damaged(folder, f"SQLite finds {said!r}")


def is_there(folder: Path, name: str) -> bool:
    """Whether the file is in `folder`.

    Raises:
        GalleryError: that may not be known.
    """
    try:
        return (folder / name).exists()
    except OSError as error:
        raise sentence(folder, error, writing=False) from error
