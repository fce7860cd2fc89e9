"""`wrap`: a model over embeddings that were made elsewhere, with nothing trained."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likewise import data, distances
from likewise._checks import check_exists
from likewise.data.labels import encode_cells
from likewise.data.loading import FILES
from likewise.data.records import (
    Records,
    ids_in,
    is_frame,
    labels_in,
    open_records,
    vector_columns,
    vectors_in,
)
from likewise.data.tables import TABLES, read_lines, read_npy, written_number
from likewise.errors import InputError, InputTypeError
from likewise.index import Gallery, Index
from likewise.model import SimilarityModel
from likewise.model.folders import check_target

LARGE = 100_000  # items; more go into a gallery, which is mapped and not read
AT_ONCE = 16_384
ALL = "*"


def wrap(
    source: Any,
    out: str | Path | None = None,
    *,
    id: str | None = None,
    label: str | None = None,
    metadata: str | Sequence[str] = (),
    vectors: str | None = None,
    labels: str | Path | None = None,
    distance: str = "cosine",
    gallery: str | Path | None = None,
    recall: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SimilarityModel:
    """A model whose items are embeddings already, with those of the source as its known items.

    Nothing is trained. Look up, match, verify, calibrate and evaluate are as with any model, and
    new items are vectors of the same kind.

    Args:
        source: a .csv, .tsv, .parquet, .feather, .arrow, .jsonl, .npz or .npy file, a pandas frame
            or an Arrow table, with a column of lists of numbers or columns of numbers. Lists in a
            CSV are texts such as "[0.1, 0.2]".
        out: the folder that the model is saved in, if it is.
        id: the column of ids, strings or integers, which in a CSV are strings; numbered from 0 if
            None.
        label: the column of labels, if it is none of label, class, target, category and species.
        metadata: columns that are kept with each item; "*" for all others.
        vectors: the column of vectors, if there are several; or a pattern of columns of numbers,
            such as "v*". All columns of numbers but those named here if None.
        labels: a file with the labels of an .npy: text with one in each line, or another .npy.
        distance: a distance by name.
        gallery: a new folder for the known items. By default they are in the model, and of more
            than 100,000 items, or with a `recall`, in a gallery beside it, `<out>.gallery`.
        recall: the share of the true nearest that a lookup shall find, see `Gallery`; all if None.
        progress: called as progress(done, total).

    Raises:
        InputError: the source has no such column or no vectors, an id comes twice, a cell cannot
            be used, or a folder is in use.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/v.npz", x=np.eye(4), y=["cat", "cat", "dog", "dog"])
        ...     model = wrap(f"{folder}/v.npz", metadata="*")
        >>> model.has_encoder, len(model.index), model.class_names
        (False, 4, ['cat', 'dog'])
    """
    compare = distances.by_name(distance)
    records = _opened(source, labels)
    columns = _Columns(records, id, label, metadata, vectors)
    total = records.rows or 0
    if not total:
        raise InputError(f"{records.name} must have a row, got none. Add items.")
    ids = _ids(records, columns.id)
    codes, names = _labels(records, columns.label, labels, total)
    if out is not None:
        check_target(Path(out))
    if gallery is None and out is None and recall is not None:
        raise InputError("must come with gallery or out, got none.", argument="recall")
    if gallery is None and out is not None and (total > LARGE or recall is not None):
        gallery = f"{str(out).rstrip('/')}.gallery"
    if vectors is None and records.as_numbers is not None:  # a CSV is else read by other rules
        vectors = columns.vectors[0] if columns.vectors[0] in records.kinds.lists else ALL
    reading = data.Reading(label=columns.label, vectors=vectors, id=columns.id)
    origin = {"wrapped": source if isinstance(source, str) else str(records.name), "items": total}
    model = SimilarityModel(None, distance=compare, origin=origin, reading=reading)
    with _new(gallery):
        if gallery is not None:
            Gallery(gallery, distance=compare, class_names=names).close()
            model.use_gallery(gallery)
        model.index.reserve(total)
        done = 0
        for cells in records.parts(columns.wanted, AT_ONCE if gallery is not None else total):
            items = vectors_in(records, columns.vectors, cells, done)
            rows = slice(done, done + len(items))
            model.add(
                data.ArrayDataset(items, codes[rows], names),
                ids=None if ids is None else ids[rows],
                metadata=_metadata(records, columns.metadata, cells, len(items)),
            )
            done += len(items)
            if progress is not None:
                progress(done, total)
        if gallery is not None:
            model.index.close()  # which leaves a file to be mapped
            model.index = Index(compare)  # so that its memory is free before that is mapped
            model.use_gallery(gallery, recall=recall)
        if recall is not None:
            model.index.wait()  # else each later opening would train the search
        if out is not None:
            model.save(out)
    return model


class _Columns:
    """Which columns of a table hold what."""

    def __init__(
        self,
        records: Records,
        id_: str | None,
        label: str | None,
        metadata: str | Sequence[str],
        vectors: str | None,
    ) -> None:
        self.id = None if id_ is None else records.find("id", id_)
        self.label = records.label(label)
        asked = [metadata] if isinstance(metadata, str) else list(metadata)
        kept = [records.find("metadata", name) for name in asked if name != ALL]
        self.vectors = vector_columns(records, vectors, (self.id, self.label, *kept))
        if ALL in asked:
            taken = {self.id, self.label, *self.vectors}
            kept = [name for name in records.columns if name not in taken]
        self.metadata = list(dict.fromkeys(kept))
        self.wanted = [*self.vectors, *self.metadata]


def _opened(source: Any, labels: str | Path | None) -> Records:
    suffix = "" if is_frame(source) else Path(str(source)).suffix.lower()
    if labels is not None and suffix != ".npy":
        raise InputError(
            f"must be left out unless source is an .npy, got {str(labels)!r}. Name a column by "
            "label instead.",
            argument="labels",
        )
    if is_frame(source):
        return open_records(source)
    if not isinstance(source, (str, Path)):
        raise InputTypeError(
            f"source must be a file or a table of vectors, got {type(source).__name__}. For "
            "arrays use SimilarityModel(None) and its add."
        )
    path = Path(source).expanduser()
    check_exists("source", path)
    if suffix not in FILES:
        raise InputError(
            "must be a .csv, .tsv, .parquet, .feather, .arrow, .jsonl, .npz or .npy file of "
            f"vectors, got {str(source)!r}.",
            argument="source",
        )
    return open_records(path, numbers=suffix in TABLES)


def _ids(records: Records, column: str | None) -> list[Any] | None:
    if column is None:
        return None
    ids = ids_in(records, column, records.read([column])[column])
    seen: set[Any] = set()
    for row, each in enumerate(ids):
        if each in seen:
            raise InputError(
                f"{records.where(row)} must have an id of its own, got {each!r}, which an earlier "
                "row has. Correct or remove it."
            )
        seen.add(each)
    return ids


def _labels(
    records: Records, column: str | None, file: str | Path | None, total: int
) -> tuple[torch.Tensor, list[str]]:
    """The code of each item, -1 without a label, and the name of each code."""
    cells: list[str | None] = [None] * total
    if column is not None:
        cells = labels_in(records, column, records.read([column])[column])
    elif file is not None:
        path = Path(file)
        check_exists("labels", path)
        is_array = path.suffix.lower() == ".npy"
        cells = [str(each) for each in (read_npy(path).tolist() if is_array else read_lines(path))]
        if len(cells) != total:
            raise InputError(
                f"must be one for each of {total} vectors, got {len(cells)}.", argument="labels"
            )
    codes, names = encode_cells([cell for cell in cells if cell is not None])
    every = torch.full((total,), -1)
    every[torch.tensor([cell is not None for cell in cells])] = codes
    return every, names


def _metadata(
    records: Records, columns: Sequence[str], cells: dict[str, Any], count: int
) -> list[dict[str, Any]] | None:
    if not columns:
        return None
    told = []
    for name in columns:
        column = cells[name]
        if records.as_numbers is not None:  # else the table has types of its own
            column = [_typed(cell, name in records.kinds.single) for cell in column]
        values = column.tolist() if isinstance(column, np.ndarray) else column
        told.append([_plain(value) for value in values])
    return [
        {
            name: column[row]
            for name, column in zip(columns, told, strict=True)
            if column[row] is not None
        }
        for row in range(count)
    ]


def _typed(cell: str, is_number: bool) -> int | float | str | None:
    """A cell of a CSV as a number, where its column holds them; None where it is empty."""
    number = written_number(cell) if is_number else None
    if number is None:
        return cell or None
    return int(cell) if cell.removeprefix("-").isdecimal() else number


def _plain(value: Any) -> Any:
    """A cell as JSON can hold it; None where it is missing."""
    if value is None or value != value:
        return None
    return value if isinstance(value, (bool, int, float, str, list, dict)) else str(value)


@contextlib.contextmanager
def _new(gallery: str | Path | None) -> Iterator[None]:
    """A gallery that is made meanwhile, and taken away again where that fails."""
    if gallery is not None and Path(gallery).exists():
        raise InputError(
            f"must be a new folder, got {str(gallery)!r}, which is there. Choose another, or "
            "remove it.",
            argument="gallery",
        )
    try:
        yield
    except BaseException:
        if gallery is not None:
            shutil.rmtree(gallery, ignore_errors=True)
        raise
