"""Items that lie so near each other that they are copies, or that one of them is mislabeled."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from likewise import _tables
from likewise._checks import (
    check_at_least,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
)
from likewise.distances import COSINE, INNER_PRODUCT, Distance
from likewise.errors import InputError

BLOCK = 1 << 22  # distances at once
SIDE = 2048  # rows and columns of a block


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Pairs of items within a distance: near-duplicates, and label conflicts among them.

    Attributes:
        pairs: positions of both, the earlier first, in ascending order, (p, 2).
        distances: how far apart they are, (p,).
        conflicting: whether both are labeled, and not alike, (p,).
        groups: items that hang together by such pairs share a number, from 0; -1 for an item
            without any, (n,).
    """

    pairs: Int[Tensor, "p 2"]
    distances: Float[Tensor, " p"]
    conflicting: Bool[Tensor, " p"]
    groups: Int[Tensor, " n"]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def duplicates(self) -> Int[Tensor, " r"]:
        """Positions that can go, ascending: of each group all but the first.

        Groups with a conflict are left alone: somebody has to look at these.
        """
        rows = torch.arange(len(self.groups))
        count = int(self.groups.max()) + 1 if len(self.groups) else 0
        first = torch.full((count,), len(rows))
        inside = self.groups >= 0
        first.scatter_reduce_(0, self.groups[inside], rows[inside], "amin")
        doubtful = torch.zeros(count + 1, dtype=torch.bool)  # the last for items without a group
        doubtful[self.groups[self.pairs[self.conflicting][:, 0]]] = True
        doubtful[-1] = True
        kept = doubtful[self.groups]
        kept[first] = True
        return rows[~kept]

    def columns(self, ids: Any = None) -> dict[str, np.ndarray[Any, Any]]:
        """The pairs as columns of equal length, for `pandas.DataFrame` or `pyarrow.table`.

        Args:
            ids: what items go by, (n,), e.g. `index.ids`; positions without.
        """
        names = np.arange(len(self.groups)) if ids is None else np.asarray(ids)
        first, second = self.pairs.numpy().T
        return {
            "first": names[first],
            "second": names[second],
            "distance": self.distances.numpy(),
            "conflicting": self.conflicting.numpy(),
            "group": self.groups.numpy()[first],
        }


@torch.no_grad()
def find_conflicts(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | None = None,
    distance: Distance = COSINE,
    *,
    within: float,
    most: int = 1_000_000,
) -> Conflicts:
    """All pairs of items at most `within` apart, and which of them have different labels.

    Distances are those of `distance.paired(earlier, later)`. Every item is compared with every
    other, in blocks: time grows with n², memory does not.

    Args:
        embeddings: finite, e.g. `index.embeddings`, (n, d).
        labels: class codes, -1 for unlabeled, (n,); without, nothing conflicts.
        distance: what near means.
        within: the largest distance of a pair. Equal vectors are exactly 0 apart in Euclidean
            distance, and up to 1e-6 in cosine distance.
        most: how many pairs are too many to be looked at.

    Raises:
        InputError: wrong shapes, NaN or infinity, or more than `most` pairs.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.001], [0.0, 1.0]])
        >>> found = find_conflicts(points, torch.tensor([0, 1, 1, 1]), within=0.001)
        >>> found.pairs.tolist(), found.conflicting.tolist(), found.duplicates.tolist()
        ([[0, 2], [1, 3]], [True, False], [3])
    """
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_at_least("within", within, -torch.inf)
    check_count("most", most)
    count = len(embeddings)
    if labels is None:
        labels = torch.full((count,), -1)
    check_labels(labels, count)
    embeddings, labels = embeddings.detach(), labels.cpu()
    slack = _slack(embeddings, distance, within)
    pairs = [torch.empty(0, 2, dtype=torch.int64)]
    distances = [torch.empty(0, dtype=torch.float64)]
    total = 0
    for start in range(0, count, SIDE):
        rows = embeddings[start : start + SIDE]
        for other in range(start, count, SIDE):
            columns = embeddings[other : other + SIDE]
            possible = ~(distance.matrix(rows, columns) > within + slack)
            if other == start:
                possible = possible.triu(diagonal=1)
            at = possible.nonzero()
            for part in torch.split(at, max(1, BLOCK // embeddings.shape[1])):
                exact = distance.paired(rows[part[:, 0]], columns[part[:, 1]]).double().cpu()
                near = exact <= within
                pairs.append((part.cpu() + torch.tensor([start, other]))[near])
                distances.append(exact[near])
                total += len(distances[-1])
                if total > most:
                    raise InputError(
                        f"within must leave at most {most:,} pairs, got more at {within}. "
                        "Lower it; where all items are that near, the encoder has collapsed."
                    )
    found, apart = torch.cat(pairs), torch.cat(distances)
    order = torch.from_numpy(np.lexsort(found.numpy().T[::-1]))
    found, apart = found[order], apart[order]
    first, second = labels[found].T
    return Conflicts(
        pairs=found,
        distances=apart,
        conflicting=(first != second) & (first >= 0) & (second >= 0),
        groups=_groups(found, count),
    )


def _slack(embeddings: Tensor, distance: Distance, within: float) -> float:
    # By how much a matrix product may miss the definition: relative to what is summed, which is
    # 1 for a cosine, and relative to the distance, which a far Euclidean one may be by 1e-4.
    longest = float(torch.linalg.vector_norm(embeddings, dim=1).max()) if len(embeddings) else 0.0
    summed = longest**2 if distance == INNER_PRODUCT else 1.0
    return 1e-3 * abs(within) + (embeddings.shape[1] + 8) * 2**-22 * summed


def _groups(pairs: Int[Tensor, "p 2"], count: int) -> Int[Tensor, " n"]:
    # SciPy's search is of 32-bit numbers; 1.11 went on without a word where given longer ones.
    first, second = pairs.numpy().T.astype(np.int32 if count < 2**31 else np.int64)
    links = coo_array((np.ones(len(pairs), dtype=np.int8), (first, second)), shape=(count, count))
    _, part = connected_components(links, directed=False)
    if not (part[first] == part[second]).all():
        raise RuntimeError("SciPy's connected_components left the two items of a pair apart.")
    held = np.zeros(count, dtype=bool)
    held[pairs.numpy()] = True
    groups = np.full(count, -1, dtype=np.int64)
    # Numbered by their first item, so that the numbers do not depend on the search.
    _, at, inverse = np.unique(part[held], return_index=True, return_inverse=True)
    groups[held] = np.argsort(np.argsort(at))[inverse]
    return torch.from_numpy(groups)
