"""Published retrieval benchmarks: what lies where in their folders, and their splits."""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from likewise._checks import check_exists
from likewise._files import read_regular
from likewise.data.tables import read_words
from likewise.errors import InputError, MissingFileError

Listed = list[tuple[str, str]]  # (image file as seen from the folder, class) of a part's items

CUB_TRAIN, CARS_TRAIN = 100, 98  # the last class number of the training half
CARS = "cars_annos.mat"  # of all images; or lists of two halves, mixed of all classes
CARS_KIT = ("devkit/cars_train_annos.mat", "cars_train_annos.mat")
CARS_TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
IN_SHOP = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
NATURALIST = "Inat_dataset_splits"


@dataclass(frozen=True)
class Benchmark:
    """A retrieval benchmark as it was published.

    Attributes:
        name: what `data.load` calls it.
        ks: the ranks at which its recall, the hit rate, is reported.
        read: the items of each part: "train" and "test", or "train", "query" and "gallery".
        is_at: whether a folder is laid out so.
        images: folders, as seen from the benchmark's own, that may hold its images.
    """

    name: str
    ks: tuple[int, ...]
    read: Callable[[Path], dict[str, Listed]]
    is_at: Callable[[Path], bool]
    images: tuple[str, ...] = (".",)

    @property
    def has_gallery(self) -> bool:
        """Whether queries search a gallery, and not each other."""
        return self.read is _in_shop


def benchmark_at(folder: Path) -> Benchmark | None:
    """The benchmark that a folder is laid out like, if any."""
    return next((each for each in BENCHMARKS.values() if each.is_at(folder)), None)


def benchmark_parts(folder: Path) -> dict[str, tuple[list[Path], list[str]]]:
    """The image files and their classes of each part; a part without any is left out.

    Raises:
        InputError: the folder is laid out like none, or a list is damaged.
        FileNotFoundError: a list is missing, or the first image is in none of the places.
    """
    benchmark = benchmark_at(folder)
    if benchmark is None:
        raise InputError(f"{str(folder)!r} must hold the lists of a benchmark, got none.")
    parts = {part: listed for part, listed in benchmark.read(folder).items() if listed}
    if not parts:
        raise InputError(
            f"{str(folder)!r} must list images of {benchmark.name}, got none. Fetch it again."
        )
    found = {}
    for part, listed in parts.items():
        homes = [folder / place for place in benchmark.images]
        home = next((home for home in homes if (home / listed[0][0]).is_file()), None)
        if home is None:
            raise MissingFileError(
                f"{str(folder)!r} must hold the image {listed[0][0]!r} that its lists name, got no "
                "such file. Unpack the archive of images there."
            )
        found[part] = [home / file for file, _ in listed], [name for _, name in listed]
    return found


def _cub(folder: Path) -> dict[str, Listed]:
    class_of = dict(_rows(folder / "image_class_labels.txt", "a class", 2))
    parts: dict[str, Listed] = {"train": [], "test": []}
    for image, file in _rows(folder / "images.txt", "a file", 2):
        number = class_of.get(image, "")
        if not number.isdecimal():
            raise InputError(
                f"{str(folder / 'image_class_labels.txt')!r} must hold the class number of image "
                f"{image}, got {number or 'none'!r}. Fetch it again."
            )
        part = "train" if int(number) <= CUB_TRAIN else "test"
        parts[part].append((f"images/{file}", file.partition("/")[0]))
    return parts


def _cars(folder: Path) -> dict[str, Listed]:
    if (folder / CARS).exists():
        table = _mat(folder / CARS, "annotations", "class_names")
        files = _column(folder, table["annotations"], "relative_im_path")
        items = list(zip(files, _column(folder, table["annotations"], "class"), strict=True))
        names = np.atleast_1d(table["class_names"]).tolist()
    else:
        kit = _first(folder, CARS_KIT).parent
        names = np.atleast_1d(_mat(kit / "cars_meta.mat", "class_names")["class_names"]).tolist()
        items = []
        for images, file in (
            ("cars_train", kit / "cars_train_annos.mat"),
            ("cars_test", _first(folder, CARS_TEST)),
        ):
            table = _mat(file, "annotations")["annotations"]
            base = images if not (folder / images / images).is_dir() else f"{images}/{images}"
            named = [f"{base}/{name}" for name in _column(folder, table, "fname")]
            items += zip(named, _column(folder, table, "class"), strict=True)
    parts: dict[str, Listed] = {"train": [], "test": []}
    for name, number in items:
        if not 1 <= int(number) <= len(names):
            raise InputError(
                f"{str(folder)!r} must name the class of every image, got {int(number)} where "
                f"{len(names)} are named. Fetch it again."
            )
        part = "train" if int(number) <= CARS_TRAIN else "test"
        parts[part].append((str(name), str(names[int(number) - 1])))
    return parts


def _products(folder: Path) -> dict[str, Listed]:
    parts = {}
    for part in ("train", "test"):
        rows = _rows(folder / f"Ebay_{part}.txt", "an image, two classes and a file", 4, skip=1)
        parts[part] = [
            (file, f"{file.rpartition('/')[0].removesuffix('_final')}/{number}")
            for _, number, _, file in rows
        ]
    return parts


def _in_shop(folder: Path) -> dict[str, Listed]:
    parts: dict[str, Listed] = {"train": [], "query": [], "gallery": []}
    file = _first(folder, IN_SHOP)
    for image, item, part in _rows(file, "an image, an item and its part", 3, skip=2):
        if part not in parts:
            raise InputError(
                f"{str(file)!r} must call parts train, query or gallery, got {part!r}. "
                "Fetch it again."
            )
        parts[part].append((image, item))
    return parts


def _naturalist(folder: Path) -> dict[str, Listed]:
    parts = {}
    for part in ("train", "test"):
        file = folder / NATURALIST / f"Inaturalist_{part}_set1.txt"
        rows = _rows(file, "a file", 1)
        parts[part] = [(image, "/".join(image.split("/")[-3:-1])) for (image,) in rows]
    return parts


def _rows(file: Path, what: str, count: int, *, skip: int = 0) -> Iterable[list[str]]:
    """The words of each line after the first `skip`, `count` in each."""
    check_exists("list of images", file)
    for where, words in islice(read_words(file), skip, None):
        if len(words) != count:
            raise InputError(
                f"{where} must hold {what}, {count} words in all, got {' '.join(words)[:80]!r}. "
                "Fetch the file again."
            )
        yield words


def _mat(file: Path, *names: str) -> Mapping[str, Any]:
    """Some variables of a MATLAB file."""
    from scipy.io import loadmat

    check_exists("annotations", file)
    content = io.BytesIO(read_regular(file))
    try:
        found: dict[str, Any] = loadmat(content, squeeze_me=True, variable_names=list(names))
    except Exception as error:  # its parser raises whatever it meets
        raise InputError(
            f"{str(file)!r} must be a whole MATLAB file, got a damaged one. Fetch it again."
        ) from error
    for name in names:
        if name not in found:
            raise InputError(f"{str(file)!r} must hold {name}, got none. Fetch it again.")
    return found


def _column(folder: Path, table: Any, name: str) -> list[Any]:
    """A field of a MATLAB table, one value per row."""
    if getattr(table, "dtype", None) is None or name not in (table.dtype.names or ()):
        raise InputError(
            f"annotations in {str(folder)!r} must have the field {name!r}, got none. "
            "Use the file with labels."
        )
    values: list[Any] = np.atleast_1d(table[name]).tolist()
    return values


def _first(folder: Path, names: Iterable[str]) -> Path:
    """The first of these files that is there, else the first."""
    files = [folder / name for name in names]
    return next((file for file in files if file.exists()), files[0])


def _is_in_shop(folder: Path) -> bool:
    file = _first(folder, IN_SHOP)
    if not file.is_file():
        return False
    try:
        head = [words for _, words in islice(read_words(file), 2)]
    except InputError:
        return False
    return len(head) > 1 and head[1] == ["image_name", "item_id", "evaluation_status"]


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / name).exists() for name in names)


BENCHMARKS = {
    each.name: each
    for each in (
        Benchmark("cub-200-2011", (1, 2, 4, 8), _cub, _has("images.txt", "image_class_labels.txt")),
        Benchmark(
            "cars196",
            (1, 2, 4, 8),
            _cars,
            lambda folder: _has(CARS)(folder) or any(_has(name)(folder) for name in CARS_KIT),
        ),
        Benchmark(
            "stanford-online-products", (1, 10, 100, 1000), _products, _has("Ebay_train.txt")
        ),
        Benchmark("in-shop", (1, 10, 20, 30), _in_shop, _is_in_shop, (".", "Img")),
        Benchmark("inaturalist-2018", (1, 4, 16, 32), _naturalist, _has(NATURALIST)),
    )
}
PARTS = ("train", "val", "test", "query", "gallery")  # of any source
