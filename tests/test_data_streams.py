import io
import itertools
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

import likewise as lw
from likewise import data, losses
from likewise.data import BalancedStream, Stream, TarShards, as_dataset
from likewise.errors import InputError, InputTypeError


class Points(IterableDataset):
    """Points of classes, never all in memory; counts how often it is begun."""

    def __init__(self, count=100, classes=5, text=False):
        self.count, self.classes, self.text = count, classes, text
        self.begun = []

    def set_epoch(self, epoch):
        self.begun.append(epoch)

    def __iter__(self):
        for i in range(self.count):
            label = i % self.classes
            item = f"text {i}" if self.text else torch.tensor([float(label), float(i)])
            yield item, label


class Given(IterableDataset):
    def __init__(self, *samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


def test_a_stream_gives_items_and_the_names_of_their_labels():
    gray = Image.fromarray(np.full((4, 6), 51, np.uint8))
    for sample, expected in (
        ((torch.ones(2), 3), ([1.0, 1.0], "3")),
        ((np.ones(2), np.int64(3)), ([1.0, 1.0], "3")),
        (([1, 1], "cat"), ([1.0, 1.0], "cat")),
        ((torch.ones(2), -1), ([1.0, 1.0], None)),
        (torch.ones(2), ([1.0, 1.0], None)),
        ({"embedding": [1, 1], "label": 2, "more": None}, ([1.0, 1.0], "2")),
        ({"text": "hello", "class": "x"}, ("hello", "x")),
        ({"text": "hello"}, ("hello", None)),
    ):
        ((item, label),) = Stream(Given(sample))
        assert (item if isinstance(item, str) else item.tolist(), label) == expected
    ((item, label),) = Stream(Given({"q": "hello", "k": "x"}), item="q", label="k")
    assert (item, label) == ("hello", "x")
    ((item, _),) = Stream(Given((gray, 0)), image_size=2, channels=3)
    torch.testing.assert_close(item, torch.full((3, 2, 2), 0.2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Stream(7), InputTypeError, "source must be an iterable of items, got int"),
        (lambda: Stream(i for i in [1]), InputTypeError, "gone through again, got generator. Put"),
        (lambda: list(Stream(Given(("a", 1.5)))), InputTypeError, "labels .* integers, got float"),
        (lambda: list(Stream(Given((None, 1)))), ValueError, "items of the stream must be"),
        (
            lambda: list(Stream(Given({"x": 1}))),
            InputError,
            r"item must be a key .* \(x\), got none",
        ),
        (lambda: list(Stream(Given({"text": "a"}), label="k")), InputError, "label must be a key"),
        (
            lambda: list(Stream(Given((torch.ones(2), 0), (torch.ones(3), 0)))),
            InputError,
            r"shape of the first, \(2,\), got \(3,\) for item 1",
        ),
        (lambda: as_dataset(Given()), InputError, "got an empty stream"),
        (lambda: BalancedStream(Stream(Points()), batches=1, buffer=1), InputError, "buffer must"),
        (
            lambda: next(iter(BalancedStream(Stream(Points(classes=1)), batches=1))),
            InputError,
            "data must mix classes, got a stream of which 100 items in a row hold 1 with 2",
        ),
        (
            lambda: next(iter(BalancedStream(Stream(Given(torch.ones(2))), batches=1))),
            InputError,
            "labeled items in every pass, got a stream with none in pass 1",
        ),
    ],
)
def test_what_is_no_stream_is_refused(make, error, message):
    with pytest.raises(error, match=message) as info:
        make()
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("buffer", [20, 1000])
def test_batches_of_a_stream_are_balanced(buffer):
    source = Points(count=97, classes=5)
    stream = BalancedStream(
        Stream(source), classes_per_batch=3, items_per_class=2, batches=60, buffer=buffer, seed=1
    )
    seen = set()
    for items, labels in stream:
        assert torch.unique(labels, return_counts=True)[1].tolist() == [2, 2, 2]
        names = [int(stream.class_names[code]) for code in labels.tolist()]
        assert items[:, 0].tolist() == names
        if len(source.begun) < 2:
            assert len(set(items[:, 1].tolist())) == 6  # no item twice
        seen |= set(items[:, 1].tolist())
        assert sum(map(len, stream._held.values())) <= buffer
    assert len(seen) > 90
    assert sorted(stream.class_names) == ["0", "1", "2", "3", "4"]
    assert source.begun == ([0] if buffer == 1000 else list(range(len(source.begun))))
    assert (len(source.begun) > 1) == (buffer == 20)  # what fits is read once


def test_a_stream_is_drawn_alike_by_the_same_seed():
    def drawn(seed):
        stream = BalancedStream(Stream(Points()), batches=3, buffer=30, seed=seed)
        return torch.cat([items for items, _ in stream])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("given", ["iterable", "stream", "balanced"])
def test_fit_trains_on_a_stream(given):
    points = Points(count=300)
    source = {
        "iterable": points,
        "stream": Stream(points),
        "balanced": BalancedStream(Stream(points), batches=5, buffer=50),
    }[given]
    asked = {} if given == "balanced" else {"batches": 5}
    encoder = torch.nn.Linear(2, 3)
    history = lw.fit(encoder, losses.TripletLoss(), source, epochs=2, device="cpu", **asked)
    assert [record["classes_seen"] for record in history.records] == [5, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 2}, "workers must be left out for a stream, got 2"),
        ({"checkpoint": "c"}, "checkpoint must be left out for a stream, got 'c'"),
    ],
)
def test_what_a_stream_cannot_have_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        lw.fit(torch.nn.Linear(2, 3), losses.TripletLoss(), Points(), epochs=1, **arguments)
    stream = BalancedStream(Stream(Points()), batches=2)
    with pytest.raises(InputError, match="must be left out for a BalancedStream"):
        lw.fit(torch.nn.Linear(2, 3), losses.TripletLoss(), stream, epochs=1, batches=2)


def test_every_verb_takes_streams_and_loaders(monkeypatch):
    whole = as_dataset(Points(count=30))
    assert (len(whole), whole.class_names) == (30, ["0", "1", "2", "3", "4"])
    loader = DataLoader(torch.utils.data.TensorDataset(torch.rand(8, 2), torch.arange(8) % 2))
    assert as_dataset(loader).labels.tolist() == [0, 1] * 4
    with pytest.raises(InputTypeError, match="got a DataLoader with a collate_fn of its own"):
        as_dataset(DataLoader(loader.dataset, collate_fn=lambda batch: batch))
    encoder = torch.nn.Linear(2, 3)
    torch.testing.assert_close(
        lw.encode(encoder, Points(count=30), batch_size=7), lw.encode(encoder, whole)
    )
    model = lw.SimilarityModel(encoder)
    assert len(model.add(Points(count=20))) == 20
    assert len(model.add(loader)) == 8
    model.calibrate(Points(count=40), rule="pairs")
    assert lw.SimilarityModel(encoder).evaluate(Points(count=60)).items == 60
    monkeypatch.setenv("LIKEWISE_MAX_KEPT", "100")
    with pytest.raises(InputError, match="data must fit into memory here, 100 bytes, got a stream"):
        as_dataset(Points())


def test_train_takes_data_of_others():
    points = torch.utils.data.TensorDataset(torch.rand(40, 5), torch.arange(40) % 4)
    model = lw.train(points, lw.Recipe(epochs=1, batches=1))
    assert model.trained_on == ["0", "1", "2", "3"]


class Columns:
    """As a dataset of Hugging Face, in so far as it is asked: rows are dicts, columns lists."""

    def __init__(self, rows, names):
        self.rows = rows
        self.column_names = list(rows[0])
        self.features = dict.fromkeys(rows[0])
        if names:
            self.features["label"] = type("ClassLabel", (), {"names": names})()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        return self.rows[key]


def test_columns_of_a_hugging_face_dataset():
    rows = [{"id": i, "text": f"text {i}", "label": i % 2} for i in range(6)]
    found = as_dataset(Columns(rows, ["no", "yes"]))
    assert (found.class_names, found.labels.tolist()) == (["no", "yes"], [0, 1] * 3)
    assert data.items(found, [3, 0]) == ["text 3", "text 0"]
    images = [{"image": Image.new("L", (4, 3), i), "label": i} for i in range(3)]
    assert as_dataset(Columns(images, None)).item_shape == (1, 3, 4)
    with pytest.raises(InputTypeError, match=r"must have a column image, img, text, .* got id"):
        as_dataset(Columns([{"id": 1}], None))


def test_datasets_of_hugging_face_themselves():
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    rows = {"text": [f"text {i}" for i in range(12)], "label": [i % 3 for i in range(12)]}
    whole = datasets.Dataset.from_dict(rows).cast_column(
        "label", datasets.ClassLabel(names=["a", "b", "c"])
    )
    found = as_dataset(whole)
    assert (found.class_names, found[4]) == (["a", "b", "c"], ("text 4", 1))
    streamed = Stream(whole.to_iterable_dataset())
    assert list(itertools.islice(streamed, 2)) == [("text 0", "a"), ("text 1", "b")]


# tar shards


def shard(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def png(value, size=(4, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def test_shards_are_read_sample_by_sample(tmp_path):
    bomb = pickle.dumps(print)
    shard(tmp_path / "t-00.tar", {"a.png": png(255), "a.cls": b"1", "a.pkl": bomb, "a.pth": bomb})
    shard(
        tmp_path / "t-01.tar",
        {
            "in/b.npy": npy(np.ones(3)),
            "in/b.json": json.dumps({"label": "dog"}).encode(),
            "c.txt": b"a text",
            "c.cls": b"cat\n",
            "d.png": png(0),
            "d.txt": b"bird",
            "e.pkl": bomb,
            "noname": b"",
        },
    )
    found = list(TarShards(str(tmp_path / "t-{00..01}.tar")))
    assert [label for _, label in found] == [1, "dog", "cat", "bird"]
    assert found[0][0].size == (4, 4)
    assert found[1][0].tolist() == [1, 1, 1]
    assert found[2][0] == "a text"
    one = shard(tmp_path / "one.tar", {f"{i}.png": png(i) for i in range(3)})
    whole = data.load(one, image_size=2)
    assert (whole.item_shape, whole.labels.tolist()) == ((3, 2, 2), [-1] * 3)
    many = {}
    for i in range(8):
        many |= {f"{i}.png": png(30 * i), f"{i}.cls": b"%d" % (i % 2)}
    shards = TarShards([shard(tmp_path / "m.tar", many)])
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    history = lw.fit(encoder, losses.TripletLoss(), shards, epochs=1, batches=2, device="cpu")
    assert history.records[0]["classes_seen"] == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.npy": npy(np.array([{}]))},
            r"x\.tar/a\.npy' must be a whole plain .* pickled",
        ),
        ({"a.npy": b"\x93NUMPY"}, r"a\.npy' must be a whole plain array"),
        ({"a.png": b"hello"}, r"x\.tar/a\.png' must be a whole PNG"),
        ({"a.png": png(0), "a.json": b"{"}, r"a\.json' must be JSON"),
        ({"a.png": png(0), "a.cls": b"\xff"}, r"a\.cls' must be text in UTF-8"),
    ],
)
def test_a_damaged_file_in_a_shard_is_named(tmp_path, files, message):
    with pytest.raises(InputError, match=message) as info:
        list(TarShards(shard(tmp_path / "x.tar", files)))
    assert "\n" not in str(info.value)


def test_a_damaged_shard_is_named(tmp_path):
    whole = shard(tmp_path / "x.tar", {"a.png": png(0), "a.cls": b"1"}).read_bytes()
    for content in (b"", b"no tar at all" * 100, whole[:700]):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(InputError, match=r"must be a whole tar file|must hold at least one"):
            data.load(tmp_path / "x.tar")
    for shards, message in (
        (tmp_path / "no.tar", r"shards must name tar files that exist"),
        (str(tmp_path / "a-{5..1}.tar"), "from a smaller to a larger number, got '{5..1}'"),
        ([], "at least one tar file"),
    ):
        with pytest.raises((InputError, FileNotFoundError), match=message):
            TarShards(shards)
