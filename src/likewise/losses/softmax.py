"""Softmax classification over the training classes, the baseline of metric learning."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise._checks import (
    check_count,
    check_embeddings,
    check_positive,
    check_same_width,
    free_to_look,
)
from likewise.distances import without_autocast
from likewise.losses._centers import (
    ClassCenters,
    ToCenters,
    center_facts,
    labeled_codes,
    mean_cross_entropy,
)
from likewise.losses._shown import shown
from likewise.losses.facts import FEW, Told, as_numpy, facts_of, mean_over


class SoftmaxLoss(nn.Module):
    """Cross entropy of a linear layer from embeddings to the training classes.

    The layer's weights belong to the loss: `fit` trains them along with the encoder. What it
    learns sits in the embeddings, the layer itself is not used afterwards. After each call
    `facts` holds the share of the batch that the layer classifies rightly.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.

    Example:
        >>> import torch
        >>> loss = SoftmaxLoss(embedding_dim=8, class_count=10)
        >>> loss(torch.zeros(4, 8), torch.tensor([1, 2, 3, 4])).ndim
        0
    """

    by_rows = True  # so that processes may share a batch
    takes_weights = True  # of the items

    def __init__(self, embedding_dim: int, class_count: int) -> None:
        super().__init__()
        check_count("embedding_dim", embedding_dim)
        check_count("class_count", class_count, 2)
        self.classify = nn.Linear(embedding_dim, class_count)
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
        """Mean cross entropy, by the weights of the items if given; references play no part."""
        logits = self.logits(embeddings)
        labeled = labeled_codes(labels, len(embeddings), self.classify.out_features)
        labels = labels.long()
        self.facts = _facts(logits.detach(), labels, labeled)
        value = mean_cross_entropy(logits, labels, labeled, weights)
        return value if labeled is None else shown(value, logits, embeddings)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """What the layer says of every class, (n, c): the largest is the class predicted."""
        check_embeddings(embeddings)
        check_same_width(self.classify.weight, embeddings, ("weights", "embeddings"))
        weight, bias = self.classify.weight, self.classify.bias
        dtype = torch.promote_types(
            torch.promote_types(embeddings.dtype, weight.dtype), torch.float32
        )
        with without_autocast(embeddings):
            return F.linear(embeddings.to(dtype), weight.to(dtype), bias.to(dtype))


def _facts(logits: Tensor, labels: Tensor, labeled: Tensor | None) -> Mapping[str, Tensor]:
    if not free_to_look(logits):
        return {"accuracy": mean_over(logits.argmax(dim=1) == labels, labeled)}
    if logits.numel() > FEW:
        return _accuracy(logits, labels, labeled)
    kept = labels.clone()  # a loader may fill the labels anew before the facts are read
    return Told(lambda: _accuracy(logits, kept, labeled))


def _accuracy(logits: Tensor, labels: Tensor, labeled: Tensor | None) -> dict[str, Tensor]:
    right = np.count_nonzero(as_numpy(logits).argmax(axis=1) == labels.numpy())
    count = len(labels) if labeled is None else np.count_nonzero(labeled.numpy())
    return facts_of(("accuracy",), [right / max(count, 1)])


class NormalizedSoftmaxLoss(nn.Module):
    """Mean of −log(exp(−d_y / T) / Σ_c exp(−d_c / T)), d_c the cosine distance to class c's center.

    Softmax classification by angles alone: neither the length of an embedding nor that of a
    center matters, and there is no bias. The centers belong to the loss, and `fit` trains
    them. After each call `facts` holds `accuracy`, the share of the batch nearest to its own
    center, the mean cosine distance to it and to the centers of other classes, and the spread.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        temperature: T; the smaller, the more the nearest wrong center counts.
        class_share: share of the classes that a call in training compares with: those of the
            batch and random others, but at least as many as the batch has items. Below 1 for
            very many classes. In evaluation mode all take part.
        seed: Seed of the classes drawn.

    Source:
        Zhai & Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019,
        section 3; temperature 0.05 is theirs. pytorch-metric-learning's loss of this name
        gives the same value with its default distance. Sampled classes: An et al., "Partial FC",
        ICCV workshops 2021.

    Example:
        >>> import torch
        >>> loss = NormalizedSoftmaxLoss(embedding_dim=8, class_count=10)
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
        temperature: float = 0.05,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.centers = ClassCenters(embedding_dim, class_count, share=class_share, seed=seed)
        self.temperature = temperature
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
        logits = nearest * (-1 / self.temperature)
        value = mean_cross_entropy(logits, compared.own, compared.labeled, weights)
        return compared.shown(value)

    def logits(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """−d / T to every class, (n, c).

        For items without labels: the largest logit is the class predicted.
        """
        return self.centers.distances(embeddings).amin(dim=2) * (-1 / self.temperature)
