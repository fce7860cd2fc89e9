"""Layers that end an encoder: pooling, scaling, and the choice of one output."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise._checks import check_count, check_positive
from likewise.errors import InputError, InputTypeError


class Normalize(nn.Module):
    """Rows scaled to unit Euclidean length; rows of zeros stay zeros.

    The gradient at a row of zeros is the incoming one, so it is finite and the row can still
    move. Half precision comes out as float32: rounding unit vectors would blur short distances.

    Example:
        >>> Normalize()(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.600..., 0.800...], [0.0, 0.0]]
    """

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The scaled embeddings."""
        embeddings = _at_least_float32(embeddings)
        # Dividing by the largest entry first keeps the squares from over- and underflowing. The
        # result does not depend on scale, so leaving this factor out of the gradient is exact.
        largest = embeddings.detach().abs().amax(dim=-1, keepdim=True)
        embeddings = embeddings / torch.where(largest > 0, largest, torch.ones_like(largest))
        # The norm is now at least 1, except for zeros, which are divided by 1.
        norm = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
        unit: Tensor = embeddings / norm.clamp(min=1)
        return unit


class Truncate(nn.Module):
    """The first `dim` numbers of each embedding, scaled to unit length.

    For an encoder trained with `losses.MatryoshkaLoss`: shorter embeddings need less memory and
    search time. `evaluation.evaluate_dimensions` measures what they cost in accuracy.

    Args:
        dim: Count of the numbers kept.
        normalize: Whether rows are scaled to unit length.

    Raises:
        InputError: When called, if the embeddings are shorter.

    Source:
        Kusupati, Bhatt, Rege, Wallingford, Sinha, Ramanujan, Howard-Snyder, Chen, Kakade, Jain &
        Farhadi, "Matryoshka Representation Learning", NeurIPS 2022.

    Example:
        >>> Truncate(2)(torch.tensor([[3.0, 4.0, 12.0]])).tolist()
        [[0.600..., 0.800...]]
    """

    def __init__(self, dim: int, *, normalize: bool = True) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        self.normalize = normalize

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The shortened embeddings."""
        if embeddings.shape[-1] < self.dim:
            raise InputError(
                f"dim must be at most the width of the embeddings, {embeddings.shape[-1]}, got "
                f"{self.dim}. Use a smaller one."
            )
        short = embeddings[..., : self.dim]
        return Normalize()(short) if self.normalize else short


class GeneralizedMeanPool1d(nn.Module):
    """(mean of x^p over the positions)^(1/p), from (n, c, l) to (n, c).

    p = 1 is the mean, p = 0 the geometric mean, p = inf the maximum, p = -inf the minimum; in
    between, a larger p listens more to large values. Values below `eps` count as `eps`.

    Args:
        p: the power.
        learnable: whether p is trained with the rest; it must be finite and not 0 then.
        eps: what smaller values, negative ones too, are raised to.

    Raises:
        InputError: if p is not a number, or cannot be learned from.

    Source:
        Radenović, Tolias & Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation",
        TPAMI 2019, section 3.2.
    """

    def __init__(self, p: float = 3.0, *, learnable: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = _power(p, learnable)
        check_positive("eps", eps)
        self.eps = eps

    def forward(self, values: Float[Tensor, "n c l"]) -> Float[Tensor, "n c"]:
        """One number per item and channel."""
        _check_dimensions(values, "(n, c, l)", 3)
        return _generalized_mean(values, self.p, self.eps)


class GeneralizedMeanPool2d(nn.Module):
    """(mean of x^p over the pixels)^(1/p), from (n, c, h, w) to (n, c).

    See `GeneralizedMeanPool1d` for p, `learnable` and `eps`.

    Example:
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> [round(float(GeneralizedMeanPool2d(p)(images)), 3) for p in (1, 3, float("inf"))]
        [2.5, 2.924, 4.0]
    """

    def __init__(self, p: float = 3.0, *, learnable: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = _power(p, learnable)
        check_positive("eps", eps)
        self.eps = eps

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c"]:
        """One number per item and channel."""
        _check_dimensions(images, "(n, c, h, w)", 4)
        return _generalized_mean(images.flatten(2), self.p, self.eps)


class SelectOutput(nn.Module):
    """One output of a module that returns several.

    Args:
        module: returns a tuple, a list, a mapping or an object with named fields.
        key: position, key or field name of the output to return.

    Raises:
        InputError: when called, if the module has no such output.

    Example:
        >>> gru = nn.GRU(3, 5, batch_first=True)  # returns all outputs, then the last state
        >>> SelectOutput(gru, 0)(torch.rand(2, 4, 3)).shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, module: nn.Module, key: int | str) -> None:
        super().__init__()
        self.module = module
        self.key = key

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """The chosen output."""
        outputs = self.module(*inputs, **named_inputs)
        named = isinstance(self.key, str) and not isinstance(outputs, Mapping)
        try:
            return getattr(outputs, str(self.key)) if named else outputs[self.key]
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise InputError(
                f"key must name an output of {type(self.module).__name__}, got {self.key!r}. "
                f"It returns {describe(outputs)}."
            ) from error


def describe(outputs: object) -> str:
    """What a module returned, in words for an error."""
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} with {', '.join(map(repr, outputs))}"
    if isinstance(outputs, (tuple, list)):
        return f"a {type(outputs).__name__} of {len(outputs)}"
    return f"a {type(outputs).__name__}"


def _power(p: float, learnable: bool) -> float | nn.Parameter:
    if isinstance(p, bool) or not isinstance(p, (int, float)) or math.isnan(p):
        raise InputTypeError(f"p must be a number, got {p!r}.")
    if not learnable:
        return float(p)
    if p == 0 or math.isinf(p):
        raise InputError(f"p must be finite and not 0 to be learned, got {p}. Start from 3.")
    return nn.Parameter(torch.tensor(float(p)))


def _generalized_mean(
    values: Float[Tensor, "n c l"], p: float | Tensor, eps: float
) -> Float[Tensor, "n c"]:
    # In logarithms no power over- or underflows, whatever p; half precision has too few digits.
    logs = values.to(_at_least_float32(values).dtype).clamp(min=eps).log()
    if isinstance(p, float) and math.isinf(p):
        pooled = logs.amax(dim=-1) if p > 0 else logs.amin(dim=-1)
    elif isinstance(p, float) and abs(p) < 1e-3:  # the quotient below would lose its digits
        pooled = logs.mean(dim=-1)
    else:
        pooled = (torch.logsumexp(p * logs, dim=-1) - math.log(logs.shape[-1])) / p
    return pooled.exp().to(values.dtype)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _check_dimensions(values: Tensor, shape: str, count: int) -> None:
    if values.ndim != count:
        raise InputError(f"values must have shape {shape}, got {tuple(values.shape)}.")
