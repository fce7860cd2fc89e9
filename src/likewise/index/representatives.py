"""A few items that stand for each class, and what a gallery loses that keeps only these."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables, intervals
from likewise._checks import (
    check_choice,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
    check_same_width,
)
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.index.index import Index
from likewise.intervals import Estimate

MOST = 1024  # items of a class that are compared with each other
ROUNDS = 100  # swaps at most; a few are usual

METHODS = ("k-centers", "medoids")


def representatives(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    per_class: int,
    method: str = "medoids",
    distance: Distance = COSINE,
    seed: int = 0,
) -> Int[Tensor, " r"]:
    """Positions of up to `per_class` items of each class that stand for it, ascending.

    - "medoids" make small the sum of the distances of a class's items to the nearest of them:
      greedily built, then swapped, the best swap first, until no single swap makes it smaller.
      One medoid is the exact best. They lie where most items are.
    - "k-centers" make small the largest of those distances: the medoid, then always the item
      farthest from those taken, at most twice as far as could be where the distance is a
      metric. They reach the borders.

    A class with at most `per_class` items keeps all. Unlabeled items, -1, are of no class, and
    all are kept. Of equals, the first is taken. Of a class with more than 1,024 items that many
    are drawn, and the rest counts for nothing.

    Args:
        embeddings: finite, (n, d).
        labels: class codes, -1 for unlabeled, (n,).
        per_class: at least 1.
        method: "medoids" or "k-centers".
        distance: what near means; an item is its first argument, what stands for it the second.
        seed: Seed of the draw from large classes.

    Raises:
        InputError: wrong shapes, NaN or infinity, an unknown method.

    Source:
        Kaufman & Rousseeuw, "Finding Groups in Data", 1990, chapter 2 (PAM). Schubert &
        Rousseeuw, "Fast and Eager k-Medoids Clustering", Information Systems 2021 (all swaps at
        once). Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance", Theoretical
        Computer Science 1985.

    Example:
        >>> from likewise.distances import EUCLIDEAN
        >>> points = torch.tensor([[0.0], [1.0], [2.0], [9.0], [5.0]])
        >>> labels = torch.tensor([0, 0, 0, 0, 1])
        >>> representatives(points, labels, per_class=2, distance=EUCLIDEAN)
        tensor([1, 3, 4])
    """
    _check(embeddings, labels)
    check_count("per_class", per_class)
    check_choice("method", method, METHODS)
    embeddings, labels = embeddings.detach(), labels.to(embeddings.device)
    choose = _medoids if method == "medoids" else _centers
    generator = torch.Generator().manual_seed(seed)
    order = labels.argsort(stable=True)
    sizes = torch.unique_consecutive(labels[order], return_counts=True)[1].tolist()
    kept = [order[:0]]
    for rows in torch.split(order, sizes):
        if int(labels[rows[0]]) < 0 or len(rows) <= per_class:
            kept.append(rows)
            continue
        if len(rows) > max(MOST, per_class):
            drawn = torch.randperm(len(rows), generator=generator)[: max(MOST, per_class)]
            rows = rows[drawn.sort().values.to(rows.device)]
        own = embeddings[rows]
        kept.append(rows[choose(distance.matrix(own, own).double(), per_class)])
    return torch.cat(kept).sort().values.cpu()


@dataclass(frozen=True)
class KeepingLoss:
    """What a gallery loses that keeps only some of its items.

    Attributes:
        kept: how many items it keeps.
        items: Number of items they stand for.
        changed: share of the queries that are answered otherwise.
        accuracy_before: share of the labeled queries answered rightly by all items: with their
            own class, or with -1 if none of the items is of it; None without truth.
        accuracy_after: the same by the kept items.
    """

    kept: int
    items: int
    changed: Estimate
    accuracy_before: Estimate | None
    accuracy_after: Estimate | None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        numbers = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: v.to_dict() if isinstance(v, Estimate) else v for k, v in numbers.items()}


def loss_of_keeping(
    positions: Int[Tensor, " r"],
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    *,
    truth: Int[Tensor, " q"] | None = None,
    threshold: float = float("inf"),
    distance: Distance = COSINE,
) -> KeepingLoss:
    """How many queries a gallery of only `positions` answers otherwise, by the nearest item.

    A query is answered with the label of the nearest item if that is at most the threshold
    away, else with -1, unknown. As the nearest of fewer items is never nearer, fewer are
    accepted: calibrate anew on the smaller gallery. Intervals are Clopper-Pearson and take
    queries as independent.

    Args:
        positions: the items that stay, as `representatives` gives them.
        embeddings: The embeddings of the whole gallery, (n, d).
        labels: theirs, (n,).
        queries: not items of the gallery, (q, d).
        truth: the true class codes, (q,); without it no accuracies. Unlabeled queries, -1, do
            not count in these. An unknown has the code of a class that no item is of.
        threshold: in the unit of the distance; without it every query is accepted.
        distance: what near means.

    Raises:
        InputError: wrong shapes, no query, no position, or one that is not there.

    Example:
        >>> points, labels = torch.tensor([[0.0], [1.0], [2.0], [5.0]]), torch.tensor([0, 0, 0, 1])
        >>> from likewise.distances import EUCLIDEAN
        >>> loss_of_keeping(
        ...     torch.tensor([1, 3]), points, labels, torch.tensor([[0.9], [3.2]]),
        ...     distance=EUCLIDEAN,
        ... ).changed.value
        0.5
    """
    _check(embeddings, labels)
    check_embeddings(queries, "queries")
    check_same_width(embeddings, queries, ("embeddings", "queries"))
    if len(queries) == 0:
        raise InputError("queries must hold at least one query, got none.")
    if truth is not None:
        check_labels(truth, len(queries), "truth")
    if threshold != threshold:
        raise InputError("threshold must be a number, got NaN. Nothing would be accepted.")
    positions = torch.unique(positions.cpu())
    if len(positions) == 0 or int(positions[0]) < 0 or int(positions[-1]) >= len(embeddings):
        raise InputError(
            f"positions must hold numbers from 0 to {len(embeddings) - 1}, "
            f"got {positions.tolist()[:5]}. representatives(...) gives them."
        )
    embeddings, labels = embeddings.detach().cpu(), labels.cpu()

    def answers(rows: Tensor) -> Int[Tensor, " q"]:
        index = Index(distance)
        index.add(embeddings[rows], labels=labels[rows])
        found = index.lookup(queries, k=1)
        accepted = found.distances[:, 0].double() <= threshold
        return found.labels[:, 0].where(accepted, -1)

    def share(of: Tensor) -> Estimate:
        return intervals.binomial(int(of.sum()), len(of))

    right = has_label = None
    if truth is not None:
        truth = truth.cpu()
        right, has_label = truth.where(torch.isin(truth, labels), -1), truth != -1

    def accuracy(answer: Int[Tensor, " q"]) -> Estimate | None:
        return None if right is None else share((answer == right)[has_label])

    before, after = answers(torch.arange(len(embeddings))), answers(positions)
    return KeepingLoss(
        kept=len(positions),
        items=len(embeddings),
        changed=share(before != after),
        accuracy_before=accuracy(before),
        accuracy_after=accuracy(after),
    )


def _centers(distances: Float[Tensor, "n n"], count: int) -> Int[Tensor, " k"]:
    chosen = [distances.sum(dim=0).argmin()]
    nearest = distances[:, chosen[0]]
    for _ in range(count - 1):
        # What is taken is never farther than anything else, even where its distance is not 0.
        taken = nearest.index_fill(0, torch.stack(chosen), -torch.inf)
        chosen.append(taken.argmax())
        nearest = torch.minimum(nearest, distances[:, chosen[-1]])
    return torch.stack(chosen)


def _medoids(distances: Float[Tensor, "n n"], count: int) -> Int[Tensor, " k"]:
    nearest = distances.new_full((len(distances), 1), torch.inf)
    chosen = distances.new_empty(0, dtype=torch.int64)
    for _ in range(count):
        costs = torch.minimum(nearest, distances).sum(dim=0)
        chosen = torch.cat([chosen, costs.index_fill(0, chosen, torch.inf).argmin()[None]])
        nearest = torch.minimum(nearest, distances[:, chosen[-1:]])
    if count == 1:
        return chosen
    for _ in range(ROUNDS):
        (first, second), own = _two_nearest(distances[:, chosen])
        # What it costs to take j in: of an item that stays, and what it adds if its own goes.
        stays = torch.minimum(distances, first[:, None]) - first[:, None]
        goes = torch.minimum(distances, second[:, None]) - first[:, None] - stays
        changes = distances.new_zeros(count, len(distances)).index_add_(0, own, goes)
        changes += stays.sum(dim=0)
        changes[:, chosen] = torch.inf
        best = changes.argmin()
        # Less than the rounding of the sum is no gain, and swaps could go round in a circle.
        if changes.flatten()[best] >= -1e-9 * (1 + first.abs().sum()):
            break
        chosen[best // len(distances)] = best % len(distances)
    return chosen


def _two_nearest(distances: Float[Tensor, "n k"]) -> tuple[Float[Tensor, "2 n"], Int[Tensor, " n"]]:
    values, columns = distances.topk(2, dim=1, largest=False)
    return values.T, columns[:, 0]


def _check(embeddings: Tensor, labels: Tensor) -> None:
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_labels(labels, len(embeddings))
