"""Losses on two views of unlabeled items, called as loss(view_a, view_b); rows are items.

Row i of view_a and row i of view_b, both (n, d), are embeddings of two views of item i, such
as two augmentations of it; no labels. `OnViews` makes any of these losses one of labeled items.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import (
    check_at_least,
    check_embeddings,
    check_labels,
    check_positive,
    free_to_look,
)
from likewise.distances import COSINE
from likewise.errors import InputError
from likewise.losses.facts import batch_facts, spread
from likewise.masks import UNLABELED


def _check_views(view_a: Tensor, view_b: Tensor, least: int = 0) -> None:
    check_embeddings(view_a, "view_a")
    check_embeddings(view_b, "view_b")
    if view_a.shape != view_b.shape:
        raise InputError(
            f"view_b must have the shape of view_a, {tuple(view_a.shape)}, "
            f"got {tuple(view_b.shape)}. Row i of both is the same item."
        )
    if len(view_a) < least:
        raise InputError(
            f"view_a must have at least {least} rows, got {len(view_a)}. "
            "The loss compares the items of a batch."
        )


def _widened(*views: Tensor) -> tuple[Tensor, ...]:
    # Sums of squares of float16 embeddings overflow, and bfloat16 keeps three digits.
    return tuple(view.to(torch.promote_types(view.dtype, torch.float32)) for view in views)


@torch.no_grad()
def _view_facts(view_a: Tensor, view_b: Tensor) -> dict[str, Tensor]:
    distances = COSINE.paired(view_a, view_b)
    return {
        "positive_distance": distances.sum() / max(len(distances), 1),
        "spread": spread(view_a),
    }


class SimCLRLoss(nn.Module):
    """Mean of −log(exp(−d⁺ / T) / Σ exp(−d / T)) over both views of all items: NT-Xent.

    d⁺ is the cosine distance of a view to the other view of its item, and the sum runs over
    all 2n − 1 other views. After each call `facts` holds what `batch_facts` tells, the other
    view of the item being the positive.

    Args:
        temperature: T; the smaller, the more the nearest views of other items count.

    Source:
        Chen, Kornblith, Norouzi & Hinton, "A Simple Framework for Contrastive Learning of
        Visual Representations", ICML 2020, equation 1; temperature 0.5 is their example,
        TensorFlow Similarity takes 0.05.

    Example:
        >>> import torch
        >>> loss = SimCLRLoss()
        >>> loss(torch.eye(3), torch.eye(3)) < loss(torch.eye(3), torch.eye(3).roll(1, dims=0))
        tensor(True)
    """

    by_rows = True  # so that processes may share a batch

    def __init__(self, *, temperature: float = 0.5) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self, view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """The mean over 2n views; 0 for no items."""
        _check_views(view_a, view_b)
        views = torch.cat(_widened(view_a, view_b))
        every = _shares.everything(views)
        distances = COSINE.matrix(views, every)
        places = torch.arange(len(every), device=views.device)
        own = _shares.positions(len(views), views.device)
        other = (own + len(every) // 2) % max(len(every), 1)
        itself, is_other = (place[:, None] == places for place in (own, other))
        self.facts = batch_facts(views, distances, is_other, ~(itself | is_other))
        logits = (distances * (-1 / self.temperature)).masked_fill(itself, -torch.inf)
        return F.cross_entropy(logits, other, reduction="sum") / max(len(every), 1)


def simsiam_loss(
    predicted_a: Float[Tensor, "n d"],
    predicted_b: Float[Tensor, "n d"],
    view_a: Float[Tensor, "n d"],
    view_b: Float[Tensor, "n d"],
) -> Float[Tensor, " n"]:
    """Half of d(predicted_a, view_b) + d(predicted_b, view_a), cosine distances, one per item.

    The views have no gradient here, only the predictions do.

    Args:
        predicted_a: what the predictor makes of view_a, to be near view_b.
        predicted_b: what the predictor makes of view_b, to be near view_a.
        view_a: embeddings of one view of each item.
        view_b: embeddings of the other.

    Source:
        Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, equation 4;
        there −cos, which is less by 1.
    """
    one = COSINE.paired(predicted_a, view_b.detach())
    other = COSINE.paired(predicted_b, view_a.detach())
    return (one + other) / 2


class SimSiamLoss(nn.Module):
    """Mean of `simsiam_loss` over the items, with a predictor that belongs to the loss.

    `fit` trains the predictor along with the encoder. Without the predictor, or with a gradient
    through the views, all embeddings become one point: watch `spread`. After each call `facts`
    holds the mean cosine distance between the views of an item, and the spread.

    Args:
        predictor: a module from embeddings (n, d) to (n, d), such as two linear layers with a
            narrower one between them.

    Source:
        As `simsiam_loss`.

    Example:
        >>> import torch
        >>> loss = SimSiamLoss(torch.nn.Linear(8, 8))
        >>> loss(torch.ones(4, 8), torch.ones(4, 8)).ndim
        0
    """

    by_rows = True  # so that processes may share a batch

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self, view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """The mean over the items; 0 for none."""
        _check_views(view_a, view_b)
        self.facts = _view_facts(view_a, view_b)
        costs = simsiam_loss(self.predictor(view_a), self.predictor(view_b), view_a, view_b)
        return costs.sum() / max(_shares.counted(len(costs)), 1)


def barlow_twins_loss(
    view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, weight: float
) -> Float[Tensor, ""]:
    """Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², C the correlations (d, d) between the views' dimensions.

    Args:
        view_a: embeddings of one view of each item.
        view_b: embeddings of the other, row by row.
        weight: λ, of the correlations between different dimensions.

    Source:
        Zbontar, Jing, Misra, LeCun & Deny, "Barlow Twins: Self-Supervised Learning via
        Redundancy Reduction", ICML 2021, equations 1 and 2. As in the authors' code 1e-5 is
        added to each variance; theirs also multiplies the whole by a constant.
    """
    with torch.autocast(view_a.device.type, enabled=False):
        a, b = (_standardized(view) for view in _widened(view_a, view_b))
        correlations = a.T @ b / len(a)
    diagonal = correlations.diagonal()
    off = correlations.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + weight * off


def _standardized(view: Tensor) -> Tensor:
    centered = view - view.mean(dim=0)
    return centered * (centered.square().mean(dim=0) + 1e-5).rsqrt()


class BarlowTwinsLoss(nn.Module):
    """`barlow_twins_loss` of a batch.

    After each call `facts` holds the mean cosine distance between the views of an item, and the
    spread.

    Args:
        weight: λ, of the correlations between different dimensions.

    Source:
        As `barlow_twins_loss`; λ 0.005 is the paper's.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> view = torch.randn(200, 3)
        >>> loss = BarlowTwinsLoss()
        >>> loss(view, view) < loss(view, -view)
        tensor(True)
    """

    def __init__(self, *, weight: float = 0.005) -> None:
        super().__init__()
        check_positive("weight", weight)
        self.weight = weight
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self, view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """The sum over pairs of dimensions, over at least 2 items."""
        _check_views(view_a, view_b, least=2)
        self.facts = _view_facts(view_a, view_b)
        return barlow_twins_loss(view_a, view_b, weight=self.weight)


def vicreg_terms(
    view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, epsilon: float = 1e-4
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Invariance, variance and covariance of two views, to be weighted and added.

    Invariance: mean of (a − b)² over items and dimensions. Variance: mean over dimensions, and
    over the views, of max(0, 1 − √(variance + ε)). Covariance: Σ_{i≠j} cov_ij² / d, summed
    over the views. Variances and covariances have n − 1 below. The covariance grows with the
    fourth power of the embeddings' length: at a length of 10,000 float16 cannot hold its
    gradient.

    Args:
        view_a: embeddings of one view of each item.
        view_b: embeddings of the other, row by row.
        epsilon: ε, keeps the root's gradient finite.

    Source:
        Bardes, Ponce & LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning", ICLR 2022, equations 1 to 5, with the averages of the authors'
        code. By the paper's equations the invariance is d times, the variance 2 times as large.
    """
    with torch.autocast(view_a.device.type, enabled=False):
        a, b = _widened(view_a, view_b)
        parts = [_variance_and_covariance(view, epsilon) for view in (a, b)]
    variance = (parts[0][0] + parts[1][0]) / 2
    return F.mse_loss(a, b), variance, parts[0][1] + parts[1][1]


def _variance_and_covariance(view: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    size, dim = view.shape
    centered = view - view.mean(dim=0)
    covariances = centered.T @ centered / (size - 1)
    variances = covariances.diagonal()
    off = covariances.square().sum() - variances.square().sum()
    return F.relu(1 - (variances + epsilon).sqrt()).mean(), off / dim


class VICRegLoss(nn.Module):
    """λ times invariance, μ times variance and ν times covariance of `vicreg_terms`, added.

    After each call `facts` holds the three, without weights, the mean cosine distance between
    the views of an item, and the spread.

    Args:
        invariance: λ.
        variance: μ.
        covariance: ν.
        epsilon: added to the variances.

    Source:
        As `vicreg_terms`; 25, 25 and 1 are the paper's. pytorch-metric-learning's VICRegLoss
        is the same number.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> view = torch.randn(200, 3)
        >>> loss = VICRegLoss()
        >>> loss(view, view) < loss(view, -view)
        tensor(True)
    """

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__()
        check_at_least("invariance", invariance, 0)
        check_at_least("variance", variance, 0)
        check_at_least("covariance", covariance, 0)
        check_positive("epsilon", epsilon)
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.epsilon = epsilon
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self, view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """The weighted sum, over at least 2 items."""
        _check_views(view_a, view_b, least=2)
        invariance, variance, covariance = vicreg_terms(view_a, view_b, epsilon=self.epsilon)
        self.facts = {
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": covariance.detach(),
            **_view_facts(view_a, view_b),
        }
        return (
            self.invariance * invariance + self.variance * variance + self.covariance * covariance
        )


class OnViews(nn.Module):
    """A two-view loss for embeddings with labels, each label twice: its rows are the two views.

    So `fit` trains on views: with a sampler of two views per item, every item a class of its
    own. The order of the rows does not matter. `facts` are those of the loss.

    Args:
        loss: called as loss(view_a, view_b).
        projector: layers behind the embeddings, for the loss alone: a module from (n, d) to
            (n, e), which `fit` trains along with the encoder. The encoder itself stays without.

    Raises:
        InputError: when called on a CPU, if a label is not there exactly twice, or is -1.

    Example:
        >>> import torch
        >>> loss = OnViews(SimCLRLoss())
        >>> loss(torch.ones(4, 8), torch.tensor([5, 3, 3, 5])).ndim
        0
    """

    def __init__(self, loss: nn.Module, *, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.projector = projector

    @property
    def by_rows(self) -> bool:
        """Whether processes may share a batch: whether each has both views of its items."""
        share = _shares.current()
        return share is not None and share.views == 2 and _shares.by_rows(self.loss)

    @property
    def facts(self) -> dict[str, Tensor]:
        """What the loss told last."""
        facts: Any = self.loss.facts
        return dict(facts)

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        reference_ids: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of the two views; references play no part."""
        check_embeddings(embeddings)
        check_labels(labels, len(embeddings))
        if self.projector is not None:
            embeddings = self.projector(embeddings)
        order = labels.argsort(stable=True)
        # Only where looking does not wait for the device.
        paired = len(labels) % 2 == 0 and (not free_to_look(labels) or _each_twice(labels[order]))
        if not paired:
            raise InputError(
                "labels must hold each label exactly twice, one for each view of an item, and no "
                "-1, got others. Draw two views per item, and number the items."
            )
        value: Tensor = self.loss(embeddings[order[0::2]], embeddings[order[1::2]])
        return value


def _each_twice(labels: Tensor) -> bool:
    first, second = labels[0::2], labels[1::2]
    named = (first == second).all() and (first != UNLABELED).all()
    return bool(named and (first[1:] != first[:-1]).all())
