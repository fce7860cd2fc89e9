"""`journeys.index` and `likewise index --replace`, `--sync`: the index as a folder has it."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import likewise as lw
from likewise.errors import InputError
from likewise.journeys.index import index


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


def there(folder):
    """What the saved model knows: class and file of each item, sorted."""
    model = lw.load(folder / "model")
    names = [model.class_names[code] for code in model.index.labels.tolist()]
    paths = model.index.column("path")[0]
    found = sorted((name, path.rsplit("/", 1)[1]) for name, path in zip(names, paths, strict=True))
    model.index.close()
    return found


def on_disk(folder):
    return sorted((file.parent.name, file.name) for file in (folder / "data").rglob("*.png"))


@pytest.mark.parametrize("gallery", [False, True])
def test_a_folder_is_followed(run, folder, gallery):
    data = folder / "data"
    options = ["--gallery", folder / "gallery"] if gallery else []

    def sync():
        status, out, err = run("index", folder / "model", data, "--sync", "--json", *options)
        assert status == 0, err
        told = json.loads(out)
        assert there(folder) == on_disk(folder)
        assert told["indexed"] == len(on_disk(folder))
        names = ("added", "already_there", "relabeled", "moved", "removed")
        return tuple(told[name] for name in names)

    assert sync() == (6, 0, 0, 0, 0)
    assert sync() == (0, 6, 0, 0, 0)
    save(data / "class 0" / "new.png", 7)
    (data / "class 1" / "1.png").unlink()
    (data / "class 0" / "0.png").rename(data / "class 1" / "0.png")
    (data / "class 0" / "2.png").rename(data / "class 0" / "two.png")
    save(data / "class 1" / "3.png", 33)
    ids = dict(known(folder, options))
    assert sync() == (2, 2, 1, 1, 2)
    after = dict(known(folder, options))
    assert after["class 1/0.png"] == ids["class 0/0.png"], "relabeled, not added anew"
    assert after["class 0/two.png"] == ids["class 0/2.png"]
    (data / "class 1" / "0.png").rename(data / "class 2.png")
    (data / "class 2").mkdir()
    (data / "class 2.png").rename(data / "class 2" / "0.png")
    assert sync() == (0, 5, 1, 0, 0)
    _, out, _ = run("index", folder / "model", data, "--sync", *options)
    place = f"the gallery {folder / 'gallery'}" if gallery else "the index"
    assert out == (
        f"added 0 items, 6 were there already, relabeled 0, moved 0, removed 0; {place} holds 6\n"
    )


def known(folder, options):
    model = lw.load(folder / "model")
    paths = model.index.column("path")[0]
    ids = model.index.ids.tolist()
    model.index.close()
    return [("/".join(path.split("/")[-2:]), id_) for path, id_ in zip(paths, ids, strict=True)]


def test_items_from_elsewhere_are_left_alone(run, folder):
    for number in range(3):
        save(folder / "other" / "class 0" / f"{number}.png", number)
    save(folder / "other" / "class 9" / "9.png", 9)
    run("index", folder / "model", folder / "other")
    status, out, _ = run("index", folder / "model", folder / "data", "--sync", "--json")
    told = json.loads(out)
    assert (told["added"], told["already_there"], told["removed"]) == (4, 2, 0), "two are there"
    shutil.rmtree(folder / "data" / "class 0")
    status, out, _ = run("index", folder / "model", folder / "data", "--sync", "--json")
    assert (status, json.loads(out)["removed"]) == (0, 1)
    assert len(there(folder)) == 7


@pytest.mark.parametrize("gallery", [False, True])
def test_the_index_is_replaced(run, folder, gallery):
    options = ["--gallery", folder / "gallery"] if gallery else []
    run("index", folder / "model", folder / "data", *options)
    shutil.rmtree(folder / "data" / "class 0")
    save(folder / "data" / "a class" / "7.png", 7)
    _, out, _ = run("index", folder / "model", folder / "data", "--replace", *options)
    place = f"the gallery {folder / 'gallery'}" if gallery else "the index"
    assert out == f"added 4 items, removed 6; {place} holds 4\n"
    assert there(folder) == on_disk(folder)
    assert lw.load(folder / "model").class_names == ["a class", "class 1"]
    status, out, _ = run(
        *("index", folder / "model", folder / "data", "--replace", "--json", *options),
        *("--per-class", 1),
    )
    told = json.loads(out)
    assert (status, told["added"], told["removed"], told["indexed"]) == (0, 2, 4, 2)


@pytest.mark.parametrize(
    ("more", "told"), [(["--replace"], "--replace"), (["--per-class", 1], "--per-class")]
)
def test_what_does_not_go_together_is_refused(run, folder, more, told):
    status, _, err = run("index", folder / "model", folder / "data", "--sync", *more)
    assert status == 2
    assert f"--sync must come without {told}" in err


def test_a_way_that_is_none_is_refused():
    with pytest.raises(InputError, match="way must be one of add, replace, sync"):
        index(lw.SimilarityModel(torch.nn.Identity()), None, way="merge")


def test_metadata_payloads_and_ids_of_an_item_stay_when_it_is_relabeled():
    model = lw.SimilarityModel(torch.nn.Identity())
    data = lw.data.load((torch.eye(2), ["a", "b"]))
    index(model, data, source="mine")
    facts = [{**fact, "shelf": 3} for fact in model.index.metadata([0])]
    rows = model.index.embeddings[:1].clone()
    model.index.upsert(rows, ids=[0], labels=["a"], metadata=facts, payloads=[b"x"])
    told = index(model, lw.data.load((torch.eye(2), ["b", "b"])), way="sync", source="mine")
    assert (told.relabeled, told.already_there, told.added, told.removed) == (1, 1, 0, 0)
    assert model.index.metadata([0]) == facts
    assert model.index.payloads([0]) == [b"x"]
    assert (model.index.get([0]).embeddings == rows).all()
    assert [model.class_names[code] for code in model.index.labels.tolist()] == ["b", "b"]


def test_items_without_a_fingerprint_are_known_by_their_file(folder):
    model = lw.load(folder / "model")
    data = lw.data.load(folder / "data", image_size=8, channels=1)
    paths = [str(path.resolve()) for path in map(type(folder), data.paths)]
    labels = ["class 1" if at == 0 else data.class_names[c] for at, c in enumerate(data.labels)]
    facts = [{"path": path} for path in [*paths, str(folder / "data" / "gone.png")]]
    model.index.add(
        torch.cat([model.embed(data), torch.ones(1, model.embed(data).shape[1])]),
        labels=[*labels, "class 0"],
        metadata=facts,
    )
    told = index(model, data, way="sync", source=folder / "data")
    assert (told.added, told.already_there, told.relabeled, told.removed) == (0, 5, 1, 1)
    assert model.index.column("path")[0] != []
    assert not bool(model.is_new(data)[0]), "what was relabeled has its fingerprint now"


items = st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), min_size=1, max_size=7)


@given(before=items, after=items)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_after_a_sync_the_index_holds_the_data_and_a_second_changes_nothing(before, after):
    def data(pairs):
        x = torch.tensor([[float(value), 1.0] for value, _ in pairs])
        return lw.data.load((x, [name for _, name in pairs]))

    model = lw.SimilarityModel(torch.nn.Identity())
    elsewhere = model.index.add(torch.zeros(1, 2), labels=["z"], metadata=[{"source": "other"}])
    index(model, data(before), source="mine")
    told = index(model, data(after), way="sync", source="mine")
    labels = [model.class_names[code] for code in model.index.labels.tolist()]
    held = list(zip(model.index.embeddings[:, 0].tolist(), labels, strict=True))[0:]
    expected = {(float(value), name) for value, name in after}
    assert sorted(held) == sorted([*expected, (0.0, "z")])
    assert elsewhere[0] in model.index.ids
    assert told.removed + len(expected) == len(set(before)) + told.added
    again = index(model, data(after), way="sync", source="mine")
    assert not again.has_changed
    assert again.already_there == len(after)
