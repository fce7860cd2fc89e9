"""Unknowns for an encoder that was trained on all classes, from encoders that were not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import as_tensors, check_count, check_finite, check_labels
from likewise.errors import InputError

ALONE = 10  # classes up to which each is a fold of its own
FOLDS = 5  # of more classes
TAILS = (0.05, 0.95)
FEWEST_KNOWN = 2  # distances, of which quantiles can be had


def class_folds(classes: int, *, most: int | None = None, seed: int = 0) -> list[list[int]]:
    """Classes to leave out together: one per fold up to ten classes, else five folds.

    Args:
        classes: How many there are, at least 3; each fold leaves at least 2 to train on.
        most: At most this many folds, at least 2.
        seed: Seed of the draw.

    Returns:
        The class codes of each fold, ascending; every class is in exactly one.

    Example:
        >>> [len(fold) for fold in class_folds(12)]
        [3, 3, 2, 2, 2]
        >>> sorted(sum(class_folds(5, most=3), []))
        [0, 1, 2, 3, 4]
    """
    check_count("classes", classes, least=3)
    if most is not None:
        check_count("most", most, least=2)
    count = min(classes if classes <= ALONE else FOLDS, most or classes)
    if classes < 4:
        count = classes  # two folds would leave one class to train on
    order = np.random.default_rng(seed).permutation(classes)
    return [sorted(order[fold::count].tolist()) for fold in range(count)]


def carried(
    distances: Float[Tensor, " u"],
    known: Float[Tensor, " m"],
    known_now: Float[Tensor, " n"],
) -> Float[Tensor, " u"]:
    """Distances of one encoder where they lie among the known distances of another.

    A distance has no meaning in another encoder, but its quantile among the distances of known
    queries has: each distance goes to the same quantile of `known_now`, interpolated. Beyond the
    5th and the 95th percentile, where the extremes of a few queries say more about their number
    than about the encoder, it keeps its gap, in units of the range from the 10th to the 90th
    percentile. So the order stays, and equal encoders change nothing.

    Args:
        distances: Distances of unknowns, by the encoder of one fold.
        known: Distances of known queries, by that encoder.
        known_now: Distances of known queries, by the encoder that is used.

    Raises:
        InputError: Fewer than two known distances, or NaN or infinity.

    Example:
        >>> known = torch.arange(11.0)
        >>> carried(torch.tensor([2.5, 5.0, 12.0]), known, 2 * known + 1).round().tolist()
        [6.0, 11.0, 25.0]
    """
    distances, known, known_now = as_tensors(distances=distances, known=known, known_now=known_now)
    values: Tensor
    for name, values in (("distances", distances), ("known", known), ("known_now", known_now)):
        if not isinstance(values, Tensor) or values.ndim != 1:
            raise InputError(f"{name} must be one number per query, (n,).")
        check_finite(values, name)
        if name != "distances" and len(values) < FEWEST_KNOWN:
            raise InputError(
                f"{name} must hold at least {FEWEST_KNOWN} distances, got {len(values)}. Keep "
                "items aside for known queries."
            )
    place = distances.detach().double().cpu().numpy()
    there, now = (np.sort(each.detach().double().cpu().numpy()) for each in (known, known_now))
    levels = np.interp(place, there, _levels(len(there)))
    moved = np.interp(levels, _levels(len(now)), now)
    scale = _spread(now) / (_spread(there) or 1.0)
    (low, high), (low_now, high_now) = (np.quantile(each, TAILS) for each in (there, now))
    below, above = place < low, place > high
    moved[below] = low_now + scale * (place[below] - low)
    moved[above] = high_now + scale * (place[above] - high)
    return torch.from_numpy(moved)


def _levels(count: int) -> np.ndarray[Any, Any]:
    # 0 and 1 at the ends: the range of known distances is carried onto the range.
    return np.linspace(0, 1, count)


def _spread(ascending: np.ndarray[Any, Any]) -> float:
    low, high = np.quantile(ascending, (0.1, 0.9))
    return float(high - low)


@dataclass(frozen=True, eq=False)
class CrossFit:
    """What encoders said of classes that they were not trained on, fold by fold.

    Attributes:
        class_names: The classes trained on, which the codes stand for.
        known: Distances of known queries, that no encoder was trained on, of all folds, (m,).
        known_folds: The fold of each, (m,).
        unknown: Distances of items of the classes that a fold left out, (u,).
        unknown_folds: The fold of each, (u,).
        classes: Their class codes, (u,).
        taken_for: The class codes of their nearest neighbors, (u,).
    """

    class_names: tuple[str, ...]
    known: Float[Tensor, " m"]
    known_folds: Int[Tensor, " m"]
    unknown: Float[Tensor, " u"]
    unknown_folds: Int[Tensor, " u"]
    classes: Int[Tensor, " u"]
    taken_for: Int[Tensor, " u"]

    def __post_init__(self) -> None:
        for name, folds in (("known", "known_folds"), ("unknown", "unknown_folds")):
            values = getattr(self, name)
            if values.ndim != 1 or not values.is_floating_point() or not len(values):
                raise InputError(f"{name} of a cross-fit must be numbers, (n,), and not empty.")
            check_finite(values, name)
            check_labels(getattr(self, folds), len(values), folds)
        for name in ("classes", "taken_for"):
            codes = getattr(self, name)
            check_labels(codes, len(self.unknown), name)
            if not 0 <= int(codes.min()) <= int(codes.max()) < len(self.class_names):
                raise InputError(
                    f"{name} of a cross-fit must be codes of its {len(self.class_names)} classes."
                )
        if self.folds < 2:
            raise InputError(
                "unknown_folds of a cross-fit must be of at least 2 folds, got one, which leaves "
                "no class to compare with."
            )
        for fold in torch.unique(self.unknown_folds).tolist():
            count = int((self.known_folds == fold).sum())
            if count < FEWEST_KNOWN:
                raise InputError(
                    f"known of a cross-fit must hold {FEWEST_KNOWN} distances of each fold, got "
                    f"{count} of fold {fold}."
                )

    @property
    def folds(self) -> int:
        """How many encoders it took."""
        return len(torch.unique(self.unknown_folds))

    @classmethod
    def of(
        cls,
        class_names: Sequence[str],
        folds: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    ) -> "CrossFit":
        """Joined folds, each (known distances, unknown distances, their classes, taken for)."""
        if not folds:
            raise InputError("folds must hold at least one fold, got none.")
        known, unknown, classes, taken_for = zip(*folds, strict=True)

        def numbers(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([torch.full((len(each),), at) for at, each in enumerate(parts)])

        return cls(
            tuple(class_names),
            torch.cat(known).float(),
            numbers(known),
            torch.cat(unknown).float(),
            numbers(unknown),
            torch.cat(classes),
            torch.cat(taken_for),
        )

    def carried(self, known_now: Float[Tensor, " n"]) -> Float[Tensor, " u"]:
        """The unknowns' distances where an encoder has these known distances, float64."""
        moved = torch.empty(len(self.unknown), dtype=torch.float64)
        for fold in torch.unique(self.unknown_folds).tolist():
            here = self.unknown_folds == fold
            known = self.known[self.known_folds == fold]
            moved[here] = carried(self.unknown[here], known, known_now)
        return moved

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the names, to be saved."""
        return {name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_tensors(cls, class_names: Sequence[str], tensors: Mapping[str, Tensor]) -> "CrossFit":
        """What `tensors` gave.

        Raises:
            InputError: Tensors that do not fit together.
        """
        return cls(tuple(class_names), **{name: tensors[name] for name in TENSORS})


TENSORS = {  # number type of each
    "known": torch.float32,
    "known_folds": torch.int64,
    "unknown": torch.float32,
    "unknown_folds": torch.int64,
    "classes": torch.int64,
    "taken_for": torch.int64,
}
