"""Texts as a dataset: its items are strings, and a batch of them a list."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from likewise._tokens import as_texts
from likewise.data.datasets import Batch
from likewise.data.labels import Labels, encode_labels
from likewise.errors import InputError, InputTypeError

TEXT_SHAPE: tuple[int, ...] = ()  # the shape of one item that is a text


class TextDataset(TorchDataset[tuple[str, int]]):
    """Texts held in memory, with labels; the encoder gets a list of strings for each batch.

    `item_shape` is (), by which `is_text` knows such a dataset and parts of it.

    Args:
        texts: strings, none empty.
        labels: strings or integers, one per text; codes where `class_names` is given. Without,
            every text is unlabeled (-1).
        class_names: the name of every code; by default the sorted labels.

    Raises:
        InputTypeError: something that is no string.
        InputError: no texts, an empty one, or labels of another number.

    Example:
        >>> data = TextDataset(["a lost card", "my PIN"], ["card", "pin"])
        >>> data[1], data.__getitems__([1, 0])[0].items
        (('my PIN', 1), ['my PIN', 'a lost card'])
    """

    item_shape = TEXT_SHAPE
    ids: list[Any] | InputError | None = None  # as `ids_of` tells them

    def __init__(
        self,
        texts: Sequence[str],
        labels: Labels | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.texts = checked_texts(texts)
        self.labels: Int[Tensor, " n"]
        if labels is None:
            self.labels = torch.full((len(self.texts),), -1)
            self.class_names = list(map(str, class_names or ()))
        else:
            self.labels, self.class_names = encode_labels(labels, class_names)
        if len(self.labels) != len(self.texts):
            raise InputError(
                f"labels must be one per text, {len(self.texts)}, got {len(self.labels)}. "
                "Check that both come from the same source."
            )

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.texts[index], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return [Batch([self.texts[row] for row in rows.tolist()], self.labels[rows])]


def checked_texts(texts: Any) -> list[str]:
    """Texts as a list, refusing anything else.

    Raises:
        InputTypeError: something that is no string.
        InputError: there is none, or an empty one.
    """
    if isinstance(texts, str):
        raise InputTypeError(f"texts must be a list of strings, got one. Use [{texts[:40]!r}].")
    found = as_texts(texts)
    if not found:
        raise InputError("texts must hold at least one, got none.")
    return found


def is_text(data: Any) -> bool:
    """Whether the items of a dataset are texts."""
    shape = getattr(data, "item_shape", None)
    return shape is not None and tuple(shape) == TEXT_SHAPE


def are_texts(items: Any) -> bool:
    """Whether it is a list or tuple of strings only, with at least one."""
    return (
        isinstance(items, (list, tuple))
        and bool(items)
        and all(isinstance(item, str) for item in items)
    )
