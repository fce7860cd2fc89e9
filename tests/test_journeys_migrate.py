"""Migration: the same items under another encoder, switched whole or not at all, and back."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.errors import ArtifactError, GalleryError, InputError
from likewise.journeys.embedding_map import fit_map
from likewise.journeys.migrate import take_back
from likewise.journeys.migrating_items import CHUNK

WIDTH = 8


def drawn(count, seed, classes=10):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).normal(size=(classes, WIDTH))
    codes = rng.integers(classes, size=count)
    items = middles[codes] + 0.5 * rng.normal(size=(count, WIDTH))
    return items.astype("float32"), [f"class {code:02d}" for code in codes]


def turned(seed, width):
    """A model over an encoder that turns and bends what it is given."""
    torch.manual_seed(seed)
    layers = torch.nn.Linear(WIDTH, width), torch.nn.Tanh(), torch.nn.Linear(width, width)
    return lw.SimilarityModel(torch.nn.Sequential(*layers))


KNOWN, ASIDE = drawn(120, 0), drawn(200, 1)


def made(place, *, gallery=True):
    """Two saved models, the old one with known items; their folders."""
    old = turned(0, 6)
    if gallery:
        old.use_gallery(place / "known")
    rows = [{"row": row} for row in range(len(KNOWN[1]))]
    ids = [f"id {row}" for row in range(len(KNOWN[1]))]
    old.add(KNOWN, ids=ids, metadata=rows)
    old.calibrate(ASIDE)
    old.calibrate(ASIDE, rule="majority", k=3, goal=lw.at_most_false_accepts(0.1))
    old.calibrate(ASIDE, rule="pairs", goal=lw.best_accuracy)
    old.save(place / "old")
    if gallery:
        old.index.close()
    turned(1, 9).save(place / "new")
    return place / "old", place / "new"


@pytest.fixture(params=[True, False], ids=["gallery", "memory"])
def folders(request, tmp_path):
    return made(tmp_path, gallery=request.param)


def opened(folder):
    return lw.load(folder, read_only=True)


def kind(folder):
    """Which model a reader finds: it must be whole, with the embeddings of its own encoder."""
    model = opened(folder)
    width = model.encoder[0].out_features
    assert len(model.index) == len(KNOWN[1])
    torch.testing.assert_close(model.index.embeddings, model.embed(KNOWN[0]))
    assert set(model.calibrations) == {"nearest", "majority", "pairs"}
    assert model.match(ASIDE[0][:5]).labels.shape == (5,)
    return {6: "old", 9: "new"}[width]


def test_the_items_are_the_same_under_the_new_encoder(folders):
    old, new = folders
    before = opened(old)
    done = lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert done.switched
    assert (done.items, done.way) == (len(KNOWN[1]), "items")
    after = opened(old)
    assert kind(old) == "new"
    assert after.fingerprint == opened(new).fingerprint
    assert after.index.ids.tolist() == before.index.ids.tolist()
    assert after.index.labels.tolist() == before.index.labels.tolist()
    assert after.class_names == before.class_names
    told = [m.index.metadata(m.index.ids) for m in (before, after)]
    assert [each["row"] for each in told[1]] == [each["row"] for each in told[0]]
    goals = [{n: (c.goal, c.rule, c.k) for n, c in m.calibrations.items()} for m in (before, after)]
    assert goals[0] == goals[1]
    assert after.origin["migrated"]["from"] == before.fingerprint
    for name in ("nearest", "majority"):
        names = [model.match(ASIDE[0], point=name).names for model in (before, after)]
        changed = sum(a != b for a, b in zip(*names, strict=True))
        point = done.points[name]
        assert (point.changed, point.decisions) == (changed, len(ASIDE[1]))
        assert changed > 0, "none would prove nothing"
        assert point.share.low < changed / len(ASIDE[1]) < point.share.high
        known = [a == b for a, b in zip(names[0], ASIDE[1], strict=True)]
        now = [a == b for a, b in zip(names[1], ASIDE[1], strict=True)]
        assert point.right.value == pytest.approx((sum(now) - sum(known)) / len(known))
        gone = sum(a != "unknown" and b == "unknown" for a, b in zip(*names, strict=True))
        assert point.to_unknown == gone
        assert point.threshold_after == after.calibrations[name].threshold
    assert done.points["pairs"].changed > 0


def test_back_is_the_model_of_before(folders):
    old, new = folders
    before = opened(old)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert kind(old) == "new"
    assert take_back(old)
    assert kind(old) == "old"
    after = opened(old)
    assert after.gallery == before.gallery
    assert after.calibrations == before.calibrations
    assert not take_back(old), "it was back already"
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert kind(old) == "new"
    opened(new).save(old)
    with pytest.raises(ArtifactError, match="must stay as it was while it is replaced"):
        take_back(old)


def test_once_more_changes_nothing(folders):
    old, new = folders
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    content = (old / "model.json").read_bytes()
    again = lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert again.switched
    assert (old / "model.json").read_bytes() == content


class Killed(BaseException):
    pass


def test_a_kill_at_any_step_leaves_the_old_or_the_new_and_can_be_gone_on_with(
    folders, monkeypatch, tmp_path
):
    # Every rename, and every batch of items, is a step; a kill comes before one of them.
    monkeypatch.setattr("likewise.journeys.migrating_items.CHUNK", 50)
    calls = {"left": -1}

    def stepping(call):
        def step(*arguments, **options):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise Killed
            return call(*arguments, **options)

        return step

    for where, name in ((os, "replace"), (os, "rename"), (lw.Gallery, "add")):
        monkeypatch.setattr(where, name, stepping(getattr(where, name)))
    seen, steps = [], 0
    for at in range(1, 100):
        for name in ("model", "model.migration", "known.model"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        for path in tmp_path.glob("known.*"):
            shutil.rmtree(path)
        model = lw.load(folders[0], read_only=True)
        model.save(tmp_path / "model")
        calls["left"] = at
        try:
            lw.migrate(tmp_path / "model", folders[1], items=KNOWN, aside=ASIDE)
        except Killed:
            steps += 1
        else:
            break
        finally:
            calls["left"] = -1
        seen.append(kind(tmp_path / "model"))
        if at % 3 == 0:
            take_back(tmp_path / "model") if seen[-1] == "new" else None
            continue
        assert lw.migrate(tmp_path / "model", folders[1], items=KNOWN, aside=ASIDE).switched
        assert kind(tmp_path / "model") == "new"
    assert steps > 12
    assert seen == sorted(seen, reverse=True), "old before the switch, new behind it"
    assert set(seen) == {"old", "new"}


def test_what_was_changed_meanwhile_is_followed(tmp_path):
    old, new = made(tmp_path)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE, switch=False)
    assert kind(old) == "old"
    with lw.Gallery(tmp_path / "known") as gallery:
        gallery.remove(["id 3", "id 70"])
        gallery.relabel(["id 5"], ["another"])
    more, names = drawn(4, 5)
    model = lw.load(old)
    model.add((more, names), ids=[f"more {row}" for row in range(4)])
    model.index.close()
    every = np.concatenate([KNOWN[0], more]), [*KNOWN[1], *names]
    with pytest.raises(InputError, match=r"got 4 missing, such as the ids 'more 0'"):
        lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert lw.migrate(old, new, items=every, aside=ASIDE).items == 122
    after = opened(old)
    ids = after.index.ids.tolist()
    assert "id 3" not in ids
    assert ids[-4:] == [f"more {row}" for row in range(4)]
    assert after.index.get(["id 5"]).labels.tolist() == [after.class_names.index("another")]
    wanted = after.embed(np.delete(every[0], [3, 70], axis=0))
    torch.testing.assert_close(after.index.embeddings, wanted)


@pytest.fixture
def encoded(monkeypatch):
    """How many items were put into each gallery, call by call."""
    counts, add = [], lw.Gallery.add

    def counted(gallery, embeddings, **options):
        counts.append(len(embeddings))
        return add(gallery, embeddings, **options)

    monkeypatch.setattr(lw.Gallery, "add", counted)
    return counts


# Of the last ones neither id nor order tells that they were put anew.
@pytest.mark.parametrize("ids", [["id 7"], ["id 119"], ["id 3", "id 90"], ["id 118", "id 119"]])
def test_an_item_that_was_put_anew_is_encoded_anew(tmp_path, encoded, ids):
    old, new = made(tmp_path)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE, switch=False)
    model = lw.load(old, read_only=False)
    model.index.remove(ids)
    other = drawn(len(ids), 6)
    model.add(other, ids=ids)
    model.index.close()
    every = np.concatenate([KNOWN[0], other[0]]), [*KNOWN[1], *other[1]]
    encoded.clear()
    lw.migrate(old, new, items=every, aside=ASIDE)
    assert encoded == [len(ids)], "and no other"
    after = opened(old)
    torch.testing.assert_close(after.index.get(ids).embeddings, after.embed(other[0]))


def test_other_items_under_the_same_ids_are_no_items_that_were_done(tmp_path, encoded):
    old, new = made(tmp_path)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE, switch=False)
    model = lw.load(old, read_only=False)
    model.index.clear()
    other = drawn(120, 8)
    model.add(other, ids=[f"id {row}" for row in range(120)])
    model.index.close()
    encoded.clear()
    lw.migrate(old, new, items=other, aside=ASIDE)
    assert sum(encoded) == 120
    after = opened(old)
    torch.testing.assert_close(after.index.embeddings, after.embed(other[0]))
    assert after.index.metadata(["id 0"])[0].keys() == {"fingerprint"}, "no row, as before"


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_changed_in_the_new_gallery_before_it_was_taken_back_is_not_kept(
    tmp_path, monkeypatch, killed
):
    old, new = made(tmp_path)
    from likewise.journeys import migrate as module

    if killed:  # right after the switch
        switch = module.switch_model

        def last(*arguments, **options):
            switch(*arguments, **options)
            raise Killed

        monkeypatch.setattr(module, "switch_model", last)
    with pytest.raises(Killed) if killed else contextlib.nullcontext():
        lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    monkeypatch.undo()
    assert kind(old) == "new"
    model = lw.load(old, read_only=False)
    model.index.remove(["id 119"])
    model.add(drawn(1, 6), ids=["id 119"])
    model.index.close()
    take_back(old)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert kind(old) == "new"


def test_a_gallery_of_the_new_encoder_is_not_migrated_onto_itself(tmp_path):
    old, new = made(tmp_path)
    sample = drawn(400, 3)
    lw.migrate(old, new, mapped_on=sample, aside=ASIDE)
    shutil.rmtree(tmp_path / "old.migration")  # as the page says, once one is sure
    with pytest.raises(InputError, match="to must have another encoder than the items"):
        lw.migrate(old, new, mapped_on=sample, aside=ASIDE)
    assert len(opened(old).index) == len(KNOWN[1])


def test_a_kill_as_the_next_migration_begins_leaves_the_way_back(tmp_path, monkeypatch):
    old, new = made(tmp_path)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    turned(2, 5).save(tmp_path / "third")
    from likewise.journeys import migrate as module

    def killed(*arguments):
        raise Killed

    monkeypatch.setattr(module._Workplace, "write", killed)
    with pytest.raises(Killed):
        lw.migrate(old, tmp_path / "third", items=KNOWN, aside=ASIDE)
    monkeypatch.undo()
    assert take_back(old)
    assert kind(old) == "old"


def test_a_class_without_items_is_unknown_to_both(tmp_path):
    old, new = made(tmp_path)
    gone = "class 01"
    with lw.Gallery(tmp_path / "known") as gallery:
        ids = gallery.ids[[name == gone for name in KNOWN[1]]].tolist()
        gallery.remove(ids)
    before = opened(old)
    assert gone in before.class_names
    done = lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    wanted = ["unknown" if name == gone else name for name in ASIDE[1]]
    right = [
        np.mean([a == b for a, b in zip(model.match(ASIDE[0]).names, wanted, strict=True)])
        for model in (opened(old), before)
    ]
    assert done.points["nearest"].right.value == pytest.approx(right[0] - right[1])


def test_how_items_are_stored_and_searched_goes_along(tmp_path):
    for name in ("memory", "gallery"):
        (tmp_path / name).mkdir()
        old = turned(0, 6)
        how = {"recall": 0.9, "approximate": "HNSW"}
        if name == "memory":
            old.index = lw.Index(old.distance, storage="float16", **how)
        else:
            lw.Gallery(
                tmp_path / name / "known", encoder=old.fingerprint, storage="float16"
            ).close()
            old.use_gallery(tmp_path / name / "known", **how)
        old.add(KNOWN)
        old.save(tmp_path / name / "old")
        old.index.close()
        turned(1, 9).save(tmp_path / name / "new")
        lw.migrate(tmp_path / name / "old", tmp_path / name / "new", items=KNOWN)
        after = opened(tmp_path / name / "old").index
        assert (after.dimension, after.storage) == (9, "float16")
        assert (after.recall, after.approximate) == (0.9, "HNSW")


def test_nothing_is_switched_while_somebody_writes(tmp_path):
    old, new = made(tmp_path)
    with lw.Gallery(tmp_path / "known"):
        with pytest.raises(GalleryError, match="gallery must be written by nobody while it is"):
            lw.migrate(old, new, items=KNOWN, aside=ASIDE)
        assert kind(old) == "old"
    assert lw.migrate(old, new, items=KNOWN, aside=ASIDE).switched


def test_an_item_that_was_put_anew_before_the_switch_is_seen(tmp_path, monkeypatch):
    old, new = made(tmp_path)
    from likewise.journeys import migrate as module

    compared, other = module._compared, drawn(1, 6)
    before = (old / "model.json").read_bytes()

    def changed_behind(*arguments):
        model = lw.load(old, read_only=False)
        model.index.remove(["id 119"])  # the last, so that ids and their order stay
        model.index.add(model.embed(other[0]), labels=[KNOWN[1][119]], ids=["id 119"])
        model.index.close()
        return compared(*arguments)

    monkeypatch.setattr(module, "_compared", changed_behind)
    with pytest.raises(GalleryError, match="must stay as it is while it is switched"):
        lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert (old / "model.json").read_bytes() == before


def test_a_model_that_was_saved_meanwhile_is_not_lost(tmp_path, monkeypatch):
    old, new = made(tmp_path, gallery=False)
    from likewise.journeys import migrate as module

    copied = module.copy_model

    def saved_behind(path, to):
        found = copied(path, to)
        model = lw.load(old)
        model.calibrate(ASIDE, rule="weighted", k=3)
        model.save(old)
        return found

    monkeypatch.setattr(module, "copy_model", saved_behind)
    with pytest.raises(ArtifactError, match="got one that was saved meanwhile"):
        lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    monkeypatch.undo()
    assert "weighted" in opened(old).calibrations
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert "weighted" in opened(old).calibrations, "calibrated again with the rest"


def test_too_many_changed_decisions_switch_nothing(folders):
    old, new = folders
    with pytest.raises(InputError, match=r"must change at most 0.00% of the decisions, got \d+ of"):
        lw.migrate(old, new, items=KNOWN, aside=ASIDE, allowed=0.0)
    assert kind(old) == "old"
    assert lw.migrate(old, new, items=KNOWN, aside=ASIDE, allowed=1.0).switched


def test_another_migration_that_was_begun_is_refused(folders, tmp_path):
    old, new = folders
    lw.migrate(old, new, items=KNOWN, aside=ASIDE, switch=False)
    turned(2, 5).save(tmp_path / "third")
    with pytest.raises(ArtifactError, match="must not be within a migration to another encoder"):
        lw.migrate(old, tmp_path / "third", items=KNOWN, aside=ASIDE)
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    lw.migrate(old, tmp_path / "third", items=KNOWN, aside=ASIDE)
    assert opened(old).index.dimension == 5
    take_back(old)
    assert kind(old) == "new"


def test_without_the_items_their_embeddings_are_mapped(folders):
    old, new = folders
    sample = drawn(400, 3)
    done = lw.migrate(old, new, mapped_on=sample, aside=ASIDE)
    assert done.way == "map"
    assert done.switched
    after = opened(old)
    assert after.index.ids.tolist()[:2] == ["id 0", "id 1"]
    true = after.embed(KNOWN[0])
    far = lw.distances.COSINE.paired(after.index.embeddings, true)
    assert 0 < float(far.mean()) < 0.5 * done.mapped_by["apart"]  # six numbers of eight
    loss = done.mapped_by["loss"]
    assert loss["low"] < float(far.mean()) < loss["high"] * 1.5
    assert after.origin["migrated"]["map"]["items"] == 400
    lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert kind(old) == "new", "encoded anew, once the items are there again"


def test_a_map_is_not_judged_on_what_it_was_fitted_on(folders):
    old, new = folders
    done = lw.migrate(old, new, mapped_on=ASIDE, aside=ASIDE)
    assert done.mapped_by["items"] == 100
    assert done.compared == 100


def test_the_loss_of_a_map_is_that_of_items_it_has_not_seen():
    rng = torch.Generator().manual_seed(0)
    old = torch.randn(120, 12, generator=rng)
    new = torch.randn(120, 7, generator=rng)  # nothing to be learned
    found = fit_map(old, new)
    assert found.loss.value > 0.7 * found.apart
    seen = lw.distances.COSINE.paired(found(old), torch.nn.functional.normalize(new))
    assert float(seen.mean()) < found.loss.value
    linear = torch.randn(12, 7, generator=rng)
    exact = fit_map(old, old @ linear, distance=lw.distances.EUCLIDEAN)
    assert exact.method == "ridge"
    assert exact.loss.value < 1e-2
    torch.testing.assert_close(exact(old), old @ linear, atol=1e-2, rtol=1e-2)
    with pytest.raises(InputError, match="items must be at least 20"):
        fit_map(old[:19], new[:19])
    with pytest.raises(InputError, match="new must hold as many items as old, 120, got 19"):
        fit_map(old, new[:19])


def test_a_gallery_without_a_model_goes_to_the_new_one(tmp_path):
    old, new = made(tmp_path)
    shutil.rmtree(old)
    done = lw.migrate(tmp_path / "known", new, items=(KNOWN[0], KNOWN[1]))
    assert done.switched
    assert done.points["lookup"].decisions == len(KNOWN[1])
    after = opened(new)
    torch.testing.assert_close(after.index.embeddings, after.embed(KNOWN[0]))
    with lw.Gallery(tmp_path / "known", read_only=True) as gallery:
        assert gallery.dimension == 6
        own = gallery.lookup(gallery.embeddings, k=2).labels[:, 1]
        now = after.index.lookup(after.index.embeddings, k=2).labels[:, 1]
        assert done.points["lookup"].changed == int((own != now).sum()) > 0
    assert take_back(new)
    assert len(opened(new).index) == 0


def image_models(place, sizes=((8, 8), (12, 12))):
    models = []
    for seed, size in enumerate(sizes):
        torch.manual_seed(seed)
        shape = (1, *size)
        encoder = lw.encoders.ConvEncoder(shape, layers=(4,), embedding_dim=6)
        preprocess = lw.data.Preprocess(shape, (0.5,), (0.5,))
        models.append(lw.SimilarityModel(encoder, preprocess=preprocess))
    return models


def test_files_are_read_again_from_where_they_were(tmp_path):
    rng = np.random.default_rng(0)
    for row in range(24):
        folder = tmp_path / "data" / f"kind {row % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    old, new = image_models(tmp_path)
    data = lw.data.load(tmp_path / "data", image_size=8, channels=1)
    old.add(data)
    old.save(tmp_path / "old")
    new.save(tmp_path / "new")
    done = lw.migrate(tmp_path / "old", tmp_path / "new")
    after = opened(tmp_path / "old")
    paths = [facts["path"] for facts in after.index.metadata(after.index.ids)]
    torch.testing.assert_close(after.index.embeddings, after.embed(paths))
    assert done.points["lookup"].decisions == 24
    stored, there, _ = after.index.fingerprints()
    assert bool(there.all())
    wanted = lw.data.fingerprints(lw.data.load(tmp_path / "data", image_size=12, channels=1))
    assert set(stored.tolist()) == set(wanted.tolist())
    take_back(tmp_path / "old")
    Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(paths[3])
    shutil.rmtree(tmp_path / "old.migration")
    with pytest.raises(InputError, match="known items must be as they were indexed, got "):
        lw.migrate(tmp_path / "old", tmp_path / "new")
    Path(paths[4]).unlink()
    with pytest.raises(InputError, match=r"or the file of each known item be there, got 1 of 24"):
        lw.migrate(tmp_path / "old", tmp_path / "new")
    assert opened(tmp_path / "old").index.embeddings.shape == (24, 6)


def test_what_cannot_be_migrated_is_one_sentence(tmp_path):
    old, new = made(tmp_path, gallery=False)
    with pytest.raises(InputError, match="aside must be given to calibrate and compare on"):
        lw.migrate(old, new, items=KNOWN)
    with pytest.raises(InputError, match="items must be given, or the file of each known item"):
        lw.migrate(old, new, aside=ASIDE)
    with pytest.raises(InputError, match="got 20 missing"):
        lw.migrate(old, new, items=(KNOWN[0][20:], KNOWN[1][20:]), aside=ASIDE)
    with pytest.raises(InputError, match="aside must hold items that are neither known nor"):
        lw.migrate(old, new, items=KNOWN, aside=KNOWN)
    with pytest.raises(InputError, match="items must come without a sample"):
        lw.migrate(old, new, items=KNOWN, mapped_on=KNOWN, aside=ASIDE)
    lw.SimilarityModel(None).save(tmp_path / "vectors")
    with pytest.raises(InputError, match="to must be a model with an encoder"):
        lw.migrate(old, tmp_path / "vectors", items=KNOWN, aside=ASIDE)
    with pytest.raises(InputError, match="model must hold known items"):
        lw.migrate(new, turned(3, 4), items=KNOWN, aside=ASIDE)
    with pytest.raises(InputError, match="model must exist"):
        lw.migrate(tmp_path / "none", new)
    with pytest.raises(ArtifactError, match="model must have been migrated to be taken back"):
        take_back(tmp_path / "vectors")
    lw.migrate(old, new, items=KNOWN, aside=ASIDE, switch=False)
    record = tmp_path / "old.migration" / "migration.json"
    record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="migration must be whole"):
        lw.migrate(old, new, items=KNOWN, aside=ASIDE)
    assert kind(old) == "old"


def test_the_command_migrates_and_goes_back(tmp_path, run):
    old, new = made(tmp_path)
    for name, (items, names) in (("known", KNOWN), ("aside", ASIDE)):
        np.savez(tmp_path / f"{name}.npz", x=items, y=np.array(names))
    reads = ("--items", tmp_path / "known.npz", "--aside", tmp_path / "aside.npz")
    status, told, _ = run("migrate", old, "--to", new, *reads, "--dry-run", "--json")
    assert status == 0
    answer = json.loads(told)
    assert not answer["switched"]
    assert answer["points"]["nearest"]["decisions"] == len(ASIDE[1])
    assert kind(old) == "old"
    status, told, _ = run("migrate", old, "--to", new, *reads)
    assert status == 0
    assert "switched: " in told
    assert "the new thresholds were chosen on the same items" in told
    assert kind(old) == "new"
    status, told, _ = run("migrate", old, "--back")
    assert (status, kind(old)) == (0, "old")
    status, _, said = run("migrate", old)
    assert (status, said.count("\n")) == (2, 1)
    assert "--to must be given" in said
    status, _, said = run("migrate", old, "--to", new, *reads, "--allow", "0")
    assert status == 2
    assert "Allow more with --allow." in said


def test_a_chunk_is_small_beside_a_gallery():
    assert CHUNK < 1000
