"""Comparisons whose truth is known, and the thresholds chosen on them."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from likewise import data as sources
from likewise.calibration import (
    Calibration,
    ClassThresholds,
    CrossFit,
    GivenUnknowns,
    Goal,
    KnownDistances,
    calibrate,
    calibrate_matching,
    calibrate_per_class,
)
from likewise.data import CrossPairs, GivenPairs
from likewise.data.pairs import draw_pairs
from likewise.distances import Distance
from likewise.embedded import Embedded
from likewise.errors import InputError
from likewise.index import Index, Neighbors, SearchedBy
from likewise.matching import (
    OF_CENTERS,
    RULES,
    Candidates,
    Rule,
    candidates,
    class_centers,
    decide,
    normalize_neighbors,
    own_class_distances,
    relative,
    relative_centers,
    rule_name,
)
from likewise.model.as_unknowns import Queries, as_unknowns
from likewise.normalization import AdaptiveNorm

PAIRS = "pairs"  # the rule of a calibration for verification
LEAVE_OUT = ("items", "classes")
MANY = 0.5  # a share of unknowns accepted that is warned of
# Of the items that a tensor of labels belongs to; they go with it.
_CENTERS: MutableMapping[Tensor, dict[tuple[str, Distance], Index]] = WeakIdKeyDictionary()


class Trials(NamedTuple):
    """Distances with their truth, and which items each compares.

    In verification a trial is a pair; in matching it is a query with what the rule makes of its
    neighbors, and `known` tells whether the query's class is indexed.
    """

    distances: Float[Tensor, " p"]
    same: Bool[Tensor, " p"]
    items: Int[Tensor, "p s"]
    known: Bool[Tensor, " p"] | None
    prints: Int[Tensor, " n"]  # fingerprints of all items compared
    gallery_size: int | None = None  # in matching, how many items a query met
    classes: Int[Tensor, " p"] | None = None  # in matching, the query's own
    guarantee_for: str = "items"
    labels: Int[Tensor, " p"] | None = None  # in matching, what the rule decides on
    kind: str = "given"  # in matching, where the unknowns come from
    as_given: int | None = None  # in matching, how many, the first, are not judged a second time
    growth: float = 1.0  # in matching, how many times as often an unknown is accepted in use
    to_own_class: KnownDistances | None = None  # in matching, of the known items
    searched_by: SearchedBy = SearchedBy()  # in matching, how neighbors were found

    @property
    def prior(self) -> float:
        """The share that is the same; half of that of the known where unknowns are made of them."""
        if self.known is None:
            return 0.5
        some = self.known if self.kind != "given" else torch.ones_like(self.known)
        share = float(self.same[some].double().mean())
        return share if self.kind == "given" else share / 2


def pair_trials(
    new: Embedded,
    distance: Distance,
    given: GivenPairs | None = None,
    *,
    per_item: float,
    seed: int,
    leave_out: str,
) -> Trials:
    """Pairs of items that are neither indexed nor trained on.

    Args:
        new: the items.
        distance: compares.
        given: pairs of the items' source; those that hold an item that is not new are left out.
            Pairs are drawn if None.
        per_item: pairs drawn per item.
        seed: Seed of the pairs.
        leave_out: whether `items` of the trials are "items" or "classes".

    Raises:
        InputError: nothing is left, or no pair of either kind.
    """
    if given is None:
        pairs, same = draw_pairs(new.labels.numpy(), per_item, (seed,))
    else:
        place = torch.full((len(given.data),), -1)
        place[new.rows] = torch.arange(len(new))
        kept = (place[given.pairs] >= 0).all(dim=1)
        if not bool(kept.any()):
            raise InputError(
                f"data must hold pairs of items that are neither indexed nor trained on, got "
                f"{len(given)} that all hold one. Keep some aside."
            )
        pairs, same = place[given.pairs[kept]], given.same[kept]
    left, right = new.embeddings[pairs.T]
    items = new.labels[pairs] if leave_out == "classes" else pairs
    used = new.fingerprints[torch.unique(pairs)]
    return Trials(distance.paired(left, right), same, items, None, used)


def cross_trials(
    new: Embedded,
    known: Embedded,
    distance: Distance,
    given: CrossPairs,
    *,
    leave_out: str,
) -> Trials:
    """Pairs of a query and a known item, whose query was not trained on.

    Args:
        new: The queries that are new, of `given.a`.
        known: All items of `given.b`.
        distance: What compares them.
        given: The pairs.
        leave_out: Whether `items` of the trials are "items" or "classes", which are what the pairs
            join.

    Raises:
        InputError: No pair is left, or none of either kind.
    """
    place = torch.full((len(given.a),), -1)
    place[new.rows] = torch.arange(len(new))
    kept = place[given.pairs[:, 0]] >= 0
    if not bool(kept.any()):
        raise InputError(
            "data must hold pairs whose query is neither indexed nor trained on, got "
            f"{len(given)} whose queries all are. Keep some aside."
        )
    (first, second), same = given.pairs[kept].T, given.same[kept]
    items = torch.stack([first, len(given.a) + second], dim=1)
    if leave_out == "classes":
        items = torch.stack([given.labels_a[first], given.labels_b[second]], dim=1)
    distances = distance.paired(new.embeddings[place[first]], known.embeddings[second])
    used = new.fingerprints[torch.unique(place[first])]
    return Trials(distances, same, items, None, used)


def matching_trials(
    new: Embedded,
    index: Index,
    *,
    norm: AdaptiveNorm | None = None,
    rule: str | Rule,
    k: int,
    leave_out: str | None,
    trained_on: Sequence[str] = (),
    cross_fit: CrossFit | None = None,
    for_gallery_of: int | None = None,
) -> Trials:
    """New items as queries to the index, by a matching rule.

    Each item is judged twice: with its class known, and as an unknown, see `as_unknowns`.
    Unlabeled items are left out.

    Raises:
        InputError: nothing is left, no class of the data is indexed, k is more than there is to
            look up, or the index holds one class only and there is no unknown.
    """
    new = labeled(new)
    check_some_indexed(index, new)
    searched = _searched(index, rule)
    searched.wait()  # what serves is measured, not what stands in for it until it is trained
    found = searched.lookup(new.embeddings, k=k)

    def judge(near: Neighbors, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return _decided(_normalized(near, embeddings, searched, norm), rule)

    labels, distances = judge(found, new.embeddings)
    names = all_names(index.class_names, new)
    truth = translated(new, names)
    known = torch.isin(truth, index.labels)
    queries = Queries(distances, labels, truth, known, torch.arange(len(new)))
    unknowns = as_unknowns(
        queries,
        new.embeddings,
        searched,
        judge,
        refit=_refit(index, rule),
        names=names,
        trained_on=trained_on,
        cross_fit=cross_fit,
        k=k,
    )
    both = Queries(
        *(torch.cat([a[known], b]) for a, b in zip(queries, unknowns.queries, strict=True))
    )
    items = both.truth
    if leave_out != "classes":  # an item of a cross-fit is none of these
        others = len(new) + torch.arange(len(both.rows))
        items = both.rows.where(both.rows >= 0, others)
    own = None
    if bool(known.any()):
        compared = _compared_by(searched, norm)
        embeddings, classes = new.embeddings[known], truth[known]
        near = own_class_distances(embeddings, classes, searched, distance=compared)
        own = KnownDistances.of(near, classes, holds_for=leave_out or "items")
    size = max(len(index), for_gallery_of or 0)
    return Trials(
        both.distances,
        (both.labels == both.truth) & both.known,
        items[:, None],
        both.known,
        new.fingerprints,
        size,
        both.truth,
        leave_out or "classes",
        both.labels,
        unknowns.kind,
        len(new),
        unknowns.growth * size / len(index),
        own,
        searched.searched_by,
    )


def given_unknowns(
    new: Embedded,
    index: Index,
    *,
    norm: AdaptiveNorm | None = None,
    rule: str | Rule,
    k: int,
) -> GivenUnknowns:
    """Real unknowns, with what a matching rule makes of their neighbors.

    Raises:
        InputError: there are none, or an item is of an indexed class.
    """
    if not len(new):
        raise InputError("must hold items, got none that are new.", argument="unknowns")
    names = sorted(sources.items_per_class(new))
    indexed = {index.class_names[code] for code in _codes(index.labels)}
    if both := [name for name in names if name in indexed]:
        raise InputError(
            f"must be of classes that are not indexed, got {_some(both)}.", argument="unknowns"
        )
    _, distances = _decided(neighbors_for(index, new.embeddings, norm=norm, rule=rule, k=k), rule)
    told = len(names) > 1 and bool((new.labels >= 0).all())
    return GivenUnknowns(distances, new.labels if told else None)


def calibrated(
    trials: Trials,
    *,
    goal: Goal | None,
    rule: str,
    k: int,
    given: GivenUnknowns | None = None,
) -> Calibration:
    """The calibration for a rule; its intervals leave out items."""
    if trials.known is None:
        return calibrate(trials.distances, trials.same, goal=goal, items=trials.items, rule=PAIRS)
    chosen = calibrate_matching(
        trials.distances,
        trials.same,
        trials.known,
        gallery_size=trials.gallery_size or 0,
        goal=goal,
        items=trials.items.flatten(),
        classes=trials.classes,
        guarantee_for=trials.guarantee_for,
        kind=trials.kind,
        growth=trials.growth,
        as_given=trials.as_given,
        given=given,
        rule=rule,
        k=k,
    )
    return _of_index(chosen, trials)


def warn_of_many(chosen: Calibration, *, stacklevel: int) -> None:
    """Warn if most unknowns are accepted."""
    rate = chosen.false_positive_rate
    if rate is not None and rate.value > MANY:
        warnings.warn(
            f"{rate.value:.0%} of the unknowns are accepted by the goal {chosen.goal}. Use "
            "balanced(), or at_most_false_accepts(rate), where there may be unknowns.",
            stacklevel=stacklevel,
        )


def calibrated_per_class(
    trials: Trials, *, goal: Goal | None, rule: str, k: int, fewest: int
) -> ClassThresholds:
    """Thresholds by class for a rule; intervals leave out items."""
    if trials.known is None or trials.labels is None:
        raise InputError("per_class must be for a matching rule, got pairs. Name a rule.")
    made = calibrate_per_class(
        trials.distances,
        trials.same,
        trials.known,
        trials.labels,
        gallery_size=trials.gallery_size or 0,
        goal=goal,
        fewest=fewest,
        items=trials.items.flatten(),
        classes=trials.classes,
        guarantee_for=trials.guarantee_for,
        kind=trials.kind,
        growth=trials.growth,
        as_given=trials.as_given,
        rule=rule,
        k=k,
    )
    return dataclasses.replace(made, everywhere=_of_index(made.everywhere, trials))


def _of_index(chosen: Calibration, trials: Trials) -> Calibration:
    """The calibration, which knows what only the index tells."""
    by = trials.searched_by
    return dataclasses.replace(
        chosen, known=trials.to_own_class, search=by.kind, search_recall=by.recall
    )


def candidates_for(
    index: Index,
    embeddings: Float[Tensor, "q d"],
    point: Calibration,
    level: float,
    *,
    norm: AdaptiveNorm | None = None,
    rule: str | Rule,
) -> Candidates:
    """The classes that each query may be of, by a calibration for matching.

    Raises:
        InputError: It was made for pairs, or of too few known items for the level.
    """
    known = _known_distances(point)
    searched = _searched(index, rule)
    distance = _compared_by(searched, norm)
    return candidates(embeddings, searched, known, level, distance=distance)


def check_candidates(
    level: float, made: float | Calibration, where: Mapping[str, Any] | None
) -> None:
    """Refuse candidates of a level that nothing can be said of.

    Raises:
        InputError: A threshold instead of a calibration, a condition, or too few known items.
    """
    if not isinstance(made, Calibration):
        raise InputError(
            "must be left out with a threshold, got both. They rest on a calibration.",
            argument="candidates",
        )
    if where is not None:
        raise InputError(
            f"must be left out with where, got both ({where!r}): the items of the right class may "
            "be among those left out.",
            argument="candidates",
        )
    _known_distances(made).limit(level)


def _known_distances(made: Calibration) -> KnownDistances:
    if made.known is None:
        raise InputError(
            f"must come with a calibration of the model for matching, got one for {made.rule}.",
            argument="candidates",
            remedy="Use model.calibrate(data).",
            command="Run likewise calibrate.",
        )
    return made.known


def _compared_by(searched: Index, norm: AdaptiveNorm | None) -> Distance:
    return searched.distance if norm is None else norm.as_distance()


def neighbors_for(
    index: Index,
    embeddings: Float[Tensor, "q d"],
    *,
    norm: AdaptiveNorm | None = None,
    rule: str | Rule,
    k: int,
    where: Mapping[str, Any] | None = None,
) -> Neighbors:
    """What a matching rule decides by: the nearest items, or for "center" class centers."""
    searched = _searched(index, rule)
    if searched is not index and where is not None:
        raise InputError(
            f"where must be None for {rule_name(rule)}, got {where!r}. The center of a class has "
            "no metadata; use another rule."
        )
    found = searched.lookup(embeddings, k=k, where=where)
    return _normalized(found, embeddings, searched, norm)


def labeled(items: Embedded) -> Embedded:
    """The items that have a label, and not the -1 of unlabeled ones.

    Raises:
        InputError: there are none.
    """
    known = items.labels >= 0
    if not bool(known.any()):
        raise InputError(f"data must hold labeled items, got {len(items)} unlabeled ones (-1).")
    return items if bool(known.all()) else items.take(known)


def all_names(indexed: Sequence[str], data: sources.Dataset | Embedded) -> list[str]:
    """Names of the classes of the index, as its codes have them, and then those of the data."""
    return list(dict.fromkeys([*indexed, *data.class_names]))


def check_some_indexed(index: Index, data: sources.Dataset | Embedded) -> None:
    """Refuse data of whose classes none is in the index.

    Raises:
        InputError: with a few names of both, and those that differ in case and spaces only.
    """
    indexed = [index.class_names[code] for code in _codes(index.labels)]
    given = list(sources.items_per_class(data))
    if given and not indexed:
        raise InputError(
            f"index must hold items of the data's classes, {_some(given)}, got no labeled item. "
            "Add labeled items first."
        )
    if given and not set(given) & set(indexed):
        raise InputError(
            f"data must hold a class of the index, {_some(indexed)}, got {_some(given)}. "
            f"{alike(given, indexed) or 'Add items of these classes to the index'}."
        )


def warn_of_spelling(index: Index, data: sources.Dataset | Embedded) -> None:
    """Warn if no class of the data is in the index, though some differ in spelling only."""
    indexed = [index.class_names[code] for code in _codes(index.labels)]
    given = list(sources.items_per_class(data))
    if not set(given) & set(indexed) and (words := alike(given, indexed)):
        warnings.warn(
            f"No class of the data is in the index, so all items count as unknown. {words}.",
            stacklevel=3,
        )


def alike(given: Sequence[str], indexed: Sequence[str]) -> str:
    """Which names of the data differ from those of the index by case and spaces only, in words."""
    of_index = {"".join(name.split()).casefold(): name for name in indexed}
    pairs = [(name, of_index.get("".join(name.split()).casefold())) for name in given]
    same = [f"{name!r} and {other!r}" for name, other in pairs if other not in (None, name)]
    if not same:
        return ""
    return f"Only case or spaces differ in {_some(same, as_they_are=True)}: rename them alike"


def _some(names: Sequence[str], *, as_they_are: bool = False) -> str:
    told = [str(name) if as_they_are else repr(name) for name in names[:5]]
    return ", ".join(told) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _codes(labels: Int[Tensor, " n"]) -> list[int]:
    codes: list[int] = torch.unique(labels[labels >= 0]).tolist()
    return codes


def translated(data: sources.Dataset | Embedded, names: Sequence[str]) -> Int[Tensor, " n"]:
    """The labels of a dataset as positions in `names`; -1 where unlabeled, or not among them."""
    position = {name: code for code, name in enumerate(names)}
    codes = [position.get(name, -1) for name in data.class_names]
    return torch.tensor([*codes, -1])[data.labels]  # the last is that of unlabeled items


def _normalized(
    found: Neighbors,
    queries: Float[Tensor, "q d"],
    searched: Index,
    norm: AdaptiveNorm | None,
) -> Neighbors:
    if norm is None:
        return found
    if norm.distance != searched.distance:
        raise InputError(
            "rule must compare by the distance of the cohort, got relative, which compares "
            "with all items already. Use another rule, or no cohort."
        )
    return normalize_neighbors(found, queries, searched, norm)


def _decided(neighbors: Neighbors, rule: str | Rule) -> tuple[Tensor, Tensor]:
    """What a rule decides; where nobody has a vote, no nearer than any other.

    Raises:
        InputError: nobody has a vote anywhere.
    """
    labels, distances = decide(neighbors, rule)
    voted = (labels >= 0) & ~distances.isposinf()
    if not bool(voted.any()):
        raise InputError(
            f"index must hold labeled items near the data, got unlabeled ones for all {len(voted)} "
            "queries. Label them, or look at more neighbors (k)."
        )
    return labels, distances.where(voted, distances[voted].max())


def _refit(index: Index, rule: str | Rule) -> Callable[[Sequence[int]], Index] | None:
    """For a distance that is fitted to the index: centers of all classes, fitted without some."""
    if rule not in ("relative", relative):
        return None
    embeddings, labels = index.embeddings, index.labels
    return lambda without: _centers(index, "relative", embeddings, labels, without)


def _searched(index: Index, rule: str | Rule) -> Index:
    """The index itself, or class centers for a rule that looks at these."""
    name = next((name for name in OF_CENTERS if rule in (name, RULES[name])), None)
    if name is None:
        return index
    while True:
        labels = index.labels  # one tensor as long as nothing changes
        kept = _CENTERS.setdefault(labels, {})
        if made := kept.get((name, index.distance)):
            return made
        embeddings = index.embeddings
        if index.labels is labels:  # else somebody wrote meanwhile
            kept[name, index.distance] = made = _centers(index, name, embeddings, labels)
            return made


def _centers(
    index: Index,
    rule: str,
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    without: Sequence[int] = (),
) -> Index:
    """Centers of all classes; a distance that is fitted to items is fitted without some classes."""
    of: dict[str, Any] = {"distance": index.distance, "class_names": index.class_names}
    if rule == "relative":
        return relative_centers(embeddings, labels, fitted_without=without, **of)
    return class_centers(embeddings, labels, **of)
