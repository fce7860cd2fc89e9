from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SNR
from likewise.index.representatives import loss_of_keeping, representatives
from likewise.intervals import binomial


def some_items(seed, count=60, classes=4, d=3, unlabeled=False):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1 if unlabeled else 0, classes, (count,), generator=rng)
    centers = 2 * torch.randn(classes + 1, d, generator=rng)
    return centers[labels] + torch.randn(count, d, generator=rng), labels


def cost(matrix, chosen, worst=False):
    nearest = [min(float(matrix[i, j]) for j in chosen) for i in range(len(matrix))]
    return max(nearest) if worst else sum(nearest)


@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN, INNER_PRODUCT, SNR], ids=lambda d: d.name)
@pytest.mark.parametrize("seed", range(4))
def test_no_swap_of_a_medoid_for_another_item_is_better(seed, distance):
    points, labels = some_items(seed)
    kept = representatives(points, labels, per_class=3, distance=distance)
    for label in range(4):
        rows = (labels == label).nonzero().flatten()
        matrix = distance.matrix(points[rows], points[rows]).double()
        chosen = [i for i, row in enumerate(rows.tolist()) if row in set(kept.tolist())]
        assert len(chosen) == 3 < len(rows)
        reached = cost(matrix, chosen)
        for out in chosen:
            for other in set(range(len(rows))) - set(chosen):
                swapped = [i for i in chosen if i != out] + [other]
                assert cost(matrix, swapped) >= reached - 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_one_medoid_is_the_best_and_several_are_nearly(seed):
    points, _ = some_items(seed, count=14)
    labels = torch.zeros(14, dtype=torch.int64)
    matrix = EUCLIDEAN.matrix(points, points).double()
    for count in (1, 2, 3):
        kept = representatives(points, labels, per_class=count, distance=EUCLIDEAN).tolist()
        best = min(cost(matrix, some) for some in combinations(range(14), count))
        assert cost(matrix, kept) <= best * (1 if count == 1 else 1.1) + 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_centers_reach_at_most_twice_as_far_as_the_best(seed):
    points, _ = some_items(seed, count=13)
    labels = torch.zeros(13, dtype=torch.int64)
    matrix = EUCLIDEAN.matrix(points, points).double()
    for count in (2, 3, 4):
        kept = representatives(
            points, labels, per_class=count, method="k-centers", distance=EUCLIDEAN
        ).tolist()
        best = min(cost(matrix, some, True) for some in combinations(range(13), count))
        assert 0 < cost(matrix, kept, True) <= 2 * best
    medoids = representatives(points, labels, per_class=3, distance=EUCLIDEAN).tolist()
    centers = representatives(points, labels, per_class=3, distance=EUCLIDEAN, method="k-centers")
    assert cost(matrix, medoids) <= cost(matrix, centers.tolist())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    per_class=st.integers(1, 9),
    method=st.sampled_from(["medoids", "k-centers"]),
)
def test_each_class_keeps_as_many_as_asked_or_all_and_the_unlabeled_stay(seed, per_class, method):
    points, labels = some_items(seed, count=25, unlabeled=True)
    kept = representatives(points, labels, per_class=per_class, method=method)
    assert kept.tolist() == sorted(set(kept.tolist()))
    for label in range(-1, 4):
        total = int((labels == label).sum())
        expected = total if label < 0 else min(total, per_class)
        assert int((labels[kept] == label).sum()) == expected


@pytest.mark.parametrize("method", ["medoids", "k-centers"])
def test_equal_items_are_no_trouble(method):
    points, labels = torch.ones(12, 2), torch.tensor([0, 1] * 6)
    kept = representatives(points, labels, per_class=4, method=method)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_of_a_large_class_some_are_drawn_the_same_for_the_same_seed():
    points = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    points[1500:] += 9
    labels = torch.zeros(3000, dtype=torch.int64)

    def kept(seed):
        return representatives(points, labels, per_class=2, distance=EUCLIDEAN, seed=seed)

    assert kept(0).tolist() == kept(0).tolist()
    assert len({tuple(kept(seed).tolist()) for seed in range(4)}) > 1
    first, second = points[kept(0)]
    assert torch.linalg.vector_norm(first) < 0.5
    assert torch.linalg.vector_norm(second - 9) < 0.5


def test_nothing_is_kept_of_nothing():
    kept = representatives(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), per_class=1)
    assert kept.dtype == torch.int64
    assert len(kept) == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "means"}, "method must be one of k-centers, medoids, got 'means'"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"labels": torch.zeros(3).long()}, r"labels must have shape \(60,\)"),
        ({"embeddings": torch.full((60, 3), torch.nan)}, "embeddings must be finite"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(change, sentence):
    points, labels = some_items(0)
    with pytest.raises(ValueError, match=sentence):
        representatives(**{"embeddings": points, "labels": labels, "per_class": 2, **change})


# loss_of_keeping


def answers_by_loops(points, labels, queries, threshold):
    matrix = EUCLIDEAN.matrix(queries, points)
    near = matrix.argmin(dim=1)
    return [int(labels[i]) if float(matrix[q, i]) <= threshold else -1 for q, i in enumerate(near)]


@pytest.mark.parametrize("threshold", [float("inf"), 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_that_of_the_loops(seed, threshold):
    points, labels = some_items(seed)
    queries, truth = some_items(seed, count=80)
    queries = queries + 0.3
    kept = representatives(points, labels, per_class=1, distance=EUCLIDEAN)
    loss = loss_of_keeping(
        kept, points, labels, queries, truth=truth, threshold=threshold, distance=EUCLIDEAN
    )
    before = answers_by_loops(points, labels, queries, threshold)
    after = answers_by_loops(points[kept], labels[kept], queries, threshold)
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed > 0
    assert loss.changed == binomial(changed, 80)
    right = [sum(np.equal(said, truth.tolist())) for said in (before, after)]
    assert loss.accuracy_before == binomial(int(right[0]), 80)
    assert loss.accuracy_after == binomial(int(right[1]), 80)
    assert (loss.kept, loss.items) == (4, 60)
    assert loss.to_dict()["changed"]["value"] == changed / 80


def test_who_keeps_all_loses_nothing():
    points, labels = some_items(1)
    loss = loss_of_keeping(torch.arange(60), points, labels, points + 0.1)
    assert loss.changed.value == 0
    assert loss.accuracy_before is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"positions": torch.empty(0).long()}, r"positions must hold numbers from 0 to 59, got \["),
        ({"positions": torch.tensor([60])}, r"positions must hold numbers .* got \[60\]"),
        ({"positions": torch.tensor([0, 60])}, r"positions must hold numbers .* got \[0, 60\]"),
        ({"queries": torch.empty(0, 3)}, "queries must hold at least one query"),
        ({"queries": torch.ones(2, 4)}, "queries must have as many dimensions"),
        ({"threshold": float("nan")}, "threshold must be a number, got NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, sentence):
    points, labels = some_items(0)
    given_ = {"positions": torch.arange(3), "embeddings": points, "labels": labels}
    with pytest.raises(ValueError, match=sentence):
        loss_of_keeping(**{**given_, "queries": points, **change})


def test_k_centers_begin_at_the_medoid():
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
    kept = representatives(
        points, torch.zeros(5).long(), per_class=2, method="k-centers", distance=EUCLIDEAN
    )
    assert kept.tolist() == [2, 4]
