"""Pictures of distances: how far apart same and different pairs are."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from likewise._checks import check_count, check_finite, check_same
from likewise.errors import InputError, InputTypeError
from likewise.plots._axes import legend, threshold_line
from likewise.plots.style import (
    DIFFERENT,
    NOTE_SIZE,
    SAME,
    TEXT_SIZE,
    canvas,
    fit,
    number,
    styled,
)

_KINDS = (("same", SAME, "-", ""), ("different", DIFFERENT, "--", "////"))
_UNTOLD = (("compared", SAME, "-", ""),)  # where nothing tells which are the same


@styled
def distance_histogram(
    distances: Float[Tensor, " p"]
    | Mapping[str, tuple[Float[Tensor, " p"], Bool[Tensor, " p"] | None]],
    same: Bool[Tensor, " p"] | None = None,
    threshold: float | None = None,
    *,
    bins: int = 40,
    distance_name: str = "distance",
) -> Figure:
    """How far apart same and different pairs are, in percent of each kind per bar.

    Bars of one kind add to 100. With a threshold, one bar ends exactly there, so that what lies
    left of the line is what is accepted, and the shares of both sides are written above it.
    Several data sets stand one below the other, with the same bars and the same threshold.

    Args:
        distances: one per pair; or for several data sets their (distances, same) by the name to
            show, e.g. {"training people": (…, …), "new people": (…, …)}.
        same: whether the pair truly belongs together; None draws all pairs as of one kind.
            Stands in `distances` for several.
        threshold: a pair is accepted if its distance is at most this.
        bins: about how many bars.
        distance_name: for the axis, e.g. "cosine distance".

    Raises:
        InputError: without any pair, or if a distance is NaN or infinite.
    """
    named = _named(distances, same)
    check_count("bins", bins)
    if threshold is not None:
        check_finite(torch.tensor(float(threshold)).double(), "threshold")
    values = {name: d.detach().cpu().double().numpy() for name, (d, _) in named.items()}
    truths = {
        name: None if truth is None else truth.cpu().numpy() for name, (_, truth) in named.items()
    }
    # In the precision of the distances, as matching compares.
    limits = [_in_precision_of(d, threshold) for d, _ in named.values()]
    edges = _edges(np.concatenate(list(values.values())), limits, bins)

    figure = canvas(
        3.2 if len(named) == 1 else 0.4 + 2.1 * len(named),
        "Distances of pairs"
        if all(truth is None for truth in truths.values())
        else "Distances of same and of different pairs",
        "" if threshold is None else f"Vertical line: the threshold {number(threshold)}.",
    )
    panels = figure.subplots(len(named), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name, limit in zip(panels, named, limits, strict=True):
        # Three lines of text above the bars take more of a small panel.
        room = 1.5 if len(named) == 1 else 2.0
        _draw(axes, values[name], truths[name], limit, edges, room)
        legend(axes)
        if name:
            axes.set_title(fit(name, 4.1, TEXT_SIZE), loc="left", size=TEXT_SIZE, pad=17)
    panels[-1].set(xlabel=distance_name)
    if edges[-1] - edges[0] < 1e-3 * np.abs(edges).max():
        # Ticks would differ in their last digits only.
        panels[-1].ticklabel_format(axis="x", useOffset=True)
        panels[-1].xaxis.set_major_locator(MaxNLocator(4))
    if len(named) == 1:
        panels[0].set(ylabel="percent of the pairs of a kind")
    else:
        figure.supylabel("percent of the pairs of a kind", size=TEXT_SIZE)
    return figure


def _named(
    distances: object, same: object
) -> dict[str, tuple[Float[Tensor, " p"], Bool[Tensor, " p"] | None]]:
    """Every data set by its name, checked; a single one has no name."""
    if isinstance(distances, Mapping):
        if same is not None:
            raise InputTypeError(
                "same must stand beside the distances of several data sets, got one more. "
                "Give {name: (distances, same), ...}."
            )
        if not distances:
            raise InputError("distances must hold at least one data set, got none.")
        named = {str(name): given for name, given in distances.items()}
    else:
        named = {"": (distances, same)}
    for name, given in named.items():
        if not isinstance(given, Sequence) or len(given) != 2:
            raise InputTypeError(
                f"distances must hold (distances, same) for {name!r}, got {type(given).__name__}. "
                "Give {name: (distances, same), ...}."
            )
        argument = f"distances of {name!r}" if name else "distances"
        values, truth = given
        if not isinstance(values, Tensor) or values.ndim != 1:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"{argument} must be a tensor of shape (p,), one per pair, got {got}. "
                "Use Distance.paired, or .flatten()."
            )
        if truth is not None:
            check_same(truth, len(values), f"same of {name!r}" if name else "same")
        if len(values) == 0:
            raise InputError(f"{argument} must hold at least one pair, got none. Draw pairs first.")
        check_finite(values, argument)
    return named


def _draw(
    axes: Axes,
    values: NDArray[np.float64],
    truth: NDArray[np.bool_] | None,
    threshold: float | None,
    edges: NDArray[np.float64],
    room: float,
) -> None:
    """The bars of one data set, and what the threshold makes of them, in `room` above the bars."""
    tallest = 0.0
    shares: dict[str, float] = {}
    for kind, color, line, hatch in _UNTOLD if truth is None else _KINDS:
        of_kind = values if truth is None else values[truth == (kind == "same")]
        if len(of_kind) == 0:
            continue
        percent = 100 * np.histogram(of_kind, edges)[0] / len(of_kind)
        tallest = max(tallest, float(percent.max()))
        label = f"{kind} ({len(of_kind):,} pair{'s' * (len(of_kind) != 1)})"
        axes.stairs(percent, edges, fill=True, color=color, alpha=0.22, label="_fill")
        axes.stairs(percent, edges, edgecolor=color, linewidth=1.6, linestyle=line, label=label)
        if hatch:
            axes.stairs(
                percent, edges, fill=True, facecolor="none", edgecolor=color, linewidth=0,
                hatch=hatch, alpha=0.35, label="_hatch",
            )  # fmt: skip
        if threshold is not None:
            shares[kind] = 100 * float((of_kind <= threshold).mean())
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, tallest * 1.05)
    axes.grid(axis="y")
    if threshold is None:
        return
    axes.set_ylim(0, tallest * room)
    threshold_line(axes, threshold)
    for side, place in (("left", 0.015), ("right", 0.985)):
        lines = ["← accepted" if side == "left" else "rejected →"]
        for kind, share in shares.items():
            lines.append(f"{share if side == 'left' else 100 - share:.1f}% of {kind}")
        axes.text(
            place,
            0.985,
            "\n".join(lines),
            transform=axes.transAxes,
            ha=side,
            va="top",
            fontsize=NOTE_SIZE,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )


def _in_precision_of(distances: Tensor, threshold: float | None) -> float | None:
    if threshold is None or not distances.is_floating_point():
        return threshold
    return float(torch.tensor(threshold, dtype=distances.dtype))


def _edges(
    values: NDArray[np.float64], thresholds: Sequence[float | None], bins: int
) -> NDArray[np.float64]:
    """Bar edges over all the values, one of them just behind the threshold.

    Just behind, as a bar holds its left edge and not its right one, but the threshold itself is
    accepted, and calibrated thresholds are distances that occur.
    """
    drawn = [threshold for threshold in thresholds if threshold is not None]
    points = np.append(values, drawn)
    low, high = float(points.min()), float(points.max())
    magnitude = max(abs(low), abs(high))
    if high - low <= 1e-12 * magnitude + 1e-280:  # too close together for bars between them
        room = 0.5 * max(1.0, magnitude)
        low, high = low - room, high + room
    width = (high - low) / bins
    if not drawn:
        return np.linspace(low, high, bins + 1)
    behind = float(np.nextafter(max(drawn), np.inf))
    left = math.ceil((behind - low) / width)
    right = max(1, math.ceil((high - behind) / width))
    edges: NDArray[np.float64] = behind + width * np.arange(-left, right + 1, dtype=np.float64)
    # Rounding must not push the extremes out of the outer bars.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges
