"""What lies where in a folder of images: parts, classes, and files without a class."""

import os
from pathlib import Path

from likewise.data.images import is_image_name
from likewise.data.labels import natural_order
from likewise.data.tables import PART_OF, SPLITS
from likewise.errors import InputError

Files = dict[str | None, list[Path]]  # by class; None are those without

_CLUTTER = ("Thumbs.db", "desktop.ini")  # what file managers leave in folders of images


def folder_parts(path: Path) -> dict[str, Path]:
    """The folders of the parts where there are such, else `path` itself as "all".

    Parts are called train, val (or valid, or validation) and test, as `PART_OF` has them, and at
    least one of them holds folders; else these are classes like any other.

    Raises:
        InputError: two folders are of one part, or one beside them is of none.
    """
    folders = _visible(path, folders=True)
    parts = [folder for folder in folders if folder.name.lower() in PART_OF]
    if not any(_visible(folder, folders=True) for folder in parts):
        return {"all": path}
    named = {PART_OF[folder.name.lower()]: folder for folder in parts}
    if len(named) < len(folders):
        odd = next(folder for folder in folders if folder not in named.values())
        raise InputError(
            f"{str(path)!r} must hold no folder beside train, val and test, each once, got "
            f"{odd.name!r} beside {next(iter(named.values())).name!r}. Rename or move one."
        )
    return {part: named[part] for part in SPLITS if part in named}


def files_by_class(path: Path) -> Files:
    """The images below a folder by class: the path of their own folder, as seen from this one.

    Images in the folder itself have no class. Files that are no images by their name are passed
    over, and so is what file managers leave.

    Raises:
        InputError: there is no image, a folder without any below it, an image that is no regular
            file, or a folder that links to one it lies in.
    """
    classes: Files = {}
    waiting: list[tuple[Path, str | None]] = [(path, None)]
    while waiting:
        folder, name = waiting.pop()
        inner = _visible(folder, folders=True)
        files = _visible(folder, folders=False)
        images = [file for file in files if is_image_name(file)]
        for file in images:
            if not file.is_file():  # a link to nothing is none either
                raise InputError(
                    f"folder {str(folder)!r} must hold image files only, got {file.name!r}, "
                    "which is no regular file. Remove it."
                )
        if images:
            classes[name] = images
        elif not inner:
            raise _no_image(folder, files, is_class=name is not None)
        for each in reversed(inner):
            if each.is_symlink() and folder.resolve().is_relative_to(each.resolve()):
                raise InputError(
                    f"folder {str(folder)!r} must not lie in itself, got the link {each.name!r}. "
                    "Remove it."
                )
            waiting.append((each, each.name if name is None else f"{name}/{each.name}"))
    return classes


def _no_image(folder: Path, files: list[Path], *, is_class: bool) -> InputError:
    found = f"only files such as {files[0].name!r}" if files else "an empty folder"
    if is_class:
        return InputError(
            f"class folder {str(folder)!r} must hold an image, got {found}. "
            "Add images or remove it."
        )
    return InputError(
        f"{str(folder)!r} must hold images, idx files or one folder of images per class, got "
        f"{found}. Put the images of each class into a folder named after it."
    )


def _visible(path: Path, *, folders: bool) -> list[Path]:
    """Folders, or files, directly in a folder, without hidden ones, in natural order."""
    with os.scandir(path) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.is_dir() == folders
            and not entry.name.startswith(".")
            and entry.name not in _CLUTTER
        ]
    return [path / name for name in sorted(names, key=natural_order)]
