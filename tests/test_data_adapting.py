import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    random_split,
)

import likewise as lw
from likewise import metrics
from likewise._checks import as_tensor
from likewise.data import ArrayDataset, GivenPairs, Preprocess, as_dataset, as_inputs, as_items
from likewise.data.images import pixels_of

RNG = np.random.default_rng(0)
POINTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5 + 3
KNOWN = ArrayDataset(POINTS, LABELS)
NAMES = ["3", "4", "5", "6", "7"]


class Foreign(Dataset):
    """A map-style dataset of somebody else: items with labels, and what else is set on it."""

    def __init__(self, items=POINTS, labels=LABELS, **attributes):
        self.rows = list(zip(items, labels, strict=True))
        vars(self).update(attributes)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Doubled(Subset):
    """A part that changes its items, as one with a transform does."""

    def __getitem__(self, index):
        item, label = self.dataset[self.indices[index]]
        return item * 2, label

    __getitems__ = None


PICTURES = [Image.fromarray(RNG.integers(0, 256, (5, 4), dtype=np.uint8)) for _ in range(6)]

# Data of others; the positions of its items in `KNOWN`.
GIVEN = {
    "pair": ((POINTS, LABELS), range(40)),
    "pair of lists": ((POINTS.tolist(), LABELS.tolist()), range(40)),
    "pair of arrays": ((POINTS.numpy(), LABELS.numpy().astype(str)), range(40)),
    "TensorDataset": (TensorDataset(POINTS, LABELS), range(40)),
    "Subset": (Subset(KNOWN, range(30, 0, -1)), range(30, 0, -1)),
    "Subset of a Subset": (
        Subset(Subset(TensorDataset(POINTS, LABELS), range(20)), [4, 2]),
        [4, 2],
    ),
    "targets": (Foreign(targets=LABELS.tolist()), range(40)),
    "targets and classes": (Foreign(targets=(LABELS - 3).tolist(), classes=NAMES), range(40)),
    "array of labels": (Foreign(labels=LABELS, targets=None), range(40)),
    "names as labels": (Foreign(targets=[str(label) for label in LABELS.tolist()]), range(40)),
    "part of a foreign one": (Subset(Foreign(targets=LABELS), [7, 9]), [7, 9]),
    "ConcatDataset": (ConcatDataset([Foreign(targets=LABELS), KNOWN]), [*range(40), *range(40)]),
    "own": (KNOWN, range(40)),
}
for foreign in ("array of labels",):
    GIVEN[foreign][0].labels = LABELS.numpy()


@pytest.mark.parametrize("name", GIVEN)
def test_data_of_others_has_their_items_labels_and_names(name):
    data, positions = GIVEN[name]
    positions = list(positions)
    adapted = as_dataset(data)
    assert adapted.class_names == NAMES
    assert adapted.labels.tolist() == [int(LABELS[i]) - 3 for i in positions]
    assert adapted.item_shape == (6,)
    assert torch.equal(lw.data.items(adapted), POINTS[positions])
    item, label = adapted[1]
    assert torch.equal(item, POINTS[positions[1]])
    assert label == adapted.labels[1]
    batch = next(iter(DataLoader(adapted, batch_size=2)))
    assert torch.equal(batch.items, POINTS[positions[:2]])
    assert batch.labels.tolist() == adapted.labels[:2].tolist()
    assert as_dataset(adapted) is adapted


def test_random_split_keeps_its_parts_apart():
    first, second = (as_dataset(part) for part in random_split(KNOWN, [25, 15]))
    together = [*first.source_indices.tolist(), *second.source_indices.tolist()]
    assert sorted(together) == list(range(40))
    assert torch.equal(lw.data.items(first), POINTS[first.source_indices])


def test_a_part_that_changes_its_items_is_asked_for_them():
    part = as_dataset(Doubled(KNOWN, [3, 5]))
    assert torch.equal(lw.data.items(part), 2 * POINTS[[3, 5]])
    assert part.labels.tolist() == KNOWN.labels[[3, 5]].tolist()


@pytest.mark.parametrize(
    "item",
    [
        lambda image: image,
        lambda image: np.asarray(image),
        lambda image: torch.from_numpy(np.array(image))[None],
        lambda image: np.asarray(image)[..., None],
        lambda image: np.asarray(image, dtype=np.float64) / 255,
    ],
    ids=["Pillow", "array", "bytes with a channel", "channel last", "floats"],
)
def test_items_of_others_are_images_in_0_to_1(item):
    adapted = as_dataset(Foreign([item(p) for p in PICTURES], range(6), targets=list(range(6))))
    assert adapted.item_shape == (1, 5, 4)
    expected = torch.stack([pixels_of(picture) for picture in PICTURES])
    torch.testing.assert_close(lw.data.items(adapted), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            DataLoader(KNOWN, collate_fn=len),
            r"must be a dataset, got a DataLoader with a collate_fn .*\. Give its \.dataset",
        ),
        (iter([1]), "source must be an iterable that can be gone through again, got list_it"),
        (POINTS, "must be a map-style dataset with labels, got Tensor"),
        (POINTS.numpy(), "must be a map-style dataset with labels, got ndarray"),
        ([POINTS, LABELS], "must be a map-style dataset with labels, got list"),
        ({"x": POINTS}, "must be a map-style dataset with labels, got dict"),
        (7, "must be a map-style dataset with labels, got int"),
        ("digits", r"must be a dataset, got 'digits'\. Use lw\.data\.load\('digits'\)"),
        (Foreign(), r"data must have labels, got Foreign without\. Give it an attribute labels"),
        (TensorDataset(POINTS), "must be a TensorDataset of items and labels, got 1 tensors"),
        (Foreign(targets=[0.5] * 40), "labels must be strings or integers, got float64"),
        (GivenPairs(KNOWN, [[0, 1]], [True]), "must be labeled items, got GivenPairs"),
    ],
)
def test_what_is_no_labeled_data_is_refused_in_a_sentence(data, message):
    with pytest.raises(TypeError, match=message) as info:
        as_dataset(data)
    assert "\n" not in str(info.value)
    assert isinstance(info.value, lw.errors.InputTypeError)


def test_parts_with_classes_of_their_own_are_joined_by_name():
    first = ArrayDataset(torch.zeros(3, 2), [0, 1, -1], ["cat", "dog"])
    second = ArrayDataset(torch.ones(3, 2), ["fox", "dog", "dog"])
    both = lw.data.as_dataset(first + second)
    assert both.class_names == ["cat", "dog", "fox"]
    assert both.labels.tolist() == [0, 1, -1, 2, 1, 1]
    batch = lw.data.fetch(both, [3, 1])
    assert batch.labels.tolist() == [2, 1]
    assert batch.items.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Foreign(targets=[0, 1]), "labels of data must be one per item, 40, got 2"),
        (Foreign(targets=LABELS, classes=["a", "b"]), "labels must be between 0 and 1"),
        (Foreign(POINTS[:0], [], targets=[]), "data must hold at least one item, got none"),
        (
            Foreign([{"x": 1}], [0], targets=[0]),
            "must be tensors, arrays, texts or images, .* dict",
        ),
    ],
)
def test_data_that_disagrees_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        as_dataset(data)


def test_an_item_of_another_shape_is_named_when_fetched():
    items = [torch.zeros(3), torch.zeros(4)]
    data = as_dataset(Foreign(items, [0, 1], targets=[0, 1]))
    with pytest.raises(ValueError, match=r"the first, \(3,\), got \(4,\) for item 1\. Resize"):
        lw.data.items(data)


@pytest.mark.parametrize("name", ["TensorDataset", "Subset", "targets", "pair", "own"])
def test_every_verb_takes_data_of_others(name):
    data, positions = GIVEN[name]
    own = lw.data.Subset(KNOWN, list(positions))
    results = []
    for source in (data, own):
        torch.manual_seed(0)
        encoder = lw.encoders.MLPEncoder((6,), hidden=(8,), embedding_dim=4)
        history = lw.fit(encoder, lw.losses.TripletLoss(), source, epochs=1, batches=2)
        model = lw.SimilarityModel(encoder, preprocess=Preprocess.fit(KNOWN))
        embeddings = model.embed(source)
        model.add((POINTS[:10] + 1, LABELS[:10]))
        threshold = model.calibrate(source).threshold
        f1 = model.evaluate(source).to_dict()
        model.add(source)
        assert not model.is_new(own).any()
        results.append([history[0]["loss"], embeddings.tolist(), threshold, f1, len(model.index)])
    assert results[0] == results[1]


def test_items_without_labels_are_embedded_and_added():
    data = TensorDataset(POINTS)
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((6,)), preprocess=Preprocess.fit(KNOWN))
    assert torch.equal(model.embed(data), model.embed(POINTS))
    model.add(data)
    assert model.index.labels.tolist() == [-1] * 40


# items


@pytest.fixture(scope="module")
def images():
    """A model of gray images, and some as bytes (n, h, w)."""
    pixels = RNG.integers(0, 256, (9, 5, 4), dtype=np.uint8)
    data = ArrayDataset(pixels, np.arange(9) % 3)
    torch.manual_seed(0)
    encoder = lw.encoders.MLPEncoder(data.item_shape, embedding_dim=4)
    return lw.SimilarityModel(encoder, preprocess=Preprocess.fit(data)), pixels, data


READ_ONLY = np.frombuffer(bytes(180), np.uint8)


@pytest.mark.parametrize(
    "form",
    [
        lambda p: p,
        lambda p: torch.from_numpy(p),
        lambda p: torch.from_numpy(p)[:, None],
        lambda p: p[..., None],
        lambda p: p / 255,
        lambda p: (p / 255).astype(np.float32)[:, None],
        lambda p: np.asfortranarray(p),
        lambda p: p[::-1][::-1],
        lambda p: np.frombuffer(p.tobytes(), np.uint8).reshape(p.shape),
        lambda p: list(p),
        lambda p: p.tolist() and [torch.from_numpy(row) for row in p],
        lambda p: [Image.fromarray(row) for row in p],
        lambda p: (p / 255).astype(">f8"),
        lambda p: ArrayDataset(p, np.arange(9)),
        lambda p: TensorDataset(torch.from_numpy(p)),
        lambda p: [Image.fromarray(row).convert("RGBA") for row in p],
    ],
)
def test_equal_images_have_equal_embeddings_however_given(images, form):
    model, pixels, data = images
    expected = model.embed(data)
    assert expected.std() > 0.01
    torch.testing.assert_close(model.embed(form(pixels)), expected, rtol=1e-5, atol=1e-6)
    if isinstance(form(pixels), (np.ndarray, torch.Tensor)):
        alone = model.embed(form(pixels)[2])
        torch.testing.assert_close(alone, expected[2:3], rtol=1e-5, atol=1e-6)


def test_a_memory_mapped_file_is_encoded(images, tmp_path):
    model, pixels, data = images
    np.save(tmp_path / "a.npy", pixels[:, None])
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    torch.testing.assert_close(model.embed(mapped), model.embed(data))
    seen = []
    encoded = lw.encode(nn.Flatten(), mapped, batch_size=4, progress=lambda *at: seen.append(at))
    torch.testing.assert_close(encoded, lw.encode(nn.Flatten(), data))
    assert seen == [(4, 9), (8, 9), (9, 9)]


TYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.float64, torch.float32)


@given(hnp.arrays(np.int64, (5, 4), elements=st.integers(0, 100)))
@settings(max_examples=30)
def test_equal_numbers_have_equal_embeddings_whatever_their_type(whole):
    preprocess = Preprocess((4,), (4.43,), (2.82,))
    truth = (torch.from_numpy(whole).double() - 4.43) / 2.82
    torch.manual_seed(0)
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((4,), embedding_dim=3), preprocess=preprocess)
    expected = model.embed(ArrayDataset(whole, range(5)))
    for dtype in TYPES:
        items = torch.from_numpy(whole).to(dtype)
        torch.testing.assert_close(preprocess.apply(items).double(), truth, rtol=0, atol=1e-5)
        for given_as in (items, items.numpy(), items.tolist()):
            assert torch.equal(model.embed(given_as), expected)
        assert torch.equal(lw.encode(nn.Identity(), items), torch.from_numpy(whole).float())
        prints = lw.data.fingerprints(items)
        assert torch.equal(prints, lw.data.fingerprints(ArrayDataset(whole, range(5))))


def test_codes_for_an_embedding_stay_whole():
    bag = nn.EmbeddingBag(10, 3)
    codes = torch.tensor([[1, 2], [3, 9]])
    assert torch.equal(lw.encode(bag, codes), bag(codes).detach())
    assert torch.equal(lw.encode(bag, codes.tolist()), bag(codes).detach())


def test_a_model_of_double_precision_gets_all_digits():
    value = 1 + 2**-40
    encoder = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        encoder.weight.fill_(2.0**40)
        encoded = lw.encode(encoder, np.array([[value], [1.0]]))
    assert encoded[0] - encoded[1] == 0  # float32 comes out,
    doubled = []
    encoder.register_forward_hook(lambda *call: doubled.append(call[2]))
    lw.encode(encoder, np.array([[value], [1.0]]))
    assert doubled[0][0] - doubled[0][1] == 1  # but float64 went in


def test_verbs_take_arrays_lists_and_single_items(images):
    model, pixels, data = images
    fresh = lw.SimilarityModel(model.encoder, preprocess=model.preprocess)
    fresh.add((pixels, ["a", "b", "c"] * 3))
    assert not fresh.is_new(data).any()
    assert fresh.lookup(pixels[3], k=1).labels.tolist() == [[0]]
    matched = fresh.match(Image.fromarray(pixels[4]), threshold=0.01)
    assert matched.labels.tolist() == [1]
    verified = fresh.verify(pixels[:2], list(pixels[:2] / 255), threshold=1e-5)
    assert verified.same.tolist() == [True, True]
    assert fresh.verify(pixels[0], Image.fromarray(pixels[1]), threshold=1e-5).same.tolist() == [
        False
    ]


@pytest.mark.parametrize(
    ("items", "shape", "error", "message"),
    [
        (7, (4,), TypeError, "must be a map-style dataset with labels, got int"),
        ({"x": 1}, (4,), TypeError, "must be a map-style dataset with labels, got dict"),
        ([["a"]], (4,), TypeError, "items must be numbers, got <U1"),
        ([[1.0], [1.0, 2.0]], (4,), ValueError, "items must have rows of one length, got several"),
        (np.float64(3), None, ValueError, "items must have shape .*, got a single number"),
        (PICTURES[0], (4,), ValueError, r"items must have shape \(4,\), got an image"),
        ([PICTURES[0], 3], (1, 5, 4), TypeError, "all images or all numbers, got int among images"),
        (
            [PICTURES[0], PICTURES[0].rotate(90, expand=True)],
            None,
            ValueError,
            "the same shape, got",
        ),
        (DataLoader(KNOWN, collate_fn=len), None, TypeError, "must be a dataset, got a DataLo"),
        (GivenPairs(KNOWN, [[0, 1]], [True]), None, TypeError, "labeled items, got GivenPairs"),
    ],
)
def test_what_is_no_item_is_refused_in_a_sentence(items, shape, error, message):
    with pytest.raises(error, match=message):
        as_inputs(items, shape)


def test_pictures_are_resized_to_the_shape_of_an_item():
    assert as_items(PICTURES[0]).shape == (1, 1, 5, 4)
    resized = as_items(PICTURES, (3, 8, 7))
    assert resized.shape == (6, 3, 8, 7)
    assert torch.equal(resized[1], pixels_of(PICTURES[1], channels=3, image_size=(8, 7)))


# numbers of other functions


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        list,
        tuple,
        lambda a: a[::-1][::-1],
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        torch.from_numpy,
        lambda a: a.astype(np.uint16) if a.dtype.kind == "i" else a,
    ],
)
def test_functions_take_arrays_and_lists_as_tensors(form):
    rng = np.random.default_rng(1)
    distances, same = rng.random(60), rng.random(60) < 0.5
    embeddings, labels = rng.normal(size=(60, 3)), rng.integers(0, 4, 60)
    relevant, total = rng.random((60, 5)) < 0.3, np.full(60, 5)

    def results(make):
        d, s, e, y = make(distances), make(same), make(embeddings), make(labels)
        other = make(np.where(same, labels, labels + 4))  # unknowns are of no class that is known
        return [
            metrics.sweep(d, s, known=s).true_accepts.tolist(),
            metrics.brier_score(d, s),
            metrics.cllr(d, s),
            metrics.mutual_information(y, y),
            metrics.cluster(e, 3).tolist(),
            metrics.ndcg_at(make(relevant), make(total), 3).tolist(),
            metrics.r_precision(make(relevant), make(total)).tolist(),
            metrics.first_relevant_rank(make(relevant)).tolist(),
            [part.tolist() for part in metrics.mean_by_class(d, y)],
            lw.calibrate(d, s, items=make(np.arange(60))).threshold,
            lw.evaluation.evaluate_verification(d, s).to_dict(),
            lw.evaluation.evaluate_retrieval(e, y, ks=(1,)).to_dict(),
            lw.evaluation.evaluate_open_set(d, y, other, s, threshold=0.5).to_dict(),
            lw.evaluation.nearest_others(e).distances.tolist(),
        ]

    assert results(form) == results(lambda a: torch.from_numpy(a.copy()))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (["a", "b"], TypeError, "x must be numbers, got <U1. Give a tensor, an array or a list"),
        ([None, 1], TypeError, "x must be numbers, got object"),
        ([[1], [1, 2]], ValueError, "x must have rows of one length"),
        ([2**63], ValueError, "x must be below 2..63, got 9223372036854775808"),
    ],
)
def test_what_is_no_number_is_named(values, error, message):
    with pytest.raises(error, match=message):
        as_tensor(values, "x")


def test_numbers_keep_their_kind_and_precision():
    assert as_tensor([0.1], "x").dtype == torch.float64
    assert as_tensor(np.float16([0.1]), "x").dtype == torch.float16
    assert as_tensor([], "x").dtype == as_tensor([1], "x").dtype == torch.int64
    assert as_tensor([True], "x").dtype == torch.bool
    assert as_tensor(np.uint8([1]), "x").dtype == torch.uint8
    assert as_tensor(np.longdouble([1]), "x").dtype == torch.float64
    assert as_tensor([torch.tensor([1.0]), torch.tensor([2.0])], "x").tolist() == [[1], [2]]
    tensor = torch.ones(2)
    assert as_tensor(tensor, "x") is tensor
    assert as_tensor(None, "x") is None
