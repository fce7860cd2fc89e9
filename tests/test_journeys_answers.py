"""Answers in parts: the same as those of the model, however the run went."""

import dataclasses
import os
import re
import shutil
import signal

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from torch import nn

import likewise as lw
from likewise.errors import InputError
from likewise.journeys import in_parts
from likewise.journeys import verify as pairs_of
from likewise.journeys.answers import lookup_parts, match_parts, verify_parts
from likewise.journeys.embed import embed_parts
from likewise.matching import UNKNOWN

DIGITS = lw.data.load("digits", split="train")
TEST = lw.data.load("digits", split="test")
LIMIT = 0.1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = lw.SimilarityModel(
        lw.encoders.MLPEncoder(DIGITS.item_shape),
        preprocess=lw.data.Preprocess(DIGITS.item_shape, (0.3,), (0.4,)),
    )
    known, aside = lw.data.split_items(DIGITS, [0.2, 0.8])
    made.add(known)
    made.calibrate(aside)
    made.calibrate(aside, rule="pairs")
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """40 image files, of which three cannot be read."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{row:02d}.png" for row in range(40)]
    for row, path in enumerate(paths):
        pixels = (TEST[row][0][0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(path)
    paths[3].write_bytes(b"no image")
    paths[20].write_bytes(paths[20].read_bytes()[:60])
    paths[33].unlink()
    return [str(path) for path in paths]


def read(folder):
    return parquet.read_table(folder).to_pylist()


@pytest.mark.parametrize("workers", [0, 2])
def test_match_answers_as_the_model_does(model, tmp_path, workers):
    done = match_parts(model, TEST, tmp_path, part_rows=100, workers=workers)
    decided = model.match(TEST)
    rows = read(tmp_path)
    assert [row["row"] for row in rows] == list(range(len(TEST)))
    assert [row["query"] for row in rows[:2]] == ["item 0", "item 1"]
    expected = [None if c == UNKNOWN else TEST.class_names[c] for c in decided.labels.tolist()]
    assert [row["label"] for row in rows] == expected
    assert {None, "3"} <= set(expected), "or this would show little"
    assert np.allclose([row["distance"] for row in rows], decided.distances, atol=1e-5)
    assert np.allclose([row["probability"] for row in rows], decided.probabilities, atol=1e-4)
    truth = [TEST.class_names[code] for code in TEST.labels.tolist()]
    assert [row["truth"] for row in rows] == truth
    assert all(row["error"] is None for row in rows)
    assert (done.rows, done.failed, done.there_before) == (447, 0, 0)
    assert done.counts["unknown"] == expected.count(None)
    assert (done.told, done.right) == (447, sum(map(str.__eq__, truth, map(str, expected))))


def test_candidates_and_thresholds_given(model, tmp_path):
    match_parts(model, TEST, tmp_path / "a", candidates=0.9)
    sets = model.match(TEST, candidates=0.9).candidates.names
    assert [row["candidates"] for row in read(tmp_path / "a")] == sets
    assert any(len(each) > 1 for each in sets)
    match_parts(model, TEST, tmp_path / "b", threshold=LIMIT, rule="majority", k=3)
    decided = model.match(TEST, threshold=LIMIT, rule="majority", k=3)
    assert [row["label"] or "unknown" for row in read(tmp_path / "b")] == decided.names


def test_what_cannot_be_read_is_a_row_with_its_sentence(model, files, tmp_path):
    done = match_parts(model, files, tmp_path, part_rows=7)
    rows = read(tmp_path)
    assert [row["query"] for row in rows] == files
    failed = {row["row"]: row for row in rows if row["error"] is not None}
    assert sorted(failed) == [3, 20, 33]
    assert re.search(r"03\.png.* image", failed[3]["error"])
    assert re.search(r"33\.png.* must exist", failed[33]["error"])
    assert all(row["label"] is row["distance"] is None for row in failed.values())
    good = [row for row in rows if row["error"] is None]
    decided = model.match([row["query"] for row in good])
    assert [row["label"] or "unknown" for row in good] == decided.names
    assert (done.rows, done.failed, sum(done.counts.values())) == (40, 3, 37)


def test_a_part_of_nothing_but_failures_has_the_same_columns(model, files, tmp_path):
    bad = [files[3], files[20], files[33]]
    done = match_parts(model, [*files[:3], *bad], tmp_path / "m", part_rows=3, candidates=0.9)
    assert done.failed == 3
    lookup_parts(model, [*files[:3], *bad], tmp_path / "l", part_rows=3, k=2)
    assert [row["ids"] is None for row in read(tmp_path / "l")] == [False] * 3 + [True] * 3
    for folder in (tmp_path / "m", tmp_path / "l"):
        schemas = {str(parquet.read_schema(file)) for file in folder.glob("*.parquet")}
        assert len(schemas) == 1


def test_lookup_answers_as_the_model_does(model, tmp_path):
    lookup_parts(model, TEST, tmp_path / "a", k=3, part_rows=200)
    found = model.lookup(TEST, k=3)
    rows = read(tmp_path / "a")
    assert [row["ids"] for row in rows] == found.ids.tolist()
    names = [[TEST.class_names[code] for code in each] for each in found.labels.tolist()]
    assert [row["labels"] for row in rows] == names
    assert np.allclose([row["distances"] for row in rows], found.distances, atol=1e-5)


def test_lookup_among_text_ids_and_unlabeled_items(tmp_path):
    model = lw.SimilarityModel(None)
    model.index.add(torch.eye(3), ids=["a", "b", "c"], labels=["x", None, "y"])
    lookup_parts(model, torch.eye(3)[1:], tmp_path / "a", k=1)
    assert [(row["ids"], row["labels"]) for row in read(tmp_path / "a")] == [
        (["b"], [None]),
        (["c"], ["y"]),
    ]


def pair_table(tmp_path, lines):
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(["a,b,same", *lines]))
    return table


def test_verify_answers_as_the_model_does_and_failures_are_rows(model, files, tmp_path):
    names = [os.path.basename(path) for path in files]
    lines = [
        f"{names[i]},{names[j]},{int(TEST.labels[i] == TEST.labels[j])}"
        for i in range(0, 40, 2)
        for j in (1, 21)
    ]
    table = pair_table(tmp_path, [*lines, f"{names[3]},{names[33]},0"])
    for path in files[:33] + files[34:]:
        shutil.copy(path, tmp_path)
    pairs = pairs_of.read(model, [], table, unchecked=True)
    done = verify_parts(model, pairs, tmp_path / "out", part_rows=6)
    rows = read(tmp_path / "out")
    assert [f"{row['a']},{row['b']},{int(row['truth'])}" for row in rows[:-1]] == lines
    failed = [row for row in rows if row["error"] is not None]
    assert [(row["a"], row["b"]) for row in failed[-1:]] == [("03.png", "33.png")]
    assert re.search(r"03\.png.*33\.png", failed[-1]["error"])
    assert {row["a"] for row in failed[:-1]} == {"20.png"}
    assert all(row["same"] is row["distance"] is None for row in failed)
    good = [row for row in rows if row["error"] is None]
    sides = [[str(tmp_path / row[side]) for row in good] for side in ("a", "b")]
    decided = model.verify(*sides)
    assert np.allclose([row["distance"] for row in good], decided.distances, atol=1e-5)
    assert [row["same"] for row in good] == decided.same.tolist()
    assert len({row["same"] for row in good}) == 2
    assert done.failed == len(failed) == 3
    assert done.right == sum(row["same"] == row["truth"] for row in good)
    again = verify_parts(model, pairs, tmp_path / "out", resume=True)
    assert again.there_before == len(rows)


def test_verify_of_two_towers_reads_each_side_by_its_encoder(tmp_path):
    class Letters(nn.Module):
        takes_texts = True

        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, texts):
            return torch.tensor([[self.sign * len(text), text.count("a")] for text in texts]) * 1.0

    model = lw.SimilarityModel(
        Letters(1), query_encoder=Letters(-1), distance=lw.distances.EUCLIDEAN
    )
    table = pair_table(tmp_path, ["bb,bb,1", "a,ccc,0", "bb,ccc,0"])
    pairs = pairs_of.read(model, [], table)
    verify_parts(model, pairs, tmp_path / "out", threshold=4.5, part_rows=2)
    rows = read(tmp_path / "out")
    assert [row["distance"] for row in rows] == pytest.approx([4, 17**0.5, 5])
    assert [row["same"] for row in rows] == [True, True, False]


def test_verify_of_known_items_by_their_ids(tmp_path):
    model = lw.SimilarityModel(None)
    model.index.add(torch.eye(3), ids=["a", "b", "c"])
    pairs = pairs_of.read(model, [], pair_table(tmp_path, ["a,b,0", "c,b,0"]))
    done = verify_parts(model, pairs, tmp_path / "out", threshold=0.5)
    assert [row["distance"] for row in read(tmp_path / "out")] == pytest.approx([1, 1])
    assert done.counts == {"different": 2}


def killed_at(batches):
    def progress(done, total):
        progress.calls += 1
        if progress.calls > batches:
            os.kill(os.getpid(), signal.SIGKILL)

    progress.calls = 0
    return progress


def test_killed_again_and_again_every_row_is_there_once(model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(in_parts, "fitting_batch", lambda *_: 2)  # so that kills come within parts
    kills = 0
    while True:
        child = os.fork()
        if not child:  # pragma: no cover
            torch.set_num_threads(1)
            progress = killed_at(2 + kills % 3)
            match_parts(model, files, tmp_path / "out", part_rows=4, resume=True, progress=progress)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            break
        assert status == signal.SIGKILL
        kills += 1
    assert kills > 4
    match_parts(model, files, tmp_path / "whole", part_rows=4)
    assert read(tmp_path / "out") == read(tmp_path / "whole")
    names = [sorted(f.name for f in (tmp_path / d).glob("part*")) for d in ("out", "whole")]
    assert names[0] == names[1], "bytes are the same too, as names hold their checksum"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda model: {"k": 2}, "the same k"),
        (lambda model: {"items": lw.data.Subset(TEST, range(446))}, "the same items"),
        (lambda model: {"items": lw.data.Subset(TEST, [1, 0, *range(2, 447)])}, "the same data"),
        (lambda model: {"threshold": 0.2}, "the same threshold"),
        (lambda model: {"candidates": 0.9}, "the same candidates|must be|calibrat"),
        (lambda model: {"part_rows": 50}, "the same part rows"),
    ],
)
def test_another_question_does_not_go_on_in_the_same_folder(model, tmp_path, change, told):
    asked = {"items": TEST, "threshold": LIMIT, "rule": "majority", "k": 3, "part_rows": 100}
    match_parts(model, out=tmp_path, **asked)
    with pytest.raises(InputError, match=told):
        match_parts(model, out=tmp_path, **{**asked, **change(model)}, resume=True)


def test_other_known_items_or_another_encoder_do_not_go_on(tmp_path):
    def made(seed, known):
        torch.manual_seed(seed)
        model = lw.SimilarityModel(lw.encoders.MLPEncoder(DIGITS.item_shape))
        model.add(lw.data.Subset(DIGITS, known))
        return model

    match_parts(made(0, [0, 1, 2]), TEST, tmp_path, threshold=LIMIT)
    again = match_parts(made(0, [0, 1, 2]), TEST, tmp_path, threshold=LIMIT, resume=True)
    assert again.there_before == 447
    with pytest.raises(InputError, match="the same known items"):
        match_parts(made(0, [0, 1, 3]), TEST, tmp_path, threshold=LIMIT, resume=True)
    with pytest.raises(InputError, match="the same encoder"):
        match_parts(made(1, [0, 1, 2]), TEST, tmp_path, threshold=LIMIT, resume=True)


class Inverse(nn.Module):
    """Embeddings that are not finite for a 0."""

    def forward(self, items):
        return 1 / items.flatten(1)


def test_an_encoder_that_suits_no_item_ends_the_run_and_one_bad_item_does_not(
    tmp_path, monkeypatch
):
    model = lw.SimilarityModel(Inverse(), distance=lw.distances.EUCLIDEAN)
    model.index.add(torch.eye(2) + 1, labels=["a", "b"])
    items = torch.tensor([[1.0, 2.0], [0.0, 2.0], [2.0, 2.0]])
    done = match_parts(model, items, tmp_path / "a", threshold=9.0)
    assert done.failed == 1
    assert "finite" in read(tmp_path / "a")[1]["error"]
    with monkeypatch.context() as alone:
        alone.setattr(in_parts, "fitting_batch", lambda *_: 1)
        match_parts(model, items, tmp_path / "d", threshold=9.0)
    assert read(tmp_path / "d") == read(tmp_path / "a")
    with pytest.raises(InputError, match="finite"):
        match_parts(model, torch.zeros(4, 2), tmp_path / "b", threshold=9.0)
    with pytest.raises(InputError, match="dimension"):
        match_parts(model, torch.ones(4, 3), tmp_path / "c", threshold=9.0)


def test_what_is_refused_is_refused_before_the_work(model, tmp_path):
    with pytest.raises(InputError, match="calibrated for other"):
        match_parts(model, TEST, tmp_path / "a", point="other")
    with pytest.raises(InputError, match="workers must be at least 0"):
        match_parts(model, TEST, tmp_path / "a", workers=-1)
    with pytest.raises(InputError, match="part_rows must be at least 1"):
        match_parts(model, TEST, tmp_path / "a", part_rows=0)
    with pytest.raises(InputError, match="names must hold one for each item, 447, got 446"):
        match_parts(model, TEST, tmp_path / "a", names=["x"] * 446)
    with pytest.raises(InputError, match="rule must be one of"):
        match_parts(model, TEST, tmp_path / "a", threshold=1.0, rule="other")
    with pytest.raises(InputError, match="candidates must be"):
        match_parts(model, TEST, tmp_path / "a", candidates=2.0)
    with pytest.raises(InputError, match="k must be at least 1"):
        lookup_parts(model, TEST, tmp_path / "a", k=0)
    pairs = pairs_of.read(model, ["a.png", "b.png"], None, unchecked=True)
    with pytest.raises(InputError, match="must be one for pairs"):
        verify_parts(model, pairs, tmp_path / "a", point="nearest")
    with pytest.raises(InputError, match="prior must be"):
        verify_parts(model, pairs, tmp_path / "a", prior=2.0)
    with pytest.raises(InputError, match="got an Embedded"):
        match_parts(model, model.embedded(TEST), tmp_path / "a")
    cached = lw.SimilarityModel(model.encoder)
    cached.cache = tmp_path / "cache"
    with pytest.raises(InputError, match="cache must be left out"):
        match_parts(cached, TEST, tmp_path / "a", threshold=1.0)
    assert not (tmp_path / "a").exists()


def test_one_bad_item_in_the_last_part_is_a_row_also_after_a_kill_and_in_its_own_shard(tmp_path):
    model = lw.SimilarityModel(Inverse(), distance=lw.distances.EUCLIDEAN)
    model.index.add(torch.eye(2) + 1, labels=["a", "b"])
    items = torch.tensor([[1.0, 2.0], [2.0, 2.0], [0.0, 2.0]])
    match_parts(model, items, tmp_path / "a", threshold=9.0, part_rows=2)
    expected = read(tmp_path / "a")
    assert [row["error"] is None for row in expected] == [True, True, False]
    next((tmp_path / "a").glob("part-00000001-*")).unlink()
    match_parts(model, items, tmp_path / "a", threshold=9.0, resume=True)
    assert read(tmp_path / "a") == expected
    done = [
        embed_parts(model, items, tmp_path / "b", part_rows=2, shard=shard, shards=2)
        for shard in (0, 1)
    ]
    assert [each.failed for each in done] == [0, 1]


def test_another_calibration_with_the_same_threshold_does_not_go_on(model, tmp_path):
    items = lw.data.Subset(TEST, range(9))
    pairs = pairs_of.read(model, ["a.png", "b.png"], None, unchecked=True)
    same = lw.load(model.save(tmp_path / "model"))
    for point, ask in (
        ("nearest", lambda each, **how: match_parts(each, items, tmp_path / "a", **how)),
        ("pairs", lambda each, **how: verify_parts(each, pairs, tmp_path / "b", **how)),
    ):
        ask(model)
        ask(same, resume=True)
        made = same.probabilities[point]
        same.probabilities[point] = dataclasses.replace(made, prior=0.1)
        with pytest.raises(InputError, match="the same calibration"):
            ask(same, resume=True)


def test_another_cohort_does_not_go_on(model, tmp_path):
    items = lw.data.Subset(TEST, range(9))
    pairs = pairs_of.read(model, ["a.png", "b.png"], None, unchecked=True)
    same = lw.load(model.save(tmp_path / "model"))

    def use_cohort(seed):
        same.use_cohort(lw.data.sample_items(DIGITS, per_class=3, seed=seed), nearest=20)

    for number, ask in enumerate(
        (
            lambda out, **how: match_parts(same, items, out, threshold=0.1, **how),
            lambda out, **how: verify_parts(same, pairs, out, threshold=0.1, **how),
        )
    ):
        same.norm = None
        for at, seed in enumerate((0, 1)):
            out = tmp_path / f"{number}-{at}"
            ask(out)
            ask(out, resume=True)
            use_cohort(seed)
            with pytest.raises(InputError, match="the same distance"):
                ask(out, resume=True)


def test_a_model_of_a_cohort_without_known_items_verifies_in_parts(files, tmp_path):
    model = lw.SimilarityModel(
        lw.encoders.MLPEncoder(DIGITS.item_shape),
        preprocess=lw.data.Preprocess(DIGITS.item_shape, (0.3,), (0.4,)),
    )
    model.use_cohort(lw.data.sample_items(DIGITS, per_class=3), nearest=20)
    sides = [files[0], files[1]]
    verify_parts(model, pairs_of.read(model, sides, None), tmp_path / "out", threshold=0.0)
    (row,) = read(tmp_path / "out")
    (expected,) = model.verify([sides[0]], [sides[1]], threshold=0.0).distances.tolist()
    assert row["distance"] == pytest.approx(expected, abs=1e-5)


def test_names_that_are_no_text_of_utf_8_are_written_with_their_bytes_escaped(tmp_path):
    class Lengths(nn.Module):
        takes_texts = True

        def forward(self, texts):
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    model = lw.SimilarityModel(Lengths())
    pairs = pairs_of.read(model, ["a\udce4", "bb"], None)
    verify_parts(model, pairs, tmp_path / "out", threshold=0.1)
    assert [(row["a"], row["b"]) for row in read(tmp_path / "out")] == [("a\\udce4", "bb")]


def test_progress_counts_what_is_left(model, tmp_path):
    told = []
    match_parts(model, TEST, tmp_path, part_rows=100, progress=lambda *at: told.append(at))
    assert told[-1] == (447, 447)
    (part,) = tmp_path.glob("part-00000002-*")
    part.unlink()
    told.clear()
    match_parts(model, TEST, tmp_path, resume=True, progress=lambda *at: told.append(at))
    assert told == [(100, 100)]


def test_decoded_images_are_not_kept_by_a_single_pass(model, files, tmp_path):
    images = model.preprocess.files(files[:3])
    match_parts(model, images, tmp_path)
    assert not images._kept
    assert images.unkept()._room == 0
    lw.data.items(images)
    assert len(images._kept) == 3
