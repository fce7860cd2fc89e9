"""Pictures of open sets: known queries missed against unknowns accepted."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from likewise.errors import InputError, InputTypeError
from likewise.metrics import Sweep
from likewise.plots._axes import legend, seen
from likewise.plots.style import (
    CLASS_COLORS,
    DIFFERENT,
    LINE_STYLES,
    NOTE_SIZE,
    SAME,
    THIRD,
    canvas,
    fit,
    number,
    styled,
)

_COLORS = (SAME, DIFFERENT, THIRD, *CLASS_COLORS)


@styled
def fnir_curve(sweeps: Sweep | Mapping[str, Sweep], *, threshold: float | None = None) -> Figure:
    """False negatives among known queries against false positives among unknowns.

    One curve per sweep, over all thresholds, on logarithmic axes. What lies left of one
    unknown among all, or below one known query, cannot be measured: the curve starts at one
    unknown, and 0 missed queries are drawn as half a query.

    Args:
        sweeps: Results of `evaluation.evaluate_open_set`, one, or several by the name to show.
        threshold: marked on each curve, with both rates in the note if there is one curve.

    Raises:
        InputError: without any sweep.
        InputTypeError: something that is no sweep.

    Source:
        Grother, Ngan & Hanaoka, "Face Recognition Vendor Test Part 2: Identification", NISTIR
        8271, 2019.

    Example:
        >>> import torch
        >>> from likewise.metrics import sweep
        >>> counts = sweep(torch.tensor([0.1, 0.4, 0.6]), torch.tensor([True, False, True]))
        >>> fnir_curve(counts).get_suptitle()
        'Known missed against unknowns accepted'
    """
    named = dict(sweeps) if isinstance(sweeps, Mapping) else {"": sweeps}
    if not named:
        raise InputError("sweeps must hold at least one sweep, got none. Give result.sweep.")
    for counts in named.values():
        if not isinstance(counts, Sweep):
            raise InputTypeError(
                f"sweeps must be a Sweep, or Sweeps by name, got {type(counts).__name__}. "
                "Give the sweep of evaluate_open_set(...)."
            )
    note = "Down and left is better."
    if threshold is not None:
        note += f" The mark is the threshold ({number(threshold)})"
        told = [_at(counts, threshold) for counts in named.values()]
        if len(told) == 1:
            note += f": {_percent(told[0][0])} of unknowns accepted"
            note += f", {_percent(told[0][1])} of known queries missed"
        note += "."
    figure = canvas(4.2, "Known missed against unknowns accepted", note)
    axes = figure.subplots()
    for position, (name, counts) in enumerate(named.items()):
        positives, negatives = _curve(counts)
        shown = seen(np.log(positives), np.log(negatives))
        look: dict[str, Any] = {
            "color": _COLORS[position % len(_COLORS)],
            "linestyle": LINE_STYLES[position % len(LINE_STYLES)],
        }
        axes.plot(
            positives[shown],
            negatives[shown],
            label=fit(str(name), 3.8, NOTE_SIZE) if name else "_curve",
            **look,
        )
        if threshold is not None:
            x, y = _at(counts, threshold)
            least_x, least_y = 1 / counts.different_total, 0.5 / counts.to_be_found
            axes.plot(
                [max(x, least_x)],
                [max(y, least_y)],
                marker="o",
                markersize=7,
                markeredgecolor="white",
                color=look["color"],
                label="_mark",
                clip_on=False,
                zorder=3,
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="false positive rate, FPIR (share of unknowns)",
        ylabel="false negative rate, FNIR (share of known)",
    )
    drawn = [line.get_data() for line in axes.lines]
    for axis, limit, place in ((axes.xaxis, axes.set_xlim, 0), (axes.yaxis, axes.set_ylim, 1)):
        least = min(0.5, *(float(np.min(data[place])) for data in drawn))
        limit(least * 0.93, 1.07)  # a hair of room, so that lines at the border are seen whole
        _decades(axis)
    axes.grid()
    legend(axes, columns=1 if max(len(str(name)) for name in named) > 16 else 3)
    return figure


def _curve(counts: Sweep) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both rates, from one unknown accepted on; missed queries are half a query at least."""
    wrong = counts.false_accepts.cpu().numpy()
    missed = counts.to_be_found - counts.true_accepts.cpu().numpy()
    costly = wrong > 0
    # The best rate that costs no unknown is where the visible curve starts.
    free = missed[~costly].min(initial=counts.to_be_found)
    return (
        np.concatenate([[1], wrong[costly]]) / counts.different_total,
        np.concatenate([[free], missed[costly]]).clip(min=0.5) / counts.to_be_found,
    )


def _at(counts: Sweep, threshold: float) -> tuple[float, float]:
    accepts = int((counts.thresholds <= threshold).sum())
    if accepts == 0:
        return 0.0, 1.0
    return (
        float(counts.false_accept_rate[accepts - 1]),
        1 - float(counts.recall[accepts - 1]),
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g}%"


def _decades(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
