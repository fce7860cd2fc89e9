"""`load`: one door for every source of labeled data."""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from likewise._checks import check_choice, check_exists
from likewise._parts import is_parts
from likewise.data.benchmarks import BENCHMARKS, PARTS, Benchmark, benchmark_at, benchmark_parts
from likewise.data.cifar import cifar_parts, is_cifar, read_cifar
from likewise.data.datasets import ArrayDataset, stored_items
from likewise.data.downloads import (
    BY_HAND,
    FASHION_CLASSES,
    HOMES,
    IMAGENETTE_CLASSES,
    find_or_download,
    unpacked,
)
from likewise.data.embedded_parts import read_embedded
from likewise.data.framing import ImageSize
from likewise.data.idx import idx_parts, read_idx
from likewise.data.image_folders import files_by_class, folder_parts
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
from likewise.data.records import (
    RECORDS,
    VECTOR_NAMES,
    Records,
    ids_in,
    is_frame,
    labels_in,
    open_records,
    parts_in,
    texts_in,
    vector_columns,
    vectors_in,
)
from likewise.data.saved_datasets import SavedDataset, is_saved_dataset, saved_parts
from likewise.data.shards import TarShards, is_shards
from likewise.data.streams import Stream, collected
from likewise.data.tables import (
    PART_OF,
    PATH_NAMES,
    TABLES,
    Columns,
    find_columns,
    has_test_arrays,
    image_path,
    read_header,
    read_lines,
    read_npy,
    read_npz,
    read_number_table,
    read_path_table,
)
from likewise.data.texts import TextDataset
from likewise.errors import InputError, InputTypeError, MissingFileError

_Read = TypeVar("_Read", ArrayDataset, ImageFiles, TextDataset)
Source = Any  # a name, a path, a table, a list of files, or a pair of items and labels

NAMES = ("digits", *HOMES, *BY_HAND)
NAMED = (*TABLES, *RECORDS)  # tables whose columns have names
FILES = (*NAMED, ".npz", ".npy")

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


@dataclass(frozen=True)
class _Asked:
    """What is to be read of a source, and how."""

    split: str | None
    size: ImageSize | None
    channels: int | None
    text: str | None
    label: str | None
    vectors: str | None
    path_column: str | None
    id: str | None
    labels: str | Path | None
    skip_unreadable: bool
    unchecked: bool

    @property
    def checks(self) -> bool:
        """Whether the files that a table names must be there."""
        return not (self.skip_unreadable or self.unchecked)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named."""
        named = {
            "text": self.text,
            "label": self.label,
            "vectors": self.vectors,
            "path_column": self.path_column,
            "id": self.id,
        }
        return {name: column for name, column in named.items() if column is not None}

    def files(
        self, paths: Sequence[str | Path], labels: Labels, names: Sequence[str] | None = None
    ) -> ImageFiles:
        """Image files, opened as asked."""
        return ImageFiles(
            paths, labels, names, self.size, self.channels, skip_unreadable=self.skip_unreadable
        )


def load(
    source: Source,
    *,
    split: str | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    text: str | None = None,
    label: str | None = None,
    vectors: str | None = None,
    path_column: str | None = None,
    id: str | None = None,
    labels: str | Path | None = None,
    skip_unreadable: bool = False,
    unchecked: bool = False,
) -> ArrayDataset | ImageFiles | TextDataset | Subset:
    """Labeled data from wherever it is; every part has the codes and names of the whole.

    ======================  ===================================================================
    source                  what is read, and its parts
    ======================  ===================================================================
    "digits"                scikit-learn's 1,797 digits (1, 8, 8) in 0..1; train and test are a
                            fixed split of every class, 75% and 25%
    "mnist",                idx files in $LIKEWISE_DATA/<name> (default ../shared/data/<name>),
    "fashion-mnist"         else downloaded; train and test as published
    "cifar-10",             small photographs (3, 32, 32) of 10 or 100 classes, of the latter the
    "cifar-100"             fine ones; found or downloaded; train and test as published
    "imagenette",           ten classes of ImageNet, of several sizes: give image_size; likewise
    "imagenette-320",       found or downloaded and unpacked; the published val is test
    "imagenette-160"
    "lfw"                   Labeled Faces in the Wild, people as classes, found or downloaded;
                            no parts. For its pairs see `lfw_pairs`
    "omniglot"              drawn characters (1, 105, 105), ink 1 on 0, found or downloaded;
                            train is the background set (964 characters of 30 alphabets), test
                            the evaluation set (659 of 20). Classes are "Greek/character01";
                            see `omniglot.alphabets` and `omniglot.one_shot_runs`
    "cub-200-2011",         birds and cars: the first half of the classes is train, the other test,
    "cars196"               as retrieval is reported; cars196 must be in the folder
    "stanford-online-       products, as listed in Ebay_train.txt and Ebay_test.txt; classes are
    products"               "bicycle/1"
    "in-shop"               clothes; train, query and gallery, where test is these two together;
                            must be in the folder
    "inaturalist-2018"      species, split by species as in Inat_dataset_splits/; must be in the
                            folder. See `evaluation.evaluate_benchmark` for all five
    folder of one of these  the same, recognized by its lists
    folder of idx files     train-images-idx3-ubyte and so on, gzipped or not; t10k is test
    folder of images        every folder that holds images is a class, named by its path from
                            here, as "cat" or "animal/cat"; images directly in this folder are
                            unlabeled. The classes may lie within train/, val/ and test/, or
                            some of them. Decoded when fetched
    list of image files     unlabeled; (files, labels) for labels; decoded when fetched
    table with a path       a table of image files, relative to it, with their labels if it has a
                            column of them; parts where it has a column split; decoded when
                            fetched
    table with text=        a column of texts, as a `TextDataset`; labels and parts likewise
    .csv or .tsv, label     see `likewise.data.tables.find_columns` for headers, separators and
    and numbers             the place of the label, and `read_number_table` for the numbers;
                            parts where it has a column split
    any other table         a column of lists of numbers is vectors (n, d), and so are all
                            columns of numbers together; labels and parts likewise
    .npz                    arrays x and y; with x_test and y_test, these are test, x is train;
                            without y, unlabeled. With label= or vectors=, arrays of those names
    .npy                    items, mapped and not copied where they are float32; labels= has
                            their labels
    folder of save_to_disk  a dataset of Hugging Face, read into memory; see `SavedDataset`. text=
                            and vectors= name the column of items
    folder of parts         embeddings that `likewise embed` wrote, as vectors (n, d); no parts
    .tar                    a shard of WebDataset, or several as "train-{00..15}.tar", read into
                            memory; see `TarShards`
    (items, labels)         arrays or tensors; no parts
    ======================  ===================================================================

    Tables are .csv, .tsv, .jsonl, .parquet, .feather and .arrow files, pandas frames and Arrow
    tables; all but the first three take `likewise[tables]`.

    Integer labels of -1 are unlabeled items, in a table where all its labels are whole numbers;
    so are items whose label is null.

    Args:
        source: a name, a path, a table, a list of image files, or a pair of arrays. Names win
            over paths: write "./mnist" for a folder of that name.
        split: "train", "val" (also called "valid" or "validation"), "test", or all together; of
            "in-shop" also "query" and "gallery". A source with the parts train and val only has
            val as its test part.
        image_size: (height, width) or one number for both; images are resized to it. A
            `Framing` also says how. See `ImageFiles` for what is done without.
        channels: 1 for gray, 3 for color; by default 3 if any image is in color.
        text: the column of a table that holds texts, which are then the items.
        label: the column of a table that holds labels, if it is none of label, class, target,
            category and species.
        vectors: the column of a table that holds lists of numbers, if there are several; or a
            pattern of columns of numbers, such as "v*". In a CSV a list is a text such as
            "[0.1, 0.2]".
        path_column: the column of a table that names image files, if it is none of path, file,
            filename, image and image_path.
        id: the column of a table that holds ids, texts or whole numbers; `ids_of` then tells them.
        labels: a file with the labels of an .npy, in its order: text with one in each line, or
            another .npy.
        skip_unreadable: leave out image files that cannot be read, with a warning that counts and
            names them, instead of refusing them.
        unchecked: look for the files that a table names only when they are fetched.

    Raises:
        FileNotFoundError: no such name or path, or a file that a table lists is not there.
        InputError: the source is damaged, empty or of no known kind, or has no such part.
        InputTypeError: the source is none of these.

    Example:
        >>> data = load("digits", split="test")
        >>> len(data), data.item_shape, data.class_names[:3]
        (447, (1, 8, 8), ['0', '1', '2'])
    """
    if split is not None:
        split = PART_OF.get(split, split)
        check_choice("split", split, PARTS)
    size = check_image_size(image_size)
    check_channels(channels)
    asked = _Asked(
        split,
        size,
        channels,
        text,
        label,
        vectors,
        path_column,
        id,
        labels,
        skip_unreadable,
        unchecked,
    )
    if is_frame(source):
        return _load_records(open_records(source), Path.cwd(), asked)
    is_path = isinstance(source, (str, Path))
    _check_columns(asked, None if not is_path or source in NAMES else Path(source))
    if isinstance(source, (tuple, list)) and _are_paths(source):
        _choose((), split, "the list of files")
        return asked.files(source, [-1] * len(source), [])
    if isinstance(source, (tuple, list)) and len(source) == 2:
        items, codes = source
        if isinstance(items, (tuple, list)) and _are_paths(items):
            _choose((), split, "the list of files")
            return asked.files(items, codes)
        parts = {"all": _Part(lambda: items, codes)}
        return _in_memory(parts, "the pair of arrays", split, size, channels)
    if not is_path:
        raise InputTypeError(
            "source must be a name, a path, a table, a list of image files or a pair (items, "
            f"labels), got {type(source).__name__}. Put arrays into a pair."
        )
    if source == "digits":
        return _load_digits(split, size, channels)

    path = _find(source)
    where = repr(str(path))
    if source == "omniglot":
        drawn, names = omniglot_parts(path)
        parts = {part: _Part(read, codes) for part, (read, codes) in drawn.items()}
        return _in_memory(parts, where, split, size, channels, names)
    match _kind(path):
        case "idx":
            return _load_idx(path, where, asked)
        case "cifar":
            return _load_cifar(path, where, asked)
        case "folder":
            return _load_folder(path, where, asked)
        case "benchmark":
            return _load_benchmark(path, where, asked)
        case "image":
            _choose((), split, where)
            return asked.files([path], [-1], [])
        case "saved":
            chosen = None if split is None else _choose(saved_parts(path), split, where)[0]
            item = text if text is not None else vectors
            opened = SavedDataset(path, chosen)
            return collected(
                Stream(opened, item=item, label=label, image_size=size, channels=channels)
            )
        case "parts":
            _choose((), split, where)
            made = read_embedded(path)
            fit_images(made.embeddings, size, channels)  # refuses both, as they are no images
            return made.source  # type: ignore[no-any-return]
        case "tar":
            _choose((), split, where)
            return collected(Stream(TarShards(source), image_size=size, channels=channels))
        case "npy":
            return _load_npy(path, where, asked)
        case "table" if text is None and not _holds_vectors(path, vectors):
            found = find_columns(path, path_column=path_column, label=label, id=id)
            if found.path is not None:
                return _load_path_table(path, found, where, asked)
            return _load_number_table(path, found, where, asked)
        case "table":
            return _load_records(open_records(path, numbers=text is None), path.parent, asked)
        case "npz" if not asked.columns:
            arrays = read_npz(path)
            parts = {part: _Part(partial(np.asarray, x), y) for part, (x, y) in arrays.items()}
            return _in_memory(parts, where, split, size, channels)
        case _:
            return _load_records(open_records(path), path.parent, asked)


def has_splits(
    source: Source,
    *,
    text: str | None = None,
    label: str | None = None,
    vectors: str | None = None,
    path_column: str | None = None,
    id: str | None = None,
) -> bool:
    """Whether `load` can give the parts "train" and "test" of a source; reads next to nothing.

    Args:
        source: Source as `load` takes it, like the other arguments.
        text: the column of texts.
        label: the column of labels.
        vectors: the column of lists of numbers.
        path_column: the column of image files.
        id: the column of ids.

    Raises:
        FileNotFoundError: no such name or path.
        InputError: the source is of no known kind.

    Example:
        >>> has_splits("digits"), has_splits(([[1.0], [2.0]], ["a", "b"]))
        (True, False)
    """
    if is_frame(source):
        return open_records(source).has("split") is not None
    if not isinstance(source, (str, Path)):
        return False
    if source in NAMES:
        return source != "lfw"
    path = _find(source)
    match _kind(path):
        case "idx":
            return set(idx_parts(path)) == {"train", "test"}
        case "cifar":
            return set(cifar_parts(path)) == {"train", "test"}
        case "benchmark":
            return True
        case "folder":
            found = set(folder_parts(path))
            return "train" in found and bool(found & {"val", "test"})
        case "table" if text is None and not _holds_vectors(path, vectors):
            return find_columns(path, path_column=path_column, label=label, id=id).split is not None
        case "npz":
            return (label, vectors, id) == (None, None, None) and has_test_arrays(path)
        case "saved":
            found = set(saved_parts(path))
            return "train" in found and bool(found & {"val", "test"})
        case "npy" | "image" | "tar" | "parts":
            return False
        case _:
            return open_records(path).has("split") is not None


def benchmark_of(source: str | Path) -> Benchmark:
    """The retrieval benchmark of a name or a folder.

    Raises:
        InputError: it is none.
        FileNotFoundError: it is not there.
    """
    found = None
    if isinstance(source, (str, Path)) and (source not in NAMES or source in BENCHMARKS):
        path = _find(source)
        found = benchmark_at(path) if path.is_dir() else None
    if found is None:
        raise InputError(
            f"must be one of {', '.join(BENCHMARKS)}, or a folder with the lists of one, got "
            f"{str(source)!r}. Judge other data with evaluate_retrieval.",
            argument="source",
        )
    return found


def _find(source: str | Path) -> Path:
    if source in (*HOMES, *BY_HAND):
        folder = unpacked(find_or_download(str(source)), str(source))
        if source in BENCHMARKS and not BENCHMARKS[str(source)].is_at(folder):
            raise InputError(
                f"must have the lists of {str(source)!r} in its folder, got none in "
                f"{str(folder)!r}. Put there all that was published, as its archive has it.",
                argument="source",
            )
        return folder
    path = Path(os.path.expanduser(source))  # which leaves users that it does not know
    if is_shards(path):  # perhaps a pattern
        return TarShards(path).shards[0]
    if not str(source) or not path.exists():
        raise MissingFileError(
            f"must be one of {', '.join(NAMES)}, or a path that exists, got {str(source)!r}. "
            "Check the spelling.",
            argument="source",
        )
    return path


def _are_paths(source: Sequence[Any]) -> bool:
    return bool(source) and all(isinstance(each, (str, Path)) for each in source)


def _check_columns(asked: _Asked, path: Path | None) -> None:
    """Refuse columns for what is no table, and a file of labels for what brings its own."""
    suffix = "" if path is None else path.suffix.lower()
    is_table = path is not None and (
        is_saved_dataset(path) if path.is_dir() else suffix in (*NAMED, ".npz")
    )
    if asked.columns and not is_table:
        raise InputError(
            "must be left out unless source is a table, got "
            f"{next(iter(asked.columns.values()))!r}. Leave it out.",
            argument=next(iter(asked.columns)),
        )
    if asked.labels is not None and suffix != ".npy":
        raise InputError(
            f"must be left out unless source is an .npy, got {str(asked.labels)!r}. "
            "Other sources bring their labels.",
            argument="labels",
        )


def _kind(path: Path) -> str:
    """One of idx, cifar, benchmark, folder, parts, saved, table, records, npz, npy, tar, image."""
    if path.is_dir() and benchmark_at(path) is not None:
        return "benchmark"
    if path.is_dir():
        if is_parts(path):
            return "parts"
        if is_saved_dataset(path):
            return "saved"
        if is_cifar(path):
            return "cifar"
        return "idx" if idx_parts(path) else "folder"
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return "table"
    if suffix in RECORDS:
        return "records"
    if suffix in (".npz", ".npy"):
        return suffix[1:]
    if is_shards(path):
        return "tar"
    if is_image_name(path):
        return "image"
    raise InputError(
        "must be a folder, an image or a .csv, .tsv, .jsonl, .parquet, .feather, .arrow, .npz, "
        f".npy or .tar file, got {str(path)!r}. Put images into one folder per class.",
        argument="source",
    )


def _choose(parts: Collection[str], split: str | None, where: str) -> list[str]:
    """The parts to read, refusing one that the source has not."""
    if split is None:
        return list(parts)
    if split == "test" and "test" not in parts and {"train", "val"} <= set(parts):
        split = "val"  # the part to test on, where there are two
    if split not in parts:
        known = [part for part in PARTS if part in parts]
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


def _load_idx(path: Path, where: str, asked: _Asked) -> ArrayDataset:
    parts = {
        part: _Part(partial(read_idx, images), read_idx(labels))
        for part, (images, labels) in idx_parts(path).items()
    }
    fashion = all(
        hashlib.sha256(np.asarray(part.labels).tobytes()).hexdigest() == _FASHION_SHA256[name]
        for name, part in parts.items()
    )
    names = FASHION_CLASSES if fashion else None
    return _in_memory(parts, where, asked.split, asked.size, asked.channels, names)


def _load_cifar(path: Path, where: str, asked: _Asked) -> ArrayDataset:
    parts: dict[str, _Part] = {}
    names: list[str] = []
    for part in _choose(cifar_parts(path), asked.split, where):
        images, codes, names = read_cifar(path, part)
        parts[part] = _Part(partial(np.asarray, images), codes)
    if not parts:
        raise InputError(
            f"must hold the .bin files of CIFAR, got none in {where}. Unpack its archive there.",
            argument="source",
        )
    return _in_memory(parts, where, None, asked.size, asked.channels, names)


def _load_folder(path: Path, where: str, asked: _Asked) -> ImageFiles:
    parts = folder_parts(path)
    files = {part: files_by_class(folder) for part, folder in parts.items()}
    found = {name for classes in files.values() for name in classes if name is not None}
    names = sorted(found, key=natural_order)
    readable = IMAGENETTE_CLASSES if names == list(IMAGENETTE_CLASSES) else {}
    code_of: dict[str | None, int] = {name: code for code, name in enumerate(names)}
    paths: list[Path] = []
    labels: list[int] = []
    for part in _choose([each for each in parts if each != "all"], asked.split, where) or parts:
        for name, class_files in files[part].items():
            paths += class_files
            labels += [code_of.get(name, -1)] * len(class_files)
    return asked.files(paths, labels, [readable.get(name, name) for name in names])


def _load_benchmark(path: Path, where: str, asked: _Asked) -> ImageFiles:
    parts = benchmark_parts(path)
    both = [part for part in ("query", "gallery") if part in parts]
    chosen = both if both and asked.split == "test" else _choose(parts, asked.split, where)
    names = sorted({name for _, of in parts.values() for name in of}, key=natural_order)
    code_of = {name: code for code, name in enumerate(names)}
    files = [file for part in chosen for file in parts[part][0]]
    labels = [code_of[name] for part in chosen for name in parts[part][1]]
    return asked.files(files, labels, names)


def _load_path_table(path: Path, columns: Columns, where: str, asked: _Asked) -> ImageFiles:
    table = read_path_table(path, columns, check=asked.checks)
    codes, names = _encoded(table.labels or [None] * len(table.paths))
    keep = _kept(table.splits, len(table.paths), asked.split, where)
    files = asked.files(list(compress(table.paths, keep)), codes[torch.tensor(keep)], names)
    return _named(files, _ids_of_file(path, asked, keep), list(compress(table.paths, keep)))


def _load_records(
    records: Records, home: Path, asked: _Asked
) -> ArrayDataset | ImageFiles | TextDataset:
    """Texts, image files or vectors, whichever a table has; see `load`."""
    label = records.label(asked.label)
    split = records.has("split")
    text = None if asked.text is None else records.find("text", asked.text)
    files = None
    if asked.path_column is not None:
        files = records.find("path_column", asked.path_column)
    elif text is None and asked.vectors is None:
        files = next(filter(None, map(records.has, PATH_NAMES)), None)
    id_ = None if asked.id is None else records.find("id", asked.id)
    if text is not None or files is not None:
        items = [text or files or ""]
    else:
        items = vector_columns(records, asked.vectors, (label, split, id_))
    cells = records.read(list(dict.fromkeys([*items, *filter(None, (label, split, id_))])))
    count = len(cells[items[0]])
    if not count:
        raise InputError(f"{records.name} must have a row, got none. Add items.")
    codes, names = _encoded(
        [None] * count if label is None else labels_in(records, label, cells[label])
    )
    splits = None if split is None else parts_in(records, split, cells[split])
    keep = _kept(splits, count, asked.split, records.name)
    codes = codes[torch.tensor(keep)]
    ids = None if id_ is None else _ids(records, id_, cells[id_], keep)
    if text is not None:
        texts = texts_in(records, text, cells[text])
        return _named(TextDataset(list(compress(texts, keep)), codes, names), ids)
    if files is not None:
        named = [str(cell) for cell in compress(cells[files], keep)]
        check = asked.checks
        paths = [
            image_path(home / "-", cell, records.where(row), check=check)
            for row, cell in enumerate(named)
        ]
        return _named(asked.files(paths, codes, names), ids, paths)
    found = vectors_in(records, items, cells)
    parts = {"all": _Part(lambda: found if all(keep) else found[np.array(keep)], codes)}
    return _named(_in_memory(parts, records.name, None, asked.size, asked.channels, names), ids)


def _ids(
    records: Records, column: str, cells: Sequence[Any], keep: Sequence[bool]
) -> list[Any] | InputError:
    """The ids of the rows that are kept; a faulty cell is refused only by what asks for ids."""
    try:
        return list(compress(ids_in(records, column, cells), keep))
    except InputError as error:
        return error


def _ids_of_file(path: Path, asked: _Asked, keep: Sequence[bool]) -> list[Any] | InputError | None:
    if asked.id is None:
        return None
    records = open_records(path)
    column = records.find("id", asked.id)
    return _ids(records, column, records.read([column])[column], keep)


def _named(dataset: _Read, ids: list[Any] | InputError | None, paths: Sequence[str] = ()) -> _Read:
    """The dataset with the ids of its items; of files, without the ids of those skipped."""
    if isinstance(ids, list) and isinstance(dataset, ImageFiles) and dataset.skipped:
        skipped = set(dataset.skipped)
        ids = [id_ for id_, path in zip(ids, paths, strict=True) if path not in skipped]
    dataset.ids = ids
    return dataset


def _holds_vectors(path: Path, vectors: str | None) -> bool:
    """Whether a CSV is asked for vectors, or has a column by the usual name of lists of them."""
    return vectors is not None or not {*VECTOR_NAMES}.isdisjoint(read_header(path))


def _load_npy(path: Path, where: str, asked: _Asked) -> ArrayDataset:
    items = read_npy(path)
    labels: Labels = [-1] * len(items) if items.ndim else []
    if asked.labels is not None:
        file = Path(asked.labels)
        check_exists("labels", file)
        labels = read_npy(file) if file.suffix.lower() == ".npy" else read_lines(file)
    if not isinstance(labels, np.ndarray) and labels and isinstance(labels[0], str):
        labels, names = encode_cells(labels)  # type: ignore[arg-type]
        part = {"all": _Part(lambda: items, labels)}
        return _in_memory(part, where, asked.split, asked.size, asked.channels, names)
    part = {"all": _Part(lambda: items, labels)}
    return _in_memory(part, where, asked.split, asked.size, asked.channels)


def _encoded(cells: Sequence[str | None]) -> tuple[Tensor, list[str]]:
    """Codes and names of the labels in a table; None is unlabeled."""
    told = torch.tensor([cell is not None for cell in cells])
    codes = torch.full((len(cells),), -1)
    found, names = encode_cells([cell for cell in cells if cell is not None])
    codes[told] = found
    return codes, names


def _load_number_table(path: Path, columns: Columns, where: str, asked: _Asked) -> ArrayDataset:
    table = read_number_table(path, columns)
    codes, names = encode_cells(table.labels)
    keep = np.array(_kept(table.splits, len(codes), asked.split, where))
    items = table.items if keep.all() else table.items[keep]
    parts = {"all": _Part(partial(np.asarray, items), codes[torch.from_numpy(keep)])}
    made = _in_memory(parts, where, None, asked.size, asked.channels, names, table.scale)
    return _named(made, _ids_of_file(path, asked, keep.tolist()))


def _kept(splits: Sequence[str] | None, count: int, split: str | None, where: str) -> list[bool]:
    """Which rows of a table are of the part asked for."""
    chosen = _choose(set(splits or ()), split, where)
    return [True] * count if split is None else [part in chosen for part in splits or ()]
