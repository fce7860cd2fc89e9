"""What every dataset offers, batched access to it, and the dataset in memory."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from likewise._checks import check_count, check_positive
from likewise.data.labels import Labels, encode_labels
from likewise.errors import InputError, InputTypeError


class Batch(NamedTuple):
    """Items with their labels, as a DataLoader yields them; texts come as a list of strings."""

    items: Any  # Float[Tensor, "n ..."] | list[str]
    labels: Int[Tensor, " n"]


class Dataset(Protocol):
    """What likewise asks of labeled data; any map-style torch dataset may offer it.

    `labels` are codes into `class_names`. A part of a source keeps the codes and the names
    of the whole, so `class_names` may name classes of which the part holds no item.
    """

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Code of every item, int64, at least 0; -1 for an unlabeled one, which is of no class."""

    @property
    def class_names(self) -> list[str]:
        """Name of every code."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item: (channels, height, width) for images, () for texts."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return one item, float32 or a string, with its label."""

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Return one Batch, in a list because that is what a DataLoader's collation takes."""


class ArrayDataset(TorchDataset[tuple[Tensor, int]]):
    """Items and labels held in memory, fetched a batch at a time.

    uint8 stays uint8 until fetched, everything else is held as float32. Arrays of three
    dimensions are gray images (n, h, w) and get a channel. Of four dimensions they are
    images (n, c, h, w), or (n, h, w, c) where the last dimension is 1, 3 or 4 and smaller than
    the two before. Vectors (n, d) stay vectors.

    Args:
        items: numbers, shape (n, ...), all finite.
        labels: strings or integers, shape (n,); codes where `class_names` is given; the integer
            -1 is an unlabeled item.
        class_names: the name of every code; by default the sorted labels.
        scale: what fetched values are multiplied by; by default 1/255 for uint8 images, so
            that they lie in 0..1, and 1 for everything else.

    Raises:
        InputTypeError: items that are no numbers, labels that are neither strings nor integers.
        InputError: no items, NaN or infinity, or labels and items of different number.

    Example:
        >>> images = np.full((2, 28, 28), 255, dtype=np.uint8)
        >>> data = ArrayDataset(images, ["cat", "dog"])
        >>> item, label = data[1]
        >>> item.shape, float(item.max()), data.class_names[label]
        (torch.Size([1, 28, 28]), 1.0, 'dog')
    """

    ids: list[Any] | InputError | None = None  # as `ids_of` tells them

    def __init__(
        self,
        items: Tensor | np.ndarray,
        labels: Labels,
        class_names: Sequence[str] | None = None,
        scale: float | None = None,
    ) -> None:
        self._items = stored_items(items)
        if scale is None:
            scale = 1 / 255 if self._items.dtype == torch.uint8 and self._items.ndim > 2 else 1.0
        check_positive("scale", scale)
        self._scale = scale
        self.labels, self.class_names = encode_labels(labels, class_names)
        if len(self.labels) != len(self._items):
            raise InputError(
                f"labels must be one per item, {len(self._items)}, got {len(self.labels)}. "
                "Check that both come from the same source."
            )

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return tuple(self._items.shape[1:])

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._items[index].float() * self._scale, int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return [Batch(self._items[rows].float() * self._scale, self.labels[rows])]


def stored_items(items: Tensor | np.ndarray) -> Tensor:
    """Numbers as a CPU tensor in the layout of `ArrayDataset`: uint8 as it is, else float32."""
    tensor = items.detach().cpu() if isinstance(items, Tensor) else _from_numpy(items)
    if tensor.is_complex():
        raise InputTypeError(
            f"items must be real numbers, got {tensor.dtype}. Use .abs() or .real."
        )
    if tensor.dtype != torch.uint8:
        tensor = tensor.float()
    if tensor.ndim < 2 or tensor.numel() == 0:
        raise InputError(
            f"items must have shape (n, ...) with at least one value, got {tuple(tensor.shape)}. "
            "Use items[:, None] for single numbers."
        )
    if tensor.is_floating_point():
        bad = ~torch.isfinite(tensor).flatten(1).all(dim=1)
        if bad.any():
            raise InputError(
                f"items must be finite, got NaN or infinity in {int(bad.sum())} of {len(bad)} "
                f"items, first in item {int(bad.int().argmax())}. Correct or remove them."
            )
    if tensor.ndim == 3:
        return tensor[:, None]
    if tensor.ndim == 4:
        _, height, width, last = tensor.shape
        if last in (1, 3, 4) and last < min(height, width):
            return tensor.permute(0, 3, 1, 2)
    return tensor


def fetch(dataset: Dataset, indices: Sequence[int]) -> Batch:
    """Some items of a dataset as one Batch, through its batched access where it has one."""
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(indices)[0]
    return Batch(*default_collate([dataset[int(index)] for index in indices]))


def items(dataset: Dataset, indices: Sequence[int] | None = None, batch_size: int = 256) -> Any:
    """All items of a dataset, or those at `indices` in that order, stacked, float32.

    Texts come as a list of strings.

    Args:
        dataset: where they come from.
        indices: positions in `dataset`.
        batch_size: how many are fetched at a time.

    Example:
        >>> items(ArrayDataset(np.eye(3), [0, 1, 2]), [2, 0])
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    check_count("batch_size", batch_size)
    chosen = range(len(dataset)) if indices is None else indices
    parts = (
        fetch(dataset, chosen[start : start + batch_size]).items
        for start in range(0, len(chosen), batch_size)
    )
    if tuple(dataset.item_shape) == ():
        return list(chain.from_iterable(parts))
    stacked = torch.empty((len(chosen), *dataset.item_shape), dtype=torch.float32)
    start = 0
    for part in parts:
        stacked[start : start + len(part)] = part
        start += len(part)
    return stacked


def _from_numpy(items: object) -> Tensor:
    try:
        array = np.asarray(items)
    except ValueError as error:
        raise InputError(
            "items must all have the same shape, got different ones. Resize or pad them first."
        ) from error
    if array.dtype.kind not in "buifc":
        raise InputTypeError(
            f"items must be numbers, got {array.dtype}. Use .astype(float) if they are written "
            "as text."
        )
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            kind = np.complex64 if array.dtype.kind == "c" else np.float32
            array = array.astype(kind, copy=False)
    # torch shares the memory, and neither a read-only nor a reversed array may be shared.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _collate(batches: list[Batch], **_: object) -> Batch:
    """The one Batch of `__getitems__` as it is."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        torch.cat([batch.items for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
    )


default_collate_fn_map[Batch] = _collate
