"""`match`: neighbors and a threshold in, labels or UNKNOWN out."""

import dataclasses
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables
from likewise.calibration import Calibration, ClassThresholds
from likewise.errors import InputError, InputTypeError
from likewise.index import Neighbors, SearchedBy, name_of
from likewise.matching.prediction_sets import Candidates
from likewise.matching.rules import UNKNOWN, Rule, decide, rule_name
from likewise.probability import Probability


@dataclass(frozen=True, eq=False)
class Matches:
    """One decision per query.

    Args:
        labels: the label decided on, or UNKNOWN, (q,).
        distances: what was compared with the threshold, (q,); inf where nobody had a vote.
        neighbors: The neighbors that decided.
        threshold: a distance up to it was accepted; with thresholds by class, that of the others.
        rule: name of the matching rule.
        limits: with thresholds by class, that of each query's label, (q,).
        probabilities: Chance that the label is right, before it is accepted or not, (q,); 0 where
            nobody had a vote; None unless asked for.
        candidates: Classes that each query may be of; None unless asked for.
    """

    labels: Int[Tensor, " q"]
    distances: Float[Tensor, " q"]
    neighbors: Neighbors
    threshold: float
    rule: str
    limits: Float[Tensor, " q"] | None = None
    probabilities: Float[Tensor, " q"] | None = None
    candidates: Candidates | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def names(self) -> list[str]:
        """The class of each query by its name, or "unknown"; (q,)."""
        names = self.neighbors.class_names
        return [name_of(code, names, "unknown") for code in self.labels.tolist()]

    @property
    def accepted(self) -> Bool[Tensor, " q"]:
        """Whether a query was matched to a known thing, (q,)."""
        return self.labels != UNKNOWN

    def _table(self) -> _tables.Table:
        most, count = _tables.MOST_ROWS, len(self.labels)
        rows: list[tuple[str, ...]] = [("query", "answer", "distance", "probability")]
        shown = zip(self.distances[:most], self.names[:most], strict=True)
        for row, (distance, name) in enumerate(shown):
            chance = "" if self.probabilities is None else f"{float(self.probabilities[row]):.3f}"
            rows.append((str(row), name, f"{float(distance):.4g}", chance))
        if self.candidates is not None:
            sets = ["candidates", *self.candidates.words[:most]]
            rows = [(*row, each) for row, each in zip(rows, sets, strict=True)]
        unknown = count - int(self.accepted.sum())
        said = f"{count:,} quer{'ies' if count != 1 else 'y'}, {unknown:,} unknown"
        title = f"Matches by {self.rule} up to {self.threshold:.4g}: {said}"
        return _tables.Table(title, rows, headings=True, more=max(0, count - most))


def match(
    neighbors: Neighbors,
    threshold: float | Calibration | ClassThresholds,
    *,
    rule: str | Rule = "nearest",
    gallery_size: int | None = None,
    searched_by: SearchedBy | None = None,
    probability: Probability | None = None,
) -> Matches:
    """The label of each query, or UNKNOWN where even the best is too far.

    A query is accepted if the rule finds a label, and its distance is at most the threshold.

    Args:
        neighbors: from `Index.lookup`.
        threshold: in the unit of the distance, or a Calibration made for the same rule and, as
            means over other numbers of neighbors are other distances, the same k. (`nearest`
            looks at one neighbor whatever k is.) Or thresholds by class.
        rule: a name in RULES, or a function like those.
        gallery_size: how many items are indexed now; if more than a guarantee was made for, a
            warning says what it is worth.
        searched_by: How the neighbors were found; if less, or more, than by the search that a
            calibration was measured through, a warning says what it is worth.
        probability: Probability that a label is right, by the distance of this rule, as fitted by
            `fit_logistic(distances, same)` on what `decide` gives; its prior is the share of
            labels that are right.

    Raises:
        InputError: NaN for a threshold, a Calibration for another rule or k, an unknown rule.
        InputTypeError: a threshold that is neither a number nor a Calibration.

    Example:
        >>> import torch
        >>> from likewise.index import Index
        >>> index = Index()
        >>> _ = index.add(torch.eye(2), labels=[0, 1])
        >>> found = index.lookup(torch.tensor([[1.0, 0.1], [1.0, 0.9]]), k=1)
        >>> match(found, 0.1).labels
        tensor([ 0, -1])
        >>> match(found, 0.1).names
        ['0', 'unknown']
    """
    name = rule_name(rule)
    by_class = threshold if isinstance(threshold, ClassThresholds) else None
    bound = threshold.everywhere if isinstance(threshold, ClassThresholds) else threshold
    limit = _limit(bound, name, neighbors.labels.shape[1])
    if isinstance(bound, Calibration) and gallery_size is not None:
        if by_class is not None:
            bound = dataclasses.replace(bound, guarantee=by_class.guarantee)
        if warning := bound.outgrown(gallery_size):
            warnings.warn(warning, stacklevel=2)
    if warning := _searched_otherwise(bound, searched_by):
        warnings.warn(warning, stacklevel=2)
    labels, distances = decide(neighbors, rule)
    limits = None if by_class is None else by_class.of(labels).to(labels.device)
    # In float64: comparing float32 with a number would first round that number to float32.
    accepted = distances.double() <= (limit if limits is None else limits)
    chances = None if probability is None else _chances(probability, labels, distances)
    return Matches(
        labels.where(accepted, UNKNOWN), distances, neighbors, limit, name, limits, chances
    )


def _searched_otherwise(bound: float | Calibration, by: SearchedBy | None) -> str | None:
    if not isinstance(bound, Calibration) or by is None:
        return None
    if by.kind != "exact" and by.recall is None:
        return None  # nothing is known of it
    return bound.searched_otherwise(by.recall)


def _limit(threshold: float | Calibration, rule: str, k: int) -> float:
    if isinstance(threshold, Calibration):
        if threshold.rule != rule:
            raise InputError(
                f"threshold must be calibrated for the rule {rule!r}, "
                f"got one for {threshold.rule!r}. Calibrate with rule={rule!r}, or match by "
                f"{threshold.rule!r}."
            )
        if threshold.k != k and rule != "nearest":
            raise InputError(
                f"threshold must be calibrated for k={k}, as there are neighbors, "
                f"got one for k={threshold.k}. Look up {threshold.k} neighbors, or calibrate anew."
            )
        threshold = threshold.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise InputTypeError(
            f"threshold must be a number or a Calibration, got {threshold!r}. Use float(...)."
        )
    if threshold != threshold:
        raise InputError("threshold must be a number, got NaN. Nothing would be accepted.")
    return float(threshold)


def _chances(
    probability: Probability, labels: Int[Tensor, " q"], distances: Float[Tensor, " q"]
) -> Float[Tensor, " q"]:
    voted = labels != UNKNOWN
    chances = torch.zeros(len(labels), dtype=torch.float64)
    chances[voted.cpu()] = probability.of(distances[voted])
    return chances
