"""What a caller gives (embeddings, ids, labels, metadata, payloads), checked and made plain."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise._checks import as_embeddings, check_finite
from likewise.distances import Distance
from likewise.errors import InputError, InputTypeError
from likewise.index._durable.checksums import Integers, keys_of
from likewise.index._store import Given, Known

Values = Sequence[int] | Sequence[str | None] | np.ndarray[Any, Any] | Tensor

Rows = Tensor | np.ndarray[Any, Any] | Sequence[Any]  # of embeddings

Where = Mapping[str, Any]


class WrittenMetadata(Sequence[Mapping[str, Any]]):
    """Metadata of items as a table holds it: JSON objects as text, which are stored as they are.

    Args:
        texts: One JSON object per item. They are not looked at; take them from what was checked.
        prints: The fingerprint in each of them, (n,).

    Example:
        >>> given = WrittenMetadata(['{"year": 1999, "fingerprint": 5}'], np.array([5]))
        >>> given[0]["year"], len(given)
        (1999, 1)
    """

    def __init__(self, texts: Sequence[str], prints: Integers) -> None:
        self.texts, self.prints = list(texts), prints

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, at: Any) -> Any:
        return json.loads(self.texts[at])


UNLABELED = -1
LARGEST_ID = LARGEST_LABEL = 2**63 - 1
FINGERPRINT = "fingerprint"  # the metadata key by which an item is known again


def check_distance(distance: object) -> None:
    """Refuse what is no distance."""
    if not isinstance(distance, Distance):
        raise InputTypeError(
            f"distance must be a Distance, got {distance!r}. "
            "Use one of likewise.distances, or distances.by_name(name)."
        )


def check_enough(k: int, items: int) -> None:
    """Refuse to look anything up among no items, or more than there are."""
    if items == 0:
        raise InputError(
            "index must hold at least one item before a lookup, got 0.",
            remedy="Add some with index.add(embeddings, labels=labels).",
            command="Add some with likewise index.",
        )
    if k > items:
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
    if not np.isfinite(checked.numpy()).all():  # the same, far sooner for few numbers
        check_finite(checked, name)
    if dimension not in (None, checked.shape[1]):
        raise InputError(
            f"{name} must have dimension {dimension}, as the items in the index have, "
            f"got {checked.shape[1]}. Encode all with the same encoder."
        )
    return checked


class Emptied:
    """What is left of a view when all its items go, as far as giving new ones asks for it."""

    def __init__(self, now: Known, class_names: Sequence[str]) -> None:
        self.facts, self.keys_for = now.facts, now.keys_for
        self.class_names = tuple(class_names)

    def __len__(self) -> int:
        return 0

    def has_labels(self) -> bool:
        """No item, no label."""
        return False

    def rows_of(self, given: Given) -> Integers:
        """No id is stored."""
        return np.full(len(given.ids), -1, dtype=np.int64)


def given_ids(now: Known, ids: Values) -> Given:
    """Ids that are to be looked for or stored.

    Raises:
        InputTypeError: not a sequence, mixed kinds, or neither integers nor strings.
        InputError: a negative or too large integer, an empty string, which mark padding.
    """
    plain = _plain_ids(ids)
    return Given(plain, now.keys_for(plain))


def ids_to_add(now: Known, ids: Values | None, count: int) -> Given:
    """The ids of `count` new items, none of them stored.

    Raises:
        InputTypeError: What `given_ids` refuses, or another kind than those stored.
        InputError: What `given_ids` refuses, another number than `count`, or an id that is taken.
    """
    if ids is None:
        return _next_ids(now, count)
    given = given_ids(now, ids)
    rows = now.rows_of(given)
    _check_kind(now, given, count, rows)
    if taken := [given.ids[at] for at in np.flatnonzero(rows >= 0).tolist()]:
        raise InputError(
            f"ids must be new, got {taken[0]!r}{_and_more(taken)} already in the index. "
            "Remove the stored item first to replace it."
        )
    return given


def ids_to_put(now: Known, ids: Values, count: int) -> tuple[Given, Integers]:
    """The ids of `count` items, and the rows of those that are stored, which they replace.

    Raises:
        InputTypeError: What `ids_to_add` refuses.
        InputError: What `given_ids` refuses, or another number than `count`.
    """
    given = given_ids(now, ids)
    rows = now.rows_of(given)
    _check_kind(now, given, count, rows)
    return given, np.unique(rows[rows >= 0])


def rows_of_all(now: Known, ids: Values) -> Integers:
    """The row of each id.

    Raises:
        InputTypeError: Ids that `given_ids` refuses.
        InputError: Ids that `given_ids` refuses, or an id that is not stored.
    """
    given = given_ids(now, ids)
    rows = now.rows_of(given)
    if unknown := [given.ids[at] for at in np.flatnonzero(rows < 0).tolist()]:
        raise InputError(
            f"must all be in the index, got unknown {unknown[0]!r}{_and_more(unknown)}.",
            argument="ids",
            remedy="index.ids lists those there are.",
            command="likewise lookup tells those there are.",
        )
    return rows


def check_same_text(ids: Sequence[Any], there: Sequence[Any]) -> None:
    """Refuse strings that have the number of another string, which is stored."""
    for id_, other in zip(ids, there, strict=True):
        if id_ != other:
            raise InputError(
                f"ids must differ in their 64-bit hashes, got {id_!r}, whose is that of "
                f"{str(other)!r}. Use another id."
            )


def _next_ids(now: Known, count: int) -> Given:
    """The next integers above all ever used."""
    if now.facts.kind == "strings" and len(now):
        raise InputError(
            "ids must be given where those in the index are strings, got None. "
            "Pass ids=, one new string per item."
        )
    first = now.facts.next_id
    if first + count > LARGEST_ID + 1:
        raise InputError(
            f"ids must be given where those above {LARGEST_ID} would come next, got None. "
            "Pass ids=, one new integer per item."
        )
    keys = np.arange(first, first + count, dtype=np.int64)
    return Given(range(first, first + count), keys)


def _check_kind(now: Known, given: Given, count: int, rows: Integers) -> None:
    """Refuse ids of another number than items or another kind than stored, or twice the same."""
    ids, kind = given.ids, now.facts.kind
    check_one_per_item("ids", len(ids), count)
    if ids and given.are_text != (kind == "strings") and not (rows >= 0).any() and len(now):
        raise InputTypeError(
            f"ids must be {kind}, as those in the index are, got {ids[0]!r}. "
            "Use one kind for all items."
        )
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise InputError(f"ids must all differ, got {twice!r} more than once.")


def codes_of(now: Known, labels: Values | None, count: int) -> tuple[Integers, Sequence[str]]:
    """The code of each label, -1 for unlabeled, and all class names with the new ones behind.

    Args:
        now: knows class names, and whether there are labels without.
        labels: codes or class names, `count` of them; None for unlabeled, also among names.
        count: Number of the items.

    Raises:
        InputTypeError: neither integers nor strings, both, or names where there are codes.
        InputError: another number than `count`, a code below -1 or beyond the class names.
    """
    class_names = now.class_names
    if labels is None:
        return np.full(count, UNLABELED), class_names
    values = _listed("labels", labels)
    check_one_per_item("labels", len(values), count)
    are_integers = {*map(type, values)} == {int}  # which of most labels says all at once
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str) and all(isinstance(v, str) or v is None for v in values):
        if not class_names and now.has_labels():
            raise InputTypeError(
                f"labels must be integers, as those in the index are, got {first!r}. "
                "Start the index with class_names to use names."
            )
        codes = {name: code for code, name in enumerate(class_names)}
        named = [
            UNLABELED if value is None else codes.setdefault(str(value), len(codes))
            for value in values
        ]
        names = list(codes)
        for name in names[len(class_names) :]:
            utf8(name)
        return np.array(named, dtype=np.int64), names
    if not are_integers and not all(map(_is_integer, values)):
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
    return np.array(values, dtype=np.int64), class_names


def metadata_texts(metadata: Sequence[Mapping[str, Any]] | None, count: int) -> list[str]:
    """Each item's metadata as JSON, which no later change of the caller's reaches.

    Raises:
        InputTypeError: not a sequence of dicts with string keys, or JSON cannot hold one.
        InputError: another number than `count`.
    """
    if metadata is None:
        return ["{}"] * count
    if isinstance(metadata, WrittenMetadata):
        check_one_per_item("metadata", len(metadata), count)
        return metadata.texts
    values = _listed("metadata", metadata)
    check_one_per_item("metadata", len(values), count)
    return [_json(value) for value in values]


def prints_of(metadata: Sequence[Mapping[str, Any]] | None, count: int) -> Integers:
    """The fingerprint in each item's metadata, and 1 where there is one, (count, 2).

    Where no item has one, nothing, (0, 2).
    """
    if isinstance(metadata, WrittenMetadata):
        return np.column_stack([metadata.prints, np.ones(count, dtype=np.int64)])
    found = [] if metadata is None else [facts.get(FINGERPRINT) for facts in metadata]
    rows = [row for row, value in enumerate(found) if _fits(value)]
    prints = np.zeros((count if rows else 0, 2), dtype=np.int64)
    if rows:
        prints[rows, 0] = np.array([found[row] for row in rows], dtype=np.int64)
        prints[rows, 1] = 1
    return prints


def whole_prints(prints: Integers, count: int) -> Integers:
    """Prints of every item, (count, 2), also where there are none."""
    return prints if len(prints) else np.zeros((count, 2), dtype=np.int64)


def checked_payloads(payloads: Sequence[bytes | None] | None, count: int) -> list[bytes | None]:
    """One piece of bytes, or None, per item."""
    if payloads is None:
        return [None] * count
    if isinstance(payloads, (bytes, str, Mapping)) or not isinstance(payloads, Sequence):
        raise InputTypeError(f"payloads must be a list of bytes, got {type(payloads).__name__}.")
    check_one_per_item("payloads", len(payloads), count)
    for payload in payloads:
        if payload is not None and not isinstance(payload, (bytes, bytearray, memoryview)):
            raise InputTypeError(f"payloads must be bytes or None, got {type(payload).__name__}.")
    return [None if payload is None else bytes(payload) for payload in payloads]


def check_one_per_item(name: str, got: int, count: int) -> None:
    """Refuse another number of things than there are items."""
    if got != count:
        raise InputError(
            f"{name} must hold one entry per item, {count}, got {got}. "
            "They go with the rows of embeddings."
        )


def check_apart(keys: Integers) -> None:
    """Refuse new ids, given as numbers, that could not be told apart."""
    ordered = np.sort(keys)
    if len(keys) > 1 and (ordered[1:] == ordered[:-1]).any():
        raise InputError("ids must differ in their 64-bit hashes, got two that do not. Use others.")


def check_class_names(class_names: Sequence[str]) -> None:
    """Refuse what is no list of names, two that are alike, or one that UTF-8 cannot hold."""
    if (
        isinstance(class_names, str)
        or not isinstance(class_names, (Sequence, np.ndarray))
        or not all(isinstance(name, str) for name in class_names)
    ):
        raise InputTypeError(f"class_names must be a list of strings, got {class_names!r}.")
    if len(set(class_names)) != len(class_names):
        raise InputError(f"class_names must all differ, got {list(class_names)}.")
    for name in class_names:
        utf8(name)


def lasting_keys(ids: Sequence[Any]) -> Integers:
    """Ids as numbers of 64 bits that are the same in every process; strings by a hash."""
    return keys_of([utf8(id_) if isinstance(id_, str) else id_ for id_ in ids])


def utf8(text: str) -> bytes:
    """The text's bytes, if it is Unicode that UTF-8 can hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text must be valid Unicode, got {text!r}. Replace lone surrogates."
        ) from error


def _plain_ids(ids: Values) -> list[int] | list[str]:
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
        return list(values.tolist())
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
        raise InputTypeError(f"{name} must be a list, array or tensor, got {values!r}.")
    return list(values)


def _is_integer(value: object) -> bool:
    # The first alone would do for most, and the check against Integral is slow.
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _fits(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _shown(value: int) -> str:
    # Python refuses to write numbers of thousands of digits.
    value = int(value)
    return str(value) if abs(value) < 2**128 else f"a number of {value.bit_length()} bits"


def _others(values: list[Any]) -> str:
    return " and ".join(sorted({type(value).__name__ for value in values}))


def _and_more(values: list[Any]) -> str:
    return f" and {len(values) - 1} more" if len(values) > 1 else ""
