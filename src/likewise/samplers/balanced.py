"""Batches with several items of several classes, as pair and triplet losses need them."""

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


class BalancedBatchSampler(Sampler[list[int]]):
    """Batches of `classes_per_batch` classes with `items_per_class` items each.

    Classes are dealt without replacement until all were used, and so are the items within
    each class; then they are shuffled anew. So classes, and items within their class, are
    used equally often up to one round, and no batch holds an item twice. A class with fewer
    than `items_per_class` items gives all of them, once, and the batch is that much shorter. With
    `fill` it gives them again until there are `items_per_class`, so that every batch has the same
    size; only the items of such a class repeat.

    With `class_weights` the classes of a batch are drawn by weight, without replacement within
    the batch: one after the other, each with a probability in proportion to its weight among
    those that are left. With `replacement` the items of a class are drawn independently, so that
    every class gives `items_per_class`, some perhaps more than once.

    Unlabeled items, whose code is −1, are not drawn; a warning tells how many there are.

    Iterating yields `batches` batches and goes on where the last iteration ended. The
    order depends on `seed` alone.

    Args:
        labels: integer codes, shape (n,).
        classes_per_batch: distinct classes in a batch.
        items_per_class: items of each class in a batch, distinct without `replacement`.
        batches: length of one iteration; by default about one pass over the items,
            ceil(n / (classes_per_batch · items_per_class)).
        replacement: whether an item may come twice in a batch.
        fill: Whether a class with too few items repeats them.
        class_weights: None for all classes alike, in turn; a number p for (items of the class)^p,
            so 1 draws classes as often as items are spread and 0.5 evens that out; or a weight
            of every code, at least 0, by `class_weights[code]`.
        seed: at least 0.

    Raises:
        InputTypeError: labels are not integers.
        InputError: there are fewer classes than `classes_per_batch`, a count is below 1, labels
            are empty, below −1 or all −1, weights are negative, missing or 0 for too many
            classes, or both `replacement` and `fill` are asked for.

    Example:
        >>> sampler = BalancedBatchSampler(
        ...     [0, 0, 0, 1, 1, 2, 2], classes_per_batch=2, items_per_class=2, batches=3
        ... )
        >>> [len(batch) for batch in sampler]
        [4, 4, 4]
    """

    def __init__(
        self,
        labels: Tensor | np.ndarray | Sequence[int],
        *,
        classes_per_batch: int,
        items_per_class: int,
        batches: int | None = None,
        replacement: bool = False,
        fill: bool = False,
        class_weights: float | Sequence[float] | Tensor | np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        codes = check_codes(labels)
        check_count("classes_per_batch", classes_per_batch)
        check_count("items_per_class", items_per_class)
        check_count("seed", seed, least=0)
        labeled = labeled_rows(codes)
        if batches is None:
            batches = math.ceil(len(labeled) / (classes_per_batch * items_per_class))
        check_count("batches", batches)
        if replacement and fill:
            raise InputError(
                "fill must be False with replacement, got both. With replacement every class gives "
                "items_per_class anyway."
            )

        self._rows = [labeled[rows] for rows in rows_by_code(codes[labeled])]
        if classes_per_batch > len(self._rows):
            raise InputError(
                f"must be at most {len(self._rows)}, the number of classes, got "
                f"{classes_per_batch}. Use fewer classes per batch.",
                argument="classes_per_batch",
            )
        self.classes_per_batch = classes_per_batch
        self.items_per_class = items_per_class
        self.batches = batches
        self.replacement = replacement
        self.fill = fill
        self.seed = seed
        self._weights = _weights(class_weights, codes, self._rows, classes_per_batch)
        self._drawn = 0
        self._classes = Deck(len(self._rows), seed, 0)
        self._items = [Deck(len(rows), seed, 1 + i) for i, rows in enumerate(self._rows)]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.batches):
            yield self._draw_batch()

    def _draw_batch(self) -> list[int]:
        # What is drawn independently depends on the number of the batch: no state but a count.
        rng = np.random.default_rng((self.seed, 0, self._drawn, 1))
        self._drawn += 1
        batch: list[int] = []
        for position in self._draw_classes(rng):
            rows = self._rows[position]
            if self.replacement:
                drawn = rng.integers(len(rows), size=self.items_per_class)
            else:
                drawn = self._items[position].draw_some(self.items_per_class, fill=self.fill)
            batch += rows[drawn].tolist()
        return batch

    def _draw_classes(self, rng: np.random.Generator) -> np.ndarray:
        if self._weights is None:
            return self._classes.draw(self.classes_per_batch)
        # The first of exponential waiting times: Efraimidis & Spirakis, "Weighted random
        # sampling with a reservoir", 2006, in logarithms.
        with np.errstate(divide="ignore"):  # weight 0 waits for ever
            waits = rng.exponential(size=len(self._weights)) / self._weights
        return np.argsort(waits, kind="stable")[: self.classes_per_batch]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of batches stands, as plain numbers and lists (JSON-able).

        Take it between iterations: a DataLoader with workers draws batches ahead.
        """
        return {
            "settings": self._settings(),
            "drawn": self._drawn,
            "classes": self._classes.state(),
            "items": [deck.state() for deck in self._items],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler stood that gave `state`.

        Raises:
            InputError: the state is of a sampler over other labels or with other settings.
        """
        check_settings(state, self._settings())
        self._drawn = int(state["drawn"])
        self._classes.load(state["classes"])
        for deck, deck_state in zip(self._items, state["items"], strict=True):
            deck.load(deck_state)

    def _settings(self) -> dict[str, Any]:
        return {
            "classes": len(self._rows),
            "items": sum(len(rows) for rows in self._rows),
            "classes_per_batch": self.classes_per_batch,
            "items_per_class": self.items_per_class,
            "replacement": self.replacement,
            "fill": self.fill,
            "class_weights": None if self._weights is None else self._weights.tolist(),
            "seed": self.seed,
        }


def _weights(
    given: float | Sequence[float] | Tensor | np.ndarray | None,
    codes: np.ndarray,
    rows: list[np.ndarray],
    classes_per_batch: int,
) -> np.ndarray | None:
    """A weight of each class that occurs, scaled to a largest of 1; None for all alike."""
    if given is None:
        return None
    weights: np.ndarray
    values = np.asarray(given, dtype=np.float64)
    if values.ndim == 0:
        sizes = np.array([len(positions) for positions in rows])
        weights = (sizes / sizes.max()) ** values
    elif values.ndim != 1 or len(values) <= codes.max():
        raise InputError(
            f"class_weights must have a weight for every code up to {codes.max()}, "
            f"got shape {values.shape}. Give one per class name."
        )
    else:
        weights = values[[codes[positions[0]] for positions in rows]]
    usable = np.count_nonzero(weights > 0)
    if not np.isfinite(weights).all() or (weights < 0).any() or usable < classes_per_batch:
        raise InputError(
            "class_weights must be finite, at least 0, and above 0 for at least "
            f"{classes_per_batch} classes, got {usable} of these. "
            "Use fewer classes per batch, or weigh more classes."
        )
    weights = weights / weights.max()
    return weights
