"""Cross-batch memory: the batch is compared with embeddings of past batches as well."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_count, check_embeddings, check_labels, check_positive
from likewise.errors import InputError
from likewise.masks import UNLABELED


class CrossBatchMemory(nn.Module):
    """A loss over the batch plus the same loss of the batch against a memory of past batches.

    The memory holds the last `size` embeddings, without gradient, with their labels and ids,
    the oldest overwritten first. The value is loss(batch) + weight · loss(batch, memory); then
    the batch is remembered, while in training mode only. An item is never paired with its own
    older copies in the memory, known by their ids, unless `copies` says so.

    Everything the memory knows is in buffers, so that `state_dict` brings back its contents and
    where it writes next. Shapes never change: a slot not yet filled has the label -1, which is
    neither positive nor negative for anything. Unlabeled items of a batch, -1 too, take a slot
    and pair with nothing. Nothing waits for the device.

    After each call `facts` holds the facts of the loss over the batch, those against the memory
    as `memory/<fact>` with its value as `memory/loss`, and the share of the slots that hold a
    labeled item as `memory/filled`. With `together` there is one comparison only, hence the loss's
    facts and `memory/filled`.

    Args:
        loss: any loss that takes references. Each of its calls must stand alone.
        embedding_dim: d, the width of the embeddings.
        size: number of slots. What is useful depends on how fast embeddings drift; a memory of a
            few epochs is as large as is sensible.
        warm_up: Number of batches that pass first without being remembered, until embeddings drift
            slowly enough.
        weight: Weight of the loss against the memory.
        copies: whether an item may be paired with its older copies. Then ids are not needed.
        together: one comparison of the batch with the batch and the memory at once, so that a
            triplet may take its positive from one and its negative from the other; `weight` plays
            no part. Items of a batch with equal ids are then no pair either.

    Source:
        Wang, Zhang, Huang & Scott, "Cross-Batch Memory for Embedding Learning", CVPR 2020,
        algorithm 1, and the authors' code, which adds both losses. There the memory holds the
        batch itself too, so that pairs within the batch count twice, and older copies are paired.
        `together` is TensorFlow Similarity's XBM (which pairs older copies).

    Example:
        >>> from likewise.losses import ContrastiveLoss
        >>> loss = CrossBatchMemory(ContrastiveLoss(), embedding_dim=1, size=4)
        >>> labels = torch.tensor([0, 1])
        >>> loss(torch.tensor([[0.0], [5.0]]), labels, ids=torch.tensor([0, 1]))  # empty yet
        tensor(0.)
        >>> loss(torch.tensor([[0.0], [2.0]]), labels, ids=torch.tensor([2, 3]))  # 2 from 5
        tensor(2.2500)
        >>> loss.labels
        tensor([0, 1, 0, 1])
    """

    by_rows = True  # so that processes may share a batch
    takes_ids = True
    embeddings: Tensor
    labels: Tensor
    ids: Tensor
    position: Tensor
    batches: Tensor

    def __init__(
        self,
        loss: nn.Module,
        *,
        embedding_dim: int,
        size: int = 1024,
        warm_up: int = 0,
        weight: float = 1.0,
        copies: bool = False,
        together: bool = False,
    ) -> None:
        super().__init__()
        check_count("embedding_dim", embedding_dim)
        check_count("size", size)
        check_count("warm_up", warm_up, least=0)
        check_positive("weight", weight)
        self.loss = loss
        self.size = size
        self.warm_up = warm_up
        self.weight = weight
        self.copies = copies
        self.together = together
        self.register_buffer("embeddings", torch.zeros(size, embedding_dim))
        self.register_buffer("labels", torch.full((size,), UNLABELED))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.facts: dict[str, Tensor] = {}

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        reference_ids: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of the batch and of the batch against the memory.

        Raises:
            InputError: ids are missing, references are given, or the width is another one.
        """
        self._check(embeddings, labels, ids, references is not None)
        if ids is None or self.copies:
            # Ids that match nothing in the memory, and each itself only within the batch.
            known = _shares.positions(len(labels), labels.device)
            remembered = torch.full_like(self.ids, -1)
        else:
            known, remembered = ids, self.ids
        # A copy, since the memory changes before the gradient is taken.
        memory = self.embeddings.to(embeddings.dtype, copy=True)
        value = (
            self._at_once(embeddings, labels, memory, known, remembered)
            if self.together
            else self._one_by_one(embeddings, labels, memory, known, remembered)
        )
        self.facts["memory/filled"] = (self.labels != UNLABELED).float().mean()
        if self.training:
            rows = embeddings.detach(), labels, known if ids is None else ids
            self._remember(*map(_shares.everything, rows))
        return value

    def _one_by_one(
        self, embeddings: Tensor, labels: Tensor, memory: Tensor, ids: Tensor, remembered: Tensor
    ) -> Tensor:
        value = _shares.parted(self.loss, embeddings, labels)
        self.facts = dict(getattr(self.loss, "facts", {}))
        against = _shares.parted(
            self.loss, embeddings, labels, memory, self.labels, ids=ids, reference_ids=remembered
        )
        self.facts["memory/loss"] = against.detach()
        for name, fact in getattr(self.loss, "facts", {}).items():
            if name != "spread":  # the same as without the memory
                self.facts[f"memory/{name}"] = fact
        return value + self.weight * against

    def _at_once(
        self, embeddings: Tensor, labels: Tensor, memory: Tensor, ids: Tensor, remembered: Tensor
    ) -> Tensor:
        value = _shares.parted(
            self.loss,
            embeddings,
            labels,
            torch.cat([_shares.everything(embeddings), memory]),
            torch.cat([_shares.everything(labels), self.labels]),
            ids=ids,
            reference_ids=torch.cat([_shares.everything(ids), remembered]),
        )
        self.facts = dict(getattr(self.loss, "facts", {}))
        return value

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, labels: Tensor, ids: Tensor) -> None:
        embeddings, labels, ids = (part[-self.size :] for part in (embeddings, labels, ids))
        count = len(labels)
        slots = (self.position + torch.arange(count, device=labels.device)) % self.size
        # During warm-up what is there is written back, so that no step waits to ask.
        ready = self.batches >= self.warm_up
        pairs = ((self.embeddings, embeddings), (self.labels, labels), (self.ids, ids))
        for stored, new in pairs:
            stored[slots] = torch.where(ready, new.to(stored.dtype), stored[slots])
        self.position.copy_((self.position + count * ready) % self.size)
        self.batches.add_(1)

    def _check(
        self, embeddings: Tensor, labels: Tensor, ids: Tensor | None, references: bool
    ) -> None:
        check_embeddings(embeddings)
        check_labels(labels, len(embeddings))
        if references:
            raise InputError(
                "references must be left out with a memory, got some. The memory is the references."
            )
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise InputError(
                f"embeddings must have {self.embeddings.shape[1]} dimensions as the memory has, "
                f"got {embeddings.shape[1]}. Give the encoder's width as embedding_dim."
            )
        if ids is not None:
            check_labels(ids, len(embeddings), "ids")
        elif not self.copies:
            raise InputError(
                "ids must be given, so that no item is paired with its older copy, got none. "
                "`fit` gives them; in a loop of your own pass the items' positions, or use "
                "copies=True."
            )
