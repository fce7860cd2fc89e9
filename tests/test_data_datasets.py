import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from likewise.data import ArrayDataset, Batch, Preprocess, Subset, fetch, items
from likewise.data.labels import encode_labels, natural_order

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = ["b", "a", "c", "a", "b", "a"]


class Foreign:
    """A dataset of somebody else, without batched access."""

    def __init__(self, data):
        self.data = data
        self.labels, self.class_names = data.labels, data.class_names
        self.item_shape = data.item_shape

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def test_bytes_become_numbers_in_0_to_1_when_fetched():
    data = ArrayDataset(IMAGES, LABELS)
    batch = fetch(data, [4, 0])
    np.testing.assert_allclose(batch.items[:, 0].numpy(), IMAGES[[4, 0]] / 255, rtol=1e-6)
    assert batch.items.dtype == torch.float32
    assert batch.labels.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16, bool])
def test_one_item_is_a_row_of_a_batch(dtype):
    data = ArrayDataset(
        (IMAGES > 99).astype(dtype) if dtype is bool else IMAGES.astype(dtype), LABELS
    )
    stacked = items(data)
    for i in range(6):
        item, label = data[i]
        assert item.dtype == torch.float32
        assert item.shape == data.item_shape == (1, 5, 4)
        assert torch.equal(item, stacked[i])
        assert (label, type(label)) == (int(data.labels[i]), int)
    assert stacked.max() > 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 6, 5), (1, 6, 5)),
        ((2, 3, 6, 5), (3, 6, 5)),
        ((2, 6, 5, 3), (3, 6, 5)),
        ((2, 6, 5, 1), (1, 6, 5)),
        ((2, 3, 9, 4), (3, 9, 4)),
        ((2, 8, 4, 4), (8, 4, 4)),
        ((2, 7), (7,)),
    ],
)
def test_images_come_out_channels_first(shape, expected):
    array = RNG.random(shape)
    data = ArrayDataset(array, [0, 1])
    assert data.item_shape == expected
    moved = np.moveaxis(array, -1, 1) if shape[1:] == (*expected[1:], expected[0]) else array
    np.testing.assert_allclose(items(data).numpy(), moved.reshape(2, *expected), rtol=1e-6)


def test_vectors_of_bytes_are_not_scaled_but_by_the_scale_given():
    vectors = np.array([[2, 4], [6, 200]], dtype=np.uint8)
    assert items(ArrayDataset(vectors, [0, 1])).tolist() == [[2, 4], [6, 200]]
    assert items(ArrayDataset(vectors, [0, 1], scale=0.5)).tolist() == [[1, 2], [3, 100]]


def test_arrays_that_torch_cannot_share_are_copied():
    array = np.arange(6, dtype=">f4").reshape(3, 2)[::-1]
    array.flags.writeable = False
    assert items(ArrayDataset(array, [0, 1, 2])).tolist() == [[4, 5], [2, 3], [0, 1]]
    locked = IMAGES.copy()
    locked.flags.writeable = False
    assert len(ArrayDataset(locked, LABELS)) == 6


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, [5, 4, 3, 2, 1, 0])])
def test_a_data_loader_yields_batches(wrap, workers):
    data = wrap(ArrayDataset(IMAGES, LABELS))
    batches = list(DataLoader(data, batch_size=4, num_workers=workers))
    assert all(isinstance(batch, Batch) for batch in batches)
    assert torch.equal(torch.cat([batch.items for batch in batches]), items(data))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), data.labels)


def test_a_batch_is_fetched_in_one_call_through_any_number_of_parts():
    calls = []

    class Counting(ArrayDataset):
        def __getitems__(self, indices):
            calls.append(list(indices))
            return super().__getitems__(indices)

        def __getitem__(self, index):
            raise AssertionError("one item at a time")

    whole = Counting(IMAGES, LABELS)
    part = Subset(Subset(whole, [5, 3, 1]), [2, 0])
    next(iter(DataLoader(part, batch_size=2)))
    assert calls == [[1, 5]]
    assert part.data is whole


def test_a_dataset_survives_pickling():
    data = pickle.loads(pickle.dumps(Subset(ArrayDataset(IMAGES, LABELS), [3, 1])))
    assert data.class_names == ["a", "b", "c"]
    assert len(items(data)) == 2


def test_a_dataset_without_batched_access_gives_the_same_batches():
    data = ArrayDataset(IMAGES, LABELS)
    ours, theirs = fetch(data, [4, 2]), fetch(Foreign(data), [4, 2])
    assert torch.equal(ours.items, theirs.items)
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(items(Subset(Foreign(data), [1, 5])), items(data, [1, 5]))


@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 4))
def test_items_are_stacked_in_the_order_asked_for(indices, batch_size):
    data = ArrayDataset(IMAGES, LABELS)
    expected = torch.stack([data[i][0] for i in indices]) if indices else torch.empty(0, 1, 5, 4)
    assert torch.equal(items(data, indices, batch_size), expected)


# labels


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1))
@example([5, -1, -2])
def test_integer_labels_are_coded_by_value(labels):
    codes, names = encode_labels(labels)
    assert codes.dtype == torch.int64
    assert names == [str(value) for value in sorted({*labels} - {-1})]
    assert [names[code] if code >= 0 else "-1" for code in codes] == [str(each) for each in labels]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=1))
def test_every_label_keeps_its_name(labels):
    labels = [label.rstrip("\0") for label in labels]  # numpy's strings drop these
    codes, names = encode_labels(labels)
    assert [names[code] for code in codes] == labels
    assert names == sorted(set(labels), key=natural_order)


def test_numbers_in_names_sort_as_numbers():
    _, names = encode_labels(["s10", "s2", "x", "10", "9", "-1", "s2b", "09"])
    assert names == ["-1", "09", "9", "10", "s2", "s2b", "s10", "x"]


def test_codes_follow_the_natural_order():
    codes, names = encode_labels(["s10", "s9", "s11", "s9"])
    assert (codes.tolist(), names) == ([1, 0, 2, 0], ["s9", "s10", "s11"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, object])
def test_labels_of_any_integer_or_string_type_are_taken(dtype):
    labels = np.array(["b", "a"], object) if dtype is object else np.array([7, 3], dtype)
    codes, names = encode_labels(labels)
    assert codes.tolist() == [1, 0]
    assert names == sorted(str(label) for label in labels)


@pytest.mark.parametrize(
    ("labels", "names", "error", "message"),
    [
        ([1.0, 2.0], None, TypeError, r"labels must be strings or integers, got float64. Use .ast"),
        ([True, False], None, TypeError, "labels must be strings or integers, got bool"),
        ([1, "a"], None, TypeError, "labels must be all strings or all integers, got both"),
        ([None, "a"], None, TypeError, "strings or integers, got None as label 0. Leave items"),
        (["a", float("nan")], None, TypeError, "integers, got nan as label 1. Leave items without"),
        (np.array([1, np.nan]), None, TypeError, "got nan as label 1. Leave items without"),
        (np.array([1, None]), None, TypeError, "got None as label 1. Leave items without"),
        (np.array([1, "a"], object), None, TypeError, "all strings or all integers, got both"),
        (
            [2**70, 1],
            None,
            ValueError,
            "integers of 64 bits, got 1 to 1180591620717411303424. Use str",
        ),
        ([2**63, -1], None, ValueError, "of 64 bits, got -1 to 9223372036854775808. Use str"),
        ([["a"], ["a", "b"]], None, ValueError, "labels must have shape .* several lengths"),
        ([[1], [2]], None, ValueError, r"labels must have shape \(n,\), .*, got \(2, 1\)"),
        ([0, 2], ["a", "b"], ValueError, "labels must be between 0 and 1, .*, got 2"),
        ([0, -2], ["a", "b"], ValueError, "labels must be between 0 and 1, .*, or -1 .*, got -2"),
        (["a", "b"], ["a", "b"], TypeError, "labels must be integer codes .*, got strings"),
        ([0, 1, 0], None, ValueError, "labels must be one per item, 2, got 3"),
    ],
)
def test_bad_labels_are_named(labels, names, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(np.eye(2), labels, names)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.array([[1, 2], [np.nan, 4], [5, np.inf]]), ValueError, "in 2 of 3 items, first in ite"),
        (np.array([[1, 2], [3, 4], [5, 1e39]]), ValueError, "first in item 2"),
        (np.zeros(3), ValueError, r"items must have shape \(n, ...\) .*, got \(3,\)"),
        (np.zeros((0, 4)), ValueError, r"items must have shape .*, got \(0, 4\)"),
        (np.array([["a"], ["b"], ["c"]]), TypeError, "items must be numbers, got <U1"),
        ([[1.0], [2.0, 3.0]], ValueError, "items must all have the same shape"),
        (np.ones((3, 2)) * 1j, TypeError, "items must be real numbers, got torch.complex64"),
    ],
)
def test_bad_items_are_named(values, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(values, [0, 1, 2])


# preprocessing


def test_images_are_normalized_by_channel():
    pixels = np.random.default_rng(1).random((50, 3, 4, 5)) * [[[[1]], [[2]], [[5]]]][0] + 7
    data = ArrayDataset(pixels, [0] * 50)
    preprocess = Preprocess.fit(data)
    np.testing.assert_allclose(preprocess.mean, pixels.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(preprocess.std, pixels.std((0, 2, 3)), rtol=1e-5)
    normal = preprocess.apply(items(data))
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3))


def test_vectors_have_one_mean_and_one_std():
    vectors = RNG.normal(3, 2, (40, 6))
    preprocess = Preprocess.fit(ArrayDataset(vectors, [0] * 40))
    assert len(preprocess.mean) == len(preprocess.std) == 1
    np.testing.assert_allclose(preprocess.mean[0], vectors.mean(), rtol=1e-5)
    np.testing.assert_allclose(preprocess.std[0], vectors.std(), rtol=1e-5)


def test_constant_values_are_not_divided_by_zero():
    preprocess = Preprocess.fit(ArrayDataset(np.full((4, 3), 0.1), [0] * 4))
    assert preprocess.std == (1.0,)
    assert preprocess.apply(torch.full((1, 3), 1.1)).mean() == pytest.approx(1)


def test_a_sample_is_enough_and_the_seed_chooses_it():
    data = ArrayDataset(RNG.random((300, 2)), [0] * 300)
    fits = [Preprocess.fit(data, sample=20, seed=seed) for seed in (0, 0, 1)]
    assert fits[0] == fits[1] != fits[2]
    assert fits[0] != Preprocess.fit(data)


def test_preprocessing_survives_as_plain_values():
    preprocess = Preprocess((3, 2, 2), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    assert preprocess.to_dict() == {
        "item_shape": [3, 2, 2],
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 2.0, 3.0],
        "framing": None,
    }


def test_bad_preprocessing_is_named():
    with pytest.raises(ValueError, match=r"must have 3 values for items of shape \(3, 2, 2\)"):
        Preprocess((3, 2, 2), (0.5,), (1.0,))
    with pytest.raises(ValueError, match=r"std must be above 0, got \(0.0,\)"):
        Preprocess((4,), (0.5,), (0.0,))
    with pytest.raises(ValueError, match=r"items must have shape \(n, 1, 8, 8\), got \(2, 64\)"):
        Preprocess((1, 8, 8), (0.5,), (1.0,)).apply(torch.zeros(2, 64))
    with pytest.raises(ValueError, match=r"item_shape must be that of an image .*, got \(4,\)"):
        Preprocess((4,), (0.5,), (1.0,)).read(["a.png"])
