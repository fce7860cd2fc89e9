"""Pairs whose truth is known, checked and counted once for any number of goals."""

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import intervals
from likewise._checks import (
    as_tensors,
    check_at_least,
    check_choice,
    check_count,
    check_labels,
)
from likewise.calibration.calibrated import Calibration
from likewise.calibration.goals import Goal, goal_name
from likewise.calibration.guarantee import (
    Guarantee,
    MeanGuarantee,
    Unknowns,
    disjoint_rows,
    keep,
    keep_mean,
)
from likewise.calibration.unknowns import KINDS, UnknownsJudged
from likewise.errors import InputError
from likewise.intervals import A_RATE, FEWEST_GROUPS, Estimate
from likewise.metrics import Sweep, sweep

PARTS_OF_ITEMS = 50  # Student's t with 49 degrees of freedom is 1% wider than with 99
SAMPLE = 1000  # with as many new distances, a gap of 0.07 between shares is noticed


@dataclass(frozen=True, eq=False)
class Trials:
    """What `calibrate` and its siblings choose from; on the CPU, distances in float64."""

    counts: Sweep
    distances: Float[Tensor, " p"]
    same: Bool[Tensor, " p"]
    known: Bool[Tensor, " p"] | None
    slots: Int[Tensor, "p s"] | None
    independent: bool
    rule: str
    k: int | None
    gallery_size: int | None
    sample: tuple[float, ...]
    classes: Int[Tensor, " p"] | None = None
    guarantee_for: str = "classes"
    counted: Unknowns | None = None  # of the whole that this is a part of
    kind: str = "given"  # of the unknowns
    as_given: int | None = None  # how many, the first ones, are as the data has them; None: all

    @classmethod
    def of(
        cls,
        distances: Float[Tensor, " p"],
        same: Bool[Tensor, " p"],
        *,
        items: Int[Tensor, "p *s"] | None,
        known: Bool[Tensor, " p"] | None,
        rule: str,
        k: int | None,
        gallery_size: int | None = None,
        classes: Int[Tensor, " p"] | None = None,
        guarantee_for: str = "classes",
        kind: str = "given",
        growth: float = 1.0,
        as_given: int | None = None,
    ) -> "Trials":
        """Check and count. With a gallery size, a query without items is an item of its own."""
        distances, same, items, known, classes = as_tensors(
            distances=distances, same=same, items=items, known=known, classes=classes
        )
        check_choice("guarantee_for", guarantee_for, ("classes", "items"))
        check_choice("kind", kind, KINDS)
        check_at_least("growth", growth, 1)
        if k is not None:
            check_count("k", k)
        if gallery_size is not None:
            check_count("gallery_size", gallery_size)
            if known is None:
                raise InputError(
                    "known must say which queries are of indexed classes where there is a "
                    "gallery_size, got None."
                )
        counts = _swept(distances, same, known, growth, matching=gallery_size is not None)
        slots = None if items is None else intervals.checked_items(items, len(same))
        if slots is None and gallery_size is not None:
            slots = torch.arange(len(same))[:, None]
        distances = distances.detach().double().cpu()
        return cls(
            counts=counts,
            distances=distances,
            same=same.cpu(),
            known=None if known is None else known.cpu(),
            slots=slots,
            independent=slots is None or _all_differ(slots),
            rule=rule,
            k=k,
            gallery_size=gallery_size,
            sample=_sample(distances, slots),
            classes=_checked_classes(classes, len(same)),
            guarantee_for=guarantee_for,
            kind=kind,
            as_given=as_given,
        )

    def part(self, some: Bool[Tensor, " p"]) -> "Trials":
        """These pairs only; what a guarantee counts is what it counts of all."""
        part = Trials.of(
            self.distances[some],
            self.same[some],
            items=None if self.independent or self.slots is None else self.slots[some],
            known=None if self.known is None else self.known[some],
            rule=self.rule,
            k=self.k,
            gallery_size=self.gallery_size,
            classes=None if self.classes is None else self.classes[some],
            guarantee_for=self.guarantee_for,
            kind=self.kind,
            growth=self.counts.growth,
            as_given=None if self.as_given is None else int(some[: self.as_given].sum()),
        )
        if self.unknowns is None:
            return part
        return dataclasses.replace(
            part, counted=self.unknowns._replace(rows=self.unknowns.rows[some])
        )

    @cached_property
    def unknowns(self) -> Unknowns | None:
        """The queries that a guarantee counts; None where it is not told which are known."""
        if self.counted is not None or self.is_unknown is None or self.slots is None:
            return self.counted
        return Unknowns.of(self.is_unknown, self.slots, self.classes, by=self.guarantee_for)

    @property
    def is_unknown(self) -> Bool[Tensor, " p"] | None:
        """Queries of classes that are not indexed; None where it is not told which are known."""
        return None if self.known is None else ~self.known

    def calibrated(self, goal: Goal, *, keep_sweep: bool = False) -> Calibration:
        """The threshold that a goal chooses, and what it costs."""
        counts, guarantee = self.counts, None
        if isinstance(goal, Guarantee) and self.slots is not None:
            at, guarantee = keep(
                goal,
                counts,
                self.distances,
                self.same,
                self.slots,
                self.unknowns,
                self._growth_with,
            )
        elif (
            isinstance(goal, MeanGuarantee)
            and (unknown := self.is_unknown) is not None
            and self.classes is not None
        ):
            at, guarantee = keep_mean(
                goal, counts, self.distances[unknown], self.classes[unknown], self._growth_with
            )
        else:
            at = self._by_mix(goal) if getattr(goal, "of_mix", False) else goal(counts)
        if not 0 <= at < len(counts.thresholds):
            raise InputError(
                f"goal must return a position from 0 to {len(counts.thresholds) - 1}, got {at}."
            )
        threshold = float(counts.thresholds[at])
        rates = {name: _here(estimate) for name, estimate in self._rates(at, threshold).items()}
        unknowns: tuple[UnknownsJudged, ...] = ()
        if self._has_unknowns:
            unknowns = (self._judged(threshold, rates["false_accept_rate"], goal),)
        return Calibration(
            threshold=threshold,
            goal=goal_name(goal),
            rule=self.rule,
            k=self.k,
            same_total=counts.same_total,
            different_total=counts.different_total,
            **rates,
            guarantee=guarantee,
            gallery_size=self.gallery_size,
            unknowns=unknowns,
            known=None,  # which takes the stored items, as the search through them does
            search="exact",
            search_recall=None,
            sample=self.sample,
            sweep=counts if keep_sweep else None,
        )

    def _by_mix(self, goal: Goal) -> int:
        """The position by a goal that depends on the mix: of the queries as the data has them."""
        counts, first = self.counts, slice(self.as_given)
        same = self.same[first]
        if self.as_given is None or self.known is None or bool(same.all()) or not bool(same.any()):
            return goal(counts)  # without a mistake nothing tells how far is too far
        mix = sweep(self.distances[first], same, known=self.known[first])
        return int(torch.searchsorted(counts.thresholds, mix.thresholds[goal(mix)]))

    def _growth_with(self, classes: int) -> float:
        """The growth if items of this many classes were judged without their own class."""
        growth = self.counts.growth
        if self.kind not in ("left out", "trained") or self.classes is None:
            return growth
        now = len(torch.unique(self.classes[cast(Tensor, self.is_unknown)]))
        return growth * ((now - 1) / now) * (classes / max(1, classes - 1))

    def judged(self, threshold: float, kept: float, goal: Goal) -> UnknownsJudged:
        """These unknowns, which alone give one threshold, at the threshold that was kept."""
        return self._judged(threshold, _here(self._unknowns_accepted(kept)), goal)

    @property
    def _has_unknowns(self) -> bool:
        return self.is_unknown is not None and bool(self.is_unknown.any())

    def _judged(self, threshold: float, accepted: Estimate, goal: Goal) -> UnknownsJudged:
        unknown = cast(Tensor, self.is_unknown)
        return UnknownsJudged(
            kind=self.kind,
            items=int(unknown.sum()),
            classes=None if self.classes is None else len(torch.unique(self.classes[unknown])),
            threshold=threshold,
            accepted=accepted,
            asked=getattr(goal, "rate", None),
        )

    def _unknowns_accepted(self, threshold: float) -> Estimate:
        """Share of the unknowns accepted; its unit is the class, unless items are asked for."""
        unknown = cast(Tensor, self.is_unknown)
        accepted = (self.distances <= threshold)[unknown]
        units = None if self.slots is None else self.slots[unknown]
        if self.classes is not None and self.guarantee_for == "classes":
            units = self.classes[unknown, None]
        if units is None or _all_differ(units):
            found = intervals.binomial(int(accepted.sum()), len(accepted))
        elif units.shape[1] == 1 and bool((accepted == accepted[0]).all()):
            number = len(torch.unique(units))  # alike in all units, which a jackknife cannot tell
            found = intervals.binomial(number * int(accepted[0]), number)
        else:
            found = intervals.jackknife(
                lambda kept: _share(accepted[kept]),
                units,
                most_groups=PARTS_OF_ITEMS,
                fewest=FEWEST_GROUPS,
                within=A_RATE,
            )
        growth = self.counts.growth
        if growth == 1:
            return found
        value, low, high = (
            x if math.isnan(x) else min(1.0, growth * x)  # nan of no interval stays
            for x in (found.value, found.low, found.high)
        )
        return Estimate(value, low, high, f"{found.method}; times {growth:.3g} for the gallery")

    def _rates(self, at: int, threshold: float) -> dict[str, Estimate]:
        accepted = self.distances <= threshold
        if not self.independent and self.slots is not None:
            rates = _leaving_out(self.slots, accepted, self.same, self.known)
        else:
            # A known query that accepts a wrong neighbor is wrong and missed: one case, two errors.
            both = 0 if self.known is None else int((accepted & self.known & ~self.same).sum())
            rates = _independent(self.counts, at, both)
        if self.known is None:
            del rates["identification_rate"]
        if self._has_unknowns:
            rates["false_accept_rate"] = self._unknowns_accepted(threshold)
        return rates


def _share(accepted: Bool[Tensor, " n"]) -> float:
    return float(accepted.double().mean())  # nan of none


def _swept(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    known: Bool[Tensor, " p"] | None,
    growth: float,
    *,
    matching: bool,
) -> Sweep:
    if matching and isinstance(same, Tensor) and same.dtype == torch.bool and len(same):
        right = int(same.sum())
        if right in (0, len(same)):
            raise InputError(
                f"queries must be answered rightly and wrongly to choose a threshold, got {right} "
                f"right answers and {len(same) - right} wrong ones. "
                + (
                    "Add queries whose class is not indexed."
                    if right
                    else "Add queries whose class is indexed."
                )
            )
    return sweep(distances, same, known=known, growth=growth)


def _checked_classes(classes: object, queries: int) -> Int[Tensor, " q"] | None:
    if classes is None:
        return None
    check_labels(classes, queries, "classes")
    codes = torch.as_tensor(classes).cpu()
    if queries and int(codes.min()) < 0:
        raise InputError(
            f"classes must be class codes of at least 0, got {int(codes.min())}. Leave unlabeled "
            "queries out, and give an unknown the code of a class that is not indexed."
        )
    return codes


def _sample(distances: Float[Tensor, " p"], slots: Int[Tensor, "p s"] | None) -> tuple[float, ...]:
    # Rows are drawn without a look at distances, so that a random sample of independent ones is
    # left; from few, as a look at the items of all would take longer than the calibration.
    most = min(4 * SAMPLE, len(distances))
    rows = torch.from_numpy(np.random.default_rng(1).choice(len(distances), most, replace=False))
    if slots is not None:
        rows = rows[disjoint_rows(slots[rows])]
    return tuple(distances[rows[:SAMPLE]].sort().values.tolist())


def _all_differ(items: Int[Tensor, "p s"]) -> bool:
    ordered = np.sort(items.numpy(), axis=None)  # many times as fast as looking for distinct ones
    return bool((ordered[1:] != ordered[:-1]).all())


def _independent(counts: Sweep, at: int, both: int) -> dict[str, Estimate]:
    hits, wrong = int(counts.true_accepts[at]), int(counts.false_accepts[at])
    missed = counts.to_be_found - hits
    right = hits + counts.different_total - wrong
    return {
        "true_accept_rate": intervals.binomial(hits, counts.same_total),
        "false_accept_rate": intervals.binomial(wrong, counts.different_total),
        "precision": intervals.binomial(hits, hits + wrong),
        "identification_rate": intervals.binomial(hits, counts.to_be_found),
        "f1": intervals.f1(hits, wrong + missed - 2 * both, both),
        "f1_tensorflow_similarity": intervals.f1(hits, wrong + counts.same_total - hits),
        "accuracy": intervals.binomial(right, counts.same_total + counts.different_total),
    }


def _leaving_out(
    items: Int[Tensor, "p s"],
    accepted: Bool[Tensor, " p"],
    same: Bool[Tensor, " p"],
    known: Bool[Tensor, " p"] | None,
) -> dict[str, Estimate]:
    known = same if known is None else known
    kind = accepted.to(torch.uint8) + 2 * same.to(torch.uint8) + 4 * known.to(torch.uint8)

    def rates(kept: Bool[Tensor, " p"]) -> dict[str, float]:
        # By known, same, accepted; counted once for all rates.
        count = torch.bincount(kind[kept], minlength=8).view(2, 2, 2).double()
        hits, wrong = count[:, 1, 1].sum(), count[:, 0, 1].sum()
        same_total, different_total = count[:, 1].sum(), count[:, 0].sum()
        to_be_found = count[1].sum()
        shares = {
            "true_accept_rate": hits / same_total,
            "false_accept_rate": wrong / different_total,
            "precision": hits / (hits + wrong),
            "identification_rate": hits / to_be_found,
            "f1": 2 * hits / (hits + wrong + to_be_found),
            "f1_tensorflow_similarity": 2 * hits / (hits + wrong + same_total),
            "accuracy": (hits + different_total - wrong) / (same_total + different_total),
        }
        return {name: float(share) for name, share in shares.items()}  # 0 / 0 is nan

    estimates = intervals.jackknife_all(
        lambda kept: list(rates(kept).values()),
        items,
        most_groups=PARTS_OF_ITEMS,
        fewest=FEWEST_GROUPS,
        within=A_RATE,
    )
    return dict(zip(rates(torch.ones_like(same)), estimates, strict=True))


def _here(estimate: Estimate) -> Estimate:
    return dataclasses.replace(
        estimate, method=f"{estimate.method}; on the pairs the threshold was chosen on"
    )
