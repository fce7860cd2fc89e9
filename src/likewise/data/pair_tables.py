"""Pairs and triplets of image files or texts from a CSV, without any class labels."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likewise._checks import check_exists
from likewise.data.framing import ImageSize
from likewise.data.images import ImageFiles
from likewise.data.pairs import GivenPairs
from likewise.data.tables import image_path, read_header, read_rows
from likewise.data.texts import TextDataset
from likewise.data.triplets import GivenTriplets
from likewise.errors import InputError

_NAMES = {"path_a": "a", "path_b": "b"}  # other headers of the same columns
_TRUTH = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),  # 1.0 is pandas' 1 beside a missing one
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
}
_SHOWN = 5  # contradictions named in a sentence


@dataclass(frozen=True)
class PairTable:
    """The rows of a CSV that lists pairs of image files, texts or ids."""

    sides: list[str]  # the distinct files, texts or ids
    names: list[str]  # what the table calls them
    pairs: list[tuple[int, int]]  # positions in `sides`
    same: list[bool] | None  # the truth, where the table has it


def load_pairs(
    csv_path: str | Path,
    *,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    texts: bool = False,
) -> GivenPairs:
    """Pairs of image files with their truth, as a CSV lists them; class labels are not needed.

    With `texts` the two columns hold texts instead.

    The table has the columns a and b (or path_a and path_b), image files relative to its folder,
    and one that tells the truth: same (1 = the same) or different (1 = different), written as
    1/0, true/false or yes/no. Other columns are ignored, and cells may be separated by commas,
    semicolons, tabs or bars. A pair that comes again with the same truth counts once, with a
    warning. A file that many rows name is one item::

        a,b,same
        ann/1.jpg,ann/2.jpg,1
        ann/1.jpg,bob/1.jpg,0

    What the table says of two files it says of no third, so every file is a class of its own in
    `.data`, with its path as class name. Draw no other pairs from it.

    Args:
        csv_path: the table.
        image_size: (height, width) or one number for both; images are resized to it.
        channels: 1 for gray, 3 for color; by default 3 if any image is in color.
        texts: whether sides are texts. Rows that compare a text with itself are left out, with a
            warning, unless they call it different.

    Raises:
        FileNotFoundError: the table, or a file that it names, is not there.
        InputError: a column is missing, or it is called label, which does not say what 1 means;
            a faulty row; pairs with two truths; no pairs of both kinds.
    """
    table = read_pair_table(csv_path, what="texts" if texts else "files")
    if table.same is None:
        raise InputError(
            f"{os.fspath(csv_path)!r} must have the column same (1 = the same) or different "
            "(1 = different), got neither. Add one, or judge unlabeled pairs with "
            "`likewise verify --pairs`."
        )
    if len(set(table.same)) < 2:
        same = sum(table.same)
        raise InputError(
            f"{os.fspath(csv_path)!r} must hold pairs of both kinds, got {same} same and "
            f"{len(table.same) - same} different. Add pairs of the other kind."
        )
    data: Any
    if texts:
        data = TextDataset(table.sides, range(len(table.sides)), table.names)
    else:
        data = _files(table.sides, table.names, image_size, channels)
    return GivenPairs(data, table.pairs, table.same)


def load_triplets(
    csv_path: str | Path,
    *,
    image_size: ImageSize | None = None,
    channels: int | None = None,
) -> GivenTriplets:
    """Triplets of image files, as a CSV with the columns anchor, positive and negative lists them.

    Files, classes and arguments are as for `load_pairs`.

    Raises:
        FileNotFoundError: the table, or a file that it names, is not there.
        InputError: a column is missing, or a row is faulty.
    """
    path = _table_path(csv_path)
    _check_columns(path, read_header(path), ("anchor", "positive", "negative"))
    files = Sides(path, "files")
    triplets = [
        files.positions([row[name] for name in ("anchor", "positive", "negative")], where)
        for where, row in read_rows(path)
    ]
    _check_rows(path, len(triplets))
    return GivenTriplets(_files(files.sides, files.names, image_size, channels), triplets)


def read_pair_table(
    csv_path: str | Path, *, what: str = "files", unchecked: bool = False
) -> PairTable:
    """What a CSV of pairs holds, with its truth or without; the rules are those of `load_pairs`.

    Args:
        csv_path: the table.
        what: the columns name "files", hold "texts", or "ids" of items that are known.
        unchecked: look for files only when they are fetched.

    Raises:
        FileNotFoundError: the table, or a file that it names, is not there.
        InputError: A row that `load_pairs` refuses too. The truth may be missing or of one kind.
    """
    path = _table_path(csv_path)
    header = [_NAMES.get(name, name) for name in read_header(path)]
    truth = [name for name in ("same", "different") if name in header]
    if len(truth) > 1 or (not truth and "label" in header):
        raise InputError(
            f"{str(path)!r} must tell the truth in a column same (1 = the same) or in a column "
            f"different (1 = different), got {'both' if truth else 'label, which may mean either'}."
            f" {'Remove one' if truth else 'Rename it to what its 1 means'}."
        )
    _check_columns(path, header, ("a", "b", *truth))
    sides = Sides(path, what, unchecked=unchecked)
    row_of: dict[tuple[int, int], str] = {}
    truth_of: dict[tuple[int, int], bool | None] = {}
    pairs: list[tuple[int, int]] = []
    repeats = alike = 0
    contradictions: list[str] = []
    for where, cells in read_rows(path):
        row = {_NAMES.get(name, name): cell for name, cell in cells.items()}
        told = truth_of_cell(where, row[truth[0]], truth[0]) if truth else None
        if what == "texts" and row["a"] == row["b"] and told is not False:
            alike += 1
            continue
        a, b = sides.positions([row["a"], row["b"]], where)
        pair = (min(a, b), max(a, b))
        if pair not in row_of:
            row_of[pair], truth_of[pair] = where, told
            pairs.append((a, b))
        elif truth_of[pair] == told:
            repeats += 1
        else:
            number, earlier = (place.partition(" of ")[0] for place in (where, row_of[pair]))
            contradictions.append(f"{number} says otherwise than {earlier}")
    if contradictions:
        few = ", ".join(contradictions[:_SHOWN]) + (", ..." if contradictions[_SHOWN:] else "")
        raise InputError(
            f"{str(path)!r} must tell one truth of each pair, got {len(contradictions)} "
            f"contradictions: {few}. Correct or remove these rows."
        )
    if alike:
        warnings.warn(
            f"{str(path)!r} holds {alike} rows that compare a text with itself; they are left out.",
            stacklevel=2,
        )
    if repeats:
        warnings.warn(
            f"{str(path)!r} holds {repeats} rows with a pair of an earlier row; each pair counts "
            "once.",
            stacklevel=2,
        )
    _check_rows(path, len(pairs))
    same = [bool(truth_of[min(a, b), max(a, b)]) for a, b in pairs]
    return PairTable(sides.sides, sides.names, pairs, same if truth else None)


def truth_of_cell(where: str, cell: str, column: str) -> bool:
    """Whether a cell of the column same, or different, says that both sides are the same."""
    value = _TRUTH.get(cell.lower())
    if value is None:
        raise InputError(
            f"{where} must have 1 or 0, true or false, yes or no as {column}, got "
            f"{cell!r}. Correct or remove the row."
        )
    return value if column == "same" else not value


class Sides:
    """The distinct image files, texts or ids in a table, each with a position."""

    def __init__(self, table: Path, what: str, *, unchecked: bool = False) -> None:
        self.table = table
        self.what = what
        self.unchecked = unchecked
        self.sides: list[str] = []
        self.names: list[str] = []
        self._position_of_cell: dict[str, int] = {}
        self._position_of_side: dict[str, int] = {}  # of a file by its path without links and dots

    def positions(self, cells: Sequence[str], where: str) -> tuple[int, ...]:
        """Positions of the sides of a row, which must be different ones."""
        found = tuple(self._position(cell, where) for cell in cells)
        if len(set(found)) < len(found):
            twice = Counter(found).most_common(1)[0][0]
            raise InputError(
                f"{where} must name different {self.what}, got {self.names[twice]!r} twice. "
                "Correct or remove the row."
            )
        return found

    def _position(self, cell: str, where: str) -> int:
        if cell not in self._position_of_cell:
            side = key = cell
            if self.what == "files":
                side = image_path(self.table, cell, where, check=not self.unchecked)
                key = os.path.realpath(side)
            elif not cell:
                raise InputError(
                    f"{where} must hold two {self.what}, got an empty cell. "
                    "Correct or remove the row."
                )
            position = self._position_of_side.setdefault(key, len(self.sides))
            if position == len(self.sides):
                self.sides.append(side)
                self.names.append(cell)
            self._position_of_cell[cell] = position
        return self._position_of_cell[cell]


def _files(
    paths: list[str],
    names: list[str],
    image_size: ImageSize | None,
    channels: int | None,
) -> ImageFiles:
    return ImageFiles(paths, range(len(paths)), names, image_size, channels)


def _table_path(csv_path: str | Path) -> Path:
    path = Path(csv_path).expanduser()
    check_exists("csv_path", path)
    return path


def _check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if header.count(column) != 1:
            raise InputError(
                f"{str(path)!r} must have the columns {', '.join(columns)}, each once, got "
                f"{', '.join(header) or 'none'}. Name them in the first row."
            )


def _check_rows(path: Path, count: int) -> None:
    if not count:
        raise InputError(f"{str(path)!r} must have a row after its header, got none. Add rows.")
