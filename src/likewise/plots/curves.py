"""Pictures of numbers along an axis: distances, thresholds, rates."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor

from likewise._checks import check_count, check_finite, check_same
from likewise.metrics import Sweep, roc_curve
from likewise.plots._style import (
    CLASS_COLORS,
    DIFFERENT,
    INK,
    LINE_STYLES,
    MUTED,
    NOTE_SIZE,
    SAME,
    THIRD,
    canvas,
    fit,
    number,
    styled,
)

_MOST_POINTS = 2000  # more than a screen can show; a sweep may hold millions


@styled
def distance_histogram(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    threshold: float | None = None,
    *,
    bins: int = 40,
    distance_name: str = "distance",
) -> Figure:
    """How far apart same and different pairs are, in percent of each kind per bar.

    Bars of one kind add to 100. With a threshold, one bar ends exactly there, so that what lies
    left of the line is what is accepted, and the shares of both sides are written above it.

    Args:
        distances: one per pair.
        same: whether the pair truly belongs together.
        threshold: a pair is accepted if its distance is at most this.
        bins: about how many bars.
        distance_name: for the axis, e.g. "cosine distance".

    Raises:
        ValueError: without any pair, or if a distance is NaN or infinite.
    """
    check_same(same, len(distances))
    check_count("bins", bins)
    if len(distances) == 0:
        raise ValueError("distances must hold at least one pair, got none. Draw pairs first.")
    check_finite(distances, "distances")
    if threshold is not None:
        # In the precision of the distances, as matching compares.
        threshold = float(torch.tensor(threshold, dtype=distances.dtype))
    values = distances.detach().cpu().double().numpy()
    truth = same.cpu().numpy()
    edges = _edges(values, threshold, bins)

    figure = canvas(
        3.2,
        "Distances of same and of different pairs",
        "" if threshold is None else f"Vertical line: the threshold {number(threshold)}.",
    )
    axes = figure.subplots()
    kinds = [
        ("same", values[truth], SAME, "-", ""),
        ("different", values[~truth], DIFFERENT, "--", "////"),
    ]
    tallest = 0.0
    for kind, of_kind, color, line, hatch in kinds:
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
    axes.set(xlabel=distance_name, ylabel="percent of the pairs of a kind")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, tallest * 1.05)
    axes.grid(axis="y")
    if threshold is not None:
        axes.set_ylim(0, tallest * 1.5)  # room for both texts above the bars
        axes.axvline(threshold, color=INK, linestyle=(0, (4, 2)), linewidth=1.4, label="_threshold")
        accepted = {kind: of_kind <= threshold for kind, of_kind, *_ in kinds if len(of_kind)}
        for side, place in (("accepted", 0.015), ("rejected", 0.985)):
            lines = [f"← {side}" if side == "accepted" else f"{side} →"]
            for kind, is_accepted in accepted.items():
                share = 100 * float(is_accepted.mean())
                share = share if side == "accepted" else 100 - share
                lines.append(f"{share:.1f}% of {kind}")
            axes.text(
                place,
                0.985,
                "\n".join(lines),
                transform=axes.transAxes,
                ha="left" if side == "accepted" else "right",
                va="top",
                fontsize=NOTE_SIZE,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            )
    _legend(axes)
    return figure


@styled
def threshold_curves(
    sweep: Sweep, threshold: float | None = None, *, distance_name: str = "distance"
) -> Figure:
    """Precision, recall and F1 against the threshold.

    Args:
        sweep: accept counts at every distinct distance.
        threshold: drawn as a line, with the three values there in the note under the title.
        distance_name: the unit of the threshold, e.g. "cosine distance".
    """
    curves = {
        "precision": (sweep.precision, DIFFERENT, "--"),
        "recall": (sweep.recall, SAME, "-"),
        "F1": (sweep.f1, THIRD, "-."),
    }
    note = ""
    if threshold is not None:
        note = f"At the line ({number(threshold)}): "
        at = int(torch.searchsorted(sweep.thresholds, threshold, right=True)) - 1
        if at < 0:
            note += "nothing is accepted."
        else:
            note += ", ".join(f"{name} {float(v[at]):.3f}" for name, (v, *_) in curves.items())
            note += "."
    figure = canvas(3.2, "Precision, recall and F1 by threshold", note)
    axes = figure.subplots()
    shown = _thinned(len(sweep.thresholds))
    for name, (values, color, line) in curves.items():
        axes.plot(
            sweep.thresholds[shown].cpu().numpy(),
            values[shown].cpu().numpy(),
            color=color,
            linestyle=line,
            drawstyle="steps-post",
            label=name,
        )
    axes.set(xlabel=f"threshold ({distance_name})", ylabel="share (0 to 1)")
    _unit(axes, "y")
    axes.grid()
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle=(0, (4, 2)), linewidth=1.4, label="_threshold")
    _legend(axes)
    return figure


@styled
def roc(sweeps: Sweep | Mapping[str, Sweep], *, log_x: bool = False) -> Figure:
    """True accepts against false accepts over all thresholds, one curve per sweep.

    Args:
        sweeps: one, or several by the name to show, e.g. {"trained": …, "raw pixels": …}.
        log_x: spread the small false-accept rates; what lies below one false accept in all
            different pairs cannot be measured and is left out.

    Raises:
        ValueError: without any sweep.
    """
    named = {"": sweeps} if isinstance(sweeps, Sweep) else dict(sweeps)
    if not named:
        raise ValueError("sweeps must hold at least one sweep, got none. Make one with sweep().")
    least = 1 / max(sweep.different_total for sweep in named.values())
    figure = canvas(4.3, "True against false accepts (ROC)", "Up and left is better.")
    axes = figure.subplots()
    chance = np.geomspace(least, 1, 200) if log_x else np.array([0.0, 1.0])
    axes.plot(chance, chance, color=MUTED, linestyle=":", linewidth=1.2, label="by chance")
    for position, (name, sweep) in enumerate(named.items()):
        false_rate, true_rate = (rate.cpu().numpy() for rate in roc_curve(sweep))
        if log_x:
            measurable = false_rate > 0
            # The best true rate that costs no false accept is where the visible curve starts.
            start = true_rate[~measurable].max(initial=0.0)
            false_rate = np.concatenate([[1 / sweep.different_total], false_rate[measurable]])
            true_rate = np.concatenate([[start], true_rate[measurable]])
        shown = _thinned(len(false_rate), spread=false_rate if log_x else None)
        axes.plot(
            false_rate[shown],
            true_rate[shown],
            color=(SAME, DIFFERENT, THIRD, *CLASS_COLORS)[position % 13],
            linestyle=LINE_STYLES[position % len(LINE_STYLES)],
            label=fit(name, 3.8, NOTE_SIZE) if name else "_curve",
        )
    axes.set(
        xlabel="false accept rate (share of different pairs)",
        ylabel="true accept rate (share of same pairs)",
    )
    _unit(axes, "y")
    if log_x:
        axes.set_xscale("log")
        axes.set_xlim(min(least, 0.5), 1)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        _unit(axes, "x")
        axes.set_aspect("equal", adjustable="box")
    axes.grid()
    _legend(axes, columns=1 if max(map(len, named)) > 16 else 3)
    return figure


def _edges(values: NDArray[np.float64], threshold: float | None, bins: int) -> NDArray[np.float64]:
    """Bar edges over all the values, one of them just behind the threshold.

    Just behind, as a bar holds its left edge and not its right one, but the threshold itself is
    accepted, and calibrated thresholds are distances that occur.
    """
    points = values if threshold is None else np.append(values, threshold)
    low, high = float(points.min()), float(points.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / bins
    if threshold is None:
        return np.linspace(low, high, bins + 1)
    behind = float(np.nextafter(threshold, np.inf))
    left = math.ceil((behind - low) / width)
    right = max(1, math.ceil((high - behind) / width))
    edges: NDArray[np.float64] = behind + width * np.arange(-left, right + 1, dtype=np.float64)
    # Rounding must not push the extremes out of the outer bars.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def _thinned(length: int, spread: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """Positions of at most `_MOST_POINTS` points, first and last included.

    Evenly by position; with `spread` evenly by the logarithm of these ascending values, as
    a logarithmic axis shows the few small ones largest.
    """
    if length <= _MOST_POINTS:
        return np.arange(length)
    if spread is None:
        return np.unique(np.linspace(0, length - 1, _MOST_POINTS).round().astype(np.int64))
    wanted = np.geomspace(spread[0], spread[-1], _MOST_POINTS)
    found = np.searchsorted(spread, wanted).clip(0, length - 1)
    return np.unique(np.concatenate([[0], found, [length - 1]]))


def _unit(axes: Axes, which: str) -> None:
    """Limits of shares, with a hair of room so that lines at 0 and 1 are seen whole."""
    (axes.set_ylim if which == "y" else axes.set_xlim)(-0.02, 1.02)


def _legend(axes: Axes, columns: int = 3) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            columnspacing=1.4,
            handlelength=2.2,
        )
