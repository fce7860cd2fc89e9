"""The items that a model was calibrated on, found again, and pairs of items to decide on."""

from typing import Any

import numpy as np
import torch

from likewise import data
from likewise.data.pairs import draw_pairs
from likewise.embedded import Embedded
from likewise.errors import InputError
from likewise.journeys.opening import open_fitting
from likewise.model import SimilarityModel


def calibrated_on(model: SimilarityModel, reads: SimilarityModel | None = None) -> data.Dataset:
    """The items that a model was calibrated on, in the data that its origin names.

    Where none of these is known again, all of the data.

    Args:
        model: The calibrated model.
        reads: A model as whose items they are read; the model itself if None.

    Raises:
        InputError: The data cannot be opened.
    """
    name = model.origin.get("data", model.origin.get("wrapped"))
    try:
        if not isinstance(name, str):
            raise InputError("the model does not name its data")
        split = "all" if data.has_splits(name) else None
        source = open_fitting(model, name, split, default_split="all")
        seen = torch.isin(data.fingerprints(source), model.calibrated_prints)
        if reads is not None:
            source = open_fitting(reads, name, split, default_split="all")
    except (InputError, OSError) as error:
        raise InputError(
            f"must be given to compare the decisions on, got none, and {name!r} of the model's "
            "origin cannot be opened.",
            argument="items",
            remedy="Give those of the calibration.",
            command="Give DATA, best that of the calibration.",
        ) from error
    return data.Subset(source, seen.nonzero().flatten()) if bool(seen.any()) else source


def pairs_of(items: Embedded) -> np.ndarray[Any, Any]:
    """Pairs of items to verify, (p, 2): half of them the same where classes allow it."""
    sizes = data.items_per_class(items) if bool((items.labels >= 0).all()) else {}
    if len(sizes) > 1 and max(sizes.values()) > 1:
        return np.asarray(draw_pairs(items.labels.numpy(), 2.0, (0,))[0])
    rows = np.arange(len(items))
    return np.stack([rows, np.random.default_rng(0).permutation(rows)], axis=1)
