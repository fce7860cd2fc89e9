"""What a batch tells besides its loss: distances by kind, and how far embeddings spread."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MOST_ANCHORS = 128  # whose pairs are looked at


def mean_where(values: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean of the values where the mask is True; zero, and still differentiable, if nowhere."""
    return torch.where(mask, values, 0).sum() / torch.count_nonzero(mask).clamp(min=1)


def mean_over(values: Float[Tensor, " n"], labeled: Bool[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Mean over the labeled items, or over all if None is given; 0 if there are none."""
    if labeled is None:
        return values.sum() / max(len(values), 1)
    return mean_where(values, labeled)


@torch.no_grad()
def batch_facts(
    embeddings: Float[Tensor, "n d"],
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> dict[str, Tensor]:
    """How far apart positive and negative pairs are, and the spread of the embeddings.

    For either kind the mean distance, the smallest and the largest; 0 if there is no such pair.
    `mean_gap` is the mean negative distance minus the mean positive one. `gap` is the smallest
    negative distance minus the largest positive one: above 0 one threshold tells the whole batch
    apart. Both are 0 where a kind is missing. Of more than 128 anchors every second, third, ...
    is looked at, so that telling stays cheap beside the loss.

    The spread is the root mean square distance from the mean embedding, relative to the root
    mean square length: 0 when all embeddings have collapsed to one point, about 1 when they
    point everywhere. Nothing waits for the device.
    """
    rows = slice(None, None, max(1, -(-len(distances) // MOST_ANCHORS)))
    distances = distances.detach()[rows]
    room = torch.empty_like(distances, memory_format=torch.contiguous_format)
    positives, positive, smallest_positive, largest_positive = _count_mean_and_extremes(
        distances, is_positive[rows], room
    )
    negatives, negative, smallest_negative, largest_negative = _count_mean_and_extremes(
        distances, is_negative[rows], room
    )
    both = (positives > 0) & (negatives > 0)
    return {
        "positive_distance": positive,
        "negative_distance": negative,
        "mean_gap": torch.where(both, negative - positive, 0),
        "smallest_positive": smallest_positive,
        "largest_positive": largest_positive,
        "smallest_negative": smallest_negative,
        "largest_negative": largest_negative,
        "gap": torch.where(both, smallest_negative - largest_positive, 0),
        "spread": spread(embeddings),
    }


@torch.no_grad()
def spread(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Root mean square distance from the mean, relative to the root mean square length."""
    points = embeddings.detach().float()
    lengths = points.square().sum()
    middle = points.sum(dim=0).square().sum() / max(len(points), 1)
    # Rounding leaves at most 1e-3 where all embeddings are one point, far below what is alarming.
    return ((lengths - middle).clamp(min=0) / lengths.clamp(min=1e-12)).sqrt()


def _count_mean_and_extremes(
    distances: Tensor, mask: Tensor, room: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Both kinds fill the same room, since new memory costs more than filling it.
    count = torch.count_nonzero(mask)
    torch.where(mask, distances, distances.new_zeros(()), out=room)
    mean = room.sum() / count.clamp(min=1)
    if not distances.numel():
        return count, mean, mean, mean
    # The mean lies between both extremes, so filling with it hides neither.
    smallest, largest = torch.where(mask, distances, mean, out=room).aminmax()
    return count, mean, smallest, largest
