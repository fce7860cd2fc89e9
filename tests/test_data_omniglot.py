"""Omniglot by name: zips, unpacked folders or a checked download; and its one-shot runs."""

import functools
import hashlib
import http.server
import io
import os
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likewise.data import downloads, has_splits, items, load
from likewise.data.omniglot import alphabets, one_shot_runs

SHARED = Path(os.environ.get("LIKEWISE_DATA", Path(__file__).parents[2] / "shared" / "data"))
CHARACTERS = {
    "images_background": ["Greek/character01", "Greek/character02", "Zulu/character01"],
    "images_evaluation": ["Avesta/character01", "Avesta/character02"],
}


def ink(seed, side=7):
    return np.random.default_rng(seed).random((side, side)) < 0.3


def png(drawing):
    """As the files have it: one bit, and what is ink is 0."""
    file = io.BytesIO()
    Image.fromarray(~drawing).save(file, "PNG")
    return file.getvalue()


def drawn(part, character, drawer):
    return ink([ord(letter) for letter in f"{part}{character}"] + [drawer])


def omniglot_files():
    """The files of each zip, within it; three drawers of each character, two runs."""
    files = {
        part: {
            f"{part}/{character}/07{i:02d}_{drawer:02d}.png": png(drawn(part, character, drawer))
            for i, character in enumerate(characters)
            for drawer in (1, 2, 3)
        }
        for part, characters in CHARACTERS.items()
    }
    files["images_background"]["__MACOSX/images_background/._x.png"] = b"no image"
    first, second = CHARACTERS["images_evaluation"]
    runs = files["all_runs"] = {}
    for run, (known, asked, order) in {"run01": (1, 2, "21"), "run02": (3, 1, "12")}.items():
        for i, character in enumerate((first, second), start=1):
            part = "images_evaluation"
            runs[f"{run}/training/class0{i}.png"] = png(drawn(part, character, known))
            character = (first, second)[int(order[i - 1]) - 1]
            runs[f"{run}/test/item0{i}.png"] = png(drawn(part, character, asked))
        runs[f"{run}/class_labels.txt"] = "".join(
            f"{run}/test/item0{i}.png {run}/training/class0{answer}.png\n"
            for i, answer in enumerate(order, start=1)
        ).encode()
    return files


def write(folder, files, unpacked=False):
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in files.items():
        if unpacked:
            for name, raw in content.items():
                path = folder / (name if name.startswith(part) else f"{part}/{name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
        else:
            with zipfile.ZipFile(folder / f"{part}.zip", "w") as packed:
                packed.mkdir(f"{'run01' if part == 'all_runs' else part}/")
                for name, raw in reversed(content.items()):  # order in the zip tells nothing
                    packed.writestr(name, raw)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which "omniglot" is looked for."""
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    return tmp_path / "omniglot"


@pytest.mark.parametrize("unpacked", [False, True])
def test_omniglot_is_read_from_a_local_folder(here, unpacked):
    write(here, omniglot_files(), unpacked)
    if unpacked:
        (here / "images_background" / ".DS_Store").write_bytes(b"x")
    train, test, whole = (load("omniglot", split=split) for split in ("train", "test", None))
    assert has_splits("omniglot")
    assert (len(train), len(test), len(whole)) == (9, 6, 15)
    assert train.item_shape == (1, 7, 7)
    names = CHARACTERS["images_background"] + CHARACTERS["images_evaluation"]
    assert train.class_names == test.class_names == names
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # the background set comes first
    assert test.labels.tolist() == [3, 3, 3, 4, 4, 4]
    assert torch.equal(items(whole), torch.cat([items(train), items(test)]))
    for data, part in ((train, "images_background"), (test, "images_evaluation")):
        for i, (item, label) in enumerate(data):
            expected = drawn(part, data.class_names[label], 1 + i % 3)  # by drawer in a character
            assert np.array_equal(item[0], expected.astype(np.float32))  # ink is 1
    codes, of = alphabets(test)
    assert [of[code] for code in codes] == ["Avesta"] * 6
    codes, of = alphabets(train)
    assert [of[code] for code in codes] == ["Greek"] * 6 + ["Zulu"] * 3
    assert of == ["Avesta", "Greek", "Zulu"]


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("image_size", [None, 3, (5, 4)])
def test_the_runs_show_what_the_evaluation_set_shows(here, unpacked, image_size):
    write(here, omniglot_files(), unpacked)
    test = load("omniglot", split="test", image_size=image_size)
    for runs in (
        one_shot_runs(image_size=image_size),
        one_shot_runs(str(here), image_size=image_size),
    ):
        drawings = items(test).unflatten(0, (2, 3))  # characters, drawers
        assert torch.equal(runs.support, torch.stack([drawings[:, 0], drawings[:, 2]]))
        asked = torch.stack([drawings[:, 1].flip(0), drawings[:, 0]])
        assert torch.equal(runs.queries, asked)
        assert runs.answers.tolist() == [[1, 0], [0, 1]]


def test_omniglot_takes_the_options_of_other_sources(here):
    write(here, omniglot_files())
    assert load("omniglot", split="test", image_size=(4, 5), channels=3).item_shape == (3, 4, 5)
    with pytest.raises(ValueError, match="has no part 'val' but only 'train' and 'test'"):
        load("omniglot", split="val")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_omniglot_is_downloaded_once_checked_and_read_as_it_is(tmp_path, monkeypatch):
    folder, cache = write(tmp_path / "served", omniglot_files()), tmp_path / "cache"
    known = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in downloads.SHA256["omniglot"]
    }
    monkeypatch.setitem(downloads.SHA256, "omniglot", known)
    (folder / "one-shot-classification").mkdir()
    (folder / "all_runs.zip").rename(folder / "one-shot-classification" / "all_runs.zip")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            assert downloads.download("omniglot", base_url=url, cache=cache) == cache / "omniglot"
        finally:
            server.shutdown()
            thread.join()
    assert {path.name for path in (cache / "omniglot").iterdir()} == set(known)
    downloads.download("omniglot", base_url="http://127.0.0.1:9/", cache=cache)  # not again
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(downloads, "download", lambda name: cache / name)
    assert len(load("omniglot", split="train")) == 9
    assert one_shot_runs().answers.shape == (2, 2)


def changed(part, name, raw):
    def change(files):
        files[part][name] = raw
        return files

    return change


def without(*parts):
    return lambda files: {part: files[part] for part in files if part not in parts}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without("images_evaluation"), FileNotFoundError, "file of images_evaluation must exist"),
        (
            lambda files: files | {"images_background": {}},
            ValueError,
            "must hold <alphabet>/<character>/<drawing>.png, got no such file. Fetch it again.",
        ),
        (
            changed("images_background", "images_background/Greek/character01/0700_02.png", b"x"),
            ValueError,
            "'Greek/character01/0700_02.png' must be a whole PNG image, got one that cannot be",
        ),
        (
            changed("images_background", "images_background/Zulu/a/1.png", png(ink(0, side=8))),
            ValueError,
            "'Zulu/a/1.png' must have the size of the first drawing, (7, 7), got (8, 8). Fetch",
        ),
    ],
)
def test_drawings_that_are_not_there_or_damaged_are_named(here, change, error, message):
    write(here, change(omniglot_files()))
    with pytest.raises(error, match=re.escape(message)) as info:
        load("omniglot", split="train")
    assert "\n" not in str(info.value)


def test_a_damaged_zip_is_named(here):
    write(here, omniglot_files())
    raw = (here / "images_evaluation.zip").read_bytes()
    (here / "images_evaluation.zip").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"images_evaluation\.zip' must be a whole zip file, got"):
        load("omniglot")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without("all_runs"), FileNotFoundError, "file of all_runs must exist"),
        (lambda files: {"all_runs": {"a": b""}}, ValueError, "class_labels.txt of each run, got n"),
        (
            changed("all_runs", "run02/class_labels.txt", b"run02/test/item01.png elsewhere.png\n"),
            ValueError,
            "lines of 'run02/class_labels.txt' must hold an image of test and one of training, got "
            "'run02/test/item01.png elsewhere.png'.",
        ),
        (
            changed("all_runs", "run02/class_labels.txt", b"run02/test/item01.png\n"),
            ValueError,
            "must hold an image of test and one of training, got 'run02/test/item01.png'",
        ),
        (
            changed("all_runs", "run02/class_labels.txt", b"\xff\xfe r\xe4n"),
            ValueError,
            "'run02/class_labels.txt' must be UTF-8 text, got something else. Fetch all_runs again",
        ),
        (
            changed("all_runs", "run02/training/class03.png", png(ink(0))),
            ValueError,
            "must all be of one size, got several. Fetch all_runs again.",
        ),
    ],
)
def test_runs_that_are_not_there_or_damaged_are_named(here, change, error, message):
    write(here, change(omniglot_files()))
    with pytest.raises(error, match=re.escape(message)):
        one_shot_runs()
    with pytest.raises(FileNotFoundError, match=r"folder must exist, got .*no such"):
        one_shot_runs(here / "no such")


def test_the_published_set_is_as_its_page_says(monkeypatch):
    if not (SHARED / "omniglot").is_dir():
        pytest.skip(f"omniglot is not under LIKEWISE_DATA ({SHARED})")
    monkeypatch.setenv("LIKEWISE_DATA", str(SHARED))
    test, runs = load("omniglot", split="test", image_size=28), one_shot_runs(image_size=28)
    assert (len(test), len(test.class_names)) == (13_180, 1623)
    assert test.labels.bincount().tolist() == [0] * 964 + [20] * 659
    of = alphabets(test)[0]
    assert len(of.unique()) == 20
    assert 0.02 < float(items(test).mean()) < 0.15  # little ink on much ground
    assert runs.support.shape == runs.queries.shape == (20, 20, 1, 28, 28)
    position = {item.numpy().tobytes(): i for i, item in enumerate(items(test))}
    support, queries = (
        torch.tensor([[position[image.numpy().tobytes()] for image in run] for run in side])
        for side in (runs.support, runs.queries)
    )
    answered = support.gather(1, runs.answers)
    assert torch.equal(test.labels[answered], test.labels[queries])
    assert (answered != queries).all()
    assert all(len(of[run].unique()) == 1 for run in support)
    drawers = torch.stack([support, queries]) % 20
    assert (drawers == drawers[:, :, :1]).all()  # one person drew the support, one the queries
    assert (drawers[0] != drawers[1]).all()
