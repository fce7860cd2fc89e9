"""CIFAR-10 and CIFAR-100 in their binary version: records of labels and pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likewise._checks import check_exists
from likewise._files import read_regular
from likewise.data.tables import read_lines
from likewise.errors import InputError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32  # a byte each; red, green and blue one behind the other
LARGEST = 1 << 29  # bytes of a file; the largest that was published has 1.5e8


@dataclass(frozen=True)
class _Layout:
    """What lies where in a folder.

    Attributes:
        names: File of class names, one in a line.
        parts: Files of each part.
        labels: Bytes of labels before the pixels; the last one is that of the class.
        pickled: Files of the other version, which holds pickles.
    """

    names: str
    parts: dict[str, tuple[str, ...]]
    labels: int
    pickled: tuple[str, ...]


_LAYOUTS = (
    _Layout(
        "batches.meta.txt",
        {
            "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        1,
        ("batches.meta", "data_batch_1"),
    ),
    # The first label is that of one of 20 superclasses.
    _Layout(
        "fine_label_names.txt",
        {"train": ("train.bin",), "test": ("test.bin",)},
        2,
        ("meta", "train", "test"),
    ),
)


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10 or CIFAR-100.

    Raises:
        InputError: It holds the version for Python, whose pickles are never opened.
    """
    for layout in _LAYOUTS:
        if (folder / layout.names).is_file():
            return True
        if all((folder / name).is_file() for name in layout.pickled):
            raise InputError(
                f"must hold the binary version of CIFAR, got the pickles of the version for Python "
                f"in {str(folder)!r}, which are never opened. Fetch the archive that is called "
                "binary.",
                argument="source",
            )
    return False


def cifar_parts(folder: Path) -> list[str]:
    """The parts that a folder holds: "train", "test" or both."""
    layout = _layout_of(folder)
    return [
        part
        for part, files in layout.parts.items()
        if any((folder / file).is_file() for file in files)
    ]


def read_cifar(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images of a part, (n, 3, 32, 32) uint8, their codes, (n,), and the names of the classes.

    Raises:
        FileNotFoundError: A file of the part is missing.
        InputError: A file does not hold whole records, or a label without a name.

    Source:
        Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    layout = _layout_of(folder)
    names = read_lines(folder / layout.names)
    length = layout.labels + PIXELS
    images, codes = [], []
    for file in layout.parts[part]:
        path = folder / file
        check_exists("file", path)
        content = np.frombuffer(read_regular(path, LARGEST), dtype=np.uint8)
        if not len(content) or len(content) % length:
            raise InputError(
                f"{str(path)!r} must hold records of {length:,} bytes, got {len(content):,} bytes. "
                "The file is damaged; fetch it again."
            )
        records = content.reshape(-1, length)
        found = records[:, layout.labels - 1].astype(np.int64)
        if int(found.max()) >= len(names):
            raise InputError(
                f"{str(path)!r} must hold labels below {len(names)}, as {layout.names} has that "
                f"many names, got {int(found.max())}. The file is damaged; fetch it again."
            )
        images.append(records[:, layout.labels :].reshape(-1, *SHAPE))
        codes.append(found)
    return np.concatenate(images), np.concatenate(codes), names


def _layout_of(folder: Path) -> _Layout:
    return next(layout for layout in _LAYOUTS if (folder / layout.names).is_file())
