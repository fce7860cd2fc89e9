"""One saved model put in place of another, in one step, so that a reader finds either whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from likewise._files import write_whole
from likewise.errors import ArtifactError
from likewise.model.folders import MANIFEST, Folder, Fresh, read_folder, write_folder


def copy_model(path: Path, to: Path) -> Folder:
    """Copy a saved model as it is into a folder, which is made; what was copied.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """

    def copied(folder: Folder) -> Folder:
        to.mkdir(parents=True, exist_ok=True)
        for name, part in folder.files.items():
            write_whole(to / part.file, folder.part(name, part.bytes))
        write_whole(to / MANIFEST, folder.content)
        return folder

    return read_folder(path, copied)


def described_in(path: Path) -> Folder:
    """A saved model's manifest and the names of its files.

    Raises:
        ArtifactError: There is none, or its manifest is damaged.
    """
    return read_folder(path, lambda folder: folder)


def switch_model(
    path: Path, source: Path, *, seen_from: Path, may: Callable[[Folder | None], bool]
) -> None:
    """Put the model that is saved in `source` in place of the one at `path`.

    Whoever loads `path` finds the one before or the one after. The files of the one before stay
    until the next save, for those who have read its manifest already.

    Args:
        path: The folder whose model is replaced.
        source: The folder of the other model, which stays as it is.
        seen_from: The folder from which the other's manifest tells where its gallery is.
        may: Whether the model that is there now may be replaced; called while nobody else saves.

    Raises:
        ArtifactError: It may not, or either folder cannot be read or written.
    """

    def staged(folder: Folder) -> tuple[dict[str, Any], dict[str, Fresh]]:
        parts = {
            name: Fresh(part, folder.part(name, part.bytes)) for name, part in folder.files.items()
        }
        return _moved(folder.manifest, seen_from, path), parts

    manifest, parts = read_folder(source, staged)

    def together(there: Folder | None) -> tuple[dict[str, Any], dict[str, Fresh]]:
        if not may(there):
            raise ArtifactError(
                f"model {str(path)!r} must stay as it was while it is replaced, got one that was "
                "saved meanwhile. Run this again: it goes on with the model as it is now."
            )
        return manifest, parts

    write_folder(path, together, lambda: None)


def _moved(manifest: dict[str, Any], seen_from: Path, path: Path) -> dict[str, Any]:
    """A manifest that tells from another folder where its gallery is."""
    gallery = manifest.get("gallery")
    if gallery is None or gallery.get("relative") is None:
        return manifest
    place = os.path.realpath(seen_from / gallery["relative"])
    relative = Path(os.path.relpath(place, os.path.realpath(path))).as_posix()
    return {**manifest, "gallery": {**gallery, "relative": relative}}
