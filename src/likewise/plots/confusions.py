"""Pictures of confusion: what each class was taken for."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from likewise.errors import InputError
from likewise.intervals import Estimate
from likewise.plots.style import GRID, INK, NOTE_SIZE, WIDTH, canvas, fit, measure, styled

# Steep at the start: a confusion of a few percent must be seen.
_BLUES = LinearSegmentedColormap.from_list(
    "likewise",
    [(0, "#ffffff"), (0.02, "#dcebf5"), (0.2, "#a9cfe6"), (0.6, "#0072b2"), (1, "#00365a")],
)
_OUTLINE = "#c9d0d6"
_MOST_NUMBERED = 20  # classes; beyond, numbers in the cells would be too small to read
_MOST_NAMED = 60  # classes; beyond, only every few rows are named


class Confusion(Protocol):
    """What `confusion` reads of a matching result."""

    @property
    def confusion(self) -> Int[Tensor, "c c+1"]:
        """Counts; rows are true classes, the last column is unknown."""

    @property
    def class_names(self) -> Sequence[str]:
        """One name per row."""

    @property
    def accuracy(self) -> Estimate | None:
        """Told in the note."""


@styled
def confusion(result: Confusion) -> Figure:
    """What each true class was taken for, in percent of its row; the last column is unknown.

    Up to 20 classes the numbers stand in the cells (empty is none at all, 0 less than half a
    percent). Rows without any item are hatched.

    Args:
        result: a matching result.

    Raises:
        InputError: if the counts are not of shape (c, c + 1), or names are missing.
    """
    counts = torch.as_tensor(result.confusion).cpu()
    names = [str(name) for name in result.class_names]
    c = len(names)
    if c == 0 or counts.shape != (c, c + 1):
        raise InputError(
            f"confusion must have shape (c, c + 1) for c = {c} class names, at least one, "
            f"got {tuple(counts.shape)}. Give the result of evaluate_matching."
        )
    totals = counts.sum(dim=1)
    percent = (100 * counts.double() / totals.clamp(min=1)[:, None]).numpy()
    numbered = c <= _MOST_NUMBERED
    aside = max(1.0, c / 30)  # width of the unknown column in cells, so that it stays visible
    cell = max(0.36, min(0.7, 4.0 / (c + 1.3))) if numbered else min(0.2, 6.0 / c)
    room = max(measure(fit(name, 1.3, NOTE_SIZE), NOTE_SIZE) for name in names)
    turned = not _stand_level(names, cell)
    below = 0.45 + (max(room, measure("unknown", NOTE_SIZE)) if turned else 0.15)
    width = room + 0.75 + cell * (c + 1.3 * aside) + (0.0 if numbered else 1.0)
    note = "In percent of each true class."
    if result.accuracy is not None:
        note = f"Accuracy {result.accuracy}. {note}"
    title = "True classes and their matches"
    figure = canvas(cell * c + below + 0.15, title, note, width=max(WIDTH, width))
    axes = figure.subplots()

    known = np.arange(c + 1) - 0.5
    # The unknown column stands apart: it is an answer, but no class.
    unknown = known[-1] + aside * np.array([0.3, 1.3])
    for columns, part in ((known, percent[:, :c]), (unknown, percent[:, c:])):
        cells = axes.pcolormesh(columns, known, part, cmap=_BLUES, vmin=0, vmax=100)
        if numbered:
            cells.set(edgecolor=GRID, linewidth=0.6)
        cells.set_rasterized(True)  # many cells would make a heavy SVG
        frame = (columns[0], -0.5), columns[-1] - columns[0], c
        axes.add_patch(Rectangle(*frame, fill=False, edgecolor=_OUTLINE, linewidth=0.8))
    places = [*range(c), float(unknown.mean())]
    if numbered:
        for row, column in torch.nonzero(counts).tolist():
            _cell_number(axes, places[column], row, float(percent[row, column]))
    else:
        figure.colorbar(cells, ax=axes, label="percent of the true class", shrink=0.7)
    for row in torch.nonzero(totals == 0).flatten().tolist():
        axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor=_OUTLINE, hatch="///", lw=0)
    _name_classes(axes, names, places, cell, turned=turned)
    axes.set(xlabel="matched as", ylabel="true class")
    axes.set_xlim(-0.5, unknown[1])
    axes.set_ylim(c - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _cell_number(axes: Axes, x: float, y: float, percent: float) -> None:
    axes.text(
        x, y, f"{percent:.0f}", ha="center", va="center", fontsize=8.5,
        color="white" if percent >= 50 else INK,
    )  # fmt: skip


def _name_classes(
    axes: Axes, names: Sequence[str], places: Sequence[float], cell: float, *, turned: bool
) -> None:
    every = 1 if len(names) <= _MOST_NAMED else -(-len(names) // 40)
    every = max(every, int(np.ceil(1.15 * NOTE_SIZE / 72 / cell)))
    short = [fit(name, 1.3, NOTE_SIZE) for name in names]
    axes.set_yticks(places[:-1][::every], short[::every])
    columns, words = list(places[:-1][::every]), short[::every]
    while columns and (places[-1] - columns[-1]) * cell < 1.15 * NOTE_SIZE / 72:
        columns, words = columns[:-1], words[:-1]  # too close to "unknown"
    axes.set_xticks([*columns, places[-1]], [*words, "unknown"], rotation=90 if turned else 0)


def _stand_level(names: Sequence[str], cell: float) -> bool:
    """Whether the names of the columns have room side by side, "unknown" included."""
    widths = [measure(name, NOTE_SIZE) for name in names]
    half_unknown = measure("unknown", NOTE_SIZE) / 2
    return max(widths) <= 0.85 * cell and widths[-1] / 2 + half_unknown <= 1.2 * cell
