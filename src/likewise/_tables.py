"""Results as short tables: text for a terminal, HTML for a notebook."""

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

MOST_ROWS = 20
WIDEST = 90  # letters of the value in a table of names and values
NAME = 32  # and of the name before it
NARROW = 24  # letters of any other cell
FEW = 5  # entries of a dict or a list in one cell


class Table(NamedTuple):
    """A title, and rows of as many cells each, of which the first may hold the headings."""

    title: str
    rows: Sequence[Sequence[str]]
    headings: bool = False
    more: int = 0  # rows that are not among these


def as_text(result: Any) -> str:
    """The `__repr__` of a result: its table in aligned columns.

    What `_table()` of the result gives; without that, a row for each field of the dataclass that
    is not None.
    """
    table = _short(_of(result))
    lines = aligned([_cells(row) for row in table.rows])
    return "\n".join([cell(table.title), *(f"  {line}" for line in lines)])


def as_html(result: Any) -> str:
    """The `_repr_html_` of a result: the same table, escaped."""
    table = _short(_of(result))
    lines = [f"<caption>{html.escape(cell(table.title))}</caption>"]
    for number, row in enumerate(table.rows):
        kind = "th" if table.headings and number == 0 else "td"
        cells = (
            f'<{kind} style="text-align:left">{html.escape(each)}</{kind}>' for each in _cells(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with aligned columns.

    Example:
        >>> aligned([("recall", "0.9"), ("f1", "0.85")])
        ['recall  0.9', 'f1      0.85']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(each.ljust(width) for each, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def cell(text: str, most: int = WIDEST) -> str:
    r"""Text on one line, cut where it is long, and control codes as escapes.

    Example:
        >>> print(cell("a\x1b[2J\nb"))
        a\x1b[2J\nb
    """
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "replace").decode()
        for letter in text[: 4 * most]
    )
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def value(given: Any) -> str:
    """A value in a few words: a number, an estimate, the shape of an array, the first of many.

    Example:
        >>> value(0.123456), value([1, 2, 3, 4, 5, 6]), value({"a": 0.5})
        ('0.1235', '6: 1, 2, 3, 4, 5, …', 'a: 0.5')
    """
    if given is None or isinstance(given, (bool, str)):
        return str(given)
    if isinstance(given, Integral):
        return f"{int(given):,}"
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        return f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}"
    if isinstance(given, Real):
        return f"{float(given):.4g}"
    if isinstance(given, Mapping):
        first = [f"{key}: {value(given[key])}" for key, _ in zip(given, range(FEW), strict=False)]
        return _listed(first, len(given)) if given else "none"
    if isinstance(given, (list, tuple)):
        if len(given) > FEW:
            return f"{len(given):,}: {_listed([value(each) for each in given[:FEW]], len(given))}"
        return ", ".join(map(value, given)) or "none"
    has_words = "__str__" in vars(type(given)) or not dataclasses.is_dataclass(given)
    return str(given) if has_words else type(given).__name__


def name_of(code: int, class_names: Sequence[str], absent: str) -> str:
    """The name of a class code, the code itself where codes have no names; `absent` for -1."""
    if code < 0:
        return absent
    return class_names[code] if code < len(class_names) else str(code)


def _of(result: Any) -> Table:
    if hasattr(result, "_table"):
        made: Table = result._table()
        return made
    return Table(type(result).__name__, fields(result))


def fields(result: Any, names: Iterable[str] = ()) -> list[tuple[str, ...]]:
    """A row for each field of a dataclass that is not None, or for these of them."""
    shown = list(names) or [field.name for field in dataclasses.fields(result) if field.repr]
    given = {name: getattr(result, name) for name in shown}
    return [
        (name.replace("_", " "), value(each)) for name, each in given.items() if each is not None
    ]


def _short(table: Table) -> Table:
    """The table with as many rows as are shown, and a row that tells of the others."""
    left = table.more + max(0, len(table.rows) - MOST_ROWS - table.headings)
    if not left:
        return table
    width = len(table.rows[0])
    rest = (f"… and {left:,} more", *[""] * (width - 1))
    return table._replace(rows=[*table.rows[: MOST_ROWS + table.headings], rest])


def _cells(row: Sequence[str]) -> list[str]:
    widths = (NAME, WIDEST) if len(row) == 2 else [NARROW] * len(row)
    return [cell(each, most) for each, most in zip(row, widths, strict=True)]


def _listed(first: list[str], count: int) -> str:
    return ", ".join(first) + (", …" if count > len(first) else "")
