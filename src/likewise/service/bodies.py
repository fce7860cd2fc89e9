"""Bodies of requests and answers: their fields, and so the schemas of the OpenAPI document."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from likewise.runtime.measured import Guarantee as Guarantee
from likewise.runtime.measured import Rate as Rate
from likewise.runtime.measured import UnknownsJudged as UnknownsJudged

Text = Annotated[str, Meta(min_length=1)]
Label = Annotated[str, Meta(min_length=1, max_length=256)]
# "." and ".." are no names within an address.
Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^(?!\.\.?$)")]
Where = Annotated[
    dict[str, Any], Meta(description="Which known items may be found, by their metadata.")
]
K = Annotated[int, Meta(ge=0, le=10_000)]


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """One item, as exactly one of these.

    Attributes:
        image: The bytes of an image file, in base64.
        text: A text.
        vector: The numbers of an item, for a model that takes vectors.
        embedding: What `/v1/embed` answered for an item: it is not encoded again.
    """

    image: bytes | UnsetType = UNSET
    text: Text | UnsetType = UNSET
    vector: Annotated[list[float], Meta(min_length=1)] | UnsetType = UNSET
    embedding: Annotated[list[float], Meta(min_length=1)] | UnsetType = UNSET


Items = Annotated[list[Item], Meta(min_length=1)]


class MatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Items to be matched with known things.

    Attributes:
        items: The items.
        point: The operating point.
        k: Neighbors shown of each.
        where: Which known items may be found, by their metadata.
        candidates: Level at which the classes that each item may be of are told, such as 0.95: for
            known items the list holds the right class at least this often. Not with `where`.
    """

    items: Items
    point: Text = "nearest"
    k: K = 5
    where: Where | None = None
    candidates: Annotated[float, Meta(gt=0, lt=1)] | None = None


class LookupRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Items whose neighbors are asked for."""

    items: Items
    k: Annotated[int, Meta(ge=1, le=10_000)] = 5
    where: Where | None = None


class EmbedRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Items to be encoded.

    Attributes:
        items: The items.
        queries: Side of two towers: whether they are queries rather than known items.
    """

    items: Items
    queries: bool = False


class Pair(msgspec.Struct, forbid_unknown_fields=True):
    """Two items; with two towers a is a query, and b a known item."""

    a: Item
    b: Item


class VerifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Pairs of items that may be the same.

    Attributes:
        pairs: The pairs.
        point: The operating point.
        prior: Share of such pairs that are the same, for the probability.
    """

    pairs: Annotated[list[Pair], Meta(min_length=1)]
    point: Text = "pairs"
    prior: Annotated[float, Meta(gt=0, lt=1)] = 0.5


class NewItem(Item, forbid_unknown_fields=True):
    """An item to be known from now on.

    Attributes:
        label: Its class; null for none.
        id: Its id; the service gives one if left out.
        metadata: Kept with it, and what `where` looks at.
    """

    label: Label | None = None
    id: Id | None = None
    metadata: dict[str, Any] = {}


class AddRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Items to be added, all of them or none."""

    items: Annotated[list[NewItem], Meta(min_length=1)]


class RelabelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Another label for an item; null for none."""

    label: Label | None


class EnrollRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The label that an unknown becomes known by."""

    label: Label
    id: Id | None = None
    metadata: dict[str, Any] = {}


class Page(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of a list is asked for."""

    before: Annotated[str, Meta(description="Only those before this id: `next`.")] | UnsetType = (
        UNSET
    )
    limit: Annotated[int, Meta(ge=1, le=200, description="How many.")] = 50


class ItemsPage(Page, forbid_unknown_fields=True):
    """Which known items are asked for."""

    label: Annotated[str, Meta(description="Only those of this class.")] | UnsetType = UNSET


class DriftQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What drift is asked about."""

    point: Annotated[str, Meta(min_length=1, description="The operating point.")] = "nearest"
    false_alarm: Annotated[
        float,
        Meta(gt=0, lt=1, description="Chance of an alarm where nothing has changed, at most."),
    ] = 0.01


class OperatingPoint(msgspec.Struct):
    """A threshold, and what it costs.

    Attributes:
        name: By which requests ask for it.
        rule: How neighbors decide; "pairs" for verification.
        k: Neighbors that decide; null for pairs.
        threshold: What is at most as far is accepted.
        goal: What it was chosen for.
        guarantee: What it guarantees; null for a goal without a confidence.
        unknowns_accepted: Share of unknowns accepted, as measured; null for pairs.
        knowns_missed: Share of known things rejected or confused; null for pairs.
        unknowns: What the rate of unknowns rests on, by kind; empty for pairs.
        different_accepted: Share of different pairs accepted; null for matching.
        same_rejected: Share of same pairs rejected; null for matching.
    """

    name: str
    rule: str
    k: int | None
    threshold: float
    goal: str
    guarantee: Guarantee | None
    unknowns_accepted: Rate | None
    knowns_missed: Rate | None
    unknowns: list[UnknownsJudged]
    different_accepted: Rate | None
    same_rejected: Rate | None


class Neighbor(msgspec.Struct):
    """A known item, and how far it is."""

    id: str
    label: str | None
    distance: float
    metadata: dict[str, Any]


class MatchAnswer(msgspec.Struct):
    """Which known thing an item is.

    Attributes:
        label: Its class; null for unknown.
        distance: What was compared with the threshold; null where no neighbor had a vote.
        threshold: What it was compared with.
        probability: Chance that the label of the neighbors is right, accepted or not; null for a
            point without.
        neighbors: The nearest known items, nearest first.
        unknown_id: Where the item is unknown and kept: its id in `/v1/unknowns`.
        candidates: The classes that the item may be of, nearest first; empty for unknown, null
            where not asked for.
    """

    label: str | None
    distance: float | None
    threshold: float
    probability: float | None
    neighbors: list[Neighbor]
    unknown_id: str | None = None
    candidates: list[str] | None = None


class MatchAnswers(msgspec.Struct):
    """One answer per item, in their order, and the operating point that decided.

    Attributes:
        answers: The answers.
        point: The operating point.
        candidates_rest_on: What the level of the candidates holds for, and what it rests on; null
            where not asked for.
    """

    answers: list[MatchAnswer]
    point: OperatingPoint
    candidates_rest_on: str | None = None


class LookupAnswer(msgspec.Struct):
    """The nearest known items, nearest first."""

    neighbors: list[Neighbor]


class LookupAnswers(msgspec.Struct):
    """One answer per item, in their order."""

    answers: list[LookupAnswer]


class VerifyAnswer(msgspec.Struct):
    """Whether two items are the same."""

    same: bool
    distance: float
    threshold: float
    probability: float | None


class VerifyAnswers(msgspec.Struct):
    """One answer per pair, in their order, and the operating point that decided."""

    answers: list[VerifyAnswer]
    point: OperatingPoint


class Embeddings(msgspec.Struct):
    """One embedding per item, in their order.

    Attributes:
        embeddings: The numbers.
        encoder: The fingerprint of the encoder; embeddings of others cannot be compared.
    """

    embeddings: list[list[float]]
    encoder: str | None


class Added(msgspec.Struct):
    """Items that are on disk.

    Attributes:
        ids: Theirs, in the order of the request.
        indexed: Known items now.
        repeated: Whether an earlier request with the same idempotency key had added them.
    """

    ids: list[str]
    indexed: int
    repeated: bool


class KnownItem(msgspec.Struct):
    """A known item.

    Attributes:
        id: Its id.
        label: Its class; null for none.
        metadata: What is kept with it.
        picture: Whether `/v1/items/{id}/picture` has one.
    """

    id: str
    label: str | None
    metadata: dict[str, Any]
    picture: bool


class KnownItems(msgspec.Struct):
    """Known items in order of insertion, newest first.

    Attributes:
        items: Some of them.
        total: How many there are with this label, or in all.
        next: The `before` that continues the list; null at its end.
    """

    items: list[KnownItem]
    total: int
    next: str | None


class Removed(msgspec.Struct):
    """How many were removed, and how many are left."""

    removed: int
    left: int


class Unknown(msgspec.Struct):
    """An item that was matched as unknown.

    Attributes:
        id: Its id in the queue.
        time: When it was asked about, in seconds since 1970.
        distance: Distance that was compared with the threshold; null where no neighbor had a vote.
        threshold: What it was compared with.
        point: The operating point.
        nearest: The label of the nearest known item; null for none.
        text: The text, where it is one.
        picture: Whether `/v1/unknowns/{id}/picture` has one.
    """

    id: str
    time: float
    distance: float | None
    threshold: float
    point: str
    nearest: str | None
    text: str | None
    picture: bool


class Unknowns(msgspec.Struct):
    """Unknown items, newest first.

    Attributes:
        unknowns: Some of them.
        total: How many are kept.
        next: The `before` that continues the list; null at its end.
    """

    unknowns: list[Unknown]
    total: int
    next: str | None


class Encoder(msgspec.Struct):
    """What makes embeddings.

    Attributes:
        name: Its name; null for a model over embeddings made elsewhere.
        fingerprint: Fingerprint of its architecture and weights; null likewise.
        dimension: Numbers of an embedding, where known.
    """

    name: str | None
    fingerprint: str | None
    dimension: int | None


class Limits(msgspec.Struct):
    """What a request may hold; see `Settings`."""

    most_bytes: int
    most_pixels: int
    most_characters: int
    most_items: int
    most_neighbors: int
    most_concurrent: int


class ModelCard(msgspec.Struct):
    """What is served.

    Attributes:
        name: The name of the model's folder.
        version: A hash of what was saved, which changes with every save.
        likewise: The version of the library.
        takes: What match and lookup take: "image", "text" or "vector".
        item_shape: Shape of such an item, where it is of numbers.
        known_takes: What a known item is; not always the same with two towers.
        known_item_shape: Shape of such an item, where it is of numbers.
        encoder: What makes embeddings of known items, and of queries too without two towers.
        query_encoder: What makes embeddings of queries, with two towers; else null.
        distance: How they are compared.
        points: Operating points with what they guarantee.
        indexed: Known items.
        classes: Known classes with the items of each, the first 1,000 by name.
        class_count: How many classes there are.
        trained_on: Classes that the encoder was trained on.
        writes: Whether items can be added, relabeled and removed.
        keeps_unknowns: Whether unknowns are kept.
        exported: Whether an exported model answers, which has no filters, candidates, pictures,
            unknowns and drift.
        limits: What a request may hold.
    """

    name: str
    version: str
    likewise: str
    takes: str
    item_shape: list[int] | None
    known_takes: str
    known_item_shape: list[int] | None
    encoder: Encoder
    query_encoder: Encoder | None
    distance: str
    points: list[OperatingPoint]
    indexed: int
    classes: dict[str, int]
    class_count: int
    trained_on: list[str]
    writes: bool
    keeps_unknowns: bool
    exported: bool
    limits: Limits


class Hour(msgspec.Struct):
    """What was matched within an hour.

    Attributes:
        time: When the hour began, in seconds since 1970.
        matched: Items that were matched.
        unknown: Items among them that were unknown.
        distance: Their mean distance; null of none.
    """

    time: float
    matched: int
    unknown: int
    distance: float | None


class DriftReport(msgspec.Struct):
    """Whether today's distances look like those that were calibrated on.

    Attributes:
        point: The operating point.
        seen: Distances since the point was calibrated; the last 10,000 are kept.
        drifted: Whether the gap is too large for chance; null where nothing was matched yet.
        gap: Largest difference between the shares at or below any one distance.
        p_value: Chance of such a gap, or a larger one, where nothing has changed.
        false_alarm: Chance of an alarm where nothing has changed, at most.
        accepted_before: Share at or below the threshold when calibrating.
        accepted_now: Share at or below it now.
        calibrate_again: Why to; none where nothing asks for it.
        advice: What to do.
        outgrown: What the guarantee is worth in a gallery that has grown; null where it holds.
        hours: Rates over time, oldest first.
    """

    point: str
    seen: int
    drifted: bool | None
    gap: float | None
    p_value: float | None
    false_alarm: float
    accepted_before: float | None
    accepted_now: float | None
    calibrate_again: list[str]
    advice: str
    outgrown: str | None
    hours: list[Hour]


class Health(msgspec.Struct):
    """That the service lives, or is ready."""

    status: str
