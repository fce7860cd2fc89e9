"""Values whose gradient was made along with them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def with_slopes(
    distances: Float[Tensor, "n m"], value: Float[Tensor, ""], slopes: Float[Tensor, "n m"]
) -> Float[Tensor, ""]:
    """The value, with the slopes as its gradient by the distances; differentiable once."""
    result: Tensor = _WithSlopes.apply(distances, value, slopes)  # type: ignore[no-untyped-call]
    return result


class _WithSlopes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distances: Tensor, value: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * slope, None, None
