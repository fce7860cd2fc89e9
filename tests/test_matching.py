import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.calibration import calibrate
from likewise.distances import EUCLIDEAN
from likewise.index import Index, Neighbors
from likewise.matching import RULES, UNKNOWN, decide, majority, match, rule_name


def neighbors(labels, distances):
    labels = torch.tensor(labels)
    ids = np.where(torch.tensor(distances).isposinf(), -1, 10 + np.arange(labels.shape[1]))
    return Neighbors(ids, torch.tensor(distances), labels)


def elect(labels, distances, *, dudani):
    """One query, by loops: the label elected, and the mean distance of those that have it."""
    voters = [(d, c) for d, c in zip(distances, labels, strict=True) if c != -1 and d != math.inf]
    if not voters:
        return -1, math.inf
    nearest, farthest = voters[0][0], voters[-1][0]
    even = not dudani or nearest == farthest
    weights = [1.0 if even else (farthest - d) / (farthest - nearest) for d, _ in voters]
    votes = Counter()
    for (_, label), weight in zip(voters, weights, strict=True):
        votes[label] += weight  # a Counter keeps the order of the first vote, the nearer first
    best = max(votes.values())
    elected = next(label for label, count in votes.items() if count == best)
    share = [w if c == elected else 0.0 for (_, c), w in zip(voters, weights, strict=True)]
    total = sum(w * d for w, (d, _) in zip(share, voters, strict=True) if w)
    return elected, total / sum(share)


# Eighths are exact in float32, so that equal votes of the loops are equal votes of ours.
eighths = st.integers(-8, 24).map(lambda n: n / 8)
rows = st.integers(1, 7).flatmap(
    lambda k: st.lists(
        st.tuples(
            st.lists(st.integers(-1, 2), min_size=k, max_size=k),
            st.lists(eighths | st.just(math.inf), min_size=k, max_size=k).map(sorted),
        ),
        min_size=1,
        max_size=8,
    )
)


# Oracle


@pytest.mark.parametrize("rule", ["majority", "weighted"])
@given(rows=rows)
@settings(max_examples=100)
def test_votes_agree_with_the_loops(rule, rows):
    labels, distances = decide(neighbors(*map(list, zip(*rows, strict=True))), rule)
    expected = [elect(*row, dudani=rule == "weighted") for row in rows]
    assert labels.tolist() == [label for label, _ in expected]
    assert distances.tolist() == pytest.approx([distance for _, distance in expected], rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_the_first_column(seed):
    rng = torch.Generator().manual_seed(seed)
    found = Neighbors(
        np.arange(40).reshape(10, 4),
        torch.rand(10, 4, generator=rng).sort(dim=1).values,
        torch.randint(-1, 5, (10, 4), generator=rng),
    )
    labels, distances = decide(found)
    assert labels.tolist() == [row[0] for row in found.labels.tolist()]
    assert distances.tolist() == [row[0] for row in found.distances.tolist()]


# The rules, case by case

VOTES = [
    # labels, distances, by majority, by weight
    ([0, 1, 1], [0.0, 0.75, 1.0], (1, 0.875), (0, 0.0)),
    ([0, 1, 1, 0], [0.0, 1.0, 2.0, 3.0], (0, 1.5), (0, 0.0)),  # a tie, to the nearer
    ([1, 0, 0, 1], [1.0, 1.0, 1.0, 1.0], (1, 1.0), (1, 1.0)),  # equally far: to the first
    ([-1, 2, -1], [0.0, 0.5, 1.0], (2, 0.5), (2, 0.5)),  # the unlabeled have no vote
    ([3, 4, 4, -1], [0.5, 1.0, math.inf, math.inf], (3, 0.5), (3, 0.5)),  # nor has padding
    ([-1, -1], [0.0, 1.0], (-1, math.inf), (-1, math.inf)),
    ([-1, -1], [math.inf, math.inf], (-1, math.inf), (-1, math.inf)),
    ([5, 6, 6], [-4.0, -3.0, -2.0], (6, -2.5), (5, -4.0)),  # distances below 0, as of products
]


@pytest.mark.parametrize(("labels", "distances", "by_majority", "by_weight"), VOTES)
def test_votes_case_by_case(labels, distances, by_majority, by_weight):
    found = neighbors([labels], [distances])
    for rule, expected in [("majority", by_majority), ("weighted", by_weight)]:
        label, distance = decide(found, rule)
        assert (label.item(), distance.item()) == expected, rule


@given(rows=rows, shift=st.integers(-4, 4), scale=st.sampled_from([0.5, 2.0, 8.0]))
def test_weighted_votes_do_not_depend_on_unit_or_zero_of_the_distance(rows, shift, scale):
    labels, distances = map(list, zip(*rows, strict=True))
    moved = [[scale * d + shift for d in row] for row in distances]
    before, _ = decide(neighbors(labels, distances), "weighted")
    after, _ = decide(neighbors(labels, moved), "weighted")
    assert after.tolist() == before.tolist()


def test_any_function_may_be_the_rule():
    def farthest(found):
        return found.labels[:, -1], found.distances[:, -1]

    found = neighbors([[0, 1], [2, 3]], [[0.0, 0.5], [0.0, 0.75]])
    matches = match(found, 0.5, rule=farthest)
    assert matches.labels.tolist() == [1, UNKNOWN]
    assert matches.rule == "farthest"
    assert match(found, 0.5, rule=majority).rule == rule_name("majority") == "majority"


# Matching


def test_a_distance_equal_to_the_threshold_is_accepted_and_the_next_one_is_not():
    threshold = torch.tensor(0.3)
    beyond = torch.nextafter(threshold, torch.tensor(1.0))
    found = neighbors([[4], [4]], [[threshold.item()], [beyond.item()]])
    matches = match(found, threshold.item())
    assert matches.labels.tolist() == [4, UNKNOWN]
    assert matches.accepted.tolist() == [True, False]
    assert matches.distances.tolist() == [threshold.item(), beyond.item()]
    assert matches.neighbors is found
    assert (matches.threshold, matches.rule) == (threshold.item(), "nearest")


def test_the_threshold_is_not_rounded_to_the_precision_of_the_distances():
    found = neighbors([[4]], [[0.1]])
    assert found.distances.item() > 0.1, "0.1 is none of float32's numbers"
    assert match(found, 0.1).labels.tolist() == [UNKNOWN]


OF_ITEMS = [rule for rule in RULES if rule not in ("center", "relative")]


@pytest.mark.parametrize("rule", OF_ITEMS)
def test_padding_and_unlabeled_items_are_unknown_at_any_threshold(rule):
    found = neighbors([[-1, -1], [-1, -1]], [[0.0, 0.5], [math.inf, math.inf]])
    matches = match(found, math.inf, rule=rule)
    assert matches.labels.tolist() == [UNKNOWN, UNKNOWN]
    assert not matches.accepted.any()


def test_an_unlabeled_nearest_item_hides_the_labeled_one_behind_it():
    found = neighbors([[-1, 3]], [[0.0, 0.5]])
    assert match(found, 1.0).labels.tolist() == [UNKNOWN]
    assert match(found, 1.0, rule="majority").labels.tolist() == [3]


@pytest.mark.parametrize("rule", OF_ITEMS)
def test_lookup_calibrate_match(rule):
    rng = torch.Generator().manual_seed(0)
    centers = 5 * torch.eye(4)

    def drawn(labels):
        return centers[labels] + 0.3 * torch.randn(len(labels), 4, generator=rng)

    index = Index(EUCLIDEAN)
    indexed = torch.arange(30) % 3
    index.add(drawn(indexed), labels=indexed)
    seen, truth = torch.arange(80) % 4, torch.arange(40) % 4

    found = index.lookup(drawn(seen), k=3)
    labels, distances = decide(found, rule)
    calibration = calibrate(distances, labels == seen, rule=rule, k=3)
    matches = match(index.lookup(drawn(truth), k=3), calibration, rule=rule)

    assert matches.threshold == calibration.threshold
    assert matches.labels.tolist() == truth.where(truth < 3, UNKNOWN).tolist()


# Edges

FOUND = neighbors([[0, 1, 1], [0, 0, 1]], [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])


def calibrated(rule, k):
    return calibrate(torch.tensor([0.1, 0.3]), torch.tensor([True, False]), rule=rule, k=k)


@pytest.mark.parametrize(
    ("made_for", "rule"),
    [("pairs", "nearest"), ("nearest", "majority"), ("majority", "weighted")],
)
def test_a_calibration_for_another_rule_is_refused(made_for, rule):
    calibration = calibrated(made_for, None if made_for == "pairs" else 3)
    with pytest.raises(ValueError, match=f"for the rule '{rule}', got one for '{made_for}'"):
        match(FOUND, calibration, rule=rule)


@pytest.mark.parametrize("rule", ["majority", "weighted"])
def test_a_calibration_for_another_k_is_refused_where_k_counts(rule):
    assert len(match(FOUND, calibrated(rule, 3), rule=rule).labels) == 2
    with pytest.raises(ValueError, match=r"k=3, as there are neighbors, got one for k=5\. Look up"):
        match(FOUND, calibrated(rule, 5), rule=rule)


@pytest.mark.parametrize("k", [1, 5])
def test_a_calibration_by_the_nearest_fits_any_k(k):
    matches = match(FOUND, calibrated("nearest", k))
    assert matches.labels.tolist() == match(FOUND, calibrated("nearest", 3)).labels.tolist()
    assert matches.accepted.all()


REFUSED = [
    (ValueError, r"threshold must be a number, got NaN", {"threshold": math.nan}),
    (TypeError, r"threshold must be a number or a Calibration, got 'f1'", {"threshold": "f1"}),
    (TypeError, r"threshold must be a number or a Calibration, got True", {"threshold": True}),
    (TypeError, r"threshold must be .* Use float", {"threshold": torch.tensor(0.5)}),
    (
        ValueError,
        r"rule must be one of center, majority, nearest, relative, weighted, got 'mode'",
        {"rule": "mode"},
    ),
    (
        ValueError,
        r"rule must give one .* 2 queries, .* \(2, 3\)",
        {"rule": lambda found: (found.labels, found.distances)},
    ),
]


@pytest.mark.parametrize(("error", "message", "options"), REFUSED)
def test_a_refused_match_says_why(error, message, options):
    with pytest.raises(error, match=message):
        match(FOUND, **({"threshold": 0.5} | options))


def test_a_calibration_spoilt_by_nan_is_refused():
    spoilt = dataclasses.replace(calibrated("nearest", 1), threshold=math.nan)
    with pytest.raises(ValueError, match="threshold must be a number, got NaN"):
        match(FOUND, spoilt)


def test_no_queries_give_no_matches():
    found = Neighbors(np.empty((0, 3), dtype=np.int64), torch.empty(0, 3), FOUND.labels[:0])
    for rule in RULES:
        assert match(found, 0.5, rule=rule).labels.tolist() == []


@pytest.mark.parametrize("rule", ["nearest", "majority", "weighted"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_neighbors_at_no_distance_are_refused(rule, value):
    distances = torch.tensor([[0.1, value]])
    neighbors = Neighbors(np.array([[5, 6]]), distances, torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match=r"neighbors must be finite, .* got 1 NaN or"):
        match(neighbors, 0.5, rule=rule)
