"""`find_leaks`: items that are in data twice, or in two data, though they should not be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables, data
from likewise._checks import check_at_least
from likewise.data.leaks import same_prints
from likewise.data.parts import label_names
from likewise.errors import InputError
from likewise.index import Index
from likewise.index.conflicts import find_conflicts
from likewise.journeys.opening import PLAIN, names_of, open_data, open_fitting
from likewise.model import SimilarityModel

Names = tuple[str, ...]
Progress = Callable[[int, int], None]
Found = tuple[Int[Tensor, "p 2"], Float[Tensor, " p"]]  # pairs of positions, and their distances
SHOWN = 10  # pairs in the text of a result


@dataclass(frozen=True, eq=False)
class SharedItems:
    """Pairs of items that are the same, within data or across two.

    Attributes:
        names: Names of the data: one, or two where items of the first were sought in the second.
        counts: Number of items of each.
        pairs: Positions of both, (p, 2). Within one the earlier item comes first; across two the
            first position is of the first data.
        distances: Distances of the pairs, (p,); 0 for items that are equal in every value.
        conflicting: Whether both are labeled, and not alike, (p,).
        classes: Classes that both data have; None within one.
        within: Largest distance of a pair; None where equal items were sought.
        items: What each item is called, by data.
        labels: Class of each item, by data; None for unlabeled.
    """

    names: Names
    counts: tuple[int, ...]
    pairs: Int[Tensor, "p 2"]
    distances: Float[Tensor, " p"]
    conflicting: Bool[Tensor, " p"]
    classes: list[str] | None
    within: float | None
    items: tuple[list[str], ...]
    labels: tuple[list[str | None], ...]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [(f"{a} ({x})", f"{b} ({y})") for a, x, b, y, _ in self.rows(SHOWN)]
        more = len(self.pairs) - len(rows)
        return _tables.Table(" ".join(self.headline()), rows, more=more)

    def headline(self) -> list[str]:
        """What was found, in sentences."""
        sizes = [
            f"{name} ({count:,} items)" for name, count in zip(self.names, self.counts, strict=True)
        ]
        what = "equal items" if self.within is None else f"items at most {self.within:g} apart"
        wrong = int(self.conflicting.sum())
        number = f"{len(self.pairs):,}" if len(self.pairs) else "no"
        noun = "pair" if len(self.pairs) == 1 else "pairs"
        told = f"{number} {noun} of {what}"
        if len(self.pairs):
            told += f", {wrong or 'none'} with different labels"
        lines = [f"{' and '.join(sizes)}: {told}."]
        if self.classes is not None:
            few = ", ".join(self.classes[:5]) + (", …" if len(self.classes) > 5 else "")
            count = len(self.classes)
            lines.append(f"Shared classes: {f'{count:,} ({few})' if count else 'none'}.")
        return lines

    def rows(self, most: int | None = None) -> list[tuple[str, str, str, str, float]]:
        """Item and label of either side with the distance, pair by pair, conflicts first.

        Args:
            most: Number of pairs; all if None.
        """
        order = torch.argsort(~self.conflicting, stable=True)[:most].tolist()
        first, second = (self.items[0], self.labels[0]), (self.items[-1], self.labels[-1])
        return [
            (first[0][a], first[1][a] or "none", second[0][b], second[1][b] or "none", distance)
            for (a, b), distance in zip(
                self.pairs[order].tolist(), self.distances[order].tolist(), strict=True
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; positions, names and labels of each pair."""
        sides = ((self.items[0], self.labels[0]), (self.items[-1], self.labels[-1]))
        return {
            "data": list(self.names),
            "items": list(self.counts),
            "within": self.within,
            "pairs": [
                {
                    "positions": rows,
                    "items": [items[row] for (items, _), row in zip(sides, rows, strict=True)],
                    "labels": [labels[row] for (_, labels), row in zip(sides, rows, strict=True)],
                    "distance": distance,
                    "conflicting": conflicting,
                }
                for rows, distance, conflicting in zip(
                    self.pairs.tolist(),
                    self.distances.tolist(),
                    self.conflicting.tolist(),
                    strict=True,
                )
            ],
            "classes": self.classes,
        }


def find_leaks(
    items: data.Dataset,
    other: data.Dataset | None = None,
    *,
    model: SimilarityModel | None = None,
    within: float | None = None,
    names: tuple[str, str] = ("data", "other"),
    progress: Progress | None = None,
) -> SharedItems:
    """The items that stand twice in data, or that two data share, and the classes they share.

    Without a model, items are the same that are equal in every value; each is told beside the
    first one. With a model they are the same where their embeddings are at most `within` apart,
    which also finds copies of another size, crop or compression. Within one data all such pairs
    are told; across two, each item beside the nearest of the other.

    Args:
        items: Items to be looked at.
        other: Data that should share no item with them; None to look among `items` alone.
        model: Encoder of near-duplicates.
        within: Largest distance of near-duplicates, in the distance of the model.
        names: Names of both data, for what is told.
        progress: Called as progress(done, total) while embedding.

    Raises:
        InputError: Only one of `model` and `within` is given, or the data hold items of two kinds.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> train = ArrayDataset(torch.eye(4), ["cat", "dog", "cat", "owl"])
        >>> test = ArrayDataset(torch.eye(4)[2:], ["cat", "dog"])
        >>> found = find_leaks(train, test)
        >>> found.pairs.tolist(), found.conflicting.tolist(), found.classes
        ([[2, 0], [3, 1]], [False, True], ['cat', 'dog'])
    """
    if (model is None) != (within is None):
        given, missing = ("within", "model") if model is None else ("model", "within")
        raise InputError(
            f"must be given with {given}, got none. Near-duplicates take both, such as a cosine "
            "distance of 0.02.",
            argument=missing,
        )
    parts = [items] if other is None else [items, other]
    _check_alike(parts)
    labels = tuple(label_names(part) for part in parts)
    classes = None
    if other is not None:
        classes = sorted({*filter(None, labels[0])} & {*filter(None, labels[1])})
    if model is None or within is None:
        pairs, distances = _equal(parts)
    else:
        model.check_one_tower("near-duplicates")
        check_at_least("within", within, -torch.inf)
        pairs, distances = _near(model, parts, within, progress)
    first, second = labels[0], labels[-1]
    conflicting = [
        first[a] is not None and second[b] is not None and first[a] != second[b]
        for a, b in pairs.tolist()
    ]
    return SharedItems(
        names=names[: len(parts)],
        counts=tuple(map(len, parts)),
        pairs=pairs,
        distances=distances,
        conflicting=torch.tensor(conflicting, dtype=torch.bool),
        classes=classes,
        within=within,
        items=tuple(map(names_of, parts)),
        labels=labels,
    )


def open_to_compare(
    source: str | Path,
    other: str | Path | None = None,
    *,
    split: str | None = None,
    other_split: str | None = None,
    image_size: int | None = None,
    model: SimilarityModel | None = None,
    reading: data.Reading = PLAIN,
) -> tuple[data.Dataset, data.Dataset | None]:
    """One or two sources, their items read alike: by a model, or at one size.

    Args:
        source: Anything that `data.load` reads; all its parts by default.
        other: Second source.
        split: Part of `source`.
        other_split: Part of `other`.
        image_size: Side of images; by default the size that the first has, or else 64.
        model: Model that reads the items as it does.
        reading: Columns of both, if they are tables.
    """
    if model is not None and image_size is not None:
        raise InputError(
            f"must be left out with a model, which has a size of its own, got {image_size}.",
            argument="image_size",
        )
    asked = [(source, split), *([] if other is None else [(other, other_split)])]
    if model is not None:
        fitting = [
            open_fitting(model, place, part, default_split="all", reading=reading)
            for place, part in asked
        ]
        return fitting[0], fitting[1] if other is not None else None
    opened = [
        open_data(place, part, default_split="all", image_size=image_size, reading=reading)
        for place, part in asked
    ]
    if other is None:
        return opened[0], None
    shapes = [tuple(part.item_shape) for part in opened]
    if shapes[0] != shapes[1] and all(len(shape) == 3 for shape in shapes):
        _, height, width = shapes[0]
        channels = max(shape[0] for shape in shapes)
        for at, (place, part) in enumerate(asked):
            if shapes[at] != (channels, height, width):
                opened[at] = open_data(
                    place,
                    part,
                    default_split="all",
                    image_size=(height, width),
                    channels=channels,
                    reading=reading,
                )
    return opened[0], opened[1]


def _check_alike(parts: Sequence[data.Dataset]) -> None:
    kinds = ["texts" if data.is_text(part) else tuple(part.item_shape) for part in parts]
    if kinds[0] != kinds[-1]:
        raise InputError(
            f"must hold items as the other data do, {kinds[0]}, got {kinds[-1]}. Read both alike.",
            argument="other",
        )


def _equal(parts: Sequence[data.Dataset]) -> Found:
    prints = [data.fingerprints(part).numpy() for part in parts]
    pairs = same_prints(prints[0], prints[-1])
    if len(parts) == 1:
        pairs = pairs[pairs[:, 0] != pairs[:, 1]].flip(1)
    return pairs, torch.zeros(len(pairs), dtype=torch.float64)


def _near(
    model: SimilarityModel,
    parts: Sequence[data.Dataset],
    within: float,
    progress: Progress | None,
) -> Found:
    starts, total = [0, len(parts[0])], sum(map(len, parts))
    embeddings = [
        model.embed(part, progress=_moved(progress, start, total))
        for start, part in zip(starts, parts, strict=False)
    ]
    if len(parts) == 1:
        found = find_conflicts(embeddings[0], distance=model.distance, within=within)
        return found.pairs, found.distances
    index = Index(model.distance)
    index.add(embeddings[1])
    nearest = index.lookup(embeddings[0], k=1)
    apart, at = nearest.distances[:, 0].double(), torch.as_tensor(nearest.ids[:, 0])
    rows = (apart <= within).nonzero().flatten()
    return torch.stack([rows, at[rows]], dim=1), apart[rows]


def _moved(progress: Progress | None, start: int, total: int) -> Progress | None:
    """Progress of a part that begins at `start` of a whole."""
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)
