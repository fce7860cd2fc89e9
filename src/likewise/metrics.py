"""Counts at every threshold, the curves and numbers read off them, and ranking metrics."""

import bisect
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_count, check_finite, check_labels, check_rate, check_same


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is accepted at every distinct distance, strictest threshold first.

    Entry i counts the pairs with `distance <= thresholds[i]`, so every entry accepts at
    least one pair and the last one all; "accept nothing" has no entry. In verification a
    pair is two items; in search it is a query with its nearest neighbour, and `same` says
    whether their labels agree.

    Attributes:
        thresholds: the distinct distances, ascending, (t,) float64.
        true_accepts: accepted pairs that are the same, (t,) int64.
        false_accepts: accepted pairs that are different, (t,) int64.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        known_total: pairs in which something right was there to be found; in search the
            queries whose class is indexed, whether or not their nearest neighbour has it.
            None stands for `same_total`.
    """

    thresholds: Float[Tensor, " t"]
    true_accepts: Int[Tensor, " t"]
    false_accepts: Int[Tensor, " t"]
    same_total: int
    different_total: int
    known_total: int | None = None

    @property
    def to_be_found(self) -> int:
        """`known_total`, or `same_total` where that is None."""
        return self.same_total if self.known_total is None else self.known_total

    @property
    def accepts(self) -> Int[Tensor, " t"]:
        """Accepted pairs."""
        return self.true_accepts + self.false_accepts

    @property
    def true_accept_rate(self) -> Float[Tensor, " t"]:
        """Share of the same pairs that are accepted.

        In search this is what TensorFlow Similarity calls recall: a known query whose nearest
        neighbour has the wrong label is left out.
        """
        return self.true_accepts.double() / self.same_total

    @property
    def false_accept_rate(self) -> Float[Tensor, " t"]:
        """Share of the different pairs that are accepted."""
        return self.false_accepts.double() / self.different_total

    @property
    def precision(self) -> Float[Tensor, " t"]:
        """Share of the accepted pairs that are the same."""
        return self.true_accepts.double() / self.accepts

    @property
    def recall(self) -> Float[Tensor, " t"]:
        """Right accepts as a share of what was to be found.

        Equal to `true_accept_rate` but in search, where a known query whose nearest neighbour
        has the wrong label counts as missed.
        """
        return self.true_accepts.double() / self.to_be_found

    @property
    def f1(self) -> Float[Tensor, " t"]:
        """Harmonic mean of precision and recall."""
        return 2 * self.true_accepts.double() / (self.accepts + self.to_be_found)

    @property
    def f1_tensorflow_similarity(self) -> Float[Tensor, " t"]:
        """Harmonic mean of precision and `true_accept_rate`, to compare with that library."""
        return 2 * self.true_accepts.double() / (self.accepts + self.same_total)

    @property
    def accuracy(self) -> Float[Tensor, " t"]:
        """Share of all pairs that are the same and accepted, or different and rejected."""
        right = self.true_accepts + (self.different_total - self.false_accepts)
        return right.double() / (self.same_total + self.different_total)

    @property
    def negative_predictive_value(self) -> Float[Tensor, " t"]:
        """Share of the rejected pairs that are different; nan where nothing is rejected."""
        rejects = self.same_total + self.different_total - self.accepts
        return (self.different_total - self.false_accepts).double() / rejects


def sweep(
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    known: Bool[Tensor, " p"] | None = None,
) -> Sweep:
    """Count accepts at every distinct distance, in O(p log p).

    Equal distances are accepted together. Distances are compared in float64, so thresholds
    are exactly the distances given.

    Args:
        distances: one per pair; smaller is closer; may be negative.
        same: whether the pair truly belongs together.
        known: in search, whether the query's class is indexed at all, so that a right
            neighbour existed; it counts in recall. Without it, exactly where `same`.

    Raises:
        ValueError: if all pairs are the same or all are different, as no threshold can be
            judged then; for NaN or infinite distances; if a pair is the same but not known.

    Example:
        >>> counts = sweep(torch.tensor([0.1, 0.4, 0.4]), torch.tensor([True, True, False]))
        >>> counts.thresholds.tolist(), counts.true_accepts.tolist()
        ([0.10000000149011612, 0.4000000059604645], [1, 2])
    """
    if not isinstance(distances, Tensor) or distances.ndim != 1:
        got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise ValueError(
            f"distances must be a tensor of shape (p,), one per pair, got {got}. "
            "Use Distance.paired, or .flatten()."
        )
    check_same(same, len(distances))
    check_finite(distances, "distances")
    known_total = None
    if known is not None:
        check_same(known, len(distances), "known")
        known_total = int(known.sum())
        if bool((same & ~known).any()):
            raise ValueError(
                "known must be True wherever same is, got "
                f"{int((same & ~known).sum())} pairs that are the same but not known. "
                "A neighbour with the query's label shows that its class is indexed."
            )
    same_total = int(same.sum())
    different_total = len(same) - same_total
    if same_total == 0 or different_total == 0:
        raise ValueError(
            "sweep needs pairs of both kinds, got "
            f"{same_total} same and {different_total} different. "
            "Draw pairs from at least two classes with two items each."
        )
    ascending, same = _in_order(distances.detach().double().cpu(), same.cpu())
    end_of_tie = torch.ones_like(same)
    end_of_tie[:-1] = ascending[1:] != ascending[:-1]
    (ends,) = torch.where(end_of_tie)
    true_accepts = same.cumsum(0)[ends]
    return Sweep(
        thresholds=ascending[ends],
        true_accepts=true_accepts,
        false_accepts=ends + 1 - true_accepts,
        same_total=same_total,
        different_total=different_total,
        known_total=known_total,
    )


def roc_curve(counts: Sweep) -> tuple[Float[Tensor, " t+1"], Float[Tensor, " t+1"]]:
    """False and true accept rates at every threshold, with (0, 0) for "accept nothing" first."""
    zero = torch.zeros(1, dtype=torch.float64)
    return (
        torch.cat([zero, counts.false_accept_rate]),
        torch.cat([zero, counts.true_accept_rate]),
    )


def roc_auc(counts: Sweep) -> float:
    """Area under the ROC curve, 0 to 1.

    The chance that a pair that is the same is closer than one that is different, with half
    a point for a tie. Equal to `sklearn.metrics.roc_auc_score(same, -distances)`.
    """
    false_accept_rate, true_accept_rate = roc_curve(counts)
    return float(torch.trapezoid(true_accept_rate, false_accept_rate))


def average_precision(counts: Sweep) -> float:
    """Mean precision over the same pairs, each at the threshold that just accepts it, 0 to 1.

    Nothing is interpolated. Equal to `sklearn.metrics.average_precision_score(same,
    -distances)`.
    """
    first = counts.true_accepts.new_zeros(1)
    steps = counts.true_accepts.diff(prepend=first).double() / counts.same_total
    return float((steps * counts.precision).sum())


def equal_error_rate(counts: Sweep) -> float:
    """The error rate at which false accepts and false rejects are equally frequent, 0 to 1.

    Take the ROC as a polyline through (0, 0) and the point of every threshold. It meets the
    line `false_accept_rate = 1 - true_accept_rate` exactly once; the result is the false
    accept rate there. Between two thresholds it is therefore interpolated linearly, as if
    pairs were accepted by the toss of a coin.
    """
    same_total, different_total = counts.same_total, counts.different_total

    def point(i: int) -> tuple[int, int]:
        """False accepts, and what they and false rejects differ by, in whole numbers."""
        if i < 0:
            return 0, -same_total * different_total
        true_accepts, false_accepts = int(counts.true_accepts[i]), int(counts.false_accepts[i])
        false_rejects = same_total - true_accepts
        return false_accepts, false_accepts * same_total - false_rejects * different_total

    # The difference rises strictly: every threshold accepts at least one pair more.
    after = bisect.bisect_left(range(len(counts.thresholds)), 0, key=lambda i: point(i)[1])
    (accepts_before, below), (accepts_after, above) = point(after - 1), point(after)
    share = below / (below - above)
    return (accepts_before + share * (accepts_after - accepts_before)) / different_total


def true_accept_rate_at(counts: Sweep, far: float) -> float:
    """The true accept rate of the loosest threshold with a false accept rate of at most `far`.

    0 if no threshold has one: then nothing can be accepted.

    Raises:
        ValueError: if `far` is outside [0, 1].
    """
    check_rate("far", far)
    allowed = int((counts.false_accept_rate <= far).sum())
    return float(counts.true_accept_rate[allowed - 1]) if allowed else 0.0


def precision_at(relevant: Bool[Tensor, "q k"], k: int) -> Float[Tensor, " q"]:
    """Per query, the share of its k nearest items that are relevant.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        k: at most as many ranks as `relevant` has.

    Raises:
        ValueError: if `k` is less than 1 or larger than the number of ranks.

    Example:
        >>> precision_at(torch.tensor([[True, False, True]]), 2)
        tensor([0.5000], dtype=torch.float64)
    """
    _check_ranks(relevant, k)
    return relevant[:, :k].double().mean(dim=1)


def recall_at(relevant: Bool[Tensor, "q k"], k: int) -> Float[Tensor, " q"]:
    """Per query, 1 if any of its k nearest items is relevant, else 0.

    The field's "recall@k", which is a hit rate: it does not ask how many relevant items were
    missed.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        k: at most as many ranks as `relevant` has.

    Raises:
        ValueError: if `k` is less than 1 or larger than the number of ranks.
    """
    _check_ranks(relevant, k)
    return relevant[:, :k].any(dim=1).double()


def r_precision(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"]
) -> Float[Tensor, " q"]:
    """Per query, the share of its R nearest items that are relevant, with R relevant in all.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R, how many relevant items exist for the query; not more than ranks
            are given. The result is nan where R is 0.

    Raises:
        ValueError: if `relevant` has fewer ranks than some R, or more relevant than R.

    Source:
        Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.
    """
    within = _within_r(relevant, relevant_total)
    return (relevant & within).sum(dim=1).double() / relevant_total


def average_precision_at_r(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"]
) -> Float[Tensor, " q"]:
    """Per query, the sum of precision_at(i) over the relevant ranks i <= R, divided by R.

    Its mean over queries is MAP@R. It rewards a good order, which R-precision does not see.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R, how many relevant items exist for the query; not more than ranks
            are given. The result is nan where R is 0.

    Raises:
        ValueError: if `relevant` has fewer ranks than some R, or more relevant than R.

    Source:
        Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.

    Example:
        >>> average_precision_at_r(torch.tensor([[True, False, True]]), torch.tensor([3]))
        tensor([0.5556], dtype=torch.float64)
    """
    counted = relevant & _within_r(relevant, relevant_total)
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    precision = relevant.cumsum(dim=1).double() / rank
    return (precision * counted).sum(dim=1) / relevant_total


def _in_order(distances: Float[Tensor, " p"], same: Bool[Tensor, " p"]) -> tuple[Tensor, Tensor]:
    # A jackknife sweeps the same pairs a hundred times; looking costs far less than sorting.
    if bool((distances[1:] >= distances[:-1]).all()):
        return distances, same
    order = torch.from_numpy(np.argsort(distances.numpy()))  # several times as fast as torch's
    return distances[order], same[order]


def _within_r(relevant: Tensor, relevant_total: Tensor) -> Tensor:
    _check_ranks(relevant, 1)
    check_labels(relevant_total, len(relevant), "relevant_total")
    ranks = relevant.shape[1]
    largest = int(relevant_total.max()) if len(relevant_total) else 0
    if largest > ranks:
        raise ValueError(
            f"relevant must reach down to rank R for every query, got {ranks} ranks where a "
            f"query has {largest} relevant items. Look up more neighbours."
        )
    if bool((relevant.sum(dim=1) > relevant_total).any()):
        raise ValueError(
            "relevant_total must be at least the number of relevant items found, got a query "
            "with fewer. Count all items of the query's class, but not the query itself."
        )
    return torch.arange(ranks, device=relevant.device) < relevant_total[:, None]


def _check_ranks(relevant: object, k: int) -> None:
    if not isinstance(relevant, Tensor) or relevant.ndim != 2 or relevant.dtype != torch.bool:
        got = (
            f"{relevant.dtype} of shape {tuple(relevant.shape)}"
            if isinstance(relevant, Tensor)
            else type(relevant).__name__
        )
        raise ValueError(
            f"relevant must be a boolean tensor of shape (q, k), got {got}. "
            "Compare labels, e.g. neighbors.labels == labels[:, None]."
        )
    check_count("k", k)
    if k > relevant.shape[1]:
        raise ValueError(
            f"k must be at most the {relevant.shape[1]} ranks given, got {k}. "
            "Look up more neighbours."
        )
