"""Features beside the embedding: against their definition, condensed, in a recipe, saved."""

import math

import pytest
import torch
from torch import nn

import likewise as lw
from likewise.encoders import ConvEncoder, MLPEncoder, WithFeatures, condensed
from likewise.errors import InputError, InputTypeError
from likewise.journeys.choosing import settled

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_pairs_are_apart_as_the_weighted_mean_of_both(weight):
    torch.manual_seed(0)
    encoder = ConvEncoder((1, 8, 8), layers=(3, "pool", 4), embedding_dim=5).eval()
    rows = unit(WithFeatures(encoder, weight=weight)(IMAGES))
    embeddings, features = unit(encoder(IMAGES)), unit(encoder.features(IMAGES))
    expected = (embeddings @ embeddings.T + weight * features @ features.T) / (1 + weight)
    torch.testing.assert_close(rows @ rows.T, expected)


def test_beside_a_dense_network_stand_the_items():
    encoder = MLPEncoder((64,), embedding_dim=3).eval()
    vectors = IMAGES.flatten(1)
    rows = WithFeatures(encoder, weight=4.0)(vectors)
    torch.testing.assert_close(rows, torch.cat([encoder(vectors), 2 * unit(vectors)], dim=1))


@pytest.mark.parametrize("count", [5, 40])  # fewer and more than numbers
def test_few_numbers_keep_the_products_as_the_best_of_that_rank_does(count):
    x = torch.randn(count, 12, generator=torch.Generator().manual_seed(1)) * torch.logspace(
        0, -2, 12
    )
    few = condensed(x, 4)(x)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    best = (left[:, :4] * values[:4]) @ right[:4]
    torch.testing.assert_close(few @ few.T, best @ best.T, atol=1e-5, rtol=1e-5)
    assert torch.equal(
        condensed(x.flip(0), 4).weight.round(decimals=3), condensed(x, 4).weight.round(decimals=3)
    )


@pytest.mark.parametrize("count", [1, 3])
def test_with_fewer_items_than_numbers_the_others_are_across(count):
    x = torch.randn(count, 9)
    layer = condensed(x, 6)
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1))
    assert torch.equal(condensed(x, 6).weight, layer.weight)
    assert condensed(torch.zeros(2, 9), 6)(torch.zeros(2, 9)).eq(0).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputTypeError, match="encoder must be a ConvEncoder or MLPEncoder, got L"):
        WithFeatures(nn.Linear(2, 2))
    with pytest.raises(InputError, match="weight must be"):
        WithFeatures(MLPEncoder((3,)), weight=0.0)
    with pytest.raises(InputError, match="dim must be at most 3"):
        condensed(torch.rand(5, 3), 4)
    with pytest.raises(InputError, match="embeddings must be finite"):
        condensed(torch.tensor([[1.0, math.nan]]), 1)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"features": -1.0}, "features must be 0 or above"),
        ({"features": math.inf}, "features must be a finite number"),
        ({"features": 1.0, "encoder": "none"}, "features must be left out for none"),
        (
            {"features": 1.0, "labels": False, "projection": "keep"},
            "features must be left out where",
        ),
        ({"features": 1.0, "towers": ("small", "small")}, "features must be left out with towers"),
    ],
)
def test_a_recipe_refuses_features_that_there_are_not(choices, message):
    with pytest.raises(InputError, match=message):
        lw.Recipe(**choices)


def test_a_trained_model_has_the_features_beside_and_as_many_numbers(tmp_path):
    digits = lw.data.sample_items(lw.data.load("digits"), per_class=20)
    recipe = lw.Recipe(epochs=1, batches=2, cross_fit="off", embedding_dim=16)
    model = lw.train(digits, recipe, progress=False)
    whole, few, _ = model.encoder
    assert isinstance(whole, WithFeatures)
    assert whole.weight == 2.0
    assert few.out_features == 16
    items = lw.data.items(digits)
    embeddings = model.embed(items)
    expected = unit(few(whole(model.preprocess.apply(items)))).detach()
    torch.testing.assert_close(embeddings, expected)
    model.save(tmp_path / "model")
    assert torch.equal(lw.load(tmp_path / "model").embed(items), embeddings)
    again = lw.train(digits, recipe, progress=False)
    assert torch.equal(again.embed(items), embeddings)


def test_without_features_the_model_has_the_embedding_alone():
    digits = lw.data.sample_items(lw.data.load("digits"), per_class=20)
    recipe = lw.Recipe(epochs=1, batches=2, cross_fit="off", features=0)
    assert isinstance(lw.train(digits, recipe, progress=False).encoder, ConvEncoder)


GRAY, COLOR, WIDE, VECTORS = (1, 8, 8), (3, 8, 8), (1, 8, 9), (8,)


@pytest.mark.parametrize(
    ("choices", "shape", "classes", "expected"),
    [
        ({}, GRAY, 49, (2.0, "both", 3e-3)),
        ({}, GRAY, 50, (0.0, "both", 3e-3)),
        ({"hold_out_classes": 0.5}, GRAY, 98, (2.0, "both", 3e-3)),
        ({"hold_out_classes": ("a", "b")}, GRAY, 51, (2.0, "both", 3e-3)),
        ({}, COLOR, 10, (2.0, "none", None)),
        ({}, WIDE, 10, (2.0, "none", 3e-3)),
        ({}, VECTORS, 10, (2.0, "none", None)),
        ({"pairs": True}, GRAY, 10, (0.0, "none", None)),
        ({"labels": False}, GRAY, 10, (0.0, "none", None)),
        ({"encoder": "none"}, VECTORS, 10, (0.0, "none", None)),
        (
            {"features": 1, "made_classes": "none", "learning_rate": 0.1},
            GRAY,
            99,
            (1, "none", 0.1),
        ),
    ],
)
def test_what_a_recipe_leaves_open_its_data_decides(choices, shape, classes, expected):
    recipe = settled(lw.Recipe(**choices), shape, classes)
    assert (recipe.features, recipe.made_classes, recipe.learning_rate) == expected
