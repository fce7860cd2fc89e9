import functools
import gzip
import http.server
import os
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from likewise import data
from likewise.data import downloads, has_splits, items, items_per_class, load

RNG = np.random.default_rng(0)
SHARED = Path(
    os.environ.get("LIKEWISE_DATA", Path(__file__).parents[2] / "shared" / "data")
).resolve()


def needs(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not under LIKEWISE_DATA ({SHARED})")
    return SHARED / name


def idx_bytes(array, kind=8):
    return (
        bytes([0, 0, kind, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def write_idx(folder, part, images, labels, suffix=""):
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        raw = idx_bytes(array)
        path = folder / f"{part}-{name}-ubyte{suffix}"
        path.write_bytes(gzip.compress(raw) if suffix else raw)


IMAGES = RNG.integers(0, 256, (7, 4, 5), dtype=np.uint8)
LABELS = np.array([3, 9, 3, 5, 5, 9, 3], dtype=np.uint8)


def save_image(path, value=100, size=(4, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# digits


def test_digits_are_all_of_them_in_0_to_1():
    digits = load("digits")
    bundled = load_digits()
    np.testing.assert_allclose(items(digits)[:, 0], bundled.images / 16)
    np.testing.assert_array_equal(digits.labels, bundled.target)
    assert digits.class_names == list("0123456789")


def test_the_parts_of_digits_are_fixed_stratified_and_together_everything():
    train, test = load("digits", split="train"), load("digits", split="test")
    assert sorted([*train.source_indices.tolist(), *test.source_indices.tolist()]) == list(
        range(1797)
    )
    assert torch.equal(train.labels, load("digits", split="train").labels)
    whole = items_per_class(load("digits"))
    for name, count in items_per_class(test).items():
        assert abs(count - whole[name] / 4) < 1


# idx


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files_has_the_parts_it_was_published_with(tmp_path, suffix):
    write_idx(tmp_path, "train", IMAGES[:4], LABELS[:4], suffix)
    write_idx(tmp_path, "t10k", IMAGES[4:], LABELS[4:], suffix)
    whole, train, test = (load(tmp_path, split=split) for split in (None, "train", "test"))
    np.testing.assert_allclose(items(whole)[:, 0], IMAGES / 255, rtol=1e-6)
    assert torch.equal(items(whole), torch.cat([items(train), items(test)]))
    assert whole.class_names == train.class_names == test.class_names == ["3", "5", "9"]
    assert test.labels.tolist() == [1, 2, 0]
    assert has_splits(tmp_path)


def test_plain_files_are_preferred_and_other_numbers_are_read(tmp_path):
    write_idx(tmp_path, "train", IMAGES[:4], LABELS[:4], ".gz")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        idx_bytes((IMAGES[:4] * 100.0).astype(">i2"), kind=11)
    )
    only = load(tmp_path)
    np.testing.assert_allclose(items(only)[:, 0], IMAGES[:4] * 100.0)
    assert not has_splits(tmp_path)
    with pytest.raises(
        ValueError, match=r"split must be left out, .* no part 'test' but only 'train'"
    ):
        load(tmp_path, split="test")


def damage(name, change):
    def apply(folder):
        path = folder / f"train-{name}-ubyte"
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage("images-idx3", lambda b: b[:-3]), r"must have 156 bytes for the shape \(7, 4, 5\)"),
        (
            damage("images-idx3", lambda b: b + b"!"),
            r"must have 156 bytes .* got 157\. The file is",
        ),
        (damage("images-idx3", lambda b: b[:9]), "must have a header of 16 bytes, got 9 in all"),
        (damage("images-idx3", lambda b: b"\x89PNG" + b), "must start with an idx header .*89 50"),
        (damage("images-idx3", lambda b: b"\0\0\7" + b[3:]), "must start with an idx header"),
        (damage("images-idx3", lambda b: b""), r"idx header .* got bytes \(empty file\)"),
        (damage("images-idx3", lambda b: gzip.compress(b)[:-20]), "must be a complete gzip file"),
        (damage("labels-idx1", lambda b: idx_bytes(LABELS[:5])), "one per item, 7, got 5"),
        (lambda f: (f / "train-labels-idx1-ubyte").unlink(), "must hold labels for its train part"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, harm, message):
    write_idx(tmp_path, "train", IMAGES, LABELS)
    assert len(load(tmp_path)) == 7
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as info:
        load(tmp_path)
    assert str(tmp_path) in str(info.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_published_files_are_read_by_name_and_by_path(monkeypatch, name):
    path = needs(name)
    monkeypatch.setenv("LIKEWISE_DATA", str(SHARED))
    assert has_splits(name)
    test = load(name, split="test")
    assert (len(test), test.item_shape) == (10000, (1, 28, 28))
    by_path = load(path, split="test")
    assert by_path.class_names == test.class_names
    assert torch.equal(by_path.labels, test.labels)
    fashion = test.class_names == downloads.FASHION_CLASSES
    assert fashion if name == "fashion-mnist" else test.class_names == list("0123456789")
    assert load(name, split="test", image_size=7, channels=3).item_shape == (3, 7, 7)


# downloads


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder, and the address on loopback where it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_named_data_set_is_downloaded_once_and_checked(monkeypatch, tmp_path, served):
    source, (folder, url), cache = needs("mnist"), served, tmp_path / "cache"
    for file in downloads.SHA256["mnist"]:
        (folder / file).write_bytes((source / file).read_bytes())
    assert downloads.download("mnist", base_url=url, cache=cache) == cache / "mnist"
    assert {path.name for path in (cache / "mnist").iterdir()} == set(downloads.SHA256["mnist"])
    for file in folder.iterdir():
        file.unlink()
    downloads.download("mnist", base_url=url, cache=cache)  # nothing is fetched again

    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(downloads, "download", lambda name: cache / name)
    assert len(load("mnist", split="test")) == 10000


def test_a_file_of_another_hash_is_refused_and_not_kept(tmp_path, served):
    folder, url = served
    for file in downloads.SHA256["mnist"]:
        (folder / file).write_bytes(b"not what was asked for")
    message = r"train-images-idx3-ubyte\.gz must have the sha256 440fcabf73cc\.\.\., got a file"
    with pytest.raises(ValueError, match=message) as info:
        downloads.download("mnist", base_url=url, cache=tmp_path / "cache")
    assert "\n" not in str(info.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_failing_download_says_what_to_do(tmp_path, served):
    _, url = served
    with pytest.raises(
        ConnectionError, match=r"HTTPError\. Check the connection, or put the files"
    ):
        downloads.download("fashion-mnist", base_url=url, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


# class folders


def test_a_folder_of_class_folders(tmp_path):
    for i, name in enumerate(["s10", "s2", "s2", "s10"]):
        save_image(tmp_path / name / f"{'ba'[i % 2]}{i}.png", 50 * i)
    write(tmp_path / "README", "beside the classes")
    save_image(tmp_path / ".hidden" / "a.png")
    write(tmp_path / "s2" / ".DS_Store", "x")
    write(tmp_path / "s2" / "Thumbs.db", "x")
    folder = load(tmp_path)
    assert folder.class_names == ["s2", "s10"]
    assert [Path(path).name for path in folder.paths] == ["a1.png", "b2.png", "a3.png", "b0.png"]
    assert folder.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(items(folder).mean((1, 2, 3)) * 255, [50, 100, 150, 0], atol=1e-3)
    assert not has_splits(tmp_path)
    assert load(str(tmp_path), image_size=(2, 3), channels=3).item_shape == (3, 2, 3)
    with pytest.raises(
        ValueError, match=r"split must be left out, .* no part 'test' and no parts at"
    ):
        load(tmp_path, split="test")


def test_train_and_test_may_lie_above_the_classes(tmp_path):
    for name in ("train/b/1", "train/c/2", "test/a/3", "test/b/4"):
        save_image(tmp_path / f"{name}.png")
    train, test, whole = (load(tmp_path, split=split) for split in ("train", "test", None))
    assert train.class_names == test.class_names == whole.class_names == ["a", "b", "c"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 2], [0, 1])
    assert whole.labels.tolist() == [1, 2, 0, 1]
    assert has_splits(tmp_path)


@pytest.mark.parametrize(
    ("folders", "test"),
    [
        (("train", "val", "test"), "test"),
        (("Train", "Validation", "Test"), "test"),
        (("train", "valid"), "val"),
        (("train", "validation"), "val"),
    ],
)
def test_the_usual_names_of_parts_mean_the_same(tmp_path, folders, test):
    for value, folder in enumerate(folders):
        for name in "ab":
            save_image(tmp_path / folder / name / "0.png", 50 * value)
    value_of = {word: 50 * value for value, word in enumerate(("train", "val", "test"))}
    for split in ("train", "val", "valid", "validation", "test"):
        part = load(tmp_path, split=split)
        shade = value_of[{"test": test}.get(split, split if split == "train" else "val")]
        np.testing.assert_allclose(items(part).mean((1, 2, 3)) * 255, [shade, shade], atol=1e-3)
    assert has_splits(tmp_path)
    assert len(load(tmp_path)) == 2 * len(folders)


def test_a_part_alone_is_one(tmp_path):
    save_image(tmp_path / "val" / "a" / "0.png")
    assert load(tmp_path, split="validation").class_names == load(tmp_path).class_names == ["a"]
    assert not has_splits(tmp_path)
    with pytest.raises(ValueError, match="no part 'test' but only 'val'"):
        load(tmp_path, split="test")


def test_train_and_test_may_be_classes(tmp_path):
    save_image(tmp_path / "train" / "1.png")
    save_image(tmp_path / "test" / "1.png")
    assert load(tmp_path).class_names == ["test", "train"]


def test_folders_within_classes_are_classes_named_by_their_path(tmp_path):
    names = ["dog/big/2.png", "cat/1.png", "dog/small/4.png", "dog/3.png", "dev/cat/5.png"]
    for name in names:
        save_image(tmp_path / name)
    write(tmp_path / "dog" / "notes.txt", "passed over")
    folder = load(tmp_path)
    assert folder.class_names == ["cat", "dev/cat", "dog", "dog/big", "dog/small"]
    found = {Path(path).relative_to(tmp_path).as_posix() for path in folder.paths}
    assert found == set(names)
    label_of = dict(zip(map(Path, folder.paths), folder.labels.tolist(), strict=True))
    assert {path.parent.relative_to(tmp_path).as_posix() for path in label_of} == set(
        folder.class_names
    )
    assert folder.class_names[label_of[tmp_path / "dog" / "big" / "2.png"]] == "dog/big"


def test_images_without_a_folder_of_their_own_are_unlabeled(tmp_path):
    for name in ("b.png", "a.png"):
        save_image(tmp_path / name)
    flat = load(tmp_path)
    assert (flat.labels.tolist(), flat.class_names) == ([-1, -1], [])
    assert [Path(path).name for path in flat.paths] == ["a.png", "b.png"]
    save_image(tmp_path / "cat" / "c.png")
    assert sorted(load(tmp_path).labels.tolist()) == [-1, -1, 0]
    listed = load([str(tmp_path / "b.png"), tmp_path / "a.png"], image_size=2, channels=3)
    assert (listed.item_shape, listed.labels.tolist()) == ((3, 2, 2), [-1, -1])
    labeled = load(([tmp_path / "b.png", tmp_path / "a.png"], ["y", "x"]))
    assert labeled.class_names == ["x", "y"]
    assert load(tmp_path / "b.png").paths == [str(tmp_path / "b.png")]
    table = write(tmp_path / "list.csv", "path,who\nb.png,x\na.png,y\n")
    assert load(table).labels.tolist() == [-1, -1]
    with pytest.raises(ValueError, match="the list of files has no part 'test'"):
        load([tmp_path / "b.png"], split="test")


def test_a_test_part_may_be_unlabeled(tmp_path):
    save_image(tmp_path / "train" / "cat" / "a.png")
    save_image(tmp_path / "test" / "b.png")
    assert load(tmp_path, split="train").labels.tolist() == [0]
    test = load(tmp_path, split="test")
    assert (test.labels.tolist(), test.class_names) == ([-1], ["cat"])
    assert has_splits(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f: None,
            "must hold images, idx files or one folder .* per class, got an empty fol",
        ),
        (lambda f: write(f / "a.txt", ""), r"per class, got only files such as 'a\.txt'"),
        (lambda f: (f / "cat").mkdir(), r"cat' must hold an image, got an empty folder"),
        (lambda f: (f / "cat" / "big").mkdir(parents=True), r"big' must hold an image, got an emp"),
        (
            lambda f: write(mkdir(f / "cat") / "a.txt", ""),
            r"an image, got only files such as 'a\.t",
        ),
        (
            lambda f: [save_image(f / part / "cat" / "a.png") for part in ("val", "valid")],
            "no folder beside train, val and test, each once, got 'val.*' beside 'val",
        ),
        (
            lambda f: [save_image(f / part / "cat" / "a.png") for part in ("train", "dev")],
            "no folder beside train, val and test, each once, got 'dev' beside 'train'",
        ),
        (
            lambda f: [save_image(f / "cat" / "a.png"), (f / "cat" / "up").symlink_to(f)],
            "cat' must not lie in itself, got the link 'up'. Remove it",
        ),
        (
            lambda f: os.mkfifo(mkdir(f / "cat") / "a.png"),
            "hold image files only, got 'a.png', which is no regular file. Remove it",
        ),
        (
            lambda f: (mkdir(f / "cat") / "a.png").symlink_to(f / "gone.png"),
            "hold image files only, got 'a.png', which is no regular file. Remove it",
        ),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def mkdir(path):
    path.mkdir()
    return path


# CSV


def test_a_csv_of_square_bytes_holds_images(tmp_path):
    pixels = RNG.integers(0, 256, (5, 9))
    rows = "\n".join(
        f"{'cat' if i % 2 else 'dog'},{','.join(map(str, row))}" for i, row in enumerate(pixels)
    )
    header = "label," + ",".join(f"pixel{i}" for i in range(9))
    for text in (
        rows,
        f"\ufeff{rows}",
        f"{header}\n{rows}\n",
        f"\ufeff{header}\r\n\r\n{rows}".replace("\n", "\r\n"),
    ):
        table = load(write(tmp_path / "a.csv", text))
        assert table.class_names == ["cat", "dog"]
        assert table.labels.tolist() == [1, 0, 1, 0, 1]
        assert table.item_shape == (1, 3, 3)
        np.testing.assert_allclose(items(table).flatten(1), pixels / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("a,0,1,1,0\nb,0,0,0,1", (1, 2, 2), [[0, 1, 1, 0], [0, 0, 0, 1]]),
        ("a,0,.5,1,0\nb,0,0,0,1", (1, 2, 2), [[0, 0.5, 1, 0], [0, 0, 0, 1]]),
        ("a,5.1,3.5,1.4,0.2\nb,1,0,0,1", (4,), [[5.1, 3.5, 1.4, 0.2], [1, 0, 0, 1]]),
        ("a,-1,3,1,256\nb,1,0,0,1", (4,), [[-1, 3, 1, 256], [1, 0, 0, 1]]),
        ("a,200,3\nb,1,0", (2,), [[200, 3], [1, 0]]),
        ('"a, or b","2","3"\nb, 1 ,0', (2,), [[2, 3], [1, 0]]),
        ("a,7\nb,1e2", (1,), [[7], [100]]),
        ("y,0,1\na,200,3\nb,1,0", (2,), [[200, 3], [1, 0]]),
    ],
)
def test_the_rule_by_which_numbers_are_pixels(tmp_path, text, shape, expected):
    table = load(write(tmp_path / "a.csv", text))
    assert table.item_shape == shape
    np.testing.assert_allclose(items(table).flatten(1), expected, rtol=1e-6)
    assert len(table.class_names) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,2\nb,3\n", r"row 2 of '.*' must have 3 columns as the first row has, got 2\. Corr"),
        ("label,x,y\na,1,2\n\nb,3,4,5\n", "row 4 of .* must have 3 columns .* got 4"),
        ("a,1,2\nb\n", "row 2 of .* must have 3 columns .* got 1"),
        ("a,1,2\nb,3,four\n", r"column 3 of row 2 of '.*' must be a finite number, got 'four'\."),
        ("a,1,2\nb,,4\n", "column 2 of row 2 of .* must be a finite number, got ''"),
        ("a,1,nan\nb,3,4\n", "column 3 of row 1 of .* got 'nan'"),
        ("a,nan,nan\nb,3,4\n", "column 2 of row 1 of .* got 'nan'"),
        ("a,1,2\nb,3,1e99\n", "column 3 of row 2 of .* got '1e99'"),
        ("a,1,2\nb,3,1_0\n", "column 3 of row 2 of .* got '1_0'"),
        ("a,1,2\n,3,4\n", "row 2 of .* must start with a label, got an empty cell"),
        ("a,1,2\n" * 3000 + "b,3\n", "row 3001 of .* must have 3 columns .* got 2"),
        ("", "must have rows of a label and numbers, got none"),
        ("label,x\n", "must have rows of a label and numbers, got none"),
        ("a,1\nb,2\n\udcff", "must be a table in UTF-8 text, got something else"),
    ],
)
def test_a_faulty_row_of_a_csv_is_named(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as info:
        load(path)
    assert "\n" not in str(info.value)


def test_reading_a_csv_takes_little_more_memory_than_its_bytes(tmp_path):
    rows = [f"{i % 10}," + ",".join(["17"] * 784) for i in range(8000)]
    path = write(tmp_path / "a.csv", "\n".join(rows))
    tracemalloc.start()
    table = load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.item_shape == (1, 28, 28)
    assert peak < 8 * 8000 * 784  # as float64 the table alone takes as much


def test_a_csv_has_no_parts(tmp_path):
    path = write(tmp_path / "a.csv", "a,1,2\nb,3,4")
    assert not has_splits(path)
    with pytest.raises(ValueError, match="no part 'train' and no parts at all"):
        load(path, split="train")


def test_a_table_of_paths_is_relative_to_itself(tmp_path):
    for i, name in enumerate(["a", "b", "sub/c"]):
        save_image(tmp_path / "in" / f"{name}.png", 80 * i)
    text = "Label, path ,who,split\ncat,b.png,x,train\n\ndog,sub/c.png,y,test\ncat,a.png,z,train\n"
    path = write(tmp_path / "in" / "list.csv", text)
    whole, train, test = (load(path, split=split) for split in (None, "train", "test"))
    assert whole.class_names == test.class_names == ["cat", "dog"]
    np.testing.assert_allclose(items(whole).mean((1, 2, 3)) * 255, [80, 160, 0], atol=1e-3)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0], [1])
    assert has_splits(path)
    plain = write(tmp_path / "in" / "plain.csv", "path,label\na.png,7\n")
    assert not has_splits(plain)
    with pytest.raises(ValueError, match="no part 'test' and no parts at all"):
        load(plain, split="test")


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ("cat,a.png", ValueError, "row 2 of .* must have 3 columns as the header has, got 2"),
        ("cat,b.png,train", FileNotFoundError, r"row 2 of .* must name a file that exists, got 'b"),
        ("cat,a.txt,train", ValueError, r"row 2 of .* must name a PNG, JPEG, .* got 'a\.txt'"),
        (" ,a.png,train", ValueError, "row 2 of .* must have a label, got none"),
        ("cat,a.png,dev", ValueError, "row 2 of .* have the split train, val or test, got 'dev'"),
        ("cat,.,train", ValueError, r"row 2 of .* must name a regular file, got '\.'"),
        ("cat,\0,train", FileNotFoundError, "row 2 of .* must name a file that exists"),
        ("", ValueError, "must have a row after its header, got none"),
    ],
)
def test_a_faulty_row_of_a_table_of_paths_is_named(tmp_path, row, error, message):
    save_image(tmp_path / "a.png")
    write(tmp_path / "a.txt", "text")
    path = write(tmp_path / "list.csv", f"label,path,split\n{row}\n")
    with pytest.raises(error, match=message):
        load(path)


# npz


def test_an_npz_of_x_and_y(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=LABELS)
    whole = load(tmp_path / "a.npz")
    np.testing.assert_allclose(items(whole)[:, 0], IMAGES / 255, rtol=1e-6)
    assert whole.class_names == ["3", "5", "9"]
    assert not has_splits(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no part 'test' and no parts at all"):
        load(tmp_path / "a.npz", split="test")


def test_an_npz_may_have_a_test_part(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=IMAGES[:4], y=list("abca"), x_test=IMAGES[4:], y_test=list("dca"))
    whole, train, test = (load(path, split=split) for split in (None, "train", "test"))
    assert torch.equal(items(whole), torch.cat([items(train), items(test)]))
    assert whole.class_names == train.class_names == test.class_names == list("abcd")
    assert test.labels.tolist() == [3, 2, 0]
    assert has_splits(path)
    assert load(path, image_size=2).item_shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"y": LABELS}, ValueError, r"a\.npz' must hold the arrays x and y, got y\. Save with"),
        (
            {"x": IMAGES, "y": np.array([{}] * 7)},
            ValueError,
            "got a damaged or a pickled one; pickles are",
        ),
        (
            {"x": IMAGES, "y": LABELS[:3]},
            ValueError,
            r"a\.npz': labels must be one per item, 7, got 3",
        ),
        ({"x": IMAGES, "y": LABELS / 2}, TypeError, r"a\.npz': labels must be strings or integers"),
        (
            {"x": IMAGES / np.float64("nan"), "y": LABELS},
            ValueError,
            "items must be finite, got NaN",
        ),
        (
            {"x": IMAGES, "y": LABELS, "x_test": IMAGES[:, 1:], "y_test": LABELS},
            ValueError,
            r"same shape in both parts, got \(1, 4, 5\) and \(1, 3, 5\)",
        ),
    ],
)
def test_a_bad_npz_is_refused(tmp_path, arrays, error, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=message):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:50], lambda b: b"", lambda b: b"text", lambda b: b[:-30]]
)
def test_a_damaged_npz_is_refused(tmp_path, damage):
    path = tmp_path / "a.npz"
    np.savez(path, x=IMAGES, y=LABELS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.npz' must be a whole \.npz file") as info:
        load(path)
    assert "\n" not in str(info.value)


def test_a_single_array_is_no_npz(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(ValueError, match=r"a\.npz' must be a whole \.npz file"):
        load(tmp_path / "a.npz")


# pairs of arrays, and what is none of these


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_pair_of_arrays(kind):
    pair = load((kind(IMAGES), LABELS.tolist()))
    assert pair.labels.tolist() == [0, 2, 0, 1, 1, 2, 0]
    np.testing.assert_allclose(items(pair)[:, 0], IMAGES / 255, rtol=1e-6)
    assert not has_splits((IMAGES, LABELS))


@pytest.mark.parametrize(
    ("source", "arguments", "error", "message"),
    [
        (
            "mnits",
            {},
            FileNotFoundError,
            "source must be one of digits, mnist, fashion-mnist, .*, or a p",
        ),
        ("no/where.csv", {}, FileNotFoundError, r"or a path that exists, got 'no/where\.csv'"),
        (__file__, {}, ValueError, r"source must be a folder, an image or a \.csv"),
        (7, {}, TypeError, "source must be a name, a path, a table, .* got int"),
        (IMAGES, {}, TypeError, "source must be a name, .* got ndarray"),
        (
            "digits",
            {"split": "dev"},
            ValueError,
            "one of gallery, query, test, train, val, got 'dev'",
        ),
        ("digits", {"split": "val"}, ValueError, "no part 'val' but only 'train' and 'test'"),
        ("digits", {"label": "y"}, ValueError, "label must be left out unless source is a table"),
        ((IMAGES, LABELS), {"path_column": "y"}, ValueError, "must be left out unless source is"),
        ((IMAGES, LABELS), {"split": "test"}, ValueError, "split must be left out, as the pair of"),
        ((IMAGES, LABELS[:3]), {}, ValueError, "labels must be one per item, 7, got 3"),
        (
            (IMAGES.reshape(7, -1), LABELS),
            {"image_size": 4},
            ValueError,
            "image_size and channels m",
        ),
        ("digits", {"channels": 2}, ValueError, r"channels must be 1 \(gray\) or 3"),
    ],
)
def test_bad_arguments_are_named(source, arguments, error, message):
    with pytest.raises(error, match=message) as info:
        load(source, **arguments)
    assert "\n" not in str(info.value)
    assert data.load is load
