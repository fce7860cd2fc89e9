"""Relative Mahalanobis distance: by the formula, as a rule of a model, and cross-fitted."""

import numpy as np
import pytest
import torch

import likewise as lw
from likewise.distances import COSINE, EUCLIDEAN
from likewise.matching import lookup_without_own_class, relative_centers
from test_model_unknowns import blobs, indexed


def by_the_formula(queries, embeddings, labels, fitted, is_cosine):
    """(q, classes) by plain loops; only rows marked in `fitted` give covariances and the mean."""
    queries, x = (np.asarray(each, dtype=np.float64) for each in (queries, embeddings))
    if is_cosine:
        queries, x = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, x))
    codes, size = sorted(set(labels.tolist()) - {-1}), x.shape[1]
    centers = {code: x[labels.numpy() == code].mean(axis=0) for code in codes}
    rows = [at for at in range(len(x)) if labels[at] >= 0 and fitted[at]]
    middle = np.mean([x[at] for at in rows], axis=0)

    def inverse(offsets):
        covariance = sum(np.outer(each, each) for each in offsets) / len(rows)
        return np.linalg.inv(covariance + 0.1 * np.trace(covariance) / size * np.eye(size))

    within = inverse([x[at] - centers[int(labels[at])] for at in rows])
    whole = inverse([x[at] - middle for at in rows])
    return np.array(
        [
            [
                ((q - centers[c]) @ within @ (q - centers[c]) - (q - middle) @ whole @ (q - middle))
                / size
                for c in codes
            ]
            for q in queries
        ]
    )


@pytest.mark.parametrize("without", [[], [1, 3]])
@pytest.mark.parametrize("distance", [COSINE, EUCLIDEAN], ids=lambda d: d.name)
def test_distances_are_those_of_the_formula(distance, without):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(-1, 49) % 6 - (torch.arange(-1, 49) < 0).long() * 6
    embeddings = torch.randn(50, 4, generator=rng) @ torch.randn(4, 4, generator=rng) + 1
    queries = torch.randn(20, 4, generator=rng)
    centers = relative_centers(embeddings, labels, distance=distance, fitted_without=without)
    fitted = ~torch.isin(labels, torch.tensor(without, dtype=torch.int64))
    expected = by_the_formula(queries, embeddings, labels, fitted, distance is COSINE)
    found = centers.lookup(queries, k=len(expected[0]))
    order = np.argsort(expected, axis=1, kind="stable")
    codes = np.array(centers.labels.tolist())
    assert found.labels.tolist() == codes[order].tolist()
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1), rtol=1e-4, atol=1e-4)
    matrix = centers.distance.matrix(queries, centers.embeddings)
    np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-4)
    assert (expected < 0).any(), "nearer to a class than to all"


def test_a_model_judges_unknowns_by_a_fit_without_their_class():
    model, data = indexed(), blobs(240, 2, noise=1.0)
    chosen = model.calibrate(data, rule="relative")
    assert (chosen.rule, chosen.unknowns[0].kind) == ("relative", "left out")
    items = torch.stack([data[row][0] for row in range(240)])
    truth = torch.tensor(
        [model.class_names.index(data.class_names[c]) for c in data.labels.tolist()]
    )
    stored, labels = model.index.embeddings, model.index.labels
    whole = by_the_formula(items, stored, labels, labels >= 0, False)
    assert model.match(data, point="relative").distances.tolist() == pytest.approx(
        whole.min(axis=1).tolist(), rel=1e-3, abs=1e-4
    )
    near = np.full(240, np.nan)
    folds = lw.calibration.class_folds(12, most=5)
    for fold in folds:
        fitted = ~torch.isin(labels, torch.tensor(fold))
        distances = by_the_formula(items, stored, labels, fitted, False)
        for row in np.flatnonzero(torch.isin(truth, torch.tensor(fold))):
            near[row] = min(d for c, d in enumerate(distances[row]) if c != truth[row])
    share = float((near <= chosen.threshold + 1e-4).mean()) * 12 / 11
    assert chosen.false_positive_rate.value == pytest.approx(share, abs=0.01)
    kept = whole.copy()
    kept[np.arange(240), truth] = np.inf
    naive = float((kept.min(axis=1) <= chosen.threshold).mean()) * 12 / 11
    assert abs(naive - share) > 0.015, "a fit with their class would prove nothing"


def test_it_is_saved_and_has_candidates_and_thresholds_by_class(tmp_path):
    model = lw.SimilarityModel(None, distance=EUCLIDEAN)
    data, new = blobs(240, 2, noise=1.0), blobs(60, 3, noise=1.0)
    model.add(blobs(60, 1))
    model.calibrate(data, rule="relative", per_class=True, fewest=5)
    before = model.match(new, point="relative", candidates=0.9)
    model.save(tmp_path / "m")
    again = lw.load(tmp_path / "m").match(new, point="relative", candidates=0.9)
    assert torch.equal(again.labels, before.labels)
    assert again.candidates.names == before.candidates.names
    held = [
        new.class_names[code] in names
        for code, names in zip(new.labels.tolist(), before.candidates.names, strict=True)
    ]
    assert 0.75 < np.mean(held) < 1


def test_what_it_cannot_be_fitted_to_is_refused():
    with pytest.raises(ValueError, match="must differ within some class for the relative distance"):
        relative_centers(torch.eye(3), torch.arange(3))
    model = indexed()
    with pytest.raises(ValueError, match="neighbors must be class centers for the rule 'relative'"):
        lw.match(model.index.lookup(torch.zeros(1, 4), k=2), 1.0, rule="relative")
    with pytest.raises(ValueError, match="where must be None for relative"):
        model.match(torch.zeros(1, 4), threshold=1.0, rule="relative", where={"a": 1})
    model.use_cohort(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), nearest=10)
    with pytest.raises(ValueError, match="rule must compare by the distance of the cohort"):
        model.calibrate(blobs(60, 2), rule="relative")


def test_two_classes_are_enough():
    model = indexed(2, 10)
    made = model.calibrate(blobs(60, 2, 2), rule="relative")
    assert made.unknowns[0].items == 60
    found = lookup_without_own_class(
        torch.zeros(1, 4),
        torch.tensor([0]),
        relative_centers(model.index.embeddings, model.index.labels, distance=EUCLIDEAN),
        distance=EUCLIDEAN,
    )
    assert found.labels.tolist() == [[1]]
