"""One self-contained HTML page from results and figures, to keep and to send."""

import base64
import importlib.metadata
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from likewise._files import write_whole
from likewise.errors import InputError
from likewise.intervals import Estimate
from likewise.plots.figure_files import image_bytes

Cell = str | int | float | Estimate | None


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page: a heading, then text, table and figures, as far as there are any.

    Attributes:
        title: the heading.
        text: paragraphs, parted by empty lines.
        figures: figures, or (caption, figure).
        table: rows of cells, all of one length, the first row being the header. Estimates are
            shown with their interval, None as a dash; columns of numbers stand to the right.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure | tuple[str, Figure]] = ()
    table: Sequence[Sequence[Cell]] | None = None


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Sequence[tuple[str, Cell]] = (),
    sections: Sequence[Section] = (),
    settings: Mapping[str, object] | None = None,
) -> Path:
    """The path of a new HTML page that holds everything it shows.

    Images and styles are inside and there is no script, so the page can be mailed and read
    offline, on a phone, in light or dark. Whatever comes from outside, such as class names and
    paths, is escaped. The file appears whole; when it cannot be written, what was there stays.

    Args:
        path: Path of the page; its folder exists.
        title: Title of the page.
        facts: headline numbers (label, value), a card each. Of an Estimate, or its text
            "0.912 [0.881, 0.937]", the interval is shown smaller.
        sections: shown in order.
        settings: how the results came about, by name, for the foot of the page.

    Raises:
        InputError: if the rows of a table differ in length.
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_page(f"{folder}/report.html", title="Digits", facts=[("items", 9)])
        ...     "<h1>Digits</h1>" in page.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    content = render(
        "page.html",
        # The policy makes browsers refuse whatever the page does not hold itself.
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        style=own_file("style.css"),
        title=title,
        facts=[_fact(*fact) for fact in facts],
        sections=[_section(section) for section in sections],
        settings=[(str(name), _setting(value)) for name, value in (settings or {}).items()],
    )
    write_whole(path, content)
    return path


def render(template: str, **values: object) -> bytes:
    """A template of this folder, filled in; every value is escaped unless it is Markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("likewise.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    version = importlib.metadata.version("likewise")
    page = environment.get_template(template).render(version=version, **values)
    # Paths may hold bytes that are no text; they must not keep the page from being written.
    return page.encode("utf-8", errors="replace")


def own_file(name: str) -> Markup:
    """A stylesheet or script of this folder, as it is."""
    return Markup((importlib.resources.files("likewise.pages") / name).read_text(encoding="utf-8"))


def _section(section: Section) -> dict[str, object]:
    header, *rows = section.table or [[]]
    for row in rows:
        if len(row) != len(header):
            raise InputError(
                f"table of section {section.title!r} must have {len(header)} cells in every row, "
                f"as its header has, got {len(row)}. Fill missing cells with None."
            )
    numbers = (int, float, Estimate, type(None))
    return {
        "title": section.title,
        "paragraphs": [part.strip() for part in section.text.split("\n\n") if part.strip()],
        "header": [_text(cell) for cell in header],
        "rows": [[_text(cell) for cell in row] for row in rows],
        "numeric": [
            bool(rows) and all(isinstance(row[column], numbers) for row in rows)
            for column in range(len(header))
        ],
        "figures": [_figure(entry) for entry in section.figures],
    }


def _fact(label: str, value: Cell) -> tuple[str, str, str]:
    text, interval = _text(value), ""
    if text.endswith("]") and " [" in text:
        text, _, interval = text.rpartition(" [")
    return label, text, interval.removesuffix("]").replace(", ", " to ")


def _figure(entry: Figure | tuple[str, Figure]) -> dict[str, object]:
    caption, figure = ("", entry) if isinstance(entry, Figure) else entry
    width, height = figure.get_size_inches()
    return {
        "caption": caption,
        "described": _described(figure, caption),
        "content": base64.b64encode(image_bytes(figure, ".png")).decode("ascii"),
        "broad": width > 6.5,
        "width": round(width * 110),
        "height": round(height * 110),
        "least": round(width * 56),
    }


def _described(figure: Figure, caption: str) -> str:
    """What an image says to those who do not see it: its title and the note under it."""
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    title = next((title for title in titles if title), caption or "Figure")
    notes = [text.get_text() for text in figure.texts if text.get_gid() == "note"]
    return " ".join(" ".join([title + ".", *notes]).split())


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
