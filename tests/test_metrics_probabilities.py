import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from likewise import metrics


def judged(seed, n=200, levels=None):
    """Probabilities that are a little too sure, and the truth; few levels make many ties."""
    rng = torch.Generator().manual_seed(seed)
    same = torch.rand(n, generator=rng) < 0.3
    ratio = 1.5 * torch.randn(n, generator=rng, dtype=torch.float64)
    ratio += torch.where(same, 2.0, -1.0)
    if levels is not None:
        ratio = (ratio * levels).round() / levels
    return torch.sigmoid(ratio), same


def kind_weights(same, prior):
    weights = prior / same.sum().double(), (1 - prior) / (~same).sum().double()
    return torch.where(same, *weights)


@pytest.mark.parametrize("prior", [None, 0.01, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_the_brier_score_agrees_with_scikit_learn(seed, prior):
    p, same = judged(seed)
    weight = None if prior is None else kind_weights(same, prior)
    expected = sklearn_metrics.brier_score_loss(same, p, sample_weight=weight)
    assert expected > 0.01
    assert metrics.brier_score(p, same, prior=prior) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 15])
@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("seed", range(5))
def test_reliability_agrees_with_scikit_learn(seed, levels, bins):
    p, same = judged(seed, levels=levels)
    mean, share, counts = metrics.reliability(p, same, bins=bins)
    expected_share, expected_mean = calibration_curve(same, p, n_bins=bins)
    filled = counts > 0
    np.testing.assert_allclose(mean[filled], expected_mean)
    np.testing.assert_allclose(share[filled], expected_share)
    assert mean[~filled].isnan().all()
    assert share[~filled].isnan().all()
    assert int(counts.sum()) == len(same)
    gap = (counts * (mean - share).abs())[filled].sum() / len(same)
    error = metrics.expected_calibration_error(p, same, bins=bins)
    assert error == pytest.approx(float(gap))
    assert error > 0.005


def test_a_bin_holds_its_upper_edge():
    p = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    _, _, counts = metrics.reliability(p, p > 0.3, bins=4)
    assert counts.tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize("prior", [None, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_the_loops(seed, prior):
    p, same = judged(seed)
    weight = kind_weights(same, prior) if prior else torch.full((200,), 1 / 200).double()
    expected = 0.0
    for b in range(7):
        inside = (p > b / 7) & (p <= (b + 1) / 7)
        if inside.any():
            expected += abs(float((weight * (p - same.double()))[inside].sum()))
    ours = metrics.expected_calibration_error(p, same, bins=7, prior=prior)
    assert ours == pytest.approx(expected)


def test_right_probabilities_have_nearly_no_calibration_error():
    p = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = torch.rand(200_000, generator=torch.Generator().manual_seed(1)) < p
    assert metrics.expected_calibration_error(p, same) < 0.006
    assert metrics.expected_calibration_error(p.square(), same) > 0.1


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_cllr_agrees_with_the_loops(seed, scale):
    p, same = judged(seed)
    ratio = torch.logit(p) * scale
    of_same = [math.log2(1 + math.exp(-r)) for r in ratio[same].tolist()]
    of_different = [math.log2(1 + math.exp(r)) for r in ratio[~same].tolist()]
    expected = (sum(of_same) / len(of_same) + sum(of_different) / len(of_different)) / 2
    assert metrics.cllr(ratio, same) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("levels", [None, 12, 2])
@pytest.mark.parametrize("seed", range(10))
def test_the_smallest_cllr_is_that_of_the_slopes_of_the_convex_hull(seed, levels):
    p, same = judged(seed, n=40, levels=levels)
    counts = metrics.sweep(-p, same)
    # The ratio of a distance is the slope of the upper hull of the ROC there.
    x, y = (rate.tolist() for rate in metrics.roc_curve(counts))
    expected, at = 0.0, 0
    while at < len(x) - 1:
        slopes = [
            (y[j] - y[at]) / (x[j] - x[at]) if x[j] > x[at] else math.inf
            for j in range(at + 1, len(x))
        ]
        steepest = max(slopes)
        to = at + 1 + max(j for j, slope in enumerate(slopes) if slope >= steepest - 1e-12)
        if 0 < steepest < math.inf:
            expected += (y[to] - y[at]) * math.log2(1 + 1 / steepest) / 2
            expected += (x[to] - x[at]) * math.log2(1 + steepest) / 2
        at = to
    assert 0 < expected < 1
    assert metrics.min_cllr(counts) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 2**16), slope=st.floats(0.1, 5), offset=st.floats(-3, 3))
def test_no_rising_rule_has_a_cllr_below_the_smallest(seed, slope, offset):
    p, same = judged(seed, n=60)
    ratio = torch.logit(p)
    least = metrics.min_cllr(metrics.sweep(-ratio, same))
    assert metrics.cllr(slope * ratio + offset, same) >= least - 1e-12
    assert 0 <= least <= 1


def test_the_smallest_cllr_at_its_ends():
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0])
    same = torch.tensor([True, True, False, False])
    assert metrics.min_cllr(metrics.sweep(distances, same)) == 0
    assert metrics.min_cllr(metrics.sweep(-distances, same)) == pytest.approx(1)
    assert metrics.min_cllr(metrics.sweep(distances * 0, same)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, s: metrics.brier_score(p + 1, s),
            ValueError,
            "probabilities must be between 0 and 1, got 1.",
        ),
        (
            lambda p, s: metrics.brier_score(p * math.nan, s),
            ValueError,
            "probabilities must be finite, got 200 NaN",
        ),
        (
            lambda p, s: metrics.brier_score(p[:, None], s),
            ValueError,
            "probabilities must be a tensor of shape (p,), one per pair, got (200, 1).",
        ),
        (
            lambda p, s: metrics.brier_score(p, s[:, None]),
            ValueError,
            "same must have shape (200,), one per pair, got (200, 1).",
        ),
        (
            lambda p, s: metrics.brier_score(p[:0], s[:0]),
            ValueError,
            "same must hold at least one pair, got none.",
        ),
        (
            lambda p, s: metrics.reliability(p[:0], s[:0]),
            ValueError,
            "same must hold at least one pair, got none.",
        ),
        (
            lambda p, s: metrics.brier_score(p, s | True, prior=0.5),
            ValueError,
            "same must hold pairs of both kinds, got 200 same and 0 different.",
        ),
        (
            lambda p, s: metrics.expected_calibration_error(p, s, prior=0.0),
            ValueError,
            "prior must be above 0 and below 1, got 0.0.",
        ),
        (
            lambda p, s: metrics.expected_calibration_error(p, s, bins=0),
            ValueError,
            "bins must be at least 1, got 0.",
        ),
        (
            lambda p, s: metrics.cllr(p / 0, s),
            ValueError,
            "log_likelihood_ratios must be finite, got 200",
        ),
        (lambda p, s: metrics.cllr(p, s.long()), TypeError, "same must be boolean"),
        (
            lambda p, s: metrics.cllr(p, s & False),
            ValueError,
            "same must hold pairs of both kinds, got 0 same and 200 different.",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(*judged(0))
