"""Training on what can only be gone through: `lw.train` and `likewise train` with a buffer."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

import likewise as lw
from likewise import data
from likewise.data.streams import Stream, open_stream
from likewise.errors import InputError
from likewise.journeys.choosing import stream_for_training


class Points(IterableDataset):
    def __iter__(self):
        rng = np.random.default_rng(0)
        for i in range(400):
            yield torch.from_numpy(rng.normal(size=4) + i % 5).float(), f"c{i % 5}"


def shards(folder, count=2, per_shard=40):
    rng = np.random.default_rng(0)
    for number in range(count):
        with tarfile.open(folder / f"t-{number:02d}.tar", "w") as tar:
            for i in range(per_shard):
                buffer = io.BytesIO()
                pixels = rng.integers(0, 60, (20, 20, 3)) + 40 * (i % 4)
                Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
                for name, content in (
                    (f"{i}.png", buffer.getvalue()),
                    (f"{i}.cls", b"%d" % (i % 4)),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"{folder}/t-{{00..{count - 1:02d}}}.tar"


def saved(folder, features, rows, parts=None):
    """As `save_to_disk` of Hugging Face datasets writes it."""
    pa = pytest.importorskip("pyarrow")
    for part in parts or [None]:
        place = folder if part is None else folder / part
        place.mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as file:
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table, max_chunksize=7)
        (place / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
        )
        (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    if parts:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": parts}))
    return folder


LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}
VECTORS = {"embedding": {"feature": {"dtype": "float32"}, "_type": "Sequence"}, "label": LABEL}


def rows_of(count):
    rng = np.random.default_rng(1)
    return [
        {"embedding": (rng.normal(size=3) + i % 2).tolist(), "label": i % 2} for i in range(count)
    ]


def test_a_stream_makes_a_model_that_knows_what_it_was_trained_on():
    recipe = lw.Recipe(epochs=2, batches=3, keep_aside=0.2, hold_out_classes=["c4"])
    told = []
    model = lw.train(Points(), recipe, buffer=60, device="cpu", tell=told.append)
    assert sorted(model.trained_on) == ["c0", "c1", "c2", "c3"]
    assert [record["classes_seen"] for record in model.origin["history"]] == [4, 4]
    whole = data.as_dataset(Points())
    held_out = torch.tensor([whole.class_names[code] == "c4" for code in whole.labels.tolist()])
    assert bool(model.is_new(whole)[held_out].all())
    # Those of the buffer are known, and a fifth of what went by is not.
    share = float(model.is_new(data.as_dataset(list_of(Points(), 60)))[:].double().mean())
    assert told == [f"{model.origin['items']} items of 4 classes were seen"]
    assert 0.2 < share < 0.6
    model.calibrate(whole, rule="pairs")


def list_of(stream, count):
    pairs = [pair for pair, _ in zip(stream, range(count), strict=False)]
    return torch.stack([item for item, _ in pairs]), [label for _, label in pairs]


def test_the_same_seed_trains_the_same_model():
    recipe = lw.Recipe(epochs=1, batches=2)
    a, b = (lw.train(Points(), recipe, buffer=50, device="cpu") for _ in range(2))
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"pairs": True}, "pairs must be left out for a stream, as pairs are drawn from all"),
        ({"made_classes": "both"}, "made_classes must be left out for a stream"),
        ({"hold_out_classes": 0.5}, "hold_out_classes must be names for a stream"),
        ({"loss": "softmax"}, "loss must not need the number of classes for a stream"),
        ({"keep_best": "seen_map_at_r"}, "keep_best must be the loss for a stream"),
        ({"encoder": "timm:resnet18"}, "train must be last or all for a stream, got none"),
    ],
)
def test_what_needs_all_items_at_once_is_refused(choices, message):
    with pytest.raises(InputError, match=message):
        lw.train(Points(), lw.Recipe(**choices), buffer=50)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evaluate": "aside"}, "evaluate must be left out for a stream, got 'aside'. Leave it or"),
        ({"workers": 1}, "workers must be left out for a stream, got 1"),
        ({"checkpoint": "kept"}, "checkpoint must be left out for a stream, got 'kept'"),
        ({"buffer": 1}, "buffer must be"),
    ],
)
def test_arguments_that_need_all_items_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        lw.train(Points(), lw.Recipe(epochs=1), **{"buffer": 50, **given})


def test_shards_train_from_the_command_line(run, tmp_path):
    source = shards(tmp_path)
    train = ["train", source, "--buffer", 30, "--epochs", 1, "--batches", 2, "--device", "cpu"]
    status, out, err = run(*train, "--hold-out-classes", "3", "--out", tmp_path / "M", "--json")
    assert status == 0, err
    told = json.loads(out)
    assert sorted(told["trained_on"]) == ["0", "1", "2"]
    assert told["history"][0]["classes_seen"] == 3
    assert "items of 3 classes were seen" in err
    model = lw.load(tmp_path / "M")
    assert model.preprocess.item_shape == (3, 20, 20)
    status, _, err = run("index", tmp_path / "M", source)
    assert status == 0, err
    for more, message in (
        (["--resume"], "--resume must be left out for a stream"),
        (["--workers", 2], "--workers must be left out for a stream, got 2"),
        (["--evaluate", "digits"], "--evaluate must be left out for a stream"),
    ):
        status, _, err = run(*train, "--out", tmp_path / "N", *more)
        assert (status, message in err) == (2, True), err
    status, _, err = run("train", "digits", "--buffer", 30, "--out", tmp_path / "N")
    assert status == 2
    assert "DATA must be .tar shards, or a folder that save_to_disk" in err
    assert err.strip().endswith("Leave --buffer out.")


def test_images_of_several_sizes_ask_for_one(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(4, 4 + i % 2) for i in range(16)]
    images = [
        (Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)), i // 2 % 2)
        for i, shape in enumerate(shapes)
    ]

    class Given(IterableDataset):
        def __iter__(self):
            return iter(images)

    with pytest.raises(InputError, match=r"shape of the first.* Give image_size= to resize"):
        lw.train(Given(), lw.Recipe(epochs=1), buffer=50)
    model = lw.train(
        Stream(Given(), image_size=8),
        lw.Recipe(epochs=1, batches=1, keep_aside=0.0),
        buffer=50,
    )
    assert (model.preprocess.item_shape, model.preprocess.framing.size) == ((1, 8, 8), (8, 8))


def test_a_saved_dataset_is_read_and_streamed(run, tmp_path):
    folder = saved(tmp_path / "D", VECTORS, rows_of(30), ["train", "validation"])
    whole = data.load(folder)
    assert (len(whole), whole.class_names, whole.item_shape) == (60, ["cat", "dog"], (3,))
    part = data.load(folder, split="val")
    assert len(part) == 30
    assert data.has_splits(folder)
    expected = torch.tensor([row["embedding"] for row in rows_of(30)])
    torch.testing.assert_close(data.items(part), expected)
    assert [part.class_names[code] for code in part.labels.tolist()] == ["cat", "dog"] * 15
    assert len(list(open_stream(folder))) == 30, "training reads the part to train on"
    status, out, err = run(
        *("train", folder, "--buffer", 20, "--epochs", 1, "--batches", 1, "--keep-aside", 0),
        *("--out", tmp_path / "M", "--json"),
    )
    assert status == 0, err
    assert sorted(json.loads(out)["trained_on"]) == ["cat", "dog"]
    status, _, err = run("evaluate", tmp_path / "M", folder, "--split", "val")
    assert status == 0, err


def test_a_saved_dataset_of_images_and_texts(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(buffer, "PNG")
    images = [{"image": {"bytes": buffer.getvalue(), "path": None}, "label": 1}] * 3
    features = {"image": {"_type": "Image"}, "label": LABEL}
    found = data.load(saved(tmp_path / "I", features, images))
    assert (found.item_shape, found.class_names) == ((3, 4, 5), ["dog"])
    texts = [{"q": f"text {i}", "intent": "ab"[i % 2]} for i in range(4)]
    folder = saved(tmp_path / "T", {"q": {"dtype": "string"}, "intent": {}}, texts)
    found = data.load(folder, text="q", label="intent")
    assert (data.items(found, [1]), found.class_names) == (["text 1"], ["a", "b"])
    images[0]["image"] = {"bytes": None, "path": "/etc/passwd"}
    with pytest.raises(InputError, match="must hold the bytes of its images, got the path"):
        data.load(saved(tmp_path / "P", features, images))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", "[]"),
        ("state.json", '{"_data_files": [{}]}'),
        ("dataset_info.json", "{"),
        ("dataset_info.json", "{}"),
        ("data-00000-of-00001.arrow", "no arrow"),
    ],
)
def test_a_damaged_saved_dataset_is_named(tmp_path, name, content):
    folder = saved(tmp_path / "D", VECTORS, rows_of(4))
    (folder / name).write_text(content)
    with pytest.raises(InputError, match="must be what save_to_disk wrote, got something damaged"):
        data.load(folder)


def test_a_saved_dataset_reads_no_file_outside_of_it(tmp_path):
    outside = saved(tmp_path / "O", VECTORS, rows_of(4))
    folder = saved(tmp_path / "D", VECTORS, rows_of(4))
    (folder / "data-00000-of-00001.arrow").unlink()
    place = str(outside / "data-00000-of-00001.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": place}]}))
    with pytest.raises(InputError, match="something damaged"):
        data.load(folder)


def test_a_stream_keeps_its_own_arguments():
    stream = Stream(Points())
    assert open_stream(stream) is stream
    recipe = lw.Recipe(encoder="timm:resnet18", train="all")
    assert stream_for_training(stream, recipe) is stream, "whatever size that encoder has"
    with pytest.raises(InputError, match="source must be no Stream with split, item"):
        open_stream(stream, image_size=4)
