"""Multiple negatives ranking for two towers: each query finds its key among all the others."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise._checks import check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where
from likewise.losses.nt_xent import nt_xent_loss
from likewise.masks import compared


class MultipleNegativesLoss(nn.Module):
    """Mean of `nt_xent_loss` over the pairs of a query and its key.

    Called as loss(queries, labels, keys, key_labels): rows of one tower, rows of the other, and
    by the labels which belong together. For pairs without classes `torch.arange(n)` numbers
    them. Keys whose label no query has are negatives of all queries: hard negatives go there.
    Queries with equal labels do not count each other's keys as negatives. After each call
    `facts` holds what `batch_facts` tells.

    Args:
        temperature: in the unit of the distance; 1 / temperature is the scale of other
            libraries.
        distance: how a query and a key are compared.
        symmetric: whether keys have to find their queries too; then the mean of both ways.

    Source:
        Henderson, Al-Rfou, Strope, Sung, Lukács, Guo, Kumar, Miklos & Kurzweil, "Efficient
        Natural Language Response Suggestion for Smart Reply", 2017, section 4.4. The defaults
        give the value of MultipleNegativesRankingLoss in sentence-transformers (cosine, scale
        20). MultiNegativesRankLoss of TensorFlow Similarity takes the inner product, and adds
        1 to the sum inside the logarithm. Symmetric: Radford, Kim, Hallacy, Ramesh, Goh,
        Agarwal and others, "Learning Transferable Visual Models From Natural Language
        Supervision", ICML 2021, figure 3.

    Example:
        >>> import torch
        >>> loss = MultipleNegativesLoss(symmetric=True)
        >>> queries, order = torch.eye(4), torch.arange(4)
        >>> loss(queries, order, queries, order) < loss(queries, order, queries.flip(0), order)
        tensor(True)
    """

    def __init__(
        self, *, temperature: float = 0.05, distance: Distance = COSINE, symmetric: bool = False
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.distance = distance
        self.symmetric = symmetric
        self.facts: Mapping[str, Tensor] = {}

    @property
    def by_rows(self) -> bool:
        """Whether processes may share a batch: whether queries alone look for keys."""
        return not self.symmetric

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
        """The mean over the positive pairs; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        costs = nt_xent_loss(distances, batch.is_negative, temperature=self.temperature)
        if self.symmetric:
            back = nt_xent_loss(distances.T, batch.is_negative.T, temperature=self.temperature)
            costs = torch.lerp(costs, back.T, 0.5)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        return shown(batch_mean_where(costs, batch.is_positive), distances, embeddings)
