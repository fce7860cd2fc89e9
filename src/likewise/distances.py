"""Distances between embeddings; smaller is closer, always."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from likewise._checks import check_choice, check_embeddings, check_same_width, free_to_look
from likewise.errors import InputError, InputTypeError

__all__ = [
    "COSINE",
    "EUCLIDEAN",
    "INNER_PRODUCT",
    "MANHATTAN",
    "NAMED",
    "SNR",
    "SQUARED_EUCLIDEAN",
    "Distance",
    "by_name",
    "unit",
]


@dataclass(frozen=True)
class _Floating:
    """A comparison whose results are floating point, so that infinity can stand among them."""

    compare: Callable[[Tensor, Tensor], Tensor]

    def __repr__(self) -> str:
        return repr(self.compare)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        found = self.compare(a, b)
        if found.is_floating_point() or found.is_complex():
            return found
        return found.to(torch.promote_types(a.dtype, torch.float32))


@dataclass(frozen=True)
class Distance:
    """A named way to compare embeddings; smaller means more alike.

    `matrix` compares every row with every row, `paired` row with same row, and the two agree:
    `paired(a, b)` is the diagonal of `matrix(a, b)`. Those of this module compute in float32 at
    least, under autocast too. Their gradient is finite wherever the true one fits the number type.
    Where there is none, it is 0: at equal rows, at a row of zeros for COSINE, and in all pairs of a
    constant anchor for SNR.

    Args:
        name: what the distance is called on the command line and in a saved model.
        matrix: (n, d), (m, d) -> (n, m). What counts, and gives integers, is made floating point.
        paired: (n, d), (n, d) -> (n,), likewise.

    Example:
        >>> import torch
        >>> chebyshev = Distance(
        ...     "chebyshev",
        ...     lambda a, b: torch.cdist(a, b, p=torch.inf),
        ...     lambda a, b: (a - b).abs().amax(dim=1),
        ... )
        >>> chebyshev.paired(torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([2.])
    """

    name: str
    matrix: Callable[[Tensor, Tensor], Tensor]
    paired: Callable[[Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        for name in ("matrix", "paired"):
            given = getattr(self, name)
            if not isinstance(given, _Floating):
                object.__setattr__(self, name, _Floating(given))

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Pickled and copied by name, those of this module stay the very same objects.
        if NAMED.get(self.name) == self:
            return by_name, (self.name,)
        return type(self), (self.name, self.matrix, self.paired)


def by_name(name: str) -> Distance:
    """The distance of this module called `name`.

    Raises:
        InputError: no distance has that name; the sentence lists those there are.

    Example:
        >>> by_name("cosine") is COSINE
        True
    """
    check_choice("distance", name, NAMED)
    return NAMED[name]


def check_distance(distance: object) -> None:
    """Refuse anything but a `Distance`, such as the name of one."""
    if not isinstance(distance, Distance):
        raise InputTypeError(
            f"distance must be a Distance, got {distance!r}. Use e.g. likewise.distances.COSINE."
        )


def without_autocast(values: Tensor) -> AbstractContextManager[Any]:
    """A block without autocast on the device of the values."""
    # To enter a block of torch's takes as long as a step.
    device = values.device.type
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def _widened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.dtype == b.dtype == torch.float32:
        return a, b
    # Squares of float16 embeddings overflow from 256 on, and bfloat16 keeps three digits.
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    wide = a.to(dtype)
    # A set compared with itself stays one tensor: half the work, forward and backward.
    return wide, wide if b is a else b.to(dtype)


def _distance(
    name: str,
    matrix: Callable[[Tensor, Tensor], Tensor],
    paired: Callable[[Tensor, Tensor], Tensor],
) -> Distance:
    def checked_matrix(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        check_embeddings(a, "a")
        check_embeddings(b, "b")
        check_same_width(a, b)
        with without_autocast(a):
            return matrix(*_widened(a, b))

    def checked_paired(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        check_embeddings(a, "a")
        check_embeddings(b, "b")
        check_same_width(a, b)
        if len(a) != len(b):
            raise InputError(
                f"b must have as many rows as a, {len(a)}, got {len(b)}. "
                "Use matrix to compare every row with every row."
            )
        with without_autocast(a):
            return paired(*_widened(a, b))

    return Distance(name, checked_matrix, checked_paired)


def unit(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Rows of length 1; a row of zeros stays, and has gradient 0."""
    # What `normalize` of torch does, in half the time for a few rows.
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    # Where looking is free, it is one step instead of three.
    if _none_is_zero(lengths):
        return x / lengths
    divisors = lengths.clamp_min(1e-12)
    if lengths.requires_grad:  # the value is the same without
        divisors = divisors.masked_fill(lengths == 0, torch.inf)
    return x / divisors


def _none_is_zero(lengths: Tensor) -> bool:
    # False also where looking would wait for the device, or NumPy has no such type.
    if not free_to_look(lengths) or lengths.dtype not in (torch.float32, torch.float64):
        return False
    return bool(lengths.detach().numpy().min(initial=1) >= 1e-12)


def _cosine(a: Tensor, b: Tensor, paired: bool = False) -> Tensor:
    if not torch.is_grad_enabled():  # for one query, the steps of a Function cost as much again
        return _cosine_of_units(_unit_and_length(a)[0], _unit_and_length(b)[0], paired)
    distances: Tensor = _Cosine.apply(a, b, paired)  # type: ignore[no-untyped-call]
    return distances


def _cosine_of_units(a: Tensor, b: Tensor, paired: bool) -> Tensor:
    cosines: Tensor = torch.linalg.vecdot(a, b) if paired else a @ b.T
    return cosines.neg_().add_(1).clamp_(min=0)


class _Cosine(torch.autograd.Function):
    """1 - unit(a) @ unit(b).T in few steps: between a batch and few others, steps are the cost.

    Or, paired, its diagonal.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, paired: bool) -> Tensor:
        ctx.paired, ctx.itself = paired, a is b and not paired
        to_a = _unit_and_length(a)
        to_b = to_a if a is b else _unit_and_length(b)
        ctx.save_for_backward(*to_a, *to_b)
        return _cosine_of_units(to_a[0], to_b[0], paired)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, length_a, b, length_b = ctx.saved_tensors
        if ctx.itself:
            # One product instead of two where a set is compared with itself.
            return _across((slopes + slopes.T) @ a, a, length_a), None, None
        times, of_a = (torch.mul, slopes[:, None]) if ctx.paired else (torch.mm, slopes)
        of_b = of_a if ctx.paired else slopes.T
        return (
            _across(times(of_a, b), a, length_a) if ctx.needs_input_grad[0] else None,
            _across(times(of_b, a), b, length_b) if ctx.needs_input_grad[1] else None,
            None,
        )


def _unit_and_length(x: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) > 1 and x.stride(0) == 0:  # one row, expanded
        unit, length = _unit_and_length(x[:1])
        return unit.expand(x.shape), length.expand(len(x), 1)
    lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    # Where looking is free, it is one step instead of three.
    if not _none_is_zero(lengths):
        lengths = lengths.clamp_min(1e-12).masked_fill_(lengths == 0, torch.inf)
    return x / lengths, lengths


def _across(pull: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    # Only what is across the vector turns it.
    along = torch.linalg.vecdot(pull, unit)[:, None]
    turning: Tensor = torch.addcmul(pull.neg_(), along, unit).div_(length)
    return turning


# A row pair counts as near below this share of the anchor's squared distance from the middle.
# float32 products are wrong by a few 1e-7 of that, so what is left to them errs by less than 1e-4
# of the distance.
NEAR = 1e-2
MOST = 1 << 21  # numbers in a temporary
WIDE = 1 << 19  # products up to which float64 costs less than the care that float32 needs
EXACT = 1e-7  # share of the largest squared length, above which float64 keeps float32's digits
FEW = 8  # with so few rows on one side, differences cost no more than a product
NOTHING = 1e-14  # share of both squared lengths, of which float64's product keeps no digit
SMALL = 1 << 18  # nor with no more differences than this


def _euclidean_matrix(a: Tensor, b: Tensor, squared: bool = False) -> Tensor:
    matrix: Tensor = _Euclidean.apply(a, b, squared)  # type: ignore[no-untyped-call]
    return matrix


class _Euclidean(torch.autograd.Function):
    """Distances by a matrix product, and by differences where the product would lose digits.

    The product |a|² + |b|² - 2ab is many times faster than differences, but puts equal float32
    unit vectors up to 1e-3 apart, and its gradient is noise there. On a CPU the near pairs are
    found and done again. On a GPU that would wait for their number: there the product is made in
    float64. What is nearer than 1e-7 of its length from the mean counts as equal.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, squared: bool) -> Tensor:
        ctx.squared = squared
        ctx.itself = a is b
        near = middle = None
        work = a.numel() * len(b)
        if free_to_look(a) and min(len(a), len(b)) > FEW:
            if SMALL // 2 < work <= WIDE and a.dtype == torch.float32:
                squares = _in_double(a, b)
                if squares is not None:
                    apart = squares if squared else squares.sqrt_()
                    ctx.save_for_backward(a, b, None if squared else apart, None, None)
                    return apart.float()
            if work > SMALL:
                middle = _round_middle(b)
                matrix, near = _by_product(a, b, middle)
        if near is None and _is_wide_quick(a):
            squares = _by_wide_product(a, b)
            matrix = (squares if squared else squares.sqrt_()).float()
        elif near is None:
            # In float64 a root and its square are the whole number that they came from.
            x, y = (a.double(), b.double()) if squared else (a, b)
            matrix = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
            if squared:
                matrix = matrix.square_().to(a.dtype)
        elif not squared:
            matrix.sqrt_()
        ctx.save_for_backward(a, b, None if squared else matrix, near, middle)
        return matrix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b, distances, near, middle = ctx.saved_tensors
        if near is None and free_to_look(a) and a.numel() * len(b) <= WIDE:
            return *_pull_in_numpy(ctx, slopes, a, b, distances), None
        weights = (2 * slopes if ctx.squared else slopes / distances).contiguous()
        if near is None:
            if not ctx.squared:
                weights.masked_fill_(distances == 0, 0)
            # At 1e-8 apart a weight is 1e8 slopes, and float32 would cancel to noise.
            wide = weights.double()
            if ctx.itself:
                to_a, to_b = _pull(a.double(), a.double(), wide + wide.T, to_a=True, to_b=False)
            else:
                to_a, to_b = _pull(a.double(), b.double(), wide, *ctx.needs_input_grad[:2])
        else:
            apart = weights.view(-1)[near] if len(near) else weights.new_empty(0)
            if len(near):
                if not ctx.squared:
                    apart.masked_fill_(distances.view(-1)[near] == 0, 0)
                weights.view(-1)[near] = 0
            x = a - middle
            if ctx.itself:
                # One product instead of two where a set is compared with itself.
                both = weights.fill_diagonal_(0) + weights.T
                to_a, to_b = _pull(x, x, both, to_a=True, to_b=False)
            else:
                to_a, to_b = _pull(x, b - middle, weights, *ctx.needs_input_grad[:2])
            step = max(1, MOST // a.shape[1])
            for start in range(0, len(near), step):
                some, weight = near[start : start + step], apart[start : start + step]
                rows, columns = some // len(b), some % len(b)
                steps = (a[rows] - b[columns]).mul_(weight[:, None])
                if to_a is not None:
                    to_a.index_add_(0, rows, steps)
                if to_b is not None:
                    to_b.index_add_(0, columns, steps, alpha=-1)
                elif ctx.itself and to_a is not None:
                    to_a.index_add_(0, columns, steps, alpha=-1)
        return (
            None if to_a is None else to_a.to(a.dtype),
            None if to_b is None else to_b.to(b.dtype),
            None,
        )


def _is_wide_quick(a: Tensor) -> bool:
    return not free_to_look(a) and a.dtype == torch.float32 and a.device.type != "mps"


def _by_wide_product(a: Tensor, b: Tensor) -> Tensor:
    # Squared distances in float64, about the mean, where a product loses least.
    middle = b.double().mean(dim=0)
    x = a.double() - middle
    y = x if b is a else b.double() - middle
    lengths = x.square().sum(dim=1)[:, None]
    both = lengths + (lengths.T if b is a else y.square().sum(dim=1))
    squares = torch.addmm(both, x, y.T, alpha=-2)
    squares.masked_fill_(squares <= NOTHING * both, 0)
    if b is a:
        squares.diagonal().zero_()
    return squares


def _in_double(a: Tensor, b: Tensor) -> Tensor | None:
    # Squared distances by a product in float64; None if float32 may hold digits that the product
    # lost, or if a number is not finite.
    x = a.detach().double()
    y = x if b is a else b.detach().double()
    product = x @ y.T
    squares = product.numpy()
    with np.errstate(all="ignore"):
        lengths = np.einsum("ij,ij->i", x.numpy(), x.numpy())
        others = lengths if b is a else np.einsum("ij,ij->i", y.numpy(), y.numpy())
        squares *= -2
        squares += lengths[:, None]
        squares += others
        if b is a:
            np.fill_diagonal(squares, np.inf)
        if not squares.min() > EXACT * max(lengths.max(), others.max()):
            return None
    if b is a:
        np.fill_diagonal(squares, 0)
    return product


def _pull_in_numpy(
    ctx: Any, slopes: Tensor, a: Tensor, b: Tensor, distances: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    # As `_pull`, in a third of torch's time for a step of a small batch.
    to_a, to_b, _ = ctx.needs_input_grad
    x = a.detach().double().numpy()
    y = x if ctx.itself else b.detach().double().numpy()
    # At 1e-8 apart a weight is 1e8 slopes, and float32 would cancel to noise.
    weights = slopes.detach().double().numpy()
    with np.errstate(all="ignore"):  # NaN and infinity show in the gradient
        if distances is None:
            weights = 2 * weights
        else:
            apart = distances.detach().numpy()
            weights = weights / apart
            weights[apart == 0] = 0
        if ctx.itself:
            both = weights + weights.T
            pulled = [both.sum(axis=1)[:, None] * x - both @ x, None]
        else:
            pulled = [
                weights.sum(axis=1)[:, None] * x - weights @ y if to_a else None,
                weights.sum(axis=0)[:, None] * y - weights.T @ x if to_b else None,
            ]
    to_a, to_b = (None if to is None else torch.from_numpy(to).to(a.dtype) for to in pulled)
    return to_a, to_b


def _by_product(a: Tensor, b: Tensor, middle: Tensor) -> tuple[Tensor, Tensor | None]:
    # Squared distances, and which were done again by differences; None if most of them
    # were, as then all should be. Distances do not depend on the origin, and near it products are
    # exact.
    x = a - middle
    y = x if b is a else b - middle
    lengths = x.square().sum(dim=1)[:, None]
    others = lengths.T if b is a else y.square().sum(dim=1)
    squares = (lengths + others).addmm_(x, y.T, alpha=-2)
    # What is not far, for where squares overflow the product is NaN.
    far = squares.numpy() > NEAR * lengths.numpy()
    if b is a:
        # An item is 0 from itself. A number that is not finite makes all of `squares` NaN, so that
        # no pair is far.
        squares.diagonal().zero_()
        np.fill_diagonal(far, True)
    near = torch.from_numpy(np.flatnonzero(~far))
    if len(near) > squares.numel() // 8:
        return squares, None
    step = max(1, MOST // a.shape[1])
    for start in range(0, len(near), step):
        some = near[start : start + step]
        steps = a[some // len(b)] - b[some % len(b)]
        squares.view(-1)[some] = steps.square_().sum(dim=1)
    return squares, near


def _round_middle(b: Tensor) -> Tensor:
    # The mean in steps of a power of two below the spread: whole numbers stay such, so that
    # equal distances stay equal; and rows around the origin stay where they are.
    mean = b.mean(dim=0)
    spread = float(torch.linalg.vector_norm(b - mean)) / math.sqrt(b.numel())
    if not 0 < spread < math.inf:
        return mean
    step = 2.0 ** (math.frexp(spread)[1] - 1)
    return (mean / step).round_().mul_(step)


def _pull(
    a: Tensor, b: Tensor, weights: Tensor, to_a: bool, to_b: bool
) -> tuple[Tensor | None, Tensor | None]:
    # Σ_j w_ij (a_i - b_j) for every a_i, and the same for every b_j.
    return (
        torch.addmm(a * weights.sum(dim=1)[:, None], weights, b, alpha=-1) if to_a else None,
        torch.addmm(b * weights.sum(dim=0)[:, None], weights.T, a, alpha=-1) if to_b else None,
    )


def _euclidean_paired(a: Tensor, b: Tensor) -> Tensor:
    # Not F.pairwise_distance: it adds 1e-6 and so disagrees with the matrix.
    distances: Tensor = torch.linalg.vector_norm(a - b, dim=1)
    return distances


def _noise_to_signal(a: Tensor, b: Tensor, compare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    x = _centered(a)
    noise = compare(x, x if b is a else _centered(b))
    shape = (-1, *[1] * (noise.ndim - 1))
    signal = x.square().sum(dim=1)
    with torch.no_grad():
        without = ((a.amax(dim=1) == a.amin(dim=1)) | signal.isinf()).view(shape)
    # A tiny signal keeps the ratio finite.
    signal = signal.clamp(min=torch.finfo(a.dtype).tiny ** 0.5).view(shape)
    if free_to_look(a) and not without.any():
        return noise / signal
    # A constant anchor has no signal at all, and the slope of its tiny one would drown all others.
    ratio = noise / signal.masked_fill(without, 1)
    return torch.where(without, noise.detach() / signal.detach(), ratio)


def _centered(x: Tensor) -> Tensor:
    if x.shape[1] < 2:
        raise InputError(
            f"embeddings must have at least 2 dimensions for snr, got {x.shape[1]}. "
            "A single number has no variance."
        )
    return x - x.mean(dim=1, keepdim=True)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(dim=1)


COSINE = _distance(
    "cosine", _cosine, partial(_cosine, paired=True)
)  # 1 - cos, in [0, 2]; lengths do not matter, and a zero vector is 1 away from everything
EUCLIDEAN = _distance("euclidean", _euclidean_matrix, _euclidean_paired)  # in [0, inf)
SQUARED_EUCLIDEAN = _distance(
    "squared_euclidean",
    lambda a, b: _euclidean_matrix(a, b, squared=True),
    _squares,
)  # in [0, inf); for unit vectors twice the cosine distance
MANHATTAN = _distance(
    "manhattan",
    lambda a, b: torch.cdist(a, b, p=1),
    lambda a, b: (a - b).abs().sum(dim=1),
)  # in [0, inf)
INNER_PRODUCT = _distance(
    "inner_product",
    lambda a, b: -(a @ b.T),
    lambda a, b: -(a * b).sum(dim=1),
)  # minus the inner product, so that smaller is closer: any number, and not 0 between equals
SNR = _distance(
    "snr",
    lambda a, b: _noise_to_signal(a, b, partial(_euclidean_matrix, squared=True)),
    lambda a, b: _noise_to_signal(a, b, _squares),
)  # variance of the difference over the variance of the anchor a, in [0, inf); not symmetric
# Source of SNR: Yuan, Deng, Tang, Tang & Chen, "Signal-to-Noise Ratio: A Robust Distance Metric for
# Deep Metric Learning", CVPR 2019, equation 4.

NAMED = {
    distance.name: distance
    for distance in (COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN, MANHATTAN, INNER_PRODUCT, SNR)
}
