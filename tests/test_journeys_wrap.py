import json
import shutil
import tracemalloc

import numpy as np
import pytest
import torch

import likewise as lw
from likewise import data
from likewise.errors import GalleryError, InputError, InputTypeError
from likewise.index._durable import mapped
from likewise.journeys import wrap as wrapping

ROWS = 60
RNG = np.random.default_rng(0)
CLASSES = np.array([f"s{i % 6}" for i in range(ROWS)])
VECTORS = (RNG.normal(size=(6, 8))[np.arange(ROWS) % 6] + 0.3 * RNG.normal(size=(ROWS, 8))).astype(
    np.float32
)


def arrow():
    return pytest.importorskip("pyarrow")


def table(rows=slice(None), **more):
    pa = arrow()
    x = VECTORS[rows]
    return pa.table(
        {
            "key": [f"k{i}" for i in np.arange(ROWS)[rows]],
            "species": CLASSES[rows].tolist(),
            "vec": pa.FixedSizeListArray.from_arrays(x.ravel(), 8),
            "year": [None if i % 7 == 0 else i for i in range(len(x))],
            **more,
        }
    )


def write(folder, name, rows=slice(None), **more):
    path = folder / name
    suffix = path.suffix
    if suffix == ".parquet":
        arrow()
        import pyarrow.parquet as parquet

        parquet.write_table(table(rows, **more), path, row_group_size=7)
    elif suffix == ".feather":
        arrow()
        import pyarrow.feather as feather

        feather.write_feather(table(rows, **more), path)
    elif suffix == ".arrow":
        pa = arrow()
        whole = table(rows, **more)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, whole.schema) as stream:
            stream.write_table(whole, max_chunksize=7)
    elif suffix == ".jsonl":
        told = {"key": [f"k{i}" for i in range(ROWS)], "species": CLASSES.tolist()}
        lines = [
            {**{name: column[i] for name, column in told.items()}, "vec": VECTORS[i].tolist()}
            for i in np.arange(ROWS)[rows]
        ]
        path.write_text("\n".join(map(json.dumps, lines)))
    elif suffix == ".npz":
        np.savez(path, vec=VECTORS[rows], species=CLASSES[rows], key=np.arange(ROWS)[rows])
    else:
        np.save(path, VECTORS[rows])
        path.with_suffix(".txt").write_text("\n".join(CLASSES[rows]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow", "jsonl", "npz", "npy", "frame"])
def test_vectors_of_every_kind_are_wrapped_and_loaded(tmp_path, kind):
    asked = {"labels": tmp_path / "v.txt"} if kind == "npy" else {"id": "key", "label": "species"}
    if kind == "frame":
        source = table().to_pandas()
        source["vec"] = list(VECTORS)
    else:
        source = write(tmp_path, f"v.{kind}")
    model = lw.wrap(source, tmp_path / "M", **asked)
    torch.testing.assert_close(model.index.embeddings, torch.from_numpy(VECTORS))
    assert model.class_names == [f"s{i}" for i in range(6)]
    assert [model.class_names[code] for code in model.index.labels] == CLASSES.tolist()
    expected = {"npy": 0, "npz": 0}.get(kind, "k0")
    assert model.index.ids[0] == expected
    again = lw.load(tmp_path / "M")
    assert (again.has_encoder, again.fingerprint) == (False, None)
    assert again.reading.label == (None if kind == "npy" else "species")
    found = again.lookup(VECTORS[:5], k=1)
    assert found.ids[:, 0].tolist() == model.index.ids[:5].tolist()
    assert found.distances.max() < 1e-6


def test_metadata_is_kept(tmp_path):
    path = write(tmp_path, "v.parquet")
    every = lw.wrap(path, id="key", label="species", metadata="*")
    told = every.index.metadata(["k0", "k1"])
    assert [{k: v for k, v in one.items() if k != "fingerprint"} for one in told] == [
        {},
        {"year": 1},
    ]
    some = lw.wrap(path, metadata=["key", "YEAR"])
    assert some.index.metadata([1])[0] | {"fingerprint": 0} == {
        "key": "k1",
        "year": 1,
        "fingerprint": 0,
    }


def test_many_vectors_go_into_a_gallery_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(wrapping, "LARGE", 50)
    monkeypatch.setattr(wrapping, "AT_ONCE", 16)
    seen = []
    model = lw.wrap(
        write(tmp_path, "v.parquet"),
        tmp_path / "M",
        id="key",
        label="species",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (ROWS, ROWS)
    assert model.gallery == str(tmp_path / "M.gallery")
    model.index.close()
    (tmp_path / "in").mkdir()
    for name in ("M", "M.gallery"):  # which are found again together
        shutil.move(tmp_path / name, tmp_path / "in" / name)
    again = lw.load(tmp_path / "in" / "M")
    assert (len(again.index), again.class_names) == (ROWS, [f"s{i}" for i in range(6)])
    torch.testing.assert_close(again.index.embeddings, torch.from_numpy(VECTORS))
    with pytest.raises(InputError, match="gallery must be a new folder"):
        lw.wrap(write(tmp_path, "v.parquet"), tmp_path / "in" / "M", id="key")


def test_vectors_are_in_memory_once_while_they_are_wrapped(tmp_path, monkeypatch):
    monkeypatch.setattr(wrapping, "LARGE", 50)
    monkeypatch.setattr(wrapping, "AT_ONCE", 500)
    monkeypatch.setattr(mapped, "LEAST", 50)
    vectors = np.ones((6000, 512), dtype=np.float32)
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "few.npy", vectors[:60])
    lw.wrap(tmp_path / "few.npy", tmp_path / "F").index.close()  # imports take memory, too
    tracemalloc.start()
    try:
        lw.wrap(tmp_path / "v.npy", tmp_path / "M").index.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.8 * vectors.nbytes


def test_what_fails_midway_leaves_no_gallery(tmp_path, monkeypatch):
    monkeypatch.setattr(wrapping, "AT_ONCE", 16)
    bad = VECTORS.copy()
    bad[40, 3] = np.nan
    np.save(tmp_path / "v.npy", bad)
    with pytest.raises(InputError, match="items must be finite, got NaN"):
        lw.wrap(tmp_path / "v.npy", tmp_path / "M", gallery=tmp_path / "G")
    assert not (tmp_path / "G").exists()
    assert not (tmp_path / "M").exists()


@pytest.mark.parametrize(
    ("more", "asked", "message"),
    [
        ({}, {"id": "name"}, "id must be a column of .* got 'name'"),
        ({"id": ["a"] * ROWS}, {"id": "id"}, "row 2 of .* must have an id of its own, got 'a'"),
        ({"id": [None] * ROWS}, {"id": "id"}, "row 1 of .* a text or a whole number as id, got No"),
        ({}, {"label": "kind"}, "label must be a column of .* got 'kind'"),
        ({}, {"metadata": "kind"}, "metadata must be a column of .* got 'kind'"),
        ({}, {"vectors": "species"}, "vectors must be a column of numbers in .* got 'species'"),
        ({"other": [[1.0]] * ROWS}, {}, "vectors must say which column .* vec, other, got none"),
        ({"vec": [[1.0]] * (ROWS - 1) + [[1.0, 2.0]]}, {}, "vec of .* must be numbers throughout"),
        ({"vec": [[1.0]] * (ROWS - 1) + [None]}, {}, "vec of .* must be numbers throughout"),
        ({"vec": [[1.0, None]] * ROWS}, {}, "vec of .* must be numbers throughout"),
        ({}, {"labels": "l.txt"}, "labels must be left out unless source is an .npy"),
        ({}, {"distance": "cos"}, "distance must be one of"),
    ],
)
def test_a_faulty_table_of_vectors_is_named(tmp_path, more, asked, message):
    path = write(tmp_path, "v.parquet", **more)
    with pytest.raises(ValueError, match=message) as info:
        lw.wrap(path, **asked)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.parquet", b"PAR1 and more", "must be a whole Parquet file"),
        ("v.feather", b"ARROW1 and more", "must be a whole Arrow file"),
        ("v.arrow", b"", "must be a whole Arrow file"),
        ("v.jsonl", b'{"vec": [1, 2]}\nnot json\n', "line 2 of .* must be a JSON object"),
        ("v.jsonl", b"[1, 2]\n", "line 1 of .* must be a JSON object"),
        ("v.jsonl", b"", "must have a column"),
        ("v.npy", b"\x93NUMPY", "must hold one plain array"),
        ("v.npz", b"PK", "must be a whole .npz"),
        ("v.txt", b"a,b\n1,2\n", "must be a .csv, .tsv, .parquet, .feather"),
    ],
)
def test_a_damaged_file_of_vectors_is_refused(tmp_path, name, content, message):
    if name.endswith((".parquet", ".feather", ".arrow")):
        arrow()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as info:
        lw.wrap(tmp_path / name)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4)),
        np.zeros(4),
        np.zeros((2, 2, 2)),
        np.array([[None]]),
        np.array([["a"]]),
        np.zeros((2, 2), complex),
    ],
    ids=["empty", "single numbers", "images", "pickled", "texts", "complex"],
)
def test_an_array_of_no_vectors_is_refused(tmp_path, array):
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=r"v\.npy' must hold"):
        lw.wrap(tmp_path / "v.npy")


def test_labels_of_another_number_are_refused(tmp_path):
    path = write(tmp_path, "v.npy")
    (tmp_path / "l.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="labels must be one for each of 60 vectors, got 2"):
        lw.wrap(path, labels=tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("a\n\nb\n")
    with pytest.raises(InputError, match=r"line 2 of .*l\.txt' must have a label, got none"):
        lw.wrap(path, labels=tmp_path / "l.txt")
    with pytest.raises(InputTypeError, match="source must be a file or a table of vectors, got nd"):
        lw.wrap(VECTORS)


def test_a_model_without_an_encoder_takes_vectors_only(tmp_path):
    model = lw.SimilarityModel(None)
    model.add((VECTORS, CLASSES))
    with pytest.raises(InputError, match=r"items must be embeddings \(n, d\) for a model without"):
        model.embed(torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputError, match="dimension"):
        model.lookup(np.zeros((1, 5), np.float32) + 1)
    model.calibrate((VECTORS + 0.01, CLASSES))
    model.save(tmp_path / "M")
    again = lw.load(tmp_path / "M")
    assert torch.equal(again.match(VECTORS[:3]).labels, model.match(VECTORS[:3]).labels)


def test_a_gallery_made_elsewhere_is_adopted(tmp_path):
    with lw.Gallery(tmp_path / "G") as gallery:
        gallery.add(torch.from_numpy(VECTORS), labels=CLASSES.tolist())
    plain = lw.SimilarityModel(None)
    plain.use_gallery(tmp_path / "G")
    assert len(plain.index) == ROWS
    plain.index.close()
    model = lw.SimilarityModel(torch.nn.Linear(4, 8))
    with pytest.raises(GalleryError, match=r"must tell which encoder .*use_gallery.*adopt=True"):
        model.use_gallery(tmp_path / "G")
    adopted = model.use_gallery(tmp_path / "G", adopt=True, read_only=True)
    assert (adopted.encoder, len(adopted)) == (model.fingerprint, ROWS)
    adopted.close()
    model.use_gallery(tmp_path / "G").close()
    other = lw.SimilarityModel(torch.nn.Linear(4, 8))
    for adopt in (False, True):
        with pytest.raises(GalleryError, match=r"encoder must be|must be of no told encoder"):
            other.use_gallery(tmp_path / "G", adopt=adopt)
    with pytest.raises(GalleryError, match="embeddings made elsewhere for a model without an enc"):
        plain.use_gallery(tmp_path / "G")
    with lw.Gallery(tmp_path / "G") as whole:
        assert whole.encoder == model.fingerprint
        torch.testing.assert_close(whole.embeddings, torch.from_numpy(VECTORS))
    assert lw.index.check_gallery(tmp_path / "G").is_whole


# other doors for vectors


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow", "jsonl", "npz", "frame"])
def test_vectors_are_loaded_from_every_table(tmp_path, kind):
    source = table().to_pandas() if kind == "frame" else write(tmp_path, f"v.{kind}")
    found = data.load(source, label="species", **({"vectors": "vec"} if kind == "npz" else {}))
    torch.testing.assert_close(data.items(found), torch.from_numpy(VECTORS))
    assert [found.class_names[code] for code in found.labels] == CLASSES.tolist()


def test_columns_of_numbers_are_vectors_and_split_is_a_part(tmp_path):
    pa = arrow()
    import pyarrow.parquet as parquet

    rows = {"x": [1.5, 2.0, 3.0], "y": [4, 5, 6], "label": ["a", None, "b"]}
    parquet.write_table(
        pa.table({**rows, "split": ["train", "test", "valid"]}), tmp_path / "t.parquet"
    )
    whole = data.load(tmp_path / "t.parquet")
    assert data.items(whole).tolist() == [[1.5, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert (whole.labels.tolist(), whole.class_names) == ([0, -1, 1], ["a", "b"])
    assert data.has_splits(tmp_path / "t.parquet")
    assert data.items(data.load(tmp_path / "t.parquet", split="test")).tolist() == [[2.0, 5.0]]


def test_an_npy_is_mapped_and_has_its_labels_in_a_file(tmp_path):
    path = write(tmp_path, "v.npy")
    found = data.load(path, labels=tmp_path / "v.txt")
    assert [found.class_names[code] for code in found.labels] == CLASSES.tolist()
    torch.testing.assert_close(data.items(found), torch.from_numpy(VECTORS))
    assert data.load(path).labels.tolist() == [-1] * ROWS
    np.save(tmp_path / "y.npy", np.arange(ROWS) % 3)
    assert data.load(path, labels=tmp_path / "y.npy").class_names == ["0", "1", "2"]
    np.savez(tmp_path / "x.npz", x=VECTORS)
    assert data.load(tmp_path / "x.npz").labels.tolist() == [-1] * ROWS


# the command line


def test_the_command_line_wraps_calibrates_and_matches(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "v.parquet", slice(0, 36))
    write(tmp_path, "q.parquet", slice(36, None))
    pairs = "".join(
        f"k{i},k{j},{int(CLASSES[i] == CLASSES[j])}\n" for i in range(12) for j in (i + 6, i + 1)
    )
    (tmp_path / "pairs.csv").write_text(f"a,b,same\n{pairs}")
    status, out, err = run("wrap", "v.parquet", "--id", "key", "--metadata", "*", "--out", "M")
    assert (status, "36 items of 6 classes, 8 numbers each" in out) == (0, True), err
    for command in (
        ("calibrate", "M", "pairs.csv"),
        ("calibrate", "M", "q.parquet", "--rule", "nearest"),
        ("evaluate", "M", "q.parquet"),
        ("verify", "M", "k1", "k7"),
        ("verify", "M", "--pairs", "pairs.csv"),
        ("lookup", "M", "q.parquet", "-k", "1"),
        ("info", "M"),
    ):
        status, out, err = run(*command)
        assert status == 0, err
    assert "items are embeddings made elsewhere" in out
    status, out, err = run("match", "M", "q.parquet")
    assert (status, "named rightly: 2" in out and " of 24" in out) == (0, True), err
    status, _, err = run("verify", "M", "k1", "nothing")
    assert (status, "nothing" in err) == (2, True)
    status, _, err = run("match", "M", "photo.png")
    assert (status, "must be vectors for a model without an encoder" in err) == (2, True)
    status, _, err = run("wrap", "v.parquet", "--id", "nothing", "--out", "N")
    assert (status, "--id must be a column of 'v.parquet'" in err) == (2, True), err


def test_index_takes_some_classes_only(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lw.SimilarityModel(None).save("M")
    write(tmp_path, "v.npz")
    column = ("--vectors", "vec", "--label", "species")
    status, out, err = run("index", "M", "v.npz", *column, "--classes", "s1, s2", "--classes", "s4")
    assert (status, "added 30 items" in out) == (0, True), err
    status, out, err = run("index", "M", "v.npz", *column, "--except", "s0")
    assert (status, "added 20 items, 30 were there" in out) == (0, True), err
    status, _, err = run("index", "M", "v.npz", *column, "--except", "s9")
    assert (status, "--except must name classes" in err) == (2, True), err
    status, _, err = run("index", "M", "v.npz", *column, "--classes", "s1", "--except", "s1")
    assert (status, "--except must leave a class" in err) == (2, True), err


def test_the_command_line_adopts_a_gallery(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with lw.Gallery("G") as gallery:
        gallery.add(torch.from_numpy(VECTORS))
    lw.SimilarityModel(lw.encoders.MLPEncoder((4,), embedding_dim=8)).save("M")
    np.savez("x.npz", x=np.ones((2, 4)), y=[0, 1])
    status, _, err = run("lookup", "M", "x.npz", "--gallery", "G")
    assert (status, "use likewise gallery adopt GALLERY MODEL" in err) == (2, True), err
    status, out, err = run("gallery", "adopt", "G", "M")
    assert (status, "60 items are of the encoder of M" in out) == (0, True), err
    status, _, err = run("lookup", "M", "x.npz", "--gallery", "G")
    assert status == 0, err
