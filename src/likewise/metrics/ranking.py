"""Whether the nearest items of a query are relevant."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_count, check_labels


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
