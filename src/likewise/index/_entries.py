"""What a caller gives with embeddings (ids, labels, metadata), checked and made plain."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise._checks import as_embeddings, check_count, check_finite
from likewise.distances import Distance
from likewise.errors import InputError, InputTypeError

Values = Sequence[int] | Sequence[str | None] | np.ndarray[Any, Any] | Tensor

Rows = Tensor | np.ndarray[Any, Any] | Sequence[Any]  # of embeddings

Where = Mapping[str, Any]

UNLABELED = -1
LARGEST_ID = LARGEST_LABEL = 2**63 - 1


def check_kind(distance: object, class_names: Sequence[str]) -> None:
    """Refuse what is no distance, and class names of which two are alike."""
    if not isinstance(distance, Distance):
        raise InputTypeError(
            f"distance must be a Distance, got {distance!r}. "
            "Use one of likewise.distances, or distances.by_name(name)."
        )
    if len(set(class_names)) != len(class_names):
        raise InputError(f"class_names must all differ, got {list(class_names)}.")


def check_filled(items: int) -> None:
    """Refuse to look anything up among no items."""
    if items == 0:
        raise InputError(
            "index must hold at least one item before a lookup, got 0.",
            remedy="Add some with index.add(embeddings, labels=labels).",
            command="Add some with likewise index.",
        )


def check_k(k: object, items: int) -> None:
    """Refuse to look up no items, or more than there are."""
    check_count("k", k)
    if isinstance(k, int) and k > items:
        raise InputError(
            f"must be at most {items}, the number of items in the index, got {k}. "
            "Ask for fewer, or add more items.",
            argument="k",
        )


def checked_rows(name: str, rows: Rows, dimension: int | None) -> Tensor:
    """Rows as float32 on the CPU; a single row as one of one.

    Raises:
        InputTypeError: neither a tensor, an array nor a list, or not of floating point.
        InputError: another shape, NaN or infinity, or another number of columns than `dimension`.
    """
    given = as_embeddings(rows, name).detach()
    checked = given.to("cpu", torch.float32).contiguous()
    # float64 goes further, and what overflows was finite before.
    if given.dtype == torch.float64 and not bool(torch.isfinite(checked).all()):
        check_finite(given, name)
        raise InputError(
            f"{name} must be finite as float32, got {float(given.abs().max())}. "
            "Scale the embeddings down."
        )
    check_finite(checked, name)
    if dimension not in (None, checked.shape[1]):
        raise InputError(
            f"{name} must have dimension {dimension}, as the items in the index have, "
            f"got {checked.shape[1]}. Encode all with the same encoder."
        )
    return checked


def plain_ids(ids: Values) -> list[int] | list[str]:
    """Ids as Python integers or as Python strings, all of one kind.

    Raises:
        InputTypeError: not a sequence, mixed kinds, or neither integers nor strings.
        InputError: a negative or too large integer, an empty string, which mark padding.
    """
    values = _listed("ids", ids)
    kinds = set(map(type, values))  # of most ids all is said at once
    if kinds == {str} and all(values) and "\0" not in "".join(values):
        return values
    if kinds == {int} and min(values) >= 0 and max(values) <= LARGEST_ID:
        return values
    if all(isinstance(value, str) for value in values):
        for value in values:
            # NumPy drops trailing zero bytes, so that id would come back as another one.
            if not value or value.endswith("\0"):
                raise InputError(
                    f"ids must be non-empty and not end in a zero byte, got {value!r}."
                )
        return [str(value) for value in values]
    if not all(_is_integer(value) for value in values):
        raise InputTypeError(
            f"ids must be all integers or all strings, got {_others(values)}. "
            "Turn them into strings if they are neither, or both."
        )
    for value in values:
        if not 0 <= value <= LARGEST_ID:
            raise InputError(
                f"ids must be between 0 and {LARGEST_ID}, got {_shown(value)}. "
                "Use strings for other ids, such as str(uuid)."
            )
    return [int(value) for value in values]


def new_ids(ids: Values, count: int, stored: Mapping[Any, int]) -> list[int] | list[str]:
    """`count` distinct ids, none of them in `stored`; raises as `plain_ids` and `all_new`."""
    return all_new(plain_ids(ids), count, stored)


def all_new(
    plain: list[int] | list[str], count: int, stored: Mapping[Any, int]
) -> list[int] | list[str]:
    """The ids, of which there are `count`, distinct, and none in `stored` but of its kind.

    Raises:
        InputTypeError: another kind than in `stored`.
        InputError: another number than `count`, or an id that is taken.
    """
    check_one_per_item("ids", len(plain), count)
    kind = type(next(iter(stored), plain[0] if plain else 0))
    if plain and type(plain[0]) is not kind:
        raise InputTypeError(
            f"ids must be {'strings' if kind is str else 'integers'}, as those in the index are, "
            f"got {plain[0]!r}. Use one kind for all items."
        )
    distinct: set[Any] = set(plain)
    if len(distinct) < len(plain):
        twice = Counter(plain).most_common(1)[0][0]
        raise InputError(f"ids must all differ, got {twice!r} more than once.")
    if not distinct.isdisjoint(stored):
        taken = [value for value in plain if value in stored]
        raise InputError(
            f"ids must be new, got {taken[0]!r}{_and_more(taken)} already in the index. "
            "Remove the stored item first to replace it."
        )
    return plain


def positions_of(ids: Values, stored: Mapping[Any, int]) -> list[int]:
    """Where each of `ids` is stored.

    Raises:
        InputTypeError: as `plain_ids`.
        InputError: as `plain_ids`, or an id that is not in `stored`.
    """
    values = plain_ids(ids)
    if unknown := [value for value in values if value not in stored]:
        raise InputError(
            f"must all be in the index, got unknown {unknown[0]!r}{_and_more(unknown)}.",
            argument="ids",
            remedy="index.ids lists those there are.",
            command="likewise lookup tells those there are.",
        )
    return [stored[value] for value in values]


def label_codes(
    labels: Values | None, count: int, class_names: Sequence[str], *, has_codes: Callable[[], bool]
) -> tuple[list[int], list[str]]:
    """The code of each label, -1 for unlabeled, and all class names with the new ones behind.

    Args:
        labels: codes or class names, `count` of them; None for unlabeled, also among
            names.
        class_names: those known; names of labels are looked up there.
        has_codes: whether there are stored labels already, which without class_names have no
            names.

    Raises:
        InputTypeError: neither integers nor strings, both, or names where there are codes.
        InputError: another number than `count`, a code below -1 or beyond the class names.
    """
    if labels is None:
        return [UNLABELED] * count, list(class_names)
    values = _listed("labels", labels)
    check_one_per_item("labels", len(values), count)
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str) and all(isinstance(v, str) or v is None for v in values):
        if not class_names and has_codes():
            raise InputTypeError(
                f"labels must be integers, as those in the index are, got {first!r}. "
                "Start the index with class_names to use names."
            )
        codes = {name: code for code, name in enumerate(class_names)}
        return [
            UNLABELED if value is None else codes.setdefault(str(value), len(codes))
            for value in values
        ], list(codes)
    if not all(_is_integer(value) for value in values):
        raise InputTypeError(
            f"labels must be all integers or all class names, got {_others(values)}. "
            "Use labels.long() if they are codes, and leave labels out for unlabeled items."
        )
    least, most = (min(values), max(values)) if values else (0, -1)
    if least < UNLABELED:
        raise InputError(
            f"labels must be at least 0, or -1 for unlabeled, got {_shown(least)}. "
            "Number the classes from 0."
        )
    if class_names and most >= len(class_names):
        raise InputError(
            f"labels must be below {len(class_names)}, the number of class names, got "
            f"{_shown(most)}. Give names instead of codes to add a class."
        )
    if most > LARGEST_LABEL:
        raise InputError(
            f"labels must be at most {LARGEST_LABEL}, got {_shown(most)}. "
            "Number the classes from 0, or give their names."
        )
    return [int(value) for value in values], list(class_names)


def metadata_texts(metadata: Sequence[Mapping[str, Any]] | None, count: int) -> list[str]:
    """Each item's metadata as JSON, which no later change of the caller's reaches.

    Raises:
        InputTypeError: not a sequence of dicts with string keys, or JSON cannot hold one.
        InputError: another number than `count`.
    """
    if metadata is None:
        return ["{}"] * count
    values = _listed("metadata", metadata)
    check_one_per_item("metadata", len(values), count)
    return [_json(value) for value in values]


def check_one_per_item(name: str, got: int, count: int) -> None:
    """Refuse another number of things than there are items."""
    if got != count:
        raise InputError(
            f"{name} must hold one entry per item, {count}, got {got}. "
            "They go with the rows of embeddings."
        )


def _json(value: object) -> str:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputTypeError(f"metadata must hold dicts with strings for keys, got {value!r}.")
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputTypeError(
            f"metadata must be what JSON can hold, got {value!r}: {error}. "
            "Turn other things into strings or numbers first."
        ) from error


def _listed(name: str, values: object) -> list[Any]:
    if isinstance(values, (Tensor, np.ndarray)):
        if values.ndim != 1:
            raise InputError(
                f"{name} must have one dimension, got shape {tuple(values.shape)}. "
                "Take one row, or use .flatten()."
            )
        values = values.tolist()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise InputTypeError(f"{name} must be a list, array or tensor, got {values!r}.")
    return list(values)


def _is_integer(value: object) -> bool:
    # The first alone would do for most, and the check against Integral is slow.
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _shown(value: int) -> str:
    # Python refuses to write numbers of thousands of digits.
    value = int(value)
    return str(value) if abs(value) < 2**128 else f"a number of {value.bit_length()} bits"


def _others(values: list[Any]) -> str:
    return " and ".join(sorted({type(value).__name__ for value in values}))


def _and_more(values: list[Any]) -> str:
    return f" and {len(values) - 1} more" if len(values) > 1 else ""
