"""What pictures of numbers along an axis share: limits, legend, the points that can be seen."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from likewise.plots.style import INK, MARGIN, NOTE_SIZE, line_height

MOST_POINTS = 2000  # more than a screen can show; a sweep may hold millions


def thinned(length: int) -> NDArray[np.int64]:
    """Positions of at most `MOST_POINTS` points, evenly spread, first and last included."""
    if length <= MOST_POINTS:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, MOST_POINTS).round().astype(np.int64))


def seen(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the points of a rising or falling curve that a screen can tell apart.

    The first and the last point in each cell of a fine grid; such a curve crosses at most
    `MOST_POINTS` / 2 of its cells, so about `MOST_POINTS` are left of however many.
    """
    if len(x) <= MOST_POINTS:
        return np.arange(len(x))
    moved = np.zeros(len(x) + 1, dtype=bool)
    moved[[0, -1]] = True
    for values in (x, y):
        low, high = float(values.min()), float(values.max())
        cells = np.floor((values - low) / ((high - low) or 1.0) * (MOST_POINTS // 4 - 1))
        moved[1:-1] |= np.diff(cells) != 0
    return np.flatnonzero(moved[1:] | moved[:-1])


def unit(axes: Axes, which: str) -> None:
    """Limits of shares, with a hair of room so that lines at 0 and 1 are seen whole."""
    (axes.set_ylim if which == "y" else axes.set_xlim)(-0.02, 1.02)


def legend(axes: Axes, columns: int = 3) -> None:
    """The names of the lines, above the axes."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            columnspacing=1.4,
            handlelength=2.2,
        )


def legend_of_all(figure: Figure, axes: Axes, height: float, columns: int) -> None:
    """Name the marks of all panels once, below the note.

    Args:
        figure: from `canvas`, with its axes arranged.
        axes: any of the panels, all of which hold the same marks.
        height: below the title strip, as given to `canvas`, with `legend_height` in it.
        columns: names in a row.
    """
    handles, names = axes.get_legend_handles_labels()
    taken = legend_height(len(names), columns)
    total = figure.get_size_inches()[1]
    legend = figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(MARGIN / figure.get_size_inches()[0], height / total),
        ncols=columns,
        columnspacing=1.2,
        handletextpad=0.4,
    )
    legend.set_in_layout(False)
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D) and handle.get_linestyle() == "None":
            handle.set_markersize(6)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0.0, 0.0, 1.0, (height - taken) / total))


def legend_height(names: int, columns: int) -> float:
    """Inches that `legend_of_all` takes."""
    return -(-names // columns) * 1.25 * line_height(NOTE_SIZE) + 0.08


def threshold_line(axes: Axes, threshold: float) -> None:
    """A vertical dashed line; what lies left of it is accepted."""
    axes.axvline(threshold, color=INK, linestyle=(0, (4, 2)), linewidth=1.4, label="_threshold")
