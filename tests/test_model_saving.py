"""Saved folders that are shared, killed, moved, forged, and models of every kind that come back."""

import copy
import importlib.util
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import likewise as lw
from likewise.distances import EUCLIDEAN
from likewise.encoders import (
    ConvEncoder,
    GeneralizedMeanPool2d,
    MLPEncoder,
    Normalize,
    PrincipalComponents,
    SelectOutput,
    Whitening,
    encode,
)
from likewise.errors import GalleryError, InputError
from likewise.index import Gallery
from likewise.model import ArtifactError, SimilarityModel
from likewise.model.merging import ENCODER, merged
from likewise.model.rebuilding import _is_dense, describe, encoder_fingerprint
from oracles import seal_model

DIGITS = lw.data.load("digits", split="train")
TEST = lw.data.Subset(lw.data.load("digits", split="test"), range(40))
FEW = lw.data.sample_items(DIGITS, per_class=4, seed=0)
ASIDE = lw.data.sample_items(DIGITS, per_class=30, seed=1)


@pytest.fixture(scope="module")
def benchmark():
    """Load a file of benchmarks/ as a module."""

    def load(name):
        source = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has none but its first
    yield load
    torch.set_num_threads(threads)


def small_model(seed=0):
    torch.manual_seed(seed)
    return SimilarityModel(MLPEncoder((1, 8, 8), hidden=(16,), embedding_dim=8))


def full_model(encoder=None, **settings):
    torch.manual_seed(0)
    encoder = encoder or ConvEncoder((1, 8, 8), layers=(8, "pool", 16), embedding_dim=8)
    model = SimilarityModel(encoder, preprocess=lw.data.Preprocess.fit(DIGITS), **settings)
    model.add(FEW)
    return model


def assert_decides_alike(a, b):
    expected, found = a.match(TEST), b.match(TEST)
    assert torch.equal(a.embed(TEST), b.embed(TEST))
    assert torch.equal(expected.labels, found.labels)
    assert torch.equal(expected.distances, found.distances)
    assert torch.equal(expected.probabilities, found.probabilities)
    assert len(expected.labels.unique()) > 2


# ---------------------------------------------------------------- two at once


def test_disjoint_changes_of_one_model_are_both_kept(tmp_path):
    full_model().save(tmp_path / "m")
    indexing, calibrating, telling = (lw.load(tmp_path / "m") for _ in range(3))
    indexing.add(lw.data.Subset(TEST, range(5)))
    calibrating.calibrate(ASIDE)
    calibrating.calibrate(ASIDE, rule="pairs", per_item=1.0)
    telling.origin = {"told": True}
    for model in (indexing, calibrating, telling):
        model.save(tmp_path / "m")
    found = lw.load(tmp_path / "m")
    assert found.index.ids.tolist() == indexing.index.ids.tolist()
    assert len(found.index) == len(FEW) + 5
    assert found.calibrations == calibrating.calibrations
    assert found.probabilities == calibrating.probabilities
    assert torch.equal(found.calibrated_prints, calibrating.calibrated_prints)
    assert found.origin == {"told": True}
    # What one has not changed it does not undo, however often it saves.
    telling.origin = {"told": 2}
    telling.save(tmp_path / "m")
    assert len(lw.load(tmp_path / "m").index) == len(FEW) + 5


def test_calibrations_of_two_are_joined_by_name_with_the_items_they_saw(tmp_path):
    full_model().save(tmp_path / "m")
    a, b = lw.load(tmp_path / "m"), lw.load(tmp_path / "m")
    a.calibrate(lw.data.Subset(ASIDE, range(0, 300, 2)), point="even")
    b.calibrate(lw.data.Subset(ASIDE, range(1, 300, 2)), point="odd")
    a.save(tmp_path / "m")
    b.save(tmp_path / "m")
    found = lw.load(tmp_path / "m")
    assert found.calibrations == {**a.calibrations, **b.calibrations}
    both = torch.cat([a.calibrated_prints, b.calibrated_prints]).unique()
    assert torch.equal(found.calibrated_prints, both)
    assert len(both) > len(a.calibrated_prints)


@pytest.mark.parametrize("what", ["the index", "the calibration 'nearest'", "the origin"])
def test_the_same_part_changed_by_two_is_refused(tmp_path, what):
    model = full_model()
    model.calibrate(ASIDE)
    model.save(tmp_path / "m")
    first, second = lw.load(tmp_path / "m"), lw.load(tmp_path / "m")
    for number, one in enumerate([first, second]):
        if what == "the index":
            one.index.remove(one.index.ids[number : number + 1])
        elif what == "the origin":
            one.origin = {"number": number}
        else:
            one.calibrate(lw.data.Subset(ASIDE, range(number, 300, 2)))
    first.save(tmp_path / "m")
    with pytest.raises(ArtifactError, match=f"others have not changed the same, .*{what} was"):
        second.save(tmp_path / "m")
    second.save(tmp_path / "elsewhere")
    again = lw.load(tmp_path / "m")
    assert again.index.ids.tolist() == first.index.ids.tolist()
    assert again.calibrations == first.calibrations


def test_a_change_is_not_carried_over_to_another_encoder(tmp_path):
    full_model().save(tmp_path / "m")
    old = lw.load(tmp_path / "m")
    trained = lw.load(tmp_path / "m")
    with torch.no_grad():
        next(trained.encoder.parameters()).mul_(2)
    trained.save(tmp_path / "m")
    old.calibrate(ASIDE)
    with pytest.raises(ArtifactError, match="in which the encoder was changed"):
        old.save(tmp_path / "m")


def test_a_model_made_anew_replaces_and_is_not_replaced_unseen(tmp_path):
    old = full_model()
    old.save(tmp_path / "m")
    new = small_model()
    new.save(tmp_path / "m")
    assert isinstance(lw.load(tmp_path / "m").encoder, MLPEncoder)
    with pytest.raises(ArtifactError, match="in which all of it was changed since this model"):
        old.save(tmp_path / "m")


def test_a_failed_save_is_repeated_in_full(tmp_path, monkeypatch):
    model = full_model()
    model.save(tmp_path / "m")
    model.index.remove(model.index.ids[:3])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(ArtifactError, match="No space left"):
            model.save(tmp_path / "m")
    model.save(tmp_path / "m")
    assert len(lw.load(tmp_path / "m").index) == len(FEW) - 3


@given(
    *[
        st.dictionaries(st.sampled_from([ENCODER, "a", "b", "c"]), st.integers(0, 2))
        for _ in range(3)
    ]
)
def test_merging_keeps_every_change_or_refuses(base, ours, theirs):
    for units in (base, ours, theirs):
        units.setdefault(ENCODER, 0)
    try:
        from_us = merged(base, ours, theirs)
    except InputError as error:
        name = str(error)
        assert ours.get(name) != theirs.get(name)
        return
    joined = {
        name: (ours if is_ours else theirs).get(name)
        for name, is_ours in from_us.items()
        if name in (ours if is_ours else theirs)
    }
    for name in {*base, *ours, *theirs}:
        for mine in (ours, theirs):
            if mine.get(name) != base.get(name):
                assert joined.get(name) == mine.get(name)
        if ours.get(name) == theirs.get(name):
            assert joined.get(name) == ours.get(name)
    if ours[ENCODER] != theirs[ENCODER]:
        assert base in (ours, theirs)


def test_threads_that_save_one_model_wait_for_each_other(tmp_path):
    models = [small_model(seed) for seed in range(4)]
    failed = []

    def work(model):
        try:
            for _ in range(5):
                model._kept.clear()
                model.save(tmp_path / "m")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    found = lw.load(tmp_path / "m").embed(TEST)
    assert any(torch.equal(found, model.embed(TEST)) for model in models)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="rounds are forked processes")


@needs_fork
def test_kills_and_races_leave_a_whole_model(benchmark, tmp_path):
    crashes = benchmark("model_crashes")
    counts = [
        crashes.two_processes(6, tmp_path / "two"),
        crashes.readers(30, tmp_path / "read"),
        crashes.kills(6, tmp_path / "first", over_older=False),
        crashes.kills(6, tmp_path / "over", over_older=True),
    ]
    bad = {(at, name): c[name] for at, c in enumerate(counts) for name in crashes.BAD if c[name]}
    assert not bad
    assert sum(c["left over"] for c in counts) == 0
    assert counts[0]["saved"] >= 6
    assert counts[1]["loads"] == 30


@needs_fork
def test_mutated_folders_are_refused_in_a_sentence(benchmark, tmp_path):
    fuzz = benchmark("fuzz_model")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = pages * os.sysconf("SC_PAGE_SIZE") >> 20  # by the tests before, and so by each child
    table, bad = fuzz.fuzz(33, 7, tmp_path)
    assert bad == []
    assert sum(counts["refused"] for counts in table.values()) > 15
    # Below 1,000 MB in a process of its own, of which Python and torch take 300.
    assert max(counts["peak MB"] for counts in table.values()) - held < 700


def test_leftovers_of_killed_saves_are_ours_and_go_with_the_next_save(tmp_path):
    model = small_model()
    model.save(tmp_path / "whole")
    part = next((tmp_path / "whole").glob("encoder-*")).name
    (tmp_path / "m").mkdir()
    for name in (part, f".{part}.{'a' * 32}.part", ".model.json.123.part", "model.lock"):
        (tmp_path / "m" / name).write_bytes(b"half")
    model.save(tmp_path / "m")
    assert sorted(os.listdir(tmp_path / "m")) == sorted(os.listdir(tmp_path / "whole"))
    assert torch.equal(lw.load(tmp_path / "m").embed(TEST), model.embed(TEST))


# ---------------------------------------------------------------- whole again


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = self.a.weight

    def forward(self, items):
        return self.b(torch.relu(self.a(items.flatten(1))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [False, True], ids=["rebuilt", "given"])
def test_the_number_type_is_kept(tmp_path, dtype, given):
    model = small_model()
    model.encoder.to(dtype)
    model.save(tmp_path / "m")
    other = small_model(seed=1).encoder if given else None
    again = lw.load(tmp_path / "m", encoder=other)
    assert next(again.encoder.parameters()).dtype == dtype
    assert again.fingerprint == model.fingerprint
    assert torch.equal(again.embed(TEST), model.embed(TEST))


def test_tied_weights_stay_tied_in_a_given_encoder(tmp_path):
    model = SimilarityModel(Tied())
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m", encoder=Tied())
    assert torch.equal(again.embed(TEST), model.embed(TEST))
    assert again.encoder.a.weight is again.encoder.b.weight


@pytest.mark.parametrize("wrap", ["compiled", "parallel", "both inside"])
def test_wrappers_are_left_off(tmp_path, wrap):
    model = small_model()
    expected, plain = model.embed(TEST), model.encoder
    wrapped = {
        "compiled": lambda: torch.compile(plain, backend="eager"),
        "parallel": lambda: nn.DataParallel(plain),
        "both inside": lambda: nn.Sequential(
            nn.DataParallel(torch.compile(plain, backend="eager")), Normalize()
        ),
    }[wrap]()
    model.encoder = wrapped
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m")
    assert not any("Parallel" in type(m).__name__ for m in again.encoder.modules())
    if wrap == "both inside":
        torch.testing.assert_close(again.embed(TEST), expected)
    else:
        assert type(again.encoder) is MLPEncoder
        assert torch.equal(again.embed(TEST), expected)
        assert encoder_fingerprint(wrapped) == encoder_fingerprint(plain)
    into = lw.load(tmp_path / "m", encoder=copy.deepcopy(wrapped) if wrap == "parallel" else None)
    torch.testing.assert_close(into.embed(TEST), expected)


def test_weights_lie_in_memory_as_they_did(tmp_path):
    for order in (torch.contiguous_format, torch.channels_last):
        model = full_model()
        model.encoder.to(memory_format=order)
        model.save(tmp_path / "m")
        again = lw.load(tmp_path / "m")
        strides = [weight.stride() for weight in model.encoder.state_dict().values()]
        assert [weight.stride() for weight in again.encoder.state_dict().values()] == strides
        model._kept.clear()
        shutil.rmtree(tmp_path / "m")


def recipes():
    torch.manual_seed(0)
    encoder = ConvEncoder((1, 8, 8), layers=(8, "pool", 16), embedding_dim=8).eval()
    preprocess = lw.data.Preprocess.fit(DIGITS)
    long = nn.Sequential(encoder.features, Normalize())
    vectors = encode(long, ASIDE, preprocess=preprocess.apply)
    short = encode(encoder, ASIDE, preprocess=preprocess.apply)
    return {
        "components": nn.Sequential(
            encoder.features, Normalize(), PrincipalComponents.fit(vectors, 12)
        ),
        "whitening": nn.Sequential(encoder, Whitening.fit(short, ASIDE.labels)),
        "features": encoder.features,
        "pooling": nn.Sequential(
            nn.Conv2d(1, 4, 3), GeneralizedMeanPool2d(learnable=True), nn.Linear(4, 4)
        ),
        "maximum": nn.Sequential(nn.Conv2d(1, 4, 3), GeneralizedMeanPool2d(float("inf"))),
        "selected": nn.Sequential(
            SelectOutput(nn.MaxPool2d(2, return_indices=True), 0),
            nn.Flatten(),
            nn.LayerNorm(16),
            nn.Linear(16, 5, bias=False),
            nn.GELU(),
        ),
    }


@pytest.mark.parametrize(
    "name", ["components", "whitening", "features", "pooling", "maximum", "selected"]
)
def test_recipes_of_several_modules_come_back_whole(tmp_path, name):
    model = full_model(recipes()[name].eval(), distance=EUCLIDEAN)
    model.calibrate(ASIDE, goal=lw.at_most_false_accepts(0.45))
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m")
    assert_decides_alike(model, again)
    assert again.fingerprint == model.fingerprint
    assert repr(again.encoder) == repr(model.encoder)


def test_what_a_description_cannot_tell_needs_the_encoder(tmp_path):
    class Lookalike(nn.Module):
        def forward(self, items):
            return items.flatten(1)

    Lookalike.__name__ = "MLPEncoder"
    changed = MLPEncoder((1, 8, 8), hidden=(16,))
    changed.layers[-1] = nn.Identity()  # no longer of unit length, which its config denies
    hooked = MLPEncoder((1, 8, 8), hidden=(16,))
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    for encoder in (Lookalike(), changed, hooked, nn.Sequential(Lookalike(), Normalize())):
        assert describe(encoder).own
        SimilarityModel(encoder).save(tmp_path / "m")
        with pytest.raises(ArtifactError, match="encoder must be given for a model with an enc"):
            lw.load(tmp_path / "m")
    assert not describe(MLPEncoder((1, 8, 8), hidden=(16,))).own


class Configured(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.layer = config, nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


def test_encoders_of_ours_and_of_others_are_told_apart_by_their_config():
    one, other = Configured({"depth": 1}), Configured({"depth": 2})
    other.load_state_dict(one.state_dict())
    assert encoder_fingerprint(one) != encoder_fingerprint(other)


def test_two_sequences_of_the_same_weights_have_two_fingerprints():
    layer = nn.Linear(4, 4)
    plain, unit = nn.Sequential(layer), nn.Sequential(layer, Normalize())
    assert encoder_fingerprint(plain) != encoder_fingerprint(unit)


def test_a_cohort_is_kept_and_used(tmp_path):
    model = full_model()
    plain = model.calibrate(ASIDE, k=3)
    model.use_cohort(lw.data.Subset(TEST, range(30)), nearest=10)
    assert model.calibrations == {}
    normed = model.calibrate(ASIDE, k=3, goal=lw.at_most_false_accepts(0.45))
    assert normed.threshold != plain.threshold
    model.calibrate(ASIDE, rule="pairs", per_item=1.0)
    a, b = lw.data.items(TEST, range(9)), lw.data.items(TEST, range(9, 18))
    expected = model.norm.as_distance().paired(model.embed(a), model.embed(b))
    assert torch.equal(model.verify(a, b).distances, expected)
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m")
    assert_decides_alike(model, again)
    assert torch.equal(again.verify(a, b).distances, expected)


def test_a_cohort_changes_which_neighbor_is_nearest_as_the_parts_say(tmp_path):
    from likewise.matching import normalize_neighbors

    model = full_model()
    model.use_cohort(lw.data.Subset(TEST, range(30)), nearest=10)
    queries = model.embed(TEST)
    expected = normalize_neighbors(
        model.index.lookup(queries, k=5), queries, model.index, model.norm
    )
    found = model.match(TEST, threshold=100.0, k=5).neighbors
    assert torch.equal(found.distances, expected.distances)
    assert (found.ids[:, 0] != model.index.lookup(queries, k=1).ids[:, 0]).any()


def test_thresholds_by_class_are_kept_and_used(tmp_path):
    model = full_model()
    model.calibrate(DIGITS, per_class=True, fewest=10)
    thresholds = model.class_thresholds["nearest"]
    assert thresholds.classes
    found = model.match(TEST)
    taken_for = model.match(TEST, threshold=float("inf")).labels
    assert torch.equal(found.limits, thresholds.of(taken_for))
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m")
    assert_decides_alike(model, again)
    assert again.class_thresholds == model.class_thresholds
    model.calibrate(DIGITS)  # one for all again
    assert model.class_thresholds == {}
    with pytest.raises(InputError, match="per_class must be False for pairs"):
        model.calibrate(DIGITS, rule="pairs", per_class=True)


def second_nearest(neighbors):
    return neighbors.labels[:, 1], neighbors.distances[:, 1]


def test_a_rule_of_ones_own_is_calibrated_matched_saved_and_asked_for(tmp_path):
    model = full_model()
    made = model.calibrate(ASIDE, rule=second_nearest, k=2)
    assert made.rule == "second_nearest"
    found = model.match(TEST, point="second_nearest")
    expected = model.index.lookup(model.embed(TEST), k=2).distances[:, 1]
    assert torch.equal(found.distances, expected)
    model.save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="rules must hold 'second_nearest', a rule of the"):
        lw.load(tmp_path / "m")
    again = lw.load(tmp_path / "m", rules={"second_nearest": second_nearest})
    assert torch.equal(again.match(TEST, point="second_nearest").labels, found.labels)
    model.calibrate(ASIDE, rule=lw.matching.nearest)
    assert torch.equal(model.match(TEST).labels, model.match(TEST, point="nearest").labels)

    def nearest(neighbors):
        return second_nearest(neighbors)

    with pytest.raises(InputError, match="rule must have a name that is free, got 'nearest'"):
        model.calibrate(ASIDE, rule=nearest)


def test_an_origin_that_json_cannot_hold_is_refused(tmp_path):
    model = SimilarityModel(MLPEncoder((4,)), origin={"made": object()})
    with pytest.raises(ArtifactError, match="origin must hold what JSON can"):
        model.save(tmp_path / "m")


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_an_index_that_was_loaded_counts_as_unchanged(tmp_path, storage):
    model = full_model()
    items = model.index.embeddings
    model.index = lw.Index(storage=storage)
    model.index.add(items, labels=["x", "y"] * 20)
    model.save(tmp_path / "m")
    idle, other = lw.load(tmp_path / "m"), lw.load(tmp_path / "m")
    other.index.remove(other.index.ids[:2])
    other.save(tmp_path / "m")
    idle.origin = {"idle": True}
    idle.save(tmp_path / "m")
    assert len(lw.load(tmp_path / "m").index) == 38


# ---------------------------------------------------------------- galleries


@pytest.fixture
def with_gallery(tmp_path):
    model = SimilarityModel(small_model().encoder)
    model.use_gallery(tmp_path / "home" / "known")
    model.add(FEW)
    model.calibrate(ASIDE)
    model.save(tmp_path / "home" / "m")
    expected = model.match(TEST)
    model.index.close()
    return expected


def test_a_loaded_model_opens_its_gallery_wherever_both_were_moved(tmp_path, with_gallery):
    (tmp_path / "home").rename(tmp_path / "moved")
    model = lw.load(tmp_path / "moved" / "m")
    assert model.gallery == str(tmp_path / "moved" / "known")
    assert torch.equal(model.match(TEST).distances, with_gallery.distances)
    assert torch.equal(model.match(TEST).labels, with_gallery.labels)


def test_a_model_copied_without_its_gallery_finds_it_by_its_full_path(tmp_path, with_gallery):
    shutil.copytree(tmp_path / "home" / "m", tmp_path / "copy")
    model = lw.load(tmp_path / "copy")
    assert torch.equal(model.match(TEST).labels, with_gallery.labels)


def test_a_missing_gallery_is_named_and_another_place_can_be_given(tmp_path, with_gallery):
    (tmp_path / "home" / "known").rename(tmp_path / "far")
    with pytest.raises(ArtifactError, match=r"gallery must be there .*home/known'\. Use load\(pa"):
        lw.load(tmp_path / "home" / "m")
    model = lw.load(tmp_path / "home" / "m", gallery=tmp_path / "far")
    assert torch.equal(model.match(TEST).labels, with_gallery.labels)  # its threshold still holds
    other = lw.load(tmp_path / "home" / "m", gallery=tmp_path / "new", read_only=False)
    assert other.calibrations == {}  # chosen on another gallery


def test_a_loaded_gallery_is_read_until_writing_is_asked(tmp_path, with_gallery):
    reading = lw.load(tmp_path / "home" / "m")
    with Gallery(tmp_path / "home" / "known"):  # another process may write meanwhile
        assert len(reading.match(TEST).labels) == 40
    reading.add(lw.data.Subset(TEST, range(3)))
    assert len(reading.index) == len(FEW) + 3
    strict = lw.load(tmp_path / "home" / "m", read_only=True)
    with pytest.raises(GalleryError, match="opened for writing"):
        strict.add(lw.data.Subset(TEST, range(3)))
    reading.index.close()
    writing = lw.load(tmp_path / "home" / "m", read_only=False)
    assert writing.index.remove(writing.index.ids[:1]) == 1


# ---------------------------------------------------------------- forged


def forge(folder, **changed):
    manifest = json.loads((folder / "model.json").read_text())
    seal_model(folder, manifest | changed)


def test_a_forged_folder_allocates_nothing_beyond_its_files(tmp_path):
    folder = small_model().save(tmp_path / "m")
    manifest = json.loads((folder / "model.json").read_text())
    config = manifest["encoder"]["config"]
    for change in (
        {"input_shape": [10**7, 10**6]},
        {"hidden": [2**31] * 3},
        {"hidden": [2**31] * 900},
        {"embedding_dim": 2**30},
        {"hidden": [8] * 5000},
        {"embedding_dim": 10**30},
        {"dropout": None},
        {"activation": 3},
        {"hidden": "x"},
        {"more": 1},
    ):
        forge(folder, encoder={"class": "MLPEncoder", "config": config | change})
        with pytest.raises(ArtifactError, match="must be"):
            lw.load(folder)
    deep = {"class": "Normalize"}
    for _ in range(150):
        deep = {"class": "Sequential", "parts": [["0", deep]]}
    for encoder in (deep, {"class": "Module"}, {"class": "system"}, {"class": "Sequential"}):
        forge(folder, encoder=encoder)
        with pytest.raises(ArtifactError):
            lw.load(folder)


def test_a_hole_in_a_part_is_refused_unread(tmp_path):
    folder = small_model().save(tmp_path / "m")
    manifest = json.loads((folder / "model.json").read_text())
    for name in manifest["files"]:
        files = copy.deepcopy(manifest["files"])
        files[name]["bytes"] = 1 << 40
        forge(folder, files=files)
        path = folder / files[name]["file"]
        size = path.stat().st_size
        os.truncate(path, 1 << 40)
        with pytest.raises(ArtifactError, match="must be whole"):
            lw.load(folder)
        os.truncate(path, size)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    folder = small_model().save(tmp_path / "m")
    for path in sorted(folder.iterdir()):
        if path.name == "model.lock":
            continue
        path.rename(tmp_path / "aside")
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(ArtifactError, match="must be"):
            lw.load(folder)
        path.rmdir() if kind == "folder" else path.unlink()
        (tmp_path / "aside").rename(path)
    lw.load(folder)


def test_numbers_that_no_float_holds_are_refused(tmp_path):
    model = full_model()
    model.calibrate(ASIDE)
    folder = model.save(tmp_path / "m")
    manifest = json.loads((folder / "model.json").read_text())
    for name, key in (("calibrations", "threshold"), ("probabilities", "prior")):
        made = copy.deepcopy(manifest[name])
        made["nearest"][key] = 10**400
        forge(folder, **{name: made})
        with pytest.raises(ArtifactError, match="must be whole"):
            lw.load(folder)
    made = copy.deepcopy(manifest["calibrations"])
    made["nearest"]["identification_rate"]["low"] = 10**400
    forge(folder, calibrations=made)
    with pytest.raises(ArtifactError, match="must be whole"):
        lw.load(folder)


# ---------------------------------------------------------------- the command line


def test_the_command_line_uses_what_a_model_brings(tmp_path, monkeypatch, capsys):
    from likewise.cli import main

    model = full_model(recipes()["components"].eval(), distance=EUCLIDEAN)
    model.use_cohort(lw.data.Subset(TEST, range(30)), nearest=10)
    model.save(tmp_path / "m")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["likewise", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert ended.value.code == 0, told.err
        return json.loads(told.out)

    run("calibrate", tmp_path / "m", "digits", "--per-class", "--json")
    loaded = lw.load(tmp_path / "m")
    assert loaded.class_thresholds["nearest"].classes
    found = run("match", tmp_path / "m", "digits", "--json")
    digits = lw.data.load("digits", split="test")
    names = [None if c < 0 else loaded.class_names[c] for c in loaded.match(digits).labels.tolist()]
    assert [query["label"] for query in found["queries"]] == names
    assert 0 < names.count(None) < len(names)


@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.lists(st.integers(-1, 7), max_size=3),
)
def test_strides_are_dense_where_the_entries_fill_what_they_span(shape, strides):
    places = [0]
    for size, stride in zip(shape, strides, strict=False):
        places = [place + step * stride for place in places for step in range(size)]
    fills = len(shape) == len(strides) and sorted(places) == list(range(len(places)))
    if 0 in shape or any(stride < 1 for stride in strides):
        return  # nothing to fill, or strides that no weight may have
    assert _is_dense(shape, strides) == fills
