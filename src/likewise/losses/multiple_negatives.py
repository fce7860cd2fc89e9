"""Multiple negatives ranking for two towers: each query finds its key among all the others."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import check_positive
from likewise.distances import COSINE, Distance
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where, mean_where
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

    by_rows = True  # so that processes may share a batch

    def __init__(
        self, *, temperature: float = 0.05, distance: Distance = COSINE, symmetric: bool = False
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.distance = distance
        self.symmetric = symmetric
        self.facts: Mapping[str, Tensor] = {}

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
        if self.symmetric and _shares.current() is not None:
            self.facts = batch_facts(embeddings, distances, *batch.pairs)
            value = batch_mean_where(costs, batch.is_positive)
            back = self._back(embeddings, labels, references, reference_labels, ids, reference_ids)
            return shown((value + back) / 2, distances, embeddings)
        if self.symmetric:
            back = nt_xent_loss(distances.T, batch.is_negative.T, temperature=self.temperature)
            costs = torch.lerp(costs, back.T, 0.5)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        return shown(batch_mean_where(costs, batch.is_positive), distances, embeddings)

    def _back(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None,
        reference_labels: Tensor | None,
        ids: Tensor | None,
        reference_ids: Tensor | None,
    ) -> Tensor:
        """What a process that shares a batch adds where keys look for the queries of all of it."""
        share = _shares.current()
        queries, query_labels = _shares.everything(embeddings), _shares.everything(labels)
        if references is None or reference_labels is None or share is None:
            given = [embeddings, labels, _shares.positions(len(labels), labels.device)]
            found: list[Tensor | None] = [*given]
            ids = torch.arange(len(query_labels), device=labels.device)
        else:
            ids = None if ids is None else _shares.everything(ids)
            given = [references, reference_labels]
            given += [] if reference_ids is None else [reference_ids]
            found = [share.here(each) for each in given]
        is_parted = all(each is not None for each in found)  # or they are a memory
        keys, key_labels, *key_ids = (
            whole if here is None or not is_parted else here
            for whole, here in zip(given, found, strict=True)
        )
        batch = compared(
            queries,
            query_labels,
            keys,
            key_labels,
            ids=ids,
            reference_ids=next(iter(key_ids), None),
        )
        distances = self.distance.matrix(batch.anchors, batch.references).T
        costs = nt_xent_loss(distances, batch.is_negative.T, temperature=self.temperature)
        if is_parted:
            return batch_mean_where(costs, batch.is_positive.T)
        return _shares.once(mean_where(costs, batch.is_positive.T))
