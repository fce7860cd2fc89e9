"""From pairs whose truth is known to the probability that a new pair is the same."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit
from torch import Tensor

from likewise import _tables
from likewise._checks import (
    as_tensor,
    as_tensors,
    check_choice,
    check_count,
    check_finite,
    is_finite_number,
)
from likewise.errors import InputError
from likewise.metrics import Sweep, sweep
from likewise.metrics.priors import check_prior

__all__ = ["Probability", "fit_isotonic", "fit_logistic"]

_Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]
METHODS = ("isotonic", "logistic")


@dataclass(frozen=True)
class Probability:
    """The probability that a pair is the same, by its distance and a prior.

    The distance gives a log-likelihood ratio: the natural logarithm of how much likelier the
    distance is for a same pair than for a different one. It does not depend on how many pairs
    of each kind there were. The prior turns it into a probability, and can be another one at
    each call. Neither ever rises with distance.

    Between two knots the ratio follows a straight line. Beyond the last ones the line goes on
    (logistic), or stays level (isotonic).

    Attributes:
        method: "logistic" or "isotonic".
        prior: share of pairs that are the same where it is to be used; between 0 and 1.
        same_total: same pairs that it was fitted on.
        different_total: different pairs that it was fitted on.
        distances: the knots, ascending.
        log_likelihood_ratios: their values, never rising; as many.
    """

    method: str
    prior: float
    same_total: int
    different_total: int
    distances: tuple[float, ...]
    log_likelihood_ratios: tuple[float, ...]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_prior(self.prior)
        check_count("same_total", self.same_total)
        check_count("different_total", self.different_total)
        if len(self.distances) != len(self.log_likelihood_ratios):
            raise InputError(
                "a probability must have as many ratios as distances, got "
                f"{len(self.log_likelihood_ratios)} and {len(self.distances)}."
            )
        knots = np.array([self.distances, self.log_likelihood_ratios], dtype=np.float64)
        if knots.size == 0 or not np.isfinite(knots).all():
            raise InputError("a probability must have finite knots, got others or none.")
        step = np.diff(knots)
        if (step[0] <= 0).any() or (step[1] > 0).any():
            raise InputError(
                "a probability must have knots at rising distances and ratios that never rise, "
                "got others. Fit it with fit_logistic or fit_isotonic."
            )

    def log_likelihood_ratio(self, distances: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The log-likelihood ratio of each distance: above 0 speaks for "the same".

        Raises:
            InputError: for distances that are not of shape (p,), or not finite.
        """
        at = _column(distances)
        knots, values = np.array(self.distances), np.array(self.log_likelihood_ratios)
        ratio = np.interp(at, knots, values)
        if self.method == "logistic" and len(knots) > 1:
            ratio = values[0] + (at - knots[0]) * (
                (values[-1] - values[0]) / (knots[-1] - knots[0])
            )
        return torch.from_numpy(ratio)

    def of(
        self, distances: Float[Tensor, " p"], *, prior: float | None = None
    ) -> Float[Tensor, " p"]:
        """The probability that each pair is the same, float64.

        Args:
            distances: Distances of the pairs, (p,).
            prior: share of pairs that are the same; without it the one it was made with.

        Raises:
            InputError: for distances that are not of shape (p,) or not finite, or a prior
                outside (0, 1).
        """
        prior = self.prior if prior is None else prior
        check_prior(prior)
        return torch.sigmoid(self.log_likelihood_ratio(distances) + _log_odds(prior))

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return {
            "method": self.method,
            "prior": self.prior,
            "same_total": self.same_total,
            "different_total": self.different_total,
            "distances": list(self.distances),
            "log_likelihood_ratios": list(self.log_likelihood_ratios),
        }

    @classmethod
    def from_dict(cls, fields: object) -> "Probability":
        """The probability that `to_dict` wrote.

        Raises:
            InputError: if `fields` is not such a dict; the sentence names what is wrong.
        """
        names = set(cls.__dataclass_fields__)
        if not isinstance(fields, Mapping) or set(fields) != names:
            raise InputError(
                f"a probability must be a dict of {', '.join(sorted(names))}, got {fields!r}."
            )
        knots = {name: fields[name] for name in ("distances", "log_likelihood_ratios")}
        for name, values in knots.items():
            if not isinstance(values, list) or any(
                not isinstance(v, float) and not is_finite_number(v) for v in values
            ):
                raise InputError(f"{name} of a probability must be a list of numbers, got others.")
        try:
            return cls(**{**fields, **{name: tuple(map(float, v)) for name, v in knots.items()}})
        except (TypeError, ValueError) as error:
            raise InputError(f"a probability cannot be read: {error}") from error


def fit_logistic(
    distances: Float[Tensor, " p"], same: Bool[Tensor, " p"], *, prior: float = 0.5
) -> Probability:
    """A probability whose log-likelihood ratio is a straight line of the distance.

    The line of least cross entropy, each kind of pair weighing half, so that the shares of the
    kinds do not enter: there is one such line. Few numbers are fitted, so a hundred
    pairs do, but a straight line may not be right: compare `cllr` with that of `fit_isotonic`.

    To stay finite where the kinds are perfectly separated, the line aims not at 1 and 0 but at
    1 - 1 / (n + 2) and 1 / (n + 2), n being the pairs of the scarcer kind (Platt's targets,
    alike for both kinds). Where larger distances are likelier for same pairs, the line is level
    at 0: such distances tell nothing.

    Args:
        distances: one per pair; smaller is closer; other pairs than those to be judged.
        same: whether the pair truly belongs together.
        prior: share of pairs that are the same where the probability is to be used.

    Raises:
        InputError: if the pairs are all the same or all different, a distance is not finite,
            or the prior is outside (0, 1).

    Source:
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999; weights of the kinds
        as in Brümmer & du Preez, Computer Speech and Language 2006.

    Example:
        >>> distances = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.8, 0.9])
        >>> probability = fit_logistic(distances, torch.arange(6) < 3)
        >>> probability.of(torch.tensor([0.1, 0.5, 0.9]))
        tensor([0.7527, 0.4506, 0.1810], dtype=torch.float64)
        >>> probability.of(torch.tensor([0.1]), prior=0.01)
        tensor([0.0298], dtype=torch.float64)
    """
    distances, same = as_tensors(distances=distances, same=same)
    check_prior(prior)
    counts = sweep(distances, same)
    ends = counts.thresholds[[0, -1]] if len(counts.thresholds) > 1 else counts.thresholds
    return _fitted("logistic", prior, counts, ends.numpy(), _line(counts, ends.numpy()))


def fit_isotonic(
    distances: Float[Tensor, " p"], same: Bool[Tensor, " p"], *, prior: float = 0.5
) -> Probability:
    """A probability of any shape that never rises with distance.

    Isotonic regression by pooling adjacent violators (PAV), the likeliest such shape, from
    which the share of same pairs is taken out. So that no ratio is infinite, one pair of each
    kind is added before the closest distance and one of each behind the farthest (Laplace's
    rule, as the field has it). It follows its pairs closely: fit it on a thousand or more.

    Args:
        distances: one per pair; smaller is closer; other pairs than those to be judged.
        same: whether the pair truly belongs together.
        prior: share of pairs that are the same where the probability is to be used.

    Raises:
        InputError: if the pairs are all the same or all different, a distance is not finite,
            or the prior is outside (0, 1).

    Source:
        Zadrozny & Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
        Estimates", KDD 2002; as likelihood ratios in Brümmer & du Preez, Computer Speech and
        Language 2006.

    Example:
        >>> distances = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.8, 0.9])
        >>> probability = fit_isotonic(distances, torch.arange(6) < 3)
        >>> probability.of(torch.tensor([0.1, 0.35, 0.9]))
        tensor([0.7500, 0.5000, 0.2500], dtype=torch.float64)
    """
    distances, same = as_tensors(distances=distances, same=same)
    from sklearn.isotonic import isotonic_regression

    check_prior(prior)
    counts = sweep(distances, same)
    pairs = (counts.same_at + counts.different_at).numpy()
    share = isotonic_regression(
        np.concatenate([[0.5], counts.same_at.numpy() / pairs, [0.5]]),
        sample_weight=np.concatenate([[2.0], pairs, [2.0]]),
        increasing=False,
    )[1:-1]
    # What is level needs no knots but at its ends.
    falls = np.diff(share) < 0
    is_knot = np.concatenate([[True], falls]) | np.concatenate([falls, [True]])
    taken_out = _log_odds(
        (counts.same_total + 2) / (counts.same_total + counts.different_total + 4)
    )
    ratio = np.log(share[is_knot]) - np.log1p(-share[is_knot]) - taken_out
    return _fitted("isotonic", prior, counts, counts.thresholds.numpy()[is_knot], ratio)


def _fitted(
    method: str, prior: float, counts: Sweep, distances: _Numbers, ratios: _Numbers
) -> Probability:
    return Probability(
        method=method,
        prior=prior,
        same_total=counts.same_total,
        different_total=counts.different_total,
        distances=tuple(distances.tolist()),
        log_likelihood_ratios=tuple(ratios.tolist()),
    )


def _line(counts: Sweep, at: _Numbers) -> _Numbers:
    """The values of the fitted line at some distances."""
    from scipy.optimize import minimize

    if len(at) == 1:
        return np.zeros(1)
    x = counts.thresholds.numpy()
    of_same = counts.same_at.numpy() / (2 * counts.same_total)
    of_different = counts.different_at.numpy() / (2 * counts.different_total)
    weight = of_same + of_different
    center = weight @ x
    scale = math.sqrt(weight @ (x - center) ** 2)
    x = (x - center) / scale
    rest = 1 / (min(counts.same_total, counts.different_total) + 2)
    aimed = (1 - rest) * of_same + rest * of_different

    def cost(line: _Numbers) -> tuple[float, _Numbers]:
        ratio = line[0] - line[1] * x
        miss = weight * expit(ratio) - aimed
        value = weight @ np.logaddexp(0, ratio) - aimed @ ratio
        return float(value), np.array([miss.sum(), -miss @ x])

    def curvature(line: _Numbers) -> _Numbers:
        p = expit(line[0] - line[1] * x)
        bend = weight * p * (1 - p)
        off_diagonal = -bend @ x
        return np.array([[bend.sum(), off_diagonal], [off_diagonal, bend @ x**2]])

    best = minimize(
        cost,
        np.zeros(2),
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-10},
    )
    offset, slope = best.x
    return np.zeros(2) if slope <= 0 else offset - slope * (at - center) / scale


def _log_odds(share: float) -> float:
    return math.log(share) - math.log1p(-share)


def _column(distances: object) -> _Numbers:
    distances = as_tensor(distances, "distances")
    if not isinstance(distances, Tensor) or distances.ndim != 1:
        got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise InputError(
            f"distances must be a tensor of shape (p,), one per pair, got {got}. "
            "Use Distance.paired, or .flatten()."
        )
    check_finite(distances, "distances")
    return distances.detach().cpu().double().numpy()
