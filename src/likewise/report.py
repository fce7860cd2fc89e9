"""One self-contained HTML page from results and figures, to keep and to send."""

import base64
import html
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from likewise._files import write_whole
from likewise.errors import InputError
from likewise.intervals import Estimate
from likewise.plots._saving import image_bytes

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


def write_report(
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
        path: of the page; its folder exists.
        title: of the page.
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
        ...     page = write_report(f"{folder}/report.html", title="Digits", facts=[("items", 9)])
        ...     "<h1>Digits</h1>" in page.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    parts = [f"<h1>{_escape(title)}</h1>"]
    if facts:
        parts.append(f'<dl class="facts">{"".join(_fact(*fact) for fact in facts)}</dl>')
    parts += [_section(section) for section in sections]
    page = _PAGE.format(
        title=_escape(title), style=_STYLE, body="\n".join(parts), foot=_foot(settings or {})
    )
    # Paths may hold bytes that are no text; they must not keep the page from being written.
    write_whole(path, page.encode("utf-8", errors="replace"))
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{_escape(section.title)}</h2>"]
    parts += [f"<p>{_escape(p.strip())}</p>" for p in section.text.split("\n\n") if p.strip()]
    if section.table:
        parts.append(_table(section.table, section.title))
    if section.figures:
        parts.append(f'<div class="figures">{"".join(map(_figure, section.figures))}</div>')
    return f"<section>{''.join(parts)}</section>"


def _fact(label: str, value: Cell) -> str:
    text = _text(value)
    interval = ""
    if text.endswith("]") and " [" in text:
        text, _, interval = text.rpartition(" [")
        interval = f"<small>interval {_escape(interval[:-1].replace(', ', ' to '))}</small>"
    return f"<div><dt>{_escape(label)}</dt><dd>{_escape(text)}{interval}</dd></div>"


def _table(rows: Sequence[Sequence[Cell]], title: str) -> str:
    header, *body = rows
    for row in body:
        if len(row) != len(header):
            raise InputError(
                f"table of section {title!r} must have {len(header)} cells in every row, as its "
                f"header has, got {len(row)}. Fill missing cells with None."
            )
    numeric = [
        bool(body)
        and all(isinstance(row[column], (int, float, Estimate, type(None))) for row in body)
        for column in range(len(header))
    ]

    def cells(row: Sequence[Cell], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if right else ''}>{_escape(_text(cell))}</{tag.split()[0]}>"
            for cell, right in zip(row, numeric, strict=True)
        )

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in body)
    # Focus lets a keyboard scroll a wide table.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Table: {_escape(title)}">'
        f"<table><thead><tr>{cells(header, 'th scope=col')}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _figure(entry: Figure | tuple[str, Figure]) -> str:
    caption, figure = ("", entry) if isinstance(entry, Figure) else entry
    width, height = figure.get_size_inches()
    content = base64.b64encode(image_bytes(figure, ".png")).decode("ascii")
    # On a phone wide figures scroll rather than shrink until nothing can be read.
    image = (
        f'<img alt="{_escape(_described(figure, caption))}" src="data:image/png;base64,{content}" '
        f'width="{width * 110:.0f}" height="{height * 110:.0f}" '
        f'style="min-width:{width * 56:.0f}px">'
    )
    below = f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    size = ' class="broad"' if width > 6.5 else ""
    return f'<figure{size}><div class="wide" tabindex="0">{image}</div>{below}</figure>'


def _described(figure: Figure, caption: str) -> str:
    """What an image says to those who do not see it: its title and the note under it."""
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    title = next((title for title in titles if title), caption or "Figure")
    notes = [text.get_text() for text in figure.texts if text.get_gid() == "note"]
    return " ".join(" ".join([title + ".", *notes]).split())


def _foot(settings: Mapping[str, object]) -> str:
    version = importlib.metadata.version("likewise")
    entries = [
        f"<div><dt>{_escape(str(name))}</dt><dd>{_escape(_setting(value))}</dd></div>"
        for name, value in settings.items()
    ]
    listed = f'<dl class="settings">{"".join(entries)}</dl>' if entries else ""
    return f"<p>Made with likewise {_escape(version)}.</p>{listed}"


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


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


# The policy makes browsers refuse whatever the page does not hold itself.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<footer>
{foot}
</footer>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --paper: #f6f8f9; --card: #ffffff; --ink: #1f2933;
  --muted: #5b6770; --line: #dde3e7; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14191d; --card: #1e252b; --ink: #e6ebef; --muted: #a5b0b8; --line: #36414a;
    --accent: #6bb8e6; }
  img { opacity: 0.93; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
main, footer { max-width: 72rem; margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem); }
h1 { font-size: clamp(1.5rem, 1.2rem + 1.6vw, 2.1rem); line-height: 1.2; margin: 0.75rem 0 1rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 0.5rem; }
p { max-width: 44rem; margin: 0 0 0.9rem; }
section { margin-top: 2rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
dl, dd { margin: 0; }
.facts { display: grid; gap: 0.75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); }
.facts > div { background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem;
  border-top: 3px solid var(--accent); padding: 0.7rem 0.9rem; }
.facts dt { color: var(--muted); font-size: 0.88rem; line-height: 1.35; }
.facts dd { font-size: 1.55rem; font-weight: 650; line-height: 1.3; }
.facts small { display: block; font-size: 0.8rem; font-weight: 400; color: var(--muted); }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.93rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
section > .wide { margin-bottom: 1rem; }
th, td { padding: 0.4rem 0.9rem 0.4rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
.figures { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; min-width: 0; background: #ffffff; border: 1px solid var(--line);
  border-radius: 0.6rem; overflow: hidden; color: #1f2933; }
figure.broad { grid-column: 1 / -1; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { padding: 0.3rem 0.9rem 0.8rem; font-size: 0.9rem; color: #5b6770; }
footer { color: var(--muted); font-size: 0.88rem; border-top: 1px solid var(--line);
  margin-top: 2rem; }
.settings { display: grid; gap: 0.2rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.settings > div { display: flex; gap: 0.5rem; }
.settings dt::after { content: ":"; }
.settings dd { color: var(--ink); min-width: 0; }
"""
