import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.evaluation.open_set import _Queries, evaluate_open_set
from likewise.intervals import binomial


def some_queries(seed, count=200, classes=14, known=10, ties=False):
    """Known classes 0.., unknowns above; some answers wrong, some none, some far off."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    is_known = truth < known
    right = is_known & (rng.random(count) < 0.85)
    wrong = (truth + rng.integers(1, known, count)) % known
    labels = np.where(right, truth, np.where(rng.random(count) < 0.05, -1, wrong))
    labels = np.where(~right & is_known & (labels == truth), (truth + 1) % known, labels)
    distances = rng.normal(np.where(right, 0.5 + 0.03 * truth, 1.0), 0.25)
    if ties:
        distances = distances.round(1)
    distances = np.where(labels == -1, np.inf, distances)
    return [torch.from_numpy(x) for x in (distances, labels, truth, is_known)]


def by_loops(queries, threshold):
    known = accepted = right = unknowns = wrong = 0
    missed = {}
    for distance, label, truth, is_known in zip(*(q.tolist() for q in queries), strict=True):
        yes = distance <= threshold and label != -1
        if is_known:
            known += 1
            accepted += yes
            right += yes and label == truth
            missed.setdefault(truth, []).append(not (yes and label == truth))
        else:
            unknowns += 1
            wrong += yes
    return known, accepted, right, unknowns, wrong, missed


def least_by_loops(queries, at):
    """The false negative rate at the best of all thresholds that accept few enough unknowns."""
    distances = queries[0]
    least = 1.0
    for threshold in distances[distances.isfinite()].tolist():
        known, _, right, unknowns, wrong, _ = by_loops(queries, threshold)
        if wrong <= at * unknowns:
            least = min(least, 1 - right / known)
    return least


def inconsistency_by_loops(queries, within):
    distances, labels, truth, known = (q.tolist() for q in queries)
    unknowns = sorted(d for d, k in zip(distances, known, strict=True) if not k)
    low, high = (unknowns[int(rate * len(unknowns))] for rate in within)
    variances = []
    for step in range(100):
        threshold = low + (high - low) * (step + 0.5) / 100
        utilities = []
        for c in sorted({t for t, k in zip(truth, known, strict=True) if k}):
            as_c = [d <= threshold and y == c for d, y in zip(distances, labels, strict=True)]
            own = [yes for yes, t in zip(as_c, truth, strict=True) if t == c]
            others = [yes for yes, t in zip(as_c, truth, strict=True) if t != c]
            found, spared = sum(own) / len(own), 1 - sum(others) / len(others)
            utilities.append(2 * found * spared / (found + spared) if found + spared else 0.0)
        variances.append(np.var(utilities))
    return np.mean(variances)


@pytest.mark.parametrize("leave_out", ["items", "classes"])
@pytest.mark.parametrize("seed", range(6))
def test_all_numbers_are_those_of_the_loops(seed, leave_out):
    queries = some_queries(seed, ties=seed % 2 == 0)
    result = evaluate_open_set(*queries, threshold=0.8, leave_out=leave_out)
    known, accepted, right, unknowns, wrong, missed = by_loops(queries, 0.8)
    assert 0 < wrong < unknowns
    assert right < accepted < known
    assert (result.known_total, result.unknown_total) == (known, unknowns)
    assert float(result.false_positive_rate) == pytest.approx(wrong / unknowns)
    assert float(result.false_negative_rate) == pytest.approx(1 - right / known)
    balanced = (accepted / known + 1 - wrong / unknowns) / 2
    assert float(result.balanced_accuracy) == pytest.approx(balanced)
    assert result.per_class == {
        str(c): binomial(sum(missed[c]), len(missed[c])) for c in sorted(missed)
    }
    for at, rate in result.false_negative_rates.items():
        assert float(rate) == pytest.approx(least_by_loops(queries, at))
    for at in (0.0, 0.3, 0.5, 1.0):
        assert float(result.false_negatives(at)) == pytest.approx(least_by_loops(queries, at))
    rates = [np.mean(m) for m in missed.values()]
    chance = np.mean([np.mean(m) * (1 - np.mean(m)) / (len(m) - 1) for m in missed.values()])
    assert float(result.spread) == pytest.approx(math.sqrt(max(np.var(rates, ddof=1) - chance, 0)))
    assert float(result.inconsistency) == pytest.approx(
        inconsistency_by_loops(queries, (0.001, 0.1))
    )
    for estimate in (result.balanced_accuracy, result.false_negative_rate):
        assert estimate.low < estimate.value < estimate.high


def test_only_rates_of_a_unknown_or_more_are_told():
    result = evaluate_open_set(*some_queries(0, count=120), threshold=0.8)
    assert 10 <= result.unknown_total < 100
    assert list(result.false_negative_rates) == [0.1]


def test_the_sweep_holds_the_curve():
    queries = some_queries(3, ties=True)
    sweep = evaluate_open_set(*queries, threshold=0.8).sweep
    assert len(sweep.thresholds) > 10
    for at, threshold in enumerate(sweep.thresholds.tolist()):
        known, _, right, unknowns, wrong, _ = by_loops(queries, threshold)
        assert float(sweep.recall[at]) == pytest.approx(right / known)
        assert float(sweep.false_accept_rate[at]) == pytest.approx(wrong / unknowns)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 9), shift=st.floats(-5, 5))
def test_only_the_order_of_distances_and_no_name_of_a_class_counts(seed, factor, shift):
    distances, labels, truth, known = some_queries(seed, count=60)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(truth)))
    renamed = torch.from_numpy(np.random.default_rng(seed).permutation(14))
    one = evaluate_open_set(distances, labels, truth, known, threshold=0.8)
    other = evaluate_open_set(
        (distances * factor + shift)[order],
        torch.where(labels >= 0, renamed[labels.clamp(min=0)], -1)[order],
        renamed[truth][order],
        known[order],
        threshold=0.8 * factor + shift,
    )
    assert other.false_positive_rate == one.false_positive_rate
    assert other.false_negative_rate == one.false_negative_rate
    assert float(other.spread) == pytest.approx(float(one.spread), abs=1e-7)
    assert float(other.inconsistency) == pytest.approx(float(one.inconsistency), abs=0.01)
    assert {k: v.value for k, v in other.false_negative_rates.items()} == {
        k: v.value for k, v in one.false_negative_rates.items()
    }


def test_the_spread_is_small_where_only_chance_tells_classes_apart_and_large_where_more_does():
    truth = torch.from_numpy(np.repeat(np.arange(30), 40))
    known = truth < 20
    labels = torch.where(known, truth, 0)
    found = []
    for seed in range(7):
        alike = torch.from_numpy(np.random.default_rng(seed).random(len(truth)))
        apart = alike + 0.4 * (truth % 2)
        results = [
            evaluate_open_set(distances, labels, truth, known, threshold=0.7)
            for distances in (alike, apart)
        ]
        found.append([[float(r.spread), float(r.inconsistency)] for r in results])
    (spread, inconsistency), (spread_apart, inconsistency_apart) = np.median(found, axis=0)
    assert spread < 0.03 < 0.15 < spread_apart  # 0.07 is what chance alone gives
    assert inconsistency < 0.5 * inconsistency_apart


def test_intervals_of_the_balanced_accuracy_cover_it_even_where_all_goes_well():
    covered, rng = 0, np.random.default_rng(1)
    truth = torch.arange(100) % 20
    known = truth < 10
    labels = torch.where(known, truth, 0)
    for _ in range(300):
        distances = torch.from_numpy(rng.random(100))
        distances = torch.where(known, distances - 0.02, distances + 0.97)
        queries = _Queries.of(distances, labels, truth, known, torch.arange(100), 2)
        _, _, estimate = queries.exactly(0.99)
        expected = (1 + 0.98) / 2  # no known query is rejected, 0.02 of the unknowns accepted
        covered += estimate.low <= expected <= estimate.high
        assert estimate.high > estimate.low
    assert covered >= 285


def test_an_unlabeled_answer_is_never_accepted():
    distances = torch.tensor([0.1, 0.2, 0.1, 0.2])
    labels = torch.tensor([0, -1, -1, 0])
    truth = torch.tensor([0, 0, 1, 1])
    result = evaluate_open_set(distances, labels, truth, truth == 0, threshold=0.5)
    assert float(result.false_negative_rate) == 0.5
    assert float(result.false_positive_rate) == 0.5
    assert result.spread is None
    assert result.inconsistency is None


def test_where_no_answer_is_right_all_known_queries_are_missed():
    distances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    truth = torch.tensor([0, 1, 2, 2])
    result = evaluate_open_set(
        distances, torch.tensor([1, 0, 0, 0]), truth, truth < 2, threshold=1.0
    )
    assert float(result.false_negatives(1.0)) == 1.0
    assert float(result.balanced_accuracy) == 0.5
    assert float(result.false_negative_rate) == 1.0


def test_results_go_into_json_and_classes_by_their_names():
    names = [f"c{code}" for code in range(14)]
    result = evaluate_open_set(*some_queries(0), threshold=0.8, class_names=names)
    fields = json.loads(json.dumps(result.to_dict()))
    assert fields["false_negative_rates"]["0.1"]["value"] > 0
    assert set(fields["per_class"]) == set(names[:10])
    assert "sweep" not in fields


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"threshold": math.nan}, "threshold must be a finite number, got nan"),
        ({"within": (0.1, 0.1)}, "within must rise"),
        ({"within": (0.1, 2.0)}, "within must be between 0 and 1"),
        ({"leave_out": "people"}, "leave_out must be one of classes, items"),
        ({"class_names": ["a"]}, "class_names must name every class, got 1 names"),
        (
            {"known": torch.ones(200, dtype=torch.bool)},
            "known must hold known queries and unknowns",
        ),
        ({"known": torch.zeros(200, dtype=torch.bool)}, "known must hold .* that are indexed"),
        ({"truth": torch.full((200,), -2)}, "truth must be class codes of at least 0, or -1 for"),
        ({"truth": torch.full((200,), -1)}, "truth must be known for at least one item, got 200"),
        ({"distances": torch.full((200,), math.nan)}, "distances must be numbers"),
        ({"distances": torch.zeros(200, 1)}, r"distances must be a tensor of shape \(q,\)"),
        ({"labels": torch.zeros(3).long()}, r"labels must have shape \(200,\)"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, sentence):
    names = ("distances", "labels", "truth", "known")
    given_ = {**dict(zip(names, some_queries(0), strict=True)), "threshold": 0.5, **change}
    with pytest.raises(ValueError, match=sentence):
        evaluate_open_set(**given_)


def test_unknowns_with_the_label_of_their_class_are_refused():
    distances, labels, truth, known = some_queries(0)
    labels[(~known).nonzero()[0]] = truth[~known][0]
    with pytest.raises(ValueError, match="known must be True wherever labels equal truth, got 1"):
        evaluate_open_set(distances, labels, truth, known, threshold=0.5)
