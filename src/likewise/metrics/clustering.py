"""Whether clusters of embeddings, found without labels, are the classes."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import (
    as_tensor,
    as_tensors,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
)
from likewise.errors import InputError


class MutualInformation(NamedTuple):
    """How much clusters and classes tell of each other: 1 where they are the same partition.

    `normalized` (NMI) grows with the number of clusters even for random ones; `adjusted` (AMI) is
    0 on average for these, and may be below.
    """

    normalized: float
    adjusted: float


def cluster(embeddings: Float[Tensor, "n d"], count: int, *, seed: int = 0) -> Int[Tensor, " n"]:
    """The k-means cluster of each embedding, 0 to count - 1.

    Lloyd's algorithm from one k-means++ start, by scikit-learn, on the CPU; the same seed gives
    the same clusters. It minimizes squared Euclidean distances: normalize embeddings first if
    their direction is what counts.

    Args:
        embeddings: (n, d), finite.
        count: how many clusters, at most n.
        seed: Seed of the start.

    Raises:
        InputError: for NaN, or more clusters than embeddings.
    """
    embeddings = as_tensor(embeddings, "embeddings")
    from sklearn.cluster import KMeans  # takes a second, and few need it

    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_count("count", count)
    if count > len(embeddings):
        raise InputError(
            f"count must be at most the {len(embeddings)} embeddings, got {count}. "
            "Ask for fewer clusters."
        )
    # With fewer different points than clusters some stay empty, of which scikit-learn would warn.
    rows = embeddings.cpu().float().numpy()
    count = min(count, len(np.unique(rows, axis=0)))
    found = KMeans(count, n_init=1, random_state=seed).fit_predict(rows)
    return torch.from_numpy(found).long()


def mutual_information(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> MutualInformation:
    """NMI and AMI of clusters and classes, as scikit-learn has them (arithmetic means).

    Args:
        clusters: the cluster of each item, any integers.
        labels: the class of each item; items labeled -1 are left out.

    Raises:
        InputError: if there is no labeled item, or `clusters` are not one per item.

    Source:
        Vinh, Epps & Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR
        2010.

    Example:
        >>> mutual_information(torch.tensor([5, 5, 2, 2]), torch.tensor([0, 0, 1, 1]))
        MutualInformation(normalized=1.0, adjusted=1.0)
    """
    clusters, labels = as_tensors(clusters=clusters, labels=labels)
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    check_labels(labels, len(labels))
    check_labels(clusters, len(labels), "clusters")
    has_label = (labels != -1).cpu().numpy()
    if not has_label.any():
        raise InputError(
            f"labels must hold at least one labeled item, got {len(labels)} unlabeled ones (-1). "
            "Give labeled items."
        )
    truth, found = labels.cpu().numpy()[has_label], clusters.cpu().numpy()[has_label]
    return MutualInformation(
        float(normalized_mutual_info_score(truth, found)),
        float(adjusted_mutual_info_score(truth, found)),
    )
