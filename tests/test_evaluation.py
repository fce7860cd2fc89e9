import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from likewise import metrics
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT
from likewise.evaluation import evaluate_matching, evaluate_retrieval, evaluate_verification
from likewise.index import Neighbors
from likewise.intervals import Estimate, binomial, jackknife
from likewise.matching import UNKNOWN, Matches
from likewise.probability import fit_logistic


def bounds(estimate):
    return estimate.value, estimate.low, estimate.high


def labeled(seed, n=60, classes=8, d=3):
    """Embeddings around a center per class, and labels with gaps; classes differ in size."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng)
    centers = torch.randn(classes, d, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, d, generator=rng, dtype=torch.float64)
    return centers[labels] + 0.7 * noise, 10 * labels + 3


# retrieval


def retrieval_by_loops(distances, labels, reference_labels, ks, own):
    """Per counted query: precision at 1, R-precision, MAP@R, then recall and precision at ks."""
    scores = []
    for q, label in enumerate(labels.tolist()):
        others = [i for i in range(len(reference_labels)) if not (own and i == q)]
        order = sorted(others, key=lambda i: (float(distances[q, i]), i))
        hits = [int(reference_labels[i]) == label for i in order]
        r = sum(hits)
        if r == 0:
            continue
        average = sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r
        recall = [float(any(hits[:k])) for k in ks]
        precision = [sum(hits[:k]) / k for k in ks]
        scores.append([hits[0], sum(hits[:r]) / r, average, *recall, *precision])
    return np.array(scores, dtype=float)


def retrieval_values(result):
    return [
        estimate.value
        for estimate in (
            result.precision_at_1,
            result.r_precision,
            result.map_at_r,
            *result.recall_at_k.values(),
            *result.precision_at_k.values(),
        )
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN, INNER_PRODUCT], ids=lambda d: d.name)
@pytest.mark.parametrize("levels", [None, 2], ids=["no ties", "ties"])
def test_retrieval_agrees_with_loops(seed, distance, levels):
    embeddings, labels = labeled(seed, n=40, classes=12)
    labels[0] = 999  # alone in its class
    if levels:
        embeddings = (embeddings * levels).round() + 0.25
        # Equal rows must be equally far, which a matrix product does not guarantee.
        distance = EUCLIDEAN
    distances = distance.matrix(embeddings, embeddings)
    ks = (1, 3, 20)
    expected = retrieval_by_loops(distances, labels, labels, ks, own=True)

    result = evaluate_retrieval(embeddings, labels, distance=distance, ks=ks, chunk_size=7)
    np.testing.assert_allclose(retrieval_values(result), expected.mean(axis=0))
    assert (result.queries, result.left_out) == (len(expected), 40 - len(expected))
    assert result.left_out >= 1
    assert 0 < result.map_at_r.value < result.r_precision.value < 1


@pytest.mark.parametrize("seed", range(4))
def test_retrieval_among_references_agrees_with_loops(seed):
    embeddings, labels = labeled(seed, n=30)
    references, reference_labels = labeled(seed + 50, n=25, classes=6)
    reference_labels[:4] = UNKNOWN  # unlabeled: as if they were not there
    distances = EUCLIDEAN.matrix(embeddings, references[4:])
    expected = retrieval_by_loops(distances, labels, reference_labels[4:], (1, 21), own=False)

    result = evaluate_retrieval(
        embeddings,
        labels,
        distance=EUCLIDEAN,
        references=references,
        reference_labels=reference_labels,
        ks=(1, 21),
    )
    assert result.unlabeled == 4
    np.testing.assert_allclose(retrieval_values(result), expected.mean(axis=0))
    assert result.left_out == 30 - len(expected) > 0
    assert result.recall_at_k[21].value == 1


def test_intervals_over_queries_are_binomial_for_hits_and_student_for_shares():
    embeddings, labels = labeled(0, n=80)
    scores = retrieval_by_loops(COSINE.matrix(embeddings, embeddings), labels, labels, (3,), True)
    result = evaluate_retrieval(embeddings, labels, ks=(3,))
    hits = int(scores[:, 0].sum())
    assert bounds(result.precision_at_1) == bounds(binomial(hits, len(scores)))
    shares = scores[:, 2]
    low, high = stats.t.interval(0.95, len(shares) - 1, shares.mean(), stats.sem(shares))
    np.testing.assert_allclose(bounds(result.map_at_r), (shares.mean(), low, high))
    assert "independent" in result.map_at_r.method


@pytest.mark.parametrize("own", [True, False])
def test_classes_as_sample_leaves_out_each_class_as_query_and_as_reference(own):
    embeddings, labels = labeled(3, n=70, classes=12)
    references, reference_labels = (embeddings, labels) if own else labeled(3, n=50, classes=13)
    if not own:
        reference_labels[:3] = UNKNOWN
    ks = (1, 4)

    def values(keep_query, keep_reference):
        keep_reference = keep_reference & (reference_labels != UNKNOWN)
        return retrieval_by_loops(
            EUCLIDEAN.matrix(embeddings[keep_query], references[keep_reference]),
            labels[keep_query],
            reference_labels[keep_reference],
            ks,
            own,
        ).mean(axis=0)

    classes = sorted({*labels.tolist(), *reference_labels.tolist()} - {UNKNOWN})
    assert len(classes) >= 12
    without = np.array([values(labels != c, reference_labels != c) for c in classes])
    g = len(classes)
    everything = values(labels > -2, reference_labels > -2)
    t = stats.t.ppf(0.975, g - 1)

    result = evaluate_retrieval(
        embeddings,
        labels,
        distance=EUCLIDEAN,
        references=None if own else references,
        reference_labels=None if own else reference_labels,
        ks=ks,
        classes_as_sample=True,
        chunk_size=9,
    )
    estimates = (
        result.precision_at_1,
        result.r_precision,
        result.map_at_r,
        *result.recall_at_k.values(),
        *result.precision_at_k.values(),
    )
    for estimate, value, left_out in zip(estimates, everything, without.T, strict=True):
        if (left_out * (1 - left_out) > 0).all():
            error = special.logit(left_out).std() * math.sqrt(g - 1)
        else:
            error = left_out.std() * math.sqrt(g - 1) / (value * (1 - value))
        assert error > 0
        ends = special.expit(special.logit(value) + t * error * np.array([-1, 1]))
        np.testing.assert_allclose(bounds(estimate), (value, *ends))


def test_classes_as_sample_knows_ranks_beyond_the_references():
    embeddings, labels = labeled(1, n=24, classes=12)
    labels = torch.arange(24) // 2
    result = evaluate_retrieval(embeddings, labels, ks=(1, 23), classes_as_sample=True)
    assert result.recall_at_k[23].value == 1
    assert result.precision_at_k[23].value == pytest.approx(1 / 23)


def test_leaving_out_classes_covers_new_classes_where_independent_queries_do_not():
    def draw(seed):
        rng = torch.Generator().manual_seed(seed)
        labels = torch.arange(12).repeat_interleave(6)
        centers = 2 * torch.randn(12, 2, generator=rng)
        return centers[labels] + 0.7 * torch.randn(72, 2, generator=rng), labels

    def map_at_r(seed, classes_as_sample):
        return evaluate_retrieval(
            *draw(seed), distance=EUCLIDEAN, ks=(1,), classes_as_sample=classes_as_sample
        ).map_at_r

    truth = np.mean([float(map_at_r(seed, False)) for seed in range(1000, 1300)])
    naive, left_out = (
        np.mean([e.low <= truth <= e.high for e in (map_at_r(s, sample) for s in range(100))])
        for sample in (False, True)
    )
    assert naive < 0.8
    assert 0.9 < left_out < 1


@given(seed=st.integers(0, 2**16), chunk_size=st.integers(1, 50))
@settings(max_examples=25)
def test_chunks_names_and_order_of_items_are_irrelevant(seed, chunk_size):
    embeddings, labels = labeled(seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    one = evaluate_retrieval(embeddings, labels, distance=EUCLIDEAN)
    other = evaluate_retrieval(
        embeddings[order], 1000 - labels[order], distance=EUCLIDEAN, chunk_size=chunk_size
    )
    np.testing.assert_allclose(retrieval_values(one), retrieval_values(other))
    assert one.queries == other.queries


@pytest.mark.parametrize("first", [0, 1, 7, 19])
@pytest.mark.parametrize("ks", [(1,), (1, 2, 8)])
def test_among_equally_far_references_the_earlier_ranks_first(first, ks):
    references = torch.tensor([[1.0], [-1.0]]).repeat(10, 1)
    reference_labels = torch.full((20,), 6)
    reference_labels[first] = 5
    result = evaluate_retrieval(
        torch.zeros(1, 1),
        torch.tensor([5]),
        distance=EUCLIDEAN,
        references=references,
        reference_labels=reference_labels,
        ks=ks,
    )
    assert {k: float(e) for k, e in result.recall_at_k.items()} == {k: first < k for k in ks}
    assert result.r_precision.value == (first == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": (1, 60)}, "ks must be at most 59, the references that a query is compared with"),
        ({"ks": ()}, "ks must hold at least one rank, got none."),
        ({"ks": (0,)}, "each of ks must be at least 1, got 0."),
        ({"labels": torch.full((60,), -1)}, "labels must be known for at least one item, got 60"),
        ({"labels": torch.full((60,), -2)}, "labels must be class codes of at least 0, or -1 for"),
        (
            {"labels": torch.arange(60)},
            "labels must give some query a reference of its own class, got 60 queries without",
        ),
        ({"labels": torch.arange(5)}, "labels must have shape (60,), one per item, got (5,)."),
        (
            {"references": torch.ones(4, 3)},
            "references and reference_labels must be given together, got only one of them.",
        ),
        (
            {"references": torch.ones(4, 2), "reference_labels": torch.ones(4).long()},
            "references must have as many dimensions as embeddings, 3, got 2.",
        ),
        ({"embeddings": torch.full((60, 3), math.nan)}, "embeddings must be finite, got 180 NaN"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0."),
    ],
)
def test_retrieval_that_cannot_be_judged_is_named(arguments, message):
    embeddings, labels = labeled(0)
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_retrieval(**{"embeddings": embeddings, "labels": labels, **arguments})


def test_the_retrieval_result_is_ready_for_json():
    fields = json.loads(json.dumps(evaluate_retrieval(*labeled(0)).to_dict(), allow_nan=False))
    assert set(fields["recall_at_k"]) == {"1", "5", "10"}
    assert set(fields["map_at_r"]) == {"value", "low", "high", "method"}
    assert fields["queries"] == 60


# matching

# Classes 0 and 1 were trained on, 0 to 2 are indexed, 3 and 4 are unknowns.
TRUTH = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4])
ANSWERS = torch.tensor([0, 0, 1, 1, -1, 2, 0, -1, -1, 2, -1])
INDEXED, SEEN = {0, 1, 2}, {0, 1}


def test_matching_numbers_are_the_shares_they_are_said_to_be():
    result = evaluate_matching(ANSWERS, TRUTH, indexed_classes=INDEXED, seen_classes=SEEN)
    expected = {
        "accuracy": (6, 11),
        "accuracy_seen": (3, 5),
        "accuracy_unseen": (1, 3),
        "accuracy_unknown": (2, 3),
        "unknown_share": (4, 11),
        "precision": (4, 7),
        "identification_rate": (4, 8),
        "negative_predictive_value": (2, 4),
    }
    for name, (hits, total) in expected.items():
        estimate = getattr(result, name)
        assert bounds(estimate) == bounds(binomial(hits, total)), name
        assert "taken as independent" in estimate.method
    precision, recall = 4 / 7, 4 / 8
    assert result.f1.value == pytest.approx(2 * precision * recall / (precision + recall))
    assert result.f1.low < result.f1.value < result.f1.high
    per_class = {name: float(estimate) for name, estimate in result.per_class.items()}
    assert per_class == pytest.approx({"0": 2 / 3, "1": 1 / 2, "2": 1 / 3, "3": 1 / 2, "4": 1})


@given(seed=st.integers(0, 2**16), n=st.integers(1, 40))
def test_the_confusion_counts_every_query_once(seed, n):
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 6, (n,), generator=rng) * 2
    answers = torch.randint(-1, 4, (n,), generator=rng)
    answers = torch.where(answers < 0, UNKNOWN, answers * 2)
    result = evaluate_matching(answers, truth, indexed_classes=[0, 2, 4, 6])
    expected = torch.zeros(len(result.classes), len(result.classes) + 1, dtype=torch.long)
    for answer, true in zip(answers.tolist(), truth.tolist(), strict=True):
        column = -1 if answer == UNKNOWN else result.classes.index(answer)
        expected[result.classes.index(true), column] += 1
    assert torch.equal(result.confusion, expected)
    assert int(result.confusion.sum()) == result.queries == n


def test_matches_and_their_labels_are_judged_alike():
    q = len(ANSWERS)
    neighbors = Neighbors(np.arange(q)[:, None], torch.rand(q, 1), ANSWERS[:, None])
    matches = Matches(ANSWERS, torch.rand(q), neighbors, 0.5, "nearest")
    one = evaluate_matching(matches, TRUTH, indexed_classes=INDEXED)
    other = evaluate_matching(ANSWERS, TRUTH, indexed_classes=INDEXED)
    assert one.to_dict() == other.to_dict()


def test_classes_go_by_their_names():
    names = ["zero", "one", "two", "three", "four", "five"]
    result = evaluate_matching(ANSWERS, TRUTH, indexed_classes={*INDEXED, 5}, class_names=names)
    assert result.class_names == names
    assert result.classes == [0, 1, 2, 3, 4, 5]
    assert set(result.per_class) == set(names) - {"five"}, "nobody asked for five"


def test_unlabeled_items_in_the_index_are_no_class():
    one = evaluate_matching(ANSWERS, TRUTH, indexed_classes={*INDEXED, UNKNOWN})
    other = evaluate_matching(ANSWERS, TRUTH, indexed_classes=INDEXED)
    assert one.to_dict() == other.to_dict()


def test_what_no_query_is_about_is_none():
    all_known = evaluate_matching(TRUTH, TRUTH, indexed_classes=range(5))
    assert all_known.accuracy.value == all_known.f1.value == 1
    assert all_known.accuracy_unknown is None
    assert all_known.negative_predictive_value is None
    assert all_known.accuracy_seen is None
    nobody = evaluate_matching(torch.full((11,), UNKNOWN), TRUTH, indexed_classes=[])
    assert nobody.accuracy.value == 1
    assert nobody.precision is nobody.identification_rate is nobody.f1 is None
    assert nobody.per_class["0"].value == 1
    all_seen = evaluate_matching(ANSWERS, TRUTH, indexed_classes=INDEXED, seen_classes=range(9))
    assert all_seen.accuracy_unseen is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matches": ANSWERS[:4]}, "matches must have shape (11,), one per item, got (4,)."),
        ({"truth": TRUTH - 2}, "truth must be class codes of at least 0, or -1 for unlabeled"),
        ({"truth": 0 * TRUTH - 1}, "truth must be known for at least one item, got 11 unlabeled"),
        ({"truth": TRUTH[:, None]}, "truth must be a tensor of shape (q,), got (11, 1)."),
        (
            {"matches": ANSWERS[:0], "truth": TRUTH[:0]},
            "truth must hold at least one item, got none.",
        ),
        (
            {"indexed_classes": {0, 1}},
            "matches must be indexed classes or -1 for unknown, got 2, which is not in indexed",
        ),
        (
            {"class_names": ["a", "b"]},
            "class_names must name every class, got 2 names for class codes up to 4.",
        ),
    ],
)
def test_matching_that_cannot_be_judged_is_named(arguments, message):
    usual = {"matches": ANSWERS, "truth": TRUTH, "indexed_classes": INDEXED}
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_matching(**{**usual, **arguments})


def test_the_matching_result_is_ready_for_json():
    result = evaluate_matching(ANSWERS, TRUTH, indexed_classes=INDEXED)
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["accuracy_seen"] is None
    assert fields["identification_rate"]["value"] == 0.5
    assert fields["confusion"] == result.confusion.tolist()
    assert fields["per_class"]["4"]["value"] == 1


# verification


def pairs(seed, n=120, people=15, levels=None, personal=0.4):
    """Distances with an effect per person, whether the same, and the two persons' items."""
    rng = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(people, generator=rng)[:2] for _ in range(n)])
    same = torch.rand(n, generator=rng) < 0.5
    effect = personal * torch.randn(people, generator=rng)[items].sum(dim=1)
    distances = torch.where(same, -0.8, 0.8) + effect + torch.randn(n, generator=rng)
    if levels is not None:
        distances = (distances * levels).round()
    return distances, same, items


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("seed", range(5))
def test_the_area_has_the_interval_of_delong(seed, levels):
    distances, same, _ = pairs(seed, levels=levels)
    positive, negative = distances[same].numpy(), distances[~same].numpy()
    wins = (positive[:, None] < negative).astype(float) + 0.5 * (positive[:, None] == negative)
    error = math.sqrt(
        wins.mean(axis=1).var(ddof=1) / len(positive)
        + wins.mean(axis=0).var(ddof=1) / len(negative)
    )
    area = wins.mean()
    assert 0.6 < area < 0.95
    result = evaluate_verification(distances, same)
    expected = (area, area - 1.959964 * error, min(area + 1.959964 * error, 1))
    np.testing.assert_allclose(bounds(result.roc_auc), expected, rtol=1e-6)
    assert result.roc_auc.method == "95% DeLong, pairs taken as independent"


def test_without_items_the_other_intervals_take_pairs_as_independent():
    distances, same, _ = pairs(0, n=400)
    result = evaluate_verification(distances, same)
    counts = metrics.sweep(distances, same)
    assert result.average_precision.value == metrics.average_precision(counts)
    assert result.equal_error_rate.value == metrics.equal_error_rate(counts)
    for estimate in (result.average_precision, result.equal_error_rate):
        assert estimate.low < estimate.value < estimate.high
        assert estimate.method.endswith("groups taken as independent (each pair is its own)")


@pytest.mark.parametrize("columns", [1, 2])
def test_with_items_every_interval_leaves_them_out(columns):
    distances, same, items = pairs(1)
    items = items[:, 0] if columns == 1 else items
    result = evaluate_verification(distances, same, items=items, threshold=0.1)

    def left_out(statistic):
        return bounds(jackknife(statistic, items, within=(0, 1)))

    def of(metric):
        return left_out(lambda keep: metric(metrics.sweep(distances[keep], same[keep])))

    accepted = distances <= 0.1
    expected = {
        "accuracy": left_out(lambda keep: float((accepted == same)[keep].double().mean())),
        "true_accept_rate": left_out(lambda keep: float(accepted[keep & same].double().mean())),
        "false_accept_rate": left_out(lambda keep: float(accepted[keep & ~same].double().mean())),
        "precision": left_out(lambda keep: float(same[keep & accepted].double().mean())),
        "f1": left_out(
            lambda keep: float(
                2 * (same & accepted)[keep].sum() / (same[keep].sum() + accepted[keep].sum())
            )
        ),
    }
    expected["recall"] = expected["true_accept_rate"]
    assert set(result.at_threshold) == set(expected)
    for name, estimate in expected.items():
        np.testing.assert_allclose(bounds(result.at_threshold[name]), estimate, rtol=1e-6)
    np.testing.assert_allclose(bounds(result.roc_auc), of(metrics.roc_auc))
    np.testing.assert_allclose(bounds(result.average_precision), of(metrics.average_precision))
    np.testing.assert_allclose(bounds(result.equal_error_rate), of(metrics.equal_error_rate))
    np.testing.assert_allclose(
        bounds(result.true_accept_rate(at=0.1)),
        of(lambda counts: metrics.true_accept_rate_at(counts, 0.1)),
    )


def test_rates_at_a_threshold_are_binomial_without_items():
    distances, same, _ = pairs(2)
    result = evaluate_verification(distances, same, threshold=0.3)
    accepted = distances <= 0.3
    hits, wrong = int((accepted & same).sum()), int((accepted & ~same).sum())
    totals = int(same.sum()), int((~same).sum())
    assert wrong > 0
    at = result.at_threshold
    assert bounds(at["true_accept_rate"]) == bounds(binomial(hits, totals[0]))
    assert bounds(at["recall"]) == bounds(binomial(hits, totals[0]))
    assert bounds(at["false_accept_rate"]) == bounds(binomial(wrong, totals[1]))
    assert bounds(at["precision"]) == bounds(binomial(hits, hits + wrong))
    assert bounds(at["accuracy"]) == bounds(binomial(hits + totals[1] - wrong, len(same)))
    assert at["f1"].value == pytest.approx(2 * hits / (hits + wrong + totals[0]))
    assert (result.same_total, result.different_total) == totals


def test_the_true_accept_rate_at_a_false_accept_rate_is_binomial_without_items():
    distances, same, _ = pairs(3)
    result = evaluate_verification(distances, same)
    value = metrics.true_accept_rate_at(metrics.sweep(distances, same), 0.05)
    hits = round(value * result.same_total)
    estimate = result.true_accept_rate(at=0.05)
    assert bounds(estimate) == bounds(binomial(hits, result.same_total))
    assert "threshold taken as given" in estimate.method
    assert 0 < hits < result.same_total
    with pytest.raises(ValueError, match=r"at must be between 0 and 1, got 2\."):
        result.true_accept_rate(at=2)


def test_pairs_come_back_in_order_for_plots():
    distances, same, items = pairs(4)
    result = evaluate_verification(distances, same, items=items)
    together = sorted(zip(distances.tolist(), same.tolist(), items.tolist(), strict=True))
    assert [(d, s, i) for d, s, i in together] == list(
        zip(result.distances.tolist(), result.same.tolist(), result.items.tolist(), strict=True)
    )


def test_perfect_separation_has_no_interval_for_the_area():
    distances = torch.tensor([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    same = distances < 0.5
    area = evaluate_verification(distances, same).roc_auc
    assert area.value == 1
    assert math.isnan(area.low)
    assert area.method.startswith("no interval: ")
    lonely = evaluate_verification(distances, distances < 0.15).roc_auc
    assert lonely.method == "no interval: there is only one pair of a kind"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"items": torch.arange(5)},
            ValueError,
            "items must be a tensor of shape (120, 2) or (120,), one row per pair, got (5,).",
        ),
        ({"items": torch.rand(120)}, TypeError, "items must be integers, got torch.float32."),
        ({"threshold": math.nan}, ValueError, "threshold must be a finite number, got nan."),
        ({"same": torch.ones(120).bool()}, ValueError, "same must hold pairs of both kinds"),
    ],
)
def test_verification_that_cannot_be_judged_is_named(arguments, error, message):
    distances, same, _ = pairs(0)
    with pytest.raises(error, match=re.escape(message)):
        evaluate_verification(**{"distances": distances, "same": same, **arguments})


@pytest.mark.parametrize("threshold", [None, -100.0, 0.2])
def test_the_verification_result_is_ready_for_json(threshold):
    distances, same, _ = pairs(0)
    result = evaluate_verification(distances, same, threshold=threshold)
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["threshold"] == threshold
    assert Estimate.from_dict(fields["roc_auc"]) == result.roc_auc
    if threshold is None:
        assert fields["at_threshold"] is None
    else:
        accepts_some = threshold > -100
        assert (fields["at_threshold"]["precision"]["value"] is not None) == accepts_some


def test_leaving_out_items_covers_where_independent_pairs_do_not():
    many_people = pairs(999, n=20_000, people=4000, personal=1.0)
    counts = metrics.sweep(*many_people[:2])
    covered = np.zeros(2)
    for seed in range(40):
        distances, same, items = pairs(seed, n=300, people=12, personal=1.0)
        for i, given_items in enumerate((None, items)):
            area = evaluate_verification(distances, same, items=given_items).roc_auc
            covered[i] += area.low <= metrics.roc_auc(counts) <= area.high
    naive, left_out = covered / 40
    assert naive < 0.85
    assert left_out > 0.9


@pytest.mark.parametrize("with_items", [True, False])
def test_the_smallest_detection_cost_has_an_interval(with_items):
    distances, same, items = pairs(5)
    result = evaluate_verification(distances, same, items=items if with_items else None)
    estimate = result.min_detection_cost(prior=0.2, miss_cost=2, false_accept_cost=3)

    def cost(keep):
        return metrics.min_detection_cost(
            metrics.sweep(distances[keep], same[keep]),
            prior=0.2,
            miss_cost=2,
            false_accept_cost=3,
        )

    assert estimate.value == cost(torch.ones(120).bool())
    assert estimate.low < estimate.value < estimate.high
    if with_items:
        np.testing.assert_allclose(bounds(estimate), bounds(jackknife(cost, items, within=(0, 1))))
    else:
        assert estimate.method.endswith("(each pair is its own)")


@pytest.mark.parametrize("with_items", [True, False])
def test_true_accept_rates_stand_where_a_false_accept_is_possible(with_items):
    distances, same, items = pairs(6, n=400)
    result = evaluate_verification(distances, same, items=items if with_items else None)
    assert list(result.true_accept_rates) == [0.1, 0.01]
    for at, estimate in result.true_accept_rates.items():
        assert estimate == result.true_accept_rate(at)
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(fields["true_accept_rates"]) == {"0.1", "0.01"}
    assert fields["min_detection_cost"] == result.min_detection_cost().to_dict()
    assert fields["of_probability"] is fields["prior"] is None


@pytest.mark.parametrize("with_items", [True, False])
def test_a_probability_is_judged_at_its_prior(with_items):
    probability = fit_logistic(*pairs(7, n=2000)[:2], prior=0.1)
    distances, same, items = pairs(8, n=300)
    groups = items if with_items else None
    result = evaluate_verification(distances, same, items=groups, probability=probability)
    p, ratio = probability.of(distances), probability.log_likelihood_ratio(distances)
    expected = {
        "brier_score": lambda k: metrics.brier_score(p[k], same[k], prior=0.1),
        "expected_calibration_error": lambda k: metrics.expected_calibration_error(
            p[k], same[k], prior=0.1
        ),
        "cllr": lambda k: metrics.cllr(ratio[k], same[k]),
        "min_cllr": lambda k: metrics.min_cllr(metrics.sweep(distances[k], same[k])),
    }
    assert set(result.of_probability) == set(expected)
    for name, statistic in expected.items():
        estimate = result.of_probability[name]
        assert estimate.value == pytest.approx(statistic(torch.ones(300).bool()))
        assert estimate.low < estimate.value < estimate.high
        if with_items:
            within = (0, math.inf) if "cllr" in name else (0, 1)
            by_hand = jackknife(statistic, items, within=within)
            np.testing.assert_allclose(bounds(estimate), bounds(by_hand), rtol=1e-6)
    assert result.of_probability["min_cllr"].value < result.of_probability["cllr"].value < 1
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["prior"] == 0.1
    assert fields["of_probability"]["cllr"]["value"] == result.of_probability["cllr"].value
