import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ks_2samp

from likewise.calibration import Calibration, calibrate
from likewise.drift import check_drift


def calibrated(distances):
    distances = torch.as_tensor(distances, dtype=torch.float64)
    same = torch.zeros(len(distances), dtype=torch.bool)
    same[distances.argsort()[: len(same) // 2]] = True
    return calibrate(distances, same)


# against scipy


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 9), (7, 7), (12, 30), (30, 12), (100, 137)])
def test_gap_and_chance_are_those_of_scipy(m, n):
    rng = np.random.default_rng(m * n)
    for shift in (0.0, 0.3):
        before, now = rng.random(m + 1), rng.random(n) + shift
        found = check_drift(calibrated(before), torch.from_numpy(now))
        expected = ks_2samp(before, now, method="exact")
        assert found.gap == pytest.approx(expected.statistic, rel=1e-12)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)
        assert (found.before, found.now) == (m + 1, n)
        shares = [(values <= found.at).mean() for values in (before, now)]
        assert abs(shares[0] - shares[1]) == pytest.approx(found.gap)


@pytest.mark.parametrize(("m", "n"), [(200, 300), (1000, 800), (1000, 10_000)])
def test_the_gap_that_is_said_to_be_noticed_is_about_that(m, n):
    rng = np.random.default_rng(0)
    noticed = check_drift(calibrated(rng.random(m)), torch.from_numpy(rng.random(n))).noticed
    before = (np.arange(m) + 0.5) / m
    for share, alarm in ((1.05, True), (0.9, False)):
        found = check_drift(
            calibrated(before), torch.from_numpy((np.arange(n) + 0.5) / n + share * noticed)
        )
        assert found.drifted == alarm


# in simulations


@pytest.mark.parametrize("ties", [False, True])
def test_false_alarms_are_as_rare_as_guaranteed(ties):
    rate, trials = 0.05, 200
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(trials):
        before, now = rng.random(150), rng.random(120)
        if ties:
            before, now = np.round(before, 1), np.round(now, 1)
        alarms += check_drift(calibrated(before), torch.from_numpy(now), false_alarm=rate).drifted
    assert binomtest(alarms, trials, rate, "greater").pvalue > 0.01
    if not ties:
        assert alarms > trials * 0.02, "a test that never alarms would prove nothing"


def test_a_change_is_noticed():
    rng = np.random.default_rng(1)
    calibration = calibrated(rng.normal(size=1000))
    for change in (
        lambda x: x + 0.3,  # all farther
        lambda x: 1.5 * x,  # wider
        lambda x: np.where(rng.random(len(x)) < 0.2, x + 2, x),  # a fifth are unknowns
    ):
        drifts = [
            check_drift(calibration, torch.from_numpy(change(rng.normal(size=1000))))
            for _ in range(10)
        ]
        assert sum(drift.drifted for drift in drifts) >= 9


def test_a_sample_that_calibrate_kept_of_many_pairs_raises_no_false_alarm():
    rate, trials, alarms = 0.05, 30, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        odd = rng.normal(scale=0.3, size=400)  # every item shows in all of its pairs
        items = rng.integers(0, 400, (2000, 2))
        distances = torch.from_numpy(odd[items].sum(axis=1) + rng.random(2000))
        same = torch.from_numpy(rng.random(2000) < 0.5)
        calibration = calibrate(
            distances,
            same,
            items=torch.from_numpy(items + 400 * (items[:, :1] == items[:, 1:]) * [0, 1]),
        )
        new = rng.normal(scale=0.3, size=(200, 2)).sum(axis=1) + rng.random(200)
        alarms += check_drift(calibration, torch.from_numpy(new), false_alarm=rate).drifted
        assert 150 < len(calibration.sample) <= 400
    assert binomtest(alarms, trials, rate, "greater").pvalue > 0.01


# what is told


def test_the_advice_says_what_was_found():
    rng = torch.Generator().manual_seed(0)
    before = torch.rand(500, generator=rng)
    calibration = calibrated(before)
    quiet = check_drift(calibration, torch.rand(300, generator=rng))
    assert not quiet.drifted
    assert quiet.gap < quiet.noticed < 0.2
    assert str(quiet) == quiet.advice
    assert re.match(
        r"No change is seen: the gap is 0\.\d+, and about 0\.\d+ is the least that 300 ", str(quiet)
    )
    loud = check_drift(calibration, 0.4 + torch.rand(300, generator=rng))
    assert loud.drifted
    assert loud.gap >= loud.noticed
    assert "calibrate again, with data of today." in loud.advice
    assert loud.accepted_before == pytest.approx(0.5, abs=0.05)
    assert loud.accepted_now < 0.2
    assert json.loads(json.dumps(loud.to_dict(), allow_nan=False))["drifted"] is True


def test_after_saving_the_answer_is_the_same():
    before = torch.rand(500, generator=torch.Generator().manual_seed(0))
    calibration = calibrated(before)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    new = torch.rand(99, generator=torch.Generator().manual_seed(1))
    assert check_drift(again, new) == check_drift(calibration, new)


def test_float32_distances_are_those_that_were_calibrated_on():
    before = torch.rand(300, generator=torch.Generator().manual_seed(0))
    found = check_drift(calibrate(before, before < 0.5), before.flip(0))
    assert (found.gap, found.p_value) == (0, 1)


def test_queries_nobody_voted_for_are_far_and_many_are_sampled():
    calibration = calibrated(torch.rand(300, generator=torch.Generator().manual_seed(0)))
    found = check_drift(calibration, torch.full((20,), math.inf))
    assert found.drifted
    assert found.gap == 1
    assert check_drift(calibration, torch.rand(20_000)).now == 10_000


@pytest.mark.parametrize(
    ("distances", "options", "message"),
    [
        (torch.rand(3), {"false_alarm": 0}, "false_alarm must be above 0 and below 1, got 0."),
        (torch.rand(3), {"false_alarm": 2}, "false_alarm must be between 0 and 1, got 2."),
        (torch.rand(0), {}, "distances must be a tensor of shape (n,) with n >= 1, got (0,)."),
        (torch.rand(3, 1), {}, "distances must be a tensor of shape (n,) with n >= 1, got (3, 1)"),
        ([1.0], {}, "distances must be a tensor of shape (n,) with n >= 1, got list."),
        (torch.tensor([math.nan]), {}, "distances must be finite, got 1 NaN"),
        (torch.tensor([-math.inf]), {}, "distances must be finite, got 1 NaN or infinite"),
    ],
)
def test_refused_arguments_say_why(distances, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_drift(calibrated(torch.rand(20)), distances, **options)


def test_a_calibration_without_a_sample_is_refused():
    without = dataclasses.replace(calibrated(torch.rand(20)), sample=())
    with pytest.raises(ValueError, match="calibration must keep a sample of its distances, got"):
        check_drift(without, torch.rand(3))


def test_the_smallest_false_alarm_there_is_can_be_asked_for():
    before = torch.arange(40.0)
    calibration = calibrate(before, before < 20)
    found = check_drift(calibration, before, false_alarm=5e-324)
    assert (found.drifted, found.noticed) == (False, 1.0)
