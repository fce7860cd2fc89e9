"""The estimators, by scikit-learn's own checks and by what the library says itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import likewise as lw
from likewise.sklearn import SimilarityClassifier, SimilarityTransformer, _by_class

SHORT = lw.Recipe(epochs=2, batches=10)
SHORTEST = lw.Recipe(epochs=2, batches=5, cross_fit="off")
AS_IT_IS = lw.Recipe(encoder="none", train="none")  # nothing is trained


@parametrize_with_checks(
    [
        SimilarityClassifier(SHORTEST),
        SimilarityClassifier(lw.Recipe(encoder="none", head="whitening"), rule="center"),
        SimilarityTransformer(SHORTEST),
    ]
)
def test_scikit_learn_accepts_them(estimator, check):
    check(estimator)


def digits(classes=10, count=600):
    x, y = load_digits(return_X_y=True)
    x, y = x[:count], y[:count]
    return x[y < classes], y[y < classes]


def names(y):
    return [str(label) for label in y]


# The same as the library


@pytest.mark.parametrize("rule", ["nearest", "center"])
def test_a_classifier_is_train_add_and_match(rule):
    x, y = digits()
    classifier = SimilarityClassifier(SHORT, rule=rule).fit(x[:400], y[:400])
    rows = lw.data.ArrayDataset(x[:400].astype(np.float32), names(y[:400]))
    model = lw.train(rows, SHORT, progress=False)
    model.add(rows)
    matches = model.match(x[400:].astype(np.float32), threshold=math.inf, rule=rule)
    assert classifier.predict(x[400:]).tolist() == [int(name) for name in matches.names]
    assert classifier.score(x[400:], y[400:]) > 0.8
    assert classifier.model_.class_names == model.class_names


def test_a_transformer_is_train_and_embed():
    x, y = digits()
    transformer = SimilarityTransformer(SHORT).fit(x[:400], y[:400])
    rows = lw.data.ArrayDataset(x[:400].astype(np.float32), names(y[:400]))
    model = lw.train(rows, SHORT, progress=False)
    assert np.array_equal(transformer.transform(x), model.embed(x.astype(np.float32)).numpy())
    assert transformer.get_feature_names_out()[0] == "similaritytransformer0"


def test_an_unknown_threshold_is_what_calibrate_gives():
    x, y = digits()
    seen = y[:400] < 7
    recipe = lw.Recipe(epochs=2, batches=10, cross_fit=2)
    goal = lw.at_most_false_accepts(0.2)
    classifier = SimilarityClassifier(recipe, unknown=-1, goal=goal)
    classifier.fit(x[:400][seen], y[:400][seen])
    rows = lw.data.ArrayDataset(x[:400][seen].astype(np.float32), names(y[:400][seen]))
    model = lw.train(rows, recipe, progress=False)
    model.add(lw.data.Subset(rows, (~model.is_new(rows)).nonzero().flatten()))
    made = model.calibrate(rows, goal=goal, for_gallery_of=len(rows))
    kept = classifier.model_.calibrations["nearest"]
    assert kept.threshold == made.threshold
    assert [each.kind for each in kept.unknowns] == ["cross-fit"]
    model.add_new(rows)
    matches = model.match(x[400:].astype(np.float32))
    said = classifier.predict(x[400:])
    assert said.tolist() == matches.labels.tolist()
    unknown = y[400:] >= 7
    assert (said[unknown] == -1).mean() > (said[~unknown] == -1).mean() + 0.2
    assert classifier.score(x[400:], np.where(unknown, -1, y[400:])) > 0.5


def test_a_fitted_model_is_saved_and_loaded_as_any(tmp_path):
    x, y = digits(classes=4, count=200)
    classifier = SimilarityClassifier(AS_IT_IS, unknown=9).fit(x, y)
    classifier.model_.save(tmp_path / "model")
    matches = lw.load(tmp_path / "model").match(x.astype(np.float32))
    said = [9 if label < 0 else label for label in matches.labels.tolist()]
    assert said == classifier.predict(x).tolist()


# Unknown


def test_rows_labeled_unknown_are_not_trained_on_but_calibrated_on():
    x, y = digits(count=500)
    told = np.array(["known " + label if label < "7" else "other" for label in names(y)])
    classifier = SimilarityClassifier(SHORT, unknown="other").fit(x[:400], told[:400])
    assert classifier.model_.class_names == [f"known {n}" for n in range(7)]
    assert classifier.classes_.tolist() == [*classifier.model_.class_names, "other"]
    judged = {each.kind: each for each in classifier.model_.calibrations["nearest"].unknowns}
    assert judged["given"].items == (told[:400] == "other").sum()
    said = classifier.predict(x[400:])
    assert set(said) <= set(classifier.classes_)
    assert classifier.score(x[400:], told[400:]) > 0.7


@pytest.mark.parametrize(("unknown", "at"), [(-1, 0), (99, 3)])
def test_the_column_of_the_unknown_is_where_classes_say(unknown, at):
    x, y = digits(classes=3, count=300)
    classifier = SimilarityClassifier(AS_IT_IS, unknown=unknown).fit(x, y)
    assert classifier.classes_[at] == unknown
    far, near = classifier.predict_proba(-x[:5]), classifier.predict_proba(x[:5])
    assert (far.argmax(axis=1) == at).all()
    assert (classifier.classes_[near.argmax(axis=1)] == y[:5]).all()
    assert classifier.predict(-x[:5]).tolist() == [unknown] * 5
    np.testing.assert_allclose(far.sum(axis=1), 1, rtol=1e-6)


# Probabilities


def test_probabilities_are_bayes_of_the_distances_to_each_class():
    x, y = digits(classes=3, count=200)
    classifier = SimilarityClassifier(AS_IT_IS).fit(x, y)
    model, query = classifier.model_, torch.tensor(x[7:8] + 1.5, dtype=torch.float32)
    nearest = [
        min(
            float(model.distance.paired(query, row[None]))
            for row, label in zip(model.index.embeddings, model.index.labels, strict=True)
            if label == code
        )
        for code in range(3)
    ]
    assert len(set(nearest)) == 3
    ratios = classifier._probability.log_likelihood_ratio(torch.tensor(nearest))
    expected = [float(ratio.exp() / ratios.exp().sum()) for ratio in ratios]
    np.testing.assert_allclose(classifier.predict_proba(query.numpy())[0], expected, rtol=1e-4)
    open_set = SimilarityClassifier(AS_IT_IS, unknown=-1).fit(x, y)
    heads = ratios.exp() / 3
    expected = torch.tensor([1, *heads.tolist()]) / (1 + heads.sum())
    np.testing.assert_allclose(open_set.predict_proba(query.numpy())[0], expected, rtol=1e-4)


def test_probabilities_tell_more_than_the_share_of_the_classes():
    x, y = digits()
    classifier = SimilarityClassifier(SHORT).fit(x[:400], y[:400])
    chances = classifier.predict_proba(x[400:])
    assert (classifier.classes_[chances.argmax(axis=1)] == classifier.predict(x[400:])).all()
    assert log_loss(y[400:], chances) < 0.6 < math.log(10)


def test_without_rows_aside_no_row_is_its_own_nearest():
    x, y = make_blobs(60, centers=3, random_state=0)
    recipe = lw.Recipe(encoder="none", train="none", keep_aside=0.0, distance="euclidean")
    classifier = SimilarityClassifier(recipe).fit(x, y)
    index = classifier.model_.index
    apart = _by_class(index.embeddings, index, "nearest", of_itself=True)
    assert float(apart.min()) > 0
    assert float(_by_class(index.embeddings, index, "nearest").min()) == 0
    assert 1 < log_loss(y, classifier.predict_proba(x)) * 20 < 20


@settings(max_examples=30)
@given(st.data())
def test_distances_by_class_are_the_least_of_each(drawn):
    count, classes = drawn.draw(st.integers(1, 9)), drawn.draw(st.integers(1, 4))
    labels = drawn.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    rng = torch.Generator().manual_seed(drawn.draw(st.integers(0, 99)))
    points = torch.randint(0, 4, (count, 2), generator=rng).float()
    index = lw.Index(lw.distances.EUCLIDEAN, class_names=[str(n) for n in range(classes)])
    index.add(points, labels=torch.tensor(labels))
    of_itself = drawn.draw(st.booleans())
    apart = _by_class(points, index, "nearest", of_itself=of_itself)
    for row in range(count):
        for code in range(classes):
            far = [
                float((points[row] - points[other]).norm())
                for other in range(count)
                if labels[other] == code and not (of_itself and other == row)
            ]
            assert float(apart[row, code]) == pytest.approx(min(far, default=math.inf))


# scikit-learn's tools


def test_a_grid_search_sets_choices_of_the_recipe():
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), SimilarityClassifier(AS_IT_IS))
    grid = {
        "similarityclassifier__recipe__distance": ["cosine", "euclidean"],
        "similarityclassifier__rule": ["nearest", "center"],
    }
    found = GridSearchCV(pipeline, grid, cv=3).fit(x, y)
    assert len(set(found.cv_results_["mean_test_score"])) > 1
    best = found.best_estimator_[-1]
    assert best.model_.distance.name == found.best_params_["similarityclassifier__recipe__distance"]
    assert found.best_score_ > 0.9
    assert pipeline[-1].recipe is AS_IT_IS


def test_a_transformer_goes_before_another_estimator():
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(SimilarityTransformer(SHORT), LogisticRegression())
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.8


def test_choices_are_parameters_and_a_clone_keeps_them():
    estimator = SimilarityClassifier(unknown=-1)
    assert estimator.get_params()["recipe__epochs"] == 10
    assert "recipe__epochs" not in estimator.get_params(deep=False)
    estimator.set_params(recipe__epochs=3, recipe__hold_out_classes=None, rule="center")
    copied = clone(estimator)
    assert (copied.recipe, copied.rule, copied.unknown) == (lw.Recipe(epochs=3), "center", -1)
    with pytest.raises(lw.InputError, match=r"recipe must hold only encoder, .* got 'epoch'"):
        estimator.set_params(recipe__epoch=3)
    with pytest.raises(ValueError, match="Invalid parameter 'rul'"):
        estimator.set_params(rul="center")


@pytest.mark.parametrize(
    ("labels", "unknown"),
    [(["b", "a"], None), ([0.0, 1.0], None), ([True, False], None), (["b", "a"], "?"), ([3, 1], 2)],
)
def test_labels_of_every_kind_come_back_as_they_are(labels, unknown):
    x, truth = make_blobs(60, centers=[[-5, 0], [0, 5]], random_state=0)
    y = np.array(labels)[truth]
    classifier = SimilarityClassifier(AS_IT_IS, unknown=unknown).fit(x, y)
    assert classifier.classes_.dtype == y.dtype
    assert (classifier.predict(x) == y).mean() > 0.9
    assert classifier.predict_proba(x).shape == (60, 2 + (unknown is not None))


# What is refused

X, Y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2


@pytest.mark.parametrize(
    ("error", "message", "estimator"),
    [
        (TypeError, "recipe must be a Recipe, got 'fast'", SimilarityTransformer("fast")),
        (TypeError, "recipe must be a Recipe, got {}", SimilarityClassifier({})),
        (
            ValueError,
            "rule must be one of center, nearest, got 'x'",
            SimilarityClassifier(rule="x"),
        ),
        (
            ValueError,
            "hold_out_classes must be left out for a classifier",
            SimilarityClassifier(lw.Recipe(hold_out_classes=["1"])),
        ),
        (
            TypeError,
            "unknown must be a label of the kind that y holds, such as 0, got 'other'",
            SimilarityClassifier(AS_IT_IS, unknown="other"),
        ),
        (
            ValueError,
            "Keep some aside",
            SimilarityClassifier(lw.Recipe(epochs=1, batches=1, keep_aside=0.0), unknown=-1),
        ),
        (
            ValueError,
            "y must hold at least 2 classes, got 1 class",
            SimilarityClassifier(unknown=1),
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(error, message, estimator):
    with pytest.raises(error, match=message):
        estimator.fit(X, Y)
