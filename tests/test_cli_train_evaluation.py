import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import likewise as lw

IMAGES, LABELS = load_digits(return_X_y=True)


@pytest.fixture
def train(run, tmp_path):
    def train(*options, source="digits", out="model", batches=3):
        quick = ["--batches", batches, "--cross-fit", "off", "--json", "--device", "cpu"]
        status, told, said = run("train", source, "--out", tmp_path / out, *quick, *options)
        return status, json.loads(told) if status == 0 else None, said

    return train


@pytest.mark.parametrize("loss", ["multi-similarity", "triplet"])
@pytest.mark.parametrize("following", [(), ("--keep-best", "loss")])
def test_a_training_that_diverges_saves_nothing(train, tmp_path, loss, following):
    options = ("--learning-rate", 1e30, "--epochs", 2, "--loss", loss, *following)
    status, _, said = train(*options)
    assert status == 2
    assert "must stay finite" in said
    assert not (tmp_path / "model").exists()


HELD_OUT = ("--hold-out-classes", "0,4,5,8")
NUMBERS = ("precision_at_1", "r_precision", "map_at_r", "roc_auc", "equal_error_rate")


def test_items_kept_aside_and_classes_held_out_are_scored_as_the_encoder_learns(train, tmp_path):
    status, told, said = train(*HELD_OUT, "--evaluate", "aside", "--epochs", 2)
    assert status == 0
    for record in told["history"]:
        for part in ("seen", "unseen"):
            assert {f"{part}_{number}" for number in NUMBERS} <= set(record)
            assert 0.3 < record[f"{part}_map_at_r"] <= 1
    assert "unseen_map_at_r 0." in said
    assert "selected_by" not in told
    model = lw.load(tmp_path / "model")
    assert model.origin["history"] == told["history"]
    assert model.origin["evaluate"] == "aside"


def test_the_scored_items_are_not_those_trained_on(train, tmp_path, monkeypatch):
    from likewise.journeys import scoring as journey

    given = {}
    real = journey.EvaluateEpochs

    def watch(parts, **settings):
        given.update(parts)
        return real(parts, **settings)

    monkeypatch.setattr(journey, "EvaluateEpochs", watch)
    train(*HELD_OUT, "--evaluate", "aside", "--epochs", 1)
    model = lw.load(tmp_path / "model")
    for part in given.values():
        assert bool(model.is_new(part).all())
    assert set(lw.data.items_per_class(given["seen"])) == set(model.trained_on)
    assert set(lw.data.items_per_class(given["unseen"])) == {"0", "4", "5", "8"}
    train(*HELD_OUT, "--evaluate", "digits", "--split", "all", "--epochs", 1, out="other")
    model = lw.load(tmp_path / "other")
    assert len(given["seen"]) < 447
    for part in given.values():
        assert bool(model.is_new(part).all())


def test_the_best_epoch_is_kept_and_said_to_have_been_chosen(run, train, tmp_path):
    by = "unseen_map_at_r"
    # Epochs are scored by the embedding alone.
    options = (*HELD_OUT, "--epochs", 4, "--learning-rate", 0.05, "--features", 0)
    _, plain, _ = train(*options, "--evaluate", "aside", out="last")
    status, told, _ = train(*options, "--keep-best", by)
    assert status == 0
    scores = [record[by] for record in told["history"]]
    assert scores == [record[by] for record in plain["history"]]
    assert told["selected_by"] == by
    assert told["selected_epoch"] == scores.index(max(scores)) + 1 < 4
    assert told["selected_on"] == ["0", "4", "5", "8"]
    model, last = lw.load(tmp_path / "model"), lw.load(tmp_path / "last")
    assert model.fingerprint != last.fingerprint
    assert model.origin["selected_by"] == by
    unseen = lw.data.choose_classes(lw.data.load("digits", split="train"), ["0", "4", "5", "8"])
    found = lw.evaluation.evaluate_retrieval(model.embed(unseen), unseen.labels)
    assert float(found.map_at_r) == pytest.approx(max(scores), abs=1e-6)

    status, out, _ = run("evaluate", tmp_path / "model", "digits")
    assert status == 0
    assert (
        f"epoch {told['selected_epoch']} was chosen by {by} on items of classes 0, 4, 5, 8: these "
        "classes are no longer untouched, and numbers on them are biased upward"
    ) in out
    assert "was chosen" not in run("evaluate", tmp_path / "last", "digits")[1]


def test_a_training_that_does_not_gain_any_more_stops(train):
    options = (*HELD_OUT, "--epochs", 9, "--learning-rate", 0.05)
    by = "unseen_map_at_r"
    status, told, _ = train(*options, "--keep-best", by, "--patience", 1)
    scores = [record[by] for record in told["history"]]
    assert status == 0
    assert 1 < len(scores) < 9
    assert scores[-1] <= scores[-2]
    assert scores[:-1] == sorted(set(scores[:-1]))
    assert told["selected_epoch"] == scores.index(max(scores)) + 1


def test_scores_come_each_so_many_epochs_and_from_other_data(train, tmp_path):
    np.savez(tmp_path / "some.npz", x=IMAGES[:900].reshape(-1, 8, 8), y=LABELS[:900])
    np.savez(tmp_path / "more.npz", x=IMAGES[800:].reshape(-1, 8, 8), y=LABELS[800:])
    _, told, _ = train(
        *("--evaluate", tmp_path / "more.npz", "--evaluate-every", 2, "--epochs", 4),
        *("--hold-out-classes", "0,4,5,8", "--keep-best", "loss"),
        source=tmp_path / "some.npz",
    )
    scored = [r["epoch"] for r in told["history"] if {"seen_roc_auc", "unseen_roc_auc"} <= set(r)]
    assert scored == [1, 2, 4]
    assert told["selected_by"] == "loss"
    assert told["selected_on"] == []


def test_a_part_with_one_class_is_told_of_and_not_scored(train):
    status, told, said = train("--hold-out-classes", "4", "--evaluate-every", 1, "--epochs", 1)
    assert status == 0
    assert "unseen classes are not scored: it takes 2 of them, and 2 items of one" in said
    assert not [name for name in told["history"][0] if name.startswith("unseen")]
    assert "seen_map_at_r" in told["history"][0]


@pytest.fixture
def tables(tmp_path):
    """Two tables of pairs of pictures that share none."""
    rng = np.random.default_rng(0)
    for name, first in (("train", 0), ("judge", 60)):
        rows = range(first, first + 60)
        for row in rows:
            pixels = (IMAGES[row].reshape(8, 8) / 16 * 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        drawn = {tuple(sorted(rng.choice(rows, 2, replace=False))) for _ in range(150)}
        lines = [f"{a}.png,{b}.png,{int(LABELS[a] == LABELS[b])}" for a, b in sorted(drawn)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,same", *lines]) + "\n")
    return tmp_path


def test_a_training_on_pairs_is_scored_on_other_pairs(run, train, tables):
    options = ("--pairs", "--epochs", 1, "--evaluate")
    status, told, _ = train(*options, tables / "judge.csv", source=tables / "train.csv")
    assert status == 0
    assert {"pairs_roc_auc", "pairs_equal_error_rate"} <= set(told["history"][0])
    quick = ("--batches", 3, "--device", "cpu", "--out", tables / "kept", "--cross-fit", "off")
    best = ("--keep-best", "pairs_roc_auc")
    _, told, _ = run("train", tables / "train.csv", *options, tables / "judge.csv", *quick, *best)
    assert "epoch 1 was chosen by pairs_roc_auc on the pairs of" in told
    assert "judge.csv: numbers on these pairs are biased upward" in told
    for other, message in (
        (tables / "train.csv", "--evaluate must be pairs of other images than those trained on"),
        (
            "digits",
            "--evaluate must be pairs where pairs are trained on, got labeled items",
        ),
        ("aside", "--evaluate must have 2 classes of items that are not trained on, got none"),
    ):
        status, _, said = train(*options, other, source=tables / "train.csv", out="none")
        assert status == 2
        assert message in said


def test_tensorboard_gets_the_scores_of_every_epoch(train, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, told, _ = train("--evaluate", "aside", "--epochs", 2, "--track", "tensorboard")
    events = EventAccumulator(str(tmp_path / "runs" / "model")).Reload()
    logged = [event.value for event in events.Scalars("seen_map_at_r")]
    assert logged == pytest.approx([record["seen_map_at_r"] for record in told["history"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--patience", 2), "--patience must be left out without keep_best, got 2. Say by --k"),
        (("--keep-best", "active"), "--keep-best must be a loss, a rate or a score"),
        (("--keep-best", "unseen_map_at_r"), "--keep-best must be one of seen_equal_error_rate, "),
        (("--keep-best", "seen_mpa"), "--keep-best must be a loss, a rate or a score"),
        (
            ("--keep-best", "x_accuracy"),
            "--keep-best must be a number that came up by epoch 1",
        ),
        (("--keep-aside", 0, "--evaluate", "aside"), "--evaluate must have 2 classes of items"),
        (("--evaluate", "nowhere"), "--evaluate must be one of digits, mnist, "),
        (("--evaluate", ""), "or a path that exists, got ''"),
        (("--evaluate-every", 0), "--evaluate-every must be at least 1, got 0"),
        (("--split", "foo"), "split must be one of all, gallery, query, test, train, val, got"),
        (("--track", "paper"), "--track must be one of mlflow, tensorboard, wandb, got 'paper'"),
    ],
)
def test_options_that_cannot_work_end_in_one_sentence(train, options, message, tmp_path):
    status, _, said = train("--epochs", 1, *options)
    assert status == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "model").exists()


def test_a_tracker_without_its_package_ends_in_one_sentence(train, monkeypatch):
    from accelerate import tracking

    monkeypatch.setattr(tracking, "_available_trackers", [])
    status, _, said = train("--track", "tensorboard")
    assert status == 2
    assert "got 'tensorboard' without it. Use pip install \"likewise[trackers]\"." in said


def test_a_model_does_not_go_where_the_tracker_logs(run, tmp_path):
    status, _, err = run("train", "digits", "--out", tmp_path / "runs", "--track", "tensorboard")
    assert status == 2
    assert "out must not be runs with --track, which logs there" in err
