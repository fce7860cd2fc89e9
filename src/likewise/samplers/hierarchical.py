"""Batches of classes within super-classes, whose negatives are hard by nature."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from likewise._checks import check_count
from likewise.errors import InputError
from likewise.samplers._decks import (
    Deck,
    check_codes,
    check_settings,
    labeled_rows,
    rows_by_code,
)


class HierarchicalBatchSampler(Sampler[list[int]]):
    """Batches of several super-classes, several classes of each, several items of each of these.

    Birds of several species beside cars of several makes: negatives within a super-class are
    near, and the rest keeps super-classes apart. Super-classes, classes within each and items
    within each class are dealt without replacement until all were used, then shuffled anew.
    A super-class with fewer classes, or a class with fewer items, gives all it has, and the batch
    is that much shorter; with `fill` such a class repeats its items instead. Unlabeled items, whose
    code is −1, are not drawn; a warning tells how many there are.

    Iterating yields `batches` batches and goes on where the last iteration ended. The
    order depends on `seed` alone.

    Args:
        labels: integer codes, shape (n,).
        super_labels: the super-class of every item, integer codes, shape (n,).
        super_classes_per_batch: distinct super-classes in a batch.
        classes_per_super_class: distinct classes of each.
        items_per_class: distinct items of each class.
        batches: length of one iteration; about one pass over the items if None.
        fill: Whether a class with too few items repeats them.
        seed: at least 0.

    Raises:
        InputTypeError: labels are not integers.
        InputError: a class lies in two super-classes, there are fewer super-classes than asked
            for, or a count is below 1.

    Example:
        >>> sampler = HierarchicalBatchSampler(
        ...     [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1],
        ...     super_classes_per_batch=1, classes_per_super_class=2, items_per_class=2,
        ... )
        >>> sorted(len(batch) for batch in sampler)
        [2, 4]
    """

    def __init__(
        self,
        labels: Tensor | np.ndarray | Sequence[int],
        super_labels: Tensor | np.ndarray | Sequence[int],
        *,
        super_classes_per_batch: int,
        classes_per_super_class: int,
        items_per_class: int,
        batches: int | None = None,
        fill: bool = False,
        seed: int = 0,
    ) -> None:
        codes, above = check_codes(labels), check_codes(super_labels, "super_labels")
        if len(codes) != len(above):
            raise InputError(
                f"super_labels must be one per item, {len(codes)}, got {len(above)}. "
                "Give the super-class of every item."
            )
        check_count("super_classes_per_batch", super_classes_per_batch)
        check_count("classes_per_super_class", classes_per_super_class)
        check_count("items_per_class", items_per_class)
        check_count("seed", seed, least=0)
        labeled = labeled_rows(codes)
        if above[labeled].min() < 0:
            raise InputError(
                f"super_labels must be at least 0, got {above[labeled].min()} for an item with a "
                "class. Leave items without a super-class out."
            )
        size = super_classes_per_batch * classes_per_super_class * items_per_class
        batches = math.ceil(len(labeled) / size) if batches is None else batches
        check_count("batches", batches)

        self._rows = [labeled[rows] for rows in rows_by_code(codes[labeled])]
        for rows in self._rows:
            if (above[rows] != above[rows[0]]).any():
                raise InputError(
                    f"super_labels must be one per class, got several for class {codes[rows[0]]}. "
                    "Split the class, or correct its items."
                )
        self._within = rows_by_code(np.array([above[rows[0]] for rows in self._rows]))
        if super_classes_per_batch > len(self._within):
            raise InputError(
                f"super_classes_per_batch must be at most {len(self._within)}, the number of "
                f"super-classes, got {super_classes_per_batch}. Use fewer per batch."
            )
        self.super_classes_per_batch = super_classes_per_batch
        self.classes_per_super_class = classes_per_super_class
        self.items_per_class = items_per_class
        self.batches = batches
        self.fill = fill
        self.seed = seed
        sizes = [len(self._within), *map(len, self._within), *map(len, self._rows)]
        self._decks = [Deck(size, seed, stream) for stream, size in enumerate(sizes)]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.batches):
            yield self._draw_batch()

    def _draw_batch(self) -> list[int]:
        top, *decks = self._decks
        of_class = decks[len(self._within) :]
        batch: list[int] = []
        for i in top.draw(self.super_classes_per_batch):
            classes = self._within[i]
            for j in classes[decks[i].draw(min(self.classes_per_super_class, len(classes)))]:
                rows = self._rows[j]
                drawn = of_class[j].draw_some(self.items_per_class, fill=self.fill)
                batch += rows[drawn].tolist()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, JSON-able; take it between iterations."""
        return {"settings": self._settings(), "decks": [deck.state() for deck in self._decks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler stood that gave `state`.

        Raises:
            InputError: the state is of a sampler over other labels or with other settings.
        """
        check_settings(state, self._settings())
        for deck, deck_state in zip(self._decks, state["decks"], strict=True):
            deck.load(deck_state)

    def _settings(self) -> dict[str, Any]:
        return {
            "super_classes": len(self._within),
            "classes": len(self._rows),
            "items": sum(len(rows) for rows in self._rows),
            "super_classes_per_batch": self.super_classes_per_batch,
            "classes_per_super_class": self.classes_per_super_class,
            "items_per_class": self.items_per_class,
            "fill": self.fill,
            "seed": self.seed,
        }
