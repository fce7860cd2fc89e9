"""Intervals for new classes, simulated: how often do they hold what is true of all classes?"""

import functools

import pytest
import torch

from likewise import metrics
from likewise.evaluation import evaluate_verification
from likewise.intervals import jackknife_all

CLASSES, ITEMS, TRIALS, RESAMPLES = 12, 5, 300, 120
NAMES = ("roc_auc", "equal_error_rate", "true_accept_rate")


def draw_items(rng, classes, items):
    """Points around a centre per class, (classes, items, 4); some classes are vaguer."""
    centre = torch.randn(classes, 1, 4, generator=rng)
    vagueness = 0.3 * (0.5 * torch.randn(classes, 1, 1, generator=rng)).exp()
    return centre + vagueness * torch.randn(classes, items, 4, generator=rng)


@functools.cache
def all_classes():
    """A threshold, and the numbers of pairs that share no class: 300,000 of each kind."""
    rng = torch.Generator().manual_seed(0)
    ours, other = draw_items(rng, 300_000, 2), draw_items(rng, 300_000, 1)
    of_same = (ours[:, 0] - ours[:, 1]).norm(dim=1)
    of_different = (ours[:, 0] - other[:, 0]).norm(dim=1)
    same = torch.arange(600_000) < 300_000
    counts = metrics.sweep(torch.cat([of_same, of_different]), same)
    threshold = float(counts.thresholds[counts.accuracy.argmax()])
    accepted = float((of_same <= threshold).double().mean())
    numbers = [metrics.roc_auc(counts), metrics.equal_error_rate(counts), accepted]
    return threshold, torch.tensor(numbers, dtype=torch.float64)


def draw_pairs(rng):
    """All same pairs of a few classes, two different pairs of each two, and their classes.

    A pair of classes i and j belongs to both, and a same pair of class i to i alone.
    """
    items = draw_items(rng, CLASSES, ITEMS)
    a, b = torch.combinations(torch.arange(ITEMS)).T
    of_same = (items[:, a] - items[:, b]).norm(dim=2).flatten()
    i, j = torch.combinations(torch.arange(CLASSES)).T.repeat(1, 2)
    a_of_i, b_of_j = torch.randint(ITEMS, (2, len(i)), generator=rng)
    of_different = (items[i, a_of_i] - items[j, b_of_j]).norm(dim=1)
    own = torch.arange(CLASSES).repeat_interleave(len(a))
    distances = torch.cat([of_same, of_different])
    classes = torch.cat([torch.stack([own, own], dim=1), torch.stack([i, j], dim=1)])
    return distances, torch.arange(len(distances)) < len(of_same), classes


def numbers(distances, same, classes, copies, threshold):
    """Area, equal error, true accept rate (n, 3), class c being there copies[:, c] times."""
    order = distances.argsort()
    same, classes = same[order], classes[order]
    weight = copies[:, classes[:, 0]] * torch.where(same, 1, copies[:, classes[:, 1]])
    accepts = torch.stack([weight * same, weight * ~same]).cumsum(dim=2, dtype=torch.float64)
    true, false = torch.cat([torch.zeros(2, len(copies), 1), accepts / accepts[..., -1:]], dim=2)
    gap = false + true - 1
    after = (gap >= 0).int().argmax(dim=1, keepdim=True)
    below, above = gap.gather(1, after - 1), gap.gather(1, after)
    start, end = false.gather(1, after - 1), false.gather(1, after)
    error = start + below / (below - above) * (end - start)
    accepted = true[:, int((distances <= threshold).sum())]
    return torch.stack([torch.trapezoid(true, false), error[:, 0], accepted], dim=1)


def left_out_intervals(values):
    """Intervals from the numbers of all classes, then those without each: our own code."""

    def of(keep):
        return values[0 if keep.all() else 1 + int(keep.logical_not().int().argmax())].tolist()

    return jackknife_all(of, torch.arange(CLASSES), within=(0.0, 1.0))


def left_out():
    return torch.cat([torch.ones(1, CLASSES), 1 - torch.eye(CLASSES)])


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_has_the_intervals_of_evaluate_verification(seed):
    threshold, _ = all_classes()
    distances, same, classes = draw_pairs(torch.Generator().manual_seed(seed))
    result = evaluate_verification(distances, same, items=classes, threshold=threshold)
    ours = (
        result.roc_auc,
        result.equal_error_rate,
        result.at_threshold["true_accept_rate"],
    )
    values = numbers(distances, same, classes, left_out(), threshold)
    for estimate, simulated in zip(ours, left_out_intervals(values), strict=True):
        assert estimate.low < estimate.value < estimate.high
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
            (simulated.value, simulated.low, simulated.high)
        )


def coverage():
    """Shares of the draws whose interval holds the truth: leaving out classes, bootstrap."""
    threshold, truth = all_classes()
    rng = torch.Generator().manual_seed(1)
    by_jackknife, by_bootstrap = torch.zeros(2, len(NAMES))
    for _ in range(TRIALS):
        pairs = draw_pairs(rng)
        drawn = torch.randint(CLASSES, (RESAMPLES, CLASSES), generator=rng)
        again = torch.nn.functional.one_hot(drawn, CLASSES).sum(dim=1)
        values = numbers(*pairs, torch.cat([left_out(), again]), threshold)
        without, resampled = values[: 1 + CLASSES], values[1 + CLASSES :]
        for i, estimate in enumerate(left_out_intervals(without)):
            by_jackknife[i] += estimate.low <= truth[i] <= estimate.high
        low, high = resampled.quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
        by_bootstrap += (low <= truth) & (truth <= high)
    covered = dict(zip(NAMES, (by_jackknife / TRIALS).tolist(), strict=True))
    bootstrap = dict(zip(NAMES, (by_bootstrap / TRIALS).tolist(), strict=True))
    return covered, bootstrap


def test_leaving_out_classes_covers_new_classes_where_a_bootstrap_does_not():
    covered, bootstrap = coverage()
    # 0.95 of 300 trials has a standard error of 0.0126: 0.925 is two below it.
    assert all(share > 0.925 for share in covered.values()), covered
    assert all(share < 0.995 for share in covered.values()), covered
    assert bootstrap["roc_auc"] < 0.9 > bootstrap["true_accept_rate"], bootstrap
    assert all(covered[name] > bootstrap[name] + 0.02 for name in NAMES), (covered, bootstrap)
