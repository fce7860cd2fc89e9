"""Parts of a dataset: some items, some classes, and splits by either."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from likewise._arguments import first_of
from likewise._checks import as_tensor, check_count
from likewise.data.datasets import Batch, Dataset, fetch
from likewise.embedded import Embedded
from likewise.errors import InputError, InputTypeError
from likewise.masks import UNLABELED


class Subset(TorchDataset[tuple[Tensor, int]]):
    """Some items of a dataset, with the codes and class names of the whole.

    A batch is fetched from the whole in one call. A part of a part refers to the whole
    directly, so parts may be taken of parts without cost.

    Args:
        data: the whole, or a part of it.
        indices: positions in `data`; order and repeats are kept.

    Raises:
        InputTypeError: indices are not integers.
        InputError: an index lies outside of `data`.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> whole = ArrayDataset(np.eye(4), ["a", "b", "a", "b"])
        >>> part = Subset(Subset(whole, [3, 2, 1]), [0, 2])
        >>> part.source_indices, part.labels
        (tensor([3, 1]), tensor([1, 1]))
    """

    def __init__(self, data: Dataset, indices: Sequence[int] | Tensor | np.ndarray) -> None:
        rows = _check_indices(indices, len(data))
        if isinstance(data, Subset):
            rows = data.source_indices[rows]
            data = data.data
        self.data: Dataset = data
        self.source_indices: Int[Tensor, " n"] = rows  # positions in `data`, the whole
        self.labels: Int[Tensor, " n"] = data.labels[rows]
        self.class_names: list[str] = data.class_names

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return self.data.item_shape

    def __len__(self) -> int:
        return len(self.source_indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.data[int(self.source_indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return [fetch(self.data, self.source_indices[rows].tolist())]


def items_per_class(dataset: Dataset | Embedded) -> dict[str, int]:
    """Number of items of every class that has any, by name, in the order of the codes.

    Unlabeled items (-1) are of no class.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> items_per_class(ArrayDataset(np.eye(3), ["dog", "cat", "dog"]))
        {'cat': 1, 'dog': 2}
    """
    labels = dataset.labels
    codes, counts = torch.unique(labels[labels != UNLABELED], return_counts=True)
    return {
        dataset.class_names[code]: count
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
    }


def class_codes(data: Dataset) -> np.ndarray:
    """Codes of the classes that have items, ascending; unlabeled items are of none."""
    labels = data.labels.numpy()
    codes: np.ndarray = np.unique(labels[labels != UNLABELED])
    return codes


def label_names(data: Dataset | Embedded) -> list[str | None]:
    """The class of every item by its name; None for an unlabeled one."""
    return [None if code == UNLABELED else data.class_names[code] for code in data.labels.tolist()]


def paths_of(data: Any) -> list[str]:
    """The file of each item, absolute; empty if items come from no files of their own.

    Args:
        data: A dataset, a part of one, or an `Embedded`.
    """
    if isinstance(data, Embedded):
        of_source = [] if data.source is None else paths_of(data.source)
        return [of_source[row] for row in data.rows.tolist()] if of_source else []
    whole = getattr(data, "data", data)
    rows = getattr(data, "source_indices", range(len(data)))
    paths = getattr(whole, "paths", None)
    return [] if paths is None else [str(Path(paths[int(row)]).resolve()) for row in rows]


def ids_of(data: Any) -> list[Any] | None:
    """The id of each item as its table has it; None if no column of ids was asked for.

    Args:
        data: A dataset, a part of one, or an `Embedded`.

    Raises:
        InputError: A row of the table has neither a text nor a whole number there.

    Example:
        >>> import numpy, tempfile
        >>> from likewise import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.savez(f"{folder}/v.npz", x=numpy.eye(3), key=["k1", "k2", "k3"])
        ...     points = data.load(f"{folder}/v.npz", vectors="x", id="key")
        >>> ids_of(data.Subset(points, [2, 0]))
        ['k3', 'k1']
    """
    if isinstance(data, Embedded):
        of_source = ids_of(data.source)
        return None if of_source is None else [of_source[row] for row in data.rows.tolist()]
    whole = getattr(data, "data", data)
    rows = getattr(data, "source_indices", range(len(data)))
    ids = getattr(whole, "ids", None)
    if isinstance(ids, InputError):
        raise ids
    return None if ids is None else [ids[int(row)] for row in rows]


def labeled_items(data: Dataset) -> Dataset:
    """The items that have a class; the data itself where all have one."""
    rows = np.flatnonzero(data.labels.numpy() != UNLABELED)
    return data if len(rows) == len(data) else Subset(data, rows)


def check_trainable(dataset: Dataset) -> None:
    """Refuse data that shows nothing about "same" and "different".

    Raises:
        InputError: there are fewer than two classes, or no class has two items.
    """
    counts = items_per_class(dataset)
    if not counts:
        raise InputError(
            "must have at least 2 classes, got 0 (no item has a label).",
            argument="data",
            remedy="Give labels, or learn from views: data.ViewDataset.",
            command="Put the images of each class into a folder of its own, name the column of a "
            "table with --label, or learn without classes: --no-labels.",
        )
    if len(counts) < 2:
        names = ", ".join(repr(name) for name in counts)
        raise InputError(
            f"data must have at least 2 classes, got {len(counts)} ({names}). "
            "Add items of another class to learn what is different."
        )
    if max(counts.values()) < 2:
        raise InputError(
            f"data must have a class with at least 2 items, got 1 item in each of its "
            f"{len(counts)} classes. Add items to learn what is the same."
        )


def split_by_class(data: Dataset, counts: Sequence[int], *, seed: int = 0) -> list[Subset]:
    """Parts that share no class: `counts[i]` classes, drawn at random, with all their items.

    Items keep their order. Classes beyond the sum of `counts` are left out, and so are unlabeled
    items (-1), with a warning that counts them.

    Args:
        data: what to split; only classes that have items count.
        counts: number of classes of each part.
        seed: same seed, same parts.

    Raises:
        InputError: the counts ask for more classes than there are, or one is below 1.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(np.eye(6), [0, 1, 2, 0, 1, 2])
        >>> [sorted(set(part.labels.tolist())) for part in split_by_class(data, [2, 1])]
        [[0, 2], [1]]
    """
    for count in counts:
        check_count("counts", count)
    labels, classes = data.labels.numpy(), class_codes(data)
    if not counts or sum(counts) > len(classes):
        raise InputError(
            f"counts must name at least one part and add up to at most {len(classes)}, the "
            f"number of classes, got {list(counts)}. Use smaller counts or data of more classes."
        )
    _warn_of_unlabeled(labels)
    drawn = np.random.default_rng(seed).permutation(classes)
    ends = np.cumsum(counts)
    return [
        Subset(data, np.flatnonzero(np.isin(labels, drawn[end - count : end])))
        for end, count in zip(ends, counts, strict=True)
    ]


def fold_by_class(data: Dataset, folds: int, *, seed: int = 0) -> list[tuple[Subset, Subset]]:
    """(rest, fold) for each of `folds` parts that share no class: k-fold over classes, or people.

    Every class is in one fold, with all its items, and in the rest of every other. The folds
    have equally many classes, up to one; the earlier ones have more. Items keep their order.
    Unlabeled items (-1), which could be of any class, are left out of all, with a warning.

    Args:
        data: what to split; only classes that have items count.
        folds: how many, from 2 to the number of classes.
        seed: same seed, same folds.

    Raises:
        InputError: fewer than two folds, or more than there are classes.

    Example:
        >>> from likewise.data import ArrayDataset, PairDataset
        >>> faces = ArrayDataset(np.eye(12), ["ann", "bob", "eve", "joe"] * 3)
        >>> parts = fold_by_class(faces, 2)
        >>> [sorted(items_per_class(fold)) for _, fold in parts]
        [['ann', 'eve'], ['bob', 'joe']]
        >>> [len(PairDataset(fold, per_item=2.0)) for _, fold in parts]  # none joins two folds
        [12, 12]
    """
    check_count("folds", folds, least=2)
    labels, classes = data.labels.numpy(), class_codes(data)
    if folds > len(classes):
        raise InputError(
            f"folds must be at most {len(classes)}, the number of classes, got {folds}. "
            "Use fewer folds or data of more classes."
        )
    _warn_of_unlabeled(labels)
    drawn = np.random.default_rng(seed).permutation(classes)
    parts = np.array_split(drawn, folds)
    inside = [np.isin(labels, part) for part in parts]
    outside = [np.isin(labels, np.setdiff1d(classes, part)) for part in parts]
    return [
        (Subset(data, np.flatnonzero(rest)), Subset(data, np.flatnonzero(fold)))
        for rest, fold in zip(outside, inside, strict=True)
    ]


def split_items(data: Dataset, fractions: Sequence[float], *, seed: int = 0) -> list[Subset]:
    """Parts that share no item and all, class by class, hold about `fractions` of the items.

    Each class is dealt out by itself, in random order. Its n items give part i the whole
    part of n·fractions[i]; items left over go to the largest remainders, the earlier part first.
    Then, in a class with at least as many items as there are parts, a part left empty-handed
    gets one item from the part that has most of them. Unlabeled items (-1) are dealt out in the
    same way, as a group of their own.

    Args:
        data: what to split.
        fractions: share of each part, above 0, adding up to 1.
        seed: same seed, same parts.

    Raises:
        InputError: the fractions are not above 0 or do not add up to 1.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(np.eye(8), [0, 0, 0, 0, 1, 1, 1, 1])
        >>> [part.labels.tolist() for part in split_items(data, [0.75, 0.25])]
        [[0, 0, 0, 1, 1, 1], [0, 1]]
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(
            f"fractions must be above 0 and add up to 1, got {list(fractions)}. "
            "Name the rest as a last part, e.g. [0.1, 0.9]."
        )
    part_of = np.empty(len(data), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for rows in _rows_by_class(data):
        sizes = _part_sizes(len(rows), shares)
        part_of[rng.permutation(rows)] = np.repeat(np.arange(len(shares)), sizes)
    return [Subset(data, np.flatnonzero(part_of == part)) for part in range(len(shares))]


def sample_items(data: Dataset, *, per_class: int, seed: int = 0) -> Subset:
    """`per_class` items of every class, drawn without replacement, in the order of the data.

    Unlabeled items (-1), which are of no class, are left out.

    Raises:
        InputError: a class has fewer than `per_class` items.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(np.eye(6), [0, 0, 0, 1, 1, 1])
        >>> sample_items(data, per_class=2).labels
        tensor([0, 0, 1, 1])
    """
    check_count("per_class", per_class)
    counts = items_per_class(data)
    scarce = min(counts, key=counts.__getitem__, default=None)
    if scarce is not None and counts[scarce] < per_class:
        raise InputError(
            f"must be at most {counts[scarce]}, the number of items of class "
            f"{scarce!r}, got {per_class}.",
            argument="per_class",
            remedy="Leave small classes out with choose_classes.",
            command="Ask for fewer, or leave small classes out with --except.",
        )
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(rows, per_class, replace=False)
        for rows in _rows_by_class(data)
        if data.labels[rows[0]] != UNLABELED
    ]
    return Subset(data, np.sort(np.concatenate(drawn)) if drawn else [])


def choose_classes(data: Dataset, classes: Sequence[str] | Sequence[int]) -> Subset:
    """All items of some classes, in the order of the data.

    Args:
        data: what to choose from.
        classes: class names, or codes where they are integers.

    Raises:
        InputError: a class has no item in `data`, or no class is named.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(np.eye(3), ["cat", "dog", "cat"])
        >>> len(choose_classes(data, ["cat"])), len(choose_classes(data, [1]))
        (2, 1)
    """
    known = {data.class_names[code]: code for code in class_codes(data).tolist()}
    codes = [known.get(name, -1) if isinstance(name, str) else int(name) for name in classes]
    absent = [name for name, code in zip(classes, codes, strict=True) if code not in known.values()]
    if absent or not codes:
        raise InputError(
            f"classes must be among those of the data ({first_of(known)}), got "
            f"{first_of(map(repr, absent))}. "
            "Strings are class names, integers are codes."
        )
    return Subset(data, np.flatnonzero(np.isin(data.labels.numpy(), codes)))


def _rows_by_class(data: Dataset) -> list[np.ndarray]:
    """Positions of each class's items, classes and positions ascending, first the unlabeled."""
    labels = data.labels.numpy()
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []


def _warn_of_unlabeled(labels: np.ndarray) -> None:
    if count := int((labels == UNLABELED).sum()):
        warnings.warn(
            f"{count} of {len(labels)} items are unlabeled ({UNLABELED}) and come into no part, "
            "as classes are split. split_items deals them out too.",
            stacklevel=3,
        )


def _part_sizes(count: int, shares: np.ndarray) -> np.ndarray:
    quotas = count * shares / shares.sum()
    sizes: np.ndarray = np.floor(quotas).astype(np.int64)
    left_over = np.argsort(-(quotas - sizes), kind="stable")[: count - sizes.sum()]
    sizes[left_over] += 1
    while count >= len(sizes) and sizes.min() == 0:
        sizes[sizes.argmax()] -= 1
        sizes[sizes.argmin()] += 1
    return sizes


def _check_indices(indices: Sequence[int] | Tensor | np.ndarray, count: int) -> Int[Tensor, " n"]:
    rows = as_tensor(list(indices) if isinstance(indices, range) else indices, "indices")
    if not isinstance(rows, Tensor):
        raise InputTypeError(
            f"indices must be integers of shape (n,), got {type(rows).__name__}. Give a tensor, an "
            "array or a list."
        )
    if rows.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputTypeError(
            f"indices must be integers of shape (n,), got {rows.dtype} of shape "
            f"{tuple(rows.shape)}. Use .nonzero().flatten() on a mask."
        )
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= count:
        raise InputError(
            f"indices must be between 0 and {count - 1}, got {low if low < 0 else high}. "
            "Count from the start of the data."
        )
    return rows.to(torch.int64)
