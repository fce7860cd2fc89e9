import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from likewise.data import ArrayDataset, PairDataset, TripletDataset, ViewDataset, WithIds


def make(labels):
    return ArrayDataset(np.arange(float(len(labels)))[:, None], np.asarray(labels))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.floats(0.5, 4), st.integers(0, 99))
def test_triplets_are_of_the_classes_guaranteed_and_anchors_take_turns(labels, per_item, seed):
    labels = np.array(labels)
    sizes = np.bincount(labels)[labels]
    anchors = np.flatnonzero((sizes > 1) & (sizes < len(labels)))
    if round(per_item * len(anchors)) < 1:
        return
    data = TripletDataset(make(labels), per_item, seed)
    anchor, positive, negative = data.triplets.T.numpy()
    codes = data.data.labels.numpy()
    assert len(data) == round(per_item * len(anchors))
    assert (codes[anchor] == codes[positive]).all()
    assert (anchor != positive).all()
    assert (codes[anchor] != codes[negative]).all()
    uses = np.bincount(anchor, minlength=len(labels))
    assert np.ptp(uses[anchors]) <= 1
    assert uses.sum() == uses[anchors].sum()
    assert torch.equal(data.labels, data.data.labels[data.triplets])


def test_every_positive_and_negative_is_drawn_alike():
    data = TripletDataset(make([0, 1, 1, 1, 0, 2, 2]), per_item=3000)
    drawn = data.triplets[data.triplets[:, 0] == 2]
    assert len(drawn) == 3000
    positives = torch.bincount(drawn[:, 1], minlength=7)
    negatives = torch.bincount(drawn[:, 2], minlength=7)
    assert (positives > 0).tolist() == [False, True, False, True, False, False, False]
    assert (negatives > 0).tolist() == [True, False, False, False, True, True, True]
    assert (positives[positives > 0] - 1500).abs().max() < 150
    assert (negatives[negatives > 0] - 750).abs().max() < 120


@pytest.mark.parametrize(("kind", "drawn"), [(PairDataset, "pairs"), (TripletDataset, "triplets")])
def test_one_set_for_ever_or_another_one_each_epoch(kind, drawn):
    data = make([0, 1, 2] * 10)
    fixed, fresh, twin = kind(data, seed=3), kind(data, seed=3, fresh=True), kind(data, 1.0, 3)
    start = getattr(fixed, drawn)
    assert torch.equal(start, getattr(twin, drawn))
    assert torch.equal(start, getattr(fresh, drawn))
    assert not torch.equal(start, getattr(kind(data, seed=4), drawn))
    seen = [start]
    for epoch in range(1, 4):
        fresh.set_epoch(epoch)
        fixed.set_epoch(epoch)
        assert not any(torch.equal(getattr(fresh, drawn), earlier) for earlier in seen)
        assert torch.equal(getattr(fixed, drawn), start)
        seen.append(getattr(fresh, drawn))
    fresh.set_epoch(1)  # as after an interruption
    assert torch.equal(getattr(fresh, drawn), seen[1])
    fresh.set_epoch(0)
    assert torch.equal(getattr(fresh, drawn), start)


def test_a_data_loader_yields_the_items_of_the_triplets():
    data = TripletDataset(make([0, 1, 1, 0, 2, 2]), seed=1)
    (anchor, positive, negative), labels = next(iter(DataLoader(data, batch_size=4)))
    found = torch.cat([anchor, positive, negative], dim=1).long()
    assert torch.equal(found, data.triplets[:4])
    assert torch.equal(labels, data.labels[:4])
    single, codes = data[2]
    assert torch.equal(torch.cat(single).long(), data.triplets[2])
    assert torch.equal(codes, data.labels[2])


@pytest.mark.parametrize(
    ("labels", "per_item", "message"),
    [
        ([0, 0, 0], 1.0, "data must have at least 2 classes"),
        ([0, 1, 2], 1.0, "a class with at least 2 items, to form triplets, got 3 classes and 3"),
        ([0, 0, 1], 0.1, "per_item must give at least 1 triplet, got 0.1 for 2 anchors"),
        ([0, 0, 1], 0.0, "per_item must be a finite number above 0"),
    ],
)
def test_data_without_triplets_is_refused(labels, per_item, message):
    with pytest.raises(ValueError, match=message):
        TripletDataset(make(labels), per_item)


def test_views_are_the_item_twice_changed_anew_each_time():
    torch.manual_seed(0)
    views = ViewDataset(make([5, 6, 5, 5]), lambda items: items + 0.1 * torch.randn_like(items))
    loader = DataLoader(views, batch_size=4)
    (first, second), labels = next(iter(loader))
    assert labels.tolist() == [0, 1, 2, 3]
    assert not torch.equal(first, second)
    assert torch.equal(first.round().long()[:, 0], labels)
    assert torch.equal(second.round().long()[:, 0], labels)
    assert views.class_names == ["0", "1", "2", "3"]
    assert views.item_shape == (1,)


def test_views_may_keep_their_classes_and_be_more_than_two():
    data = make([5, 6, 5, 5])
    views = ViewDataset(data, views=3, labels="classes")
    items, labels = views.__getitems__([3, 1])[0]
    assert [view[:, 0].tolist() for view in items] == [[3.0, 1.0]] * 3
    assert labels.tolist() == [0, 1]
    assert views.class_names == ["5", "6"]
    with pytest.raises(ValueError, match="views must be at least 2, got 1"):
        ViewDataset(data, views=1)
    with pytest.raises(ValueError, match="labels must be one of classes, items, got 'none'"):
        ViewDataset(data, labels="none")


def test_ids_are_positions_of_a_dataset_of_any_kind():
    class Plain(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.full((1,), float(index)), 7

    for data in (make([0, 1, 2, 3]), Plain()):
        (items, _), ids = next(iter(DataLoader(WithIds(data), batch_size=3, shuffle=True)))
        assert torch.equal(items[:, 0].long(), ids)
        assert WithIds(data)[2][1] == 2
        assert len(WithIds(data)) == 4
