"""Both error rates of matching: unknowns accepted, and knowns missed or confused."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import likewise as lw
from likewise.calibration import (
    Calibration,
    GivenUnknowns,
    UnknownsJudged,
    at_most_false_accepts,
    balanced,
    best_f1,
    calibrate,
    calibrate_matching,
    calibrate_per_class,
    goal_name,
    parse_goal,
)
from likewise.metrics import sweep


def queries(seed, known=90, unknowns=150, classes=30, levels=None):
    """Distances, right, known and class of queries; some known ones are confused."""
    rng = np.random.default_rng(seed)
    is_known = torch.arange(known + unknowns) < known
    place = torch.from_numpy(rng.normal(0, 1, known + unknowns)) + torch.where(is_known, 0.0, 2.0)
    if levels:
        place = (place * levels).round()
    right = is_known & torch.from_numpy(rng.random(known + unknowns) > 0.1)
    codes = torch.where(
        is_known, torch.arange(len(place)) % 7, 7 + torch.arange(len(place)) % classes
    )
    return place, right, is_known, codes


def errors(distances, right, known, threshold):
    """FPIR and FNIR by their definitions, query by query."""
    rows = list(zip(distances.tolist(), right.tolist(), known.tolist(), strict=True))
    accepted = [d <= threshold for d, _, k in rows if not k]
    missed = [not (r and d <= threshold) for d, r, k in rows if k]
    return sum(accepted) / len(accepted), sum(missed) / len(missed)


# the goal


@given(
    seed=st.integers(0, 2**16),
    unknowns=st.sampled_from([0.1, 0.5, 0.7]),
    levels=st.sampled_from([None, 2, 1]),
)
@settings(max_examples=40)
def test_balanced_is_the_least_weighted_error_of_all_thresholds_and_the_strictest(
    seed, unknowns, levels
):
    distances, right, known, _ = queries(seed, 20, 30, levels=levels)
    chosen = calibrate(distances, right, known=known, goal=balanced(unknowns), rule="nearest", k=1)
    cost = {}
    for threshold in sorted(set(distances.tolist())):
        accepted, missed = errors(distances, right, known, threshold)
        cost[threshold] = unknowns * accepted + (1 - unknowns) * missed
    least = min(cost.values())
    assert chosen.threshold == min(t for t, c in cost.items() if c <= least + 1e-12)
    accepted, missed = errors(distances, right, known, chosen.threshold)
    assert chosen.false_positive_rate.value == pytest.approx(accepted)
    found, rate = chosen.identification_rate, chosen.false_negative_rate
    expected = (missed, 1 - found.high, 1 - found.low)
    assert (rate.value, rate.low, rate.high) == pytest.approx(expected)


def test_balanced_is_the_default_of_matching_and_best_f1_that_of_pairs():
    distances, right, known, _ = queries(0)
    chosen = calibrate_matching(distances, right, known, gallery_size=9)
    assert chosen.goal == calibrate(distances, right, rule="nearest", k=1).goal == "balanced(0.5)"
    assert calibrate(distances, right).goal == "best_f1"
    by_f1 = calibrate_matching(distances, right, known, gallery_size=9, goal=best_f1)
    assert by_f1.goal == "best_f1"
    # More weight on unknowns never accepts more of them.
    limits = [
        calibrate_matching(distances, right, known, gallery_size=9, goal=lw.balanced(w)).threshold
        for w in (0.1, 0.5, 0.9)
    ]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] > limits[2]


def test_a_calibration_tells_its_threshold_and_then_what_matching_costs():
    distances, right, known, _ = queries(0)
    chosen = calibrate(distances, right, known=known, rule="nearest", k=1)
    _, first, second, third, *_ = map(str.strip, repr(chosen).splitlines())
    assert first.startswith("threshold")
    assert second.startswith("unknowns accepted (FPIR)")
    assert third.startswith("knowns missed (FNIR)")


@pytest.mark.parametrize("weight", [0, 1, -0.1, float("nan")])
def test_a_weight_outside_of_0_and_1_is_refused(weight):
    with pytest.raises(ValueError, match="unknowns must be "):
        balanced(weight)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("balanced", "balanced(0.5)"),
        ("balanced=0.7", "balanced(0.7)"),
        ("best-f1", "best_f1"),
        ("f1", "best_f1"),
        ("far=0.05@average", "at_most_false_accepts(0.05, on_average=True)"),
        ("far=0.05@cautious", "at_most_false_accepts(0.05, cautious=True)"),
    ],
)
def test_words_for_goals(text, name):
    assert goal_name(parse_goal(text)) == name


# one meaning of a false accept


@given(seed=st.integers(0, 2**16), rate=st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=30)
def test_a_false_accept_is_an_accepted_unknown_and_a_confidence_never_loosens(seed, rate):
    distances, right, known, classes = queries(seed)
    distances[right.nonzero()[0]] = -9.0
    options = {"gallery_size": 9, "classes": classes, "guarantee_for": "items"}

    def threshold(goal):
        return calibrate_matching(distances, right, known, goal=goal, **options).threshold

    plain = threshold(at_most_false_accepts(rate))
    allowed = [t for t in distances.tolist() if errors(distances, right, known, t)[0] <= rate]
    assert plain == max(allowed)
    assert threshold(at_most_false_accepts(rate, confidence=0.95)) <= plain
    half = threshold(at_most_false_accepts(rate, cautious=True))
    assert half == threshold(at_most_false_accepts(rate / 2)) <= plain


def test_confidence_mean_and_caution_exclude_each_other():
    for options in (
        {"confidence": 0.9, "on_average": True},
        {"on_average": True, "cautious": True},
        {"confidence": 0.9, "cautious": True},
    ):
        with pytest.raises(ValueError, match="must be given one at a time"):
            at_most_false_accepts(0.05, **options)


# growth


def test_growth_multiplies_the_rates_of_unknowns_everywhere():
    distances, right, known, classes = queries(1, unknowns=900, classes=300)
    options = {"gallery_size": 9, "classes": classes}
    grown = calibrate_matching(
        distances, right, known, goal=at_most_false_accepts(0.1), growth=1.25, **options
    )
    plain = calibrate_matching(distances, right, known, goal=at_most_false_accepts(0.08), **options)
    assert grown.threshold == plain.threshold
    assert grown.false_positive_rate.value == pytest.approx(1.25 * plain.false_positive_rate.value)
    assert grown.false_positive_rate.high == pytest.approx(1.25 * plain.false_positive_rate.high)
    assert grown.false_positive_rate.method.count("times 1.25 for the gallery") == 1
    assert grown.false_negative_rate == plain.false_negative_rate
    for kept in ({"confidence": 0.95}, {"on_average": True}):
        first, second = (
            calibrate_matching(
                distances,
                right,
                known,
                goal=at_most_false_accepts(rate, **kept),
                growth=growth,
                **options,
            )
            for rate, growth in ((0.1, 1.25), (0.08, 1.0))
        )
        assert first.threshold == second.threshold
        assert first.guarantee.rate == 0.1
    everything = sweep(distances, right, known=known, growth=5.0).false_accept_rate
    assert float(everything[-1]) == 1.0
    for goal in (balanced(), lw.equal_error, lw.least_cost(prior=0.5)):
        by_cost = [
            calibrate_matching(
                distances, right, known, goal=goal, growth=growth, **options
            ).threshold
            for growth in (1.0, 3.0)
        ]
        assert by_cost[1] < by_cost[0]
    with pytest.raises(ValueError, match=r"growth must be at least 1, got 0\.5"):
        calibrate_matching(distances, right, known, growth=0.5, **options)


# the class is the unit


def test_the_interval_of_unknowns_accepted_leaves_out_classes():
    # All items of a class are alike: as many unknowns of fewer classes tell less.
    rng = np.random.default_rng(3)
    known = torch.arange(700) < 100
    widths = {}
    for classes in (15, 60, 600):
        codes = torch.where(known, 0, 1 + torch.arange(700) % classes)
        place = torch.from_numpy(rng.normal(3, 1, classes + 1))
        distances = torch.where(known, torch.linspace(0, 20, 700), place[codes])
        found = calibrate_matching(
            distances.double(), known, known, gallery_size=9, classes=codes
        ).false_positive_rate
        if classes < 600:
            assert "leaving out" in found.method
        widths[classes] = found.high - found.low
    assert widths[15] > widths[60] > widths[600]
    few = torch.where(known, 0, 1 + torch.arange(700) % 9)
    chosen = calibrate_matching(distances.double(), known, known, gallery_size=9, classes=few)
    assert chosen.false_positive_rate.method.startswith("no interval")
    of_items = calibrate_matching(
        distances.double(), known, known, gallery_size=9, classes=few, guarantee_for="items"
    )
    assert of_items.false_positive_rate.high < 1


# on average


def mean_limit(distances, known, classes, rate):
    """The loosest distance that risk control allows, class by class."""
    best = None
    codes = sorted(set(classes[~known].tolist()))
    for threshold in sorted(set(distances.tolist())):
        shares = [
            float((distances[~known & (classes == code)] <= threshold).double().mean())
            for code in codes
        ]
        if (sum(shares) + 1) / (len(codes) + 1) <= rate + 1e-12:
            best = threshold
    return best


@pytest.mark.parametrize("seed", range(4))
def test_a_mean_guarantee_is_risk_control_over_classes(seed):
    distances, right, known, classes = queries(seed, unknowns=157, classes=40)
    goal = at_most_false_accepts(0.1, on_average=True)
    chosen = calibrate_matching(distances, right, known, gallery_size=9, goal=goal, classes=classes)
    assert chosen.threshold == mean_limit(distances, known, classes, 0.1)
    assert (chosen.guarantee.confidence, chosen.guarantee.classes) == (None, 40)
    assert str(chosen.guarantee).startswith(
        "at most 0.1 false accepts for new unknown classes, on average ("
    )
    assert Calibration.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen


def test_a_mean_guarantee_takes_19_classes_for_5_percent():
    goal = at_most_false_accepts(0.05, on_average=True)
    for count in (18, 19):
        distances, right, known, classes = queries(5, unknowns=190, classes=count)
        distances[right.nonzero()[0]] = -9.0
        options = {"gallery_size": 9, "goal": goal, "classes": classes}
        if count == 19:
            kept = calibrate_matching(distances, right, known, **options)
            assert kept.guarantee.accepted == 0
            continue
        message = (
            "unknown classes must be at least 19 for at most 0.05 false accepts on average, got "
            "18: 1 more would do, or a rate of 0.0527 or more."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            calibrate_matching(distances, right, known, **options)
    with pytest.raises(ValueError, match="classes must say which class each query is of"):
        calibrate_matching(distances, right, known, gallery_size=9, goal=goal)
    distances[~known] -= 20
    with pytest.raises(ValueError, match=r"no threshold keeps false accepts at or below 0\.05 on"):
        calibrate_matching(distances, right, known, **options)
    with pytest.raises(ValueError, match="goal must be one that several thresholds can keep"):
        calibrate_per_class(distances, right, known, classes, **options)


def test_a_mean_guarantee_holds_on_average_over_worlds_and_has_little_to_spare():
    rng, rate, came_out = np.random.default_rng(0), 0.1, []

    def draw(classes):
        near = rng.random(classes) < 0.08
        place = np.where(near, rng.normal(1, 0.5, classes), rng.normal(4, 0.8, classes))
        return place[:, None] + rng.normal(0, 0.2, (classes, 5))

    truth = np.sort(draw(20_000).ravel())
    goal = at_most_false_accepts(rate, on_average=True)
    for _ in range(200):
        drawn = draw(40).ravel()
        distances = torch.from_numpy(np.concatenate([drawn, np.linspace(-3, 4, 300)]))
        known = torch.arange(len(distances)) >= len(drawn)
        classes = torch.where(known, 9999, torch.arange(len(distances)) // 5)
        limit = calibrate_matching(
            distances, known, known, gallery_size=9, goal=goal, classes=classes
        ).threshold
        came_out.append(np.searchsorted(truth, limit, side="right") / len(truth))
    error = np.std(came_out) / np.sqrt(len(came_out))
    assert 0.7 * rate < np.mean(came_out) < rate + 2 * error


# what the number rests on


def test_what_a_rate_rests_on_is_said_and_saved():
    distances, right, known, classes = queries(6, unknowns=190, classes=19)
    goal = at_most_false_accepts(0.05)
    chosen = calibrate_matching(
        distances, right, known, gallery_size=9, goal=goal, classes=classes, kind="left out"
    )
    (judged,) = chosen.unknowns
    assert (judged.kind, judged.items, judged.classes) == ("left out", 190, 19)
    assert judged.threshold == chosen.threshold
    assert judged.accepted == chosen.false_positive_rate
    assert judged.expected == pytest.approx(0.1)
    assert str(judged).startswith("190 items judged without their own class of 19 classes: 0.0")
    assert str(judged).endswith("; 0.05 asked; rests on 19 classes; expect up to 0.05 + 0.05")
    assert Calibration.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
    trained = calibrate_matching(
        distances, right, known, gallery_size=9, classes=classes, kind="trained"
    )
    said = str(trained.unknowns[0])
    assert said.endswith("new ones; optimistic: 19 trained classes stood in for unknowns")
    assert "asked" not in said
    with pytest.raises(ValueError, match="kind must be one of cross-fit, given, left out, tr"):
        calibrate_matching(distances, right, known, gallery_size=9, kind="x")
    fields = judged.to_dict()
    for change in (
        {"kind": "x"},
        {"items": 0},
        {"classes": 0},
        {"threshold": None},
        {"asked": "x"},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
            UnknownsJudged.from_dict(fields | change)
    with pytest.raises(ValueError, match="unknowns must be a dict of kind, items"):
        UnknownsJudged.from_dict({})


@pytest.mark.parametrize("shift", [-1.0, 3.0])
def test_given_unknowns_give_a_second_threshold_and_the_stricter_is_kept(shift):
    distances, right, known, classes = queries(7)
    others = distances[~known][:80] + shift
    goal = at_most_false_accepts(0.1)
    options = {"gallery_size": 9, "goal": goal, "classes": classes, "kind": "left out"}
    chosen = calibrate_matching(
        distances, right, known, given=GivenUnknowns(others, torch.arange(80) % 20), **options
    )
    alone = calibrate_matching(distances, right, known, **options)
    together = torch.cat([distances[known], others])
    is_known = torch.arange(len(together)) < 90
    of_given = calibrate_matching(
        together, torch.cat([right[known], is_known[90:]]), is_known, gallery_size=9, goal=goal
    )
    by_kind = {each.kind: each for each in chosen.unknowns}
    assert by_kind["left out"].threshold == alone.threshold
    assert by_kind["given"].threshold == of_given.threshold != alone.threshold
    assert chosen.threshold == min(alone.threshold, of_given.threshold)
    assert chosen.unknowns[0].kind == ("given" if shift < 0 else "left out")
    for kind, places in (("left out", distances[~known]), ("given", others)):
        share = float((places <= chosen.threshold).double().mean())
        assert by_kind[kind].accepted.value == pytest.approx(share)
    assert by_kind["given"].classes == 20
    assert chosen.false_positive_rate == chosen.unknowns[0].accepted
    bare = calibrate_matching(distances, right, known, given=GivenUnknowns(others), **options)
    assert {each.classes for each in bare.unknowns} == {30, None}
    with pytest.raises(ValueError, match="given must hold the distance of each unknown"):
        calibrate_matching(distances, right, known, given=GivenUnknowns(others[:0]), **options)
