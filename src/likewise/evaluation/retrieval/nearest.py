"""The classes of each query's nearest references, exactly and in bounded memory."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import check_finite
from likewise.distances import COSINE, Distance

BLOCK = 2**25  # distances that one call of a distance's `matrix` makes; 128 MB
TILE = 2**21  # cosine distances at once: more leave a core's cache
PIECE = 2**19  # distances chosen from at once: fewer spend time on calls, more are no faster
FEWEST_ROWS = 64  # with fewer at once the product is slow
DENSE = 40  # where more than one reference in 40 is wanted, all of them are sorted out
# 1 - x keeps fewer digits than x: products so near to each other can be at the same distance.
ROUNDED = np.float32(2**-22)
_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Nearest:
    """What is known of some queries.

    Attributes:
        classes: class numbers of the nearest references, nearest first; c where there is none.
        rank: Rank of the nearest reference of the query's own class, from 1.
        closer: how many references nearer than that one each part of the classes has.
    """

    classes: Int[Tensor, "n depth"]
    rank: Int[Tensor, " n"]
    closer: Int[Tensor, "n p"]


class Search:
    """Finds the nearest references; those at the same distance in the order given.

    Args:
        distance: what is compared.
        references: the items to be found, (m, d).
        reference_class: their class numbers, c for those of no class, (m,).
        reference_groups: a query does not see the references of its own group, (m,).
        parts: which part each of the c classes belongs to, (c,).
        chunk_size: queries compared at once, at most.
    """

    def __init__(
        self,
        distance: Distance,
        references: Float[Tensor, "m d"],
        reference_class: Int[Tensor, " m"],
        reference_groups: Int[Tensor, " m"] | None,
        parts: Int[Tensor, " c"],
        chunk_size: int,
    ) -> None:
        device = references.device
        self.distance, self.references = distance, references
        # What is missing is at position -1, and has class c and the part behind the last.
        self.classes = F.pad(reference_class, (0, 1), value=len(parts)).to(device, torch.int32)
        self.parts = F.pad(parts, (0, 1), value=int(parts.max()) + 1).to(device)
        self.groups = reference_groups
        # References by class, so that those of one class lie together.
        self.by_class = self.classes[:-1].argsort(stable=True)
        sizes = self.classes[:-1].bincount(minlength=len(parts) + 1)
        self.sizes, self.starts = sizes, sizes.cumsum(0) - sizes
        self.chunk_size = chunk_size

    def nearest(
        self,
        queries: Float[Tensor, "n d"],
        query_class: Int[Tensor, " n"],
        own: Int[Tensor, " n"] | None,
        groups: Int[Tensor, " n"] | None,
        depth: int,
    ) -> Nearest:
        """The nearest of each query, on the CPU.

        Args:
            queries: (n, d).
            query_class: their class numbers; each has a reference that it may see.
            own: where each query stands among the references, which does not see itself.
            groups: Groups of the queries.
            depth: how many references are wanted of each.
        """
        count = min(depth, len(self.references))
        tile, rows, tiles_at_once = self._tiles(queries)

        def search(at: slice, each: Callable[..., Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
            values, exact, slack = tile(queries[at])
            if own is not None:
                values[torch.arange(len(values)), own[at]] = torch.inf
            if groups is not None and self.groups is not None:
                values.masked_fill_(groups[at, None] == self.groups, torch.inf)
            if values.device.type == "cpu" and values.dtype == torch.float32:
                positions = _smallest(values, count, exact, slack, each)
            else:
                positions = smallest(values, count)
            pieces = _pieces(self.classes[positions], query_class[at].to(values.device), values)
            return list(each(partial(self._ranked, exact=exact, slack=slack), *pieces))

        slices = [slice(start, start + rows) for start in range(0, len(queries), rows)]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            if tiles_at_once:
                parts = list(pool.map(partial(search, each=map), slices))
            else:
                parts = [search(at, pool.map) for at in slices]
        found = [piece for part in parts for piece in part]
        classes, rank, closer = (torch.cat(part).cpu() for part in zip(*found, strict=True))
        return Nearest(F.pad(classes, (0, depth - count), value=len(self.parts) - 1), rank, closer)

    def _tiles(self, queries: Tensor) -> tuple[Callable[[Tensor], Any], int, bool]:
        """Distances of some rows; how many rows to give at once; and if each thread takes some."""
        size = len(self.references)
        dtype = torch.promote_types(queries.dtype, self.references.dtype)
        if self.distance is COSINE and queries.device.type == "cpu" and dtype.itemsize <= 4:
            rows = min(self.chunk_size, max(FEWEST_ROWS, TILE // size))
            if not hasattr(self, "_unit"):
                self._unit = F.normalize(self.references.float(), dim=1)
                self._room = threading.local()
            return self._cosine, rows, True

        def matrix(some: Tensor) -> tuple[Tensor, Callable[[Any], Any], np.float32]:
            distances = self.distance.matrix(some, self.references)
            check_finite(distances, "distances")
            return distances, _as_they_are, np.float32(0)

        return matrix, min(self.chunk_size, max(1, BLOCK // size)), False

    def _cosine(self, queries: Tensor) -> tuple[Tensor, Callable[[Any], Any], np.float32]:
        # The distances of COSINE, but for its last step: that is left to the few that count.
        room = getattr(self._room, "values", None)
        if room is None or len(room) < len(queries):
            room = self._room.values = torch.empty(len(queries), len(self._unit))
        products = room[: len(queries)]
        with torch.autocast("cpu", enabled=False):
            torch.mm(-F.normalize(queries.float(), dim=1), self._unit.T, out=products)
        return products, _to_cosine, ROUNDED

    def _ranked(
        self,
        near: Tensor,
        wanted: Tensor,
        values: Tensor,
        exact: Callable[[Any], Any],
        slack: np.float32,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Classes, rank and closer of one tile; see `Nearest`."""
        relevant = near == wanted[:, None]
        first = relevant.byte().argmax(dim=1)
        parts = int(self.parts[-1])
        closer = torch.zeros(len(near), parts + 1, dtype=torch.int64, device=near.device)
        if parts > 1:
            before = torch.arange(near.shape[1], device=near.device) < first[:, None]
            closer.scatter_add_(1, self.parts[near], before.long())
        (beyond,) = torch.where(~relevant.any(dim=1))
        if len(beyond) and parts == 1:
            values, of = values[beyond], wanted[beyond]
            first[beyond], is_open = self._before(values, of, float(slack))
            beyond, values = beyond[is_open], values[is_open]
        else:
            values = values[beyond]
        if len(beyond):
            distances = exact(values)
            is_own = self.classes[:-1] == wanted[beyond, None]
            own = distances.masked_fill(~is_own, torch.inf)
            limit, at = own.min(dim=1, keepdim=True)  # the first of those that tie
            before = torch.arange(len(self.references), device=near.device) < at
            nearer = (distances < limit) | (distances == limit) & before
            first[beyond] = nearer.sum(dim=1)
            if parts > 1:
                of_reference = F.one_hot(self.parts[self.classes[:-1]], parts + 1).float()
                closer[beyond] = (nearer.float() @ of_reference).long()
        return near, first + 1, closer[:, :parts]

    def _before(self, values: Tensor, wanted: Tensor, slack: float) -> tuple[Tensor, Tensor]:
        """How many references come before the nearest of a class; where that is left open."""
        sizes = self.sizes[wanted]
        place = torch.arange(int(sizes.max()), device=values.device)
        at = self.by_class[(self.starts[wanted, None] + place).clamp(max=len(self.by_class) - 1)]
        own = values.gather(1, at).masked_fill(place >= sizes[:, None], torch.inf)
        limit = own.amin(dim=1, keepdim=True)
        before, until = (
            _count(np.less, values, limit - slack),
            _count(np.less_equal, values, limit + slack),
        )
        # A tie, or what rounding may make one; or products of 1 and above, which are one.
        is_open = until - before != 1
        if slack:
            is_open |= limit[:, 0] <= slack - 1
        return before, is_open


def _pieces(*rows_of: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all, no more distances at once than a tile; on other devices all rows."""
    values = rows_of[-1]
    rows = max(1, TILE // values.shape[1]) if values.device.type == "cpu" else len(values)
    return (torch.split(of, rows) for of in rows_of)


def _count(compare: Any, values: Tensor, limit: Tensor) -> Int[Tensor, " n"]:
    """How many values of each row are less than (or equal to) the row's limit."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        less = values < limit if compare is np.less else values <= limit
        return less.sum(dim=1)
    # By NumPy, as its pieces are each for one thread. In bytes, as many as these can count.
    octets = compare(values.numpy(), limit.numpy()).view(np.uint8)
    depth = 255
    width = octets.shape[1] // depth
    whole = octets[:, : depth * width].reshape(len(octets), depth, width)
    counts = whole.sum(axis=1, dtype=np.uint8).sum(axis=1, dtype=np.int64)
    return torch.from_numpy(counts + octets[:, depth * width :].sum(axis=1, dtype=np.int64))


def _as_they_are(distances: Any) -> Any:
    return distances


def _to_cosine(products: Any) -> Any:
    # Of torch or NumPy, with the excluded at infinity.
    return (products + 1).clip(0)


def _smallest(
    values: Tensor,
    count: int,
    exact: Callable[[Any], Any],
    slack: np.float32,
    each: Callable[..., Any],
) -> Int[Tensor, "n count"]:
    """Positions of each row's smallest, earlier first in a tie; -1 for what is infinite."""
    piece = PIECE if values.shape[1] < DENSE * count else TILE
    pieces = max(torch.get_num_threads(), -(-values.numel() // piece))
    parts = np.array_split(values.numpy(), min(pieces, len(values)))
    found = each(lambda part: _smallest_of(part, count, exact, slack), parts)
    return torch.from_numpy(np.concatenate(list(found)))


def _smallest_of(
    values: _Array, count: int, exact: Callable[[Any], Any], slack: np.float32
) -> _Array:
    size = values.shape[1]
    if size < DENSE * count:
        keys = _keys(exact(values), np.arange(size))
    else:
        keys = _candidates(values, count, exact, slack)
    if count < keys.shape[1]:
        keys.partition(count - 1, axis=1)
    keys = keys[:, :count]
    keys.sort(axis=1)
    positions: _Array = keys & 0xFFFFFFFF
    positions[keys >> 32 == _INFINITE] = -1
    return positions


def _candidates(
    values: _Array, count: int, exact: Callable[[Any], Any], slack: np.float32
) -> _Array:
    """Keys of what may be among the smallest of each row, and a few others.

    Columns are dealt to groups. In as many groups as are wanted the smallest value is at most the
    `limit`, so no more than that many values need to be looked for, nearly all of them there.
    """
    rows, size = values.shape
    depth = int((size / count) ** 0.5)
    width = size // depth
    least = values[:, : depth * width].reshape(rows, depth, width).min(axis=1)
    limit = np.partition(least, count - 1, axis=1)[:, count - 1, None]
    limit = np.maximum(limit, np.float32(-1)) + slack if slack else limit
    row, group = np.divmod(np.flatnonzero(least <= limit), width)
    flat = values.reshape(-1)
    at = (row * size + group)[:, None] + width * np.arange(depth)
    at = at[flat[at] <= limit[row]]
    rest = np.arange(rows)[:, None] * size + np.arange(depth * width, size)
    at = np.concatenate([at, rest[flat[rest] <= limit]])
    at.sort()
    starts = np.searchsorted(at, np.arange(rows + 1) * size)
    sizes = np.diff(starts)
    keys = np.full((rows, sizes.max()), np.iinfo(np.int64).max)
    keys[np.arange(sizes.max()) < sizes[:, None]] = _keys(
        exact(flat[at]), at - np.repeat(np.arange(rows) * size, sizes)
    )
    return keys


def _keys(distances: _Array, positions: _Array) -> _Array:
    """One integer that orders as distance, then position."""
    bits = (distances + np.float32(0)).view(np.int32)  # minus zero becomes zero
    bits ^= bits >> 31 & 0x7FFFFFFF
    ordered: _Array = bits.astype(np.int64)
    ordered <<= 32
    ordered |= positions
    return ordered


_INFINITE = int(_keys(np.array([np.inf], dtype=np.float32), np.zeros(1, dtype=np.int64))[0] >> 32)


def smallest(values: Tensor, count: int) -> Int[Tensor, "n count"]:
    """Positions of each row's smallest, earlier first in a tie; -1 for what is infinite.

    Of any dtype on any device; `_smallest` does the same in less time.
    """
    smallest, positions = values.topk(min(count + 1, values.shape[1]), largest=False)
    # topk breaks ties as it likes, also between its last and what it leaves out.
    tied = (smallest[:, 1:] == smallest[:, :-1]).any(dim=1)
    positions = positions[:, :count]
    positions[tied] = values[tied].argsort(dim=1, stable=True)[:, :count]
    return positions.masked_fill(values.gather(1, positions).isinf(), -1)
