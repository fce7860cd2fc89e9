"""Imagenette and LFW by name: a folder that is there, or a checked archive."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from likewise.data import downloads, has_splits, lfw_pairs, load

SETS = {
    "imagenette": "imagenette2",
    "imagenette-320": "imagenette2-320",
    "imagenette-160": "imagenette2-160",
}
WORDNET = list(downloads.IMAGENETTE_CLASSES)


def picture(shade=100, kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, shade, shade)).save(file, kind)
    return file.getvalue()


def imagenette_files():
    files = {"noisy_imagenette.csv": b"path,noisy_labels_0\n", "train/.DS_Store": b"x"}
    for i, name in enumerate(WORDNET):
        files[f"train/{name}/{name}_{i}.JPEG"] = files[f"train/{name}/{name}_x.JPEG"] = picture()
        files[f"val/{name}/ILSVRC2012_val_{i}.JPEG"] = picture(10 * i)
    return files


def lfw_files():
    return {f"{who}/{who}_{i:04d}.jpg": picture() for who in ("A_B", "C_D") for i in (1, 2)}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def archive(path, files, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path


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
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def hashes(monkeypatch):
    """What makes the hashes of a data set those of the files given."""

    def publish(name, files):
        found = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in files}
        monkeypatch.setitem(downloads.SHA256, name, found)

    return publish


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("unpacked_here", [False, True])
def test_imagenette_is_read_from_a_local_folder(tmp_path, monkeypatch, name, unpacked_here):
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    write(tmp_path / name / (SETS[name] if unpacked_here else ""), imagenette_files())
    assert has_splits(name)
    whole, train, test = (
        load(name, split=split, image_size=4) for split in (None, "train", "test")
    )
    assert (len(whole), len(train), len(test)) == (30, 20, 10)
    assert test.class_names == train.class_names == list(downloads.IMAGENETTE_CLASSES.values())
    assert test.labels.tolist() == list(range(10))
    assert test.item_shape == (3, 4, 4)
    assert [round(float(item.mean() * 255)) for item, _ in (test[3], test[9])] == [30, 90]
    by_path = load(tmp_path / name / (SETS[name] if unpacked_here else ""), split="test")
    assert by_path.class_names == test.class_names


CIFAR = {
    "cifar-10": ("cifar-10-batches-bin", "batches.meta.txt", 1),
    "cifar-100": ("cifar-100-binary", "fine_label_names.txt", 2),
}


def cifar_files(name):
    """Six records for each file, with every byte of the pixels known."""
    _, names, labels = CIFAR[name]
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = {names: b"cat\ndog\nowl\n\n", "readme.html": b"x"}
    if name == "cifar-100":
        batches = ["train.bin", "test.bin"]
        files["coarse_label_names.txt"] = b"\n".join(b"c%d" % code for code in range(20))
    rng = np.random.default_rng(0)
    for number, file in enumerate(batches):
        records = rng.integers(0, 256, (6, labels + 3072), dtype=np.uint8)
        records[:, :labels] = 19
        records[:, labels - 1] = (np.arange(6) + number) % 3
        files[file] = records.tobytes()
    return files


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("is_unpacked", [False, True])
def test_cifar_is_read_record_by_record(tmp_path, monkeypatch, name, is_unpacked):
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    inside, _, labels = CIFAR[name]
    files = cifar_files(name)
    write(tmp_path / name / (inside if is_unpacked else ""), files)
    assert has_splits(name)
    train, test, whole = (load(name, split=split) for split in ("train", "test", None))
    batches = [file for file in files if file.endswith(".bin")]
    assert (len(train), len(test)) == (6 * len(batches) - 6, 6)
    assert len(whole) == 6 * len(batches)
    assert train.class_names == ["cat", "dog", "owl"]
    for dataset, part in ((train, batches[:-1]), (test, batches[-1:])):
        content = b"".join(files[file] for file in part)
        length = labels + 3072
        for row in range(len(dataset)):
            image, code = dataset[row]
            record = content[row * length : (row + 1) * length]
            assert code == record[labels - 1]
            expected = torch.tensor(list(record[labels:])).view(3, 32, 32) / 255
            torch.testing.assert_close(image, expected)
    assert load(tmp_path / name / (inside if is_unpacked else ""), image_size=8)[0][0].shape == (
        3,
        8,
        8,
    )


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_downloaded_once_checked_and_unpacked(tmp_path, monkeypatch, served, hashes, name):
    folder, url = served
    inside = CIFAR[name][0]
    file = f"{name}-binary.tar.gz"
    files = {f"{inside}/{path}": content for path, content in cifar_files(name).items()}
    archive(folder / file, files)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"must have the sha256 .* got a file with another one"):
        downloads.download(name, base_url=url, cache=cache)
    hashes(name, [(file, folder / file)])
    assert downloads.download(name, base_url=url, cache=cache) == cache / name
    assert [path.name for path in (cache / name).iterdir()] == [inside]
    (folder / file).unlink()
    downloads.download(name, base_url=url, cache=cache)  # nothing is fetched again
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(downloads, "download", lambda name: cache / name)
    assert len(load(name, split="test")) == 6


@pytest.mark.parametrize("name", CIFAR)
def test_damaged_cifar_is_refused_and_pickles_are_never_opened(tmp_path, name):
    _, names, labels = CIFAR[name]
    files = cifar_files(name)
    last = list(files)[-1]
    for number, (wrong, message) in enumerate(
        [
            ({last: files[last][:-1]}, rf"records of {labels + 3072:,} bytes, got"),
            ({last: b""}, r"got 0 bytes\. The file is damaged"),
            ({names: b"cat\ndog\n"}, "must hold labels below 2, as .* got 2"),
        ]
    ):
        write(tmp_path / str(number), files | wrong)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / str(number), split="test")
    only_names = tmp_path / "names"
    write(only_names, {names: files[names]})
    with pytest.raises(ValueError, match=r"must hold the \.bin files of CIFAR, got none"):
        load(only_names)
    pickled = ("batches.meta", "data_batch_1") if labels == 1 else ("meta", "train", "test")
    write(tmp_path / "py", dict.fromkeys(pickled, b"cos\nsystem\n(S'touch struck'\ntR."))
    with pytest.raises(ValueError, match="source must hold the binary version of CIFAR, got the p"):
        load(tmp_path / "py")


def test_a_missing_batch_of_cifar_is_named(tmp_path):
    files = cifar_files("cifar-10")
    del files["data_batch_3.bin"]
    write(tmp_path, files)
    assert len(load(tmp_path, split="test")) == 6
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        load(tmp_path, split="train")


def test_other_classes_keep_the_names_of_their_folders(tmp_path):
    files = {f"{part}/{WORDNET[0]}/{part}.JPEG": picture() for part in ("train", "val")}
    write(tmp_path, files | {"train/cat/c.JPEG": picture()})
    assert load(tmp_path).class_names == ["cat", WORDNET[0]]
    assert has_splits(tmp_path)
    assert len(load(tmp_path, split="test")) == 1
    write(tmp_path, {"test/cat/c.JPEG": picture()})
    assert load(tmp_path, split="test").labels.tolist() == [0]  # val is test where there is none
    assert load(tmp_path, split="val").labels.tolist() == [1]
    assert len(load(tmp_path)) == 4


@pytest.mark.parametrize("inside", ["", "lfw_funneled"])
def test_lfw_is_read_from_a_local_folder(tmp_path, monkeypatch, inside):
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    write(tmp_path / "lfw" / inside, lfw_files())
    write(tmp_path / "lfw", {"pairs.txt": b"2\t1\n"})
    faces = load("lfw", channels=1)
    assert faces.class_names == ["A_B", "C_D"]
    assert (len(faces), faces.item_shape, has_splits("lfw")) == (4, (1, 5, 6), False)
    with pytest.raises(ValueError, match="split must be left out"):
        load("lfw", split="test")


@pytest.mark.parametrize("name", SETS)
def test_imagenette_is_downloaded_once_checked_and_unpacked(
    tmp_path, monkeypatch, served, hashes, name
):
    folder, url = served
    file = f"{SETS[name]}.tgz"
    files = {f"{SETS[name]}/{path}": content for path, content in imagenette_files().items()}
    hashes(name, [(file, archive(folder / file, files))])
    cache = tmp_path / "cache"
    assert downloads.download(name, base_url=url, cache=cache) == cache / name
    assert [path.name for path in (cache / name).iterdir()] == [SETS[name]]
    (folder / file).unlink()
    downloads.download(name, base_url=url, cache=cache)  # nothing is fetched again
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(downloads, "download", lambda name: cache / name)
    assert len(load(name, split="train")) == 20


def test_lfw_is_downloaded_with_its_pairs(tmp_path, monkeypatch, served, hashes):
    folder, url = served
    text = b"1\nA_B\t1\t2\nA_B\t1\tC_D\t2\n"
    numbers = {file: downloads._PLACES[file] for file in downloads.SHA256["lfw"]}
    for file in ("pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt"):
        (folder / numbers[file]).write_bytes(text)
    files = {f"lfw_funneled/{path}": content for path, content in lfw_files().items()}
    archive(folder / numbers["lfw-funneled.tgz"], files)
    hashes("lfw", [(file, folder / number) for file, number in numbers.items()])
    cache = tmp_path / "cache"
    downloads.download("lfw", base_url=url, cache=cache)
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(downloads, "download", lambda name: cache / name)
    assert len(load("lfw")) == 4
    assert lfw_pairs("lfw", "dev_test").same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lfw",
            r"5976012, got ConnectionError\. Check the connection, or put a folder per person, pai",
        ),
        (
            "imagenette-160",
            r"2-160\.tgz, got ConnectionError\. .* or put its train/ and val/ into \$LIK",
        ),
    ],
)
def test_a_failing_download_says_what_to_fetch_and_where_to_put_it(tmp_path, name, message):
    with pytest.raises(ConnectionError, match=message) as info:
        downloads.download(name, base_url="http://127.0.0.1:9/", cache=tmp_path / "cache")
    assert str(info.value).endswith(f"into $LIKEWISE_DATA/{name}.")
    assert "\n" not in str(info.value)


def test_an_archive_of_another_hash_is_refused_and_not_unpacked(tmp_path, served):
    folder, url = served
    archive(folder / "imagenette2-160.tgz", {"imagenette2-160/train/a.txt": b"x"})
    with pytest.raises(ValueError, match=r"must have the sha256 64d0c4859f35\.\.\., got a file"):
        downloads.download("imagenette-160", base_url=url, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["../out.txt", "in/../../out.txt", "/tmp/likewise-out.txt"])
def test_an_archive_that_leads_elsewhere_is_refused_whole(tmp_path, name):
    path = archive(tmp_path / "to" / "a.tgz", {"in/good.txt": b"good", name: b"bad"})
    with pytest.raises(ValueError, match="must hold paths within it, got") as info:
        downloads.unpack(path, tmp_path / "to", "in")
    assert repr(name) in str(info.value)
    assert [found.name for found in tmp_path.rglob("*")] == ["to", "a.tgz"]


def test_links_and_other_folders_of_an_archive_are_left_out(tmp_path):
    link = tarfile.TarInfo("in/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("in/hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "in/good.txt"
    pipe = tarfile.TarInfo("in/pipe")
    pipe.type = tarfile.FIFOTYPE
    files = {"in/good.txt": b"good", "in/deep/er.txt": b"deeper", "elsewhere/b.txt": b"no"}
    path = archive(tmp_path / "a.tgz", files, extra=[link, hard, pipe])
    downloads.unpack(path, tmp_path, "in")
    found = {str(file.relative_to(tmp_path / "in")) for file in (tmp_path / "in").rglob("*")}
    assert found == {"good.txt", "deep", "deep/er.txt"}
    assert (tmp_path / "in" / "deep" / "er.txt").read_bytes() == b"deeper"
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ValueError, match="must hold the folder 'other', got an archive without"):
        downloads.unpack(path, tmp_path, "other")


def test_the_archives_of_benchmarks_are_checked_unpacked_and_read(
    served, hashes, tmp_path, monkeypatch
):
    folder, base_url = served
    lists = b"image_id class_id super_class_id path\n1 1 1 bicycle_final/a.JPG\n"
    with zipfile.ZipFile(folder / "Stanford_Online_Products.zip", "w") as packed:
        packed.mkdir("Stanford_Online_Products")
        for name, content in (
            ("Ebay_train.txt", lists),
            ("Ebay_test.txt", lists),
            ("bicycle_final/a.JPG", picture()),
        ):
            packed.writestr(f"Stanford_Online_Products/{name}", content)
        packed.writestr("__MACOSX/._Ebay_test.txt", "x")
        link = zipfile.ZipInfo("Stanford_Online_Products/link.JPG")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    birds = {
        "images.txt": b"1 001.Auk/a.jpg\n2 101.Owl/b.jpg\n",
        "image_class_labels.txt": b"1 1\n2 101\n",
        "images/001.Auk/a.jpg": picture(),
        "images/101.Owl/b.jpg": picture(),
    }
    files = {f"CUB_200_2011/{name}": content for name, content in birds.items()}
    archive(folder / "CUB_200_2011.tgz", {**files, "attributes.txt": b"x"})
    for name, file, class_names in (
        ("stanford-online-products", "Stanford_Online_Products.zip", ["bicycle/1"]),
        ("cub-200-2011", "CUB_200_2011.tgz", ["001.Auk", "101.Owl"]),
    ):
        assert list(downloads.SHA256[name]) == [file]
        hashes(name, [(file, folder / file)])
        made = downloads.download(name, base_url=base_url, cache=tmp_path / "cache")
        assert [path.name for path in made.iterdir()] == [file.partition(".")[0]]
        assert not list(made.rglob("link*"))
        monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "cache"))
        data = load(name, split="test")
        assert (len(data), data.class_names) == (1, class_names)
    hashes("cub-200-2011", [("CUB_200_2011.tgz", folder / "Stanford_Online_Products.zip")])
    with pytest.raises(ValueError, match="which was not kept"):
        downloads.download("cub-200-2011", base_url=base_url, cache=tmp_path / "again")


def test_a_zip_with_a_path_out_of_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("in/../../evil.txt", "x")
    with pytest.raises(ValueError, match=r"must hold paths within it, got 'in/\.\./\.\./evil.txt'"):
        downloads.unpack(tmp_path / "a.zip", tmp_path / "to", "in")
