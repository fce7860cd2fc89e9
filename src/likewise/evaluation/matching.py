"""Matching: are queries given the right class, and unknowns none?"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from likewise import _tables, intervals
from likewise._checks import as_tensor, check_labels
from likewise.errors import InputError
from likewise.evaluation._labeled import kept, labeled
from likewise.evaluation._plain import plain_fields
from likewise.intervals import Estimate
from likewise.matching import UNKNOWN, Matches


@dataclass(frozen=True, eq=False)
class MatchingResult:
    """How well queries are matched with classes, and unknowns rejected.

    A query is *known* if its class is indexed; *accepted* if the answer is a class rather than
    UNKNOWN; *right* if a known one is answered with its class, or any other with UNKNOWN. A
    number is None where no query is of the kind it is a share of. Queries without a label are
    left out of every number, and counted. Intervals are Clopper-Pearson and take queries as
    independent.

    Attributes:
        accuracy: share of all queries that are right.
        accuracy_seen: the same among queries of indexed classes that were trained on.
        accuracy_unseen: the same among queries of indexed classes that were not.
        accuracy_unknown: share answered UNKNOWN among queries whose class is not indexed.
        unknown_share: share of all queries answered UNKNOWN.
        precision: share of the accepted queries that are right.
        identification_rate: share of the known queries that are right (TPIR); one with the wrong
            class is missed. 1 less it is FNIR.
        f1: harmonic mean of precision and the identification rate.
        negative_predictive_value: share of the rejected queries whose class is not indexed.
        queries: how many there were with a label.
        unlabeled: how many there were without one.
        classes: codes of all classes that are indexed or true, ascending.
        class_names: their names, in the same order.
        confusion: counts; row: true class, column: answer, the last one UNKNOWN, (c, c + 1).
        per_class: by name, share of right answers among queries of the class; classes without
            queries are left out.
        right: whether each labeled query is right, (q,).
        truth: their true class codes, (q,).
        counted: which of the queries given they are, ascending, (q,).
    """

    accuracy: Estimate
    accuracy_seen: Estimate | None
    accuracy_unseen: Estimate | None
    accuracy_unknown: Estimate | None
    unknown_share: Estimate
    precision: Estimate | None
    identification_rate: Estimate | None
    f1: Estimate | None
    negative_predictive_value: Estimate | None
    queries: int
    unlabeled: int
    classes: list[int]
    class_names: list[str]
    confusion: Int[Tensor, "c c+1"]
    per_class: dict[str, Estimate]
    right: Bool[Tensor, " q"]
    truth: Int[Tensor, " q"]
    counted: Int[Tensor, " q"]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, object]:
        """All fields but those of single queries, ready for JSON."""
        of_queries = ("right", "truth", "counted")
        return plain_fields(self, *(n for n in self.__dataclass_fields__ if n not in of_queries))


def evaluate_matching(
    matches: Matches | Int[Tensor, " q"],
    truth: Int[Tensor, " q"],
    *,
    indexed_classes: Collection[int],
    seen_classes: Collection[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> MatchingResult:
    """How well queries are matched with classes, and unknowns rejected.

    The words are those of `MatchingResult`.

    Args:
        matches: the answers: matches, or their labels alone, UNKNOWN (-1) where rejected.
        truth: the true class codes, whether indexed or not; -1 for unlabeled queries, which are
            left out and counted. An unknown has the code of a class that is not indexed.
        indexed_classes: codes of the classes that could be answered; the -1 of unlabeled
            items may be among them.
        seen_classes: codes of the classes trained on; without it seen and unseen classes are
            not told apart, and both numbers are None.
        class_names: `class_names[code]` is the name of a class; without it, the code.

    Raises:
        InputError: for answers and truth of different length, no labeled query, an answer that
            is not indexed, or a class without a name.

    Example:
        >>> answers, truth = torch.tensor([0, 1, -1, -1]), torch.tensor([0, 0, 1, 2])
        >>> result = evaluate_matching(answers, truth, indexed_classes=[0, 1])
        >>> print(result.accuracy, result.negative_predictive_value, sep=", ")
        0.500 [0.068, 0.932], 0.500 [0.013, 0.987]
        >>> result.confusion.tolist()
        [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    """
    truth = as_tensor(truth, "truth")
    answers = matches.labels if isinstance(matches, Matches) else matches
    _check_answers(answers, truth, indexed_classes)
    has_label = labeled(truth, len(truth), "truth").cpu()
    answers, truth = kept(has_label, answers.cpu().long(), truth.cpu().long())
    indexed = _codes(indexed_classes)
    known = torch.isin(truth, indexed)
    accepted = answers != UNKNOWN
    hit = accepted & (answers == truth)
    right = torch.where(known, hit, ~accepted)

    def share(of: Tensor, among: Tensor) -> Estimate | None:
        total = int(among.sum())
        return intervals.binomial(int((of & among).sum()), total) if total else None

    seen = unseen = torch.zeros_like(known)
    if seen_classes is not None:
        in_training = torch.isin(truth, _codes(seen_classes))
        seen, unseen = known & in_training, known & ~in_training
    classes = _codes({*indexed.tolist(), *truth.tolist()})
    names = _names(classes.tolist(), class_names)
    per_class = {
        name: share(right, truth == code) for code, name in zip(classes, names, strict=True)
    }
    double_failures = int((known & accepted & ~hit).sum())
    failures = int((known & ~accepted).sum() + (~known & accepted).sum())
    return MatchingResult(
        accuracy=intervals.binomial(int(right.sum()), len(truth)),
        accuracy_seen=share(right, seen),
        accuracy_unseen=share(right, unseen),
        accuracy_unknown=share(right, ~known),
        unknown_share=intervals.binomial(int((~accepted).sum()), len(truth)),
        precision=share(hit, accepted),
        identification_rate=share(hit, known),
        f1=intervals.f1(int(hit.sum()), failures, double_failures)
        if bool((known | accepted).any())
        else None,
        negative_predictive_value=share(~known, ~accepted),
        queries=len(truth),
        unlabeled=int((~has_label).sum()),
        classes=classes.tolist(),
        class_names=names,
        confusion=_confusion(answers, truth, classes),
        per_class={name: rate for name, rate in per_class.items() if rate is not None},
        right=right,
        truth=truth,
        counted=torch.where(has_label)[0],
    )


def _codes(classes: Collection[int]) -> Int[Tensor, " c"]:
    return torch.tensor(sorted(set(classes) - {UNKNOWN}), dtype=torch.long)


def _confusion(answers: Tensor, truth: Tensor, classes: Tensor) -> Int[Tensor, "c c+1"]:
    columns = len(classes) + 1
    column = torch.where(answers == UNKNOWN, len(classes), torch.searchsorted(classes, answers))
    cell = torch.searchsorted(classes, truth) * columns + column
    return cell.bincount(minlength=len(classes) * columns).view(len(classes), columns)


def _names(classes: list[int], class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return [str(code) for code in classes]
    if classes[-1] >= len(class_names):
        raise InputError(
            f"class_names must name every class, got {len(class_names)} names for class codes up "
            f"to {classes[-1]}. Pass the class_names of the whole source."
        )
    return [class_names[code] for code in classes]


def _check_answers(answers: Tensor, truth: Tensor, indexed_classes: Collection[int]) -> None:
    if not isinstance(truth, Tensor) or truth.ndim != 1:
        got = tuple(truth.shape) if isinstance(truth, Tensor) else type(truth).__name__
        raise InputError(f"truth must be a tensor of shape (q,), got {got}.")
    check_labels(answers, len(truth), "matches")
    unknowns = set(answers.tolist()) - set(indexed_classes) - {UNKNOWN}
    if unknowns:
        raise InputError(
            f"matches must be indexed classes or {UNKNOWN} for unknown, got "
            f"{min(unknowns)}, which is not in indexed_classes. Pass the classes of the index."
        )
