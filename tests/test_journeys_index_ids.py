"""`likewise index --id`: items under ids of their own."""

import json

import pytest
import torch

import likewise as lw
from likewise.errors import InputError
from likewise.journeys.index import index


def table(path, rows):
    path.write_text("sku,label,a,b\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    lw.SimilarityModel(None).save(tmp_path / "model")
    return tmp_path


def known(folder):
    model = lw.load(folder / "model")
    names = [model.class_names[code] for code in model.index.labels.tolist()]
    values = model.index.embeddings[:, 0].tolist()
    found = dict(zip(model.index.ids.tolist(), zip(names, values, strict=True), strict=True))
    model.index.close()
    return found


@pytest.mark.parametrize("gallery", [False, True])
def test_a_table_is_followed_by_its_ids(run, folder, gallery):
    options = ["--gallery", folder / "gallery"] if gallery else []

    def put(rows, *more):
        path = table(folder / "t.csv", rows)
        status, out, err = run(
            *("index", folder / "model", path, "--id", "sku", "--json", *options, *more)
        )
        assert status == 0, err
        told = json.loads(out)
        assert told["indexed"] == len(known(folder))
        return [
            told[name] for name in ("added", "already_there", "relabeled", "removed", "changed")
        ]

    rows = [("k1", "x", 1, 0), ("k2", "y", 2, 5), ("k3", "y", 2, 5)]
    assert put(rows) == [3, 0, 0, 0, 0], "two of one content under two ids"
    assert put(rows) == [0, 3, 0, 0, 0]
    rows = [("k1", "y", 1, 0), ("k2", "y", 7, 5), ("k9", "z", 9, 9)]
    status, _, err = run("index", folder / "model", table(folder / "t.csv", rows), "--id", "sku")
    assert status == 2
    assert "--id must be new or of the same item, got 'k2'" in err
    assert "Use --sync" in err
    assert put(rows, "--sync") == [1, 0, 1, 1, 1]
    assert known(folder) == {"k1": ("y", 1.0), "k2": ("y", 7.0), "k9": ("z", 9.0)}
    assert put(rows, "--sync") == [0, 3, 0, 0, 0]
    assert put([("k5", "x", 1, 1), ("k1", "x", 2, 2)], "--replace")[0] == 2
    assert known(folder) == {"k5": ("x", 1.0), "k1": ("x", 2.0)}


def test_ids_name_the_queries(run, folder):
    path = table(folder / "t.csv", [("k1", "x", 1, 0), ("k2", "y", 0, 1)])
    run("index", folder / "model", path, "--id", "sku")
    status, out, err = run("match", folder / "model", path, "--id", "sku", "--threshold", 0.1)
    assert status == 0, err
    assert out.splitlines()[0].split() == ["k1", "x", "0.0000"]


def test_a_model_that_was_wrapped_remembers_the_column(run, folder):
    path = table(folder / "t.csv", [("k1", "x", 1, 0), ("k2", "y", 0, 1)])
    run("wrap", path, "--id", "sku", "--out", folder / "M")
    more = table(folder / "more.csv", [("k3", "x", 5, 1)])
    status, _, err = run("index", folder / "M", more)
    assert status == 0, err
    assert lw.load(folder / "M").index.ids.tolist() == ["k1", "k2", "k3"]


def test_only_what_uses_ids_refuses_a_row_without_one(run, folder):
    path = table(folder / "t.csv", [("k1", "x", 1, 0), ("k2", "y", 0, 1)])
    run("wrap", path, "--id", "sku", "--out", folder / "M")
    rows = [("", "x", 2, 0), ("k4", "x", 3, 0.1), ("k5", "y", 0, 2), ("k6", "y", 0.1, 4)]
    others = table(folder / "others.csv", rows)
    others.write_text(others.read_text().replace("a,b", "v,w"))  # a and b would be pairs
    status, _, err = run("calibrate", folder / "M", others)
    assert status == 0, err
    for command in ("index", "lookup", "match"):
        status, _, err = run(command, folder / "M", others)
        assert status == 2
        assert "row 2 of" in err
        assert "must have a text or a whole number as sku, got ''. Correct or remove" in err


def test_whole_numbers_of_a_csv_meet_those_of_an_index():
    model = lw.SimilarityModel(None)
    model.add((torch.eye(2), ["a", "b"]), ids=[5, 6])
    points = lw.data.load((torch.eye(2)[:1], ["a"]))
    points.ids = ["5"]
    assert index(model, points).already_there == 1
    points.ids = ["A"]
    with pytest.raises(TypeError, match="ids must be integers, as those in the index are"):
        index(model, points)


def test_ids_that_are_one_number_to_the_index_are_refused():
    model = lw.SimilarityModel(None)
    model.add((torch.eye(2), ["a", "b"]), ids=[5, 6])
    points = lw.data.load((torch.eye(2), ["a", "b"]))
    points.ids = ["7", "07"]
    with pytest.raises(InputError, match="id must name a column whose ids all differ, got 7 more"):
        index(model, points)


@pytest.mark.parametrize("way", ["add", "replace", "sync"])
def test_an_id_that_comes_twice_is_refused(way):
    points = lw.data.load((torch.eye(2), ["a", "b"]))
    points.ids = ["k", "k"]
    with pytest.raises(InputError, match="id must name a column whose ids all differ, got 'k' mor"):
        index(lw.SimilarityModel(None), points, way=way)
