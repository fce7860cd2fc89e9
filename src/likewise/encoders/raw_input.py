"""Items as they are, as embeddings: what a trained encoder has to be ahead of."""

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

SIDE = 32  # of an image, in pixels, at most
WORDS = 4096  # columns that words are hashed into


class RawInput(nn.Module):
    """Embeddings without any learning: pixels, word counts, or the numbers themselves.

    Images are averaged down to at most 32 pixels on a side, and each loses its mean. Texts become
    counts of their words, in 4,096 columns by the hash of each word; see `tf_idf`. Other items are
    flattened.

    Args:
        item_shape: Shape of one item; () for texts.

    Example:
        >>> RawInput((3, 224, 224))(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 3072])
        >>> RawInput(())(["one word", "one more"]).sum(1)
        tensor([2., 2.])
    """

    def __init__(self, item_shape: Sequence[int]) -> None:
        super().__init__()
        self.takes_texts = not item_shape
        shape = tuple(item_shape) or (WORDS,)
        self.sides: tuple[int, int] | None = None
        if len(shape) == 3:
            self.sides = (min(SIDE, shape[1]), min(SIDE, shape[2]))
            shape = (shape[0], *self.sides)
        self.embedding_dim = math.prod(shape)

    def forward(self, items: Any) -> Float[Tensor, "n d"]:
        """The rows of a batch."""
        if self.takes_texts:
            return _word_counts(items)
        rows: Tensor = items
        if self.sides is None:
            return rows.flatten(1)
        if rows.shape[2:] != self.sides:
            rows = nn.functional.adaptive_avg_pool2d(rows, self.sides)
        rows = rows.flatten(1)
        return rows - rows.mean(dim=1, keepdim=True)


class BesideRawInput(nn.Module):
    """An encoder whose rows begin with the raw input, so that both come from one reading.

    Example:
        >>> both = BesideRawInput(nn.Linear(5, 2), (5,))
        >>> rows = both(torch.rand(3, 5))
        >>> rows[:, : both.raw.embedding_dim].shape, rows[:, both.raw.embedding_dim :].shape
        (torch.Size([3, 5]), torch.Size([3, 2]))
    """

    def __init__(self, encoder: nn.Module, item_shape: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.raw = RawInput(item_shape)

    def forward(self, items: Any) -> Float[Tensor, "n d"]:
        """Raw input and embedding of each item, side by side."""
        embeddings = self.encoder(items)
        return torch.cat([self.raw(items).to(embeddings.device), embeddings], dim=1)


def tf_idf(counts: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
    """Word counts weighted by how few texts have the word, each row of length 1.

    Example:
        >>> tf_idf(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).argmax(1)
        tensor([0, 1])
    """
    texts = (counts > 0).sum(dim=0)
    rarity = ((1 + len(counts)) / (1 + texts)).log() + 1
    return nn.functional.normalize(counts * rarity, dim=1)


def _word_counts(texts: Sequence[str]) -> Float[Tensor, "n w"]:
    places = [
        row * WORDS + zlib.crc32(word.encode()) % WORDS
        for row, text in enumerate(texts)
        for word in re.findall(r"\w+", text.lower())
    ]
    counts = torch.tensor(places, dtype=torch.int64).bincount(minlength=len(texts) * WORDS)
    return counts.float().view(len(texts), WORDS)
