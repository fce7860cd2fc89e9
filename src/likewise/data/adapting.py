"""The doors to data of others: `as_dataset` for labeled data, `as_items` for items alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    TensorDataset,
    default_collate,
    default_convert,
)
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Subset as TorchSubset

from likewise._checks import as_floats, as_tensor
from likewise.data.cross_pairs import CrossPairs
from likewise.data.datasets import ArrayDataset, Batch, stored_items
from likewise.data.framing import Framing
from likewise.data.images import pixels_of
from likewise.data.labels import encode_labels
from likewise.data.pairs import GivenPairs
from likewise.data.parts import Subset
from likewise.data.streams import ITEM_NAMES, Stream, collected, is_stream
from likewise.data.tables import LABEL_NAMES
from likewise.data.texts import TEXT_SHAPE, TextDataset, are_texts, is_text
from likewise.data.triplets import GivenTriplets
from likewise.errors import InputError, InputTypeError
from likewise.masks import UNLABELED


def as_dataset(data: Any, *, pairs: bool = False) -> Any:
    """Labeled data of others as a `Dataset`; what already is one comes back as it is.

    ========================  =====================================================================
    data                      labels and class names
    ========================  =====================================================================
    (items, labels)           as in `ArrayDataset`; texts as in `TextDataset`
    torch's TensorDataset     its two tensors, items and labels
    torch's Subset            those of the whole, in the order of the part; random_split gives such
    torch's ConcatDataset     those of its parts, classes of equal name being one
    torch's DataLoader        those of its dataset, in the order of that; one that collates in its
                              own way is refused
    Hugging Face datasets     the column label (class, target, ...) and its names; items are the
                              column image, img, text, embedding or vector
    IterableDataset, other    read into memory; see `Stream`. `fit` takes those that are larger
    streams, `Stream`
    any other map-style       its `labels`, or `targets` as torchvision calls them: a tensor, an
    dataset                   array or a list; its `class_names` or `classes` where it has them
    ========================  =====================================================================

    Items are texts, or tensors, arrays or Pillow images in the layouts of `ArrayDataset`; bytes of
    images become 0..1.

    Args:
        data: labeled data.
        pairs: also take pairs and triplets, such as `GivenPairs`, and return them as they are.

    Raises:
        InputTypeError: it is no dataset, or has no labels.
        InputError: labels are not one per item, parts disagree, or a stream is too long.

    Example:
        >>> whole = TensorDataset(torch.eye(4), torch.tensor([7, 7, 9, 9]))
        >>> part = as_dataset(TorchSubset(whole, [3, 0]))
        >>> part.labels, part.class_names, part.item_shape
        (tensor([1, 0]), ['7', '9'], (4,))
    """
    if isinstance(data, (CrossPairs, GivenPairs, GivenTriplets)):
        if not pairs:
            raise InputTypeError(
                f"data must be labeled items, got {type(data).__name__}. Give the items' dataset."
            )
        return data
    if _is_labeled_pair(data):
        return TextDataset(*data) if are_texts(data[0]) else ArrayDataset(*data)
    if _is_dataset(data):
        return data
    if isinstance(data, DataLoader):
        return as_dataset(_behind(data), pairs=pairs)
    if is_stream(data):
        return collected(data if isinstance(data, Stream) else Stream(data))
    _check_map_style(data)
    if _is_hugging_face(data):
        return _of_columns(data)
    if isinstance(data, TensorDataset):
        if len(data.tensors) != 2:
            raise InputTypeError(
                f"data must be a TensorDataset of items and labels, got {len(data.tensors)} "
                "tensors. Give (items, labels)."
            )
        return ArrayDataset(*data.tensors)
    if isinstance(data, TorchSubset):
        whole = as_dataset(data.dataset)
        if type(data) is TorchSubset:
            return Subset(whole, list(data.indices))
        # One with a method of its own, such as a transform, is asked for its items.
        return _Adapted(data, whole.labels[list(data.indices)], whole.class_names)
    if isinstance(data, ConcatDataset):
        parts = [as_dataset(part) for part in data.datasets]
        every = list(dict.fromkeys(name for part in parts for name in part.class_names))
        code_of = {name: code for code, name in enumerate(every)}
        joined = [
            torch.tensor([*(code_of[name] for name in part.class_names), UNLABELED])[part.labels]
            for part in parts
        ]
        return _Adapted(data, torch.cat(joined), every)
    labels = next((getattr(data, n) for n in ("labels", "targets") if hasattr(data, n)), None)
    if labels is None or callable(labels):
        raise InputTypeError(
            f"data must have labels, got {type(data).__name__} without. Give it an attribute "
            "labels (or targets), one per item, or give (items, labels)."
        )
    names = next((getattr(data, n) for n in ("class_names", "classes") if hasattr(data, n)), None)
    codes, known = encode_labels(labels, names if isinstance(names, (list, tuple)) else None)
    return _Adapted(data, codes, known)


def as_items(
    items: Any, item_shape: Sequence[int] | None = None, framing: Framing | None = None
) -> Num[Tensor, "n ..."]:
    """Items (n, ...) as a tensor: a tensor, array, list, Pillow image, or list of these.

    Numbers keep their kind. Where they are encoded, bytes of images are read as 0..1 and all else
    as it is, so equal numbers have equal embeddings whatever their type. Pillow images come out in
    0..1 already.

    Args:
        items: one item or several.
        item_shape: shape of one item, (channels, height, width) for images. A single item is then
            known, images may have their channels last or, if gray, have none, and Pillow images
            are resized to it. Without it the first dimension counts the items.
        framing: how Pillow images are brought to that shape; by default both sides are resized.

    Raises:
        InputTypeError: no numbers and no images.
        InputError: items of several shapes.

    Example:
        >>> as_items([[1, 2], [3, 4]])
        tensor([[1, 2],
                [3, 4]])
        >>> as_items(torch.zeros(8, 8, 3), (3, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """
    if isinstance(items, Image.Image):
        items = [items]
    if isinstance(items, (list, tuple)) and any(isinstance(item, Image.Image) for item in items):
        return _stacked([_pixels(item, item_shape, framing) for item in items])
    tensor = as_tensor(items, "items")
    if not isinstance(tensor, Tensor):
        raise InputTypeError(
            f"items must be a tensor, an array, images or a dataset, got {type(items).__name__}. "
            "Give numbers (n, ...), or load them with lw.data.load."
        )
    if item_shape is None or tuple(tensor.shape[1:]) == tuple(item_shape):
        if tensor.ndim == 0:
            raise InputError("items must have shape (n, ...), got a single number.")
        return tensor
    return _laid_out(tensor, tuple(item_shape))


def as_inputs(
    items: Any, item_shape: Sequence[int] | None = None, framing: Framing | None = None
) -> Any:
    """What a model is asked about: items by `as_items`, or a dataset, which may have no labels.

    Raises:
        InputTypeError: it is none of these.
    """
    if are_texts(items):
        return TextDataset(items)
    if isinstance(items, (CrossPairs, GivenPairs, GivenTriplets)) or _is_labeled_pair(items):
        return as_dataset(items)
    if isinstance(items, (Tensor, Image.Image, list, tuple)) or hasattr(items, "__array__"):
        return as_items(items, item_shape, framing)
    if _is_dataset(items):
        return items
    if isinstance(items, DataLoader):
        return as_inputs(_behind(items), item_shape)
    if is_stream(items) or _is_hugging_face(items):
        return as_dataset(items)
    _check_map_style(items, "items")
    whole = items
    while isinstance(whole, TorchSubset):
        whole = whole.dataset
    labeled = isinstance(whole, ConcatDataset) or any(
        hasattr(whole, name) for name in ("labels", "targets")
    )
    if labeled or (isinstance(whole, TensorDataset) and len(whole.tensors) == 2):
        return as_dataset(items)
    return _Items(items)


def _behind(loader: DataLoader[Any]) -> Any:
    """The dataset of a loader, unless what the loader makes of it cannot be known."""
    if loader.collate_fn not in (default_collate, default_convert):
        raise InputTypeError(
            "data must be a dataset, got a DataLoader with a collate_fn of its own. Give its "
            ".dataset, with items as they are encoded."
        )
    return loader.dataset


def _is_hugging_face(data: Any) -> bool:
    return isinstance(getattr(data, "features", None), dict) and hasattr(data, "column_names")


def _of_columns(data: Any) -> Any:
    """A Hugging Face dataset by its columns; labels are read without items."""
    columns = list(data.column_names)
    item = next((name for name in ITEM_NAMES if name in columns), None)
    label = next((name for name in LABEL_NAMES if name in columns), None)
    if item is None:
        raise InputTypeError(
            f"data must have a column {', '.join(ITEM_NAMES)}, got {', '.join(columns)}. "
            "Use rename_column."
        )
    items = _Keyed(data, item)
    if label is None:
        return _Adapted(items, torch.full((len(data),), -1), [])
    known = getattr(data.features[label], "names", None)
    codes, names = encode_labels(list(data[label]), known)
    return _Adapted(items, codes, names)


class _Keyed:
    """One column of a dataset of dicts."""

    def __init__(self, source: Any, key: str) -> None:
        self.source, self.key = source, key

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[int(index)][self.key]


class _Items(TorchDataset[tuple[Tensor, int]]):
    """The items of a map-style dataset of somebody else, by the rules of `ArrayDataset`."""

    def __init__(self, source: Any) -> None:
        self.source = source
        if len(source) == 0:
            raise InputError("data must hold at least one item, got none.")
        self.item_shape: tuple[int, ...] = _shape(_item(source[0]))
        if hasattr(source, "set_epoch"):
            self.set_epoch = source.set_epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item = _item(self.source[int(index)])
        if _shape(item) != self.item_shape:
            raise InputError(
                f"items of data must have the shape of the first, {self.item_shape}, got "
                f"{_shape(item)} for item {int(index)}. Resize them in the dataset."
            )
        return item, self._label(int(index))

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        items, labels = zip(*(self[index] for index in indices), strict=True)
        stacked = list(items) if is_text(self) else torch.stack(items)
        return [Batch(stacked, torch.tensor(labels))]

    def _label(self, index: int) -> int:
        return -1


class _Adapted(_Items):
    """The same, with labels."""

    def __init__(self, source: Any, labels: Int[Tensor, " n"], class_names: list[str]) -> None:
        super().__init__(source)
        if len(labels) != len(source):
            raise InputError(
                f"labels of data must be one per item, {len(source)}, got {len(labels)}. "
                "Check that both come from the same source."
            )
        self.labels = labels
        self.class_names = class_names

    def _label(self, index: int) -> int:
        return int(self.labels[index])


def _shape(item: Any) -> tuple[int, ...]:
    return TEXT_SHAPE if isinstance(item, str) else tuple(item.shape)


def _item(sample: Any) -> Any:
    """One item of a foreign dataset, which may come with its label: float32, or a text."""
    item = sample[0] if isinstance(sample, (tuple, list)) and len(sample) else sample
    if isinstance(item, str):
        return item
    if isinstance(item, Image.Image):
        return pixels_of(item)
    tensor = as_tensor(item, "items of data")
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        raise InputTypeError(
            "items of data must be tensors, arrays, texts or images, with or without a label, got "
            f"{type(item).__name__}. Wrap the dataset so that it gives (item, label)."
        )
    return as_floats(stored_items(tensor[None]))[0]


def _pixels(
    image: Any, item_shape: Sequence[int] | None, framing: Framing | None
) -> Float[Tensor, "c h w"]:
    if not isinstance(image, Image.Image):
        raise InputTypeError(
            f"items must be all images or all numbers, got {type(image).__name__} among images."
        )
    if item_shape is None:
        return pixels_of(image)
    if len(item_shape) != 3 or item_shape[0] not in (1, 3):
        raise InputError(
            f"items must have shape {tuple(item_shape)}, got an image. Give them as a tensor."
        )
    channels, height, width = item_shape
    return pixels_of(image, channels=channels, image_size=framing or (height, width))


def _stacked(items: list[Tensor]) -> Tensor:
    shapes = {tuple(item.shape) for item in items}
    if len(shapes) > 1:
        raise InputError(
            "items must all have the same shape, got "
            f"{' and '.join(map(str, sorted(shapes)[:3]))}. Resize them first."
        )
    return torch.stack(items)


def _laid_out(items: Tensor, item_shape: tuple[int, ...]) -> Tensor:
    """Items with the shape asked for where it is plain how; else as they are, to be refused."""
    shape = tuple(items.shape)
    if shape == item_shape:
        return items[None]
    if len(item_shape) == 3:
        channels, height, width = item_shape
        for lead in (shape[:-3], shape[:-2]):
            rest = shape[len(lead) :]
            if len(lead) > 1 or rest not in ((height, width, channels), (height, width)):
                continue
            many = items if lead else items[None]
            if rest == (height, width, channels):
                return many.movedim(-1, 1)
            if channels == 1:
                return many[:, None]
    return items


def _is_labeled_pair(data: Any) -> bool:
    """Whether it is (items, labels): as many labels, in one dimension, as there are items."""
    if not isinstance(data, tuple) or len(data) != 2:
        return False
    items, labels = data
    if any(isinstance(side, (str, Path, Image.Image)) for side in data):
        return False
    try:
        return len(items) == len(labels) and getattr(items, "ndim", 2) > 1 and _is_flat(labels)
    except TypeError:  # it has no length
        return False


def _is_flat(labels: Any) -> bool:
    if hasattr(labels, "ndim"):
        return bool(labels.ndim == 1)
    return all(isinstance(label, (str, int)) or getattr(label, "ndim", 1) == 0 for label in labels)


def _is_dataset(data: Any) -> bool:
    """Whether it offers all that `Dataset` asks for."""
    labels = getattr(data, "labels", None)
    return (
        isinstance(labels, Tensor)
        and labels.ndim == 1
        and labels.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        and all(hasattr(data, name) for name in ("class_names", "item_shape", "__getitem__"))
        and len(labels) == len(data)
    )


def _check_map_style(data: Any, name: str = "data") -> None:
    if isinstance(data, (str, Path)):
        raise InputTypeError(
            f"{name} must be a dataset, got {str(data)!r}. Use lw.data.load({str(data)!r})."
        )
    no_dataset = isinstance(data, (Tensor, list, tuple, dict, IterableDataset))
    no_dataset = no_dataset or hasattr(data, "__array__")
    if no_dataset or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise InputTypeError(
            f"{name} must be a map-style dataset with labels, got {type(data).__name__}. "
            "Use lw.data.load(...), or give (items, labels)."
        )
