"""Comparisons whose truth is known, which a model is calibrated and judged on."""

import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from likewise import data as sources
from likewise.calibration import GivenUnknowns
from likewise.data import GivenPairs, fingerprints
from likewise.data.parts import labeled_items
from likewise.errors import InputError
from likewise.index import Gallery, Index, Neighbors
from likewise.matching import Rule, center, class_centers, decide, normalize_neighbors
from likewise.model.as_unknowns import Queries, as_unknowns

if TYPE_CHECKING:
    from likewise.model.similarity_model import SimilarityModel

PAIRS = "pairs"  # the rule of a calibration for verification
LEAVE_OUT = ("items", "classes")
# Of the items that a tensor of labels belongs to; they go with it.
_CENTERS: MutableMapping[Tensor, Index] = WeakIdKeyDictionary()


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
    growth: float = 1.0  # in matching, how many times as often an unknown is accepted in use


def pair_trials(
    model: "SimilarityModel",
    data: sources.Dataset | GivenPairs,
    *,
    per_item: float,
    seed: int,
    leave_out: str,
    progress: Callable[[int, int], None] | None = None,
) -> Trials:
    """Pairs of items that the model has neither indexed nor trained on.

    Args:
        model: compares.
        data: labeled items, of which pairs are drawn, or given pairs; those that hold an item
            that is not new are left out.
        per_item: pairs drawn per item.
        seed: of the pairs.
        leave_out: whether `items` of the trials are "items" or "classes".
        progress: called as progress(done, total) while embedding.

    Raises:
        InputError: nothing is left, or no pair of either kind.
    """
    if isinstance(data, GivenPairs):
        new = model.is_new(data.data)
        kept = new[data.pairs].all(dim=1)
        if not bool(kept.any()):
            raise InputError(
                f"data must hold pairs of items that are neither indexed nor trained on, got "
                f"{len(data)} that all hold one. Keep some aside."
            )
        pairs = GivenPairs(data.data, data.pairs[kept], data.same[kept])
    else:
        pairs = sources.PairDataset(model.new_items(data), per_item=per_item, seed=seed)
    positions, rows = torch.unique(pairs.pairs, return_inverse=True)
    held = sources.Subset(pairs.data, positions)
    left, right = model.embed(held, progress=progress)[rows.T]
    items = pairs.data.labels[pairs.pairs] if leave_out == "classes" else pairs.pairs
    distances = model.compared_by.paired(left, right)
    return Trials(distances, pairs.same, items, None, fingerprints(held))


def matching_trials(
    model: "SimilarityModel",
    data: sources.Dataset,
    *,
    rule: str | Rule,
    k: int,
    leave_out: str | None,
    for_gallery_of: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trials:
    """New items as queries to the index, by a matching rule.

    Each item is judged twice: with its class known, and as an unknown, see `as_unknowns`.
    Unlabeled items are left out.

    Raises:
        InputError: nothing is left, no class of the data is indexed, k is more than there is to
            look up, or the index holds one class only and no mistake is made.
    """
    new = labeled(model.new_items(data))
    check_some_indexed(model, new)
    embeddings = model.embed(new, progress=progress)
    home = _home(model, rule)
    found = home.lookup(embeddings, k=k)
    labels, distances = decide(_normalized(model, found, embeddings, home), rule)
    truth = translated(new, all_names(model, new))
    known = torch.isin(truth, model.index.labels)
    rows = torch.arange(len(new))
    queries = Queries(distances, labels, truth, known, rows)
    unknowns = as_unknowns(
        queries,
        embeddings,
        home,
        lambda near, of: decide(_normalized(model, near, of, home), rule),
        distance=model.distance,
        names=all_names(model, new),
        trained_on=model.trained_on,
        cross_fit=model.cross_fit,
        k=k,
    )
    both = Queries(
        *(torch.cat([a[known], b]) for a, b in zip(queries, unknowns.queries, strict=True))
    )
    items = both.truth
    if leave_out != "classes":  # an item of a cross-fit is none of these
        others = len(new) + torch.arange(len(both.rows))
        items = both.rows.where(both.rows >= 0, others)
    size = for_gallery_of or len(model.index)
    return Trials(
        both.distances,
        (both.labels == both.truth) & both.known,
        items[:, None],
        both.known,
        fingerprints(new),
        size,
        both.truth,
        leave_out or "classes",
        both.labels,
        unknowns.kind,
        unknowns.growth * max(1.0, size / len(model.index)),
    )


def given_unknowns(
    model: "SimilarityModel", data: sources.Dataset, *, rule: str | Rule, k: int
) -> GivenUnknowns:
    """Real unknowns, with what a matching rule makes of their neighbors.

    Raises:
        InputError: nothing is left, or an item is of an indexed class.
    """
    new = model.new_items(data)
    names = set(sources.items_per_class(new)) if hasattr(new, "class_names") else set()
    indexed = {model.class_names[code] for code in _codes(model.index.labels)}
    if names & indexed:
        raise InputError(
            f"must be of classes that are not indexed, got {_some(sorted(names & indexed))}.",
            argument="unknowns",
        )
    embeddings = model.embed(new)
    home = _home(model, rule)
    found = home.lookup(embeddings, k=k)
    _, distances = decide(_normalized(model, found, embeddings, home), rule)
    labels = new.labels
    told = len(names) > 1 and bool((labels >= 0).all())
    return GivenUnknowns(distances, labels if told else None)


def neighbors_for(
    model: "SimilarityModel",
    embeddings: Float[Tensor, "q d"],
    *,
    rule: str | Rule,
    k: int,
    where: Mapping[str, Any] | None = None,
) -> Neighbors:
    """What a matching rule decides by: the nearest items, or for "center" class centers."""
    home = _home(model, rule)
    if home is not model.index and where is not None:
        raise InputError(
            f"where must be None for center, got {where!r}. The center of a class has no metadata; "
            "use another rule."
        )
    return _normalized(model, home.lookup(embeddings, k=k, where=where), embeddings, home)


def labeled(data: sources.Dataset) -> sources.Dataset:
    """The items that have a label, and not the -1 of unlabeled ones.

    Raises:
        InputError: there are none.
    """
    found = labeled_items(data)
    if not len(found):
        raise InputError(f"data must hold labeled items, got {len(data)} unlabeled ones (-1).")
    return found


def all_names(model: "SimilarityModel", data: sources.Dataset) -> list[str]:
    """Names of the classes of the index, as its codes have them, and then those of the data."""
    return list(dict.fromkeys([*model.class_names, *data.class_names]))


def check_some_indexed(model: "SimilarityModel", data: sources.Dataset) -> None:
    """Refuse data of whose classes none is in the index.

    Raises:
        InputError: with a few names of both, and those that differ in case and spaces only.
    """
    indexed = [model.class_names[code] for code in _codes(model.index.labels)]
    given = list(sources.items_per_class(data))
    if not indexed:
        raise InputError(
            f"index must hold items of the data's classes, {_some(given)}, got no labeled item. "
            "Add labeled items first."
        )
    if not set(given) & set(indexed):
        raise InputError(
            f"data must hold a class of the index, {_some(indexed)}, got {_some(given)}. "
            f"{alike(given, indexed) or 'Add items of these classes to the index'}."
        )


def warn_of_spelling(model: "SimilarityModel", data: sources.Dataset) -> None:
    """Warn if no class of the data is in the index, though some differ in spelling only."""
    indexed = [model.class_names[code] for code in _codes(model.index.labels)]
    given = list(sources.items_per_class(data))
    if not set(given) & set(indexed) and (words := alike(given, indexed)):
        warnings.warn(
            f"No class of the data is in the index, so all items count as unknown. {words}.",
            stacklevel=4,
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


def translated(data: sources.Dataset, names: Sequence[str]) -> Int[Tensor, " n"]:
    """The labels of a dataset as positions in `names`; -1 where unlabeled, or not among them."""
    position = {name: code for code, name in enumerate(names)}
    codes = [position.get(name, -1) for name in data.class_names]
    return torch.tensor([*codes, -1])[data.labels]  # the last is that of unlabeled items


def _normalized(
    model: "SimilarityModel",
    found: Neighbors,
    queries: Float[Tensor, "q d"],
    home: Index | Gallery,
) -> Neighbors:
    return found if model.norm is None else normalize_neighbors(found, queries, home, model.norm)


def _home(model: "SimilarityModel", rule: str | Rule) -> Index | Gallery:
    if rule not in ("center", center):
        return model.index
    index = model.index
    while True:
        labels = index.labels  # one tensor as long as nothing changes
        made = _CENTERS.get(labels)
        if made is not None and made.distance == model.distance:
            return made
        embeddings, names = index.embeddings, index.class_names
        if index.labels is labels:  # else somebody wrote meanwhile
            made = class_centers(embeddings, labels, distance=model.distance, class_names=names)
            _CENTERS[labels] = made
            return made
