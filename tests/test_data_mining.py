import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.data import ArrayDataset, GivenPairs, PairDataset, hard_pairs, mining
from likewise.distances import COSINE, EUCLIDEAN


def points(n, seed, classes=4, d=3):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng)
    return torch.randn(n, d, generator=rng, dtype=torch.float64), labels


def proposals_by_loops(distances, labels, *, same, rounds):
    """{pair: the first round in which one of its items proposes it}."""
    found = {}
    for i in range(len(labels)):
        partners = [j for j in range(len(labels)) if j != i and (labels[i] == labels[j]) == same]
        partners.sort(key=lambda j: -distances[i, j] if same else distances[i, j])
        for rank, j in enumerate(partners[:rounds]):
            pair = frozenset((i, j))
            found[pair] = min(rank, found.get(pair, rank))
    return found


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE], ids=lambda d: d.name)
@pytest.mark.parametrize("seed", range(8))
def test_the_pairs_are_those_that_items_propose_first(monkeypatch, distance, seed):
    monkeypatch.setattr(mining, "_ENTRIES", 100)  # a few rows at a time
    embeddings, labels = points(30, seed)
    pairs, same = hard_pairs(embeddings, labels, per_item=2.0, distance=distance, seed=seed)
    distances = distance.matrix(embeddings, embeddings)
    assert len(pairs) == 60
    for kind in (True, False):
        chosen = {frozenset(pair) for pair in pairs[same == kind].tolist()}
        assert len(chosen) == 30
        found = proposals_by_loops(distances, labels, same=kind, rounds=30)
        ranks = sorted(found[pair] for pair in chosen)
        assert ranks == sorted(found.values())[:30]  # no other pair was proposed earlier
        last = ranks[-1]
        assert {pair for pair, rank in found.items() if rank < last} <= chosen


@given(st.integers(2, 25), st.integers(1, 5), st.floats(0.2, 12), st.integers(0, 20))
@settings(max_examples=150)
def test_hard_pairs_are_distinct_true_and_half_of_each_kind(n, classes, per_item, seed):
    embeddings, labels = points(n, seed, classes)
    truth = labels[:, None] == labels
    total = int(truth.triu(1).sum())
    wanted = min(round(per_item * n), 2 * total, 2 * (n * (n - 1) // 2 - total)) // 2 * 2
    for pool in (None, 3):
        if wanted < 2:
            with pytest.raises(ValueError, match="must"):
                hard_pairs(embeddings, labels, per_item=per_item, pool=pool)
            continue
        pairs, same = hard_pairs(embeddings, labels, per_item=per_item, pool=pool, seed=seed)
        assert len(pairs) == wanted
        assert int(same.sum()) * 2 == wanted
        assert torch.equal(truth[pairs[:, 0], pairs[:, 1]], same)
        GivenPairs(ArrayDataset(np.zeros((n, 1)), labels), pairs, same)  # no pair twice


def test_mined_pairs_are_harder_than_drawn_ones():
    embeddings, labels = points(300, 0, d=8)
    data = ArrayDataset(embeddings, labels)

    def means(pairs, same):
        distances = EUCLIDEAN.paired(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
        return distances[same].mean(), distances[~same].mean()

    drawn = PairDataset(data, 2.0)
    drawn_same, drawn_different = means(drawn.pairs, drawn.same)
    pool_same, pool_different = means(*hard_pairs(embeddings, labels, per_item=2.0, pool=30))
    same, different = means(*hard_pairs(embeddings, labels, per_item=2.0))
    assert same > pool_same > drawn_same
    assert different < pool_different < drawn_different


def test_a_pool_gives_all_of_its_pairs_alike():
    embeddings, labels = points(12, 3, classes=2)
    distances = EUCLIDEAN.matrix(embeddings, embeddings)
    counts = {True: {}, False: {}}
    for seed in range(400):
        pairs, same = hard_pairs(embeddings, labels, per_item=0.5, pool=3, seed=seed)  # 3 of each
        for pair, kind in zip(pairs.tolist(), same.tolist(), strict=True):
            counts[kind][frozenset(pair)] = counts[kind].get(frozenset(pair), 0) + 1
    for kind, drawn in counts.items():
        pool = proposals_by_loops(distances, labels, same=kind, rounds=3)
        assert set(drawn) == set(pool)
        expected = 1200 / len(pool)
        assert max(abs(count - expected) for count in drawn.values()) < 5 * expected**0.5


def test_the_seed_decides_and_order_and_sides_are_mixed():
    embeddings, labels = points(100, 1)
    first, again, other = (hard_pairs(embeddings, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert 10 < int(first[1][:50].sum()) < 40
    assert 20 < int((first[0][:, 0] < first[0][:, 1]).sum()) < 80


def test_equal_embeddings_are_no_trouble():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    pairs, same = hard_pairs(torch.ones(6, 2), labels, per_item=2.0)
    assert len(pairs) == 12
    assert torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], same)
    assert all(a != b for a, b in pairs.tolist())
    assert len(set(map(frozenset, itertools.chain(pairs.tolist())))) == 12


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.zeros(6).long()}, ValueError, "data must have at least 2 classes"),
        ({"labels": torch.arange(6)}, ValueError, "a class with at least 2 items"),
        ({"labels": torch.zeros(5).long()}, ValueError, r"labels must have shape \(6,\)"),
        ({"per_item": 0.1}, ValueError, "per_item must give at least 2 pairs, got 0.1 for 6"),
        ({"pool": 0}, ValueError, "pool must be at least 1, got 0"),
        ({"embeddings": torch.full((6, 2), torch.nan)}, ValueError, "embeddings must be finite"),
        ({"embeddings": torch.ones(6, 2).long()}, TypeError, "embeddings must be floating point"),
    ],
)
def test_what_gives_no_pairs_is_refused(change, error, message):
    given = {"embeddings": torch.randn(6, 2), "labels": torch.tensor([0, 0, 1, 1, 2, 2])} | change
    with pytest.raises(error, match=message):
        hard_pairs(given.pop("embeddings"), given.pop("labels"), **given)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_pairs_on_the_cpu():
    embeddings, labels = points(200, 5)
    here = hard_pairs(embeddings, labels, per_item=3.0, seed=2)
    there = hard_pairs(embeddings.cuda(), labels, per_item=3.0, seed=2)
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])
