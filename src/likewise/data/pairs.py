"""Pairs of items with the truth whether both are the same, given or drawn."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from likewise._checks import as_tensor, check_count, check_finite, check_positive, check_same
from likewise.data.datasets import Dataset, fetch
from likewise.errors import InputError, InputTypeError
from likewise.masks import UNLABELED


class PairBatch(NamedTuple):
    """Pairs as a DataLoader yields them: `(a, b), same = batch`."""

    items: tuple[Any, Any]  # Float[Tensor, "p ..."] each, or list[str]
    same: Bool[Tensor, " p"]  # or grades, Float[Tensor, " p"]


class GivenPairs(TorchDataset[tuple[tuple[Tensor, Tensor], bool | float]]):
    """Pairs of a dataset's items that are known, each with its truth.

    `pairs` (p, 2) are positions in `data`, `same` (p,) is True where both are the same. The
    truth is taken as it is given; the labels of `data` are not asked.

    Args:
        data: where the items come from.
        pairs: positions in `data`, (p, 2).
        same: the truth, boolean, (p,).

    Raises:
        InputTypeError: positions that are no integers, a truth that is not boolean.
        InputError: no pairs, other shapes, a position outside of `data`, an item with itself,
            or a pair that comes twice, in either order.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> pairs = GivenPairs(ArrayDataset(np.eye(3), [0, 1, 2]), [[0, 1], [2, 1]], [True, False])
        >>> (a, b), same = pairs[1]
        >>> a, b, same
        (tensor([0., 0., 1.]), tensor([0., 1., 0.]), False)
    """

    def __init__(
        self,
        data: Dataset,
        pairs: Tensor | np.ndarray | Sequence[Sequence[int]],
        same: Tensor | np.ndarray | Sequence[bool],
    ) -> None:
        self.data = data
        self.pairs: Int[Tensor, "p 2"] = check_tuples("pairs", pairs, 2, len(data))
        self.same: Bool[Tensor, " p"] = as_truth(same, len(self.pairs))
        low, high = self.pairs.aminmax(dim=1)
        check_once(self.pairs, low * len(data) + high, ", in neither order")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], bool | float]:
        first, second = self.pairs[index].tolist()
        return (self.data[first][0], self.data[second][0]), self.same[index].item()

    def __getitems__(self, indices: Sequence[int]) -> list[PairBatch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        sides = fetch(self.data, self.pairs[rows].T.flatten().tolist()).items
        first, second = sides[: len(rows)], sides[len(rows) :]  # a tensor's, or a list's of texts
        return [PairBatch((first, second), self.same[rows])]


class GradedPairs(GivenPairs):
    """Pairs of a dataset's items with a grade each: how alike they are, larger is more alike.

    For `losses.GradedPairsLoss`, which `fit` trains with: `lw.fit(encoder, loss, pairs)`. What asks
    whether two items are the same, such as calibration, refuses grades; give it
    `GivenPairs(data, pairs, grades > limit)`.

    Args:
        data: Dataset that the items come from.
        pairs: Positions in `data`, (p, 2).
        grades: Finite numbers, (p,), on any scale. -1 is a grade like any other; leave out
            pairs that nobody graded.

    Raises:
        InputTypeError: Positions that are no integers, grades that are no numbers.
        InputError: Other shapes, a grade that is not finite, and what `GivenPairs` refuses.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> pairs = GradedPairs(ArrayDataset(np.eye(3), [0, 1, 2]), [[0, 1], [2, 1]], [4.5, 0.5])
        >>> (a, b), grade = pairs[1]
        >>> grade
        0.5
    """

    def __init__(
        self,
        data: Dataset,
        pairs: Tensor | np.ndarray | Sequence[Sequence[int]],
        grades: Tensor | np.ndarray | Sequence[float],
    ) -> None:
        numbers: Tensor = as_tensor(grades, "grades")
        super().__init__(data, pairs, torch.ones(len(numbers), dtype=torch.bool))
        if numbers.ndim != 1:
            raise InputError(
                f"grades must have shape ({len(self.pairs)},), one per pair, got "
                f"{tuple(numbers.shape)}. Use .flatten()."
            )
        self.same = numbers.cpu().float()
        check_finite(self.same, "grades")


class PairDataset(GivenPairs):
    """A random set of pairs of a dataset's items: half of one class, half of two.

    There are round(per_item · n) pairs, or as many as can be had with both halves equal (up to
    one). The pairs of one class are spread evenly over the classes, as far as a class has so
    many; pairs of two classes are drawn from all of these alike. No item is paired with
    itself and no pair comes twice, in neither order. Unlabeled items (-1) are in no pair, and n
    does not count them. The order is random. Pairs of a part, such
    as a `Subset`, stay within it, so drawing after a split keeps its sides apart.

    `pairs` (p, 2) are positions in `data`, `same` (p,) tells which are of one class.

    Args:
        data: where the items come from.
        per_item: number of pairs per item of `data`.
        seed: same seed, same pairs.
        fresh: False for one set for ever, as for tests; True for another one for each epoch that
            `set_epoch` tells, as for training. `fit` calls it.

    Raises:
        InputError: there is only one class, no class has two items, or `per_item` gives
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
        super().__init__(data, *draw_pairs(data.labels.numpy(), per_item, (seed,)))
        self.per_item = per_item
        self.seed = seed
        self.fresh = fresh
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the pairs of an epoch, if they are fresh for each; epoch 0 is the start."""
        check_count("epoch", epoch, least=0)
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            key = (self.seed, epoch) if epoch else (self.seed,)
            self.pairs, self.same = draw_pairs(self.data.labels.numpy(), self.per_item, key)


def check_tuples(
    name: str, positions: Tensor | np.ndarray | Sequence[Sequence[int]], width: int, count: int
) -> Int[Tensor, "t width"]:
    """Positions as int64 (t, width), each row of `width` different items among `count`.

    Raises:
        InputTypeError: no integers.
        InputError: another shape, no rows, a position out of range, an item twice in a row.
    """
    rows = as_rows(name, positions, width)
    outside = ((rows < 0) | (rows >= count)).any(dim=1)
    ordered = rows.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    for wrong, rule, remedy in (
        (outside, f"be between 0 and {count - 1}", "Count from the start of the data."),
        (repeated, "join different items", "Remove that row."),
    ):
        if wrong.any():
            row = int(wrong.int().argmax())
            raise InputError(f"{name} must {rule}, got {rows[row].tolist()} in row {row}. {remedy}")
    return rows


def as_rows(
    name: str, positions: Tensor | np.ndarray | Sequence[Sequence[int]], width: int
) -> Int[Tensor, "t width"]:
    """Positions as int64 (t, width), wherever they are.

    Raises:
        InputTypeError: no integers.
        InputError: another shape, or no rows.
    """
    rows = as_tensor(positions, name)
    if not isinstance(rows, Tensor):
        raise InputTypeError(
            f"{name} must be rows of {width} positions, got {type(rows).__name__}. "
            f"Give a tensor, an array or a list of shape (n, {width})."
        )
    rows = rows.cpu()
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InputError(
            f"{name} must have shape (n, {width}), one row of positions each and at least one, "
            f"got {tuple(rows.shape)}. Use torch.stack([...], dim=1)."
        )
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        raise InputTypeError(f"{name} must be integers, got {rows.dtype}. Use .long().")
    return rows.to(torch.int64)


def as_truth(same: Any, count: int) -> Bool[Tensor, " p"]:
    """Whether each of `count` pairs is the same, on the CPU.

    Raises:
        InputTypeError: No booleans.
        InputError: Another shape.
    """
    given = as_tensor(same, "same")
    check_same(given, count)
    truth: Tensor = given.cpu()
    return truth


def check_once(pairs: Int[Tensor, "p 2"], keys: Int[Tensor, " p"], how: str = "") -> None:
    """Refuse pairs that come twice, which have the same key."""
    order = keys.argsort(stable=True)
    again = keys[order][1:] == keys[order][:-1]
    if again.any():
        at = int(again.int().argmax())
        first, second = order[at : at + 2].tolist()
        raise InputError(
            f"pairs must hold no pair twice{how}, got {pairs[second].tolist()} in rows {first} "
            f"and {second}. Remove one."
        )


def count_kinds(labels: np.ndarray, per_item: float) -> tuple[int, int, int]:
    """How many pairs to take, and how many there are of one class and of two.

    Raises:
        InputError: there are no pairs of either kind, or fewer than two are asked for.
    """
    n = len(labels)
    sizes = np.unique(labels, return_counts=True)[1]
    same_total = int((sizes * (sizes - 1) // 2).sum())
    different_total = n * (n - 1) // 2 - same_total
    if same_total == 0 or different_total == 0:
        raise InputError(
            "data must have at least 2 classes, and a class with at least 2 items, to form pairs "
            f"of both kinds, got {len(sizes)} classes and {n} items. Add items or classes."
        )
    scarcer = min(same_total, different_total)
    count = min(round(per_item * n), same_total + different_total, 2 * scarcer + 1)
    if count < 2:
        raise InputError(
            f"per_item must give at least 2 pairs, got {per_item} for {n} items. "
            f"Use at least {2 / n:.3g}."
        )
    return count, same_total, different_total


def draw_pairs(
    labels: np.ndarray, per_item: float, seed: tuple[int, ...]
) -> tuple[Int[Tensor, "p 2"], Bool[Tensor, " p"]]:
    """The pairs of `PairDataset` for items with these labels: positions (p, 2), and the truth.

    Args:
        labels: Class codes, (n,); -1 is unlabeled.
        per_item: Pairs per labeled item.
        seed: Numbers that the draw is seeded with.

    Raises:
        InputError: What `PairDataset` refuses.

    Example:
        >>> pairs, same = draw_pairs(np.array([0, 0, 1, -1]), 1.0, (0,))
        >>> pairs.shape, same.sum()
        (torch.Size([3, 2]), tensor(1))
    """
    check_positive("per_item", per_item)
    # With items sorted by class, those of the same class that follow an item are a range, and
    # so are those of later classes. Counting along these ranges numbers all pairs of either
    # kind, and a number is turned into its pair by one binary search: nothing is enumerated.
    labeled = np.flatnonzero(labels != UNLABELED)
    labels = labels[labeled]
    n = len(labels)
    count, _, different_total = count_kinds(labels, per_item)
    different_count = min(count - count // 2, different_total)
    same_count = count - different_count
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    class_end = np.repeat(starts + sizes, sizes)
    same_partners = class_end - np.arange(n) - 1
    same_in_class = sizes * (sizes - 1) // 2

    rng = np.random.default_rng(seed)
    quotas = _even_quotas(same_in_class, same_count, rng)
    kind, number = _distinct_numbers(same_in_class, quotas, rng)
    number += (np.cumsum(same_in_class) - same_in_class)[kind]
    same_pairs = _pairs_at(number, same_partners, np.arange(n) + 1)
    _, number = _distinct_numbers(np.array([different_total]), np.array([different_count]), rng)
    different_pairs = _pairs_at(number, n - class_end, class_end)

    pairs = labeled[order[np.concatenate([same_pairs, different_pairs])]]
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
