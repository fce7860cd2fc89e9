import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import likewise as lw
from likewise import cli
from likewise.journeys import fitting

IMAGES, LABELS = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small trained, indexed and calibrated model, copied by each test."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    quick = ["--epochs", 2, "--batches", 20]
    for arguments in (
        ["train", "digits", "--out", folder, *quick, "--hold-out-classes", "0,4,5,8"],
        ["index", folder, "digits", "--per-class", 10],
        ["calibrate", folder, "digits"],
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["likewise", *map(str, arguments)])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        assert stopped.value.code == 0
    return folder


@pytest.fixture
def model(trained, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in trained.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def picture(path, row, value=None):
    pixels = (IMAGES[row].reshape(8, 8) / 16 * 255).round().astype(np.uint8)
    Image.fromarray(pixels if value is None else np.full((8, 8), value, np.uint8)).save(path)
    return path


def test_every_journey_ends_well_and_answers_in_json(run, model, tmp_path):
    status, out, _ = run("info", model, "--json")
    told = json.loads(out)
    assert status == 0
    assert told["trained_on"] == ["1", "2", "3", "6", "7", "9"]
    assert told["indexed"] == 100
    assert set(told["calibrations"]) == {"nearest", "pairs"}

    a, b = picture(tmp_path / "a.png", 3), picture(tmp_path / "b.png", 13)
    status, out, _ = run("lookup", model, a, b, "-k", 2, "--json")
    queries = json.loads(out)["queries"]
    assert status == 0
    assert [query["query"] for query in queries] == [str(a), str(b)]
    near = queries[0]["neighbors"]
    assert near[0]["distance"] <= near[1]["distance"]
    assert near[0]["source"] == "digits"

    status, out, _ = run("match", model, a, b, "--json")
    assert status == 0
    assert [query["label"] for query in json.loads(out)["queries"]] == ["3", "3"]

    status, out, _ = run("match", model, "digits", "--json")
    told = json.loads(out)
    right = [q["label"] for q in told["queries"]]
    assert status == 0
    assert len(right) == 447, "match reads the test part"
    assert 0.3 < told["named_rightly"] <= 1

    status, out, _ = run("match", model, "digits", "--candidates", 0.9, "--json")
    told = json.loads(out)
    assert status == 0
    assert [q["label"] for q in told["queries"]] == right
    held = [label in q["candidates"] for q, label in zip(told["queries"], right, strict=True)]
    assert sum(held) / len(held) > 0.3, "the nearest class is the first of those near enough"
    assert told["candidates"]["level"] == 0.9
    assert "of the 10 classes calibrated on" in told["candidates"]["rests_on"]

    status, out, _ = run("verify", model, a, b, "--json")
    (pair,) = json.loads(out)["pairs"]
    assert status == 0
    assert pair["same"] == (pair["distance"] <= json.loads(out)["threshold"])
    assert json.loads(out)["prior"] == 0.5
    status, out, _ = run("verify", model, a, b, "--prior", 0.01, "--json")
    rarer = json.loads(out)
    assert (status, rarer["prior"]) == (0, 0.01)
    assert rarer["pairs"][0]["probability"] < pair["probability"]

    report = tmp_path / "report.html"
    status, out, _ = run("evaluate", model, "digits", "--report", report, "--json")
    told = json.loads(out)
    assert status == 0
    assert told["matching"]["queries"] == 447
    assert "data:image/png;base64" in report.read_text()


def test_without_json_there_are_lines_to_read(run, model, tmp_path):
    a, b = picture(tmp_path / "a.png", 3), picture(tmp_path / "b.png", 4)
    for arguments, expected in [
        (["info", model], "trained on"),
        (["lookup", model, a, "-k", 3], "id "),
        (["match", model, a], "in all: "),
        (["match", model, "digits"], "named rightly: "),
        (["match", model, a, "--candidates", 0.9], "candidates: "),
        (["verify", model, a, b], "threshold "),
        (["verify", model, a, b], "hold where 0.5 of such pairs are the same (--prior)"),
        (["verify", model, a, b, "--prior", 0.01], "hold where 0.01 of such pairs"),
        (["evaluate", model, "digits"], "classes never trained on"),
    ]:
        status, out, _ = run(*arguments)
        assert status == 0
        assert expected in out


def test_calibrating_for_a_guarantee_changes_the_threshold(run, model):
    status, out, _ = run("calibrate", model, "digits", "--goal", "far=0.01", "--json")
    strict = json.loads(out)
    assert status == 0
    assert strict["pairs"]["goal"] == "at_most_false_accepts(0.01)"
    assert strict["pairs"]["false_accept_rate"]["value"] <= 0.01
    _, out, _ = run("info", model, "--json")
    kept = json.loads(out)["calibrations"]["pairs"]["threshold"]
    assert kept == strict["pairs"]["threshold"]


def test_pairs_from_a_table_are_judged_where_the_truth_is_told(run, model, tmp_path):
    for row in (1, 2, 3, 11, 12, 13):
        picture(tmp_path / f"{row}.png", row)
    table = tmp_path / "pairs.csv"
    table.write_text("a,b,same\n1.png,11.png,1\n2.png,12.png,1\n1.png,3.png,0\n2.png,13.png,0\n")
    status, out, _ = run("verify", model, "--pairs", table, "--json")
    told = json.loads(out)
    assert status == 0
    verdicts = [pair["same"] for pair in told["pairs"]]
    truth = [True, True, False, False]
    assert told["accuracy"] == sum(v == t for v, t in zip(verdicts, truth, strict=True)) / 4
    assert told["roc_auc"]["value"] > 0.5


def test_held_out_classes_may_be_a_share(run, tmp_path):
    quick = ["--epochs", 1, "--batches", 2, "--cross-fit", "off"]
    arguments = ["train", "digits", "--out", tmp_path / "m", *quick]
    status, out, _ = run(*arguments, "--hold-out-classes", "40%", "--json")
    assert status == 0
    assert len(json.loads(out)["trained_on"]) == 6


@pytest.mark.parametrize("loss", fitting.LOSSES)
def test_every_loss_trains(run, tmp_path, loss):
    arguments = ["--out", tmp_path / "m", "--epochs", 1, "--batches", 2, "--made-classes", "both"]
    quick = ["--features", 0, "--cross-fit", "off"]
    status, out, _ = run("train", "digits", *arguments, *quick, "--loss", loss, "--json")
    assert status == 0
    assert json.loads(out)["history"][0]["loss"] > 0


def test_class_folders_with_paths_travel_the_whole_way(run, tmp_path):
    folder = tmp_path / "digits"
    for digit in (1, 2, 3):
        (folder / f"digit {digit}").mkdir(parents=True)
        for row in np.flatnonzero(digit == LABELS)[:30]:
            picture(folder / f"digit {digit}" / f"{row}.png", row)
    model = tmp_path / "model"
    arguments = ["--out", model, "--epochs", 1, "--batches", 10, "--keep-aside", 0.5]
    assert run("train", folder, *arguments)[0] == 0
    assert run("index", model, folder, "--per-class", 3)[0] == 0
    assert run("calibrate", model, folder)[0] == 0
    query = picture(tmp_path / "query.png", np.flatnonzero(LABELS == 2)[40])
    status, out, _ = run("lookup", model, query, "-k", 1, "--json")
    (near,) = json.loads(out)["queries"][0]["neighbors"]
    assert status == 0
    assert os.path.dirname(near["path"]) == str(folder / near["label"])


MISTAKES = {
    "a missing path": (["train", "nowhere", "--out", "m"], "nowhere"),
    "an empty folder": (["train", "empty", "--out", "m"], "empty"),
    "one class only": (["train", "one.csv", "--out", "m"], "class"),
    "every class with one item": (["train", "single.csv", "--out", "m"], "class"),
    "a truncated image": (["train", "truncated", "--out", "m"], "bad.png"),
    "a file that is no image": (["train", "text", "--out", "m"], "notes.png"),
    "a short row": (["train", "short.csv", "--out", "m"], "row 3"),
    "text for a number": (["train", "word.csv", "--out", "m"], "'seven'"),
    "NaN pixels": (["train", "nan.npz", "--out", "m"], "NaN"),
    "an idx header that lies": (["train", "idx", "--out", "m"], "train-images"),
    "labels of another number": (["train", "uneven.npz", "--out", "m"], "labels"),
    "a pickled npz": (["train", "pickled.npz", "--out", "m"], "npz"),
    "an unknown loss": (
        ["train", "digits", "--out", "m", "--loss", "magic"],
        "'magic' is not one of 'arcface', 'barlow-twins', 'circle'",
    ),
    "an unknown distance": (
        ["train", "digits", "--out", "m", "--distance", "cos"],
        "'cos' is not one of 'cosine', 'euclidean'",
    ),
    "an unknown class": (
        ["train", "digits", "--out", "m", "--hold-out-classes", "ten"],
        "'ten'",
    ),
    "a margin without use": (
        ["train", "digits", "--out", "m", "--margin", "1"],
        "--margin must be",
    ),
    "an unknown option": (["train", "digits", "--out", "m", "--speed", "9"], "--speed"),
    "an unknown command": (["teleport"], "teleport"),
    "an unknown goal": (["calibrate", "MODEL", "digits", "--goal", "best"], "goal must be one of"),
    "k larger than the index": (["lookup", "MODEL", "digits", "-k", "101"], "101"),
    "an unknown rule": (["match", "MODEL", "digits", "--rule", "magic"], "magic"),
    "a rule not calibrated": (
        ["match", "MODEL", "digits", "--rule", "majority"],
        "model must be calibrated for majority",
    ),
    "a point that is not there": (
        ["match", "MODEL", "digits", "--point", "strict"],
        "name the one there is with --point",
    ),
    "classes too few for a guarantee": (
        ["calibrate", "MODEL", "digits", "--rule", "nearest", "--goal", "far=0.01@0.95"],
        "indexed, or add --holds-for items for new items of these only.",
    ),
    "an empty index": (["lookup", "EMPTY", "digits"], "index"),
    "an uncalibrated match": (["match", "EMPTY", "digits"], "model must be calibrated for nearest"),
    "a level that takes more items": (
        ["match", "MODEL", "digits", "--candidates", "0.99999"],
        "--candidates must be at most",
    ),
    "a folder that is no model": (["info", "empty"], "MODEL must be a folder saved by likewise"),
    "a file that is none of data": (["match", "MODEL", "text/y/notes.png"], "image"),
    "no classes in a batch": (
        ["train", "digits", "--out", "m", "--classes-per-batch", "0"],
        "--classes-per-batch must be at least 1",
    ),
    "workers below 0": (
        ["train", "digits", "--out", "m", "--workers", "-1"],
        "--workers must be at least 0",
    ),
    "no batches": (
        ["train", "digits", "--out", "m", "--batches", "0"],
        "--batches must be at least 1",
    ),
    "the home of nobody": (["train", "~nobody-here/x", "--out", "m"], "DATA must be one of"),
    "an id beyond all numbers": (["remove", "MODEL", "9" * 5000], "ID must be a whole number"),
    "what lasts for nobody": (
        ["calibrate", "MODEL", "digits", "--holds-for", "all"],
        "--holds-for must be one of",
    ),
    "not calibrated, with a command for a remedy": (
        ["match", "MODEL", "digits", "--rule", "center"],
        "Run likewise calibrate with --rule center",
    ),
    "nothing indexed, with a command for a remedy": (
        ["lookup", "EMPTY", "a.png"],
        "Add some with likewise index.",
    ),
    "a class that is not indexed": (["remove", "MODEL", "--class", "x"], "--class must be one of"),
    "a part that is not there": (["evaluate", "MODEL", "one.csv", "--split", "test"], "split"),
    "items of another shape": (["match", "MODEL", "short.npz"], "shape"),
    "too many files": (["verify", "MODEL", "a.png"], "FILE_A FILE_B must be two items"),
    "pairs without columns": (["verify", "MODEL", "--pairs", "one.csv"], "columns a, b, each once"),
    "a report in no folder": (
        ["evaluate", "MODEL", "digits", "--report", "nowhere/report.html"],
        "nowhere",
    ),
    "a report that is a folder": (
        ["evaluate", "MODEL", "digits", "--report", "empty"],
        "--report must be a file, got the folder 'empty'",
    ),
    "a picture that is a folder": (
        ["verify", "MODEL", "a.png", "a.png", "--picture", "empty"],
        "--picture must be a file, got the folder 'empty'",
    ),
    "a report without a name": (
        ["verify", "MODEL", "--pairs", "one.csv", "--report", "."],
        "--report must be a file, got the folder '.'",
    ),
    "a comparison without a name": (
        ["compare", "MODEL", "EMPTY", "digits", "--report", "."],
        "--report must be a file, got the folder '.'",
    ),
    "a seed below 0": (["info", "MODEL", "--seed", "-1"], "--seed"),
    "a seed too large": (["info", "MODEL", "--seed", str(2**32)], "--seed"),
    "a folder of something else": (
        ["train", "digits", "--out", "text", "--epochs", "1"],
        "--out must be a new folder",
    ),
    "too many per class": (["index", "MODEL", "digits", "--per-class", "1000"], "1000"),
    "a device that is not there": (
        ["info", "MODEL", "--device", "tpu"],
        "--device must be cpu, cuda",
    ),
}


@pytest.fixture
def mistakes(tmp_path, monkeypatch, model):
    """A folder with one of each kind of bad input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in ("truncated", "text"):
        for name in "xy":
            (tmp_path / folder / name).mkdir(parents=True)
            for row in range(3):
                picture(tmp_path / folder / name / f"{row}.png", row)
    whole = (tmp_path / "truncated" / "x" / "0.png").read_bytes()
    (tmp_path / "truncated" / "y" / "bad.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text" / "y" / "notes.png").write_text("not a picture")
    (tmp_path / "one.csv").write_text("a,0.5,0.25\na,0.5,0.75\n")
    (tmp_path / "single.csv").write_text("a,0.5,0.25\nb,0.5,0.75\n")
    (tmp_path / "short.csv").write_text("a,0.5,0.25\na,0.1,0.2\nb,0.5\n")
    (tmp_path / "word.csv").write_text("a,0.5,0.25\nb,0.5,seven\n")
    x, y = np.random.default_rng(0).random((6, 3)), np.array([0, 0, 0, 1, 1, 1])
    np.savez(tmp_path / "short.npz", x=x, y=y)
    np.savez(tmp_path / "nan.npz", x=np.where(x > 0.9, np.nan, x * 0 + np.nan), y=y)
    np.savez(tmp_path / "uneven.npz", x=x, y=y[:4])
    np.savez(tmp_path / "pickled.npz", x=x, y=np.array([{}] * 6, dtype=object))
    (tmp_path / "idx").mkdir()
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (10, 8, 8))
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
    labels = bytes([0, 0, 8, 1]) + (10).to_bytes(4, "big") + bytes(10)
    (tmp_path / "idx" / "train-labels-idx1-ubyte").write_bytes(labels)
    picture(tmp_path / "a.png", 0)

    from likewise.data import Preprocess
    from likewise.encoders import MLPEncoder
    from likewise.model import SimilarityModel

    preprocess = Preprocess((1, 8, 8), (0.0,), (1.0,))
    SimilarityModel(MLPEncoder((1, 8, 8)), preprocess=preprocess).save(tmp_path / "EMPTY")
    model.rename(tmp_path / "MODEL")


@pytest.mark.usefixtures("mistakes")
@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_callers_mistake_ends_in_one_sentence_and_status_2(run, arguments, told):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    last = [line for line in err.splitlines() if line.startswith("likewise: ")]
    assert len(last) == 1, err
    assert told in last[0]
    assert "Traceback" not in err


def test_a_fault_of_ours_is_told_from_a_mistake(run, model, monkeypatch):
    monkeypatch.setattr("likewise.cli.answers.summary", lambda model: 1 / 0)
    status, _, err = run("info", model)
    assert status == 1
    assert "fault of ours" in err
    assert "ZeroDivisionError" in err


def test_a_disk_that_is_full_leaves_the_old_model(run, model, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        status, _, err = run("index", model, "digits", "--per-class", 1, "--seed", 5)
    assert status == 2
    assert "No space left on device" in err
    assert json.loads(run("info", model, "--json")[1])["indexed"] == 100


def test_help_lists_every_command(run):
    status, out, _ = run("--help")
    assert status == 0
    for command in (
        *("demo", "train", "index", "calibrate", "lookup", "match", "verify", "evaluate", "info"),
    ):
        assert command in out


def test_the_demo_writes_its_report_and_tells_what_matters(run, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "FEWEST_BATCHES", 20)  # it is this good sooner, too
    monkeypatch.setattr("likewise.plots.points._LARGEST_TSNE", 100)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    status, out, err = run("demo", "--out", tmp_path, "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["matching"]["accuracy_seen"]["value"] > 0.95
    assert told["matching"]["accuracy_unseen"]["value"] > 0.8
    assert told["thresholds"].keys() == {"nearest", "pairs"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 6


def test_the_version_is_said(run):
    assert run("--version") == (0, f"likewise {lw.__version__}\n", "")


def test_info_tells_the_recipe(run, tmp_path):
    recipe = lw.Recipe(epochs=1, batches=2, embedding_dim=7, cross_fit="off")
    model = lw.train("digits", recipe, device="cpu")
    status, told, _ = run("info", model.save(tmp_path / "m"))
    assert status == 0
    assert re.search(r"^recipe: embedding_dim +7$", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("labels", "said", "known"),
    [
        ([0], ("verification", "retrieval"), 1),
        ([0, 1, 2], ("verification", "retrieval"), 3),
        ([3, 3], ("verification",), 2),
        ([0, 0, 1, -1, -1, 2], (), 4),
    ],
)
def test_few_or_unlabeled_items_are_judged_as_far_as_they_go(
    run, trained, tmp_path, labels, said, known
):
    x = np.random.default_rng(0).random((len(labels), 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.array(labels))
    page = tmp_path / "p.html"
    status, out, err = run("evaluate", trained, tmp_path / "d.npz", "--report", page)
    assert status == 0, err
    whys = {
        "verification": ("verification: no pairs of both kinds", "There are no pairs of both kin"),
        "retrieval": ("retrieval: no class with two items", "No class has two items"),
    }
    for name, (line, on_page) in whys.items():
        assert (line in out) == (name in said)
        assert (on_page in page.read_text()) == (name in said)
    told = json.loads(run("evaluate", trained, tmp_path / "d.npz", "--json")[1])
    assert [name for name in whys if told[name] is None] == list(said)
    assert told["items"] == known
    status, out, err = run("match", trained, tmp_path / "d.npz")
    assert status == 0, err
    assert f" of {known} (" in out
