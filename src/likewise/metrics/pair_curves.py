"""Curves and numbers of pairs, read off the counts at every threshold."""

import bisect

import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import check_positive, check_rate
from likewise.metrics.priors import check_prior
from likewise.metrics.sweeps import Sweep


def roc_curve(counts: Sweep) -> tuple[Float[Tensor, " t+1"], Float[Tensor, " t+1"]]:
    """False and true accept rates at every threshold, with (0, 0) for "accept nothing" first."""
    zero = torch.zeros(1, dtype=torch.float64)
    return (
        torch.cat([zero, counts.false_accept_rate]),
        torch.cat([zero, counts.true_accept_rate]),
    )


def det_curve(counts: Sweep) -> tuple[Float[Tensor, " t+1"], Float[Tensor, " t+1"]]:
    """False accept and false reject rates at every threshold, "accept nothing", (0, 1), first.

    The detection error tradeoff; its axes are usually drawn in normal deviates.
    """
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return (
        torch.cat([zero, counts.false_accept_rate]),
        torch.cat([one, counts.false_reject_rate]),
    )


def roc_auc(counts: Sweep) -> float:
    """Area under the ROC curve, 0 to 1.

    The chance that a pair that is the same is closer than one that is different, with half
    a point for a tie. Equal to `sklearn.metrics.roc_auc_score(same, -distances)`.
    """
    false_accept_rate, true_accept_rate = roc_curve(counts)
    return float(torch.trapezoid(true_accept_rate, false_accept_rate))


def average_precision(counts: Sweep) -> float:
    """Mean precision over the same pairs, each at the threshold that just accepts it, 0 to 1.

    Nothing is interpolated. Equal to `sklearn.metrics.average_precision_score(same,
    -distances)`.
    """
    return float((counts.same_at.double() / counts.same_total * counts.precision).sum())


def equal_error_rate(counts: Sweep) -> float:
    """The error rate at which false accepts and false rejects are equally frequent, 0 to 1.

    Take the ROC as a polyline through (0, 0) and the point of every threshold. It meets the
    line `false_accept_rate = 1 - true_accept_rate` exactly once; the result is the false
    accept rate there. Between two thresholds it is therefore interpolated linearly, as if
    pairs were accepted by the toss of a coin.
    """
    same_total, different_total = counts.same_total, counts.different_total

    def point(i: int) -> tuple[int, int]:
        """False accepts, and what they and false rejects differ by, in whole numbers."""
        if i < 0:
            return 0, -same_total * different_total
        true_accepts, false_accepts = int(counts.true_accepts[i]), int(counts.false_accepts[i])
        false_rejects = same_total - true_accepts
        return false_accepts, false_accepts * same_total - false_rejects * different_total

    # The difference rises strictly: every threshold accepts at least one pair more.
    after = bisect.bisect_left(range(len(counts.thresholds)), 0, key=lambda i: point(i)[1])
    (accepts_before, below), (accepts_after, above) = point(after - 1), point(after)
    share = below / (below - above)
    return (accepts_before + share * (accepts_after - accepts_before)) / different_total


def true_accept_rate_at(counts: Sweep, far: float) -> float:
    """The true accept rate of the loosest threshold with a false accept rate of at most `far`.

    0 if no threshold has one: then nothing can be accepted.

    Raises:
        InputError: if `far` is outside [0, 1].
    """
    check_rate("far", far)
    allowed = int((counts.false_accept_rate <= far).sum())
    return float(counts.true_accept_rate[allowed - 1]) if allowed else 0.0


def min_detection_cost(
    counts: Sweep,
    *,
    prior: float = 0.01,
    miss_cost: float = 1.0,
    false_accept_cost: float = 1.0,
) -> float:
    """The smallest cost that any threshold has, as a share of the cost of not looking, 0 to 1.

    A threshold costs `miss_cost * prior * false_reject_rate + false_accept_cost * (1 - prior)
    * false_accept_rate`. "Accept nothing" is among the thresholds. The smallest is divided by
    the cost of the better of accepting nothing and accepting all, so that 1 is a distance of
    no use. This is the field's normalized minDCF.

    Args:
        counts: the sweep of the pairs; how many there are of each kind does not matter.
        prior: the share of pairs that are the same where the threshold is to be used.
        miss_cost: Cost of rejecting a pair that is the same.
        false_accept_cost: Cost of accepting a pair that is different.

    Raises:
        InputError: for a prior outside (0, 1), or a cost that is not above 0.

    Source:
        NIST, Speaker Recognition Evaluation plans (normalized detection cost).

    Example:
        >>> from likewise.metrics import sweep
        >>> distances = torch.tensor([0.1, 0.2, 0.3, 0.4])
        >>> counts = sweep(distances, torch.tensor([True, False, True, False]))
        >>> min_detection_cost(counts), min_detection_cost(counts, prior=0.5)
        (0.5, 0.5)
    """
    check_prior(prior)
    check_positive("miss_cost", miss_cost)
    check_positive("false_accept_cost", false_accept_cost)
    false_accept_rate, false_reject_rate = det_curve(counts)
    of_misses, of_false_accepts = miss_cost * prior, false_accept_cost * (1 - prior)
    cost = of_misses * false_reject_rate + of_false_accepts * false_accept_rate
    return float(cost.min()) / min(of_misses, of_false_accepts)
