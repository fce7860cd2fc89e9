"""Embeddings of a large batch, made a chunk at a time, so that only the loss sees all of it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from likewise._checks import check_count, free_to_look
from likewise.errors import InputError, InputTypeError

LEAST_NORMALIZED = 8  # items, so that no share of a batch leaves one item alone to be normalized
APART = 0.01  # of their length: embeddings that far from those before were not made as they were

Rows = slice | Tensor  # of a batch, that one chunk holds


class Chunks:
    """What an encoder gives for a batch, from one chunk of it at a time, with gradient.

    Called as chunks(encoder, *inputs), as encoder(*inputs) would be. A chunk is encoded without
    keeping what a gradient needs. When the gradient of the embeddings has come, each is encoded
    again, with the random numbers it had, and passes its share on to the weights. So memory holds
    the layers' results of one chunk, and the gradient is that of all chunks in one graph.

    Running statistics, such as those of a batch norm, are updated once for a batch, by the mean
    over its chunks; the second encoding leaves buffers as they are. Texts of like length go
    together. Where a batch norm trains, items are spread over the chunks in a fixed order, since
    a chunk that holds all the items of a class would give the class away by its statistics.

    Args:
        size: Items that are encoded at once, all sides together. A batch of no more is encoded
            whole.
        encoder: What will be encoded by, looked at for batch norms.

    Raises:
        InputError: The size is below 1, or below 8 for an encoder with a batch norm.

    Source:
        Gao, Zhang, Han & Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
        Setup", RepL4NLP 2021. Statistics of parts of a batch: Hoffer, Hubara & Soudry, "Train
        longer, generalize better", NeurIPS 2017, section 4.

    Example:
        >>> encoder, items = nn.Linear(3, 2), torch.rand(10, 3)
        >>> embeddings = Chunks(4, encoder)(encoder, items)
        >>> embeddings.square().sum().backward()
        >>> expected = torch.autograd.grad(encoder(items).square().sum(), encoder.weight)
        >>> torch.allclose(encoder.weight.grad, *expected)
        True
    """

    def __init__(self, size: int, encoder: nn.Module) -> None:
        check_count("chunk", size)
        if size < LEAST_NORMALIZED and _norms(encoder):
            raise InputError(
                f"must be at least {LEAST_NORMALIZED} for an encoder with batch normalization, "
                f"whose statistics are those of a chunk, got {size}. Use 32 or more.",
                argument="chunk",
            )
        self.size = size
        self.is_checked = False

    def __call__(self, encoder: nn.Module, *inputs: Any) -> Any:
        """Embeddings (n, d) of one input, or a tuple of them for several."""
        count = _count(inputs[0])
        parts = math.ceil(count / max(1, self.size // len(inputs)))
        if parts <= 1:
            return encoder(*inputs)
        rows = _dealt(encoder, inputs, count, parts)
        # The function has a gradient only if some argument has.
        anchor = torch.zeros((), requires_grad=True)
        made = _Encoded.apply(anchor, self, encoder, inputs, rows)  # type: ignore[no-untyped-call]
        return made if len(inputs) > 1 else made[0]

    def check_same(self, first: Tensor, deviation: Tensor, encoder: nn.Module) -> None:
        """Refuse embeddings that came out otherwise than the first time.

        A device is waited for once, at the first batch.

        Raises:
            InputError: The gradient would belong to other embeddings than the loss.
        """
        if self.is_checked and not free_to_look(deviation):
            return
        self.is_checked = True
        if bool(deviation > APART**2 * first):
            raise InputError(
                "encoder must give the same embeddings twice with chunk, from the same random "
                f"numbers of torch, got others from {type(encoder).__name__}. Let it draw from "
                "torch alone and keep no state that changes them, or leave chunk out."
            )


class _Encoded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        chunks: Chunks,
        encoder: nn.Module,
        inputs: tuple[Any, ...],
        rows: list[Rows],
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        count = _count(inputs[0])
        buffers = [(buffer, buffer._version) for buffer in encoder.buffers()]
        devices = _devices(encoder)
        states = []
        whole: list[Tensor] = []
        precise = _precision(encoder)
        with _one_update(encoder) as turn, precise():
            for place in rows:
                states.append(_random_state(devices))
                part = [_of(side, place) for side in inputs]
                turn(_count(part[0]) / count)
                made = _tuple_of(encoder(*part), part)
                if not whole:
                    whole = [each.new_empty((count, *each.shape[1:])) for each in made]
                for all_rows, each in zip(whole, made, strict=True):
                    all_rows[place] = each
        ctx.chunks, ctx.encoder, ctx.inputs, ctx.rows = chunks, encoder, inputs, rows
        ctx.states, ctx.devices, ctx.precise = states, devices, precise
        # A batch norm changes its statistics without a new version.
        ctx.changing = [
            buffer
            for buffer, version in buffers
            if buffer.is_floating_point() or buffer._version != version
        ]
        ctx.save_for_backward(*whole)
        return tuple(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[None, ...]:
        encoder, firsts = ctx.encoder, ctx.saved_tensors
        if ctx.inputs is None:
            raise InputError(
                "embeddings in chunks must be gone back through once, got a second backward. "
                "Encode the batch again, or whole."
            )
        left = _random_state(ctx.devices)
        buffers = [(buffer, buffer.clone()) for buffer in ctx.changing]
        lengths, deviations = [], []
        for place, state in zip(ctx.rows, ctx.states, strict=True):
            _set_random_state(state, ctx.devices)
            with torch.enable_grad(), ctx.precise():
                again = encoder(*(_of(side, place) for side in ctx.inputs))
            again = again if isinstance(again, tuple) else (again,)
            for first, each in zip(firsts, again, strict=True):
                before = first[place].float()
                lengths.append(before.square().sum())
                deviations.append((each.detach().float() - before).square().sum())
            passed = [
                (each, slope[place])
                for each, slope in zip(again, slopes, strict=True)
                if slope is not None and each.requires_grad
            ]
            if not passed:
                break  # nothing of the encoder learns
            learned, their_slopes = zip(*passed, strict=True)
            torch.autograd.backward(learned, their_slopes)
        _set_random_state(left, ctx.devices)
        for buffer, value in buffers:
            buffer.copy_(value)
        # Items would stay in memory for as long as the value of the loss.
        ctx.inputs = ctx.states = None
        ctx.chunks.check_same(torch.stack(lengths).sum(), torch.stack(deviations).sum(), encoder)
        return None, None, None, None, None


def _norms(encoder: nn.Module, kind: type[nn.Module] = _BatchNorm) -> list[Any]:
    """The batch norms of an encoder."""
    return [each for each in encoder.modules() if isinstance(each, kind)]


@contextmanager
def _one_update(encoder: nn.Module) -> Iterator[Any]:
    """Have running statistics updated by the mean over chunks, as if once.

    What it gives is called before each chunk with its share of the batch. After shares that add up
    to s the statistics are ((1 − m) old + m Σ share · chunk) / (1 − m + m s).
    """
    norms = [each for each in _norms(encoder, _NormBase) if each.running_mean is not None]
    norms = [each for each in norms if each.training]
    tracked = [each.num_batches_tracked.clone() for each in norms]
    given = [each.momentum for each in norms]
    whole = [
        1 / (float(number) + 1) if momentum is None else momentum
        for number, momentum in zip(tracked, given, strict=True)
    ]
    done = 0.0

    def turn(share: float) -> None:
        nonlocal done
        done += share
        for norm, momentum in zip(norms, whole, strict=True):
            norm.momentum = momentum * share / (1 - momentum + momentum * done)

    try:
        yield turn
    finally:
        for norm, momentum, number in zip(norms, given, tracked, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(torch.minimum(norm.num_batches_tracked, number + 1))


def _dealt(encoder: nn.Module, inputs: Sequence[Any], count: int, parts: int) -> list[Rows]:
    """Which rows each chunk holds; sizes differ by one at most."""
    order: Tensor | None = None
    if isinstance(inputs[0], (list, tuple)):
        lengths = [sum(len(side[row]) for side in inputs) for row in range(count)]
        order = torch.tensor(lengths).argsort(stable=True)
    elif any(each.training for each in _norms(encoder)):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    if order is None:
        ends = [count * part // parts for part in range(parts + 1)]
        return [slice(*ends[part : part + 2]) for part in range(parts)]
    weight = next(encoder.parameters(), None)
    return list((order if weight is None else order.to(weight.device)).tensor_split(parts))


def _count(side: Any) -> int:
    if isinstance(side, Mapping) and side:
        return len(next(iter(side.values())))
    if isinstance(side, (Tensor, list, tuple)):
        return len(side)
    raise InputTypeError(
        "preprocess must give a tensor, texts, or a dict of tensors with chunk, got "
        f"{type(side).__name__}. Leave chunk out, or give one of these."
    )


def _of(side: Any, rows: Rows) -> Any:
    """Some rows of an input."""
    if isinstance(side, Mapping):
        return {name: _of(values, rows) for name, values in side.items()}
    if isinstance(side, Tensor) or isinstance(rows, slice):
        return side[rows]
    return [side[row] for row in rows.tolist()]


def _tuple_of(made: Any, part: Sequence[Any]) -> tuple[Tensor, ...]:
    """Embeddings of each side of a chunk, refusing what is none."""
    each = made if isinstance(made, tuple) else (made,)
    sizes = [len(one) if isinstance(one, Tensor) and one.ndim else None for one in each]
    if sizes != [_count(side) for side in part]:
        told = ", ".join(
            type(one).__name__ if n is None else f"{n} rows"
            for one, n in zip(each, sizes, strict=True)
        )
        raise InputError(
            f"encoder must give an embedding of each of {_count(part[0])} items with chunk, got "
            f"{told}. Leave chunk out, or return a tensor with a row for each."
        )
    return each


def _precision(encoder: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
    """What brings mixed precision back as it is now.

    Weights that were cast are not kept meanwhile, as those of the first encoding have no gradient.
    """
    kind = next((weight.device.type for weight in encoder.parameters()), "cpu")
    if not torch.is_autocast_enabled(kind):
        return nullcontext
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind), cache_enabled=False)


def _devices(encoder: nn.Module) -> list[int]:
    return sorted({weight.get_device() for weight in encoder.parameters() if weight.is_cuda})


def _random_state(devices: list[int]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _set_random_state(state: list[Tensor], devices: list[int]) -> None:
    torch.set_rng_state(state[0])
    for device, of_device in zip(devices, state[1:], strict=True):
        torch.cuda.set_rng_state(of_device, device)
