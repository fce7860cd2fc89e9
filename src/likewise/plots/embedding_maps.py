"""Pictures of embeddings on a plane."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
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
from likewise.errors import InputError
from likewise.plots._axes import legend_height, legend_of_all
from likewise.plots.style import (
    CLASS_COLORS,
    CLASS_MARKERS,
    INK,
    MUTED,
    NOTE_SIZE,
    TEXT_SIZE,
    WIDTH,
    canvas,
    fit,
    measure,
    name_of,
    styled,
)

_MOST_IN_LEGEND = 10  # classes; beyond, names stand on the points


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
    """Each item as a point, its class as color and marker.

    Up to 10 classes are named in a legend; of more, names stand at the middle (median) of their
    points, largest classes first, and names that would overlap are left out.

    Args:
        points: from `embedding_points`, or two-dimensional embeddings.
        labels: class codes, -1 for unknown.
        class_names: Names of the label codes.
        axis_title: from `embedding_points`.
        unseen: class codes that were not trained on, drawn hollow.
        most: points drawn; of more, an even random choice.
        seed: Seed of that choice.

    Raises:
        InputError: if points are not of shape (n, 2), not finite, or none at all.
    """
    part = _chosen(points, labels, most, seed)
    present = np.unique(part.codes)
    note = [
        f"{len(part.codes):,} of {part.given:,} items."
        if part.given > most
        else f"{part.given:,} items."
    ]
    note += _notes(axis_title, unseen, present)
    title = f"Embeddings of {len(present):,} class{'es' * (len(present) != 1)}"
    figure = canvas(4.6, title, " ".join(note))
    axes = figure.subplots()
    _scatter(axes, part, present, class_names, unseen)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=f"{axis_title} 1 (no unit)", ylabel=f"{axis_title} 2 (no unit)")
    axes.grid()
    if len(present) <= _MOST_IN_LEGEND:
        _map_legend(axes, [name_of(int(code), class_names) for code in present])
    else:
        _name_groups(figure, axes, part, class_names)
    return figure


@styled
def embedding_maps(
    parts: Mapping[str, tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]],
    class_names: Sequence[str],
    *,
    axis_title: str = "embedding dimension",
    unseen: Collection[int] = (),
    columns: int = 2,
    shared: str = "all",
    most: int = 5000,
    seed: int = 0,
) -> Figure:
    """Several maps side by side on shared axes, such as train and test, or several models.

    A class has one color and marker in all of them. Otherwise as `embedding_map`.

    Args:
        parts: by title: points and class codes. Points of one plane, see `embedding_points`, or
            two-dimensional embeddings.
        class_names: Names of the label codes.
        axis_title: from `embedding_points`.
        unseen: class codes that were not trained on, drawn hollow.
        columns: maps in a row.
        shared: "all" maps have the same axes, or those of a "row", when rows differ in unit.
        most: points drawn in each; of more, an even random choice.
        seed: Seed of that choice.

    Raises:
        InputError: without any part, or as `embedding_map`.

    Example:
        >>> near, far = torch.rand(2, 9, 2)
        >>> figure = embedding_maps(
        ...     {"train": (near, torch.arange(9)), "test": (far + 3, torch.arange(9))}, "abcdefghi"
        ... )
        >>> left, right = figure.axes
        >>> left.get_xlim() == right.get_xlim()
        True
    """
    if not parts:
        raise InputError("parts must hold at least one map, got none.")
    check_count("columns", columns)
    check_choice("shared", shared, ("all", "row"))
    drawn = [_chosen(points, labels, most, seed) for points, labels in parts.values()]
    present = np.unique(np.concatenate([part.codes for part in drawn]))
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    side = (WIDTH - 0.9) / 2 if columns > 1 else WIDTH - 1.2
    note = " ".join(
        [
            "Shared axes." if shared == "all" else "Shared axes in a row.",
            *_notes(axis_title, unseen, present),
        ]
    )
    title = f"Embeddings of {len(present):,} class{'es' * (len(present) != 1)}"
    in_legend = len(present) <= _MOST_IN_LEGEND
    height = rows * (side + 0.35) + 0.45
    legend_columns = _legend_columns([name_of(int(code), class_names) for code in present])
    height += legend_height(len(present), legend_columns) if in_legend else 0.0
    figure = canvas(height, title, note, width=max(WIDTH, columns * side + 0.9))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (axes, name, part) in enumerate(zip(panels, parts, drawn, strict=False)):
        _scatter(axes, part, present, class_names, unseen)
        row = place // columns
        together = drawn if shared == "all" else drawn[row * columns : (row + 1) * columns]
        middle, reach = _square(together)
        axes.set(
            xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach)
        )
        axes.set_aspect("equal", adjustable="box")
        words = f"{name} ({len(part.codes):,} items)"
        room = side - 0.25  # beside the numbers of the axis
        axes.set_title(fit(words, room, TEXT_SIZE, lines=2), loc="left", size=TEXT_SIZE)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if place + columns >= len(drawn):
            axes.set_xlabel(f"{axis_title} 1")
        if place % columns == 0:
            axes.set_ylabel(f"{axis_title} 2")
        axes.grid()
    for axes in panels[len(drawn) :]:
        axes.remove()
    if in_legend:
        legend_of_all(figure, panels[0], height, legend_columns)
    else:
        for axes, part in zip(panels, drawn, strict=False):
            _name_groups(figure, axes, part, class_names)
    return figure


class _Part(NamedTuple):
    """What is drawn of a map."""

    places: NDArray[np.float32]  # (n, 2)
    codes: NDArray[np.int64]  # (n,)
    given: int


def check_points(points: Tensor, labels: Tensor) -> None:
    """Refuse anything but finite points (n, 2) of a map, with a label for each.

    Raises:
        InputError: another shape, NaN or infinity.
    """
    check_embeddings(points, "points")
    if len(points) == 0 or points.shape[1] != 2:
        raise InputError(
            f"points must have shape (n, 2) with n >= 1, got {tuple(points.shape)}. "
            "Make them with plots.embedding_points()."
        )
    check_finite(points, "points")
    check_labels(labels, len(points))


def _chosen(points: Tensor, labels: Tensor, most: int, seed: int) -> _Part:
    check_points(points, labels)
    n = len(points)
    check_count("most", most)
    chosen = torch.arange(n)
    if n > most:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most]
    places = points.detach().cpu().float()[chosen].numpy()
    return _Part(places, labels.cpu()[chosen].numpy(), n)


def _notes(axis_title: str, unseen: Collection[int], present: NDArray[np.int64]) -> list[str]:
    note = []
    if len(unseen):
        note.append("Hollow: classes not trained on.")
    if axis_title.startswith(("t-SNE", "UMAP")):
        note.append("Near neighbors are meaningful, distances between groups are not.")
    if len(present) > _MOST_IN_LEGEND:
        note.append("Names stand amid their class, where there is room.")
    return note


def _scatter(
    axes: Axes,
    part: _Part,
    present: NDArray[np.int64],
    class_names: Sequence[str],
    unseen: Collection[int],
) -> None:
    count = len(part.codes)
    size = 5.5 if count <= 500 else 4.0 if count <= 2000 else 2.8
    for position, code in enumerate(present.tolist()):
        look = class_look(position)
        color, marker = (MUTED, "x") if code < 0 else look
        hollow = code in unseen or code < 0
        axes.plot(
            *part.places[part.codes == code].T,
            linestyle="none",
            marker=marker,
            markersize=size,
            markerfacecolor="none" if hollow else color,
            markeredgecolor=color if hollow else "white",
            markeredgewidth=0.9 if hollow else 0.3,
            alpha=0.85,
            label=fit(name_of(code, class_names), 1.4, NOTE_SIZE),
        )


def class_look(position: int) -> tuple[str, str]:
    """Color and marker of the class at a position; another pairing in each round of colors."""
    turn = position + position // len(CLASS_COLORS)
    return CLASS_COLORS[position % len(CLASS_COLORS)], CLASS_MARKERS[turn % len(CLASS_MARKERS)]


def _square(parts: Sequence[_Part]) -> tuple[NDArray[np.float32], float]:
    """Middle and half side of the square that holds all points, with a little room."""
    places = np.concatenate([part.places for part in parts])
    low, high = places.min(axis=0), places.max(axis=0)
    return (low + high) / 2, float((high - low).max() / 2 * 1.06 or 1.0)


def _map_legend(axes: Axes, names: Sequence[str]) -> None:
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=_legend_columns(names),
        columnspacing=1.0,
        handletextpad=0.2,
        handlelength=1.2,
    )
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):
            handle.set_markersize(6)


def _legend_columns(names: Sequence[str]) -> int:
    widest = max(measure(fit(name, 1.4, NOTE_SIZE), NOTE_SIZE) for name in names)
    return max(1, min(len(names), 5, int(4.3 / (widest + 0.42))))


def _name_groups(figure: Figure, axes: Axes, part: _Part, class_names: Sequence[str]) -> None:
    present, sizes = np.unique(part.codes, return_counts=True)
    figure.draw_without_rendering()  # settles the layout, so that texts can be measured
    taken: list[Bbox] = []
    for code in present[np.argsort(-sizes, kind="stable")].tolist():
        x, y = np.median(part.places[part.codes == code], axis=0)
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
        # Moved inwards where it would lie over the ticks, or beyond the figure.
        low, high = np.asarray(axes.bbox.min), np.asarray(axes.bbox.max)
        inside = (low - box.min).clip(min=0) + (high - box.max).clip(max=0)
        x, y = axes.transData.inverted().transform(axes.transData.transform((x, y)) + inside)
        text.set_position((float(x), float(y)))
        box = box.translated(*inside)
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
