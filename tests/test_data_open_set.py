import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.data import ArrayDataset, Subset
from likewise.data.leaks import check_leaks
from likewise.data.open_set_split import split_open_set


def some_data(classes=10, per_class=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), per_class))
    names = [f"c{code}" for code in range(classes)]
    return ArrayDataset(rng.normal(size=(len(labels), 3)), labels, names)


def codes(part):
    return set(part.labels.tolist())


def rows(part):
    return part.source_indices.tolist()


# split_open_set


@settings(max_examples=40)
@given(
    counts=st.tuples(*[st.integers(0, 3)] * 4).filter(lambda c: c[0] + c[1] > 0),
    seed=st.integers(0, 9),
    index_trained=st.booleans(),
    per_class=st.integers(4, 15),
)
def test_no_item_is_in_two_parts_and_each_class_is_in_the_parts_of_its_kind(
    counts, seed, index_trained, per_class
):
    if not index_trained and counts[1] == 0:
        return
    data = some_data(12, per_class, seed)
    trained, known, unknown, new = counts
    parts = split_open_set(
        data,
        trained=trained,
        known=known,
        unknown=unknown,
        new_unknown=new,
        seed=seed,
        index_trained=index_trained,
    )
    everything = [row for part in parts for row in rows(part)]
    assert len(set(everything)) == len(everything) == sum(counts) * per_class
    assert all(rows(part) == sorted(rows(part)) for part in parts)
    indexed = codes(parts.gallery)
    assert len(indexed) == known + trained * index_trained
    assert len(codes(parts.train)) == trained
    assert (codes(parts.train) <= indexed) if index_trained else not codes(parts.train) & indexed
    assert codes(parts.calibrate) == codes(parts.test) >= indexed
    assert len(codes(parts.test) - indexed) == unknown
    assert len(codes(parts.new_unknowns)) == new
    assert not codes(parts.new_unknowns) & (codes(parts.test) | codes(parts.train))


def test_items_are_dealt_out_in_proportion_to_the_shares_that_apply():
    data = some_data(5, 100)
    parts = split_open_set(
        data,
        trained=["c0"],
        known=["c1"],
        unknown=["c2"],
        new_unknown=["c3"],
        shares=[0.5, 0.3, 0.1, 0.1],
    )
    count = [[int((part.labels == code).sum()) for code in range(5)] for part in parts]
    assert count == [
        [50, 0, 0, 0, 0],
        [30, 60, 0, 0, 0],
        [10, 20, 50, 0, 0],
        [10, 20, 50, 0, 0],
        [0, 0, 0, 100, 0],
    ]


def test_the_same_seed_gives_the_same_parts_and_another_one_others():
    def split(seed):
        parts = split_open_set(some_data(), trained=4, known=2, unknown=2, seed=seed)
        return [rows(part) for part in parts]

    assert split(3) == split(3)
    assert split(3) != split(4)


def test_named_classes_may_be_codes_and_counts_are_drawn_from_the_rest():
    for seed in range(5):
        parts = split_open_set(some_data(), trained=[7], known=3, unknown=["c2"], seed=seed)
        assert codes(parts.train) == {7}
        assert len(codes(parts.gallery)) == 4
        assert codes(parts.test) - codes(parts.gallery) == {2}


def test_a_part_of_a_part_is_split_by_its_own_positions():
    whole = some_data()
    part = Subset(whole, torch.arange(len(whole)).flip(0)[:100])
    parts = split_open_set(part, trained=2, known=2, unknown=2)
    everything = {row for piece in parts for row in rows(piece)}
    assert everything <= set(part.source_indices.tolist())
    assert all(rows(piece) == sorted(rows(piece), reverse=True) for piece in parts)


def test_the_parts_do_not_leak_items():
    parts = split_open_set(some_data(), trained=4, known=2, unknown=2, new_unknown=2)
    assert check_leaks(parts._asdict()).items == {}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trained": 9}, "must add up to at most 10, .* got 9 \\+ 2 \\+ 2 \\+ 0"),
        ({"trained": ["c1"], "known": ["c1"]}, "known must name other classes than trained.*'c1'"),
        ({"known": ["c11"]}, "classes must be among .* got 'c11'"),
        ({"known": 0, "index_trained": False}, "known must name or count at least one class"),
        ({"known": -1}, "known must be at least 0, got -1"),
        ({"shares": [0.5, 0.5]}, "shares must be 4 numbers above 0"),
        ({"shares": [1.0, 0.0, 0.0, 0.0]}, "shares must be 4 numbers above 0"),
    ],
)
def test_what_cannot_be_split_is_refused(change, sentence):
    asked = {"trained": 4, "known": 2, "unknown": 2, **change}
    with pytest.raises(ValueError, match=sentence):
        split_open_set(some_data(), **asked)


def test_a_class_too_small_for_its_parts_is_named():
    data = ArrayDataset(np.eye(10), ["a"] * 7 + ["b"] * 3)
    with pytest.raises(ValueError, match=r"trained must be classes of at least 4 .* 'b' with 3"):
        split_open_set(data, trained=["b"], known=["a"], unknown=[])
    parts = split_open_set(data, trained=["a"], known=["b"], unknown=[])
    assert [int((part.labels == 1).sum()) for part in parts] == [0, 1, 1, 1, 0]


def test_repeated_items_and_a_bare_string_are_refused():
    data = some_data()
    with pytest.raises(ValueError, match="data must hold every item once"):
        split_open_set(Subset(data, [0, 0, *range(1, 100)]), trained=1, known=1, unknown=1)
    with pytest.raises(TypeError, match="known must be a number or a list of classes, got 'c1'"):
        split_open_set(data, trained=1, known="c1", unknown=1)


# check_leaks


def leaks_by_loops(first, second):
    found = []
    for i in range(len(first)):
        equal = [j for j in range(len(second)) if torch.equal(first[i][0], second[j][0])]
        if equal:
            found.append([i, equal[0]])
    return found


@pytest.mark.parametrize("seed", range(8))
def test_shared_items_are_those_of_the_loops(seed):
    rng = np.random.default_rng(seed)
    data = some_data(seed=seed)
    parts = {name: Subset(data, rng.integers(0, 120, 40)) for name in "abc"}
    leaks = check_leaks(parts, batch_size=7)
    assert leaks.items
    for pair in [("a", "b"), ("a", "c"), ("b", "c")]:
        first, second = (parts[name] for name in pair)
        found = leaks.items.get(pair, torch.empty(0, 2))
        assert found.tolist() == leaks_by_loops(first, second)
        both = {data.class_names[code] for code in codes(first) & codes(second)}
        assert leaks.classes[pair] == sorted(both)


def test_classes_of_two_sources_meet_by_name_and_items_by_their_values():
    first = ArrayDataset(np.eye(3), ["ant", "bee", "bee"])
    second = ArrayDataset(np.eye(3)[::-1].copy(), ["bee", "cow", "cow"])
    leaks = check_leaks({"first": first, "second": second})
    assert leaks.classes == {("first", "second"): ["bee"]}
    assert leaks.items["first", "second"].tolist() == [[0, 2], [1, 1], [2, 0]]
    assert leaks.to_dict()["items"] == {"first and second": [[0, 2], [1, 1], [2, 0]]}


def test_parts_that_share_nothing_are_said_to_and_empty_ones_share_nothing():
    first = ArrayDataset(np.eye(3), ["ant", "bee", "bee"])
    second = ArrayDataset(2 * np.eye(3), ["cow", "cow", "dog"])
    leaks = check_leaks({"a": first, "b": second, "none": Subset(first, [])})
    assert leaks.items == {}
    assert leaks.classes == {}
    assert str(leaks) == "No two parts share an item or a class."


def test_one_part_cannot_leak():
    with pytest.raises(ValueError, match="parts must be at least 2, got 1"):
        check_leaks({"a": some_data()})
