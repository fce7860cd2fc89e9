"""What a recipe means to `fit`: the loss, the rates, the batches, and how items are changed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from likewise import augment as changes
from likewise import data, distances, encoders, losses
from likewise.augment import presets
from likewise.errors import InputError
from likewise.journeys import unlabeled
from likewise.journeys.recipe import CLASS_LOSSES, GIVEN_PAIRS_LOSSES, Recipe
from likewise.samplers import SimilarLengthBatchSampler
from likewise.training.batches import default_batches
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
FEWEST_BATCHES = 50  # per epoch
BATCHES_PER_CLASS = 30  # per epoch, at most
SMALL_RATE, PRETRAINED_RATE, SENTENCES_RATE = 1e-3, 1e-4, 2e-4  # learning rates
CENTERS_FASTER = 10  # times, as class centers begin at random and a pretrained encoder does not
BATCH, SENTENCES_BATCH = 128, 64  # items
CHECKED = 64  # items encoded after training, as the last step may have broken the encoder
CONDENSED_ON = 2000  # items
OF_EACH = 16  # items of a class that tell where its center begins


def fitting_loss(
    recipe: Recipe,
    distance: distances.Distance,
    class_count: int,
    embedding_dim: int = 0,
) -> nn.Module:
    """The loss that a recipe names, with the settings that fit its distance.

    Args:
        recipe: The choices, which use labels.
        distance: What the loss compares by.
        class_count: Classes, for a loss with class centers.
        embedding_dim: Numbers per embedding, for such a loss.
    """
    name, margin = recipe.loss_name, recipe.margin
    if recipe.pairs or (recipe.towers is not None and name in GIVEN_PAIRS_LOSSES):
        middle = losses.CENTERS.get(distance.name, 1.0)
        if name == "threshold":
            return losses.GivenPairsLoss(losses.LearnedThreshold(middle), distance=distance)
        formula = functools.partial(
            losses.contrastive_loss, margin=middle if margin is None else margin
        )
        return losses.GivenPairsLoss(formula, distance=distance)
    if name == "multiple-negatives":
        return losses.MultipleNegativesLoss(distance=distance, symmetric=True)
    if name == "sigmoid-pairs":
        center = losses.CENTERS.get(distance.name, 1.0)
        return losses.SigmoidPairsLoss(distance=distance, center=center)
    if name in CLASS_LOSSES:
        return LOSSES[name](embedding_dim, class_count)
    return LOSSES[name](distance=distance, **({} if margin is None else {"margin": margin}))


def loss_for(
    encoder: nn.Module,
    part: Any,
    recipe: Recipe,
    distance: distances.Distance,
    preprocess: Callable[[Tensor], Tensor] | None,
) -> nn.Module:
    """The loss that an encoder learns by, its class centers as many and as wide as it needs.

    Beside a pretrained encoder they begin at what that gives for some items of each class.
    """
    count, dim = len(getattr(part, "class_names", ())), 0
    if recipe.loss_name in CLASS_LOSSES:
        dim = encoders.encode(encoder, data.Subset(part, [0]), preprocess=preprocess).shape[1]
    made = fitting_loss(recipe, distance, count, dim)
    centers = getattr(made, "centers", None)
    if centers is not None and not recipe.is_small and not recipe.is_frozen:
        some = _some_of_each(part)
        centers.begin_at(encoders.encode(encoder, some, preprocess=preprocess), some.labels)
    return made


def _some_of_each(part: data.Dataset) -> data.Subset:
    """The first items of each class, by which its center begins."""
    labels = torch.as_tensor(part.labels)
    ordered, rows = labels.sort(stable=True)
    rank = torch.arange(len(rows)) - torch.searchsorted(ordered, ordered)
    return data.Subset(part, rows[(rank < OF_EACH) & (ordered >= 0)].sort().values)


def rate_of(recipe: Recipe) -> float:
    """The highest learning rate."""
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    if recipe.towers is not None:
        return min(rate_of(recipe.of_tower(side)) for side in range(2))
    if recipe.trains_sentences:
        return SENTENCES_RATE
    return SMALL_RATE if recipe.is_small or recipe.is_frozen else PRETRAINED_RATE


def loss_rate_of(recipe: Recipe) -> float | None:
    """The learning rate of the loss's own weights; None for that of the encoder."""
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


def batches_of(recipe: Recipe, part: Any) -> int:
    """Batches per epoch: about a pass over the items, those of made classes not counted."""
    if recipe.batches:
        return recipe.batches
    size = _batch(recipe, part).size
    while isinstance(part, changes.MadeClasses):
        part = part.data
    most = len(part) // size
    if recipe.is_small and recipe.labels and not isinstance(part, data.GivenPairs):
        # More items of few classes teach little about classes to come.
        most = min(most, BATCHES_PER_CLASS * len(data.items_per_class(part)))
    return max(FEWEST_BATCHES, most)


def drawing(recipe: Recipe, part: Any) -> dict[str, Any]:
    """The batches that `fit` draws, as its arguments."""
    if not recipe.labels:
        batches = batches_of(recipe, part)
        return {"batch_sampler": unlabeled.batches_of(recipe, len(part), batches)}
    batch = _batch(recipe, part)
    drawn = {
        "classes_per_batch": batch.classes,
        "items_per_class": batch.each,
        "batches": batches_of(recipe, part),
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


def in_epochs(progress: Any, epochs: int, more: int = 0) -> Any:
    """Progress as `fit` calls it, from one called as progress(done, total) over all epochs.

    Args:
        progress: Function to call; True and False stay as they are.
        epochs: How many there are.
        more: Batches per epoch that come later and count too.
    """
    if not callable(progress):
        return progress
    return lambda epoch, batch, batches: progress(
        (epoch - 1) * batches + batch, epochs * (batches + more)
    )


def with_features(
    encoder: Any,
    items: data.Dataset,
    weight: float,
    preprocess: data.Preprocess | None,
    *,
    seed: int,
) -> nn.Module:
    """The trained small network with its features beside its embedding, in as many numbers.

    Args:
        encoder: The network.
        items: Items trained on; up to 2,000 of them tell which directions are kept.
        weight: Weight of the features.
        preprocess: How the network reads items.
        seed: Seed of the items drawn.
    """
    whole = encoders.WithFeatures(encoder, weight=weight).eval()
    rows = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    some = data.Subset(items, rows[:CONDENSED_ON].sort().values)
    wide = encoders.encode(whole, some, preprocess=None if preprocess is None else preprocess.apply)
    dim = min(encoder.config["embedding_dim"], wide.shape[1])
    few = encoders.condensed(wide, dim).to(next(encoder.parameters()).device)
    return nn.Sequential(whole, few, encoders.Normalize()).eval()


def check_learned(
    encoder: nn.Module, items: data.Dataset, preprocess: data.Preprocess | None
) -> None:
    """Refuse an encoder that its last step broke, so that it gives what is not finite."""
    some = data.Subset(items, range(min(len(items), CHECKED)))
    encoders.encode(encoder, some, preprocess=None if preprocess is None else preprocess.apply)


def is_changed(recipe: Recipe, shape: Sequence[int]) -> bool:
    """Whether items of a shape are images that are changed while training."""
    if len(shape) != 3:
        return False
    # On a handful of pixels turning and shifting would blur away what there is.
    return not recipe.labels or min(shape[1:]) >= 16


def changes_of(recipe: Recipe, shape: Sequence[int], augment: Any = None) -> Any:
    """How items of a shape are changed while training, by the recipe; None if they are not.

    Args:
        recipe: The choices.
        shape: The shape of an item.
        augment: Used instead of what the recipe names.

    Raises:
        InputError: Two views of an item would be the same, and there are no labels.
    """
    if augment is not None:
        return augment
    if not recipe.labels:
        _check_views(recipe, shape)
    if not is_changed(recipe, shape):
        return None
    named = changes.by_name(recipe.augment_name)
    return None if named is None else presets.fitted(named, shape[0])


def _check_views(recipe: Recipe, shape: Sequence[int]) -> None:
    """Refuse items whose two views would be the same."""
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
