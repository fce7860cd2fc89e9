"""`likewise index` of what is there already, and `--hold-out-classes` by any name."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.cli.training import named_classes
from likewise.errors import InputError
from likewise.pages.evaluate import _neighbor_sheet
from likewise.pages.shown_items import Pictures


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (8, 8)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        save(tmp_path / "data" / f"class {number % 2}" / f"{number}.png", number)
    encoder = lw.encoders.MLPEncoder((1, 8, 8))
    preprocess = lw.data.Preprocess((1, 8, 8), (0.0,), (1.0,))
    lw.SimilarityModel(encoder, preprocess=preprocess).save(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("gallery", [False, True])
def test_what_is_there_is_not_added_again(run, folder, gallery):
    data = folder / "data"
    options = ["--gallery", folder / "gallery"] if gallery else []

    def index(*more):
        status, out, err = run("index", folder / "model", data, "--json", *options, *more)
        assert status == 0, err
        told = json.loads(out)
        return told["added"], told["already_there"], told["as_another_class"], told["indexed"]

    assert index() == (6, 0, 0, 6)
    assert index() == (0, 6, 0, 6)
    save(folder / "data" / "class 0" / "new.png", 7)
    shutil.copy(folder / "data" / "class 0" / "0.png", folder / "data" / "class 0" / "copy.png")
    assert index() == (1, 7, 0, 7), "the copy is there under another name"
    shutil.copy(folder / "data" / "class 0" / "0.png", folder / "data" / "class 1" / "moved.png")
    assert index() == (1, 8, 1, 8), "another class is another truth, which is told"
    model = lw.load(folder / "model")
    if gallery:
        model.use_gallery(folder / "gallery", read_only=True)
    first = model.index.ids[0].item()
    del model
    assert run("remove", folder / "model", first, *options)[0] == 0
    assert index() == (1, 8, 1, 8), "what was removed comes back"
    assert index("--per-class", 2, "--seed", 3) == (0, 4, 0, 8)


def test_lines_say_how_many_were_there(run, folder):
    _, out, _ = run("index", folder / "model", folder / "data", "--per-class", 2)
    assert out == "added 4 items; the index holds 4\n"
    _, out, _ = run("index", folder / "model", folder / "data")
    assert out == "added 2 items, 4 were there already; the index holds 6\n"


def test_items_repeated_in_the_data_are_added_once_with_their_own_facts():
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [2, 0]])
    data = lw.data.load((x, ["b", "b", "b", "a", "a"]))
    model = lw.SimilarityModel(torch.nn.Identity())
    ids = model.add_new(data, metadata=[{"row": row} for row in range(5)])
    assert ids.tolist() == [0, 1, 2, 3]
    assert [fact["row"] for fact in model.index.metadata(ids)] == [0, 1, 3, 4]
    assert [model.class_names[code] for code in model.index.labels] == ["b", "b", "a", "a"]
    assert model.class_names == ["a", "b"], "in the order of the data"
    assert model.index.embeddings.tolist() == [[1, 0], [0, 1], [1, 0], [2, 0]]
    assert not bool(model.is_new(data).any())
    assert model.add_new(data).tolist() == []


def test_items_that_came_without_a_fingerprint_are_no_hindrance():
    data = lw.data.load((torch.eye(3), ["a", "b", "a"]))
    model = lw.SimilarityModel(torch.nn.Identity())
    model.index.add(torch.eye(3), labels=["a", "b", "a"])
    assert len(model.add_new(data)) == 3
    assert len(model.add_new(data)) == 0
    assert len(model.index) == 6


NAMES = ["oak, red", "oak, white", "elm", 'the "best"', "40%", "a\nb"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["oak, red"], ["oak, red"]),
        (["elm", "oak, white"], ["elm", "oak, white"]),
        (['"oak, red", elm'], ["oak, red", "elm"]),
        (["elm ,40%"], ["elm", "40%"]),
        (['the "best"'], ['the "best"']),
        (["a\nb"], ["a\nb"]),
    ],
)
def test_a_class_of_any_name_can_be_named(words, expected):
    assert named_classes(words, NAMES) == expected


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["oak, red, elm"], "got 'oak', 'red'"),
        (["ten"], "got 'ten'"),
        ([""], "got none"),
        (["x\ny"], r"got 'x\\ny'"),
        ([","], "got '', ''"),
    ],
)
def test_a_class_that_is_not_there_is_refused(words, told):
    with pytest.raises(InputError, match=told):
        named_classes(words, NAMES)


def test_classes_with_commas_are_held_out(run, tmp_path):
    labels = [NAMES[row % 6] for row in range(60)]
    np.savez(tmp_path / "t.npz", x=np.random.default_rng(0).random((60, 6)), y=labels)
    arguments = ["train", tmp_path / "t.npz", "--epochs", 1, "--batches", 1, "--json"]
    held = ["--hold-out-classes", "oak, red", "--hold-out-classes", "elm,40%"]
    status, out, _ = run(*arguments, "--out", tmp_path / "m", *held)
    assert status == 0
    assert set(json.loads(out)["trained_on"]) == {"oak, white", 'the "best"', "a\nb"}
    held = ["--hold-out-classes", "40%"]
    status, out, _ = run(*arguments, "--out", tmp_path / "n", *held)
    assert set(json.loads(out)["trained_on"]) == set(NAMES) - {"40%"}, "a name before a share"
    for share in ("inf%", "nan%", "100%", "0%", "x%"):
        status, _, err = run(*arguments, "--out", tmp_path / "o", "--hold-out-classes", share)
        assert status == 2
        assert "--hold-out-classes must leave some of 6 classes" in err


@pytest.mark.parametrize("place", [[], ["--gallery", "known"]])
@pytest.mark.parametrize("way", [[], ["--replace"], ["--sync"]])
def test_pictures_kept_with_items_are_drawn_when_the_files_are_gone(run, folder, place, way):
    place = [folder / each if each == "known" else each for each in place]
    where = ["index", folder / "model", folder / "data", *place, *way]
    assert run(*where, "--keep-pictures")[0] == 0
    model = lw.load(folder / "model")
    queries = lw.data.load(folder / "data")
    queries = lw.data.load((lw.data.items(queries), queries.labels))
    shutil.rmtree(folder / "data")
    assert None not in model.index.payloads(model.index.ids)
    asked = model.embedded(queries)
    sheet = _neighbor_sheet(model, asked, Pictures(asked), 1.0)
    assert sheet.get_suptitle().startswith("6 queries")
    assert lw.show(model.lookup(queries, k=2), queries=queries)


def test_train_clips_gradients_encodes_in_chunks_and_tells(run, folder):
    options = ["--epochs", 1, "--batches", 2, "--clip-gradients", 0.5, "--chunk", 8, "--json"]
    status, out, err = run("train", folder / "data", "--out", folder / "new", *options)
    assert status == 0, err
    told = json.loads(out)
    assert told["recipe"]["clip_gradients"] == 0.5
    assert told["recipe"]["chunk"] == 8
    assert told["history"][0]["gradient_norm"] > 0
    status, _, err = run("train", folder / "data", "--out", folder / "other", "--chunk", 4)
    assert status == 2
    assert "--chunk must be at least 8 for an encoder with batch normalization" in err
