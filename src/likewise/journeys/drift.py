"""`find_drift`: does a model still see items as it did when it was calibrated?"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from likewise import _tables
from likewise import data as sources
from likewise._checks import check_rate
from likewise.calibration import Calibration
from likewise.calibration.guarantee import disjoint_rows
from likewise.drift import FALSE_ALARM, Drift, check_drift
from likewise.embedded import Embedded
from likewise.errors import InputError
from likewise.intervals import Estimate, binomial
from likewise.model import SimilarityModel
from likewise.model.trials import PAIRS, Trials, all_names, matching_trials, pair_trials, translated

MOST_LOSING = 10  # classes named in a table
LOSES = 0.5  # a class loses more items than it keeps, if the interval lies above this share


@dataclass(frozen=True)
class PointDrift:
    """What has changed for one operating point, and whether to calibrate it again.

    Attributes:
        point: Its name.
        drift: Distances of today against those of the calibration; None where there are none to
            compare.
        unknown: Share of today's items that are not accepted; None for pairs.
        outgrown: What the guarantee is worth in the gallery as it is; None where it holds.
        alike: Whether the distances of today are as those of the calibration, which may judge
            items a second time as unknown. Otherwise a gap may come from the mixture alone.
        reasons: Why to calibrate again; none where nothing asks for it.
        advice: What to do, in words.
    """

    point: str
    drift: Drift | None
    unknown: Estimate | None
    outgrown: str | None
    alike: bool
    reasons: tuple[str, ...]
    advice: str

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def calibrate_again(self) -> bool:
        """Whether there is a reason to."""
        return bool(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "calibrate_again": self.calibrate_again,
            "reasons": list(self.reasons),
            "advice": self.advice,
            "alike": self.alike,
            "outgrown": self.outgrown,
            "unknown": None if self.unknown is None else self.unknown.to_dict(),
            "drift": None if self.drift is None else self.drift.to_dict(),
        }


@dataclass(frozen=True)
class ClassLosses:
    """A known class, and how many of today's items of it lie nearest to another class.

    Attributes:
        class_name: Its name.
        items: Items of it today.
        lost: How many have a nearest neighbor of another class.
        share: Their share, with its interval.
        to: The class that takes most of them.
    """

    class_name: str
    items: int
    lost: int
    share: Estimate
    to: str

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        return _tables.Table("Class that loses items", _tables.fields(self))

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {**dataclasses.asdict(self), "share": self.share.to_dict()}


@dataclass(frozen=True)
class DriftReport:
    """What `find_drift` found.

    Attributes:
        items: Items that were looked at: those neither indexed nor trained on.
        skipped: Items that were left out.
        labeled: How many of them have a label.
        points: What has changed, by operating point.
        losing: Known classes that lost items to others, the worst first by the lower bound;
            None where no item has a label of a known class.
    """

    items: int
    skipped: int
    labeled: int
    points: dict[str, PointDrift]
    losing: tuple[ClassLosses, ...] | None

    _repr_html_ = _tables.as_html
    __repr__ = _tables.as_text

    @property
    def calibrate_again(self) -> bool:
        """Whether some operating point has a reason to."""
        return any(point.calibrate_again for point in self.points.values())

    @property
    def advice(self) -> list[str]:
        """What to do, a sentence or two for each operating point and each class that suffers."""
        told = [f"{name}: {point.advice}" for name, point in self.points.items()]
        return told + [
            f"class {each.class_name!r} loses most of its items, {each.lost} of {each.items}, most "
            f"to {each.to!r}: add items of today to the index, or look at the labels."
            for each in self.losing or ()
            if each.share.low > LOSES
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        losing = None if self.losing is None else [each.to_dict() for each in self.losing]
        return {
            "calibrate_again": self.calibrate_again,
            "advice": self.advice,
            **{name: getattr(self, name) for name in ("items", "skipped", "labeled")},
            "points": {name: point.to_dict() for name, point in self.points.items()},
            "losing": losing,
        }

    def _table(self) -> _tables.Table:
        rows = [["", "unknown", "gap", "p-value", "calibrate again"]]
        for name, point in self.points.items():
            found = point.drift
            rows.append(
                [
                    name,
                    "" if point.unknown is None else str(point.unknown),
                    "" if found is None else f"{found.gap:.3f}",
                    "" if found is None else f"{found.p_value:.2g}",
                    "yes" if point.calibrate_again else "no",
                ]
            )
        for each in (self.losing or ())[:MOST_LOSING]:
            rows.append([f"lost: {each.class_name}", str(each.share), "", "", f"to {each.to}"])
        title = f"Drift of {self.items:,} items, {self.labeled:,} with labels"
        return _tables.Table(title, rows, headings=True)


def point_drift(
    point: str,
    made: Calibration,
    distances: Tensor | None,
    *,
    false_alarm: float = FALSE_ALARM,
    gallery_size: int | None = None,
    unknown: Estimate | None = None,
    mixed: bool = False,
) -> PointDrift:
    """What distances of today, and the gallery of today, say of one calibration.

    Args:
        point: The name of the operating point.
        made: Its calibration.
        distances: Distances of today, as for `check_drift`; None where there are none.
        false_alarm: Chance of an alarm where nothing has changed.
        gallery_size: Items in the gallery now; None for pairs.
        unknown: Share of today's items that are not accepted, to be told with the rest.
        mixed: Whether known and unknown are in the shares that the calibration's sample has.

    Example:
        >>> from likewise.calibration import calibrate
        >>> before = torch.rand(400, generator=torch.Generator().manual_seed(0))
        >>> made = calibrate(before, before < 0.5)
        >>> point_drift("pairs", made, before[:100] + 1).calibrate_again
        True
    """
    made_twice = any(each.kind != "given" for each in made.unknowns)
    alike = mixed or not made_twice
    outgrown = None if gallery_size is None else made.outgrown(max(1, gallery_size))
    found, reasons = None, []
    if distances is not None and len(distances):
        if made.sample:
            found = check_drift(made, distances, false_alarm=false_alarm)
            told = found.advice
        else:
            told = "The calibration keeps no sample of its distances: calibrate again."
            reasons.append(told)
        if found is not None and found.drifted:
            if alike:
                reasons.append(told)
            else:
                told = (
                    f"The distances are not those of the calibration (gap {found.gap:.3f}, chance "
                    f"{found.p_value:.2g}). It judged items a second time as unknown, so "
                    "another share of unknowns alone may explain that: run likewise drift on "
                    "labeled items of today, or calibrate again with them."
                )
    else:
        told = "Nothing was matched yet." if made.rule != PAIRS else "No pairs to compare."
    if outgrown is not None:
        reasons.append(outgrown)
    advice = told if outgrown is None else f"{told} The {outgrown}"
    return PointDrift(point, found, unknown, outgrown, alike, tuple(reasons), advice)


def find_drift(
    model: SimilarityModel,
    source: Any,
    *,
    false_alarm: float = FALSE_ALARM,
    progress: Callable[[int, int], None] | None = None,
) -> DriftReport:
    """Whether a model still sees items as it did when it was calibrated, and what to do if not.

    Each operating point is asked: are the distances of today those of the calibration, how many
    items are unknown, and has the gallery outgrown the guarantee? With labels the distances are
    made as the calibration made them, which is the fair comparison; operating points for pairs
    need labels. Labels also tell which known classes lose items to others.

    Args:
        model: A calibrated model.
        source: Items of today, with labels or without. Those that are indexed or were trained on
            are left out. Those of the calibration say nothing: it was made to fit them.
        false_alarm: Chance of an alarm where nothing has changed, for each operating point.
        progress: Called as progress(done, total) while encoding.

    Raises:
        InputError: The model is not calibrated, or no item is left.

    Example:
        >>> import likewise as lw
        >>> rng = torch.Generator().manual_seed(0)
        >>> def some(count, shift=0.0):
        ...     codes = torch.arange(count) % 4
        ...     return 3 * torch.eye(4)[codes] + 0.5 * torch.randn(count, 4, generator=rng) + shift
        >>> model = lw.SimilarityModel(None)
        >>> _ = model.add((some(40), [str(row % 4) for row in range(40)]))
        >>> _ = model.calibrate((some(200), [str(row % 4) for row in range(200)]))
        >>> find_drift(model, (some(200), [str(row % 4) for row in range(200)])).calibrate_again
        False
    """
    check_rate("false_alarm", false_alarm)
    if not model.calibrations:
        raise InputError(
            "model must be calibrated to tell drift, got one without operating points.",
            remedy="Call model.calibrate first.",
            command="Run likewise calibrate first.",
        )
    items = sources.as_dataset(source) if isinstance(source, tuple) else source
    new = model.embedded(items, queries=True, only_new=True, progress=progress)
    if not len(new):
        raise InputError(
            f"data must hold items that are neither indexed nor trained on, got {new.skipped} that "
            "all are. Give items of today."
        )
    truth = translated(new, all_names(model.index.class_names, new))
    known = torch.isin(truth, model.index.labels) & (truth >= 0)
    points = {name: _of_point(model, name, new, known, false_alarm) for name in model.calibrations}
    losing = None
    if bool(known.any()):
        near = model.index.lookup(new.embeddings[known], k=1).labels[:, 0]
        losing = tuple(_losing(truth[known], near, model.index.class_names))
    return DriftReport(len(new), new.skipped, int((new.labels >= 0).sum()), points, losing)


def _of_point(
    model: SimilarityModel, name: str, new: Embedded, known: Tensor, false_alarm: float
) -> PointDrift:
    made: Calibration = model.calibrations[name]
    own = model.class_thresholds.get(name)
    if own is not None:
        made = dataclasses.replace(made, guarantee=own.guarantee)
    if made.rule == PAIRS:
        labeled = new.take(new.labels >= 0)
        sizes = sources.items_per_class(labeled) if len(labeled) else {}
        distances = None
        if len(sizes) > 1 and max(sizes.values()) > 1 and model.query_encoder is None:
            trials = pair_trials(
                labeled, model.compared_by, per_item=10.0, seed=0, leave_out="items"
            )
            distances = trials.distances[_independent(trials)]
        return point_drift(name, made, distances, false_alarm=false_alarm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a guarantee outgrown, which the report tells
        matched = model.match(new, point=name)
    unknown = binomial(int((~matched.accepted).sum()), len(new))
    distances, is_mixed = matched.distances, False
    if bool(known.any()):
        trials = matching_trials(
            new,
            model.index,
            norm=model.norm,
            rule=model.rules.get(made.rule, made.rule),
            k=made.k or 1,
            leave_out="items",
            trained_on=model.trained_on,
            cross_fit=model.cross_fit,
        )
        mixed = _mixed_as(made, trials)
        if mixed is not None:
            distances, is_mixed = mixed, True
    return point_drift(
        name,
        made,
        distances,
        false_alarm=false_alarm,
        gallery_size=len(model.index),
        unknown=unknown,
        mixed=is_mixed,
    )


def _mixed_as(made: Calibration, trials: Trials) -> Tensor | None:
    """Distances of today, known and unknown in the shares that the calibration's sample has."""
    known = trials.known
    twice = [each for each in made.unknowns if each.kind != "given"]
    unknowns: float = sum(each.items for each in twice[:1] or made.unknowns)
    knowns: float = made.same_total + made.different_total - unknowns
    if known is None or min(knowns, unknowns) < 1:
        return None
    if twice and twice[0].kind != "cross-fit" and unknowns >= knowns:
        real = unknowns - knowns  # the others are the known ones, each of which is drawn once
        knowns, unknowns = knowns / 2, knowns / 2 + real
    rows = _independent(trials)
    near, far = rows[known[rows]], rows[~known[rows]]
    many = min(len(near) / knowns, len(far) / unknowns)
    drawn = torch.cat([near[: round(many * knowns)], far[: round(many * unknowns)]])
    return trials.distances[drawn] if len(drawn) else None


def _independent(trials: Trials) -> Int[Tensor, " n"]:
    """Rows of trials that share no item, drawn at random, always the same ones."""
    order = torch.from_numpy(np.random.default_rng(2).permutation(len(trials.distances)))
    return order[disjoint_rows(trials.items[order])]


def _losing(
    truth: Int[Tensor, " n"], near: Int[Tensor, " n"], names: Mapping[int, str] | Any
) -> Iterator[ClassLosses]:
    found = []
    for code in torch.unique(truth).tolist():
        mine = near[truth == code]
        away = mine[mine != code]
        if len(away):
            taken, counts = torch.unique(away, return_counts=True)
            to = int(taken[counts.argmax()])
            found.append(
                ClassLosses(
                    names[code],
                    len(mine),
                    len(away),
                    binomial(len(away), len(mine)),
                    names[to] if to >= 0 else "items without a label",
                )
            )
    yield from sorted(found, key=lambda each: (-each.share.low, each.class_name))
