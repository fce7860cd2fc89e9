"""Pairs of items with the truth whether both are of one class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from likewise._checks import check_count, check_positive
from likewise.data.datasets import Dataset, fetch


class PairBatch(NamedTuple):
    """Pairs as a DataLoader yields them: `(a, b), same = batch`."""

    items: tuple[Float[Tensor, "p ..."], Float[Tensor, "p ..."]]
    same: Bool[Tensor, " p"]


class PairDataset(TorchDataset[tuple[tuple[Tensor, Tensor], bool]]):
    """A random set of pairs of a dataset's items: half of one class, half of two.

    There are round(per_item · n) pairs, or as many as can be had with both halves equal (up to
    one). The pairs of one class are spread evenly over the classes, as far as a class has so
    many; pairs of two classes are drawn from all of these alike. No item is paired with
    itself and no pair comes twice, in neither order. The order is random.

    `pairs` (p, 2) are positions in `data`, `same` (p,) tells which are of one class.

    Args:
        data: where the items come from.
        per_item: number of pairs per item of `data`.
        seed: same seed, same pairs.
        fresh: False for one set for ever, as for tests; True for another one for each epoch that
            `set_epoch` tells, as for training. `fit` calls it.

    Raises:
        ValueError: there is only one class, no class has two items, or `per_item` gives
            fewer than two pairs.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> pairs = PairDataset(ArrayDataset(np.eye(4), ["a", "a", "b", "b"]))
        >>> (a, b), same = pairs[0]
        >>> len(pairs), int(pairs.same.sum())
        (4, 2)
    """

    def __init__(
        self, data: Dataset, per_item: float = 1.0, seed: int = 0, *, fresh: bool = False
    ) -> None:
        check_positive("per_item", per_item)
        self.data = data
        self.per_item = per_item
        self.seed = seed
        self.fresh = fresh
        self._epoch = 0
        self.pairs: Int[Tensor, "p 2"]
        self.same: Bool[Tensor, " p"]
        self.pairs, self.same = _draw_pairs(data.labels.numpy(), per_item, (seed,))

    def set_epoch(self, epoch: int) -> None:
        """Draw the pairs of an epoch, if they are fresh for each; epoch 0 is the start."""
        check_count("epoch", epoch, least=0)
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            key = (self.seed, epoch) if epoch else (self.seed,)
            self.pairs, self.same = _draw_pairs(self.data.labels.numpy(), self.per_item, key)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], bool]:
        first, second = self.pairs[index].tolist()
        return (self.data[first][0], self.data[second][0]), bool(self.same[index])

    def __getitems__(self, indices: Sequence[int]) -> list[PairBatch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        first, second = fetch(self.data, self.pairs[rows].T.flatten().tolist()).items.chunk(2)
        return [PairBatch((first, second), self.same[rows])]


def _draw_pairs(
    labels: np.ndarray, per_item: float, seed: tuple[int, ...]
) -> tuple[Int[Tensor, "p 2"], Bool[Tensor, " p"]]:
    # With items sorted by class, those of the same class that follow an item are a range, and
    # so are those of later classes. Counting along these ranges numbers all pairs of either
    # kind, and a number is turned into its pair by one binary search: nothing is enumerated.
    n = len(labels)
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    class_end = np.repeat(starts + sizes, sizes)
    same_partners = class_end - np.arange(n) - 1
    same_in_class = sizes * (sizes - 1) // 2
    same_total, different_total = int(same_in_class.sum()), int((n - class_end).sum())
    if same_total == 0 or different_total == 0:
        raise ValueError(
            "data must have at least 2 classes, and a class with at least 2 items, to form pairs "
            f"of both kinds, got {len(sizes)} classes and {n} items. Add items or classes."
        )
    scarcer = min(same_total, different_total)
    count = min(round(per_item * n), same_total + different_total, 2 * scarcer + 1)
    if count < 2:
        raise ValueError(
            f"per_item must give at least 2 pairs, got {per_item} for {n} items. "
            f"Use at least {2 / n:.3g}."
        )
    different_count = min(count - count // 2, different_total)
    same_count = count - different_count

    rng = np.random.default_rng(seed)
    quotas = _even_quotas(same_in_class, same_count, rng)
    kind, number = _distinct_numbers(same_in_class, quotas, rng)
    number += (np.cumsum(same_in_class) - same_in_class)[kind]
    same_pairs = _pairs_at(number, same_partners, np.arange(n) + 1)
    _, number = _distinct_numbers(np.array([different_total]), np.array([different_count]), rng)
    different_pairs = _pairs_at(number, n - class_end, class_end)

    pairs = order[np.concatenate([same_pairs, different_pairs])]
    pairs = rng.permuted(pairs, axis=1)  # else the earlier class would always come first
    mixed = rng.permutation(count)
    same = np.arange(count) < same_count
    return torch.from_numpy(pairs[mixed]), torch.from_numpy(same[mixed])


def _even_quotas(capacity: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """How many pairs each class gives: equally many, or all it has where it has fewer."""
    quotas = np.zeros_like(capacity)
    while (missing := total - int(quotas.sum())) > 0:
        open_classes = rng.permutation(np.flatnonzero(quotas < capacity))
        share, rest = divmod(missing, len(open_classes))
        quotas[open_classes] += share
        quotas[open_classes[:rest]] += 1
        quotas = np.minimum(quotas, capacity)
    return quotas


def _distinct_numbers(
    totals: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """counts[i] distinct numbers below totals[i], for each i: the i's and the numbers.

    Time and memory grow with the counts, not with the totals.
    """
    # Where more than half are wanted, shuffle them all; elsewhere draw, and draw again for the
    # numbers that were drawn before, fewer than half each time.
    dense = 2 * counts > totals
    kind = np.repeat(np.arange(len(totals)), np.where(dense, totals, 0))
    first = np.cumsum(np.where(dense, totals, 0)) - np.where(dense, totals, 0)
    shuffled = np.lexsort((rng.random(len(kind)), kind))
    rank = np.arange(len(kind)) - first[kind]  # kinds stay in place, so ranks need no shuffling
    chosen = shuffled[rank < counts[kind]]
    dense_kind, dense_number = kind[chosen], chosen - first[kind[chosen]]

    offsets = np.cumsum(totals) - totals
    keys = np.empty(0, dtype=np.int64)
    missing = np.where(dense, 0, counts)
    while missing.any():
        kind = np.repeat(np.arange(len(totals)), missing)
        keys = np.unique(np.concatenate([keys, offsets[kind] + rng.integers(0, totals[kind])]))
        kind = np.searchsorted(offsets, keys, side="right") - 1
        missing = np.where(dense, 0, counts) - np.bincount(kind, minlength=len(totals))
    kind = np.searchsorted(offsets, keys, side="right") - 1
    return (
        np.concatenate([dense_kind, kind]),
        np.concatenate([dense_number, keys - offsets[kind]]),
    )


def _pairs_at(number: np.ndarray, partners: np.ndarray, first_partner: np.ndarray) -> np.ndarray:
    """Pairs by their numbers: item i has `partners[i]` of them, from `first_partner[i]` on."""
    ends = np.cumsum(partners)
    item = np.searchsorted(ends, number, side="right")
    return np.stack([item, first_partner[item] + number - (ends - partners)[item]], axis=1)


default_collate_fn_map[PairBatch] = lambda batches, **_: batches[0]
