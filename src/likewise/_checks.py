"""Argument checks whose sentences say what must hold, what came, and what to do."""

import math
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise._arguments import check_at_least as check_at_least
from likewise._arguments import check_choice as check_choice
from likewise._arguments import check_count as check_count
from likewise._arguments import check_exists as check_exists
from likewise._arguments import check_file_target as check_file_target
from likewise._arguments import check_folder_target as check_folder_target
from likewise._arguments import check_format as check_format
from likewise._arguments import check_number as check_number
from likewise._arguments import check_positive as check_positive
from likewise._arguments import check_rate as check_rate
from likewise._arguments import is_finite_number as is_finite_number
from likewise.errors import InputError, InputTypeError


def free_to_look(values: Tensor) -> bool:
    """Whether numbers may decide what is done: only where that does not wait for the device."""
    return values.is_cpu


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Each of the named arguments by `as_tensor`."""
    return tuple(as_tensor(value, name) for name, value in values.items())


def as_tensor(values: Any, name: str) -> Any:
    """Numbers as a tensor of the same kind and precision: NumPy arrays of any layout, and lists.

    Whole numbers become int64, except bytes. What is neither an array nor a list, such as None, is
    left to the checks of whoever asked.

    Raises:
        InputTypeError: text or objects.
        InputError: rows of several lengths, or whole numbers beyond 64 bits.
    """
    if isinstance(values, Tensor) or not (
        isinstance(values, (list, tuple)) or hasattr(values, "__array__")
    ):
        return values
    if isinstance(values, (list, tuple)) and any(isinstance(row, Tensor) for row in values):
        values = [row.numpy(force=True) if isinstance(row, Tensor) else row for row in values]
    try:
        array = np.asarray(values)
    except ValueError as error:  # NumPy's word for rows of several lengths
        raise InputError(
            f"{name} must have rows of one length, got several lengths. Pad or cut them first."
        ) from error
    if array.size == 0 and isinstance(values, (list, tuple)):
        array = array.astype(np.int64)  # of nothing, NumPy makes floats
    if array.dtype.kind not in "biufc":
        raise InputTypeError(
            f"{name} must be numbers, got {array.dtype}. Give a tensor, an array or a list of them."
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and array.max() >= 2**63:
            raise InputError(f"{name} must be below 2**63, got {array.max()}. Use other codes.")
        array = array.astype(np.int64)
    elif array.dtype.kind == "i":
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch shares the memory, and neither a read-only nor a reversed array may be shared.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def as_floats(items: Tensor) -> Tensor:
    """Items (n, ...) as float32, by the rule of `data.ArrayDataset`: bytes of images become 0..1.

    Raises:
        InputTypeError: complex numbers.
    """
    if items.is_complex():
        raise InputTypeError(f"items must be real numbers, got {items.dtype}. Use .abs() or .real.")
    if items.dtype == torch.uint8 and items.ndim > 2:
        return items.float() * (1 / 255)
    return items.float()


def check_embeddings(embeddings: object, name: str = "embeddings") -> None:
    """Refuse anything but a floating, finite tensor of shape (n, d)."""
    if not isinstance(embeddings, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(embeddings).__name__}. "
            "Use torch.as_tensor(...)."
        )
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise InputError(
            f"{name} must have shape (n, d) with d >= 1, got {tuple(embeddings.shape)}. "
            "Flatten other dimensions first, e.g. with .flatten(1)."
        )
    if not embeddings.is_floating_point():
        raise InputTypeError(
            f"{name} must be floating point, got {embeddings.dtype}. Use .float()."
        )


def as_embeddings(values: object, name: str = "embeddings") -> Tensor:
    """Embeddings as a floating tensor (n, d), from a tensor, a NumPy array or lists of numbers.

    A single vector (d,) becomes one row. Arrays may be memory-mapped, read-only or of any memory
    layout. Whole numbers are taken from lists, which have no type of their own; tensors and
    arrays of them are refused, since they usually are codes or pixels.

    Raises:
        InputTypeError: something else, or no floating point.
        InputError: another shape, or rows of different length.
    """
    if isinstance(values, (list, tuple)):
        values = _from_lists(values, name)
    elif isinstance(values, np.ndarray):
        if values.dtype.kind != "f":
            raise InputTypeError(
                f"{name} must be floating point, got {values.dtype}. Use .astype('float32')."
            )
        values = _from_array(values)
    elif not isinstance(values, Tensor):
        raise InputTypeError(
            f"{name} must be a tensor, an array or lists of numbers, got {type(values).__name__}. "
            "Use torch.as_tensor(...)."
        )
    if values.layout != torch.strided:
        raise InputTypeError(f"{name} must be dense, got {values.layout}. Use .to_dense().")
    if values.ndim == 1 and len(values):
        values = values[None]
    check_embeddings(values, name)
    return values


def _from_array(values: np.ndarray[Any, Any]) -> Tensor:
    kind: type[np.floating[Any]] = np.float32 if values.dtype.itemsize <= 4 else np.float64
    if not values.flags.writeable or values.dtype != kind or not values.flags.c_contiguous:
        with np.errstate(over="ignore"):  # more than float64 becomes infinity, which is refused
            values = np.array(values, dtype=kind, order="C")
    return torch.from_numpy(values)


def _from_lists(values: list[Any] | tuple[Any, ...], name: str) -> Tensor:
    if not values:
        return torch.empty(0)
    if all(isinstance(row, (Tensor, np.ndarray)) and row.ndim == 1 for row in values):
        rows: list[Any] = [as_embeddings(row, name)[0] for row in values]
    else:
        are_rows = all(isinstance(row, (list, tuple)) for row in values)
        rows = list(values) if are_rows else [values]
    if len(lengths := {len(row) for row in rows}) > 1:
        raise InputError(
            f"{name} must have rows of one length, got {min(lengths)} and {max(lengths)}. "
            "Encode all with the same encoder."
        )
    if isinstance(rows[0], Tensor):
        return torch.stack([row.to("cpu", torch.float64) for row in rows])
    numbers = (int, float, np.floating, np.integer)
    for kind in set(map(type, chain.from_iterable(rows))):
        if issubclass(kind, bool) or not issubclass(kind, numbers):
            raise InputTypeError(f"{name} must hold numbers, got {kind.__name__}.")
    try:
        return torch.from_numpy(np.array(rows, dtype=np.float64))
    except OverflowError as error:  # a Python integer of more than 300 digits
        raise InputError(f"{name} must be finite, got an integer beyond float64.") from error


def check_finite(values: Tensor, name: str) -> None:
    """Refuse NaN and infinity. Waits for the device, so not for use inside a training step."""
    # A sum takes one step instead of four, and is finite only if all numbers are.
    if free_to_look(values) and values.is_floating_point() and math.isfinite(values.detach().sum()):
        return
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(
            f"{name} must be finite, got {bad} NaN or infinite of {values.numel()} values. "
            "Look for a diverged training run or a broken input."
        )


def check_same_width(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Refuse two sets of embeddings of different dimension."""
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{names[1]} must have as many dimensions as {names[0]}, {a.shape[1]}, "
            f"got {b.shape[1]}. Encode both with the same encoder."
        )


def check_labels(labels: object, count: int, name: str = "labels") -> None:
    """Refuse anything but an integer tensor of shape (count,)."""
    if not isinstance(labels, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(labels).__name__}. Use torch.as_tensor(...)."
        )
    if labels.shape != (count,):
        raise InputError(
            f"{name} must have shape ({count},), one per item, got {tuple(labels.shape)}. "
            "Use .flatten() if it holds one label per item already."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputTypeError(f"{name} must be integers, got {labels.dtype}. Use labels.long().")


def check_same(same: object, count: int, name: str = "same") -> None:
    """Refuse anything but a boolean tensor of shape (count,); True is "the same"."""
    if not isinstance(same, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(same).__name__}. Use torch.as_tensor(...)."
        )
    if same.shape != (count,):
        raise InputError(
            f"{name} must have shape ({count},), one per pair, got {tuple(same.shape)}. "
            "A shape such as (n, 1) would compare every pair with every other."
        )
    if same.dtype != torch.bool:
        raise InputTypeError(
            f"{name} must be boolean, True for the same, got {same.dtype}. "
            "Use `value == 1`, or `value == 0` if your 1 means different."
        )
