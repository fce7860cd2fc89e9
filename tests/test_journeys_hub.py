"""Cards of models, and models on the hub: a hub of folders, and the real cache."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import likewise as lw
from likewise.errors import ArtifactError, InputError
from likewise.journeys.card import write_card

hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
OFFLINE = importlib.import_module("huggingface_hub.constants")


def saved(place, *, known=True):
    torch.manual_seed(0)
    model = lw.SimilarityModel(torch.nn.Linear(4, 3), origin={"data": "of <mine>"})
    rng = np.random.default_rng(0)
    codes = np.arange(120) % 6
    points = (np.eye(6, 4)[codes] * 3 + 0.3 * rng.normal(size=(120, 4))).astype("float32")
    names = [f"kind {code}" for code in codes]
    if known:
        model.add((points[:30], names[:30]))
        model.calibrate((points[30:], names[30:]), goal=lw.at_most_false_accepts(0.5, 0.6))
        model.calibrate((points[30:], names[30:]), rule="pairs")
    return model.save(place), (points[30:], names[30:])


def test_a_card_tells_what_the_model_is_and_how_it_did(tmp_path):
    folder, aside = saved(tmp_path / "a*model")
    text = write_card(folder).read_text()
    assert text.startswith("# a\\*model\n")
    assert "| encoder | Linear |" in text
    assert "| known items | 30 of 6 classes |" in text
    assert "| training data | of \\<mine\\> |" in text
    model = lw.load(folder)
    assert f"{model.calibrations['nearest'].threshold:.4g}" in text
    assert "guaranteed: " in text
    assert "guarantees nothing; its rates were measured" in text
    assert "Not evaluated." in text
    found = model.evaluate(aside)
    text = write_card(folder, found, data="aside | more").read_text()
    for name, value in found.headline():
        told = str(value).replace("[", "\\[").replace("]", "\\]")
        assert f"| {name} | {told} |" in text
    assert "On aside \\| more: 90 items" in text
    assert "saved again since" not in text
    assert write_card(folder).read_text() == text, "the last evaluation is kept"
    model.calibrate(aside, rule="majority", k=3)
    model.save(folder)
    assert "The model was saved again since; evaluate it again." in write_card(folder).read_text()
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(ArtifactError, match="evaluation must be whole"):
        write_card(folder)


def test_the_commands_write_cards(tmp_path, run):
    folder, (points, names) = saved(tmp_path / "model")
    np.savez(tmp_path / "aside.npz", x=points, y=np.array(names))
    status, told, _ = run("info", folder, "--card")
    assert (status, "card: " in told) == (0, True)
    assert "Not evaluated." in (folder / "card.md").read_text()
    status, _, _ = run("evaluate", folder, tmp_path / "aside.npz", "--card")
    assert status == 0
    assert "matching accuracy" in (folder / "card.md").read_text()


class FolderHub:
    """In the place of the hub's interface: repositories are folders."""

    def __init__(self, place):
        self.place = place

    def __call__(self, **options):
        return self

    def create_repo(self, name, *, private, exist_ok):
        (self.place / name).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, delete_patterns, **_):
        there = self.place / repo_id
        for pattern in delete_patterns:
            for file in there.glob(pattern):
                file.unlink()
        for pattern in allow_patterns:
            for file in Path(folder_path).glob(pattern):
                shutil.copy(file, there)


def test_a_pushed_model_is_the_same_and_has_its_card(tmp_path, monkeypatch):
    folder, aside = saved(tmp_path / "model")
    write_card(folder, lw.load(folder).evaluate(aside), data="aside")
    monkeypatch.setattr(hub, "HfApi", FolderHub(tmp_path))
    assert lw.push_to_hub(folder, "owner/kinds").endswith("owner/kinds")
    there = tmp_path / "owner" / "kinds"
    page = (there / "README.md").read_text()
    assert page.startswith("---\nlibrary_name: likewise\n")
    assert "# kinds\n" in page
    assert "from_pretrained('owner/kinds')" in page
    assert "matching accuracy" in page
    first = {file.name for file in there.iterdir()}
    model = lw.from_pretrained(there)
    assert model.match(aside).names == lw.load(folder).match(aside).names
    model.index.remove(model.index.ids[:3])
    model.save(folder)
    lw.push_to_hub(folder, "owner/kinds")
    assert len(lw.from_pretrained(there).index) == 27
    assert len({file.name for file in there.iterdir()}) == len(first), "no file of the one before"
    assert sorted(folder.glob("README*")) == []
    (folder / "evaluation.json").unlink()
    lw.push_to_hub(folder, "owner/kinds")
    assert not (there / "evaluation.json").exists(), "nor an evaluation of the one before"


def test_a_fetched_model_is_found_in_the_cache(tmp_path, monkeypatch):
    # The real code of huggingface_hub, which finds a repository in its cache without a network.
    folder, aside = saved(tmp_path / "model")
    monkeypatch.setattr(hub, "HfApi", FolderHub(tmp_path))
    lw.push_to_hub(folder, "owner/kinds")
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "cache" / "models--owner--kinds"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(tmp_path / "owner" / "kinds", cached / "snapshots" / commit)
    monkeypatch.setattr(OFFLINE, "HF_HUB_OFFLINE", True)
    model = lw.from_pretrained("owner/kinds", cache=tmp_path / "cache")
    assert model.match(aside).names == lw.load(folder).match(aside).names
    assert len(lw.from_pretrained("owner/kinds", revision=commit, cache=tmp_path / "cache").index)
    model.use_gallery(tmp_path / "known")
    model.save(cached / "snapshots" / commit)
    with pytest.raises(ArtifactError, match="name must be a model that holds its known items"):
        lw.from_pretrained("owner/kinds", cache=tmp_path / "cache")
    (cached / "snapshots" / commit / "model.json").unlink()
    with pytest.raises(InputError, match="name must be"):
        lw.from_pretrained("owner/kinds", cache=tmp_path / "cache")


def test_what_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(OFFLINE, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="name must be OWNER/NAME on the hub, or a folder, got"):
        lw.from_pretrained("owner/none", cache=tmp_path)
    with pytest.raises(InputError, match="name must be OWNER/NAME on the hub"):
        lw.from_pretrained("no name: at all", cache=tmp_path)
    folder, _ = saved(tmp_path / "model", known=False)
    with pytest.raises(InputError, match="which takes no model"):
        lw.push_to_hub(folder, "owner/kinds", token="none")
    model = lw.load(folder)
    model.use_gallery(tmp_path / "known")
    model.save(folder)
    with pytest.raises(InputError, match="got them in a gallery"):
        lw.push_to_hub(folder, "owner/kinds")
    with pytest.raises(ArtifactError, match="path must be a folder saved by likewise"):
        lw.push_to_hub(tmp_path, "owner/kinds")
