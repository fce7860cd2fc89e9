"""`BatchEmbedder`: the model's embeddings, in any process that it is pickled to."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise._parts import read_plan
from likewise.errors import InputError
from likewise.journeys.embed import embed_parts
from likewise.model import batch_embedder

TEST = lw.data.load("digits", split="test")
PIXELS = (lw.data.items(TEST)[:6, 0].numpy() * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return lw.SimilarityModel(
        lw.encoders.MLPEncoder((1, 8, 8), embedding_dim=16),
        preprocess=lw.data.Preprocess((1, 8, 8), (0.3,), (0.4,)),
    )


@pytest.fixture
def folder(model, tmp_path):
    return model.save(tmp_path / "model")


def content(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_a_batch_keeps_its_other_columns_and_gets_three(model, folder):
    batch = {"item": PIXELS[:, None], "name": np.array([*"abcdef"])}
    found = lw.BatchEmbedder(folder)(batch)
    expected = model.embedded(PIXELS[:, None])
    assert np.array_equal(found["embedding"], expected.embeddings)
    assert np.array_equal(found["fingerprint"], expected.fingerprints)
    assert found["embedding"].dtype == np.float32
    assert found["name"].tolist() == [*"abcdef"]
    assert found["error"].tolist() == [""] * 6
    assert "item" not in found
    assert "item" in batch, "what was given is as it was"


def test_items_of_every_kind_have_the_same_embeddings(model, folder, tmp_path):
    expected = model.embed(PIXELS[:, None]).numpy()
    paths = [str(tmp_path / f"{row}.png") for row in range(6)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    embedder = lw.BatchEmbedder(folder, column="x")
    read_only = PIXELS[:, None].copy()
    read_only.flags.writeable = False
    for items in (
        PIXELS[:, None],
        read_only,
        torch.from_numpy(PIXELS[:, None]),
        PIXELS[:, None].astype(np.float64) / 255,
        objects([*PIXELS]),
        objects([*map(content, PIXELS)]),
        [*map(content, PIXELS)],
        np.array(paths),
        paths,
    ):
        assert np.allclose(embedder(items), expected, atol=1e-5)
        assert np.allclose(embedder({"x": items})["embedding"], expected, atol=1e-5)
    larger = objects([*PIXELS[:2], *(np.kron(each, np.ones((2, 3), np.uint8)) for each in PIXELS)])
    assert embedder(larger).shape == (8, 16)


def test_an_item_that_cannot_be_read_has_its_sentence_and_no_numbers(model, folder):
    items = [*map(content, PIXELS[:3]), b"no image", "none.png"]
    found = lw.BatchEmbedder(folder)({"item": objects(items)})
    assert np.allclose(found["embedding"][:3], model.embed(PIXELS[:3, None]), atol=1e-5)
    assert np.isnan(found["embedding"][3:]).all()
    assert "image" in found["error"][3]
    assert "none.png" in found["error"][4]
    with pytest.raises(InputError, match="image"):
        lw.BatchEmbedder(folder)(objects(items))
    alone = lw.BatchEmbedder(folder)({"item": objects([b"no image"])})
    assert alone["embedding"].shape == (1, 16)
    assert lw.BatchEmbedder(folder)({"item": np.zeros((0, 1, 8, 8))})["embedding"].shape == (0, 16)


def test_an_embedding_that_is_not_finite_is_the_fault_of_its_item_alone(tmp_path):
    model = lw.SimilarityModel(
        lw.encoders.MLPEncoder((2,), embedding_dim=4),
        preprocess=lw.data.Preprocess((2,), (0.0,), (1.0,)),
    )
    embedder = lw.BatchEmbedder(model.save(tmp_path / "model"))
    items = np.array([[1.0, 2.0], [np.inf, 0.0], [3.0, 4.0]])
    found = embedder({"item": items})
    assert [bool(error) for error in found["error"]] == [False, True, False]
    assert np.allclose(found["embedding"][[0, 2]], model.embed(items[[0, 2]]), atol=1e-6)
    with pytest.raises(InputError):
        embedder({"item": np.zeros((3, 5))})


CHILD = """
import pickle, sys
import numpy as np
embedder, batch = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps((embedder(batch), embedder.fingerprint)))
"""


def test_it_is_pickled_into_a_fresh_process_as_a_path_and_answers_the_same(model, folder):
    embedder = lw.BatchEmbedder(folder)
    expected = embedder(PIXELS[:, None])
    text = pickle.dumps((embedder, PIXELS[:, None]))
    assert len(text) < 2000, "the model itself is not pickled"
    ran = subprocess.run([sys.executable, "-c", CHILD], input=text, capture_output=True, check=True)
    found, fingerprint = pickle.loads(ran.stdout)
    assert np.allclose(found, expected, atol=1e-6)
    assert fingerprint == embedder.fingerprint
    embed_parts(model, PIXELS[:, None], folder.parent / "parts")
    plan = read_plan(folder.parent / "parts")
    assert plan.facts["encoder"] == fingerprint


def test_copies_in_one_process_share_one_model_and_another_model_is_refused(folder, monkeypatch):
    monkeypatch.setattr(batch_embedder, "_loaded", {})
    loads = []
    real = batch_embedder.load
    monkeypatch.setattr(batch_embedder, "load", lambda *a, **k: loads.append(a) or real(*a, **k))
    embedder = lw.BatchEmbedder(folder)
    for _ in range(3):
        pickle.loads(pickle.dumps(embedder))(PIXELS[:, None])
    assert len(loads) == 1
    other = lw.BatchEmbedder(folder)
    torch.manual_seed(1)
    lw.SimilarityModel(lw.encoders.MLPEncoder((1, 8, 8))).save(folder)
    monkeypatch.setattr(batch_embedder, "_loaded", {})
    with pytest.raises(lw.ArtifactError, match="must hold the model that it held"):
        other(PIXELS[:, None])


def test_what_cannot_work_ends_in_a_sentence(folder, tmp_path):
    with pytest.raises(lw.ArtifactError, match="folder of a saved model"):
        lw.BatchEmbedder(tmp_path / "none")
    with pytest.raises(InputError, match="batch must have the column 'item', got image"):
        lw.BatchEmbedder(folder)({"image": PIXELS})
    with pytest.raises(InputError, match="items must be arrays, bytes of image files or strings"):
        lw.BatchEmbedder(folder)(objects([5, 6]))
    with pytest.raises(InputError, match="must have shape"):
        lw.BatchEmbedder(folder)(objects([np.zeros(3), np.zeros((1, 8, 8))]))


def test_a_device_that_is_not_there_is_refused_when_called(folder):
    with pytest.raises(InputError, match="device must be cpu, cuda, cuda:N or mps, got 'gpu'"):
        lw.BatchEmbedder(folder, device="gpu")(PIXELS[:, None])


def test_texts_are_a_column_of_strings(tmp_path):
    class Lengths(torch.nn.Module):
        takes_texts = True

        def forward(self, texts):
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    model = lw.SimilarityModel(Lengths())
    embedder = lw.BatchEmbedder(lw.SimilarityModel(None).save(tmp_path / "m"))
    embedder._model = lambda: model  # an encoder of texts of our own would take a tokenizer
    assert embedder(np.array(["a", "bcd"])).tolist() == [[1, 1], [3, 1]]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_of_two_workers_embeds_each_row_once(model, folder, monkeypatch):
    # On loopback alone, and without a word to others or a file in the home folder.
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray", reason="needs Ray: pip install likewise[ray]")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        rows = 40
        items = [{"item": PIXELS[row % 6][None], "row": row} for row in range(rows)]
        data = ray.data.from_items(items, override_num_blocks=4)
        embedded = data.map_batches(
            lw.BatchEmbedder,
            fn_constructor_args=(str(folder),),
            batch_format="numpy",
            batch_size=8,
            concurrency=2,
        )
        found = sorted(embedded.take_all(), key=lambda row: row["row"])
    finally:
        ray.shutdown()
    assert [row["row"] for row in found] == list(range(rows))
    expected = model.embed(PIXELS[np.arange(rows) % 6, None]).numpy()
    assert np.allclose([row["embedding"] for row in found], expected, atol=1e-5)
    assert {row["error"] for row in found} == {""}
