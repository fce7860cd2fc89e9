"""Items that data hold twice or share: by their values, and as a model sees them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.data import ArrayDataset, TextDataset, check_leaks
from likewise.errors import InputError
from likewise.journeys.shared_items import find_leaks, open_to_compare


def drawn(count, seed, among=()):
    """Vectors of which some are there twice, with labels of which some are missing.

    The first ones are those of `among`.
    """
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 4)).astype(np.float32)
    points[rng.integers(0, count, count // 3)] = points[rng.integers(0, count, count // 3)]
    if len(among):
        points[: len(among)] = among
    return ArrayDataset(points, rng.integers(-1, 3, count), ["a", "b", "c"])


def differ(first, second):
    return first != second and -1 not in (first, second)


def test_items_that_stand_twice_are_told_beside_the_first_one():
    items = drawn(40, 0)
    rows = [tuple(row) for row in lw.data.items(items).tolist()]
    expected = [[rows.index(row), at] for at, row in enumerate(rows) if rows.index(row) != at]
    found = find_leaks(items)
    assert found.pairs.tolist() == expected
    assert len(expected) > 5
    labels = items.labels.tolist()
    assert found.conflicting.tolist() == [differ(labels[a], labels[b]) for a, b in expected]
    assert 0 < int(found.conflicting.sum()) < len(expected)
    assert (found.classes, found.counts, found.names) == (None, (40,), ("data",))
    assert set(found.distances.tolist()) == {0.0}


def test_items_of_two_data_are_those_of_check_leaks_with_their_labels():
    whole = drawn(60, 1)
    first = lw.data.Subset(whole, range(40))
    points = lw.data.items(whole)[30:]
    second = ArrayDataset(points, whole.labels[30:].roll(1), ["a", "c", "b"])
    found = find_leaks(first, second, names=("train", "test"))
    expected = check_leaks({"train": first, "test": second})
    assert torch.equal(found.pairs, expected.items["train", "test"])
    assert found.classes == expected.classes["train", "test"]
    names = ["a", "b", "c"], ["a", "c", "b"]
    for (a, b), conflicting in zip(found.pairs.tolist(), found.conflicting.tolist(), strict=True):
        codes = int(first.labels[a]), int(second.labels[b])
        told = [-1 if code < 0 else side[code] for side, code in zip(names, codes, strict=True)]
        assert conflicting == differ(*told)
    said = " ".join(found.headline())
    assert f"train (40 items) and test (30 items): {len(found.pairs)} pairs of equal items" in said
    assert "Shared classes: 3 (a, b, c)." in said


@pytest.mark.parametrize("within", [0.0, 0.7])
def test_near_items_are_those_within_a_distance_by_loops(within):
    first = drawn(30, 2)
    points = lw.data.items(first).double()
    second = drawn(25, 3, among=points[5:9])
    model = lw.SimilarityModel(None, distance=lw.distances.EUCLIDEAN)
    apart = torch.cdist(points, lw.data.items(second).double())
    nearest = apart.argmin(dim=1)
    expected = [[a, int(b)] for a, b in enumerate(nearest) if apart[a, b] <= within]
    found = find_leaks(first, second, model=model, within=within)
    assert found.pairs.tolist() == expected
    assert 0 < len(expected) < 30
    np.testing.assert_allclose(found.distances, [apart[a, b] for a, b in expected], atol=1e-6)
    alone = find_leaks(first, model=model, within=within)
    apart = torch.cdist(points, points)
    pairs = [[a, b] for a in range(30) for b in range(a + 1, 30) if apart[a, b] <= within]
    assert alone.pairs.tolist() == pairs
    assert pairs


def test_progress_goes_on_over_both_data():
    seen = []
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((4,)))
    first, second = drawn(30, 2), drawn(25, 3)
    find_leaks(first, second, model=model, within=0.1, progress=lambda *told: seen.append(told))
    assert seen[-1] == (55, 55)
    assert seen == sorted(seen)
    assert (30, 55) in seen


def test_what_cannot_be_compared_is_refused_in_a_sentence():
    items = drawn(10, 0)
    model = lw.SimilarityModel(None)
    with pytest.raises(InputError, match="model must be given with within, got none"):
        find_leaks(items, within=0.1)
    with pytest.raises(InputError, match="within must be given with model, got none"):
        find_leaks(items, model=model)
    with pytest.raises(InputError, match="within must be a number, got nan"):
        find_leaks(items, model=model, within=float("nan"))
    with pytest.raises(InputError, match=r"other must hold items .* \(4,\), got texts"):
        find_leaks(items, TextDataset(["x"], ["a"]))
    with pytest.raises(InputError, match=r"\(4,\), got \(5,\)"):
        find_leaks(items, ArrayDataset(np.eye(5), range(5)))
    towers = lw.SimilarityModel(torch.nn.Linear(4, 2), query_encoder=torch.nn.Linear(4, 2))
    with pytest.raises(InputError, match="one encoder for near-duplicates"):
        find_leaks(items, model=towers, within=0.1)
    with pytest.raises(InputError, match="image_size must be left out with a model"):
        open_to_compare("digits", image_size=9, model=model)


def pictures(folder, seeds, size=12, color=False):
    """Pictures of noise, one of each seed, in a class of even and a class of odd ones."""
    for seed in seeds:
        shape = (size, size, 3) if color else (size, size)
        pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
        path = folder / ("even", "odd")[seed % 2] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def test_the_command_tells_pictures_and_labels_of_both_folders(run, tmp_path):
    train, test = pictures(tmp_path / "train", range(8)), pictures(tmp_path / "test", range(6, 12))
    (test / "odd" / "6.png").write_bytes((test / "even" / "6.png").read_bytes())
    status, out, err = run("leaks", train, test)
    assert status == 0, err
    assert "2 pairs of equal items, none with different labels." in out
    assert "Shared classes: 2 (even, odd)." in out
    assert str(train / "even" / "6.png") in out
    told = json.loads(run("leaks", test, "--json")[1])
    (pair,) = told["pairs"]
    assert (pair["labels"], pair["conflicting"]) == (["even", "odd"], True)
    assert told["classes"] is None
    none = run("leaks", train, pictures(tmp_path / "new", [20]))[1]
    assert "no pairs of equal items." in none
    assert "Shared classes: 1 (even)." in none
    assert "likewise: pair" not in none


def test_the_command_reads_other_pictures_at_the_size_of_the_first(run, tmp_path):
    train = pictures(tmp_path / "train", range(4), size=16)
    test = pictures(tmp_path / "test", range(2, 6), size=16)
    pictures(test, [40], size=30, color=True)  # of another size, and in color
    told = json.loads(run("leaks", train, test, "--json")[1])
    assert [pair["items"][0].rpartition("/")[2] for pair in told["pairs"]] == ["2.png", "3.png"]
    status, out, _ = run("leaks", train, test, "--image-size", "8", "--most", "1")
    assert (status, "and 1 more pairs" in out) == (0, True)


def test_the_command_finds_a_copy_of_another_size_by_a_model(run, tmp_path):
    train = pictures(tmp_path / "train", range(6), size=24)
    test = pictures(tmp_path / "test", range(20, 24), size=24)
    with Image.open(train / "even" / "4.png") as whole:
        whole.resize((48, 48)).save(test / "odd" / "copy.png")
    before = lw.data.Preprocess((1, 8, 8), (0.5,), (0.25,))
    lw.SimilarityModel(lw.encoders.ConvEncoder((1, 8, 8)), preprocess=before).save(tmp_path / "m")
    assert json.loads(run("leaks", train, test, "--json")[1])["pairs"] == []
    asked = ("leaks", train, test, "--model", tmp_path / "m", "--within", "0.001", "--json")
    (pair,) = json.loads(run(*asked)[1])["pairs"]
    assert [item.rpartition("/")[2] for item in pair["items"]] == ["4.png", "copy.png"]
    assert pair["conflicting"]
    assert 0 < pair["distance"] < 0.001


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--within", "0.1"), "--model must be given with --within, got none."),
        (("--model", "m"), "--within must be given with --model, got none."),
        (("--other-split", "test"), "--other-split must come with OTHER, got 'test' alone."),
        (("--cache", "here"), "--cache must come with --model, got 'here' alone."),
        (("--most", "0"), "--most must be at least 1, got 0."),
        (("--split", "half"), "--split must be one of"),
    ],
)
def test_options_that_do_not_fit_end_in_a_sentence(run, options, sentence):
    status, _, err = run("leaks", "digits", *options)
    assert (status, sentence in err) == (2, True), err


def test_parts_of_one_source_are_named_by_their_split(run):
    asked = ("leaks", "digits", "digits", "--split", "train", "--other-split", "test")
    out = run(*asked)[1]
    assert "digits, train (1,350 items) and digits, test (447 items): no pairs" in out
