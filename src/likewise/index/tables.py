"""Stored items as Arrow and pandas tables and Parquet files, and back; needs likewise[tables]."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import check_count, check_exists
from likewise._files import whole
from likewise.errors import InputError, InputTypeError
from likewise.index._arrow import (
    KEY,
    Home,
    batches_of,
    facts_of,
    ids_of,
    integers_of,
    load,
    matrix_of,
    named,
    parsed,
    schema_of,
)

BATCH = 1 << 16  # items at once


@dataclass(frozen=True, eq=False)
class Columns:
    """Items as `add` takes them, read from a table.

    Attributes:
        ids: int64 or strings, (n,).
        embeddings: float32, (n, d).
        labels: codes into `class_names`, -1 unlabeled, (n,).
        metadata: one dict per item.
        payloads: bytes or None per item; None where the table has no such column.
        class_names: name of every code; empty where labels are plain integers.
        distance: name of the distance of the index; None where the table does not tell.
        encoder: fingerprint of the encoder, likewise.
    """

    ids: np.ndarray[Any, Any]
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    metadata: list[dict[str, Any]]
    payloads: list[bytes | None] | None
    class_names: list[str]
    distance: str | None
    encoder: str | None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __len__(self) -> int:
        return len(self.ids)

    def add_to(self, index: Any) -> np.ndarray[Any, Any]:
        """Add the items to an index, in one call of its `add`; their classes meet by name.

        Returns:
            The ids, (n,).

        Raises:
            InputError: another distance or encoder, a class that has a name on one side alone,
                unlabeled items together with classes that the index does not know, and all
                that `add` refuses.
        """
        for what, own, other in (
            ("distance", self.distance, index.distance.name),
            ("encoder", self.encoder, getattr(index, "encoder", None)),
        ):
            if own is not None and other is not None and own != other:
                raise InputError(
                    f"index must have the {what} of the table, {own!r}, got {other!r}. "
                    "Distances between the two would mean nothing."
                )
        kept = {} if not any(self.payloads or []) else {"payloads": self.payloads}
        added: np.ndarray[Any, Any] = index.add(
            self.embeddings,
            labels=self._labels_for(index.class_names, bool((index.labels >= 0).any())),
            ids=self.ids,
            metadata=self.metadata,
            **kept,
        )
        return added

    def _labels_for(self, names: list[str], has_codes: bool) -> Tensor | list[str]:
        labeled = self.labels >= 0
        if self.class_names == names or not bool(labeled.any()):
            return self.labels
        if not self.class_names or (has_codes and not names):
            raise InputError(
                "index must have class names exactly where the table has, got "
                f"{len(names)} and {len(self.class_names)}. Codes and names cannot be compared."
            )
        codes = {name: code for code, name in enumerate(names)}
        new = sorted({self.class_names[c] for c in self.labels[labeled].tolist()} - set(codes))
        if not new:
            there = torch.tensor([codes.get(name, -1) for name in self.class_names])
            return torch.where(labeled, there[self.labels.clamp(min=0)], -1)
        if bool(labeled.all()):
            return [self.class_names[code] for code in self.labels.tolist()]
        raise InputError(
            f"index must know the classes of a table with unlabeled items, got new {new[0]!r}. "
            "Start it with class_names=columns.class_names."
        )


def to_table(index: Home, *, batch_size: int = BATCH) -> Any:
    """All items as a `pyarrow.Table`: id, label, class, embedding, metadata (JSON), payload.

    In order of insertion. `class` is the label's name, null where it has none; `payload` is
    there for an index that keeps payloads. Class names, distance and encoder stand in the
    metadata of the schema, so that `from_table` gives all back exactly.

    Args:
        index: of any kind; not written to meanwhile.
        batch_size: items read at once.

    Raises:
        MissingExtra: pyarrow is not installed.

    Example:
        >>> from likewise.index import Index
        >>> index = Index()
        >>> _ = index.add(torch.eye(2), labels=["cat", "dog"], ids=["a", "b"])
        >>> table = to_table(index)
        >>> table.column_names, table["class"].to_pylist()
        (['id', 'label', 'class', 'embedding', 'metadata'], ['cat', 'dog'])
        >>> from_table(table).add_to(Index())
        array(['a', 'b'], dtype='<U1')
    """
    batches = batches_of(index, batch_size)
    return load().Table.from_batches(batches, schema_of(index))


def from_table(table: Any) -> Columns:
    """The items of a table that `to_table` made, or one with the same columns.

    Args:
        table: a `pyarrow.Table`, or a pandas one. `class`, `metadata` and `payload` may be
            missing; the class names of a table that does not tell them are those of `class`.

    Raises:
        InputTypeError: another thing.
        InputError: a column is missing or of another kind, embeddings of different length, or
            classes that are not those of the labels.
    """
    arrow = load()
    told: object = None
    if type(table).__module__.split(".")[0] == "pandas":
        told = table.attrs.get("likewise")
        table = arrow.Table.from_pandas(table, preserve_index=False)
    if not isinstance(table, arrow.Table):
        raise InputTypeError(
            f"table must be a pyarrow or pandas table, got {type(table).__name__}. "
            "Use read_parquet(path) for a file."
        )
    if missing := [name for name in ("id", "label", "embedding") if name not in table.column_names]:
        raise InputError(
            f"table must have columns id, label and embedding, got no {missing[0]}. "
            "to_table(index) makes them."
        )
    facts = facts_of(told or (table.schema.metadata or {}).get(KEY))
    classes = table["class"].to_pylist() if "class" in table.column_names else None
    labels, names = named(integers_of("label", table["label"]), classes, facts.get("class_names"))
    texts = table["metadata"].to_pylist() if "metadata" in table.column_names else None
    payloads = table["payload"].to_pylist() if "payload" in table.column_names else None
    return Columns(
        ids=ids_of(table["id"]),
        embeddings=matrix_of(table["embedding"], facts.get("dimension")),
        labels=torch.from_numpy(labels),
        metadata=[{}] * len(table) if texts is None else [parsed(text) for text in texts],
        payloads=payloads,
        class_names=names,
        distance=facts.get("distance"),
        encoder=facts.get("encoder"),
    )


def to_frame(index: Home, *, batch_size: int = BATCH) -> Any:
    """`to_table` as a `pandas.DataFrame`; what stands in the schema stands in its `attrs`.

    Raises:
        MissingExtra: pyarrow or pandas is not installed.
    """
    load("pandas")
    table = to_table(index, batch_size=batch_size)
    frame = table.to_pandas()
    frame.attrs["likewise"] = table.schema.metadata[KEY].decode()
    return frame


def write_parquet(index: Home, path: str | Path, *, batch_size: int = BATCH) -> Path:
    """Write all items to a Parquet file, with checksums, and give back its path.

    The columns are those of `to_table`. The file appears whole or not at all; memory holds one
    batch.

    Raises:
        MissingExtra: pyarrow is not installed.
        FileNotFoundError: the folder does not exist.
        OSError: it cannot be written to.
    """
    path = Path(path)
    parquet = load("pyarrow.parquet")
    schema, batches = schema_of(index), batches_of(index, batch_size)
    with (
        whole(path) as part,
        parquet.ParquetWriter(
            part, schema, use_dictionary=["class"], write_page_checksum=True
        ) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
    return path


def read_parquet(path: str | Path) -> Columns:
    """All items of a file that `write_parquet` wrote, or one with the same columns.

    Raises:
        MissingExtra: pyarrow is not installed.
        FileNotFoundError: there is no such file.
        InputError: it is no Parquet file, or damaged, and as `from_table`.

    Example:
        >>> import tempfile
        >>> from likewise.index import Index
        >>> index = Index()
        >>> _ = index.add(torch.eye(3), labels=[4, -1, 4], metadata=[{"n": n} for n in range(3)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     columns = read_parquet(write_parquet(index, Path(folder) / "items.parquet"))
        >>> columns.labels, columns.metadata[2], columns.distance
        (tensor([ 4, -1,  4]), {'n': 2}, 'cosine')
    """
    with _opened(path) as file:
        return from_table(file.read())


def read_parquet_batches(path: str | Path, *, batch_size: int = BATCH) -> Iterator[Columns]:
    """The same, so many items at a time, for files larger than memory.

    Args:
        path: of the file. Class names that it does not tell differ from batch to batch.
        batch_size: items at once.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `read_parquet`.
    """
    check_count("batch_size", batch_size)
    table = load().Table
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size):
            yield from_table(table.from_batches([batch], file.schema_arrow))


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    parquet = load("pyarrow.parquet")
    path = Path(path)
    check_exists("path", path)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (load().ArrowException, OSError) as error:
        raise InputError(
            f"path must be a whole Parquet file, got {str(path)!r}: {str(error).rstrip('.')}. "
            "Write it anew."
        ) from error
