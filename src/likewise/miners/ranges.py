"""Any miner, shown only the pairs whose distance lies in a range."""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from likewise._checks import check_at_least
from likewise.errors import InputError

Selected = TypeVar("Selected")
Range = tuple[float, float]


def within_range(
    miner: Callable[[Tensor, Tensor, Tensor], Selected],
    *,
    positive: Range = (-math.inf, math.inf),
    negative: Range = (-math.inf, math.inf),
) -> Callable[[Tensor, Tensor, Tensor], Selected]:
    """A miner that selects as `miner` does among the pairs whose distance lies in a range.

    It leaves out negatives that are very near, which often are duplicates or wrong labels, or
    positives that are very far.

    Args:
        miner: Miner of pairs or of triplets.
        positive: Smallest and largest distance of positive pairs, both included.
        negative: Smallest and largest distance of negative pairs, both included.

    Raises:
        InputError: A range ends before it starts.

    Source:
        pytorch-metric-learning, BatchEasyHardMiner, allowed_pos_range and allowed_neg_range.

    Example:
        >>> from likewise.masks import masks
        >>> from likewise.miners import batch_hard
        >>> distances = torch.tensor([[0.0, 1.0, 0.01, 2.0]])
        >>> is_positive = torch.tensor([[False, True, False, False]])
        >>> mine = within_range(batch_hard, negative=(0.1, 3.0))
        >>> mine(distances, is_positive, torch.tensor([[False, False, True, True]])).negative
        tensor([3])
    """
    for name, (low, high) in (("positive", positive), ("negative", negative)):
        check_at_least(name, low, -math.inf)
        check_at_least(name, high, -math.inf)
        if low > high:
            raise InputError(
                f"{name} must be a smallest and a largest distance, got {low} and {high}. "
                "Give the smaller one first."
            )
    return partial(_within_range, miner=miner, positive=positive, negative=negative)


@torch.no_grad()
def _within_range(
    distances: Tensor,
    is_positive: Tensor,
    is_negative: Tensor,
    *,
    miner: Callable[[Tensor, Tensor, Tensor], Selected],
    positive: Range,
    negative: Range,
) -> Selected:
    positives, negatives = (
        # What is not outside, for NaN is neither and must not be passed over.
        mask > ((distances < low) | (distances > high))
        for mask, (low, high) in ((is_positive, positive), (is_negative, negative))
    )
    return miner(distances, positives, negatives)
