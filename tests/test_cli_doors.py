import numpy as np
import pytest
from PIL import Image

from likewise.cli import console

RNG = np.random.default_rng(0)
TRAIN = ("--epochs", "1", "--batches", "1", "--embedding-dim", "8")


def save(path, size=(20, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photographs of several sizes and formats, one of them gray, in nested folders."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        suffix = ("webp", "jpg", "png", "bmp", "tif", "gif")[i]
        save(
            tmp_path / "P" / "pets" / "cat" / f"{i}.{suffix}",
            (20 + i, 30),
            "L" if i == 0 else "RGB",
        )
        save(tmp_path / "P" / "dog" / f"{i}.{suffix}", (40, 20 + i))
    (tmp_path / "P" / "dog" / "notes.txt").write_text("passed over")
    (tmp_path / "P" / "dog" / ".DS_Store").write_text("x")
    return tmp_path / "P"


@pytest.mark.filterwarnings("default")
def test_photographs_of_every_kind_are_trained_on_with_one_word(run, photos):
    status, out, err = run("train", photos, "--out", "M", *TRAIN)
    assert status == 0, err
    assert err.count("images have several sizes") == 1
    assert "all are resized to 64x64" in err
    status, out, err = run("info", "M")
    assert "3 × 64 × 64" in out, err
    status, out, err = run("index", "M", photos)
    assert (status, "added 12 items" in out) == (0, True), err
    (photos / "dog" / "bad.png").write_text("not an image")
    status, out, err = run("index", "M", photos)
    assert status == 2
    assert "dog/bad.png' must be a whole PNG" in err
    assert err.endswith("or leave such files out with --skip-unreadable.\n")
    assert err.count("\n") == 1
    status, out, err = run("index", "M", photos, "--skip-unreadable")
    assert (status, "12 were there already" in out) == (0, True), err
    assert "left out 1 of 13 files that cannot be read as images: " in err
    assert "dog/bad.png'" in err
    some = [*sorted((photos / "dog").glob("*.jpg")), photos / "dog" / "bad.png"]
    status, _, err = run("match", "M", *some, "--threshold", "1")
    assert (status, "out with --skip-unreadable" in err) == (2, True)
    status, out, err = run("match", "M", *some, "--threshold", "1", "--skip-unreadable")
    assert (status, "left out 1 of 2 files" in err, "in all: dog 1" in out) == (0, True, True), err
    status, _, err = run("verify", "M", *some, "--threshold", "1")
    assert (status, err.endswith(" Replace or remove it.\n")) == (2, True), err
    for suffix in ("jpg", "webp", "tif", "gif", "bmp"):
        (file,) = (photos / "dog").glob(f"*.{suffix}")
        status, out, err = run("match", "M", file, "--threshold", "0.001")
        assert (status, "dog" in out.splitlines()[0]) == (0, True), err


def test_a_flat_folder_is_unlabeled_queries(run, photos, tmp_path):
    status, _, err = run("train", photos, "--out", "M", *TRAIN, "--image-size", "16")
    assert status == 0, err
    assert run("index", "M", photos)[0] == 0
    save(tmp_path / "new" / "a.png")
    save(tmp_path / "new" / "b.jpg")
    status, out, err = run("match", "M", "new", "--threshold", "1")
    assert status == 0, err
    assert "in all: " in out
    assert "named rightly" not in out
    status, _, err = run("train", "new", "--out", "N", *TRAIN)
    assert (
        status,
        "must have at least 2 classes, got 0 (no item has a label). Put the images" in err,
    ) == (2, True), err


def test_columns_of_a_table_are_named_on_the_command_line(run, photos, tmp_path):
    rows = [f"{path},{path.parent.name}" for path in photos.rglob("*.*") if path.suffix != ".txt"]
    rows = [row for row in rows if ".DS_Store" not in row]
    (tmp_path / "t.csv").write_text("photo,species,label\n" + "".join(f"{r},x\n" for r in rows))
    named = ("--path-column", "photo", "--label-column", "species")
    status, out, err = run("train", "t.csv", *named, "--out", "M", "--image-size", "16", *TRAIN)
    assert (status, "of 2 classes" in out) == (0, True), err
    assert out.endswith("next: likewise index M t.csv\n"), "no class has the 20 items"
    status, _, err = run("index", "M", "t.csv", "--per-class", "7")
    assert (status, "--per-class must be at most 6" in err, "with --except" in err) == (
        2,
        True,
        True,
    )
    status, out, err = run("index", "M", "t.csv")  # as the model remembers
    assert (status, "added 12 items" in out) == (0, True), err
    status, _, err = run("index", "M", "t.csv", "--path-column", "picture")
    assert (status, "--path-column must be a column of 't.csv'" in err) == (2, True), err
    status, _, err = run("index", "M", photos, "--text", "photo")
    assert (status, "--text must be left out unless source is a table" in err) == (2, True), err


def test_progress_is_told_in_lines_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("reading") as show:
        for done in range(1, 7):
            show(done * 1000, 6000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "reading: 2,000 of 6,000, about 80 s left",
        "reading: 4,000 of 6,000, about 40 s left",
    ]
    with console.progress("training") as show:
        for done, total in ((0, 9), (9, 9), (1, 5), (2, 5), (3, 5)):  # another stage of other steps
            show(done, total)
    assert capsys.readouterr().err.splitlines() == [
        "training: 1 of 5",
        "training: 3 of 5, about 40 s left",
    ]
    assert [console._duration(s) for s in (99.0, 100.0, 5999.0, 9000.0)] == [
        "99 s",
        "2 min",
        "100 min",
        "2.5 h",
    ]
