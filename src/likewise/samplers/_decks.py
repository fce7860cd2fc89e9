"""Random order without replacement whose state is a few numbers, and checked labels."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise.errors import InputError, InputTypeError
from likewise.masks import UNLABELED


class Deck:
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

    def draw_some(self, count: int, *, fill: bool) -> np.ndarray:
        """`count` different cards or all there are; with `fill` then the same ones again."""
        if not fill or count <= self._size:
            return self.draw(min(count, self._size))
        hands = [self.draw(min(count - at, self._size)) for at in range(0, count, self._size)]
        return np.concatenate(hands)

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


def check_codes(labels: Tensor | np.ndarray | Sequence[int], name: str = "labels") -> np.ndarray:
    """Codes (n,) as an array, refused unless they are integers, at least 0 or −1 (unlabeled)."""
    codes = torch.as_tensor(labels).detach().cpu().numpy()
    if codes.ndim != 1 or len(codes) == 0:
        raise InputError(
            f"{name} must have shape (n,) with n >= 1, got {codes.shape}. Give one label per item."
        )
    if codes.dtype.kind not in "iu":
        raise InputTypeError(f"{name} must be integers, got {codes.dtype}. Use dataset.labels.")
    if codes.dtype.kind == "i" and codes.min() < UNLABELED:
        raise InputError(
            f"{name} must be at least 0, or {UNLABELED} for an item without a class, got "
            f"{codes.min()}. Use dataset.labels."
        )
    return codes


def labeled_rows(codes: np.ndarray, name: str = "labels") -> np.ndarray:
    """Positions of the items with a class, in order; warns if there are others.

    Raises:
        InputError: no item has a class.
    """
    rows = np.flatnonzero(codes != UNLABELED)
    if not len(rows):
        raise InputError(
            f"{name} must hold a class, got {UNLABELED} (unlabeled) for all {len(codes)} items. "
            "Label some, or draw them with ShuffledBatchSampler."
        )
    if len(rows) < len(codes):
        warnings.warn(
            f"{len(codes) - len(rows)} of {len(codes)} items are unlabeled ({UNLABELED}) and "
            "come into no batch, as only classes are drawn. ShuffledBatchSampler draws all items.",
            stacklevel=3,
        )
    return rows


def rows_by_code(codes: np.ndarray) -> list[np.ndarray]:
    """Positions of each code that occurs, in the order of the codes."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def check_settings(state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse the state of a sampler that was built otherwise."""
    if state.get("settings") != settings:
        raise InputError(
            f"state must come from a sampler with settings {settings}, "
            f"got {state.get('settings')}. Build the sampler as it was built then."
        )
