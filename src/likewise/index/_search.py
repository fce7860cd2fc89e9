"""Exact nearest neighbours: a fast search proposes, the definition of the distance decides."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import (
    COSINE,
    EUCLIDEAN,
    INNER_PRODUCT,
    MANHATTAN,
    SNR,
    SQUARED_EUCLIDEAN,
    Distance,
)
from likewise.index._rows import Rows

BLOCK = 2**22  # numbers in one intermediate tensor; a few of them live at once, about 64 MB
SPARE = 16  # candidates beyond k; FAISS finds 26 in about the time it takes for 10


@dataclass(frozen=True)
class _Flat:
    """How FAISS knows a distance: the rows it compares, its metric, and the way back.

    `least(value, error)` is the least distance that FAISS's `value` can stand for.
    """

    prepare: Callable[[Tensor], Tensor] | None
    metric: str
    least: Callable[[Tensor, Tensor], Tensor]


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


# Keyed by the distance itself: a user's own that happens to be called "cosine" is none of these.
_FLAT = {
    COSINE: _Flat(_unit, "METRIC_INNER_PRODUCT", lambda value, error: 1 - value - error),
    INNER_PRODUCT: _Flat(None, "METRIC_INNER_PRODUCT", lambda value, error: -value - error),
    EUCLIDEAN: _Flat(None, "METRIC_L2", lambda value, error: (value - error).clamp(min=0).sqrt()),
    SQUARED_EUCLIDEAN: _Flat(None, "METRIC_L2", lambda value, error: value - error),
    MANHATTAN: _Flat(None, "METRIC_L1", lambda value, error: value - error),
}

# Rounding is in proportion to the numbers that are summed on the way to a value. How large they
# are, from the norms of the query and of the longest stored row, and the value: for FAISS,
_Size = Callable[[Tensor, Tensor, Tensor], Tensor]
_SUMMED_BY_FAISS: dict[str, _Size] = {
    "METRIC_INNER_PRODUCT": lambda query, longest, value: query * longest,
    "METRIC_L2": lambda query, longest, value: (query + longest).square(),  # |a|² + |b|² - 2ab
    "METRIC_L1": lambda query, longest, value: value,
}
# and for `matrix`, where those of a user's own distance are taken to be about 1, as cosine's are.
_SUMMED_BY_MATRIX: dict[Distance, _Size] = {
    INNER_PRODUCT: lambda query, longest, value: query * longest,
    **dict.fromkeys(
        (EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, SNR), lambda query, longest, value: value.abs()
    ),
}


def _about_one(query: Tensor, longest: Tensor, value: Tensor) -> Tensor:
    return value.abs() + 1


class ExactSearch:
    """The k rows nearest to each query, exactly as a full sort by `distance.paired` has them.

    FAISS's flat search, or `distance.matrix` where FAISS does not know the distance, proposes a
    few more candidates than k, and `distance.paired` ranks them, equals by position. What was
    not proposed is at least as far as the last candidate, up to rounding. Where that leaves the
    k-th place open (many near-equal rows), every row that rounding allows to be nearer than it
    is ranked as well.

    Args:
        distance: decides; `matrix` and `paired` of a user's own agree up to float32 rounding.
    """

    def __init__(self, distance: Distance) -> None:
        self._distance = distance
        self._flat = _FLAT.get(distance)
        self.forget()

    def forget(self) -> None:
        """Drop what was prepared from stored rows; to be called when some of them went away."""
        self._prepared: Rows | None = None
        self._measured = 0
        self._longest = torch.zeros(())

    def nearest(
        self, queries: Float[Tensor, "q d"], stored: Float[Tensor, "n d"], k: int
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """Distances and positions, nearest first; equal distances by position.

        Args:
            queries: float32, finite, on the CPU.
            stored: the same; the rows of the last call, and perhaps others behind them.
            k: from 1 to n.

        Raises:
            ValueError: the distance of a pair is NaN.
        """
        self._catch_up(stored)
        distances = queries.new_empty(len(queries), k)
        positions = torch.empty(len(queries), k, dtype=torch.int64)
        is_open = torch.zeros(len(queries), dtype=torch.bool)
        count = min(k + SPARE, len(stored))
        for chunk in _chunks(torch.arange(len(queries)), count * stored.shape[1]):
            proposed, beyond = self._propose(queries[chunk], stored, count)
            ranked, order = self._rank(queries[chunk], stored, proposed)
            distances[chunk], positions[chunk] = ranked[:, :k], order[:, :k]
            if count < len(stored):
                is_open[chunk] = ~(ranked[:, k - 1] < beyond)
        for chunk in _chunks(is_open.nonzero().squeeze(1), len(stored)):
            limits = distances[chunk, -1]
            distances[chunk], positions[chunk] = self._settle(queries[chunk], stored, k, limits)
        return distances, positions

    def _propose(
        self, queries: Tensor, stored: Tensor, count: int
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        """Candidates of each query, and a distance below which nothing else lies."""
        if count == len(stored):
            everything = torch.arange(count).expand(len(queries), count)
            return everything, queries.new_full((len(queries),), torch.inf)
        if self._flat is None:
            return self._propose_by_matrix(queries, stored, count)
        return self._propose_by_faiss(self._flat, queries, stored, count)

    def _propose_by_faiss(
        self, flat: _Flat, queries: Tensor, stored: Tensor, count: int
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        import faiss  # takes 0.2 s, and only a lookup needs it

        if flat.prepare is not None and self._prepared is not None:
            queries, stored = flat.prepare(queries), self._prepared.view
        # The search behind IndexFlat, reading our rows where they are instead of a copy.
        values, found = faiss.knn(
            queries.numpy(), stored.numpy(), count, metric=getattr(faiss, flat.metric)
        )
        positions, last = torch.from_numpy(found), torch.from_numpy(values)[:, -1]
        norms = torch.linalg.vector_norm(queries, dim=1)
        summed = _SUMMED_BY_FAISS[flat.metric](norms, self._longest, last)
        return positions, flat.least(last, summed * _relative_error(queries))

    def _propose_by_matrix(
        self, queries: Tensor, stored: Tensor, count: int
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        nearest = [
            self._distance.matrix(rows, stored).topk(count, dim=1, largest=False)
            for rows in _chunks(queries, len(stored))
        ]
        positions = torch.cat([indices for _, indices in nearest])
        last = torch.cat([values[:, -1] for values, _ in nearest])
        return positions, last - self._matrix_error(queries, last)

    def _rank(
        self, queries: Tensor, stored: Tensor, proposed: Int[Tensor, "q c"]
    ) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
        """Distances of the proposed positions by the definition, and these, in order."""
        proposed = proposed.sort(dim=1).values  # so that the stable sort leaves ties by position
        count = proposed.shape[1]
        exact = self._paired(
            queries.repeat_interleave(count, dim=0), stored[proposed.clamp(min=0).flatten()]
        ).view(-1, count)
        # FAISS proposes -1 where its values overflowed.
        exact, order = exact.masked_fill(proposed < 0, torch.inf).sort(dim=1, stable=True)
        return exact, proposed.gather(1, order)

    def _settle(
        self, queries: Tensor, stored: Tensor, k: int, limits: Float[Tensor, " q"]
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """The k nearest, given that k are known to lie within `limits`."""
        limits = limits + self._matrix_error(queries, limits)
        # Not "<=": where NaN came from an overflow, the definition has to say.
        possible = ~(self._distance.matrix(queries, stored) > limits[:, None])
        distances, positions = [], []
        for query, row in zip(queries, possible, strict=True):
            at = row.nonzero().squeeze(1)
            exact = torch.cat(
                [
                    self._paired(query.expand(len(part), -1), stored[part])
                    for part in _chunks(at, len(query))
                ]
            )
            exact, order = exact.sort(stable=True)
            distances.append(exact[:k])
            positions.append(at[order[:k]])
        return torch.stack(distances), torch.stack(positions)

    def _paired(self, a: Float[Tensor, "p d"], b: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
        distances = self._distance.paired(a, b)
        if bool(distances.isnan().any()):
            raise ValueError(
                f"distance must give a number for every pair, got NaN from {self._distance.name}. "
                "Scale the embeddings down if they are huge, or correct the distance."
            )
        return distances

    def _matrix_error(self, queries: Tensor, values: Tensor) -> Tensor:
        summed = _SUMMED_BY_MATRIX.get(self._distance, _about_one)
        norms = torch.linalg.vector_norm(queries, dim=1)
        return summed(norms, self._longest, values) * _relative_error(queries)

    def _catch_up(self, stored: Tensor) -> None:
        new = stored[self._measured :]
        self._measured = len(stored)
        if self._flat is not None and self._flat.prepare is not None:
            new = self._flat.prepare(new)
            if self._prepared is None:
                self._prepared = Rows(stored[:0])
            self._prepared.append(new)
        if len(new):
            longest_new = torch.linalg.vector_norm(new, dim=1).max()
            self._longest = torch.maximum(self._longest, longest_new)


def _chunks(rows: Tensor, numbers_per_row: int) -> list[Tensor]:
    # Unlike torch.split, no chunk of no rows.
    size = max(1, BLOCK // numbers_per_row)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _relative_error(queries: Tensor) -> float:
    # A float32 sum of d products, in whatever order, is off by at most d + a few half-units in
    # the last place of its size; twice, as the definition rounds as well.
    return 2 * (queries.shape[1] + 8) * 2**-24
