"""How stored items and the columns of an Arrow table become each other."""

import importlib
import json
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import check_count
from likewise.distances import Distance
from likewise.errors import InputError, MissingExtra
from likewise.index.memory import Items

FORMAT = 1
KEY = b"likewise"  # in the metadata of the schema


class Home(Protocol):
    """What a table asks of an index, wherever that keeps its items."""

    @property
    def distance(self) -> Distance:
        """What near means."""

    @property
    def dimension(self) -> int | None:
        """Length of an embedding."""

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """All ids, in order of insertion."""

    @property
    def class_names(self) -> list[str]:
        """Name of every label code."""

    def get(self, ids: Any) -> Items:
        """Return what is stored under each id."""


def load(name: str = "pyarrow") -> Any:
    """The module, or a sentence that says what to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{name.split('.')[0]} must be installed for tables, got no module {error.name!r}. "
            'Use pip install "likewise[tables]".'
        ) from error


def schema_of(index: Home) -> Any:
    """Columns of a table of the index, and what it tells besides."""
    arrow = load()
    width = index.dimension
    told = {
        "format": FORMAT,
        "class_names": index.class_names,
        "distance": index.distance.name,
        "encoder": getattr(index, "encoder", None),
        "dimension": width,
    }
    fields = [
        ("id", arrow.string() if index.ids.dtype.kind == "U" else arrow.int64()),
        ("label", arrow.int64()),
        ("class", arrow.string()),
        ("embedding", arrow.list_(arrow.float32(), *([width] if width else []))),
        ("metadata", arrow.string()),
    ]
    if hasattr(index, "payloads"):
        fields.append(("payload", arrow.binary()))
    return arrow.schema(fields, metadata={KEY: json.dumps(told).encode()})


def batches_of(index: Home, batch_size: int) -> Iterator[Any]:
    """The items, so many at a time, as record batches."""
    check_count("batch_size", batch_size)
    arrow, schema = load(), schema_of(index)
    ids, names = index.ids, np.array([*index.class_names, None], dtype=object)
    for start in range(0, len(ids), batch_size):
        items = index.get(ids[start : start + batch_size])
        labels = items.labels.numpy()
        flat = arrow.array(items.embeddings.numpy().ravel())
        columns = [
            _texts("ids", items.ids.tolist(), schema.field("id").type),
            arrow.array(labels),
            # -1, and every code without a name, is the last: None.
            _texts("class_names", names[np.where(labels < len(names), labels, -1)], arrow.string()),
            arrow.FixedSizeListArray.from_arrays(flat, items.embeddings.shape[1]),
            arrow.array([json.dumps(value) for value in items.metadata], arrow.string()),
        ]
        if "payload" in schema.names:
            columns.append(arrow.array(index.payloads(items.ids), arrow.binary()))  # type: ignore[attr-defined]
        yield arrow.RecordBatch.from_arrays(columns, schema=schema)


def _texts(name: str, values: Any, kind: Any) -> Any:
    try:
        return load().array(values, kind)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} must be text that UTF-8 can hold, got {error.object!r}. Name it otherwise."
        ) from error


def facts_of(text: Any) -> dict[str, Any]:
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


def ids_of(column: Any) -> np.ndarray[Any, Any]:
    """Strings or integers."""
    values = column.to_pylist()
    if values and all(isinstance(value, str) for value in values):
        return np.array(values)
    return integers_of("id", column)


def integers_of(name: str, column: Any) -> np.ndarray[Any, Any]:
    """A column of integers as int64."""
    values = column.to_pylist()
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        kind = "integers or strings" if name == "id" else "integers, -1 for unlabeled"
        odd = next(v for v in values if not isinstance(v, int) or isinstance(v, bool))
        raise InputError(f"{name} of the table must be {kind} throughout, got {odd!r}.")
    return np.array(values, dtype=np.int64)


def named(
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


def matrix_of(column: Any, width: int | None) -> Float[Tensor, "n d"]:
    """A column of lists of one length as float32; `width` is that of no lists."""
    if len(column) == 0:
        return torch.empty(0, width or 0)
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = set(load("pyarrow.compute").list_value_length(column).to_pylist())
    if None in lengths or len(lengths) > 1:
        raise InputError(
            "embedding of the table must have one length throughout, got "
            f"{', '.join(sorted(map(str, lengths))[:3])}. Encode all with the same encoder."
        )
    flat = np.concatenate(parts).astype(np.float32, copy=False)
    return torch.from_numpy(flat.reshape(len(column), -1))


def parsed(text: object) -> dict[str, Any]:
    """The dict that JSON text holds."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"metadata of the table must hold JSON objects, got {text!r}.")
    return value
