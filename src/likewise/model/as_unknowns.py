"""Items of known classes, judged a second time as unknowns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.calibration import CrossFit, class_folds
from likewise.calibration.cross_fit import FEWEST_KNOWN, FOLDS
from likewise.errors import InputError
from likewise.index import Index, Neighbors
from likewise.matching import found_without_own_class, lookup_without_own_class

Refit = Callable[[Sequence[int]], Index]
Judge = Callable[[Neighbors, Float[Tensor, "q d"]], tuple[Tensor, Tensor]]


class Queries(NamedTuple):
    """Items of a calibration with what the rule makes of their neighbors.

    `distances` and `labels` are the rule's, `truth` the items' own class codes, `known` whether
    that class is indexed; `rows` are the items, -1 for one of a cross-fit.
    """

    distances: Float[Tensor, " q"]
    labels: Int[Tensor, " q"]
    truth: Int[Tensor, " q"]
    known: Bool[Tensor, " q"]
    rows: Int[Tensor, " q"]


class Unknowns(NamedTuple):
    """Queries that are all judged as unknown, of which kind, and how often more in use."""

    queries: Queries
    kind: str
    growth: float


def as_unknowns(
    queries: Queries,
    embeddings: Float[Tensor, "q d"],
    searched: Index,
    judge: Judge,
    *,
    refit: Refit | None = None,
    names: Sequence[str],
    trained_on: Sequence[str],
    cross_fit: CrossFit | None,
    k: int,
) -> Unknowns:
    """The unknowns of a calibration: real ones, and items judged as if their class was new.

    Queries of classes that are not indexed are unknowns as they are. A query of an indexed class
    is one where its own class is left out of the index, which is honest for a class that the
    encoder was not trained on. For trained classes a cross-fit says how encoders judge them that
    were not; without it, trained classes are left out only if there are no other unknowns, and
    their rate is optimistic.

    Args:
        queries: Items with labels, judged against the whole index.
        embeddings: Embeddings of the items.
        searched: What the rule looks up in.
        judge: The rule, from neighbors and the embeddings they were looked up for.
        refit: For a distance that is fitted to the index, what it looks up in if that is fitted
            without the classes given; at most five are fitted.
        names: Names of the classes, by code.
        trained_on: Names of the classes that the encoder was trained on.
        cross_fit: Cross-fit of the classes trained on, if there is one.
        k: Number of neighbors that the rule looks at.

    Raises:
        InputError: There are no unknowns, as the index holds one class only.
    """
    at = {name: code for code, name in enumerate(names)}
    trained = torch.isin(queries.truth, torch.tensor([at.get(n, -2) for n in trained_on] or [-2]))
    indexed = len(torch.unique(searched.labels[searched.labels >= 0]))
    parts, kind, growth = [_taken(queries, ~queries.known)], "given", 1.0
    of_trained = queries.distances[queries.known & trained]
    folded = cross_fit is not None and len(of_trained) >= FEWEST_KNOWN
    left_out = queries.known & ~trained
    if not folded and not bool((left_out | ~queries.known).any()):
        left_out = queries.known
    if bool(left_out.any()) and indexed > 1:
        kind = "trained" if bool((left_out & trained).any()) else "left out"
        growth = indexed / (indexed - 1)
        own = _taken(queries, left_out)
        parts += _without_own_class(own, embeddings[left_out], searched, judge, refit, k)
    if folded and cross_fit is not None:
        kind = "cross-fit"
        held = len(cross_fit.class_names)
        met = held - held / cross_fit.folds  # classes that an unknown was looked up among
        growth = max(growth, indexed / met)
        parts.append(_of_folds(cross_fit, of_trained, at, len(names)))
    joined = Queries(*(torch.cat(each) for each in zip(*parts, strict=True)))
    if not len(joined.distances):
        raise InputError(
            "index must hold at least two classes to calibrate matching, got one. "
            "Add examples of another class, or give match a threshold."
        )
    return Unknowns(joined._replace(known=torch.zeros_like(joined.known)), kind, growth)


def _without_own_class(
    own: Queries,
    embeddings: Float[Tensor, "q d"],
    searched: Index,
    judge: Judge,
    refit: Refit | None,
    k: int,
) -> list[Queries]:
    """The queries judged without their own class, in folds of classes where there is a fit."""
    folds = [torch.ones(len(embeddings), dtype=torch.bool)]
    if refit is not None:
        classes = torch.unique(searched.labels[searched.labels >= 0])
        codes = [[0], [1]] if len(classes) == 2 else class_folds(len(classes), most=FOLDS)
        without = [classes[fold].tolist() for fold in codes]
        folds = [torch.isin(own.truth, torch.tensor(fold)) for fold in without]
    parts = []
    for at, some in enumerate(folds):
        if not bool(some.any()):
            continue
        stored = searched if refit is None else refit(without[at])
        queries = _taken(own, some)
        most = min(k, len(stored))
        if stored.searched_by.kind == "exact":
            near = lookup_without_own_class(
                embeddings[some], queries.truth, stored, distance=stored.distance, k=most
            )
        else:
            near = found_without_own_class(embeddings[some], queries.truth, stored, k=most)
        labels, distances = judge(near, embeddings[some])
        parts.append(queries._replace(distances=distances, labels=labels))
    return parts


def _taken(queries: Queries, some: Bool[Tensor, " q"]) -> Queries:
    return Queries(*(each[some] for each in queries))


def _of_folds(
    cross_fit: CrossFit, known: Float[Tensor, " n"], at: dict[str, int], count: int
) -> Queries:
    # Classes of the training that are neither indexed nor in the data get codes behind the names.
    codes = torch.tensor([at.get(n, count + i) for i, n in enumerate(cross_fit.class_names)])
    distances = cross_fit.carried(known).to(known.dtype)
    return Queries(
        distances,
        codes[cross_fit.taken_for],
        codes[cross_fit.classes],
        torch.zeros(len(distances), dtype=torch.bool),
        torch.full((len(distances),), -1),
    )
