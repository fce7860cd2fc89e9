"""`train` of a stream: what can only be gone through, and may exceed memory."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from likewise import data, distances, training
from likewise.data.fingerprints import item_fingerprints
from likewise.errors import InputError, naming
from likewise.journeys.choosing import chosen, start_of, stream_for_training
from likewise.journeys.fitting import (
    changes_of,
    check_learned,
    fitting_loss,
    following,
    in_epochs,
    rate_of,
)
from likewise.journeys.recipe import CLASS_LOSSES, SCORED, Recipe
from likewise.journeys.scoring import restored
from likewise.model import SimilarityModel
from likewise.training.loop import STREAMED

SHARES = 10_000  # into which items are divided by their content
FITTED_ON = 1000  # items of the buffer, which say mean and spread


def train_stream(
    source: Any,
    recipe: Recipe,
    *,
    buffer: int,
    callbacks: Sequence[training.Callback],
    progress: Callable[[int, int], None] | bool,
    device: str | None,
    name: str,
    reading: data.Reading,
    augment: Any,
    weights: str | Path | None,
    tell: Callable[[str], None] | None,
) -> SimilarityModel:
    """What `train` gives with a buffer; the arguments are its own."""
    recipe = dataclasses.replace(recipe, encoder=recipe.encoder or "small")
    _check_streamable(recipe)
    best, early = following(recipe)
    stream = stream_for_training(source, recipe, reading=reading)
    held = recipe.hold_out_classes
    trained = _Trained(stream, held if isinstance(held, tuple) else (), recipe.keep_aside)
    batches = data.BalancedStream(
        trained,
        classes_per_batch=recipe.classes_per_batch,
        items_per_class=recipe.items_per_class,
        batches=recipe.batches or STREAMED,
        buffer=buffer,
        seed=recipe.seed,
    )
    first = batches.first(FITTED_ON)
    sample: data.Dataset
    if isinstance(first[0], str):
        sample = data.TextDataset(first)
    else:
        sample = data.ArrayDataset(torch.stack(first), [-1] * len(first), [])
    recipe = chosen(recipe, sample, weights=weights)
    start = start_of(recipe, sample.item_shape, weights, tell)
    preprocess = start.preprocess
    if recipe.is_small:
        preprocess = data.Preprocess.fit(sample, seed=recipe.seed)
        if stream.image_size is not None and len(sample.item_shape) == 3:
            preprocess = dataclasses.replace(preprocess, framing=stream.image_size)
    views = changes_of(recipe, sample.item_shape, augment)
    compare = distances.by_name(recipe.distance)
    encoder = start.whole
    with naming(by="keep_best"):
        history = training.fit(
            encoder,
            fitting_loss(recipe, compare, 0),
            batches,
            epochs=recipe.epochs,
            learning_rate=rate_of(recipe),
            clip_gradients=recipe.clip_gradients,
            chunk=recipe.chunk,
            preprocess=None if preprocess is None else preprocess.apply,
            augment=views,
            callbacks=[each for each in (best, early, *callbacks) if each is not None],
            progress=in_epochs(progress, recipe.epochs),
            device=device,
            precision=recipe.precision,
            seed=recipe.seed,
        )
    selected = restored(best, encoder)
    check_learned(encoder, sample, preprocess)
    if tell is not None:
        tell(f"{len(trained.prints):,} items of {len(batches.class_names)} classes were seen")
    model = SimilarityModel(
        encoder,
        distance=compare,
        preprocess=preprocess,
        origin={
            "data": name,
            "items": len(trained.prints),
            "buffer": buffer,
            "recipe": recipe.to_dict(),
            **({} if augment is None else {"augment": type(augment).__name__}),
            "evaluate": None,
            "baselines": [],
            **selected,
            "history": history.records,
        },
        reading=reading,
    )
    model.trained_on = list(batches.class_names)
    model.trained_prints = torch.tensor(sorted(trained.prints), dtype=torch.int64)
    return model


class _Trained(IterableDataset[tuple[Any, str | None]]):
    """The items of a stream that are trained on; knows the fingerprints of those that came."""

    def __init__(self, stream: data.Stream, held_out: Sequence[str], keep_aside: float) -> None:
        self.stream = stream
        self.held_out = set(held_out)
        self.kept_aside = round(keep_aside * SHARES)
        self.prints: set[int] = set()

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream which pass begins."""
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Any, str | None]]:
        for item, label in self.stream:
            if label is None or label in self.held_out:
                continue
            print_ = int(item_fingerprints([item] if isinstance(item, str) else item[None]))
            if (print_ >> 24) % SHARES < self.kept_aside:
                continue
            self.prints.add(print_)
            yield item, label


def _check_streamable(recipe: Recipe) -> None:
    """Refuse choices that need all items at once."""
    if not recipe.labels:
        raise InputError(
            "must be items, not a stream, for a training without labels, got a stream.",
            argument="data",
        )
    defaults = Recipe()
    for name, why in (
        ("pairs", "pairs are drawn from all items"),
        ("made_classes", "classes are made of all items"),
        ("evaluate_every", "nothing is scored"),
    ):
        if getattr(recipe, name) != getattr(defaults, name):
            raise InputError(
                f"must be left out for a stream, as {why}, got {getattr(recipe, name)!r}.",
                argument=name,
            )
    if isinstance(recipe.hold_out_classes, float):
        raise InputError(
            "must be names for a stream, whose classes are not known beforehand, got a share.",
            argument="hold_out_classes",
        )
    if recipe.loss_name in CLASS_LOSSES:
        raise InputError(
            f"must not need the number of classes for a stream, got {recipe.loss_name}. Use "
            "multi-similarity.",
            argument="loss",
        )
    if (recipe.keep_best or "").startswith(SCORED):
        raise InputError(
            f"must be the loss for a stream, where nothing is scored, got {recipe.keep_best}.",
            argument="keep_best",
        )
    if recipe.is_frozen:
        raise InputError(
            f"must be last or all for a stream, got {recipe.train or 'none'}: features of an "
            "encoder that does not train are kept in memory.",
            argument="train",
        )
