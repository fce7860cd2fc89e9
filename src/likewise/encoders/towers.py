"""Wrappers that encode the sides of pairs and triplets, with one encoder or with two."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class SiameseNet(nn.Module):
    """Embeddings of both sides of a batch of pairs, from one encoder.

    Both sides go through the encoder in one call, so that a batch norm sees them as one batch.

    Example:
        >>> a, b = torch.rand(2, 4, 10)
        >>> embeddings_a, embeddings_b = SiameseNet(nn.Linear(10, 2))(a, b)
        >>> embeddings_a.shape, embeddings_b.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, a: Shaped[Tensor, "n ..."], b: Shaped[Tensor, "n ..."]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Embeddings of a, embeddings of b."""
        embeddings_a, embeddings_b = self.encoder(torch.cat([a, b])).split([len(a), len(b)])
        return embeddings_a, embeddings_b


class TwoTowers(nn.Module):
    """Embeddings of both sides of a batch of pairs, each from an encoder of its own.

    For pairs of different kinds, such as images and texts, or whose sides play different parts,
    such as questions and answers. `fit` trains both encoders on `data.CrossPairs`. Both must give
    embeddings of one width, which are compared across the sides.

    Args:
        a: Encoder of the first side.
        b: Encoder of the second side.

    Example:
        >>> towers = TwoTowers(nn.Linear(10, 2), nn.Linear(3, 2))
        >>> embeddings_a, embeddings_b = towers(torch.rand(4, 10), torch.rand(4, 3))
        >>> embeddings_a.shape, embeddings_b.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a = a
        self.b = b

    def forward(self, a: Any, b: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Embeddings of a, embeddings of b."""
        return self.a(a), self.b(b)


class TripletNet(nn.Module):
    """Embeddings of anchors, positives and negatives, from one encoder.

    All three go through the encoder in one call, as in `SiameseNet`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        anchor: Shaped[Tensor, "n ..."],
        positive: Shaped[Tensor, "n ..."],
        negative: Shaped[Tensor, "n ..."],
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Embeddings of the anchors, of the positives, of the negatives."""
        sides = (anchor, positive, negative)
        embeddings = self.encoder(torch.cat(sides)).split([len(side) for side in sides])
        return embeddings[0], embeddings[1], embeddings[2]
