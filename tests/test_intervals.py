import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from likewise import intervals
from likewise.intervals import Estimate, binomial, f1, jackknife, jackknife_all, mean


def clustered(rng, groups=15, per_group=8):
    """Values with mean 0 whose spread lies mostly between groups, and their groups."""
    effects = torch.randn(groups, generator=rng).repeat_interleave(per_group)
    values = effects + 0.5 * torch.randn(groups * per_group, generator=rng)
    return values.double(), torch.arange(groups).repeat_interleave(per_group)


# Estimate


def test_an_estimate_reads_as_a_number():
    estimate = Estimate(0.9123, 0.8812, 0.9371, "by hand")
    assert float(estimate) == 0.9123
    assert f"{estimate:.2f}" == "0.91"
    assert f"{estimate}" == str(estimate) == "0.912 [0.881, 0.937]"
    assert str(Estimate(0.9123, math.nan, math.nan, "")) == "0.912 (no interval)"


@pytest.mark.parametrize(
    "estimate", [Estimate(0.5, 0.25, 0.75, "by hand"), Estimate(math.nan, math.nan, 1.0, "none")]
)
def test_estimates_survive_json_without_nan(estimate):
    text = json.dumps(estimate.to_dict(), allow_nan=False)
    again = Estimate.from_dict(json.loads(text))
    assert again.method == estimate.method
    np.testing.assert_equal(
        (again.value, again.low, again.high), (estimate.value, estimate.low, estimate.high)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([1, 2], "an estimate must be a dict of value, low, high and method, got [1, 2]."),
        ({"value": 1.0}, "an estimate must be a dict of value, low, high and method"),
        (
            {"value": "1", "low": 0.0, "high": 1.0, "method": ""},
            "an estimate must hold numbers or None, got '1'.",
        ),
        (
            {"value": 1.0, "low": True, "high": 1.0, "method": ""},
            "an estimate must hold numbers or None, got True.",
        ),
        (
            {"value": 1.0, "low": 0.0, "high": 1.0, "method": None},
            "an estimate's method must be text, got None.",
        ),
    ],
)
def test_dicts_that_are_no_estimate_are_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Estimate.from_dict(fields)


# binomial


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_binomial_agrees_with_scipy(confidence):
    for total in (1, 7, 250, 1_000_000):
        for successes in {0, 1, total // 3, total - 1, total}:
            exact = stats.binomtest(successes, total).proportion_ci(confidence, method="exact")
            ours = binomial(successes, total, confidence=confidence)
            assert ours.value == successes / total
            np.testing.assert_allclose((ours.low, ours.high), exact, rtol=1e-9, atol=1e-12)
            assert f"{confidence:.0%}" in ours.method


@given(p=st.floats(0.001, 0.999), total=st.integers(1, 60))
def test_binomial_covers_any_share_as_often_as_it_says(p, total):
    chances = stats.binom.pmf(np.arange(total + 1), total, p)
    covering = [binomial(k, total) for k in range(total + 1)]
    covered = sum(
        chance for chance, e in zip(chances, covering, strict=True) if e.low <= p <= e.high
    )
    assert covered >= 0.95 - 1e-9
    assert any(not e.low <= p <= e.high for e in covering) or total < 60


def test_no_cases_give_nan_and_the_reason():
    estimate = binomial(0, 0)
    assert all(map(math.isnan, (estimate.value, estimate.low, estimate.high)))
    assert estimate.method == "no interval: there are no cases"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binomial(3, 2), "successes must be at most the total of 2, got 3."),
        (lambda: binomial(-1, 2), "successes must be at least 0, got -1."),
        (lambda: binomial(1, 2, confidence=1), "confidence must be between 0 and 1, exclusive"),
        (lambda: f1(1, -2), "failures must be at least 0, got -2."),
        (lambda: mean(torch.ones(2, 2)), "values must be a tensor of shape (n,), got torch.float"),
        (lambda: mean(torch.tensor([1, math.nan])), "values must be finite, got 1 NaN"),
        (
            lambda: mean(torch.ones(3), groups=torch.arange(2)),
            "groups must have shape (3,), one per item, got (2,).",
        ),
        (
            lambda: jackknife(lambda keep: 0.0, torch.zeros(0, dtype=torch.long)),
            "groups must hold at least one row, got none.",
        ),
        (
            lambda: jackknife(lambda keep: 0.0, torch.arange(4), fewest=1),
            "fewest must be at least 2, got 1.",
        ),
        (lambda: binomial(1, 2, confidence="0.9"), "confidence must be a number, got '0.9'."),
        (
            lambda: jackknife(lambda keep: 0.0, torch.rand(4)),
            "groups must be an integer tensor of shape (n,) or (n, s), got torch.float32 of",
        ),
        (
            lambda: jackknife(lambda keep: 0.0, torch.arange(4), most_groups=1),
            "most_groups must be at least 2, got 1.",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# f1


def test_f1_is_that_of_the_counts():
    assert f1(6, 3, 2).value == pytest.approx(2 * 6 / (2 * 6 + 3 + 2 * 2))
    assert (f1(0, 4).value, f1(0, 4).low) == (0.0, 0.0)
    assert f1(5, 0).value == f1(5, 0).high == 1.0
    assert f1(5, 0).low < 0.8
    assert math.isnan(f1(0, 0).value)


@pytest.mark.parametrize("chances", [(0.90, 0.06, 0.04), (0.5, 0.1, 0.4), (0.97, 0.03, 0.0)])
def test_f1_covers_the_true_f1(chances):
    hit, failure, double = chances
    truth = 2 * hit / (2 * hit + failure + 2 * double)
    rng = np.random.default_rng(0)
    draws = [f1(*map(int, counts)) for counts in rng.multinomial(200, chances, size=500)]
    covered = np.mean([e.low <= truth <= e.high for e in draws])
    assert 0.93 <= covered < 1
    assert all(e.low < e.value < e.high for e in draws if 0 < e.value < 1)


# mean and jackknife


def test_the_mean_of_independent_values_agrees_with_scipy():
    values = torch.rand(30, generator=torch.Generator().manual_seed(1)).double()
    expected = stats.t.interval(0.9, 29, values.mean(), stats.sem(values.numpy()))
    estimate = mean(values, confidence=0.9)
    assert estimate.value == pytest.approx(float(values.mean()))
    np.testing.assert_allclose((estimate.low, estimate.high), expected)


@pytest.mark.parametrize("seed", range(10))
def test_the_jackknife_agrees_with_pseudo_values_by_loops(seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(40, generator=rng, dtype=torch.float64).exp()
    y = torch.randn(40, generator=rng, dtype=torch.float64).exp()
    groups = torch.randint(0, 7, (40, 2), generator=rng) * 3 - 5

    def ratio(keep):
        return float(x[keep].sum() / y[keep].sum())

    names = sorted(set(groups.flatten().tolist()))
    whole = float(x.sum() / y.sum())
    pseudo = []
    for name in names:
        rows = [i for i in range(40) if name not in groups[i].tolist()]
        assert 0 < len(rows) < 40
        left = sum(x[i] for i in rows) / sum(y[i] for i in rows)
        pseudo.append(len(names) * whole - (len(names) - 1) * float(left))
    half = stats.t.ppf(0.975, len(names) - 1) * stats.sem(pseudo)

    estimate = jackknife(ratio, groups)
    assert estimate.value == pytest.approx(whole)
    assert (estimate.low, estimate.high) == pytest.approx((whole - half, whole + half))


def test_the_interval_of_a_rate_is_that_of_its_log_odds():
    rate = torch.tensor([0.95, 0.99, 0.999, 0.9, 0.97]).double()
    groups = torch.arange(5)

    def share(keep):
        return float(rate[keep].mean())

    def log_odds(keep):
        return math.log(share(keep) / (1 - share(keep)))

    ours = jackknife(share, groups, within=(0.0, 1.0))
    turned_back = jackknife(log_odds, groups)
    expected = [1 / (1 + math.exp(-x)) for x in (turned_back.low, turned_back.high)]
    assert (ours.low, ours.high) == pytest.approx(tuple(expected))
    assert ours.value - ours.low > ours.high - ours.value > 0
    assert "Student t on log-odds" in ours.method
    assert jackknife(share, groups).method == ours.method.replace(" on log-odds", "")


def test_the_interval_of_a_rate_stands_where_a_part_has_no_mistake():
    right = torch.tensor([1.0, 1.0, 1.0, 0.6, 1.0, 1.0]).double()
    ours = jackknife(lambda keep: float(right[keep].mean()), torch.arange(6), within=(0.0, 1.0))
    plain = jackknife(lambda keep: float(right[keep].mean()), torch.arange(6))
    value = plain.value
    half = (plain.high - value) / (value * (1 - value))
    expected = [1 / (1 + (1 - value) / value * math.exp(step)) for step in (half, -half)]
    assert plain.high > 1 > ours.high
    assert (ours.low, ours.high) == pytest.approx(tuple(expected))


@given(seed=st.integers(0, 2**16), n=st.integers(6, 40))
def test_the_grouped_mean_is_the_jackknife_of_the_mean(seed, n):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=rng, dtype=torch.float64)
    groups = torch.arange(n) % 4 * 10
    ours = mean(values, groups=groups)
    theirs = jackknife(lambda keep: float(values[keep].mean()), groups)
    np.testing.assert_allclose(
        (ours.value, ours.low, ours.high), (theirs.value, theirs.low, theirs.high), atol=1e-12
    )


def test_many_groups_are_merged_evenly_and_always_the_same_way():
    groups = torch.arange(1000).repeat(2)
    left_out = []

    def statistic(keep):
        left_out.append(sorted(set(groups[~keep].tolist())))
        return float(groups[keep].sum())

    first = jackknife(statistic, groups, most_groups=20)
    assert len(left_out) == 21
    assert [len(part) for part in left_out] == [0] + [50] * 20
    assert sorted(name for part in left_out for name in part) == list(range(1000))
    gaps = {b - a for a, b in itertools.pairwise(left_out[1])}
    assert len(gaps) > 5, "a rhythm in the numbering should not decide who leaves together"
    assert "1000 groups merged into 20" in first.method
    assert jackknife(statistic, groups, most_groups=20) == first


def test_several_statistics_share_their_passes():
    values, groups = clustered(torch.Generator().manual_seed(0))
    together = jackknife_all(
        lambda keep: [float(values[keep].mean()), float(values[keep].std())], groups
    )
    apart = [
        jackknife(lambda keep: float(values[keep].mean()), groups),
        jackknife(lambda keep: float(values[keep].std()), groups),
    ]
    assert together == apart


def test_bounds_are_cut_to_the_range():
    x = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert mean(x).high > 1
    estimate = mean(x, within=(0.0, 1.0))
    assert (estimate.value, estimate.high) == (0.75, 1.0)
    assert mean(1 - x).low < 0 == mean(1 - x, within=(0.0, 1.0)).low


@pytest.mark.parametrize(
    ("estimate", "value", "why"),
    [
        (lambda: mean(torch.zeros(0)), math.nan, "there are no values"),
        (lambda: mean(torch.tensor([3.0])), 3.0, "there is only one value"),
        (lambda: mean(torch.full((9,), 0.1)), 0.1, "it is the same in every part of the data"),
        (
            lambda: mean(torch.tensor([1.0, 2.0]), groups=torch.tensor([4, 4])),
            1.5,
            "all values are of one group",
        ),
        (
            lambda: jackknife(lambda keep: 1.0 if keep[0] else math.nan, torch.arange(3)),
            1.0,
            "it is undefined without some of the groups",
        ),
        (
            lambda: jackknife(lambda keep: 0.7, torch.arange(3)),
            0.7,
            "it is the same in every part of the data",
        ),
    ],
)
def test_where_no_interval_can_be_given_the_method_says_why(estimate, value, why):
    got = estimate()
    np.testing.assert_allclose(got.value, value, rtol=1e-6)
    assert math.isnan(got.low)
    assert math.isnan(got.high)
    assert got.method == f"no interval: {why}"


def test_leaving_out_groups_covers_where_independence_does_not():
    rng = torch.Generator().manual_seed(0)
    trials = [clustered(rng) for _ in range(600)]

    def coverage(estimates):
        return np.mean([e.low <= 0 <= e.high for e in estimates])

    naive = coverage([mean(values) for values, _ in trials])
    grouped = coverage([mean(values, groups=groups) for values, groups in trials])
    assert naive < 0.7
    assert 0.92 < grouped < 0.98


@pytest.mark.parametrize("groups", [7, 23])
@pytest.mark.parametrize("within", [intervals.ANYWHERE, intervals.A_RATE])
def test_parts_that_are_left_out_by_hand_give_the_jackknife(groups, within):
    rng = torch.Generator().manual_seed(groups)
    group = torch.randint(groups, (300,), generator=rng)
    values = torch.rand(300, generator=rng).double()
    part = intervals.merge_groups(groups, 10)[group]
    without = torch.stack([values[part != each].mean() for each in range(min(groups, 10))])
    given = intervals.from_left_out(float(values.mean()), without, groups=groups, within=within)
    made = intervals.jackknife(
        lambda kept: float(values[kept].mean()), group, most_groups=10, within=within
    )
    assert given.method == made.method
    for one, other in ((given.low, made.low), (given.value, made.value), (given.high, made.high)):
        assert one == pytest.approx(other, abs=1e-12)


def test_groups_are_merged_into_parts_of_equal_number():
    assert intervals.merge_groups(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert sorted(intervals.merge_groups(23, 10).bincount().tolist()) == [2] * 7 + [3] * 3
    assert torch.equal(intervals.merge_groups(23, 10), intervals.merge_groups(23, 10))


def test_one_part_alone_tells_nothing():
    with pytest.raises(ValueError, match="without must hold at least 2 values, got 1"):
        intervals.from_left_out(0.5, torch.tensor([0.5]))


def test_values_that_require_a_gradient_are_taken_as_numbers():
    without = torch.tensor([1.0, 2.0, 3.0])
    plain = intervals.from_left_out(2.0, without)
    assert intervals.from_left_out(2.0, without.requires_grad_()) == plain
