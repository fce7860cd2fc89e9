"""What a lookup would find if each query's own class were not stored."""

from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import as_tensors, check_count, check_embeddings, check_labels
from likewise.distances import Distance
from likewise.errors import InputError
from likewise.index import Index, Neighbors
from likewise.index.rounding import matrix_error

NUMBERS = 1 << 24  # numbers held at once
MOST = 16384  # neighbors of one lookup, which every store finds


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
    About 16 million distances are held at once.

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
    queries = queries.detach().float()  # as a lookup has them
    embeddings, codes, ids = stored.embeddings, stored.labels, stored.ids
    if not len(ids):
        raise InputError("stored must hold items, got none. Add some first.")
    if k > len(ids):
        raise InputError(f"k must be at most the number of stored items, {len(ids)}, got {k}.")
    padding = "" if ids.dtype.kind == "U" else -1
    longest = longest_of(embeddings)
    rows = max(1, NUMBERS // len(ids))
    found = []
    for some, own in zip(torch.split(queries, rows), torch.split(labels.cpu(), rows), strict=True):
        proposed = distance.matrix(some, embeddings.to(some)).cpu()
        proposed.masked_fill_(own[:, None] == codes[None, :], torch.inf)
        # `amin` is eight times as fast as `topk` with one.
        limits = proposed.amin(dim=1) if k == 1 else proposed.topk(k, largest=False).values[:, -1]
        row, column = within(proposed, limits + slack(some, longest, limits, distance=distance))
        exact = exactly(some, embeddings, row, column, distance=distance)
        exact, order = exact.sort(stable=True)  # equals as they are stored
        row, again = row[order].sort(stable=True)
        exact, column = exact[again], column[order[again]]
        counts = row.bincount(minlength=len(some))
        place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        kept = place < k
        nearest = exact.new_full((len(some), k), torch.inf)
        nearest[row[kept], place[kept]] = exact[kept]
        at = torch.full((len(some), k), -1)
        at[row[kept], place[kept]] = column[kept]
        named = np.where(at < 0, padding, ids[at.numpy()])
        found.append(Neighbors(named, nearest, codes[at].masked_fill_(at < 0, -1)))
    return Neighbors(
        np.concatenate([each.ids for each in found]),
        torch.cat([each.distances for each in found]),
        torch.cat([each.labels for each in found]),
    )


def found_without_own_class(
    queries: Float[Tensor, "q d"], labels: Int[Tensor, " q"], index: Index, *, k: int
) -> Neighbors:
    """As `lookup_without_own_class`, through the search by which the index answers.

    The index is asked for more neighbors, of which those of the own class are left out, until k are
    left. What an approximate search misses, it misses here as well.

    Args:
        queries: Embeddings.
        labels: Their class codes, those of the index.
        index: What is looked up in.
        k: Number of neighbors.

    Example:
        >>> known = Index()
        >>> _ = known.add(torch.eye(3), labels=[0, 0, 1])
        >>> found_without_own_class(torch.eye(3)[:1], torch.tensor([0]), known, k=1).labels
        tensor([[1]])
    """
    own, size = labels.cpu(), len(index)
    padding = "" if index.lookup(queries[:1], k=1).ids.dtype.kind == "U" else -1
    ids = np.full((len(queries), k), padding, dtype=object)
    distances = torch.full((len(queries), k), torch.inf)
    codes = torch.full((len(queries), k), -1)
    left, count = torch.arange(len(queries)), min(size, MOST, 2 * k + 30)
    while len(left):
        found = index.lookup(queries[left], k=count)
        others = (found.labels != own[left, None]) & ~found.distances.isposinf()
        place = others.cumsum(dim=1) - 1
        row, column = torch.where(others & (place < k))
        at = place[row, column]
        ids[left[row].numpy(), at.numpy()] = found.ids[row.numpy(), column.numpy()]
        distances[left[row], at] = found.distances[row, column]
        codes[left[row], at] = found.labels[row, column]
        left = left[others.sum(dim=1) < k]
        if count == size:
            break
        if count == MOST and len(left):  # a class so large is not looked past by any lookup
            rest = lookup_without_own_class(
                queries[left], own[left], index, distance=index.distance, k=k
            )
            ids[left.numpy()], distances[left], codes[left] = rest.ids, rest.distances, rest.labels
            break
        count = min(size, MOST, 4 * count)
    return Neighbors(np.array(ids.tolist()).reshape(ids.shape), distances, codes)


def slack(
    queries: Float[Tensor, "q d"], longest: float, *values: Float[Tensor, " q"], distance: Distance
) -> Float[Tensor, " q"]:
    """How far a distance by `matrix` may be beyond another that is nearer by `paired`."""
    errors = [matrix_error(distance, queries.cpu(), longest, each) for each in values]
    return 2 * torch.stack(errors).amax(dim=0)


def within(
    proposed: Float[Tensor, "q n"], limits: Float[Tensor, " q"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Rows and columns of what `matrix` proposes within the limits."""
    most = torch.finfo(proposed.dtype).max  # what is infinite is left out, NaN is not
    limits = limits.nan_to_num(nan=most, posinf=most)
    # By NumPy, in a quarter of torch's time.
    at = np.flatnonzero(~(proposed.numpy() > limits[:, None].numpy()))
    row, column = np.divmod(at, max(1, proposed.shape[1]))
    return torch.from_numpy(row), torch.from_numpy(column)


def exactly(
    queries: Float[Tensor, "q d"],
    stored: Float[Tensor, "n d"],
    row: Int[Tensor, " p"],
    column: Int[Tensor, " p"],
    *,
    distance: Distance,
) -> Float[Tensor, " p"]:
    """The distances of these pairs as a lookup has them: by `paired`, on the CPU."""
    queries = queries.cpu()
    step = max(1, NUMBERS // queries.shape[1])
    found = [
        distance.paired(queries.index_select(0, a), stored.index_select(0, b))
        for a, b in zip(torch.split(row, step), torch.split(column, step), strict=True)
    ]
    return torch.cat(found)


def longest_of(stored: Float[Tensor, "n d"]) -> float:
    """The norm of the longest row."""
    return float(torch.linalg.vector_norm(stored, dim=1).max())
