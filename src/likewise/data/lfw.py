"""Labeled Faces in the Wild: the published pairs, as data."""

import os
from itertools import combinations
from pathlib import Path
from typing import Literal, overload

from likewise._checks import check_choice, check_exists
from likewise.data.downloads import find_or_download, unpacked
from likewise.data.framing import ImageSize
from likewise.data.images import ImageFiles
from likewise.data.labels import natural_order
from likewise.data.pairs import GivenPairs
from likewise.data.tables import read_words
from likewise.errors import InputError

_FILES = {
    "dev_train": "pairsDevTrain.txt",
    "dev_test": "pairsDevTest.txt",
    "test": "pairs.txt",
}
_SUFFIXES = (".jpg", ".png", ".jpeg", ".pgm", ".bmp")

_Image = tuple[str, int]  # the name of a person, and the number of the picture


@overload
def lfw_pairs(
    folder: str | Path = ...,
    view: Literal["dev_train", "dev_test"] = ...,
    *,
    image_size: ImageSize | None = ...,
    channels: int | None = ...,
) -> GivenPairs: ...
@overload
def lfw_pairs(
    folder: str | Path,
    view: Literal["test"],
    *,
    image_size: ImageSize | None = ...,
    channels: int | None = ...,
) -> list[GivenPairs]: ...
def lfw_pairs(
    folder: str | Path = "lfw",
    view: str = "dev_train",
    *,
    image_size: ImageSize | None = None,
    channels: int | None = None,
) -> GivenPairs | list[GivenPairs]:
    """The pairs of Labeled Faces in the Wild, or of a set that is laid out like it.

    View 1 is for choosing a model: "dev_train" (pairsDevTrain.txt) and "dev_test"
    (pairsDevTest.txt) share no person. View 2, "test" (pairs.txt), is for reporting: ten folds
    that share no person; thresholds for one are fitted on the nine others.

    The folder holds these files and, in it or within lfw_funneled/, a folder of images per
    person: Ann_Lee/Ann_Lee_0001.jpg, or .png, .jpeg, .pgm, .bmp. Only images that the pairs
    name are looked for; people are the classes. All folds share one `ImageFiles` as `.data`.

    Args:
        folder: where it is; "lfw" is found or downloaded as `load` does it.
        view: "dev_train", "dev_test" or "test".
        image_size: (height, width) or one number for both; images are resized to it.
        channels: 1 for gray, 3 for color; by default what the first image has.

    Returns:
        For "test" a list with the pairs of each fold, else the pairs.

    Raises:
        FileNotFoundError: the folder, the file of pairs, or an image is not there.
        InputError: the file does not hold what its first line announces, folds share a person,
            or a pair comes twice.

    Source:
        Huang, Ramesh, Berg & Learned-Miller, "Labeled Faces in the Wild", technical report
        07-49, University of Massachusetts, 2007.
    """
    check_choice("view", view, _FILES)
    path = find_or_download("lfw") if folder == "lfw" else Path(folder).expanduser()
    check_exists("folder", path)
    file = path / _FILES[view]
    check_exists(f"file of the view {view!r}", file)
    folds = _read_folds(file, has_folds=view == "test")
    _check_disjoint(file, folds)
    images = sorted(
        {image for fold in folds for pair in fold for image in pair},
        key=lambda image: (natural_order(image[0]), image[1]),
    )
    position_of = {image: position for position, image in enumerate(images)}
    paths = [_find(unpacked(path, "lfw"), file, image) for image in images]
    data = ImageFiles(paths, [person for person, _ in images], None, image_size, channels)
    given = [
        GivenPairs(
            data,
            [[position_of[a], position_of[b]] for a, b in fold],
            [a[0] == b[0] for a, b in fold],
        )
        for fold in folds
    ]
    return given if view == "test" else given[0]


def _read_folds(file: Path, *, has_folds: bool) -> list[list[tuple[_Image, _Image]]]:
    """Pairs of (person, number) in each fold: half the same, then half different."""
    lines = read_words(file)
    where, cells = next(lines, (f"{str(file)!r}", []))
    numbers = [int(cell) for cell in cells if cell.isdigit() and int(cell) > 0]
    if len(numbers) != len(cells) or len(cells) != (2 if has_folds else 1):
        what = "the number of folds and of pairs" if has_folds else "the number of pairs"
        raise InputError(
            f"{where} must hold {what} of each kind, got {' '.join(cells) or 'nothing'!r}. "
            "Fetch the file again."
        )
    count, each = numbers if has_folds else (1, numbers[0])
    folds: list[list[tuple[_Image, _Image]]] = []
    for _ in range(count):
        fold = []
        for same in (True, False):
            for _ in range(each):
                where, cells = next(lines, (where, []))
                fold.append(_pair(where, cells, same=same))
        folds.append(fold)
    where, cells = next(lines, ("", []))
    if cells:
        raise InputError(
            f"{where} must be the end, after {count} x {2 * each} pairs, got {' '.join(cells)!r}. "
            "Fetch the file again."
        )
    return folds


def _pair(where: str, cells: list[str], *, same: bool) -> tuple[_Image, _Image]:
    # Of the same person a line has the name once, "name 1 4", else twice, "name 1 other 2".
    names, numbers = (cells[:1] * 2, cells[1:]) if same else (cells[::2], cells[1::2])
    whole = len(cells) == (3 if same else 4) and all(number.isdigit() for number in numbers)
    if not whole or len(set(numbers if same else names)) < 2:
        rule = "a person and two numbers" if same else "two people, each with a number"
        raise InputError(
            f"{where} must hold {rule}, got {' '.join(cells) or 'no such line'!r}. "
            "Fetch the file again."
        )
    return (names[0], int(numbers[0])), (names[1], int(numbers[1]))


def _check_disjoint(file: Path, folds: list[list[tuple[_Image, _Image]]]) -> None:
    people = [{image[0] for pair in fold for image in pair} for fold in folds]
    for (i, first), (j, second) in combinations(enumerate(people, start=1), 2):
        if shared := first & second:
            raise InputError(
                f"folds of {str(file)!r} must share no person, got {min(shared)!r} in folds "
                f"{i} and {j}. Fetch the file again."
            )


def _find(folder: Path, file: Path, image: _Image) -> Path:
    name = f"{image[0]}/{image[0]}_{image[1]:04d}"
    for suffix in _SUFFIXES:
        if os.path.isfile(path := folder / (name + suffix)):
            return path
    raise FileNotFoundError(
        f"{str(folder)!r} must hold the image {name + '.jpg'!r} that {file.name!r} names, got no "
        "such file. Unpack the archive of images there."
    )
