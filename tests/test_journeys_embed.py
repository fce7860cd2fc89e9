"""Embeddings in parts: the same as those of the model, and what takes them."""

import json
import os
import signal

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.errors import InputError
from likewise.index import WrittenMetadata, read_parquet
from likewise.journeys import in_parts
from likewise.journeys.embed import add_parts, embed_parts, embedded_parts, parts_into_gallery
from likewise.journeys.opening import open_fitting, open_items

DIGITS = lw.data.load("digits", split="train")
TEST = lw.data.load("digits", split="test")
PREPROCESS = lw.data.Preprocess(DIGITS.item_shape, (0.3,), (0.4,))


def made(seed=0, **options):
    torch.manual_seed(seed)
    return lw.SimilarityModel(
        lw.encoders.MLPEncoder(DIGITS.item_shape), **{"preprocess": PREPROCESS, **options}
    )


MODEL = made()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The test part of digits, over three shards."""
    folder = tmp_path_factory.mktemp("parts")
    for shard in range(3):
        embed_parts(MODEL, TEST, folder, shard=shard, shards=3, part_rows=64, place="digits")
    return folder


def read(folder):
    return parquet.read_table(folder).to_pylist()


def test_rows_hold_what_the_model_makes_of_each_item(parts):
    expected, rows = MODEL.embedded(TEST), read(parts)
    assert [row["id"] for row in rows] == [row["row"] for row in rows] == list(range(len(TEST)))
    assert torch.equal(torch.tensor([row["embedding"] for row in rows]), expected.embeddings)
    assert [row["fingerprint"] for row in rows] == expected.fingerprints.tolist()
    assert [row["label"] for row in rows] == TEST.labels.tolist()
    assert [row["class"] for row in rows] == [TEST.class_names[code] for code in TEST.labels]
    first = {"source": "digits", "fingerprint": rows[0]["fingerprint"]}
    assert json.loads(rows[0]["metadata"]) == first


def test_they_come_back_as_if_just_embedded(parts):
    expected, found = MODEL.embedded(TEST), embedded_parts(parts, MODEL)
    for name in ("embeddings", "labels", "fingerprints"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.class_names == expected.class_names
    assert found.skipped == 0


def test_a_single_part_is_a_table_of_items_too(parts):
    (file,) = parts.glob("part-00000001-*")
    columns = read_parquet(file)
    assert columns.ids.tolist() == list(range(64, 128))
    assert torch.equal(columns.embeddings, MODEL.embedded(TEST).embeddings[64:128])


def test_another_encoder_another_preprocessing_or_another_side_is_refused(parts):
    for other in (made(1), made(preprocess=lw.data.Preprocess(DIGITS.item_shape, (0.3,), (0.5,)))):
        with pytest.raises(InputError, match="must be of the encoder and the preprocessing"):
            embedded_parts(parts, other)
    towers = made(query_encoder=made(1).encoder, query_preprocess=PREPROCESS)
    assert len(embedded_parts(parts, towers)) == len(TEST)
    with pytest.raises(InputError, match="must be of the encoder"):
        embedded_parts(parts, towers, queries=True)


def test_parts_of_queries_are_those_of_the_other_tower(tmp_path):
    towers = made(query_encoder=made(1).encoder, query_preprocess=PREPROCESS)
    embed_parts(towers, TEST, tmp_path, queries=True)
    found = embedded_parts(tmp_path, towers, queries=True)
    assert torch.equal(found.embeddings, made(1).embed(TEST))


@pytest.fixture
def table(tmp_path):
    """A table of images with ids and labels, of which two cannot be read."""
    lines = ["path,label,key"]
    for row in range(9):
        pixels = (TEST[row][0][0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{'ab'[row % 2]},k{row}")
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "7.png").unlink()
    (tmp_path / "items.csv").write_text("\n".join(lines))
    return tmp_path / "items.csv"


def opened(table):
    return lw.data.load(table, id="key", image_size=(8, 8), channels=1, unchecked=True)


def test_failures_are_rows_and_stay_out_of_galleries_and_evaluations(table, tmp_path):
    done = embed_parts(MODEL, opened(table), tmp_path / "p", part_rows=2)
    rows = read(tmp_path / "p")
    assert [row["id"] for row in rows] == [f"k{row}" for row in range(9)]
    assert [row["row"] for row in rows if row["error"] is not None] == [4, 7]
    assert [row["row"] for row in rows if row["embedding"] is None] == [4, 7]
    assert [row["class"] for row in rows] == [*"ababababa"]
    assert json.loads(rows[0]["metadata"])["path"] == str(tmp_path / "0.png")
    told = [json.loads(row["metadata"]).get("fingerprint") for row in rows]
    assert told == [row["fingerprint"] for row in rows]
    assert told.count(None) == 2
    assert (done.rows, done.failed) == (9, 2)
    with pytest.warns(UserWarning, match="2 of 9 items could not be read"):
        found = embedded_parts(tmp_path / "p", MODEL)
    assert (len(found), found.skipped) == (7, 0)
    assert lw.data.ids_of(found) == ["k0", "k1", "k2", "k3", "k5", "k6", "k8"]
    told = parts_into_gallery(tmp_path / "p", tmp_path / "g")
    assert told == {"imported": 7, "items": 7}
    with lw.Gallery(tmp_path / "g") as gallery:
        assert gallery.encoder == MODEL.fingerprint
        assert gallery.ids.tolist() == ["k0", "k1", "k2", "k3", "k5", "k6", "k8"]
        assert gallery.metadata(["k8"])[0]["path"] == str(tmp_path / "8.png")
        assert gallery.class_names == ["a", "b"]
        assert gallery.labels.tolist() == [0, 1, 0, 1, 1, 0, 0]
        prints, there, _ = gallery.fingerprints()
        assert there.all()
        assert torch.equal(prints, found.fingerprints)


def test_an_import_that_was_interrupted_is_completed_by_replace(parts, tmp_path):
    def stop(done, total):
        if done > 200:
            raise KeyboardInterrupt

    with lw.Gallery(tmp_path, encoder=MODEL.fingerprint) as gallery:
        with pytest.raises(KeyboardInterrupt):
            add_parts(gallery, parts, progress=stop)
        assert 0 < len(gallery) < len(TEST)
        with pytest.raises(InputError, match="already in the index"):
            add_parts(gallery, parts)
        assert add_parts(gallery, parts, replace=True) == len(TEST)
        assert sorted(gallery.ids.tolist()) == list(range(len(TEST)))


def test_classes_meet_by_name(parts):
    for names, labels in (
        (["9", "x"], [0, 1]),
        ([*"9876543210"], [0, 9]),
        ([*"0123456789x"], [9, 10]),
    ):
        index = lw.Index(class_names=names)
        index.add(torch.ones(len(labels), 64), labels=labels, ids=[1000 + row for row in labels])
        add_parts(index, parts)
        given = [index.class_names[code] for code in index.labels[len(labels) :]]
        assert given == [TEST.class_names[code] for code in TEST.labels]
        assert [index.class_names[code] for code in index.labels[: len(labels)]] == [
            names[code] for code in labels
        ]


def test_a_gallery_of_another_encoder_or_distance_refuses_parts(parts, tmp_path):
    with lw.Gallery(tmp_path / "a", encoder="other") as gallery:
        with pytest.raises(InputError, match="must be of the encoder of the gallery, 'other'"):
            add_parts(gallery, parts)
    with pytest.raises(InputError, match="must be of the distance of the gallery, 'euclidean'"):
        add_parts(lw.Index(lw.distances.EUCLIDEAN), parts)
    with lw.Gallery(tmp_path / "b") as untold:
        untold.add(torch.eye(64)[:1])
        with pytest.raises(InputError, match="must be of the encoder of the gallery, None"):
            add_parts(untold, parts)


def test_a_damaged_part_is_refused_in_a_sentence(parts, tmp_path):
    for file in parts.iterdir():
        content = bytearray(file.read_bytes())
        if file.name.startswith("part-00000003"):
            content[len(content) // 2] ^= 1
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(InputError, match="must have the bytes that were written"):
        embedded_parts(tmp_path, MODEL)
    index = lw.Index()
    with pytest.raises(InputError, match="must have the bytes that were written"):
        add_parts(index, tmp_path)


def test_shards_killed_again_and_again_hold_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(in_parts, "fitting_batch", lambda *_: 8)
    items = lw.data.Subset(TEST, range(100))
    kills = 0
    for shard in (0, 1):
        while True:
            child = os.fork()
            if not child:  # pragma: no cover
                torch.set_num_threads(1)
                calls = iter(range(2 + kills % 3))

                def progress(done, total, calls=calls):
                    if next(calls, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)

                embed_parts(
                    MODEL,
                    items,
                    tmp_path / "p",
                    shard=shard,
                    shards=2,
                    part_rows=13,
                    resume=True,
                    progress=progress,
                )
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if status == 0:
                break
            assert status == signal.SIGKILL
            kills += 1
    assert kills > 3
    found = embedded_parts(tmp_path / "p", MODEL)
    assert torch.equal(found.fingerprints, lw.data.fingerprints(items))
    assert [row["row"] for row in read(tmp_path / "p")] == list(range(100))


def test_parts_are_data_of_vectors_and_for_their_model_embedded_items(parts):
    vectors = lw.data.load(parts)
    assert torch.equal(lw.data.items(vectors), MODEL.embedded(TEST).embeddings)
    assert vectors.class_names == TEST.class_names
    assert lw.data.ids_of(vectors)[:3] == [0, 1, 2]
    assert lw.data.has_splits(parts) is False
    with pytest.raises(InputError, match="has no part 'test'"):
        lw.data.load(parts, split="test")
    with pytest.raises(InputError, match="must be left out unless items are gray or color"):
        lw.data.load(parts, image_size=8)
    with pytest.raises(InputError, match="label must be left out"):
        lw.data.load(parts, label="label")
    plain = lw.SimilarityModel(None)
    assert torch.equal(
        plain.embed(open_items(plain, parts, default_split="test")),
        MODEL.embedded(TEST).embeddings,
    )
    with pytest.raises(InputError, match="must be items that are yet to be embedded"):
        open_fitting(MODEL, parts, default_split="test")
    with pytest.raises(InputError, match="split must be left out for parts"):
        open_items(MODEL, parts, "test", default_split="test")
    with pytest.raises(InputError, match="label must be left out for parts"):
        open_items(MODEL, parts, default_split="test", reading=lw.data.Reading(label="label"))


def test_evaluation_and_calibration_of_parts_are_those_of_the_items(tmp_path):
    model = made()
    model.add(lw.data.sample_items(DIGITS, per_class=5))
    items = lw.data.Subset(TEST, range(60))
    embed_parts(model, items, tmp_path / "parts", part_rows=25)
    found = open_items(model, tmp_path / "parts", default_split="test", queries=True)
    for rule in ("nearest", "pairs"):
        assert model.calibrate(found, rule=rule) == model.calibrate(items, rule=rule)
    by_parts, by_items = model.evaluate(found).to_dict(), model.evaluate(items).to_dict()
    for name in ("items", "left_out", "matching", "verification", "retrieval"):
        assert by_parts[name] == by_items[name]
    assert by_parts["matching"] is not None
    assert torch.equal(model.match(found).labels, model.match(items).labels)


def test_texts_and_what_they_were_are_kept(tmp_path):
    class Lengths(torch.nn.Module):
        takes_texts = True

        def forward(self, texts):
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    model = lw.SimilarityModel(Lengths())
    embed_parts(model, ["a", "b\ud800", "ccc"], tmp_path / "p", part_rows=2)
    rows = read(tmp_path / "p")
    assert [row["embedding"] for row in rows] == [[1, 1], [2, 1], [3, 1]]
    assert [json.loads(row["metadata"])["text"] for row in rows] == ["a", "b\ud800", "ccc"]
    assert [row["label"] for row in rows] == [-1] * 3
    assert [row["class"] for row in rows] == [None] * 3


def test_ids_that_come_twice_and_an_empty_shard(tmp_path):
    data = lw.data.load((torch.eye(3), ["a", "b", "b"]))
    data.ids = [5, 7, 5]
    with pytest.raises(InputError, match="ids all differ"):
        embed_parts(lw.SimilarityModel(None), data, tmp_path / "a")
    data.ids = [5, 7, 9]
    done = [
        embed_parts(lw.SimilarityModel(None), data, tmp_path / "b", shard=shard, shards=2)
        for shard in (1, 0)
    ]
    assert [each.rows for each in done] == [0, 3]
    assert [row["id"] for row in read(tmp_path / "b")] == [5, 7, 9]


def test_nothing_that_could_be_read_is_refused_as_such(tmp_path):
    model = made()
    embed_parts(model, ["none.png"], tmp_path / "p")
    with pytest.raises(InputError, match="must hold an item that could be read"):
        embedded_parts(tmp_path / "p", model)
    assert add_parts(lw.Index(), tmp_path / "p") == 0


def test_written_metadata_is_stored_as_it_is_and_one_per_item():
    index = lw.Index()
    index.add(torch.eye(2), metadata=WrittenMetadata(['{"a": 1}', '{"b": 2}'], np.array([5, -6])))
    assert index.metadata([0, 1]) == [{"a": 1}, {"b": 2}]
    assert index.fingerprints()[0].tolist() == [5, -6]
    with pytest.raises(InputError, match="metadata must hold one entry per item"):
        index.add(torch.eye(2), metadata=WrittenMetadata(["{}"], np.array([5])))
