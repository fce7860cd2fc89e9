"""Whether probabilities, or likelihood ratios, of pairs being the same are right."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import as_tensors, check_count, check_finite, check_same
from likewise.errors import InputError
from likewise.metrics.priors import weights
from likewise.metrics.sweeps import Sweep


def brier_score(
    probabilities: Float[Tensor, " p"], same: Bool[Tensor, " p"], *, prior: float | None = None
) -> float:
    """Mean squared difference of probability and truth (1 same, 0 different), 0 to 1.

    Smaller is better. Always saying the share of pairs that are the same gives share times
    (1 - share). Equal to `sklearn.metrics.brier_score_loss(same, probabilities)`.

    Args:
        probabilities: Probabilities that the pair is the same, (p,).
        same: whether it is, (p,).
        prior: weigh the pairs as if this share of them were the same; without it, as they are.

    Raises:
        InputError: for a probability outside [0, 1], no pairs, a prior outside (0, 1), or a
            prior with pairs of one kind only.

    Source:
        Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950 (half of the
        score there, which sums over both answers).

    Example:
        >>> brier_score(torch.tensor([0.5, 0.0]), torch.tensor([True, False]))
        0.125
    """
    probability, same = _checked(probabilities, same)
    return float(weights(same, prior) @ (probability - same.double()).square())


def reliability(
    probabilities: Float[Tensor, " p"], same: Bool[Tensor, " p"], *, bins: int = 15
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Int[Tensor, " b"]]:
    """Mean probability, share of pairs that are the same, and number of pairs, in each bin.

    The bins cut [0, 1] into equal widths. A bin holds its upper edge but not its lower one;
    the first holds 0 too. Mean and share of an empty bin are nan.

    Raises:
        InputError: for a probability outside [0, 1], no pairs, or fewer than one bin.

    Example:
        >>> probabilities = torch.tensor([0.1, 0.4, 0.8])
        >>> mean, share, pairs = reliability(probabilities, probabilities > 0.3, bins=2)
        >>> mean, share, pairs
        (tensor([0.2500, 0.8000], dtype=torch.float64),
         tensor([0.5000, 1.0000], dtype=torch.float64), tensor([2, 1]))
    """
    probability, same = _checked(probabilities, same)
    weights(same, None)  # refuses no pairs
    at = _bin(probability, bins)
    pairs = at.bincount(minlength=bins)
    mean = at.bincount(probability, minlength=bins) / pairs
    return mean, at.bincount(same.double(), minlength=bins) / pairs, pairs


def expected_calibration_error(
    probabilities: Float[Tensor, " p"],
    same: Bool[Tensor, " p"],
    *,
    bins: int = 15,
    prior: float | None = None,
) -> float:
    """How far probability and share lie apart in a bin, mean over the bins by weight, 0 to 1.

    The bins are those of `reliability`: of equal width, over the probability that the pair is
    the same (not over the confidence in the likelier answer). By chance alone it is above 0
    even for right probabilities, the more so the fewer pairs or the more bins there are:
    compare only numbers of as many pairs and bins.

    Args:
        probabilities: Probabilities that the pair is the same, (p,).
        same: whether it is, (p,).
        bins: how many, at least 1.
        prior: weigh the pairs as if this share of them were the same; without it, as they are.

    Raises:
        InputError: for a probability outside [0, 1], no pairs, fewer than one bin, a prior
            outside (0, 1), or a prior with pairs of one kind only.

    Source:
        Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
        equation 3; over the probability of one answer as in Naeini, Cooper & Hauskrecht,
        "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.

    Example:
        >>> probabilities = torch.tensor([0.25, 0.25, 0.75, 0.75], dtype=torch.float64)
        >>> expected_calibration_error(probabilities, torch.tensor([False, False, True, False]))
        0.25
    """
    probability, same = _checked(probabilities, same)
    gap = weights(same, prior) * (probability - same.double())
    return float(_bin(probability, bins).bincount(gap, minlength=bins).abs().sum())


def cllr(log_likelihood_ratios: Float[Tensor, " p"], same: Bool[Tensor, " p"]) -> float:
    """Cost of log-likelihood ratios in bits, from 0; saying nothing (always 0) costs 1.

    The mean of log2(1 + exp(-ratio)) over the same pairs and that of log2(1 + exp(ratio)) over
    the different ones, averaged: both kinds weigh half, however many pairs there are. A ratio
    that is sure and wrong costs the more the surer it is, so a Cllr above 1 is worse than
    saying nothing.

    Args:
        log_likelihood_ratios: natural logarithm of how much likelier the distance is for a
            same pair than for a different one, (p,).
        same: whether it is the same, (p,).

    Raises:
        InputError: for NaN or infinity, or pairs of one kind only.

    Source:
        Brümmer & du Preez, "Application-Independent Evaluation of Speaker Detection",
        Computer Speech and Language 2006.

    Example:
        >>> cllr(torch.zeros(3), torch.tensor([True, False, False]))
        1.0
    """
    log_likelihood_ratios, same = as_tensors(log_likelihood_ratios=log_likelihood_ratios, same=same)
    ratio = _column(log_likelihood_ratios, "log_likelihood_ratios")
    check_same(same, len(ratio))
    same = same.cpu()
    wrong_way = torch.where(same, -ratio, ratio)
    # Not softplus, which leaves out what is small: 2e-9 where its argument is 20.
    cost = torch.logaddexp(wrong_way, torch.zeros_like(wrong_way))
    return float(weights(same, 0.5) @ cost) / math.log(2)


def min_cllr(counts: Sweep) -> float:
    """The Cllr that the distances would have if no threshold were misjudged, 0 to 1.

    The smallest that any rule can reach by which likelihood ratios never rise with distance:
    isotonic regression on the very same pairs. What `cllr` has above it is the fault of the
    probabilities, not of the distances.

    Source:
        Brümmer & du Preez, "Application-Independent Evaluation of Speaker Detection",
        Computer Speech and Language 2006 (there Cllr min).

    Example:
        >>> from likewise.metrics import sweep
        >>> distances = torch.tensor([0.1, 0.2, 0.3, 0.4])
        >>> counts = sweep(distances, torch.tensor([True, False, True, False]))
        >>> min_cllr(counts)
        0.5
    """
    from sklearn.isotonic import isotonic_regression

    same, different = counts.same_at.double(), counts.different_at.double()
    pairs = same + different
    falling = isotonic_regression(
        (same / pairs).numpy(), sample_weight=pairs.numpy(), increasing=False
    )
    share = torch.from_numpy(falling.copy())  # it may be a view read backwards
    # Densities of each kind; xlogy makes 0 of the cost of pairs that do not occur.
    of_same, of_different = share / counts.same_total, (1 - share) / counts.different_total
    of_either = of_same + of_different
    cost = torch.special.xlogy(same / counts.same_total, of_either / of_same)
    cost += torch.special.xlogy(different / counts.different_total, of_either / of_different)
    return float(cost.sum()) / (2 * math.log(2))


def _checked(probabilities: object, same: Tensor) -> tuple[Tensor, Tensor]:
    probabilities, same = as_tensors(probabilities=probabilities, same=same)
    probability = _column(probabilities, "probabilities")
    check_same(same, len(probability))
    if bool(((probability < 0) | (probability > 1)).any()):
        worst = float(probability[(probability - 0.5).abs().argmax()])
        raise InputError(
            f"probabilities must be between 0 and 1, got {worst:.4g}. "
            "Fit them to distances with likewise.probability."
        )
    return probability, same.cpu()


def _column(values: object, name: str) -> Float[Tensor, " p"]:
    if not isinstance(values, Tensor) or values.ndim != 1:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"{name} must be a tensor of shape (p,), one per pair, got {got}.")
    check_finite(values, name)
    return values.detach().cpu().double()


def _bin(probability: Float[Tensor, " p"], bins: int) -> Int[Tensor, " p"]:
    check_count("bins", bins)
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(probability, inner_edges)
