"""Calibration through the search that serves: what an approximate index misses counts as missed."""

import json
import warnings

import pytest
import torch

import likewise as lw
from likewise.cli import answers
from likewise.distances import EUCLIDEAN
from likewise.index import Index
from likewise.index._searching import approximate as _approximate
from likewise.matching import found_without_own_class, lookup_without_own_class

CLASSES, DIM = 100, 12


def items(per_class, seed):
    centers = 1.2 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    return centers[labels] + torch.randn(len(labels), DIM, generator=rng), labels


def dataset(per_class, seed):
    rows, labels = items(per_class, seed)
    return lw.data.load((rows, [f"c{code}" for code in labels.tolist()]))


@pytest.fixture
def misses(monkeypatch):
    """An index of 2,000 rows on that looks into one list of many, and misses a good part."""
    monkeypatch.setattr(_approximate, "EXACT_UP_TO", 2000)

    def tune(self, stored, sample, asked):
        self.effort, self.recall, self.asked = 1, 0.6, asked

    monkeypatch.setattr(_approximate.Trained, "tune", tune)


def model_of(recall):
    model = lw.SimilarityModel(torch.nn.Identity(), distance=EUCLIDEAN)
    model.index = Index(EUCLIDEAN, recall=recall)
    model.add(dataset(30, seed=1))
    return model


@pytest.mark.usefixtures("misses")
@pytest.mark.parametrize(("rule", "k"), [("nearest", 1), ("majority", 5)])
def test_what_the_search_misses_counts_as_missed(rule, k):
    model, exact, aside = model_of(0.9), model_of(None), dataset(8, seed=2)
    made = model.calibrate(aside, rule=rule, k=k)  # nothing was trained before it
    assert made.search == model.index.searched_by.kind != "exact"
    found = model.match(aside, threshold=made.threshold, rule=rule, k=k)
    right = [
        name == aside.class_names[code]
        for name, code in zip(found.names, aside.labels.tolist(), strict=True)
    ]
    assert made.identification_rate.value == pytest.approx(sum(right) / len(right), abs=1e-9)
    found = exact.match(aside, threshold=made.threshold, rule=rule, k=k)
    told = zip(found.names, aside.labels.tolist(), strict=True)
    searched = [name == aside.class_names[code] for name, code in told]
    assert sum(searched) > 1.05 * sum(right), "an exact search does not miss them"


@pytest.mark.usefixtures("misses")
def test_unknowns_are_judged_through_the_search_that_serves():
    index = Index(EUCLIDEAN, recall=0.9)
    rows, labels = items(30, seed=1)
    index.add(rows, labels=labels)
    index.wait()
    queries, own = items(3, seed=2)
    found = found_without_own_class(queries, own, index, k=4)
    wide = index.lookup(queries, k=2 * 4 + 30)
    for row in range(len(queries)):
        others = wide.labels[row] != own[row]
        assert found.ids[row].tolist() == wide.ids[row][others.numpy()][:4].tolist()
        assert found.distances[row].tolist() == wide.distances[row][others][:4].tolist()
    exact = lookup_without_own_class(queries, own, index, distance=EUCLIDEAN, k=4)
    assert (found.distances >= exact.distances).all()
    assert (found.distances[:, 0] > exact.distances[:, 0]).float().mean() > 0.1


@pytest.mark.parametrize("texts", [False, True])
def test_of_an_exact_search_all_other_classes_are_found_and_padded(texts):
    index = Index(EUCLIDEAN)
    rows, labels = items(2, seed=1)
    rows, labels = rows[:41], labels[:41] // 10  # of the last class there is one
    labels[:3] = -1
    ids = [f"i{n}" for n in range(41)] if texts else None
    index.add(rows, labels=labels, ids=ids)
    queries, own = rows[5:9] + 0.1, torch.tensor([0, 1, 2, 9])
    for k in (1, 7, 41):
        found = found_without_own_class(queries, own, index, k=k)
        expected = lookup_without_own_class(queries, own, index, distance=EUCLIDEAN, k=k)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.distances.tolist() == expected.distances.tolist()
        assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.usefixtures("misses")
def test_the_search_is_told_wherever_a_threshold_is(tmp_path, monkeypatch):
    model, aside = model_of(0.9), dataset(4, seed=2)
    made = model.calibrate(aside, goal=lw.at_most_false_accepts(0.2, confidence=0.5))
    told = f"{model.index.searched_by.kind} at recall 0.6"
    assert made.measured_through == told
    assert "search" in repr(made)
    again = lw.Calibration.from_dict(json.loads(json.dumps(made.to_dict())))
    assert (again.search, again.search_recall) == (made.search, 0.6)
    assert f"  measured through {told}" in answers.calibration_lines("nearest", made)
    result, lines = answers.summary(model)
    assert any(f"measured through {told}" in line for line in lines)
    assert result["calibrations"]["nearest"]["search_recall"] == 0.6
    found = model.evaluate(dataset(3, seed=5))
    monkeypatch.setattr("likewise.pages.writing.image_bytes", lambda *_: b"")
    page = lw.report(found, tmp_path / "page.html", model=model)
    assert f"measured through {told}" in page.read_text()
    exact = model_of(None).calibrate(aside)
    assert (exact.search, exact.search_recall, exact.measured_through) == ("exact", None, None)


@pytest.mark.usefixtures("misses")
def test_a_search_that_misses_more_than_the_calibration_knows_is_warned_of():
    exact, aside = model_of(None), dataset(4, seed=2)
    made = exact.calibrate(aside)
    approximate = model_of(0.9)
    approximate.calibrations["nearest"] = made
    approximate.index.wait()
    with pytest.warns(UserWarning, match="known items are missed more often than this calibration"):
        approximate.match(aside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact.match(aside)
        approximate.match(aside, threshold=1.0)
        approximate.calibrate(aside)
        approximate.match(aside)


@pytest.mark.usefixtures("misses")
def test_a_guarantee_measured_through_a_search_that_misses_is_warned_of_where_none_is_missed():
    approximate, aside = model_of(0.9), dataset(4, seed=2)
    exact = model_of(None)
    exact.calibrations["nearest"] = approximate.calibrate(aside)
    exact.match(aside)  # without a guarantee there is nothing to break
    goal = lw.at_most_false_accepts(0.2, confidence=0.5)
    exact.calibrations["nearest"] = approximate.calibrate(aside, goal=goal)
    with pytest.warns(UserWarning, match="more may be accepted than guaranteed"):
        exact.match(aside)
