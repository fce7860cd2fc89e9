import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from likewise import metrics
from likewise.probability import Probability, fit_isotonic, fit_logistic

FITS = pytest.mark.parametrize("fit", [fit_logistic, fit_isotonic])


def pairs(seed, n=400, share=0.3, levels=None):
    """Distances of two normal kinds one apart: the log-likelihood ratio is 0.5 - distance."""
    rng = torch.Generator().manual_seed(seed)
    same = torch.rand(n, generator=rng) < share
    same[:2] = torch.tensor([True, False])
    distances = torch.randn(n, generator=rng, dtype=torch.float64) + (~same).double()
    if levels is not None:
        distances = (distances * levels).round() / levels
    return distances, same


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_line_is_that_of_weighted_logistic_regression(seed, share, levels):
    distances, same = pairs(seed, share=share, levels=levels)
    rest = 1 / (min(int(same.sum()), int((~same).sum())) + 2)
    weight = torch.where(same, 0.5 / same.sum().double(), 0.5 / (~same).sum().double())
    aimed = torch.where(same, 1 - rest, rest).double()
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(
        torch.cat([distances, distances])[:, None],
        torch.arange(2 * len(same)) < len(same),
        sample_weight=torch.cat([weight * aimed, weight * (1 - aimed)]) * len(same),
    )
    at = torch.linspace(-6, 8, 30, dtype=torch.float64)
    ours = fit_logistic(distances, same).log_likelihood_ratio(at)
    np.testing.assert_allclose(ours, model.decision_function(at[:, None]), atol=1e-5)
    assert model.coef_[0, 0] < -0.2


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("seed", range(5))
def test_isotonic_ratios_agree_with_scikit_learn(seed, levels):
    distances, same = pairs(seed, levels=levels)
    near, far = float(distances.min()) - 1, float(distances.max()) + 1
    with_ends = torch.cat([distances, torch.tensor([near, near, far, far])])
    truth = torch.cat([same, torch.tensor([True, False, True, False])])
    model = IsotonicRegression(increasing=False).fit(with_ends, truth.double())
    share = model.predict(distances)
    taken_out = math.log(float(truth.sum()) / float((~truth).sum()))
    ours = fit_isotonic(distances, same).log_likelihood_ratio(distances)
    np.testing.assert_allclose(ours, np.log(share / (1 - share)) - taken_out, atol=1e-9)
    assert len(set(ours.tolist())) > 3


@FITS
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_ratio_is_right_whatever_the_share_of_same_pairs(fit, share):
    fitted = fit(*pairs(0, n=200_000, share=share))
    at = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
    error = (fitted.log_likelihood_ratio(at) - (0.5 - at)).abs()
    assert error.max() < (0.1 if fit is fit_logistic else 0.5)


@FITS
@pytest.mark.parametrize("prior", [0.02, 0.5])
def test_probabilities_come_true_at_the_stated_prior(fit, prior):
    fitted = fit(*pairs(1, n=50_000, share=0.5), prior=prior)
    distances, same = pairs(2, n=50_000, share=prior)
    p = fitted.of(distances)
    assert metrics.expected_calibration_error(p, same) < 0.02
    assert float(p.mean()) == pytest.approx(prior, abs=0.01)
    other = 0.5 if prior == 0.02 else 0.02
    assert metrics.expected_calibration_error(fitted.of(distances, prior=other), same) > 0.1
    ratio = fitted.log_likelihood_ratio(distances)
    np.testing.assert_allclose(p, torch.sigmoid(ratio + math.log(prior / (1 - prior))))


@FITS
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(2, 60),
    levels=st.sampled_from([None, 3, 1]),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    scale=st.sampled_from([1e-6, 1.0, -1.0, 1e6]),
)
def test_a_probability_is_finite_and_never_rises_with_distance(fit, seed, n, levels, share, scale):
    distances, same = pairs(seed, n=n, levels=levels, share=share)
    fitted = fit(distances * scale, same)
    at = torch.linspace(-10, 10, 200, dtype=torch.float64) * abs(scale)
    ratio, p = fitted.log_likelihood_ratio(at), fitted.of(at)
    assert ratio.isfinite().all()
    assert (ratio.diff() <= 1e-12).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert p.dtype == torch.float64


@pytest.mark.parametrize("n", [3, 10, 1000])
def test_perfect_separation_has_finite_ratios(n):
    distances, same = torch.linspace(0, 1, 2 * n), torch.arange(2 * n) < n
    steps = fit_isotonic(distances, same).log_likelihood_ratio(distances)
    np.testing.assert_allclose(steps, math.log(n + 1) * torch.where(same, 1.0, -1.0), rtol=1e-6)
    line = fit_logistic(distances, same).log_likelihood_ratio(distances)
    assert math.log(n) - 1 < line[0] < 6 * math.log(n + 2)
    assert line[0] == pytest.approx(-float(line[-1]), rel=1e-4)


@FITS
@pytest.mark.parametrize("different", [6, 600])
def test_distances_that_tell_nothing_leave_the_prior(fit, different):
    same = torch.arange(6 + different) < 6
    fitted = fit(torch.full((6 + different,), 0.3), same, prior=0.2)
    at = torch.tensor([0.0, 0.3, 9.0])
    np.testing.assert_allclose(fitted.of(at), 0.2, atol=1e-9 if fit is fit_logistic else 0.03)


def test_a_line_of_the_wrong_way_is_level():
    distances, same = pairs(3)
    fitted = fit_logistic(-distances, same)
    assert set(fitted.log_likelihood_ratios) == {0.0}


@FITS
def test_a_probability_survives_json(fit):
    fitted = fit(*pairs(4), prior=0.25)
    again = Probability.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert again == fitted
    assert again.method == fit.__name__.removeprefix("fit_")
    assert again.same_total + again.different_total == 400
    at = torch.linspace(-3, 3, 7)
    assert torch.equal(again.of(at), fitted.of(at))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [f], "a probability must be a dict of different_total, distances"),
        (lambda f: {**f, "more": 1}, "a probability must be a dict of different_total, distances"),
        (
            lambda f: {**f, "distances": ["a", "b"]},
            "distances of a probability must be a list of numbers, got others.",
        ),
        (
            lambda f: {**f, "log_likelihood_ratios": [0.0]},
            "a probability must have as many ratios as distances, got 1 and 2.",
        ),
        (
            lambda f: {**f, "distances": f["distances"][::-1]},
            "a probability must have knots at rising distances and ratios that never rise",
        ),
        (
            lambda f: {**f, "log_likelihood_ratios": f["log_likelihood_ratios"][::-1]},
            "a probability must have knots at rising distances and ratios that never rise",
        ),
        (
            lambda f: {**f, "log_likelihood_ratios": [math.nan, 0.0]},
            "a probability must have finite knots, got others or none.",
        ),
        (lambda f: {**f, "method": "other"}, "method must be one of isotonic, logistic"),
        (lambda f: {**f, "prior": 1}, "prior must be above 0 and below 1, got 1."),
        (lambda f: {**f, "prior": "half"}, "prior must be a number, got 'half'."),
        (lambda f: {**f, "same_total": 0}, "same_total must be at least 1, got 0."),
    ],
)
def test_dicts_that_are_no_probability_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Probability.from_dict(change(fit_logistic(*pairs(5)).to_dict()))


@FITS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": 0.0}, "prior must be above 0 and below 1, got 0.0."),
        ({"same": torch.ones(400).bool()}, "same must hold pairs of both kinds, got 400 same"),
        ({"distances": torch.full((400,), math.nan)}, "distances must be finite, got 400"),
    ],
)
def test_what_cannot_be_fitted_is_named(fit, change, message):
    distances, same = pairs(6)
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(**{"distances": distances, "same": same, **change})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.of(torch.zeros(2, 1)), "distances must be a tensor of shape (p,), one per"),
        (lambda p: p.of(0.3), "distances must be a tensor of shape (p,), one per pair, got float"),
        (lambda p: p.of(torch.tensor([math.inf])), "distances must be finite, got 1 NaN"),
        (lambda p: p.of(torch.zeros(2), prior=1.0), "prior must be above 0 and below 1, got 1.0."),
        (lambda p: dataclasses.replace(p, prior=0), "prior must be above 0 and below 1, got 0."),
    ],
)
def test_what_has_no_probability_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(fit_isotonic(*pairs(7)))
