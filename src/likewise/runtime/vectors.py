"""Distances, nearest neighbors and their normalization by a cohort, in NumPy.

Distances are those of `likewise.distances`. They are computed in float64 and rounded to float32
once, so that they are as near to the true ones as float32 allows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from likewise.errors import InputError
from likewise.runtime.answers import Codes, Numbers, Wide

AT_ONCE = 1 << 22  # numbers in a temporary
FEW = 1 << 17  # numbers in all pairs; up to here ranking all takes less than proposing some
SPARE = 32  # candidates more than are asked for
_TINY = float(np.finfo(np.float32).tiny) ** 0.5
_EPS = float(np.finfo(np.float32).eps)


class Cohort(NamedTuple):
    """What normalizes distances: `likewise.normalization.AdaptiveNorm`.

    Args:
        embeddings: Embeddings of its items, (c, d).
        nearest: How many of them, the nearest to either side, give mean and spread.
    """

    embeddings: Numbers
    nearest: int


class Prepared(NamedTuple):
    """Rows that a product in float32, or FAISS, ranks about as the distance does.

    Args:
        rows: Rows, (n, d).
        squares: Their squared lengths, (n,).
        longest: Length of the longest.
    """

    rows: Numbers
    squares: Numbers
    longest: float


class Facts(NamedTuple):
    """Mean and spread of the distances to the nearest of a cohort, (n,) each."""

    mean: Wide
    spread: Wide


def paired(distance: str, a: Numbers, b: Numbers) -> Wide:
    """The distance of each row of a from the same row of b, float64; shapes (..., d) broadcast."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    far: Wide
    if distance == "cosine":
        far = np.maximum(1 - (_unit(x) * _unit(y)).sum(axis=-1), 0)
    elif distance == "inner_product":
        far = -(x * y).sum(axis=-1)
    elif distance == "manhattan":
        far = np.abs(x - y).sum(axis=-1)
    elif distance == "snr":
        x, y = _centered(x), _centered(y)
        far = np.square(x - y).sum(axis=-1) / np.maximum(np.square(x).sum(axis=-1), _TINY)
    else:
        far = np.square(x - y).sum(axis=-1)
    return np.sqrt(far) if distance == "euclidean" else far


def nearest(
    distance: str,
    queries: Numbers,
    stored: Numbers,
    k: int,
    ready: Callable[[], Prepared] | None = None,
) -> tuple[Numbers, Codes]:
    """Distances and rows of the k nearest stored, nearest first; equal distances by row.

    Args:
        distance: Its name.
        queries: Queries, (q, d).
        stored: What they are compared with, (n, d).
        k: How many.
        ready: Function that gives `prepared(distance, stored)`, where it is kept between lookups.
    """
    is_large = len(queries) * stored.size > FEW and len(stored) > 4 * (k + SPARE)
    each = (k + SPARE) * stored.shape[1] if is_large else len(stored)
    step = max(1, AT_ONCE // max(each, 1))
    blocks = [queries[start : start + step] for start in range(0, len(queries), step)]
    if is_large:
        made = prepared(distance, stored) if ready is None else ready()
        parts = [_proposed(distance, block, stored, k, made) for block in blocks]
    else:
        parts = [_ranked(distance, block, stored, k) for block in blocks]
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    distances, rows = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(rows)


def prepared(distance: str, rows: Numbers) -> Prepared:
    """At least one row, made ready to be proposed from; some at a time, for their memory."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    change = {"cosine": _unit, "snr": _centered}.get(distance)
    if change is not None:
        whole = np.empty_like(rows)
        step = max(1, AT_ONCE // rows.shape[1])
        for start in range(0, len(rows), step):
            whole[start : start + step] = change(rows[start : start + step].astype(np.float64))
        rows = whole
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return Prepared(rows, squares.astype(np.float32), float(np.sqrt(squares.max())))


def facts(distance: str, cohort: Cohort, embeddings: Numbers, *, second: bool = False) -> Facts:
    """Mean and spread of the distances to the nearest of the cohort.

    Args:
        distance: Its name.
        cohort: What they are compared with.
        embeddings: Queries, or known items where `second` is true.
        second: Whether the embeddings are the second sides of the distance.
    """
    means, spreads = [np.empty(0)], [np.empty(0)]
    step = max(1, AT_ONCE // cohort.embeddings.size)
    for start in range(0, len(embeddings), step):
        rows = embeddings[start : start + step]
        sides = cohort.embeddings[None], rows[:, None]
        far = paired(distance, *(sides if second else sides[::-1]))
        near = np.partition(far, cohort.nearest - 1, axis=1)[:, : cohort.nearest]
        mean = near.mean(axis=1)
        variance = np.square(near - mean[:, None]).mean(axis=1)
        least = _EPS * np.maximum(np.abs(mean), 1e-3)
        means.append(mean)
        spreads.append(np.sqrt(np.maximum(variance, np.square(least))))
    return Facts(np.concatenate(means), np.concatenate(spreads))


def normalized(distances: Wide, of_a: Facts, of_b: Facts) -> Wide:
    """Distances in the unit of how far either side is from its nearest of the cohort."""
    by_a = (distances - of_a.mean) / of_a.spread
    return (by_a + (distances - of_b.mean) / of_b.spread) / 2


def class_centers(distance: str, embeddings: Numbers, labels: Codes) -> tuple[Numbers, Codes]:
    """The mean embedding of each class and its code; see `likewise.matching.class_centers`."""
    rows = embeddings[labels >= 0].astype(np.float64)
    codes, row = np.unique(labels[labels >= 0], return_inverse=True)
    if distance == "cosine":
        rows = _unit(rows)
    total = np.zeros((len(codes), embeddings.shape[1]))
    np.add.at(total, row, rows)
    return (total / np.bincount(row)[:, None]).astype(np.float32), codes


def _ranked(distance: str, queries: Numbers, stored: Numbers, k: int) -> tuple[Numbers, Codes]:
    """By all distances."""
    step = max(1, AT_ONCE // (len(queries) * stored.shape[1]))
    every = [
        paired(distance, queries[:, None], stored[None, start : start + step])
        for start in range(0, len(stored), step)
    ]
    far = np.concatenate(every, axis=1).astype(np.float32)
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(far, order, axis=1), order


def _proposed(
    distance: str, queries: Numbers, stored: Numbers, k: int, made: Prepared
) -> tuple[Numbers, Codes]:
    """By the distances of what float32 proposes, and by all where it may have left one out."""
    x = prepared(distance, queries).rows
    kind = {"cosine": "inner_product", "inner_product": "inner_product", "manhattan": "manhattan"}
    measure = kind.get(distance, "squared_euclidean")
    is_small = len(x) * len(made.rows) <= AT_ONCE and measure != "manhattan"
    worst, rows = (_by_numpy if is_small else _by_faiss)(measure, x, made, k + SPARE)
    rows = np.sort(rows, axis=1)  # so that the stable sort leaves ties by row
    far = paired(distance, queries[:, None], stored[rows]).astype(np.float32)
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    last = rows[np.arange(len(rows)), order[:, -1]]
    reached = paired(measure, x, made.rows[last])
    # At most d + a few half-units in the last place of the largest sum, in whatever order.
    sizes = np.linalg.norm(x, axis=1) + made.longest
    largest = np.abs(worst) if distance == "manhattan" else np.square(sizes)
    is_open = ~(reached < worst - largest * (x.shape[1] + 16) * 2.0**-22)
    distances = np.take_along_axis(far, order, axis=1)
    found = np.take_along_axis(rows, order, axis=1)
    for row in np.flatnonzero(is_open):
        some = slice(row, row + 1)
        distances[some], found[some] = _ranked(distance, queries[some], stored, k)
    return distances, found


def _by_numpy(measure: str, x: Numbers, made: Prepared, count: int) -> tuple[Wide, Codes]:
    """The distance of the last of the nearest rows, up to rounding, and these rows, unsorted."""
    far = -(x @ made.rows.T)
    if measure == "squared_euclidean":
        far *= 2
        far += made.squares
        far += np.einsum("ij,ij->i", x, x)[:, None]
    rows = np.argpartition(far, count - 1, axis=1)[:, :count]
    return np.take_along_axis(far, rows, axis=1).max(axis=1).astype(np.float64), rows


def _by_faiss(measure: str, x: Numbers, made: Prepared, count: int) -> tuple[Wide, Codes]:
    """As `_by_numpy`, in less memory."""
    import faiss  # takes 0.2 s, and only a large lookup needs it

    metrics = {"inner_product": faiss.METRIC_INNER_PRODUCT, "manhattan": faiss.METRIC_L1}
    values, rows = faiss.knn(x, made.rows, count, metric=metrics.get(measure, faiss.METRIC_L2))
    worst = values[:, -1].astype(np.float64)
    return -worst if measure == "inner_product" else worst, rows


def _unit(x: Wide) -> Wide:
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Wide = x / np.where(lengths == 0, np.inf, np.maximum(lengths, 1e-12))
    return scaled


def _centered(x: Wide) -> Wide:
    if x.shape[-1] < 2:
        raise InputError(f"embeddings must have at least 2 dimensions for snr, got {x.shape[-1]}.")
    centered: Wide = x - x.mean(axis=-1, keepdims=True)
    return centered
