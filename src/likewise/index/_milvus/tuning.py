"""How hard an approximate index of Milvus must search for the recall asked for, as measured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import is_finite_number
from likewise.distances import Distance
from likewise.index._milvus.collections import CollectionFacts, Collections
from likewise.index._milvus.options import EFFORTS, RECALL, Effort, Searched
from likewise.index._milvus.rows import embeddings_in
from likewise.index._milvus.search import nearest
from likewise.index._searching.exact import ExactSearch

SAMPLE = 500  # items looked up to measure recall
SAMPLE_K = 10


@dataclass(frozen=True)
class Tuned:
    """How lookups search, and what recall that was measured to give.

    Attributes:
        index_type: Type of the index that it was measured with.
        params: Search parameters.
        recall: Share of the true 10 nearest that was found.
        asked: The recall that was asked for; None where the parameters were given.
        items: How many items there were.
    """

    index_type: str
    params: dict[str, Any]
    recall: float
    asked: float | None
    items: int

    @classmethod
    def of(cls, values: Any, facts: CollectionFacts, searched: Searched) -> "Tuned | None":
        """What was measured before; None where it is of another index, or asked otherwise."""
        if not isinstance(values, Mapping) or values.keys() != cls.__annotations__.keys():
            return None
        found = cls(**values)
        is_sound = isinstance(found.params, Mapping) and is_finite_number(found.recall)
        if not is_sound or found.index_type != facts.index_type:
            return None
        if searched.params is not None:
            return found if dict(searched.params) == found.params else None
        if found.asked is None:  # of parameters that were given, or of a type that takes none
            return None if facts.index_type in EFFORTS else found
        return found if searched.recall in (None, found.asked) else None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def params_for(
    facts: CollectionFacts, searched: Searched, tuned: Tuned | None, count: int
) -> dict[str, Any]:
    """The search parameters by which `count` candidates are found."""
    effort = EFFORTS.get(facts.index_type)
    if searched.params is not None:
        params = dict(searched.params)
    elif tuned is not None:
        params = dict(tuned.params)
    elif effort is not None:
        params = {effort.name: min(effort.first, _most(effort, facts))}
    else:
        return {}
    if effort is not None and effort.of_k and isinstance(params.get(effort.name), int):
        params[effort.name] = min(max(params[effort.name], count), effort.most)
    return params


def tuned(
    collections: Collections,
    facts: CollectionFacts,
    distance: Distance,
    searched: Searched,
    items: int,
) -> Tuned | None:
    """The least effort that reaches the recall asked for, or the greatest; None of no items.

    A sample of stored items is looked up as queries are. What they should find, a pass over all
    items says, which reads each once.

    Args:
        collections: to search in.
        facts: Facts of the gallery.
        distance: decides.
        searched: The recall, or the parameters that are given.
        items: How many there are.
    """
    queries = _sample(collections, facts)
    k = min(SAMPLE_K, items - 1)
    if not len(queries) or k < 1:
        return None
    limits = _limits(collections, facts, distance, queries, k)
    effort = EFFORTS.get(facts.index_type)
    asked = searched.recall or RECALL
    tried: list[dict[str, Any]] = [dict(searched.params or {})]
    if searched.params is None and effort is not None:
        tried = [{effort.name: value} for value in _values(effort, _most(effort, facts))]
    recall = 0.0
    for params in tried:
        recall, unsure = _recall(collections, facts, distance, queries, k, limits, params)
        if recall - unsure >= asked:
            break
    is_chosen = searched.params is None and effort is not None
    return Tuned(facts.index_type, params, recall, asked if is_chosen else None, items)


def _values(effort: Effort, most: int) -> list[int]:
    values = [min(effort.least, most)]
    while values[-1] < most:
        values.append(min(most, max(values[-1] + 1, values[-1] * 4 // 3)))
    return values


def _most(effort: Effort, facts: CollectionFacts) -> int:
    lists = facts.index_params.get("nlist")
    return min(effort.most, lists) if isinstance(lists, int) else effort.most


def _sample(collections: Collections, facts: CollectionFacts) -> Float[Tensor, "q d"]:
    # Items that are gone leave positions without any.
    drawn = np.random.default_rng(0).permutation(facts.next_position)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(drawn), 2 * SAMPLE):
        rows += collections.at(drawn[start : start + 2 * SAMPLE].tolist(), ["embedding"])
        if len(rows) >= SAMPLE:
            break
    return embeddings_in(rows[:SAMPLE], facts.dimension or 0)


def _limits(
    collections: Collections,
    facts: CollectionFacts,
    distance: Distance,
    queries: Float[Tensor, "q d"],
    k: int,
) -> Float[Tensor, " q"]:
    """How far the k-th nearest of each query is, beside itself."""
    best = torch.full((len(queries), k + 1), torch.inf)
    for rows in collections.windows(["embedding"], facts):
        stored = embeddings_in(rows, facts.dimension or 0)
        if len(stored):
            found, _ = ExactSearch(distance).nearest(queries, stored, k + 1)
            best = torch.cat([best, found], dim=1).sort(dim=1).values[:, : k + 1]
    return best[:, -1]


def _recall(
    collections: Collections,
    facts: CollectionFacts,
    distance: Distance,
    queries: Float[Tensor, "q d"],
    k: int,
    limits: Float[Tensor, " q"],
    params: Mapping[str, Any],
) -> tuple[float, float]:
    """The share found, and how far it may be off."""
    given = Searched(params=params)
    _, found, _ = nearest(
        collections,
        distance,
        queries,
        k + 1,
        expression="",
        longest=facts.longest,
        has_strings=facts.kind == "strings",
        params=lambda count: params_for(facts, given, None, count),
    )
    # An item finds itself, which proves nothing; equal distances are as good.
    hits = (found <= limits[:, None]).sum(dim=1).clamp(max=k + 1) - 1
    shares = hits.clamp(min=0) / k
    unsure = 2 * float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
    return float(shares.mean()), unsure
