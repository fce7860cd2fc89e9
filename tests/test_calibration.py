import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likewise.calibration import (
    Calibration,
    at_least_precision,
    at_least_recall,
    at_most_false_accepts,
    best_accuracy,
    best_f1,
    calibrate,
    equal_error,
    goal_name,
    least_cost,
    parse_goal,
)
from likewise.intervals import binomial, jackknife
from likewise.metrics import sweep


def pairs(seed, n=80, levels=None):
    """Distances of which the smaller are more often the same; few levels make many ties."""
    rng = torch.Generator().manual_seed(seed)
    distances = torch.rand(n, generator=rng)
    if levels is not None:
        distances = (distances * levels).round() / levels
    same = torch.rand(n, generator=rng) < 0.9 - 0.8 * distances
    same[0], same[1] = True, False
    return distances, same


def by_loops(distances, same):
    """Threshold, then true and false accepts, at every distinct distance."""
    for threshold in sorted(set(distances.tolist())):
        accepted = distances <= threshold
        yield threshold, int((accepted & same).sum()), int((accepted & ~same).sum())


SEEDS = pytest.mark.parametrize("seed", range(8))
LEVELS = pytest.mark.parametrize("levels", [None, 10])


# goals


@SEEDS
@LEVELS
def test_the_best_thresholds_are_the_strictest_of_the_best(seed, levels):
    distances, same = pairs(seed, levels=levels)
    s, d = int(same.sum()), int((~same).sum())
    scores = {
        best_f1: lambda tp, fp: 2 * tp / (tp + fp + s),
        best_accuracy: lambda tp, fp: (tp + d - fp) / (s + d),
        equal_error: lambda tp, fp: -abs(fp * s - (s - tp) * d),
    }
    for goal, score in scores.items():
        best = max(by_loops(distances, same), key=lambda row: score(*row[1:]))
        assert calibrate(distances, same, goal=goal).threshold == best[0]


def test_of_equally_good_thresholds_the_strictest_is_taken():
    # Accuracy is 3/4 at 1 and at 3; F1 is 4/5 at 3 only; the errors are equal at none.
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0])
    same = torch.tensor([True, False, True, False])
    assert calibrate(distances, same, goal=best_accuracy).threshold == 1
    assert calibrate(distances, same, goal=best_f1).threshold == 3
    assert calibrate(distances, same, goal=equal_error).threshold == 2


@SEEDS
@LEVELS
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 1.0])
def test_false_accepts_stay_at_or_below_the_rate_and_no_looser_threshold_would(seed, levels, rate):
    distances, same = pairs(seed, levels=levels)
    distances[0] = -1.0  # a right pair is closest, so that every rate can be kept
    different = int((~same).sum())
    allowed = [t for t, _, fp in by_loops(distances, same) if fp / different <= rate]
    refused = [t for t, _, fp in by_loops(distances, same) if fp / different > rate]

    chosen = calibrate(distances, same, goal=at_most_false_accepts(rate)).threshold
    assert chosen == max(allowed)
    assert (rate == 1) == (not refused)
    assert all(chosen < t for t in refused)


@SEEDS
@LEVELS
@pytest.mark.parametrize("precision", [0.3, 0.7, 0.9])
def test_precision_is_reached_and_at_no_looser_threshold(seed, levels, precision):
    distances, same = pairs(seed, levels=levels)
    distances[0] = -1.0
    reached = [t for t, tp, fp in by_loops(distances, same) if tp / (tp + fp) >= precision]

    calibration = calibrate(distances, same, goal=at_least_precision(precision))
    assert calibration.threshold == max(reached)
    assert calibration.precision.value >= precision


@SEEDS
@LEVELS
@pytest.mark.parametrize("recall", [0.0, 0.5, 0.9, 1.0])
def test_recall_is_reached_and_at_no_stricter_threshold(seed, levels, recall):
    distances, same = pairs(seed, levels=levels)
    total = int(same.sum())
    reached = [t for t, tp, _ in by_loops(distances, same) if tp / total >= recall]

    calibration = calibrate(distances, same, goal=at_least_recall(recall))
    assert calibration.threshold == min(reached)
    assert calibration.true_accept_rate.value >= recall


@SEEDS
@LEVELS
@pytest.mark.parametrize(
    ("prior", "miss_cost", "false_accept_cost"), [(0.5, 1, 1), (0.1, 1, 1), (0.3, 5.0, 0.5)]
)
def test_the_least_cost_is_least_and_at_no_stricter_threshold(
    seed, levels, prior, miss_cost, false_accept_cost
):
    distances, same = pairs(seed, levels=levels)
    s, d = int(same.sum()), int((~same).sum())

    def cost(row):
        missed, accepted = 1 - row[1] / s, row[2] / d
        return prior * miss_cost * missed + (1 - prior) * false_accept_cost * accepted

    goal = least_cost(prior=prior, miss_cost=miss_cost, false_accept_cost=false_accept_cost)
    chosen = calibrate(distances, same, goal=goal).threshold
    rows = list(by_loops(distances, same))
    best = min(map(cost, rows))
    (at,) = (cost(row) for row in rows if row[0] == chosen)
    assert at == pytest.approx(best, rel=1e-12)
    assert all(cost(row) > best - 1e-12 for row in rows if row[0] < chosen)


def test_the_dearer_a_mistake_the_rarer():
    distances, same = pairs(0, n=400)
    thresholds = [
        calibrate(distances, same, goal=least_cost(prior=0.5, miss_cost=cost)).threshold
        for cost in (0.05, 1.0, 20.0)
    ]
    assert thresholds[0] < thresholds[1] < thresholds[2]
    likely = calibrate(distances, same, goal=least_cost(prior=0.95)).threshold
    assert likely == pytest.approx(thresholds[2], abs=0.1)
    assert likely > thresholds[1]


def test_costs_that_cannot_be_are_refused():
    for settings_, message in [
        ({"prior": 0.0}, "prior must be above 0 and below 1, got 0.0. Give the share of pairs"),
        ({"prior": 2.0}, "prior must be between 0 and 1, got 2.0."),
        ({"prior": 0.5, "miss_cost": 0}, "miss_cost must be a finite number above 0, got 0."),
        ({"prior": 0.5, "false_accept_cost": -1}, "false_accept_cost must be a finite number"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            least_cost(**settings_)


@given(seed=st.integers(0, 2**16), levels=st.sampled_from([None, 4]))
def test_thresholds_follow_any_increasing_map_of_the_distances(seed, levels):
    distances, same = pairs(seed, n=30, levels=levels)
    distances[0] = -1.0
    mapped = (distances.double() * 3).exp()
    for goal in (best_f1, best_accuracy, equal_error, at_most_false_accepts(0.2)):
        before = calibrate(distances, same, goal=goal).threshold
        after = calibrate(mapped, same, goal=goal).threshold
        assert torch.equal(distances <= before, mapped <= after)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            at_most_false_accepts(0.2),
            "no threshold keeps false accepts at or below 0.2: the closest pair of all is "
            "already a wrong one, and the strictest threshold has 0.333. Raise the rate, or",
        ),
        (
            at_least_precision(0.9),
            "no threshold reaches a precision of 0.9: the highest is 0.667. Ask for less, or",
        ),
        (
            at_least_recall(0.9),
            "no threshold reaches a recall of 0.9: the highest is 0.667, as other known queries",
        ),
    ],
)
def test_goals_out_of_reach_say_what_is_closest(goal, message):
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    same = torch.tensor([False, True, True, False, False])
    known = None
    if "recall" in message:
        known = torch.tensor([True, True, True, False, False])
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate(distances, same, goal=goal, known=known)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("f1", "best_f1"),
        ("accuracy", "best_accuracy"),
        ("equal-error", "equal_error"),
        ("far=0.001", "at_most_false_accepts(0.001)"),
        ("far=1e-5", "at_most_false_accepts(1e-05)"),
        ("precision=0.99", "at_least_precision(0.99)"),
        ("recall=0.95", "at_least_recall(0.95)"),
        ("far=0.001@0.95", "at_most_false_accepts(0.001, confidence=0.95)"),
        ("cost=0.01", "least_cost(prior=0.01, miss_cost=1.0, false_accept_cost=1.0)"),
    ],
)
def test_goals_are_read_from_words_and_named(text, name):
    assert goal_name(parse_goal(text)) == name


def test_a_goal_read_from_a_word_is_the_goal():
    distances, same = pairs(0)
    for text, goal in [
        ("far=0.1", at_most_false_accepts(0.1)),
        ("recall=0.7", at_least_recall(0.7)),
    ]:
        assert calibrate(distances, same, goal=parse_goal(text)) == calibrate(
            distances, same, goal=goal
        )


@pytest.mark.parametrize("text", ["f2", "", "far", "far:0.1", "FAR=0.1", "f1=0.5"])
def test_words_that_are_no_goal_are_refused(text):
    message = (
        "goal must be one of balanced, balanced=UNKNOWNS, best-f1, accuracy, equal-error, "
        "far=RATE, far=RATE@CONFIDENCE, far=RATE@average, far=RATE@cautious, "
        f"precision=P, recall=R, cost=PRIOR, got {text!r}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_goal(text)


@pytest.mark.parametrize("number", ["", "high", "1.5", "-0.1", "nan", "50%"])
def test_goals_without_a_rate_are_refused(number):
    message = (
        f"goal far= must be followed by a number between 0 and 1, got {number!r}. "
        "Write e.g. far=0.01."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_goal(f"far={number}")


@pytest.mark.parametrize("factory", [at_most_false_accepts, at_least_precision, at_least_recall])
def test_guarantees_outside_0_and_1_are_refused(factory):
    with pytest.raises(ValueError, match=r"must be between 0 and 1, got 1\.1\."):
        factory(1.1)


def test_a_goal_of_the_callers_is_used_and_named():
    def loosest(counts):
        return len(counts.thresholds) - 1

    class Strictest:
        def __call__(self, counts):
            return 0

    distances, same = pairs(0)
    assert calibrate(distances, same, goal=loosest).threshold == float(distances.max())
    assert calibrate(distances, same, goal=loosest).goal == "loosest"
    assert calibrate(distances, same, goal=Strictest()).goal == "Strictest"
    with pytest.raises(ValueError, match=r"goal must return a position from 0 to 79, got -1\."):
        calibrate(distances, same, goal=lambda counts: -1)


# calibrate


def test_a_calibration_counts_its_own_pairs():
    distances, same = pairs(1, n=300)
    calibration = calibrate(distances, same, goal=best_f1, rule="majority", k=5)
    accepted = distances <= calibration.threshold
    hits, wrong = int((accepted & same).sum()), int((accepted & ~same).sum())
    assert 0 < wrong < hits < int(same.sum()) == calibration.same_total
    expected = {
        "true_accept_rate": binomial(hits, int(same.sum())),
        "false_accept_rate": binomial(wrong, int((~same).sum())),
        "precision": binomial(hits, hits + wrong),
        "accuracy": binomial(int((accepted == same).sum()), 300),
    }
    for name, estimate in expected.items():
        ours = getattr(calibration, name)
        assert (ours.value, ours.low, ours.high) == (estimate.value, estimate.low, estimate.high)
    f1 = 2 * hits / (2 * hits + wrong + int(same.sum()) - hits)
    assert calibration.f1.value == pytest.approx(f1)
    assert calibration.f1.low < f1 < calibration.f1.high
    assert (calibration.rule, calibration.k, calibration.goal) == ("majority", 5, "best_f1")


def test_the_methods_say_what_was_assumed():
    calibration = calibrate(*pairs(0))
    for field in dataclasses.fields(calibration):
        value = getattr(calibration, field.name)
        if hasattr(value, "method"):
            assert "taken as independent" in value.method
            assert value.method.endswith("on the pairs the threshold was chosen on")


def test_a_known_query_with_a_wrong_neighbor_is_missed():
    # The last is an unknown. Of 5 known queries 3 are found, one is mistaken, one rejected.
    distances = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 3.0])
    same = torch.tensor([True, True, True, False, True, False])
    known = torch.tensor([True, True, True, True, True, False])

    def at_one(counts):
        return 0

    calibration = calibrate(distances, same, goal=at_one, known=known)
    assert calibration.identification_rate.value == pytest.approx(3 / 5)
    assert calibration.true_accept_rate.value == pytest.approx(3 / 4)
    assert calibration.f1.value == pytest.approx(2 * 3 / (4 + 5))
    assert calibration.f1_tensorflow_similarity.value == pytest.approx(2 * 3 / (4 + 4))
    as_pairs = calibrate(distances, same, goal=at_one)
    assert as_pairs.true_accept_rate.value == pytest.approx(3 / 4)
    assert as_pairs.identification_rate is None


def test_the_f1_optimum_minds_what_was_to_be_found():
    distances, same = pairs(5, n=200)
    known = torch.ones_like(same)
    best = max(
        by_loops(distances, same), key=lambda row: 2 * row[1] / (row[1] + row[2] + len(known))
    )
    assert calibrate(distances, same, known=known).threshold == best[0]
    assert calibrate(distances, same).threshold < best[0]


def test_the_sweep_is_kept_only_when_asked():
    distances, same = pairs(0)
    assert calibrate(distances, same).sweep is None
    kept = calibrate(distances, same, keep_sweep=True)
    assert torch.equal(kept.sweep.thresholds, sweep(distances, same).thresholds)
    assert kept == calibrate(distances, same)


def test_pairs_that_cannot_be_judged_are_refused():
    distances, same = pairs(0)
    with pytest.raises(ValueError, match="both kinds, got 0 same and 80 different"):
        calibrate(distances, torch.zeros_like(same))
    with pytest.raises(ValueError, match=r"k must be at least 1, got 0\."):
        calibrate(distances, same, k=0)


@pytest.mark.parametrize("search", [False, True])
def test_with_items_intervals_leave_out_one_at_a_time_with_all_its_pairs(search):
    distances, same = pairs(4, n=300)
    known = same | (torch.rand(300, generator=torch.Generator().manual_seed(1)) < 0.5)
    known = known if search else None
    items = torch.randint(0, 30, (300, 2), generator=torch.Generator().manual_seed(2))
    chosen = calibrate(distances, same, items=items, known=known)
    plain = calibrate(distances, same, known=known)
    for field in dataclasses.fields(chosen):
        ours, alone = getattr(chosen, field.name), getattr(plain, field.name)
        if not hasattr(ours, "method"):
            continue
        assert ours.value == pytest.approx(alone.value, rel=1e-12)
        assert "leaving out each of 30 groups" in ours.method
        assert ours.method.endswith("on the pairs the threshold was chosen on")

        of_sweep = {"identification_rate": "recall"}.get(field.name, field.name)

        def rate(keep, name=of_sweep):
            # The same threshold on the pairs kept, whatever it costs there.
            part = None if known is None else known[keep]
            counts = sweep(distances[keep], same[keep], known=part)
            at = int((counts.thresholds <= chosen.threshold).sum()) - 1
            return float(getattr(counts, name)[at])

        expected = jackknife(rate, items, within=(0.0, 1.0))
        assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
        assert ours.low < ours.value < ours.high


def test_items_that_never_come_twice_make_pairs_independent():
    distances, same = pairs(4, n=300)
    alone = calibrate(distances, same)
    assert calibrate(distances, same, items=torch.arange(300)) == alone
    assert calibrate(distances, same, items=torch.arange(600).view(300, 2)) == alone
    assert calibrate(distances, same, items=torch.arange(300) % 299) != alone


def test_items_that_cannot_be_left_out_are_refused():
    distances, same = pairs(0)
    for items, error, message in [
        (torch.arange(79), ValueError, r"items must be a tensor of shape \(80, 2\) or \(80,\)"),
        (torch.rand(80, 2), TypeError, "items must be integers, got torch.float32"),
    ]:
        with pytest.raises(error, match=message):
            calibrate(distances, same, items=items)


# saving


@pytest.mark.parametrize("k", [None, 3])
def test_calibrations_survive_json(k):
    distances, same = pairs(2)
    calibration = calibrate(distances, same, goal=at_most_false_accepts(0.5), k=k, keep_sweep=True)
    text = json.dumps(calibration.to_dict(), allow_nan=False)
    again = Calibration.from_dict(json.loads(text))
    assert again == calibration
    assert again.threshold in distances.double().tolist()
    assert again.goal == "at_most_false_accepts(0.5)"
    assert again.sweep is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": None}, "threshold of a calibration must be a finite number, got None."),
        ({"threshold": float("nan")}, "threshold of a calibration must be a finite number"),
        ({"threshold": True}, "threshold of a calibration must be a finite number, got True."),
        ({"goal": 3}, "goal of a calibration must be text, got 3."),
        ({"k": 0}, "k of a calibration must be a whole number above 0, got 0."),
        ({"same_total": 2.5}, "same_total of a calibration must be a whole number above 0"),
        ({"f1": 0.5}, "f1 of a calibration cannot be read: an estimate must be a dict"),
        ({"secret": 1}, "a calibration must have the fields of `Calibration`, got one that has "),
    ],
)
def test_altered_calibrations_are_refused(change, message):
    fields = calibrate(*pairs(0)).to_dict() | change
    with pytest.raises(ValueError, match=re.escape(message)):
        Calibration.from_dict(fields)


def test_calibrations_with_parts_missing_are_refused():
    fields = calibrate(*pairs(0)).to_dict()
    del fields["precision"], fields["k"]
    with pytest.raises(ValueError, match=r"got one that lacks k, precision\. Calibrate again"):
        Calibration.from_dict(fields)
    with pytest.raises(ValueError, match=r"a calibration must be a dict, got list\."):
        Calibration.from_dict([])


def test_a_million_pairs_are_calibrated_exactly():
    distances, same = pairs(0, n=1_000_000)
    calibration = calibrate(distances, same)
    grid = np.quantile(distances.numpy(), np.linspace(0.01, 1, 100))
    hits = [int((same & (distances <= t)).sum()) for t in grid]
    accepts = [int((distances <= t).sum()) for t in grid]
    f1 = [2 * h / (a + int(same.sum())) for h, a in zip(hits, accepts, strict=True)]
    assert max(f1) <= calibration.f1.value < max(f1) + 0.001
