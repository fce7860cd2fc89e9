"""Pairs across two sides from a table: image files or texts in each of its two columns."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from likewise._checks import check_exists
from likewise.data.cross_pairs import CrossPairs
from likewise.data.datasets import Dataset
from likewise.data.framing import ImageSize
from likewise.data.images import ImageFiles
from likewise.data.pair_tables import Sides, truth_of_cell
from likewise.data.records import Records, open_records
from likewise.data.texts import TextDataset
from likewise.errors import InputError


class CrossTable(NamedTuple):
    """The rows of a table of pairs across two sides."""

    a: list[str]  # the distinct files or texts of the first column
    b: list[str]
    names_a: list[str]  # what the table calls them
    names_b: list[str]
    pairs: list[tuple[int, int]]  # positions in `a` and in `b`
    same: list[bool] | None  # the truth, where the table has it


def load_cross_pairs(
    source: str | Path,
    *,
    texts: tuple[bool, bool] = (False, True),
    image_size: ImageSize | None = None,
    channels: int | None = None,
) -> CrossPairs:
    """Pairs across two sides, as a table lists them: images and texts by default.

    The table is a .csv, .tsv, .jsonl, .parquet, .feather or .arrow file. It has the columns a and b
    (or path_a and path_b): texts, or image files relative to its folder. All rows are pairs that
    are the same, unless a column same (1 = the same) or different (1 = different) tells otherwise.
    Other columns are ignored. A cell that many rows hold is one item, and a pair that comes again
    with the same truth counts once, with a warning::

        a,b
        photos/1.jpg,a rowing boat
        photos/2.jpg,an old harbor

    Args:
        source: The table.
        texts: Whether the column a holds texts, and whether b does; else image files.
        image_size: (height, width) or one number for both; images are resized to it.
        channels: 1 for gray, 3 for color; by default 3 if any image is in color.

    Raises:
        FileNotFoundError: The table, or a file that it names, is not there.
        InputError: A column is missing, a row is faulty, or a pair has two truths.
    """
    images = {"image_size": image_size, "channels": channels}
    return open_cross_pairs(source, *(None if is_text else images for is_text in texts))


def open_cross_pairs(
    source: str | Path, a: Mapping[str, Any] | None, b: Mapping[str, Any] | None
) -> CrossPairs:
    """The same, each side opened by its own `image_size` and `channels`; None for texts."""
    table = read_cross_table(source, texts=(a is None, b is None))
    return CrossPairs(
        _opened(table.a, table.names_a, a), _opened(table.b, table.names_b, b), *table[4:]
    )


def read_cross_table(
    source: str | Path, *, texts: tuple[bool, bool], unchecked: bool = False
) -> CrossTable:
    """What a table of pairs across two sides holds; the rules are those of `load_cross_pairs`.

    With `unchecked` files are looked for only when they are fetched.
    """
    path = Path(source).expanduser()
    check_exists("source", path)
    records = open_records(path)
    columns = [_column(records, "a"), _column(records, "b")]
    told = [name for name in map(records.has, ("same", "different")) if name is not None]
    if len(told) > 1:
        raise InputError(
            f"{records.name} must tell the truth in a column same or in a column different, got "
            "both. Remove one."
        )
    read = {name: _listed(cells) for name, cells in records.read([*columns, *told]).items()}
    sides = [Sides(path, "texts" if is_text else "files", unchecked=unchecked) for is_text in texts]
    truth_of: dict[tuple[int, int], bool | None] = {}
    count = 0
    for row, pair in enumerate(zip(*(read[name] for name in columns), strict=True)):
        where = records.where(row)
        first, second = (
            side.positions([_text(cell, where, name)], where)[0]
            for side, cell, name in zip(sides, pair, columns, strict=True)
        )
        truth = None
        if told:
            truth = truth_of_cell(where, str(read[told[0]][row]), told[0].lower())
        if truth_of.setdefault((first, second), truth) != truth:
            raise InputError(
                f"{where} must say of its pair what an earlier row says, got the opposite. "
                "Correct or remove one of them."
            )
        count = row + 1
    if not truth_of:
        raise InputError(f"{records.name} must have a row after its header, got none. Add rows.")
    if count > len(truth_of):
        warnings.warn(
            f"{records.name} holds {count - len(truth_of)} rows with a pair of an earlier row; "
            "each pair counts once.",
            stacklevel=2,
        )
    return CrossTable(
        sides[0].sides,
        sides[1].sides,
        sides[0].names,
        sides[1].names,
        list(truth_of),
        [bool(truth) for truth in truth_of.values()] if told else None,
    )


def _opened(cells: list[str], names: list[str], images: Mapping[str, Any] | None) -> Dataset:
    codes = range(len(cells))
    if images is None:
        return TextDataset(cells, codes, names)
    return ImageFiles(cells, codes, names, **images)


def _column(records: Records, name: str) -> str:
    for asked in (name, f"path_{name}"):
        if (found := records.has(asked)) is not None:
            return found
    raise InputError(
        f"{records.name} must have the columns a and b, got {', '.join(records.columns) or 'none'}."
        " Name them in the first row."
    )


def _text(cell: Any, where: str, column: str) -> str:
    if not isinstance(cell, str) or not cell.strip():
        raise InputError(
            f"{where} must hold a text or a file as {column}, got "
            f"{'none' if cell is None or cell == '' else repr(cell)[:40]}. "
            "Correct or remove the row."
        )
    return cell


def _listed(cells: Any) -> Sequence[Any]:
    return list(cells.tolist() if isinstance(cells, np.ndarray) else cells)
