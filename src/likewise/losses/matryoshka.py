"""A loss on embeddings cut to several widths at once, so that they may be cut afterwards."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_count, check_positive
from likewise.encoders import Truncate
from likewise.errors import InputError, InputTypeError
from likewise.losses.combination import told_by


class MatryoshkaLoss(nn.Module):
    """The weighted sum of a loss on the first d numbers of each embedding, over several d.

    The most important directions come first then, and `encoders.Truncate` may cut the embeddings of
    the trained encoder to any of the widths. It is called as the loss itself is called: whatever
    embeddings it is given are cut, references and sides of pairs too. After each call `facts` holds
    the value on each width, without its weight, as `<d>/loss`, and what the loss tells there as
    `<d>/<fact>`.

    Args:
        loss: Loss of all widths, or one of each: losses with centers have a width of their own.
        dims: Widths, such as (256, 128, 64, 32).
        weights: Weight of each width; 1 for all if None.
        normalize: Whether cut embeddings are scaled to unit length.

    Raises:
        InputError: There is no width, one twice, or as many losses or weights are not given; when
            called, if a width is above that of the embeddings.

    Source:
        Kusupati, Bhatt, Rege, Wallingford, Sinha, Ramanujan, Howard-Snyder, Chen, Kakade, Jain &
        Farhadi, "Matryoshka Representation Learning", NeurIPS 2022, equation 1. The value is
        that of MatryoshkaLoss in sentence-transformers.

    Example:
        >>> from likewise.losses import TripletLoss
        >>> loss = MatryoshkaLoss(TripletLoss(margin=1.0), dims=(2, 1))
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> loss(points, torch.tensor([0, 0, 1])), loss.facts["1/loss"]  # 1.0 from 0.0 at width 1
        (tensor(0.), tensor(0.))
    """

    by_rows = True  # so that processes may share a batch

    def __init__(
        self,
        loss: nn.Module | Sequence[nn.Module],
        dims: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        for dim in dims:
            check_count("dims", dim)
        if not dims or len(set(dims)) < len(dims):
            raise InputError(f"dims must be different widths, got {dims!r}. Give e.g. (64, 32).")
        if isinstance(loss, (Sequence, nn.ModuleList)):
            parts, losses = list(loss), len(loss)
        else:
            parts, losses = [loss], len(dims)
        for part in parts:
            if not isinstance(part, nn.Module):
                raise InputTypeError(f"loss must be a module, got {type(part).__name__}.")
        weights = [1.0] * len(dims) if weights is None else weights
        for name, count in (("loss", losses), ("weights", len(weights))):
            if count != len(dims):
                raise InputError(
                    f"{name} must be one for each of the {len(dims)} dims, got {count}."
                )
        for weight in weights:
            check_positive("weights", weight)
        self.dims = tuple(dims)
        self.weights = tuple(map(float, weights))
        self.parts = nn.ModuleList(parts)
        self.normalize = normalize
        self.facts: dict[str, Tensor] = {}

    @property
    def takes_ids(self) -> bool:
        """Whether the loss wants the ids of the batch."""
        return any(getattr(part, "takes_ids", False) for part in self.parts)

    def forward(self, *given: Any, **named: Any) -> Float[Tensor, ""]:
        """Σ weight · loss(cut embeddings, ...), called as the loss is."""
        self.facts = {}
        terms = []
        for dim, weight, part in zip(self.dims, self.weights, cycle(self.parts)):
            value = _shares.parted(
                part,
                *(self._cut(each, dim) for each in given),
                **{name: self._cut(each, dim) for name, each in named.items()},
            )
            terms.append(weight * value)
            self.facts |= told_by(part, value, str(dim))
        return torch.stack(terms).sum()

    def _cut(self, given: Any, dim: int) -> Any:
        if not (isinstance(given, Tensor) and given.ndim == 2 and given.is_floating_point()):
            return given
        return Truncate(dim, normalize=self.normalize)(given)
