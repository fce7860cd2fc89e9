"""Wrappers that encode the sides of pairs and triplets with one encoder."""

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
