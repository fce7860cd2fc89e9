"""Folds: the threshold from the other folds, the numbers from each, and their mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise import _tables, intervals, metrics
from likewise.calibration import Goal, Guarantee, best_accuracy, calibrate, goal_name
from likewise.errors import InputError
from likewise.evaluation._plain import plain_fields
from likewise.intervals import A_RATE, Estimate
from likewise.metrics import Sweep


@dataclass(frozen=True)
class FoldsResult:
    """Numbers of each fold, and their means with a Student t interval over the folds.

    Attributes:
        accuracy: mean share of a fold's pairs that are judged right.
        true_accept_rate: mean share of its same pairs that are accepted.
        false_accept_rate: mean share of its different pairs that are accepted.
        roc_auc: mean area under the ROC of a fold alone.
        equal_error_rate: mean equal error rate of a fold alone.
        goal: what the thresholds were chosen for.
        thresholds: Thresholds of each fold, chosen on the others.
        per_fold: the values that the means are of, by name.
    """

    accuracy: Estimate
    true_accept_rate: Estimate
    false_accept_rate: Estimate
    roc_auc: Estimate
    equal_error_rate: Estimate
    goal: str
    thresholds: list[float]
    per_fold: dict[str, list[float]]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return plain_fields(self, *self.__dataclass_fields__)


def evaluate_folds(
    folds: Sequence[tuple[Float[Tensor, " p"], Bool[Tensor, " p"]]],
    *,
    goal: Goal = best_accuracy,
) -> FoldsResult:
    """How well distance verifies, with the threshold for each fold from all other folds.

    The protocol of Labeled Faces in the Wild, view 2: ten folds, each of other people. Folds
    that share people, or classes, make numbers too good and intervals too narrow;
    `data.fold_by_class` and `data.lfw_pairs` give ones that do not. The interval takes folds as
    independent, which they nearly are: the thresholds of two folds come from mostly the same
    pairs.

    Args:
        folds: distances (p,) and whether the pairs are the same (p,), of two folds or more.
        goal: what the thresholds are chosen for, see `likewise.calibration`.

    Raises:
        InputError: for fewer than two folds, a fold whose pairs are all the same or all
            different, a distance that is not finite, or a goal that cannot be reached or has a
            confidence.

    Source:
        Huang, Ramesh, Berg & Learned-Miller, "Labeled Faces in the Wild", 2007, section V.

    Example:
        >>> same = torch.tensor([True, True, False, False])
        >>> folds = [(torch.tensor(d), same) for d in ([1.0, 2.0, 3.0, 4.0], [1.5, 3.5, 2.5, 3.0])]
        >>> evaluate_folds(folds).per_fold["accuracy"], evaluate_folds(folds).thresholds
        ([0.75, 0.75], [1.5, 2.0])
    """
    if len(folds) < 2:
        raise InputError(
            f"folds must be at least 2, got {len(folds)}. "
            "Each gets its threshold from the others; ten are usual."
        )
    if isinstance(goal, Guarantee):
        raise InputError(
            f"goal must have no confidence in folds, got {goal_name(goal)}. Pairs of the other "
            "folds may share items: use at_most_false_accepts(rate)."
        )
    names = ("accuracy", "true_accept_rate", "false_accept_rate", "roc_auc", "equal_error_rate")
    per_fold: dict[str, list[float]] = {name: [] for name in names}
    thresholds = []
    for left_out, counts in enumerate([_swept(i, *fold) for i, fold in enumerate(folds)]):
        others = [fold for number, fold in enumerate(folds) if number != left_out]
        threshold = calibrate(
            torch.cat([d.detach().cpu().double() for d, _ in others]),
            torch.cat([s.cpu() for _, s in others]),
            goal=goal,
        ).threshold
        thresholds.append(threshold)
        accepts = int((counts.thresholds <= threshold).sum())
        hits = int(counts.true_accepts[accepts - 1]) if accepts else 0
        wrong = int(counts.false_accepts[accepts - 1]) if accepts else 0
        right = hits + counts.different_total - wrong
        values = (
            right / (counts.same_total + counts.different_total),
            hits / counts.same_total,
            wrong / counts.different_total,
            metrics.roc_auc(counts),
            metrics.equal_error_rate(counts),
        )
        for name, value in zip(names, values, strict=True):
            per_fold[name].append(value)
    means = {
        name: intervals.mean(torch.tensor(values, dtype=torch.float64), within=A_RATE)
        for name, values in per_fold.items()
    }
    return FoldsResult(**means, goal=goal_name(goal), thresholds=thresholds, per_fold=per_fold)


def _swept(number: int, distances: Tensor, same: Tensor) -> Sweep:
    try:
        return metrics.sweep(distances, same)
    except InputError as error:
        raise type(error)(f"fold {number}: {error}") from error
