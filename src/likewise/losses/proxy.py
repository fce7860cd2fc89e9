"""Losses against learned points, one or several per class: Proxy-NCA, Proxy-Anchor, SoftTriple."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise import _shares
from likewise._checks import check_at_least, check_count, check_positive
from likewise.distances import unit
from likewise.losses._centers import (
    ClassCenters,
    ToCenters,
    center_facts,
    mean_cross_entropy,
    weighted_mean,
)
from likewise.losses._log_sum_exp import log_sum_exp


def proxy_anchor_loss(
    distances: Float[Tensor, "n c"],
    is_own: Bool[Tensor, "n c"],
    *,
    alpha: float,
    margin: float,
    labeled: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of log(1 + Σ⁺ exp(α (d + δ − 1))) and of log(1 + Σ⁻ exp(α (1 + δ − d))), added.

    The sums run over the items of a proxy's own class and over all other items; the first
    mean is over the proxies that have items, the second over all. Without items, 0.

    Args:
        distances: cosine distances from every item to every proxy; smaller is closer.
        is_own: whether the proxy is that of the item's class.
        alpha: α, how much hard items outweigh easy ones.
        margin: δ, a cosine distance.
        labeled: which items count; all of them if None.

    Source:
        Kim, Kim, Cho & Kwak, "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, equation
        4; there for the cosine s = 1 − d.
    """
    # log(1 + Σ exp) is the softplus of a log-sum-exp, and 0 for a proxy without such items.
    pull = F.softplus(log_sum_exp(distances, is_own, scale=alpha, dim=0) + alpha * (margin - 1))
    is_other = ~is_own if labeled is None else ~is_own & labeled[:, None]
    push = F.softplus(log_sum_exp(distances, is_other, scale=-alpha, dim=0) + alpha * (margin + 1))
    return pull.sum() / is_own.any(dim=0).sum().clamp(min=1) + push.mean()


def soft_triple_distance(
    distances: Float[Tensor, "n c k"], *, gamma: float
) -> Float[Tensor, "n c"]:
    """Σ_k q_k d_k, the softened distance to the nearest center, q = softmax(−d / γ) over k.

    Args:
        distances: cosine distances to each of the k centers of every class.
        gamma: γ, the smaller, the more the nearest center counts.

    Source:
        Qian, Shang, Sun, Hu, Li & Jin, "SoftTriple Loss: Deep Metric Learning Without Triplet
        Sampling", ICCV 2019, equation 5; there for the cosine 1 − d.
    """
    softened: Tensor = _Softened.apply(distances, gamma)  # type: ignore[no-untyped-call]
    return softened


class _Softened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distances: Tensor, gamma: float) -> Tensor:
        weights = distances - distances.amin(dim=2, keepdim=True)
        weights.mul_(-1 / gamma).exp_()
        weights.div_(weights.sum(dim=2, keepdim=True))
        softened: Tensor = torch.linalg.vecdot(weights, distances, dim=2)
        ctx.save_for_backward(distances, weights, softened)
        ctx.gamma = gamma
        return softened

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        distances, weights, softened = ctx.saved_tensors
        nearer = (softened[:, :, None] - distances).div_(ctx.gamma).add_(1)
        gradient: Tensor = nearer.mul_(weights).mul_(slopes[:, :, None])
        return gradient, None


def centers_apart(centers: Float[Tensor, "c k d"]) -> Float[Tensor, ""]:
    """Σ_c Σ_{s<t} |w_cs − w_ct| / (C K (K − 1)) of centers scaled to unit length; 0 if K is 1.

    Half the mean distance between centers of one class. A small one means few different
    centers, as many as the class needs.

    Args:
        centers: K centers for each of C classes.

    Source:
        As `soft_triple_distance`, equation 7 and the regulariser below it. The gradient of two
        equal centers is 0 here; the authors' code adds 1e-5 under the root.
    """
    count, each = centers.shape[:2]
    if each == 1:
        return centers.sum() * 0
    units = unit(centers.to(torch.promote_types(centers.dtype, torch.float32)))
    squares = (2 - 2 * units @ units.mT).triu(diagonal=1)
    # Equal centers differ by rounding; a root of that would have a gradient of thousands.
    apart = squares > 16 * torch.finfo(squares.dtype).eps
    return torch.where(apart, squares, 1).sqrt().where(apart, 0).sum() / (count * each * (each - 1))


class ProxyNCALoss(nn.Module):
    """Mean of −log(exp(−d_y / T) / Σ_c exp(−d_c / T)), d_c the distance to the proxy of class c.

    d is the squared Euclidean distance between embedding and proxy, both scaled to unit
    length, which is twice their cosine distance. This is Proxy-NCA++. The proxies belong to
    the loss, and `fit` trains them. After each call `facts` holds `accuracy`, the share of the
    batch nearest to its own proxy, the mean cosine distance to it and to the proxies of other
    classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        temperature: T; the smaller, the more the nearest wrong proxy counts.
        own_below: whether the own proxy stands in the sum below the line. Without it the loss
            may fall below 0: the original Proxy-NCA, with temperature 1.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part.
        seed: Seed of the classes drawn.

    Source:
        Teh, DeVries & Taylor, "ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood
        Component Analysis", ECCV 2020, equation 6; temperature 1/9 is theirs. Without the
        proxy below: Movshovitz-Attias, Toshev, Leung, Ioffe & Singh, "No Fuss Distance Metric
        Learning using Proxies", ICCV 2017, equation 4. pytorch-metric-learning's ProxyNCALoss
        is this one with temperature 1 / softmax_scale, 1 by default. Sampled classes: An et
        al., "Partial FC", ICCV workshops 2021.

    Example:
        >>> import torch
        >>> loss = ProxyNCALoss(embedding_dim=8, class_count=10)
        >>> loss(torch.ones(4, 8), torch.tensor([1, 2, 3, 4])).ndim
        0
    """

    by_rows = True  # so that processes may share a batch
    takes_weights = True  # of the items

    def __init__(
        self,
        embedding_dim: int,
        class_count: int,
        *,
        temperature: float = 1 / 9,
        own_below: bool = True,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.centers = ClassCenters(embedding_dim, class_count, share=class_share, seed=seed)
        self.temperature = temperature
        self.own_below = own_below
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        reference_ids: Tensor | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over the batch, by the items' weights if given; references play no part."""
        compared: ToCenters = self.centers(embeddings, labels)
        nearest = compared.nearest
        self.facts = center_facts(embeddings, nearest, compared)
        logits = nearest * (-2 / self.temperature)
        if self.own_below:
            value = mean_cross_entropy(logits, compared.own, compared.labeled, weights)
        else:
            others = logits.masked_fill(compared.is_own, -torch.inf).logsumexp(dim=1)
            value = weighted_mean(others - compared.at_own(logits), compared.labeled, weights)
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−2 d / T to every class, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        return self.centers.distances(embeddings).amin(dim=2) * (-2 / self.temperature)


class ProxyAnchorLoss(nn.Module):
    """`proxy_anchor_loss` of a batch: every proxy is an anchor, with the batch around it.

    The proxies belong to the loss, and `fit` trains them. After each call `facts` holds
    `accuracy`, the share of the batch nearest to its own proxy, the mean cosine distance to it
    and to the proxies of other classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        alpha: α, how much hard items outweigh easy ones.
        margin: δ, a cosine distance.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part.
        seed: Seed of the classes drawn.

    Source:
        As `proxy_anchor_loss`; alpha 32 and margin 0.1 are the paper's. Sampled classes: An et
        al., "Partial FC", ICCV workshops 2021.

    Example:
        >>> import torch
        >>> loss = ProxyAnchorLoss(embedding_dim=8, class_count=10)
        >>> loss(torch.ones(4, 8), torch.tensor([1, 2, 3, 4])).ndim
        0
    """

    def __init__(
        self,
        embedding_dim: int,
        class_count: int,
        *,
        alpha: float = 32.0,
        margin: float = 0.1,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        check_at_least("margin", margin, 0)
        self.centers = ClassCenters(embedding_dim, class_count, share=class_share, seed=seed)
        self.alpha = alpha
        self.margin = margin
        self.facts: Mapping[str, Tensor] = {}

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
        """The two means, added; references play no part, since items meet proxies only."""
        compared: ToCenters = self.centers(embeddings, labels)
        nearest = compared.nearest
        self.facts = center_facts(embeddings, nearest, compared)
        value = proxy_anchor_loss(
            nearest,
            compared.is_own,
            alpha=self.alpha,
            margin=self.margin,
            labeled=compared.labeled,
        )
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−α·d to every proxy, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        return self.centers.distances(embeddings).amin(dim=2) * -self.alpha


class SoftTripleLoss(nn.Module):
    """Mean cross entropy of −λ·d over the classes, d softened over the class's centers.

    d is `soft_triple_distance`; to the one of the own class the margin is added, and
    `regularizer` times `centers_apart` to the loss. The centers belong to the loss, and `fit`
    trains them. After each call `facts` holds `accuracy`, the share of the batch nearest to
    its own class, the mean softened distance to it and to other classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        centers_per_class: K.
        scale: λ; the larger, the more the nearest wrong class counts.
        gamma: γ; the smaller, the more the nearest center of a class counts.
        margin: δ, a cosine distance.
        regularizer: τ, the weight of the term that draws needless centers together; 0 for none.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part. The regulariser runs over
            the same classes.
        seed: Seed of the classes drawn.

    Source:
        As `soft_triple_distance`, equations 6 and 8; the defaults are those of the paper and of
        the authors' code. pytorch-metric-learning's SoftTripleLoss is this one with
        regularizer 0. Sampled classes: An et al., "Partial FC", ICCV workshops 2021.

    Example:
        >>> import torch
        >>> loss = SoftTripleLoss(embedding_dim=8, class_count=10)
        >>> loss(torch.ones(4, 8), torch.tensor([1, 2, 3, 4])).ndim
        0
    """

    by_rows = True  # so that processes may share a batch
    takes_weights = True  # of the items

    def __init__(
        self,
        embedding_dim: int,
        class_count: int,
        *,
        centers_per_class: int = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        regularizer: float = 0.2,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("centers_per_class", centers_per_class)
        check_positive("scale", scale)
        check_positive("gamma", gamma)
        check_at_least("margin", margin, 0)
        check_at_least("regularizer", regularizer, 0)
        self.centers = ClassCenters(
            embedding_dim, class_count, per_class=centers_per_class, share=class_share, seed=seed
        )
        self.scale = scale
        self.gamma = gamma
        self.margin = margin
        self.regularizer = regularizer
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        reference_ids: Tensor | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over the batch, by weights if given, and regularizer; references play no part."""
        compared: ToCenters = self.centers(embeddings, labels)
        softened = soft_triple_distance(compared.distances, gamma=self.gamma)
        self.facts = center_facts(embeddings, softened, compared)
        logits = (softened + self.margin * compared.is_own) * -self.scale
        value = mean_cross_entropy(logits, compared.own, compared.labeled, weights)
        if self.regularizer:
            value = value + _shares.once(self.regularizer * centers_apart(compared.centers))
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−λ·d to every class, without the margin, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        return (
            soft_triple_distance(self.centers.distances(embeddings), gamma=self.gamma) * -self.scale
        )
