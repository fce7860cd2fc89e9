"""Tables whose columns have names: CSV, JSON lines, Parquet, Arrow, .npz, pandas frames."""

import fnmatch
import importlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from likewise._files import check_regular, open_regular
from likewise.data.tables import (
    LABEL_NAMES,
    PART_OF,
    check_once,
    npz_arrays,
    read_header,
    read_npy,
    read_rows,
    written_number,
)
from likewise.errors import InputError, InputTypeError, MissingExtra

JSON_LINES = (".jsonl", ".ndjson")
ARROW = (".parquet", ".feather", ".arrow")
RECORDS = (*JSON_LINES, *ARROW)  # beside CSV, which may also have no header
LOOKED_AT = 1000  # rows of a CSV, which say which of its columns hold numbers
VECTOR_NAMES = ("embedding", "embeddings", "vector", "vectors")

_SHOWN = 12  # columns named in a sentence
_LONGEST = 1 << 24  # characters in a line of JSON


@dataclass(frozen=True)
class Records:
    """A table, opened: its columns are read when asked for.

    Attributes:
        name: what a sentence calls it.
        columns: their names, as the table has them.
        kinds: which of them hold numbers, and which lists of numbers; none of a CSV that was not
            asked for them.
        read: the cells of some columns: a list, or for numbers an array, (n,) or (n, d).
        where: what a sentence calls a row, by its position.
        rows: how many there are; None for such a CSV, which must be read to know.
        in_parts: the cells of some columns, some rows at a time, so that a table may be larger
            than memory where its file allows; None where all is in memory anyway.
        as_numbers: the cells of a column of numbers as an array, from the position of the first,
            where `read` gives texts.
    """

    name: str
    columns: list[str]
    kinds: "Kinds"
    read: Callable[[Sequence[str]], dict[str, Any]]
    where: Callable[[int], str]
    rows: int | None = None
    in_parts: Callable[[Sequence[str], int], Iterator[dict[str, Any]]] | None = None
    as_numbers: Callable[[str, Sequence[str], int], np.ndarray[Any, Any]] | None = None
    label_names: Sequence[str] = LABEL_NAMES

    def parts(self, names: Sequence[str], size: int) -> Iterator[dict[str, Any]]:
        """The cells of some columns, `size` rows at a time."""
        if self.in_parts is not None:
            yield from self.in_parts(names, size)
            return
        cells = self.read(names)
        for start in range(0, len(cells[names[0]]), size):
            yield {name: cells[name][start : start + size] for name in names}

    def find(self, argument: str, asked: str) -> str:
        """The column called as asked, or so but for upper and lower case.

        Raises:
            InputError: there is none.
        """
        found = self.has(asked)
        if found is None:
            raise InputError(
                f"must be a column of {self.name} ({_named(self.columns)}), got {asked!r}.",
                argument=argument,
            )
        return found

    def has(self, asked: str) -> str | None:
        """The same, or None."""
        if asked in self.columns:
            return asked
        low = asked.strip().lower()
        return next((name for name in self.columns if name.strip().lower() == low), None)

    def label(self, asked: str | None) -> str | None:
        """The column of labels: the one asked for, or with a usual name; None if there is none."""
        if asked is not None:
            return self.find("label", asked)
        return next(filter(None, map(self.has, self.label_names)), None)


@dataclass(frozen=True)
class Kinds:
    """Columns of numbers, and columns of lists of numbers."""

    single: list[str]
    lists: list[str]


def is_frame(source: object) -> bool:
    """Whether it is a pandas frame or an Arrow table."""
    return type(source).__module__.split(".")[0] in ("pandas", "pyarrow") and (
        type(source).__name__ in ("DataFrame", "Table")
    )


def open_records(source: Any, *, numbers: bool = False) -> Records:
    """The table in a file, or a pandas frame or Arrow table.

    Args:
        source: the file, frame or table.
        numbers: whether cells of a CSV may be numbers and lists of them, as "[0.1, 0.2]"; the file
            is then gone through once to count its rows.

    Raises:
        InputError: it cannot be read as what its name says, or names a column twice.
        MissingExtra: it takes pyarrow, which is not installed.
    """
    if is_frame(source):
        return _of_arrow(_frame_as_table(source), f"the {type(source).__name__}")
    path = Path(source)
    check_regular(path)
    suffix = path.suffix.lower()
    if suffix in ARROW:
        return _arrow_file(path, suffix)
    if suffix == ".npz":
        return _npz(path)
    if suffix == ".npy":
        return _npy(path)
    if suffix in JSON_LINES:
        return _json_lines(path)
    return _csv_of_numbers(path) if numbers else _csv(path)


def texts_in(records: Records, column: str, cells: Sequence[Any]) -> list[str]:
    """The cells of a column as texts.

    Raises:
        InputError: one is missing, empty, or no text.
    """
    for row, cell in enumerate(cells):
        if not isinstance(cell, str) or not cell.strip():
            got = "none" if cell is None or cell == "" else repr(cell)[:40]
            raise InputError(
                f"{records.where(row)} must have a text as {column}, got {got}. "
                "Correct or remove the row."
            )
    return list(cells)


def labels_in(records: Records, column: str, cells: Sequence[Any]) -> list[str | None]:
    """The cells of a column as labels: texts, whole numbers as text, None where null.

    Raises:
        InputError: one is an empty text, or another thing.
    """
    labels: list[str | None] = []
    for row, cell in enumerate(cells.tolist() if isinstance(cells, np.ndarray) else cells):
        whole = isinstance(cell, float) and cell.is_integer()  # as pandas has them beside NaN
        if isinstance(cell, str) and cell.strip():
            labels.append(cell.strip())
        elif isinstance(cell, (bool, int)) or whole:
            labels.append(str(int(cell) if whole else cell))
        elif cell is None or cell != cell:
            labels.append(None)
        else:
            raise InputError(
                f"{records.where(row)} must have a text or a whole number as {column}, got "
                f"{'none' if cell == '' else repr(cell)[:40]}. Correct or remove the row."
            )
    return labels


def ids_in(records: Records, column: str, cells: Sequence[Any] | np.ndarray[Any, Any]) -> list[Any]:
    """The cells of a column as ids: texts or whole numbers.

    Raises:
        InputError: one is another thing, or missing.
    """
    ids = cells.tolist() if isinstance(cells, np.ndarray) else list(cells)
    for row, each in enumerate(ids):
        if not (isinstance(each, str) and each) and (type(each) is not int or each < 0):
            raise InputError(
                f"{records.where(row)} must have a text or a whole number as {column}, got "
                f"{each!r}. Correct or remove the row."
            )
    return ids


def parts_in(records: Records, column: str, cells: Sequence[Any]) -> list[str]:
    """The cells of a column as "train", "val" or "test".

    Raises:
        InputError: one is another word.
    """
    for row, cell in enumerate(cells):
        if str(cell).strip().lower() not in PART_OF:
            raise InputError(
                f"{records.where(row)} must have the {column} train, val or test, got {cell!r}. "
                "Correct or remove the row."
            )
    return [PART_OF[str(cell).strip().lower()] for cell in cells]


def vector_columns(records: Records, asked: str | None, besides: Sequence[str | None]) -> list[str]:
    """The column of lists of numbers, or all columns of numbers.

    Args:
        records: the table.
        asked: its name, if it is told, or a pattern of names of columns of numbers, as "v*".
        besides: columns that hold something else.

    Raises:
        InputError: there are none, or several columns of lists.
    """
    single, lists = (
        [name for name in names if name not in besides]
        for names in (records.kinds.single, records.kinds.lists)
    )
    if asked is not None and records.has(asked) is None and "*" in asked:
        matching = [name for name in single if fnmatch.fnmatchcase(name.lower(), asked.lower())]
        if not matching:
            raise InputError(
                f"must match columns of numbers in {records.name} ({_named(single) or 'none'}), "
                f"got {asked!r}.",
                argument="vectors",
            )
        return matching
    if asked is not None:
        found = records.find("vectors", asked)
        if found not in (*single, *lists):
            raise InputError(
                f"must be a column of numbers in {records.name}, got {asked!r}.",
                argument="vectors",
            )
        return [found]
    usual = [name for name in lists if name.lower() in VECTOR_NAMES]
    lists = usual if len(usual) == 1 else lists
    if len(lists) > 1:
        raise InputError(
            f"must say which column of {records.name} is meant, {_named(lists)}, got none.",
            argument="vectors",
        )
    if not lists and not single:
        raise InputError(
            f"{records.name} must have a column of image files, of texts or of numbers, got "
            f"{_named(records.columns)}.",
            remedy="Name a column path, or give text= for texts.",
            command="Name a column path, or give --text COLUMN for texts.",
        )
    return lists or single


def vectors_in(
    records: Records, columns: Sequence[str], cells: dict[str, Any], first: int = 0
) -> np.ndarray[Any, Any]:
    """The numbers of some columns, (n, d) float32.

    Args:
        records: the table.
        columns: Columns of numbers, or one column of lists.
        cells: Cells of these columns, of all rows or of consecutive ones.
        first: the position of the first of these rows.

    Raises:
        InputError: lists of several lengths, or a number missing.
    """
    if records.as_numbers is not None:
        arrays = [records.as_numbers(name, cells[name], first) for name in columns]
    else:
        arrays = [np.asarray(cells[name]) for name in columns]
    for name, array in zip(columns, arrays, strict=True):
        if array.dtype.kind not in "fiub":
            raise InputError(
                f"{name} of {records.name} must be numbers throughout, got lists of several "
                "lengths or missing ones. Correct or remove these rows."
            )
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return arrays[0].astype(np.float32, copy=False)
    return np.stack(arrays, axis=1).astype(np.float32, copy=False)


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def _csv(path: Path) -> Records:
    header = read_header(path)
    check_once(path, header)
    lines: list[str] = []

    def read(names: Sequence[str]) -> dict[str, Any]:
        cells: dict[str, list[str]] = {name: [] for name in names}
        lines.clear()
        for where, row in read_rows(path):
            lines.append(where)
            for name, column in cells.items():
                column.append(row[name])
        return cells

    return Records(
        repr(str(path)), [name for name in header if name], Kinds([], []), read, lines.__getitem__
    )


def _csv_of_numbers(path: Path) -> Records:
    """A CSV whose columns hold numbers, or lists of them, if the first rows do."""
    plain = _csv(path)
    name = plain.name
    numbered = [each for each in plain.columns if written_number(each) is not None]
    # What pandas writes of an array has its columns numbered from 0.
    if len(numbered) >= len(plain.columns) - 1 and numbered != [
        str(number) for number in range(len(numbered))
    ]:
        raise InputError(
            f"{name} must name its columns in the first row, got {_named(plain.columns)}. Add a "
            "header."
        )
    columns = [each for each in plain.columns if each != "unnamed: 0"]  # row numbers of pandas
    lines: list[str] = []
    looks: dict[str, list[str]] = {each: [] for each in columns}
    for where, row in read_rows(path):
        if len(lines) < LOOKED_AT:
            for each, cells in looks.items():
                if row[each]:
                    cells.append(row[each])
        lines.append(where)
    kinds = Kinds(
        [each for each in columns if looks[each] and all(map(_is_plain_number, looks[each]))],
        [
            each
            for each in columns
            if looks[each] and all(_written_list(cell) is not None for cell in looks[each])
        ],
    )

    def as_numbers(column: str, cells: Sequence[str], first: int) -> np.ndarray[Any, Any]:
        convert = _one_number if column in kinds.single else _written_list
        found = [convert(cell) for cell in cells]
        width = len(found[0] or ()) if found else 0
        for row, (cell, numbers) in enumerate(zip(cells, found, strict=True), first):
            if numbers is None or len(numbers) != width:
                what = "a number" if column in kinds.single else f"{width} numbers"
                raise InputError(
                    f"{lines[row]} must have {what} as {column}, got {cell[:40] or 'none'}.",
                    remedy="Correct it, or say by vectors= which columns hold the numbers.",
                    command="Correct it, or say by --vectors which columns hold the numbers.",
                )
        made = np.array(found, dtype=np.float32)
        return made[:, 0] if column in kinds.single else made

    def in_parts(names: Sequence[str], size: int) -> Iterator[dict[str, Any]]:
        rows = (row for _, row in read_rows(path))
        while part := list(islice(rows, size)):
            yield {each: [row[each] for row in part] for each in names}

    return Records(
        name,
        plain.columns,
        kinds,
        plain.read,
        lines.__getitem__,
        rows=len(lines),
        in_parts=in_parts,
        as_numbers=as_numbers,
    )


def _one_number(cell: str) -> list[float] | None:
    number = written_number(cell)
    return None if number is None else [number]


def _is_plain_number(cell: str) -> bool:
    """Whether a cell is a number, and no code such as 00417."""
    return written_number(cell) is not None and not re.match(r"-?0\d", cell)


def _written_list(cell: str) -> list[float] | None:
    """The numbers of a cell such as "[0.1, 0.2]", also with spaces only, as NumPy writes them."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    numbers = [written_number(each) for each in cell[1:-1].replace(",", " ").split()]
    return None if None in numbers or not numbers else numbers  # type: ignore[return-value]


def _npz(path: Path) -> Records:
    arrays = npz_arrays(path)
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) > 1:
        raise InputError(
            f"{str(path)!r} must hold arrays of one length, a row for each item, got "
            f"{_named(sorted(map(str, lengths)))}. Save each part to a file of its own."
        )
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
    kinds = Kinds(
        [name for name, array in numbers.items() if array.ndim == 1],
        [name for name, array in numbers.items() if array.ndim == 2],
    )

    def read(names: Sequence[str]) -> dict[str, Any]:
        return {name: arrays[name] if name in numbers else arrays[name].tolist() for name in names}

    name = repr(str(path))
    return Records(
        name,
        list(arrays),
        kinds,
        read,
        lambda row: f"row {row} of {name}",
        rows=max(lengths, default=0),
        label_names=(*LABEL_NAMES, "labels", "y"),
    )


def _npy(path: Path) -> Records:
    name = repr(str(path))
    items = read_npy(path)
    if items.ndim != 2 or items.dtype.kind not in "fiu":
        raise InputError(
            f"{name} must hold vectors of numbers (n, d), got {items.dtype} of shape {items.shape}."
        )
    rows = len(items)
    plain = items.flags.c_contiguous

    def in_parts(names: Sequence[str], size: int) -> Iterator[dict[str, Any]]:
        if not plain:
            for start in range(0, rows, size):
                yield {VECTOR_NAMES[0]: np.asarray(items[start : start + size])}
            return
        with open_regular(path) as file:  # what is read, unlike what is mapped, is given back
            file.seek(items.offset)  # type: ignore[attr-defined]
            for start in range(0, rows, size):
                count = min(size, rows - start) * items.shape[1]
                part = np.frombuffer(file.read(count * items.itemsize), items.dtype)
                yield {VECTOR_NAMES[0]: part.reshape(-1, items.shape[1])}

    return Records(
        name,
        [VECTOR_NAMES[0]],
        Kinds([], [VECTOR_NAMES[0]]),
        lambda names: {each: np.asarray(items) for each in names},
        lambda row: f"row {row} of {name}",
        rows=rows,
        in_parts=in_parts,
    )


def _json_lines(path: Path) -> Records:
    name = repr(str(path))
    with open_regular(path) as file:
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise InputError(
                    f"line {number} of {name} must be a JSON object, got something else. "
                    "Correct or remove it."
                )
            rows.append(row)
            numbers.append(number)
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    kinds = Kinds(
        [each for each in columns if all(_is_number(row.get(each)) for row in rows)],
        [each for each in columns if rows and all(_is_list(row.get(each)) for row in rows)],
    )

    def read(names: Sequence[str]) -> dict[str, Any]:
        return {each: _as_numbers([row.get(each) for row in rows]) for each in names}

    return Records(
        name, columns, kinds, read, lambda row: f"line {numbers[row]} of {name}", rows=len(rows)
    )


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(map(_is_number, cell))


def _as_numbers(cells: list[Any]) -> Any:
    """Lists of one length as an array; else the cells as they are."""
    if not all(map(_is_list, cells)) or len(set(map(len, cells))) != 1:
        return cells
    try:
        return np.array(cells, dtype=np.float32)
    except OverflowError:  # a whole number of hundreds of digits
        return cells


def pyarrow() -> Any:
    """The library, which is an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"pyarrow must be installed to read Parquet, Arrow and pandas tables, got no module "
            f'{error.name!r}. Use pip install "likewise[tables]".'
        ) from error


def _frame_as_table(frame: Any) -> Any:
    arrow = pyarrow()
    if isinstance(frame, arrow.Table):
        return frame
    try:
        return arrow.Table.from_pandas(frame, preserve_index=False)
    except arrow.ArrowException as error:
        raise InputTypeError(
            "columns of the frame must each hold one kind of value, got several in one "
            f"({str(error).splitlines()[0]}). Convert it."
        ) from error


def _arrow_file(path: Path, suffix: str) -> Records:
    arrow = pyarrow()
    name = repr(str(path))
    try:
        if suffix == ".parquet":
            parquet = importlib.import_module("pyarrow.parquet")
            # Else all that is read would be held until the end.
            file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
            schema, rows = file.schema_arrow, file.metadata.num_rows

            def table(names: Sequence[str]) -> Any:
                # In this thread, so that the pages of a row group are not all held at once.
                return parquet.read_table(path, columns=list(names), use_threads=False)

        else:
            source = arrow.memory_map(str(path))
            magic = source.read(6) == b"ARROW1"
            source.seek(0)
            open_ = arrow.ipc.open_file if magic else arrow.ipc.open_stream
            whole = open_(source).read_all()
            schema, rows = whole.schema, whole.num_rows

            def table(names: Sequence[str]) -> Any:
                return whole.select(list(names))

    except (arrow.ArrowException, OSError) as error:
        raise _damaged(name, suffix) from error

    def read(names: Sequence[str]) -> Any:
        try:
            return table(names)
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(name, suffix) from error

    def parts(names: Sequence[str], size: int) -> Iterator[Any]:
        try:
            if suffix == ".parquet":
                for batch in file.iter_batches(size, columns=list(names), use_threads=False):
                    yield arrow.Table.from_batches([batch])
            else:
                for start in range(0, rows, size):
                    yield whole.select(list(names)).slice(start, size)
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(name, suffix) from error

    return _records_of(schema, read, name, rows, parts)


def _damaged(name: str, suffix: str) -> InputError:
    kind = "Parquet" if suffix == ".parquet" else "Arrow"
    return InputError(
        f"{name} must be a whole {kind} file, got one that cannot be read. Write it again."
    )


def _of_arrow(table: Any, name: str) -> Records:
    def parts(names: Sequence[str], size: int) -> Iterator[Any]:
        for start in range(0, len(table), size):
            yield table.select(list(names)).slice(start, size)

    return _records_of(
        table.schema, lambda names: table.select(list(names)), name, len(table), parts
    )


def _records_of(
    schema: Any,
    read_table: Callable[[Sequence[str]], Any],
    name: str,
    rows: int,
    parts: Callable[[Sequence[str], int], Iterator[Any]],
) -> Records:
    types = importlib.import_module("pyarrow").types
    columns = list(schema.names)
    if len(set(columns)) < len(columns):
        raise InputError(f"{name} must name each column once, got one twice. Rename one.")

    def is_number(kind: Any) -> bool:
        return bool(types.is_integer(kind) or types.is_floating(kind))

    def is_list(kind: Any) -> bool:
        listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return bool(listed) and is_number(kind.value_type)

    fields = list(zip(columns, schema.types, strict=True))
    kinds = Kinds(
        [each for each, kind in fields if is_number(kind)],
        [each for each, kind in fields if is_list(kind)],
    )

    def cells(table: Any) -> dict[str, Any]:
        return {
            each: _matrix(table.column(each)) if each in kinds.lists else _cells(table.column(each))
            for each in table.column_names
        }

    return Records(
        name,
        columns,
        kinds,
        lambda names: cells(read_table(names)),
        lambda row: f"row {row + 1} of {name}",
        rows=rows,
        in_parts=lambda names, size: map(cells, parts(names, size)),
    )


def _cells(column: Any) -> Any:
    types = importlib.import_module("pyarrow").types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_floating(column.type) and not column.null_count:
        return column.to_numpy()
    return column.to_pylist()


def _matrix(column: Any) -> Any:
    """Lists of one length as an array (n, d), without a copy where they lie in one piece."""
    compute = importlib.import_module("pyarrow.compute")
    lengths = set(compute.unique(compute.list_value_length(column)).to_pylist())
    if len(lengths) != 1 or None in lengths:
        return np.array([None])  # which is refused as no numbers
    parts = [chunk.flatten() for chunk in column.chunks]
    if any(part.null_count for part in parts):
        return np.array([None])
    width = lengths.pop()
    if len(parts) == 1:
        return parts[0].to_numpy(zero_copy_only=False).reshape(-1, width)
    rows = np.empty((len(column), width), dtype=np.float32)
    start = 0
    for part in parts:
        count = len(part) // width if width else 0
        rows[start : start + count] = part.to_numpy(zero_copy_only=False).reshape(count, width)
        start += count
    return rows
