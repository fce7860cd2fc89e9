"""Sources of data, opened as a model or a training needs them."""

from pathlib import Path
from typing import Any

from likewise import data
from likewise._checks import check_choice
from likewise.data.loading import TABLES
from likewise.data.tables import read_header
from likewise.errors import InputError
from likewise.model import SimilarityModel


def open_data(
    source: str | Path,
    split: str | None = None,
    *,
    default_split: str = "train",
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> data.Dataset:
    """One part of a source: the part asked for, or the default one where the source has parts.

    Args:
        source: Anything that `data.load` reads.
        split: "train", "val", "test" or "all".
        default_split: The part that is read where the source has parts and none is asked for.
        image_size: Side of the images, or (height, width).
        channels: 1 for gray images, 3 for color.
    """
    if split is None and data.has_splits(source):
        split = default_split
    if split is not None:
        check_choice("split", split, ("train", "val", "test", "all"))
    part = None if split == "all" else split
    return data.load(source, split=part, image_size=image_size, channels=channels)


def open_fitting(
    model: SimilarityModel, source: str | Path, split: str | None = None, *, default_split: str
) -> data.Dataset:
    """A part of a source, with images read as the model's items are; see `open_data`."""
    return open_data(source, split, default_split=default_split, **_size(model))


def open_pairs(model: SimilarityModel, source: str | Path) -> data.GivenPairs:
    """A table of pairs, with images read as the model's items are.

    Raises:
        InputError: The model has no preprocess, so nothing says how it reads images.
    """
    if model.preprocess is None:
        raise InputError(
            "model must have a preprocess to read image files, got one without. "
            "Make it with preprocess=data.Preprocess.fit(dataset)."
        )
    return data.load_pairs(source, **_size(model))


def is_pair_table(source: str | Path) -> bool:
    """Whether a source is a table whose header names two sides, a and b."""
    path = Path(source)
    if path.suffix.lower() not in TABLES or not path.is_file():
        return False
    return {"a", "b"} <= {name.removeprefix("path_") for name in read_header(path)}


def _size(model: SimilarityModel) -> dict[str, Any]:
    shape = () if model.preprocess is None else model.preprocess.item_shape
    return {"image_size": tuple(shape[1:]), "channels": shape[0]} if len(shape) == 3 else {}
