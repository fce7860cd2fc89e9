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
    normalized, mean, squares, count = _Normalized.apply(  # type: ignore[no-untyped-call]
        input, eps, processes
    )
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = squares / (count - 1).clamp(min=1)
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    shape = (1, -1, *[1] * (input.ndim - 2))
    if weight is not None:
        normalized = normalized * weight.view(shape)
    if bias is not None:
        normalized = normalized + bias.view(shape)
    result: Tensor = normalized.to(input.dtype)
    return result


class _Normalized(torch.autograd.Function):
    """Values less their mean, over their standard deviation, of each channel over all rows.

    Returns besides them the mean, the sum of squares about it, and the count.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        axes = [0, *range(2, values.ndim)]
        shape = (1, -1, *[1] * (values.ndim - 2))
        count = values.numel() // max(values.shape[1], 1)
        mean = wide.sum(dim=axes) / max(count, 1)
        squares = (wide - mean.view(shape)).square().sum(dim=axes)
        every = processes.stacked(torch.cat([mean, squares, mean.new_tensor([count])]))
        counts, means = every[:, -1:], every[:, : len(mean)]
        # Sums of squares about the means of the parts, put together: no digits cancel.
        total = counts.sum()
        mean = (counts * means).sum(dim=0) / total
        apart = counts * (means - mean).square()
        squares = (every[:, len(mean) : -1] + apart).sum(dim=0)
        scale = (squares / total + eps).rsqrt()
        normalized = (wide - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normalized, scale, total)
        ctx.processes = processes
        ctx.mark_non_differentiable(mean, squares, total)
        return normalized, mean, squares, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor, *_: None) -> tuple[Tensor, None, None]:
        normalized, scale, total = ctx.saved_tensors
        axes = [0, *range(2, slopes.ndim)]
        shape = (1, -1, *[1] * (slopes.ndim - 2))
        sums = torch.stack([slopes.sum(dim=axes), (slopes * normalized).sum(dim=axes)])
        mean, along = (ctx.processes.add(sums) / total).unbind()
        gradient = slopes - mean.view(shape) - normalized * along.view(shape)
        return gradient * scale.view(shape), None, None
