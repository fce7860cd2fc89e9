"""The contrastive loss: pull the same together, push the different beyond a margin."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise._checks import check_positive
from likewise.distances import EUCLIDEAN, INNER_PRODUCT, Distance
from likewise.losses.facts import batch_facts, mean_where
from likewise.masks import compared
from likewise.miners import PairMiner, all_pairs


def contrastive_loss(
    distances: Float[Tensor, "..."],
    same: Bool[Tensor, "..."],
    *,
    margin: float,
    squared: bool = True,
) -> Float[Tensor, "..."]:
    """d² where same, max(0, margin − d)² where different; one value per distance.

    With squared=False d and max(0, margin − d).

    Args:
        distances: of any shape; smaller is closer.
        same: True where the pair belongs together, same shape.
        margin: from where on different pairs cost nothing, in the unit of the distances.
        squared: whether both terms are squared.

    Source:
        Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
        CVPR 2006, equation 4 (there with a factor ½ on both terms, and 1 meaning different).
    """
    if distances.shape != same.shape:
        raise ValueError(
            f"same must have the shape of distances, {tuple(distances.shape)}, "
            f"got {tuple(same.shape)}. Another shape would compare pairs that do not belong."
        )
    cost = torch.where(same, distances, F.relu(margin - distances))
    return cost.square() if squared else cost


class ContrastiveLoss(nn.Module):
    """Mean of `contrastive_loss` over the selected pairs of a batch.

    Zero when every selected positive pair coincides and every selected negative pair is at
    least `margin` apart. After each call `facts` holds the share of the selected pairs that
    cost something and what `batch_facts` tells.

    Args:
        margin: from where on different pairs cost nothing, in the unit of the distance.
        squared: whether both terms are squared.
        distance: how embeddings are compared.
        miner: which pairs count.

    Source:
        As `contrastive_loss`; pairs within a batch as in Bielski, "siamese-triplet", 2018,
        OnlineContrastiveLoss.

    Example:
        >>> import torch
        >>> loss = ContrastiveLoss(margin=1.0)
        >>> loss(torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([1, 1, 2]))
        tensor(0.)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        squared: bool = True,
        distance: Distance = EUCLIDEAN,
        miner: PairMiner = all_pairs,
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        if distance is INNER_PRODUCT:
            raise ValueError(
                "distance must be 0 between equals for the contrastive loss, got inner_product. "
                "Use COSINE, or another loss."
            )
        self.margin = margin
        self.squared = squared
        self.distance = distance
        self.miner = miner
        self.facts: dict[str, Tensor] = {}

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
        """The mean over the selected pairs; 0 if none is."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        pairs = self.miner(distances, batch.is_positive, batch.is_negative)
        costs = contrastive_loss(
            distances, batch.is_positive, margin=self.margin, squared=self.squared
        )
        selected = pairs.positive | pairs.negative
        self.facts = {
            "active": mean_where((costs.detach() > 0).float(), selected),
            **batch_facts(embeddings, distances, batch.is_positive, batch.is_negative),
        }
        return mean_where(costs, selected)
