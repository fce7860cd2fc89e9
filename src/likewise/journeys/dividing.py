"""The parts of a training's data: what is trained on, held out and kept aside."""

from typing import Any, NamedTuple

from likewise import augment as changes
from likewise import data
from likewise._arguments import first_of
from likewise.errors import InputError
from likewise.journeys import frozen, unlabeled
from likewise.journeys.recipe import Recipe


class Parts(NamedTuple):
    """What becomes of the items of a training.

    Attributes:
        kept: The items that are trained on.
        apart: Items that are not, of classes trained on ("seen") and of others ("unseen").
        seen: What `fit` gets: the items kept, or pairs or views of them, or their features.
    """

    kept: data.Dataset
    apart: dict[str, data.Dataset]
    seen: Any


def divided(
    source: data.Dataset | data.GivenPairs, recipe: Recipe, features: frozen.Features | None
) -> Parts:
    """The parts of a source, by the choices of a recipe.

    Raises:
        InputError: The recipe does not fit the source, or nothing is left to train on.
    """
    apart: dict[str, data.Dataset] = {}
    if isinstance(source, data.GivenPairs):
        if recipe.hold_out_classes is not None or recipe.makes_classes:
            held = recipe.hold_out_classes
            raise InputError(
                "must be left out for given pairs, which have no classes, got "
                f"{held or recipe.made_classes!r}.",
                argument="made_classes" if held is None else "hold_out_classes",
            )
        if recipe.keep_aside not in (0, Recipe.keep_aside):
            raise InputError(
                "must be left out for given pairs, whose items are in several of them, got "
                f"{recipe.keep_aside}. Keep some pairs in another table.",
                argument="keep_aside",
            )
        if not recipe.pairs:
            raise InputError(
                "must be True for given pairs, got False.",
                argument="pairs",
                remedy="Use Recipe(pairs=True).",
                command="Add it.",
            )
        pairs = source if features is None else features.of_any(source)
        return Parts(source.data, apart, pairs)
    if not recipe.labels:
        kept, aside = unlabeled.parts(source, recipe)
        if aside is not None and unlabeled.has_labels(aside):
            apart["unseen"] = aside
        return Parts(kept, apart, data.ViewDataset(kept))
    data.check_trainable(source)
    kept, held_out = _hold_out(source, recipe)
    data.check_trainable(kept)
    if recipe.keep_aside > 0:
        shares = [1 - recipe.keep_aside, recipe.keep_aside]
        kept, apart["seen"] = data.split_items(kept, shares, seed=recipe.seed)
        data.check_trainable(kept)
    if held_out is not None:
        apart["unseen"] = held_out
    seen: Any = kept if features is None else features.of(kept)
    if recipe.made_classes in ("mirrored", "both"):
        seen = changes.make_flipped_classes(seen)
    if recipe.made_classes in ("turned", "both"):
        seen = changes.make_rotated_classes(seen)
    if recipe.pairs:
        seen = data.PairDataset(seen, seed=recipe.seed, fresh=True)
    return Parts(kept, apart, seen)


def _hold_out(whole: data.Dataset, recipe: Recipe) -> tuple[data.Dataset, data.Dataset | None]:
    held = recipe.hold_out_classes
    if held is None:
        return whole, None
    present = list(data.items_per_class(whole))
    if isinstance(held, float):
        count = round(len(present) * held)
        if not 0 < count < len(present):
            raise InputError(
                f"must leave some of {len(present)} classes and hold out some, got a share of "
                f"{held:g}.",
                argument="hold_out_classes",
            )
        kept, rest = data.split_by_class(whole, [len(present) - count, count], seed=recipe.seed)
        return kept, rest
    absent = [name for name in held if name not in present]
    if absent:
        raise InputError(
            f"must name classes of the data ({first_of(map(repr, present))}), got "
            f"{first_of(map(repr, absent))}.",
            argument="hold_out_classes",
        )
    kept_names = [name for name in present if name not in held]
    if not kept_names:
        raise InputError(
            f"must leave some classes to train on, got all {len(present)}. Name fewer.",
            argument="hold_out_classes",
        )
    return data.choose_classes(whole, kept_names), data.choose_classes(whole, held)
