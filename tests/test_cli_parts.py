"""Answers and embeddings in parts from the command line."""

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise._parts import MOST_PARTS, ROWS
from likewise.cli import console
from likewise.cli.options import PartRows
from likewise.journeys.embed import embed_parts

TRAIN = lw.data.load("digits", split="train")
TEST = lw.data.load("digits", split="test")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    made = lw.SimilarityModel(
        lw.encoders.MLPEncoder(TRAIN.item_shape),
        preprocess=lw.data.Preprocess(TRAIN.item_shape, (0.3,), (0.4,)),
    )
    known, aside = lw.data.split_items(TRAIN, [0.2, 0.8])
    made.add(known)
    made.calibrate(aside)
    made.calibrate(aside, rule="pairs")
    return made.save(tmp_path_factory.mktemp("parts") / "model")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 12 images, of which one is damaged and one is not there."""
    folder = tmp_path_factory.mktemp("images")
    lines, pairs = ["path,label"], ["a,b,same"]
    for row in range(12):
        pixels = (TEST[row][0][0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines.append(f"{row}.png,{TEST.class_names[TEST.labels[row]]}")
        pairs.append(f"{row}.png,{(row + 1) % 12}.png,{row % 2}")
    (folder / "4.png").write_bytes(b"no image")
    (folder / "9.png").unlink()
    (folder / "pairs.csv").write_text("\n".join(pairs))
    (folder / "items.csv").write_text("\n".join(lines))
    return folder / "items.csv"


def read(folder):
    return parquet.read_table(folder).to_pylist()


def test_match_writes_parts_goes_on_and_says_what_is_there(run, model, tmp_path):
    out = tmp_path / "out"
    status, told, _ = run("match", model, "digits", "--out", out, "--part-rows", 100)
    assert status == 0
    assert told.startswith(f"447 answers in {out}\nin all: ")
    assert "right: " in told
    expected = [
        q["label"] for q in json.loads(run("match", model, "digits", "--json")[1])["queries"]
    ]
    assert [row["label"] for row in read(out)] == expected

    status, _, error = run("match", model, "digits", "--out", out)
    assert status == 2
    assert "holds 5 of 5 parts. Go on with --resume" in error
    next(out.glob("part-00000001-*")).unlink()
    status, told, _ = run("match", model, "digits", "--out", out, "--resume", "--json")
    summary = json.loads(told)
    assert (status, summary["rows"], summary["there_before"]) == (0, 447, 347)
    assert summary["counts"]["unknown"] == expected.count(None)
    assert [row["label"] for row in read(out)] == expected


def test_the_help_tells_the_rows_that_a_part_has():
    (told,) = PartRows.__metadata__
    assert told.show_default.startswith(f"{ROWS:,}; more where there would be over {MOST_PARTS:,} ")


def test_files_that_cannot_be_read_do_not_end_the_run(run, model, table, tmp_path):
    for command, options in (("match", []), ("lookup", ["-k", 2])):
        out = tmp_path / command
        status, told, _ = run(command, model, table, "--out", out, "--workers", 1, *options)
        assert status == 0
        assert "12 answers" in told
        assert "2 could not be read: see the column error" in told
        assert [row["row"] for row in read(out) if row["error"]] == [4, 9]
    files = [table.parent / f"{row}.png" for row in (3, 4)]
    run("match", model, *files, "--out", tmp_path / "files")
    assert [row["query"] for row in read(tmp_path / "files")] == list(map(str, files))
    assert [row["error"] is None for row in read(tmp_path / "files")] == [True, False]
    status, _, error = run("match", model, table)
    assert status == 2, "without --out all are needed"
    assert "9.png" in error


def test_verify_writes_a_row_for_each_pair(run, model, table, tmp_path):
    out = tmp_path / "out"
    pairs = table.parent / "pairs.csv"
    status, told, _ = run("verify", model, "--pairs", pairs, "--out", out, "--json")
    summary = json.loads(told)
    assert status == 0
    assert (summary["rows"], summary["failed"], summary["told"]) == (12, 4, 8)
    rows = read(out)
    assert [row["row"] for row in rows if row["error"]] == [3, 4, 8, 9]
    assert all(0 <= row["probability"] <= 1 for row in rows if not row["error"])
    assert sum(summary["counts"].values()) == 8


def test_embed_shards_are_imported_evaluated_and_calibrated_on(run, model, tmp_path):
    parts, gallery = tmp_path / "parts", tmp_path / "gallery"
    for shard in ("0/2", "1/2"):
        if shard == "1/2":
            status, _, error = run("gallery", "import", gallery, parts)
            assert status == 2
            assert (
                "missing are some of shard 1/2. Write them with the same likewise command "
                "and --resume." in error
            )
        status, told, _ = run(
            *("embed", model, "digits", "--split", "test", "--out", parts),
            *("--shard", shard, "--part-rows", 100),
        )
        assert status == 0
        assert f"items of shard {shard} in {parts}" in told
    status, told, _ = run("gallery", "import", gallery, parts, "--json")
    assert (status, json.loads(told)) == (0, {"imported": 447, "items": 447})
    facts = json.loads(run("gallery", "info", gallery, "--json")[1])
    assert facts["encoder"] == lw.load(model).fingerprint

    labels = [
        [q["label"] for q in json.loads(run("match", model, source, "--json")[1])["queries"]]
        for source in ("digits", parts)
    ]
    assert labels[0] == labels[1]
    again = lw.load(model).save(tmp_path / "again")
    status, told, _ = run("calibrate", again, parts, "--rule", "nearest", "--json")
    expected = lw.load(model).calibrate(TEST).threshold
    assert status == 0
    assert json.loads(told)["nearest"]["threshold"] == expected


def test_parts_with_failures_are_evaluated_looked_up_and_compared(run, model, table, tmp_path):
    assert run("embed", model, table, "--out", tmp_path / "parts")[0] == 0
    status, told, error = run("evaluate", model, tmp_path / "parts", "--json")
    assert status == 0
    assert "2 of 12 items could not be read when they were embedded" in error
    assert (json.loads(told)["items"], json.loads(told)["left_out"]) == (10, 0)
    assert json.loads(told)["matching"] is not None
    assert run("drift", model, tmp_path / "parts")[0] == 0
    status, told, _ = run("lookup", model, tmp_path / "parts", "-k", 1, "--json")
    assert [q["query"] for q in json.loads(told)["queries"]] == [
        str(row) for row in range(12) if row not in (4, 9)
    ]


def test_parts_of_another_model_are_refused(run, model, tmp_path):
    torch.manual_seed(1)
    other = lw.SimilarityModel(lw.encoders.MLPEncoder(TRAIN.item_shape))
    other.add(lw.data.sample_items(TRAIN, per_class=2))
    embed_parts(other, TEST, tmp_path / "parts")
    for command in (("evaluate", model), ("calibrate", model), ("match", model)):
        status, _, error = run(*command, tmp_path / "parts")
        assert status == 2
        assert "must be of the encoder and the preprocessing of the model" in error
    with lw.Gallery(tmp_path / "gallery", encoder="mine"):
        pass
    status, _, error = run("gallery", "import", tmp_path / "gallery", tmp_path / "parts")
    assert status == 2
    assert "must be of the encoder of the gallery, 'mine'" in error
    status, _, error = run("index", model, tmp_path / "parts")
    assert status == 2
    assert "Take them into a gallery with likewise gallery import." in error


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["match", "digits", "--resume"], "--resume must come with --out"),
        (["match", "digits", "--workers", "2"], "--workers must come with --out"),
        (["lookup", "digits", "--part-rows", "9"], "--part-rows must come with --out"),
        (["verify", "a.png", "b.png", "--out", "x"], "--out must come with --pairs"),
        (["match", "digits", "--out", "x", "--cache", "y"], "--cache must be left out with --out"),
        (["embed", "digits", "--out", "x", "--shard", "2/2"], "--shard must be I/N with I from 0"),
        (["embed", "digits", "--out", "x", "--shard", "a"], "such as 0/4, got 'a'"),
        (["match", "digits", "--out", "."], "--out must be an empty folder"),
        (["match", "digits", "--out", "x", "--point", "y"], "must be calibrated for y"),
    ],
)
def test_what_does_not_go_together_is_refused(run, model, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    command, *rest = options
    status, _, error = run(command, model, *rest)
    assert status == 2
    assert told in error
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["mine"]


def test_long_work_tells_how_much_time_is_left(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(console, "BETWEEN", 0.0)
    status, _, error = run("embed", model, "digits", "--out", tmp_path, "--part-rows", 100)
    assert status == 0
    assert "embedding: 300 of " in error
    assert "left" in error


def test_an_item_of_no_known_class_is_answered_rightly_by_unknown(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known, others = np.eye(4)[[0, 1]], np.eye(4)[[0, 1, 2, 3, 0]]
    np.save(tmp_path / "known.npy", known)
    np.save(tmp_path / "asked.npy", others)
    (tmp_path / "known.txt").write_text("cup\nmug\n")
    (tmp_path / "asked.txt").write_text("cup\ncup\npot\npan\nlid\n")
    made = run("wrap", "known.npy", "--labels", "known.txt", "--out", "M")
    assert made[0] == 0, made[2]
    asked = ("match", "M", "asked.npy", "--labels", "asked.txt", "--threshold", "0.1")
    expected = ": 3 of 5 (60.00%); of the 3 of no known class 2 were answered unknown"
    for more in ((), ("--out", "O")):
        status, told, _ = run(*asked, *more)
        assert (status, f"right{expected}" in told or f"rightly{expected}" in told) == (0, True)
    told = json.loads(run(*asked, "--json")[1])
    assert told["named_rightly"] == 0.6
    told = json.loads(run(*asked, "--out", "P", "--json")[1])
    found = [told[name] for name in ("told", "right", "told_unknown", "right_unknown")]
    assert found == [5, 3, 3, 2]

    np.save(tmp_path / "one.npy", np.eye(4)[[3]])
    status, told, error = run("index", "M", "one.npy")
    assert status == 0, error
    assert told.startswith("added 1 item; the index holds 3\n1 of 1 items have no class: where ")
