"""Exact nearest neighbors: a fast search proposes, the definition of the distance decides."""

import math
import threading

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.distances import (
    COSINE,
    EUCLIDEAN,
    INNER_PRODUCT,
    MANHATTAN,
    SNR,
    SQUARED_EUCLIDEAN,
    Distance,
    unit,
    without_autocast,
)
from likewise.errors import InputError
from likewise.index._growing import GrowingArray
from likewise.index._searching.scan import best_products
from likewise.index._searching.storage import dimension, unpack
from likewise.index.rounding import matrix_error, relative_error

BLOCK = 2**22  # numbers in one intermediate tensor; a few of them live at once, about 64 MB
CACHE = 2**17  # numbers of which a few copies stay in a core's own memory
SPARE = 16  # candidates beyond k
AT_ONCE = 2**16  # numbers in all pairs; up to here ranking all takes less than proposing some
UNIT = 2**-21  # so near to 1 a length counts as 1; less than the bound of the rounding leaves

# Searched by a matrix product. Keyed by the distance itself: a user's own that happens to be
# called "cosine" is none of these.
BY_PRODUCT = (COSINE, INNER_PRODUCT, EUCLIDEAN, SQUARED_EUCLIDEAN)
NEVER_NEGATIVE = (COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, SNR)


class ExactSearch:
    """The k rows nearest to each query, exactly as a full sort by `distance.paired` has them.

    Few pairs are all ranked by `distance.paired`. Of more, a matrix product, FAISS for Manhattan,
    or `distance.matrix` for any other distance proposes a few more candidates than k, and
    `distance.paired` ranks them, equals by position. What was not proposed is at least as far as
    the last candidate, up to rounding. Where that leaves the k-th place open (many near-equal
    rows), every row that rounding allows to be nearer than it is ranked as well: at most the whole
    gallery once, by the definition, and no further than the k-th distance of 0.

    Several threads may search at once.

    Args:
        distance: decides; `matrix` and `paired` of a user's own agree up to float32 rounding.
    """

    def __init__(self, distance: Distance) -> None:
        self._distance = distance
        self._lock = threading.Lock()
        self._numbers = GrowingArray(
            np.empty(0, dtype=np.float32)
        )  # one a row: cosine its scale, Euclidean its offset
        self._measured = 0
        self._longest = 0.0
        self._middle: Tensor | None = None
        self._all_unit = True

    def kept(self, kept: Bool[Tensor, " n"]) -> "ExactSearch":
        """The search of the rows that `kept` marks; this one stays that of all rows."""
        search = ExactSearch(self._distance)
        with self._lock:
            kept = kept[: self._measured]
            if len(self._numbers):
                search._numbers = GrowingArray(self._numbers.view[: len(kept)][kept.numpy()])
            search._measured = int(kept.sum())
            search._longest, search._middle = self._longest, self._middle
            search._all_unit = self._all_unit
        return search

    def nearest(
        self,
        queries: Float[Tensor, "q d"],
        stored: Tensor,
        k: int,
        allowed: Bool[Tensor, " n"] | None = None,
        *,
        first: int = 0,
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """Distances and positions, nearest first; equal distances by position.

        Args:
            queries: float32, finite, on the CPU.
            stored: the same (n, d), or what `pack` made of it; the rows of the last call, and
                perhaps others behind them, or the first of those.
            k: how many. Where fewer may be found, rows are padded: distance inf, position -1.
            allowed: which rows may be found; without, all.
            first: the first position that may be found.

        Raises:
            InputError: the distance of a pair is NaN.
        """
        size, asked = len(stored), len(queries)
        count = size - first
        if allowed is not None:
            some = allowed[first:].nonzero().squeeze(1) + first
            if len(some) <= max(k + SPARE, count // 4) or self._distance not in BY_PRODUCT:
                few = ExactSearch(self._distance)
                distances, positions = few.nearest(queries, stored[some], k)
                is_padding = positions < 0
                if len(some):
                    positions = some[positions.clamp(min=0)].masked_fill_(is_padding, -1)
                return distances, positions
        found_count = min(k, count)
        if not found_count or not asked:
            padded = queries.new_full((asked, k), torch.inf)
            return padded, torch.full((asked, k), -1)
        with without_autocast(queries):
            with self._lock:
                self._catch_up(stored)
                numbers, middle = torch.from_numpy(self._numbers.view[first:size]), self._middle
                longest, all_unit = self._longest, self._all_unit
            rows = stored[first:] if first else stored
            part = _Part(self._distance, rows, numbers, longest, middle, all_unit)
            may = None if allowed is None else allowed[first:]
            distances, positions = part.nearest(queries, found_count, may)
        if first:
            positions += first
        if found_count < k:
            distances = F.pad(distances, (0, k - found_count), value=torch.inf)
            positions = F.pad(positions, (0, k - found_count), value=-1)
        return distances, positions

    def _catch_up(self, stored: Tensor) -> None:
        step = max(1, BLOCK // dimension(stored))
        for start in range(self._measured, len(stored), step):
            rows = unpack(stored[start : start + step])
            if start == 0 and self._distance in (EUCLIDEAN, SQUARED_EUCLIDEAN):
                self._middle = _useful_middle(rows)
            if self._middle is not None:
                rows = rows - self._middle
            norms = torch.linalg.vector_norm(rows, dim=1)
            self._longest = max(self._longest, float(norms.max()))
            if self._distance is COSINE:
                self._all_unit &= bool(((norms - 1).abs() <= UNIT).all())
                self._numbers.append((1 / norms.clamp(min=1e-12)).numpy())
            elif self._distance in (EUCLIDEAN, SQUARED_EUCLIDEAN):
                self._numbers.append((rows.square().sum(dim=1) / -2).numpy())
            self._measured = start + len(rows)


class _Part:
    """Stored rows with what was prepared for them, as one lookup sees them."""

    def __init__(
        self,
        distance: Distance,
        stored: Tensor,
        numbers: Float[Tensor, " n"],
        longest: float,
        middle: Float[Tensor, " d"] | None,
        all_unit: bool,
    ) -> None:
        self.distance, self.stored, self.numbers = distance, stored, numbers
        self.longest, self.middle, self.all_unit = longest, middle, all_unit

    def nearest(
        self, queries: Tensor, k: int, allowed: Tensor | None
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        count = min(k + SPARE, len(self.stored))
        is_small = allowed is None and queries.numel() * len(self.stored) <= AT_ONCE
        if is_small or count == len(self.stored):
            return self._all_ranked(queries, k)
        parts = []
        for asked in chunks(queries, count * queries.shape[1]):
            proposed, beyond = self._propose(asked, count, allowed)
            ranked, order = ranked_by(self.distance, asked, self.stored, proposed)
            parts.append((ranked[:, :k], order[:, :k], ~(ranked[:, k - 1] < beyond)))
        # One part is all there is of few queries, and copying it would cost a tenth of the rest.
        distances, positions, is_open = (
            parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        )
        for chunk in chunks(is_open.nonzero().squeeze(1), CACHE):
            limits = distances[chunk, -1]
            near, at = self._settle(queries[chunk], k, limits, allowed)
            distances[chunk], positions[chunk] = near, at
        return distances, positions

    def _all_ranked(
        self, queries: Tensor, k: int
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        stored, count = unpack(self.stored), len(self.stored)
        ranked = []
        for asked in chunks(queries, stored.numel()):
            many = len(asked)
            each = asked.expand(count, -1) if many == 1 else asked.repeat_interleave(count, dim=0)
            near = stored if many == 1 else stored.repeat(many, 1)
            exact = checked_paired(self.distance, each, near).view(many, count)
            ranked.append(_first(exact, k))
        if len(ranked) == 1:
            return ranked[0]
        distances, positions = map(torch.cat, zip(*ranked, strict=True))
        return distances, positions

    def _propose(
        self, queries: Tensor, count: int, allowed: Tensor | None
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        """Candidates of each query, and a distance below which nothing else lies."""
        if self.distance in BY_PRODUCT:
            return self._propose_by_product(queries, count, allowed)
        if self.distance is MANHATTAN:
            return self._propose_by_faiss(queries, count)
        return self._propose_by_matrix(queries, count)

    def _propose_by_product(
        self, queries: Tensor, count: int, allowed: Tensor | None
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        offsets = scales = None
        longest = self.longest
        if self.distance is COSINE:
            queries = unit(queries)
            scales = None if self.all_unit else self.numbers
            longest = 1.0 if math.isfinite(longest) else math.inf
        elif self.distance is not INNER_PRODUCT:
            offsets = self.numbers
        if self.middle is not None:
            queries = queries - self.middle
        if allowed is not None:
            shut = torch.zeros(len(allowed)).masked_fill_(~allowed, -torch.inf)
            offsets = shut if offsets is None else offsets + shut
        values, positions = best_products(
            queries, self.stored, count, offsets=offsets, scales=scales, middle=self.middle
        )
        least = values.amin(dim=1)
        error = relative_error(queries)
        if self.distance is COSINE:
            return positions, 1 - least - longest * error
        norms = torch.linalg.vector_norm(queries, dim=1)
        if self.distance is INNER_PRODUCT:
            return positions, -least - norms * longest * error
        squares = norms.square() - 2 * least - (norms + longest).square() * error
        return positions, squares if self.distance is SQUARED_EUCLIDEAN else _root(squares)

    def _propose_by_faiss(
        self, queries: Tensor, count: int
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        import faiss  # takes 0.2 s, and only a lookup needs it

        # The search behind IndexFlat, reading our rows where they are instead of a copy.
        values, found = faiss.knn(
            queries.numpy(), unpack(self.stored).numpy(), count, metric=faiss.METRIC_L1
        )
        last = torch.from_numpy(values)[:, -1]
        return torch.from_numpy(found), last - last * relative_error(queries)

    def _propose_by_matrix(
        self, queries: Tensor, count: int
    ) -> tuple[Int[Tensor, "q c"], Float[Tensor, " q"]]:
        stored = unpack(self.stored)
        nearest = [
            self.distance.matrix(rows, stored).topk(count, dim=1, largest=False)
            for rows in chunks(queries, len(stored))
        ]
        positions = torch.cat([indices for _, indices in nearest])
        last = torch.cat([values[:, -1] for values, _ in nearest])
        return positions, last - matrix_error(self.distance, queries, self.longest, last)

    def _settle(
        self, queries: Tensor, k: int, limits: Float[Tensor, " q"], allowed: Tensor | None
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """The k nearest, given that k are known to lie within `limits`."""
        limits = limits + matrix_error(self.distance, queries, self.longest, limits)
        distances = queries.new_full((len(queries), k), torch.nan)  # sorts behind infinity
        positions = torch.full((len(queries), k), -1)
        left = torch.arange(len(queries))
        start = 0
        for rows in chunks(self.stored, queries.shape[1], CACHE):
            tile = unpack(rows)
            # Not "<=": where NaN came from an overflow, the definition has to say.
            possible = ~(self.distance.matrix(queries[left], tile) > limits[left, None])
            if allowed is not None:
                possible &= allowed[start : start + len(rows)]
            exact = queries.new_full(possible.shape, torch.nan)
            pairs = possible.nonzero()
            for query, row in (part.T for part in chunks(pairs, queries.shape[1], CACHE)):
                ranked = checked_paired(self.distance, queries[left[query]], tile[row])
                exact[query, row] = ranked.float()
            # As near as the k-th is too late, as ties are by position.
            possible &= ~(exact >= distances[left, -1:])
            some = possible.any(dim=0).nonzero().squeeze(1)
            nearest, order = torch.cat([distances[left], exact[:, some]], dim=1).sort(stable=True)
            at = torch.cat([positions[left], (some + start).expand(len(left), -1)], dim=1)
            distances[left], positions[left] = nearest[:, :k], at.gather(1, order[:, :k])
            start += len(rows)
            if self.distance in NEVER_NEGATIVE:  # nothing comes before k zeros
                left = left[~(distances[left, -1] <= 0)]
                if not len(left):
                    break
        return distances, positions


def _first(
    distances: Float[Tensor, "q n"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The k least of each row and where they are; equal ones by position."""
    if k == 1:  # without a sort; of equal ones, min gives the first
        least, at = distances.min(dim=1, keepdim=True)
        return least, at
    ranked, order = distances.sort(dim=1, stable=True)
    return ranked[:, :k], order[:, :k]


def ranked_by(
    distance: Distance,
    queries: Tensor,
    stored: Tensor,
    proposed: Int[Tensor, "q c"],
    *,
    padded: bool = False,
) -> tuple[Float[Tensor, "q c"], Int[Tensor, "q c"]]:
    """Distances of the proposed positions by the definition, and these, in order.

    Where they are `padded`, some are -1, and these come last.
    """
    proposed = proposed.sort(dim=1).values  # so that the stable sort leaves ties by position
    rows, count = proposed.shape
    if rows > 1:
        queries = queries.repeat_interleave(count, dim=0)
    positions = proposed.flatten()
    if padded:
        positions = positions.clamp(min=0)
    # index_select is four times as fast as [].
    near = unpack(stored.index_select(0, positions))
    exact = checked_paired(distance, queries.expand(len(near), -1), near).view(-1, count)
    if padded:
        exact = exact.masked_fill(proposed < 0, torch.inf)
    exact, order = exact.sort(dim=1, stable=True)
    return exact, proposed.gather(1, order)


def checked_paired(
    distance: Distance, a: Float[Tensor, "p d"], b: Float[Tensor, "p d"]
) -> Float[Tensor, " p"]:
    """`distance.paired`, which must not give NaN."""
    distances = distance.paired(a, b)
    # The sum of numbers that hold NaN is NaN.
    if math.isnan(distances.sum()) and bool(distances.isnan().any()):
        raise InputError(
            f"distance must give a number for every pair, got NaN from {distance.name}. "
            "Scale the embeddings down if they are huge, or correct the distance."
        )
    return distances


def chunks(rows: Tensor, numbers_per_row: int, block: int | None = None) -> list[Tensor]:
    """Pieces of `block` numbers; unlike torch.split's, no piece of no rows."""
    size, count = max(1, (block or BLOCK) // numbers_per_row), len(rows)
    if 0 < count <= size:
        return [rows]
    return [rows[start : start + size] for start in range(0, count, size)]


def _root(squares: Tensor) -> Tensor:
    return squares.clamp(min=0).sqrt()


def _useful_middle(rows: Tensor) -> Tensor | None:
    # Far from the origin a product loses the digits in which near-equal rows differ.
    middle = rows.mean(dim=0)
    spread = torch.linalg.vector_norm(rows - middle, dim=1).mean()
    far = torch.linalg.vector_norm(middle) > 4 * spread
    return middle if bool(far) and bool(middle.isfinite().all()) else None
