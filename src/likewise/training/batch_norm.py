"""Batch normalization over the rows of all processes, on any device.

Torch's own synchronized layers need a GPU. Here what a layer does stays its own: the mean and the
variance that it divides by are those of the whole batch, and so are its running statistics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.overrides import TorchFunctionMode

from likewise._shares import current
from likewise.training.processes import Processes


@contextmanager
def synchronized(encoder: nn.Module, loss: nn.Module, processes: Processes) -> Iterator[None]:
    """Within, batch normalizations that train see the rows of all processes.

    Layers of other libraries that derive from torch's do as well. Those of a loss that is computed
    on the whole batch see all of it anyway.
    """
    kinds = [(each, False) for each in encoder.modules()] + [
        (each, True) for each in loss.modules()
    ]
    if processes.count == 1:
        kinds = []
    parts = {each: of_loss for each, of_loss in kinds if isinstance(each, _BatchNorm)}
    layers = list(parts)
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.__dict__["forward"] = _over_all(layer, parts[layer], processes)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.__dict__["forward"]
            if forward is not None:
                layer.__dict__["forward"] = forward


@torch.no_grad()
def averaged(encoder: nn.Module, processes: Processes) -> None:
    """Give running statistics that each process made of its own chunks the mean over processes."""
    if processes.count == 1:
        return
    for layer in encoder.modules():
        if isinstance(layer, _NormBase) and layer.running_mean is not None:
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    statistic.copy_(processes.add(statistic) / processes.count)


def _over_all(layer: nn.Module, of_loss: bool, processes: Processes) -> Callable[..., Any]:
    alone = layer.forward

    def forward(*given: Any, **named: Any) -> Any:
        if not layer.training or (of_loss and current() is None):
            return alone(*given, **named)
        with _Redirected(processes):
            return alone(*given, **named)

    return forward


class _Redirected(TorchFunctionMode):
    """Within, `F.batch_norm` is that over all processes."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What the function returns."""
        if func is F.batch_norm:
            return _batch_norm(self.processes, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    processes: Processes,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` with mean, variance and running statistics of the rows of all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    wide = torch.promote_types(input.dtype, torch.float32)
    channels = input.new_ones(input.shape[1], dtype=wide)
    normalized, mean, squares, count = _Normalized.apply(  # type: ignore[no-untyped-call]
        input.to(wide),
        channels if weight is None else weight.to(wide),
        torch.zeros_like(channels) if bias is None else bias.to(wide),
        eps,
        processes,
    )
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = squares / (count - 1).clamp(min=1)
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result: Tensor = normalized.to(input.dtype)
    return result


class _Normalized(torch.autograd.Function):
    """Values less their mean, over their standard deviation, of each channel over all rows.

    Weight and bias are applied as well. Returns besides the mean, the sum of squares about it, and
    the count. To normalize, and to put the gradient together, is a pass of torch's own for a layer
    that does not train: it takes any mean and variance, and is faster than single steps.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [0, *range(2, values.ndim)]
        count = values.numel() // max(values.shape[1], 1)
        mean = values.sum(dim=axes) / max(count, 1)
        centered = values - mean.view(1, -1, *[1] * (values.ndim - 2))
        squares = centered.square_().sum(dim=axes)
        every = processes.stacked(torch.cat([mean, squares, mean.new_tensor([count])]))
        counts, means = every[:, -1:], every[:, : len(mean)]
        # Sums of squares about the means of the parts, put together: no digits cancel.
        total = counts.sum()
        mean = (counts * means).sum(dim=0) / total
        apart = counts * (means - mean).square()
        squares = (every[:, len(mean) : -1] + apart).sum(dim=0)
        normalized = F.batch_norm(values, mean, squares / total, weight, bias, eps=eps)
        ctx.save_for_backward(values, weight, mean, squares, total)
        ctx.eps, ctx.processes = eps, processes
        ctx.mark_non_differentiable(mean, squares, total)
        return normalized, mean, squares, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, None, None]:
        values, weight, mean, squares, total = ctx.saved_tensors
        scale = (squares / total + ctx.eps).rsqrt()
        of_weight = of_bias = torch.zeros_like(weight)
        if values.numel():  # torch divides by the number of rows
            _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                slopes, values, weight, None, None, mean, scale, True, ctx.eps, [False, True, True]
            )
        along, middle = (ctx.processes.add(torch.stack([of_weight, of_bias])) / total).unbind()
        slope = weight * scale
        gradient = F.batch_norm(
            values, mean, squares / total, -slope * along, -slope * middle, eps=ctx.eps
        )
        shape = (1, -1, *[1] * (values.ndim - 2))
        return gradient.addcmul_(slopes, slope.view(shape)), of_weight, of_bias, None, None
