import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from likewise.evaluation import evaluate_matching, evaluate_retrieval, evaluate_verification
from likewise.evaluation.comparison import compare, compare_classes, compare_runs, together
from likewise.evaluation.comparison.paired import holm, of_hits, of_parts
from likewise.evaluation.repetition import repeat
from test_evaluation_coverage import draw_items

CLASSES, ITEMS = 12, 5
LABELS = torch.arange(CLASSES).repeat_interleave(ITEMS)


def misses_zero(estimate):
    return estimate.low > 0 or estimate.high < 0


def scores(seed, shift=0.0, count=40):
    rng = torch.Generator().manual_seed(seed)
    return {"map": (torch.rand(count, generator=rng).double() * 0.8 + shift)}


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_queries_are_tested_like_a_paired_t_test(seed):
    a, b = scores(seed, 0.05 * seed), scores(100 + seed)
    (one,) = compare(a, b).measures.values()
    theirs = stats.ttest_rel(a["map"], b["map"])
    assert one.p_value == pytest.approx(theirs.pvalue)
    assert one.adjusted_p_value == one.p_value
    low, high = theirs.confidence_interval(0.95)
    assert (one.difference.low, one.difference.high) == pytest.approx((low, high))
    assert one.a.value - one.b.value == pytest.approx(one.difference.value)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 0), (0, 6), (12, 4), (5, 5), (40, 21)])
def test_hits_of_queries_are_tested_like_mcnemar(wins, losses):
    a = torch.zeros(100)
    b = torch.zeros(100)
    a[:wins] = 1
    b[wins : wins + losses] = 1
    a[80:], b[80:] = 1, 1
    (one,) = compare({"hit": a}, {"hit": b}).measures.values()
    p = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert one.p_value == pytest.approx(p)
    assert one.difference.value == pytest.approx((wins - losses) / 100)
    assert one.difference.low < one.difference.value < one.difference.high
    other = of_hits(b == 1, a == 1)[0]
    assert (-other.high, -other.low) == pytest.approx((one.difference.low, one.difference.high))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=60),
    st.sampled_from([1, 4]),
)
def test_an_interval_misses_zero_exactly_when_p_is_below_five_percent(rows, top):
    a, b = (
        torch.tensor(column).clamp(max=top).double() / top for column in zip(*rows, strict=True)
    )
    classes = torch.arange(len(rows)) % 10
    told = [compare({"x": a}, {"x": b})]
    if len(rows) >= 10:
        told.append(compare({"x": a}, {"x": b}, labels=classes, classes_as_sample=True))
    told.append(compare_runs({"x": a.tolist()}, {"x": b.tolist()}))
    for comparison in told:
        one = comparison.measures["x"]
        assert misses_zero(one.difference) == (one.p_value < 0.05)
        assert (one.ahead == 0) == (one.p_value < 0.05 and one.difference.value > 0)
        if torch.equal(a, b):
            assert one.p_value == 1
            assert one.ahead is None


def test_intervals_of_hits_cover_the_true_difference():
    rng = np.random.default_rng(0)
    for count, wins, losses in [
        (20, 0.5, 0.1),
        (100, 0.05, 0.0),
        (100, 0.1, 0.02),
        (400, 0.1, 0.1),
    ]:
        covered = 0
        for _ in range(200):
            drawn = torch.from_numpy(rng.random(count))
            estimate, _ = of_hits(drawn < wins, (drawn >= wins) & (drawn < wins + losses))
            covered += estimate.low <= wins - losses <= estimate.high
        assert covered / 200 > 0.93, (count, wins, losses)


def without_each_class(embeddings):
    """MAP@R of all classes, then without each, as queries and references: sort and count."""
    distances = torch.cdist(embeddings, embeddings).fill_diagonal_(math.inf)
    order = distances.argsort(dim=1)
    found = []
    for gone in range(-1, CLASSES):
        near = LABELS[order[gone != LABELS]]
        near = near[near != gone].view(len(near), -1)[:, : ITEMS - 1]
        hit = (near == LABELS[gone != LABELS][:, None]).double()
        precision = hit.cumsum(dim=1) / torch.arange(1, ITEMS)
        found.append(float((precision * hit).mean()))
    return found


def false_alarms(trials, p_value):
    """Share of draws, of two encoders that are alike, with a p-value below 5%."""
    rng = torch.Generator().manual_seed(0)
    return sum(p_value(rng) < 0.05 for _ in range(trials)) / trials


def test_alike_models_seldom_differ_over_queries():
    def p_value(rng):
        easy = torch.randn(40, generator=rng).double()
        a, b = easy + 0.5 * torch.randn(2, 40, generator=rng)
        return compare({"x": a}, {"x": b}).measures["x"].p_value

    # 5% of 300 draws has a standard error of 1.3%.
    assert 0.02 < false_alarms(300, p_value) < 0.09


def test_alike_models_seldom_differ_over_classes():
    def p_value(rng):
        a, b = (without_each_class(draw_items(rng, CLASSES, ITEMS).flatten(0, 1)) for _ in "ab")
        gaps = [x - y for x, y in zip(a, b, strict=True)]
        return of_parts(gaps[0], torch.tensor(gaps[1:]))[1]

    assert 0.005 < false_alarms(100, p_value) < 0.1


def test_alike_models_seldom_differ_on_pairs_and_unlike_ones_do():
    i, j = torch.combinations(torch.arange(len(LABELS))).T
    kept = (LABELS[i] == LABELS[j]) | (torch.arange(len(i)) % 12 == 0)
    i, j = i[kept], j[kept]
    classes = torch.stack([LABELS[i], LABELS[j]], dim=1)
    same = LABELS[i] == LABELS[j]
    like = evaluate_verification(torch.arange(len(i)).double(), same, items=classes)

    def judged(embeddings):
        distances, order = (embeddings[i] - embeddings[j]).norm(dim=1).double().sort()
        return replace(like, distances=distances, same=same[order], items=classes[order])

    def p_value(rng, noise=0.0):
        a, b = (draw_items(rng, CLASSES, ITEMS).flatten(0, 1) for _ in "ab")
        b += noise * torch.randn(b.shape, generator=rng)
        return compare(judged(a), judged(b)).measures["roc_auc"].p_value

    assert false_alarms(40, p_value) <= 0.1
    assert false_alarms(10, lambda rng: p_value(rng, noise=1.0)) > 0.8


def verified(seed, noise, labels=LABELS, threshold=2.0, items=None):
    rng = torch.Generator().manual_seed(seed)
    base = draw_items(torch.Generator().manual_seed(9), CLASSES, ITEMS).flatten(0, 1)
    embeddings = base + noise * torch.randn(base.shape, generator=rng)
    i, j = torch.combinations(torch.arange(len(labels)))[::3].T
    pairs = torch.stack([i, j], dim=1)
    return evaluate_verification(
        (embeddings[i] - embeddings[j]).norm(dim=1),
        labels[i] == labels[j],
        threshold=threshold,
        items=pairs if items is None else items(pairs),
    )


def test_pairs_are_compared_by_leaving_out_their_items():
    a, b = (
        verified(seed, noise, items=lambda p: LABELS[p]) for seed, noise in [(0, 0.2), (1, 0.5)]
    )

    def gap(gone):
        areas = []
        for result in (a, b):
            kept = (result.items != gone).all(dim=1)
            distances, same = result.distances[kept], result.same[kept]
            closer = distances[same][:, None] < distances[~same][None, :]
            areas.append(float(closer.double().mean()))
        return areas[0] - areas[1]

    without = np.array([gap(c) for c in range(CLASSES)])
    error = math.sqrt((CLASSES - 1) ** 2 / CLASSES * without.var(ddof=1))
    one = compare(a, b).measures["roc_auc"]
    reach = stats.t.ppf(0.975, CLASSES - 1) * error
    assert one.difference.value == pytest.approx(gap(-1))
    assert one.difference.value != 0
    assert (one.difference.low, one.difference.high) == pytest.approx(
        (gap(-1) - reach, gap(-1) + reach)
    )
    assert one.p_value == pytest.approx(2 * stats.t.sf(abs(gap(-1)) / error, CLASSES - 1))
    assert (one.a, one.b) == (a.roc_auc, b.roc_auc)


def test_accuracy_at_a_threshold_of_each_model_and_the_smaller_error_are_compared():
    a, b = verified(0, 0.0), verified(1, 1.5)
    measures = compare(a, b).measures
    right = float(a.at_threshold["accuracy"]) - float(b.at_threshold["accuracy"])
    assert measures["accuracy"].difference.value == pytest.approx(right)
    assert measures["equal_error_rate"].difference.value < 0
    assert measures["equal_error_rate"].ahead == 0
    assert "accuracy" not in compare(a, verified(1, 1.0, threshold=None)).measures


def test_the_same_model_twice_has_differences_of_zero_and_p_values_of_one():
    a = verified(0, 0.3)
    for one in compare(a, a).measures.values():
        assert (one.difference.value, one.p_value, one.ahead) == (0, 1, None)
    (one,) = compare_runs([0.5, 0.7], [0.5, 0.7]).measures.values()
    assert (one.difference.value, one.p_value) == (0, 1)


def retrieved(seed, noise):
    rng = torch.Generator().manual_seed(seed)
    base = draw_items(torch.Generator().manual_seed(9), CLASSES, ITEMS).flatten(0, 1)
    return evaluate_retrieval(base + noise * torch.randn(base.shape, generator=rng), LABELS, ks=[1])


def test_results_of_retrieval_are_compared_on_their_queries():
    a, b = retrieved(0, 0.0), retrieved(1, 1.0)
    found = compare(a, b, names=("new", "old"), measures=["map_at_r", "precision_at_1"])
    gap = found.measures["map_at_r"].difference.value
    assert gap == pytest.approx(a.map_at_r.value - b.map_at_r.value)
    assert found.measures["precision_at_1"].a == a.precision_at_1
    assert found.verdict.startswith("new is ahead on map_at_r by ")
    assert found.verdict.endswith("adjusted for 2 measures (Holm).")
    assert compare(b, a).measures["rank"].ahead == 1
    by_class = compare_classes(a, b, "map_at_r")
    assert list(by_class) == list(range(CLASSES))
    assert np.mean([one.value for one in by_class.values()]) == pytest.approx(gap)


def test_new_classes_are_left_out_as_references_too():
    a, b = retrieved(0, 0.0), retrieved(1, 1.0)
    for result, step in ((a, 1), (b, 2)):
        parts = {"map_at_r": torch.arange(12).double() * step / 50}
        object.__setattr__(result, "without_classes", parts)
    (one,) = compare(a, b, measures=["map_at_r"], classes_as_sample=True).measures.values()
    gaps = np.arange(12) / 50
    reach = stats.t.ppf(0.975, 11) * math.sqrt(121 / 12 * gaps.var(ddof=1))
    assert one.difference.value == pytest.approx(a.map_at_r.value - b.map_at_r.value)
    assert one.difference.high - one.difference.value == pytest.approx(reach)
    with pytest.raises(ValueError, match="must be evaluated with classes_as_sample=True"):
        compare(retrieved(0, 0.0), a, classes_as_sample=True)


def test_right_answers_are_compared_over_queries_and_over_classes():
    truth = torch.arange(200) % 20
    rng = torch.Generator().manual_seed(0)
    results = []
    for share in (0.9, 0.6):
        right = torch.rand(200, generator=rng) < share
        answers = torch.where(right, truth, (truth + 1) % 20)
        results.append(evaluate_matching(answers, truth, indexed_classes=range(20)))
    one = compare(*results).measures["accuracy"]
    assert one.a == results[0].accuracy
    assert one.ahead == 0
    of_classes = compare(*results, classes_as_sample=True).measures["accuracy"]
    gaps = (results[0].right.double() - results[1].right.double()).view(10, 20).mean(dim=0)
    assert of_classes.p_value == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue)


def test_runs_are_paired_by_seed():
    a, b = {"x": [0.9, 0.8, 0.85], "y": [1, 2, 4]}, {"x": [0.7, 0.62, 0.6], "y": [2, 3, 5]}
    found = compare_runs(a, b, smaller_is_better=["x"])
    theirs = stats.ttest_rel(a["x"], b["x"])
    assert found.measures["x"].p_value == pytest.approx(theirs.pvalue)
    assert found.measures["x"].ahead == 1
    assert math.isnan(found.measures["y"].p_value)
    assert found.measures["y"].ahead is None
    assert found.measures["y"].to_dict()["p_value"] is None
    assert "On y the difference is -1.000 (no interval: it is the same" in found.verdict
    assert found.compared == "3 runs"
    runs = [repeat(lambda s, k=k: {"x": s**2 + k * s}, seeds=3) for k in (0, 1)]
    values = compare_runs(runs[0].values, runs[1].values)
    assert compare_runs(*runs) == values
    with pytest.raises(ValueError, match=r"b must be of the same seeds as a, \[0, 1, 2\], got"):
        compare_runs(runs[0], repeat(lambda s: {"x": s}, seeds=[0, 1, 3]))
    with pytest.raises(ValueError, match="b must hold as many runs as a, 3, got 2"):
        compare_runs(a, {"x": [1.0, 2.0]})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_are_those_of_holm(p_values):
    order = np.argsort(p_values, kind="stable")
    expected, most = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1, (len(p_values) - rank) * p_values[place]))
        expected[place] = most
    assert holm([*p_values, math.nan])[:-1] == pytest.approx(expected)


def test_comparisons_taken_together_are_adjusted_for_all_measures():
    parts = {name: compare(scores(0, 0.2), scores(seed)) for name, seed in (("one", 7), ("two", 8))}
    both = together(parts)
    p = sorted(part.measures["map"].p_value for part in parts.values())
    adjusted = sorted(one.adjusted_p_value for one in both.measures.values())
    assert list(both.measures) == ["one map", "two map"]
    assert adjusted == pytest.approx([2 * p[0], max(2 * p[0], p[1])])
    assert json.loads(json.dumps(both.to_dict(), allow_nan=False))["verdict"] == both.verdict
    with pytest.raises(ValueError, match="parts must be comparisons of the same two models, got"):
        together({})


def test_what_is_not_of_the_same_queries_is_refused():
    hits = {"x": torch.tensor([0.0, 1.0, 1.0])}
    with pytest.raises(ValueError, match="b must be of the same queries as a, 3, got 2"):
        compare(hits, {"x": torch.tensor([0.0, 1.0])})
    with pytest.raises(ValueError, match="b must have a measure that a has, such as x, got y"):
        compare(hits, {"y": hits["x"]})
    with pytest.raises(ValueError, match="measures must be one of x, got 'z'"):
        compare(hits, hits, measures=["z"])
    with pytest.raises(ValueError, match=r"x must be a tensor of shape \(q,\)"):
        compare({"x": [[1, 2]]}, hits)
    with pytest.raises(ValueError, match="x must be finite"):
        compare({"x": hits["x"] / 0}, hits)
    with pytest.raises(ValueError, match="labels must be given with classes_as_sample, got none"):
        compare(hits, hits, classes_as_sample=True)
    with pytest.raises(ValueError, match="labels must be given for differences by class"):
        compare_classes(hits, hits, "x")
    with pytest.raises(TypeError, match="b must be of the kind of a, dict, got RetrievalResult"):
        compare(hits, retrieved(0, 0.0))
    shuffled = replace(retrieved(0, 0.0), query_labels=LABELS.flip(0))
    with pytest.raises(ValueError, match="b must be of the same queries as a, 60, got 60 that"):
        compare(retrieved(0, 0.0), shuffled)


def test_what_is_not_of_the_same_pairs_is_refused():
    a = verified(0, 0.3)
    with pytest.raises(ValueError, match="b must be of the same pairs as a, "):
        compare(a, verified(0, 0.3, labels=LABELS.roll(1)))
    with pytest.raises(ValueError, match="a and b must be evaluated with items"):
        compare(a, replace(a, items=None))
    with pytest.raises(ValueError, match="classes_as_sample must be left off for verification"):
        compare(a, a, classes_as_sample=True)


@pytest.mark.parametrize("name", ["loss", "unseen.equal_error_rate", "rank.mean", "a/seconds"])
def test_less_is_better_for_errors_and_ranks_wherever_they_are_of(name):
    bad, good = [0.3, 0.301, 0.304, 0.3], [0.1, 0.102, 0.104, 0.1]
    found = compare_runs({name: bad}, {name: good}, names=("bad", "good"))
    assert found.verdict.startswith(f"good is ahead on {name}")


def test_more_is_better_for_reciprocal_ranks():
    assert (
        not compare_runs({"mean_reciprocal_rank": [1.0, 2]}, {"mean_reciprocal_rank": [2.0, 4]})
        .measures["mean_reciprocal_rank"]
        .smaller_is_better
    )


def test_a_difference_that_is_equal_but_for_rounding_has_no_p_value():
    scores = torch.rand(30)
    found = compare({"x": scores}, {"x": scores + 0.1})
    assert math.isnan(found.measures["x"].p_value)
    assert "is ahead" not in found.verdict


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: compare(x, x, names=("A",)), "names must be two different ones, got ('A',)."),
        (lambda x: compare(x, x, names=("A", "A")), "names must be two different ones"),
        (lambda x: compare(x, x, measures=[]), "measures must be names, at least one, got []."),
        (lambda x: compare(x, x, measures="x"), "measures must be names, at least one, got 'x'."),
        (
            lambda x: compare({**x, "y": torch.ones(3)}, x),
            "y must have as many queries as x, 10, got 3.",
        ),
        (lambda x: compare_runs({}, {}), "a and b must hold at least one measure, got none."),
        (lambda x: compare_runs([], []), "value must be numbers, one per run and at least one"),
        (lambda x: compare_runs("abc", "def"), "value must be numbers, one per run"),
        (lambda x: compare_runs([[1.0]], [[1.0]]), "value must be numbers, one per run"),
        (
            lambda x: compare_runs({"a": [1.0, 2], "b": [1.0]}, {"a": [1.0, 2], "b": [1.0]}),
            "a and b must have the same number of runs for every measure",
        ),
    ],
)
def test_comparisons_that_mean_nothing_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call({"x": torch.ones(10)})


def test_smaller_is_better_is_no_text():
    x = {"error": torch.rand(10)}
    with pytest.raises(TypeError, match="smaller_is_better must be a set of names, got 'error'"):
        compare(x, x, smaller_is_better="error")
