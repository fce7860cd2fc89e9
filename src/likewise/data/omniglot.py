"""Omniglot: drawn characters of fifty alphabets, and its twenty one-shot runs, as data."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from likewise import _tables
from likewise._checks import check_exists
from likewise._files import read_regular
from likewise.data.datasets import Dataset
from likewise.data.downloads import find_or_download
from likewise.data.framing import ImageSize
from likewise.data.images import check_image_size, fit_images
from likewise.data.limits import check_pixels, check_unpacked
from likewise.errors import InputError

PARTS = {"train": "images_background", "test": "images_evaluation"}
_RUNS = "all_runs"

Read = Callable[[str], bytes]


@dataclass(frozen=True, eq=False)
class OneShotRuns:
    """Tasks of the same size: which of the support images shows what a query shows?

    Attributes:
        support: one image per class, (r, w, c, h, w), in 0..1.
        queries: the images asked about, (r, q, c, h, w), in 0..1.
        answers: for each query the position of its class in the support of its run, (r, q).
    """

    support: Float[Tensor, "r w c h w"]
    queries: Float[Tensor, "r q c h w"]
    answers: Int[Tensor, "r q"]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html


def one_shot_runs(
    folder: str | Path = "omniglot", *, image_size: ImageSize | None = None
) -> OneShotRuns:
    """The 20 one-shot runs published with Omniglot: 20 classes and 20 queries each.

    The images are among those of `load("omniglot", split="test")`, and look as they do there:
    ink is 1, and the same `image_size` makes the same image of them. In each run all characters
    are of one alphabet, the support drawn by one person and the queries by another.

    Args:
        folder: where all_runs.zip is, or the folder all_runs; "omniglot" is found or downloaded
            as `load` does it.
        image_size: (height, width) or one number for both; by default 105.

    Raises:
        FileNotFoundError: the folder, or all_runs.zip in it, is not there.
        InputError: the file is damaged, or a run does not hold what the others hold.

    Source:
        Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic
        program induction", Science 2015, the one-shot classification task.
    """
    path = find_or_download("omniglot") if folder == "omniglot" else Path(folder).expanduser()
    check_exists("folder", path)
    names, read = _files(path, _RUNS)
    tables = [name for name in names if name.endswith("/class_labels.txt")]
    if not tables:
        raise InputError(
            f"{_RUNS} in {str(path)!r} must hold class_labels.txt of each run, got none. "
            "Fetch it again."
        )
    support, queries, answers = zip(*(_run(table, names, read) for table in tables), strict=True)
    if (
        len({(len(classes), len(asked)) for classes, asked in zip(support, queries, strict=True)})
        > 1
    ):
        raise InputError(
            f"runs in {str(path)!r} must all be of one size, got several. Fetch {_RUNS} again."
        )
    size = check_image_size(image_size)

    def images(runs: Sequence[Sequence[str]]) -> Float[Tensor, "r w c h w"]:
        drawings = _drawings([name for run in runs for name in run], read)
        fitted = fit_images(torch.from_numpy(drawings)[:, None], size, None)
        fitted = fitted.view(len(runs), -1, *fitted.shape[1:])
        return fitted.float() * (1 / 255)  # as `ArrayDataset` does

    return OneShotRuns(images(support), images(queries), torch.tensor(answers))


def alphabets(data: Dataset) -> tuple[Int[Tensor, " n"], list[str]]:
    """The alphabet of every item of an Omniglot dataset, as codes, and the alphabets' names.

    What stands before the first "/" of its class name, "Greek" of "Greek/character01".

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(np.eye(3), ["Greek/character01", "Greek/character02", "Futurama/a"])
        >>> alphabets(data)
        (tensor([1, 1, 0]), ['Futurama', 'Greek'])
    """
    of_class = [name.partition("/")[0] for name in data.class_names]
    names = sorted(set(of_class))
    return torch.tensor([names.index(name) for name in of_class])[data.labels], names


def omniglot_parts(
    folder: Path,
) -> tuple[dict[str, tuple[Callable[[], np.ndarray], np.ndarray]], list[str]]:
    """For each split what reads its drawings, (n, h, w) uint8, and their codes; the class names.

    Drawings come by character, and within it by drawer: number 1 to 20 of those who drew its
    alphabet. The characters of "train" have the codes from 0 on.
    """
    names: dict[str, int] = {}
    parts: dict[str, tuple[Callable[[], np.ndarray], np.ndarray]] = {}
    for split, part in PARTS.items():
        found, read = _files(folder, part)
        files = [name for name in found if name.endswith(".png") and name.count("/") == 2]
        if not files:
            raise InputError(
                f"{part} in {str(folder)!r} must hold <alphabet>/<character>/<drawing>.png, got "
                "no such file. Fetch it again."
            )
        codes = [names.setdefault(name.rpartition("/")[0], len(names)) for name in files]
        parts[split] = (partial(_drawings, files, read), np.array(codes))
    return parts, list(names)


def _files(folder: Path, part: str) -> tuple[list[str], Read]:
    """Names of the files within a part, in order, and what reads one of them."""
    if (folder / part).is_dir():
        found = [path for path in (folder / part).rglob("*") if path.is_file()]
        names = sorted(path.relative_to(folder / part).as_posix() for path in found)
        return _visible(names), lambda name: read_regular(folder / part / name)
    path = folder / f"{part}.zip"
    check_exists(f"file of {part}", path)
    try:
        packed = zipfile.ZipFile(io.BytesIO(read_regular(path)))
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{str(path)!r} must be a whole zip file, got a damaged one. Fetch it again."
        ) from error
    member_of = {name.removeprefix(f"{part}/"): name for name in packed.namelist()}
    files = [name for name in sorted(member_of) if not name.endswith("/")]

    def read(name: str) -> bytes:
        member = packed.getinfo(member_of[name])
        check_unpacked(f"{name!r} in {str(path)!r}", member.compress_size, member.file_size)
        return packed.read(member)

    return _visible(files), read


def _visible(names: list[str]) -> list[str]:
    return [name for name in names if not name.rpartition("/")[2].startswith(".")]


def _drawings(files: Sequence[str], read: Read) -> np.ndarray:
    """Ink as 255 on a ground of 0, (n, h, w); the files have it the other way round."""
    drawings = np.empty((0, 0, 0), dtype=np.uint8)
    for i, name in enumerate(files):
        try:
            with Image.open(io.BytesIO(read(name)), formats=("PNG",)) as image:
                check_pixels(repr(name), *image.size)
                drawing = np.asarray(image.convert("L"))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # decoders raise whatever their parsers meet
            raise InputError(
                f"{name!r} must be a whole PNG image, got one that cannot be read. Fetch it again."
            ) from error
        if i == 0:
            drawings = np.empty((len(files), *drawing.shape), dtype=np.uint8)
        if drawing.shape != drawings.shape[1:]:
            raise InputError(
                f"{name!r} must have the size of the first drawing, {drawings.shape[1:]}, got "
                f"{drawing.shape}. Fetch it again."
            )
        np.subtract(255, drawing, out=drawings[i])
    return drawings


def _run(table: str, names: Sequence[str], read: Read) -> tuple[list[str], list[str], list[int]]:
    """Files of the support and of the queries of a run, and the answers."""
    run = table.rpartition("/")[0]
    support = [name for name in names if name.startswith(f"{run}/training/")]
    try:
        content = read(table).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{table!r} must be UTF-8 text, got something else. Fetch {_RUNS} again."
        ) from error
    lines = [line.split() for line in content.splitlines() if line.strip()]
    for cells in lines:
        if len(cells) != 2 or cells[0] not in names or cells[1] not in support:
            raise InputError(
                f"lines of {table!r} must hold an image of test and one of training, got "
                f"{' '.join(cells)!r}. Fetch {_RUNS} again."
            )
    return support, [test for test, _ in lines], [support.index(known) for _, known in lines]
