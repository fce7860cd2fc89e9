"""Counts at every threshold: what all curves, rates and goals are read off."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import as_tensors, check_finite, check_same
from likewise.errors import InputError


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is accepted at every distinct distance, strictest threshold first.

    Entry i counts the pairs with `distance <= thresholds[i]`, so every entry accepts at
    least one pair and the last one all; "accept nothing" has no entry. In verification a
    pair is two items; in search it is a query with its nearest neighbor, and `same` says
    whether their labels agree.

    Attributes:
        thresholds: the distinct distances, ascending, (t,) float64.
        true_accepts: accepted pairs that are the same, (t,) int64.
        false_accepts: accepted pairs that are different, (t,) int64.
        same_total: pairs that are the same.
        different_total: pairs that are different.
        known_total: pairs in which something right was there to be found; in search the
            queries whose class is indexed, whether or not their nearest neighbor has it.
            None stands for `same_total`.
        unknown_accepts: in search, accepted queries whose class is not indexed, (t,) int64; None
            for pairs.
        unknown_total: in search, how many such queries there are; 0 for pairs.
        growth: how many times as often an unknown is accepted where the threshold is used as it
            was here, such as K / (K - 1) where each unknown met a gallery without one of its K
            classes. The rates of unknowns are multiplied by it.
    """

    thresholds: Float[Tensor, " t"]
    true_accepts: Int[Tensor, " t"]
    false_accepts: Int[Tensor, " t"]
    same_total: int
    different_total: int
    known_total: int | None = None
    unknown_accepts: Int[Tensor, " t"] | None = None
    unknown_total: int = 0
    growth: float = 1.0

    @property
    def impostor_accepts(self) -> Int[Tensor, " t"]:
        """Accepted unknowns; where there are none, accepted pairs that are different."""
        if self.unknown_accepts is None or not self.unknown_total:
            return self.false_accepts
        return self.unknown_accepts

    @property
    def impostor_total(self) -> int:
        """Unknowns; where there are none, pairs that are different."""
        return self.unknown_total or self.different_total

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    @property
    def to_be_found(self) -> int:
        """`known_total`, or `same_total` where that is None."""
        return self.same_total if self.known_total is None else self.known_total

    @property
    def accepts(self) -> Int[Tensor, " t"]:
        """Accepted pairs."""
        return self.true_accepts + self.false_accepts

    @property
    def same_at(self) -> Int[Tensor, " t"]:
        """Pairs at exactly this distance that are the same."""
        return self.true_accepts.diff(prepend=self.true_accepts.new_zeros(1))

    @property
    def different_at(self) -> Int[Tensor, " t"]:
        """Pairs at exactly this distance that are different."""
        return self.false_accepts.diff(prepend=self.false_accepts.new_zeros(1))

    @property
    def true_accept_rate(self) -> Float[Tensor, " t"]:
        """Share of the same pairs that are accepted.

        In search this is what TensorFlow Similarity calls recall: a known query whose nearest
        neighbor has the wrong label is left out.
        """
        return self.true_accepts.double() / self.same_total

    @property
    def false_accept_rate(self) -> Float[Tensor, " t"]:
        """Share of the different pairs that are accepted; in search, of the unknowns (FPIR).

        So a known query accepted as another class is no false accept but a miss, see
        `false_negative_rate`. Only where a search has no unknowns, wrong answers stand for them.
        """
        return (self.impostor_accepts.double() / self.impostor_total * self.growth).clamp(max=1)

    @property
    def false_negative_rate(self) -> Float[Tensor, " t"]:
        """Share of what was to be found that is rejected, or in search confused (FNIR)."""
        return (self.to_be_found - self.true_accepts).double() / self.to_be_found

    @property
    def false_reject_rate(self) -> Float[Tensor, " t"]:
        """Share of the same pairs that are rejected."""
        return (self.same_total - self.true_accepts).double() / self.same_total

    @property
    def precision(self) -> Float[Tensor, " t"]:
        """Share of the accepted pairs that are the same."""
        return self.true_accepts.double() / self.accepts

    @property
    def recall(self) -> Float[Tensor, " t"]:
        """Right accepts as a share of what was to be found.

        Equal to `true_accept_rate` but in search, where a known query whose nearest neighbor
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
    growth: float = 1.0,
) -> Sweep:
    """Count accepts at every distinct distance, in O(p log p).

    Equal distances are accepted together. Distances are compared in float64, so thresholds
    are exactly the distances given.

    Args:
        distances: one per pair; smaller is closer; may be negative.
        same: whether the pair truly belongs together.
        known: in search, whether the query's class is indexed at all, so that a right
            neighbor existed; it counts in recall. Without it, exactly where `same`. A query that
            is not known is an unknown.
        growth: see `Sweep`.

    Raises:
        InputError: if all pairs are the same or all are different, as no threshold can be
            judged then; for NaN or infinite distances; if a pair is the same but not known.

    Example:
        >>> counts = sweep(torch.tensor([0.1, 0.4, 0.4]), torch.tensor([True, True, False]))
        >>> counts.thresholds.tolist(), counts.true_accepts.tolist()
        ([0.10000000149011612, 0.4000000059604645], [1, 2])
    """
    distances, same, known = as_tensors(distances=distances, same=same, known=known)
    if not isinstance(distances, Tensor) or distances.ndim != 1:
        got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise InputError(
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
            raise InputError(
                "known must be True wherever same is, got "
                f"{int((same & ~known).sum())} pairs that are the same but not known. "
                "A neighbor with the query's label shows that its class is indexed."
            )
    same_total = int(same.sum())
    different_total = len(same) - same_total
    if same_total == 0 or different_total == 0:
        raise InputError(
            "same must hold pairs of both kinds, got "
            f"{same_total} same and {different_total} different. "
            "Draw pairs from at least two classes with two items each."
        )
    kind = same.cpu() if known is None else same.cpu() + 2 * (~known.cpu()).to(torch.uint8)
    ascending, kind = _in_order(distances.detach().double().cpu(), kind)
    same = kind == 1
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
        unknown_accepts=None if known is None else (kind == 2).cumsum(0)[ends],
        unknown_total=0 if known is None else int((kind == 2).sum()),
        growth=growth,
    )


def _in_order(distances: Float[Tensor, " p"], kind: Tensor) -> tuple[Tensor, Tensor]:
    # A jackknife sweeps the same pairs a hundred times; looking costs far less than sorting.
    if bool((distances[1:] >= distances[:-1]).all()):
        return distances, kind
    order = torch.from_numpy(np.argsort(distances.numpy()))  # several times as fast as torch's
    return distances[order], kind[order]
