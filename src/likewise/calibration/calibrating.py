"""`calibrate`: from pairs whose truth is known to a threshold and what it costs."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import intervals
from likewise._checks import check_count
from likewise.calibration.goals import Goal, best_f1, goal_name
from likewise.calibration.promise import KeptPromise, Promise, keep
from likewise.intervals import A_RATE, Estimate
from likewise.metrics import Sweep, sweep

PARTS_OF_ITEMS = 50  # Student's t with 49 degrees of freedom is 1% wider than with 99


@dataclass(frozen=True)
class Calibration:
    """A threshold, what it was made for, and what it costs on the pairs it was chosen on.

    The intervals leave out items where `calibrate` was told which a pair holds, else they take
    the pairs as independent. As the threshold was chosen on the very same pairs, the numbers
    are a little better than new pairs would give; `method` says so.

    Attributes:
        threshold: accept where `distance <= threshold`.
        goal: the name of the goal, see `goal_name`.
        rule: "pairs" for verification, else the matching rule whose distances these were.
        k: how many neighbours the rule looked at; None for pairs.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        true_accept_rate: share of the same pairs accepted. In search this is TensorFlow
            Similarity's "recall".
        false_accept_rate: share of the different pairs accepted.
        precision: share of the accepted pairs that are the same.
        recall: share of what was to be found that was accepted and right; differs from
            `true_accept_rate` in search, where a known query with a wrong neighbour is missed.
        f1: of precision and recall.
        f1_tensorflow_similarity: of precision and true_accept_rate, as that library has it.
        accuracy: share of all pairs accepted and the same, or rejected and different.
        promise: on the true false accept rate, if the goal has a confidence.
        sweep: all thresholds, if asked to be kept; not saved.
    """

    threshold: float
    goal: str
    rule: str
    k: int | None
    same_total: int
    different_total: int
    true_accept_rate: Estimate
    false_accept_rate: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    f1_tensorflow_similarity: Estimate
    accuracy: Estimate
    promise: KeptPromise | None = None
    sweep: Sweep | None = dataclasses.field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """All fields but the sweep, ready for JSON."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return {
            name: value.to_dict() if isinstance(value, (Estimate, KeptPromise)) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_dict(cls, fields: object) -> "Calibration":
        """The calibration that `to_dict` wrote, without a sweep.

        Raises:
            ValueError: if `fields` is not such a dict; the sentence names what is wrong.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"a calibration must be a dict, got {type(fields).__name__}.")
        for problem, names in [
            ("lacks", _FIELDS.keys() - fields.keys()),
            ("has the unknown", fields.keys() - _FIELDS.keys()),
        ]:
            if names:
                listed = ", ".join(sorted(map(str, names)))
                raise ValueError(
                    f"a calibration must have the fields of `Calibration`, got one that {problem} "
                    f"{listed}. Calibrate again with this version."
                )
        return cls(**{name: read(name, fields[name]) for name, read in _FIELDS.items()})


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
    neighbour (or what the matching rule makes of its k neighbours), and `same` says whether
    their labels agree. The choice is exact over every distinct distance, in O(p log p). No
    item may be its own neighbour.

    Pairs that share an item are not independent: an odd photograph spoils all of its pairs at
    once. Say with `items` which items a pair holds, or which classes, for claims about new
    classes; they are taken as a random sample of those to come. Every interval then leaves out
    one item at a time with all its pairs (jackknife, the threshold as it is), and a goal with
    a confidence, which needs it, is kept on negatives that share no item. Where no item comes
    twice, as with `torch.arange(p)`, pairs are independent and intervals exact binomial.

    Args:
        distances: one per pair; smaller is closer.
        same: whether the pair truly belongs together.
        goal: chooses among the thresholds; it may refuse.
        items: the items (or classes) a pair holds, (p, 2), or (p,) where it is one, as the query
            in search (the index then being the one there will be); any integers.
        known: in search, whether the query's class is indexed; see `metrics.sweep`.
        rule: what made the distances: "pairs", or the name of a matching rule.
        k: how many neighbours that rule looked at.
        keep_sweep: also keep the counts at every threshold, for plots.

    Raises:
        ValueError: if the pairs are all the same or all different, if a distance is not
            finite, if no threshold reaches the goal, or if there are fewer than 10 items.

    Example:
        >>> distances, same = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([True, False, True])
        >>> calibration = calibrate(distances, same)
        >>> f"{calibration.threshold:.1f}", str(calibration.recall)
        ('0.2', '1.000 [0.158, 1.000]')
    """
    if k is not None:
        check_count("k", k)
    counts = sweep(distances, same, known=known)
    distances, same = distances.detach().double().cpu(), same.cpu()
    known = None if known is None else known.cpu()
    slots = None if items is None else intervals.checked_items(items, len(same))
    promise = None
    if isinstance(goal, Promise) and slots is not None:
        at, promise = keep(goal, counts, distances, same, slots)
    else:
        at = goal(counts)
    if not 0 <= at < len(counts.thresholds):
        raise ValueError(
            f"goal must return a position from 0 to {len(counts.thresholds) - 1}, got {at}."
        )
    threshold = float(counts.thresholds[at])
    if slots is None or _all_differ(slots):
        # A known query that accepts a wrong neighbour is wrong and missed: one case, two errors.
        both = 0 if known is None else int(((distances <= threshold) & known & ~same).sum())
        rates = _independent(counts, at, both)
    else:
        rates = _leaving_out(slots, distances <= threshold, same, known)
    return Calibration(
        threshold=threshold,
        goal=goal_name(goal),
        rule=rule,
        k=k,
        same_total=counts.same_total,
        different_total=counts.different_total,
        **{name: _here(estimate) for name, estimate in rates.items()},
        promise=promise,
        sweep=counts if keep_sweep else None,
    )


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
        "recall": intervals.binomial(hits, counts.to_be_found),
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
            "recall": hits / to_be_found,
            "f1": 2 * hits / (hits + wrong + to_be_found),
            "f1_tensorflow_similarity": 2 * hits / (hits + wrong + same_total),
            "accuracy": (hits + different_total - wrong) / (same_total + different_total),
        }
        return {name: float(share) for name, share in shares.items()}  # 0 / 0 is nan

    estimates = intervals.jackknife_all(
        lambda kept: list(rates(kept).values()), items, most_groups=PARTS_OF_ITEMS, within=A_RATE
    )
    return dict(zip(rates(torch.ones_like(same)), estimates, strict=True))


def _here(estimate: Estimate) -> Estimate:
    return dataclasses.replace(
        estimate, method=f"{estimate.method}; on the pairs the threshold was chosen on"
    )


def _read_estimate(name: str, value: object) -> Estimate:
    try:
        return Estimate.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{name} of a calibration cannot be read: {error}") from error


def _read_promise(name: str, value: object) -> KeptPromise | None:
    try:
        return None if value is None else KeptPromise.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{name} of a calibration cannot be read: {error}") from error


def _read_threshold(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} of a calibration must be a finite number, got {value!r}.")
    return float(value)


def _read_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} of a calibration must be text, got {value!r}.")
    return value


def _read_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} of a calibration must be a whole number above 0, got {value!r}.")
    return value


def _read_k(name: str, value: object) -> int | None:
    return None if value is None else _read_count(name, value)


# How each saved field is read back.
_FIELDS: dict[str, Callable[[str, object], Any]] = {
    "threshold": _read_threshold,
    "goal": _read_text,
    "rule": _read_text,
    "k": _read_k,
    "same_total": _read_count,
    "different_total": _read_count,
    **dict.fromkeys(
        (
            "true_accept_rate",
            "false_accept_rate",
            "precision",
            "recall",
            "f1",
            "f1_tensorflow_similarity",
            "accuracy",
        ),
        _read_estimate,
    ),
    "promise": _read_promise,
}
