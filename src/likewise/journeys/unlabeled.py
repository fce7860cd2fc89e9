"""Training without labels: the parts, the loss, and the layers behind the encoder."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from likewise import data, losses
from likewise.encoders import MLPEncoder
from likewise.errors import InputError
from likewise.journeys.recipe import Recipe
from likewise.samplers import ShuffledBatchSampler

BATCH = 128  # items, each in two views
HIDDEN = 512  # units of the layers behind the encoder
DIMS = {"simclr": 128}  # numbers that the loss compares; as many as units for the others
NARROWER = 4  # times fewer units within the predictor of SimSiam


def parts(source: data.Dataset, recipe: Recipe) -> tuple[data.Dataset, data.Dataset | None]:
    """The items that are trained on, and those kept aside; drawn without a look at labels.

    Raises:
        InputError: Fewer than 2 items are left to train on.
    """
    order = np.random.default_rng(recipe.seed).permutation(len(source))
    count = round(len(source) * recipe.keep_aside)
    if len(source) - count < 2:
        raise InputError(
            f"data must have at least 2 items to train on, got {len(source) - count}. "
            "Views of an item are told from those of others."
        )
    kept = data.Subset(source, sorted(order[count:].tolist()))
    return kept, data.Subset(source, sorted(order[:count].tolist())) if count else None


def batch_size(recipe: Recipe, items: int) -> int:
    """Items in a batch."""
    return min(recipe.batch_size or BATCH, items)


def batches_of(recipe: Recipe, items: int, batches: int) -> ShuffledBatchSampler:
    """The batches of an epoch: each item as often as any other."""
    size = batch_size(recipe, items)
    return ShuffledBatchSampler(items, batch_size=size, batches=batches, seed=recipe.seed)


class Projection(NamedTuple):
    """The layers behind the encoder, if there are any, and the numbers that it gives them."""

    layers: nn.Module | None
    dim: int


def projector(recipe: Recipe, dim: int) -> nn.Module | None:
    """The layers behind an encoder of `dim` numbers, if the recipe has any.

    For SimSiam they end in a batch normalization, as in its paper: without, fewer dimensions vary.
    """
    if recipe.projection == "none":
        return None
    width = _compared(recipe, dim)
    made = MLPEncoder((dim,), hidden=(HIDDEN,), embedding_dim=width, normalize=False)
    if recipe.loss_name == "simsiam":
        return nn.Sequential(made, nn.BatchNorm1d(width, affine=False))
    return made


def _compared(recipe: Recipe, dim: int) -> int:
    return dim if recipe.projection == "none" else DIMS.get(recipe.loss_name, HIDDEN)


def criterion(recipe: Recipe, projection: Projection) -> losses.OnViews:
    """The loss that the recipe names, with the layers that are left out of the model.

    Args:
        recipe: The choices.
        projection: The layers behind the encoder.
    """
    compared = _compared(recipe, projection.dim)
    made: nn.Module
    if recipe.loss_name == "simsiam":
        hidden = max(1, compared // NARROWER)
        predictor = MLPEncoder(
            (compared,), hidden=(hidden,), embedding_dim=compared, normalize=False
        )
        made = losses.SimSiamLoss(predictor)
    else:
        made = {
            "barlow-twins": losses.BarlowTwinsLoss,
            "simclr": losses.SimCLRLoss,
            "vicreg": losses.VICRegLoss,
        }[recipe.loss_name]()
    return losses.OnViews(
        made, projector=projection.layers if recipe.projection == "drop" else None
    )


def has_labels(source: data.Dataset) -> bool:
    """Whether any item has a label."""
    return bool((torch.as_tensor(source.labels) >= 0).any())
