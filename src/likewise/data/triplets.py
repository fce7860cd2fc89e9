"""Triplets of items, given or drawn: an anchor, another item of its class, one of another class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from likewise._checks import check_count, check_positive
from likewise.data.datasets import Dataset, fetch
from likewise.data.pairs import check_tuples
from likewise.errors import InputError
from likewise.masks import UNLABELED


class TripletBatch(NamedTuple):
    """Triplets as a DataLoader yields them: `(anchor, positive, negative), labels = batch`."""

    items: tuple[Any, Any, Any]  # Float[Tensor, "t ..."] each, or list[str]
    labels: Int[Tensor, "t 3"]


class GivenTriplets(TorchDataset[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]):
    """Triplets of a dataset's items that are known: anchor, positive, negative.

    `triplets` (t, 3) are positions in `data`, `labels` (t, 3) the codes that `data` has for
    these items. Which item is the positive is taken as it is given; the labels are not asked.
    A triplet may come more than once.

    Args:
        data: where the items come from.
        triplets: positions in `data`, (t, 3).

    Raises:
        InputTypeError: positions that are no integers.
        InputError: no triplets, another shape, a position outside of `data`, or an item
            twice in a triplet.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> triplets = GivenTriplets(ArrayDataset(np.eye(3), [0, 1, 0]), [[0, 2, 1]])
        >>> (anchor, positive, negative), labels = triplets[0]
        >>> positive, labels
        (tensor([0., 0., 1.]), tensor([0, 0, 1]))
    """

    def __init__(
        self, data: Dataset, triplets: Tensor | np.ndarray | Sequence[Sequence[int]]
    ) -> None:
        self.data = data
        self.triplets: Int[Tensor, "t 3"] = check_tuples("triplets", triplets, 3, len(data))
        self.labels: Int[Tensor, "t 3"] = data.labels[self.triplets]

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        anchor, positive, negative = (self.data[i][0] for i in self.triplets[index].tolist())
        return (anchor, positive, negative), self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> list[TripletBatch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        positions = self.triplets[rows].T.flatten().tolist()
        sides, count = fetch(self.data, positions).items, len(rows)
        anchor, positive, negative = sides[:count], sides[count : 2 * count], sides[2 * count :]
        return [TripletBatch((anchor, positive, negative), self.labels[rows])]


class TripletDataset(GivenTriplets):
    """A random set of triplets of a dataset's items: anchor, positive, negative.

    There are round(per_item · anchors) triplets, where anchors are the items that are not alone
    in their class; each is an anchor equally often, up to one. The positive is any other item of
    the anchor's class, the negative any item of another class, all alike. Unlabeled items (-1)
    are in no triplet. The order is random.

    `triplets` (t, 3) are positions in `data`, `labels` (t, 3) the codes of these items.

    Args:
        data: where the items come from.
        per_item: number of triplets per anchor.
        seed: same seed, same triplets.
        fresh: False for one set for ever, as for tests; True for another one for each epoch that
            `set_epoch` tells, as for training. `fit` calls it.

    Raises:
        InputError: there is only one class, no class has two items, or `per_item` gives no
            triplet.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> triplets = TripletDataset(ArrayDataset(np.eye(4), ["a", "a", "b", "b"]))
        >>> (anchor, positive, negative), labels = triplets[0]
        >>> len(triplets), bool(labels[0] == labels[1]), bool(labels[0] == labels[2])
        (4, True, False)
    """

    def __init__(
        self, data: Dataset, per_item: float = 1.0, seed: int = 0, *, fresh: bool = False
    ) -> None:
        check_positive("per_item", per_item)
        check_count("seed", seed, least=0)
        self.per_item = per_item
        self.seed = seed
        self.fresh = fresh
        self._epoch = 0
        super().__init__(data, self._drawn(data, 0))

    def set_epoch(self, epoch: int) -> None:
        """Draw the triplets of an epoch, if they are fresh for each; epoch 0 is the start."""
        check_count("epoch", epoch, least=0)
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            self.triplets = torch.from_numpy(self._drawn(self.data, epoch))
            self.labels = self.data.labels[self.triplets]

    def _drawn(self, data: Dataset, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        return _draw_triplets(data.labels.numpy(), self.per_item, rng)


def _draw_triplets(labels: np.ndarray, per_item: float, rng: np.random.Generator) -> np.ndarray:
    # With items sorted by class, a class is a range: its others are found by going round in
    # it, those of other classes by leaping over it.
    labeled = np.flatnonzero(labels != UNLABELED)
    labels = labels[labeled]
    n = len(labels)
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    anchors = np.flatnonzero((size > 1) & (size < n))
    if not len(anchors):
        raise InputError(
            "data must have at least 2 classes, and a class with at least 2 items, to form "
            f"triplets, got {len(sizes)} classes and {n} items. Add items or classes."
        )
    count = round(per_item * len(anchors))
    if count < 1:
        raise InputError(
            f"per_item must give at least 1 triplet, got {per_item} for {len(anchors)} anchors. "
            f"Use at least {1 / len(anchors):.3g}."
        )
    rounds, rest = divmod(count, len(anchors))
    anchor = np.concatenate(
        [np.tile(anchors, rounds), rng.choice(anchors, size=rest, replace=False)]
    )
    first, width = start[anchor], size[anchor]
    positive = first + (anchor - first + rng.integers(1, width)) % width
    negative = rng.integers(0, n - width)
    negative += np.where(negative >= first, width, 0)
    triplets: np.ndarray = labeled[order[np.stack([anchor, positive, negative], axis=1)]]
    return rng.permutation(triplets)


default_collate_fn_map[TripletBatch] = lambda batches, **_: batches[0]
