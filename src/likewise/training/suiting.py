"""Whether encoder, loss and data of a training fit together, side by side."""

from collections.abc import Callable
from typing import Any

from torch import nn

from likewise.augment import as_batch_change
from likewise.data import (
    CrossPairs,
    GivenPairs,
    GivenTriplets,
    ViewDataset,
    as_dataset,
    is_text,
)
from likewise.encoders import SiameseNet, TripletNet, TwoTowers, takes_texts
from likewise.encoders.encoding import check_suits
from likewise.errors import InputError

PerSide = Callable[[Any], Any] | tuple[Callable[[Any], Any] | None, ...] | None
SIDES = {SiameseNet: 2, TwoTowers: 2, TripletNet: 3}
_OF = {1: "items", 2: "pairs", 3: "triplets"}


def suited(data: Any, encoder: nn.Module, loss: nn.Module) -> Any:
    """The data as a dataset of ours, which the encoder and the loss can take.

    Raises:
        InputError: The data has more or fewer sides than the encoder, holds items of two kinds for
            one encoder, or lacks what the loss learns from.
        InputTypeError: Texts for an encoder of numbers, or the other way around.
    """
    data = as_dataset(data, pairs=True)
    sides = next((count for kind, count in SIDES.items() if isinstance(encoder, kind)), None)
    if sides is not None and sides != _sides_of(data):
        raise InputError(
            f"data must be {_OF[sides]} for {type(encoder).__name__}, got {type(data).__name__}. "
            "Give such data, or the encoder itself."
        )
    if isinstance(data, CrossPairs):
        _check_kinds(data, encoder)
        _check_truth(data, loss)
        a, b = data.a, data.b
    else:
        a = b = data.data if isinstance(data, (GivenPairs, GivenTriplets)) else data
    if isinstance(encoder, TwoTowers):
        check_suits(takes_texts(encoder.a), [""] if is_text(a) else None, "items of a")
        check_suits(takes_texts(encoder.b), [""] if is_text(b) else None, "items of b")
    else:
        check_suits(takes_texts(encoder), [""] if is_text(a) else None)
    return data


def per_side(name: str, given: Any, data: Any) -> Any:
    """What changes items while training: one function for all sides, or a tuple of one for each.

    Raises:
        InputError: Items of two kinds get one function, or there is not one for each side.
    """
    if isinstance(given, (tuple, list)):
        if len(given) != _sides_of(data):
            raise InputError(
                f"must hold a function or None for each side, {_sides_of(data)} of "
                f"{type(data).__name__}, got {len(given)}.",
                argument=name,
            )
        return tuple(given)
    if given is not None and isinstance(data, CrossPairs) and not _is_of_one_kind(data):
        raise InputError(
            f"must be one function for each side of pairs of two kinds, got one. Use "
            f"{name}=(of_a, of_b), with None for a side that stays as it is.",
            argument=name,
        )
    return given


def as_changes(augment: Any) -> PerSide:
    """What is given as augment, as functions of a batch; see `augment.as_batch_change`."""
    if isinstance(augment, tuple):
        return tuple(None if each is None else as_batch_change(each) for each in augment)
    return None if augment is None else as_batch_change(augment)


def of_side(given: PerSide, side: int) -> Callable[[Any], Any] | None:
    """The function for one side."""
    return given[side] if isinstance(given, tuple) else given


def _sides_of(data: Any) -> int:
    if isinstance(data, ViewDataset):
        return data.views
    if isinstance(data, GivenTriplets):
        return 3
    return 2 if isinstance(data, (CrossPairs, GivenPairs)) else 1


def _is_of_one_kind(data: CrossPairs) -> bool:
    return tuple(data.a.item_shape) == tuple(data.b.item_shape)


def _check_kinds(data: CrossPairs, encoder: nn.Module) -> None:
    """Refuse items of two kinds for one encoder."""
    if isinstance(encoder, TwoTowers) or _is_of_one_kind(data):
        return
    kinds = ["texts" if is_text(each) else f"{tuple(each.item_shape)}" for each in (data.a, data.b)]
    raise InputError(
        f"encoder must be two towers for pairs of {kinds[0]} and {kinds[1]}, got "
        f"{type(encoder).__name__}, which cannot take both. Use encoders.TwoTowers(a, b)."
    )


def _check_truth(data: CrossPairs, loss: nn.Module) -> None:
    """Refuse pairs from which the loss cannot learn."""
    if getattr(loss, "takes_ids", False):
        raise InputError(
            "loss must take no ids for pairs of two datasets, got "
            f"{type(loss).__name__}. Use MultipleNegativesLoss."
        )
    if not getattr(loss, "takes_pairs", False):
        data.check_labels()
    elif bool(data.same.all()):
        raise InputError(
            f"data must hold pairs that are different for {type(loss).__name__}, got {len(data)} "
            "that are all the same. Add some, or use MultipleNegativesLoss, which forms them."
        )
