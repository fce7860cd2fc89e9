"""`train`: from labeled items or pairs, by a recipe, to a model."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from likewise import augment as changes
from likewise import data, distances, encoders, training
from likewise._checks import check_choice
from likewise.augment import presets
from likewise.errors import InputError, naming
from likewise.evaluation.baseline import RAW_INPUT, Baseline, compare_with_baseline
from likewise.evaluation.during import EvaluateEpochs, seen_and_unseen
from likewise.journeys import cross_fitting, frozen, unlabeled
from likewise.journeys.choosing import chosen, open_for_training
from likewise.journeys.from_recipe import (
    CHECKED,
    SCORED,
    SMALL_DIM,
    fitting_loss,
    following,
    is_changed,
    rate_of,
    start_of,
)
from likewise.journeys.opening import PLAIN
from likewise.journeys.recipe import CLASS_LOSSES, Recipe
from likewise.journeys.train_stream import train_stream
from likewise.model import SimilarityModel, embed
from likewise.samplers import SimilarLengthBatchSampler
from likewise.training.batches import default_batches
from likewise.training.following import KeepBest

ASIDE = "aside"
FEWEST_BATCHES = 50  # per epoch
CENTERS_FASTER = 10  # times, as class centers begin at random and a pretrained encoder does not
BATCH, SENTENCES_BATCH = 128, 64  # items
OF_EACH = 16  # items of a class that tell where its center begins
Progress = Callable[[int, int], None]


def train(
    source: Any,
    recipe: Recipe | None = None,
    *,
    evaluate: Any = None,
    callbacks: Sequence[training.Callback] = (),
    progress: Progress | bool = True,
    workers: int = 0,
    buffer: int | None = None,
    device: str | None = None,
    name: str | None = None,
    scored_on: str | None = None,
    reading: data.Reading = PLAIN,
    augment: Any = None,
    checkpoint: str | Path | None = None,
    weights: str | Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> SimilarityModel:
    """A model trained on the source by the recipe; nothing is indexed or calibrated yet.

    `likewise train` calls this: the same source, recipe and seed give the same model, bit for
    bit, from Python and from the command line.

    A pretrained encoder that does not train sees each item once; heads learn from its features.
    Where the recipe leaves open what trains, a head is tried on held-out classes of the source,
    and kept only if it is ahead there.

    With a `buffer` the source is gone through as a stream, and may be larger than memory. Balanced
    batches are drawn from the buffer; see `data.BalancedStream`. The encoder is the small network
    if the recipe names none, and it must train, as features of a frozen one are kept in memory.
    `hold_out_classes` are names, `keep_aside` is a share of the items, chosen by their content, and
    an epoch has 100 batches if the recipe says none. Nothing is scored while training.

    Args:
        source: A labeled dataset, also of another library as `data.as_dataset` takes them, given
            pairs, or anything that `data.load` reads, of which the training part is read. With a
            buffer anything that `data.open_stream` takes.
        recipe: Every choice; `Recipe()` if None.
        evaluate: What to score while training: a dataset, given pairs, or "aside" for the items
            kept aside and the classes held out. "aside" if None and the recipe scores anything.
        callbacks: Called after each epoch, as those of `fit`.
        progress: True shows a bar in a terminal or a notebook, as `fit` does; False shows
            nothing. A function is called as progress(done, total) after each batch.
        workers: Processes that load data; 0 loads in this one.
        buffer: Items of a stream that are in memory at once; more mix better. None reads all.
        device: "cpu" or "cuda"; the best there is if None.
        name: What the source is called where the model tells how it was made.
        scored_on: What `evaluate` is called there; "aside" if None.
        reading: Which columns of a table hold what; the model remembers them.
        augment: Used instead of what the recipe names: a function of a batch of images, or a
            transform of torchvision or albumentations; see `fit`.
        checkpoint: A folder that is written after every epoch, and from which an interrupted
            training goes on; see `fit`. Features of a frozen encoder are kept there too.
        weights: File with weights of a pretrained encoder, .safetensors or .pth.
        tell: Called with a line about what was decided, or will be fetched.

    Returns:
        The model. `origin` holds the recipe, the history, what the best epoch was chosen by, as
        "decided" the line about a head that was tried, and as "baselines" how the model does on
        held-out classes beside the raw input and beside the encoder before it was trained.

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
    if buffer is not None:
        _check_streamed(evaluate=evaluate, workers=workers or None, checkpoint=checkpoint)
        return train_stream(
            source,
            recipe,
            buffer=buffer,
            callbacks=callbacks,
            progress=progress,
            device=device,
            name=name or "a stream",
            reading=reading,
            augment=augment,
            weights=weights,
            tell=tell,
        )
    if isinstance(source, (str, Path)):
        source, recipe = open_for_training(source, recipe, weights=weights, reading=reading)
    source = data.as_dataset(source, pairs=True)
    if isinstance(source, data.GivenPairs) and not recipe.labels:
        raise InputError(
            "must be images for a training without labels, got pairs. Leave their table out.",
            argument="data",
        )
    items = source.data if isinstance(source, data.GivenPairs) else source
    recipe = chosen(recipe, items, weights=weights)
    compare = distances.by_name(recipe.distance)
    best, early = following(recipe)
    if recipe.evaluate_every is not None or (recipe.keep_best or "").startswith(SCORED):
        evaluate = ASIDE if evaluate is None else evaluate
    if recipe.is_frozen and recipe.made_classes != "none":
        raise InputError(
            f"must be none for an encoder that does not train, got {recipe.made_classes!r}.",
            argument="made_classes",
        )
    if recipe.is_frozen and augment is not None:
        raise InputError(
            f"must be left out for an encoder that does not train, got {type(augment).__name__}.",
            argument="augment",
        )
    start = start_of(recipe, items.item_shape, weights, tell)
    preprocess = start.preprocess
    features = None
    if recipe.is_frozen:
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        shown = progress if callable(progress) else None
        cache = None if checkpoint is None else Path(checkpoint) / frozen.FEATURES
        features = frozen.Features(start.body, preprocess, place, shown, workers, cache)
    whole, kept, apart, seen = _parts(source, recipe, features)
    if recipe.is_small:
        preprocess = data.Preprocess.fit(kept, seed=recipe.seed)
    views = augment
    if not recipe.labels:
        _check_views(recipe, whole.item_shape, augment)
    if views is None and features is None and is_changed(recipe, whole.item_shape):
        named = changes.by_name(recipe.augment_name)
        views = None if named is None else presets.fitted(named, whole.item_shape[0])
    scores = None
    if evaluate is not None:
        of_pairs = isinstance(source, data.GivenPairs)
        scores = _scores(evaluate, apart, kept, of_pairs, compare, preprocess, recipe, features)
    unseen = None if scores is None else scores.parts.get("unseen")
    before = None  # what a pretrained encoder gives as it is
    if unseen is not None and features is None and not recipe.is_small:
        apply = None if preprocess is None else preprocess.apply
        before = encoders.encode(start.body, unseen.items, preprocess=apply)

    width, layers = 0, None
    if not recipe.labels:
        apply = None if preprocess is None else preprocess.apply
        one = data.Subset(kept, [0])
        width = encoders.encode(start.whole, one, preprocess=apply).shape[1]
        layers = unlabeled.projector(recipe, width)
    batches = _batches(recipe, seen)
    folds: cross_fitting.Plan | None = None  # planned once it is known what learns
    show: Any = progress
    if callable(progress):

        def show(epoch: int, batch: int, batches: int) -> None:
            each = batches + (0 if folds is None else sum(folds.batches))
            progress((epoch - 1) * batches + batch, recipe.epochs * each)

    def fit(
        module: nn.Module, part: Any, recipe: Recipe = recipe, *, told: bool = True
    ) -> training.History:
        apply = None if preprocess is None or features is not None else preprocess.apply
        criterion: nn.Module
        if recipe.labels:
            count, dim = len(getattr(part, "class_names", ())), SMALL_DIM
            if recipe.loss_name in CLASS_LOSSES:
                one = data.Subset(part, [0])
                dim = encoders.encode(module, one, preprocess=apply).shape[1]
            criterion = fitting_loss(recipe, compare, count, dim)
        else:
            criterion = unlabeled.criterion(recipe, layers, width)
        centers = getattr(criterion, "centers", None)
        if centers is not None and not recipe.is_small and not recipe.is_frozen:
            some = _some_of_each(part)
            centers.begin_at(encoders.encode(module, some, preprocess=apply), some.labels)
        with naming(by="keep_best"):
            return training.fit(
                module,
                criterion,
                part,
                epochs=recipe.epochs,
                **_drawing(recipe, part),
                learning_rate=rate_of(recipe),
                loss_learning_rate=_loss_rate(recipe),
                clip_gradients=recipe.clip_gradients,
                preprocess=apply,
                augment=views,
                callbacks=[each for each in (scores, best, early, *callbacks) if each is not None]
                if told
                else [],
                progress=show if told else False,
                workers=workers if features is None else 0,
                device=device,
                precision=recipe.precision,
                seed=recipe.seed,
                checkpoint=checkpoint if told else None,
            )

    def fit_head(part: Any, recipe: Recipe = recipe, *, told: bool = True) -> _Fitted:
        layers = frozen.head_for(dataclasses.replace(recipe, head=head), part)
        history = None if head == "whitening" else fit(layers, part, recipe, told=told)
        return _Fitted(layers, history)

    head, decided = None, None
    if features is not None:
        head = recipe.head or ("linear" if recipe.train == "head" else None)
        if recipe.train is None and not isinstance(seen, data.ArrayDataset):
            head = None  # nothing is held out of pairs
        elif recipe.train is None:
            trial = frozen.tried(recipe, seen, compare, lambda h, part: fit(h, part, told=False))
            head, decided = trial.head, trial.line
            if tell is not None:
                tell(decided)
        head = None if head == "none" else head
    learns = features is None or head is not None
    if learns and recipe.labels and not isinstance(source, data.GivenPairs):
        folds = cross_fitting.plan(kept, recipe, batches)
        if folds is not None and tell is not None:
            tell(str(folds))
    encoder: nn.Module = start.whole
    done = _Fitted(encoder, None)
    if layers is not None and recipe.projection == "keep":
        encoder = nn.Sequential(start.whole, layers)
    if features is None:
        done = _Fitted(encoder, fit(encoder, seen))
        if layers is not None and recipe.projection == "keep":
            encoder = nn.Sequential(start.whole, layers, encoders.Normalize()).eval()
    elif head is not None:
        done = fit_head(seen)
        encoder = nn.Sequential(start.body, done.module)
    history = done.history or training.History([])
    baselines = []
    if unseen is not None and learns:
        baselines = _baselines(done.module, unseen.items, preprocess, compare, features, before)
        if tell is not None:
            for each in baselines:
                tell(each.verdict)
    origin = {
        "data": name or type(source).__name__,
        "items": len(kept),
        "recipe": recipe.to_dict(),
        **({} if augment is None else {"augment": type(augment).__name__}),
        "evaluate": None if evaluate is None else scored_on or ASIDE,
        **({} if done.history is None else _selection(best, done.module, scores)),
        **({} if decided is None else {"decided": decided}),
        "baselines": [each.to_dict() for each in baselines],
        "history": history.records,
    }
    has_classes = not isinstance(source, data.GivenPairs)
    some = data.Subset(kept, range(min(len(kept), CHECKED)))
    apply = None if preprocess is None else preprocess.apply
    encoders.encode(encoder, some, preprocess=apply)  # refuses what is not finite
    model = SimilarityModel(
        encoder,
        distance=compare,
        preprocess=preprocess,
        trained=kept if learns and recipe.labels and has_classes else None,
        origin=origin,
        reading=reading,
    )
    if not has_classes or not recipe.labels:  # no class was trained on that could be named
        model.trained_prints = data.fingerprints(kept)
    if folds is not None:
        choices = dataclasses.replace(recipe, epochs=len(history.records) or recipe.epochs)
        offset = recipe.epochs * batches
        total = offset + recipe.epochs * sum(folds.batches)

        def embedder(part: data.Dataset, recipe: Recipe, show: Progress) -> cross_fitting.Embed:
            if features is None:
                shown = show if callable(progress) else progress
                return train(
                    part,
                    recipe,
                    progress=shown,
                    workers=workers,
                    device=device,
                    augment=augment,
                    weights=weights,
                ).embed
            drawn = data.PairDataset(part, seed=recipe.seed, fresh=True) if recipe.pairs else part
            layers = fit_head(drawn, recipe, told=False).module
            return lambda items: encoders.encode(layers, items)

        aside = apart.get("seen")
        if features is not None:
            aside = None if aside is None else features.of(aside)
        model.cross_fit = cross_fitting.fitted(
            folds,
            kept if features is None else seen.data if recipe.pairs else seen,
            aside,
            choices,
            embedder,
            distance=compare,
            progress=lambda done: progress(offset + done, total) if callable(progress) else None,
        )
    return model


def _check_streamed(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise InputError(
                f"must be left out for a stream, got {value!r}.",
                argument=name,
                remedy="Leave it or buffer out.",
                command="Leave it or --buffer out.",
            )


def _baselines(
    encoder: nn.Module,
    unseen: data.Dataset,
    preprocess: data.Preprocess | None,
    distance: distances.Distance,
    features: frozen.Features | None,
    before: Tensor | None,
) -> list[Baseline]:
    """The encoder, or a head on features, beside what it has to be ahead of, on new classes."""
    if features is not None:
        raw, before = None, data.items(unseen)
        embeddings = encoders.encode(encoder, before)
    else:
        found = embed(encoder, unseen, preprocess, keep_raw=True)
        raw, embeddings = found.raw, found.embeddings
    given = {RAW_INPUT: raw, "the frozen encoder": before}
    made = [
        compare_with_baseline(embeddings, rows, unseen.labels, distance=distance, name=name)
        for name, rows in given.items()
        if rows is not None
    ]
    return [each for each in made if each is not None]


class _Fitted(NamedTuple):
    """What was trained, and how it went; None where nothing was to be learned in steps."""

    module: nn.Module
    history: training.History | None


def _some_of_each(part: data.Dataset) -> data.Subset:
    """The first items of each class, by which its center begins."""
    labels = torch.as_tensor(part.labels)
    ordered, rows = labels.sort(stable=True)
    rank = torch.arange(len(rows)) - torch.searchsorted(ordered, ordered)
    return data.Subset(part, rows[(rank < OF_EACH) & (ordered >= 0)].sort().values)


def _loss_rate(recipe: Recipe) -> float | None:
    if recipe.loss_learning_rate is not None or not recipe.loss_has_weights:
        return recipe.loss_learning_rate
    return None if recipe.is_small or recipe.is_frozen else CENTERS_FASTER * rate_of(recipe)


class _Batch(NamedTuple):
    """Classes in a batch and items of each; None for what `fit` takes."""

    classes: int | None
    each: int | None
    size: int = BATCH  # by which a pass over the data is counted


def _batch(recipe: Recipe, part: Any) -> _Batch:
    classes, each = recipe.classes_per_batch, recipe.items_per_class
    if not recipe.labels:
        return _Batch(None, None, unlabeled.batch_size(recipe, len(part)))
    if not _has_similar_lengths(recipe):
        return _Batch(classes, each)
    classes = classes or min(SENTENCES_BATCH // (each or 1), len(data.items_per_class(part))) or 1
    each = each or max(1, SENTENCES_BATCH // classes)
    return _Batch(classes, each, classes * each)


def _batches(recipe: Recipe, part: Any) -> int:
    return recipe.batches or max(FEWEST_BATCHES, len(part) // _batch(recipe, part).size)


def _drawing(recipe: Recipe, part: Any) -> dict[str, Any]:
    """Which batches `fit` draws, as its arguments."""
    if not recipe.labels:
        batches = _batches(recipe, part)
        return {"batch_sampler": unlabeled.batches_of(recipe, len(part), batches)}
    batch = _batch(recipe, part)
    drawn = {
        "classes_per_batch": batch.classes,
        "items_per_class": batch.each,
        "batches": _batches(recipe, part),
    }
    if not _has_similar_lengths(recipe):
        return drawn
    sampler = default_batches(part, **drawn, seed=recipe.seed)
    lengths = [len(text) for text in data.items(part)]
    return {"batch_sampler": SimilarLengthBatchSampler(sampler, lengths, seed=recipe.seed)}


def _has_similar_lengths(recipe: Recipe) -> bool:
    # Class centers need no pairs within a batch. So it holds as many classes as it can, and texts
    # of similar length, which are padded less.
    return recipe.trains_sentences and recipe.loss_name in CLASS_LOSSES


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
    source: data.Dataset | data.GivenPairs, recipe: Recipe, features: frozen.Features | None
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
        pairs = source if features is None else features.of_any(source)
        return source.data, source.data, apart, pairs
    if not recipe.labels:
        kept, aside = unlabeled.parts(source, recipe)
        if aside is not None and unlabeled.has_labels(aside):
            apart["unseen"] = aside
        return source, kept, apart, data.ViewDataset(kept)
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


def _scores(
    evaluate: Any,
    apart: Mapping[str, data.Dataset],
    kept: data.Dataset,
    of_pairs: bool,
    distance: distances.Distance,
    preprocess: data.Preprocess | None,
    recipe: Recipe,
    features: frozen.Features | None,
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
        parts = seen_and_unseen(evaluate, kept) if recipe.labels else {"unseen": evaluate}
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
    if features is not None:
        scorable = {part: features.of_any(items) for part, items in scorable.items()}
    scores = EvaluateEpochs(
        scorable,
        distance=distance,
        preprocess=None if preprocess is None or features is not None else preprocess.apply,
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


def _check_views(recipe: Recipe, shape: Sequence[int], augment: Any) -> None:
    """Refuse items whose two views would be the same."""
    if augment is not None:
        return
    if len(shape) != 3:
        raise InputError(
            f"must be images for a training without labels, got items of shape {tuple(shape)}.",
            argument="data",
            remedy="For other items give augment=, a random change of a batch.",
            command="Their views are changed images.",
        )
    if recipe.augment_name == "none":
        raise InputError(
            "must change images without labels, got 'none', as views would be the same. "
            "Leave it out for views.",
            argument="augment",
        )
