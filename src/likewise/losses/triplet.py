"""The triplet loss: a positive nearer than a negative by a margin."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise import _shares
from likewise._checks import check_choice, check_count, check_positive, free_to_look
from likewise.distances import EUCLIDEAN, Distance
from likewise.losses._shown import shown
from likewise.losses._slopes import with_slopes
from likewise.losses.facts import batch_facts
from likewise.masks import compared
from likewise.miners import AllTriplets, TripletMiner, Triplets, all_triplets, works_by_rows
from likewise.miners.anchor_rows import or_infinite, positive_columns, row_blocks, sorted_rows

FEW_TRIPLETS = 1 << 17  # up to which steps cost more than looking at every triplet


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
    within: float | None = None,
    most_positives: int | None = None,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The hinge summed over every (row, positive, negative), and how many of them are above zero.

    No triplet is listed. With the negatives of a row sorted, those that cost something for a
    positive at distance d are the ones before d + margin. How many positives a negative costs
    something for, and the other way, is all that value and gradient need. O(n m log m) time,
    O(n m) memory.

    Args:
        distances: from every anchor to every reference; smaller is closer.
        positive: which entries are positives of their row.
        negative: which entries are negatives of their row.
        margin: the gap asked for, in the unit of the distances.
        within: if given, only negatives count that are farther than the positive, by less
            than this.
        most_positives: a bound on the positives of a row, which saves time on a GPU.

    Returns:
        The sum, differentiable once, and the count of triplets above zero.
    """
    if most_positives is None and _are_few(positive):
        reach = margin if within is None else min(margin, within)
        slopes, slope_sum, count = _slopes_in_numpy(
            distances, positive, negative, reach, within is not None
        )
        value = distances.new_tensor(slope_sum + margin * count)
        return with_slopes(distances, value, slopes), torch.tensor(count)
    total, active = _AllTripletsHinge.apply(  # type: ignore[no-untyped-call]
        distances, positive, negative, margin, within, most_positives
    )
    return total, active


class _AllTripletsHinge(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        positive: Tensor,
        negative: Tensor,
        margin: float,
        within: float | None,
        most: int | None,
    ) -> tuple[Tensor, Tensor]:
        reach = margin if within is None else min(margin, within)
        columns, valid = positive_columns(positive, most)
        slopes = torch.empty_like(distances)
        total = distances.new_zeros((), dtype=torch.float64)
        active = torch.zeros((), dtype=torch.int64, device=distances.device)
        for rows in row_blocks(distances, width=1):
            some = distances[rows]
            slopes[rows], found = _slopes(
                some, negative[rows], columns[rows], valid[rows], reach, within is not None
            )
            # The value is linear in the distances with these whole numbers as slopes, plus the
            # margin once per active triplet.
            total += (slopes[rows] * some).sum(dtype=torch.float64)
            active += found
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(active)
        return (total + margin * active.double()).to(distances.dtype), active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, _active: None) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * total, None, None, None, None, None


def _slopes(
    distances: Tensor,
    negative: Tensor,
    columns: Tensor,
    valid: Tensor,
    reach: float,
    beyond_positive: bool,
) -> tuple[Tensor, Tensor]:
    near = distances.gather(1, columns)
    ordered, order = sorted_rows(or_infinite(distances, negative))
    # From `start` on and before `end` a row's sorted negatives cost something for a positive.
    # The searches leave out ties, where the hinge is exactly zero.
    end = torch.searchsorted(ordered, near + reach).masked_fill_(~valid, 0)
    start = torch.zeros_like(end)
    if beyond_positive:
        start = torch.searchsorted(ordered, near, right=True)
        # Of a padding, or if rounding swallows the margin, nothing lies between.
        start = torch.minimum(start, end, out=start)
    # Each positive adds one from its start to its end.
    steps = ordered.new_zeros(len(ordered), ordered.shape[1] + 1, dtype=torch.int32)
    one = valid.int()
    steps.scatter_add_(1, start, one).scatter_add_(1, end, -one)
    positives = steps.cumsum(dim=1, dtype=torch.int32)[:, :-1]
    slopes = torch.empty_like(distances)
    slopes.scatter_(1, order, positives.to(distances.dtype).neg_())
    negatives = end - start
    slopes.scatter_add_(1, columns, negatives.to(distances.dtype))
    return slopes, negatives.sum()


def _are_few(positive: Tensor) -> bool:
    if not free_to_look(positive) or not 0 < positive.numel() <= FEW_TRIPLETS:
        return False
    return int(positive.numpy().sum(axis=1).max()) * positive.numel() <= FEW_TRIPLETS


def _slopes_in_numpy(
    distances: Tensor, positive: Tensor, negative: Tensor, reach: float, beyond_positive: bool
) -> tuple[Tensor, float, int]:
    # The same in a tenth of the steps, each over every triplet; and the slopes' sum over the
    # distances.
    numbers, pairs = distances.detach().numpy(), positive.numpy()
    counts = pairs.sum(axis=1)
    valid = np.arange(counts.max()) < counts[:, None]
    near = np.full(valid.shape, -np.inf, dtype=numbers.dtype)  # nothing costs for a padding
    near[valid] = numbers[pairs]
    with np.errstate(all="ignore"):  # NaN and infinity show in the loss
        far = np.where(negative.numpy(), numbers, numbers.dtype.type(np.inf))[:, None, :]
        costly = far < (near + numbers.dtype.type(reach))[:, :, None]
        if beyond_positive:
            costly &= far > near[:, :, None]
        ones = costly.astype(numbers.dtype)
        slopes = -np.einsum("nkm->nm", ones)
        negatives = np.einsum("nkm->nk", ones)
        slopes[pairs] += negatives[valid]
        total = np.vdot(slopes.astype(np.float64), numbers)
    return torch.from_numpy(slopes), float(total), int(negatives.sum())


def _product_of_counts(positive: Tensor, negative: Tensor) -> Tensor:
    if not free_to_look(positive) or positive.numel() > FEW_TRIPLETS:
        return (positive.sum(dim=1) * negative.sum(dim=1)).sum()
    return torch.tensor(int(positive.numpy().sum(axis=1) @ negative.numpy().sum(axis=1)))


class _ListedInBlocks(torch.autograd.Function):
    """Sum, active and selected count of triplets whose cost does not separate.

    Their slopes are made along with the value, a few rows at a time, so that no block is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        between: Tensor | None,
        selected: AllTriplets,
        margin: float | None,
        swap: bool,
        most: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        columns, valid = positive_columns(selected.positive, most)
        slopes = torch.zeros_like(distances)
        slopes_between = torch.zeros_like(between) if between is not None and swap else None
        total = distances.new_zeros((), dtype=torch.float64)
        active = torch.zeros((), dtype=torch.int64, device=distances.device)
        count = torch.zeros_like(active)
        for rows in row_blocks(distances, columns.shape[1]):
            near = distances[rows].gather(1, columns[rows])[:, :, None]
            far = distances[rows][:, None, :]
            beside = None if between is None else between[columns[rows]]
            counts = valid[rows][:, :, None] & selected.negative[rows][:, None, :]
            if selected.within is not None:
                counts = counts & (near < far) & (far < near + selected.within)
            if selected.rule is not None and beside is not None:
                counts = counts & selected.rule(near, far, beside)
            costs, slope = _cost_and_slope(
                near - (torch.minimum(far, beside) if swap and beside is not None else far), margin
            )
            slope.masked_fill_(~counts, 0)
            total += costs.masked_fill_(~counts, 0).sum(dtype=torch.float64)
            count += counts.sum()
            active += counts.sum() if margin is None else (costs > 0).sum()
            slopes[rows].scatter_add_(1, columns[rows], slope.sum(dim=2))
            if swap and beside is not None and slopes_between is not None:
                # Half each where both are equally near.
                mine = slope * ((beside - far).sign_().add_(1).div_(2))
                slopes_between.index_add_(
                    0, columns[rows].flatten(), (slope - mine).flatten(0, 1), alpha=-1
                )
                slope = mine
            slopes[rows] -= slope.sum(dim=1)
        ctx.save_for_backward(slopes, slopes_between)
        ctx.mark_non_differentiable(active, count)
        return total.to(distances.dtype), active, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, _active: None, _count: None) -> tuple[Tensor | None, ...]:
        slopes, slopes_between = ctx.saved_tensors
        beside = None if slopes_between is None else slopes_between * total
        return slopes * total, beside, None, None, None, None


def _cost_and_slope(gaps: Tensor, margin: float | None) -> tuple[Tensor, Tensor]:
    # `triplet_loss` of fresh gaps between positive and negative, and its derivative.
    if margin is None:
        return F.softplus(gaps), gaps.sigmoid_()
    costs = gaps.add_(margin).relu_()
    return costs, (costs > 0).to(costs.dtype)


@torch.no_grad()
def triplets_of_pairs(
    distances: Float[Tensor, "n m"],
    between: Float[Tensor, "m m"] | None,
    selected: Triplets | AllTriplets,
) -> Float[Tensor, "n m"]:
    """How many of the selected triplets each pair is in, its positive ones and its negative ones.

    Args:
        distances: From every anchor to every reference.
        between: From every reference to every reference; only a rule of triplets needs it.
        selected: What a miner selected.
    """
    if isinstance(selected, Triplets):
        counts, starts = torch.zeros_like(distances), selected.anchor * distances.shape[1]
        for columns in (selected.positive, selected.negative):
            counts.view(-1).index_add_(0, starts + columns, selected.keep.to(counts.dtype))
        return counts
    positive, negative, within, rule = selected
    if within is None and rule is None:
        of_negative = torch.where(negative, positive.sum(dim=1, keepdim=True), 0)
        counts = torch.where(positive, negative.sum(dim=1, keepdim=True), of_negative)
        return counts.to(distances.dtype)
    # Where every triplet costs something, its pairs have the slopes 1 and -1.
    with torch.enable_grad():
        leaf = distances.detach().requires_grad_()
        total, _, _ = _ListedInBlocks.apply(  # type: ignore[no-untyped-call]
            leaf, between, selected, math.inf, False, None
        )
        (slopes,) = torch.autograd.grad(total, leaf)
    return slopes.abs()


class TripletLoss(nn.Module):
    """Mean of `triplet_loss` over the selected triplets of a batch.

    After each call `facts` holds the share of the selected triplets that cost something and
    what `batch_facts` tells.

    Args:
        margin: the gap asked for between positive and negative distance, in the unit of the
            distance; None for the soft margin, which always asks for more.
        distance: how embeddings are compared; SQUARED_EUCLIDEAN gives FaceNet's form.
        miner: which triplets count. All of them, summed in closed form, by default.
        average: over "active" triplets, those above zero, or over "all" selected ones.
        swap: whether the positive's distance to the negative takes the place of the anchor's
            where it is smaller. Miners look at the anchor's.
        most_positives: a bound on the positives that an anchor has, which saves time on a GPU;
            a CPU counts them.

    Time and memory grow as O(n m log m) and O(n m) for the hinge over all triplets or all
    semi-hard ones. Soft margin, swap or a rule of its own over all triplets take O(n m K) time
    for K positives, in O(n m) memory.

    Source:
        As `triplet_loss`. The mean over active triplets: Hermans et al., 2017, "Batch All≠0".
        Swap: Balntas, Riba, Ponsa & Mikolajczyk, "Learning Local Feature Descriptors with
        Triplets and Shallow Convolutional Neural Networks", BMVC 2016, section 2.2.
        pytorch-metric-learning's smooth_loss is log(1 + exp(gap + margin)); here the soft
        margin has no margin, as in the paper.

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
        swap: bool = False,
        most_positives: int | None = None,
    ) -> None:
        super().__init__()
        if margin is not None:
            check_positive("margin", margin)
        if most_positives is not None:
            check_count("most_positives", most_positives)
        check_choice("average", average, ("active", "all"))
        self.margin = margin
        self.distance = distance
        self.miner = miner
        self.average = average
        self.swap = swap
        self.most_positives = most_positives
        self.facts: Mapping[str, Tensor] = {}

    @property
    def by_rows(self) -> bool:
        """Whether processes may share a batch: whether nothing is compared but anchors with all."""
        return not self.swap and works_by_rows(self.miner)

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
        selected = self.miner(distances, *batch.pairs)
        between = None
        if self.swap or (isinstance(selected, AllTriplets) and selected.rule is not None):
            between = distances
            if references is not None:
                between = self.distance.matrix(batch.references, batch.references)
        if isinstance(selected, AllTriplets):
            total, active, count = self._all(distances, between, selected)
        else:
            total, active, count = self._chosen(distances, between, selected)
        self.facts = batch_facts(
            embeddings, distances, *batch.pairs, active=lambda: active / count.clamp(min=1)
        )
        divisor: Any = active if self.average == "active" else count
        divisor = _shares.counted(divisor)
        mean = total / (max(int(divisor), 1) if free_to_look(divisor) else divisor.clamp(min=1))
        return shown(mean, distances, embeddings)

    def _all(
        self, distances: Tensor, between: Tensor | None, selected: AllTriplets
    ) -> tuple[Tensor, Tensor, Tensor]:
        positive, negative, within, rule = selected
        if self.margin is None or self.swap or rule is not None:
            total, active, count = _ListedInBlocks.apply(  # type: ignore[no-untyped-call]
                distances, between, selected, self.margin, self.swap, self.most_positives
            )
            return total, active, count
        total, active = all_triplets_hinge(
            distances,
            positive,
            negative,
            margin=self.margin,
            within=within,
            most_positives=self.most_positives,
        )
        if within is None:
            count = _product_of_counts(positive, negative)
        elif within <= self.margin:
            count = active
        else:
            _, count = all_triplets_hinge(
                distances.detach(),
                positive,
                negative,
                margin=within,
                within=within,
                most_positives=self.most_positives,
            )
        return total, active, count

    def _chosen(
        self, distances: Tensor, between: Tensor | None, selected: Triplets
    ) -> tuple[Tensor, Tensor, Tensor]:
        # One read of the matrix gives one scatter into its gradient.
        width = distances.shape[1]
        start = selected.anchor * width
        entries = torch.cat([start + selected.positive, start + selected.negative])
        near, far = distances.flatten().index_select(0, entries).chunk(2)
        if self.swap and between is not None:
            entries = selected.positive * width + selected.negative
            far = torch.minimum(far, between.flatten().index_select(0, entries))
        costs = triplet_loss(near, far, margin=self.margin)
        active = selected.keep & (costs.detach() > 0)
        return torch.where(selected.keep, costs, 0).sum(), active.sum(), selected.keep.sum()
