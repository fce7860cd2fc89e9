"""Training without labels: labels play no part, each loss learns, and contradictions are told."""

import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.augment import Augment, ViewAugment, presets
from likewise.journeys.recipe import VIEW_LOSSES

SETTLED = {"features": 0.0, "made_classes": "none"}  # by the data
QUICK = {"labels": False, "epochs": 1, "batches": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def digits():
    return lw.data.load("digits", split="train")


def trained(data, **choices):
    return lw.train(data, lw.Recipe(**{**QUICK, **choices}), device="cpu", progress=False)


def relabeled(data, labels):
    return lw.data.ArrayDataset(lw.data.items(data), labels)


def accuracy(model, known, queries):
    """Share of queries whose nearest known item has their label."""
    nearest = model.distance.matrix(model.embed(queries), model.embed(known)).argmin(dim=1)
    return float((known.labels[nearest] == queries.labels).float().mean())


def test_labels_play_no_part_bit_for_bit(digits):
    shuffled = digits.labels[torch.randperm(len(digits), generator=torch.Generator())]
    models = [
        trained(data)
        for data in (
            digits,
            relabeled(digits, shuffled.tolist()),
            relabeled(digits, [-1] * len(digits)),
        )
    ]
    first = models[0]
    for model in models[1:]:
        assert model.fingerprint == first.fingerprint
        assert model.preprocess == first.preprocess
        assert torch.equal(model.trained_prints, first.trained_prints)
        assert model.origin["history"][0]["loss"] == first.origin["history"][0]["loss"]
    assert trained(digits, seed=1).fingerprint != first.fingerprint


def test_the_model_tells_it_and_names_no_class(digits, tmp_path):
    model = trained(digits)
    assert model.trained_on == []
    assert model.cross_fit is None
    assert model.origin["recipe"]["labels"] is False
    assert model.origin["items"] == len(model.trained_prints) == round(0.9 * len(digits))
    loaded = lw.load(model.save(tmp_path / "m"))
    assert loaded.origin["recipe"]["labels"] is False
    assert loaded.trained_on == []
    assert lw.Recipe.from_dict(loaded.origin["recipe"]) == lw.Recipe(**QUICK, **SETTLED)


def test_items_that_were_trained_on_cannot_calibrate(digits):
    model = trained(digits, keep_aside=0.0)
    model.add(lw.data.Subset(digits, range(200)))
    with pytest.raises(ValueError, match="trained on"):
        model.calibrate(lw.data.Subset(digits, range(200, 400)))


def test_classes_that_are_not_known_stand_for_unknowns_in_calibration(digits):
    model = trained(digits)
    unseen = lw.data.load("digits", split="test")
    known = lw.data.choose_classes(unseen, ["0", "1", "2", "3", "4"])
    model.add(lw.data.Subset(known, range(0, len(known), 2)))
    made = model.calibrate(lw.data.Subset(unseen, range(1, len(unseen), 2)))
    assert made.threshold > 0


@pytest.mark.parametrize("loss", VIEW_LOSSES)
def test_each_loss_learns_what_the_untrained_network_does_not_know(loss, digits):
    known = lw.data.Subset(digits, range(40))
    queries = lw.data.load("digits", split="test")
    small = {"loss": loss, "keep_aside": 0.0, "batch_size": 64, "seed": 1}
    untrained = trained(digits, **small, batches=1, learning_rate=1e-9)
    longer = {"epochs": 2, "batches": 20, "learning_rate": 0.003}
    if loss == "simsiam":  # which learns slowly
        longer = {"epochs": 4, "batches": 60, "batch_size": 128}
    model = trained(digits, **{**small, **longer})
    assert accuracy(model, known, queries) > accuracy(untrained, known, queries) + 0.02


def test_python_and_the_command_line_give_the_same_model(run, tmp_path):
    choices = {"loss": "vicreg", "projection": "keep", "keep_aside": 0.2, "seed": 3}
    ours = trained("digits", **choices)
    status, told, said = run(
        *("train", "digits", "--out", tmp_path / "m", "--no-labels", "--epochs", 1),
        *("--batches", 2, "--batch-size", 16, "--loss", "vicreg", "--projection", "keep"),
        *("--keep-aside", 0.2, "--seed", 3, "--device", "cpu", "--json"),
    )
    assert status == 0, said
    assert lw.load(tmp_path / "m").fingerprint == ours.fingerprint
    assert lw.Recipe.from_dict(json.loads(told)["recipe"]) == lw.Recipe(
        **QUICK, **SETTLED, **choices
    )
    status, told, _ = run("info", tmp_path / "m")
    assert status == 0
    assert "1078 items without their labels" in told or "1080 items without" in told


def test_a_folder_without_class_folders_trains(run, tmp_path):
    for row in range(12):
        pixels = np.random.default_rng(row).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{row}.png")
    out = ("--out", tmp_path / "m", "--epochs", 1, "--batches", 1, "--device", "cpu")
    status, told, said = run("train", tmp_path / "photos", *out, "--no-labels")
    assert status == 0, said
    assert "trained on 11 items without their labels" in told
    assert lw.load(tmp_path / "m").embed([tmp_path / "photos" / "0.png"]).shape == (1, 64)


@pytest.mark.parametrize(
    ("projection", "dim", "width"),
    [("drop", 64, 1), ("none", 64, 1), ("keep", 128, 2), ("keep", 512, 2)],
)
def test_the_layers_behind_the_encoder_are_dropped_unless_asked_otherwise(
    projection, dim, width, digits, tmp_path
):
    loss = "simsiam" if dim == 512 else "simclr"
    model = trained(digits, projection=projection, loss=loss)
    found = model.embed(lw.data.Subset(digits, range(5)))
    assert found.shape == (5, dim)
    assert torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-6)
    assert isinstance(model.encoder, torch.nn.Sequential) == (width == 2)
    again = lw.load(model.save(tmp_path / "m")).embed(lw.data.Subset(digits, range(5)))
    assert torch.equal(again, found)


def test_the_dropped_layers_are_trained_and_change_the_encoder(digits):
    assert trained(digits).fingerprint != trained(digits, projection="none").fingerprint


def test_scores_of_labeled_items_are_told_and_choose_nothing(digits):
    recipe = lw.Recipe(**QUICK)
    model = lw.train(digits, recipe, evaluate="aside", device="cpu", progress=False)
    assert "unseen_map_at_r" in model.origin["history"][0]
    assert model.origin["baselines"][0]["name"] == "raw input"
    assert model.fingerprint == trained(digits).fingerprint
    assert trained(digits, keep_best="loss").origin["selected_by"] == "loss"


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"pairs": True}, "pairs must be left out without labels, got True"),
        ({"hold_out_classes": 0.4}, "hold_out_classes must be left out without labels, got 0.4"),
        ({"made_classes": "turned"}, "made_classes must be left out without labels"),
        ({"classes_per_batch": 4}, "classes_per_batch must be left out .* Use batch_size"),
        ({"items_per_class": 4}, "items_per_class must be left out without labels"),
        ({"cross_fit": 3}, "cross_fit must be left out without labels, got 3"),
        ({"keep_best": "unseen_map_at_r"}, "keep_best must be left out .* Scores need labels"),
        ({"encoder": "timm:resnet18", "train": "head"}, "train must be last or all without"),
        ({"encoder": "timm:resnet18", "head": "whitening"}, "head must be none, linear or mlp"),
        ({"encoder": "none", "head": "linear"}, "encoder must be small or timm:NAME without"),
        ({"encoder": "sentence:a/b"}, "encoder must be small or timm:NAME without labels"),
        ({"loss": "triplet"}, "loss must be one of barlow-twins, simclr, simsiam, vicreg, got"),
        ({"margin": 0.2}, "margin must be left out for simclr"),
        ({"projection": "away"}, "projection must be one of drop, keep, none, got 'away'"),
        ({"labels": 0}, "labels must be true or false, got 0"),
        ({"labels": True, "loss": "simclr"}, "loss must be one that uses labels.* labels=False"),
        ({"labels": True, "batch_size": 8}, "batch_size must be left out where labels are used"),
        ({"labels": True, "projection": "keep"}, "projection must be left out where labels are"),
    ],
)
def test_choices_that_contradict_it_are_refused(choices, sentence):
    with pytest.raises(lw.errors.InputError, match=sentence):
        lw.Recipe(**{"labels": False, **choices})


def test_data_without_views_is_refused_and_a_change_of_ones_own_makes_them(digits):
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    for data, sentence in (
        (
            lw.data.load((vectors, [-1] * 20)),
            r"data must be images .* shape \(5,\). For other items give augment=",
        ),
        (lw.data.Subset(digits, [0]), "data must have at least 2 items to train on, got 1"),
        (lw.data.GivenPairs(digits, [[0, 1]], [True]), "data must be images .*, got pairs"),
    ):
        with pytest.raises(lw.errors.InputError, match=sentence):
            trained(data)
    with pytest.raises(lw.errors.InputError, match="augment must change images without labels"):
        trained(digits, augment="none")
    model = lw.train(
        lw.data.load((vectors, [-1] * 20)),
        lw.Recipe(**QUICK),
        augment=lambda items: items + torch.randn_like(items),
        device="cpu",
        progress=False,
    )
    assert model.embed(vectors).shape == (20, 64)


def test_a_refusal_names_the_option_of_the_command_line(run, tmp_path):
    out = ("--out", tmp_path / "m")
    for options, sentence in (
        (("--loss", "simclr"), "--loss must be one that uses labels, got 'simclr'. Or add --no"),
        (("--no-labels", "--cross-fit", 3), "--cross-fit must be left out without labels"),
        (("--no-labels", "--hold-out-classes", "0"), "--hold-out-classes must be left out"),
    ):
        status, _, said = run("train", "digits", *out, *options)
        assert status == 2
        assert sentence in said


@pytest.mark.parametrize("train", [None, "last"])
def test_a_network_of_timm_trains_whole_unless_told_otherwise(train, tmp_path):
    if importlib.util.find_spec("timm") is None:
        pytest.skip('needs timm: pip install "likewise[backbones]"')
    images = np.random.default_rng(0).random((8, 32, 32, 3)).astype(np.float32)
    encoder = lw.encoders.by_name("timm:resnet18", item_shape=(3, 32, 32), pretrained=False)
    from safetensors.torch import save_file

    network = next(part for name, part in encoder.named_children() if len(part.state_dict()) > 50)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    recipe = lw.Recipe(**{**QUICK, "batch_size": 8}, encoder="timm:resnet18", train=train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lw.train(
            lw.data.ArrayDataset(images, [-1] * 8),
            recipe,
            weights=tmp_path / "w.safetensors",
            device="cpu",
            progress=False,
        )
    before, after = encoder.state_dict(), model.encoder.state_dict()
    changed = [
        name for name in before if "weight" in name and not torch.equal(before[name], after[name])
    ]
    assert any("layer4" in name for name in changed)
    assert any("layer1" in name for name in changed) == (train is None)


IMAGES = torch.rand(400, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def only(**choices):
    """A change that does one thing."""
    still = {"crop": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": False, "jitter": 0.0}
    return ViewAugment(**{**still, "gray_rate": 0.0, "blur_rate": 0.0, **choices})


def test_views_change_as_often_as_they_say():
    torch.manual_seed(0)
    assert torch.allclose(only()(IMAGES), IMAGES, atol=1e-5)
    flat = only(gray_rate=0.2)(IMAGES)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    gray = (IMAGES * weights).sum(dim=1, keepdim=True).expand_as(IMAGES)
    is_gray = torch.isclose(flat, gray, atol=1e-4).flatten(1).all(dim=1)
    assert torch.allclose(flat[~is_gray], IMAGES[~is_gray], atol=1e-5)
    assert 0.13 < is_gray.float().mean() < 0.27
    for choices, share in (
        ({"flip": True}, 0.5),
        ({"jitter": 0.5}, 0.8),
        ({"solarize_rate": 0.3}, 0.3),
        ({"blur": 0.1, "blur_rate": 0.5}, 0.5),
    ):
        changed = only(**choices)(IMAGES)
        moved = (changed - IMAGES).abs().flatten(1).amax(dim=1) > 1e-3
        assert abs(float(moved.float().mean()) - share) < 0.08, choices


def test_windows_lie_inside_and_have_the_sizes_that_were_asked_for():
    side = torch.linspace(-1, 1, 64)
    ramp = torch.stack(torch.meshgrid(side, side, indexing="ij"))[None].expand(500, -1, -1, -1)
    torch.manual_seed(0)
    seen = only(crop=(0.2, 0.9), ratio=(0.5, 2.0))(ramp)
    assert seen.min() >= -1
    assert seen.max() <= 1
    down = (seen[:, 0].amax(dim=(1, 2)) - seen[:, 0].amin(dim=(1, 2))) / 2
    across = (seen[:, 1].amax(dim=(1, 2)) - seen[:, 1].amin(dim=(1, 2))) / 2
    area = down * across
    assert 0.17 < area.min() < 0.3
    assert area.max() < 0.92
    assert 0.45 < (across / down).min() < 0.7
    assert 1.5 < (across / down).max() < 2.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (5, 1, 8, 8), (5, 3, 30, 17), (2, 2, 9, 9)])
def test_views_keep_shape_and_dtype_and_are_drawn_from_the_generator(shape, dtype):
    images = torch.rand(shape).to(dtype)
    first, again = (ViewAugment()(images, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first.shape == images.shape
    assert first.dtype == dtype
    assert torch.equal(first, again)
    assert bool(((first >= 0) & (first <= 1)).all())


def test_gray_images_get_their_own_views():
    assert presets.fitted(ViewAugment(), 1) == ViewAugment.for_gray()
    assert presets.fitted(ViewAugment(), 3) == ViewAugment()
    assert not ViewAugment.for_gray().flip
    assert isinstance(presets.by_name("photos"), Augment)


@pytest.mark.parametrize(
    "choices",
    [{"crop": (0.0, 1.0)}, {"ratio": (2.0, 1.0)}, {"jitter": 1.5}, {"gray_rate": 2.0}],
)
def test_views_out_of_range_are_refused(choices):
    with pytest.raises(lw.errors.InputError, match=next(iter(choices))):
        ViewAugment(**choices)
    with pytest.raises(lw.errors.InputError, match="must have shape"):
        ViewAugment()(torch.rand(3, 8, 8))
