"""The prior: the share of pairs that are the same where a result is to be used."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise._checks import check_rate
from likewise.errors import InputError


def check_prior(prior: float) -> None:
    """Refuse a prior outside (0, 1)."""
    check_rate("prior", prior)
    if prior in (0, 1):
        raise InputError(
            f"must be above 0 and below 1, got {prior}. "
            "Give the share of pairs that are the same where the result is to be used.",
            argument="prior",
        )


def weights(same: Bool[Tensor, " p"], prior: float | None) -> Float[Tensor, " p"]:
    """One weight per pair, 1 together, with which the same pairs weigh `prior`.

    Without a prior all pairs weigh alike. Refuses pairs of one kind with a prior, and no pairs.
    """
    total, same_total = len(same), int(same.sum())
    if total == 0:
        raise InputError("same must hold at least one pair, got none.")
    if prior is None:
        return torch.full((total,), 1 / total, dtype=torch.float64)
    check_prior(prior)
    if same_total in (0, total):
        raise InputError(
            "same must hold pairs of both kinds, "
            f"got {same_total} same and {total - same_total} different. "
            "Draw pairs from at least two classes with two items each."
        )
    # Both in float64 from the start: `where` would make float32 of two plain numbers.
    of_different, of_same = torch.tensor(
        [(1 - prior) / (total - same_total), prior / same_total], dtype=torch.float64
    )
    return torch.where(same, of_same, of_different)
