"""A recipe holds each choice once, refuses what cannot be, and is the same after a file."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import likewise as lw
from likewise import distances
from likewise.augment import presets
from likewise.cli import options
from likewise.encoders import backbones
from likewise.journeys import recipe as names
from likewise.journeys.fitting import LOSSES, batches_of
from likewise.training.loop import PRECISIONS

CHOICES = {
    "embedding_dim": st.none() | st.integers(1, 4096),
    "augment": st.sampled_from(["none", "light", "photos", "strong"]),
    "made_classes": st.sampled_from(names.MADE_CLASSES),
    "loss": st.sampled_from((None, "circle", "multi-similarity", "arcface")),
    "distance": st.sampled_from(sorted(distances.NAMED)),
    "encoder": st.sampled_from((None, "timm:resnet18", "sentence:a/b")),
    "train": st.sampled_from((None, "last", "all")),
    "head": st.sampled_from((None, "none", "linear", "mlp")),
    "epochs": st.integers(1, 1000),
    "batches": st.none() | st.integers(1, 1000),
    "chunk": st.none() | st.integers(1, 1000),
    "learning_rate": st.floats(1e-9, 10),
    "hold_out_classes": st.none()
    | st.floats(0.01, 0.99)
    | st.lists(st.text("ab, \"'\n\té", min_size=1), min_size=1).map(tuple),
    "keep_aside": st.floats(0, 0.99),
    "seed": st.integers(0, 2**32 - 1),
}


@given(st.fixed_dictionaries({}, optional=CHOICES))
def test_a_recipe_comes_back_from_a_dict_and_from_toml(tmp_path_factory, choices):
    recipe = lw.Recipe(**choices)
    assert lw.Recipe.from_dict(recipe.to_dict()) == recipe
    file = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    assert lw.Recipe.read(recipe.write(file)) == recipe


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"pooling": "token"}, "pooling must be one of average, gem, max, got 'token'"),
        ({"encoder": "small", "pooling": "gem"}, "pooling must be left out for small, got 'gem'"),
        (
            {"towers": ("small", "sentence:x"), "pooling": "gem"},
            "pooling must be left out for small and sentence:x",
        ),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number above 0"),
        ({"loss": "arcface", "loss_learning_rate": 0.0}, "loss_learning_rate must be a finite"),
        ({"loss_learning_rate": 0.1}, "loss_learning_rate must be left out for multi-similarity"),
        ({"pairs": True, "loss_learning_rate": 0.1}, "loss_learning_rate must be left out for con"),
        ({"keep_aside": 1.5}, "keep_aside must be between 0 and 1"),
        ({"keep_aside": 1}, "keep_aside must be below 1, got 1"),
        (
            {"augment": "yes"},
            "augment must be one of light, none, photos, strong, views, got 'yes'",
        ),
        ({"made_classes": "both "}, "made_classes must be one of"),
        ({"loss": "nothing"}, "loss must be one of arcface, .*, got 'nothing'"),
        ({"loss": "threshold"}, "loss must be one of arcface, .*, got 'threshold'"),
        ({"loss": "triplet", "pairs": True}, "loss must be one of contrastive, threshold"),
        ({"margin": 0.2}, "margin must be left out for multi-similarity, got 0.2"),
        ({"loss": "threshold", "pairs": True, "margin": 1.0}, "margin must be left out"),
        ({"patience": 2}, "patience must be left out without keep_best, got 2"),
        ({"hold_out_classes": "cat"}, r"hold_out_classes must be names or a share.* Use \['cat'\]"),
        ({"hold_out_classes": 1.0}, "hold_out_classes must be names, or a share between 0 and 1"),
        ({"hold_out_classes": []}, "hold_out_classes must be names or a share"),
        ({"hold_out_classes": [3]}, "hold_out_classes must be names or a share"),
    ],
)
def test_what_cannot_be_is_refused_when_the_recipe_is_made(choices, sentence):
    with pytest.raises(lw.InputError, match=sentence):
        lw.Recipe(**choices)


@pytest.mark.parametrize(
    ("choices", "name", "has_weights"),
    [
        ({}, "multi-similarity", False),
        ({"encoder": "timm:resnet18", "train": "all"}, "multi-similarity", False),
        ({"encoder": "sentence:a/b"}, "multi-similarity", False),
        ({"encoder": "sentence:a/b", "train": "head"}, "multi-similarity", False),
        ({"encoder": "sentence:a/b", "train": "last"}, "normalized-softmax", True),
        ({"encoder": "sentence:a/b", "train": "all"}, "normalized-softmax", True),
        ({"encoder": "sentence:a/b", "train": "all", "loss": "circle"}, "circle", False),
        ({"encoder": "sentence:a/b", "train": "all", "pairs": True}, "contrastive", False),
        ({"pairs": True, "loss": "threshold", "loss_learning_rate": 0.1}, "threshold", True),
    ],
)
def test_the_loss_follows_what_trains(choices, name, has_weights):
    recipe = lw.Recipe(**choices)
    assert (recipe.loss_name, recipe.loss_has_weights) == (name, has_weights)


def test_a_choice_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(lw.InputError, match=r"got 'epoch'\. Did you mean epochs\?"):
        lw.Recipe.from_dict({"epoch": 3})


@pytest.mark.parametrize("content", [b"epochs = ", b"\xff", b"[epochs]\n"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    with pytest.raises(lw.InputError, match=r"recipe must be a TOML file|epochs must be"):
        lw.Recipe.read(file)
    with pytest.raises(FileNotFoundError, match="recipe must exist"):
        lw.Recipe.read(tmp_path / "none.toml")


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        lw.Recipe().epochs = 3


def test_the_command_line_offers_the_choices_that_there_are():
    assert set(options.MadeClasses) == set(names.MADE_CLASSES)
    assert set(options.DistanceName) == set(distances.NAMED)
    assert set(options.Precision) == set(PRECISIONS)
    assert set(LOSSES) == {*names.PAIR_LOSSES, *names.CLASS_LOSSES}
    others = (*names.GIVEN_PAIRS_LOSSES, *names.TOWER_LOSSES, *names.VIEW_LOSSES)
    assert set(options.Loss) == {*LOSSES, *others}
    assert set(options.Augment) == set(names.AUGMENTS) == set(presets.NAMES)
    assert set(options.Projection) == set(names.PROJECTIONS)
    assert set(options.Pooling) == set(names.POOLINGS) == set(backbones.POOLINGS)
    assert lw.Recipe.projection == options.Projection.DROP
    assert lw.Recipe.distance == options.DistanceName.COSINE
    assert lw.Recipe.precision == options.Precision.FLOAT32


@pytest.mark.parametrize(
    ("classes", "choices", "batches"),
    [
        (5, {}, 150),  # 30 for each class
        (64, {}, 160),  # a pass
        (1, {"batches": 7}, 7),
        (5, {"encoder": "none", "head": "linear"}, 160),
        (5, {"labels": False}, 160),
    ],
)
def test_an_epoch_of_the_small_network_has_at_most_30_batches_for_each_class(
    classes, choices, batches
):
    items = lw.data.ArrayDataset(torch.zeros(160 * 128, 1), torch.arange(160 * 128) % classes)
    assert batches_of(lw.Recipe(**choices), items) == batches
    if choices.get("labels", True):
        doubled = lw.augment.MadeClasses(items, [torch.neg], ["negative"])
        assert batches_of(lw.Recipe(**choices), doubled) == batches


def test_pairs_without_classes_have_a_pass_of_batches():
    count = 160 * 128
    ends = torch.stack([torch.arange(count), torch.arange(count) + count], dim=1)
    points = lw.data.ArrayDataset(torch.zeros(2 * count, 1), torch.arange(2 * count) % 5)
    pairs = lw.data.GivenPairs(points, ends, ends[:, 0] % 2 == 0)
    assert batches_of(lw.Recipe(pairs=True), pairs) == 160
