"""Class weights for any loss: each class's items as anchors, averaged by weight."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise._checks import as_tensor, check_embeddings
from likewise.errors import InputError, InputTypeError
from likewise.losses._centers import labeled_codes
from likewise.losses.facts import Told, spread
from likewise.losses.n_pairs import NPairsLoss
from likewise.losses.proxy import ProxyAnchorLoss
from likewise.masks import UNLABELED


class ClassWeighted(nn.Module):
    """Mean of a loss over the items of a batch, each item by the weight of its class.

    For losses with centers it is the weighted mean that `torch.nn.CrossEntropyLoss(weight=...)`
    takes. Any other loss is taken class by class: the items of one class as anchors against the
    whole batch, or against the references. The mean of these values runs over the classes, each by
    weight × items. For means over anchors that is the weighted mean over anchors. Losses that are
    means over pairs or triplets become means over those of each class. After each call `facts`
    holds what the loss tells; where it is taken class by class, the same means of that, and the
    spread.

    Class by class the loss is called once for each class of the batch, and a GPU is waited for
    once. With a memory: `CrossBatchMemory(ClassWeighted(loss, weights), ...)`.

    Args:
        loss: Loss that takes references or none of them into account. `NPairsLoss` and
            `ProxyAnchorLoss`, whose anchors are no single items, are refused, as parts too.
        weights: Weight of every code, at least 0, by `weights[code]`; `1 / counts` makes every
            class of the data count alike.

    Raises:
        InputError: The weights are negative, not finite or all 0; or the loss is refused.

    Example:
        >>> from likewise.losses import SoftmaxLoss
        >>> loss = ClassWeighted(SoftmaxLoss(embedding_dim=8, class_count=2), [1.0, 5.0])
        >>> loss(torch.zeros(4, 8), torch.tensor([0, 0, 0, 1])).ndim
        0
    """

    weights: Tensor

    def __init__(self, loss: nn.Module, weights: Sequence[float] | Tensor | np.ndarray) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module):
            raise InputTypeError(f"loss must be a module, got {type(loss).__name__}.")
        for part in loss.modules():
            if isinstance(part, (NPairsLoss, ProxyAnchorLoss)):
                raise InputError(
                    f"loss must be a mean over items, got {type(part).__name__}. Use another loss, "
                    "or BalancedBatchSampler(class_weights=...)."
                )
        self.loss = loss
        self.register_buffer("weights", _checked(weights))
        self.facts: Mapping[str, Tensor] = {}

    @property
    def takes_ids(self) -> bool:
        """Whether the loss wants the ids of the batch."""
        return bool(getattr(self.loss, "takes_ids", False))

    @property
    def by_rows(self) -> bool:
        """Whether processes may share a batch: whether the loss itself takes weights."""
        return bool(
            getattr(self.loss, "takes_weights", False) and getattr(self.loss, "by_rows", False)
        )

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
        """The weighted mean; 0 if no item of the batch has a label and a weight."""
        check_embeddings(embeddings)
        labeled_codes(labels, len(embeddings), len(self.weights))
        if getattr(self.loss, "takes_weights", False):
            # An item without a label, -1, has the last weight: the loss leaves it out.
            value: Tensor = self.loss(embeddings, labels, weights=self.weights[labels.long()])
            self.facts = getattr(self.loss, "facts", {})
            return value
        if references is None and reference_labels is None:
            references, reference_labels = embeddings, labels
            if not self.takes_ids:  # their place in the batch tells an item itself
                ids = torch.arange(len(labels), device=labels.device)
            reference_ids = ids
        order = labels.argsort(stable=True)
        codes, counts = torch.unique_consecutive(labels[order], return_counts=True)
        sizes = counts.tolist()
        shares = self.weights[codes.long()] * counts * (codes != UNLABELED)
        values, facts = [], []
        for rows in torch.split(order, sizes) if sizes else [order]:
            values.append(
                self.loss(
                    embeddings[rows],
                    labels[rows],
                    references,
                    reference_labels,
                    ids=None if ids is None else ids[rows],
                    reference_ids=reference_ids,
                )
            )
            facts.append(getattr(self.loss, "facts", {}))
        if not sizes:
            shares = self.weights.new_zeros(1)
        shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
        kept = embeddings.detach().clone()

        def told() -> dict[str, Tensor]:
            means = {name: _mean(shares, [of[name] for of in facts]) for name in facts[0]}
            return means | ({"spread": spread(kept)} if "spread" in means else {})

        self.facts = Told(told)
        return _mean(shares, values)


def _checked(weights: Sequence[float] | Tensor | np.ndarray) -> Tensor:
    given = as_tensor(weights, "weights")
    if isinstance(given, Tensor) and given.ndim == 1 and not given.is_complex():
        given = given.detach().to(torch.float32, copy=True)
        if given.isfinite().all() and (given >= 0).all() and given.any():
            return given
    raise InputError(
        "weights must be finite, at least 0 and not all 0, one for every code, "
        f"got {given.tolist() if isinstance(given, Tensor) else given!r}."
    )


def _mean(shares: Tensor, values: list[Tensor]) -> Tensor:
    stacked = torch.stack(values)
    return (shares.to(stacked.dtype) * stacked).sum()
