"""Which pairs and classes are told as mistakes, against loops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import COSINE, EUCLIDEAN, MANHATTAN
from likewise.evaluation import evaluate_retrieval
from likewise.evaluation.mistakes import (
    confused_classes,
    farthest_right,
    nearest_others,
    nearest_wrong,
)


def greedy(distances, pairs, k, *, farthest):
    """All pairs in order, each taken unless an item of it is in one taken before."""
    ranked = sorted(pairs, key=lambda p: (-distances[p] if farthest else distances[p], p))
    taken, used = [], set()
    for row, column in ranked:
        items = {("a", row), ("b", column)}
        if len(taken) < k and not items & used:
            taken.append([row, column])
            used |= items
    return taken


def greedy_of_one_set(distances, pairs, k, *, farthest):
    ranked = sorted(pairs, key=lambda p: (-distances[p] if farthest else distances[p], p))
    taken, used = [], set()
    for pair in ranked:
        if len(taken) < k and not set(pair) & used:
            taken.append(list(pair))
            used |= set(pair)
    return taken


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 14),
    k=st.integers(1, 6),
    chunk_size=st.integers(1, 5),
    coarse=st.booleans(),
)
@settings(max_examples=60)
def test_extreme_pairs_agree_with_the_loops(seed, n, k, chunk_size, coarse):
    rng = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    if coarse:  # many equal distances
        embeddings = embeddings.round()
    labels = torch.randint(-1, 3, (n,), generator=rng)
    distances = MANHATTAN.matrix(embeddings, embeddings)
    for function, same in ((nearest_wrong, False), (farthest_right, True)):
        pairs = [
            (i, j)
            for i, j in itertools.combinations(range(n), 2)
            if labels[i] >= 0 and labels[j] >= 0 and bool(labels[i] == labels[j]) == same
        ]
        found = function(embeddings, labels, k, distance=MANHATTAN, chunk_size=chunk_size)
        expected = greedy_of_one_set(distances, pairs, k, farthest=same)
        assert found.items.tolist() == expected
        of_items = [distances[i, j] for i, j in found.items.tolist()]
        torch.testing.assert_close(found.distances.tolist(), [float(d) for d in of_items])


@pytest.mark.parametrize("seed", range(10))
def test_extreme_pairs_with_references_agree_with_the_loops(seed):
    rng = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(7, 3, generator=rng)
    references = torch.randn(9, 3, generator=rng)
    labels = torch.randint(0, 3, (7,), generator=rng)
    reference_labels = torch.randint(-1, 3, (9,), generator=rng)
    distances = EUCLIDEAN.matrix(embeddings, references)
    for function, same in ((nearest_wrong, False), (farthest_right, True)):
        pairs = [
            (i, j)
            for i in range(7)
            for j in range(9)
            if reference_labels[j] >= 0 and bool(labels[i] == reference_labels[j]) == same
        ]
        found = function(
            embeddings, labels, 4, distance=EUCLIDEAN, references=references,
            reference_labels=reference_labels, chunk_size=3,
        )  # fmt: skip
        expected = greedy(distances, pairs, 4, farthest=same)
        assert len(expected) == 4, "fewer would prove little"
        assert found.items.tolist() == expected


def test_one_odd_item_does_not_fill_the_list():
    embeddings = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]])
    found = farthest_right(embeddings, torch.zeros(5, dtype=torch.int64), 2, distance=EUCLIDEAN)
    assert found.items.tolist() == [[0, 4], [1, 3]]
    assert found.distances.tolist() == [100.0, 2.0]


def test_without_such_a_pair_nothing_is_found():
    one_class = torch.zeros(3, dtype=torch.int64)
    found = nearest_wrong(torch.eye(3), one_class)
    assert found.items.shape == (0, 2)
    assert found.distances.shape == (0,)
    assert len(farthest_right(torch.eye(3), torch.arange(3)).items) == 0


@pytest.mark.parametrize("function", [nearest_wrong, farthest_right])
@pytest.mark.parametrize("known", [{}, {"references": torch.eye(3)}], ids=["own", "references"])
def test_among_no_items_nothing_is_found(function, known):
    if known:
        known = known | {"reference_labels": torch.arange(3)}
    found = function(torch.eye(3)[:0], torch.arange(3)[:0], **known)
    assert found.items.shape == (0, 2)
    assert found.items.dtype == torch.int64
    assert found.distances.shape == (0,)


def test_nearest_others_agree_with_the_loops_and_with_retrieval():
    rng = torch.Generator().manual_seed(1)
    embeddings = torch.randn(40, 3, generator=rng)
    embeddings[30:] = embeddings[:10]  # ties at distance zero
    labels = torch.arange(40) % 4
    found = nearest_others(embeddings, distance=EUCLIDEAN, chunk_size=7)
    distances = EUCLIDEAN.matrix(embeddings, embeddings)
    for row in range(40):
        others = [column for column in range(40) if column != row]
        assert found.items[row].tolist() == [row, min(others, key=lambda c: distances[row, c])]
    right = labels[found.items[:, 0]] == labels[found.items[:, 1]]
    retrieval = evaluate_retrieval(embeddings, labels, distance=EUCLIDEAN, ks=[1])
    assert float(right.double().mean()) == retrieval.precision_at_1.value


@pytest.mark.parametrize("seed", range(10))
def test_confused_classes_agree_with_the_loops(seed):
    rng = torch.Generator().manual_seed(seed)
    truth, answers = torch.randint(-1, 4, (2, 60), generator=rng)
    distances = torch.rand(60, generator=rng)
    counts = {}
    for position in range(60):
        pair = (int(truth[position]), int(answers[position]))
        if pair[0] != pair[1] and -1 not in pair:
            counts.setdefault(pair, []).append(position)
    expected = sorted(counts, key=lambda pair: (-len(counts[pair]), pair))[:5]
    found = confused_classes(answers, truth, distances, most=5, examples=2)
    assert [(each.truth, each.answer) for each in found] == expected
    for each, pair in zip(found, expected, strict=True):
        nearest = sorted(counts[pair], key=lambda position: distances[position])[:2]
        assert each.count == len(counts[pair])
        assert each.queries == int((truth == pair[0]).sum())
        assert each.examples.tolist() == nearest


def test_without_a_mistake_no_classes_are_confused():
    codes = torch.tensor([0, 1, 2])
    assert confused_classes(codes, codes) == []
    assert confused_classes(torch.full((3,), -1), codes) == []


def test_what_does_not_fit_is_named():
    three = torch.arange(3)
    for function in (nearest_wrong, farthest_right):
        with pytest.raises(TypeError, match="distance must be a Distance, got 'cosine'"):
            function(torch.eye(3), three, distance="cosine")
    with pytest.raises(TypeError, match="distance must be a Distance, got 'cosine'"):
        nearest_others(torch.eye(3), distance="cosine")
    with pytest.raises(ValueError, match="references and reference_labels must be given together"):
        nearest_wrong(torch.eye(3), three, references=torch.eye(3))
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\), one per item, got \(2,"):
        farthest_right(torch.eye(3), three[:2])
    with pytest.raises(ValueError, match="embeddings must hold at least 2 rows, got 1"):
        nearest_others(torch.eye(1), distance=COSINE)
    with pytest.raises(ValueError, match=r"distances must have shape \(3,\), one per query"):
        confused_classes(three, three, torch.rand(2))
    with pytest.raises(ValueError, match="embeddings must be finite, got 1 NaN"):
        nearest_wrong(torch.tensor([[0.0], [torch.nan]]), three[:2])
