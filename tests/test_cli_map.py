import json
import re
import sys

import pytest

import likewise as lw


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = lw.train("digits", lw.Recipe(epochs=1, batches=3, hold_out_classes=["8", "9"]))
    return made.save(tmp_path_factory.mktemp("map") / "model")


def test_the_map_of_a_model_shows_some_items_and_says_so(run, model, tmp_path):
    page = tmp_path / "map.html"
    status, out, _ = run(
        "map", model, "digits", "--out", page, "--method", "pca", "--most", 30, "--json"
    )
    assert status == 0
    assert json.loads(out) == {"map": str(page), "items": 447, "shown": 30}
    source = page.read_text(encoding="utf-8")
    told = json.loads(re.search(r'id="data">(.*?)</script>', source, re.DOTALL).group(1))
    assert len(told["x"]) == len(told["names"]) == 30
    assert told["pictures"]["size"] == [8, 8]
    assert {each["name"] for each in told["classes"] if each["hollow"]} <= {"8", "9"}
    assert "30 of 447 items. The two directions of largest variance." in source
    again = tmp_path / "again.html"
    run("map", model, "digits", "--out", again, "--method", "pca", "--most", 30)
    assert again.read_bytes() == page.read_bytes()


def test_wrong_wishes_end_in_one_sentence(run, model, tmp_path, monkeypatch):
    for options, sentence in (
        (["--out", tmp_path / "no" / "map.html"], "folder of out must exist"),
        (["--out", "."], "out must be a file, got the folder '.'. Add the name"),
        (["--out", tmp_path], "out must be a file, got the folder"),
        (
            ["--out", model / "model.json" / "m.html"],
            "folder of out must be a folder, got the file",
        ),
        (["--out", tmp_path / "m.html", "--seed", -1], "--seed"),
        (["--out", tmp_path / "m.html", "--most", 0], "most must be at least 2, got 0"),
        (["--out", tmp_path / "m.html", "--method", "ica"], "method must be one of auto, pca"),
    ):
        status, _, err = run("map", model, "digits", *options)
        assert status == 2
        assert sentence in err
    monkeypatch.setitem(sys.modules, "umap", None)
    status, _, err = run("map", model, "digits", "--out", tmp_path / "m.html", "--method", "umap")
    assert status == 2
    assert 'Use pip install "likewise[umap]"' in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())
