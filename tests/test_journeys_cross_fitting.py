"""The folds of a training: each is the training itself without some classes."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import likewise as lw
from likewise.errors import InputError
from likewise.evaluation import compare_with_baseline
from likewise.journeys import choosing, cross_fitting, frozen
from test_journeys_encoders import TINY, needs_timm, random_weights  # noqa: F401

QUICK = {"epochs": 2, "batches": 6}
TOLD = {"device": "cpu", "progress": False}


def blobs(sizes, width=8, seed=0):
    """Vectors of classes of these sizes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(sizes), width))[labels] + 0.5 * rng.normal(size=(len(labels), width))
    return lw.data.load((x.astype(np.float32), labels))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"pairs": True},
        {"encoder": "none", "train": "head"},
        {"encoder": "none", "train": "head", "head": "whitening"},
        {"encoder": "none", "train": "head", "pairs": True},
    ],
    ids=str,
)
def test_each_fold_is_a_training_without_its_classes(choices):
    data = blobs([12] * 7)
    recipe = lw.Recipe(**QUICK, **choices, keep_aside=0.25)
    model = lw.train(data, recipe, **TOLD)
    new = model.is_new(data)
    kept, aside = (lw.data.Subset(data, where.nonzero()[:, 0]) for where in (~new, new))
    plan = cross_fitting.plan(kept, recipe, 6, aside)
    found = model.cross_fit
    assert found.folds == len(plan.folds) == 3
    for fold, (names, batches) in enumerate(zip(plan.folds, plan.batches, strict=True)):
        rest = [name for name in data.class_names if name not in names]
        alone = dataclasses.replace(recipe, batches=batches, cross_fit="off", keep_aside=0.0)
        other = lw.train(lw.data.choose_classes(kept, rest), alone, **TOLD)
        assert set(other.trained_on) == set(rest)
        indexed = other.embed(lw.data.choose_classes(kept, rest))
        for part, among, distances, folds in (
            (aside, rest, found.known, found.known_folds),
            (kept, names, found.unknown, found.unknown_folds),
        ):
            queries = other.embed(lw.data.choose_classes(part, among))
            nearest = other.distance.matrix(queries, indexed).amin(dim=1)
            torch.testing.assert_close(distances[folds == fold].sort()[0], nearest.sort()[0])


@pytest.mark.parametrize("choices", [{"train": "none"}, {}], ids=str)
@pytest.mark.parametrize("kind", ["classes", "pairs of classes", "given pairs"])
def test_a_frozen_encoder_without_a_head_was_trained_on_nothing(choices, kind):
    data = blobs([6] * 5)  # too few classes to try a head on
    recipe = lw.Recipe(encoder="none", pairs=kind != "classes", **choices)
    drawn = lw.data.PairDataset(data, per_item=1.0, seed=0)
    given = lw.data.GivenPairs(data, drawn.pairs, drawn.same)
    model = lw.train(given if kind == "given pairs" else data, recipe, **TOLD)
    assert isinstance(model.encoder, nn.Identity)
    assert model.trained_on == []
    assert bool(model.is_new(data).all())
    assert model.cross_fit is None
    assert model.origin["history"] == model.origin["baselines"] == []


@needs_timm
def test_a_head_of_none_is_not_tried(monkeypatch, random_weights):  # noqa: F811
    monkeypatch.setattr(frozen, "tried", lambda *_: 1 / 0)
    images = torch.rand(12, 3, 66, 66, generator=torch.Generator().manual_seed(0))
    data = lw.data.ArrayDataset(images, [row % 6 for row in range(12)])
    model = lw.train(data, lw.Recipe(encoder=TINY, head="none", keep_aside=0.0), **TOLD)
    assert model.trained_on == []
    assert "decided" not in model.origin


def test_two_items_of_each_class_train_without_folds():
    recipe = lw.Recipe(**QUICK, keep_aside=0.0)
    for sizes, aside, folds in (
        ([2] * 4, 0.0, None),  # a query of each class leaves one item to train on
        ([3] * 4, 0.0, 4),
        ([3] * 4, 0.1, 4),
        ([3, 3, 1, 1], 0.1, None),  # a fold without both classes of three
    ):
        model = lw.train(blobs(sizes), dataclasses.replace(recipe, keep_aside=aside), **TOLD)
        found = model.cross_fit
        assert (None if found is None else found.folds) in (folds, folds and 3)
    with pytest.raises(InputError, match="cross_fit must leave a class with 2 items to train on"):
        lw.train(blobs([2] * 4), dataclasses.replace(recipe, cross_fit=3), **TOLD)


@pytest.mark.parametrize(
    ("choices", "total"),
    [
        ({"encoder": "none", "train": "head"}, 36),
        (
            {
                "keep_best": "unseen_map_at_r",
                "patience": 1,
                "hold_out_classes": 0.25,
                "keep_aside": 0.25,
            },
            None,
        ),
    ],
)
def test_progress_ends_with_the_last_fold(choices, total):
    seen = []
    recipe = lw.Recipe(**{**QUICK, "epochs": 2 if total else 9}, **choices)
    model = lw.train(blobs([12] * 8), recipe, device="cpu", progress=lambda *now: seen.append(now))
    epochs = len(model.origin["history"])
    assert total or epochs < 9
    assert seen[-1][0] == seen[-1][1]
    assert seen[-1][1] == pytest.approx(epochs * 18, abs=epochs)
    of_batches = [done for done, most in seen if most == seen[-1][1]]
    assert len(of_batches) >= 0.6 * seen[-1][1]


def test_baselines_are_beside_the_epoch_that_was_kept():
    digits = lw.data.load("digits", split="train")
    recipe = lw.Recipe(
        epochs=4,
        batches=3,
        hold_out_classes=0.3,
        keep_best="unseen_map_at_r",
        learning_rate=0.3,  # after which later epochs are worse
        made_classes="none",
        cross_fit="off",
    )
    model = lw.train(digits, recipe, **TOLD)
    scores = [record["unseen_map_at_r"] for record in model.origin["history"]]
    assert model.origin["selected_epoch"] == 1 + scores.index(max(scores)) < 4
    held = [name for name in digits.class_names if name not in model.trained_on]
    unseen = lw.data.choose_classes(digits, held)
    raw = lw.data.items(unseen).flatten(1)
    expected = compare_with_baseline(model.embed(unseen), raw, unseen.labels)
    (told,) = model.origin["baselines"]
    measure = expected.comparison.measures["retrieval map_at_r"]
    found = told["measures"]["retrieval map_at_r"]
    assert found["a"]["value"] == pytest.approx(measure.a.value)


def test_absent_weights_are_told_of_once(monkeypatch):
    monkeypatch.setattr(choosing, "missing", lambda name, weights=None: "no weights here")
    rng = np.random.default_rng(0)
    images = lw.data.ArrayDataset(
        rng.random((12, 66, 66, 3)).astype(np.float32), np.repeat(np.arange(3), 4).tolist()
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = lw.train(images, lw.Recipe(epochs=1, batches=1), **TOLD)
    assert model.cross_fit.folds == 3
    assert len([each for each in said if "no weights here" in str(each.message)]) == 1


def test_the_command_line_takes_a_number_of_folds_or_a_word(run, tmp_path):
    words = ("train", "digits", "--epochs", 1, "--batches", 1, "--features", 0)
    words += ("--device", "cpu", "--json")
    for given, folds in (("2", 2), ("off", None)):
        status, told, said = run(*words, "--out", tmp_path / given, "--cross-fit", given)
        assert status == 0, said
        assert json.loads(told)["recipe"]["cross_fit"] == (folds or given)
        found = lw.load(tmp_path / given).cross_fit
        assert (None if found is None else found.folds) == folds
        assert ("cross-fit: 2 more encoders" in said) == bool(folds)
    for wrong, sentence in (
        ("many", "--cross-fit must be one of auto, off, got 'many'"),
        ("1", "--cross-fit must be at least 2, got 1"),
        ("11", "--cross-fit must be at most the number of classes, 10"),
    ):
        status, _, said = run(*words, "--out", tmp_path / "m", "--cross-fit", wrong)
        assert (status, sentence in said) == (2, True), said
