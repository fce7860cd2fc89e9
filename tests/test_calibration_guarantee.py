import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom, binomtest

from likewise.calibration import (
    Calibration,
    Guarantee,
    KeptGuarantee,
    at_most_false_accepts,
    calibrate,
    disjoint_rows,
    parse_goal,
)
from likewise.metrics import sweep

TRIALS = 1000
NEAR = 40  # same pairs, for which no bound is asked


def drawn(seed, n, items=None, near=0.25):
    """Negatives with a uniform distance, same pairs nearer, and items of which many are shared."""
    rng = np.random.default_rng(seed)
    distances = torch.from_numpy(np.concatenate([rng.random(n), rng.random(NEAR) * near]))
    distances[n] = -1.0  # so that every rate can be kept
    same = torch.arange(n + NEAR) >= n
    codes = rng.integers(0, items or 2 * n, (n + NEAR, 2))
    order = torch.from_numpy(rng.permutation(n + NEAR))
    return distances[order], same[order], torch.from_numpy(codes)


# which negatives count


@given(seed=st.integers(0, 2**16), n=st.integers(0, 40), held=st.integers(1, 3))
def test_rows_that_count_share_nothing_and_none_could_be_added(seed, n, held):
    rng = torch.Generator().manual_seed(seed)
    items = torch.randint(-3, 15, (n, held), generator=rng)
    rows = disjoint_rows(items)
    sets = [set(row) for row in items.tolist()]
    assert rows.tolist() == sorted(set(rows.tolist()))
    for a, b in itertools.combinations(rows.tolist(), 2):
        assert not sets[a] & sets[b]
    used = set().union(*(sets[row] for row in rows.tolist()))
    assert all(row & used for row in sets)
    assert n == 0 or len(rows)


def test_rows_are_those_of_one_after_the_other_in_the_same_order():
    items = torch.randint(0, 300, (2000, 2), generator=torch.Generator().manual_seed(3))
    expected, used = [], set()
    for row in np.random.default_rng(0).permutation(len(items)):
        held = set(items[row].tolist())
        if not held & used:
            expected.append(int(row))
            used |= held
    assert 100 < len(expected) <= 150
    assert disjoint_rows(items).tolist() == sorted(expected)


def test_where_nothing_is_shared_every_row_counts():
    assert disjoint_rows(torch.arange(20).view(10, 2)).tolist() == list(range(10))


def test_which_negatives_count_does_not_depend_on_distances():
    distances, same, items = drawn(0, 2000, items=1500)
    goal = at_most_false_accepts(0.05, confidence=0.9)
    before = calibrate(distances, same, goal=goal, items=items)
    mapped = calibrate(-1 / (distances + 2), same, goal=goal, items=items)
    assert before.guarantee == mapped.guarantee
    assert mapped.threshold == -1 / (before.threshold + 2)
    moved = calibrate(1 - distances, same, goal=goal, items=items)
    assert moved.guarantee.negatives == before.guarantee.negatives


# how many are looked at


@pytest.mark.parametrize(
    ("rate", "confidence", "fewest"),
    [(0.01, 0.95, 299), (0.001, 0.95, 2995), (0.1, 0.9, 22), (0.5, 0.8, 3), (0.01, 0.99, 459)],
)
def test_with_one_negative_less_than_it_takes_the_guarantee_is_refused(rate, confidence, fewest):
    guarantee = Guarantee(rate, confidence)
    assert guarantee.fewest == fewest
    assert (guarantee.looked_at(fewest - 1), guarantee.looked_at(fewest)) == (0, 1)
    distances, same = torch.rand(fewest + 50), torch.arange(fewest + 50) >= fewest - 1
    distances[same] = -1
    message = (
        f"different pairs that share no item must be at least {fewest:,} for at most {rate:.3g} "
        f"false accepts with a confidence of {confidence:.3g}, got {fewest - 1:,}: 1 more "
        "would do, or a rate of "
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as refused:
        calibrate(distances, same, goal=guarantee, items=torch.arange(len(same)))
    possible = float(re.search("a rate of ([0-9.]+) or more", str(refused.value))[1])
    assert Guarantee(possible, confidence).fewest <= fewest - 1
    assert Guarantee(possible * 0.99, confidence).fewest > fewest - 1
    same[fewest - 1], distances[fewest - 1] = False, 0.5
    calibrated = calibrate(distances, same, goal=guarantee, items=torch.arange(len(same)))
    assert calibrated.guarantee.negatives == fewest
    assert calibrated.guarantee.accepted == 0


@pytest.mark.parametrize("n", [30, 299, 1000, 12345])
@pytest.mark.parametrize(("rate", "confidence"), [(0.01, 0.95), (0.1, 0.5), (0.3, 0.999)])
def test_as_many_are_looked_at_as_the_binomial_allows_and_no_more(n, rate, confidence):
    looked_at = Guarantee(rate, confidence).looked_at(n)
    assert looked_at == 0 or binom.cdf(looked_at - 1, n, rate) <= 1 - confidence
    assert binom.cdf(looked_at, n, rate) > 1 - confidence


def test_the_threshold_is_the_loosest_below_the_last_one_looked_at():
    distances, same, _ = drawn(1, 1000)
    guarantee = Guarantee(0.02, 0.95)
    chosen = calibrate(distances, same, goal=guarantee, items=torch.arange(len(same)))
    limit = distances[~same].sort().values[guarantee.looked_at(1000) - 1]
    assert guarantee.looked_at(1000) == 13
    assert chosen.threshold == float(distances[distances < limit].max())
    assert chosen.guarantee == KeptGuarantee(0.02, 0.95, 1000, 12, "items")
    # The exact upper bound of 12 of 1000 is below the rate, that of 13 is not.
    bounds = [binomtest(k, 1000).proportion_ci(0.90, "exact").high for k in (12, 13)]
    assert bounds[0] <= 0.02 < bounds[1]


def test_equal_distances_are_all_kept_out():
    # All negatives of three values: a threshold at 2 would accept a third of them.
    distances = torch.tensor([1.0, 2.0, 3.0]).repeat(200)
    distances = torch.cat([distances, torch.tensor([0.5, 1.5, 2.5])])
    same = torch.arange(603) >= 600
    for rate, expected in [(0.2, 0.5), (0.5, 1.5), (0.8, 2.5)]:
        chosen = calibrate(
            distances, same, goal=at_most_false_accepts(rate, 0.95), items=torch.arange(603)
        )
        assert chosen.threshold == expected
        assert float(chosen.false_accept_rate) < rate


def test_a_guarantee_out_of_reach_says_why():
    distances, same, _ = drawn(2, 500)
    message = (
        "no threshold keeps false accepts at or below 0.01 with a confidence of 0.95: no distance "
        "is smaller than that of the 2 closest of 500 different pairs that share no item. Raise"
    )
    distances[~same] = -1.0
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate(distances, same, goal=at_most_false_accepts(0.01, 0.95), items=torch.arange(540))


# the guarantee, in simulations


def broken(true_rates, rate):
    return int((np.array(true_rates) > rate).sum())


@pytest.mark.parametrize(("rate", "n"), [(0.01, 473), (0.001, 2995)])
def test_a_guarantee_is_kept_in_19_of_20_calibrations_and_a_plug_in_in_half(rate, n):
    guarantee = Guarantee(rate, 0.95)
    guaranteed, plugged = [], []
    for seed in range(TRIALS):
        # A uniform distance: the share of new negatives at or below a threshold is the threshold.
        distances, same, _ = drawn(seed, n, near=3 * rate)
        independent = torch.arange(len(same))
        kept = calibrate(distances, same, goal=guarantee, items=independent, keep_sweep=True)
        guaranteed.append(kept.threshold)
        plugged.append(float(kept.sweep.thresholds[at_most_false_accepts(rate)(kept.sweep)]))
    chance = binom.cdf(guarantee.looked_at(n) - 1, n, rate)
    assert 0.045 < chance <= 0.05, "a guarantee with room to spare would prove nothing"
    # Below 5% beyond doubt, and not far below.
    assert binomtest(broken(guaranteed, rate), TRIALS, 0.05, "greater").pvalue > 0.01
    assert broken(guaranteed, rate) > TRIALS * 0.02
    assert 0.4 < broken(plugged, rate) / TRIALS < 0.7


def test_where_pairs_share_items_a_bound_over_all_pairs_breaks_and_ours_does_not():
    # Every item is odd in its own way, which all of its pairs show.
    guarantee, odd, noise, trials = Guarantee(0.02, 0.95), 0.7, 0.2, 200
    ours, naive = [], []
    rng = np.random.default_rng(5)
    for _ in range(trials):
        items = rng.integers(0, 320, (12000, 2))
        items = items[items[:, 0] != items[:, 1]]
        effect = rng.normal(scale=odd, size=320)
        negatives = effect[items].sum(axis=1) + rng.normal(scale=noise, size=len(items))
        distances = torch.from_numpy(np.append(negatives, -9.0))
        counts = sweep(distances, torch.arange(len(distances)) == len(items))
        for found, rows in ((ours, disjoint_rows(torch.from_numpy(items))), (naive, slice(-1))):
            threshold = float(counts.thresholds[guarantee.position(counts, distances[rows])])
            found.append(float(ndtr(threshold / math.sqrt(2 * odd**2 + noise**2))))
    assert binomtest(broken(ours, 0.02), trials, 0.05, "greater").pvalue > 0.01
    assert broken(ours, 0.02) > 0
    assert 0.3 < broken(naive, 0.02) / trials < 0.55


def test_a_guarantee_for_new_classes_takes_each_class_once():
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 400, 4000)
    pairs = rng.integers(0, 4000, (8000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = np.concatenate([pairs, np.stack([np.argsort(labels)[:-1], np.argsort(labels)[1:]], 1)])
    classes = torch.from_numpy(labels[pairs])
    same = classes[:, 0] == classes[:, 1]
    distances = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0)) + ~same
    goal = at_most_false_accepts(0.02, 0.95)
    kept = calibrate(distances, same, goal=goal, items=classes).guarantee
    assert kept.holds_for == "classes"
    assert 180 < kept.negatives <= 200
    kept = calibrate(distances, same, goal=goal, items=torch.from_numpy(pairs)).guarantee
    assert kept.holds_for == "items"
    assert 1500 < kept.negatives <= 2000


# what a calibration tells of it


def test_the_guarantee_is_kept_with_the_calibration():
    distances, same, items = drawn(3, 3000, items=3000)
    goal = at_most_false_accepts(0.01, confidence=0.95)
    chosen = calibrate(distances, same, goal=goal, items=items)
    assert chosen.goal == "at_most_false_accepts(0.01, confidence=0.95)"
    assert chosen.false_accept_rate.value == float(
        (distances[~same] <= chosen.threshold).double().mean()
    )
    again = Calibration.from_dict(json.loads(json.dumps(chosen.to_dict(), allow_nan=False)))
    assert again == chosen
    said = r"at most 0\.01 false accepts for new items, with a confidence of 0\.95 \(4 of 997 acc"
    assert re.match(said, str(again.guarantee))
    assert calibrate(distances, same).guarantee is None


def test_a_damaged_guarantee_is_refused():
    distances, same, _ = drawn(3, 500)
    goal = at_most_false_accepts(0.01, confidence=0.95)
    fields = calibrate(distances, same, goal=goal, items=torch.arange(540)).to_dict()
    for change in (
        {"rate": 2},
        {"rate": None},
        {"negatives": 0},
        {"holds_for": "all"},
        {"x": 1},
        {"classes": 0},
    ):
        damaged = {**fields, "guarantee": {**fields["guarantee"], **change}}
        with pytest.raises(ValueError, match="guarantee of a calibration cannot be read: "):
            Calibration.from_dict(damaged)
    with pytest.raises(ValueError, match=r"guarantee of a calibration cannot be read: .* got 3\."):
        Calibration.from_dict({**fields, "guarantee": 3})


def test_in_search_every_query_is_an_item():
    distances, same, _ = drawn(4, 600)
    known = torch.arange(len(same)) % 3 > 0
    chosen = calibrate(
        distances,
        same,
        goal=at_most_false_accepts(0.05, 0.95),
        items=torch.arange(len(same)) + 1000,
        known=known | same,
        rule="nearest",
        k=1,
    )
    assert chosen.guarantee.holds_for == "unknown items"
    assert chosen.guarantee.negatives == int((~(known | same)).sum()) > 100
    by_class = calibrate(
        distances, same, goal=at_most_false_accepts(0.1, 0.95), items=torch.arange(640) % 50
    )
    assert by_class.guarantee.holds_for == "groups"
    assert by_class.guarantee.negatives <= 50


def test_a_confidence_asks_for_items():
    distances, same, _ = drawn(0, 500)
    message = "items must say which items each pair holds where a goal has a confidence, got none."
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate(distances, same, goal=at_most_false_accepts(0.01, confidence=0.95))


@pytest.mark.parametrize(
    ("rate", "confidence", "message"),
    [
        (0.0, 0.95, "rate must be above 0 and below 1, got 0.0. Nothing is certain"),
        (1.0, 0.95, "rate must be above 0 and below 1, got 1.0."),
        (1.5, 0.95, "rate must be between 0 and 1, got 1.5."),
        (0.1, 1.0, "confidence must be above 0 and below 1, got 1.0. Use e.g. 0.95."),
        (0.1, 0.0, "confidence must be above 0 and below 1, got 0.0."),
    ],
)
def test_guarantees_that_nobody_can_keep_are_refused(rate, confidence, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        at_most_false_accepts(rate, confidence)


def test_a_guarantee_is_read_from_words():
    assert parse_goal("far=0.001@0.95") == Guarantee(0.001, 0.95)
    for text, message in [
        ("far=0.001@", "goal far= must be followed by a number between 0 and 1, got ''."),
        ("far=@0.95", "goal far= must be followed by a number between 0 and 1, got ''."),
        ("recall=0.9@0.95", "goal recall= must be followed by a number between 0 and 1, got"),
        ("far=0.1@1", "confidence must be above 0 and below 1, got 1.0."),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            parse_goal(text)
