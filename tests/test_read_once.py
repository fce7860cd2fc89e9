"""A command reads and encodes each item once, counted where files are decoded."""

import errno
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.data import images

CLASSES, EACH = 4, 24


def photos(folder, seed):
    """A folder of photo-like JPEG files, a color for each class."""
    rng = np.random.default_rng(seed)
    colors = np.random.default_rng(0).integers(40, 215, (CLASSES, 3))
    for code, color in enumerate(colors):
        (folder / f"class {code}").mkdir(parents=True)
        for row in range(EACH):
            pixels = color + rng.normal(0, 25, (24, 20, 3))
            path = folder / f"class {code}" / f"{row}.jpg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """How many times each file was decoded."""
    counts = Counter()
    really = images._open

    def counted(path, *arguments):
        counts[str(path)] += 1
        return really(path, *arguments)

    monkeypatch.setattr(images, "_open", counted)
    return counts


@pytest.fixture
def encoded(monkeypatch):
    """How many items each call of the encoder had."""
    counts = []
    really = lw.encoders.ConvEncoder.features_of

    def counted(encoder, items):
        counts.append(len(items))
        return really(encoder, items)

    monkeypatch.setattr(lw.encoders.ConvEncoder, "features_of", counted)
    return counts


@pytest.fixture
def journey(run, tmp_path, decoded):
    """Runs a command that must end well; the numbers of times that files were decoded."""

    def journey(*arguments):
        decoded.clear()
        status, _, said = run(*arguments, "--device", "cpu")
        assert status == 0, said
        return dict(decoded)

    return journey


def test_a_command_decodes_each_file_once(journey, tmp_path, monkeypatch):
    known, others = photos(tmp_path / "known", 1), photos(tmp_path / "others", 2)
    model = tmp_path / "model"
    quick = ("--epochs", 1, "--batches", 2, "--keep-aside", 0.5, "--image-size", 16)
    read = journey("train", known, "--out", model, *quick)
    assert 0 < len(read) <= CLASSES * EACH
    assert set(read.values()) == {1}
    # From here on nothing that was decoded is kept for a second look.
    monkeypatch.setenv("LIKEWISE_MAX_KEPT", "0")
    read = journey("index", model, others, "--per-class", 5)
    assert sorted(read.values()) == [1] * 5 * CLASSES
    read = journey("calibrate", model, known)
    assert sorted(read.values()) == [1] * EACH * CLASSES
    assert set(lw.load(model).calibrations) == {"nearest", "pairs"}
    read = journey("evaluate", model, others)
    assert sorted(read.values()) == [1] * EACH * CLASSES
    read = journey("evaluate", model, others, "--report", tmp_path / "report.html")
    assert set(read) == {str(path) for path in others.rglob("*.jpg")}
    assert set(read.values()) == {1, 2}, "items that the page shows are read once more"
    read = journey("match", model, others)
    assert set(read.values()) == {1}
    read = journey("match", model, others / "class 0" / "3.jpg")
    assert list(read.values()) == [1]
    read = journey("map", model, others, "--out", tmp_path / "map.html")
    assert max(read.values()) == 2, "once for the embedding, once for the picture"


def test_a_second_command_with_a_cache_decodes_and_encodes_nothing(
    run, journey, encoded, tmp_path, monkeypatch
):
    monkeypatch.setenv("LIKEWISE_MAX_KEPT", "0")
    known = photos(tmp_path / "known", 1)
    others = photos(tmp_path / "others", 2)
    model, kept = tmp_path / "model", tmp_path / "cache"
    quick = ("--epochs", 1, "--batches", 2, "--image-size", 16)
    journey("train", known, "--out", model, *quick, "--features", 0, "--cross-fit", "off")
    journey("index", model, others, "--per-class", 5)
    journey("calibrate", model, others)
    encoded.clear()

    def evaluate(*options):
        encoded.clear()
        _, told, _ = run("evaluate", model, others, "--json", "--device", "cpu", *options)
        return told, sum(encoded)

    without, count = evaluate()
    assert count == CLASSES * (EACH - 5)
    assert evaluate("--cache", kept) == (without, count)
    assert evaluate("--cache", kept) == (without, 0)
    assert journey("evaluate", model, others, "--cache", kept) == {}
    assert journey("calibrate", model, others, "--cache", kept) == {}
    # One file changes: only that one is read.
    changed = others / "class 1" / "23.jpg"
    Image.fromarray(np.full((24, 20, 3), 99, np.uint8)).save(changed)
    read = journey("evaluate", model, others, "--cache", kept)
    assert read == {str(changed): 1}
    # Damage is seen, and what was there is encoded again.
    assert evaluate("--cache", kept)[1] == 0
    fresh, _ = evaluate()
    files = sorted(kept.rglob("*.safetensors"))
    assert len(files) == 2
    whole = {path: path.read_bytes() for path in files}
    for path in files:
        path.write_bytes(whole[path][:-1] + bytes([whole[path][-1] ^ 1]))
    assert evaluate("--cache", kept) == (fresh, CLASSES * (EACH - 5))
    assert evaluate("--cache", kept) == (fresh, 0)
    for path in kept.rglob("*.safetensors"):
        path.write_bytes(b"")
    assert evaluate("--cache", kept) == (fresh, CLASSES * (EACH - 5))
    assert not list(kept.rglob("*.part"))
    status, _, said = run("evaluate", model, others, "--cache", changed, "--device", "cpu")
    assert status == 2
    assert str(changed) in said


@pytest.mark.parametrize("fails", ["write", "folder"])
def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path, monkeypatch, fails):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    items, kept = torch.rand(5, 3, 4), tmp_path / "kept"
    expected = lw.embed(torch.nn.Flatten(), items)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes" if fails == "write" else "mkdir", full)
        with pytest.warns(UserWarning, match=r"cache .*kept' cannot be written \(No space") as said:
            found = [lw.embed(torch.nn.Flatten(), items, cache=kept) for _ in range(2)]
    assert len(said) == 1, "once for both"
    for each in found:
        torch.testing.assert_close(each.embeddings, expected.embeddings, rtol=0, atol=0)
        assert (each.fingerprints == expected.fingerprints).all()
    assert not list(tmp_path.rglob("*.safetensors*"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        lw.embed(torch.nn.Flatten(), items, cache=tmp_path / "file")


def test_another_encoder_precision_or_preprocessing_has_another_cache(tmp_path):
    items = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    encoder, other, double = (torch.nn.Linear(4, 2) for _ in range(3))
    double.load_state_dict(other.state_dict())
    scaled = lw.data.Preprocess((4,), mean=(0.5,), std=(2.0,))
    ways = [(encoder, None), (other, None), (encoder, scaled), (double.double(), None)]
    for _ in range(2):  # the second time from the cache
        for one, preprocess in ways:
            found = lw.embed(one, items, preprocess, cache=tmp_path)
            apply = None if preprocess is None else preprocess.apply
            assert torch.equal(found.embeddings, lw.encode(one, items, preprocess=apply))
            assert torch.equal(found.fingerprints, lw.data.fingerprints(items))
    assert len(list(tmp_path.iterdir())) == len(list(tmp_path.rglob("*.safetensors"))) == 4
    with pytest.raises(
        ValueError, match=r"preprocess must be a data\.Preprocess for a cache, got f"
    ):
        lw.embed(encoder, items, lambda batch: batch, cache=tmp_path)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_items_to_skip_are_left_out_whatever_the_batches(tmp_path, batch_size, cached):
    rng = torch.Generator().manual_seed(0)
    items = torch.rand(20, 3, generator=rng)
    items[7] = items[2]  # the same item twice
    data = lw.data.ArrayDataset(items, [f"class {row % 3}" for row in range(20)])
    encoder = torch.nn.Linear(3, 5)
    prints = lw.data.fingerprints(data)
    whole = lw.encode(encoder, data)
    for skip in (prints[:0], prints[:3], prints[4:19], prints):
        keep = ~torch.isin(prints, skip)
        for _ in range(2 if cached else 1):
            found = lw.embed(
                encoder,
                data,
                skip=skip,
                batch_size=batch_size,
                cache=tmp_path if cached else None,
            )
            assert torch.equal(found.rows, keep.nonzero().flatten())
            assert torch.equal(found.fingerprints, prints[keep])
            assert torch.equal(found.labels, data.labels[keep])
            assert (found.skipped, len(found)) == (int((~keep).sum()), int(keep.sum()))
            if len(found):
                torch.testing.assert_close(found.embeddings, whole[keep])


def test_an_embedded_answers_as_its_data_does():
    digits = lw.data.load("digits", split="train")
    parts = lw.data.split_items(digits, [0.2, 0.8], seed=0)
    answers = []
    for through in (
        lambda model, data: data,
        lambda model, data: model.embedded(data, keep_raw=True),
    ):
        torch.manual_seed(0)
        model = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape, embedding_dim=8))
        model.add_new(through(model, parts[0]))
        again = model.add_new(through(model, parts[0]), metadata=[{}] * len(parts[0]))
        assert len(again) == 0
        new = through(model, digits)
        made = [model.calibrate(new, rule=rule) for rule in ("nearest", "pairs")]
        found = model.evaluate(new, per_item=1.0)
        decided = model.match(new)
        same = model.verify(new, new).distances
        answers.append((made, found.to_dict(), decided.labels.tolist(), same.tolist()))
        assert (found.left_out, found.items) == (len(parts[0]), len(parts[1]))
        assert found.examples.skipped == len(parts[0])
    assert answers[0] == answers[1]


def test_an_embedded_has_one_entry_of_everything_per_item():
    rows = torch.arange(3)
    for name in ("labels", "fingerprints", "rows"):
        sizes = {"labels": rows, "fingerprints": rows, "rows": rows} | {name: rows[:2]}
        with pytest.raises(ValueError, match=f"{name} must have one entry per embedding, 3, got 2"):
            lw.Embedded(torch.eye(3), class_names=["a", "b", "c"], **sizes)


def test_a_damaged_file_of_a_cache_is_removed(tmp_path):
    items = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    encoder = torch.nn.Linear(4, 2)
    found = lw.embed(encoder, items, cache=tmp_path)
    (good,) = tmp_path.rglob("*.safetensors")
    damaged = good.with_stem("0" * 64)
    damaged.write_bytes(good.read_bytes())
    again = lw.embed(encoder, items, cache=tmp_path)
    assert torch.equal(again.embeddings, found.embeddings)
    assert list(tmp_path.rglob("*.safetensors")) == [good]
