"""Export: the same decisions without torch, or a refusal with nothing left behind."""

import importlib.util
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise._tokens import Tokenizing, token_batches
from likewise.errors import ArtifactError, InputError, InputTypeError
from likewise.runtime import vectors

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra export")
RULES = [("nearest", 1), ("majority", 5), ("weighted", 5), ("center", 1)]


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).normal(size=(12, 8))
    codes = rng.integers(12, size=count)
    items = middles[codes] + 0.6 * rng.normal(size=(count, 8))
    return items.astype("float32"), [f"class {code:02d}" for code in codes]


def model_over_vectors(distance="cosine", *, cohort=False):
    model = lw.SimilarityModel(None, distance=lw.distances.by_name(distance))
    items, names = drawn(150, 0)
    model.add((items, names), metadata=[{"row": row} for row in range(150)])
    if cohort:
        unknown = np.random.default_rng(8).normal(size=(40, 8)).astype("float32")
        model.use_cohort(unknown, nearest=10)
    aside = drawn(200, 1)
    for rule, k in RULES:
        model.calibrate(aside, rule=rule, k=k)
    model.calibrate(aside, rule="pairs", per_item=2.0)
    model.calibrate(aside, rule="nearest", point="own", per_class=True, fewest=2)
    return model


@pytest.mark.parametrize("cohort", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "snr"])
def test_every_rule_decides_as_the_model_does(distance, cohort, tmp_path):
    model = model_over_vectors(distance, cohort=cohort)
    found = lw.export(model, tmp_path / "out", drawn(200, 1))
    assert found.changed == 0
    assert set(found.points) == {"center", "majority", "nearest", "own", "pairs", "weighted"}
    runtime = lw.runtime.load(tmp_path / "out")
    asked, _ = drawn(100, 2)
    for point in ("center", "majority", "nearest", "own", "weighted"):
        theirs, ours = (
            runtime.match(asked, point=point),
            model.match(torch.tensor(asked), point=point),
        )
        assert theirs.labels.tolist() == ours.labels.tolist()
        assert theirs.names == ours.names
        np.testing.assert_allclose(theirs.distances, ours.distances, atol=1e-5)
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
        assert theirs.threshold == pytest.approx(ours.threshold, abs=1e-4)
    theirs = runtime.verify(asked[:50], asked[50:], prior=0.2)
    ours = model.verify(asked[:50], asked[50:], prior=0.2)
    assert theirs.same.tolist() == ours.same.tolist()
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
    theirs, ours = runtime.lookup(asked, k=3), model.lookup(asked, k=3)
    assert theirs.ids.tolist() == ours.ids.tolist()
    assert theirs.names == ours.names
    assert theirs.metadata[0][0]["row"] == ours.metadata[0][0]["row"]
    by_hand = runtime.match(asked, threshold=0.3, rule="majority", k=3)
    assert by_hand.names == model.match(asked, threshold=0.3, rule="majority", k=3).names
    assert by_hand.probabilities is None


def test_the_item_at_the_threshold_stays_accepted(tmp_path):
    model = model_over_vectors()
    aside, names = drawn(200, 1)
    lw.export(model, tmp_path / "out", (aside, names))
    ours = model.match(aside)
    last = int(torch.where(ours.accepted, ours.distances, -1).argmax())
    assert float(ours.distances[last]) == model.calibrations["nearest"].threshold
    assert lw.runtime.load(tmp_path / "out").match(aside[last : last + 1]).accepted.all()
    told = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert 0 < told["points"]["nearest"]["raised"] < 1e-5


@pytest.mark.parametrize("distance", sorted(lw.distances.NAMED))
def test_distances_are_those_of_the_library(distance):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30, 7)).astype("float32")
    a[3] = 0 if distance != "snr" else a[3]
    ours = lw.distances.by_name(distance).paired(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(vectors.paired(distance, a, b), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", sorted(lw.distances.NAMED))
def test_a_large_lookup_finds_what_all_distances_find(distance, monkeypatch):
    rng = np.random.default_rng(1)
    stored = np.round(rng.normal(size=(400, 6)), 1).astype("float32")
    stored[300:] = stored[:100]  # ties, which stand by row
    queries = rng.normal(size=(9, 6)).astype("float32")
    far, rows = vectors.nearest(distance, queries, stored, 5)
    monkeypatch.setattr(vectors, "AT_ONCE", 1000)
    proposed = vectors.nearest(distance, queries, stored, 5)
    assert proposed[1].tolist() == rows.tolist()
    np.testing.assert_array_equal(proposed[0], far)


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "inner_product", "snr"])
def test_a_large_lookup_among_rows_that_float32_cannot_tell_apart(distance, monkeypatch):
    rng = np.random.default_rng(2)
    middle = 100 * rng.normal(size=6)
    stored, queries = (
        (middle + 1e-3 * rng.normal(size=(count, 6))).astype("float32") for count in (400, 30)
    )
    far, rows = vectors.nearest(distance, queries, stored, 5)
    monkeypatch.setattr(vectors, "AT_ONCE", 10_000)
    proposed = vectors.nearest(distance, queries, stored, 5)
    assert proposed[1].tolist() == rows.tolist()
    np.testing.assert_array_equal(proposed[0], far)


def test_too_many_changed_decisions_leave_nothing_behind(tmp_path, monkeypatch):
    model = model_over_vectors()
    from likewise.runtime.loaded import Runtime

    embedded = Runtime.embed
    monkeypatch.setattr(Runtime, "embed", lambda self, items: embedded(self, items)[:, ::-1])
    with pytest.raises(InputError, match=r"must change at most 0.00% of the decisions"):
        lw.export(model, tmp_path / "out", drawn(200, 1))
    assert list(tmp_path.iterdir()) == []


def own_rule(neighbors):
    return neighbors.labels[:, 0], neighbors.distances[:, 0]


def test_what_the_runtime_does_not_have_is_refused(tmp_path):
    aside = drawn(200, 1)
    model = model_over_vectors()
    model.calibrate(aside, rule=own_rule)
    with pytest.raises(InputError, match=r"rule must be one of .* got 'own_rule'"):
        lw.export(model, tmp_path / "out", aside)
    plain = lw.distances.EUCLIDEAN
    mine = lw.distances.Distance("mine", plain.matrix, plain.paired)
    with pytest.raises(InputError, match=r"distance must be one of .* got 'mine'"):
        lw.export(lw.SimilarityModel(None, distance=mine), tmp_path / "out", aside)
    model = lw.SimilarityModel(None)
    model.index = lw.Index(recall=0.9)
    with pytest.raises(InputError, match="index must be searched exactly"):
        lw.export(model, tmp_path / "out", aside)
    model = lw.SimilarityModel(torch.nn.Linear(8, 4), query_encoder=torch.nn.Linear(8, 4))
    with pytest.raises(InputError, match=r"model must have one encoder .* got two towers"):
        lw.export(model, tmp_path / "out", aside)
    with pytest.raises(InputError, match="precision must be float32"):
        lw.export(lw.SimilarityModel(None), tmp_path / "out", aside, precision="int8")
    with pytest.raises(InputError, match="items must be given"):
        lw.export(lw.SimilarityModel(None), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_left(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(ArtifactError, match="out must be a new folder"):
        lw.export(model_over_vectors(), tmp_path / "out", drawn(20, 1))
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_an_empty_folder_is_taken_also_by_a_link_or_a_dot(tmp_path, monkeypatch):
    for name in ("real", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    lw.export(model_over_vectors(), tmp_path / "link", drawn(20, 1))
    monkeypatch.chdir(tmp_path / "here")
    lw.export(model_over_vectors(), ".", drawn(20, 1))
    for name in ("link", "real", "here"):
        assert len(lw.runtime.load(tmp_path / name).labels) == 150


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported") / "out"
    lw.export(model_over_vectors(), place, drawn(200, 1))
    return place


@pytest.mark.parametrize("name", ["embeddings.npy", "labels.npy", "items.json", "export.json"])
def test_a_damaged_folder_is_one_sentence(exported, name, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / name).read_bytes()
    for broken in (content[:-9], content[:60] + b"x" + content[61:], b""):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(ArtifactError, match=r"whole|format"):
            lw.runtime.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError):
        lw.runtime.load(tmp_path)


def test_another_format_is_refused(exported, tmp_path):
    told = json.loads((exported / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps({**told, "format": 3}))
    with pytest.raises(ArtifactError, match="must be of format 2, got format 3"):
        lw.runtime.load(tmp_path)


def test_an_export_is_no_model(exported):
    with pytest.raises(ArtifactError, match=r"which holds an export\. Use likewise\.runtime\.load"):
        lw.load(exported)


def test_wrong_questions_are_refused(exported):
    runtime = lw.runtime.load(exported)
    with pytest.raises(InputError, match="point must be one of the exported operating points"):
        runtime.match([[0.0] * 8], point="none")
    with pytest.raises(InputError, match="items must have shape"):
        runtime.match([[0.0] * 7])
    with pytest.raises(InputError, match="items must be finite"):
        runtime.match([[float("nan")] * 8])
    with pytest.raises(InputTypeError, match="items must be an array"):
        runtime.match(None)
    with pytest.raises(InputError, match="k must be at most 150"):
        runtime.lookup([[0.0] * 8], k=151)
    with pytest.raises(InputError, match="threshold must be a number"):
        runtime.match([[0.0] * 8], threshold=float("nan"))
    with pytest.raises(InputError, match="b must hold as many items"):
        runtime.verify([[0.0] * 8], [[0.0] * 8] * 2)
    with pytest.raises(InputError, match="must be one for matching"):
        runtime.match([[0.0] * 8], point="pairs")
    assert runtime.match(np.empty((0, 8), "float32")).names == []


def test_an_outgrown_guarantee_is_told_by_both(tmp_path):
    model = model_over_vectors()
    model.calibrate(drawn(200, 1), goal=lw.at_most_false_accepts(0.4, confidence=0.6))
    more, names = drawn(60, 3)
    model.add((more, names))
    with pytest.warns(UserWarning, match="gallery must hold at most 150 items"):
        lw.export(model, tmp_path / "out", drawn(200, 1))
    runtime = lw.runtime.load(tmp_path / "out")
    with pytest.warns(UserWarning, match="gallery must hold at most 150 items"):
        runtime.match(more[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.match(more[:1], point="majority")


IMPORTS = """
import sys
import numpy as np
import likewise.runtime
runtime = likewise.runtime.load(sys.argv[1])
print(*runtime.match(np.load(sys.argv[2])).names[:3])
print(*sorted({"torch", "matplotlib", "sklearn", "scipy", "kornia"} & set(sys.modules)))
"""


def test_torch_is_never_imported(exported, tmp_path):
    np.save(tmp_path / "asked.npy", drawn(40, 1)[0])
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS, exported, tmp_path / "asked.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    names, loaded = ran.stdout.split("\n")[:2]
    assert names
    assert loaded == ""


def photographs(folder):
    """Image files of many kinds, with sizes, modes and EXIF orientations of every sort."""
    rng = np.random.default_rng(0)
    paths = []
    for row in range(24):
        height, width = rng.integers(9, 60, 2)
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        image = (
            Image.fromarray(pixels, "RGBA") if row % 3 == 0 else Image.fromarray(pixels[..., :3])
        )
        kind = ("png", "jpg", "webp", "tif", "gif", "bmp")[row % 6]
        if row % 6 in (1, 5):
            image = image.convert("RGB")
        if row % 8 == 2:
            image = Image.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.uint16))
            kind = "png"
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        path = folder / f"{row}.{kind}"
        image.save(path, **({"exif": exif} if kind in ("png", "jpg", "webp") else {}))
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["squash", "center", "border"])
def test_image_files_have_the_pixels_of_the_model(mode, channels, tmp_path):
    from likewise.runtime import inputs
    from likewise.runtime.exported import Frame

    framing = lw.data.Framing(
        17, 13, crop=0.9, mode=mode, interpolation="bicubic", fill=(0.2, 0.4, 0.6)
    )
    preprocess = lw.data.Preprocess((channels, 17, 13), (0,) * channels, (1,) * channels, framing)
    paths = photographs(tmp_path)
    frame = Frame(**framing.to_dict())
    shape = (channels, 17, 13)

    def of_runtime(items):
        return np.concatenate(list(inputs.batches(items, shape, frame)))

    read = of_runtime(paths)
    np.testing.assert_array_equal(read, preprocess.read(paths).numpy())
    contents = [Path(path).read_bytes() for path in paths]
    np.testing.assert_array_equal(
        np.concatenate(list(inputs.batches(contents, shape, frame))), read
    )
    opened = [Image.open(io.BytesIO(content)) for content in contents]
    ours = lw.data.as_items(opened, shape, framing).numpy()
    opened = [Image.open(io.BytesIO(content)) for content in contents]
    np.testing.assert_array_equal(of_runtime(opened), ours)


@pytest.mark.parametrize(
    "items",
    [
        np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8),
        np.random.default_rng(0).random((4, 3, 5, 6)),
        np.random.default_rng(0).random((3, 5, 6)).tolist(),
        np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8),
    ],
    ids=["bytes with channels last", "float64", "one item in lists", "one of bytes"],
)
def test_numbers_are_laid_out_as_the_model_does(items):
    from likewise._checks import as_floats
    from likewise.runtime import inputs

    ours = as_floats(lw.data.as_items(items, (3, 5, 6))).numpy()
    theirs = np.concatenate(list(inputs.batches(items, (3, 5, 6), None)))
    np.testing.assert_array_equal(theirs, ours)


@pytest.fixture(scope="module")
def digits():
    return lw.data.load("digits", split="train"), lw.data.load("digits", split="test")


@needs_onnx
def test_an_encoder_decides_as_the_model_does(digits, tmp_path, run):
    train, test = digits
    torch.manual_seed(0)
    encoder = lw.encoders.ConvEncoder(train.item_shape, layers=(4, "pool", 8), embedding_dim=16)
    model = lw.SimilarityModel(encoder, preprocess=lw.data.Preprocess.fit(train))
    model.add(lw.data.sample_items(train, per_class=8))
    model.calibrate(test)
    model.calibrate(test, rule="pairs")
    model.save(tmp_path / "model")
    status, told, _ = run(
        *("export", tmp_path / "model", "digits", "--out", tmp_path / "out", "--json")
    )
    assert status == 0
    answer = json.loads(told)
    assert answer["changed"] == 0
    assert answer["items"] == len(test)
    assert answer["decisions"] > 2 * len(test)
    assert answer["largest_difference"] < 1e-5
    runtime = lw.runtime.load(tmp_path / "out", threads=1)
    items = lw.data.items(test)
    assert runtime.match(items.numpy()).names == model.match(items).names
    np.testing.assert_allclose(runtime.embed(items[:5].numpy()), model.embed(items[:5]), atol=1e-5)
    status, told, _ = run(
        *("export", tmp_path / "model", "digits", "--out", tmp_path / "small", "--json"),
        *("--precision", "int8", "--allow", "0.5"),
    )
    answer = json.loads(told)
    assert status == 0
    assert answer["largest_difference"] > 1e-4
    assert answer["share"]["low"] <= answer["changed"] / answer["decisions"]
    sizes = [(tmp_path / name / "encoder.onnx").stat().st_size for name in ("out", "small")]
    assert sizes[1] < sizes[0]


class Counts(torch.nn.Module):
    def forward(self, items):
        if float(items.sum()) > 0:  # which no graph can hold
            return items * 2
        return items


@needs_onnx
def test_an_encoder_that_cannot_be_a_graph_is_refused(tmp_path):
    model = lw.SimilarityModel(Counts())
    with pytest.raises(InputError, match=r"encoder must be one that torch.onnx can export"):
        lw.export(model, tmp_path / "out", np.ones((3, 4), "float32"))
    assert list(tmp_path.iterdir()) == []


def tiny_sentence_encoder():
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra text")
    pytest.importorskip("transformers", reason="needs the extra text")
    words = {word: code for code, word in enumerate(["[PAD]", "[UNK]", *"abcdefghij"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    description = made.to_str().encode()
    settings = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 16,
    }
    encoder = lw.encoders.SentenceEncoder(
        "bert", settings, max_length=7, lower_case=True, tokenizer_bytes=len(description)
    )
    encoder.tokenizer_file.copy_(torch.frombuffer(bytearray(description), dtype=torch.uint8))
    return encoder


class LettersAsTokens:
    """In the place of a tokenizer of the package tokenizers."""

    def encode_batch(self, texts):
        return [
            SimpleNamespace(
                ids=[*map(ord, text)], attention_mask=[1] * len(text), type_ids=[*range(len(text))]
            )
            for text in texts
        ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_become_tokens_of_one_length_with_the_padding_of_their_network(side):
    how = Tokenizing(None, lower_case=True, prompt="q", uses_types=True, pad=7, side=side)
    ((rows, inputs),) = token_batches(LettersAsTokens(), ["A", "bcd", ""], how)
    assert rows == [1, 0, 2]  # the longest first

    def padded(texts, fill):
        longest = len(texts[0])
        rest = [[fill] * (longest - len(text)) for text in texts]
        sides = zip(rest, texts, strict=True)
        return [[*pad, *text] if side == "left" else [*text, *pad] for pad, text in sides]

    texts = ["qbcd", "qa", "q"]
    assert inputs["input_ids"].tolist() == padded([[*map(ord, text)] for text in texts], 7)
    assert inputs["attention_mask"].tolist() == padded([[1] * len(text) for text in texts], 0)
    assert inputs["token_type_ids"].tolist() == padded([[*range(len(text))] for text in texts], 0)
    many = ["a" * (row % 9) for row in range(70)]
    batches = list(token_batches(LettersAsTokens(), many, how))
    assert [len(rows) for rows, _ in batches] == [32, 32, 6]
    assert sorted(row for rows, _ in batches for row in rows) == list(range(70))
    assert [inputs["input_ids"].shape[1] for _, inputs in batches] == [9, 5, 1]


def some_texts(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list("abcDEFghij"), rng.integers(6, 12))) for _ in range(count)]


@needs_onnx
def test_an_encoder_of_texts_decides_as_the_model_does(tmp_path):
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(tiny_sentence_encoder(), torch.nn.Linear(16, 8))
    model = lw.SimilarityModel(encoder)
    known, aside = some_texts(60, 0), some_texts(90, 1)
    model.add((known, [text[0] for text in known]))
    model.calibrate((aside, [text[0] for text in aside]))
    # The threshold is the distance of an item judged without its own class. The model itself
    # has to accept this item, however close an untrained network puts the others.
    ours = model.match(aside)
    assert float(ours.distances[ours.accepted].max()) == ours.threshold
    found = lw.export(model, tmp_path / "out", aside)
    assert (found.changed, found.decisions) == (0, 90)
    assert found.largest_difference < 1e-5
    runtime = lw.runtime.load(tmp_path / "out")
    assert runtime.match(aside).names == ours.names
    one = runtime.embed(["a b"])
    np.testing.assert_allclose(one, model.embed(["a b"]), atol=1e-5)
    with pytest.raises(InputTypeError, match="items must be a list of texts"):
        runtime.match("a b")
    with pytest.raises(InputError, match="texts must not be empty"):
        runtime.match(["a", " "])


@needs_onnx
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs the extra backbones")
def test_a_backbone_decides_on_files_as_the_model_does(tmp_path):
    torch.manual_seed(0)
    encoder = lw.encoders.backbone("resnet10t", pretrained=False, image_size=32, embedding_dim=8)
    preprocess = lw.data.Preprocess(**encoder.preprocess_settings)
    model = lw.SimilarityModel(encoder, preprocess=preprocess)
    paths = photographs(tmp_path)
    model.add(paths[:12])
    found = lw.export(model, tmp_path / "out", paths)
    assert (found.changed, found.points["lookup"].decisions) == (0, 24)
    runtime = lw.runtime.load(tmp_path / "out")
    assert runtime.lookup(paths, k=2).ids.tolist() == model.lookup(paths, k=2).ids.tolist()
    status = found.to_dict()
    assert status["points"]["lookup"]["raised"] == 0


def test_print_of_a_parity_is_a_table(tmp_path):
    told = repr(lw.export(model_over_vectors(), tmp_path / "out", drawn(200, 1)))
    title, heads, *rows = told.splitlines()
    assert title.startswith("Export in float32: 200 items, embeddings differ by at most ")
    assert heads.split("  ")[-1] == "raised by"
    assert [row.split()[0] for row in rows[:-1]] == sorted(
        ["center", "majority", "nearest", "own", "pairs", "weighted"],
        key=list(json.loads((tmp_path / "out" / "parity.json").read_text())["points"]).index,
    )
    assert rows[-1].split()[:2] == ["in", "all"]
    assert "PointParity" not in told


def test_a_changed_number_in_the_manifest_is_seen(exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = json.loads((tmp_path / "export.json").read_text())
    told["points"]["nearest"]["threshold"] += 0.5
    (tmp_path / "export.json").write_text(json.dumps(told))
    with pytest.raises(ArtifactError, match=r"whose export\.json is missing, changed or cut off"):
        lw.runtime.load(tmp_path)
    told["points"]["nearest"]["threshold"] -= 0.5
    (tmp_path / "export.json").write_text(json.dumps(told))  # laid out otherwise, the same words
    assert len(lw.runtime.load(tmp_path).labels) == 150
