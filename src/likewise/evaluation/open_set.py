"""Open sets: are known queries found and unknowns rejected, and in all classes alike?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables, intervals
from likewise._checks import (
    as_tensors,
    check_choice,
    check_labels,
    check_number,
    check_rate,
    check_same,
)
from likewise.errors import InputError
from likewise.evaluation._labeled import kept, labeled
from likewise.evaluation._plain import plain_fields
from likewise.intervals import A_RATE, FEWEST_GROUPS, Estimate
from likewise.matching import UNKNOWN
from likewise.metrics import Sweep

FALSE_POSITIVE_RATES = (0.1, 0.01, 0.001)
STEPS = 100  # thresholds at which the utilities of classes are compared
MOST_PARTS = 100


@dataclass(frozen=True, eq=False)
class OpenSetResult:
    """How well known queries are found while unknowns are rejected.

    A query is *known* if its class is indexed, else a *unknown*; *accepted* if its distance is
    at most the threshold. The false positive rate (FPIR) is the share of unknowns accepted. The
    false negative rate (FNIR) is the share of known queries that are rejected, or accepted as
    another class.

    Attributes:
        threshold: the one judged.
        balanced_accuracy: mean of the share of known queries that are accepted, as whatever, and
            the share of unknowns that are rejected.
        false_positive_rate: at the threshold.
        false_negative_rate: at the threshold.
        false_negative_rates: Least rate at any threshold that accepts at most such a share of these
            unknowns, by their share; a share of less than one unknown is left out.
        spread: standard deviation of the false negative rate over the known classes, at the
            threshold, less what chance in so few queries gives; 0 where one threshold serves all
            classes alike. None for fewer than two classes of two queries.
        inconsistency: operating-point inconsistency score (OPIS), the variance over the known
            classes of their utility, averaged over thresholds; None for fewer than two classes.
        per_class: false negative rate at the threshold of each known class, by name.
        known_total: how many known queries there were.
        unknown_total: how many unknowns.
        unlabeled: how many queries had no label.
        sweep: false positives and right answers at every threshold, for `plots.fnir_curve`; its
            `recall` is 1 less the false negative rate.
    """

    threshold: float
    balanced_accuracy: Estimate
    false_positive_rate: Estimate
    false_negative_rate: Estimate
    false_negative_rates: dict[float, Estimate]
    spread: Estimate | None
    inconsistency: Estimate | None
    per_class: dict[str, Estimate]
    known_total: int
    unknown_total: int
    unlabeled: int
    sweep: Sweep = field(repr=False)
    _queries: "_Queries" = field(repr=False)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def false_negatives(self, at: float) -> Estimate:
        """Least false negative rate where at most the share `at` of unknowns is accepted.

        Raises:
            InputError: if `at` is not between 0 and 1.
        """
        check_rate("at", at)
        (estimate,) = self._queries.left_out(lambda keep: [self._queries.least(keep, at)])
        return estimate

    def to_dict(self) -> dict[str, object]:
        """The numbers, ready for JSON; the sweep is left out."""
        hidden = ("sweep", "_queries")
        return plain_fields(self, *(n for n in self.__dataclass_fields__ if n not in hidden))


def evaluate_open_set(
    distances: Float[Tensor, " q"],
    labels: Int[Tensor, " q"],
    truth: Int[Tensor, " q"],
    known: Bool[Tensor, " q"],
    *,
    threshold: float,
    class_names: Sequence[str] | None = None,
    within: tuple[float, float] = (0.001, 0.1),
    leave_out: str = "items",
) -> OpenSetResult:
    """How well known queries are found while unknowns are rejected.

    The words are those of `OpenSetResult`. Intervals of rates at the threshold are exact where
    items are left out; all others are jackknives.

    The utility of a class at a threshold is the harmonic mean of two shares: of its queries that
    are accepted as this class, and of all other queries that are not. `inconsistency` takes the
    variance of the utility over the known classes, at evenly spaced thresholds between those
    where the shares `within` of the unknowns are accepted, and means it.

    Args:
        distances: what is compared with the threshold; inf where nobody had a vote.
        labels: the label each query gets if accepted, -1 for none; both from `matching.decide`.
        truth: the true class codes, whether indexed or not; -1 for unlabeled queries, which are
            left out and counted.
        known: whether that class is indexed.
        threshold: chosen on other queries.
        class_names: `class_names[code]` is the name of a class; without it, the code.
        within: the range of false positive rates that matters for `inconsistency`.
        leave_out: what intervals leave out: "items", for claims about new items of these classes,
            or "classes", about new classes; with fewer than 10 of these there is no interval.

    Raises:
        InputError: for wrong shapes, NaN, no labeled query, no known query or no unknown, a
            unknown whose label is its own class, or a range that does not rise.

    Source:
        Grother, Ngan & Hanaoka, "Face Recognition Vendor Test Part 2: Identification", NISTIR
        8271, 2019, section 2 (FPIR and FNIR). Zhang et al., "Threshold-Consistent Margin Loss
        for Open-World Deep Metric Learning", ICLR 2024, section 3 (OPIS; there for pairs).

    Example:
        >>> distances = torch.tensor([0.1, 0.2, 0.3, 0.6, 0.4, 0.7])
        >>> labels = torch.tensor([0, 0, 1, 1, 1, 0])
        >>> truth = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> result = evaluate_open_set(distances, labels, truth, truth < 2, threshold=0.5)
        >>> print(result.false_negative_rate, result.false_positive_rate, sep=", ")
        0.250 [0.006, 0.806], 0.500 [0.013, 0.987]
        >>> float(result.false_negatives(at=0.0))
        0.25
    """
    distances, labels, truth, known = as_tensors(
        distances=distances, labels=labels, truth=truth, known=known
    )
    given = len(_check_distances(distances))
    distances, labels, truth, known = _labeled(distances, labels, truth, known)
    unlabeled = given - len(truth)
    check_choice("leave_out", leave_out, ("classes", "items"))
    check_number("threshold", threshold)
    for rate in within:
        check_rate("within", rate)
    if within[0] >= within[1]:
        raise InputError(f"within must rise, got {within}. Use e.g. (0.001, 0.1).")
    groups = truth if leave_out == "classes" else torch.arange(len(truth))
    fewest = FEWEST_GROUPS if leave_out == "classes" else 2
    queries = _Queries.of(distances, labels, truth, known, groups, fewest)
    if leave_out == "items":
        false_positives, false_negatives, balanced = queries.exactly(threshold)
    else:
        false_positives, false_negatives, balanced = queries.left_out(
            lambda keep: queries.rates(keep, threshold)
        )
    rates = [at for at in FALSE_POSITIVE_RATES if at * queries.unknowns >= 1]
    at_rates = queries.left_out(lambda keep: [queries.least(keep, at) for at in rates])
    spread, inconsistency = queries.left_out(
        lambda keep: [queries.spread(keep, threshold), queries.inconsistency(keep, within)],
        within=(0.0, math.inf),
    )
    return OpenSetResult(
        threshold=float(threshold),
        balanced_accuracy=balanced,
        false_positive_rate=false_positives,
        false_negative_rate=false_negatives,
        false_negative_rates=dict(zip(rates, at_rates, strict=True)),
        spread=None if math.isnan(spread.value) else spread,
        inconsistency=None if math.isnan(inconsistency.value) else inconsistency,
        per_class=queries.per_class(threshold, class_names),
        known_total=int(queries.known.sum()),
        unknown_total=queries.unknowns,
        unlabeled=unlabeled,
        sweep=queries.sweep(),
        _queries=queries,
    )


@dataclass(frozen=True, eq=False)
class _Queries:
    """Queries in the order of their distances; what a `keep` keeps stays in order."""

    distances: Tensor  # inf where no label was found
    right: Tensor
    known: Tensor
    own: Tensor  # row of the true class in `classes`; of no meaning for unknowns
    answer: Tensor  # row of the label in `classes`, or their number for any other
    classes: Tensor  # codes of the known classes, ascending
    groups: Tensor
    fewest: int  # groups that an interval needs

    @classmethod
    def of(
        cls,
        distances: Tensor,
        labels: Tensor,
        truth: Tensor,
        known: Tensor,
        groups: Tensor,
        fewest: int,
    ) -> "_Queries":
        distances, labels, truth = distances.detach().cpu().double(), labels.cpu(), truth.cpu()
        distances = distances.masked_fill(labels == UNKNOWN, torch.inf)
        order = distances.argsort(stable=True)
        distances, labels, truth = distances[order], labels[order], truth[order]
        known = known.cpu()[order]
        classes = torch.unique(truth[known])
        row = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
        return cls(
            distances=distances,
            right=known & (labels == truth),
            known=known,
            own=torch.searchsorted(classes, truth),
            answer=row.where(classes[row] == labels, len(classes)),
            classes=classes,
            groups=groups.cpu()[order],
            fewest=fewest,
        )

    @property
    def unknowns(self) -> int:
        return int((~self.known).sum())

    @property
    def class_sizes(self) -> Int[Tensor, " c"]:
        return self.own[self.known].bincount(minlength=len(self.classes))

    def left_out(
        self, numbers: Callable[[Tensor], list[float]], within: tuple[float, float] = A_RATE
    ) -> list[Estimate]:
        return intervals.jackknife_all(
            numbers, self.groups, most_groups=MOST_PARTS, fewest=self.fewest, within=within
        )

    def least(self, keep: Tensor, at: float) -> float:
        """The least false negative rate that the share `at` of false positives allows."""
        unknowns = self.distances[~self.known & keep]
        right = self.distances[self.right & keep]
        total = int((self.known & keep).sum())
        if total == 0 or len(unknowns) == 0:
            return math.nan
        # A hair more, as 0.3 of 10 unknowns must be 3 of them.
        allowed = math.floor(at * len(unknowns) * (1 + 1e-12))
        limit = unknowns[allowed] if allowed < len(unknowns) else torch.tensor(torch.inf)
        return 1 - int((right < limit).sum()) / total

    def counts(self, keep: Tensor, threshold: float) -> tuple[int, int, int, int, int]:
        accepted = keep & (self.distances <= threshold)
        return (
            int((accepted & ~self.known).sum()),
            int((keep & ~self.known).sum()),
            int((accepted & self.right).sum()),
            int((accepted & self.known).sum()),
            int((keep & self.known).sum()),
        )

    def rates(self, keep: Tensor, threshold: float) -> list[float]:
        """False positive rate, false negative rate and balanced accuracy."""
        wrong, unknowns, right, accepted, known = self.counts(keep, threshold)
        if unknowns == 0 or known == 0:
            return [math.nan] * 3
        positives, found = wrong / unknowns, accepted / known
        return [positives, 1 - right / known, (found + 1 - positives) / 2]

    def exactly(self, threshold: float) -> list[Estimate]:
        """The same with exact intervals, queries taken as independent."""
        everything = torch.ones_like(self.known)
        wrong, unknowns, right, accepted, known = self.counts(everything, threshold)
        found = intervals.binomial(accepted, known)
        rejected = intervals.binomial(unknowns - wrong, unknowns)
        value = (found.value + rejected.value) / 2
        below = math.hypot(found.value - found.low, rejected.value - rejected.low) / 2
        above = math.hypot(found.high - found.value, rejected.high - rejected.value) / 2
        balanced = Estimate(
            value,
            value - below,
            value + above,
            "95% from the exact binomial intervals of both shares (Newcombe's square and add), "
            "cases taken as independent",
        )
        return [
            intervals.binomial(wrong, unknowns),
            intervals.binomial(known - right, known),
            balanced,
        ]

    def per_class(self, threshold: float, names: Sequence[str] | None) -> dict[str, Estimate]:
        missed = self.known & ~(self.right & (self.distances <= threshold))
        errors = self.own[missed].bincount(minlength=len(self.classes)).tolist()
        codes = self.classes.tolist()
        if names is not None and codes[-1] >= len(names):
            raise InputError(
                f"class_names must name every class, got {len(names)} names for class codes up "
                f"to {codes[-1]}. Pass the class_names of the whole source."
            )
        return {
            str(code) if names is None else names[code]: intervals.binomial(wrong, total)
            for code, wrong, total in zip(codes, errors, self.class_sizes.tolist(), strict=True)
        }

    def spread(self, keep: Tensor, threshold: float) -> float:
        known = self.known & keep
        missed = known & ~(self.right & (self.distances <= threshold))
        total = self.own[known].bincount(minlength=len(self.classes)).double()
        rate = self.own[missed].bincount(minlength=len(self.classes)).double() / total
        rate, total = rate[total > 1], total[total > 1]
        if len(rate) < 2:
            return math.nan
        chance = (rate * (1 - rate) / (total - 1)).mean()
        return math.sqrt(max(float(rate.var() - chance), 0.0))

    def inconsistency(self, keep: Tensor, within: tuple[float, float]) -> float:
        unknowns = self.distances[~self.known & keep]
        known = self.known & keep
        total = self.own[known].bincount(minlength=len(self.classes)).double()
        if len(unknowns) == 0 or int((total > 0).sum()) < 2:
            return math.nan
        low, high = (
            float(unknowns[min(math.floor(rate * len(unknowns)), len(unknowns) - 1)])
            for rate in within
        )
        if not math.isfinite(high):
            return math.nan
        steps = low + (high - low) * (torch.arange(STEPS).double() + 0.5) / STEPS
        hits = self._accepted_as(self.own, self.right & keep, steps)
        wrong = self._accepted_as(self.answer, ~self.right & keep, steps)
        present = total > 0
        others = int(keep.sum()) - total
        found = (hits / total[:, None])[present]
        spared = (1 - wrong / others[:, None])[present]
        utility = 2 * found * spared / (found + spared).clamp(min=1e-300)
        return float(utility.var(dim=0, correction=0).mean())

    def _accepted_as(self, classes: Tensor, some: Tensor, steps: Tensor) -> Float[Tensor, "c s"]:
        """How many of some queries are accepted at each threshold, by their row of `classes`."""
        first = torch.searchsorted(steps, self.distances[some])  # threshold that accepts a query
        rows, columns = len(self.classes), len(steps) + 1
        inside = classes[some] < rows
        cells = classes[some][inside] * columns + first[inside]
        counts = cells.bincount(minlength=rows * columns).view(rows, columns)
        return counts.cumsum(dim=1)[:, :-1].double()

    def sweep(self) -> Sweep:
        right, unknowns = self.distances[self.right], self.distances[~self.known]
        finite = torch.cat([right, unknowns])
        thresholds = torch.unique(finite[finite.isfinite()])
        return Sweep(
            thresholds=thresholds,
            true_accepts=torch.searchsorted(right, thresholds, right=True),
            false_accepts=torch.searchsorted(unknowns, thresholds, right=True),
            same_total=len(right),
            different_total=len(unknowns),
            known_total=int(self.known.sum()),
        )


def _check_distances(distances: object) -> Tensor:
    if not isinstance(distances, Tensor) or distances.ndim != 1:
        got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise InputError(
            f"distances must be a tensor of shape (q,), one per query, got {got}. "
            "matching.decide(neighbors, rule) gives them."
        )
    if bool((distances.isnan() | distances.isneginf()).any()):
        raise InputError("distances must be numbers, or inf where nobody had a vote, got NaN.")
    return distances


def _labeled(
    distances: Tensor, labels: Tensor, truth: Tensor, known: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The queries that have a label, checked."""
    check_labels(labels, len(distances), "labels")
    check_same(known, len(distances), "known")
    has_label = labeled(truth, len(distances), "truth")
    distances, labels, truth, known = kept(has_label, distances, labels, truth, known)
    if bool(known.all()) or not bool(known.any()):
        raise InputError(
            "known must hold known queries and unknowns, got "
            f"{int(known.sum())} known of {len(known)}. Add queries of classes that are "
            f"{'not ' if bool(known.any()) else ''}indexed."
        )
    if bool((~known & (labels == truth)).any()):
        raise InputError(
            f"known must be True wherever labels equal truth, got "
            f"{int((~known & (labels == truth)).sum())} unknowns with the label of their own "
            "class. Such a class is indexed."
        )
    return distances, labels, truth, known
