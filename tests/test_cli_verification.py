import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import likewise as lw

IMAGES, LABELS = load_digits(return_X_y=True)


def table(folder, name, rows, count, seed, truth=True):
    """A CSV of pairs of digit images, half the same, over some rows of the digits."""
    rng = np.random.default_rng(seed)
    path, pairs = folder / name, {}
    while len(pairs) < count:
        a, b = rng.choice(rows, 2, replace=False).tolist()
        same = LABELS[a] == LABELS[b]
        if same == (len(pairs) % 2 == 0) and (b, a) not in pairs:
            pairs[a, b] = same
    for row in {row for pair in pairs for row in pair}:
        pixels = (IMAGES[row].reshape(8, 8) / 16 * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    with path.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["a", "b", "same"][: 2 + truth])
        for (a, b), same in pairs.items():
            writer.writerow([f"{a}.png", f"{b}.png", int(same)][: 2 + truth])
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "train": table(folder, "train.csv", range(300), 300, 0),
        "calibrate": table(folder, "calibrate.csv", range(300, 500), 150, 1),
        "judge": table(folder, "judge.csv", range(500, 700), 120, 2),
        "unknown": table(folder, "unknown.csv", range(700, 720), 10, 3, truth=False),
    }


@pytest.fixture(scope="module")
def model(tables, tmp_path_factory):
    from likewise.cli import journeys

    pairs = lw.data.load_pairs(tables["train"], channels=1)
    made = lw.train(pairs, lw.Recipe(pairs=True, epochs=4))
    journeys.calibrate(
        made, str(tables["calibrate"]), split=None, goal="accuracy", rule=None, k=1, seed=0
    )
    return made.save(tmp_path_factory.mktemp("model") / "model")


def test_a_table_of_pairs_trains_without_any_class(run, tables, tmp_path):
    folder = tmp_path / "m"
    status, out, _ = run(
        "train", tables["train"], "--pairs", "--out", folder, "--epochs", 1, "--loss", "threshold",
        "--json",
    )  # fmt: skip
    told = json.loads(out)
    assert status == 0
    assert told["trained_on"] == []
    assert told["history"][0]["threshold"] > 0
    status, out, _ = run("calibrate", folder, tables["calibrate"], "--goal", "accuracy")
    assert status == 0
    assert out.startswith("pairs: accept at distance")


def test_a_table_of_pairs_is_judged_with_numbers_a_picture_and_a_page(run, model, tables, tmp_path):
    page, sheet = tmp_path / "r.html", tmp_path / "w.png"
    arguments = ("verify", model, "--pairs", tables["judge"], "--json")
    status, out, _ = run(*arguments, "--report", page, "--picture", sheet)
    told = json.loads(out)
    assert status == 0
    assert len(told["pairs"]) == 120
    assert told["roc_auc"]["low"] < told["roc_auc"]["value"] < 1
    assert told["roc_auc"]["value"] > 0.8
    assert told["of_probability"]["brier_score"]["value"] < 0.25
    verdicts = [pair["distance"] <= told["threshold"] for pair in told["pairs"]]
    assert [pair["same"] for pair in told["pairs"]] == verdicts
    nearer = sorted(told["pairs"], key=lambda pair: pair["distance"])
    assert nearer[0]["probability"] > 0.5 > nearer[-1]["probability"]
    html = page.read_text()
    assert "equal error rate" in html
    assert html.count("<img") >= 6
    with Image.open(sheet) as drawn:
        assert drawn.size[0] > 300

    _, rare, _ = run(*arguments, "--prior", 0.01)
    first = [json.loads(text)["pairs"][0]["probability"] for text in (out, rare)]
    assert first[1] < first[0]


def test_pairs_without_truth_get_verdicts_and_a_page_of_the_least_sure(
    run, model, tables, tmp_path
):
    page = tmp_path / "r.html"
    status, out, _ = run("verify", model, "--pairs", tables["unknown"], "--report", page)
    assert status == 0
    assert "% the same" in out
    assert "accuracy" not in out
    assert "nearest to the threshold" in page.read_text()


def test_two_files_get_a_verdict_a_probability_and_a_picture(run, model, tables, tmp_path):
    a, b = (tables["judge"].parent / name for name in sorted(
        path.name for path in tables["judge"].parent.glob("*.png"))[:2])  # fmt: skip
    status, out, _ = run("verify", model, a, b, "--picture", tmp_path / "p.png", "--json")
    (pair,) = json.loads(out)["pairs"]
    assert status == 0
    assert 0 < pair["probability"] < 1
    assert (tmp_path / "p.png").exists()


def test_classes_give_pairs_drawn_anew_in_each_epoch(run, tmp_path):
    status, out, _ = run(
        "train", "digits", "--pairs", "--out", tmp_path / "m", "--epochs", 1, "--batches", 5,
        "--json",
    )  # fmt: skip
    assert status == 0
    assert len(json.loads(out)["trained_on"]) == 10
    status, out, _ = run(
        "calibrate", tmp_path / "m", "digits", "--goal", "far=0.2@0.95", "--rule", "pairs"
    )
    assert status == 0
    assert "guaranteed: at most 0.2 false accepts for new items" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["verify", "{model}", "--report", "r.html", "a.png", "b.png"], "report must come with"),
        (["verify", "{model}", "--pairs", "{judge}", "--report", "no/r.html"], "folder of report"),
        (["verify", "{model}", "a.png"], "must be two items, got 1"),
        (["verify", "{model}", "--pairs", "{judge}", "--prior", "2"], "prior must be"),
        (["train", "{train}", "--pairs", "--out", "m", "--loss", "circle"], "loss must be one of"),
        (
            ["train", "{train}", "--pairs", "--out", "m", "--hold-out-classes", "3"],
            "must be left out for given pairs, which have no classes",
        ),
        (["train", "digits", "--pairs", "--out", "m", "--loss", "threshold", "--margin", "1"],
         "margin must be left out for threshold"),
        (["calibrate", "{model}", "{judge}", "--rule", "nearest"], "must be labeled items"),
        (["calibrate", "{model}", "{judge}", "--goal", "far=0.001@0.95"], "at least 2,995"),
        (["calibrate", "{model}", "{train}"], "neither indexed nor trained on"),
    ],
)  # fmt: skip
def test_a_callers_mistake_ends_in_one_sentence_and_status_2(
    run, model, tables, tmp_path, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    places = {name: str(path) for name, path in tables.items()} | {"model": str(model)}
    status, out, err = run(*(argument.format(**places) for argument in arguments))
    assert status == 2
    assert out == ""
    assert told in err
    assert "Traceback" not in err


def test_pairs_of_few_images_are_judged_without_an_interval(run, model, tables, tmp_path):
    with tables["judge"].open() as opened:
        rows = list(csv.reader(opened))
    few = tables["judge"].parent / "few.csv"
    few.write_text("\n".join(",".join(row) for row in rows[:5]))
    page = tmp_path / "r.html"
    status, out, _ = run("verify", model, "--pairs", few, "--report", page, "--json")
    told = json.loads(out)
    assert status == 0
    for name in ("roc_auc", "equal_error_rate", "average_precision"):
        assert (told[name]["low"], told[name]["method"][:11]) == (None, "no interval")
    assert all(one["low"] is None for one in told["at_threshold"].values())
    assert "There are no intervals, as there are fewer than 10 items." in page.read_text()
