"""A false accept rate promised for pairs to come, from negatives that share no item."""

import bisect
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr
from torch import Tensor

from likewise._checks import check_count, check_rate
from likewise.errors import InputError
from likewise.metrics import Sweep

FOR = ("items", "classes", "groups", "strangers")


def check_inside(name: str, value: float, remedy: str) -> None:
    """Refuse a number outside (0, 1)."""
    check_rate(name, value)
    if value in (0, 1):
        raise InputError(f"{name} must be above 0 and below 1, got {value}. {remedy}")


@dataclass(frozen=True)
class Promise:
    """A goal: the true false accept rate stays at or below `rate`, with `confidence`.

    True means: on pairs of new items (or classes), of which those at hand are a random sample.
    `at_most_false_accepts(rate, confidence=...)` makes one, `calibrate(..., items=...)` keeps it.

    Of n negatives that share nothing, the k + 1 closest are looked at, with the largest k for
    which a binomial of n and `rate` is at most k with a chance of 1 - confidence or less. The
    threshold stays strictly below the farthest of these. It breaks the promise only if at most
    k of the n lie where a share of `rate` of all negatives lies, so with that chance or less,
    whatever the distances, ties included.

    Args:
        rate: between 0 and 1, exclusive.
        confidence: between 0 and 1, exclusive.

    Source:
        Clopper & Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of
        the Binomial", Biometrika 1934; distribution-free, as in Wilks, "Determination of Sample
        Sizes for Setting Tolerance Limits", Annals of Mathematical Statistics 1941.

    Example:
        >>> Promise(0.01, 0.95).fewest, Promise(0.001, 0.95).fewest
        (299, 2995)
    """

    rate: float
    confidence: float

    def __post_init__(self) -> None:
        check_inside("rate", self.rate, "Nothing is certain of pairs to come.")
        check_inside("confidence", self.confidence, "Use e.g. 0.95.")

    def __call__(self, counts: Sweep) -> int:
        """Refuse: counts of pairs do not tell which share an item."""
        raise InputError(
            "items must say which items each pair holds where a goal has a confidence, got none. "
            "Give calibrate the positions or classes of both items, (p, 2), or "
            "torch.arange(p) if no two pairs share an item."
        )

    @property
    def __name__(self) -> str:
        return f"at_most_false_accepts({self.rate!r}, confidence={self.confidence!r})"

    @property
    def fewest(self) -> int:
        """How many negatives it takes, if none of them is accepted."""
        return math.ceil(math.log(1 - self.confidence) / math.log1p(-self.rate))

    def looked_at(self, negatives: int) -> int:
        """How many of so many negatives are looked at, the farthest being too far; 0 if too few."""
        return bisect.bisect_right(
            range(negatives),
            1 - self.confidence,
            key=lambda accepted: float(bdtr(accepted, negatives, self.rate)),
        )

    def position(
        self,
        counts: Sweep,
        negatives: Float[Tensor, " n"],
        *,
        source: str = "items",
        kind: str = "different pairs",
    ) -> int:
        """The loosest threshold of a sweep that these independent negatives allow.

        Args:
            counts: of all pairs.
            negatives: distances of different pairs that share nothing, chosen without looking
                at distances, (n,).
            source: the argument that tells which they are, for the errors.
            kind: what they are called, for the errors.

        Raises:
            InputError: if there are too few negatives, or every threshold is too loose.
        """
        count = len(negatives)
        looked_at = self.looked_at(count)
        if looked_at == 0:
            raise InputError(
                f"{source} must leave at least {self.fewest:,} {kind} that share nothing, "
                f"for at most {self.rate:.3g} false accepts with a confidence of "
                f"{self.confidence:.3g}, got {count:,}. "
                "Give more items, raise the rate, or lower the confidence."
            )
        limit = float(negatives.double().sort().values[looked_at - 1])
        at = int((counts.thresholds < limit).sum()) - 1
        if at < 0:
            raise InputError(
                f"no threshold keeps false accepts at or below {self.rate:.3g} with a confidence "
                f"of {self.confidence:.3g}: no distance is smaller than that of the {looked_at} "
                f"closest of {count:,} independent {kind}. "
                "Raise the rate, or train further."
            )
        return at


@dataclass(frozen=True)
class KeptPromise:
    """What a calibration promises: the true false accept rate is at most `rate`.

    Attributes:
        rate: the bound.
        confidence: with which it holds.
        negatives: different pairs that share nothing, on which it rests.
        accepted: how many of these the threshold accepts.
        holds_for: new "items", new "classes", new "groups" of whatever `items` named, or in
            matching new "strangers", each a query whose class is not indexed.
    """

    rate: float
    confidence: float
    negatives: int
    accepted: int
    holds_for: str

    def __str__(self) -> str:
        return (
            f"at most {self.rate:g} false accepts for new {self.holds_for}, with a confidence of "
            f"{self.confidence:g} ({self.accepted} of {self.negatives:,} accepted)"
        )

    def to_dict(self) -> dict[str, object]:
        """The five fields, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: object) -> "KeptPromise":
        """The promise that `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) != set(names):
            raise InputError(f"a promise must be a dict of {', '.join(names)}, got {fields!r}.")
        try:
            Promise(fields["rate"], fields["confidence"])
            check_count("negatives", fields["negatives"])
            check_count("accepted", fields["accepted"], least=0)
        except TypeError as error:
            raise InputError(f"a promise must hold numbers: {error}") from error
        if fields["holds_for"] not in FOR:
            raise InputError(
                f"holds_for must be one of {', '.join(FOR)}, got {fields['holds_for']!r}."
            )
        return cls(**fields)


def keep(
    promise: Promise,
    counts: Sweep,
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    items: Int[Tensor, "p s"],
    strangers: Bool[Tensor, " p"] | None = None,
) -> tuple[int, KeptPromise]:
    """The position in the sweep that keeps the promise, and what it rests on.

    The negatives are the strangers, or without any the different pairs.
    """
    (rows,) = torch.where(~same if strangers is None else strangers)
    negatives = distances[rows[disjoint_rows(items[rows])]].double()
    if strangers is None:
        at, holds_for = promise.position(counts, negatives), _held_by(items, same)
    else:
        at = promise.position(
            counts, negatives, source="known", kind="strangers (queries of classes not indexed)"
        )
        holds_for = "strangers" if len(negatives) == len(rows) else "groups"
    accepted = int((negatives <= counts.thresholds[at]).sum())
    return at, KeptPromise(promise.rate, promise.confidence, len(negatives), accepted, holds_for)


def disjoint_rows(items: Int[Tensor, "p s"]) -> Int[Tensor, " n"]:
    """Positions of rows no two of which share an item, ascending.

    Rows are taken in a random order, always the same, each unless it shares an item with one
    taken before. So no row could be added, and there are at least half as many rows as there
    could be where a row holds two items. O(p log p).

    Example:
        >>> disjoint_rows(torch.tensor([[7, 8], [8, 9], [3, 4]])).tolist() in ([0, 2], [1, 2])
        True
    """
    codes = np.unique(items.cpu().numpy(), return_inverse=True)[1].reshape(items.shape)
    # Not a choice of the caller's: of many seeds the one with the loosest threshold would break
    # the promise.
    left = np.random.default_rng(0).permutation(len(codes))
    first = np.empty(codes.max(initial=0) + 1, dtype=np.int64)
    used = np.zeros(len(first), dtype=bool)
    taken = [left[:0]]
    # All rows that are the first left to each of their items are taken at once. That is what one
    # after the other would give, in a logarithm of as many rounds.
    while len(left):
        held = codes[left]
        rank = np.repeat(np.arange(len(left)), held.shape[1])
        first[held.ravel()[::-1]] = rank[::-1]  # the smallest rank is written last, and stays
        free = (first[held] == np.arange(len(left))[:, None]).all(axis=1)
        taken.append(left[free])
        used[held[free]] = True
        left = left[~used[held].any(axis=1)]
    return torch.from_numpy(np.sort(np.concatenate(taken)))


def _held_by(items: Int[Tensor, "p s"], same: Bool[Tensor, " p"]) -> str:
    """Whether codes are of items, never twice in a pair, or of classes, twice where same."""
    if items.shape[1] == 1:
        ordered = items.flatten().sort().values
        return "groups" if (ordered[1:] == ordered[:-1]).any() else "items"
    ordered = items.sort(dim=1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    if not twice.any():
        return "items"
    return "classes" if torch.equal(twice, same) else "groups"
