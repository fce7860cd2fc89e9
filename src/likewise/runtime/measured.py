"""What an operating point guarantees and what was measured of it, as plain values."""

import msgspec


class Rate(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A share with its interval, as it was measured when calibrating.

    Attributes:
        value: The share; null of nothing.
        low: Where the interval begins; null where there are too few items for one.
        high: Where it ends; null likewise.
        method: Method of the interval.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str


class Guarantee(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What an operating point guarantees.

    Attributes:
        sentence: The guarantee in words.
        rate: Unknowns (or different pairs) are accepted at most at this rate.
        confidence: With which that holds.
        holds_for: For what: new unknown classes, new items of these, and so on.
        gallery_size: Items that the gallery may have at most; null for pairs.
        outgrown: What it is worth now, where the gallery has more items; null where it holds.
    """

    sentence: str
    rate: float
    confidence: float
    holds_for: str
    gallery_size: int | None
    outgrown: str | None


class UnknownsJudged(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One kind of unknowns that an operating point was judged on.

    Attributes:
        sentence: What it says in words.
        kind: "given", "left out", "cross-fit" or "trained", as in `Calibration.unknowns`.
        items: How many there were.
        classes: Number of classes; null if that is not known.
        accepted: Share accepted at the threshold.
        asked: The rate that the goal asked for; null where it asked for none.
        expected: The highest rate to expect for new classes; null likewise.
    """

    sentence: str
    kind: str
    items: int
    classes: int | None
    accepted: Rate
    asked: float | None
    expected: float | None


class Measured(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What was measured when an operating point was calibrated.

    Attributes:
        guarantee: What it guarantees; null for a goal without a confidence.
        unknowns_accepted: Share of unknowns accepted; null for pairs.
        knowns_missed: Share of known things rejected or confused; null for pairs.
        unknowns: What the rate of unknowns rests on, by kind; empty for pairs.
        different_accepted: Share of different pairs accepted; null for matching.
        same_rejected: Share of same pairs rejected; null for matching.
    """

    guarantee: Guarantee | None = None
    unknowns_accepted: Rate | None = None
    knowns_missed: Rate | None = None
    unknowns: list[UnknownsJudged] = []
    different_accepted: Rate | None = None
    same_rejected: Rate | None = None
