"""Whether the nearest items of a query are relevant.

Each function gives one number per query. Its mean over queries is the usual (micro) score; the mean
over classes of `mean_by_class` is the macro one, in which small classes weigh as much as large.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import as_tensor, as_tensors, check_count, check_finite, check_labels
from likewise.errors import InputError


def precision_at(relevant: Bool[Tensor, "q k"], k: int) -> Float[Tensor, " q"]:
    """Per query, the share of its k nearest items that are relevant.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        k: at most as many ranks as `relevant` has.

    Raises:
        InputError: if `k` is less than 1 or larger than the number of ranks.

    Example:
        >>> precision_at(torch.tensor([[True, False, True]]), 2)
        tensor([0.5000], dtype=torch.float64)
    """
    relevant = as_tensor(relevant, "relevant")
    _check_ranks(relevant, k)
    return relevant[:, :k].double().mean(dim=1)


def recall_at(relevant: Bool[Tensor, "q k"], k: int) -> Float[Tensor, " q"]:
    """Per query, 1 if any of its k nearest items is relevant, else 0.

    Metric learning calls the hit rate at k recall@k: it does not ask how many relevant items were
    missed, as the recall of information retrieval does, which is `share_found_at`. In face and
    person search the hit rate is called CMC.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        k: at most as many ranks as `relevant` has.

    Raises:
        InputError: if `k` is less than 1 or larger than the number of ranks.
    """
    relevant = as_tensor(relevant, "relevant")
    _check_ranks(relevant, k)
    return relevant[:, :k].any(dim=1).double()


def share_found_at(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"], k: int
) -> Float[Tensor, " q"]:
    """Per query, the share of its relevant items that are among the k nearest.

    This is the recall@k of information retrieval, `recall_k` in trec_eval. Metric learning uses
    the name recall@k for the hit rate, which is `recall_at`. With k below R it cannot reach 1.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R, how many relevant items exist for the query. The result is nan where R
            is 0.
        k: at most as many ranks as `relevant` has.

    Raises:
        InputError: if `k` is less than 1 or larger than the number of ranks, or more of the k
            are relevant than R.

    Example:
        >>> share_found_at(torch.tensor([[True, False, True]]), torch.tensor([4]), 3)
        tensor([0.5000], dtype=torch.float64)
    """
    relevant, relevant_total = as_tensors(relevant=relevant, relevant_total=relevant_total)
    _check_totals(relevant, relevant_total, k)
    return relevant[:, :k].sum(dim=1).double() / relevant_total


def r_precision(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"]
) -> Float[Tensor, " q"]:
    """Per query, the share of its R nearest items that are relevant, with R relevant in all.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R, how many relevant items exist for the query; not more than ranks
            are given. The result is nan where R is 0.

    Raises:
        InputError: if `relevant` has fewer ranks than some R, or more relevant than R.

    Source:
        Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.
    """
    relevant, relevant_total = as_tensors(relevant=relevant, relevant_total=relevant_total)
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
        InputError: if `relevant` has fewer ranks than some R, or more relevant than R.

    Source:
        Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.

    Example:
        >>> average_precision_at_r(torch.tensor([[True, False, True]]), torch.tensor([3]))
        tensor([0.5556], dtype=torch.float64)
    """
    relevant, relevant_total = as_tensors(relevant=relevant, relevant_total=relevant_total)
    return _summed_precision(relevant & _within_r(relevant, relevant_total)) / relevant_total


def average_precision_at(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"], k: int
) -> Float[Tensor, " q"]:
    """Per query, the sum of precision_at(i) over the relevant ranks i <= k, by min(k, R).

    Its mean over queries is MAP@k. It is 1 exactly when the first min(k, R) items are relevant,
    R being how many there are. Other libraries divide by k, by R or by the relevant items found;
    with k = R for every query it is `average_precision_at_r`.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R. The result is nan where R is 0.
        k: at most as many ranks as `relevant` has.

    Raises:
        InputError: if `k` is less than 1 or larger than the number of ranks, or more of the k
            are relevant than R.

    Example:
        >>> average_precision_at(torch.tensor([[False, True, True]]), torch.tensor([5]), 2)
        tensor([0.2500], dtype=torch.float64)
    """
    relevant, relevant_total = as_tensors(relevant=relevant, relevant_total=relevant_total)
    _check_totals(relevant, relevant_total, k)
    return _summed_precision(relevant[:, :k]) / relevant_total.clamp(max=k)


def average_precision_of_ranking(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"]
) -> Float[Tensor, " q"]:
    """Per query, the sum of precision_at(i) over the relevant ranks i, divided by R.

    Its mean over queries is `map` in trec_eval. A relevant item beyond the ranks given counts 0.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R. The result is nan where R is 0.

    Raises:
        InputError: if more items are relevant than R.

    Example:
        >>> average_precision_of_ranking(torch.tensor([[False, True, True]]), torch.tensor([5]))
        tensor([0.2333], dtype=torch.float64)
    """
    relevant, relevant_total = as_tensors(relevant=relevant, relevant_total=relevant_total)
    _check_totals(relevant, relevant_total, 1)
    _check_totals(relevant, relevant_total, relevant.shape[1])
    return _summed_precision(relevant) / relevant_total


def ndcg_at(
    relevant: Bool[Tensor, "q k"], relevant_total: Int[Tensor, " q"], k: int
) -> Float[Tensor, " q"]:
    """Per query, the gain of its k nearest items as a share of the most that was possible.

    A relevant item at rank i gains 1 / log2(i + 1). The ideal order has all R relevant items
    first, so that its gain is that of min(k, R) ranks.

    This is also TensorFlow Similarity's BNDCG, corrected: there the ideal order has only the
    relevant items that were retrieved, and one hit in last place of k = 2 out of R = 9 counts
    0.63 where it is worth 0.39. Its distance threshold is `relevant & (distances <= threshold)`.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.
        relevant_total: R. The result is nan where R is 0.
        k: at most as many ranks as `relevant` has.

    Raises:
        InputError: if `k` is less than 1 or larger than the number of ranks, or more of the k
            are relevant than R.

    Source:
        Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002,
        with gains of 0 and 1 and their discount of base 2 from the first rank on.

    Example:
        >>> ndcg_at(torch.tensor([[False, True]]), torch.tensor([9]), 2)
        tensor([0.3869], dtype=torch.float64)
    """
    relevant, relevant_total = as_tensors(relevant=relevant, relevant_total=relevant_total)
    _check_totals(relevant, relevant_total, k)
    rank = torch.arange(1, k + 1, device=relevant.device, dtype=torch.float64)
    gain = 1 / (rank + 1).log2()
    ideal = torch.nn.functional.pad(gain.cumsum(0), (1, 0))[relevant_total.clamp(max=k)]
    # Summed in another order a perfect list may come out an ulp above 1.
    return ((relevant[:, :k] * gain).sum(dim=1) / ideal).clamp(max=1)


def graded_ndcg_at(
    gains: Float[Tensor, "q k"], ideal_gains: Float[Tensor, "q r"], k: int
) -> Float[Tensor, " q"]:
    """Per query, the discounted gain of its k nearest items as a share of the most possible.

    The item at rank i counts its gain / log2(i + 1). A gain is the grade of the item for the
    query, as in trec_eval, or 2**grade - 1, which weighs high grades more. With gains of 0 and 1
    this is `ndcg_at`.

    Args:
        gains: the gain of the item at each rank, nearest first; finite, at least 0.
        ideal_gains: the gains of all relevant items of each query in any order, or at least the k
            largest, filled up with 0. The result is nan where all are 0.
        k: at most as many ranks as `gains` has.

    Raises:
        InputError: if `k` is less than 1 or larger than the number of ranks, for gains below 0 or
            not finite, or if the items found gain more than the ideal order.

    Source:
        Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002,
        with the discount of base 2 from the first rank on. Burges et al., "Learning to Rank using
        Gradient Descent", ICML 2005 (gains of 2**grade - 1).

    Example:
        >>> graded_ndcg_at(torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 1.0, 1.0]]), 2)
        tensor([0.7967], dtype=torch.float64)
    """
    gains, ideal_gains = as_tensors(gains=gains, ideal_gains=ideal_gains)
    _check_gains(gains, "gains")
    _check_gains(ideal_gains, "ideal_gains", len(gains))
    _check_k(k, gains.shape[1])
    best = ideal_gains.double().sort(dim=1, descending=True).values[:, :k]
    found, ideal = _discounted(gains[:, :k].double()), _discounted(best)
    if bool((found > ideal * (1 + 1e-9)).any()):
        raise InputError(
            "ideal_gains must hold the gains of all relevant items, got a query whose items found "
            "gain more. Count those found too."
        )
    # Summed in another order a perfect list may come out an ulp above 1.
    return (found / ideal).clamp(max=1)


def first_relevant_rank(relevant: Bool[Tensor, "q k"]) -> Float[Tensor, " q"]:
    """Per query, the rank of its nearest relevant item, from 1; inf if none is among the given.

    1 divided by it is the reciprocal rank, whose mean over queries is MRR.

    Args:
        relevant: whether the item at each rank is relevant to the query, nearest first.

    Raises:
        InputError: if `relevant` is no boolean tensor of shape (q, k) with a rank or more.

    Example:
        >>> first_relevant_rank(torch.tensor([[False, True], [False, False]]))
        tensor([2., inf], dtype=torch.float64)
    """
    relevant = as_tensor(relevant, "relevant")
    _check_ranks(relevant, 1)
    first = relevant.byte().argmax(dim=1).double() + 1
    return first.masked_fill(~relevant.any(dim=1), torch.inf)


def mean_by_class(
    values: Float[Tensor, " q"], labels: Int[Tensor, " q"]
) -> tuple[Int[Tensor, " c"], Float[Tensor, " c"]]:
    """The labels there are, ascending, and the mean value of each; the mean of these is macro.

    Args:
        values: one per query, finite.
        labels: the class of each query; queries labeled -1 are left out.

    Raises:
        InputError: for NaN or infinity among the values, or labels that are not one per value.

    Example:
        >>> mean_by_class(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([7, 7, 3]))
        (tensor([3, 7]), tensor([1.0000, 0.5000], dtype=torch.float64))
    """
    values, labels = as_tensors(values=values, labels=labels)
    if not isinstance(values, Tensor) or values.ndim != 1:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"values must be a tensor of shape (q,), one per query, got {got}.")
    check_labels(labels, len(values))
    labels, values = labels.cpu(), values.detach().cpu().double()
    labels, values = labels[labels != -1], values[labels != -1]
    check_finite(values, "values")
    classes, number, count = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    total = np.bincount(number, weights=values.numpy())
    return torch.from_numpy(classes), torch.from_numpy(total / count)


def _summed_precision(relevant: Tensor) -> Tensor:
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device, dtype=torch.float64)
    hits = relevant.cumsum(dim=1, dtype=torch.int32)
    return (hits * relevant / rank).sum(dim=1)


def _discounted(gains: Tensor) -> Tensor:
    rank = torch.arange(1, gains.shape[1] + 1, device=gains.device, dtype=torch.float64)
    return (gains / (rank + 1).log2()).sum(dim=1)


def _check_gains(gains: object, name: str, count: int | None = None) -> None:
    if not isinstance(gains, Tensor) or gains.ndim != 2 or gains.is_complex():
        got = (
            f"{gains.dtype} of shape {tuple(gains.shape)}"
            if isinstance(gains, Tensor)
            else type(gains).__name__
        )
        raise InputError(f"{name} must be numbers of shape (q, k), got {got}.")
    if count is not None and len(gains) != count:
        raise InputError(
            f"{name} must have one row per query, {count}, got {len(gains)}. "
            "Give both for the same queries."
        )
    check_finite(gains, name)
    if bool((gains < 0).any()):
        raise InputError(
            f"{name} must be at least 0, got {float(gains.min()):g}. Use 0 for items that are not "
            "relevant."
        )


def _check_totals(relevant: Tensor, relevant_total: Tensor, k: int) -> None:
    _check_ranks(relevant, k)
    check_labels(relevant_total, len(relevant), "relevant_total")
    if bool((relevant[:, :k].sum(dim=1) > relevant_total).any()):
        raise InputError(
            "relevant_total must be at least the number of relevant items found, got a query "
            "with fewer. Count all items of the query's class, but not the query itself."
        )


def _within_r(relevant: Tensor, relevant_total: Tensor) -> Tensor:
    _check_ranks(relevant, 1)
    ranks = relevant.shape[1]
    _check_totals(relevant, relevant_total, ranks)
    largest = int(relevant_total.max()) if len(relevant_total) else 0
    if largest > ranks:
        raise InputError(
            f"relevant must reach down to rank R for every query, got {ranks} ranks where a "
            f"query has {largest} relevant items. Look up more neighbors."
        )
    return torch.arange(ranks, device=relevant.device) < relevant_total[:, None]


def _check_ranks(relevant: object, k: int) -> None:
    if not isinstance(relevant, Tensor) or relevant.ndim != 2 or relevant.dtype != torch.bool:
        got = (
            f"{relevant.dtype} of shape {tuple(relevant.shape)}"
            if isinstance(relevant, Tensor)
            else type(relevant).__name__
        )
        raise InputError(
            f"relevant must be a boolean tensor of shape (q, k), got {got}. "
            "Compare labels, e.g. neighbors.labels == labels[:, None]."
        )
    _check_k(k, relevant.shape[1])


def _check_k(k: int, ranks: int) -> None:
    check_count("k", k)
    if k > ranks:
        raise InputError(
            f"k must be at most the {ranks} ranks given, got {k}. Look up more neighbors."
        )
