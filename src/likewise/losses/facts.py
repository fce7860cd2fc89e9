"""What a batch tells besides its loss: distances by kind, and how far embeddings spread."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise._checks import free_to_look
from likewise._shares import counted, current

MOST_ANCHORS = 128  # whose pairs are looked at
FEW = 1 << 17  # up to this many distances the facts wait until they are read
NAMES = (
    *("positive_distance", "smallest_positive", "largest_positive"),
    *("negative_distance", "smallest_negative", "largest_negative"),
    *("mean_gap", "gap", "spread"),
)


class Told(Mapping[str, Tensor]):
    """Facts of a batch, made when they are first read; a training step then pays only for those.

    What they are made of is let go as soon as they are made, or with the next batch.
    """

    def __init__(self, make: Callable[[], dict[str, Tensor]]) -> None:
        self._make: Callable[[], dict[str, Tensor]] | None = make
        self._facts: dict[str, Tensor] = {}

    def _read(self) -> dict[str, Tensor]:
        if self._make is not None:
            with torch.no_grad():
                self._facts = self._make()
            self._make = None
        return self._facts

    def __getitem__(self, name: str) -> Tensor:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def __reduce__(self) -> tuple[type[dict[str, Tensor]], tuple[dict[str, Tensor]]]:
        return dict, (self._read(),)


def mean_where(values: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean of the values where the mask is True; zero, and still differentiable, if nowhere."""
    return _mean_where(values, mask, _here)


def mean_over(values: Float[Tensor, " n"], labeled: Bool[Tensor, " n"] | None) -> Float[Tensor, ""]:
    """Mean over the labeled items, or over all if None is given; 0 if there are none."""
    if labeled is None:
        return values.sum() / max(len(values), 1)
    return mean_where(values, labeled)


def batch_mean_where(values: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """As `mean_where`; of a batch that processes share, what the rows here add to its mean."""
    return _mean_where(values, mask, counted)


def batch_mean_over(
    values: Float[Tensor, " n"], labeled: Bool[Tensor, " n"] | None
) -> Float[Tensor, ""]:
    """As `mean_over`; of a batch that processes share, what the rows here add to its mean."""
    if current() is not None:  # some may be labeled on one process, and all on another
        labeled = torch.ones_like(values, dtype=torch.bool) if labeled is None else labeled
    if labeled is None:
        return values.sum() / max(len(values), 1)
    return batch_mean_where(values, labeled)


def _here(count: Any) -> Any:
    return count


def _mean_where(values: Tensor, mask: Tensor, total: Callable[[Any], Any]) -> Tensor:
    if not free_to_look(mask):
        every: Tensor = total(torch.count_nonzero(mask))
        return torch.where(mask, values, 0).sum() / every.clamp(min=1)
    count = int(np.count_nonzero(mask.numpy()))
    some = values if count == mask.numel() else torch.where(mask, values, 0)
    whole: int = total(count)
    return some.sum() / max(whole, 1)


@torch.no_grad()
def batch_facts(
    embeddings: Float[Tensor, "n d"],
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
    **more: Tensor | Callable[[], Tensor],
) -> Mapping[str, Tensor]:
    """How far apart positive and negative pairs are, and the spread of the embeddings.

    For either kind the mean distance, the smallest and the largest; 0 if there is no such pair.
    `mean_gap` is the mean negative distance minus the mean positive one. `gap` is the smallest
    negative distance minus the largest positive one: above 0 one threshold tells the whole batch
    apart. Both are 0 where a kind is missing. Of more than 128 anchors every second, third, ...
    is looked at, so that telling stays cheap beside the loss. For a small batch on a CPU all of
    it is made when first read.

    The spread is the root mean square distance from the mean embedding, relative to the root
    mean square length: 0 when all embeddings have collapsed to one point, about 1 when they
    point everywhere. Nothing waits for the device.

    Args:
        embeddings: The anchors.
        distances: Distances from every anchor to every reference.
        is_positive: Which pairs are positive.
        is_negative: Which pairs are negative.
        **more: Other facts, told first: tensors without a gradient, or what makes them.
    """
    distances = distances.detach()
    if len(distances) > MOST_ANCHORS:
        rows = slice(None, None, -(-len(distances) // MOST_ANCHORS))
        distances, is_positive, is_negative = (
            part[rows] for part in (distances, is_positive, is_negative)
        )
    if free_to_look(distances) and distances.numel() + embeddings.numel() <= FEW:
        # An optimizer may change the embeddings before the facts are read.
        kept = embeddings.detach().clone()
        return Told(lambda: _now(more, _looked_at(kept, distances, is_positive, is_negative)))
    look = _looked_at if free_to_look(distances) else _of_device
    return _now(more, look(embeddings, distances, is_positive, is_negative))


def _now(
    more: dict[str, Tensor | Callable[[], Tensor]], told: dict[str, Tensor]
) -> dict[str, Tensor]:
    first = {name: fact if isinstance(fact, Tensor) else fact() for name, fact in more.items()}
    return {**first, **told}


def _looked_at(
    embeddings: Tensor, distances: Tensor, is_positive: Tensor, is_negative: Tensor
) -> dict[str, Tensor]:
    # NumPy takes a third of torch's time for a step of a small batch.
    numbers = as_numpy(distances)
    positive = _of_pairs(numbers, is_positive.numpy())
    negative = _of_pairs(numbers, is_negative.numpy())
    gaps = [0.0, 0.0]
    if positive and negative:
        gaps = [negative[0] - positive[0], negative[1] - positive[2]]
    nothing = [0.0] * 3
    told = [*(positive or nothing), *(negative or nothing), *gaps, relative_spread(embeddings)]
    return facts_of(NAMES, told, distances.dtype)


def _of_device(
    embeddings: Tensor, distances: Tensor, is_positive: Tensor, is_negative: Tensor
) -> dict[str, Tensor]:
    room = torch.empty_like(distances, memory_format=torch.contiguous_format)
    positives, *of_positives = _count_mean_and_extremes(distances, is_positive, room)
    negatives, *of_negatives = _count_mean_and_extremes(distances, is_negative, room)
    both = (positives > 0) & (negatives > 0)
    mean_gap = torch.where(both, of_negatives[0] - of_positives[0], 0)
    gap = torch.where(both, of_negatives[1] - of_positives[2], 0)
    found = [*of_positives, *of_negatives, mean_gap, gap, spread(embeddings)]
    return dict(zip(NAMES, found, strict=True))


def as_numpy(values: Tensor) -> Any:
    """Numbers of a tensor on the CPU, in float32 at least; of half precisions a copy."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32)).numpy()


def facts_of(
    names: tuple[str, ...], numbers: list[float], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A tensor without dimensions for each name."""
    return dict(zip(names, torch.tensor(numbers, dtype=dtype).unbind(), strict=True))


def _of_pairs(distances: Any, mask: Any) -> list[float]:
    # Mean, smallest and largest; nothing if there is no such pair.
    found = distances[mask]
    with np.errstate(all="ignore"):
        return [float(found.mean()), float(found.min()), float(found.max())] if found.size else []


@torch.no_grad()
def spread(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Root mean square distance from the mean, relative to the root mean square length."""
    if free_to_look(embeddings):
        return torch.tensor(relative_spread(embeddings))
    points = embeddings.detach().float()
    lengths = points.square().sum()
    middle = points.sum(dim=0).square().sum() / max(len(points), 1)
    # Rounding leaves at most 1e-3 where all embeddings are one point, far below what is alarming.
    return ((lengths - middle).clamp(min=0) / lengths.clamp(min=1e-12)).sqrt()


def relative_spread(embeddings: Tensor) -> float:
    """The same on the CPU, as a number."""
    points = embeddings.detach().double().numpy()  # or rounding would leave 1e-3 of one point
    with np.errstate(all="ignore"):
        lengths, middle = np.vdot(points, points), points.sum(axis=0)
        share = (lengths - np.vdot(middle, middle) / max(len(points), 1)) / max(lengths, 1e-12)
    return math.sqrt(share) if not share <= 0 else 0.0


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
