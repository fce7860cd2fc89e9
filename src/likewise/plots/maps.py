"""Pictures of classes among each other: confusion, and embeddings on a plane."""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from torch import Tensor

from likewise._checks import (
    check_choice,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
)
from likewise.intervals import Estimate
from likewise.plots._style import (
    CLASS_COLORS,
    CLASS_MARKERS,
    GRID,
    INK,
    MUTED,
    NOTE_SIZE,
    WIDTH,
    canvas,
    fit,
    measure,
    name_of,
    styled,
)

# Steep at the start: a confusion of a few percent must be seen.
_BLUES = LinearSegmentedColormap.from_list(
    "likewise",
    [(0, "#ffffff"), (0.02, "#dcebf5"), (0.2, "#a9cfe6"), (0.6, "#0072b2"), (1, "#00365a")],
)
_OUTLINE = "#c9d0d6"
_MOST_NUMBERED = 20  # classes; beyond, numbers in the cells would be too small to read
_MOST_NAMED = 60  # classes; beyond, only every few rows are named
_MOST_IN_LEGEND = 10  # classes; beyond, names stand on the points
_LARGEST_TSNE = 5000  # points; t-SNE takes minutes beyond


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
        ValueError: if the counts are not of shape (c, c + 1), or names are missing.
    """
    counts = torch.as_tensor(result.confusion).cpu()
    names = [str(name) for name in result.class_names]
    c = len(names)
    if c == 0 or counts.shape != (c, c + 1):
        raise ValueError(
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


def embedding_points(
    embeddings: Float[Tensor, "n d"], method: str = "auto", seed: int = 0
) -> tuple[Float[Tensor, "n 2"], str]:
    """Points (n, 2) on a plane for the embeddings, and what one axis of it is called.

    Two-dimensional embeddings stay as they are, whatever the method. "pca" keeps the two
    directions of largest variance; "tsne" keeps neighbours together, but its distances between
    groups mean nothing; "auto" is t-SNE from 50 to 5,000 points, otherwise PCA.

    Args:
        embeddings: one per row.
        method: "auto", "pca" or "tsne".
        seed: of t-SNE; the same seed gives the same points on one machine.

    Raises:
        ValueError: with fewer than two embeddings of d ≠ 2 dimensions, or values that are not
            finite.

    Source:
        Van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 2008 (scikit-learn's, started
        from PCA).

    Example:
        >>> points, axis = embedding_points(torch.eye(4), "pca")
        >>> points.shape, axis
        (torch.Size([4, 2]), 'principal component')
    """
    check_embeddings(embeddings)
    check_choice("method", method, ("auto", "pca", "tsne"))
    check_finite(embeddings, "embeddings")
    n, d = embeddings.shape
    values = embeddings.detach().cpu().float()
    if d == 2:
        return values, "embedding dimension"
    if n < 2:
        raise ValueError(f"embeddings must hold at least 2 rows, got {n}. Add items.")
    if method == "tsne" or (method == "auto" and 50 <= n <= _LARGEST_TSNE):
        from sklearn.manifold import TSNE

        tsne = TSNE(perplexity=min(30.0, (n - 1) / 3), init="pca", random_state=seed)
        # PCA needs two directions to start from.
        wide = values if d > 1 else torch.cat([values, torch.zeros_like(values)], dim=1)
        return torch.from_numpy(tsne.fit_transform(wide.numpy())).float(), "t-SNE dimension"
    # Not sklearn's PCA: it gives one component only for n = 2 rows or d = 1.
    centered = values.double() - values.double().mean(dim=0)
    _, _, directions = torch.linalg.svd(centered, full_matrices=False)
    points = torch.zeros(n, 2, dtype=torch.float64)
    points[:, : min(2, len(directions))] = centered @ directions[:2].T
    return points.float(), "principal component"


@styled
def embedding_map(
    points: Float[Tensor, "n 2"],
    labels: Int[Tensor, " n"],
    class_names: Sequence[str],
    *,
    axis_title: str = "embedding dimension",
    unseen: Collection[int] = (),
    most: int = 5000,
    seed: int = 0,
) -> Figure:
    """Each item as a point, its class as colour and marker.

    Up to 10 classes are named in a legend; of more, names stand at the middle (median) of their
    points, largest classes first, and names that would overlap are left out.

    Args:
        points: from `embedding_points`, or two-dimensional embeddings.
        labels: class codes, -1 for unknown.
        class_names: of the label codes.
        axis_title: from `embedding_points`.
        unseen: class codes that were not trained on, drawn hollow.
        most: points drawn; of more, an even random choice.
        seed: of that choice.

    Raises:
        ValueError: if points are not of shape (n, 2), not finite, or none at all.
    """
    check_embeddings(points, "points")
    n = len(points)
    if n == 0 or points.shape[1] != 2:
        raise ValueError(
            f"points must have shape (n, 2) with n >= 1, got {tuple(points.shape)}. "
            "Make them with embedding_points()."
        )
    check_finite(points, "points")
    check_labels(labels, n)
    check_count("most", most)
    chosen = torch.arange(n)
    if n > most:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most]
    places, codes = points.detach().cpu()[chosen].numpy(), labels.cpu()[chosen].numpy()
    present, sizes = np.unique(codes, return_counts=True)
    in_legend = len(present) <= _MOST_IN_LEGEND

    note = [f"{min(n, most):,} of {n:,} items." if n > most else f"{n:,} items."]
    if len(unseen):
        note.append("Hollow: classes not trained on.")
    if axis_title.startswith("t-SNE"):
        note.append("Near neighbors are meaningful, distances between groups are not.")
    if not in_legend:
        note.append("Names stand amid their class, where there is room.")
    title = f"Embeddings of {len(present):,} class{'es' * (len(present) != 1)}"
    figure = canvas(4.6, title, " ".join(note))
    axes = figure.subplots()
    size = 5.5 if len(chosen) <= 500 else 4.0 if len(chosen) <= 2000 else 2.8
    for position, code in enumerate(present.tolist()):
        color = MUTED if code < 0 else CLASS_COLORS[position % len(CLASS_COLORS)]
        turn = position + position // len(CLASS_COLORS)  # another pairing in each round
        hollow = code in unseen or code < 0
        axes.plot(
            *places[codes == code].T,
            linestyle="none",
            marker="x" if code < 0 else CLASS_MARKERS[turn % len(CLASS_MARKERS)],
            markersize=size,
            markerfacecolor="none" if hollow else color,
            markeredgecolor=color if hollow else "white",
            markeredgewidth=0.9 if hollow else 0.3,
            alpha=0.85,
            label=fit(name_of(code, class_names), 1.4, NOTE_SIZE),
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=f"{axis_title} 1 (no unit)", ylabel=f"{axis_title} 2 (no unit)")
    axes.grid()
    if in_legend:
        _map_legend(axes, [name_of(int(code), class_names) for code in present])
    else:
        order = np.argsort(-sizes, kind="stable")
        middles = {int(code): np.median(places[codes == code], axis=0) for code in present[order]}
        _name_groups(figure, axes, middles, class_names)
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


def _map_legend(axes: Axes, names: Sequence[str]) -> None:
    widest = max(measure(fit(name, 1.4, NOTE_SIZE), NOTE_SIZE) for name in names)
    columns = max(1, min(len(names), 5, int(4.3 / (widest + 0.42))))
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        columnspacing=1.0,
        handletextpad=0.2,
        handlelength=1.2,
    )
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):
            handle.set_markersize(6)


def _name_groups(
    figure: Figure, axes: Axes, middles: dict[int, NDArray[np.float32]], class_names: Sequence[str]
) -> None:
    figure.draw_without_rendering()  # settles the layout, so that texts can be measured
    taken: list[Bbox] = []
    for code, (x, y) in middles.items():
        text = axes.text(
            x,
            y,
            fit(name_of(code, class_names), 1.2, NOTE_SIZE),
            ha="center",
            va="center",
            fontsize=NOTE_SIZE,
            weight="bold",
            color=INK,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        text.set_in_layout(False)
        box = text.get_window_extent().padded(4)
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
