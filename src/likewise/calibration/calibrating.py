"""`calibrate`: from pairs whose truth is known to a threshold and what it costs."""

from collections.abc import Mapping

from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.calibration._trials import Trials
from likewise.calibration.calibrated import Calibration
from likewise.calibration.goals import Goal, best_f1
from likewise.errors import InputError


def calibrate(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    goal: Goal = best_f1,
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
        goal: chooses among the thresholds; it may refuse.
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
        distances: as in `calibrate`, like all but `goals`; with a `gallery_size` as in
            `calibrate_matching`.
        same: whether the pair truly belongs together.
        goals: by the names under which their operating points are to be known.
        items: the items (or classes) a pair holds.
        known: in search, whether the query's class is indexed.
        rule: what made the distances.
        k: how many neighbors that rule looked at.
        gallery_size: for matching, how many items were indexed.
        classes: for matching, the true class code of each query.
        guarantee_for: for matching, new unknown "classes" or new "items" of these.

    Raises:
        InputError: as these do; the sentence begins with the name of the goal that is refused.

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


def calibrate_matching(
    distances: Float[Tensor, " q"],
    same: Bool[Tensor, " q"],
    known: Bool[Tensor, " q"],
    *,
    gallery_size: int,
    goal: Goal = best_f1,
    items: Int[Tensor, " q"] | None = None,
    classes: Int[Tensor, " q"] | None = None,
    guarantee_for: str = "classes",
    rule: str = "nearest",
    k: int = 1,
    keep_sweep: bool = False,
) -> Calibration:
    """Choose a threshold for matching with a gallery, from queries whose truth is known.

    A goal with a confidence is kept on unknown queries only: those of classes that are not
    indexed, each with the distance that the rule makes of its neighbors in this very gallery.
    So it counts that an unknown query has as many chances to be mistaken as there are items, and
    it never assumes that these chances are independent, as 1 - (1 - rate)^n would. It holds for a
    gallery that does not grow, see `Calibration.outgrown`. Goals without a confidence count every
    wrong answer as a false accept, as `calibrate` does.

    Items of one class are alike, so a hundred items of five unknown classes tell little about a
    sixth. With `classes`, a guarantee counts one random item of each unknown class (always the
    same), and holds for queries of new unknown classes. A rate of 5% at 95% takes 59 of these.
    With `guarantee_for="items"`, or without `classes`, every item counts, and the guarantee
    holds for new items of the very same unknown classes only.

    Unknown queries made by leaving a query's own class out of the gallery have met fewer items:
    `gallery_size` must then be that smaller number.

    Args:
        distances: one per query, from `matching.decide`.
        same: whether the label decided on is the query's own.
        known: whether the query's class is indexed.
        gallery_size: how many items were indexed.
        goal: chooses among the thresholds; it may refuse.
        items: the items, or classes, that the queries are, any integers; without them every query
            is another item.
        classes: the true class code of each query, indexed or not.
        guarantee_for: what a goal with a confidence holds for, if `classes` are given: queries of
            new unknown "classes", or new "items" of these.
        rule: the name of the matching rule.
        k: how many neighbors it looked at.
        keep_sweep: also keep the counts at every threshold, for plots.

    Raises:
        InputError: as `calibrate`, or if there are too few unknown classes (or items) for a
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
    return trials.calibrated(goal, keep_sweep=keep_sweep)
