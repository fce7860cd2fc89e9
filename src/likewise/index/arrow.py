"""Stored items as Arrow and pandas tables and Parquet files, and back; needs likewise[tables]."""

import importlib
import json
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
from likewise.errors import InputError, InputTypeError, MissingExtra
from likewise.index.index import Index

BATCH = 1 << 16  # items at once
FORMAT = 1
KEY = b"likewise"  # in the metadata of the schema


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

    def add_to(self, index: Index) -> np.ndarray[Any, Any]:
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
            ("encoder", self.encoder, index.encoder),
        ):
            if own is not None and other is not None and own != other:
                raise InputError(
                    f"index must have the {what} of the table, {own!r}, got {other!r}. "
                    "Distances between the two would mean nothing."
                )
        return index.add(
            self.embeddings,
            labels=self._labels_for(index.class_names, bool((index.labels >= 0).any())),
            ids=self.ids,
            metadata=self.metadata,
            payloads=self.payloads,
        )

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


def to_table(index: Index, *, batch_size: int = BATCH) -> Any:
    """All items as a `pyarrow.Table`: id, label, class, embedding, metadata (JSON), payload.

    In order of insertion. `class` is the label's name, null where it has none. Class names,
    distance and encoder stand in the metadata of the schema, so that `from_table` gives all back
    exactly.

    Args:
        index: An index of any kind; not written to meanwhile.
        batch_size: items read at once.

    Raises:
        MissingExtra: pyarrow is not installed.

    Example:
        >>> from likewise.index import Index
        >>> index = Index()
        >>> _ = index.add(torch.eye(2), labels=["cat", "dog"], ids=["a", "b"])
        >>> table = to_table(index)
        >>> table.column_names, table["class"].to_pylist()
        (['id', 'label', 'class', 'embedding', 'metadata', 'payload'], ['cat', 'dog'])
        >>> from_table(table).add_to(Index())
        array(['a', 'b'], dtype='<U1')
    """
    batches = _batches_of(index, batch_size)
    return _load().Table.from_batches(batches, _schema_of(index))


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
    arrow = _load()
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
    facts = _facts_of(told or (table.schema.metadata or {}).get(KEY))
    classes = table["class"].to_pylist() if "class" in table.column_names else None
    labels, names = _named(_integers_of("label", table["label"]), classes, facts.get("class_names"))
    texts = table["metadata"].to_pylist() if "metadata" in table.column_names else None
    payloads = table["payload"].to_pylist() if "payload" in table.column_names else None
    return Columns(
        ids=_ids_of(table["id"]),
        embeddings=_matrix_of(table["embedding"], facts.get("dimension")),
        labels=torch.from_numpy(labels),
        metadata=[{}] * len(table) if texts is None else [_parsed(text) for text in texts],
        payloads=payloads,
        class_names=names,
        distance=facts.get("distance"),
        encoder=facts.get("encoder"),
    )


def to_frame(index: Index, *, batch_size: int = BATCH) -> Any:
    """`to_table` as a `pandas.DataFrame`; what stands in the schema stands in its `attrs`.

    Raises:
        MissingExtra: pyarrow or pandas is not installed.
    """
    _load("pandas")
    table = to_table(index, batch_size=batch_size)
    frame = table.to_pandas()
    frame.attrs["likewise"] = table.schema.metadata[KEY].decode()
    return frame


def write_parquet(index: Index, path: str | Path, *, batch_size: int = BATCH) -> Path:
    """Write all items to a Parquet file, with checksums, and give back its path.

    The columns are those of `to_table`. The file appears whole or not at all; memory holds one
    batch.

    Raises:
        MissingExtra: pyarrow is not installed.
        FileNotFoundError: the folder does not exist.
        OSError: it cannot be written to.
    """
    path = Path(path)
    parquet = _load("pyarrow.parquet")
    schema, batches = _schema_of(index), _batches_of(index, batch_size)
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
    """The same, some items at a time, for files larger than memory.

    Args:
        path: Path of the file. Class names that it does not tell differ from batch to batch.
        batch_size: items at once.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `read_parquet`.
    """
    check_count("batch_size", batch_size)
    table = _load().Table
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size):
            yield from_table(table.from_batches([batch], file.schema_arrow))


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    parquet = _load("pyarrow.parquet")
    path = Path(path)
    check_exists("path", path)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (_load().ArrowException, OSError) as error:
        raise InputError(
            f"path must be a whole Parquet file, got {str(path)!r}: {str(error).rstrip('.')}. "
            "Write it anew."
        ) from error


def _load(name: str = "pyarrow") -> Any:
    """The module, or a sentence that says what to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{name.split('.')[0]} must be installed for tables, got no module {error.name!r}. "
            'Use pip install "likewise[tables]".'
        ) from error


def _schema_of(index: Index) -> Any:
    """Columns of a table of the index, and what it tells besides."""
    arrow = _load()
    width = index.dimension
    told = {
        "format": FORMAT,
        "class_names": index.class_names,
        "distance": index.distance.name,
        "encoder": index.encoder,
        "dimension": width,
    }
    fields = [
        ("id", arrow.string() if index.ids.dtype.kind == "U" else arrow.int64()),
        ("label", arrow.int64()),
        ("class", arrow.string()),
        ("embedding", arrow.list_(arrow.float32(), *([width] if width else []))),
        ("metadata", arrow.string()),
        ("payload", arrow.binary()),
    ]
    return arrow.schema(fields, metadata={KEY: json.dumps(told).encode()})


def _batches_of(index: Index, batch_size: int) -> Iterator[Any]:
    """The items, some at a time, as record batches."""
    check_count("batch_size", batch_size)
    arrow, schema = _load(), _schema_of(index)
    ids, names = index.ids, np.array([*index.class_names, None], dtype=object)
    for start in range(0, len(ids), batch_size):
        items = index.get(ids[start : start + batch_size])
        labels = items.labels.numpy()
        flat = arrow.array(items.embeddings.numpy().ravel())
        columns = [
            arrow.array(items.ids.tolist(), schema.field("id").type),
            arrow.array(labels),
            # -1, and every code without a name, is the last: None.
            arrow.array(names[np.where(labels < len(names), labels, -1)], arrow.string()),
            arrow.FixedSizeListArray.from_arrays(flat, items.embeddings.shape[1]),
            arrow.array([json.dumps(value) for value in items.metadata], arrow.string()),
            arrow.array(index.payloads(items.ids), arrow.binary()),
        ]
        yield arrow.RecordBatch.from_arrays(columns, schema=schema)


def _facts_of(text: Any) -> dict[str, Any]:
    """What a table tells of its index; nothing for one from elsewhere."""
    if text is None:
        return {}
    told: dict[str, Any] = json.loads(text)
    if told.get("format") != FORMAT:
        raise InputError(
            f"table must be of format {FORMAT}, got {told.get('format')}. "
            "Read it with the likewise that wrote it, or a newer one."
        )
    return told


def _ids_of(column: Any) -> np.ndarray[Any, Any]:
    """Strings or integers."""
    values = column.to_pylist()
    if values and all(isinstance(value, str) for value in values):
        return np.array(values)
    return _integers_of("id", column)


def _integers_of(name: str, column: Any) -> np.ndarray[Any, Any]:
    """A column of integers as int64."""
    values = column.to_pylist()
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        kind = "integers or strings" if name == "id" else "integers, -1 for unlabeled"
        odd = next(v for v in values if not isinstance(v, int) or isinstance(v, bool))
        raise InputError(f"{name} of the table must be {kind} throughout, got {odd!r}.")
    return np.array(values, dtype=np.int64)


def _named(
    labels: np.ndarray[Any, Any], classes: list[Any] | None, told: list[str] | None
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Labels as codes of the names told, or else of those in the column of classes."""
    if classes is None:
        return labels, told or []
    pairs = sorted({*zip(labels.tolist(), classes, strict=True)}, key=str)
    # pandas has NaN for null.
    found = {code: name for code, name in pairs if isinstance(name, str)}
    expected = dict(enumerate(told)) if told is not None else found
    for code, name in pairs:
        plain = name if isinstance(name, str) else None
        right = expected.get(code) if code >= 0 else None
        if plain != right or (code >= 0 and expected and plain is None):
            raise InputError(
                "class of the table must be the name of label throughout, and null beside -1, got "
                f"{plain!r} beside {code}. Change both together."
            )
    if told is not None or not found:
        return labels, told or []
    used = np.array(sorted(found))
    if len(set(found.values())) < len(found):
        raise InputError("class of the table must name each label differently, got one name twice.")
    codes = np.where(labels >= 0, np.searchsorted(used, labels), -1)
    return codes, [found[code] for code in used.tolist()]


def _matrix_of(column: Any, width: int | None) -> Float[Tensor, "n d"]:
    """A column of lists of one length as float32; `width` is that of no lists."""
    if len(column) == 0:
        return torch.empty(0, width or 0)
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = set(_load("pyarrow.compute").list_value_length(column).to_pylist())
    if None in lengths or len(lengths) > 1:
        raise InputError(
            "embedding of the table must have one length throughout, got "
            f"{', '.join(sorted(map(str, lengths))[:3])}. Encode all with the same encoder."
        )
    flat = np.concatenate(parts).astype(np.float32, copy=False)
    return torch.from_numpy(flat.reshape(len(column), -1))


def _parsed(text: object) -> dict[str, Any]:
    """The dict that JSON text holds."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"metadata of the table must hold JSON objects, got {text!r}.")
    return value
