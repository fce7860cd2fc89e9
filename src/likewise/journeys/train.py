"""`train`: from labeled items or pairs, by a recipe, to a model."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from likewise import data, distances, encoders, training
from likewise.calibration import CrossFit
from likewise.errors import InputError, naming
from likewise.evaluation.baseline import Baseline
from likewise.evaluation.during import EvaluateEpochs
from likewise.journeys import cross_fitting, fitting, frozen, scoring, unlabeled
from likewise.journeys.choosing import Start, chosen, open_for_training, settled, start_of
from likewise.journeys.dividing import Parts, divided
from likewise.journeys.opening import PLAIN
from likewise.journeys.recipe import SCORED, Recipe
from likewise.journeys.train_stream import train_stream
from likewise.journeys.train_towers import train_towers
from likewise.model import SimilarityModel
from likewise.training.following import KeepBest, StopEarly

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

    Under torchrun or `accelerate launch` the processes train one model together; see `fit`. Each
    gets the model, and one is to save it: see `training.is_first_process`.

    With `towers` in the recipe, two encoders learn from pairs across two sides, `CrossPairs` or
    their table: the model's `query_encoder` from the first, its `encoder` of known items from the
    second. Pretrained encoders stay frozen, with a head behind features that are made once, unless
    the recipe trains "last" or "all".

    Args:
        source: A labeled dataset, also of another library as `data.as_dataset` takes them, given
            pairs, pairs across two sides, or anything that `data.load` reads, of which the training
            part is read. With a buffer anything that `data.open_stream` takes.
        recipe: Every choice; `Recipe()` if None.
        evaluate: What to score while training: a dataset, given pairs, or "aside" for the items
            kept aside and the classes held out. "aside" if None and the recipe scores anything.
        callbacks: Called after each epoch, as those of `fit`.
        progress: True shows a bar in a terminal or a notebook, as `fit` does; False shows
            nothing. A function is called as progress(done, total) after each batch.
        workers: Processes that load data; 0 loads in this one.
        buffer: Items of a stream that are in memory at once; more mix better. None reads all.
        device: "cpu", "cuda", "cuda:1" or "mps"; the GPU, else the CPU, if None.
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
    if not training.is_first_process():
        progress, tell = False, None
    if isinstance(source, (str, Path)):
        name = name or str(source)
    if buffer is not None:
        _check_streamed(
            towers=recipe.towers, evaluate=evaluate, workers=workers or None, checkpoint=checkpoint
        )
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
    if recipe.towers is not None or isinstance(source, data.CrossPairs):
        if evaluate is not None:
            raise InputError(
                "must be left out for two towers, got one. Judge the model by its lookup.",
                argument="evaluate",
            )
        return train_towers(
            source,
            recipe,
            callbacks=callbacks,
            progress=progress,
            workers=workers,
            device=device,
            name=name,
            reading=reading,
            augment=augment,
            checkpoint=checkpoint,
            weights=weights,
            tell=tell,
        )
    if isinstance(source, (str, Path)):
        source, recipe = open_for_training(source, recipe, weights=weights, reading=reading)
    source = data.as_dataset(source, pairs=True)
    has_classes = not isinstance(source, data.GivenPairs)
    if not has_classes and not recipe.labels:
        raise InputError(
            "must be images for a training without labels, got pairs. Leave their table out.",
            argument="data",
        )
    recipe = chosen(recipe, source if has_classes else source.data, weights=weights)
    if has_classes:
        recipe = settled(recipe, source.item_shape, len(data.items_per_class(source)))
    if recipe.evaluate_every is not None or (recipe.keep_best or "").startswith(SCORED):
        evaluate = scoring.ASIDE if evaluate is None else evaluate
    run = _Run(callbacks, progress, workers, device, augment, checkpoint, weights, tell)
    setup = _set_up(source, recipe, evaluate, run)
    head, decided = _head_of(setup)
    learns = setup.features is None or head is not None
    kept, seen = setup.parts.kept, setup.parts.seen
    folds = None
    if learns and recipe.labels and has_classes:
        batches, aside = fitting.batches_of(recipe, seen), setup.parts.apart.get("seen")
        folds = cross_fitting.plan(kept, recipe, batches, aside)
    if folds is not None:
        run.say(str(folds))
    learned = _learned(setup, head, folds)
    baselines = _baselines(setup, learned) if learns else []
    for each in baselines:
        run.say(each.verdict)
    fitting.check_learned(learned.encoder, kept, setup.preprocess)
    model = SimilarityModel(
        learned.encoder,
        distance=setup.distance,
        preprocess=setup.preprocess,
        trained=kept if learns and recipe.labels and has_classes else None,
        origin={
            "data": name or type(source).__name__,
            "items": len(kept),
            "recipe": recipe.to_dict(),
            **({} if augment is None else {"augment": type(augment).__name__}),
            "evaluate": None if evaluate is None else scored_on or scoring.ASIDE,
            **learned.selected,
            **({} if decided is None else {"decided": decided}),
            "baselines": [each.to_dict() for each in baselines],
            "history": learned.records,
        },
        reading=reading,
    )
    if learns and not (recipe.labels and has_classes):  # no class was trained on, but items were
        model.trained_prints = data.fingerprints(kept)
    if folds is not None:
        model.cross_fit = _cross_fit(setup, head, folds, epochs=len(learned.records))
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


@dataclass(frozen=True)
class _Run:
    """How a training runs, in the words of `train`."""

    callbacks: Sequence[training.Callback]
    progress: Progress | bool
    workers: int
    device: str | None
    augment: Any
    checkpoint: str | Path | None
    weights: str | Path | None
    tell: Callable[[str], None] | None

    def say(self, line: str) -> None:
        """Tell a line, if anybody listens."""
        if self.tell is not None:
            self.tell(line)


@dataclass(frozen=True)
class _Setup:
    """What a training consists of, settled before anything learns.

    Attributes:
        recipe: Every choice.
        run: How it runs.
        distance: What embeddings are compared by.
        start: The encoder before it is trained.
        preprocess: How the model reads items; None for vectors and texts.
        features: What makes features of items, where the encoder does not train; else None.
        parts: The items trained on and kept apart.
        views: How items are changed while training.
        best: Keeps the best epoch, if the recipe asks for it.
        early: Stops early, if the recipe asks for it.
        scores: Scores each epoch, if anything is scored.
        before: What a pretrained encoder gives for unseen items as it is; None for others.
        projection: What the loss of a training without labels is computed on.
    """

    recipe: Recipe
    run: _Run
    distance: distances.Distance
    start: Start
    preprocess: data.Preprocess | None
    features: frozen.Features | None
    parts: Parts
    views: Any
    best: KeepBest | None
    early: StopEarly | None
    scores: EvaluateEpochs | None
    before: Tensor | None
    projection: unlabeled.Projection | None

    @property
    def reads(self) -> data.Preprocess | None:
        """How what learns reads its items; None where these are features."""
        return None if self.features is not None else self.preprocess


class _Learned(NamedTuple):
    """What was learned.

    Attributes:
        module: What learned: the encoder, or the head behind it.
        encoder: The encoder of the model.
        records: What `fit` says of each epoch; empty where nothing was learned in steps.
        selected: What the best epoch was chosen by, for the model's origin.
    """

    module: nn.Module
    encoder: nn.Module
    records: list[dict[str, float]]
    selected: dict[str, Any]


def _set_up(
    source: data.Dataset | data.GivenPairs, recipe: Recipe, evaluate: Any, run: _Run
) -> _Setup:
    item_shape = (source.data if isinstance(source, data.GivenPairs) else source).item_shape
    distance = distances.by_name(recipe.distance)
    best, early = fitting.following(recipe)
    if recipe.is_frozen:
        _check_unchanged(recipe, run.augment)
    start = start_of(recipe, item_shape, run.weights, run.tell)
    features = None
    if recipe.is_frozen:
        features = frozen.features_by(
            start,
            device=run.device,
            progress=run.progress,
            workers=run.workers,
            checkpoint=run.checkpoint,
        )
    parts = divided(source, recipe, features)
    preprocess = start.preprocess
    if recipe.is_small:
        preprocess = data.Preprocess.fit(parts.kept, seed=recipe.seed)
    views = None
    if not recipe.is_frozen:
        views = fitting.changes_of(recipe, item_shape, run.augment)
    scores = before = projection = None
    if evaluate is not None:
        scores = scoring.scores_of(evaluate, parts, recipe, distance, preprocess, features)
        before = _before(start, preprocess, features, scores, recipe)
    if not recipe.labels:
        one = data.Subset(parts.kept, [0])
        width = encoders.encode(start.whole, one, preprocess=_apply(preprocess)).shape[1]
        projection = unlabeled.Projection(unlabeled.projector(recipe, width), width)
    return _Setup(
        *(recipe, run, distance, start, preprocess, features, parts, views),
        *(best, early, scores, before, projection),
    )


def _check_unchanged(recipe: Recipe, augment: Any) -> None:
    """Refuse changes of items that an encoder that does not train sees once."""
    if recipe.makes_classes:
        raise InputError(
            f"must be none for an encoder that does not train, got {recipe.made_classes!r}.",
            argument="made_classes",
        )
    if augment is not None:
        raise InputError(
            f"must be left out for an encoder that does not train, got {type(augment).__name__}.",
            argument="augment",
        )


def _before(
    start: Start,
    preprocess: data.Preprocess | None,
    features: frozen.Features | None,
    scores: EvaluateEpochs,
    recipe: Recipe,
) -> Tensor | None:
    unseen = scores.parts.get("unseen")
    if unseen is None or recipe.is_small:
        return None
    if features is not None:
        return torch.as_tensor(data.items(unseen.items))
    return encoders.encode(start.body, unseen.items, preprocess=_apply(preprocess))


def _head_of(setup: _Setup) -> tuple[str | None, str | None]:
    """The head behind a frozen encoder, if any, and the line about it if it was tried."""
    recipe, seen = setup.recipe, setup.parts.seen
    if setup.features is None or recipe.train == "none" or recipe.head == "none":
        return None, None
    if recipe.train == "head":
        return recipe.head or "linear", None
    if not isinstance(seen, data.ArrayDataset):
        return None, None  # nothing is held out of pairs
    trial = frozen.tried(recipe, seen, setup.distance, partial(_fit, setup, recipe))
    setup.run.say(trial.line)
    return trial.head, trial.line


def _fit(
    setup: _Setup,
    recipe: Recipe,
    module: nn.Module,
    part: Any,
    *,
    progress: Any = False,
    callbacks: Sequence[training.Callback] = (),
    checkpoint: str | Path | None = None,
) -> training.History:
    """Train a module in place, by the choices of a recipe, on a part of the items."""
    run, apply = setup.run, _apply(setup.reads)
    if setup.projection is None:
        loss = fitting.loss_for(module, part, recipe, setup.distance, apply)
    else:
        loss = unlabeled.criterion(recipe, setup.projection)
    with naming(by="keep_best"):
        return training.fit(
            module,
            loss,
            part,
            epochs=recipe.epochs,
            **fitting.drawing(recipe, part),
            learning_rate=fitting.rate_of(recipe),
            loss_learning_rate=fitting.loss_rate_of(recipe),
            clip_gradients=recipe.clip_gradients,
            chunk=recipe.chunk,
            preprocess=apply,
            augment=setup.views,
            callbacks=callbacks,
            progress=progress,
            workers=run.workers if setup.features is None else 0,
            device=run.device,
            precision=recipe.precision,
            seed=recipe.seed,
            checkpoint=checkpoint,
        )


def _fit_head(
    setup: _Setup, head: str, recipe: Recipe, part: Any, **told: Any
) -> tuple[nn.Module, training.History | None]:
    """A head for features, and how its training went; None for one that is fitted at once."""
    layers = frozen.head_for(dataclasses.replace(recipe, head=head), part)
    return layers, None if head == "whitening" else _fit(setup, recipe, layers, part, **told)


def _learned(setup: _Setup, head: str | None, folds: cross_fitting.Plan | None) -> _Learned:
    """The encoder, or the head behind a frozen one, trained as the recipe asks."""
    recipe, run, whole, seen = setup.recipe, setup.run, setup.start.whole, setup.parts.seen
    following = (setup.scores, setup.best, setup.early, *run.callbacks)
    told = {
        "progress": fitting.in_epochs(
            run.progress, recipe.epochs, 0 if folds is None else sum(folds.batches)
        ),
        "callbacks": [each for each in following if each is not None],
        "checkpoint": run.checkpoint,
    }
    module, encoder, history = whole, whole, None
    if setup.features is None:
        layers = None if setup.projection is None else setup.projection.layers
        if layers is not None and recipe.projection == "keep":
            module = nn.Sequential(whole, layers)
            encoder = nn.Sequential(whole, layers, encoders.Normalize())
        history = _fit(setup, recipe, module, seen, **told)
        encoder.eval()
    elif head is not None:
        module, history = _fit_head(setup, head, recipe, seen, **told)
        encoder = nn.Sequential(setup.start.body, module)
    if history is None:
        return _Learned(module, encoder, [], {})
    selected = scoring.restored(setup.best, module, setup.scores)
    if recipe.features:
        module = encoder = fitting.with_features(
            encoder, setup.parts.kept, recipe.features, setup.preprocess, seed=recipe.seed
        )
    return _Learned(module, encoder, history.records, selected)


def _baselines(setup: _Setup, learned: _Learned) -> list[Baseline]:
    unseen = None if setup.scores is None else setup.scores.parts.get("unseen")
    if unseen is None:
        return []
    return scoring.baselines(
        learned.module,
        unseen.items,
        setup.distance,
        setup.reads,
        before=setup.before,
        raw=setup.features is None,
    )


def _cross_fit(
    setup: _Setup, head: str | None, folds: cross_fitting.Plan, *, epochs: int
) -> CrossFit:
    """What encoders without some classes say of these, each trained for as many epochs."""
    recipe, progress, features = setup.recipe, setup.run.progress, setup.features
    recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs)
    kept, aside = setup.parts.kept, setup.parts.apart.get("seen")
    trained = partial(_fold_encoder, setup)
    if features is not None and head is not None:
        kept = features.of(kept)
        aside = None if aside is None else features.of(aside)
        trained = partial(_fold_head, setup, head)
    done = recipe.epochs * fitting.batches_of(recipe, setup.parts.seen)
    total = done + recipe.epochs * sum(folds.batches)
    return cross_fitting.fitted(
        folds,
        kept,
        aside,
        recipe,
        trained,
        distance=setup.distance,
        progress=lambda more: progress(done + more, total) if callable(progress) else None,
    )


def _fold_encoder(
    setup: _Setup, part: data.Dataset, recipe: Recipe, show: Progress
) -> cross_fitting.Embed:
    run = setup.run
    return train(
        part,
        dataclasses.replace(recipe, encoder=recipe.encoder or "small"),  # chosen once for all
        progress=show if callable(run.progress) else run.progress,
        workers=run.workers,
        device=run.device,
        augment=run.augment,
        weights=run.weights,
    ).embed


def _fold_head(
    setup: _Setup, head: str, part: data.Dataset, recipe: Recipe, show: Progress
) -> cross_fitting.Embed:
    drawn = data.PairDataset(part, seed=recipe.seed, fresh=True) if recipe.pairs else part
    shown = fitting.in_epochs(show if callable(setup.run.progress) else False, recipe.epochs)
    layers, _ = _fit_head(setup, head, recipe, drawn, progress=shown)
    return lambda items: encoders.encode(layers, items)


def _apply(preprocess: data.Preprocess | None) -> Callable[[Tensor], Tensor] | None:
    return None if preprocess is None else preprocess.apply
