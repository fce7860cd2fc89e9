"""`Embedded`: items that were read and encoded once, with what later steps ask about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Embedded:
    """Embeddings of items with their labels, their fingerprints and where they came from.

    `likewise.embed` makes it. Calibration, evaluation, comparison and pages take it, so that no
    item is read or encoded twice.

    Args:
        embeddings: One row per item, (n, d).
        labels: Codes into `class_names`, (n,) int64; -1 is unlabeled.
        class_names: The name of every code.
        fingerprints: `data.fingerprints` of the items, (n,) int64.
        rows: Where each item stands in `source`, (n,) int64.
        source: The dataset, or the items, that were read. To draw a few of them:
            `data.items(embedded.source, embedded.rows[:3])`.
        skipped: How many items of the source were left out, as their fingerprints were known.

    Raises:
        InputError: The sizes differ.

    Example:
        >>> rows = torch.arange(3)
        >>> three = Embedded(torch.eye(3), torch.tensor([0, 1, -1]), ["cat", "dog"], rows, rows)
        >>> three
        Embedded(3 items of 3 numbers, 2 classes, 1 unlabeled)
        >>> three.take([2, 0]).labels
        tensor([-1,  0])
    """

    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    class_names: Sequence[str]
    fingerprints: Int[Tensor, " n"]
    rows: Int[Tensor, " n"]
    source: Any = field(default=None)
    skipped: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "fingerprints", "rows"):
            count = len(getattr(self, name))
            if count != len(self.embeddings):
                raise InputError(
                    f"{name} must have one entry per embedding, {len(self.embeddings)}, got "
                    f"{count}. Use likewise.embed."
                )

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        classes = torch.unique(self.labels[self.labels >= 0])
        unlabeled = int((self.labels < 0).sum())
        width = self.embeddings.shape[1] if self.embeddings.ndim == 2 else 0
        told = [f"{len(self):,} items of {width} numbers", f"{len(classes):,} classes"]
        told += [f"{unlabeled:,} unlabeled"] if unlabeled else []
        told += [f"{self.skipped:,} skipped"] if self.skipped else []
        return f"Embedded({', '.join(told)})"

    def take(self, rows: Sequence[int] | Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Embedded":
        """Some of the items: by their positions here, in that order, or by a mask."""
        chosen = torch.as_tensor(rows)
        if chosen.dtype != torch.bool:
            chosen = chosen.long()
        return Embedded(
            self.embeddings[chosen],
            self.labels[chosen],
            self.class_names,
            self.fingerprints[chosen],
            self.rows[chosen],
            self.source,
        )

    def without(self, fingerprints: Int[Tensor, " p"]) -> "Embedded":
        """The items that have none of these fingerprints; the others count as skipped."""
        new = ~torch.isin(self.fingerprints, fingerprints)
        return replace(self.take(new), skipped=self.skipped + int((~new).sum()))
