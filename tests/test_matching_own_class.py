"""Queries judged as unknown: against an index made without their own class."""

import numpy as np
import pytest
import torch

from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT
from likewise.index import Index
from likewise.matching import class_centers, decide, lookup_without_own_class, own_class

NAMES = ["a{}", None]


def stored(seed, distance, classes=5, count=60, names=None):
    rng = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, 3, generator=rng)
    labels = torch.randint(0, classes, (count,), generator=rng)
    queries = torch.randn(40, 3, generator=rng)
    own = torch.randint(0, classes + 1, (40,), generator=rng)  # the last is not stored
    ids = None if names is None else [names.format(row) for row in range(count)]
    index = Index(distance)
    index.add(embeddings, labels=labels, ids=ids)
    return index, queries, own


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("rule", ["nearest", "majority", "weighted", "center"])
@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE, INNER_PRODUCT], ids=lambda d: d.name)
def test_it_is_a_lookup_in_an_index_without_the_class(distance, rule, names, monkeypatch):
    monkeypatch.setattr(own_class, "NUMBERS", 7 * 60)  # several blocks
    index, queries, own = stored(1, distance, names=names)
    k = 1 if rule == "center" else 7

    def home(kept):
        if rule == "center":
            return class_centers(index.embeddings[kept], index.labels[kept], distance=distance)
        other = Index(distance)
        other.add(index.embeddings[kept], labels=index.labels[kept], ids=index.ids[kept.numpy()])
        return other

    whole = home(torch.ones(60, dtype=torch.bool))
    found = lookup_without_own_class(queries, own, whole, distance=distance, k=k)
    labels, distances = decide(found, rule)
    assert not bool((labels == own).any())
    for row in range(40):
        without = home(index.labels != own[row])
        expected = without.lookup(queries[row : row + 1], k=k)
        assert found.ids[row].tolist() == expected.ids[0].tolist()
        # To the last digit: a threshold is one of these, and compared with those of a lookup.
        assert found.distances[row].tolist() == expected.distances[0].tolist()
        label, place = decide(expected, rule)
        assert int(labels[row]) == int(label[0])
        torch.testing.assert_close(distances[row], place[0])
    plain = whole.lookup(queries, k=k)
    assert (plain.ids != found.ids).any(), "no class left out would prove nothing"


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE, INNER_PRODUCT], ids=lambda d: d.name)
def test_more_near_equal_items_than_a_lookup_proposes_come_in_order(distance):
    rng = torch.Generator().manual_seed(4)
    embeddings = torch.randn(1, 64, generator=rng) + 1e-6 * torch.randn(200, 64, generator=rng)
    embeddings[50:100] = embeddings[:50]  # equals, in the order of the store
    labels = torch.arange(200) % 4
    index = Index(distance)
    index.add(embeddings, labels=labels)
    queries, own = torch.randn(40, 64, generator=rng), torch.arange(40) % 4
    found = lookup_without_own_class(queries, own, index, distance=distance, k=5)
    for row in range(40):
        whole = index.lookup(queries[row : row + 1], k=200)
        others = torch.where(whole.labels[0] != own[row])[0][:5]
        assert found.ids[row].tolist() == whole.ids[0][others.numpy()].tolist()
        assert found.distances[row].tolist() == whole.distances[0][others].tolist()


@pytest.mark.parametrize("names", NAMES)
def test_where_too_few_others_are_stored_the_rest_is_padding(names):
    index, queries, _ = stored(2, EUCLIDEAN, classes=2, count=6, names=names)
    own = index.labels[:1].repeat(40)
    others = int((index.labels != own[0]).sum())
    found = lookup_without_own_class(queries, own, index, distance=EUCLIDEAN, k=6)
    assert 0 < others < 6
    assert bool((found.labels[:, others:] == -1).all() & found.distances[:, others:].isinf().all())
    assert bool(found.distances[:, :others].isfinite().all())
    assert set(np.unique(found.ids[:, others:]).tolist()) == {"" if names else -1}


def test_what_cannot_be_looked_up_is_refused():
    index, queries, own = stored(3, EUCLIDEAN)
    with pytest.raises(
        ValueError, match="k must be at most the number of stored items, 60, got 61"
    ):
        lookup_without_own_class(queries, own, index, distance=EUCLIDEAN, k=61)
    with pytest.raises(ValueError, match="stored must hold items, got none"):
        lookup_without_own_class(queries, own, Index(EUCLIDEAN), distance=EUCLIDEAN)
    with pytest.raises(ValueError, match=r"labels must have shape \(40,\)"):
        lookup_without_own_class(queries, own[:3], index, distance=EUCLIDEAN)
    none = lookup_without_own_class(queries[:0], own[:0], index, distance=EUCLIDEAN, k=2)
    assert none.labels.shape == none.distances.shape == none.ids.shape == (0, 2)
