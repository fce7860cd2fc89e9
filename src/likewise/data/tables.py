"""Tables of labeled items: CSV with numbers, CSV with paths, and .npz."""

import csv
import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from likewise._files import open_regular
from likewise._pixels import KINDS
from likewise.data.images import is_image_name
from likewise.data.limits import check_unpacked
from likewise.errors import InputError

TABLES = (".csv", ".tsv")
PATH_NAMES = ("path", "file", "filename", "image", "image_path")
LABEL_NAMES = ("label", "class", "target", "category", "species")
SPLITS = ("train", "val", "test")
PART_OF = {  # the words for parts, in folders and tables
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

_DELIMITERS = ",;\t|"
_LARGEST = float(np.finfo(np.float32).max)
_FIRST_LABELS = (*LABEL_NAMES, "labels", "y")  # in front of numbers these mean the label too
_OTHER_NAMES = ("split", "a", "b", "path_a", "path_b", "same", "different")
_KNOWN = {*PATH_NAMES, *LABEL_NAMES, *_OTHER_NAMES, "anchor", "positive", "negative"}
# What zipfile and NumPy's reader of headers raise for bytes that are none, or have a password.
_BAD_ZIP = (
    *(zipfile.BadZipFile, struct.error, OSError, RuntimeError),
    *(ValueError, TypeError, LookupError, OverflowError),
)
_SHOWN = 12  # columns named in a sentence


class Columns(NamedTuple):
    """Where a CSV of labeled items has what; positions count from 0.

    `header` is empty where the first row is data. `label` is None in a table of image files that
    tells none. `path` is None in a table of numbers, where
    `numbers` are the positions of these, None for all but the first.
    """

    delimiter: str
    header: list[str]
    label: int | None
    path: int | None = None
    split: int | None = None
    numbers: list[int] | None = None


@dataclass(frozen=True)
class PathTable:
    """The rows of a CSV that lists image files."""

    paths: list[str]
    labels: list[str] | None  # where the table has this column
    splits: list[str] | None  # "train", "val" or "test", where the table has this column


class NumberTable(NamedTuple):
    """The rows of a CSV that holds numbers: items, labels, scale, and parts if it has any."""

    items: np.ndarray
    labels: list[str]
    scale: float
    splits: list[str] | None


def find_columns(
    path: Path,
    *,
    path_column: str | None = None,
    label: str | None = None,
    id: str | None = None,
) -> Columns:
    """What the first row of a CSV says about its columns, in upper or lower case.

    Cells are separated by commas, semicolons, tabs or bars. A header names the column of labels
    label, class, target, category or species, and that of image files path, file, filename, image
    or image_path, in any place; label and path win over the other words. A first row is a header
    if it has the name of a label, or if none of its cells but the first is a number. Without a
    header the label comes first. A column without a name, such as the row numbers that pandas
    writes, is left out.

    Args:
        path: the table.
        path_column: the header of the column of image files, if it has another name.
        label: the header of the column of labels, if it has another name.
        id: the header of the column of ids, which are no numbers of an item.

    Raises:
        InputError: a header that names no label, or several; a name that comes twice.
    """
    delimiter, first = _first_row(path)
    header = [cell.strip().lower() for cell in first]
    asked = (path_column, label, id) != (None, None, None)
    if not asked and not _is_header(header):
        return Columns(delimiter, [], 0)
    check_once(path, header)
    files = _column(path, header, "path_column", path_column, PATH_NAMES)
    at = _column(path, header, "label", label, LABEL_NAMES)
    if at is None and files is None and header[0] in _FIRST_LABELS:
        at = 0
    if at is None and files is None:
        raise InputError(
            f"{str(path)!r} must have a column of labels named {', '.join(LABEL_NAMES)}, got the "
            f"columns {_named(header)}.",
            remedy="Name it so in the first row, or give label=.",
            command="Name it so in the first row, or give --label.",
        )
    split = header.index("split") if "split" in header else None
    if files is not None:
        return Columns(delimiter, header, at, files, split)
    left_out = {
        at,
        split,
        _column(path, header, "id", id, ()),
        *(i for i, name in enumerate(header) if _is_unnamed(name)),
    }
    numbers = [i for i in range(len(header)) if i not in left_out]
    if not numbers:
        raise InputError(
            f"{str(path)!r} must have a column of image files named {', '.join(PATH_NAMES)}, or "
            f"columns of numbers, got {_named(header)}.",
            remedy="Name it so, or give path_column=, or text= for texts.",
            command="Name it so in the first row, or give --path-column, or --text for texts.",
        )
    return Columns(delimiter, header, at, None, split, numbers)


def read_header(path: Path) -> list[str]:
    """The cells of the first row that is not blank, in lower case, without space around."""
    return [cell.strip().lower() for cell in _first_row(path)[1]]


def check_once(path: Path, header: Sequence[str]) -> None:
    """Refuse a header in which a name comes twice.

    Raises:
        InputError: one does.
    """
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise InputError(
            f"{str(path)!r} must name each column once, got {_named(twice)} twice. "
            "Rename or remove one."
        )


def read_path_table(path: Path, columns: Columns | None = None, *, check: bool = True) -> PathTable:
    """Image files, with labels and parts where there are such columns; others are ignored.

    Paths are relative to the folder of the CSV.

    Args:
        path: the table.
        columns: what `find_columns` found.
        check: whether the files must be there.

    Raises:
        InputError: a row with missing cells, a split that is neither train, val (or valid, or
            validation) nor test, a file that is no image, or no rows at all.
        FileNotFoundError: a file that is not there.
    """
    _, header, label, files, split, _ = columns or find_columns(path)
    if files is None:
        raise InputError(f"{str(path)!r} must have a column of image files, got none.")
    table = PathTable([], None if label is None else [], None if split is None else [])
    for where, row in read_rows(path):
        cells = list(row.values())
        table.paths.append(image_path(path, cells[files], where, check=check))
        if table.labels is not None and label is not None:
            if not cells[label]:
                raise InputError(
                    f"{where} must have a {header[label]}, got none. Correct or remove it."
                )
            table.labels.append(cells[label])
        if table.splits is not None and split is not None:
            table.splits.append(_part(cells[split], where))
    if not table.paths:
        raise InputError(f"{str(path)!r} must have a row after its header, got none. Add items.")
    return table


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV with a header: where it stands, and its cells by lower-case column.

    Blank rows are left out, and so is space around a cell.

    Raises:
        InputError: a column name comes twice, or a row has more or fewer cells than the header.
    """
    delimiter, first = _first_row(path)
    header = [cell.strip().lower() for cell in first]
    check_once(path, header)
    # A column without a name keeps its place.
    keys = [name or f" {i}" for i, name in enumerate(header, start=1)]
    with _open(path) as lines:
        rows = csv.reader(lines, delimiter=delimiter)
        filled = (cells for cells in rows if any(cell.strip() for cell in cells))
        next(filled, None)
        for cells in filled:
            where = f"row {rows.line_num} of {str(path)!r}"
            if len(cells) != len(header):
                raise InputError(
                    f"{where} must have {len(header)} columns as the header has, "
                    f"got {len(cells)}. Correct or remove the row."
                )
            yield where, {name: cell.strip() for name, cell in zip(keys, cells, strict=True)}


def read_words(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each line of a text file that is not blank: where it stands, and its words.

    Raises:
        InputError: it is no UTF-8 text.
    """
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number} of {str(path)!r}", line.split()


def image_path(table: Path, cell: str, where: str, *, check: bool = True) -> str:
    """The image file that a cell names, relative to the folder of its table.

    Without `check` whatever is named, there or not.

    Raises:
        InputError: it is no image, or no regular file.
        FileNotFoundError: it is not there.
    """
    file = os.path.join(table.parent, cell)
    if not check:
        return file
    if not os.path.isfile(file):
        if cell and os.path.exists(file):
            raise InputError(
                f"{where} must name a regular file, got {cell!r}. Correct or remove the row."
            )
        raise FileNotFoundError(
            f"{where} must name a file that exists, got {cell!r}. "
            "Paths are relative to the folder of the table."
        )
    if not is_image_name(file):
        raise InputError(f"{where} must name a {KINDS}, got {cell!r}. Correct or remove the row.")
    return file


def read_number_table(path: Path, columns: Columns | None = None) -> NumberTable:
    """Items, labels, scale and parts of a CSV of numbers with a label in every row.

    Which column holds the labels, and which the parts, is found by `find_columns`. The others are
    pixels if there are s·s of them in every row (s at least 2) and they are whole and within
    0..255, or within 0..1; then items are images (n, 1, s, s). Whole pixels are uint8 and have
    scale 1/255 if any is above 1. Otherwise items are vectors (n, d), float32.

    Args:
        path: the table.
        columns: what `find_columns` found.

    Raises:
        InputError: a row of another length, a cell that is no finite number, or no rows;
            the row and the column are named, counted from 1.
    """
    columns = columns or find_columns(path)
    labels: list[str] = []
    splits: list[str] | None = None if columns.split is None else []
    chunks: list[np.ndarray] = []
    width = 0
    with _open(path) as lines:
        rows = _label_and_numbers(path, lines, columns)
        # A chunk of text is held beside the numbers, never the text of the whole file.
        while chunk := list(islice(rows, 2048)):
            labels += [row.label for row in chunk]
            if splits is not None:
                splits += [_part(row.split, f"row {row.number} of {str(path)!r}") for row in chunk]
            if columns.numbers is not None:
                width = len(columns.numbers)
            elif not chunks:
                width = chunk[0].numbers.count(columns.delimiter) + 1
            chunks.append(_parse(path, chunk, width, columns))
    if not chunks:
        raise InputError(f"{str(path)!r} must have rows of a label and numbers, got none.")
    items = np.concatenate(chunks)
    scale = 1 / 255 if items.dtype == np.uint8 and items.max() > 1 else 1.0
    side = int(items.shape[1] ** 0.5 + 0.5)
    within = items.dtype == np.uint8 or (items.min() >= 0 and items.max() <= 1)
    if side >= 2 and side * side == items.shape[1] and within:
        return NumberTable(items.reshape(-1, 1, side, side), labels, scale, splits)
    return NumberTable(items.astype(np.float32), labels, 1.0, splits)


def read_npz(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Items and labels of the parts of an .npz file: x and y, and x_test and y_test if there.

    Without y all are unlabeled. Without a test part, the only part is called "all".
    Nothing is ever unpickled. What an array says of its size is compared with that of the file,
    and with `likewise.data.limits`, before memory is taken for it.

    Raises:
        InputError: no .npz, pickled contents, x or y missing, or an array that unpacks to more
            than is allowed.
    """
    with open_regular(path) as file:
        packed = _zip(path, file)
        names = _members(packed)
        if "x" not in names or ("y_test" in names and "y" not in names):
            raise InputError(
                f"{str(path)!r} must hold the arrays x and y, got "
                f"{_named(sorted(names)) if names else 'none'}. "
                "Save with np.savez(path, x=items, y=labels)."
            )
        wanted = ["x", "y", "x_test", "y_test"] if _has_test(names) else ["x", "y"]
        wanted = [name for name in wanted if name in names]
        size = os.fstat(file.fileno()).st_size
        arrays = [_read_array(path, packed, names[name], size) for name in wanted]
    if len(arrays) == 1:
        arrays.append(np.full(len(arrays[0]) if arrays[0].ndim else 0, -1))
    if len(arrays) == 2:
        return {"all": (arrays[0], arrays[1])}
    return {"train": (arrays[0], arrays[1]), "test": (arrays[2], arrays[3])}


def npz_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name, all of them without names; by the rules of `read_npz`.

    Raises:
        InputError: What `read_npz` refuses, or there is no array of a name.
    """
    with open_regular(path) as file:
        packed = _zip(path, file)
        there = _members(packed)
        size = os.fstat(file.fileno()).st_size
        if missing := [name for name in names or () if name not in there]:
            raise InputError(
                f"{str(path)!r} must hold {missing[0]}, got {_named(sorted(there)) or 'none'}."
            )
        return {
            name: _read_array(path, packed, there[name], size)
            for name in (there if names is None else names)
        }


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of an .npy file, mapped: read from the disk where it is looked at.

    Writing to it changes the memory of this process only. Nothing is ever unpickled.

    Raises:
        InputError: it is no whole .npy, holds objects, or is empty.
    """
    try:
        with open_regular(path) as file:
            shape, fortran, dtype = _array_header(file)
            start = file.tell()
            size = os.fstat(file.fileno()).st_size - start
            count = math.prod(shape)
            if dtype.hasobject or not count or count * dtype.itemsize != size:
                raise ValueError("pickled, empty, or of another size")
            order = "F" if fortran else "C"
            mapped: np.ndarray[Any, Any]
            mapped = np.memmap(file, dtype, "c", start, shape, order)  # type: ignore[call-overload]
            return mapped
    except (*_BAD_ZIP, EOFError, tokenize.TokenError) as error:
        if isinstance(error, (InputError, FileNotFoundError)):
            raise
        raise InputError(
            f"{str(path)!r} must hold one plain array with at least one number, got a damaged, an "
            "empty or a pickled one; pickles are never loaded. Save with np.save(path, items)."
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped; blank ones at the end are left out.

    Raises:
        InputError: it is no UTF-8 text, or a line between others is blank.
    """
    with _open(path) as file:
        lines = [line.strip() for line in file.read().rstrip().splitlines()]
    if "" in lines:
        raise InputError(
            f"line {lines.index('') + 1} of {str(path)!r} must have a label, got none. "
            "Correct or remove it."
        )
    return lines


def has_test_arrays(path: Path) -> bool:
    """Whether an .npz holds x_test and y_test; False for what is no .npz."""
    with open_regular(path) as file:
        return zipfile.is_zipfile(file) and _has_test(_members(_zip(path, file)))


def _zip(path: Path, file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _BAD_ZIP as error:
        raise InputError(
            f"{str(path)!r} must be a whole .npz file, got one that cannot be opened. "
            "Save with np.savez(path, x=items, y=labels)."
        ) from error


def _members(packed: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {member.filename.removesuffix(".npy"): member for member in packed.infolist()}


def _has_test(names: Iterable[str]) -> bool:
    return {"x_test", "y_test"} <= set(names)


def _read_array(
    path: Path, packed: zipfile.ZipFile, member: zipfile.ZipInfo, size: int
) -> np.ndarray:
    """One array of an .npz of `size` bytes, after its header was compared with its own size."""
    name = f"{member.filename!r} in {str(path)!r}"
    check_unpacked(name, min(member.compress_size, size), member.file_size)
    try:
        with packed.open(member) as file:
            shape, fortran, dtype = _array_header(file)
            room = member.file_size - file.tell()
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != room:
                raise ValueError("pickled, or of another size")
            values = np.frombuffer(file.read(), dtype)
        return values.reshape(shape, order="F" if fortran else "C")
    except (*_BAD_ZIP, EOFError, zlib.error, tokenize.TokenError) as error:
        raise InputError(
            f"{str(path)!r} must hold plain arrays of numbers or strings, got a damaged or a "
            "pickled one; pickles are never loaded. Save labels as strings or integers."
        ) from error


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError("a version for names of fields, which no array here has")


def _first_row(path: Path) -> tuple[str, list[str]]:
    """What separates cells, and the cells of the first row that is not blank.

    It is the separator by which the first row has most of the names that are known here; else the
    one that cuts all of the first rows into equally many cells, at least two; else the one that
    cuts the first row into most. In doubt it is the comma.
    """
    with _open(path) as lines:
        sample = list(islice((line for line in lines if line.strip(_BLANK)), 20))
    if not sample:
        return ",", []
    delimiter = max(_DELIMITERS, key=lambda each: _fit(sample, each))  # of equals the first
    with _open(path) as lines:  # anew, for a quoted cell may run on over many lines
        rows = csv.reader(lines, delimiter=delimiter)
        filled = (row for row in rows if any(cell.strip() for cell in row))
        return delimiter, next(filled, [])


def _fit(sample: list[str], delimiter: str) -> tuple[int, bool, int]:
    """How well a separator suits the first rows, to be compared."""
    try:
        rows = list(csv.reader(sample, delimiter=delimiter))
    except csv.Error:  # cells too long: the wrong one
        return 0, False, 0
    known = len({cell.strip().lower() for cell in rows[0]} & _KNOWN)
    even = len(rows[0]) > 1 and len({len(row) for row in rows}) == 1
    return known if known > 1 else 0, even, len(rows[0])


_BLANK = f'{_DELIMITERS} \r\n"'


def _is_header(cells: Sequence[str]) -> bool:
    if not cells:
        return False
    if cells[0] in _FIRST_LABELS or set(cells[1:]) & {*PATH_NAMES, *LABEL_NAMES}:
        return True
    return all(written_number(cell) is None for cell in cells[1:])


def _is_unnamed(name: str) -> bool:
    return not name or name == "unnamed: 0"  # as pandas reads what it wrote


def _column(
    path: Path, header: Sequence[str], argument: str, asked: str | None, usual: Sequence[str]
) -> int | None:
    """The position of the column asked for, or else of the one with a usual name, if any."""
    if asked is not None:
        name = asked.strip().lower()
        if name not in header:
            raise InputError(
                f"must be a column of {str(path)!r} ({_named(header)}), got {asked!r}.",
                argument=argument,
            )
        return header.index(name)
    found = [name for name in usual if name in header]
    if len(found) > 1 and found[0] != usual[0]:
        raise InputError(
            f"must say which column of {str(path)!r} is meant, {' or '.join(found)}, got none.",
            argument=argument,
            remedy=f"Give {argument}={found[0]!r}.",
            command=f"Give it, such as {found[0]}.",
        )
    return header.index(found[0]) if found else None


def _named(names: Sequence[str]) -> str:
    few = ", ".join(name or "(no name)" for name in names[:_SHOWN])
    return few + (", ..." if len(names) > _SHOWN else "")


def _part(word: str, where: str) -> str:
    part = PART_OF.get(word.lower())
    if part is None:
        raise InputError(
            f"{where} must have the split train, val or test, got {word!r}. "
            "Correct or remove the row."
        )
    return part


class _Row(NamedTuple):
    """A row of a table of numbers: its first line, its label, its part, the text of its numbers."""

    number: int
    label: str
    split: str
    numbers: str


def _label_and_numbers(path: Path, lines: Iterable[str], columns: Columns) -> Iterator[_Row]:
    """Every row but the header and blank ones."""
    delimiter, header, label_at, _, split_at, numbers = columns
    label_first = label_at == 0 and (not header or numbers == list(range(1, len(header))))
    label_last = numbers is not None and label_at == len(header) - 1 == len(numbers)
    numbered = enumerate(lines, start=1)
    more = (line for _, line in numbered)
    ahead = bool(header)
    for row, line in numbered:
        if not line.strip(_BLANK):
            continue
        if '"' in line or ahead or not (label_first or label_last):
            # The reader takes more lines where a quoted cell runs on.
            cells = next(csv.reader(chain([line], more), delimiter=delimiter))
            if ahead:
                ahead = False
                continue
            if header and len(cells) != len(header):
                raise _wrong_width(path, row, len(header), "header", len(cells))
            label, split = cells[label_at or 0], "" if split_at is None else cells[split_at].strip()
            chosen = cells[1:] if numbers is None else [cells[i] for i in numbers]
            text = delimiter.join(chosen)
        elif label_first:
            label, _, text = line.rstrip("\r\n").partition(delimiter)
            split = ""
        else:
            text, _, label = line.rstrip("\r\n").rpartition(delimiter)
            split = ""
        if not label.strip():
            raise InputError(
                f"row {row} of {str(path)!r} must {'have' if header else 'start with'} a label, "
                "got an empty cell. Correct or remove the row."
            )
        yield _Row(row, label.strip(), split, text)


def _parse(path: Path, rows: list[_Row], width: int, columns: Columns) -> np.ndarray:
    """The numbers of some rows (n, width), uint8 where all are whole and within 0..255."""
    if not all(row.numbers.strip() for row in rows):  # numpy would skip these
        raise _first_fault(path, rows, width, columns)
    try:
        values = np.loadtxt(
            [row.numbers for row in rows],
            delimiter=columns.delimiter,
            dtype=np.float32,
            comments=None,
            quotechar='"',
            ndmin=2,
        )
    except ValueError as error:
        raise _first_fault(path, rows, width, columns) from error
    if values.shape != (len(rows), width) or not np.isfinite(values).all():
        raise _first_fault(path, rows, width, columns)
    if values.min() >= 0 and values.max() <= 255 and (values == np.floor(values)).all():
        return values.astype(np.uint8)
    return values


def _first_fault(path: Path, rows: list[_Row], width: int, columns: Columns) -> InputError:
    """What is wrong with the first faulty row, said by row and column."""
    places = columns.numbers or range(1, width + 1)
    for row in rows:
        cells = row.numbers.split(columns.delimiter) if row.numbers else []
        if len(cells) != width:
            others = len(columns.header) - width if columns.header else 1
            model = "header" if columns.header else "first row"
            return _wrong_width(path, row.number, width + others, model, len(cells) + others)
        for place, cell in zip(places, cells, strict=True):
            number = written_number(cell)
            if number is None or not abs(number) <= _LARGEST:  # NaN is not either
                remedy = "Correct or remove the row."
                if columns.header and is_image_name(cell.strip()):
                    remedy = f"Give path_column={columns.header[place]!r} if it names image files."
                return InputError(
                    f"column {place + 1} of row {row.number} of {str(path)!r} must be a finite "
                    f"number, got {cell.strip()!r}. {remedy}"
                )
    return InputError(
        f"rows {rows[0].number} to {rows[-1].number} of {str(path)!r} must be numbers, got "
        "something else. Correct or remove them."
    )


def _wrong_width(path: Path, row: int, width: int, model: str, got: int) -> InputError:
    return InputError(
        f"row {row} of {str(path)!r} must have {width} columns as the {model} has, "
        f"got {got}. Correct or remove the row."
    )


def written_number(cell: str) -> float | None:
    """The number that a cell of text holds, if any."""
    try:
        # Python reads 1_000, numpy and other readers of tables do not.
        return None if "_" in cell else float(cell.strip(' "'))
    except ValueError:
        return None


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    try:
        with (
            open_regular(path) as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines,
        ):
            yield lines
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} must be a table in UTF-8 text, got something else ({error}). "
            "Save it as CSV, UTF-8."
        ) from error
