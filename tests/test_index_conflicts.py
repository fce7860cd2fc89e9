import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likewise.distances import NAMED
from likewise.index import conflicts
from likewise.index.conflicts import find_conflicts

DISTANCES = list(NAMED.values())


def some_items(seed, count=50, d=3):
    """Some items twice, some nearly."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(count, d, generator=rng)
    points[count // 2 :] = points[
        torch.randint(0, count // 2, (count - count // 2,), generator=rng)
    ]
    points += 0.05 * torch.randn(count, d, generator=rng) * (torch.arange(count) % 3 == 0)[:, None]
    return points, torch.randint(-1, 3, (count,), generator=rng)


def pairs_by_loops(points, distance, within):
    found = []
    for i in range(len(points)):
        for j in range(i + 1, len(points)):
            apart = float(distance.paired(points[i : i + 1], points[j : j + 1]).double())
            if apart <= within:
                found.append(([i, j], apart))
    return found


def groups_by_loops(pairs, count):
    part = list(range(count))
    for first, second in pairs * count:
        part[first] = part[second] = min(part[first], part[second])
    held = {i for pair in pairs for i in pair}
    numbers = {}
    return [numbers.setdefault(part[i], len(numbers)) if i in held else -1 for i in range(count)]


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: d.name)
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_of_the_loops(seed, distance, monkeypatch):
    monkeypatch.setattr(conflicts, "SIDE", 16)
    monkeypatch.setattr(conflicts, "BLOCK", 30)
    points, labels = some_items(seed)
    apart = distance.matrix(points, points).flatten()
    within = float(apart.quantile(0.1))
    expected = pairs_by_loops(points, distance, within)
    found = find_conflicts(points, labels, distance, within=within)
    assert len(expected) > 20
    assert found.pairs.tolist() == [pair for pair, _ in expected]
    assert found.distances.tolist() == pytest.approx([far for _, far in expected], abs=1e-6)
    label = labels.tolist()
    differ = [label[i] != label[j] and min(label[i], label[j]) >= 0 for (i, j), _ in expected]
    assert any(differ)
    assert found.conflicting.tolist() == differ
    assert found.groups.tolist() == groups_by_loops([pair for pair, _ in expected], 50)


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: d.name)
def test_a_pair_exactly_at_the_limit_counts(distance):
    points, _ = some_items(7, count=20)
    exact = distance.paired(points[:1], points[1:2]).double()
    found = find_conflicts(points, distance=distance, within=float(exact))
    assert [0, 1] in found.pairs.tolist()
    below = np.nextafter(float(exact), -np.inf)
    assert [0, 1] not in find_conflicts(points, distance=distance, within=below).pairs.tolist()


@settings(max_examples=30)
@given(seed=st.integers(0, 999), within=st.floats(0, 2))
def test_what_is_left_without_the_duplicates_has_none(seed, within):
    points, labels = some_items(seed, count=24)
    euclidean = NAMED["euclidean"]
    found = find_conflicts(points, labels, euclidean, within=within)
    gone = set(found.duplicates.tolist())
    doubtful = {int(found.groups[i]) for i, _ in found.pairs[found.conflicting].tolist()}
    for number in range(int(found.groups.max()) + 1):
        members = [i for i in range(24) if int(found.groups[i]) == number]
        assert len(members) > 1
        expected = set() if number in doubtful else set(members[1:])
        assert gone & set(members) == expected
    assert all(int(found.groups[i]) >= 0 for i in gone)


def test_columns_go_into_a_table_with_the_ids_of_the_items():
    points = torch.tensor([[0.0], [5.0], [0.1], [5.0]])
    found = find_conflicts(
        points, torch.tensor([1, 0, 2, 0]), NAMED["euclidean"], within=0.2
    ).columns(ids=["a", "b", "c", "d"])
    assert {name: column.tolist() for name, column in found.items()} == {
        "first": ["a", "b"],
        "second": ["c", "d"],
        "distance": [pytest.approx(0.1), 0.0],
        "conflicting": [True, False],
        "group": [0, 1],
    }


@pytest.mark.parametrize("count", [0, 1])
def test_where_there_is_no_pair_nothing_is_found(count):
    found = find_conflicts(torch.ones(count, 2), within=1.0)
    assert found.pairs.shape == (0, 2)
    assert found.groups.tolist() == [-1] * count
    assert found.duplicates.tolist() == []
    assert len(found.columns()["first"]) == 0


def test_more_pairs_than_can_be_looked_at_are_refused():
    with pytest.raises(ValueError, match=r"within must leave at most 4 pairs, got more at 0\.5"):
        find_conflicts(torch.ones(4, 2), within=0.5, most=4)
    assert len(find_conflicts(torch.ones(4, 2), within=0.5, most=6).pairs) == 6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": torch.zeros(3).long()}, r"labels must have shape \(50,\)"),
        ({"embeddings": torch.full((50, 3), torch.inf)}, "embeddings must be finite"),
        ({"most": 0}, "most must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, sentence):
    points, labels = some_items(0)
    with pytest.raises(ValueError, match=sentence):
        find_conflicts(**{"embeddings": points, "labels": labels, "within": 0.1, **change})


def test_a_limit_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="within must be a number, got nan"):
        find_conflicts(torch.ones(3, 2), within=float("nan"))
