import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import likewise as lw

IMAGES, LABELS = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of other make: one is trained longer, both are indexed and calibrated."""
    from likewise.cli import journeys
    from likewise.journeys.index import index

    folder = tmp_path_factory.mktemp("compare")
    for name, epochs, batches in (("good", 2, 20), ("poor", 1, 2)):
        recipe = lw.Recipe(
            epochs=epochs, batches=batches, embedding_dim=8, features=0, made_classes="none"
        )
        made = lw.train("digits", recipe)
        if name == "poor":
            made.save(folder / "bare")
        digits = lw.data.load("digits", split="train")
        few = lw.data.sample_items(digits, per_class=5 if name == "good" else 10)
        index(made, few, source="digits")
        journeys.calibrate(made, "digits", split=None, goal="f1", rule=None, k=1, seed=0)
        made.save(folder / name)
    return folder


def items(path, rows):
    np.savez(path, x=IMAGES[rows].reshape(-1, 8, 8).astype(np.float32) / 16, y=LABELS[rows])
    return path


def test_two_models_get_a_table_a_verdict_and_a_page(run, models, tmp_path):
    page = tmp_path / "page.html"
    status, out, err = run("compare", models / "good", models / "poor", "digits", "--report", page)
    assert status == 0, err
    assert "447 items new to both models" in out
    assert "good is ahead on retrieval precision_at_1 by 0." in out
    assert "adjusted for 7 measures (Holm)." in out
    html = page.read_text()
    assert "<h1>good and poor on digits</h1>" in html
    assert html.count("<img") == 4
    assert "good − poor" in html


def test_numbers_are_those_of_each_model_alone_and_the_other_order_turns_the_signs(run, models):
    arguments = (models / "good", models / "poor", "digits", "--json")
    told = json.loads(run("compare", *arguments)[1])
    assert told["names"] == ["good", "poor"]
    for model, side in (("good", "a"), ("poor", "b")):
        alone = json.loads(run("evaluate", models / model, "digits", "--json")[1])
        found = {name: one[side] for name, one in told["measures"].items()}
        assert found["retrieval map_at_r"] == pytest.approx(alone["retrieval"]["map_at_r"])
        assert found["verification roc_auc"] == pytest.approx(alone["verification"]["roc_auc"])
        assert found["matching accuracy"] == pytest.approx(alone["matching"]["accuracy"])
    turned = json.loads(run("compare", arguments[1], arguments[0], *arguments[2:])[1])
    for name, one in told["measures"].items():
        other = turned["measures"][name]
        assert other["difference"]["value"] == pytest.approx(-one["difference"]["value"])
        assert other["p_value"] == pytest.approx(one["p_value"])


def test_only_items_new_to_both_count(run, models):
    told = json.loads(
        run("compare", models / "good", models / "poor", "digits", "--split", "all", "--json")[1]
    )
    import likewise as lw

    whole = lw.data.load("digits")
    new = [lw.load(models / name).is_new(whole) for name in ("good", "poor")]
    assert told["items"] == int((new[0] & new[1]).sum())
    assert told["left_out"] == int((~new[0] | ~new[1]).sum()) > int((~new[0]).sum())


def test_a_model_without_index_is_compared_on_the_rest(run, models):
    status, out, _ = run("compare", models / "good", models / "bare", "digits")
    assert status == 0
    assert "no matching, for which both must be indexed and calibrated" in out
    assert "adjusted for 5 measures" in out


def test_the_verdict_can_be_for_new_classes(run, models):
    arguments = ("compare", models / "good", models / "poor", "digits", "--json")
    of_items, of_classes = (
        json.loads(run(*arguments, "--holds-for", held)[1]) for held in ("items", "classes")
    )
    for name, one in of_items["measures"].items():
        other = of_classes["measures"][name]
        assert other["difference"]["value"] == pytest.approx(one["difference"]["value"])
        assert "10 groups" in other["difference"]["method"]
        assert "10 groups" not in one["difference"]["method"]


def test_what_cannot_be_compared_is_said_in_a_sentence(run, models, tmp_path):
    good, poor = models / "good", models / "poor"
    one = items(tmp_path / "one.npz", np.flatnonzero(LABELS == 3)[-30:])
    seen = tmp_path / "seen.npz"
    import likewise as lw

    train = lw.data.load("digits", split="train")
    known = torch.isin(lw.data.fingerprints(train), lw.load(good).trained_prints)
    rows = known.nonzero().flatten()[:50]
    np.savez(seen, x=lw.data.items(train, rows.tolist()).numpy(), y=train.labels[rows].numpy())
    (tmp_path / "five").mkdir()
    for arguments, sentence in (
        ((good, models / "." / "good", "digits"), "MODEL_B must be another folder than MODEL_A"),
        ((good, poor, seen), "DATA must hold items that neither model was trained on"),
        ((good, poor, one), "data must have at least 2 classes"),
        ((good, poor, one, "--holds-for", "people"), "--holds-for must be one of classes, items"),
        ((good, poor, "digits", "--report", tmp_path / "no" / "p.html"), "folder of report must"),
        ((good, tmp_path / "five", "digits"), "likewise: "),
    ):
        status, out, err = run("compare", *arguments)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1, err
        assert sentence in err


def test_numbers_that_are_too_good_are_said_to_be(run, models, tmp_path):
    import shutil

    chosen, calibrated = tmp_path / "chosen", tmp_path / "calibrated"
    for copy in (chosen, calibrated):
        shutil.copytree(models / "good", copy)
    model = lw.load(chosen)
    model.origin |= {"selected_by": "seen_map_at_r", "selected_epoch": 1, "selected_on": ["3"]}
    model.save(chosen)
    assert run("calibrate", calibrated, "digits", "--split", "test", "--rule", "pairs")[0] == 0
    told = json.loads(run("compare", chosen, calibrated, "digits", "--json")[1])["biased"]
    assert told[0].startswith("chosen: epoch 1 was chosen by seen_map_at_r on items of classes 3")
    assert told[-1].startswith("calibrated: ")
    assert told[-1].endswith("of the items were calibrated on, which biases its thresholds")
    lines = run("compare", chosen, calibrated, "digits", "--report", tmp_path / "page.html")[1]
    assert told[0] in lines
    assert "which biases its thresholds" in (tmp_path / "page.html").read_text()


def test_few_items_or_classes_are_compared_without_intervals(run, models, tmp_path):
    five = items(tmp_path / "five.npz", np.flatnonzero(LABELS < 5)[-60:])
    six, test = tmp_path / "six.npz", lw.data.load("digits", split="test")
    rows = [row for code in (0, 1) for row in np.flatnonzero(test.labels == code)[:3]]
    np.savez(six, x=lw.data.items(test, rows).numpy(), y=test.labels[rows].numpy())
    for source, held, why in (
        (five, "classes", "no intervals: 5 classes are new to both, fewer than 10"),
        (six, "items", "no intervals of verification: 6 items are new to both, fewer than 10"),
    ):
        page = tmp_path / "page.html"
        arguments = ("compare", models / "good", models / "poor", source, "--holds-for", held)
        status, out, err = run(*arguments, "--report", page)
        assert status == 0, err
        assert why in out
        assert why in page.read_text()
        told = json.loads(run(*arguments, "--json")[1])
        for name, one in told["measures"].items():
            missing = one["difference"]["low"] is None
            assert missing or (held == "items" and "verification" not in name)


def test_unlabeled_items_are_not_compared(run, models, tmp_path):
    labels = LABELS[-90:].copy()
    labels[:30] = -1
    for name, rows in (("all", slice(None)), ("labeled", slice(30, None))):
        x = IMAGES[-90:][rows].reshape(-1, 8, 8).astype(np.float32) / 16
        np.savez(tmp_path / f"{name}.npz", x=x, y=labels[rows])
    first, second = (
        json.loads(
            run("compare", models / "good", models / "poor", tmp_path / f"{name}.npz", "--json")[1]
        )
        for name in ("all", "labeled")
    )
    assert first["measures"] == second["measures"]
