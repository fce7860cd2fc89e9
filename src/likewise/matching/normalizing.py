"""Neighbors that a quick lookup found, in the order of their normalized distances."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import as_tensor, check_finite
from likewise.errors import InputError
from likewise.index import Index, Neighbors
from likewise.normalization import AdaptiveNorm, CohortFacts, normalize


def normalize_neighbors(
    neighbors: Neighbors, queries: Float[Tensor, "q d"], gallery: Index, norm: AdaptiveNorm
) -> Neighbors:
    """The same neighbors with normalized distances, nearest first; padding stays at the end.

    Only the k that were found are looked at: with a larger k fewer are missed that would be
    nearest by the normalized distance. Of equals, the one that was nearer comes first.

    Args:
        neighbors: from `gallery.lookup(queries, k=k)`.
        queries: the embeddings that were looked up.
        gallery: an index.
        norm: its distance must be that of the gallery.

    Raises:
        InputError: not one query per row of neighbors, NaN or infinity, or an id that
            is no longer stored.

    Example:
        >>> from likewise.index import Index
        >>> index = Index()
        >>> _ = index.add(torch.eye(3), labels=[0, 1, 2])
        >>> norm = AdaptiveNorm(torch.tensor([[-1.0, 0.5, 0.0], [0.0, -1.0, 1.0]]), nearest=2)
        >>> queries = torch.tensor([[1.0, 0.2, 0.1]])
        >>> normalize_neighbors(index.lookup(queries, k=2), queries, index, norm).labels.tolist()
        [[0, 1]]
    """
    queries = as_tensor(queries, "queries")
    if len(queries) != len(neighbors.labels):
        raise InputError(
            f"queries must be those that were looked up, {len(neighbors.labels)}, "
            f"got {len(queries)}."
        )
    check_finite(queries, "queries")
    found = ~neighbors.distances.isposinf()
    ids, at = np.unique(neighbors.ids[found.numpy()], return_inverse=True)
    if not len(ids):
        return neighbors
    of_items = norm.facts(gallery.get(ids).embeddings, second=True)
    of_queries = norm.facts(queries.to("cpu", torch.float32))
    rows = found.nonzero()[:, 0]
    place = torch.from_numpy(at)
    distances = neighbors.distances.clone()
    distances[found] = normalize(
        distances[found],
        CohortFacts(of_queries.mean[rows], of_queries.spread[rows]),
        CohortFacts(of_items.mean[place], of_items.spread[place]),
    )
    distances, order = distances.sort(dim=1, stable=True)
    ids = np.take_along_axis(neighbors.ids, order.numpy(), axis=1)
    labels = neighbors.labels.gather(1, order)
    return replace(neighbors, ids=ids, distances=distances, labels=labels)
