"""`load`: one door for every source of labeled data."""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from likewise._checks import check_choice
from likewise.data.datasets import ArrayDataset, stored_items
from likewise.data.downloads import (
    FASHION_CLASSES,
    HOMES,
    IMAGENETTE_CLASSES,
    find_or_download,
    unpacked,
)
from likewise.data.framing import ImageSize
from likewise.data.idx import idx_parts, read_idx
from likewise.data.images import (
    ImageFiles,
    check_channels,
    check_image_size,
    fit_images,
    is_image_name,
)
from likewise.data.labels import Labels, encode_cells, encode_labels, natural_order
from likewise.data.omniglot import omniglot_parts
from likewise.data.parts import Subset, split_items
from likewise.data.tables import (
    PART_OF,
    Columns,
    find_columns,
    has_test_arrays,
    read_npz,
    read_number_table,
    read_path_table,
)
from likewise.errors import InputError, InputTypeError, MissingFileError

Source = str | Path | tuple[Tensor | np.ndarray, Labels]

NAMES = ("digits", *HOMES)
SPLITS = ("train", "val", "test")
TABLES = (".csv", ".tsv")
_CLUTTER = ("Thumbs.db", "desktop.ini")  # what file managers leave in folders of images

# Labels of Fashion-MNIST, by part: the files themselves do not say what the classes are.
_FASHION_SHA256 = {
    "train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


@dataclass(frozen=True)
class _Part:
    """One part of a source in memory; its items are read only if they are wanted."""

    read_items: Callable[[], Tensor | np.ndarray]
    labels: Labels


def load(
    source: Source,
    *,
    split: str | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
) -> ArrayDataset | ImageFiles | Subset:
    """Labeled data from wherever it is; every part has the codes and names of the whole.

    ======================  ===================================================================
    source                  what is read, and its parts
    ======================  ===================================================================
    "digits"                scikit-learn's 1,797 digits (1, 8, 8) in 0..1; train and test are a
                            fixed split of every class, 75% and 25%
    "mnist",                idx files in $LIKEWISE_DATA/<name> (default ../shared/data/<name>),
    "fashion-mnist"         else downloaded; train and test as published
    "imagenette",           ten classes of ImageNet, of several sizes: give image_size; likewise
    "imagenette-320",       found or downloaded and unpacked; the published val is test
    "imagenette-160"
    "lfw"                   Labeled Faces in the Wild, people as classes, found or downloaded;
                            no parts. For its pairs see `lfw_pairs`
    "omniglot"              drawn characters (1, 105, 105), ink 1 on 0, found or downloaded;
                            train is the background set (964 characters of 30 alphabets), test
                            the evaluation set (659 of 20). Classes are "Greek/character01";
                            see `omniglot.alphabets` and `omniglot.one_shot_runs`
    folder of idx files     train-images-idx3-ubyte and so on, gzipped or not; t10k is test
    folder of folders       one sub-folder of images per class, or these within train/, val/ and
                            test/, or some of them; decoded when fetched
    .csv or .tsv, path      a table of image files, relative to it; parts where it has a
    and label               column split; decoded when fetched
    .csv or .tsv, label     see `likewise.data.tables.find_columns` for headers, separators and
    and numbers             the place of the label, and `read_number_table` for the numbers;
                            parts where it has a column split
    .npz                    arrays x and y; with x_test and y_test, these are test, x is train
    (items, labels)         arrays or tensors; no parts
    ======================  ===================================================================

    Integer labels of -1 are unlabeled items, in a table where all its labels are whole numbers.

    Args:
        source: a name, a path, or a pair of arrays. Names win over paths: write "./mnist" for
            a folder of that name.
        split: "train", "val" (also called "valid" or "validation"), "test", or all together. A
            source with the parts train and val only has val as its test part.
        image_size: (height, width) or one number for both; images are resized to it. A
            `Framing` also says how.
        channels: 1 for gray, 3 for color; by default what the (first) image has.
        path_column: header of the column of image files in a .csv, if it is none of path, file,
            filename, image and image_path.
        label_column: header of the column of labels in a .csv, if it is none of label, class,
            target, category and species.

    Raises:
        FileNotFoundError: no such name or path, or a file that a table lists is not there.
        InputError: the source is damaged, empty or of no known kind, or has no such part.
        InputTypeError: the source is neither text nor a path nor a pair.

    Example:
        >>> data = load("digits", split="test")
        >>> len(data), data.item_shape, data.class_names[:3]
        (447, (1, 8, 8), ['0', '1', '2'])
    """
    if split is not None:
        split = PART_OF.get(split, split)
        check_choice("split", split, SPLITS)
    size = check_image_size(image_size)
    check_channels(channels)
    columns = _Columns(path_column, label_column)

    if not isinstance(source, (str, Path)) or source == "digits":
        columns.check_table(None)
    if isinstance(source, (tuple, list)) and len(source) == 2:
        items, labels = source
        parts = {"all": _Part(lambda: items, labels)}
        return _in_memory(parts, "the pair of arrays", split, size, channels)
    if not isinstance(source, (str, Path)):
        raise InputTypeError(
            "source must be a name, a path or a pair (items, labels), got "
            f"{type(source).__name__}. Put arrays into a pair."
        )
    if source == "digits":
        return _load_digits(split, size, channels)

    path = _find(source)
    where = repr(str(path))
    columns.check_table(path)
    if source == "omniglot":
        drawn, names = omniglot_parts(path)
        parts = {part: _Part(read, codes) for part, (read, codes) in drawn.items()}
        return _in_memory(parts, where, split, size, channels, names)
    match _kind(path):
        case "idx":
            return _load_idx(path, where, split, size, channels)
        case "folder":
            return _load_folder(path, where, split, image_size, channels)
        case "table":
            found = columns.of(path)
            if found.path is not None:
                return _load_path_table(path, found, where, split, image_size, channels)
            return _load_number_table(path, found, where, split, size, channels)
        case _:
            arrays = read_npz(path)
            parts = {part: _Part(partial(np.asarray, x), y) for part, (x, y) in arrays.items()}
            return _in_memory(parts, where, split, size, channels)


def has_splits(
    source: Source, *, path_column: str | None = None, label_column: str | None = None
) -> bool:
    """Whether `load` can give the parts "train" and "test" of a source; reads next to nothing.

    Args:
        source: as for `load`, like the rest.
        path_column: header of the column of image files.
        label_column: header of the column of labels.

    Raises:
        FileNotFoundError: no such name or path.
        InputError: the source is of no known kind.

    Example:
        >>> has_splits("digits"), has_splits(([[1.0], [2.0]], ["a", "b"]))
        (True, False)
    """
    if not isinstance(source, (str, Path)):
        return False
    if source in NAMES:
        return source != "lfw"
    path = _find(source)
    match _kind(path):
        case "idx":
            return set(idx_parts(path)) == {"train", "test"}
        case "folder":
            found = set(_folder_parts(path))
            return "train" in found and bool(found & {"val", "test"})
        case "table":
            return _Columns(path_column, label_column).of(path).split is not None
        case _:
            return has_test_arrays(path)


def _find(source: str | Path) -> Path:
    if source in HOMES:
        return unpacked(find_or_download(str(source)), str(source))
    path = Path(os.path.expanduser(source))  # which leaves users that it does not know
    if not str(source) or not path.exists():
        raise MissingFileError(
            f"must be one of {', '.join(NAMES)}, or a path that exists, got {str(source)!r}. "
            "Check the spelling.",
            argument="source",
        )
    return path


@dataclass(frozen=True)
class _Columns:
    """The columns of a CSV that the caller names."""

    path: str | None
    label: str | None

    def of(self, table: Path) -> Columns:
        """What the table has where."""
        return find_columns(table, path_column=self.path, label_column=self.label)

    def check_table(self, source: Path | None) -> None:
        """Refuse columns for what is no table."""
        is_table = source is not None and source.suffix.lower() in TABLES and source.is_file()
        if (self.path, self.label) != (None, None) and not is_table:
            raise InputError(
                "path_column and label_column must be left out unless source is a table, got "
                f"{self.path!r} and {self.label!r}. Leave both out."
            )


def _kind(path: Path) -> str:
    """One of idx, folder, table, npz."""
    if path.is_dir():
        return "idx" if idx_parts(path) else "folder"
    if path.suffix.lower() in TABLES:
        return "table"
    if path.suffix.lower() == ".npz":
        return "npz"
    raise InputError(
        f"must be a folder, a .csv, a .tsv or an .npz, got {str(path)!r}. "
        "Put images into one folder per class.",
        argument="source",
    )


def _choose(parts: Collection[str], split: str | None, where: str) -> list[str]:
    """The parts to read, refusing one that the source has not."""
    if split is None:
        return list(parts)
    if split == "test" and "test" not in parts and {"train", "val"} <= set(parts):
        split = "val"  # the part to test on, where there are two
    if split not in parts:
        known = [part for part in SPLITS if part in parts]
        raise InputError(
            f"must be left out, as {where} has no part {split!r}"
            + (
                f" but only {' and '.join(map(repr, known))}." if known else " and no parts at all."
            ),
            argument="split",
            remedy="Use split_items or split_by_class to make parts.",
            command="",
        )
    return [split]


def _in_memory(
    parts: Mapping[str, _Part],
    where: str,
    split: str | None,
    image_size: ImageSize | None,
    channels: int | None,
    class_names: Sequence[str] | None = None,
    scale: float | None = None,
) -> ArrayDataset:
    """The chosen parts as one dataset, with codes that are those of all parts together."""
    read = {part: parts[part].read_items() for part in _choose(parts, split, where)}
    try:
        every = [part.labels for part in parts.values()]
        together = every[0] if len(every) == 1 else np.concatenate(every)
        codes, names = encode_labels(together, class_names)
        lengths = [len(labels) for labels in every]
        codes_of = dict(zip(parts, torch.split(codes, lengths), strict=True))
        items = [_checked_items(values, codes_of[part]) for part, values in read.items()]
        if len({part.shape[1:] for part in items}) > 1:
            raise InputError(
                "items must have the same shape in both parts, got "
                f"{' and '.join(str(tuple(part.shape[1:])) for part in items)}. Resize one."
            )
        tensor = fit_images(torch.cat(items), image_size, channels)
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error
    labels = torch.cat([codes_of[part] for part in read])
    return ArrayDataset(tensor, labels, names, scale)


def _checked_items(values: Tensor | np.ndarray, codes: Tensor) -> Tensor:
    items = stored_items(values)
    if len(items) != len(codes):
        raise InputError(
            f"labels must be one per item, {len(items)}, got {len(codes)}. "
            "Check that both come from the same source."
        )
    return items


def _load_digits(
    split: str | None, image_size: ImageSize | None, channels: int | None
) -> ArrayDataset | Subset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    items = fit_images(stored_items(digits.images / 16), image_size, channels)
    data = ArrayDataset(items, digits.target)
    if split is None:
        return data
    parts = dict(zip(("train", "test"), split_items(data, [0.75, 0.25]), strict=True))
    return parts[_choose(parts, split, "'digits'")[0]]


def _load_idx(
    path: Path,
    where: str,
    split: str | None,
    image_size: ImageSize | None,
    channels: int | None,
) -> ArrayDataset:
    parts = {
        part: _Part(partial(read_idx, images), read_idx(labels))
        for part, (images, labels) in idx_parts(path).items()
    }
    fashion = all(
        hashlib.sha256(np.asarray(part.labels).tobytes()).hexdigest() == _FASHION_SHA256[name]
        for name, part in parts.items()
    )
    names = FASHION_CLASSES if fashion else None
    return _in_memory(parts, where, split, image_size, channels, names)


def _load_folder(
    path: Path,
    where: str,
    split: str | None,
    image_size: ImageSize | None,
    channels: int | None,
) -> ImageFiles:
    parts = _folder_parts(path)
    files = {part: _files_by_class(folder) for part, folder in parts.items()}
    names = sorted({name for classes in files.values() for name in classes}, key=natural_order)
    readable = IMAGENETTE_CLASSES if names == list(IMAGENETTE_CLASSES) else {}
    code_of = {name: code for code, name in enumerate(names)}
    paths: list[Path] = []
    labels: list[int] = []
    for part in _choose(parts, split, where):
        for name, class_files in files[part].items():
            paths += class_files
            labels += [code_of[name]] * len(class_files)
    class_names = [readable.get(name, name) for name in names]
    return ImageFiles(paths, labels, class_names, image_size, channels)


def _folder_parts(path: Path) -> dict[str, Path]:
    """Folders of class folders: those of the parts where all hold folders, else `path` itself.

    Parts are called train, val (or valid, or validation) and test, as `PART_OF` has them.
    """
    folders = _visible(path, folders=True)
    if not folders:
        found = _visible(path, folders=False)
        raise InputError(
            f"{str(path)!r} must hold idx files or one sub-folder per class, got "
            f"{f'only files such as {found[0].name!r}' if found else 'an empty folder'}. "
            "Put the images of each class into a folder named after it."
        )
    named = {PART_OF.get(folder.name.lower(), ""): folder for folder in folders}
    if (
        "" not in named
        and len(named) == len(folders)
        and all(_visible(folder, folders=True) for folder in folders)
    ):
        return {part: named[part] for part in SPLITS if part in named}
    return {"all": path}


def _files_by_class(path: Path) -> dict[str, list[Path]]:
    classes = {}
    for folder in _visible(path, folders=True):
        nested = _visible(folder, folders=True)
        if nested:
            raise InputError(
                f"class folder {str(folder)!r} must hold images only, got the folder "
                f"{nested[0].name!r}. Only train, val and test may lie above the class folders."
            )
        files = _visible(folder, folders=False)
        for file in files:
            if not is_image_name(file):
                raise InputError(
                    f"class folder {str(folder)!r} must hold images only, got {file.name!r}. "
                    "Move it out or convert it."
                )
            if not file.is_file():  # a link to nothing is none either
                raise InputError(
                    f"class folder {str(folder)!r} must hold image files only, got {file.name!r}, "
                    "which is no regular file. Remove it."
                )
        if not files:
            raise InputError(
                f"class folder {str(folder)!r} must hold an image, got an empty folder. "
                "Add images or remove it."
            )
        classes[folder.name] = files
    return classes


def _visible(path: Path, *, folders: bool) -> list[Path]:
    """Folders, or files, directly in a folder, without hidden ones, in natural order."""
    with os.scandir(path) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.is_dir() == folders
            and not entry.name.startswith(".")
            and entry.name not in _CLUTTER
        ]
    return [path / name for name in sorted(names, key=natural_order)]


def _load_path_table(
    path: Path,
    columns: Columns,
    where: str,
    split: str | None,
    image_size: ImageSize | None,
    channels: int | None,
) -> ImageFiles:
    table = read_path_table(path, columns)
    codes, names = encode_cells(table.labels)
    keep = _kept(table.splits, len(table.paths), split, where)
    paths = list(compress(table.paths, keep))
    return ImageFiles(paths, codes[torch.tensor(keep)], names, image_size, channels)


def _load_number_table(
    path: Path,
    columns: Columns,
    where: str,
    split: str | None,
    image_size: ImageSize | None,
    channels: int | None,
) -> ArrayDataset:
    table = read_number_table(path, columns)
    codes, names = encode_cells(table.labels)
    keep = np.array(_kept(table.splits, len(codes), split, where))
    items = table.items if keep.all() else table.items[keep]
    parts = {"all": _Part(partial(np.asarray, items), codes[torch.from_numpy(keep)])}
    return _in_memory(parts, where, None, image_size, channels, names, table.scale)


def _kept(splits: Sequence[str] | None, count: int, split: str | None, where: str) -> list[bool]:
    """Which rows of a table are of the part asked for."""
    chosen = _choose(set(splits or ()), split, where)
    return [True] * count if split is None else [part in chosen for part in splits or ()]
