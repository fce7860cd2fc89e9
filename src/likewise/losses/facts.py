"""What a batch tells besides its loss: means over masks, and how far embeddings spread."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mean_where(values: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean of the values where the mask is True; zero, and still differentiable, if nowhere."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


@torch.no_grad()
def batch_facts(
    embeddings: Float[Tensor, "n d"],
    distances: Float[Tensor, "n m"],
    is_positive: Bool[Tensor, "n m"],
    is_negative: Bool[Tensor, "n m"],
) -> dict[str, Tensor]:
    """Mean distance of the positive and of the negative pairs, and the spread of the embeddings.

    The spread is the root mean square distance from the mean embedding, relative to the root
    mean square length: 0 when all embeddings have collapsed to one point, about 1 when they
    point everywhere. Nothing waits for the device.
    """
    points = embeddings.detach().float()
    around = (points - points.mean(dim=0)).square().sum()
    return {
        "positive_distance": mean_where(distances.detach(), is_positive),
        "negative_distance": mean_where(distances.detach(), is_negative),
        "spread": (around / points.square().sum().clamp(min=1e-12)).sqrt(),
    }
