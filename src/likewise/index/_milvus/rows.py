"""An item as Milvus keeps it, there and back."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.errors import InputError
from likewise.index._milvus.collections import LONGEST, PARTITION, TAGS, partition_of, tags_of
from likewise.index._store import Added
from likewise.index._where import as_json

EVERYTHING = ["position", "label", "text", "metadata", "tags", "payload", "embedding"]


def rows_of(added: Added, first: int, partition_by: str | None) -> list[dict[str, Any]]:
    """One row per item, at positions from `first` on.

    Args:
        added: Items.
        first: Position of the first.
        partition_by: Metadata key that partitions are chosen by; None where there are none.

    Raises:
        InputError: more than Milvus can hold.
    """
    ids, keys = added.given
    parts = [_payload_text(part) for part in added.payloads]
    values = [json.loads(text) for text in added.metadata]
    tags = [_tags(each) for each in values]
    check_length("ids", [id_ for id_ in ids if isinstance(id_, str)])
    check_length("metadata", added.metadata)
    check_length("payloads", parts)
    labels, vectors = added.labels.tolist(), list(wide(added.packed))
    columns = (keys.tolist(), ids, labels, added.metadata, tags, parts, vectors)
    rows = [
        {
            "key": key,
            "position": position,
            "label": code,
            "text": id_ if isinstance(id_, str) else "",
            "metadata": text,
            "tags": tag,
            "payload": part,
            "embedding": embedding,
        }
        for position, (key, id_, code, text, tag, part, embedding) in enumerate(
            zip(*columns, strict=True), first
        )
    ]
    if partition_by is not None:
        for row, each in zip(rows, values, strict=True):
            row[PARTITION] = partition_of(partition_by, each)
    return rows


def wide(embeddings: Float[Tensor, "n d"]) -> npt.NDArray[np.float32]:
    """Embeddings of at least two numbers, which Milvus asks for."""
    width = max(0, 2 - embeddings.shape[1])
    padded: npt.NDArray[np.float32] = torch.nn.functional.pad(embeddings, (0, width)).numpy()
    return padded


def ids_in(rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
    """Int64 or strings, (n,)."""
    ids = [row["text"] or row["key"] for row in rows]
    return np.array(ids) if ids else np.empty(0, dtype=np.int64)


def labels_in(rows: Sequence[Mapping[str, Any]]) -> Int[Tensor, " n"]:
    """Label codes."""
    return torch.tensor([row["label"] for row in rows], dtype=torch.int64)


def embeddings_in(rows: Sequence[Mapping[str, Any]], dimension: int) -> Float[Tensor, "n d"]:
    """Float32, as wide as they were given."""
    if not rows:
        return torch.empty(0, dimension)
    values = np.array([row["embedding"] for row in rows], dtype=np.float32)
    return torch.from_numpy(values)[:, :dimension]


def payload_in(row: Mapping[str, Any]) -> bytes | None:
    """The bytes that were given."""
    text = row["payload"]
    return base64.b64decode(text[1:]) if text else None


def check_length(name: str, texts: Sequence[str]) -> None:
    """Refuse text that is longer than Milvus can hold."""
    longest = max((len(text.encode()) for text in texts), default=0)
    if longest > LONGEST:
        raise InputError(
            f"{name} must have at most {LONGEST} bytes in Milvus (a payload of n takes 4/3 n), got "
            f"{longest}. Keep larger things elsewhere, and where they are in the metadata."
        )


def _tags(values: Mapping[str, Any]) -> list[int]:
    if len(values) > TAGS:
        raise InputError(
            f"metadata must have at most {TAGS} keys in Milvus, got {len(values)}. "
            "Put some of them together under one key."
        )
    return tags_of({key: as_json(value) for key, value in values.items()})


def _payload_text(payload: bytes | None) -> str:
    # The first letter tells an empty payload from none.
    return "" if payload is None else "b" + base64.b64encode(payload).decode()
