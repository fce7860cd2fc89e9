"""Pairs and triplets that are given, and pairs of parts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from likewise import losses
from likewise.data import (
    ArrayDataset,
    GivenPairs,
    GivenTriplets,
    PairDataset,
    Subset,
    TripletDataset,
    fold_by_class,
    split_by_class,
    split_items,
)
from likewise.training import fit


def make(labels):
    """Items that are their own position."""
    return ArrayDataset(np.arange(len(labels), dtype=float)[:, None], labels)


FIVE = make([0, 0, 1, 1, 2])


@given(st.integers(2, 30), st.integers(0, 99))
def test_given_pairs_are_taken_as_they_are_whatever_the_labels_say(n, seed):
    rng = np.random.default_rng(seed)
    every = np.stack(np.triu_indices(n, 1), axis=1)
    chosen = rng.permuted(rng.permutation(every)[: rng.integers(1, len(every) + 1)], axis=1)
    same = rng.random(len(chosen)) < 0.5
    pairs = GivenPairs(make([0] * n), chosen, same)
    assert pairs.pairs.dtype == torch.int64
    assert pairs.same.dtype == torch.bool
    assert len(pairs) == len(chosen)
    seen = []
    for (a, b), truth in DataLoader(pairs, batch_size=7):
        seen += list(zip(a[:, 0].tolist(), b[:, 0].tolist(), truth.tolist(), strict=True))
    assert seen == [(a, b, s) for (a, b), s in zip(chosen.tolist(), same.tolist(), strict=True)]
    (a, b), truth = pairs[0]
    assert (int(a), int(b), truth) == seen[0]


def test_given_triplets_are_taken_as_they_are():
    triplets = GivenTriplets(FIVE, [[4, 0, 2], [1, 0, 3], [4, 0, 2]])
    (anchor, positive, negative), labels = next(iter(DataLoader(triplets, batch_size=3)))
    assert anchor[:, 0].tolist() == [4, 1, 4]
    assert positive[:, 0].tolist() == [0, 0, 0]
    assert negative[:, 0].tolist() == [2, 3, 2]
    assert labels.tolist() == [[2, 0, 1], [0, 0, 1], [2, 0, 1]]
    (anchor, _, _), codes = triplets[1]
    assert (int(anchor), codes.tolist(), len(triplets)) == (1, [0, 0, 1], 3)


def test_drawn_ones_are_given_ones():
    assert isinstance(PairDataset(FIVE), GivenPairs)
    assert isinstance(TripletDataset(FIVE), GivenTriplets)


@pytest.mark.parametrize(
    ("pairs", "same", "error", "message"),
    [
        ([[0, 5]], [True], ValueError, r"pairs must be between 0 and 4, got \[0, 5\] in row 0\."),
        ([[0, 1], [-1, 2]], [True, False], ValueError, r"and 4, got \[-1, 2\] in row 1\. Count"),
        ([[0, 1], [3, 3]], [True, False], ValueError, r"different items, got \[3, 3\] in row 1"),
        (
            [[0, 1], [2, 3], [1, 0]],
            [True] * 3,
            ValueError,
            r"no pair twice, in neither order, got \[1, 0\] in rows 0 and 2\. Remove one",
        ),
        ([[0, 1, 2]], [True], ValueError, r"pairs must have shape \(n, 2\), .* got \(1, 3\)"),
        ([], [], ValueError, r"pairs must have shape \(n, 2\), .* at least one, got \(0,\)"),
        (torch.empty(0, 2).long(), [], ValueError, r"and at least one, got \(0, 2\)"),
        ([[0.0, 1.0]], [True], TypeError, r"pairs must be integers, got torch.float64\. Use"),
        ([[0, 1], [2]], [True, True], ValueError, "pairs must have rows of one length"),
        ([["a", "b"]], [True], TypeError, "pairs must be numbers, got <U1"),
        ([[0, None]], [True], TypeError, "pairs must be numbers, got object"),
        (None, [True], TypeError, "pairs must be rows of 2 positions, got NoneType"),
        ([[0, 1]], ["yes"], TypeError, "same must be numbers, got <U3"),
        ([[0, 1]], [[True], []], ValueError, "same must have rows of one length"),
        ([[0, 1]], None, TypeError, "same must be a torch tensor, got NoneType"),
        ([[True, False]], [True], TypeError, "pairs must be integers, got torch.bool"),
        ([[0, 1]], [1], TypeError, "same must be boolean, True for the same, got torch.int64. Us"),
        ([[0, 1]], [True, False], ValueError, r"same must have shape \(1,\), one per pair, got"),
        ([[0, 1]], [[True]], ValueError, r"same must have shape \(1,\), one per pair, got \(1, 1"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs, same, error, message):
    with pytest.raises(error, match=message):
        GivenPairs(FIVE, pairs, same)


@pytest.mark.parametrize(
    ("triplets", "error", "message"),
    [
        ([[0, 1, 5]], ValueError, r"triplets must be between 0 and 4, got \[0, 1, 5\] in row 0"),
        ([[0, 1, 2], [3, 1, 3]], ValueError, r"different items, got \[3, 1, 3\] in row 1"),
        ([[0, 1]], ValueError, r"triplets must have shape \(n, 3\), .* got \(1, 2\)"),
        ([[0.0, 1.0, 2.0]], TypeError, "triplets must be integers, got torch.float64"),
    ],
)
def test_triplets_that_are_none_are_refused(triplets, error, message):
    with pytest.raises(error, match=message):
        GivenTriplets(FIVE, triplets)


def test_a_million_given_pairs_are_checked_at_once():
    data = ArrayDataset(np.zeros((3000, 1)), np.zeros(3000, dtype=int))
    every = torch.triu_indices(3000, 3000, 1).T[:1_000_000]
    assert len(GivenPairs(data, every, torch.ones(len(every), dtype=torch.bool))) == 1_000_000
    with pytest.raises(ValueError, match="in rows 123 and 999999"):
        GivenPairs(
            data,
            torch.cat([every[:-1], every[123:124].flip(1)]),
            torch.ones(len(every), dtype=torch.bool),
        )


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        (
            GivenPairs(FIVE, [[0, 1], [2, 3], [0, 2], [4, 1]], [True, True, False, False]),
            losses.GivenPairsLoss(),
        ),
        (GivenTriplets(FIVE, [[0, 1, 4], [3, 2, 0]]), losses.GivenTripletsLoss()),
    ],
    ids=["pairs", "triplets"],
)
def test_fit_trains_on_what_is_given(data, loss):
    torch.manual_seed(0)
    encoder = torch.nn.Linear(1, 2)
    torch.nn.init.constant_(encoder.weight, 0.01)
    before = encoder.weight.clone()
    history = fit(encoder, loss, data, epochs=3, learning_rate=0.05)
    assert history[2]["loss"] < history[0]["loss"]
    assert not torch.equal(before, encoder.weight)
    with pytest.raises(ValueError, match=f"must be left out for {type(data).__name__}, got 2"):
        fit(encoder, loss, data, epochs=1, classes_per_batch=2)


def parts_by_item(data, seed):
    return split_items(data, [0.5, 0.3, 0.2], seed=seed)


def parts_by_class(data, seed):
    return split_by_class(data, [3, 2], seed=seed)


def folds(data, seed):
    return [fold for _, fold in fold_by_class(data, 3, seed=seed)]


@pytest.mark.parametrize("split", [parts_by_item, parts_by_class, folds])
@pytest.mark.parametrize("seed", range(5))
def test_no_pair_crosses_a_split(split, seed):
    labels = np.random.default_rng(seed).integers(0, 6, 90)
    parts = split(Subset(make(labels), np.arange(89, -1, -1)), seed)
    joined = []
    for part in parts:
        pairs = PairDataset(part, 2.0, seed)
        (a, b), same = pairs.__getitems__(range(len(pairs)))[0]
        a, b = a[:, 0].long(), b[:, 0].long()  # positions in the whole
        own = {part.data[int(i)][0].int().item() for i in part.source_indices}
        assert set(a.tolist()) | set(b.tolist()) <= own
        assert torch.equal(same, torch.as_tensor(labels[a] == labels[b]))
        joined.append(own)
    assert len(joined) > 1
    assert sum(map(len, joined)) == len(set.union(*joined))
