"""Verification: does distance tell pairs that are the same from pairs that are different?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri
from torch import Tensor

from likewise import _tables, intervals, metrics
from likewise._checks import as_tensors, check_number, check_rate
from likewise.evaluation._plain import plain_fields
from likewise.intervals import A_RATE, FEWEST_GROUPS, Estimate, checked_items
from likewise.metrics import Sweep
from likewise.probability import Probability

FALSE_ACCEPT_RATES = (0.1, 0.01, 0.001, 0.0001)
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
        true_accept_rates: by false accept rate, the true accept rate there, see the method;
            for 0.1, 0.01, 0.001 and 0.0001 as far as there are different pairs enough for one
            false accept.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        threshold: the threshold judged, if one was given.
        at_threshold: at that threshold accuracy, true_accept_rate, false_accept_rate,
            precision, recall (the true accept rate by its other name) and f1.
        probability: the probability judged, if one was given.
        of_probability: at its prior brier_score and expected_calibration_error; and cllr and
            min_cllr, which depend on no prior. See `likewise.metrics`.
        sweep: counts at every threshold, for curves.
        distances: Distances of the pairs, ascending, (p,) float64.
        same: whether each is the same, in the order of `distances`, (p,).
        items: the items (or classes) each holds, in the order of `distances`, (p, s).
    """

    roc_auc: Estimate
    average_precision: Estimate
    equal_error_rate: Estimate
    true_accept_rates: Mapping[float, Estimate]
    same_total: int
    different_total: int
    threshold: float | None
    at_threshold: Mapping[str, Estimate] | None
    probability: Probability | None
    of_probability: Mapping[str, Estimate] | None
    sweep: Sweep
    distances: Float[Tensor, " p"]
    same: Bool[Tensor, " p"]
    items: Int[Tensor, "p s"] | None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def true_accept_rate(self, at: float = 0.01) -> Estimate:
        """The true accept rate at the loosest threshold with a false accept rate of at most `at`.

        Without items the interval takes pairs as independent and the threshold as given
        (Clopper-Pearson); with items the threshold is chosen again without each of them.

        Raises:
            InputError: if `at` is outside [0, 1].
        """
        check_rate("at", at)
        if self.items is None:
            return _rate_at(self.sweep, at)
        return self._of_sweeps(lambda counts: metrics.true_accept_rate_at(counts, at))

    def min_detection_cost(
        self, *, prior: float = 0.01, miss_cost: float = 1.0, false_accept_cost: float = 1.0
    ) -> Estimate:
        """The smallest cost of any threshold (minDCF), see `metrics.min_detection_cost`.

        The threshold is chosen again without each of the parts that the interval leaves out.

        Raises:
            InputError: for a prior outside (0, 1), or a cost that is not above 0.
        """
        return self._of_sweeps(
            lambda counts: metrics.min_detection_cost(
                counts, prior=prior, miss_cost=miss_cost, false_accept_cost=false_accept_cost
            )
        )

    def _of_sweeps(self, number: Callable[[Sweep], float]) -> Estimate:
        def statistics(keep: Bool[Tensor, " p"]) -> list[float]:
            counts = _sweep_of(self.distances, self.same, keep)
            return [math.nan if counts is None else number(counts)]

        (estimate,) = _left_out(statistics, self.items, len(self.same))
        return estimate

    def to_dict(self) -> dict[str, object]:
        """The numbers, ready for JSON; curves and pairs are left out."""
        fields = plain_fields(
            self,
            "roc_auc",
            "average_precision",
            "equal_error_rate",
            "true_accept_rates",
            "same_total",
            "different_total",
            "threshold",
            "at_threshold",
            "of_probability",
        )
        fields["min_detection_cost"] = self.min_detection_cost().to_dict()
        fields["prior"] = None if self.probability is None else self.probability.prior
        return fields


def evaluate_verification(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    threshold: float | None = None,
    items: Int[Tensor, "p *s"] | None = None,
    probability: Probability | None = None,
) -> VerificationResult:
    """How well distance tells pairs that are the same from pairs that are different.

    Pairs that share an item are not independent: an odd photograph spoils all of its pairs at
    once. Say with `items` which items a pair holds (or which classes, for claims about new
    ones), and every interval leaves out one item at a time with all its pairs (jackknife).
    Without it pairs are taken as independent, and `method` says so: DeLong for the area under
    the ROC, Clopper-Pearson for rates at a threshold, a jackknife over random parts of the
    pairs for all else.

    Args:
        distances: one per pair; smaller is closer.
        same: whether the pair truly belongs together.
        threshold: also judge this one; it must have been chosen on other pairs.
        items: the items (or classes) a pair holds, (p, 2), or (p,) where it is one; any
            integers. With fewer than 10 different ones there are no intervals.
        probability: also judge this one; it must have been fitted on other pairs. Brier score
            and calibration error weigh the pairs so that its prior is the share of same ones.

    Raises:
        InputError: if the pairs are all the same or all different, or if a distance or the
            threshold is not finite.

    Source:
        DeLong, DeLong & Clarke-Pearson, "Comparing the Areas under Two or More Correlated
        Receiver Operating Characteristic Curves", Biometrics 1988.

    Example:
        >>> distances = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.8, 0.9])
        >>> same = torch.tensor([True, True, True, False, False, False])
        >>> print(evaluate_verification(distances, same).roc_auc)
        0.889 [0.581, 1.000]
    """
    distances, same, items = as_tensors(distances=distances, same=same, items=items)
    counts = metrics.sweep(distances, same)
    if threshold is not None:
        check_number("threshold", threshold)
    if items is not None:
        items = checked_items(items, len(same))
    # Sorted once, so that no sweep of the jackknife needs to.
    distances = distances.detach().cpu().double()
    order = torch.from_numpy(np.argsort(distances.numpy()))
    distances, same = distances[order], same.cpu()[order]
    items = None if items is None else items[order]

    rates = [at for at in FALSE_ACCEPT_RATES if at * counts.different_total >= 1]

    def summary(keep: Bool[Tensor, " p"]) -> list[float]:
        part = _sweep_of(distances, same, keep)
        if part is None:
            return [math.nan] * (3 + len(rates))
        return [
            metrics.roc_auc(part),
            metrics.average_precision(part),
            metrics.equal_error_rate(part),
            *(metrics.true_accept_rate_at(part, at) for at in rates),
        ]

    area, precision, error, *accept_rates = _left_out(summary, items, len(same))
    if items is None:  # there are closed forms
        area, accept_rates = _delong(counts), [_rate_at(counts, at) for at in rates]
    return VerificationResult(
        roc_auc=area,
        average_precision=precision,
        equal_error_rate=error,
        true_accept_rates=dict(zip(rates, accept_rates, strict=True)),
        same_total=counts.same_total,
        different_total=counts.different_total,
        threshold=threshold,
        at_threshold=None if threshold is None else _judge(distances <= threshold, same, items),
        probability=probability,
        of_probability=None
        if probability is None
        else _judge_probability(probability, distances, same, items),
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


def _left_out(
    statistics: Callable[[Bool[Tensor, " p"]], list[float]],
    items: Tensor | None,
    pairs: int,
    within: tuple[float, float] = A_RATE,
) -> list[Estimate]:
    """Estimates that leave out items, or random parts of the pairs where there are no items."""
    if items is not None:
        return intervals.jackknife_all(
            statistics, items, most_groups=PARTS_OF_ITEMS, fewest=FEWEST_GROUPS, within=within
        )
    estimates = intervals.jackknife_all(
        statistics, torch.arange(pairs), most_groups=PARTS_OF_PAIRS, within=within
    )
    return [replace(e, method=f"{e.method} (each pair is its own)") for e in estimates]


def _rate_at(counts: Sweep, at: float) -> Estimate:
    value = metrics.true_accept_rate_at(counts, at)
    estimate = intervals.binomial(round(value * counts.same_total), counts.same_total)
    return replace(estimate, method=f"{estimate.method}, threshold taken as given")


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
    for placement, pairs, total in [
        (of_same, counts.same_at, counts.same_total),
        (of_different, counts.different_at, counts.different_total),
    ]:
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
    estimates = _left_out(
        lambda keep: [a / b if b else math.nan for a, b in counts(keep).values()],
        items,
        len(same),
    )
    return dict(zip(counts(everything), estimates, strict=True))


def _judge_probability(
    probability: Probability, distances: Tensor, same: Tensor, items: Tensor | None
) -> dict[str, Estimate]:
    chance, ratio = probability.of(distances), probability.log_likelihood_ratio(distances)
    prior = probability.prior

    def errors(keep: Tensor) -> list[float]:
        p, s = chance[keep], same[keep]
        if bool(s.all()) or not bool(s.any()):
            return [math.nan] * 2
        return [
            metrics.brier_score(p, s, prior=prior),
            metrics.expected_calibration_error(p, s, prior=prior),
        ]

    def costs(keep: Tensor) -> list[float]:
        counts = _sweep_of(distances, same, keep)
        if counts is None:
            return [math.nan] * 2
        return [metrics.cllr(ratio[keep], same[keep]), metrics.min_cllr(counts)]

    brier_score, calibration_error = _left_out(errors, items, len(same))
    cllr, min_cllr = _left_out(costs, items, len(same), within=(0.0, math.inf))
    return {
        "brier_score": brier_score,
        "expected_calibration_error": calibration_error,
        "cllr": cllr,
        "min_cllr": min_cllr,
    }
