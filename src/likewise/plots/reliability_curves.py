"""Pictures of probabilities: how far they can be believed."""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from likewise import metrics
from likewise.intervals import Estimate, binomial
from likewise.plots._axes import legend, unit
from likewise.plots.style import DIFFERENT, MUTED, SAME, canvas, styled


@styled
def reliability(
    probabilities: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    bins: int = 15,
    calibration_error: Estimate | float | None = None,
) -> Figure:
    """The share of same pairs against the probability that was given to them.

    The bins are those of `metrics.reliability`, of equal width. A mark stands at the mean
    probability of its bin and the share that is the same, with its exact 95% binomial interval;
    on the diagonal probabilities mean what they say. Below stands how many pairs of each kind
    lie in each bin.

    Args:
        probabilities: Chance that the pair is the same, at the prior of these pairs: with half of
            them the same, at a prior of 0.5.
        same: whether the pair truly belongs together.
        bins: how many.
        calibration_error: the expected calibration error, told in the note if given.

    Raises:
        InputError: without any pair, or for a probability outside [0, 1].

    Example:
        >>> import torch
        >>> figure = reliability(torch.tensor([0.1, 0.8, 0.9]), torch.tensor([False, True, True]))
        >>> figure.get_suptitle()
        'Reliability of the probabilities'
    """
    means, rates, totals = (
        part.numpy() for part in metrics.reliability(probabilities, same, bins=bins)
    )
    filled = totals > 0
    hits = np.rint(np.where(filled, rates, 0.0) * totals).astype(np.int64)
    shares = [
        binomial(int(hit), int(total))
        for hit, total in zip(hits[filled], totals[filled], strict=True)
    ]

    note = "With 95% intervals, as if pairs were independent."
    if calibration_error is not None:
        error = calibration_error
        told = str(error) if isinstance(error, Estimate) else f"{error:.3f}"
        note = f"Expected calibration error {told}. {note}"
    figure = canvas(4.9, "Reliability of the probabilities", note)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.4, label="as they should be")
    axes.vlines(
        means[filled], [s.low for s in shares], [s.high for s in shares], color=SAME, linewidth=1.4
    )
    axes.plot(
        means[filled],
        [s.value for s in shares],
        color=SAME,
        marker="o",
        markersize=5,
        label="as they are",
    )
    unit(axes, "x")
    unit(axes, "y")
    axes.set_ylabel("share that is the same")
    axes.grid()
    legend(axes)

    kinds = ((hits, "same", SAME, ""), (totals - hits, "different", DIFFERENT, "////"))
    for position, (counts, kind, color, hatch) in enumerate(kinds):
        below.bar(
            np.arange(bins) / bins + (0.06 + 0.44 * position) / bins,
            counts,
            0.44 / bins,
            align="edge",
            color=color if not hatch else "white",
            edgecolor=color,
            hatch=hatch,
            linewidth=0.8,
            label=f"{kind} ({int(counts.sum()):,})",
        )
    counted = np.concatenate([counts[counts > 0] for counts, *_ in kinds])
    if counted.max() > 50 * counted.min():  # else a bin of few would not be seen
        below.set_yscale("log")
        below.set_ylim(0.7, 2 * counted.max())
        below.yaxis.set_major_locator(LogLocator(numticks=4))
        below.yaxis.set_minor_locator(NullLocator())
    else:
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
        below.set_ylim(0, 1.05 * counted.max())
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    below.set(xlabel="probability that the pair is the same", ylabel="pairs")
    below.grid(axis="y")
    legend(below)
    figure.align_ylabels()
    return figure
