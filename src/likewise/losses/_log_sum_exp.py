"""Log-sum-exps over the entries of a mask, the sum that most softened losses are made of."""

import math
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from likewise._checks import free_to_look

SMALL = 1 << 14  # entries up to which steps of torch cost more than the numbers in them
LARGE = 1 << 20  # entries from which on a matrix of its own for a few of them is too much
FEW = 1 / 16  # of the entries: so few are taken out one by one
TINY, HUGE = 1e-30, 1e30  # sums of exponentials between them keep the digits of float32


def log_sum_exp(
    values: Float[Tensor, "n m"], mask: Bool[Tensor, "n m"], *, scale: float = 1.0, dim: int = 1
) -> Float[Tensor, "..."]:
    """log Σ exp(scale · value) over the masked entries of each row, or column with dim=0.

    Where nothing is masked it is a number so low that it adds nothing to any other, yet finite,
    with gradient zero. One exponential per entry serves value and gradient; differentiable once.
    """
    (result,) = _LogSumExps.apply(values, dim, scale, mask)  # type: ignore[no-untyped-call]
    return cast(Tensor, result)


def pull_and_push(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    pull_scale: float,
    push_scale: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """`log_sum_exp` of each row over its positives and over its negatives, in fewer passes."""
    pull, push = _LogSumExps.apply(  # type: ignore[no-untyped-call]
        distances, 1, pull_scale, positive, push_scale, negative
    )
    return pull, push


def is_empty(sums: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """Where a `log_sum_exp` had nothing to sum; reading the mask again would take longer."""
    return sums <= torch.finfo(sums.dtype).min / 8


def is_small(distances: Float[Tensor, "n m"]) -> bool:
    """Whether a matrix is on a CPU and so small that steps are the cost, and has an entry."""
    return free_to_look(distances) and 0 < distances.numel() <= SMALL


def has_any(mask: Bool[Tensor, "n m"]) -> Bool[Tensor, " n"]:
    """Whether each row of the mask has an entry."""
    if free_to_look(mask) and mask.numel() <= SMALL:
        return torch.from_numpy(mask.numpy().any(axis=1))
    if not mask.shape[1]:
        return mask.any(dim=1)
    # On a CPU the largest of bytes takes a tenth of the time of any().
    return mask.view(torch.uint8).amax(dim=1).bool()


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dim: int, *sides: Any) -> tuple[Tensor, ...]:
        ctx.dim, ctx.scales = dim, sides[::2]
        ctx.small, ctx.shape = is_small(values), values.shape
        ctx.places, parts = [], []
        for scale, mask in zip(sides[::2], sides[1::2], strict=True):
            places = None if ctx.small or dim != 1 else _places_of_few(mask)
            if places is not None:
                part = _one_of_few(values, places, scale)
            else:
                part = (_one_in_numpy if ctx.small else _one)(values, mask, scale, dim)
            ctx.places.append(places)
            parts.append(part)
        ctx.save_for_backward(*(kept for part in parts for kept in part[:2]))
        return tuple(result for _, _, result in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if ctx.small:
            return _gradient_in_numpy(ctx, slopes, saved), None, *([None] * (2 * len(slopes)))
        gradient, few = None, []
        for slope, scale, places, weights, total in zip(
            slopes, ctx.scales, ctx.places, saved[::2], saved[1::2], strict=True
        ):
            # The largest entry adds 1, so only an empty sum is below 1.
            share = slope.unsqueeze(ctx.dim).mul(scale).div_(total.clamp(min=1))
            if places is not None:
                few.append((places, weights * share.flatten()[places // ctx.shape[1]]))
            else:
                gradient = (
                    weights * share if gradient is None else gradient.addcmul_(weights, share)
                )
        if gradient is None:
            gradient = saved[1].new_zeros(ctx.shape)
        for places, slopes_there in few:
            gradient.put_(places, slopes_there, accumulate=True)
        return gradient, None, *([None] * (2 * len(slopes)))


def _one(values: Tensor, mask: Tensor, scale: float, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    nothing = -torch.inf if scale > 0 else torch.inf
    weights = torch.where(mask, values, nothing)
    largest = weights.amax if scale > 0 else weights.amin
    most = largest(dim, keepdim=True) if values.shape[dim] else values.sum(dim, keepdim=True)
    # Infinity less infinity is not a number.
    limits = torch.finfo(values.dtype)
    most = most.clamp_(min=limits.min) if scale > 0 else most.clamp_(max=limits.max)
    # As powers of 2: torch's exp takes many times longer where the result is nearly or quite 0.
    total = weights.sub_(most).mul_(scale / math.log(2)).exp2_().sum(dim, keepdim=True)
    # Sums of two such numbers must stay finite as well.
    result = total.log().add_(most, alpha=scale).clamp_(min=limits.min / 8)
    return weights, total, result.squeeze(dim)


def _places_of_few(mask: Tensor) -> Tensor | None:
    """Where a mask on a CPU is True, counted through all rows; None if there are many places."""
    if mask.numel() < LARGE or not free_to_look(mask):
        return None
    found = mask.numpy()
    if np.count_nonzero(found) > FEW * mask.numel():
        return None
    return torch.from_numpy(np.flatnonzero(found))


def _one_of_few(values: Tensor, places: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    # As `_one` along rows, without a matrix.
    count, width = values.shape
    rows, some = places // max(width, 1), values.take(places)
    limits = torch.finfo(values.dtype)
    nothing, reach = (limits.min, "amax") if scale > 0 else (limits.max, "amin")
    most = values.new_full((count,), nothing).scatter_reduce_(0, rows, some, reach)
    weights = some.sub_(most[rows]).mul_(scale / math.log(2)).exp2_()
    total = values.new_zeros(count).index_add_(0, rows, weights)
    result = total.log().add_(most, alpha=scale).clamp_(min=limits.min / 8)
    return weights, total[:, None], result


def _one_in_numpy(
    values: Tensor, mask: Tensor, scale: float, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    # The same, in a third of torch's time for a step of a small batch.
    limits = np.finfo(values.numpy(force=True).dtype)
    nothing, bound = (-np.inf, limits.min) if scale > 0 else (np.inf, limits.max)
    with np.errstate(all="ignore"):  # NaN and infinity show in the sums
        weights = np.where(mask.numpy(), values.detach().numpy(), limits.dtype.type(nothing))
        reach, limit = (np.max, np.maximum) if scale > 0 else (np.min, np.minimum)
        most = limit(reach(weights, axis=dim, keepdims=True), bound)
        weights -= most
        weights *= scale
        np.exp(weights, out=weights)
        total = weights.sum(axis=dim, keepdims=True)
        result = np.maximum(np.log(total) + scale * most, limits.min / 8)
    return torch.from_numpy(weights), torch.from_numpy(total), torch.from_numpy(result.squeeze(dim))


def _gradient_in_numpy(ctx: Any, slopes: tuple[Tensor, ...], saved: Any) -> Tensor:
    gradient: Any = 0
    with np.errstate(all="ignore"):
        for slope, scale, weights, total in zip(
            slopes, ctx.scales, saved[::2], saved[1::2], strict=True
        ):
            share = np.expand_dims(slope.detach().numpy(), ctx.dim) * scale
            gradient = gradient + weights.numpy() * (share / np.maximum(total.numpy(), 1))
    return torch.from_numpy(gradient)
