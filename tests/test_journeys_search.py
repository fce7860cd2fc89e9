"""A model's index judged by a table of relevance, in Python and by `likewise evaluate`."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import likewise as lw
from likewise.evaluation import evaluate_search
from likewise.journeys.index import index
from likewise.journeys.search import judge_search


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (8, 8)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """A model that has indexed six images, and four queries, one of them indexed too."""
    for number in range(6):
        save(tmp_path / "known" / "a" / f"{number}.png", number)
    for number in (0, 7, 8, 9):
        save(tmp_path / "asked" / "a" / f"{number}.png", number)
    torch.manual_seed(0)
    preprocess = lw.data.Preprocess((1, 8, 8), (0.0,), (1.0,))
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((1, 8, 8)), preprocess=preprocess)
    index(model, lw.data.load(tmp_path / "known"))
    model.save(tmp_path / "model")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "relevance.csv").write_text(
        "query,item,grade\n"
        "../asked/a/7.png,../known/a/1.png,2\n"
        "../asked/a/7.png,../known/a/2.png,1\n"
        "../asked/a/7.png,../known/a/gone.png,1\n"
        "../asked/a/0.png,../known/a/0.png,1\n"
        "2,3,1\n"  # by the row of the data, and by the id
        "elsewhere.png,../known/a/2.png,1\n"
    )
    return tmp_path


def test_files_rows_and_ids_are_what_evaluate_search_sees(run, folder):
    model, queries = lw.load(folder / "model"), lw.data.load(folder / "asked")
    found = judge_search(model, queries, folder / "tables" / "relevance.csv", ks=[1, 3])
    given = lw.data.Relevance([1, 1, 1, 2, 9, 0], [1, 2, "x\0y", 3, 2, 1], [2, 1, 1, 1, 1, 1])
    relevance = lw.data.Relevance([1, 1, 1, 2], [1, 2, "gone", 3], [2, 1, 1, 1])
    neighbors = model.lookup(lw.data.Subset(queries, [1, 2, 3]), k=6)
    expected = evaluate_search(neighbors, relevance, queries=[1, 2, 3], ks=[1, 3])
    for name, values in expected.per_query.items():
        assert torch.equal(found.search.per_query[name], values), name
    assert 0 < float(expected.share_found_at_k[3]) < 1
    assert (found.known, found.not_indexed) == (1, 1)
    assert (found.search.left_out, found.search.not_asked) == (1, 2)
    assert "not indexed" in repr(found)

    assert found.to_dict() == judge_search(model, queries, given, ks=[1, 3]).to_dict()

    options = ["--relevance", folder / "tables" / "relevance.csv", "-k", 1, "-k", 3]
    status, out, _ = run("evaluate", folder / "model", folder / "asked", *options, "--json")
    assert (status, json.loads(out)) == (0, found.to_dict())
    status, out, _ = run("evaluate", folder / "model", folder / "asked", *options)
    assert status == 0
    assert re.search(r"share found at 3 +" + re.escape(str(expected.share_found_at_k[3])), out)
    assert "2 queries, the 6 nearest items of each; 1 left out, indexed or trained on; " in out
    assert "1 relevant items are not indexed and count as missed" in out


def test_texts_go_by_themselves(tmp_path):
    class Letters(torch.nn.Module):
        takes_texts = True

        def forward(self, texts):
            rows = [[text.count(letter) + 0.1 for letter in "abcd"] for text in texts]
            return torch.tensor(rows)

    model = lw.SimilarityModel(Letters())
    index(model, lw.data.TextDataset(["aab", "b b", "cd"], ["x", "x", "y"]))
    (tmp_path / "t.tsv").write_text("query\titem\tgrade\nab\taab\t2\nab\tb b\t1\ndc\tcd\t1\n")
    queries = lw.data.TextDataset(["dc", "ab"])
    found = judge_search(model, queries, tmp_path / "t.tsv", ks=[1])
    assert found.search.queries == 2
    assert found.search.hit_rate_at_k[1].value == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--relevance", "none.csv"], "--relevance must exist, got 'none.csv'"),
        (["-k", "3"], "must come with --relevance, got no table."),
        (["--relevance", "r.csv", "-k", "9"], "-k must be at most 6, the ranks that were found"),
        (["--relevance", "r.csv", "-k", "0"], "must be at least 1, got 0"),
        (
            ["--relevance", "r.csv", "--report", "r.html"],
            "--relevance must be given without --report",
        ),
        (["--relevance", "no.csv"], "must name relevant items of the index, got 'zebra', which"),
        (["--relevance", "query.csv"], "relevance must hold a relevant item for some query"),
        (["--relevance", "zero.csv"], "must name relevant items of the index, got '0', which"),
    ],
)
def test_what_cannot_be_judged_ends_in_one_sentence(run, folder, monkeypatch, options, sentence):
    monkeypatch.chdir(folder)
    for name, rows in (
        ("r.csv", "1,1,1\n"),
        ("no.csv", "1,zebra,1\n"),
        ("query.csv", "zebra,1,1\n"),
        ("zero.csv", "1,0,0\n"),
    ):
        (folder / name).write_text(f"query,item,grade\n{rows}")
    status, out, err = run("evaluate", "model", "asked", *options)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.strip().count("\n") == 0


def test_a_model_without_known_items_and_queries_that_are_all_known(folder):
    table = folder / "tables" / "relevance.csv"
    model = lw.load(folder / "model")
    with pytest.raises(ValueError, match="queries must not all be indexed or trained on, got 6"):
        judge_search(model, lw.data.load(folder / "known"), table)
    model.index = lw.Index()
    with pytest.raises(ValueError, match="model must have known items to search, got none"):
        judge_search(model, lw.data.load(folder / "asked"), table)
