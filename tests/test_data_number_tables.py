"""CSV with vectors: lists of numbers as text, columns of numbers, and ids beside them."""

import csv

import numpy as np
import pytest
import torch

import likewise as lw
from likewise import data
from likewise.data.records import open_records
from likewise.errors import InputError

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
NAMES = [f"s{i % 4}" for i in range(40)]


def write(path, header, rows, delimiter=","):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def written(kind, row):
    return str(X[row].tolist()) if kind == "commas" else str(X[row].astype(str)).replace("'", "")


def listed(folder, kind="commas"):
    rows = [[f"k{i}", NAMES[i], written(kind, i), 1990 + i, f"0{i}"] for i in range(40)]
    return write(folder / "v.csv", ["sku", "species", "Embedding", "year", "code"], rows)


def columned(folder, **more):
    rows = [[i, *X[i].tolist(), NAMES[i], 1990 + i, *more.values()] for i in range(40)]
    header = ["sku", "v0", "v1", "v2", "species", "year", *more]
    return write(folder / "v.tsv", header, rows, "\t")


@pytest.mark.parametrize("kind", ["commas", "spaces"])
def test_lists_written_as_text_are_vectors(tmp_path, kind):
    model = lw.wrap(listed(tmp_path, kind), tmp_path / "M", id="SKU", metadata="*")
    torch.testing.assert_close(model.index.embeddings, torch.from_numpy(X))
    assert model.index.ids[:2].tolist() == ["k0", "k1"]
    assert [model.class_names[code] for code in model.index.labels] == NAMES
    told = model.index.metadata(["k3"])[0]
    assert (told["year"], told["code"]) == (1993, "03")
    again = lw.load(tmp_path / "M")
    assert again.reading.columns == {"label": "species", "vectors": "embedding", "id": "sku"}


def test_columns_of_numbers_are_a_vector_and_a_pattern_chooses_them(tmp_path):
    path = columned(tmp_path)
    every = lw.wrap(path, id="sku", label="species")
    assert every.index.dimension == 4, "the year is a number too"
    chosen = lw.wrap(path, id="sku", vectors="V*", metadata="year")
    torch.testing.assert_close(chosen.index.embeddings, torch.from_numpy(X))
    assert chosen.index.ids[0] == "0", "a CSV has texts only"
    assert chosen.index.metadata(["1"])[0]["year"] == 1991
    kept_apart = lw.wrap(path, id="sku", metadata="year")
    torch.testing.assert_close(kept_apart.index.embeddings, torch.from_numpy(X))


def test_a_csv_is_read_alike_by_later_commands(tmp_path, run):
    path = columned(tmp_path)
    assert run("wrap", path, "--id", "sku", "--vectors", "v*", "--out", tmp_path / "M")[0] == 0
    status, out, err = run("lookup", tmp_path / "M", path, "-k", 1)
    assert (status, out.splitlines()[:2]) == (0, ["0", "  s0  0.0000  id 0"]), err
    # Numbers within 0..1 whose count is a square are images to the rules of other tables.
    rows = [[f"k{i}", NAMES[i], *np.abs(X[i] % 1).tolist(), 0.5] for i in range(40)]
    square = write(tmp_path / "w.csv", ["key", "label", "a", "b", "c", "d"], rows)
    assert run("wrap", square, "--id", "key", "--out", tmp_path / "N")[0] == 0
    assert run("calibrate", tmp_path / "N", square)[0] == 2  # all of it is indexed
    status, _, err = run("match", tmp_path / "N", square, "--threshold", 0.1)
    assert status == 0, err


def test_vectors_without_labels_are_wrapped(tmp_path, run):
    np.save(tmp_path / "x.npy", X)
    bare = write(tmp_path / "x.csv", ["a", "b", "c"], X.tolist())
    numbered = write(tmp_path / "y.csv", ["", "0", "1", "2"], [[i, *X[i]] for i in range(40)])
    for name, source in (("npy", tmp_path / "x.npy"), ("csv", bare), ("pandas", numbered)):
        status, out, err = run("wrap", source, "--out", tmp_path / name)
        assert status == 0, err
        assert out.startswith("40 items without classes, 3 numbers each\n")
        model = lw.load(tmp_path / name)
        assert (model.class_names, model.index.labels.tolist()) == ([], [-1] * 40)
        assert model.lookup(X[:3], k=1).ids[:, 0].tolist() == [0, 1, 2]
        status, out, err = run("lookup", tmp_path / name, source, "-k", 1)
        assert status == 0, err


@pytest.mark.parametrize(
    ("header", "rows", "asked", "message"),
    [
        (["v", "w"], [["1", "2"], ["x", "3"]], {"vectors": "v*"}, "vectors must match columns of"),
        (["v"], [["[1, 2]"], ["[1]"]], {}, r"row 3 of .* must have 2 numbers as v, got \[1\]"),
        (["v", "w"], [["1", "2"], ["", "3"]], {}, "row 3 of .* a number as v, got none. Correct"),
        (["1", "2"], [["1", "2"]], {}, "must name its columns in the first row, got 1, 2"),
        (["a", "b"], [["x", "y"]], {}, "must have a column of image files, of texts or of numbers"),
        (["v", "w"], [], {}, "must have a column of"),
        (["v", "k"], [["1", "a"], ["2", "a"]], {"id": "k"}, "row 3 of .* an id of its own, got 'a"),
        (
            ["v", "k"],
            [["1", "a"], ["2", ""]],
            {"id": "k"},
            "row 3 of .* must have a text or a whol",
        ),
    ],
)
def test_what_is_no_table_of_vectors_is_refused(tmp_path, header, rows, asked, message):
    with pytest.raises(InputError, match=message):
        lw.wrap(write(tmp_path / "t.csv", header, rows), **asked)


def test_a_fault_beyond_the_rows_looked_at_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("likewise.data.records.LOOKED_AT", 3)
    path = write(tmp_path / "t.csv", ["v", "w"], [*[["1", "2"]] * 5, ["1", "n/a"]])
    assert open_records(path, numbers=True).kinds.single == ["v", "w"]
    with pytest.raises(InputError, match=r"row 7 of .* a number as w, got n/a. Correct it, or say"):
        lw.wrap(path)


@pytest.mark.parametrize("kind", ["numbers", "lists", "paths", "texts", "npz"])
def test_ids_come_with_every_kind_of_table(tmp_path, kind):
    from PIL import Image

    rows = [[f"k{i}", NAMES[i], "test" if i % 3 else "train"] for i in range(12)]
    header = ["sku", "label", "split"]
    asked = {}
    if kind == "numbers":
        path = write(tmp_path / "t.csv", [*header, "a", "b"], [[*r, 1, 2] for r in rows])
    elif kind == "lists":
        path = write(tmp_path / "t.csv", [*header, "vector"], [[*r, "[1, 2]"] for r in rows])
    elif kind == "texts":
        path = write(tmp_path / "t.csv", [*header, "q"], [[*r, "hello"] for r in rows])
        asked = {"text": "q"}
    elif kind == "paths":
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        (tmp_path / "broken.png").write_bytes(b"no image")
        paths = ["broken.png" if i == 4 else "a.png" for i in range(12)]
        path = write(
            tmp_path / "t.csv",
            [*header, "path"],
            [[*r, p] for r, p in zip(rows, paths, strict=True)],
        )
        with pytest.warns(UserWarning, match="left out 1"):
            found = data.load(path, split="test", id="sku", skip_unreadable=True)
        assert data.ids_of(found) == [f"k{i}" for i in range(12) if i % 3 and i != 4]
        return
    else:
        np.savez(tmp_path / "t.npz", x=X[:12], sku=[r[0] for r in rows], label=NAMES[:12])
        assert data.ids_of(data.load(tmp_path / "t.npz", id="sku")) == [r[0] for r in rows]
        return
    found = data.load(path, split="test", id="sku", **asked)
    assert data.ids_of(found) == [f"k{i}" for i in range(12) if i % 3]
    assert data.has_splits(path, id="sku", **asked)
    if kind != "numbers":  # where the column would be one of numbers
        assert data.ids_of(data.load(path, split="test", **asked)) is None
    with pytest.raises(InputError, match=r"id must be a column of .* got 'name'"):
        data.load(path, id="name", **asked)


def test_a_source_without_columns_has_no_ids(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="id must be left out unless source is a table"):
        data.load(tmp_path / "x.npy", id="sku")
