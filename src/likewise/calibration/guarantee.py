"""A false accept rate guaranteed for pairs to come, from negatives that share no item."""

import bisect
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr
from torch import Tensor

from likewise import _tables
from likewise._checks import check_count, check_rate
from likewise.errors import InputError
from likewise.metrics import Sweep

Growth = Callable[[int], float]
FOR = ("items", "classes", "groups", "unknown classes", "unknown items")


def check_inside(name: str, value: float, remedy: str) -> None:
    """Refuse a number outside (0, 1)."""
    check_rate(name, value)
    if value in (0, 1):
        raise InputError(f"must be above 0 and below 1, got {value}.", argument=name, remedy=remedy)


@dataclass(frozen=True)
class Guarantee:
    """A goal: the true false accept rate stays at or below `rate`, with `confidence`.

    True means: on pairs of new items (or classes), of which those given are a random sample; in
    matching, on queries of new unknown classes, or on new items of the same unknown classes.
    `at_most_false_accepts(rate, confidence=...)` makes one; `calibrate(..., items=...)` and
    `calibrate_matching(..., classes=...)` keep it.

    Of n negatives that share nothing, the k + 1 closest are looked at, with the largest k for
    which a binomial of n and `rate` is at most k with a chance of 1 - confidence or less. The
    threshold stays strictly below the farthest of these. It breaks the guarantee only if at most
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
        >>> Guarantee(0.01, 0.95).fewest, Guarantee(0.001, 0.95).fewest
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
        """How many of the negatives are looked at, the farthest being too far; 0 if too few."""
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
        kind: str = "different pairs that share no item",
        remedy: str = "Give more items, raise the rate, or lower the confidence.",
        command: str | None = None,
        growth_with: Growth | None = None,
    ) -> int:
        """The loosest threshold of a sweep that these independent negatives allow.

        Args:
            counts: Counts of all pairs; the rate is divided by their growth.
            negatives: distances of different pairs that share nothing, chosen without looking
                at distances, (n,).
            kind: what they are called, for the errors.
            remedy: what helps where they are too few.
            command: the same at the command line, where it is said otherwise there.
            growth_with: The growth by the number of negatives; None if it stays.

        Raises:
            InputError: if there are too few negatives, or every threshold is too loose.
        """
        count = len(negatives)
        aim = Guarantee(self.rate / counts.growth, self.confidence)
        looked_at = aim.looked_at(count)
        if looked_at == 0:
            needed = _needed(
                lambda growth: Guarantee(self.rate / growth, self.confidence).fewest,
                growth_with or (lambda _: counts.growth),
            )
            raise InputError(
                f"{kind} must be at least {needed:,} for at most {self.rate:.3g} false "
                f"accepts with a confidence of {self.confidence:.3g}, got {count:,}: "
                f"{needed - count:,} more would do{self._possible(count, counts.growth)}.",
                remedy=remedy,
                command=command,
            )
        limit = float(negatives.double().sort().values[looked_at - 1])
        at = int((counts.thresholds < limit).sum()) - 1
        if at < 0:
            raise InputError(
                f"no threshold keeps false accepts at or below {self.rate:.3g} with a confidence "
                f"of {self.confidence:.3g}: no distance is smaller than that of the {looked_at} "
                f"closest of {count:,} {kind}. Raise the rate, or train further."
            )
        return at

    def _possible(self, count: int, growth: float) -> str:
        if count == 0:
            return ""
        least = growth * (1 - (1 - self.confidence) ** (1 / count))
        return f", or a rate of {_rounded_up(least):.3g} or more" if least < 1 else ""


@dataclass(frozen=True)
class MeanGuarantee:
    """A goal for matching: the expected share of new unknown classes accepted is at most `rate`.

    Expected over all calibrations that could have been, and all new classes: a single calibration
    may accept more, in about half of all cases, which a `Guarantee` with a confidence rules out.
    With n unknown classes, the threshold is the loosest at which (sum of their shares of accepted
    items + 1) / (n + 1) is at most `rate`. A rate of 5% takes 19 classes.

    Args:
        rate: between 0 and 1, exclusive.

    Source:
        Angelopoulos, Bates, Fisch, Lei & Schuster, "Conformal Risk Control", ICLR 2024, theorem 1.

    Example:
        >>> MeanGuarantee(0.05).fewest, MeanGuarantee(0.01).fewest
        (19, 99)
    """

    rate: float

    def __post_init__(self) -> None:
        check_inside("rate", self.rate, "Nothing is certain of queries to come.")

    def __call__(self, counts: Sweep) -> int:
        """Refuse: counts of queries do not tell which class they are of."""
        raise InputError(
            "classes must say which class each query is of where a goal holds on average, got "
            "none. Use calibrate_matching(..., classes=...)."
        )

    @property
    def __name__(self) -> str:
        return f"at_most_false_accepts({self.rate!r}, on_average=True)"

    @property
    def fewest(self) -> int:
        """How many unknown classes it takes, if no item of theirs is accepted."""
        return math.ceil(1 / self.rate - 1e-9) - 1

    def position(
        self,
        counts: Sweep,
        negatives: Float[Tensor, " n"],
        classes: Int[Tensor, " n"],
        *,
        growth_with: Growth | None = None,
    ) -> int:
        """The loosest threshold of a sweep that these unknown queries allow.

        Args:
            counts: Counts of all queries; the rate is divided by their growth.
            negatives: distances of unknown queries, (n,).
            classes: their class codes, (n,).
            growth_with: The growth by the number of classes; None if it stays.

        Raises:
            InputError: if there are too few classes, or every threshold is too loose.
        """
        _, row, sizes = torch.unique(classes, return_inverse=True, return_counts=True)
        aim = MeanGuarantee(self.rate / counts.growth)
        if len(sizes) < aim.fewest:
            possible = counts.growth / (len(sizes) + 1)
            needed = _needed(
                lambda growth: MeanGuarantee(self.rate / growth).fewest,
                growth_with or (lambda _: counts.growth),
            )
            raise InputError(
                f"unknown classes must be at least {needed:,} for at most {self.rate:.3g} "
                f"false accepts on average, got {len(sizes):,}: "
                f"{needed - len(sizes):,} more would do, or a rate of "
                f"{_rounded_up(possible):.3g} or more. Give queries of more classes."
            )
        ascending, order = negatives.double().sort()
        shares = torch.cat([ascending.new_zeros(1), (1 / sizes.double())[row[order]].cumsum(0)])
        accepted = shares[torch.searchsorted(ascending, counts.thresholds, right=True)]
        # A hair more, as five fifths of a class must be a whole one.
        at = int((accepted + 1 <= aim.rate * (len(sizes) + 1) + 1e-9).sum()) - 1
        if at < 0:
            raise InputError(
                f"no threshold keeps false accepts at or below {self.rate:.3g} on average over "
                f"{len(sizes):,} unknown classes: the closest query of all is one of these. Raise "
                "the rate, or train further."
            )
        return at


@dataclass(frozen=True)
class KeptGuarantee:
    """What a calibration guarantees: the true false accept rate is at most `rate`.

    Attributes:
        rate: the bound.
        confidence: with which it holds; None if on average, see `MeanGuarantee`.
        negatives: different pairs that share nothing, or unknown queries, on which it rests.
        accepted: how many of the negatives the threshold accepts.
        holds_for: new "items", new "classes", new "groups" of whatever `items` named; or in
            matching queries of new "unknown classes", or new "unknown items", which are of the
            same unknown classes as those it was calibrated on.
        classes: how many unknown classes it was calibrated on; None if that was not told, and
            for pairs.
    """

    rate: float
    confidence: float | None
    negatives: int
    accepted: int
    holds_for: str
    classes: int | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __str__(self) -> str:
        of = self.holds_for
        if of == "unknown items":
            of = f"items of these {'unknown' if self.classes is None else self.classes} classes"
        how = "on average"
        if self.confidence is not None:
            how = f"with a confidence of {self.confidence:g}"
        return (
            f"at most {self.rate:g} false accepts for new {of}, {how} "
            f"({self.accepted} of {self.negatives:,} accepted)"
        )

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: object) -> "KeptGuarantee":
        """The guarantee that `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) | {"classes"} != set(names):
            raise InputError(f"a guarantee must be a dict of {', '.join(names)}, got {fields!r}.")
        if fields["confidence"] is None:
            MeanGuarantee(fields["rate"])
        else:
            Guarantee(fields["rate"], fields["confidence"])
        check_count("negatives", fields["negatives"])
        check_count("accepted", fields["accepted"], least=0)
        if fields.get("classes") is not None:
            check_count("classes", fields["classes"])
        held = fields["holds_for"]
        if held not in FOR:
            raise InputError(f"holds_for must be one of {', '.join(FOR)}, got {held!r}.")
        return cls(**fields)


class Unknowns(NamedTuple):
    """The unknown queries that a guarantee counts, no two of them of one class (or item)."""

    rows: Bool[Tensor, " q"]
    holds_for: str
    classes: int | None  # of all unknown queries, if told

    @classmethod
    def of(
        cls,
        unknown: Bool[Tensor, " q"],
        items: Int[Tensor, "q s"],
        classes: Int[Tensor, " q"] | None,
        *,
        by: str,
    ) -> "Unknowns":
        """One query of each unknown class, or with `by` "items" of each item.

        They are drawn without a look at distances, always alike.
        """
        (rows,) = torch.where(unknown)
        once, holds_for = items[rows], "unknown items"
        if classes is not None and by == "classes":
            once, holds_for = classes[rows, None], "unknown classes"
        chosen = rows[disjoint_rows(once)]
        if holds_for == "unknown items" and len(chosen) < len(rows):
            holds_for = "groups"
        count = None if classes is None else len(torch.unique(classes[rows]))
        return cls(torch.zeros_like(unknown).index_fill(0, chosen, True), holds_for, count)


def keep_mean(
    guarantee: MeanGuarantee,
    counts: Sweep,
    negatives: Float[Tensor, " n"],
    classes: Int[Tensor, " n"],
    growth_with: Growth | None = None,
) -> tuple[int, KeptGuarantee]:
    """The position in the sweep that keeps the guarantee on average, and what it rests on."""
    at = guarantee.position(counts, negatives, classes, growth_with=growth_with)
    accepted = int((negatives <= counts.thresholds[at]).sum())
    number = len(torch.unique(classes))
    return at, KeptGuarantee(
        guarantee.rate, None, len(negatives), accepted, "unknown classes", number
    )


def _needed(fewest: Callable[[float], int], growth_with: Growth) -> int:
    """The least number n that is enough at the growth that there is with n."""
    number = 1
    while (least := fewest(max(1.0, growth_with(number)))) > number:
        number += max(1, min(least - number, number // 16))
    return number


def _rounded_up(rate: float) -> float:
    step = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return math.ceil(rate / step) * step


def keep(
    guarantee: Guarantee,
    counts: Sweep,
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    items: Int[Tensor, "p s"],
    unknowns: Unknowns | None = None,
    growth_with: Growth | None = None,
) -> tuple[int, KeptGuarantee]:
    """The position in the sweep that keeps the guarantee, and what it rests on.

    The negatives are the unknown queries, or in verification the different pairs.
    """
    if unknowns is None:
        (rows,) = torch.where(~same)
        negatives = distances[rows[disjoint_rows(items[rows])]].double()
        at, holds_for, classes = guarantee.position(counts, negatives), _held_by(items, same), None
    else:
        _, holds_for, classes = unknowns
        negatives = distances[unknowns.rows].double()
        by_class = holds_for == "unknown classes"
        at = guarantee.position(
            counts,
            negatives,
            kind="unknown classes" if by_class else "unknown queries (of classes not indexed)",
            remedy="Give queries of more classes that are not indexed"
            + (", or ask for new items of these classes only." if by_class else "."),
            command="Give queries of more classes that are not indexed"
            + (", or add --holds-for items for new items of these only." if by_class else "."),
            growth_with=growth_with if by_class else None,
        )
    accepted = int((negatives <= counts.thresholds[at]).sum())
    return at, KeptGuarantee(
        guarantee.rate, guarantee.confidence, len(negatives), accepted, holds_for, classes
    )


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
    # the guarantee.
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
