"""`train`: from labeled items or pairs, by a recipe, to a model."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likewise import augment, data, distances, encoders, losses, training
from likewise._checks import check_choice
from likewise.errors import InputError, naming
from likewise.evaluation.during import EvaluateEpochs, seen_and_unseen
from likewise.journeys import cross_fitting
from likewise.journeys.opening import open_data
from likewise.journeys.recipe import CLASS_LOSSES, Recipe
from likewise.model import SimilarityModel
from likewise.training.following import KeepBest, StopEarly

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "arcface": losses.ArcFaceLoss,
    "circle": losses.CircleLoss,
    "contrastive": losses.ContrastiveLoss,
    "cosface": losses.CosFaceLoss,
    "multi-similarity": losses.MultiSimilarityLoss,
    "nt-xent": losses.NTXentLoss,
    "proxy-anchor": losses.ProxyAnchorLoss,
    "softmax": losses.SoftmaxLoss,
    "supervised-contrastive": losses.SupervisedContrastiveLoss,
    "triplet": losses.TripletLoss,
}
ASIDE = "aside"
CHECKED = 64  # items encoded after training, as the last step may have broken the encoder
SCORED = ("seen_", "unseen_", "pairs_")  # what the numbers of parts that are scored begin with
FEWEST_BATCHES = 50  # per epoch
LARGEST_MAP = 8  # pixels on a side that are left before the dense layer
Progress = Callable[[int, int], None]


def train(
    source: data.Dataset | data.GivenPairs | str | Path,
    recipe: Recipe | None = None,
    *,
    evaluate: Any = None,
    callbacks: Sequence[training.Callback] = (),
    progress: Progress | None = None,
    workers: int = 0,
    device: str | None = None,
    name: str | None = None,
    scored_on: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> SimilarityModel:
    """A model trained on the source by the recipe; nothing is indexed or calibrated yet.

    `likewise train` calls this: the same source, recipe and seed give the same model, bit for
    bit, from Python and from the command line.

    Args:
        source: A labeled dataset, given pairs, or anything that `data.load` reads, of which the
            training part is read.
        recipe: Every choice; `Recipe()` if None.
        evaluate: What to score while training: a dataset, given pairs, or "aside" for the items
            kept aside and the classes held out. "aside" if None and the recipe scores anything.
        callbacks: Called after each epoch, as those of `fit`.
        progress: Called as progress(done, total) after each batch.
        workers: Processes that load data; 0 loads in this one.
        device: "cpu" or "cuda"; the best there is if None.
        name: What the source is called where the model tells how it was made.
        scored_on: What `evaluate` is called there; "aside" if None.
        tell: Called with a line about what will take time.

    Returns:
        The model. `origin` holds the recipe, the history, and what the best epoch was chosen by.

    Raises:
        InputError: The recipe does not fit the source, or the training diverges.

    Example:
        >>> import likewise as lw
        >>> model = lw.train("digits", lw.Recipe(epochs=1, batches=2))
        >>> model.origin["recipe"]["epochs"], len(model.trained_on)
        (1, 10)
    """
    recipe = recipe or Recipe()
    if isinstance(source, (str, Path)):
        name = name or str(source)
        source = open_data(source)
    table = source if isinstance(source, data.GivenPairs) else None
    compare = distances.by_name(recipe.distance)
    best, early = _following(recipe)
    if recipe.evaluate_every is not None or (recipe.keep_best or "").startswith(SCORED):
        evaluate = ASIDE if evaluate is None else evaluate
    whole, kept, apart, seen = _parts(source, recipe)
    torch.manual_seed(recipe.seed)
    encoder = fitting_encoder(whole.item_shape, recipe.embedding_dim)
    criterion = fitting_loss(recipe, compare, len(getattr(seen, "class_names", ())))
    preprocess = data.Preprocess.fit(kept, seed=recipe.seed)
    views = augment.Augment() if recipe.augment and _is_photo(whole.item_shape) else None
    scores = None
    if evaluate is not None:
        scores = _scores(evaluate, apart, kept, table is not None, compare, preprocess, recipe)

    batches = recipe.batches or max(FEWEST_BATCHES, len(seen) // 128)
    folds = None if table is not None else cross_fitting.plan(kept, recipe, batches)
    if folds is not None and tell is not None:
        tell(str(folds))
    total = recipe.epochs * (batches + (0 if folds is None else sum(folds.batches)))

    def show(epoch: int, batch: int, batches: int) -> None:
        if progress is not None:
            progress((epoch - 1) * batches + batch, total)

    with naming(by="keep_best"):
        history = training.fit(
            encoder,
            criterion,
            seen,
            epochs=recipe.epochs,
            batches=batches,
            classes_per_batch=recipe.classes_per_batch,
            items_per_class=recipe.items_per_class,
            learning_rate=recipe.learning_rate,
            preprocess=preprocess.apply,
            augment=views,
            callbacks=[each for each in (scores, best, early, *callbacks) if each is not None],
            progress=show,
            workers=workers,
            device=device,
            precision=recipe.precision,
            seed=recipe.seed,
        )
    origin = {
        "data": name or type(source).__name__,
        "items": len(kept),
        "recipe": recipe.to_dict(),
        "evaluate": None if evaluate is None else scored_on or ASIDE,
        **_selection(best, encoder, scores),
        "history": history.records,
    }
    some = data.Subset(kept, range(min(len(kept), CHECKED)))
    encoders.encode(encoder, some, preprocess=preprocess.apply)  # refuses what is not finite
    model = SimilarityModel(
        encoder,
        distance=compare,
        preprocess=preprocess,
        trained=None if table is not None else kept,
        origin=origin,
    )
    if table is not None:  # its files have no classes to name
        model.trained_prints = data.fingerprints(table.data)
    if folds is not None:
        model.cross_fit = cross_fitting.fitted(
            folds,
            kept,
            apart.get("seen"),
            dataclasses.replace(recipe, epochs=len(history.records)),
            lambda part, choices, show: train(
                part, choices, progress=show, workers=workers, device=device
            ),
            progress=lambda done: (
                None if progress is None else progress(recipe.epochs * batches + done, total)
            ),
        )
    return model


def fitting_encoder(item_shape: Sequence[int], embedding_dim: int = 64) -> nn.Module:
    """The network that `train` builds for items of a shape.

    Images get convolutions and a pool until at most 8 pixels are left on a side, all other items
    a dense network.

    Example:
        >>> fitting_encoder((1, 28, 28)).config["layers"]
        [32, 'pool', 64, 'pool', 128]
    """
    if len(item_shape) != 3:
        return encoders.MLPEncoder(item_shape, embedding_dim=embedding_dim)
    layers: list[Any] = []
    side, width = min(item_shape[1:]), 32
    while True:
        layers.append(width)
        if side < LARGEST_MAP:
            break
        layers.append("pool")
        side, width = side // 2, min(2 * width, 128)
    return encoders.ConvEncoder(item_shape, layers=layers, embedding_dim=embedding_dim)


def fitting_loss(recipe: Recipe, distance: distances.Distance, class_count: int) -> nn.Module:
    """The loss that a recipe names, with the settings that fit its distance."""
    name, margin = recipe.loss_name, recipe.margin
    if recipe.pairs:
        middle = losses.CENTERS.get(distance.name, 1.0)
        if name == "threshold":
            return losses.GivenPairsLoss(losses.LearnedThreshold(middle), distance=distance)
        formula = functools.partial(
            losses.contrastive_loss, margin=middle if margin is None else margin
        )
        return losses.GivenPairsLoss(formula, distance=distance)
    if name in CLASS_LOSSES:
        return LOSSES[name](recipe.embedding_dim, class_count)
    return LOSSES[name](distance=distance, **({} if margin is None else {"margin": margin}))


def selection_notes(origin: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """What biases numbers on these classes, a sentence each: the best epoch was chosen on them."""
    if str(origin.get("selected_by")).startswith("pairs_"):
        return [
            f"epoch {origin['selected_epoch']} was chosen by {origin['selected_by']} on the pairs "
            f"of {origin['evaluate']}: numbers on these pairs are biased upward"
        ]
    touched = [name for name in classes if name in (origin.get("selected_on") or [])]
    if not touched:
        return []
    few = ", ".join(touched[:8]) + (", …" if len(touched) > 8 else "")
    what = "classes" if origin["selected_by"].startswith("unseen_") else "items"
    return [
        f"epoch {origin['selected_epoch']} was chosen by {origin['selected_by']} on items of "
        f"classes {few}: these {what} are no longer untouched, and numbers on them are biased "
        "upward"
    ]


def _parts(
    source: data.Dataset | data.GivenPairs, recipe: Recipe
) -> tuple[data.Dataset, data.Dataset, dict[str, data.Dataset], Any]:
    """All items, those trained on, the parts kept from training, and what `fit` gets."""
    apart: dict[str, data.Dataset] = {}
    if isinstance(source, data.GivenPairs):
        if recipe.hold_out_classes is not None or recipe.made_classes != "none":
            held = recipe.hold_out_classes
            raise InputError(
                "must be left out for given pairs, which have no classes, got "
                f"{held or recipe.made_classes!r}.",
                argument="made_classes" if held is None else "hold_out_classes",
            )
        if not recipe.pairs:
            raise InputError(
                "must be True for given pairs, got False.",
                argument="pairs",
                remedy="Use Recipe(pairs=True).",
                command="Add it.",
            )
        return source.data, source.data, apart, source
    data.check_trainable(source)
    kept, held_out = _hold_out(source, recipe)
    data.check_trainable(kept)
    if recipe.keep_aside > 0:
        shares = [1 - recipe.keep_aside, recipe.keep_aside]
        kept, apart["seen"] = data.split_items(kept, shares, seed=recipe.seed)
        data.check_trainable(kept)
    if held_out is not None:
        apart["unseen"] = held_out
    seen: Any = kept
    if recipe.made_classes in ("mirrored", "both"):
        seen = augment.make_flipped_classes(seen)
    if recipe.made_classes in ("turned", "both"):
        seen = augment.make_rotated_classes(seen)
    if recipe.pairs:
        seen = data.PairDataset(seen, seed=recipe.seed, fresh=True)
    return source, kept, apart, seen


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
        few = ", ".join(map(repr, present[:12])) + (", …" if len(present) > 12 else "")
        raise InputError(
            f"must name classes of the data ({few}), got {', '.join(map(repr, absent))}.",
            argument="hold_out_classes",
        )
    kept_names = [name for name in present if name not in held]
    if not kept_names:
        raise InputError(
            f"must leave some classes to train on, got all {len(present)}. Name fewer.",
            argument="hold_out_classes",
        )
    return data.choose_classes(whole, kept_names), data.choose_classes(whole, held)


def _following(recipe: Recipe) -> tuple[KeepBest | None, StopEarly | None]:
    if recipe.keep_best is None:
        return None, None
    try:
        best = KeepBest(recipe.keep_best)
    except InputError:
        raise InputError(
            "must be a loss, a rate or a score, as only for those it is known whether larger is "
            f"better, got {recipe.keep_best!r}. Use e.g. seen_map_at_r.",
            argument="keep_best",
        ) from None
    if recipe.patience is None:
        return best, None
    return best, StopEarly(recipe.keep_best, patience=recipe.patience)


def _scores(
    evaluate: Any,
    apart: Mapping[str, data.Dataset],
    kept: data.Dataset,
    of_pairs: bool,
    distance: distances.Distance,
    preprocess: data.Preprocess,
    recipe: Recipe,
) -> EvaluateEpochs:
    parts: Mapping[str, Any]
    if isinstance(evaluate, str) and evaluate == ASIDE:
        parts = apart
    elif isinstance(evaluate, data.GivenPairs):
        both = torch.isin(data.fingerprints(evaluate.data), data.fingerprints(kept)).sum()
        if both:
            raise InputError(
                f"must be pairs of other images than those trained on, got {int(both)} that are "
                "trained on.",
                argument="evaluate",
            )
        parts = {"pairs": evaluate}
    elif of_pairs:
        raise InputError(
            "must be pairs where pairs are trained on, got labeled items.",
            argument="evaluate",
            remedy="Use data.load_pairs.",
            command="Give a table of pairs.",
        )
    else:
        parts = seen_and_unseen(evaluate, kept)
    scorable = {
        part: items for part, items in parts.items() if part == "pairs" or _has_pairs(items)
    }
    for part in parts.keys() - scorable.keys():
        warnings.warn(
            f"{part} classes are not scored: it takes 2 of them, and 2 items of one.", stacklevel=3
        )
    if not scorable:
        raise InputError(
            "must have 2 classes of items that are not trained on, got none.",
            argument="evaluate",
            remedy="Raise keep_aside, name hold_out_classes, or give other data.",
            command="Use --keep-aside, --hold-out-classes, or other data.",
        )
    scores = EvaluateEpochs(
        scorable,
        distance=distance,
        preprocess=preprocess.apply,
        every=recipe.evaluate_every or 1,
        seed=recipe.seed,
    )
    if (recipe.keep_best or "").startswith(SCORED):
        check_choice("keep_best", recipe.keep_best, scores.names)
    return scores


def _selection(
    best: KeepBest | None, encoder: nn.Module, scores: EvaluateEpochs | None
) -> dict[str, Any]:
    """Give the encoder its best weights; by which number, of which epoch and on which classes."""
    if best is None:
        return {}
    with naming(by="keep_best"):
        best.restore(encoder)
    part, _, _ = best.by.partition("_")
    items = None if scores is None or part not in scores.parts else scores.parts[part].items
    on = [] if items is None or part == "pairs" else list(data.items_per_class(items))
    return {"selected_by": best.by, "selected_epoch": best.epoch, "selected_on": on}


def _has_pairs(items: data.Dataset) -> bool:
    counts = torch.unique(items.labels[items.labels >= 0], return_counts=True)[1]
    return len(counts) >= 2 and bool((counts >= 2).any())


def _is_photo(shape: Sequence[int]) -> bool:
    # On a handful of pixels turning and shifting would blur away what there is.
    return len(shape) == 3 and min(shape[1:]) >= 16
