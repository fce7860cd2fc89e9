"""What a caller of a gallery gives, checked against what is stored."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from likewise.errors import InputError, InputTypeError
from likewise.index._durable.checksums import Integers, keys_of
from likewise.index._entries import (
    LARGEST_ID,
    UNLABELED,
    Rows,
    Values,
    all_new,
    check_one_per_item,
    checked_rows,
    label_codes,
    plain_ids,
    positions_of,
)
from likewise.index._snapshots import NONE, Chunk, Snapshot, Texts


def checked_embeddings(embeddings: Rows, name: str, snapshot: Snapshot) -> Tensor:
    """Embeddings as they are stored: float32 on the CPU; raises as `checked_rows`."""
    return checked_rows(name, embeddings, snapshot.facts.dimension)


class Given(NamedTuple):
    """Ids of new items, and the numbers by which the store finds them."""

    ids: list[int] | list[str]
    keys: Integers


def next_ids(snapshot: Snapshot, count: int) -> Given:
    """The next integers above all ever used."""
    if len(snapshot) and snapshot.facts.kind == "strings":
        raise InputError(
            "ids must be given where those in the index are strings, got None. "
            "Pass ids=, one new string per item."
        )
    first = snapshot.facts.next_id
    if first + count > LARGEST_ID + 1:
        raise InputError(
            f"ids must be given where those above {LARGEST_ID} would come next, got None. "
            "Pass ids=, one new integer per item."
        )
    return Given(list(range(first, first + count)), first + np.arange(count))


def given_ids(snapshot: Snapshot, ids: Values) -> Given:
    """Ids that are to be looked for or stored; raises as `plain_ids`."""
    plain = plain_ids(ids)
    return Given(plain, keys_for(snapshot, plain))


def rows_of(snapshot: Snapshot, given: Given) -> Integers:
    """The row of each id, -1 where it is not stored."""
    ids = given.ids
    is_text = bool(ids) and isinstance(ids[0], str)
    if not ids or is_text != (snapshot.facts.kind == "strings"):
        return np.full(len(ids), -1, dtype=np.int64)
    rows = snapshot.rows_of(given.keys)
    if is_text and (rows >= 0).any():
        there = snapshot.ids_at(rows)
        for at in np.flatnonzero((rows >= 0) & (there != np.array(ids, dtype=np.str_))).tolist():
            raise InputError(
                f"ids must differ in their 64-bit hashes, got {ids[at]!r}, whose is that of "
                f"{str(there[at])!r}. Use another id."
            )
    return rows


def ids_to_add(snapshot: Snapshot, ids: Values | None, count: int) -> Given:
    """The ids of `count` new items, none of them stored.

    Raises:
        InputTypeError: as `plain_ids` and `all_new`.
        InputError: as these.
    """
    if ids is None:
        return next_ids(snapshot, count)
    given = given_ids(snapshot, ids)
    all_new(given.ids, count, stored_among(snapshot, given.ids, rows_of(snapshot, given)))
    return given


def ids_to_put(snapshot: Snapshot, ids: Values, count: int) -> tuple[Given, Integers]:
    """The ids of `count` items, and the rows of those that are stored, which they replace."""
    given = given_ids(snapshot, ids)
    rows = rows_of(snapshot, given)
    gone = np.unique(rows[rows >= 0])
    kind_only = {} if len(gone) else stored_among(snapshot, [], NONE)
    all_new(given.ids, count, kind_only)
    return given, gone


def rows_of_all(snapshot: Snapshot, ids: Values) -> Integers:
    """The row of each id.

    Raises:
        InputError: an id that is not stored.
    """
    given = given_ids(snapshot, ids)
    found = rows_of(snapshot, given)
    if (found >= 0).all():
        return found
    stored = stored_among(snapshot, given.ids, found)
    return np.array(positions_of(given.ids, stored), dtype=np.int64)


def stored_among(snapshot: Snapshot, ids: Sequence[Any], rows: Integers) -> dict[Any, int]:
    """Those of `ids` that are stored, by their rows; one that no item has where none of them is.

    It tells what kind of ids there are.
    """
    if (rows >= 0).any():
        return {id_: row for id_, row in zip(ids, rows.tolist(), strict=True) if row >= 0}
    return {"" if snapshot.facts.kind == "strings" else -1: 0} if len(snapshot) else {}


def codes_of(
    snapshot: Snapshot, labels: Values | None, count: int
) -> tuple[Integers, Sequence[str]]:
    """The code of each label, and all class names with the new ones behind."""
    if labels is None:
        return np.full(count, UNLABELED), snapshot.class_names

    def has_codes() -> bool:
        return bool((snapshot.labels >= 0).any())

    codes, names = label_codes(labels, count, snapshot.class_names, has_codes=has_codes)
    return np.array(codes, dtype=np.int64), names


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


def keys_for(snapshot: Snapshot, ids: Sequence[Any]) -> Integers:
    """Ids as numbers of 64 bits, by which the store finds them."""
    if not len(ids) or not isinstance(ids[0], str):
        return keys_of(ids)
    if snapshot.is_in_memory:  # Python's own hashes are much faster, and die with the process
        return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
    return keys_of([_utf8(id_) for id_ in ids])


def check_text(texts: Sequence[str]) -> None:
    """Refuse text that UTF-8 cannot hold."""
    for text in texts:
        _utf8(text)


def check_apart(keys: Integers) -> None:
    """Refuse new ids, given as numbers, that could not be told apart."""
    ordered = np.sort(keys)
    if len(keys) > 1 and (ordered[1:] == ordered[:-1]).any():
        raise InputError("ids must differ in their 64-bit hashes, got two that do not. Use others.")


def check_storable(ids: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse text that UTF-8 cannot hold, and strings that could not be told apart."""
    check_text(names)
    check_apart(keys_of([_utf8(id_) for id_ in ids if isinstance(id_, str)]))


def chunk_of(
    snapshot: Snapshot,
    given: Given,
    labels: Integers,
    packed: Tensor,
    metadata: list[str] | None = None,
) -> Chunk:
    """New items behind those of the snapshot.

    Raises:
        InputError: ids that UTF-8 cannot hold or that could not be told apart.
    """
    ids, keys = given
    texts = None
    if isinstance(ids[0], str):
        texts = _texts(ids)
        check_apart(keys)
    positions = np.arange(len(ids), dtype=np.int64) + snapshot.facts.next_position
    return Chunk(positions, keys, texts, labels, packed.numpy(), NONE, metadata)


def _texts(ids: Sequence[str]) -> Texts:
    joined = "".join(ids)
    if joined.isascii():  # each letter is one byte
        return Texts(np.fromiter(map(len, ids), np.int64, len(ids)), joined.encode())
    parts = [_utf8(id_) for id_ in ids]
    return Texts(np.fromiter(map(len, parts), np.int64, len(ids)), b"".join(parts))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text must be valid Unicode, got {text!r}. Replace lone surrogates."
        ) from error
