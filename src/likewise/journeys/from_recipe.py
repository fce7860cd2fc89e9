"""What the choices of a recipe stand for: its encoder, its loss, its rate, what is followed."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from likewise import data, distances, encoders, losses
from likewise.encoders.naming import small
from likewise.errors import InputError
from likewise.journeys.choosing import preprocess_for
from likewise.journeys.recipe import CLASS_LOSSES, Recipe
from likewise.training.following import KeepBest, StopEarly

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "arcface": losses.ArcFaceLoss,
    "circle": losses.CircleLoss,
    "contrastive": losses.ContrastiveLoss,
    "cosface": losses.CosFaceLoss,
    "multi-similarity": losses.MultiSimilarityLoss,
    "normalized-softmax": losses.NormalizedSoftmaxLoss,
    "nt-xent": losses.NTXentLoss,
    "proxy-anchor": losses.ProxyAnchorLoss,
    "softmax": losses.SoftmaxLoss,
    "supervised-contrastive": losses.SupervisedContrastiveLoss,
    "triplet": losses.TripletLoss,
}
CHECKED = 64  # items encoded after training, as the last step may have broken the encoder
SCORED = ("seen_", "unseen_", "pairs_")  # what the numbers of parts that are scored begin with
SMALL_RATE, PRETRAINED_RATE, SENTENCES_RATE = 1e-3, 1e-4, 2e-4  # learning rates
SMALL_DIM = 64


class Start(NamedTuple):
    """An encoder before it is trained: without its head and with it, and how it reads items."""

    body: nn.Module
    whole: nn.Module
    preprocess: data.Preprocess | None


def start_of(
    recipe: Recipe,
    item_shape: Sequence[int],
    weights: str | Path | None,
    tell: Callable[[str], None] | None,
) -> Start:
    """The encoder of a recipe for items of a shape."""
    torch.manual_seed(recipe.seed)
    if recipe.is_small:
        made = small(item_shape, recipe.embedding_dim or SMALL_DIM)
        return Start(made, made, None)
    head = "none" if recipe.is_frozen else recipe.head or "none"
    if head == "none" and recipe.embedding_dim is not None and not recipe.is_frozen:
        head = "linear"
    made = encoders.by_name(
        str(recipe.encoder),
        item_shape=item_shape,
        train="none" if recipe.is_frozen else recipe.train or "all",
        head=head,
        embedding_dim=None if head == "none" else recipe.embedding_dim,
        weights=weights,
        tell=tell,
    )
    body = made if head == "none" else made[0]  # type: ignore[index]
    return Start(body, made, preprocess_for(body, item_shape))


def rate_of(recipe: Recipe) -> float:
    """The highest learning rate."""
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    if recipe.trains_sentences:
        return SENTENCES_RATE
    return SMALL_RATE if recipe.is_small or recipe.is_frozen else PRETRAINED_RATE


def fitting_loss(
    recipe: Recipe,
    distance: distances.Distance,
    class_count: int,
    embedding_dim: int = SMALL_DIM,
) -> nn.Module:
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
        return LOSSES[name](embedding_dim, class_count)
    return LOSSES[name](distance=distance, **({} if margin is None else {"margin": margin}))


def following(recipe: Recipe) -> tuple[KeepBest | None, StopEarly | None]:
    """What keeps the best epoch, and what stops early, where the recipe asks for it."""
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


def is_changed(recipe: Recipe, shape: Sequence[int]) -> bool:
    """Whether items of a shape are images that are changed while training."""
    if len(shape) != 3:
        return False
    # On a handful of pixels turning and shifting would blur away what there is.
    return not recipe.labels or min(shape[1:]) >= 16
