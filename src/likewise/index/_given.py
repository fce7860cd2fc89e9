"""What a caller of a gallery gives, checked against what is stored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise._checks import check_count, check_embeddings, check_finite
from likewise.errors import InputError, InputTypeError
from likewise.index._durable.checksums import Integers, keys_of
from likewise.index._durable.snapshot import Snapshot
from likewise.index._entries import Values, check_one_per_item, label_codes, plain_ids, positions_of


def checked_embeddings(embeddings: Tensor, name: str, snapshot: Snapshot) -> Tensor:
    """Embeddings as they are stored: float32 on the CPU.

    Raises:
        ValueError, TypeError: they are none, or not finite, or of another dimension.
    """
    check_embeddings(embeddings, name)
    embeddings = embeddings.detach().to("cpu", torch.float32).contiguous()
    check_finite(embeddings, name)
    if snapshot.facts.dimension not in (None, embeddings.shape[1]):
        raise InputError(
            f"{name} must have dimension {snapshot.facts.dimension}, as the items in the index "
            f"have, got {embeddings.shape[1]}. Encode all with the same encoder."
        )
    return embeddings


def check_k(k: int, snapshot: Snapshot) -> None:
    """Refuse a lookup of nothing, in nothing, or of more than there is."""
    if len(snapshot) == 0:
        raise InputError(
            "index must hold at least one item before a lookup, got 0.",
            remedy="Add some with index.add(embeddings, labels=labels).",
            command="Add some with likewise index.",
        )
    check_count("k", k)
    if k > len(snapshot):
        raise InputError(
            f"must be at most {len(snapshot)}, the number of items in the index, got {k}. "
            "Ask for fewer, or add more items.",
            argument="k",
        )


def next_ids(snapshot: Snapshot, count: int) -> list[int]:
    """The next integers above all ever used."""
    if len(snapshot) and snapshot.facts.kind == "strings":
        raise InputError(
            "ids must be given where those in the index are strings, got None. "
            "Pass ids=, one new string per item."
        )
    first = snapshot.facts.next_id
    return list(range(first, first + count))


def rows_of(snapshot: Snapshot, ids: Sequence[Any]) -> Integers:
    """The row of each id, -1 where it is not stored."""
    is_text = bool(len(ids)) and isinstance(ids[0], str)
    if not len(ids) or is_text != (snapshot.facts.kind == "strings"):
        return np.full(len(ids), -1, dtype=np.int64)
    rows = snapshot.rows_of(keys_of([_utf8(id_) for id_ in ids] if is_text else ids))
    if is_text and (rows >= 0).any():
        there = snapshot.ids_at(rows)
        for at in np.flatnonzero((rows >= 0) & (there != np.array(ids, dtype=np.str_))).tolist():
            raise InputError(
                f"ids must differ in their 64-bit hashes, got {ids[at]!r}, whose is that of "
                f"{str(there[at])!r}. Use another id."
            )
    return rows


def rows_of_all(snapshot: Snapshot, ids: Values) -> Integers:
    """The row of each id.

    Raises:
        InputError: an id that is not stored.
    """
    plain = plain_ids(ids)
    found = stored_among(snapshot, plain, rows_of(snapshot, plain))
    return np.array(positions_of(plain, found), dtype=np.int64)


def stored_among(snapshot: Snapshot, ids: Sequence[Any], rows: Integers) -> dict[Any, int]:
    """Those of `ids` that are stored, by their rows; another one where none of them is.

    It tells what kind of ids there are.
    """
    found = {id_: row for id_, row in zip(ids, rows.tolist(), strict=True) if row >= 0}
    if not found and len(snapshot):
        found = {snapshot.ids_at(np.zeros(1, dtype=np.int64)).tolist()[0]: 0}
    return found


def codes_of(snapshot: Snapshot, labels: Values | None, count: int) -> tuple[list[int], list[str]]:
    """The code of each label, and all class names with the new ones behind."""
    has_codes = bool((snapshot.labels >= 0).any())
    return label_codes(labels, count, snapshot.class_names, has_codes=has_codes)


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


def check_storable(ids: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse text that UTF-8 cannot hold, and strings that the gallery could not tell apart."""
    texts = [_utf8(id_) for id_ in ids if isinstance(id_, str)]
    for name in names:
        _utf8(name)
    if len(texts) > 1 and len(np.unique(keys_of(texts))) < len(texts):
        raise InputError("ids must differ in their 64-bit hashes, got two that do not. Use others.")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text must be valid Unicode, got {text!r}. Replace lone surrogates."
        ) from error
