"""Pictures of differences between two models, with their intervals."""

import math
from collections.abc import Collection, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from likewise._checks import check_count
from likewise.errors import InputError
from likewise.intervals import Estimate
from likewise.plots.style import (
    DIFFERENT,
    INK,
    MUTED,
    SAME,
    TEXT_SIZE,
    canvas,
    fit,
    number,
    styled,
)

ROW = 0.25  # inches
NAME_WIDTH = 2.2


@styled
def differences(
    estimates: Mapping[str, Estimate],
    *,
    names: tuple[str, str] = ("A", "B"),
    ahead: Mapping[str, int | None] | None = None,
    smaller_is_better: Collection[str] = (),
    title: str = "Differences with their intervals",
    most: int = 30,
) -> Figure:
    """A forest plot: a row for each difference a - b, with its interval and a line at 0.

    Filled marks are differences on which a model is ahead, in its color. Of more than `most`
    differences those that are largest either way are drawn, by size.

    Args:
        estimates: the differences by name, in the order of the rows.
        names: what the two models go by.
        ahead: by name, 0 or 1 where that model is ahead, see `evaluation.Difference`; where an
            interval misses 0 if None.
        smaller_is_better: names where the smaller number is better; they get an arrow.
        title: Title of the figure.
        most: rows drawn, at least 2.

    Raises:
        InputError: without any difference, or with one that is no number.

    Example:
        >>> gap = Estimate(0.012, 0.004, 0.020, "95% Student t")
        >>> differences({"MAP@R": gap}, names=("new", "old")).axes[0].get_xlabel()
        'new − old'
    """
    check_count("most", most, least=2)
    if not estimates or not all(math.isfinite(one.value) for one in estimates.values()):
        raise InputError(
            f"estimates must hold finite differences, at least one, got {dict(estimates)}."
        )
    rows = dict(estimates)
    if len(rows) > most:
        ranked = sorted(rows, key=lambda name: -rows[name].value)
        rows = {name: rows[name] for name in (*ranked[: most - most // 2], *ranked[-(most // 2) :])}
    note = "Filled marks are established, hollow ones are not."
    if ahead is None:
        note = "Filled marks have an interval that misses 0."
        ahead = {name: _ahead(one, name in smaller_is_better) for name, one in rows.items()}
    if any(name in smaller_is_better for name in rows):
        note += " ↓ marks where less is better."
    if len(rows) < len(estimates):
        note += f" {len(estimates) - len(rows):,} smaller differences are left out."
    figure = canvas(0.85 + ROW * len(rows), title, note)
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1.0, label="_zero")
    shown = [fit(str(name), 1.6, TEXT_SIZE) for name in names]
    for place, (name, one) in enumerate(rows.items()):
        _draw(axes, place, one, ahead.get(name), shown)
    labels = [fit(str(name), NAME_WIDTH, TEXT_SIZE) for name in rows]
    labels = [
        f"{label} ↓" if name in smaller_is_better else label
        for name, label in zip(rows, labels, strict=True)
    ]
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0")
    )
    axes.set_xlabel(f"{shown[0]} − {shown[1]}")
    axes.grid(axis="x")
    handles, told = axes.get_legend_handles_labels()
    if handles:
        first = dict(zip(told, handles, strict=True))
        axes.legend(first.values(), first, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


@styled
def estimates(
    numbers: Mapping[str, Estimate], *, title: str = "Numbers with their intervals", most: int = 30
) -> Figure:
    """A row for each number, with its interval.

    Args:
        numbers: by name, in the order of the rows.
        title: Title of the figure.
        most: rows drawn, the first ones.

    Raises:
        InputError: without any number, or with one that is not finite.

    Example:
        >>> accuracy = Estimate(0.912, 0.881, 0.937, "Clopper-Pearson")
        >>> estimates({"accuracy": accuracy}).get_suptitle()
        'Numbers with their intervals'
    """
    check_count("most", most)
    if not numbers or not all(math.isfinite(one.value) for one in numbers.values()):
        raise InputError(f"numbers must hold finite ones, at least one, got {dict(numbers)}.")
    rows = dict(list(numbers.items())[:most])
    left = len(numbers) - len(rows)
    note = f"{left:,} more are left out." if left else ""
    figure = canvas(0.55 + ROW * len(rows), title, note)
    axes = figure.subplots()
    for place, one in enumerate(rows.values()):
        if not math.isnan(one.low):
            axes.plot([one.low, one.high], [place, place], color=SAME, linewidth=1.8)
        axes.plot([one.value], [place], marker="o", markersize=7, color=SAME, linestyle="none")
    labels = [fit(str(name), NAME_WIDTH, TEXT_SIZE) for name in rows]
    axes.set_yticks(range(len(rows)), labels)
    told = axes.secondary_yaxis("right")
    told.set_yticks(range(len(rows)), [number(one.value) for one in rows.values()])
    for side in (axes, told):
        side.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for spine in (axes.spines["left"], told.spines["right"]):
        spine.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="both")
    return figure


def _draw(axes: Axes, place: int, one: Estimate, ahead: int | None, names: list[str]) -> None:
    look = 2 if ahead is None else ahead
    color = (SAME, DIFFERENT, MUTED)[look]
    if not math.isnan(one.low):
        axes.plot(
            [one.low, one.high], [place, place], color=color, linewidth=1.8, label="_interval"
        )
    axes.plot(
        [one.value],
        [place],
        marker=("o", "D", "o")[look],
        markersize=(7, 6.5, 6)[look],
        color=color,
        markerfacecolor="white" if ahead is None else color,
        linestyle="none",
        label="_open" if ahead is None else f"{names[ahead]} is ahead",
    )


def _ahead(one: Estimate, smaller_is_better: bool) -> int | None:
    if one.low > 0 or one.high < 0:
        return int((one.value < 0) != smaller_is_better)
    return None
