"""Verification: does distance tell pairs that are the same from pairs that are different?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri
from torch import Tensor

from likewise import intervals, metrics
from likewise._checks import check_rate
from likewise.evaluation._plain import plain_fields
from likewise.intervals import A_RATE, Estimate
from likewise.metrics import Sweep

FEWEST_ITEMS = 10
# Each part left out costs one pass over all pairs, 0.07 s for a million. Student's t with 19
# degrees of freedom is 5% wider than with 99, with 49 it is 1%.
PARTS_OF_PAIRS = 20
PARTS_OF_ITEMS = 50


@dataclass(frozen=True, eq=False)
class VerificationResult:
    """How well distance tells pairs that are the same from pairs that are different.

    Attributes:
        roc_auc: chance that a same pair is closer than a different one.
        average_precision: area under the precision-recall steps.
        equal_error_rate: where false accepts and false rejects are equally frequent.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        threshold: the threshold judged, if one was given.
        at_threshold: at that threshold accuracy, true_accept_rate, false_accept_rate,
            precision, recall (the true accept rate by its other name) and f1.
        sweep: counts at every threshold, for curves.
        distances: of the pairs, ascending, (p,) float64.
        same: whether each is the same, in the order of `distances`, (p,).
        items: the items (or classes) each holds, in the order of `distances`, (p, s).
    """

    roc_auc: Estimate
    average_precision: Estimate
    equal_error_rate: Estimate
    same_total: int
    different_total: int
    threshold: float | None
    at_threshold: Mapping[str, Estimate] | None
    sweep: Sweep
    distances: Float[Tensor, " p"]
    same: Bool[Tensor, " p"]
    items: Int[Tensor, "p s"] | None

    def true_accept_rate(self, at: float = 0.01) -> Estimate:
        """The true accept rate at the loosest threshold with a false accept rate of at most `at`.

        Without items the interval takes pairs as independent and the threshold as given
        (Clopper-Pearson); with items the threshold is chosen again without each of them.

        Raises:
            ValueError: if `at` is outside [0, 1].
        """
        check_rate("at", at)
        if self.items is not None:

            def rate(keep: Bool[Tensor, " p"]) -> float:
                counts = _sweep_of(self.distances, self.same, keep)
                return math.nan if counts is None else metrics.true_accept_rate_at(counts, at)

            return intervals.jackknife(rate, self.items, most_groups=PARTS_OF_ITEMS, within=A_RATE)
        value = metrics.true_accept_rate_at(self.sweep, at)
        estimate = intervals.binomial(round(value * self.same_total), self.same_total)
        return replace(estimate, method=f"{estimate.method}, threshold taken as given")

    def to_dict(self) -> dict[str, object]:
        """The numbers, ready for JSON; curves and pairs are left out."""
        return plain_fields(
            self,
            "roc_auc",
            "average_precision",
            "equal_error_rate",
            "same_total",
            "different_total",
            "threshold",
            "at_threshold",
        )


def evaluate_verification(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    threshold: float | None = None,
    items: Int[Tensor, "p *s"] | None = None,
) -> VerificationResult:
    """How well distance tells pairs that are the same from pairs that are different.

    Pairs that share an item are not independent: an odd photograph spoils all of its pairs at
    once. Say with `items` which items a pair holds (or which classes, for claims about new
    ones), and every interval leaves out one item at a time with all its pairs (jackknife).
    Without it pairs are taken as independent, and `method` says so: DeLong for the area under
    the ROC, Clopper-Pearson for rates at a threshold, a jackknife over random parts of the
    pairs for average precision and equal error rate.

    Args:
        distances: one per pair; smaller is closer.
        same: whether the pair truly belongs together.
        threshold: also judge this one; it must have been chosen on other pairs.
        items: the items (or classes) a pair holds, (p, 2), or (p,) where it is one; any
            integers.

    Raises:
        ValueError: if the pairs are all the same or all different, if a distance is not
            finite, or if there are fewer than 10 items.

    Source:
        DeLong, DeLong & Clarke-Pearson, "Comparing the Areas under Two or More Correlated
        Receiver Operating Characteristic Curves", Biometrics 1988.

    Example:
        >>> distances = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.8, 0.9])
        >>> same = torch.tensor([True, True, True, False, False, False])
        >>> print(evaluate_verification(distances, same).roc_auc)
        0.889 [0.581, 1.000]
    """
    counts = metrics.sweep(distances, same)
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}.")
    if items is not None:
        items = _checked_items(items, len(same))
    # Sorted once, so that no sweep of the jackknife needs to.
    distances = distances.detach().cpu().double()
    order = torch.from_numpy(np.argsort(distances.numpy()))
    distances, same = distances[order], same.cpu()[order]
    items = None if items is None else items[order]

    def summary(keep: Bool[Tensor, " p"]) -> list[float]:
        part = _sweep_of(distances, same, keep)
        if part is None:
            return [math.nan] * 3
        return [
            metrics.roc_auc(part),
            metrics.average_precision(part),
            metrics.equal_error_rate(part),
        ]

    if items is not None:
        area, precision, error = intervals.jackknife_all(
            summary, items, most_groups=PARTS_OF_ITEMS, within=A_RATE
        )
    else:
        area = _delong(counts)
        _, precision, error = (
            replace(estimate, method=f"{estimate.method} (each pair is its own)")
            for estimate in intervals.jackknife_all(
                summary, torch.arange(len(same)), most_groups=PARTS_OF_PAIRS, within=A_RATE
            )
        )
    return VerificationResult(
        roc_auc=area,
        average_precision=precision,
        equal_error_rate=error,
        same_total=counts.same_total,
        different_total=counts.different_total,
        threshold=threshold,
        at_threshold=None if threshold is None else _judge(distances <= threshold, same, items),
        sweep=counts,
        distances=distances,
        same=same,
        items=items,
    )


def _sweep_of(distances: Tensor, same: Tensor, keep: Tensor) -> Sweep | None:
    """The sweep of the kept pairs, or None where one kind of pair is missing."""
    (kept,) = torch.where(keep)
    distances, same = distances[kept], same[kept]
    return None if bool(same.all()) or not bool(same.any()) else metrics.sweep(distances, same)


def _delong(counts: Sweep) -> Estimate:
    area = metrics.roc_auc(counts)
    if counts.same_total < 2 or counts.different_total < 2:
        why = "there is only one pair of a kind"
        return Estimate(area, math.nan, math.nan, f"no interval: {why}")
    false_before, true_before = (rate[:-1] for rate in metrics.roc_curve(counts))
    # Placements: the share of the other kind on the right side of a pair, half for a tie.
    of_same = 1 - (false_before + counts.false_accept_rate) / 2
    of_different = (true_before + counts.true_accept_rate) / 2
    variance = 0.0
    for placement, accepts, total in [
        (of_same, counts.true_accepts, counts.same_total),
        (of_different, counts.false_accepts, counts.different_total),
    ]:
        pairs = accepts.diff(prepend=accepts.new_zeros(1))
        variance += float((pairs * (placement - area) ** 2).sum()) / (total - 1) / total
    if variance <= 1e-24:
        why = "all pairs of a kind rank alike, as where the kinds are perfectly separated"
        return Estimate(area, math.nan, math.nan, f"no interval: {why}")
    reach = float(ndtri(0.975)) * math.sqrt(variance)
    method = "95% DeLong, pairs taken as independent"
    return Estimate(area, max(area - reach, 0.0), min(area + reach, 1.0), method)


def _judge(accepted: Tensor, same: Tensor, items: Tensor | None) -> dict[str, Estimate]:
    """Every rate of one fixed threshold."""

    def counts(keep: Tensor) -> dict[str, tuple[int, int]]:
        hits = int((accepted & same & keep).sum())
        wrong = int((accepted & ~same & keep).sum())
        same_total = int((same & keep).sum())
        different_total = int((~same & keep).sum())
        right = hits + different_total - wrong
        return {
            "accuracy": (right, same_total + different_total),
            "true_accept_rate": (hits, same_total),
            "false_accept_rate": (wrong, different_total),
            "precision": (hits, hits + wrong),
            "recall": (hits, same_total),
            "f1": (2 * hits, hits + wrong + same_total),
        }

    everything = torch.ones_like(same)
    if items is None:
        rates = counts(everything)
        twice_hits, twice_hits_and_failures = rates.pop("f1")
        f1 = intervals.f1(twice_hits // 2, twice_hits_and_failures - twice_hits)
        return {**{name: intervals.binomial(*rate) for name, rate in rates.items()}, "f1": f1}
    estimates = intervals.jackknife_all(
        lambda keep: [a / b if b else math.nan for a, b in counts(keep).values()],
        items,
        most_groups=PARTS_OF_ITEMS,
        within=A_RATE,
    )
    return dict(zip(counts(everything), estimates, strict=True))


def _checked_items(items: object, pairs: int) -> Int[Tensor, "p s"]:
    if not isinstance(items, Tensor) or items.ndim not in (1, 2) or len(items) != pairs:
        got = tuple(items.shape) if isinstance(items, Tensor) else type(items).__name__
        raise ValueError(
            f"items must be a tensor of shape ({pairs}, 2) or ({pairs},), one row per pair, "
            f"got {got}. Give the two items, or the class, that each pair holds."
        )
    if items.is_floating_point() or items.dtype == torch.bool:
        raise TypeError(f"items must be integers, got {items.dtype}. Use items.long().")
    distinct = len(np.unique(items.cpu().numpy()))
    if distinct < FEWEST_ITEMS:
        raise ValueError(
            f"items must name at least {FEWEST_ITEMS} different items (or classes), got "
            f"{distinct}. Leave items out, and claim nothing beyond these."
        )
    return items.cpu().reshape(pairs, -1)
