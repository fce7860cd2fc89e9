"""Embeddings of a folder of parts, as a dataset of vectors and as what a model embedded."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise._parts import Parts, is_parts, pyarrow
from likewise.data.datasets import ArrayDataset
from likewise.embedded import Embedded
from likewise.errors import InputError

EMBED = "embed"  # the kind of parts that hold embeddings


def is_embedded(source: Any) -> bool:
    """Whether a source is a folder of parts."""
    return isinstance(source, (str, Path)) and is_parts(source)


@dataclass(frozen=True, eq=False)
class PartRows:
    """The rows of one part that have an embedding, by column.

    Attributes:
        ids: int64 or text, (n,).
        embeddings: float32, (n, d).
        labels: codes of the class names of the plan, -1 for unlabeled, (n,).
        metadata: JSON texts.
        prints: fingerprints of the items, (n,).
    """

    ids: np.ndarray[Any, Any]
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    metadata: list[str]
    prints: np.ndarray[Any, Any]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __len__(self) -> int:
        return len(self.ids)


def part_rows(parts: Parts) -> Iterator[PartRows]:
    """The rows of each part that have an embedding; memory holds those of one."""
    for table in parts.tables():
        good = _good(table)
        yield PartRows(
            ids=_ids(good),
            embeddings=torch.from_numpy(_matrix(good).copy()),
            labels=torch.from_numpy(good["label"].to_numpy().copy()),
            metadata=good["metadata"].to_pylist(),
            prints=good["fingerprint"].to_numpy(),
        )


def read_embedded(folder: str | Path) -> Embedded:
    """All embeddings of a folder of parts, with labels, class names and fingerprints.

    The source is a dataset of these vectors, which tells their ids. Items that could not be read
    are left out, and a warning counts them. Memory holds what is given back, and one part besides.

    Raises:
        InputError: it is no such folder, parts are missing or damaged, or no item could be read.
    """
    parts = Parts(folder, [EMBED])
    total, count = parts.plan.items, 0
    made: Tensor | None = None
    labels, prints = (np.empty(total, dtype=np.int64) for _ in range(2))
    ids: list[Any] = []
    for table in parts.tables(["id", "embedding", "label", "fingerprint", "error"]):
        good = _good(table)
        if not len(good):
            continue
        rows = _matrix(good)
        if made is None:
            made = torch.empty(total, rows.shape[1])
        end = count + len(good)
        made[count:end] = torch.from_numpy(rows.copy())
        labels[count:end] = good["label"].to_numpy()
        prints[count:end] = good["fingerprint"].to_numpy()
        ids += _ids(good).tolist()
        count = end
    if made is None:
        raise InputError(
            f"must hold an item that could be read, got {str(folder)!r} without.",
            argument="parts",
        )
    if count < total:
        warnings.warn(
            f"{total - count} of {total} items could not be read when they were embedded, and are "
            "left out; the column error says why.",
            stacklevel=2,
        )
    vectors = ArrayDataset(
        made[:count], torch.from_numpy(labels[:count]), parts.plan.facts["class_names"]
    )
    vectors.ids = ids
    return Embedded(
        made[:count],
        vectors.labels,
        vectors.class_names,
        torch.from_numpy(prints[:count]),
        torch.arange(count),
        vectors,
    )


def _good(table: Any) -> Any:
    compute = pyarrow("pyarrow.compute")
    return table.filter(compute.is_null(table["error"])).combine_chunks()


def _matrix(table: Any) -> np.ndarray[Any, Any]:
    flat = pyarrow("pyarrow.compute").list_flatten(table["embedding"]).to_numpy()
    return flat.reshape(len(table), -1 if len(table) else 0)  # type: ignore[no-any-return]


def _ids(table: Any) -> np.ndarray[Any, Any]:
    if pyarrow("pyarrow.types").is_string(table.schema.field("id").type):
        return np.array(table["id"].to_pylist(), dtype=str)
    return table["id"].to_numpy()  # type: ignore[no-any-return]
