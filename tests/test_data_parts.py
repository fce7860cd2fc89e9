from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from likewise.data import (
    ArrayDataset,
    PairDataset,
    Subset,
    check_trainable,
    choose_classes,
    fold_by_class,
    items,
    items_per_class,
    sample_items,
    split_by_class,
    split_items,
)


def make(labels):
    """Items that are their own position, so that a part tells where it comes from."""
    return ArrayDataset(np.arange(len(labels), dtype=float)[:, None], labels)


def positions(part):
    return items(part)[:, 0].int().tolist()


labeled = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(make)
SIX = make([0, 1, 2, 3, 4, 5] * 4)


def test_a_part_of_a_part_refers_to_the_whole():
    part = Subset(Subset(SIX, [20, 9, 3, 9]), torch.tensor([3, 0, 1]))
    assert part.data is SIX
    assert part.source_indices.tolist() == positions(part) == [9, 20, 9]
    assert part.labels.tolist() == [3, 2, 3]
    assert part.class_names == SIX.class_names
    assert part[1][0].item() == 20


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 50))
def test_splitting_by_class_gives_disjoint_classes_with_all_their_items(counts, seed):
    if sum(counts) > 6:
        counts = counts[:2]
    parts = split_by_class(SIX, counts, seed=seed)
    assert [len(items_per_class(part)) for part in parts] == counts
    assert [len(part) for part in parts] == [4 * count for count in counts]
    assert max(Counter(p for part in parts for p in positions(part)).values()) == 1
    assert all(positions(part) == sorted(positions(part)) for part in parts)


def test_the_seed_chooses_the_classes_and_every_class_has_its_turn():
    firsts = [set(split_by_class(SIX, [2, 4], seed=seed)[0].labels.tolist()) for seed in range(40)]
    assert set().union(*firsts) == {0, 1, 2, 3, 4, 5}
    assert firsts[7] == set(split_by_class(SIX, [2, 4], seed=7)[0].labels.tolist())


@given(labeled, st.lists(st.floats(0.05, 1), min_size=1, max_size=4), st.integers(0, 9))
def test_splitting_items_deals_every_class_by_its_shares(data, weights, seed):
    shares = np.array(weights) / sum(weights)
    parts = split_items(data, shares.tolist(), seed=seed)
    assert sorted(p for part in parts for p in positions(part)) == list(range(len(data)))
    for code in data.labels.unique():
        count = int((data.labels == code).sum())
        sizes = np.array([int((part.labels == code).sum()) for part in parts])
        if count >= len(parts):
            assert sizes.min() >= 1
        if (count * shares >= 1).all():  # nobody had to give an item away
            assert (np.abs(sizes - count * shares) < 1 + 1e-6).all()


def test_left_over_items_go_to_the_largest_remainders():
    sizes = [len(part) for part in split_items(make([0] * 10), [0.14, 0.28, 0.58])]
    assert sizes == [1, 3, 6]  # quotas 1.4, 2.8, 5.8
    assert [len(part) for part in split_items(make([0] * 3), [0.5, 0.5])] == [2, 1]
    assert [len(part) for part in split_items(make([0] * 3), [0.98, 0.01, 0.01])] == [1, 1, 1]
    assert [len(part) for part in split_items(make([0]), [0.4, 0.6])] == [0, 1]
    assert [len(part) for part in split_items(make([0] * 10), [0.1 + 0.2, 0.7])] == [3, 7]


def test_splitting_items_is_random_by_the_seed():
    halves = [positions(split_items(make([0] * 20), [0.5, 0.5], seed=s)[0]) for s in (0, 0, 1)]
    assert halves[0] == halves[1] != halves[2]
    assert halves[0] != list(range(10))


def test_a_sample_has_so_many_different_items_of_every_class():
    sample = sample_items(SIX, per_class=3, seed=1)
    assert items_per_class(sample) == dict.fromkeys("012345", 3)
    assert len(set(positions(sample))) == 18
    assert positions(sample) != positions(sample_items(SIX, per_class=3, seed=2))


def test_classes_are_chosen_by_name_or_by_code():
    data = make([10, 20, 30, 20])
    assert positions(choose_classes(data, ["20", "30"])) == [1, 2, 3]
    assert positions(choose_classes(data, [1, 2])) == [1, 2, 3]
    assert positions(choose_classes(choose_classes(data, ["20", "30"]), ["30"])) == [2]


def test_items_are_counted_by_class_name():
    data = make(["s10", "s2", "s10", "s3"])
    assert list(items_per_class(data).items()) == [("s2", 1), ("s3", 1), ("s10", 2)]
    assert items_per_class(Subset(data, [0, 2])) == {"s10": 2}


def test_data_without_same_or_without_different_is_refused():
    check_trainable(make([0, 0, 1]))
    with pytest.raises(ValueError, match=r"data must have at least 2 classes, got 1 \('7'\)\. Add"):
        check_trainable(make([7, 7]))
    with pytest.raises(
        ValueError, match="a class with at least 2 items, got 1 item in each of its 3"
    ):
        check_trainable(make([0, 1, 2]))
    with pytest.raises(
        ValueError, match=r"data must have at least 2 classes, got 0 \(no item has a label\)"
    ):
        check_trainable(Subset(make([0, 1]), []))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: split_by_class(SIX, [4, 3]), ValueError, "add up to at most 6, .*got \\[4, 3\\]"),
        (
            lambda: split_by_class(make([1, 1]), [1, 1]),
            ValueError,
            "at most 1, the number of class",
        ),
        (lambda: split_by_class(SIX, []), ValueError, "counts must name at least one part"),
        (lambda: split_by_class(SIX, [3, 0]), ValueError, "counts must be at least 1, got 0"),
        (lambda: split_items(SIX, [0.5, 0.4]), ValueError, "fractions must .* add up to 1, got"),
        (lambda: split_items(SIX, [1.5, -0.5]), ValueError, "fractions must be above 0 and add up"),
        (lambda: split_items(SIX, [float("nan"), 1]), ValueError, "fractions must be above 0"),
        (lambda: sample_items(SIX, per_class=5), ValueError, "per_class must be at most 4, .* '0'"),
        (lambda: sample_items(SIX, per_class=0), ValueError, "per_class must be at least 1, got 0"),
        (
            lambda: choose_classes(SIX, [f"{number}" for number in range(6, 30)]),
            ValueError,
            r"got '6', .*'17', …\. Strings",
        ),
        (lambda: choose_classes(SIX, ["9"]), ValueError, r"\(0, 1, 2, 3, 4, 5\), got '9'"),
        (lambda: choose_classes(SIX, [6]), ValueError, "classes must be among those .*, got 6"),
        (lambda: choose_classes(SIX, []), ValueError, "classes must be among .*, got none"),
        (lambda: Subset(SIX, [24]), ValueError, "indices must be between 0 and 23, got 24"),
        (lambda: Subset(SIX, [-1]), ValueError, "indices must be between 0 and 23, got -1"),
        (lambda: Subset(SIX, [0.5]), TypeError, "indices must be integers .*, got torch.float64"),
        (lambda: Subset(SIX, [[0], [1, 2]]), ValueError, "indices must have rows of one length"),
        (lambda: Subset(SIX, ["a"]), TypeError, "indices must be numbers, got <U1"),
        (lambda: Subset(SIX, None), TypeError, "indices must be integers .*, got NoneType"),
        (lambda: Subset(SIX, torch.ones(24).bool()), TypeError, "Use .nonzero"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# pairs


@given(labeled, st.integers(2, 6), st.integers(0, 20))
def test_every_class_is_in_one_fold_and_in_the_rest_of_all_others(data, folds, seed):
    classes = set(data.labels.tolist())
    if folds > len(classes):
        with pytest.raises(ValueError, match=f"folds must be at most {len(classes)}, .* got"):
            fold_by_class(data, folds, seed=seed)
        return
    parts = fold_by_class(data, folds, seed=seed)
    held_out = [set(fold.labels.tolist()) for _, fold in parts]
    assert len(parts) == folds
    assert sorted(code for codes in held_out for code in codes) == sorted(classes)
    sizes = [len(codes) for codes in held_out]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    for (rest, fold), codes in zip(parts, held_out, strict=True):
        assert set(rest.labels.tolist()) == classes - codes
        assert sorted(positions(rest) + positions(fold)) == list(range(len(data)))
        assert positions(rest) == sorted(positions(rest))
        assert positions(fold) == sorted(positions(fold))


def test_the_seed_decides_the_folds():
    def first(seed):
        return positions(fold_by_class(SIX, 3, seed=seed)[0][1])

    assert first(1) == first(1)
    assert len({tuple(first(seed)) for seed in range(30)}) > 5
    with pytest.raises(ValueError, match="folds must be at least 2, got 1"):
        fold_by_class(SIX, 1)


@given(labeled, st.floats(0.1, 20), st.integers(0, 5))
@settings(max_examples=200)
def test_pairs_are_distinct_true_and_half_of_each_kind(data, per_item, seed):
    labels = data.labels.tolist()
    same = sum(labels[a] == labels[b] for a, b in combinations(range(len(labels)), 2))
    different = len(labels) * (len(labels) - 1) // 2 - same
    wanted = min(round(per_item * len(labels)), same + different, 2 * min(same, different) + 1)
    if wanted < 2 or not same or not different:
        with pytest.raises(ValueError, match="must"):
            PairDataset(data, per_item, seed)
        return
    pairs = PairDataset(data, per_item, seed)
    assert len(pairs) == wanted
    assert abs(2 * int(pairs.same.sum()) - wanted) <= 1
    assert len({frozenset(pair) for pair in pairs.pairs.tolist()}) == wanted  # nor self-pairs:
    assert all(a != b for a, b in pairs.pairs.tolist())
    assert [labels[a] == labels[b] for a, b in pairs.pairs.tolist()] == pairs.same.tolist()


def test_every_pair_comes_equally_often():
    data = make([0, 0, 0, 1, 1, 1, 2])
    same, different, firsts = Counter(), Counter(), Counter()
    for seed in range(600):
        pairs = PairDataset(data, 0.6, seed)  # 2 of each kind
        for (a, b), is_same in zip(pairs.pairs.tolist(), pairs.same.tolist(), strict=True):
            (same if is_same else different)[frozenset((a, b))] += 1
            firsts[a < b] += 1
    assert len(same) == 6  # expected 200 of each, standard deviation below 12
    assert min(same.values()) > 140
    assert max(same.values()) < 260
    assert len(different) == 15  # expected 80 of each, standard deviation below 9
    assert min(different.values()) > 40
    assert max(different.values()) < 120
    assert abs(firsts[True] - firsts[False]) < 240


def test_every_pair_comes_equally_often_where_most_are_wanted():
    same = Counter()
    for seed in range(300):
        pairs = PairDataset(make([0, 0, 0, 1, 1, 1]), 1.3, seed)  # 4 same of the 6 there are
        same.update(map(frozenset, pairs.pairs[pairs.same].tolist()))
    assert len(same) == 6  # expected 200 of each, standard deviation about 8
    assert min(same.values()) > 150
    assert max(same.values()) < 250


def test_same_pairs_are_spread_evenly_over_classes_however_large():
    labels = np.repeat([0, 1, 2], [400, 40, 3])
    pairs = PairDataset(make(labels), per_item=0.5)  # 111 of each kind
    counts = Counter(labels[pairs.pairs[pairs.same][:, 0]].tolist())
    assert counts[2] == 3  # all it has
    assert counts[0] + counts[1] == int(pairs.same.sum()) - 3
    assert abs(counts[0] - counts[1]) <= 1


def test_the_order_is_mixed_and_the_seed_decides_it():
    data = make([0, 1, 2] * 50)
    pairs = PairDataset(data, 2, seed=3)
    assert torch.equal(pairs.pairs, PairDataset(data, 2, seed=3).pairs)
    assert not torch.equal(pairs.pairs, PairDataset(data, 2, seed=4).pairs)
    assert 50 < pairs.same[:150].sum() < 100


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_yields_pairs(workers):
    pairs = PairDataset(Subset(make([0, 1, 2] * 5), range(3, 15)), 1, seed=1)
    loader = DataLoader(pairs, batch_size=5, num_workers=workers)
    seen = 0
    for (a, b), same in loader:
        rows = slice(seen, seen + len(same))
        np.testing.assert_array_equal(a[:, 0] - 3, pairs.pairs[rows, 0])
        np.testing.assert_array_equal(b[:, 0] - 3, pairs.pairs[rows, 1])
        assert torch.equal(same, pairs.same[rows])
        seen += len(same)
    assert seen == len(pairs) == 12
    (a, b), same = pairs[2]
    assert [int(a) - 3, int(b) - 3] == pairs.pairs[2].tolist()
    assert same is bool(pairs.same[2])


def test_a_hundred_thousand_items_need_no_table_of_all_pairs():
    labels = np.arange(100_000) % 3  # 1.7e9 pairs of one class
    pairs = PairDataset(ArrayDataset(np.zeros((100_000, 1)), labels), 2)
    assert len(pairs) == 200_000


@pytest.mark.parametrize(
    ("labels", "per_item", "message"),
    [
        ([0, 0, 0], 1, "data must have at least 2 classes, .* got 1 classes and 3 items"),
        ([0, 1, 2], 1, "a class with at least 2 items, .* got 3 classes and 3 items"),
        (
            [0, 0, 1],
            0.1,
            "per_item must give at least 2 pairs, got 0.1 for 3 items. Use at least 0.",
        ),
        ([0, 0, 1], 0, "per_item must be a finite number above 0, got 0"),
    ],
)
def test_pairs_that_cannot_be_had_are_refused(labels, per_item, message):
    with pytest.raises(ValueError, match=message):
        PairDataset(make(labels), per_item)
