"""`calibrate`: from pairs whose truth is known to a threshold and what it costs."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import as_tensors, check_labels
from likewise.calibration._trials import Trials
from likewise.calibration.calibrated import Calibration
from likewise.calibration.goals import Goal, balanced, best_f1
from likewise.errors import InputError


def calibrate(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    goal: Goal | None = None,
    items: Int[Tensor, "p *s"] | None = None,
    known: Bool[Tensor, " p"] | None = None,
    rule: str = "pairs",
    k: int | None = None,
    keep_sweep: bool = False,
) -> Calibration:
    """Choose a threshold from pairs whose truth is known.

    Search and verification both end here: in search a "pair" is a query with its nearest
    neighbor (or what the matching rule makes of its k neighbors), and `same` says whether
    their labels agree. The choice is exact over every distinct distance, in O(p log p). No
    item may be its own neighbor.

    Pairs that share an item are not independent: an odd photograph spoils all of its pairs at
    once. Say with `items` which items a pair holds, or which classes, for claims about new
    classes; they are taken as a random sample of those to come. Every interval then leaves out
    one item at a time with all its pairs (jackknife, the threshold as it is), and a goal with
    a confidence, which needs it, is kept on negatives that share no item. Where no item comes
    twice, as with `torch.arange(p)`, pairs are independent and intervals exact binomial. Where
    fewer than 10 items come again and again, there are no intervals.

    Args:
        distances: one per pair; smaller is closer.
        same: whether the pair truly belongs together.
        goal: chooses among the thresholds; it may refuse. None for `best_f1` of pairs, and for
            `balanced()` of any other rule.
        items: the items (or classes) a pair holds, (p, 2), or (p,) where it is one, as the query
            in search (the index then being the one there will be); any integers.
        known: in search, whether the query's class is indexed; see `metrics.sweep`.
        rule: what made the distances: "pairs", or the name of a matching rule.
        k: how many neighbors that rule looked at.
        keep_sweep: also keep the counts at every threshold, for plots.

    Raises:
        InputError: if the pairs are all the same or all different, if a distance is not
            finite, or if no threshold reaches the goal.

    Example:
        >>> import torch
        >>> distances, same = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([True, False, True])
        >>> calibration = calibrate(distances, same)
        >>> f"{calibration.threshold:.1f}", str(calibration.true_accept_rate)
        ('0.2', '1.000 [0.158, 1.000]')
    """
    trials = Trials.of(distances, same, items=items, known=known, rule=rule, k=k)
    if goal is None:
        goal = best_f1 if rule == "pairs" else balanced()
    return trials.calibrated(goal, keep_sweep=keep_sweep)


def calibrate_all(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    goals: Mapping[str, Goal],
    *,
    items: Int[Tensor, "p *s"] | None = None,
    known: Bool[Tensor, " p"] | None = None,
    rule: str = "pairs",
    k: int | None = None,
    gallery_size: int | None = None,
    classes: Int[Tensor, " p"] | None = None,
    guarantee_for: str = "classes",
) -> dict[str, Calibration]:
    """One calibration for each named goal, from the same pairs, which are sorted once.

    Args:
        distances: One per pair, as in `calibrate`; with a `gallery_size` one per query, as in
            `calibrate_matching`.
        same: whether the pair truly belongs together.
        goals: Goals by the names of their operating points.
        items: the items (or classes) a pair holds.
        known: in search, whether the query's class is indexed.
        rule: what made the distances.
        k: how many neighbors that rule looked at.
        gallery_size: for matching, how many items were indexed.
        classes: for matching, the true class code of each query.
        guarantee_for: What a confidence holds for in matching; see `calibrate_matching`.

    Raises:
        InputError: What these refuse; the sentence begins with the name of the goal that cannot
            be reached.

    Example:
        >>> from likewise.calibration.goals import best_accuracy
        >>> import torch
        >>> distances, same = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([True, False, True])
        >>> points = calibrate_all(distances, same, {"f1": best_f1, "usual": best_accuracy})
        >>> [f"{name} {point.threshold:.1f}" for name, point in points.items()]
        ['f1 0.2', 'usual 0.2']
    """
    if not goals:
        raise InputError('goals must name at least one goal, got none. Use e.g. {"f1": best_f1}.')
    trials = Trials.of(
        distances,
        same,
        items=items,
        known=known,
        rule=rule,
        k=k,
        gallery_size=gallery_size,
        classes=classes,
        guarantee_for=guarantee_for,
    )
    points = {}
    for name, goal in goals.items():
        try:
            points[name] = trials.calibrated(goal)
        except ValueError as error:
            raise InputError(f"goal {name}: {error}") from error
    return points


class GivenUnknowns(NamedTuple):
    """Real unknowns, each with the distance that the rule makes of its neighbors.

    Attributes:
        distances: one per unknown, from `matching.decide`, (u,).
        classes: their class codes, (u,); None if these are not known: a guarantee then holds for
            new items like them.
    """

    distances: Float[Tensor, " u"]
    classes: Int[Tensor, " u"] | None = None


def calibrate_matching(
    distances: Float[Tensor, " q"],
    same: Bool[Tensor, " q"],
    known: Bool[Tensor, " q"],
    *,
    gallery_size: int,
    goal: Goal | None = None,
    items: Int[Tensor, " q"] | None = None,
    classes: Int[Tensor, " q"] | None = None,
    guarantee_for: str = "classes",
    kind: str = "given",
    growth: float = 1.0,
    as_given: int | None = None,
    given: GivenUnknowns | None = None,
    rule: str = "nearest",
    k: int = 1,
    keep_sweep: bool = False,
) -> Calibration:
    """Choose a threshold for matching with a gallery, from queries whose truth is known.

    A query is *known* if its class is indexed, else *unknown*. A false accept is an unknown that
    is accepted (FPIR); a known query that is rejected, or accepted as another class, is a miss
    (FNIR). That holds for every goal, with and without a confidence.

    A goal with a confidence counts unknown queries only, each with the distance that the rule makes
    of its neighbors in this very gallery. So it counts that an unknown query has as many chances
    to be mistaken as there are items, and it never assumes that these chances are independent, as
    1 - (1 - rate)^n would. It holds for a gallery that does not grow, see `Calibration.outgrown`.

    Items of one class are alike, so a hundred items of five unknown classes tell little about a
    sixth. With `classes`, a guarantee counts one random item of each unknown class (always the
    same), and holds for queries of new unknown classes. A rate of 5% at 95% takes 59 of these.
    With `guarantee_for="items"`, or without `classes`, every item counts, and the guarantee
    holds for new items of the very same unknown classes only.

    Unknown queries made by leaving a query's own class out of the gallery have met one of K
    classes less. An unknown is accepted at most K / (K - 1) times as often by all K: `growth`.

    Args:
        distances: one per query, from `matching.decide`.
        same: whether the label decided on is the query's own.
        known: whether the query's class is indexed.
        gallery_size: how many items the gallery has where the threshold is used.
        goal: chooses among the thresholds; it may refuse. None for `balanced()`.
        items: the items, or classes, that the queries are, any integers; without them every query
            is another item.
        classes: the true class code of each query, indexed or not.
        guarantee_for: what a goal with a confidence holds for, if `classes` are given: queries of
            new unknown "classes", or new "items" of the same unknown classes. The interval of the
            unknowns accepted leaves out the same.
        kind: where the unknown queries come from, see `UnknownsJudged`.
        growth: how many times as often an unknown is accepted in use, at least 1; see `Sweep`.
        as_given: how many queries, the first ones, are as the data has them; the others are judged
            a second time. Goals that depend on the mix of knowns and unknowns (`best_f1`,
            `best_accuracy`, `at_least_precision`) count these only, unless all of them are right.
            None: all.
        given: real unknowns beside the others. They give a second threshold, and the stricter of
            both is kept.
        rule: the name of the matching rule.
        k: how many neighbors it looked at.
        keep_sweep: also keep the counts at every threshold, for plots.

    Raises:
        InputError: What `calibrate` refuses, or too few unknown classes (or items) for a
            confidence; the sentence says how many, and which rate is possible with those.

    Example:
        >>> import torch
        >>> from likewise.calibration.goals import at_most_false_accepts
        >>> distances = torch.cat([torch.linspace(0, 0.5, 50), torch.linspace(0.4, 1, 100)])
        >>> known = torch.arange(150) < 50
        >>> goal = at_most_false_accepts(0.05, confidence=0.95)
        >>> classes = torch.where(known, 0, torch.arange(150))
        >>> kept = calibrate_matching(
        ...     distances, known, known, gallery_size=200, goal=goal, classes=classes
        ... ).guarantee
        >>> kept.holds_for, kept.negatives, kept.accepted
        ('unknown classes', 100, 1)
    """
    goal = balanced() if goal is None else goal
    trials = partial(
        Trials.of, rule=rule, k=k, gallery_size=gallery_size, guarantee_for=guarantee_for
    )
    made = trials(
        distances,
        same,
        items=items,
        known=known,
        classes=classes,
        kind=kind,
        growth=growth,
        as_given=as_given,
    )
    chosen = made.calibrated(goal, keep_sweep=keep_sweep)
    if given is None:
        return chosen
    if made.known is None or not bool(made.known.any()):
        raise InputError("known must hold known queries beside given unknowns, got none.")
    of_given = trials(**_with_given(made, given))
    other = of_given.calibrated(goal, keep_sweep=keep_sweep)
    if not chosen.unknowns:
        return other
    limit = min(chosen.threshold, other.threshold)
    both = [
        each.judged(of.threshold, limit, goal) for each, of in ((made, chosen), (of_given, other))
    ]
    if other.threshold < chosen.threshold:
        return dataclasses.replace(other, unknowns=tuple(reversed(both)))
    return dataclasses.replace(chosen, unknowns=tuple(both))


def _with_given(made: Trials, given: GivenUnknowns) -> dict[str, Any]:
    """Trials of the known queries, and of the unknowns that were given instead of the others."""
    distances, classes = as_tensors(distances=given.distances, classes=given.classes)
    if not isinstance(distances, Tensor) or distances.ndim != 1 or not len(distances):
        raise InputError("given must hold the distance of each unknown, (u,), got none.")
    known = cast(Tensor, made.known)
    count, unknowns = int(known.sum()), len(distances)
    no = torch.zeros(unknowns, dtype=torch.bool)
    slots = torch.arange(len(known)) if made.slots is None else made.slots[:, 0]
    new = int(slots.max()) + 1 + torch.arange(unknowns)
    codes = None
    if classes is not None:
        check_labels(classes, unknowns, "classes")
        of_known = torch.zeros(count, dtype=torch.int64)
        codes = torch.cat([of_known, 1 + torch.as_tensor(classes).cpu().long()])
    return {
        "distances": torch.cat([made.distances[known], distances.detach().double().cpu()]),
        "same": torch.cat([made.same[known], no]),
        "known": torch.arange(count + unknowns) < count,
        "items": torch.cat([slots[known], new]),
        "classes": codes,
    }
