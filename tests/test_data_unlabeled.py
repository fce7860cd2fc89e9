"""The integer label -1 is no class: such items are unlabeled wherever data is read or parted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import likewise as lw
from likewise import data
from likewise.augment import make_flipped_classes
from likewise.data import ArrayDataset, PairDataset, Subset, TripletDataset
from likewise.data.labels import encode_labels

CODES = [-1, 3, 5, 3, 5, -1, 3, -1]
ITEMS = np.arange(8, dtype=np.float32)[:, None] + [0, 0.5]


def positions(part):
    return data.items(part)[:, 0].int().tolist()


def written(folder, kind):
    """The same items and labels in a source of each kind."""
    if kind == "arrays":
        return ITEMS, np.array(CODES)
    if kind == "lists":
        return ITEMS.tolist(), CODES
    if kind == "npz":
        np.savez(folder / "d.npz", x=ITEMS, y=np.array(CODES, dtype=np.int8))
        return folder / "d.npz"
    rows = [f"{code},{a},{b}" for code, (a, b) in zip(CODES, ITEMS, strict=True)]
    if kind == "csv of numbers":
        (folder / "d.csv").write_text("\n".join(["label,a1,a2", *rows]))
        return folder / "d.csv"
    for i in range(8):
        Image.new("L", (4, 4), i * 20).save(folder / f"{i}.png")
    rows = [f"{i}.png,{code}" for i, code in enumerate(CODES)]
    (folder / "p.csv").write_text("\n".join(["path,label", *rows]))
    return folder / "p.csv"


@pytest.mark.parametrize("kind", ["arrays", "lists", "npz", "csv of numbers", "csv of paths"])
def test_minus_one_is_no_class_of_any_source(tmp_path, kind):
    loaded = data.load(written(tmp_path, kind))
    assert loaded.class_names == ["3", "5"]
    assert loaded.labels.tolist() == [-1, 0, 1, 0, 1, -1, 0, -1]
    assert data.items_per_class(loaded) == {"3": 3, "5": 2}
    assert data.fetch(loaded, [0, 1]).labels.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("labels", "codes", "names"),
    [
        (["-1", "3"], [0, 1], ["-1", "3"]),
        ([-2, -1, 4], [0, -1, 1], ["-2", "4"]),
        (np.array([255, 1], dtype=np.uint8), [1, 0], ["1", "255"]),
        ([-1, -1], [-1, -1], []),
    ],
)
def test_the_string_and_other_negative_integers_are_names(labels, codes, names):
    assert (encode_labels(labels)[0].tolist(), encode_labels(labels)[1]) == (codes, names)


def test_minus_one_in_a_table_is_a_name_where_labels_are_words(tmp_path):
    (tmp_path / "d.csv").write_text("label,a1\n-1,0\ncat,1\n07,2\n")
    assert data.load(tmp_path / "d.csv").class_names == ["-1", "07", "cat"]
    (tmp_path / "d.csv").write_text("label,a1\n-1,0\n-3,1\n07,2\n")
    loaded = data.load(tmp_path / "d.csv")
    assert (loaded.class_names, loaded.labels.tolist()) == (["-3", "07"], [-1, 0, 1])


def test_codes_may_be_unlabeled_beside_class_names():
    assert encode_labels([1, -1, 0], ["a", "b"])[0].tolist() == [1, -1, 0]


def test_a_part_of_a_table_keeps_the_codes_of_the_whole(tmp_path):
    rows = ["label,a1,split", "a,0,train", "b,1,train", "c,2,train", "c,3,test", "b,4,test"]
    (tmp_path / "d.csv").write_text("\n".join(rows))
    part = data.load(tmp_path / "d.csv", split="test")
    assert [part.class_names[code] for code in part.labels] == ["c", "b"]


some = st.lists(st.integers(-1, 3), min_size=4, max_size=40).filter(
    lambda labels: (
        len({x for x in labels if x >= 0}) > 1 and max(map(labels[:].count, range(4))) > 1
    )
)


def of(labels):
    return ArrayDataset(np.arange(len(labels), dtype=float)[:, None], labels, list("abcd"))


@given(some, st.integers(0, 9))
@settings(max_examples=40)
def test_unlabeled_items_are_in_no_pair_and_no_triplet(labels, seed):
    whole = of(labels)
    (kept,) = torch.where(whole.labels >= 0)
    part = Subset(whole, kept)
    pairs = PairDataset(whole, per_item=2.0, seed=seed)
    alone = PairDataset(part, per_item=2.0, seed=seed)
    torch.testing.assert_close(pairs.pairs, kept[alone.pairs])  # as if they were not there
    torch.testing.assert_close(pairs.same, alone.same)
    triplets = TripletDataset(whole, per_item=2.0, seed=seed)
    torch.testing.assert_close(
        triplets.triplets, kept[TripletDataset(part, per_item=2.0, seed=seed).triplets]
    )
    points = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(seed))
    hard, same = data.hard_pairs(points, whole.labels, per_item=1.0, seed=seed)
    fewer, as_same = data.hard_pairs(points[kept], part.labels, per_item=1.0, seed=seed)
    torch.testing.assert_close(hard, kept[fewer])
    torch.testing.assert_close(same, as_same)


def test_unlabeled_items_are_a_group_of_their_own_where_items_are_split():
    whole = of([-1] * 10 + [0] * 10 + [1] * 10)
    halves = data.split_items(whole, [0.5, 0.5])
    assert [int((part.labels == -1).sum()) for part in halves] == [5, 5]
    assert data.sample_items(whole, per_class=4).labels.tolist() == [0] * 4 + [1] * 4


def test_unlabeled_items_come_into_no_part_of_classes():
    whole = of([-1, 0, 1, 2, 3, -1])
    with pytest.warns(UserWarning, match="^2 of 6 items are unlabeled .* split_items deals"):
        parts = data.split_by_class(whole, [2, 2])
    assert sorted(positions(parts[0]) + positions(parts[1])) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="add up to at most 4"):
        data.split_by_class(whole, [5])
    with pytest.warns(UserWarning, match="^2 of 6 items are unlabeled"):
        folds = data.fold_by_class(whole, 4)
    for rest, fold in folds:
        assert sorted(positions(rest) + positions(fold)) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="folds must be at most 4"):
        data.fold_by_class(whole, 5)
    with pytest.raises(ValueError, match=r"classes must be among .* \(a, b, c, d\), got -1"):
        data.choose_classes(whole, [-1])
    opened = data.split_open_set(
        of([-1] * 9 + [0] * 9 + [1] * 9 + [2] * 9), trained=1, known=1, unknown=1
    )
    assert all(int(part.labels.min()) >= 0 for part in opened[:4])
    with pytest.raises(ValueError, match="must add up to at most 3"):
        data.split_open_set(
            of([-1] * 9 + [0] * 9 + [1] * 9 + [2] * 9), trained=2, known=1, unknown=1
        )


def test_unlabeled_items_are_no_class_to_train_on():
    with pytest.raises(ValueError, match=r"at least 2 classes, got 1 \('a'\)"):
        data.check_trainable(of([0, 0, -1, -1]))
    with pytest.raises(ValueError, match="1 item in each of its 2 classes"):
        data.check_trainable(of([0, 1, -1, -1]))


def test_unlabeled_items_share_no_class():
    first, second = of([-1, 0]), of([-1, 1])
    assert data.check_leaks({"a": first, "b": second}).classes == {}


def test_turned_unlabeled_items_stay_unlabeled():
    images = ArrayDataset(np.zeros((3, 1, 4, 4)), [0, -1, 1], ["a", "b"])
    assert make_flipped_classes(images).labels.tolist() == [0, -1, 1, 2, -1, 3]


@pytest.mark.parametrize("gallery", [False, True])
def test_a_model_takes_unlabeled_items_in_without_a_class(tmp_path, gallery):
    known = data.load((np.random.default_rng(0).random((8, 5)), CODES))
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((5,)), trained=known)
    assert model.trained_on == ["3", "5"]
    if gallery:
        model.use_gallery(tmp_path / "g")
    model.add(known)
    names = [model.class_names[code] if code >= 0 else None for code in model.index.labels.tolist()]
    assert names == [None if code == -1 else str(code) for code in CODES]
    assert len(model.add_new(known)) == 0
    assert len(model.embed(known)) == 8
