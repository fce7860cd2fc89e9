"""Batches with several items of several classes, as pair and triplet losses need them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from likewise._checks import check_count


class BalancedBatchSampler(Sampler[list[int]]):
    """Batches of `classes_per_batch` classes with `items_per_class` items each.

    Classes are dealt without replacement until all were used, and so are the items within
    each class; then they are shuffled anew. So classes, and items within their class, are
    used equally often up to one round, and no batch holds an item twice. A class with fewer
    than `items_per_class` items gives all of them, once, and the batch is that much shorter.

    Iterating yields `batches` batches and goes on where the last iteration ended. The
    order depends on `seed` alone.

    Args:
        labels: integer codes, shape (n,).
        classes_per_batch: distinct classes in a batch.
        items_per_class: distinct items of each class in a batch.
        batches: length of one iteration; by default about one pass over the items,
            ceil(n / (classes_per_batch · items_per_class)).
        seed: at least 0.

    Raises:
        TypeError: labels are not integers.
        ValueError: there are fewer classes than `classes_per_batch`, a count is below 1, or
            labels are empty or negative.

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
        seed: int = 0,
    ) -> None:
        codes = _check_codes(labels)
        check_count("classes_per_batch", classes_per_batch)
        check_count("items_per_class", items_per_class)
        check_count("seed", seed, least=0)
        if batches is None:
            batches = math.ceil(len(codes) / (classes_per_batch * items_per_class))
        check_count("batches", batches)

        order = np.argsort(codes, kind="stable")
        self._rows = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
        if classes_per_batch > len(self._rows):
            raise ValueError(
                f"classes_per_batch must be at most {len(self._rows)}, the number of classes, "
                f"got {classes_per_batch}. Use fewer classes per batch."
            )
        self.classes_per_batch = classes_per_batch
        self.items_per_class = items_per_class
        self.batches = batches
        self.seed = seed
        self._classes = _Deck(len(self._rows), seed, 0)
        self._items = [_Deck(len(rows), seed, 1 + i) for i, rows in enumerate(self._rows)]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.batches):
            yield self._draw_batch()

    def _draw_batch(self) -> list[int]:
        batch: list[int] = []
        for position in self._classes.draw(self.classes_per_batch):
            rows = self._rows[position]
            drawn = self._items[position].draw(min(self.items_per_class, len(rows)))
            batch += rows[drawn].tolist()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of batches stands, as plain numbers and lists (JSON-able).

        Take it between iterations: a DataLoader with workers draws batches ahead.
        """
        return {
            "settings": self._settings(),
            "classes": self._classes.state(),
            "items": [deck.state() for deck in self._items],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the sampler stood that gave `state`.

        Raises:
            ValueError: the state is of a sampler over other labels or with other settings.
        """
        settings = self._settings()
        if state.get("settings") != settings:
            raise ValueError(
                f"state must come from a sampler with settings {settings}, "
                f"got {state.get('settings')}. Build the sampler as it was built then."
            )
        self._classes.load(state["classes"])
        for deck, deck_state in zip(self._items, state["items"], strict=True):
            deck.load(deck_state)

    def _settings(self) -> dict[str, int]:
        return {
            "classes": len(self._rows),
            "items": sum(len(rows) for rows in self._rows),
            "classes_per_batch": self.classes_per_batch,
            "items_per_class": self.items_per_class,
            "seed": self.seed,
        }


class _Deck:
    """Cards 0..size−1, dealt in random order and shuffled anew when all were dealt.

    The order of a round depends on (seed, stream, round) and on the few cards that were
    dealt just before it, `carried`; these go to its end, so that no hand that reaches across
    two rounds holds a card twice. That is all the state there is.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self._size = size
        self._key = (seed, stream)
        self._round = 0
        self._dealt = 0
        self._carried = np.empty(0, dtype=np.int64)
        self._order: np.ndarray | None = None  # made when first needed: many decks never are

    def draw(self, count: int) -> np.ndarray:
        """`count` different cards, at most `size`."""
        if self._order is None:
            self._order = self._shuffled()
        hand = self._order[self._dealt : self._dealt + count]
        self._dealt += len(hand)
        missing = count - len(hand)
        if missing:
            self._round += 1
            self._carried = hand
            self._order = self._shuffled()
            self._dealt = missing
            hand = np.concatenate([hand, self._order[:missing]])
        return hand

    def state(self) -> list[int]:
        return [self._round, self._dealt, *self._carried.tolist()]

    def load(self, state: list[int]) -> None:
        self._round, self._dealt, *carried = state
        self._carried = np.asarray(carried, dtype=np.int64)
        self._order = None

    def _shuffled(self) -> np.ndarray:
        order = np.random.default_rng((*self._key, self._round)).permutation(self._size)
        last = np.isin(order, self._carried)
        return np.concatenate([order[~last], order[last]])


def _check_codes(labels: Tensor | np.ndarray | Sequence[int]) -> np.ndarray:
    codes = torch.as_tensor(labels).detach().cpu().numpy()
    if codes.ndim != 1 or len(codes) == 0:
        raise ValueError(
            f"labels must have shape (n,) with n >= 1, got {codes.shape}. Give one label per item."
        )
    if codes.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {codes.dtype}. Use dataset.labels.")
    if codes.min() < 0:
        raise ValueError(
            f"labels must be at least 0, got {codes.min()}. Leave items without a class out."
        )
    return codes
