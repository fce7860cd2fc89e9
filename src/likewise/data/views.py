"""Several views of an item, and items with their ids."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from likewise._checks import check_choice, check_count
from likewise.data.datasets import Batch, Dataset, fetch


class ViewBatch(NamedTuple):
    """Views as a DataLoader yields them: `(first, second), labels = batch`."""

    items: tuple[Float[Tensor, "n ..."], ...]
    labels: Int[Tensor, " n"]


class ViewDataset(TorchDataset[tuple[tuple[Tensor, ...], int]]):
    """The items of a dataset, each in several views, by default as a class of its own.

    Without `view` the views of an item are equal, and an augmentation is to make them differ:
    `fit(augment=...)` changes every view on its own, on the training device. `fit` encodes all
    views in one call and gives them to the loss stacked, first views first, with the labels
    repeated; so any loss of embeddings and labels learns from unlabeled items.

    Args:
        data: where the items come from.
        view: a random change of a batch of items (n, ...), called once for each view.
        views: how many of each item.
        labels: "items", every item its own class with its position as code, or "classes", those
            of `data`.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(torch.eye(3), ["a", "b", "a"])
        >>> views = ViewDataset(data, lambda items: items + torch.randn_like(items))
        >>> (first, second), label = views[2]
        >>> label, bool((first == second).any())
        (2, False)
    """

    def __init__(
        self,
        data: Dataset,
        view: Callable[[Tensor], Tensor] | None = None,
        *,
        views: int = 2,
        labels: str = "items",
    ) -> None:
        check_count("views", views, least=2)
        check_choice("labels", labels, ("items", "classes"))
        self.data = data
        self.view = view
        self.views = views
        self.items_are_classes = labels == "items"
        self.labels: Int[Tensor, " n"]
        self.labels = torch.arange(len(data)) if self.items_are_classes else data.labels

    @property
    def class_names(self) -> list[str]:
        """Name of every code; the position where items are classes."""
        return list(map(str, range(len(self)))) if self.items_are_classes else self.data.class_names

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one view of an item."""
        return self.data.item_shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], int]:
        batch = self.__getitems__([index])[0]
        return tuple(view[0] for view in batch.items), int(batch.labels[0])

    def __getitems__(self, indices: Sequence[int]) -> list[ViewBatch]:
        items = fetch(self.data, indices).items
        seen = tuple(items if self.view is None else self.view(items) for _ in range(self.views))
        return [ViewBatch(seen, self.labels[torch.as_tensor(indices, dtype=torch.int64)])]


class IdBatch(NamedTuple):
    """A batch as a DataLoader yields it, with the positions of its items in the dataset."""

    batch: Batch | ViewBatch
    ids: Int[Tensor, " n"]


class WithIds(TorchDataset[tuple[tuple[Tensor, int], int]]):
    """A dataset whose batches come with ids, the positions of their items.

    `fit` puts it around the data for losses that take ids, such as a memory of past batches.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = WithIds(ArrayDataset(torch.eye(3), ["a", "b", "a"]))
        >>> (items, labels), ids = data.__getitems__([2, 0])[0]
        >>> ids
        tensor([2, 0])
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, int], int]:
        return self.data[index], index

    def __getitems__(self, indices: Sequence[int]) -> list[IdBatch]:
        return [IdBatch(fetch(self.data, indices), torch.as_tensor(indices, dtype=torch.int64))]


default_collate_fn_map[ViewBatch] = lambda batches, **_: batches[0]
default_collate_fn_map[IdBatch] = lambda batches, **_: batches[0]
