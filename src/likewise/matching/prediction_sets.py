"""Prediction sets: the classes that each query may be of, at a level of coverage."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import (
    as_tensors,
    check_embeddings,
    check_labels,
    check_number,
    check_same_width,
)
from likewise.calibration import KnownDistances
from likewise.distances import Distance
from likewise.errors import InputError
from likewise.index import Index, name_of
from likewise.matching.own_class import NUMBERS, exactly, longest_of, slack, within


@dataclass(frozen=True, eq=False)
class Candidates:
    """The classes that each query may be of; none where it is unknown.

    Attributes:
        labels: One tensor of class codes per query, nearest class first.
        level: Share of known items whose set holds their class, at least.
        limit: A class is in a set if one of its items is at most this far.
        known: Distances of known items, which the limit rests on.
        class_names: What the codes stand for, as far as they have names.
    """

    labels: tuple[Int[Tensor, " c"], ...]
    level: float
    limit: float
    known: KnownDistances
    class_names: list[str]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rests_on(self) -> str:
        """What the level holds for, and what it rests on, in words."""
        return self.known.rests_on(self.level)

    @property
    def names(self) -> list[list[str]]:
        """The names of the classes of each query, nearest first; an empty list means unknown."""
        return [
            [name_of(code, self.class_names, "") for code in codes.tolist()]
            for codes in self.labels
        ]

    @property
    def words(self) -> list[str]:
        """The names of each query's classes on one line, or "unknown"."""
        return [", ".join(each) or "unknown" for each in self.names]

    @property
    def sizes(self) -> Int[Tensor, " q"]:
        """How many classes each set holds, (q,)."""
        return torch.tensor([len(codes) for codes in self.labels], dtype=torch.int64)

    def _table(self) -> _tables.Table:
        most = _tables.MOST_ROWS
        rows = [
            ("query", "candidates"),
            *((str(at), it) for at, it in enumerate(self.words[:most])),
        ]
        more = max(0, len(self) - most)
        of = f"{len(self.known.distances):,} {self.known.holds_for}"
        title = f"Candidates at a level of {self.level:g}, which rests on {of}"
        return _tables.Table(title, rows, headings=True, more=more)


def candidates(
    queries: Float[Tensor, "q d"],
    stored: Index,
    known: KnownDistances,
    level: float,
    *,
    distance: Distance,
) -> Candidates:
    """The classes with a stored item so near that they may be the query's own.

    All stored items are looked at, about 16 million distances at once.

    Args:
        queries: Embeddings.
        stored: An index or a gallery, or the `class_centers` of one.
        known: Distances of known items to their own class in this store, by the same distance.
        level: Share of known items whose set holds their class, at least; between 0 and 1.
        distance: How it compares.

    Raises:
        InputError: Wrong shapes, nothing is stored, or there are too few known items for the level.

    Example:
        >>> from likewise.distances import EUCLIDEAN
        >>> from likewise.index import Index
        >>> index = Index(EUCLIDEAN, class_names=["ant", "bee"])
        >>> _ = index.add(torch.tensor([[0.0], [10.0]]), labels=["ant", "bee"])
        >>> items, labels = torch.tensor([[1.0], [3.0], [13.0], [6.0]]), torch.tensor([0, 0, 1, 1])
        >>> own = own_class_distances(items, labels, index, distance=EUCLIDEAN)
        >>> own.tolist()
        [1.0, 3.0, 3.0, 4.0]
        >>> known = KnownDistances.of(own, labels)
        >>> candidates(
        ...     torch.tensor([[2.0], [5.0], [99.0]]), index, known, 0.6, distance=EUCLIDEAN
        ... ).names
        [['ant'], [], []]
    """
    limit = known.limit(level)
    (queries,) = as_tensors(queries=queries)
    codes = classes_within(queries, stored, limit, distance=distance)
    return Candidates(codes, level, limit, known, list(stored.class_names))


def classes_within(
    queries: Float[Tensor, "q d"], stored: Index, limit: float, *, distance: Distance
) -> tuple[Int[Tensor, " c"], ...]:
    """The codes of the classes with a stored item at most `limit` far, nearest class first.

    Args:
        queries: Embeddings.
        stored: What is looked at; items without a label are left out.
        limit: In the unit of the distance.
        distance: How it compares.
    """
    (queries,) = as_tensors(queries=queries)
    check_embeddings(queries, "queries")
    check_number("limit", limit)
    embeddings, labels = _labeled(stored)
    check_same_width(queries, embeddings, ("queries", "stored"))
    queries = queries.detach().float()  # as a lookup has them
    codes, of_item = torch.unique(labels, return_inverse=True)
    longest = longest_of(embeddings)
    sets: list[Tensor] = []
    for some in torch.split(queries, max(1, NUMBERS // len(of_item))):
        proposed = distance.matrix(some, embeddings.to(some)).cpu()
        limits = proposed.new_full((len(some),), limit)
        room = slack(some, longest, limits, proposed.amin(dim=1), distance=distance)
        row, column = within(proposed, limits + room)
        group = row * len(codes) + of_item[column]
        values = proposed[row, column]
        least = proposed.new_full((len(some) * len(codes),), torch.inf)
        least.scatter_reduce_(0, group, values, "amin")  # of the class
        near = ~(values > least[group] + room[row])
        row, column, group = row[near], column[near], group[near]
        distances = exactly(some, embeddings, row, column, distance=distance).double()
        inside = distances <= limit
        kept = [each[inside].numpy() for each in (column, distances, row)]
        order, group = np.lexsort(kept), group[inside].numpy()  # equals as they are stored
        _, nearest = np.unique(group[order], return_index=True)
        nearest.sort()
        some_of, of_class = np.divmod(group[order][nearest], len(codes))
        counts = np.bincount(some_of, minlength=len(some)).tolist()
        sets += torch.split(codes[torch.from_numpy(of_class)], counts)
    return tuple(sets)


def own_class_distances(
    items: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    stored: Index,
    *,
    distance: Distance,
) -> Float[Tensor, " n"]:
    """The distance of each item to the nearest stored one of its own class.

    Args:
        items: Embeddings, of items that are not stored themselves.
        labels: Their class codes, those of the store.
        stored: An index or a gallery, or the `class_centers` of one.
        distance: How it compares.

    Returns:
        float64; infinity where no item of the class is stored.

    Raises:
        InputError: Wrong shapes, or nothing is stored.
    """
    items, labels = as_tensors(items=items, labels=labels)
    check_embeddings(items, "items")
    check_labels(labels, len(items))
    embeddings, codes = _labeled(stored)
    check_same_width(items, embeddings, ("items", "stored"))
    items, own = items.detach().float(), labels.cpu()  # as a lookup has them
    longest = longest_of(embeddings)
    order = codes.argsort(stable=True)
    ascending = codes[order]
    at: list[tuple[Tensor, Tensor]] = []
    for code in torch.unique(own).tolist():
        (rows,) = torch.where(own == code)
        start, end = torch.searchsorted(ascending, torch.tensor([code, code + 1])).tolist()
        if start == end:
            continue
        of_class = embeddings[order[start:end]]
        for some in torch.split(rows, max(1, NUMBERS // (end - start))):
            these = items[some.to(items.device)]
            proposed = distance.matrix(these, of_class.to(these)).cpu()
            nearest = proposed.amin(dim=1)
            row, column = within(
                proposed, nearest + slack(these, longest, nearest, distance=distance)
            )
            at.append((some[row], order[start:end][column]))
    found = torch.full((len(own),), torch.inf, dtype=torch.float64)
    if at:
        row, column = map(torch.cat, zip(*at, strict=True))
        exact = exactly(items, embeddings, row, column, distance=distance).double()
        found.scatter_reduce_(0, row, exact, "amin")
    return found


def _labeled(stored: Index) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    embeddings, codes = stored.embeddings, stored.labels.cpu()
    labeled = codes >= 0
    if not bool(labeled.any()):
        raise InputError("stored must hold labeled items, got none. Add some first.")
    return (embeddings, codes) if bool(labeled.all()) else (embeddings[labeled], codes[labeled])
