"""Losses on smooth ranks: every positive ranked among its references, exactly by the definition."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise._checks import check_count, check_positive
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses.facts import batch_facts, batch_mean_where
from likewise.masks import compared
from likewise.miners.anchor_rows import row_blocks


def smooth_ranks(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    temperature: float,
    most: int | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """The smooth rank of each positive among its anchor's positives, and among all references.

    The rank of i is 1 + Σ_j σ((d_i − d_j) / T) over the others: nearly 1 more for each nearer
    one. O(n·m·K) time for K positives, a few rows at a time, and O(n·(m + K)) memory, the
    gradient's too.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: which entries are positives of their row.
        negative: which entries are negatives of their row.
        temperature: T, in the unit of the distances.
        most: K, as many positives as a row may have; of a row with more, only K are
            ranked. If None the fullest row is looked for, which waits for a GPU.

    Returns:
        Ranks among the positives, ranks among all, and which of the K entries of a row are
        positives at all.
    """
    if most is None:
        most = int(positive.sum(dim=1).max()) if positive.numel() else 0
    most = min(most, distances.shape[1])
    columns = positive.to(torch.uint8).topk(most, dim=1).indices
    nearer: Tensor = _Nearer.apply(  # type: ignore[no-untyped-call]
        distances, columns, positive, negative, temperature
    )
    # A positive was counted against itself: half a rank.
    among_positives = nearer[:, :, 0] + 0.5
    return among_positives, among_positives + nearer[:, :, 1], positive.gather(1, columns)


class _Nearer(torch.autograd.Function):
    """Σ_j σ((d_i − d_j) / T) for the given columns i, over positives and over negatives j."""

    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        columns: Tensor,
        positive: Tensor,
        negative: Tensor,
        temperature: float,
    ) -> Tensor:
        places = distances / temperature
        sums = places.new_empty(*columns.shape, 2)
        for rows in row_blocks(places, columns.shape[1]):
            gaps, kinds = _gaps_and_kinds(places, columns, positive, negative, rows)
            torch.bmm(gaps.sigmoid_(), kinds, out=sums[rows])
        ctx.save_for_backward(places, columns, positive, negative)
        ctx.temperature = temperature
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        places, columns, positive, negative = ctx.saved_tensors
        gradient = torch.zeros_like(places)
        slopes = slopes / ctx.temperature
        for rows in row_blocks(places, columns.shape[1]):
            gaps, kinds = _gaps_and_kinds(places, columns, positive, negative, rows)
            sigmoid = gaps.sigmoid_()
            steep = torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1)
            of_columns = (torch.bmm(steep, kinds) * slopes[rows]).sum(dim=2)
            of_others = (torch.bmm(steep.mT, slopes[rows]) * kinds).sum(dim=2)
            gradient[rows] = of_others.neg_().scatter_add_(1, columns[rows], of_columns)
        return gradient, None, None, None, None


def _gaps_and_kinds(
    places: Tensor, columns: Tensor, positive: Tensor, negative: Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    some = places[rows]
    gaps = some.gather(1, columns[rows])[:, :, None] - some[:, None, :]
    return gaps, torch.stack([positive[rows], negative[rows]], dim=2).to(places.dtype)


class SmoothAPLoss(nn.Module):
    """1 less the mean over anchors of the smooth average precision of their references.

    An anchor's is the mean over its positives of their rank among the positives divided by
    their rank among all, as `smooth_ranks` gives them. Anchors without positives do not count.
    After each call `facts` holds what `batch_facts` tells.

    Args:
        temperature: T, in the unit of the distance; the smaller, the truer to the real ranks,
            and the fewer references have a gradient.
        distance: how embeddings are compared.
        most: Positives that an anchor may have, K − 1 in a batch P × K. With it no step
            waits for a GPU; any above it are not ranked. If None the loss looks.

    Source:
        Brown, Xie, Kalogeiton & Zisserman, "Smooth-AP: Smoothing the Path Toward Large-Scale
        Image Retrieval", ECCV 2020, equations 4 to 6; temperature 0.01 is theirs. The
        authors' code and pytorch-metric-learning count each item among its own references; so
        does this loss when it is given the batch as references, without ids. That of
        pytorch-metric-learning 2.9.0 agrees with it only on batches of as many classes as
        items per class: for others it ranks items of different classes as positives.

    Example:
        >>> import torch
        >>> loss = SmoothAPLoss()
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    by_rows = True  # so that processes may share a batch

    def __init__(
        self, *, temperature: float = 0.01, distance: Distance = COSINE, most: int | None = None
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        if most is not None:
            check_count("most", most)
        self.temperature = temperature
        self.distance = distance
        self.most = most
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
        """The mean over the anchors with positives; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        among_positives, among_all, ranked = smooth_ranks(
            distances,
            *batch.pairs,
            temperature=self.temperature,
            most=self.most,
        )
        precision = torch.where(ranked, among_positives / among_all, 0).sum(dim=1)
        costs = 1 - precision / ranked.sum(dim=1).clamp(min=1)
        return shown(batch_mean_where(costs, ranked.any(dim=1)), distances, embeddings)


class RecallAtKLoss(nn.Module):
    """1 less the mean over anchors, and over the ks, of the smooth share of positives within k.

    A positive of smooth rank r among all references, as `smooth_ranks` gives it, is within the
    first k to the degree σ((k − r) / τ). Anchors without positives do not count. After each
    call `facts` holds what `batch_facts` tells.

    Args:
        ks: how many references are looked at; the mean is over all of them.
        temperature: T of the ranks, in the unit of the distance.
        rank_temperature: τ, in ranks.
        distance: how embeddings are compared.
        most: Positives that an anchor may have, K − 1 in a batch P × K. With it no step
            waits for a GPU; any above it are not ranked. If None the loss looks.

    Source:
        Patel, Tolias & Matas, "Recall@k Surrogate Loss with Large Batches and Similarity
        Mixup", CVPR 2022, equations 6 and 7; the defaults are theirs.

    Example:
        >>> import torch
        >>> loss = RecallAtKLoss(ks=(1, 2))
        >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss(apart, torch.tensor([0, 0, 1, 1])) < loss(apart, torch.tensor([0, 1, 0, 1]))
        tensor(True)
    """

    by_rows = True  # so that processes may share a batch

    def __init__(
        self,
        *,
        ks: Sequence[int] = (1, 2, 4, 8, 16),
        temperature: float = 0.01,
        rank_temperature: float = 1.0,
        distance: Distance = COSINE,
        most: int | None = None,
    ) -> None:
        super().__init__()
        if len(ks) == 0:
            raise InputError("ks must hold at least one number, got none. Use ks=(1,).")
        for k in ks:
            check_count("ks", k)
        check_positive("temperature", temperature)
        check_positive("rank_temperature", rank_temperature)
        if most is not None:
            check_count("most", most)
        self.ks = tuple(ks)
        self.temperature = temperature
        self.rank_temperature = rank_temperature
        self.distance = distance
        self.most = most
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
        """The mean over the anchors with positives; 0 if there is none."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        self.facts = batch_facts(embeddings, distances, *batch.pairs)
        _, ranks, ranked = smooth_ranks(
            distances,
            *batch.pairs,
            temperature=self.temperature,
            most=self.most,
        )
        within = sum(((k - ranks) / self.rank_temperature).sigmoid() for k in self.ks)
        recall = torch.where(ranked, within / len(self.ks), 0).sum(dim=1)
        costs = 1 - recall / ranked.sum(dim=1).clamp(min=1)
        return shown(batch_mean_where(costs, ranked.any(dim=1)), distances, embeddings)
