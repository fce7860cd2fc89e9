"""Nearest neighbors among candidates that Milvus proposes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SQUARED_EUCLIDEAN, Distance
from likewise.errors import InputError
from likewise.index._durable.checksums import Integers
from likewise.index._milvus.collections import MOST, Collections
from likewise.index._milvus.rows import embeddings_in, ids_in, labels_in, wide
from likewise.index._store import Found

SPARE = 16  # candidates beyond k, so that rounding inside Milvus hides no nearer item
_NUMBERS = 2**22  # in the candidates that are fetched together
_FIELDS = ["position", "label", "text", "embedding"]

# How far rounding may bring an item nearer than it is: from its distance, the norm of the query
# and the longest norm that is stored, the least distance that others behind it can have.
_LEAST: dict[Distance, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    COSINE: lambda value, query, longest, error: value - error,
    INNER_PRODUCT: lambda value, query, longest, error: value - query * longest * error,
    SQUARED_EUCLIDEAN: lambda value, query, longest, error: (
        value - (query + longest).square() * error
    ),
    EUCLIDEAN: lambda value, query, longest, error: (
        (value.square() - (query + longest).square() * error).clamp(min=0).sqrt()
    ),
}


def nearest(
    collections: Collections,
    distance: Distance,
    queries: Float[Tensor, "q d"],
    k: int,
    *,
    expression: str | None,
    longest: float,
    has_strings: bool,
    params: Callable[[int], Mapping[str, Any]],
) -> Found:
    """The k nearest items, padded where there are fewer; equal distances by position.

    Args:
        collections: to search in.
        distance: decides.
        queries: float32, finite, on the CPU.
        k: at most MOST.
        expression: which items may be found; None for no item at all.
        longest: the largest norm of an embedding there.
        has_strings: for ids.
        params: Search parameters, by the number of candidates.
    """
    ids = np.full((len(queries), k), "" if has_strings else -1, dtype=object)
    distances = torch.full((len(queries), k), torch.inf)
    labels = torch.full((len(queries), k), -1)
    left = np.arange(0 if expression is None else len(queries))
    count = min(k + SPARE, MOST)
    while len(left):
        is_open = []
        step = max(1, min(MOST, _NUMBERS // (count * queries.shape[1])))
        for at in np.split(left, range(step, len(left), step)):
            hits = collections.nearest(
                wide(queries[at]), _FIELDS, count, expression or "", params(count)
            )
            found = _ranked(distance, queries[at], hits, k, longest)
            ids[at[found.query], found.place] = ids_in(found.rows)
            distances[at[found.query], found.place] = found.distances
            labels[at[found.query], found.place] = labels_in(found.rows)
            is_full = np.array([len(rows) == count for rows in hits])
            is_open.append(at[is_full & ~(distances[at, -1] < found.beyond).numpy()])
        # What is as near as the last of the candidates may have been left out: ask for more.
        left = np.concatenate(is_open) if count < MOST else left[:0]
        count = min(4 * count, MOST)
    kind = np.str_ if has_strings else np.int64
    plain = np.array(ids.tolist(), dtype=kind).reshape(ids.shape)
    return plain, distances, labels


def _ranked(
    distance: Distance,
    queries: Tensor,
    hits: Sequence[Sequence[dict[str, Any]]],
    k: int,
    longest: float,
) -> "_Ranked":
    """The k nearest of each query's candidates, by the definition of the distance."""
    rows = [row for found in hits for row in found]
    counts = np.array([len(found) for found in hits])
    query = np.repeat(np.arange(len(hits)), counts)
    found = embeddings_in(rows, queries.shape[1])
    exact = distance.paired(queries[query], found)
    if bool(exact.isnan().any()):
        raise InputError(
            "distance must give a number for every pair, got NaN from "
            f"{distance.name}. Scale the embeddings down."
        )
    positions = np.array([row["position"] for row in rows], dtype=np.int64)
    order = np.lexsort((positions, exact.numpy(), query))
    ends = counts.cumsum()
    place = np.arange(len(rows)) - (ends - counts)[query]
    is_near = place < k
    order, query, place = order[is_near], query[is_near], place[is_near]
    beyond = torch.full((len(queries),), torch.inf)
    has_some = np.flatnonzero(counts)
    norms = torch.linalg.vector_norm(queries[has_some], dim=1)
    # A float32 sum of d products is off by about d half-units in its last place; Milvus's
    # and ours.
    error = 4 * (queries.shape[1] + 8) * 2**-24
    least = _LEAST[distance]
    beyond[has_some] = least(exact[ends[has_some] - 1], norms, longest, error)
    return _Ranked(query, place, exact[order], [rows[at] for at in order.tolist()], beyond)


class _Ranked(NamedTuple):
    """Candidates that are near enough, and where they belong."""

    query: Integers
    place: Integers
    distances: Float[Tensor, " n"]
    rows: list[dict[str, Any]]
    beyond: Float[Tensor, " q"]  # nothing that is no candidate lies nearer
