"""The triplet loss: a positive nearer than a negative by a margin."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from likewise._checks import check_choice, check_positive
from likewise.distances import EUCLIDEAN, Distance
from likewise.losses.facts import batch_facts
from likewise.masks import compared
from likewise.miners import AllTriplets, TripletMiner, all_triplets


def triplet_loss(
    positive: Float[Tensor, "..."], negative: Float[Tensor, "..."], *, margin: float | None
) -> Float[Tensor, "..."]:
    """max(0, d(a, p) − d(a, n) + margin), or log(1 + exp(d(a, p) − d(a, n))) if margin is None.

    One value per triplet. The hinge is zero exactly when the negative is at least `margin`
    farther away than the positive; the soft margin is never zero.

    Args:
        positive: anchor-to-positive distances.
        negative: anchor-to-negative distances, same triplets, same unit.
        margin: the gap asked for, in the unit of the distances.

    Source:
        Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, section 3.1 (there with
        squared Euclidean distances; here the caller chooses). Soft margin: Hermans, Beyer &
        Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2.
    """
    if margin is None:
        return F.softplus(positive - negative)
    return F.relu(positive - negative + margin)


def all_triplets_hinge(
    distances: Float[Tensor, "n m"],
    positive: Bool[Tensor, "n m"],
    negative: Bool[Tensor, "n m"],
    *,
    margin: float,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The hinge summed over every (row, positive, negative), and how many of them are above zero.

    No triplet is listed. With the negatives of a row sorted, those that cost something for a
    positive at distance d are the ones before d + margin: their number and the sum of their
    distances are all that the value needs, and their numbers all that the gradient needs.
    O(n m log m) time, O(n m) memory.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: which entries are positives of their row.
        negative: which entries are negatives of their row.
        margin: the gap asked for, in the unit of the distances.

    Returns:
        The sum, differentiable once, and the count of triplets above zero.
    """
    total, active = _AllTripletsHinge.apply(  # type: ignore[no-untyped-call]
        distances, positive, negative, margin
    )
    return total, active


class _AllTripletsHinge(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, distances: Tensor, positive: Tensor, negative: Tensor, margin: float
    ) -> tuple[Tensor, Tensor]:
        bounds = distances + margin
        negatives = distances.masked_fill(~negative, torch.inf).sort(dim=1).values
        # Both searches leave out ties, where the hinge is exactly zero.
        nearer = torch.searchsorted(negatives, bounds).masked_fill_(~positive, 0)
        positives = bounds.masked_fill(~positive, torch.inf).sort(dim=1).values
        within = torch.searchsorted(positives, distances.contiguous(), right=True)
        farther = (positive.sum(dim=1, keepdim=True) - within).masked_fill_(~negative, 0)
        # The value is linear in the distances with these whole numbers as slopes, plus the
        # margin once per active triplet.
        slopes = (nearer - farther).to(distances.dtype)
        active = nearer.sum()
        total = (slopes * distances).sum(dtype=torch.float64) + margin * active
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(active)
        return total.to(distances.dtype), active

    @staticmethod
    @once_differentiable
    def backward(ctx, total: Tensor, _active: None) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        (slopes,) = ctx.saved_tensors
        return slopes * total, None, None, None


def _all_triplets_soft(
    distances: Tensor, positive: Tensor, negative: Tensor, most: int = 1 << 23
) -> Tensor:
    # The soft margin does not separate into sums over positives and negatives, so the values
    # are made a few rows at a time, for as many positives as the fullest row has.
    width = int(positive.sum(dim=1).max()) if positive.numel() else 0
    ordered = positive.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    total = distances.new_zeros(())
    for rows in torch.split(
        torch.arange(len(distances), device=distances.device),
        max(1, most // max(1, width * distances.shape[1])),
    ):
        columns = ordered[rows]
        gaps = distances[rows].gather(1, columns)[:, :, None] - distances[rows][:, None, :]
        counts = positive[rows].gather(1, columns)[:, :, None] & negative[rows][:, None, :]
        total = total + torch.where(counts, F.softplus(gaps), 0).sum()
    return total


class TripletLoss(nn.Module):
    """Mean of `triplet_loss` over the selected triplets of a batch.

    After each call `facts` holds the share of the selected triplets that cost something and
    what `batch_facts` tells.

    Args:
        margin: the gap asked for between positive and negative distance, in the unit of the
            distance; None for the soft margin, which asks for ever more.
        distance: how embeddings are compared; SQUARED_EUCLIDEAN gives FaceNet's form.
        miner: which triplets count. All of them, summed in closed form, by default.
        average: over "active" triplets, those above zero, or over "all" selected ones.

    Source:
        As `triplet_loss`. The mean over active triplets: Hermans et al., 2017, "Batch All≠0".

    Example:
        >>> import torch
        >>> loss = TripletLoss(margin=1.0)
        >>> loss(torch.tensor([[0.0], [0.0], [0.5]]), torch.tensor([1, 1, 2]))
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        margin: float | None = 0.2,
        distance: Distance = EUCLIDEAN,
        miner: TripletMiner = all_triplets,
        average: str = "active",
    ) -> None:
        super().__init__()
        if margin is not None:
            check_positive("margin", margin)
        check_choice("average", average, ("active", "all"))
        self.margin = margin
        self.distance = distance
        self.miner = miner
        self.average = average
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
        """The mean over the selected triplets; 0 if none is selected, or none costs anything."""
        batch = compared(
            embeddings, labels, references, reference_labels, ids=ids, reference_ids=reference_ids
        )
        distances = self.distance.matrix(batch.anchors, batch.references)
        selected = self.miner(distances, batch.is_positive, batch.is_negative)
        if isinstance(selected, AllTriplets):
            count = (selected.positive.sum(dim=1) * selected.negative.sum(dim=1)).sum()
            if self.margin is None:
                total, active = _all_triplets_soft(distances, *selected), count
            else:
                total, active = all_triplets_hinge(distances, *selected, margin=self.margin)
        else:
            costs = triplet_loss(
                distances[selected.anchor, selected.positive],
                distances[selected.anchor, selected.negative],
                margin=self.margin,
            )
            total = torch.where(selected.keep, costs, 0).sum()
            count = selected.keep.sum()
            active = (selected.keep & (costs > 0)).sum()
        self.facts = {
            "active": active / count.clamp(min=1),
            **batch_facts(embeddings, distances, batch.is_positive, batch.is_negative),
        }
        return total / (active if self.average == "active" else count).clamp(min=1)
