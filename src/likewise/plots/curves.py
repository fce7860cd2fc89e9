"""Pictures of rates: what is accepted at every threshold, rightly and wrongly."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from scipy.special import ndtr, ndtri

from likewise.errors import InputError, InputTypeError
from likewise.metrics import Sweep, det_curve, equal_error_rate, roc_curve
from likewise.plots._axes import legend, seen, thinned, threshold_line, unit
from likewise.plots.style import (
    CLASS_COLORS,
    CLASS_MARKERS,
    DIFFERENT,
    LINE_STYLES,
    MUTED,
    NOTE_SIZE,
    SAME,
    THIRD,
    canvas,
    fit,
    measure,
    number,
    styled,
)

_COLORS = (SAME, DIFFERENT, THIRD, *CLASS_COLORS)
# Which rates get a tick, the first ones first, as far as there is room.
_TICKS = (
    *(0.5, 0.1, 0.01, 0.001, 0.2, 0.02, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
    *(0.05, 0.005, 0.9, 0.99, 0.8, 0.002, 0.3, 0.4, 0.7),
)


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
    shown = thinned(len(sweep.thresholds))
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
    unit(axes, "y")
    axes.grid()
    if threshold is not None:
        threshold_line(axes, threshold)
    legend(axes)
    return figure


@styled
def roc(sweeps: Sweep | Mapping[str, Sweep], *, log_x: bool = False) -> Figure:
    """True accepts against false accepts over all thresholds, one curve per sweep.

    Args:
        sweeps: one, or several by the name to show, e.g. {"trained": …, "raw pixels": …}.
        log_x: spread the small false-accept rates; what lies below one false accept in all
            different pairs cannot be measured and is left out.

    Raises:
        InputError: without any sweep.
    """
    named = _named(sweeps)
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
        shown = seen(np.log(false_rate) if log_x else false_rate, true_rate)
        axes.plot(
            false_rate[shown],
            true_rate[shown],
            **_look(position),
            label=fit(name, 3.8, NOTE_SIZE) if name else "_curve",
        )
    axes.set(
        xlabel="false accept rate (share of different pairs)",
        ylabel="true accept rate (share of same pairs)",
    )
    unit(axes, "y")
    if log_x:
        axes.set_xscale("log")
        axes.set_xlim(min(least, 0.5), 1)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        unit(axes, "x")
        axes.set_aspect("equal", adjustable="box")
    axes.grid()
    legend(axes, columns=1 if max(map(len, named)) > 16 else 3)
    return figure


@styled
def precision_recall(sweeps: Sweep | Mapping[str, Sweep]) -> Figure:
    """Precision against recall over all thresholds, one curve per sweep.

    A point for each threshold, with no straight lines between: precision does not change evenly
    from one to the next.

    Args:
        sweeps: one, or several by the name to show, e.g. {"trained": …, "raw pixels": …}.

    Raises:
        InputError: without any sweep.

    Example:
        >>> import torch
        >>> from likewise.metrics import sweep
        >>> counts = sweep(torch.tensor([0.1, 0.4, 0.6]), torch.tensor([True, False, True]))
        >>> precision_recall({"trained": counts}).get_suptitle()
        'Precision against recall'
    """
    named = _named(sweeps)
    figure = canvas(4.3, "Precision against recall", "Up and right is better.")
    axes = figure.subplots()
    for position, (name, sweep) in enumerate(named.items()):
        recall, precision = (rate.cpu().numpy() for rate in (sweep.recall, sweep.precision))
        shown = thinned(len(recall))
        axes.plot(
            recall[shown],
            precision[shown],
            drawstyle="steps-pre",
            **_look(position),
            label=fit(name, 3.8, NOTE_SIZE) if name else "_curve",
        )
    axes.set(xlabel="recall (share of same pairs accepted)", ylabel="precision (share of accepted)")
    unit(axes, "x")
    unit(axes, "y")
    axes.grid()
    legend(axes, columns=1 if max(map(len, named)) > 16 else 3)
    return figure


@styled
def det(sweeps: Sweep | Mapping[str, Sweep]) -> Figure:
    """False rejects against false accepts over all thresholds, one curve per sweep.

    Both axes are normal deviates, on which normally distributed distances give a straight
    line and small rates have room. The mark on each curve is its equal error rate. A rate of
    0 is drawn at half an error, as no sample can show less.

    Args:
        sweeps: one, or several by the name to show, e.g. {"trained": …, "raw pixels": …}.

    Raises:
        InputError: without any sweep.

    Source:
        Martin et al., "The DET Curve in Assessment of Detection Task Performance",
        Eurospeech 1997.

    Example:
        >>> import torch
        >>> from likewise.metrics import sweep
        >>> counts = sweep(torch.tensor([0.1, 0.4, 0.6]), torch.tensor([True, False, True]))
        >>> det({"trained": counts}).get_suptitle()
        'False rejects against false accepts (DET)'
    """
    named = _named(sweeps)
    equal = [equal_error_rate(sweep) for sweep in named.values()]
    labels = []
    for name, error in zip(named, equal, strict=True):
        told = f"EER {100 * error:.1f}%" if error >= 0.01 else f"EER {100 * error:.2g}%"
        room = 3.4 - measure(told, NOTE_SIZE)
        labels.append(f"{fit(name, room, NOTE_SIZE)}, {told}" if name else told)
    widest = max(measure(label, NOTE_SIZE) for label in labels)
    columns = 2 if len(named) > 3 and widest < 1.6 else 1
    figure = canvas(
        4.0 + 0.2 * math.ceil(len(named) / columns),
        "False rejects against false accepts (DET)",
        "Down and left is better. The mark is the equal error rate (EER).",
    )
    axes = figure.subplots()
    for position, (sweep, error) in enumerate(zip(named.values(), equal, strict=True)):
        accepted, rejected = (rate.cpu().numpy() for rate in det_curve(sweep))
        at = int(np.searchsorted(accepted - rejected, 0.0))
        halves = (0.5 / sweep.different_total, 0.5 / sweep.same_total)
        x, y = (
            # With the point of equal error, so that its mark lies on the line.
            ndtri(np.insert(rate, at, error).clip(half, 1 - half))
            for rate, half in zip((accepted, rejected), halves, strict=True)
        )
        shown = np.union1d(seen(x, y), at)
        look = _look(position)
        mark: dict[str, Any] = {
            "marker": CLASS_MARKERS[position % len(CLASS_MARKERS)],
            "markersize": 8,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        axes.plot(x[shown], y[shown], **look, label="_curve")
        # Not clipped: of perfect pairs it stands in the corner.
        axes.plot(x[at], y[at], **look, **mark, label="_mark", clip_on=False, zorder=3)
        axes.plot([], [], **look, **mark, label=labels[position])
    for which, total in (("x", "different_total"), ("y", "same_total")):
        least = min(0.05, *(0.5 / getattr(sweep, total) for sweep in named.values()))
        # A curve at chance or worse needs the upper half as well.
        _deviates(axes, which, least, 0.6 if max(equal) < 0.35 else 1 - least)
    ends = [-6.0, 6.0]
    axes.plot(ends, ends, color=MUTED, linestyle=":", linewidth=1.2, scalex=False, scaley=False)
    axes.set(
        xlabel="false accept rate (% of different pairs)",
        ylabel="false reject rate (% of same pairs)",
    )
    axes.grid()
    legend(axes, columns=columns)
    return figure


def _named(sweeps: object) -> dict[str, Sweep]:
    """Every sweep by its name; a single one has no name."""
    given = dict(sweeps) if isinstance(sweeps, Mapping) else {"": sweeps}
    if not given:
        raise InputError("sweeps must hold at least one sweep, got none. Make one with sweep().")
    named: dict[str, Sweep] = {}
    for name, counts in given.items():
        if not isinstance(counts, Sweep):
            raise InputTypeError(
                f"sweeps must be a Sweep, or Sweeps by name, got {type(counts).__name__}. "
                "Make one with sweep()."
            )
        named[str(name)] = counts
    return named


def _look(position: int) -> dict[str, Any]:
    """Color and line style of a curve."""
    return {
        "color": _COLORS[position % len(_COLORS)],
        "linestyle": LINE_STYLES[position % len(LINE_STYLES)],
    }


def _deviates(axes: Axes, which: str, least: float, most: float) -> None:
    """Limits and ticks of an axis of normal deviates, from one rate to another."""
    low, high = float(ndtri(least)), float(ndtri(most))
    inches = 3.9 if which == "x" else 3.4  # about the length of the axis
    ticks: dict[float, float] = {}  # the room that each takes, by its place
    for rate in _TICKS:
        place = float(ndtri(rate))
        size = measure(_percent(place), NOTE_SIZE) + 0.12 if which == "x" else 0.2
        size *= (high - low) / inches
        if low <= place <= high and all(
            abs(place - other) >= (size + taken) / 2 for other, taken in ticks.items()
        ):
            ticks[place] = size
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    set_limits: Callable[[float, float], object] = axes.set_xlim if which == "x" else axes.set_ylim
    hair = 0.01 * (high - low)  # so that lines at the border are seen whole
    set_limits(low - hair, high + hair)
    axis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))


def _percent(deviate: float) -> str:
    return f"{100 * ndtr(deviate):.6f}".rstrip("0").rstrip(".")
