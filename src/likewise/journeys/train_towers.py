"""`train` of two towers: pairs across two sides, each with an encoder of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from likewise import data, distances, encoders, training
from likewise.data.cross_tables import open_cross_pairs
from likewise.data.framing import Framing
from likewise.encoders.naming import new_head
from likewise.errors import InputError, naming
from likewise.journeys import frozen
from likewise.journeys.choosing import start_of
from likewise.journeys.fitting import (
    BATCH,
    FEWEST_BATCHES,
    changes_of,
    check_learned,
    fitting_loss,
    following,
    in_epochs,
    loss_rate_of,
    rate_of,
)
from likewise.journeys.recipe import Recipe
from likewise.journeys.scoring import restored
from likewise.model import SimilarityModel
from likewise.samplers import ShuffledBatchSampler

SIDES = ("a", "b")


class _Tower(NamedTuple):
    """One side of the training.

    Attributes:
        module: What learns: the encoder, or a head behind it.
        encoder: The encoder of the model.
        preprocess: How the model reads items.
        items: What `module` learns from: items, or their features.
        reads: What `fit` does to a batch first; None for features and texts.
        views: How items are changed while training; None if they are not.
    """

    module: nn.Module
    encoder: nn.Module
    preprocess: data.Preprocess | None
    items: data.Dataset
    reads: Callable[[Any], Any] | None
    views: Any


def open_for_towers(
    source: str | Path,
    recipe: Recipe,
    *,
    image_size: int | None = None,
    channels: int | None = None,
) -> data.CrossPairs:
    """A table of pairs across two sides, each column read as its tower needs it.

    Args:
        source: The table; see `data.load_cross_pairs`.
        recipe: The choices, with two towers.
        image_size: Side of the images; by default that of the pretrained weights.
        channels: 1 for gray images, 3 for color.
    """
    sides: list[dict[str, Any] | None] = []
    for name in recipe.towers or ():
        if name.startswith("sentence:"):
            sides.append(None)
            continue
        if name == "none":
            raise InputError(
                "must be small, timm:NAME or sentence:NAME for a table of pairs, got 'none'. For "
                "vectors use data.CrossPairs in Python.",
                argument="towers",
            )
        read = encoders.preprocess_of(name, image_size=image_size)
        framing = image_size if read is None else Framing.from_dict(read["framing"])
        sides.append(
            {
                "image_size": framing,
                "channels": channels if read is None else channels or 3,
            }
        )
    return open_cross_pairs(source, *sides)


def train_towers(
    source: Any,
    recipe: Recipe,
    *,
    callbacks: Sequence[training.Callback],
    progress: Callable[[int, int], None] | bool,
    workers: int,
    device: str | None,
    name: str | None,
    reading: data.Reading,
    augment: Any,
    checkpoint: str | Path | None,
    weights: str | Path | None,
    tell: Callable[[str], None] | None,
) -> SimilarityModel:
    """What `train` gives with two towers; the arguments are its own."""
    if recipe.towers is None:
        raise InputError(
            "must name two encoders for pairs across two sides, got none. Use "
            'Recipe(towers=("timm:...", "sentence:...")).',
            argument="towers",
        )
    if augment is not None or weights is not None:
        raise InputError(
            "must be left out with towers, got one for two sides.",
            argument="weights" if augment is None else "augment",
        )
    if isinstance(source, (str, Path)):
        source = open_for_towers(source, recipe)
    if not isinstance(source, data.CrossPairs):
        raise InputError(
            f"must be pairs across two sides with towers, got {type(source).__name__}. Use "
            "data.CrossPairs(a, b, pairs).",
            argument="data",
        )
    best, early = following(recipe)
    distance = distances.by_name(recipe.distance)
    a, b = _towers(source, recipe, device, progress, workers, checkpoint, tell)
    pairs = data.CrossPairs(a.items, b.items, source.pairs, source.same)
    size = min(recipe.batch_size or BATCH, len(pairs))
    module = encoders.TwoTowers(a.module, b.module)
    with naming(by="keep_best"):
        history = training.fit(
            module,
            fitting_loss(recipe, distance, 0),
            pairs,
            epochs=recipe.epochs,
            batch_sampler=ShuffledBatchSampler(
                len(pairs),
                batch_size=size,
                batches=recipe.batches or max(FEWEST_BATCHES, len(pairs) // size),
                seed=recipe.seed,
            ),
            learning_rate=rate_of(recipe),
            loss_learning_rate=loss_rate_of(recipe),
            clip_gradients=recipe.clip_gradients,
            chunk=recipe.chunk,
            preprocess=(a.reads, b.reads),
            augment=(a.views, b.views),
            callbacks=[each for each in (best, early, *callbacks) if each is not None],
            progress=in_epochs(progress, recipe.epochs),
            workers=workers,
            device=device,
            precision=recipe.precision,
            seed=recipe.seed,
            checkpoint=checkpoint,
        )
    selected = restored(best, module)
    for tower, items in ((a, source.a), (b, source.b)):
        check_learned(tower.encoder, items, tower.preprocess)
    model = SimilarityModel(
        b.encoder,
        distance=distance,
        preprocess=b.preprocess,
        query_encoder=a.encoder,
        query_preprocess=a.preprocess,
        origin={
            "data": name or type(source).__name__,
            "items": len(source),
            "recipe": recipe.to_dict(),
            "evaluate": None,
            **selected,
            "baselines": [],
            "history": history.records,
        },
        reading=reading,
    )
    used = [
        data.Subset(side, torch.unique(rows))
        for side, rows in zip((source.a, source.b), source.pairs.T, strict=True)
    ]
    model.trained_prints = torch.cat([data.fingerprints(side) for side in used])
    return model


def _towers(
    source: data.CrossPairs,
    recipe: Recipe,
    device: str | None,
    progress: Callable[[int, int], None] | bool,
    workers: int,
    checkpoint: str | Path | None,
    tell: Callable[[str], None] | None,
) -> tuple[_Tower, _Tower]:
    """Both towers before they learn, with embeddings of one width."""
    starts = []
    for side, items in enumerate((source.a, source.b)):
        own = recipe.of_tower(side)
        _check_kind(own, items, SIDES[side])
        start = start_of(own, items.item_shape, None, tell)
        preprocess = start.preprocess
        if own.is_small:
            preprocess = data.Preprocess.fit(items, seed=recipe.seed)
        if own.is_frozen:
            seen = frozen.features_by(
                start, device=device, progress=progress, workers=workers, checkpoint=checkpoint
            ).of(items)
            (width,) = seen.item_shape
        else:
            seen = items
            apply = None if preprocess is None else preprocess.apply
            one = data.Subset(items, [0])
            width = encoders.encode(start.whole, one, preprocess=apply).shape[1]
        starts.append((own, start, preprocess, seen, width))
    dim = recipe.embedding_dim or min(width for *_, width in starts)
    towers = []
    for own, start, preprocess, seen, width in starts:
        views = reads = None
        if own.is_frozen:
            torch.manual_seed(recipe.seed)
            module = new_head(own.head or "linear", width, dim)
            encoder: nn.Module = nn.Sequential(start.body, module)
        else:
            if width != dim:
                own = dataclasses.replace(own, embedding_dim=dim)
                start = start_of(own, seen.item_shape, None, None)
            module = encoder = start.whole
            reads = None if preprocess is None else preprocess.apply
            views = changes_of(own, seen.item_shape)
        towers.append(_Tower(module, encoder, preprocess, seen, reads, views))
    return towers[0], towers[1]


def _check_kind(own: Recipe, items: data.Dataset, side: str) -> None:
    """Refuse texts for a tower of numbers, and the other way around."""
    is_for_texts = str(own.encoder).startswith("sentence:")
    if is_for_texts != data.is_text(items):
        wanted, got = ("texts", "numbers") if is_for_texts else ("numbers", "texts")
        raise InputError(
            f"must have a tower for {got} on side {side}, got {own.encoder!r}, which takes "
            f"{wanted}. Use sentence:NAME for texts, another encoder for numbers and images.",
            argument="towers",
        )
