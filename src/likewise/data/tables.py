"""Tables of labelled items: CSV with numbers, CSV with paths, and .npz."""

import csv
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from likewise.data.images import is_image_name
from likewise.errors import InputError

_LARGEST = float(np.finfo(np.float32).max)
_LABEL_HEADERS = ("label", "labels", "class", "target", "y")


@dataclass(frozen=True)
class PathTable:
    """The rows of a CSV that lists image files."""

    paths: list[str]
    labels: list[str]
    splits: list[str] | None  # "train" or "test", where the table has this column


def read_header(path: Path) -> list[str]:
    """The cells of the first line, in lower case, without space around."""
    with _open(path) as lines:
        first = next(csv.reader(lines), [])
    return [cell.strip().lower() for cell in first]


def is_path_table(path: Path) -> bool:
    """Whether a CSV has a header that names the columns path and label."""
    return {"path", "label"} <= set(read_header(path))


def read_path_table(path: Path) -> PathTable:
    """Image files with labels, and parts where there is a column split; other columns are ignored.

    Paths are relative to the folder of the CSV.

    Raises:
        InputError: a row with missing cells, a split that is neither train nor test, a file
            that is no image, or no rows at all.
        FileNotFoundError: a file that is not there.
    """
    table = PathTable([], [], [] if "split" in read_header(path) else None)
    for where, row in read_rows(path):
        file = image_path(path, row["path"], where)
        if not row["label"]:
            raise InputError(f"{where} must have a label, got none. Correct or remove it.")
        table.paths.append(file)
        table.labels.append(row["label"])
        if table.splits is not None:
            if row["split"] not in ("train", "test"):
                raise InputError(
                    f"{where} must have the split train or test, got {row['split']!r}. "
                    "Correct or remove the row."
                )
            table.splits.append(row["split"])
    if not table.paths:
        raise InputError(f"{str(path)!r} must have a row after its header, got none. Add items.")
    return table


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV with a header: where it stands, and its cells by lower-case column.

    Blank rows are left out, and so is space around a cell.

    Raises:
        InputError: a row has more or fewer cells than the header.
    """
    header = read_header(path)
    with _open(path) as lines:
        rows = csv.reader(lines)
        next(rows, None)
        for cells in rows:
            if not cells:
                continue
            where = f"row {rows.line_num} of {str(path)!r}"
            if len(cells) != len(header):
                raise InputError(
                    f"{where} must have {len(header)} columns as the header has, "
                    f"got {len(cells)}. Correct or remove the row."
                )
            yield where, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def image_path(table: Path, cell: str, where: str) -> str:
    """The image file that a cell names, relative to the folder of its table.

    Raises:
        InputError: it is no image.
        FileNotFoundError: it is not there.
    """
    file = table.parent / cell
    if not file.is_file():
        raise FileNotFoundError(
            f"{where} must name a file that exists, got {cell!r}. "
            "Paths are relative to the folder of the table."
        )
    if not is_image_name(file):
        raise InputError(
            f"{where} must name a PNG, JPEG, BMP or PGM image, got {cell!r}. "
            "Correct or remove the row."
        )
    return str(file)


def read_number_table(path: Path) -> tuple[np.ndarray, list[str], float]:
    """Items, labels and scale of a CSV whose first column is the label and the rest numbers.

    A first line is a header if it starts with label, labels, class, target or y, or if none of
    its other cells is a number. Numbers are pixels if there are s·s of them in every row
    (s at least 2) and they are whole and within 0..255, or within 0..1; then items are images
    (n, 1, s, s). Whole pixels are uint8 and have scale 1/255 if any is above 1. Otherwise
    items are vectors (n, d), float32.

    Raises:
        InputError: a row of another length, a cell that is no finite number, or no rows;
            the row and the column are named, counted from 1.
    """
    labels: list[str] = []
    chunks: list[np.ndarray] = []
    with _open(path) as lines:
        rows = _label_and_numbers(path, lines)
        # A chunk of text is held beside the numbers, never the text of the whole file.
        while chunk := list(islice(rows, 2048)):
            labels += [label for _, label, _ in chunk]
            width = chunks[0].shape[1] if chunks else chunk[0][2].count(",") + 1
            chunks.append(_parse(path, [(row, text) for row, _, text in chunk], width))
    if not chunks:
        raise InputError(f"{str(path)!r} must have rows of a label and numbers, got none.")
    items = np.concatenate(chunks)
    scale = 1 / 255 if items.dtype == np.uint8 and items.max() > 1 else 1.0
    side = int(items.shape[1] ** 0.5 + 0.5)
    within = items.dtype == np.uint8 or (items.min() >= 0 and items.max() <= 1)
    if side >= 2 and side * side == items.shape[1] and within:
        return items.reshape(-1, 1, side, side), labels, scale
    return items.astype(np.float32), labels, 1.0


def read_npz(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(items, labels) of an .npz with x and y; with x_test and y_test the parts train and test.

    Without a test part, the only part is called "all". Nothing is ever unpickled.

    Raises:
        InputError: no .npz, pickled contents, or x or y missing.
    """
    wanted = ("x", "y", "x_test", "y_test") if has_test_arrays(path) else ("x", "y")
    try:
        with zipfile.ZipFile(path) as file:
            names = sorted(name.removesuffix(".npy") for name in file.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{str(path)!r} must be a whole .npz file, got one that cannot be opened. "
            "Save with np.savez(path, x=items, y=labels)."
        ) from error
    if not {"x", "y"} <= set(names):
        raise InputError(
            f"{str(path)!r} must hold the arrays x and y, got {', '.join(names) or 'none'}. "
            "Save with np.savez(path, x=items, y=labels)."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in wanted]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{str(path)!r} must hold plain arrays of numbers or strings, got a damaged or a "
            "pickled one; pickles are never loaded. Save labels as strings or integers."
        ) from error
    if len(arrays) == 2:
        return {"all": (arrays[0], arrays[1])}
    return {"train": (arrays[0], arrays[1]), "test": (arrays[2], arrays[3])}


def has_test_arrays(path: Path) -> bool:
    """Whether an .npz holds x_test and y_test; False for what is no .npz."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return {"x_test.npy", "y_test.npy"} <= set(file.namelist())


def _label_and_numbers(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Row number, label and the rest of the text of every line but header and blank ones."""
    first = True
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if line.startswith('"'):  # only a quoted label can hold a comma
            cells = next(csv.reader([line]))
            label, numbers = cells[0], ",".join(cells[1:])
        else:
            label, _, numbers = line.rstrip("\r\n").partition(",")
        if first and _is_header(label, numbers):
            first = False
            continue
        first = False
        if not label.strip():
            raise InputError(
                f"row {row} of {str(path)!r} must start with a label, got an empty cell. "
                "Correct or remove the row."
            )
        yield row, label.strip(), numbers


def _is_header(label: str, numbers: str) -> bool:
    if label.strip().lower() in _LABEL_HEADERS:
        return True
    return all(_number(cell) is None for cell in numbers.split(","))


def _parse(path: Path, rows: list[tuple[int, str]], width: int) -> np.ndarray:
    """The numbers of some rows (n, width), uint8 where all are whole and within 0..255."""
    if not all(text.strip() for _, text in rows):  # numpy would skip these
        raise _first_fault(path, rows, width, "an empty row")
    try:
        values = np.loadtxt(
            [text for _, text in rows],
            delimiter=",",
            dtype=np.float32,
            comments=None,
            quotechar='"',
            ndmin=2,
        )
    except ValueError as error:
        raise _first_fault(path, rows, width, str(error)) from error
    if values.shape != (len(rows), width) or not np.isfinite(values).all():
        raise _first_fault(path, rows, width, "not a table of finite numbers")
    if values.min() >= 0 and values.max() <= 255 and (values == np.floor(values)).all():
        return values.astype(np.uint8)
    return values


def _first_fault(path: Path, rows: list[tuple[int, str]], width: int, reason: str) -> InputError:
    """What is wrong with the first faulty row, said by row and column."""
    for row, text in rows:
        cells = text.split(",") if text else []
        if len(cells) != width:
            return InputError(
                f"row {row} of {str(path)!r} must have {width + 1} columns as the first row has, "
                f"got {len(cells) + 1}. Correct or remove the row."
            )
        for column, cell in enumerate(cells, start=2):
            number = _number(cell)
            if number is None or not abs(number) <= _LARGEST:  # NaN is not either
                return InputError(
                    f"column {column} of row {row} of {str(path)!r} must be a finite number, "
                    f"got {cell.strip()!r}. Correct or remove the row."
                )
    return InputError(
        f"rows {rows[0][0]} to {rows[-1][0]} of {str(path)!r} must be numbers, got {reason}."
    )


def _number(cell: str) -> float | None:
    """The number that a cell holds, if any."""
    try:
        # Python reads 1_000, numpy and other readers of tables do not.
        return None if "_" in cell else float(cell.strip(' "'))
    except ValueError:
        return None


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} must be a table in UTF-8 text, got something else ({error}). "
            "Save it as CSV, UTF-8."
        ) from error
