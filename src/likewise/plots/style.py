"""One look for every figure: palette, canvas with its title strip, text that fits, small items."""

import functools
import io
import unicodedata
from collections.abc import Callable, Sequence
from typing import ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import LoadFlags
from numpy.typing import NDArray
from torch import Tensor

from likewise.errors import InputError, InputTypeError

INK, MUTED, GRID = "#1f2933", "#5b6770", "#e3e7eb"
# Okabe & Ito's blue and vermilion: far apart for every kind of color vision.
SAME, DIFFERENT, THIRD = "#0072b2", "#d55e00", "#00795a"
RIGHT, WRONG, NEUTRAL = "#00795a", "#b8321f", "#8a949c"
# Paul Tol's "muted" scheme and a gray; always joined by a marker or a line style.
CLASS_COLORS = (
    *("#332288", "#117733", "#cc6677", "#44aa99", "#882255"),
    *("#88ccee", "#999933", "#aa4499", "#ddcc77", "#777777"),
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINE_STYLES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", "--", "-.", ":", (0, (5, 1)))

# 5 inches with 10 points: a phone that shows the figure 380 pixels wide shows letters of 10.
WIDTH = 5.0
MARGIN = 0.1
TITLE_SIZE, TEXT_SIZE, NOTE_SIZE = 12.5, 10.0, 9.5

# For class names in other scripts, as far as the machine has them.
_WORLD = ("Noto Sans CJK JP", "Noto Sans", "Arial Unicode MS", "PingFang SC", "Microsoft YaHei")
_FONTS = ["DejaVu Sans", *sorted({*_WORLD} & {*font_manager.get_font_names()}, key=_WORLD.index)]

STYLE: dict[str, object] = {
    "font.family": _FONTS,
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "text.parse_math": False,  # class names and paths may hold dollar signs
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT_SIZE,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": NOTE_SIZE,
    "ytick.labelsize": NOTE_SIZE,
    "legend.frameon": False,
    "legend.fontsize": NOTE_SIZE,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 2.0,
    "svg.hashsalt": "likewise",  # the same figure gives the same file
}

P = ParamSpec("P")


class Drawn(Figure):
    """A figure that a notebook shows though pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        with matplotlib.style.context(["default", STYLE]):
            self.savefig(content, format="png", dpi=110)
        return content.getvalue()


def styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """The plot, drawn in our style whatever the caller's rcParams, which stay as they are."""

    @functools.wraps(plot)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            return plot(*args, **kwargs)

    return inside


def canvas(
    height: float, title: str, note: str = "", *, width: float = WIDTH, arrange: bool = True
) -> Figure:
    """An empty figure with a title strip on top and `height` inches below it for the axes.

    With `arrange` the axes of subplots are given room for their labels; without, axes and texts
    stay where they are put.
    """
    inner = width - 2 * MARGIN
    title = fit(title, inner, TITLE_SIZE, lines=2, weight="bold")
    note = fit(note, inner, NOTE_SIZE, lines=4)
    title_height = line_height(TITLE_SIZE) * (title.count("\n") + 1)
    note_height = line_height(NOTE_SIZE) * (note.count("\n") + 1) if note else 0.0
    total = MARGIN + title_height + note_height + MARGIN + height
    figure = Drawn(
        figsize=(width, total),
        dpi=200,
    )
    if arrange:
        figure.set_layout_engine(
            "constrained", rect=(0.0, 0.0, 1.0, height / total), w_pad=0.06, h_pad=0.06
        )
    FigureCanvasAgg(figure)
    top = 1 - MARGIN / total
    left = MARGIN / width
    # The strip is reserved by `rect`; the layout engine would reserve it once more.
    figure.suptitle(
        title, x=left, y=top, ha="left", va="top", fontsize=TITLE_SIZE, weight="bold"
    ).set_in_layout(False)
    if note:
        figure.text(
            left,
            top - title_height / total,
            note,
            va="top",
            fontsize=NOTE_SIZE,
            color=MUTED,
            gid="note",
        ).set_in_layout(False)
    return figure


def line_height(size: float) -> float:
    """Inches from one line of text to the next."""
    return 1.3 * size / 72


def measure(text: str, size: float, weight: str = "normal") -> float:
    """Width in inches of one line of text."""
    # Letter by letter, without kerning, which only ever pulls letters together; and a margin, as
    # hinting moves them by up to some percent.
    return 1.03 * size / 72 * sum(_advance(letter, weight) for letter in text)


@functools.lru_cache(maxsize=4096)
def _advance(letter: str, weight: str) -> float:
    """Width of a letter as a share of the type size; 1 where the font has no such letter."""
    properties = FontProperties(family="DejaVu Sans", weight=weight)
    font = font_manager.get_font(font_manager.findfont(properties))
    if font.get_char_index(ord(letter)) == 0:
        return 1.0
    font.set_size(100, 72)
    return float(font.load_char(ord(letter), LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / 100


def fit(text: str, width: float, size: float, *, lines: int = 1, weight: str = "normal") -> str:
    """The text on at most `lines` lines of `width` inches, ending in "…" if it had to be cut."""
    text = " ".join("".join(c if _drawable(c) else " " for c in text[:400]).split())
    rows: list[str] = []
    while text and measure(text, size, weight) > width and len(rows) < lines:
        last = len(rows) == lines - 1
        end = "…" if last else ""
        length = len(text)
        while length > 1 and measure(text[:length].rstrip() + end, size, weight) > width:
            length -= 1
        if last:
            return "\n".join([*rows, text[:length].rstrip() + end])
        space = text.rfind(" ", 0, length + 1)
        cut = space if space > 0 else length
        rows.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return "\n".join([*rows, text] if text else rows)


def _drawable(letter: str) -> bool:
    return letter.isprintable() and unicodedata.category(letter) != "Cn"


def fit_middle(text: str, width: float, size: float) -> str:
    """The text on one line of `width` inches, its middle cut; ends tell file names apart."""
    text = fit(text, 1000.0, size)
    kept = len(text)
    short = text
    while measure(short, size) > width and kept > 2:
        kept -= 1
        short = f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"
    return short


def number(value: float) -> str:
    """A distance or a loss in three significant digits, or whole from 100 on."""
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def name_of(code: int, class_names: Sequence[str]) -> str:
    """The name of a class code; "unknown" for -1."""
    if code >= len(class_names):
        raise InputError(
            f"class_names must name every label, got {len(class_names)} names and label {code}. "
            "Give the class_names of the whole source, not of a part."
        )
    return str(class_names[code]) if code >= 0 else "unknown"


def value_limits(*items: Tensor) -> tuple[float, float]:
    """Common limits for line plots of vectors, a little wider than the values."""
    values = np.concatenate([_array(part).ravel() for part in items])
    if values.size == 0:
        return -1.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or 0.5
    return low - room, high + room


def _array(items: Tensor) -> NDArray[np.float32]:
    values = items.detach().cpu().float().nan_to_num()
    if items.dtype == torch.uint8:
        values = values / 255
    return np.asarray(values, dtype=np.float32)


def check_items(items: Tensor, name: str, extra: int = 1) -> None:
    """Refuse what cannot be drawn: after `extra` leading axes must come an image or a vector."""
    if not isinstance(items, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(items).__name__}. Use torch.as_tensor(...)."
        )
    shape = tuple(items.shape[extra:])
    if items.ndim < extra or len(shape) not in (1, 2, 3) or (len(shape) == 3 and shape[0] > 4):
        raise InputError(
            f"{name} must hold vectors (d,) or images (h, w) or (c, h, w) with c of 1 or 3, "
            f"got shape {tuple(items.shape)}. Move channels first, e.g. with .movedim(-1, -3)."
        )


def draw_item(
    axes: Axes,
    item: Tensor,
    limits: tuple[float, float],
    *,
    frame: str = NEUTRAL,
    faded: bool = False,
) -> None:
    """An image (values clipped to 0..1), or a vector as a line, in a frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    alpha = 0.35 if faded else 1.0
    values = _array(item)
    if values.ndim == 1:
        axes.plot(values, color=INK, linewidth=1.0, alpha=alpha)
        axes.set_ylim(limits)
        axes.margins(x=0.04)
    else:
        if values.ndim == 3:
            values = values[:3].transpose(1, 2, 0) if len(values) >= 3 else values[0]
        # Small images keep their pixels; large ones are smoothed instead of thinned.
        interpolation = "nearest" if max(values.shape[:2]) <= 96 else "antialiased"
        axes.imshow(
            values.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation=interpolation, alpha=alpha
        )
        axes.set_anchor("S")
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(frame)
        spine.set_linewidth(1.2 if frame == NEUTRAL else 2.4)
        spine.set_linestyle((0, (2, 1.5)) if faded else "-")
