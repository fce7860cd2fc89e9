"""Which references are an item's positives and which its negatives: the checked batch."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _shares
from likewise._checks import check_embeddings, check_labels, check_same_width, free_to_look
from likewise.errors import InputError

__all__ = ["UNLABELED", "Compared", "compared", "masks"]

UNLABELED = -1  # such an item is neither positive nor negative for anything


class Compared(NamedTuple):
    """A checked batch: anchors are the rows, references the columns of both masks."""

    anchors: Float[Tensor, "n d"]
    references: Float[Tensor, "m d"]
    is_positive: Bool[Tensor, "n m"]
    is_negative: Bool[Tensor, "n m"]
    labeled: Bool[Tensor, " n"] | None  # which anchors have a label; None if known to be all

    @property
    def pairs(self) -> tuple[Bool[Tensor, "n m"], Bool[Tensor, "n m"]]:
        """Both masks, as miners and facts take them."""
        return self.is_positive, self.is_negative


def masks(
    labels: Int[Tensor, " n"],
    reference_labels: Int[Tensor, " m"] | None = None,
    *,
    ids: Int[Tensor, " n"] | None = None,
    reference_ids: Int[Tensor, " m"] | None = None,
) -> tuple[Bool[Tensor, "n m"], Bool[Tensor, "n m"]]:
    """Two masks (n, m): is_positive (same class, another item) and is_negative (another class).

    Without references the items are compared with each other, and an item is never its own
    positive. With references every reference counts as another item, unless ids say which
    are older copies: a reference with the anchor's own id is neither positive nor negative.

    The label -1 means unlabeled. Such an item is neither positive nor negative for anything, as
    anchor and as reference; the slots of a memory that are not yet filled have it too. Any other
    negative label is an ordinary label here; losses with class weights refuse it.

    Raises:
        InputError: a shape does not fit, or ids are given for one side only.
        InputTypeError: labels or ids are not integers.

    Example:
        >>> import torch
        >>> is_positive, is_negative = masks(torch.tensor([7, 7, 3]))
        >>> is_positive.int().tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
        >>> is_negative.int().tolist()
        [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """
    is_positive, is_negative, _ = _masks(labels, reference_labels, ids, reference_ids)
    return is_positive, is_negative


def _masks(
    labels: Tensor,
    reference_labels: Tensor | None = None,
    ids: Tensor | None = None,
    reference_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    # Both masks, and `labeled_among` the anchors.
    check_labels(labels, len(labels))
    labeled = labeled_among(labels)
    if reference_labels is None:
        if ids is not None or reference_ids is not None:
            raise InputError(
                "ids must come with references, got ids alone. "
                "Within one batch an item is never compared with itself anyway."
            )
        if labeled is None and free_to_look(labels):
            # NumPy takes a third of torch's time for a step of a small batch.
            codes = labels.numpy()
            alike = codes[:, None] == codes
            different = ~alike
            np.fill_diagonal(alike, False)
            return torch.from_numpy(alike), torch.from_numpy(different), None
        same = labels[:, None] == labels[None, :]
        is_negative = ~same
        same.fill_diagonal_(False)
        if labeled is not None:
            counts = labeled[:, None] & labeled[None, :]
            return same.logical_and_(counts), is_negative.logical_and_(counts), labeled
        return same, is_negative, labeled
    check_labels(reference_labels, len(reference_labels), "reference_labels")
    if (ids is None) != (reference_ids is None):
        raise InputError(
            "ids and reference_ids must be given together, got one of them. Give both, or neither."
        )
    same = labels[:, None] == reference_labels[None, :]
    counts = (reference_labels != UNLABELED)[None, :]
    if labeled is not None:
        counts = counts & labeled[:, None]
    if ids is not None and reference_ids is not None:
        check_labels(ids, len(labels), "ids")
        check_labels(reference_ids, len(reference_labels), "reference_ids")
        counts = counts & (ids[:, None] != reference_ids[None, :])
    return same & counts, ~same & counts, labeled


def labeled_among(labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"] | None:
    """Which items have a label; None if all have, where looking for that is free."""
    if free_to_look(labels) and not (labels.numpy() == UNLABELED).any():
        return None
    return labels != UNLABELED


def compared(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    references: Float[Tensor, "m d"] | None = None,
    reference_labels: Int[Tensor, " m"] | None = None,
    *,
    ids: Int[Tensor, " n"] | None = None,
    reference_ids: Int[Tensor, " m"] | None = None,
) -> Compared:
    """The batch that a loss works on, with every argument checked.

    Without references the embeddings are compared with each other; on several processes, those that
    are here with those of the whole batch. Items labeled -1 are as `masks` says.

    Raises:
        InputError: a shape does not fit, or one of references and reference_labels is missing.
        InputTypeError: embeddings are not floating point, or labels are not integers.
    """
    check_embeddings(embeddings)
    check_labels(labels, len(embeddings))
    if (references is None) != (reference_labels is None):
        raise InputError(
            "references and reference_labels must be given together, got one of them. "
            "Give both, or neither to compare the batch with itself."
        )
    if references is None or reference_labels is None:
        if _shares.current() is None:
            return Compared(embeddings, embeddings, *_masks(labels))
        references, reference_labels = map(_shares.everything, (embeddings, labels))
        ids = _shares.positions(len(labels), labels.device)
        reference_ids = torch.arange(len(reference_labels), device=labels.device)
    check_embeddings(references, "references")
    check_same_width(embeddings, references, ("embeddings", "references"))
    check_labels(reference_labels, len(references), "reference_labels")
    return Compared(
        embeddings,
        references,
        *_masks(labels, reference_labels, ids, reference_ids),
    )
