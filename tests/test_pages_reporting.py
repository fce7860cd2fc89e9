"""The pages of `lw.report`: those of the command line, from what Python has."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import likewise as lw
from likewise.errors import InputError, InputTypeError
from likewise.journeys.compare import compare_models

IMAGES, LABELS = load_digits(return_X_y=True)
TRUTH = {"split": None, "holds_for": "items", "seed": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two untrained models with an index, and a file of items that neither knows."""
    folder = tmp_path_factory.mktemp("reports")
    digits = lw.data.load("digits", split="train")
    few = lw.data.sample_items(digits, per_class=4)
    for name, width in (("one", 3), ("other", 9)):
        encoder = lw.encoders.MLPEncoder(digits.item_shape, embedding_dim=width)
        model = lw.SimilarityModel(encoder, preprocess=lw.data.Preprocess.fit(digits))
        model.add(few, keep_pictures=True)
        model.calibrate(lw.data.sample_items(digits, per_class=20, seed=1))
        model.save(folder / name)
    rows = slice(-24, None)
    images = IMAGES[rows].reshape(-1, 8, 8).astype(np.float32) / 16
    np.savez(folder / "d.npz", x=images, y=LABELS[rows])
    return folder


def test_the_page_of_an_evaluation_is_that_of_the_command(run, place, tmp_path, monkeypatch):
    source = str(place / "d.npz")
    told = run("evaluate", place / "one", source, "--report", tmp_path / "command.html")
    assert told[0] == 0, told
    model = lw.load(place / "one")
    found = model.evaluate(lw.data.load(source))
    title = f"one on {source}"
    page = lw.report(found, tmp_path / "python.html", model=model, title=title, source=source)
    assert page == tmp_path / "python.html"
    html = page.read_text()
    assert html == (tmp_path / "command.html").read_text()
    assert f"<h1>{title}</h1>" in html
    assert f"likewise map MODEL {source}" in html
    monkeypatch.setattr("likewise.pages.writing.image_bytes", lambda *_: b"")
    plain = lw.report(found, str(tmp_path / "plain.html"), model=model).read_text()
    assert "<h1>Evaluation</h1>" in plain
    assert not re.search(r"\bNone\b|likewise map MODEL|evaluated on", plain)


def test_the_page_of_a_comparison_is_that_of_the_command(run, place, tmp_path):
    source = str(place / "d.npz")
    arguments = (place / "one", place / "other", source, "--seed", "3")
    told = run("compare", *arguments, "--report", tmp_path / "command.html")
    assert told[0] == 0, told
    models = lw.load(place / "one"), lw.load(place / "other")
    found = compare_models(("one", "other"), models, source, **TRUTH)
    page = lw.report(found, tmp_path / "python.html", source=source)
    html = page.read_text()
    assert html == (tmp_path / "command.html").read_text()
    assert f"<h1>one and other on {source}</h1>" in html
    plain = lw.report(found, tmp_path / "plain.html").read_text()
    assert "<h1>one and other</h1>" in plain
    assert "compared on" not in plain
    with pytest.raises(InputError, match="model must be left out for a comparison"):
        lw.report(found, tmp_path / "no.html", model=models[0])


def test_what_has_no_page_is_refused_before_anything_is_written(place, tmp_path):
    model = lw.load(place / "one")
    found = model.evaluate(lw.data.load(place / "d.npz"))
    with pytest.raises(InputError, match="model must be the one that was evaluated, got none"):
        lw.report(found, tmp_path / "no.html")
    with pytest.raises(InputTypeError, match=r"compare_models gave, got RetrievalResult\."):
        lw.report(found.retrieval, tmp_path / "no.html", model=model)
    with pytest.raises(InputError, match="path must be a file, got the folder"):
        lw.report(found, tmp_path, model=model)
    with pytest.raises(InputError, match="folder of path must"):
        lw.report(found, tmp_path / "no" / "page.html", model=model)
    assert list(tmp_path.iterdir()) == []
