"""Pictures of what an encoder is trained on and how that went."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from likewise._checks import check_count
from likewise.plots._style import (
    MUTED,
    NOTE_SIZE,
    SAME,
    TEXT_SIZE,
    canvas,
    fit,
    number,
    styled,
)


@styled
def items_per_class(counts: Mapping[str, int], *, most: int = 30) -> Figure:
    """One bar per class, the largest on top; of many classes the largest and the smallest ones.

    Args:
        counts: items by class name.
        most: bars drawn; of more classes two thirds are the largest and a third the smallest,
            with a line between them that says what is left out.

    Raises:
        ValueError: without any class.
    """
    check_count("most", most, least=3)
    if not counts:
        raise ValueError("counts must hold at least one class, got none. Load some data first.")
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
def training_curves(records: Sequence[Mapping[str, object]]) -> Figure:
    """Loss and every other number of the records against the epoch, a small panel each.

    Epochs that lack a number, or where it is NaN, are gaps. The last value stands above the panel.

    Args:
        records: one per epoch, as `fit` returns them; "epoch" is the axis (else 1, 2, …).

    Raises:
        ValueError: without any record, or without any number in them.
    """
    if not records:
        raise ValueError("records must hold at least one epoch, got none. Train first.")
    epochs = [float(_number(record.get("epoch", row + 1))) for row, record in enumerate(records)]
    facts: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            if name != "epoch" and not math.isnan(_number(value)):
                facts.setdefault(name, [])
    if not facts:
        raise ValueError(
            f"records must hold numbers beside the epoch, got {sorted(records[0])}. "
            "Give History.records."
        )
    for name, values in facts.items():
        values.extend(_number(record.get(name)) for record in records)

    columns = 1 if len(facts) == 1 else 2
    rows = -(-len(facts) // columns)
    count = len(records)
    figure = canvas(
        2.9 if columns == 1 else 1.95 * rows,
        f"Training, {count} epoch{'s' * (count != 1)}",
        "Blue: the value after the last epoch that has one.",
    )
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    order = sorted(facts, key=lambda name: name != "loss")  # loss first, then as recorded
    room = max(0.5, 0.04 * (max(epochs) - min(epochs)))
    for axes, name in zip(panels, order, strict=False):
        recorded = np.array(facts[name])
        known = ~np.isnan(recorded)
        axes.plot(
            np.array(epochs)[known],
            recorded[known],
            color=SAME,
            marker="o",
            markersize=3.5 if known.sum() <= 40 else 0.0,
            linewidth=1.8,
        )
        name = fit(name.replace("_", " "), 4.2 if columns == 1 else 1.75, TEXT_SIZE)
        axes.set_title(name, loc="left", size=TEXT_SIZE, pad=17)
        axes.annotate(
            number(float(recorded[known][-1])),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 4),
            textcoords="offset points",
            color=SAME,
            fontsize=NOTE_SIZE,
        )
        axes.grid(axis="y")
        axes.set_xlim(min(epochs) - room, max(epochs) + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        axes.set_xlabel("epoch")
    for axes in panels[len(order) :]:
        axes.remove()
    return figure


def _number(value: object) -> float:
    """The value if it is a number, else NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value)
