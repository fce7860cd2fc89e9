"""Cross-fit: encoders trained without some classes, which then stand for unknowns."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from likewise import data
from likewise.calibration import CrossFit, class_folds
from likewise.calibration.cross_fit import FEWEST_KNOWN
from likewise.distances import Distance
from likewise.errors import InputError
from likewise.index import Index
from likewise.journeys.recipe import Recipe
from likewise.matching import decide

IN_TWICE_THE_TIME = 3  # folds: each trains on two thirds of the items, so together on twice as many
FEWEST_CLASSES = 3
INDEXED = 20  # items of each class that a fold looks up among
MOST_KNOWN = 2000  # known queries of a fold
MOST_LEFT_OUT = 100  # items of each class left out
ASIDE = 0.1  # share of each class that known queries come from where the recipe keeps none aside

Embed = Callable[[data.Dataset], Tensor]


class Plan(NamedTuple):
    """Which classes each fold leaves out, and its batches per epoch."""

    folds: list[list[str]]
    batches: list[int]
    time: float  # of all folds, as a multiple of the training's

    def __str__(self) -> str:
        return (
            f"cross-fit: {len(self.folds)} more encoders, each trained without up to "
            f"{max(map(len, self.folds))} of {sum(map(len, self.folds))} classes, so that these "
            f"can stand for unknowns; about {self.time:.1f} times the time of the training itself, "
            "one encoder in memory at a time (cross_fit = off goes without)"
        )


def plan(
    kept: data.Dataset, recipe: Recipe, batches: int, aside: data.Dataset | None = None
) -> Plan | None:
    """The folds of a recipe; None where it has none.

    Args:
        kept: The items that are trained on.
        recipe: Says how many folds.
        batches: Per epoch of the training on all of them. A fold gets as many as its share of the
            items.
        aside: Items kept aside; see `fitted`.

    Raises:
        InputError: A number of folds is asked for, and there are too few classes or items.
    """
    names = list(data.items_per_class(kept))
    asked = recipe.cross_fit
    if asked == "off":
        return None
    if isinstance(asked, int) and len(names) < max(FEWEST_CLASSES, asked):
        raise InputError(
            f"must be at most the number of classes, {len(names)}, which must be at least "
            f"{FEWEST_CLASSES}, got {asked}.",
            argument="cross_fit",
            remedy='Use cross_fit="off", or fewer folds.',
            command="Use --cross-fit off, or fewer folds.",
        )
    if len(names) < FEWEST_CLASSES:
        return None
    most = IN_TWICE_THE_TIME if isinstance(asked, str) else asked
    folds = class_folds(len(names), most=most, seed=recipe.seed)
    left_out = [[names[code] for code in fold] for fold in folds]
    if not all(_is_enough(*_divided(kept, aside, each, recipe.seed)) for each in left_out):
        if isinstance(asked, str):
            return None
        raise InputError(
            "must leave a class with 2 items to train on in every fold, and "
            f"{FEWEST_KNOWN} items to ask about, got {asked}.",
            argument="cross_fit",
            remedy='Use cross_fit="off", or more items.',
            command="Use --cross-fit off, or more items.",
        )
    sizes = list(data.items_per_class(kept).values())
    shares = [1 - sum(sizes[code] for code in fold) / sum(sizes) for fold in folds]
    return Plan(
        left_out,
        [max(1, round(batches * share)) for share in shares],
        sum(shares),
    )


def fitted(
    plan: Plan,
    kept: data.Dataset,
    aside: data.Dataset | None,
    recipe: Recipe,
    train: Callable[[data.Dataset, Recipe, Callable[[int, int], None]], Embed],
    *,
    distance: Distance,
    progress: Callable[[int], None],
) -> CrossFit:
    """Distances of known queries and of left-out classes, from an encoder per fold.

    Args:
        plan: The folds.
        kept: The items that the model in use was trained on.
        aside: Items of the same classes that it was not trained on, for known queries; None if
            there are none, and then a tenth of each class is not trained on in the folds.
        recipe: The recipe of the model in use.
        train: Called as train(data, recipe, progress) for each fold; gives a function from items
            to their embeddings.
        distance: How embeddings are compared.
        progress: Called with the batches done in all folds so far.
    """
    names = list(data.items_per_class(kept))
    code_of = {name: code for code, name in enumerate(names)}
    found = []
    for fold, (left_out, batches) in enumerate(zip(plan.folds, plan.batches, strict=True)):
        rest, queries = _divided(kept, aside, left_out, recipe.seed)
        before = sum(plan.batches[:fold]) * recipe.epochs
        choices = dataclasses.replace(
            recipe,
            batches=batches,
            cross_fit="off",
            hold_out_classes=None,
            keep_aside=0.0,
            evaluate_every=None,
            keep_best=None,
            patience=None,
        )
        embed = train(rest, choices, _shifted(progress, before))
        found.append(
            _distances(
                embed,
                Index(distance),
                _at_most(rest, INDEXED, recipe.seed),
                _some(queries, MOST_KNOWN, recipe.seed),
                _at_most(data.choose_classes(kept, left_out), MOST_LEFT_OUT, recipe.seed),
                code_of,
            )
        )
    return CrossFit.of(names, found)


def _divided(
    kept: data.Dataset, aside: data.Dataset | None, left_out: Sequence[str], seed: int
) -> tuple[data.Dataset, data.Dataset]:
    """What a fold trains on, and items of the same classes to ask about."""
    names = [name for name in data.items_per_class(kept) if name not in left_out]
    rest = data.choose_classes(kept, names)
    if aside is None:
        trained, queries = data.split_items(rest, [1 - ASIDE, ASIDE], seed=seed)
        return trained, queries
    present = [name for name in data.items_per_class(aside) if name in names]
    return rest, data.choose_classes(aside, present) if present else data.Subset(aside, [])


def _is_enough(trained: data.Dataset, queries: data.Dataset) -> bool:
    return max(data.items_per_class(trained).values()) > 1 and len(queries) >= FEWEST_KNOWN


def _shifted(progress: Callable[[int], None], before: int) -> Callable[[int, int], None]:
    return lambda done, total: progress(before + done)


def _distances(
    embed: Embed,
    index: Index,
    indexed: data.Dataset,
    queries: data.Dataset,
    left_out: data.Dataset,
    code_of: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index.add(embed(indexed), labels=_codes(indexed, code_of))
    _, known = decide(index.lookup(embed(queries), k=1))
    taken_for, unknown = decide(index.lookup(embed(left_out), k=1))
    return known.cpu(), unknown.cpu(), _codes(left_out, code_of), taken_for.cpu()


def _codes(items: data.Dataset, code_of: dict[str, int]) -> Tensor:
    here = torch.tensor([code_of.get(name, -1) for name in items.class_names])
    return here[items.labels]


def _at_most(items: data.Dataset, most: int, seed: int) -> data.Dataset:
    """Some items of each class, at most a given number, drawn at random."""
    rng = np.random.default_rng(seed)
    labels = items.labels.numpy()
    rows: list[int] = []
    for code in np.unique(labels[labels >= 0]):
        (own,) = np.nonzero(labels == code)
        rows += rng.permutation(own)[:most].tolist()
    return data.Subset(items, sorted(rows))


def _some(items: data.Dataset, most: int, seed: int) -> data.Dataset:
    rows: Sequence[int] = np.random.default_rng(seed).permutation(len(items))[:most].tolist()
    return data.Subset(items, sorted(rows))
