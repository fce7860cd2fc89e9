"""`likewise.train` and `likewise train` are one road: the same recipe gives the same model."""

import json

import pytest
import torch

import likewise as lw
from likewise.encoders.naming import small
from likewise.journeys.choosing import settled
from likewise.journeys.fitting import fitting_loss

QUICK = {"epochs": 2, "batches": 3}
ALONE, TOLD = {"cross_fit": "off"}, ("--cross-fit", "off")  # no other encoder beside it


def weights(model):
    return [weight.flatten() for weight in model.encoder.state_dict().values()]


@pytest.mark.parametrize(
    ("choices", "options"),
    [
        ({}, ()),
        (
            {"loss": "triplet", "margin": 0.3, "hold_out_classes": ["0", "4"], "seed": 3, **ALONE},
            ("--loss", "triplet", "--margin", 0.3, "--hold-out-classes", "0,4", *TOLD, "--seed", 3),
        ),
        (
            {"pairs": True, "distance": "euclidean", "hold_out_classes": 0.4},
            ("--pairs", "--distance", "euclidean", "--hold-out-classes", "40%"),
        ),
        (
            {"loss": "arcface", "made_classes": "turned", "keep_aside": 0.3, **ALONE},
            ("--loss", "arcface", "--made-classes", "turned", "--keep-aside", 0.3, *TOLD),
        ),
    ],
)
def test_python_and_the_command_line_give_the_same_model_bit_for_bit(
    run, tmp_path, choices, options
):
    recipe = lw.Recipe(**QUICK, **choices)
    ours = lw.train("digits", recipe, device="cpu")
    quick = ("--epochs", 2, "--batches", 3, "--device", "cpu", "--json")
    status, told, said = run("train", "digits", "--out", tmp_path / "m", *quick, *options)
    assert status == 0, said
    theirs = lw.load(tmp_path / "m")
    assert json.loads(told)["recipe"] == ours.origin["recipe"]
    assert lw.Recipe.from_dict(ours.origin["recipe"]) == settled(recipe, (1, 8, 8), 10)
    assert all(torch.equal(a, b) for a, b in zip(weights(ours), weights(theirs), strict=True))
    assert ours.fingerprint == theirs.fingerprint
    assert ours.preprocess == theirs.preprocess
    assert ours.trained_on == theirs.trained_on
    assert torch.equal(ours.trained_prints, theirs.trained_prints)

    file = recipe.write(tmp_path / "recipe.toml")
    status, told, said = run(
        "train", "digits", "--out", tmp_path / "f", "--recipe", file, "--device", "cpu", "--json"
    )
    assert status == 0, said
    assert lw.load(tmp_path / "f").fingerprint == ours.fingerprint


def test_an_option_goes_before_the_file_and_the_file_before_the_default(run, tmp_path):
    file = lw.Recipe(**QUICK, **ALONE, embedding_dim=5).write(tmp_path / "recipe.toml")
    out = ("--out", tmp_path / "m", "--recipe", file, "--json", "--device", "cpu")
    status, told, said = run("train", "digits", *out, "--epochs", 1)
    assert status == 0, said
    recipe = json.loads(told)["recipe"]
    assert (recipe["epochs"], recipe["batches"], recipe["embedding_dim"]) == (1, 3, 5)
    assert lw.load(tmp_path / "m").origin["recipe"] == recipe


def test_another_seed_gives_another_model():
    first, again, other = (
        lw.train("digits", lw.Recipe(**QUICK, **ALONE, seed=seed), device="cpu")
        for seed in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_what_is_held_out_and_kept_aside_is_not_trained_on():
    digits = lw.data.load("digits", split="train")
    model = lw.train(
        digits,
        lw.Recipe(**QUICK, **ALONE, hold_out_classes=["3", "8"], keep_aside=0.5),
        device="cpu",
    )
    assert set(model.trained_on) == set("01245679")
    new = model.is_new(digits)
    names = torch.tensor([int(name) for name in digits.class_names])[digits.labels]
    held = (names == 3) | (names == 8)
    assert bool(new[held].all())
    assert 0.45 < float(new[~held].double().mean()) < 0.55


def test_the_best_epoch_is_kept_as_the_recipe_asks():
    choices = {"hold_out_classes": 0.3, "keep_best": "unseen_map_at_r", "learning_rate": 0.05}
    recipe = lw.Recipe(epochs=3, batches=2, **choices, **ALONE)
    model = lw.train("digits", recipe, device="cpu")
    scores = [record["unseen_map_at_r"] for record in model.origin["history"]]
    assert model.origin["selected_epoch"] == scores.index(max(scores)) + 1
    assert model.origin["evaluate"] == "aside"
    with pytest.raises(lw.InputError, match="keep_best must be a loss, a rate or a score"):
        lw.train("digits", lw.Recipe(keep_best="nonsense"))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"hold_out_classes": ["cat"]}, r"hold_out_classes must name classes of the data"),
        ({"hold_out_classes": list("0123456789")}, "must leave some classes to train on"),
        ({"hold_out_classes": 0.01}, "must leave some of 10 classes and hold out some"),
        ({"distance": "snr"}, "distance must be one of .* for multi-similarity, got snr"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_refused(choices, sentence):
    with pytest.raises(lw.InputError, match=sentence):
        lw.train("digits", lw.Recipe(**choices))


def test_given_pairs_train_and_have_no_classes_to_hold_out():
    digits = lw.data.load("digits", split="test")
    drawn = lw.data.PairDataset(digits, per_item=1.0, seed=0)
    pairs = lw.data.GivenPairs(digits, drawn.pairs, drawn.same)
    model = lw.train(pairs, lw.Recipe(**QUICK, pairs=True), device="cpu")
    assert model.trained_on == []
    assert len(model.trained_prints) == len(digits)
    with pytest.raises(lw.InputError, match="hold_out_classes must be left out for given pairs"):
        lw.train(pairs, lw.Recipe(pairs=True, hold_out_classes=0.5))
    with pytest.raises(lw.InputError, match=r"keep_aside must be left out for given pairs.* 0\.3"):
        lw.train(pairs, lw.Recipe(pairs=True, keep_aside=0.3))
    with pytest.raises(lw.InputError, match="pairs must be True for given pairs"):
        lw.train(pairs, lw.Recipe())


def test_the_network_and_the_loss_fit_the_items_and_the_distance():
    assert small((1, 8, 8)).config["layers"] == [32, "pool", 64]
    assert type(small((12,))).__name__ == "MLPEncoder"
    for distance, center in (("cosine", 0.5), ("euclidean", 1.0), ("inner_product", -0.5)):
        loss = fitting_loss(lw.Recipe(distance=distance), lw.distances.by_name(distance), 4)
        assert loss.center == center == lw.losses.fitting_center(loss.distance)
