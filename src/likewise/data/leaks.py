"""Items and classes that parts of data share, though they should not."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from likewise import _tables
from likewise.data.datasets import Dataset
from likewise.data.fingerprints import fingerprints
from likewise.data.parts import items_per_class
from likewise.errors import InputError

Parts = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Leaks:
    """What parts share, two by two; pairs of parts that share nothing are left out.

    Its text says it in sentences. Whether shared classes are a fault depends on the parts: a
    gallery and its queries share them, training and new classes must not.

    Attributes:
        items: positions in the first part of items that are in the second too, beside the first
            such position in the second, (n, 2), by the names of both.
        classes: names of the classes of which both have items, by the names of both.
    """

    items: dict[Parts, Int[Tensor, "n 2"]]
    classes: dict[Parts, list[str]]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [
            (" and ".join(parts), f"{len(found):,} {noun}")
            for noun, kind in (("items", self.items), ("classes", self.classes))
            for parts, found in kind.items()
        ]
        return _tables.Table("Leaks" if rows else "Leaks: none", rows)

    def __str__(self) -> str:
        lines = [
            f"{first} and {second} share items ({len(found):,}), such as number "
            f"{int(found[0, 0])} of {first}, which is number {int(found[0, 1])} of {second}."
            for (first, second), found in self.items.items()
        ]
        for (first, second), names in self.classes.items():
            few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            lines.append(f"{first} and {second} share classes ({len(names):,}): {few}.")
        return "\n".join(lines) or "No two parts share an item or a class."

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Both, ready for JSON; the names of two parts are joined by " and "."""
        return {
            "items": {" and ".join(parts): found.tolist() for parts, found in self.items.items()},
            "classes": {" and ".join(parts): names for parts, names in self.classes.items()},
        }


def check_leaks(parts: Mapping[str, Dataset], *, batch_size: int = 1024) -> Leaks:
    """The items and classes that any two of these parts share.

    Items are told by their fingerprints, so those of any two sources can be compared: equal in
    every value is the same item, and a copy in another resolution is none
    (`index.find_conflicts` finds such by their embeddings). Classes are told by name;
    unlabeled items (-1) are of none.

    Args:
        parts: datasets by name, e.g. those of `split_open_set(...)._asdict()`.
        batch_size: items read at once.

    Raises:
        InputError: fewer than two parts.

    Example:
        >>> from likewise.data import ArrayDataset, Subset
        >>> data = ArrayDataset(np.eye(4), ["cat", "dog", "cat", "owl"])
        >>> leaks = check_leaks({"train": Subset(data, [0, 1]), "test": Subset(data, [3, 2, 1])})
        >>> print(leaks)
        train and test share items (1), such as number 1 of train, which is number 2 of test.
        train and test share classes (2): cat, dog.
    """
    if len(parts) < 2:
        raise InputError(
            f"parts must be at least 2, got {len(parts)}. Give datasets by name, "
            'e.g. {"train": ..., "test": ...}.'
        )
    prints = {name: fingerprints(part, batch_size).numpy() for name, part in parts.items()}
    named = {name: set(items_per_class(part)) for name, part in parts.items()}
    items: dict[Parts, Tensor] = {}
    classes: dict[Parts, list[str]] = {}
    for first, second in combinations(parts, 2):
        if len(found := same_prints(prints[first], prints[second])):
            items[first, second] = found
        if both := sorted(named[first] & named[second]):
            classes[first, second] = both
    return Leaks(items, classes)


def same_prints(first: "np.ndarray", second: "np.ndarray") -> Int[Tensor, "n 2"]:
    """Positions of first fingerprints that are in the second too, beside the first such there."""
    distinct, at = np.unique(second, return_index=True)
    if len(distinct) == 0:
        return torch.empty(0, 2, dtype=torch.int64)
    place = np.searchsorted(distinct, first).clip(max=len(distinct) - 1)
    rows = np.flatnonzero(distinct[place] == first)
    return torch.from_numpy(np.stack([rows, at[place[rows]]], axis=1))
