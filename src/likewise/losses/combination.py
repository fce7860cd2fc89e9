"""Losses added up, each with a weight, each reported."""

import re

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_positive
from likewise.errors import InputError, InputTypeError


class Sum(nn.Module):
    """The weighted sum of several losses of one batch.

    After each call `facts` holds the value of each part, without its weight, as `<part>/loss`,
    and what the part tells as `<part>/<fact>`. Parts go by the name of their class: a
    ContrastiveLoss is `contrastive`, a second one `contrastive_2`. The spread of the embeddings,
    the same for all, stands once, without a part. `fit` records them all, and trains the weights
    that parts own.

    Args:
        parts: losses, or (weight, loss); a loss alone has weight 1. A loss that you write needs to
            take references and ids only where they are given.

    Raises:
        InputError: there is no part, or a weight is not above 0.
        InputTypeError: a part is no module.

    Example:
        >>> from likewise.losses import ContrastiveLoss, TripletLoss
        >>> loss = Sum(TripletLoss(margin=1.0), (0.5, ContrastiveLoss(margin=1.0)))
        >>> loss(torch.tensor([[0.0], [0.0], [0.5]]), torch.tensor([1, 1, 2]))
        tensor(0.5833)
        >>> loss.facts["triplet/loss"], loss.facts["contrastive/loss"]
        (tensor(0.5000), tensor(0.1667))
    """

    by_rows = True  # so that processes may share a batch

    def __init__(self, *parts: nn.Module | tuple[float, nn.Module]) -> None:
        super().__init__()
        if not parts:
            raise InputError("parts must have at least one loss, got none. Give Sum(a, (0.5, b)).")
        weighted = [part if isinstance(part, tuple) else (1.0, part) for part in parts]
        for weight, part in weighted:
            check_positive("weight", weight)
            if not isinstance(part, nn.Module):
                raise InputTypeError(
                    f"parts must be losses or (weight, loss), got {type(part).__name__}. "
                    "Make a function that you wrote a torch module."
                )
        self.weights = tuple(float(weight) for weight, _ in weighted)
        self.parts = nn.ModuleList(part for _, part in weighted)
        self.names = _names(self.parts)
        self.facts: dict[str, Tensor] = {}

    @property
    def takes_ids(self) -> bool:
        """Whether a part wants the ids of the batch."""
        return any(getattr(part, "takes_ids", False) for part in self.parts)

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Float[Tensor, "m d"] | None = None,
        reference_labels: Int[Tensor, " m"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        reference_ids: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, ""]:
        """Σ weight · part(embeddings, labels, ...)."""
        against = (
            ()
            if references is None and reference_labels is None
            else (references, reference_labels)
        )
        total = embeddings.new_zeros((), dtype=torch.promote_types(embeddings.dtype, torch.float32))
        self.facts = {}
        for name, weight, part in zip(self.names, self.weights, self.parts, strict=True):
            options = {"ids": ids, "reference_ids": reference_ids}
            if not against and not getattr(part, "takes_ids", False):
                options = {}  # ids only tell older copies among references
            value = _shares.parted(part, embeddings, labels, *against, **options)
            total = total + weight * value
            self.facts |= told_by(part, value, name)
        return total


def told_by(part: nn.Module, value: Tensor, name: str) -> dict[str, Tensor]:
    """The value and the facts of a part under its name; the spread without."""
    told = {f"{name}/loss": value.detach()}
    for fact, number in getattr(part, "facts", {}).items():
        told[fact if fact == "spread" else f"{name}/{fact}"] = number
    return told


def _names(parts: nn.ModuleList) -> list[str]:
    names: list[str] = []
    for part in parts:
        words = type(part).__name__.removesuffix("Loss") or "loss"
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower()
        taken = sum(known == name or known.startswith(f"{name}_") for known in names)
        names.append(f"{name}_{taken + 1}" if name in names else name)
    return names
