"""A threshold for each class that has data enough, and the global one for all others."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import as_tensors, check_count, check_labels
from likewise.calibration._trials import Trials
from likewise.calibration.calibrated import Calibration
from likewise.calibration.goals import Goal, balanced
from likewise.calibration.guarantee import Guarantee, KeptGuarantee, MeanGuarantee
from likewise.errors import InputError
from likewise.intervals import FEWEST_GROUPS


@dataclass(frozen=True)
class ClassThresholds:
    """Thresholds by the class that a query would be given.

    Attributes:
        everywhere: for classes without a threshold of their own.
        classes: by class code; calibrated on the queries that the rule gives to that class.
        fewest: right and wrong answers that a class needed for a threshold of its own.
        guarantee: Guarantee of all thresholds together, if the goal has a confidence.
    """

    everywhere: Calibration
    classes: dict[int, Calibration]
    fewest: int
    guarantee: KeptGuarantee | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [("everywhere else", f"{self.everywhere.threshold:.4g}")]
        if self.guarantee is not None:
            rows.append(("guarantee", str(self.guarantee)))
        rows += [(f"class {code}", f"{own.threshold:.4g}") for code, own in self.classes.items()]
        return _tables.Table(f"Thresholds of {len(self.classes)} classes", rows)

    def of(self, labels: Int[Tensor, " q"]) -> Float[Tensor, " q"]:
        """The threshold for each class code, float64."""
        limits = torch.full(labels.shape, self.everywhere.threshold, dtype=torch.float64)
        if not self.classes:
            return limits
        codes = torch.tensor(sorted(self.classes))
        own = limits.new_tensor([self.classes[code].threshold for code in codes.tolist()])
        at = torch.searchsorted(codes, labels.cpu().contiguous()).clamp(max=len(codes) - 1)
        return own[at].where(codes[at] == labels.cpu(), limits)

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return {
            "everywhere": self.everywhere.to_dict(),
            "classes": {str(code): each.to_dict() for code, each in self.classes.items()},
            "fewest": self.fewest,
            "guarantee": None if self.guarantee is None else self.guarantee.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: object) -> "ClassThresholds":
        """The thresholds that `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict; the sentence names what is wrong.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, Mapping) or set(fields) != set(names):
            raise InputError(f"class thresholds must be a dict of {', '.join(names)}, got others.")
        classes = fields["classes"]
        if not isinstance(classes, Mapping) or not all(
            str(code).isdecimal() and len(str(code)) < 19 for code in classes
        ):
            raise InputError("classes of class thresholds must be a dict by class code.")
        fewest = fields["fewest"]
        if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 1:
            raise InputError(f"fewest must be a whole number above 0, got {fewest!r}.")
        kept = fields["guarantee"]
        return cls(
            everywhere=Calibration.from_dict(fields["everywhere"]),
            classes={int(code): Calibration.from_dict(each) for code, each in classes.items()},
            fewest=fewest,
            guarantee=None if kept is None else KeptGuarantee.from_dict(kept),
        )


def calibrate_per_class(
    distances: Float[Tensor, " q"],
    same: Bool[Tensor, " q"],
    known: Bool[Tensor, " q"],
    labels: Int[Tensor, " q"],
    *,
    gallery_size: int,
    goal: Goal | None = None,
    fewest: int = 30,
    items: Int[Tensor, " q"] | None = None,
    classes: Int[Tensor, " q"] | None = None,
    guarantee_for: str = "classes",
    kind: str = "given",
    growth: float = 1.0,
    as_given: int | None = None,
    rule: str = "nearest",
    k: int = 1,
) -> ClassThresholds:
    """Choose a threshold for each class that has data enough, and one for all others.

    A class has data enough if, of the queries that the rule gives to it, at least `fewest` are
    right and as many wrong, and if the goal can be reached with these. All others get the
    threshold that `calibrate_matching` chooses from all queries.

    A goal with a confidence is kept by all thresholds together, for unknown queries whichever
    class they are taken for: with n thresholds each is chosen with the confidence 1 - (1 -
    confidence) / n (Bonferroni), the one for other classes from the queries given to these. So
    a class needs the more unknowns the more classes have thresholds of their own; as many get
    one as can, and the scarcest go without. Classes that no query was given to are left to the
    threshold of the others.

    Args:
        distances: One per query, from `matching.decide`.
        same: whether the label decided on is the query's own.
        known: whether the query's class is indexed.
        labels: the class code that the rule gives to the query, from `matching.decide`.
        gallery_size: how many items were indexed.
        goal: chooses among the thresholds; it may refuse. None for `balanced()`.
        fewest: right answers, and wrong ones or unknowns, that a class must have.
        items: the items, or classes, that the queries are.
        classes: the true class code of each query; see `calibrate_matching`.
        guarantee_for: What a confidence holds for; see `calibrate_matching`.
        kind: where the unknown queries come from, see `UnknownsJudged`.
        growth: how many times as often an unknown is accepted in use; see `Sweep`.
        as_given: how many queries, the first ones, are as the data has them; see
            `calibrate_matching`.
        rule: the name of the matching rule.
        k: how many neighbors it looked at.

    Raises:
        InputError: What `calibrate_matching` refuses; for a goal with a confidence also if one
            class has no threshold that is strict enough.

    Example:
        >>> from likewise.calibration.goals import best_accuracy
        >>> labels = torch.arange(4).repeat_interleave(50)
        >>> distances = torch.linspace(0, 1, 50).repeat(4) * (1 + labels)
        >>> right = distances < 0.5 * (1 + labels)
        >>> thresholds = calibrate_per_class(
        ...     distances, right, right, labels, gallery_size=9, goal=best_accuracy, fewest=20
        ... )
        >>> [round(limit, 2) for limit in thresholds.of(torch.tensor([0, 3])).tolist()]
        [0.49, 1.96]
    """
    distances, same, known, labels, items = as_tensors(
        distances=distances, same=same, known=known, labels=labels, items=items
    )
    check_count("fewest", fewest)
    goal = balanced() if goal is None else goal
    if isinstance(goal, MeanGuarantee):
        raise InputError(
            f"goal must be one that several thresholds can keep together, got {goal.__name__}. "
            "Use a confidence, or one threshold for all classes."
        )
    check_labels(labels, len(same))
    everything = Trials.of(
        distances,
        same,
        items=items,
        known=known,
        rule=rule,
        k=k,
        gallery_size=gallery_size,
        classes=classes,
        guarantee_for=guarantee_for,
        kind=kind,
        growth=growth,
        as_given=as_given,
    )
    labels = labels.cpu()
    own = _with_enough(labels, everything, fewest, goal)
    others = len(own) < len(torch.unique(labels))
    each = goal
    if isinstance(goal, Guarantee):
        each = Guarantee(goal.rate, 1 - (1 - goal.confidence) / (len(own) + others))
    by_code = {}
    for code in own.tolist():
        try:
            chosen = everything.part(labels == code).calibrated(each)
        except ValueError as error:
            if not isinstance(goal, Guarantee):
                continue
            raise InputError(f"class {code} cannot have a threshold of its own: {error}") from error
        by_code[code] = dataclasses.replace(chosen, sample=())
    parts = list(by_code.values())
    if isinstance(goal, Guarantee) and by_code and others:
        rest = everything.part(~torch.isin(labels, own))
        try:
            everywhere = dataclasses.replace(rest.calibrated(each), sample=everything.sample)
        except ValueError as error:
            raise InputError(f"the other classes cannot have a threshold: {error}") from error
        parts.append(everywhere)
    else:
        everywhere = everything.calibrated(goal)
    return ClassThresholds(everywhere, by_code, fewest, _together(goal, parts or [everywhere]))


def _with_enough(
    labels: Int[Tensor, " q"],
    trials: Trials,
    fewest: int,
    goal: Goal,
) -> Int[Tensor, " c"]:
    """Classes with data enough, chosen without a look at distances, as the guarantee needs."""
    codes, row = torch.unique(labels, return_inverse=True)
    item = torch.arange(len(row)) if trials.slots is None else trials.slots[:, 0]
    item = torch.unique(item, return_inverse=True)[1]
    right = row[trials.same].bincount(minlength=len(codes))
    wrong = ~trials.same
    if isinstance(goal, Guarantee) and trials.unknowns is not None:
        wrong = trials.unknowns.rows
    of_wrong = _distinct(row, item, wrong, len(codes))
    enough = (codes >= 0) & (right >= fewest) & (of_wrong >= fewest)
    if not trials.independent:
        enough &= _distinct(row, item, torch.ones_like(wrong), len(codes)) >= FEWEST_GROUPS
    if not isinstance(goal, Guarantee):
        reached: Tensor = codes[enough]
        return reached
    # Classes with most unknowns first, those without enough last.
    order = of_wrong.where(enough, -1).argsort(descending=True, stable=True)
    for count in range(int(enough.sum()), 0, -1):
        others = count < len(codes)
        part = Guarantee(goal.rate, 1 - (1 - goal.confidence) / (count + others))
        left = int(of_wrong[order[count:]].sum()) if others else part.fewest
        if min(left, int(of_wrong[order[count - 1]])) < part.fewest:
            continue
        if not others or bool(right[order[count:]].any()):
            chosen: Tensor = codes[order[:count]].sort().values
            return chosen
    none: Tensor = codes[:0]
    return none


def _distinct(
    row: Int[Tensor, " q"], item: Int[Tensor, " q"], some: Bool[Tensor, " q"], classes: int
) -> Int[Tensor, " c"]:
    """How many different items each class has among some of the queries."""
    both = row[some] * (int(item.max()) + 1) + item[some]
    distinct = torch.from_numpy(np.unique(both.numpy()) // (int(item.max()) + 1))
    counts: Tensor = distinct.bincount(minlength=classes)
    return counts


def _together(goal: Goal, parts: list[Calibration]) -> KeptGuarantee | None:
    kept = [part.guarantee for part in parts if part.guarantee is not None]
    if not isinstance(goal, Guarantee) or not kept:
        return None
    return KeptGuarantee(
        goal.rate,
        goal.confidence,
        sum(each.negatives for each in kept),
        sum(each.accepted for each in kept),
        kept[0].holds_for,
        kept[0].classes,
    )
