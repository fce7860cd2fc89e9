"""`Embedded`: items that were read and encoded once, with what later steps ask about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables
from likewise.errors import InputError

__all__ = ["Embedded"]


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
        pictures: A small picture of each item, None for one that has none; None if not kept.
        raw: The items without any learning, (n, r), see `encoders.RawInput`; None if not kept.

    Raises:
        InputError: The sizes differ.

    Example:
        >>> rows = torch.arange(3)
        >>> three = Embedded(torch.eye(3), torch.tensor([0, 1, -1]), ["cat", "dog"], rows, rows)
        >>> three
        Embedded: 3 items of 3 numbers
          classes    2
          unlabeled  1
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
    pictures: Sequence[bytes | None] | None = None
    raw: Float[Tensor, "n r"] | None = None

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

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        classes = torch.unique(self.labels[self.labels >= 0])
        width = self.embeddings.shape[1] if self.embeddings.ndim == 2 else 0
        rows = [("classes", len(classes)), ("unlabeled", int((self.labels < 0).sum()))]
        rows.append(("skipped", self.skipped))
        return _tables.Table(
            f"Embedded: {len(self):,} items of {width} numbers",
            [(name, f"{count:,}") for name, count in rows if count],
        )

    def take(self, rows: Sequence[int] | Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Embedded":
        """Some of the items: by their positions here, in that order, or by a mask."""
        chosen = torch.as_tensor(rows)
        at = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen.long()
        pictures = self.pictures
        return Embedded(
            self.embeddings[at],
            self.labels[at],
            self.class_names,
            self.fingerprints[at],
            self.rows[at],
            self.source,
            pictures=None if pictures is None else [pictures[row] for row in at.tolist()],
            raw=None if self.raw is None else self.raw[at],
        )

    def without(self, fingerprints: Int[Tensor, " p"]) -> "Embedded":
        """The items that have none of these fingerprints; the others count as skipped."""
        new = ~torch.isin(self.fingerprints, fingerprints)
        return replace(self.take(new), skipped=self.skipped + int((~new).sum()))
