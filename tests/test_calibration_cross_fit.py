"""Distances of classes that an encoder was not trained on, carried over by quantiles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.calibration import CrossFit, carried, class_folds


@pytest.mark.parametrize("classes", [3, 4, 7, 10, 11, 23])
@pytest.mark.parametrize("most", [None, 2, 3])
def test_folds_hold_every_class_once_and_leave_two_to_train_on(classes, most):
    folds = class_folds(classes, most=most, seed=4)
    assert sorted(code for fold in folds for code in fold) == list(range(classes))
    assert all(fold == sorted(fold) and classes - len(fold) >= 2 for fold in folds)
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    usual = classes if classes <= 10 else 5
    assert len(folds) == (3 if classes == 3 else min(usual, most or usual))
    if classes == 23:
        assert folds != class_folds(classes, most=most, seed=5)


def test_numbers_of_classes_and_folds_are_checked():
    with pytest.raises(ValueError, match="classes must be at least 3, got 2"):
        class_folds(2)
    with pytest.raises(ValueError, match="most must be at least 2, got 1"):
        class_folds(5, most=1)


def numbers(seed, count, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=rng, dtype=torch.float64) * scale


@given(seed=st.integers(0, 2**16), m=st.integers(2, 40), n=st.integers(2, 40))
@settings(max_examples=50)
def test_carrying_keeps_the_order_and_the_share_of_knowns_below(seed, m, n):
    known, now, unknown = numbers(seed, m), numbers(seed + 1, n, 3.0), numbers(seed + 2, 30, 2.0)
    moved = carried(unknown, known, now)
    order = unknown.argsort()
    assert bool((moved[order].diff() >= 0).all())
    for place, at in zip(unknown.tolist(), moved.tolist(), strict=True):
        there = float((known <= place).double().mean())
        here = float((now <= at + 1e-12).double().mean())
        assert abs(there - here) <= 1 / m + 1 / n + 1e-9


@given(seed=st.integers(0, 2**16), levels=st.sampled_from([None, 2]))
@settings(max_examples=30)
def test_an_equal_encoder_changes_nothing_and_another_unit_only_the_unit(seed, levels):
    known, unknown = numbers(seed, 25), numbers(seed + 1, 40, 2.0)
    if levels:
        known, unknown = (known * levels).round(), (unknown * levels).round()
    torch.testing.assert_close(carried(unknown, known, known), unknown)
    torch.testing.assert_close(carried(unknown, known, 5 * known - 2), 5 * unknown - 2)


def test_quantiles_between_known_distances_are_interpolated():
    known, now = torch.tensor([0.0, 1.0, 4.0]), torch.tensor([10.0, 20.0, 40.0])
    unknown = torch.tensor([0.5, 1.0, 2.5, 4.0, -1.0, 5.0])
    scale = (36 - 12) / (3.4 - 0.2)  # of the ranges from the 10th to the 90th percentile
    low, high = (0.1, 11), (3.7, 38)  # the 5th and the 95th percentile of both
    beyond = [high[1] + scale * (place - high[0]) for place in (4, 5)]
    expected = [15.0, 20.0, 30.0, beyond[0], low[1] + scale * (-1 - low[0]), beyond[1]]
    torch.testing.assert_close(
        carried(unknown, known, now), torch.tensor(expected, dtype=torch.float64)
    )
    flat = carried(torch.tensor([3.0, 5.0]), torch.full((4,), 3.0), now)
    assert bool(flat.isfinite().all() & (flat[1] > flat[0]))


def test_one_far_known_query_does_not_carry_the_unknowns_away():
    known = torch.linspace(0, 1, 40)
    outlier = torch.cat([known[:-1], torch.tensor([50.0])])
    moved = carried(torch.tensor([2.0, 3.0]), known, outlier)
    assert bool((moved < 4).all())
    moved = carried(torch.tensor([2.0, 3.0]), outlier, known)
    assert bool((moved > 1).all())


def test_what_cannot_be_carried_is_refused():
    some = torch.rand(5)
    with pytest.raises(ValueError, match="known must hold at least 2 distances, got 1"):
        carried(some, some[:1], some)
    with pytest.raises(ValueError, match="known_now must hold at least 2 distances, got 0"):
        carried(some, some, some[:0])
    with pytest.raises(ValueError, match="distances must be"):
        carried(torch.tensor([float("nan")]), some, some)
    with pytest.raises(ValueError, match="known must be one number per query"):
        carried(some, some[None], some)


def two_folds():
    codes = torch.tensor([0, 0, 1])
    return CrossFit.of(
        ["a", "b", "c"],
        [
            (torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 0.5]), codes, 2 - codes),
            (torch.tensor([0.0, 10.0]), torch.tensor([5.0]), torch.tensor([2]), torch.tensor([0])),
        ],
    )


def test_each_fold_is_carried_by_its_own_known_distances():
    fit = two_folds()
    assert fit.folds == 2
    now = torch.tensor([1.0, 3.0, 5.0])
    torch.testing.assert_close(
        fit.carried(now), torch.tensor([3.0, 7.0, 2.0, 3.0], dtype=torch.float64)
    )
    assert fit.classes.tolist() == [0, 0, 1, 2]
    again = CrossFit.from_tensors(fit.class_names, fit.tensors())
    assert all(torch.equal(again.tensors()[name], fit.tensors()[name]) for name in fit.tensors())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": torch.tensor([])}, "known of a cross-fit must be numbers"),
        ({"known": torch.full((5,), np.nan)}, "known must be"),
        ({"unknown": torch.ones(2)}, "unknown_folds must have shape"),
        ({"classes": torch.tensor([0, 0, 1, 3])}, "classes of a cross-fit must be codes of its 3"),
        ({"taken_for": torch.tensor([0, -1, 1, 2])}, "taken_for of a cross-fit must be codes"),
        ({"unknown_folds": torch.zeros(4, dtype=torch.int64)}, "must be of at least 2 folds"),
        ({"known_folds": torch.zeros(5, dtype=torch.int64)}, "2 distances of each fold, got 0 of"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(change, message):
    fit = two_folds()
    with pytest.raises(ValueError, match=message):
        CrossFit.from_tensors(fit.class_names, fit.tensors() | change)


def test_a_rate_carried_by_quantiles_holds_in_another_encoder():
    # The encoder in use has another unit, and its known distances another shape.
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(0, 1, 2000), rng.normal(2, 1, 2000)
    warp = np.vectorize(lambda d: 7 + np.exp(d))
    moved = carried(*map(torch.from_numpy, (unknown, known, warp(rng.normal(0, 1, 2000)))))
    limit = float(moved.quantile(0.05))
    accepted = (warp(rng.normal(2, 1, 50_000)) <= limit).mean()
    assert 0.03 < accepted < 0.07
    assert (warp(unknown) <= np.quantile(unknown, 0.05)).mean() == 0  # by the distance itself
