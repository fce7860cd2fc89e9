"""The normalization an encoder was trained with, kept with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import as_floats, as_tensor, check_count
from likewise.data.datasets import Dataset, items
from likewise.data.images import ImageFiles
from likewise.errors import InputError
from likewise.masks import UNLABELED


@dataclass(frozen=True)
class Preprocess:
    """(items − mean) / std, for items of one shape.

    Images, of shape (channels, height, width), have one mean and one std per channel; items of
    any other shape have a single one.

    Args:
        item_shape: shape of one item.
        mean: subtracted from every value of its channel.
        std: what is then divided by, above 0.

    Raises:
        InputError: mean or std are not one per channel, or std is not above 0.

    Example:
        >>> preprocess = Preprocess((1, 2, 2), mean=(0.5,), std=(0.25,))
        >>> preprocess.apply(torch.ones(3, 1, 2, 2)).unique()
        tensor([2.])
    """

    item_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = self.item_shape[0] if len(self.item_shape) == 3 else 1
        if not len(self.mean) == len(self.std) == channels:
            raise InputError(
                f"mean and std must have {channels} values for items of shape "
                f"{self.item_shape}, got {len(self.mean)} and {len(self.std)}. "
                "Give one per channel of images, otherwise one."
            )
        if not all(std > 0 for std in self.std):
            raise InputError(f"std must be above 0, got {self.std}. Use 1 for constant values.")

    @classmethod
    def fit(cls, dataset: Dataset, sample: int = 2000, seed: int = 0) -> "Preprocess":
        """Mean and standard deviation of (at most `sample` random items of) a dataset.

        Values that are all equal have std 1, so that nothing is divided by zero.
        """
        check_count("sample", sample)
        check_count("items of the dataset", len(dataset))
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(dataset), min(sample, len(dataset)), replace=False)
        values = items(dataset, np.sort(chosen).tolist()).double()
        shape = dataset.item_shape
        by_channel = values.transpose(0, 1) if len(shape) == 3 else values[None]
        std, mean = torch.std_mean(by_channel.flatten(1), dim=1, correction=0)
        # The spread of equal values is rounding only, some 1e-17 of them.
        std = torch.where(std > 1e-12 * mean.abs().clamp(min=1), std, 1.0)
        return cls(shape, tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, items: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Normalized items, shape (n, *item_shape), float32 on their device.

        Numbers of any type are taken, by the rule of `ArrayDataset`: bytes of images as 0..1.

        Raises:
            InputError: the items have another shape.
        """
        items = as_tensor(items, "items")
        if tuple(items.shape[1:]) != self.item_shape:
            raise InputError(
                f"items must have shape (n, {', '.join(map(str, self.item_shape))}), "
                f"got {tuple(items.shape)}. Resize images as the training data was resized."
            )
        items = as_floats(items)
        shape = (1, -1, 1, 1) if len(self.item_shape) == 3 else (-1,)
        return (items - items.new_tensor(self.mean).view(shape)) / items.new_tensor(self.std).view(
            shape
        )

    def read(self, paths: Sequence[str | Path]) -> Float[Tensor, "n ..."]:
        """Image files (n, *item_shape) in 0..1, resized to the item shape; not normalized.

        Raises:
            InputError: the items are not images, or a file cannot be read as one.
            FileNotFoundError: there is no such file.
        """
        return items(self.files(paths)) if len(paths) else torch.empty((0, *self.item_shape))

    def files(self, paths: Sequence[str | Path]) -> ImageFiles:
        """Image files as an unlabeled dataset that reads them as `read` does, each when fetched.

        Raises:
            InputError: the items are not images, or there is no path.
        """
        if len(self.item_shape) != 3 or self.item_shape[0] not in (1, 3):
            raise InputError(
                f"item_shape must be that of an image to read files, got {self.item_shape}. "
                "Give the items as a tensor."
            )
        channels, height, width = self.item_shape
        unlabeled = torch.full((len(paths),), UNLABELED)
        return ImageFiles(paths, unlabeled, image_size=(height, width), channels=channels)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, JSON-able; `from_dict` is the way back."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Return the Preprocess that gave these values."""
        return cls(
            tuple(int(size) for size in values["item_shape"]),
            tuple(float(mean) for mean in values["mean"]),
            tuple(float(std) for std in values["std"]),
        )
