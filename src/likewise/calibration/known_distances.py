"""How far known items are from their own class, which is what prediction sets rest on."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import (
    as_tensors,
    check_choice,
    check_count,
    check_finite,
    check_labels,
    is_finite_number,
)
from likewise.calibration.guarantee import check_inside, disjoint_rows
from likewise.errors import InputError, TooFewItems

MOST = 1000  # kept; a level of 99.9% takes 999
HOLDS_FOR = ("items", "classes")


@dataclass(frozen=True)
class KnownDistances:
    """Distances of known items to the nearest stored item of their own class.

    They give the limit of prediction sets: a set holds every class that has an item within the
    limit. With n distances and a level, the limit is the ⌈(n + 1) · level⌉-th smallest. The set of
    a new item then holds its class with a chance of at least the level, on average over all
    calibrations that could have been, whatever the distances (split conformal prediction). That
    needs new items to be drawn as those calibrated on were, and to be compared with the same stored
    items, or more.

    Attributes:
        distances: One per item, or one random item per class, ascending; at most 1,000, drawn at
            random.
        holds_for: New "items" of the classes calibrated on, in the same mix; or items of new
            "classes", of which those calibrated on are a random sample. One item of each class
            counts then.
        classes: Number of classes calibrated on.

    Source:
        Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005; Papadopoulos,
        Proedrou, Vovk & Gammerman, "Inductive Confidence Machines for Regression", ECML 2002. One
        item of each class: Dunn, Wasserman & Ramdas, "Distribution-Free Prediction Sets for
        Two-Layer Hierarchical Models", JASA 2023.

    Example:
        >>> known = KnownDistances.of(torch.arange(1.0, 20.0), torch.arange(19) % 3)
        >>> known.limit(0.5), known.limit(0.95)
        (10.0, 19.0)
    """

    distances: tuple[float, ...]
    holds_for: str
    classes: int

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @classmethod
    def of(
        cls,
        distances: Float[Tensor, " n"],
        classes: Int[Tensor, " n"],
        *,
        holds_for: str = "items",
    ) -> "KnownDistances":
        """What is kept of these distances.

        Args:
            distances: One per known item, see `matching.own_class_distances`, (n,).
            classes: Class code of each, (n,).
            holds_for: What the level of a set holds for, "items" or "classes".

        Raises:
            InputError: No distance, NaN or infinity.
        """
        distances, classes = as_tensors(distances=distances, classes=classes)
        check_choice("holds_for", holds_for, HOLDS_FOR)
        if not isinstance(distances, Tensor) or distances.ndim != 1 or not len(distances):
            raise InputError("distances must be one number per known item, (n,), got none.")
        check_finite(distances, "distances")
        check_labels(classes, len(distances), "classes")
        units = torch.arange(len(distances)) if holds_for == "items" else classes
        rows = disjoint_rows(units[:, None])
        if len(rows) > MOST:
            # Not a choice of the caller's, who could look for the seed with the smallest limit.
            rows = rows[np.random.default_rng(0).permutation(len(rows))[:MOST]]
        kept = distances.detach().double().cpu()[rows].sort().values
        return cls(tuple(kept.tolist()), holds_for, len(torch.unique(classes)))

    def limit(self, level: float) -> float:
        """How far a class may be to be in a set.

        Args:
            level: Share of known items whose set holds their class, at least.

        Raises:
            InputError: A level that is not between 0 and 1.
            TooFewItems: A level that takes more items (or classes) than there are.
        """
        check_inside("candidates", level, "Use e.g. 0.95.")
        count = len(self.distances)
        place = _place(count, level)
        if place > count:
            needed = math.floor(level / (1 - level))
            needed += _place(needed, level) > needed
            possible = math.floor(1000 * count / (count + 1)) / 1000
            raise TooFewItems(
                f"must be at most {possible:g} with {count} {self.holds_for} to rest on, got "
                f"{level:g}, which takes {needed:,}: {needed - count:,} more would do.",
                argument="candidates",
                remedy=self._remedy(needed),
            )
        return self.distances[place - 1]

    def rests_on(self, level: float) -> str:
        """What the level of a set means, in words."""
        of = f"new items of the {self.classes} classes calibrated on, in the same mix"
        if self.holds_for == "classes":
            of = "items of new classes"
        return (
            f"at least {level:.3g} of the sets hold the item's class, on average, for {of} "
            f"(rests on {len(self.distances):,} {self.holds_for})"
        )

    def _remedy(self, needed: int) -> str:
        if needed > MOST:
            return "Ask for a lower level."
        return f"Calibrate on more {self.holds_for} that are indexed, or ask for a lower level."

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return {**dataclasses.asdict(self), "distances": list(self.distances)}

    @classmethod
    def from_dict(cls, fields: object) -> "KnownDistances":
        """What `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) != set(names):
            raise InputError(f"known distances must be a dict of {', '.join(names)}, got others.")
        check_choice("holds_for", fields["holds_for"], HOLDS_FOR)
        check_count("classes", fields["classes"])
        distances = fields["distances"]
        if not isinstance(distances, (list, tuple)) or not all(map(is_finite_number, distances)):
            raise InputError("distances of known items must be a list of finite numbers.")
        if not distances or list(distances) != sorted(distances):
            raise InputError("distances of known items must ascend, and be at least one.")
        return cls(tuple(map(float, distances)), fields["holds_for"], fields["classes"])


def _place(count: int, level: float) -> int:
    return math.ceil((count + 1) * level - 1e-9)  # rounding makes 100 · 0.07 more than 7
