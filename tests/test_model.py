import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import likewise as lw
from likewise.distances import Distance
from likewise.encoders import ConvEncoder, MLPEncoder
from likewise.model import ArtifactError, SimilarityModel
from likewise.model.folders import LOCK, MANIFEST

DIGITS = lw.data.load("digits", split="train")
TEST = lw.data.load("digits", split="test")


def small_encoder(seed=0):
    torch.manual_seed(seed)
    return ConvEncoder((1, 8, 8), layers=(8, "pool", 16), embedding_dim=8)


def made_model(**settings):
    six = lw.data.choose_classes(DIGITS, [str(digit) for digit in range(6)])
    trained, _ = lw.data.split_items(six, [0.5, 0.5], seed=0)
    settings = {
        "encoder": small_encoder(),
        "preprocess": lw.data.Preprocess.fit(DIGITS),
        "trained": trained,
        "origin": {"data": "digits"},
    } | settings
    model = SimilarityModel(**settings)
    model.add(lw.data.sample_items(DIGITS, per_class=5), metadata=[{"n": n} for n in range(50)])
    model.calibrate(DIGITS)
    model.calibrate(DIGITS, rule="pairs", per_item=1.0)
    return model


@pytest.fixture(scope="module")
def model():
    return made_model()


@pytest.fixture
def saved(model, tmp_path):
    return model.save(tmp_path / "model")


def test_a_reloaded_model_gives_bit_equal_embeddings_and_equal_decisions(model, saved):
    again = lw.load(saved)
    assert torch.equal(again.embed(TEST), model.embed(TEST))
    assert torch.equal(again.match(TEST).labels, model.match(TEST).labels)
    few, others = lw.data.items(TEST, range(20)), lw.data.items(TEST, range(20, 40))
    assert torch.equal(again.verify(few, others).same, model.verify(few, others).same)
    assert again.calibrations == model.calibrations
    assert again.origin == {"data": "digits"}
    assert again.trained_on == ["0", "1", "2", "3", "4", "5"]
    assert again.index.metadata(again.index.ids) == model.index.metadata(model.index.ids)
    assert 0 < int((model.match(TEST).labels >= 0).sum()) < len(TEST)


def test_a_reloaded_model_is_bit_equal_in_a_new_process(model, saved, tmp_path):
    code = (
        "import sys, numpy, likewise as lw; model = lw.load(sys.argv[1]);"
        "test = numpy.load(sys.argv[2]);"
        "numpy.savez(sys.argv[3], x=model.embed(test), y=model.match(test).labels)"
    )
    test, told = tmp_path / "test.npy", tmp_path / "told.npz"
    np.save(test, lw.data.items(TEST))
    files = [str(saved), str(test), str(told)]
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    loaded = lw.data.load(told)
    assert torch.equal(lw.data.items(loaded), model.embed(TEST))
    names = [loaded.class_names[code] if code >= 0 else "-1" for code in loaded.labels.tolist()]
    assert names == [str(label) for label in model.match(TEST).labels.tolist()]


def test_nothing_in_the_folder_is_a_pickle(saved):
    names = sorted(path.name.split("-")[0] for path in saved.iterdir())
    assert names == ["calibrated", "encoder", "index", "index", MANIFEST, LOCK, "trained"]
    for path in saved.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_items_indexed_or_trained_on_are_left_out_of_calibration_and_evaluation(model):
    new = model.embedded(DIGITS, only_new=True)
    assert 0 < len(new) < len(DIGITS) - 50
    found = model.evaluate(DIGITS, per_item=0.5)
    assert (found.items, found.left_out) == (len(new), len(DIGITS) - len(new))
    indexed = lw.data.sample_items(DIGITS, per_class=5)
    with pytest.raises(ValueError, match="data must hold items that are neither indexed nor"):
        model.calibrate(indexed)


def test_where_no_neighbor_is_wrong_items_are_also_asked_about_as_unknowns():
    corners = torch.tensor([[0.0, 0.0], [0.0, 4.0], [7.0, 0.0]]).repeat(4, 1)
    items = corners + 0.1 * torch.arange(12)[:, None]
    points = lw.data.ArrayDataset(items, ["a", "b", "c"] * 4)
    model = SimilarityModel(nn.Identity(), distance=lw.distances.EUCLIDEAN)
    model.add(lw.data.Subset(points, range(6)))
    made = model.calibrate(points)
    assert (made.same_total, made.different_total) == (6, 6)
    unknowns = torch.cdist(items[6:], items[:6])
    unknowns[torch.arange(6)[:, None] % 3 == torch.arange(6)[None, :] % 3] = torch.inf
    assert made.threshold < unknowns.amin() < 4
    assert made.f1.value == 1.0


def test_unknowns_are_judged_by_the_rule_that_is_calibrated():
    items = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0], [0.5], [1.5], [10.5]])
    points = lw.data.ArrayDataset(items, ["a"] * 3 + ["b"] * 3 + ["a", "a", "b"])
    model = SimilarityModel(nn.Identity(), distance=lw.distances.EUCLIDEAN)
    model.add(lw.data.Subset(points, range(6)))
    with pytest.warns(UserWarning, match="100% of the unknowns are accepted"):
        made = model.calibrate(points, rule="majority", k=3, goal=lw.at_most_false_accepts(1.0))
    # The mean distance of 0.5 to 10, 11 and 12 is the largest there is: 10.5.
    assert made.threshold == 10.5
    assert (made.same_total, made.different_total) == (3, 3)


def test_an_index_of_one_class_cannot_tell_how_far_is_too_far():
    points = lw.data.ArrayDataset(torch.rand(8, 2), ["a"] * 8)
    model = SimilarityModel(nn.Identity(), distance=lw.distances.EUCLIDEAN)
    model.add(lw.data.Subset(points, range(4)))
    with pytest.raises(ValueError, match="index must hold at least two classes to calibrate"):
        model.calibrate(points)


def test_evaluated_items_that_were_calibrated_on_are_counted(model, saved):
    again = lw.load(saved)
    assert again.evaluate(DIGITS, per_item=0.5).calibrated_on == int(model.is_new(DIGITS).sum())
    assert again.evaluate(TEST, per_item=0.5).calibrated_on == 0


def test_evaluation_tells_seen_classes_from_unseen_ones(model):
    found = model.evaluate(TEST, per_item=0.5)
    right = model.match(TEST).labels
    names = [model.class_names[code] if code >= 0 else None for code in right.tolist()]
    truth = [TEST.class_names[code] for code in TEST.labels.tolist()]
    for seen, estimate in [
        (True, found.matching.accuracy_seen),
        (False, found.matching.accuracy_unseen),
    ]:
        mine = [n == t for n, t in zip(names, truth, strict=True) if (t in "012345") == seen]
        assert float(estimate) == pytest.approx(sum(mine) / len(mine))
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_labels_meet_by_name_not_by_code(model):
    letters = lw.data.load((torch.rand(6, 1, 8, 8), ["x", "y", "9", "x", "y", "9"]))
    other = made_model()
    other.add(letters)
    assert other.class_names == [*model.class_names, "x", "y"]
    assert other.match(letters, threshold=1e-6).labels.tolist() == [10, 11, 9, 10, 11, 9]


def test_saving_again_replaces_the_model_and_leaves_no_litter(model, saved):
    changed = lw.load(saved)
    changed.index.remove(changed.index.ids[:10])
    changed.save(saved)
    assert len(lw.load(saved).index) == 40
    # Those who read the older description find its parts until the next save.
    assert len(list(saved.iterdir())) == 9
    changed.save(saved)
    assert len(list(saved.iterdir())) == 7


def test_another_programs_model_json_is_not_taken_for_ours(model, tmp_path):
    (tmp_path / "model.json").write_text('{"layers": 3}')
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="path must be a new folder or an older model"):
        model.save(tmp_path)
    assert (tmp_path / "model.json").read_text() == '{"layers": 3}'


def test_saving_removes_only_what_the_older_model_named(model, saved):
    (saved / "notes.json").write_text("{}")
    lw.load(saved).save(saved)
    assert (saved / "notes.json").exists()


def test_items_added_without_labels_stay_when_labeled_ones_follow():
    model = SimilarityModel(small_encoder())
    model.add(torch.rand(3, 1, 8, 8))
    model.add(lw.data.sample_items(DIGITS, per_class=1))
    assert len(model.index) == 13
    assert model.index.labels.tolist()[:3] == [-1, -1, -1]


def test_items_added_as_tensors_are_known_again_too():
    model = SimilarityModel(small_encoder())
    few = lw.data.sample_items(DIGITS, per_class=2)
    model.add(lw.data.items(few))
    assert int(model.is_new(DIGITS).sum()) == len(DIGITS) - 20
    with pytest.raises(ValueError, match="metadata must leave the name fingerprint free"):
        model.add(few, metadata=[{"fingerprint": 1}] * 20)
    with pytest.raises(ValueError, match="metadata must leave the name fingerprint free"):
        model.add(few, metadata=[{}] * 19 + [{"fingerprint": 1}])


def test_five_neighbors_are_looked_up_unless_said_otherwise(model):
    few = lw.data.items(TEST, range(3))
    assert model.lookup(few).ids.shape == (3, 5)
    assert model.lookup(few, k=2).ids.shape == (3, 2)


def test_the_sides_of_pairs_are_of_one_length(model):
    three, two = lw.data.items(TEST, range(3)), lw.data.items(TEST, range(2))
    for a, b in ((three, two), (two, three)):
        with pytest.raises(ValueError, match=f"as many items as a, {len(a)}, got {len(b)}"):
            model.verify(a, b, threshold=0.5)


def test_a_threshold_that_is_no_number_is_refused(model):
    few = lw.data.items(TEST, range(4))
    with pytest.raises(ValueError, match="threshold must be a number, got nan"):
        model.verify(few, few, threshold=float("nan"))


def test_saving_into_a_folder_of_something_else_is_refused(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="path must be a new folder or an older model"):
        model.save(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]
    with pytest.raises(ArtifactError, match="path must be a folder, got the file"):
        model.save(tmp_path / "thesis.txt")


@pytest.mark.parametrize("failing", ["write", "replace"])
def test_a_full_disk_leaves_the_old_model(model, saved, monkeypatch, failing):
    before = lw.load(saved).embed(TEST)
    changed = made_model(encoder=small_encoder(seed=1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync" if failing == "write" else "replace", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        changed.save(saved)
    monkeypatch.undo()
    assert torch.equal(lw.load(saved).embed(TEST), before)
    assert len(list(saved.iterdir())) == 7


def test_a_folder_that_cannot_be_made_is_named(model):
    with pytest.raises(ArtifactError, match="path must be a folder that can be written"):
        model.save("/proc/nowhere/model")


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damage_to_any_file_is_refused(saved, damage):
    for path in sorted(saved.iterdir()):
        if path.name == LOCK:  # empty, and of no importance to a reader
            continue
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        if damage == "altered" and path.name == MANIFEST:
            path.write_bytes(content.replace(b'"sha256": "', b'"sha256": "0', 1))
        with pytest.raises(ArtifactError, match=r"must be (whole|a folder saved by likewise)"):
            lw.load(saved)
        path.write_bytes(content)
    lw.load(saved)


def test_every_altered_byte_of_the_description_is_refused_or_harmless(model, saved):
    path = saved / MANIFEST
    content = path.read_bytes()
    expected = model.embed(TEST)
    refused = 0
    for position in range(0, len(content), 47):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        try:
            again = lw.load(saved)
        except ArtifactError:
            refused += 1
        else:
            assert again.embed(TEST).shape == expected.shape
    assert refused > 10


@pytest.mark.parametrize("written", [3, 5, "four", None])
def test_another_format_is_refused_as_another_version_s(saved, written):
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["format"] = written
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"must be of format 4, got format .* another version"):
        lw.load(saved)


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"path must be a folder saved .*model\.json"):
        lw.load(tmp_path)
    with pytest.raises(ArtifactError, match="path must be a folder saved by likewise"):
        lw.load(tmp_path / "nowhere")


def test_a_description_cannot_reach_outside_of_its_folder(saved, tmp_path):
    manifest = json.loads((saved / MANIFEST).read_text())
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((saved / manifest["files"]["encoder.safetensors"]["file"]).read_bytes())
    manifest["files"]["encoder.safetensors"]["file"] = "../outside.safetensors"
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="missing or damaged"):
        lw.load(saved)


class Own(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(64, width)

    def forward(self, items):
        return self.layer(items.flatten(1))


def test_a_users_own_encoder_comes_back_through_load(tmp_path):
    torch.manual_seed(0)
    model = made_model(encoder=Own())
    folder = model.save(tmp_path / "own")
    with pytest.raises(ArtifactError, match=r"encoder must be given .* Own\. Use load\(path, enc"):
        lw.load(folder)
    with pytest.raises(ArtifactError, match="encoder must be of the architecture that was saved"):
        lw.load(folder, encoder=Own(width=5))
    assert torch.equal(lw.load(folder, encoder=Own()).embed(TEST), model.embed(TEST))


def test_a_users_own_distance_comes_back_through_load(tmp_path):
    chebyshev = Distance(
        "chebyshev",
        lambda a, b: torch.cdist(a, b, p=torch.inf),
        lambda a, b: (a - b).abs().amax(dim=1),
    )
    model = made_model(distance=chebyshev)
    folder = model.save(tmp_path / "own")
    with pytest.raises(ArtifactError, match=r"distance must be given .* 'chebyshev'"):
        lw.load(folder)
    with pytest.raises(ArtifactError, match="distance must be the one the model was made with"):
        lw.load(folder, distance=lw.distances.COSINE)
    again = lw.load(folder, distance=chebyshev)
    assert torch.equal(again.match(TEST).labels, model.match(TEST).labels)


def test_a_model_of_vectors_without_preprocess_is_kept_too(tmp_path):
    points = lw.data.load((torch.randn(60, 5), ["a", "b", "c"] * 20))
    model = SimilarityModel(MLPEncoder((5,), embedding_dim=3))
    model.add(lw.data.sample_items(points, per_class=4), ids=[f"p{n}" for n in range(12)])
    again = lw.load(model.save(tmp_path / "vectors"))
    assert again.index.ids.tolist() == model.index.ids.tolist()
    assert again.preprocess is None
    with pytest.raises(ValueError, match="items must be a tensor or a dataset for a model without"):
        again.embed(["picture.png"])


def test_an_empty_model_is_kept_too(tmp_path):
    again = lw.load(SimilarityModel(small_encoder()).save(tmp_path / "empty"))
    assert len(again.index) == 0
    with pytest.raises(ValueError, match="model must be calibrated for nearest, got no cal"):
        again.match(TEST)
    with pytest.raises(ValueError, match="index"):
        again.lookup(TEST)


def test_items_of_another_shape_are_refused(model):
    with pytest.raises(ValueError, match=r"items must have shape \(1, 8, 8\), .* got \(1, 9, 9\)"):
        model.embed(torch.rand(2, 1, 9, 9))


def test_one_path_that_is_not_in_a_list_is_refused(model):
    with pytest.raises(TypeError, match=r"items must be a list of paths, got one path"):
        model.embed("digit.png")


def test_image_files_are_read_the_way_the_model_needs_them(model, tmp_path):
    from PIL import Image

    item = lw.data.items(TEST, [3])
    picture = Image.fromarray((item[0, 0] * 255).round().byte().numpy())
    picture.resize((32, 32), Image.Resampling.NEAREST).convert("RGB").save(tmp_path / "large.png")
    picture.save(tmp_path / "small.png")
    found = model.lookup([tmp_path / "small.png", tmp_path / "large.png"], k=1)
    expected = model.lookup((item * 255).round() / 255, k=1)
    assert found.ids[0, 0] == expected.ids[0, 0]
    assert found.distances[0, 0] == pytest.approx(float(expected.distances[0, 0]), abs=1e-5)
    assert found.distances.shape == (2, 1)


def test_the_model_folder_is_all_that_a_decision_needs(model, saved, tmp_path):
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    saved.rename(moved)
    assert torch.equal(lw.load(moved).match(TEST).labels, model.match(TEST).labels)


def test_each_operating_point_has_its_own_probability(tmp_path):
    model = made_model()
    for k in (1, 5):
        model.calibrate(DIGITS, rule="majority", k=k, point=f"of {k}")
    lw.load(model.save(tmp_path / "model"))
    by_point = {k: model.match(TEST, point=f"of {k}") for k in (1, 5)}
    for k, decided in by_point.items():
        expected = model.probabilities[f"of {k}"].of(decided.distances)
        voted = decided.neighbors.labels[:, 0] >= 0
        assert torch.equal(decided.probabilities[voted], expected[voted])
    assert model.probabilities["of 1"] != model.probabilities["of 5"]
    assert model.match(TEST, threshold=0.1).probabilities is None


def test_an_evaluation_encodes_each_item_once(monkeypatch):
    model = made_model()
    seen = []
    embed = model.embed
    monkeypatch.setattr(
        model, "embed", lambda items, **o: seen.append(len(items)) or embed(items, **o)
    )
    found = model.evaluate(TEST)
    assert seen == [found.items]


def test_items_that_were_embedded_by_hand_have_no_source_and_can_be_added():
    model = lw.SimilarityModel(None)
    rows = torch.arange(2)
    by_hand = lw.Embedded(torch.eye(2), torch.tensor([0, -1]), ["a"], rows, rows)
    ids = model.add(by_hand)
    assert model.index.get(ids).labels.tolist() == [0, -1]
