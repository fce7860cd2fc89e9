"""Datasets that Hugging Face's `save_to_disk` wrote, read row by row without that library."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset

from likewise._files import read_regular
from likewise.data.images import image_in
from likewise.data.records import pyarrow
from likewise.data.tables import PART_OF
from likewise.errors import InputError

STATE, INFO, PARTS = "state.json", "dataset_info.json", "dataset_dict.json"


class Feature(NamedTuple):
    """What a column holds: the library's word for it, and the names of integer labels."""

    kind: str
    names: list[str] | None


class SavedDataset(IterableDataset[dict[str, Any]]):
    """The rows of a saved dataset as dicts, one after another; images are decoded.

    Only Arrow files are read, a few rows at a time, so it may be larger than memory.

    Args:
        folder: what `save_to_disk` wrote, of one dataset or of several parts.
        split: one of the parts, "train", "val" or "test" where they are called so; all if None.

    Raises:
        InputError: the folder is damaged, or has no such part. Also when read.
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, folder: str | Path, split: str | None = None) -> None:
        self.folder = Path(folder)
        parts = saved_parts(self.folder)
        if split is not None and split not in parts:
            raise InputError(
                f"must be a part of {str(folder)!r} ({', '.join(parts) or 'none'}), got {split!r}.",
                argument="split",
            )
        folders = [parts[split]] if split is not None else [*parts.values()] or [self.folder]
        self.files: list[Path] = []
        for each in folders:
            names = [Path(str(file["filename"])).name for file in _files(each / STATE)]
            self.files += [each / name for name in names]
        features = _described(folders[0] / INFO).get("features")
        if not isinstance(features, dict):
            raise _damaged(folders[0] / INFO)
        self.features = {name: _feature(told) for name, told in features.items()}
        self.column_names = list(self.features)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        arrow = pyarrow()
        ipc = importlib.import_module("pyarrow.ipc")
        for path in self.files:
            try:
                with arrow.memory_map(str(path)) as source, ipc.open_stream(source) as reader:
                    for batch in reader:
                        for start in range(0, batch.num_rows, 64):
                            for row in batch.slice(start, 64).to_pylist():
                                yield {name: self._value(name, row[name]) for name in row}
            except (arrow.ArrowException, OSError) as error:
                raise _damaged(path) from error

    def _value(self, column: str, value: Any) -> Any:
        feature = self.features.get(column)
        if feature is None or feature.kind != "Image" or not isinstance(value, dict):
            return value
        if not value.get("bytes"):
            raise InputError(
                f"{str(self.folder)!r} must hold the bytes of its images, got the path "
                f"{value.get('path')!r} alone. Save it anew after cast_column with Image()."
            )
        return image_in(value["bytes"], f"{column} in {self.folder}")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / PARTS).is_file() or all((folder / name).is_file() for name in (STATE, INFO))


def saved_parts(folder: Path) -> dict[str, Path]:
    """The folders of the parts, as "train", "val" and "test" where they are called so.

    Raises:
        InputError: the folder is damaged.
    """
    if not (folder / PARTS).is_file():
        return {}
    splits = _described(folder / PARTS).get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) and name for name in splits):
        raise _damaged(folder / PARTS)
    return {PART_OF.get(str(name), str(name)): folder / Path(name).name for name in splits}


def _files(path: Path) -> list[dict[str, Any]]:
    files = _described(path).get("_data_files")
    if not isinstance(files, list) or not all(
        isinstance(each, dict) and each.get("filename") for each in files
    ):
        raise _damaged(path)
    return files


def _feature(told: Any) -> Feature:
    if not isinstance(told, dict):
        return Feature("", None)
    names = told.get("names")
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Feature(str(told.get("_type")), names if is_named else None)


def _described(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{str(path)!r} must be what save_to_disk wrote, got something damaged. Write it again."
    )
