"""Estimators for scikit-learn: a transformer that learns embeddings, and a classifier by them."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from likewise import data
from likewise._checks import check_choice
from likewise.calibration import Goal
from likewise.errors import InputError, InputTypeError
from likewise.index import Index
from likewise.journeys.recipe import Recipe
from likewise.journeys.train import train
from likewise.matching import class_centers
from likewise.probability import Probability, fit_logistic

__all__ = ["SimilarityClassifier", "SimilarityTransformer"]

RULES = ("center", "nearest")
MOST = 1 << 22  # distances in memory at once
UNKNOWNS = 0.5  # share of the queries, for probabilities
_CHOICE = "recipe__"


class _ByRecipe(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Parameters of an estimator with a recipe: `recipe__epochs` is a choice of it."""

    recipe: Recipe | None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; if `deep`, with each choice of the recipe."""
        params: dict[str, Any] = super().get_params(deep=False)
        recipe = Recipe() if self.recipe is None else self.recipe
        if deep and isinstance(recipe, Recipe):
            for choice in dataclasses.fields(recipe):
                params[_CHOICE + choice.name] = getattr(recipe, choice.name)
        return params

    def set_params(self, **params: Any) -> "_ByRecipe":
        """Set parameters, or choices of the recipe such as `recipe__epochs`; the estimator."""
        choices = {
            name.removeprefix(_CHOICE): params.pop(name)
            for name in [*params]
            if name.startswith(_CHOICE)
        }
        super().set_params(**params)
        if choices:
            recipe = _checked_recipe(self.recipe)
            self.recipe = Recipe.from_dict({**recipe.to_dict(), **choices})
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class SimilarityTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _ByRecipe):  # type: ignore[misc]
    """Learns from classes, and turns rows of numbers into embeddings.

    `fit` calls `likewise.train`, and `transform` the model's `embed`: the same rows, recipe and
    seed give the same embeddings as there.

    Args:
        recipe: Every choice of the training; `Recipe()` if None. `recipe__epochs` and the like
            set one of them, also in a search over a grid.

    Attributes:
        model_: The `SimilarityModel`; `model_.save(folder)` keeps it.
        classes_: The classes that it was fitted on.
        n_features_in_: Numbers per row.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> transformer = SimilarityTransformer(Recipe(epochs=2, batches=5, embedding_dim=8))
        >>> transformer.fit_transform(x, y).shape
        (150, 8)
    """

    def __init__(self, recipe: Recipe | None = None) -> None:
        self.recipe = recipe

    def fit(self, X: Any, y: Any) -> "SimilarityTransformer":
        """Train on rows and their classes; the transformer.

        Args:
            X: Rows of numbers, (n, d).
            y: The class of each row, (n,).

        Raises:
            ValueError: There are fewer than two classes, no class has two rows, or a value is no
                finite number.
        """
        recipe = dataclasses.replace(_checked_recipe(self.recipe), cross_fit="off")
        X, y = _checked(self, X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.model_ = train(_labeled(X, codes, self.classes_), recipe, progress=False)
        self._n_features_out = self.model_.embed(X[:1]).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray[Any, Any]:
        """The embeddings of rows, (n, embedding_dim), float32."""
        rows = _checked_rows(self, X)
        return self.model_.embed(rows).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class SimilarityClassifier(ClassifierMixin, _ByRecipe):  # type: ignore[misc]
    """Learns embeddings, and gives each row the class of the known row nearest to it.

    `fit` calls `likewise.train`, indexes all rows, and with `unknown` calibrates a threshold on
    those that were not trained on. `predict` is the model's `match`: a row that is farther than the
    threshold from every known one is unknown.

    Probabilities come from the distances to the nearest row of each class, by the ratio of how
    likely such a distance is within a class and between classes. All classes count as equally
    frequent, and with `unknown` half of the rows to come as unknown. They are fitted on the rows
    that were not trained on; where the recipe keeps none aside, on each row with itself left out,
    which makes them too sure.

    Args:
        recipe: Every choice of the training; `Recipe()` if None. `recipe__epochs` and the like
            set one of them, also in a search over a grid. Cross-fitting is only done with
            `unknown`.
        unknown: The label to predict for rows of no known class; None to always name a class.
            Rows with this label in `y` are real unknowns, which are not trained on, and the
            threshold is calibrated on them too.
        goal: What the threshold is chosen for, such as `likewise.at_most_false_accepts(0.01)`;
            None for `balanced()`. Only with `unknown`.
        rule: "nearest", or "center" for the nearest class center.

    Attributes:
        model_: The `SimilarityModel`; `model_.save(folder)` keeps it.
        classes_: The classes, sorted; with `unknown` that label too.
        n_features_in_: Numbers per row.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> classifier = SimilarityClassifier(Recipe(epochs=2, batches=20)).fit(x[::2], y[::2])
        >>> classifier.score(x[1::2], y[1::2]) > 0.8
        True
        >>> known = y[::2] < 2
        >>> open_set = SimilarityClassifier(Recipe(epochs=2, batches=20), unknown=-1)
        >>> _ = open_set.fit(x[::2][known], y[::2][known])
        >>> sorted(set(open_set.predict(x).tolist())), open_set.classes_.tolist()
        ([-1, 0, 1], [-1, 0, 1])
    """

    def __init__(
        self,
        recipe: Recipe | None = None,
        *,
        unknown: Any = None,
        goal: Goal | None = None,
        rule: str = "nearest",
    ) -> None:
        self.recipe = recipe
        self.unknown = unknown
        self.goal = goal
        self.rule = rule

    def fit(self, X: Any, y: Any) -> "SimilarityClassifier":
        """Train on rows and their classes, index them and calibrate; the classifier.

        Args:
            X: Rows of numbers, (n, d).
            y: The class of each row, (n,).

        Raises:
            ValueError: There are fewer than two classes, no class has two rows, a value is no
                finite number, or nothing is left to calibrate on.
        """
        recipe = _checked_recipe(self.recipe)
        check_choice("rule", self.rule, RULES)
        if recipe.hold_out_classes is not None:
            raise InputError(
                "must be left out for a classifier, whose classes are all known, got "
                f"{recipe.hold_out_classes!r}.",
                argument="hold_out_classes",
            )
        if self.unknown is None:
            recipe = dataclasses.replace(recipe, cross_fit="off")
        X, y = _checked(self, X, y)
        is_known = _is_known(y, self.unknown)
        classes, codes = np.unique(y[is_known], return_inverse=True)
        rows = _labeled(X[is_known], codes, classes)
        model = train(rows, recipe, progress=False)
        made = model.embedded(rows)
        trained, aside = _parts(rows, recipe)
        model.add(made.take(trained))
        judged = made.take(aside if len(aside) else trained)
        apart = _by_class(judged.embeddings, model.index, self.rule, of_itself=not len(aside))
        self._probability = _fitted(apart, judged.labels)
        if self.unknown is not None:
            new = X[~is_known]
            model.calibrate(
                judged,
                goal=self.goal,
                rule=self.rule,
                unknowns=data.ArrayDataset(new, np.full(len(new), -1), []) if len(new) else None,
                for_gallery_of=len(made),
            )
        model.index.clear()
        # By class, as the probabilities have it: of equally near classes the first is taken.
        model.add(made.take(made.labels.argsort(stable=True)))
        self.model_ = model
        self._known = classes
        self.classes_ = classes if self.unknown is None else np.unique([*classes, self.unknown])
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """The class of each row, or the label for unknown ones, (n,)."""
        rows = _checked_rows(self, X)
        if self.unknown is None:
            matches = self.model_.match(rows, threshold=math.inf, rule=self.rule)
            return self.classes_[matches.labels.numpy()]  # type: ignore[no-any-return]
        matches = self.model_.match(rows, point=self.rule)
        return self.classes_[self._columns[matches.labels.numpy()]]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """The probability of each class, in the order of `classes_`, (n, classes), float32."""
        rows = _checked_rows(self, X)
        apart = _by_class(self.model_.embed(rows), self.model_.index, self.rule)
        ratios = self._probability.log_likelihood_ratio(apart.flatten()).view(apart.shape)
        if self.unknown is None:
            return torch.softmax(ratios, dim=1).float().numpy()
        # All distances of an unknown are distances between classes, so its ratio is 1.
        of_known = ratios + math.log((1 - UNKNOWNS) / UNKNOWNS / ratios.shape[1])
        chances = torch.softmax(torch.nn.functional.pad(of_known, (0, 1)), dim=1).float()
        ordered = np.empty(chances.shape, dtype=np.float32)
        ordered[:, self._columns] = chances.numpy()
        return ordered

    @property
    def _columns(self) -> np.ndarray[Any, Any]:
        """Positions in `classes_` of the known classes, and last of the label for unknown rows."""
        return np.searchsorted(self.classes_, [*self._known, self.unknown])


def _checked_recipe(recipe: Any) -> Recipe:
    if recipe is None:
        return Recipe()
    if not isinstance(recipe, Recipe):
        raise InputTypeError(f"recipe must be a Recipe, got {recipe!r}. Use likewise.Recipe(...).")
    return recipe


def _checked(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    X, y = validate_data(estimator, X, y, dtype=np.float32, order="C", ensure_min_samples=2)
    check_classification_targets(y)
    return X, y


def _checked_rows(estimator: Any, X: Any) -> Any:
    check_is_fitted(estimator)
    return validate_data(estimator, X, dtype=np.float32, order="C", reset=False)


def _is_known(y: np.ndarray[Any, Any], unknown: Any) -> np.ndarray[Any, Any]:
    if unknown is None:
        return np.ones(len(y), dtype=bool)
    is_text = isinstance(unknown, str)
    if not np.isscalar(unknown) or is_text != isinstance(y[0], str):
        raise InputTypeError(
            f"unknown must be a label of the kind that y holds, such as {y[0]}, got {unknown!r}."
        )
    known: np.ndarray[Any, Any] = y != unknown
    return known


def _labeled(X: np.ndarray[Any, Any], codes: Any, classes: Any) -> data.ArrayDataset:
    if len(classes) < 2:
        raise InputError(f"y must hold at least 2 classes, got {len(classes)} class.")
    return data.ArrayDataset(X, codes, [str(name) for name in classes])


def _parts(rows: data.Dataset, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The rows that `train` trains on, and those that it keeps aside."""
    if recipe.keep_aside == 0:
        return torch.arange(len(rows)), torch.arange(0)
    shares = [1 - recipe.keep_aside, recipe.keep_aside]
    kept, aside = data.split_items(rows, shares, seed=recipe.seed)
    return kept.source_indices, aside.source_indices


def _by_class(embeddings: Tensor, index: Index, rule: str, *, of_itself: bool = False) -> Tensor:
    """The distance of each row from each class, (n, classes); inf where nothing of a class is.

    With `of_itself` the rows are those of the index, in its order, and none counts as its own
    nearest.
    """
    stored, labels, count = index.embeddings, index.labels, len(index.class_names)
    if rule == "center":
        centers = class_centers(stored, labels, distance=index.distance)
        stored, labels, of_itself = centers.embeddings, centers.labels, False
    order = labels.argsort(stable=True)
    ordered = stored[order]
    present, sizes = torch.unique(labels, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).numpy()
    place = order.argsort()
    apart = torch.full((len(embeddings), count), torch.inf)
    step = max(1, MOST // len(stored))
    for start in range(0, len(embeddings), step):
        rows = embeddings[start : start + step]
        matrix = index.distance.matrix(rows, ordered)
        if of_itself:
            matrix[torch.arange(len(rows)), place[start : start + len(rows)]] = torch.inf
        nearest = np.minimum.reduceat(matrix.numpy(), starts, axis=1)
        apart[start : start + len(rows), present] = torch.from_numpy(nearest)
    return apart


def _fitted(apart: Tensor, labels: Tensor) -> Probability:
    same = torch.nn.functional.one_hot(labels, apart.shape[1]).bool()
    told = apart.isfinite()
    return fit_logistic(apart[told], same[told])
