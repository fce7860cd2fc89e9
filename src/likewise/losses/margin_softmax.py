"""Softmax over angles with a margin against the own class: ArcFace, CosFace and SphereFace."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise._checks import check_at_least, check_count, check_positive
from likewise.errors import InputError
from likewise.losses._centers import ClassCenters, ToCenters, center_facts, mean_cross_entropy


def arcface_distance(
    distances: Float[Tensor, "..."], *, margin: float, easy_margin: bool = False
) -> Float[Tensor, "..."]:
    """1 − cos(θ + m), where the cosine distance 1 − cos θ stood: as if farther by the angle m.

    Beyond θ = π − m, where the cosine would rise again, 1 − cos θ + m sin m, so that the result
    never falls. With `easy_margin` the margin holds only below θ = π / 2, and beyond it the
    distance stays as it is.

    Args:
        distances: cosine distances to the own center.
        margin: m, in radians, between 0 and π.
        easy_margin: whether the margin holds only below a right angle.

    Source:
        Deng, Guo, Xue & Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face
        Recognition", CVPR 2019, equation 3. The branches beyond π − m and of the easy margin
        are those of the authors' code (insightface); the paper says nothing of them. At π − m
        the former jumps up by m sin m + cos m − 1.
    """
    cosine, added = 1 - distances, turned(distances, margin)
    if easy_margin:
        return torch.where(cosine > 0, added, distances)
    return torch.where(cosine > -math.cos(margin), added, distances + margin * math.sin(margin))


def turned(distances: Float[Tensor, "..."], angle: float) -> Float[Tensor, "..."]:
    """1 − cos(θ + angle), where the cosine distance 1 − cos θ stood.

    There is no arc cosine in it: cos(θ + m) = cos θ cos m − sin θ sin m. The slope of sin θ,
    infinite at θ = 0, is cut off where float rounding hides the angle, so that the gradient is
    finite everywhere.
    """
    cosine = 1 - distances
    floor = torch.finfo(distances.dtype).eps
    sine = (distances * (1 + cosine)).clamp(min=floor).sqrt()
    return 1 - (cosine * math.cos(angle) - sine * math.sin(angle))


def sphereface_distance(distances: Float[Tensor, "..."], *, margin: int) -> Float[Tensor, "..."]:
    """1 − ψ(θ), where the cosine distance 1 − cos θ stood: as if the angle were m times as large.

    ψ(θ) = (−1)ᵏ cos(mθ) − 2k for θ in [kπ/m, (k + 1)π/m], which falls all the way from 1 to
    1 − 2m. cos(mθ) is a polynomial of cos θ, so that no arc cosine has a part in the gradient.

    Args:
        distances: cosine distances to the own center.
        margin: m, a whole number; 1 changes nothing.

    Source:
        Liu, Wen, Yu, Li, Raj & Song, "SphereFace: Deep Hypersphere Embedding for Face
        Recognition", CVPR 2017, section 3.2 and equation 7.
    """
    cosine = 1 - distances
    before, multiple = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    angles = cosine.detach().clamp(-1, 1).acos()
    # At θ = π itself k is m − 1, the last of the pieces.
    k = (angles * (margin / math.pi)).floor().clamp(max=margin - 1)
    return 1 - ((1 - 2 * (k % 2)) * multiple - 2 * k)


def _cross_entropy(
    nearest: Tensor,
    own_distances: Tensor,
    compared: ToCenters,
    scale: float,
    weights: Tensor | None,
) -> Tensor:
    # A softmax does not see what is added to a whole row, so −d serves as well as cos = 1 − d.
    own, labeled = compared.own, compared.labeled
    columns = own if labeled is None else own.clamp(min=0)
    logits = nearest.scatter(1, columns[:, None], own_distances[:, None]) * -scale
    return mean_cross_entropy(logits, own, labeled, weights)


class ArcFaceLoss(nn.Module):
    """Mean cross entropy of −s·d over the classes, d the cosine distance to a class's center.

    The distance to the own center is made larger by `arcface_distance`. With several centers
    per class (sub-center ArcFace) the nearest of a class counts, so that wrong labels and odd
    items gather round centers of their own. The centers belong to the loss, and `fit` trains
    them. After each call `facts` holds `accuracy`, the share of the batch nearest to its own
    center without the margin, the mean cosine distance to it and to the centers of other
    classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        margin: m, an angle in radians.
        scale: s; the larger, the more the nearest wrong center counts.
        easy_margin: whether the margin holds only for items within a right angle.
        centers_per_class: 1 for ArcFace; sub-center ArcFace takes 3.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part.
        seed: Seed of the classes drawn.

    Source:
        As `arcface_distance`; margin 0.5 and scale 64 are the paper's (0.5 is 28.6 degrees,
        the unit of pytorch-metric-learning). Sub-centers: Deng, Guo, Liu, Gong & Zafeiriou,
        "Sub-center ArcFace", ECCV 2020, equation 4. Sampled classes: An et al., "Partial FC",
        ICCV workshops 2021.

    Example:
        >>> import torch
        >>> loss = ArcFaceLoss(embedding_dim=8, class_count=10, scale=16)
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
        margin: float = 0.5,
        scale: float = 64.0,
        easy_margin: bool = False,
        centers_per_class: int = 1,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        if margin >= math.pi:
            raise InputError(
                f"margin must be below π, got {margin}. It is an angle in radians; "
                "28.6 degrees are math.radians(28.6)."
            )
        check_positive("scale", scale)
        self.centers = ClassCenters(
            embedding_dim, class_count, per_class=centers_per_class, share=class_share, seed=seed
        )
        self.margin = margin
        self.scale = scale
        self.easy_margin = easy_margin
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
        to_own = arcface_distance(
            compared.at_own(nearest), margin=self.margin, easy_margin=self.easy_margin
        )
        value = _cross_entropy(nearest, to_own, compared, self.scale, weights)
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−s·d to every class, without the margin, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        return self.centers.distances(embeddings).amin(dim=2) * -self.scale


class CosFaceLoss(nn.Module):
    """Mean cross entropy of −s·d over the classes, d the cosine distance to a class's center.

    To the distance to the own center the margin is added. The centers belong to the loss, and
    `fit` trains them. After each call `facts` holds `accuracy`, the share of the batch nearest
    to its own center without the margin, the mean cosine distance to it and to the centers of
    other classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        margin: m, a cosine distance.
        scale: s; the larger, the more the nearest wrong center counts.
        centers_per_class: with several, the nearest of a class counts.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part.
        seed: Seed of the classes drawn.

    Source:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018,
        equation 4; margin 0.35 and scale 64 are the paper's. Sampled classes: An et al.,
        "Partial FC", ICCV workshops 2021.

    Example:
        >>> import torch
        >>> loss = CosFaceLoss(embedding_dim=8, class_count=10, scale=16)
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
        margin: float = 0.35,
        scale: float = 64.0,
        centers_per_class: int = 1,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("margin", margin)
        check_positive("scale", scale)
        self.centers = ClassCenters(
            embedding_dim, class_count, per_class=centers_per_class, share=class_share, seed=seed
        )
        self.margin = margin
        self.scale = scale
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
        to_own = compared.at_own(nearest) + self.margin
        value = _cross_entropy(nearest, to_own, compared, self.scale, weights)
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−s·d to every class, without the margin, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        return self.centers.distances(embeddings).amin(dim=2) * -self.scale


class SphereFaceLoss(nn.Module):
    """Mean cross entropy of −s·|x|·d over the classes, d the cosine distance to a class's center.

    The distance to the own center is made larger by `sphereface_distance`; the length of the
    embedding x is the scale, so that a longer one is a surer one. The centers belong to the
    loss, and `fit` trains them. After each call `facts` holds `accuracy`, the share of the
    batch nearest to its own center without the margin, the mean cosine distance to it and to
    the centers of other classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        margin: m, how many times the angle to the own center counts; a whole number.
        scale: s, times the length of the embedding.
        blend: λ; the distance to the own center is (λ d + d_m) / (1 + λ), d_m the one with the
            margin. Training from new weights hardly starts with 0: begin with a large one
            and lower the attribute `blend` from a callback.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part.
        seed: Seed of the classes drawn.

    Source:
        As `sphereface_distance`; margin 4 is the paper's. The blend is in the authors' code,
        which lowers λ from 1000 to 5. Sampled classes: An et al., "Partial FC", ICCV
        workshops 2021.

    Example:
        >>> import torch
        >>> loss = SphereFaceLoss(embedding_dim=8, class_count=10)
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
        margin: int = 4,
        scale: float = 1.0,
        blend: float = 0.0,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("margin", margin)
        check_positive("scale", scale)
        check_at_least("blend", blend, 0)
        self.centers = ClassCenters(embedding_dim, class_count, share=class_share, seed=seed)
        self.margin = margin
        self.scale = scale
        self.blend = blend
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
        plain = compared.at_own(nearest)
        to_own = sphereface_distance(plain, margin=self.margin)
        if self.blend:
            to_own = (self.blend * plain + to_own) / (1 + self.blend)
        lengths = torch.linalg.vector_norm(embeddings.to(nearest.dtype), dim=1)
        value = _cross_entropy(
            lengths[:, None] * nearest, lengths * to_own, compared, self.scale, weights
        )
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−s·|x|·d to every class, without the margin, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        nearest = self.centers.distances(embeddings).amin(dim=2)
        lengths: Tensor = torch.linalg.vector_norm(embeddings.to(nearest.dtype), dim=1)[:, None]
        return nearest * lengths * -self.scale
