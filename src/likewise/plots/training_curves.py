"""Pictures of what an encoder is trained on and how that went."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from likewise._checks import check_count
from likewise.errors import InputError
from likewise.plots._axes import legend_height, legend_of_all
from likewise.plots.style import (
    CLASS_COLORS,
    DIFFERENT,
    LINE_STYLES,
    MUTED,
    NOTE_SIZE,
    SAME,
    TEXT_SIZE,
    THIRD,
    WIDTH,
    canvas,
    fit,
    number,
    styled,
)

_COLORS = (SAME, DIFFERENT, THIRD, *CLASS_COLORS)  # of runs
_MOST_IN_PAIRS = 6  # panels; more stand in four columns, so that all are seen at once


@styled
def items_per_class(counts: Mapping[str, int], *, most: int = 30) -> Figure:
    """One bar per class, the largest on top; of many classes the largest and the smallest ones.

    Args:
        counts: items by class name.
        most: bars drawn; of more classes two thirds are the largest and a third the smallest,
            with a line between them that says what is left out.

    Raises:
        InputError: without any class.
    """
    check_count("most", most, least=3)
    if not counts:
        raise InputError("counts must hold at least one class, got none. Load some data first.")
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))
    top = len(ranked) if len(ranked) <= most else most - most // 3
    bottom = 0 if len(ranked) <= most else most // 3
    hidden = ranked[top : len(ranked) - bottom]
    total = sum(counts.values())
    title = f"{total:,} items in {len(ranked):,} class{'es' * (len(ranked) != 1)}"
    note = ""
    if hidden:
        note = f"The {top} largest and the {bottom} smallest classes."
    bars = ranked[:top] + ranked[len(ranked) - bottom :]
    places = [*range(top), *range(top + 1, top + 1 + bottom)]
    figure = canvas(0.62 + 0.21 * (len(bars) + bool(hidden)), title, note)
    axes = figure.subplots()
    axes.barh(places, [count for _, count in bars], color=SAME, height=0.72)
    largest = max(1, ranked[0][1])
    for place, (_, count) in zip(places, bars, strict=True):
        axes.text(count + 0.012 * largest, place, f"{count:,}", va="center", fontsize=NOTE_SIZE)
    if hidden:
        between = f"… {len(hidden):,} more, {hidden[-1][1]:,} to {hidden[0][1]:,} items each"
        axes.text(
            0.012 * largest,
            top,
            between,
            va="center",
            fontsize=NOTE_SIZE,
            color=MUTED,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    names = [fit(str(name), 1.7, NOTE_SIZE) for name, _ in bars]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(0, largest * 1.14)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("items")
    axes.grid(axis="x")
    return figure


@styled
def training_curves(
    records: Sequence[Mapping[str, object]] | Mapping[str, Sequence[Mapping[str, object]]],
) -> Figure:
    """Loss and every other number of the records against the epoch, a small panel each.

    Several runs share the panels, a color and line style each. Epochs that lack a number, or
    where it is NaN, are gaps. Of a single run the last value stands above the panel.

    Args:
        records: one per epoch, as `fit` returns them; "epoch" is the axis (else 1, 2, …). Or
            those of several runs by name.

    Raises:
        InputError: without any record, or without any number in them.

    Example:
        >>> runs = {"triplet": [{"loss": 0.2}, {"loss": 0.1}], "softmax": [{"loss": 2.3}]}
        >>> training_curves(runs).get_suptitle()
        'Training, 2 runs of up to 2 epochs'
    """
    if isinstance(records, Mapping):
        if not records:
            raise InputError("records must hold at least one run, got none. Train first.")
        runs = {str(name): _run(each, f"records of {name!r}") for name, each in records.items()}
    else:
        runs = {"": _run(records, "records")}
    several = isinstance(records, Mapping)
    facts = list(dict.fromkeys(fact for _, found in runs.values() for fact in found))
    facts.sort(key=lambda fact: fact != "loss")  # loss first, then as recorded

    columns = 1 if len(facts) == 1 else 2 if len(facts) <= _MOST_IN_PAIRS else 4
    rows = -(-len(facts) // columns)
    count = max(len(epochs) for epochs, _ in runs.values())
    title = f"Training, {count} epoch{'s' * (count != 1)}"
    note = "Blue: the value after the last epoch that has one."
    if several:
        title = f"Training, {len(runs)} run{'s' * (len(runs) != 1)} of up to {title[10:]}"
        note = ""
    height = 2.9 if columns == 1 else 1.95 * rows
    height += legend_height(len(runs), max(2, columns)) if several else 0.0
    figure = canvas(height, title, note, width=WIDTH * max(1, columns / 2))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    ends = [epoch for epochs, _ in runs.values() for epoch in (min(epochs), max(epochs))]
    room = max(0.5, 0.04 * (max(ends) - min(ends)))
    for axes, fact in zip(panels, facts, strict=False):
        for position, (run, (epochs, found)) in enumerate(runs.items()):
            recorded = np.array(found.get(fact, [math.nan] * len(epochs)))
            known = ~np.isnan(recorded)
            axes.plot(
                np.array(epochs)[known],
                recorded[known],
                color=_COLORS[position % len(_COLORS)],
                linestyle=LINE_STYLES[position % len(LINE_STYLES)],
                marker="o",
                markersize=3.5 if known.sum() <= 40 and len(runs) <= 5 else 0.0,
                linewidth=1.8,
                label=fit(run, 1.9, NOTE_SIZE),
            )
            if not several:
                _last_value(axes, float(recorded[known][-1]))
        words = fit(fact.replace("_", " "), 4.2 if columns == 1 else 1.75, TEXT_SIZE)
        axes.set_title(words, loc="left", size=TEXT_SIZE, pad=6 if several else 17)
        axes.grid(axis="y")
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        axes.set_xlabel("epoch")
    for axes in panels[len(facts) :]:
        axes.remove()
    if several:
        legend_of_all(figure, panels[0], height, max(2, columns))
    return figure


def _run(
    records: Sequence[Mapping[str, object]], argument: str
) -> tuple[list[float], dict[str, list[float]]]:
    """The epochs of a run, and every number of it by name, NaN where an epoch lacks it."""
    if not records:
        raise InputError(f"{argument} must hold at least one epoch, got none. Train first.")
    epochs = [float(_number(record.get("epoch", row + 1))) for row, record in enumerate(records)]
    named = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name != "epoch" and not math.isnan(_number(value))
    )
    if not named:
        raise InputError(
            f"{argument} must hold numbers beside the epoch, got {sorted(records[0])}. "
            "Give History.records."
        )
    return epochs, {name: [_number(record.get(name)) for record in records] for name in named}


def _last_value(axes: Axes, value: float) -> None:
    axes.annotate(
        number(value),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        color=SAME,
        fontsize=NOTE_SIZE,
    )


def _number(value: object) -> float:
    """The value if it is a number, else NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value)
