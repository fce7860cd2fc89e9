"""Labels of any kind become int64 codes with names; the integer -1 is no class but "unlabeled".

An unlabeled item has the code -1 and no name. It counts in no class and is drawn into no pair,
triplet or part made of classes; `split_items` deals such items out as a group of their own. The
string "-1" is a name like any other, and so are other negative integers."""

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from likewise.errors import InputError, InputTypeError
from likewise.masks import UNLABELED

Labels = Tensor | np.ndarray | Sequence[int] | Sequence[str]


def encode_labels(
    labels: Labels, class_names: Sequence[str] | None = None
) -> tuple[Int[Tensor, " n"], list[str]]:
    """Codes (n,) int64 and the names they stand for: label i is `names[codes[i]]`.

    Codes follow the sorted labels: integers by value; strings in natural order, so "s2"
    comes before "s10". With `class_names`, the labels already are codes and are only checked.
    The integer -1 is an unlabeled item: its code is -1, for which there is no name.

    Args:
        labels: strings or integers, shape (n,).
        class_names: the name of every code, where the labels are codes.

    Raises:
        InputTypeError: labels are neither strings nor integers.
        InputError: labels are not one-dimensional, or are no codes of `class_names`.

    Example:
        >>> encode_labels(["s10", "s2", "s10"])
        (tensor([1, 0, 1]), ['s2', 's10'])
        >>> encode_labels([7, -1, 5])
        (tensor([ 1, -1,  0]), ['5', '7'])
    """
    values = _as_array(labels)
    if class_names is not None:
        return _check_codes(values, len(class_names)), [str(name) for name in class_names]
    unlabeled = values == UNLABELED if values.dtype.kind == "i" else np.zeros(len(values), bool)
    unique, numbers = np.unique(values[~unlabeled], return_inverse=True)
    names = [str(value) for value in unique]
    if values.dtype.kind == "U":
        order = sorted(range(len(names)), key=lambda i: natural_order(names[i]))
        numbers = np.argsort(order)[numbers]
        names = [names[i] for i in order]
    codes = np.full(len(values), UNLABELED, dtype=np.int64)
    codes[~unlabeled] = numbers
    return torch.from_numpy(codes), names


def encode_cells(cells: Sequence[str]) -> tuple[Int[Tensor, " n"], list[str]]:
    """Codes and names of the labels in a table, which are text.

    Where every label is a whole number, "-1" is the integer: an unlabeled item.

    Example:
        >>> encode_cells(["07", "-1"]), encode_cells(["cat", "-1"])
        ((tensor([ 0, -1]), ['07']), (tensor([1, 0]), ['-1', 'cat']))
    """
    codes, names = encode_labels(cells)
    missing = str(UNLABELED)
    if missing not in names or not all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return codes, names
    at = names.index(missing)
    names.pop(at)
    return torch.where(codes == at, UNLABELED, codes - (codes > at).long()), names


def natural_order(name: str) -> tuple[object, ...]:
    """Sorting key by which numbers inside names count as numbers, and whole numbers come first."""
    if re.fullmatch(r"-?[0-9]+", name):
        return (0, int(name), name)
    parts = re.split(r"([0-9]+)", name)  # text and digits alternate, so like meets like
    return (1, tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name)


def _as_array(labels: Labels) -> np.ndarray:
    given = labels.detach().cpu() if isinstance(labels, Tensor) else labels
    try:
        values = np.asarray(given)
    except ValueError as error:
        raise InputError(
            "labels must have shape (n,), one per item, got lists of several lengths. "
            "Give one label per item."
        ) from error
    if values.dtype == object and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.ndim != 1:
        raise InputError(
            f"labels must have shape (n,), one per item, got {values.shape}. "
            "Use .flatten() if it holds one label per item already."
        )
    # np.asarray turns [1, "a"] into strings, [1, None] into objects; what was meant is unclear.
    if not isinstance(labels, Tensor) and (
        values.dtype == object or not isinstance(labels, np.ndarray)
    ):
        _check_kinds(list(labels))
    if values.dtype.kind not in "iuU" and len(values):
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise _missing("nan", int(np.isnan(values).argmax()))
        raise InputTypeError(
            f"labels must be strings or integers, got {values.dtype}. "
            "Use .astype(int) if they are whole numbers."
        )
    return values


def _check_kinds(labels: Sequence[object]) -> None:
    """Refuse labels that are missing, of several kinds, or beyond 64 bits."""
    kinds = set(map(type, labels))
    if kinds <= {str} or kinds <= {int}:
        missing = None
    else:
        missing = next((i for i, label in enumerate(labels) if _is_missing(label)), None)
    if missing is not None:
        raise _missing(repr(labels[missing]), missing)
    if len({isinstance(label, str) for label in labels}) > 1:
        raise InputTypeError(
            "labels must be all strings or all integers, got both. Use str(label)."
        )
    if kinds <= {int}:
        low, high = min(labels, default=0), max(labels, default=0)  # type: ignore[type-var]
        if low < -(2**63) or high >= 2 ** (63 if low < 0 else 64):  # type: ignore[operator]
            raise InputError(
                f"labels must be integers of 64 bits, got {low} to {high}. "
                "Use str(label) for longer ones."
            )


def _is_missing(label: object) -> bool:
    return label is None or (isinstance(label, float) and math.isnan(label))


def _missing(label: str, position: int) -> InputTypeError:
    return InputTypeError(
        f"labels must be strings or integers, got {label} as label {position}. "
        "Leave items without a label out."
    )


def _check_codes(values: np.ndarray, classes: int) -> Int[Tensor, " n"]:
    if values.dtype.kind == "U":
        raise InputTypeError(
            "labels must be integer codes where class_names are given, got strings. "
            "Leave class_names out."
        )
    bad = (values < UNLABELED) | (values >= classes)
    if bad.any():
        raise InputError(
            f"labels must be between 0 and {classes - 1}, positions in class_names, or -1 for "
            f"unlabeled, got {values[bad][0]}. Leave class_names out to have the labels coded."
        )
    return torch.from_numpy(values.astype(np.int64))
