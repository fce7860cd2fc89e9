"""Pairs across two datasets, whose items may be of different kinds: texts and images, say."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from likewise.data.datasets import Dataset, fetch
from likewise.data.pairs import as_rows, as_truth, check_once
from likewise.errors import InputError


class CrossBatch(NamedTuple):
    """Pairs of two datasets as a DataLoader yields them."""

    items: tuple[Any, Any]  # Float[Tensor, "p ..."] each, or list[str]
    labels: tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
    same: Bool[Tensor, " p"]


class CrossPairs(TorchDataset[tuple[tuple[Any, Any], bool]]):
    """Pairs of an item of one dataset and an item of another, for two towers.

    `fit` trains `encoders.TwoTowers` on them. The datasets may hold items of different kinds, such
    as questions and answers, or images and captions; their labels are not asked. Item i of `a` may
    be in several pairs, and so may item j of `b`.

    A loss that forms pairs within a batch needs to know which items of both sides belong together.
    `labels_a` and `labels_b` say so: items that pairs called the same join, over any number of
    steps, have one code. Fifty questions paired with one intent share its code, so no question
    counts the intent's copies in a batch as negatives.

    Args:
        a: Dataset of one side, such as the queries.
        b: Dataset of the other side, such as what is looked up.
        pairs: Positions (p, 2): in `a`, then in `b`.
        same: Truth of each pair, boolean, (p,). All pairs are the same if None.

    Attributes:
        labels_a: Code of each item of `a`, (len(a),).
        labels_b: Code of each item of `b`, (len(b),).

    Raises:
        InputTypeError: Positions that are no integers, a truth that is not boolean.
        InputError: No pairs, no pair that is the same, another shape, a position out of range, or
            a pair that comes twice.

    Example:
        >>> from likewise.data import TextDataset
        >>> asked = TextDataset(["where is my card", "my card is gone", "what does a loan cost"])
        >>> pairs = CrossPairs(asked, TextDataset(["card", "loan"]), [[0, 0], [1, 0], [2, 1]])
        >>> pairs[1], pairs.labels_a
        ((('my card is gone', 'card'), True), tensor([0, 0, 1]))
    """

    def __init__(
        self,
        a: Dataset,
        b: Dataset,
        pairs: Tensor | np.ndarray | Sequence[Sequence[int]],
        same: Tensor | np.ndarray | Sequence[bool] | None = None,
    ) -> None:
        self.a = a
        self.b = b
        self.pairs: Int[Tensor, "p 2"] = _checked(pairs, len(a), len(b))
        count = len(self.pairs)
        self.same: Bool[Tensor, " p"] = (
            torch.ones(count, dtype=torch.bool) if same is None else as_truth(same, count)
        )
        if not bool(self.same.any()):
            raise InputError(
                f"same must be True for some pairs, got {count} that are all different. "
                "Add pairs that are the same."
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[tuple[Any, Any], bool]:
        first, second = self.pairs[index].tolist()
        return (self.a[first][0], self.b[second][0]), bool(self.same[index])

    def __getitems__(self, indices: Sequence[int]) -> list[CrossBatch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        first, second = self.pairs[rows].T
        items = (fetch(self.a, first.tolist()).items, fetch(self.b, second.tolist()).items)
        return [CrossBatch(items, (self.labels_a[first], self.labels_b[second]), self.same[rows])]

    @property
    def labels_a(self) -> Int[Tensor, " n"]:
        """Code of each item of `a`."""
        return self._labels[: len(self.a)]

    @property
    def labels_b(self) -> Int[Tensor, " m"]:
        """Code of each item of `b`."""
        return self._labels[len(self.a) :]

    def check_labels(self) -> None:
        """Refuse pairs whose truth no codes can tell.

        Raises:
            InputError: A pair is called different, and other pairs join its items.
        """
        first, second = self.pairs.T
        wrong = ~self.same & (self.labels_a[first] == self.labels_b[second])
        if bool(wrong.any()):
            row = int(wrong.int().argmax())
            raise InputError(
                f"pairs must not call two items different that others join, got "
                f"{self.pairs[row].tolist()} in row {row}. Leave such rows out, or use a loss of "
                "given pairs, such as GivenPairsLoss."
            )

    @cached_property
    def _labels(self) -> Int[Tensor, " n+m"]:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        joined = self.pairs[self.same].numpy()
        total = len(self.a) + len(self.b)
        rows, columns = joined[:, 0], joined[:, 1] + len(self.a)
        graph = coo_array((np.ones(len(joined), dtype=bool), (rows, columns)), shape=(total, total))
        codes = connected_components(graph, directed=False)[1]
        return torch.from_numpy(codes.astype(np.int64))


def _checked(pairs: Any, first: int, second: int) -> Int[Tensor, "p 2"]:
    """Positions as int64 (p, 2), each in its dataset, none twice."""
    rows = as_rows("pairs", pairs, 2)
    outside = ((rows < 0) | (rows >= torch.tensor([first, second]))).any(dim=1)
    if bool(outside.any()):
        row = int(outside.int().argmax())
        raise InputError(
            f"pairs must be positions below {first} in a and below {second} in b, got "
            f"{rows[row].tolist()} in row {row}. Count from the start of each."
        )
    check_once(rows, rows[:, 0] * second + rows[:, 1])
    return rows


default_collate_fn_map[CrossBatch] = lambda batches, **_: batches[0]
