import json

import numpy as np
import pytest

import likewise as lw
from likewise.index._searching import approximate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = lw.train("digits", lw.Recipe(epochs=1, batches=30, hold_out_classes=["8", "9"]))
    return model.save(tmp_path_factory.mktemp("gallery") / "model")


@pytest.fixture
def model(trained, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in trained.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_the_whole_journey_with_items_in_a_gallery(run, model, tmp_path):
    folder = tmp_path / "known"
    status, out, _ = run("index", model, "digits", "--per-class", 8, "--gallery", folder, "--json")
    assert status == 0
    assert json.loads(out) == {
        "added": 80,
        "already_there": 0,
        "as_another_class": 0,
        **dict.fromkeys(("relabeled", "changed", "moved", "removed"), 0),
        "indexed": 80,
        "gallery": str(folder),
    }
    assert json.loads(run("info", model, "--json")[1])["gallery"] == str(folder)

    status, out, _ = run("calibrate", model, "digits", "--goal", "accuracy")
    assert status == 0
    assert "nearest: accept" in out
    status, out, _ = run(
        "calibrate", model, "digits", "--rule", "majority", "-k", 3, "--point", "three"
    )
    assert status == 0
    assert out.startswith("three: accept at distance")
    status, out, _ = run("match", model, "digits", "--json")
    first = json.loads(out)
    assert first["named_rightly"] > 0.5
    assert 0 < first["queries"][0]["probability"] < 1
    status, out, _ = run("match", model, "digits", "--point", "three", "--json")
    assert json.loads(out)["rule"] == "majority"

    status, out, _ = run("remove", model, "--class", "3", "--json")
    assert json.loads(out) == {"removed": 8, "indexed": 72}
    status, out, _ = run("remove", model, 0, 1)
    assert status == 0
    assert out.startswith("removed 2 items; 70 are left")
    found = json.loads(run("lookup", model, "digits", "-k", 3, "--json")[1])["queries"]
    assert {near["label"] for query in found for near in query["neighbors"]} <= set("012456789")

    status, out, _ = run("gallery", "info", folder, "--json")
    assert json.loads(out)["items"] == 70
    assert json.loads(run("gallery", "check", folder, "--json")[1])["whole"] is True
    assert run("gallery", "compact", folder)[0] == 0
    assert run("gallery", "backup", folder, tmp_path / "copy")[0] == 0
    assert json.loads(run("gallery", "info", tmp_path / "copy", "--json")[1])["items"] == 70


def test_a_gallery_goes_to_parquet_and_back(run, model, tmp_path):
    pytest.importorskip("pyarrow")
    folder, file = tmp_path / "known", tmp_path / "items.parquet"
    run("index", model, "digits", "--per-class", 3, "--gallery", folder)
    assert run("gallery", "export", folder, file)[0] == 0
    status, out, _ = run("gallery", "import", tmp_path / "again", file, "--json")
    assert (status, json.loads(out)) == (0, {"imported": 30, "items": 30})
    told = [
        json.loads(run("gallery", "info", f, "--json")[1]) for f in (folder, tmp_path / "again")
    ]
    assert told[0]["items_per_class"] == told[1]["items_per_class"]
    assert told[0]["encoder"] == told[1]["encoder"]
    status, _, err = run("gallery", "import", tmp_path / "again", file)
    assert status == 2
    assert "ids must be new" in err
    assert run("gallery", "import", tmp_path / "again", file, "--replace")[0] == 0


def test_a_damaged_gallery_is_told_and_repaired(run, model, tmp_path):
    folder = tmp_path / "known"
    run("index", model, "digits", "--per-class", 5, "--gallery", folder)
    run("gallery", "compact", folder)
    file = folder / "gallery.sqlite"
    data = bytearray(file.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 40):
        data[place] ^= 0x55
    file.write_bytes(data)
    status, out, err = run("gallery", "check", folder)
    assert status == 2
    assert "likewise gallery repair" in out
    assert "Traceback" not in out + err
    assert run("lookup", model, "digits")[0] == 2
    status, out, _ = run("gallery", "repair", folder)
    assert status == 0
    assert "items are whole" in out
    assert run("gallery", "check", folder)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gallery", "info", "nowhere"], "GALLERY must exist"),
        (["lookup", "{model}", "digits", "--gallery", "nowhere"], "--gallery must exist"),
        (["remove", "{model}"], "ID must be given"),
        (["remove", "{model}", "x"], "ID must be a whole number"),
        (["remove", "{model}", "--class", "cat"], "class must be one of"),
        (["calibrate", "{model}", "digits", "--point", "x"], "point must come with --rule"),
        (["match", "{model}", "digits", "--point", "x"], "model must be calibrated for x"),
    ],
)
def test_a_callers_mistake_ends_in_one_sentence_and_status_2(
    run, model, tmp_path, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*(argument.format(model=model) for argument in arguments))
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_a_recall_is_reached_kept_with_the_model_and_taken_back(run, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "EXACT_UP_TO", 2000)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 3000)
    vectors = rng.normal(size=(40, 16))[labels] + rng.normal(size=(3000, 16)) / 2
    np.savez(tmp_path / "known.npz", x=vectors.astype("float32"), y=labels)
    model, folder = tmp_path / "wrapped", tmp_path / "known"
    _, out, _ = run("wrap", tmp_path / "known.npz", "--out", model, "--recall", 0.9)
    assert "lookups by IVF" in out
    assert lw.load(model).index.searched_by.recall >= 0.9
    assert (tmp_path / "wrapped.gallery" / "gallery.search").exists()

    run("wrap", tmp_path / "known.npz", "--out", model)
    status, _, err = run("index", model, tmp_path / "known.npz", "--recall", 0.9)
    assert status == 2
    assert err == "likewise: --recall must come with --gallery or --milvus, got none.\n"
    asked = ["index", model, tmp_path / "known.npz"]
    _, out, _ = run(*asked, "--gallery", folder, "--recall", 0.8)
    assert "lookups by IVF" in out
    run(*asked, "--sync")
    assert (lw.load(model).index.recall, (folder / "gallery.search").exists()) == (0.8, True)
    status, out, _ = run(*asked, "--recall", 1)
    assert (status, out.splitlines()[1]) == (0, "lookups by exact search")
    with pytest.raises(lw.InputError, match="recall must come with gallery or out"):
        lw.wrap(tmp_path / "known.npz", recall=0.9)
    assert run(*asked, "--recall", 2)[0] == 2


def test_a_search_is_trained_only_where_it_is_kept(run, model, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(lw.Index, "wait", lambda index: waited.append(type(index).__name__))
    some = lw.load(model)
    some.index = lw.Index(some.distance, recall=0.9)
    some.save(model)
    run("index", model, "digits", "--per-class", 3)
    assert waited == []
    run("index", model, "digits", "--per-class", 3, "--gallery", tmp_path / "g")
    assert waited == ["Gallery"]
