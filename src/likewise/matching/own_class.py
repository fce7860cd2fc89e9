"""What a lookup would find if each query's own class were not stored."""

from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import as_tensors, check_count, check_embeddings, check_labels
from likewise.distances import Distance
from likewise.errors import InputError
from likewise.index import Neighbors

NUMBERS = 1 << 24  # numbers held at once
SPARE = 16  # candidates beyond k


class _Stored(Protocol):
    @property
    def ids(self) -> np.ndarray[Any, Any]: ...
    @property
    def labels(self) -> Int[Tensor, " n"]: ...
    @property
    def embeddings(self) -> Float[Tensor, "n d"]: ...


def lookup_without_own_class(
    queries: Float[Tensor, "q d"],
    labels: Int[Tensor, " q"],
    stored: _Stored,
    *,
    distance: Distance,
    k: int = 1,
) -> Neighbors:
    """The k nearest stored items of other classes than the query's own, nearest first.

    So a query of a known class is judged as an unknown one. That is exact for every rule: it is
    what a lookup would find in an index without this class, down to the last digit, so that a
    threshold chosen on it accepts the same items in use. Class centers are left out in the same
    way. Where fewer than k items of other classes are stored, the rest is padding, as in a lookup.
    About 16 million numbers are held at once.

    Args:
        queries: Embeddings.
        labels: Their class codes, those of the store; a code that is not stored leaves out none.
        stored: An index or a gallery, or the `class_centers` of one.
        distance: How it compares.
        k: Number of neighbors.

    Raises:
        InputError: Wrong shapes, nothing is stored, or k is more than what is stored.

    Example:
        >>> from likewise.distances import EUCLIDEAN
        >>> from likewise.index import Index
        >>> index = Index(EUCLIDEAN)
        >>> _ = index.add(torch.tensor([[0.0], [1.0], [3.0]]), labels=[7, 7, 8])
        >>> queries = torch.tensor([[0.5], [2.5]])
        >>> found = lookup_without_own_class(
        ...     queries, torch.tensor([7, 8]), index, distance=EUCLIDEAN
        ... )
        >>> found.labels.tolist(), found.distances.tolist()
        ([[8], [7]], [[2.5], [1.5]])
    """
    queries, labels = as_tensors(queries=queries, labels=labels)
    check_embeddings(queries, "queries")
    check_labels(labels, len(queries))
    check_count("k", k)
    embeddings, codes, ids = stored.embeddings, stored.labels, stored.ids
    if not len(ids):
        raise InputError("stored must hold items, got none. Add some first.")
    if k > len(ids):
        raise InputError(f"k must be at most the number of stored items, {len(ids)}, got {k}.")
    padding = "" if ids.dtype.kind == "U" else -1
    count = min(k + SPARE, len(ids))
    rows = max(1, NUMBERS // max(len(ids), count * queries.shape[1]))
    found = []
    for some, own in zip(torch.split(queries, rows), torch.split(labels.cpu(), rows), strict=True):
        # As in a lookup, `matrix` proposes and `paired` decides: they differ by rounding.
        distances = distance.matrix(some, embeddings.to(some))
        distances = distances.cpu().masked_fill(own[:, None] == codes[None, :], torch.inf)
        columns = distances.topk(count, largest=False).indices.sort(dim=1).values
        candidates = embeddings.index_select(0, columns.flatten()).to(some)
        exact = distance.paired(some.repeat_interleave(count, dim=0), candidates).cpu()
        is_none = distances.gather(1, columns).isposinf()
        exact = exact.view(-1, count).masked_fill(is_none, torch.inf)
        nearest, order = exact.sort(dim=1, stable=True)
        nearest, columns = nearest[:, :k], columns.gather(1, order[:, :k])
        none = nearest.isposinf()
        named = np.where(none.numpy(), padding, ids[columns.numpy()])
        found.append(Neighbors(named, nearest, codes[columns].masked_fill(none, -1)))
    if not found:
        empty = torch.empty(0, k)
        return Neighbors(np.empty((0, k), ids.dtype), empty, empty.long())
    return Neighbors(
        np.concatenate([each.ids for each in found]),
        torch.cat([each.distances for each in found]),
        torch.cat([each.labels for each in found]),
    )
