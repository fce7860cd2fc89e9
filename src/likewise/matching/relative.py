"""Relative Mahalanobis distance: how near a class is, beyond how near any item would be."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import as_tensors
from likewise.distances import COSINE, SQUARED_EUCLIDEAN, Distance, unit
from likewise.errors import InputError
from likewise.index import Index
from likewise.matching.centers import class_centers

SHRINKAGE = 0.1  # of both covariances towards a multiple of the identity, as of `Whitening`


def relative_centers(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    distance: Distance = COSINE,
    class_names: Sequence[str] = (),
    fitted_without: Sequence[int] = (),
) -> Index:
    """An index of class centers that compares by the relative Mahalanobis distance.

    The distance of x to a class with center c is

        ((x - c)' W⁻¹ (x - c) - (x - m)' T⁻¹ (x - m)) / d

    with the covariance W within classes, the mean m and covariance T of all items, and d
    dimensions. So an odd item of a known class, which is far from everything, is not taken for an
    unknown. To both covariances comes 0.1 · (mean of its diagonal) · identity. Distances may be
    below 0. With the cosine distance, embeddings are scaled to length 1 first.

    Args:
        embeddings: Embeddings of the gallery's items.
        labels: Their class codes; items with -1 are left out.
        distance: Distance of the gallery.
        class_names: Class names of the gallery.
        fitted_without: Class codes that the covariances and the mean are fitted without, so that
            items of these classes can be judged as unknown. Their centers stay.

    Raises:
        InputError: No item has a label; no two items of a class differ; wrong shapes; NaN or
            infinity.

    Source:
        Ren, Fort, Liu, Guha Roy, Padhy & Lakshminarayanan, "A Simple Fix to Mahalanobis Distance
        for Improving Near-OOD Detection", 2021; Lee, Lee, Lee & Shin, "A Simple Unified Framework
        for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(40) % 2
        >>> embeddings = torch.randn(40, 2, generator=rng) + 4 * torch.eye(2)[labels]
        >>> centers = relative_centers(embeddings, labels, distance=SQUARED_EUCLIDEAN)
        >>> centers.lookup(torch.tensor([[5.0, 0.0]]), k=1).labels.tolist()
        [[0]]
    """
    embeddings, labels = as_tensors(embeddings=embeddings, labels=labels)
    centers = class_centers(embeddings, labels, distance=distance, class_names=class_names)
    is_cosine = distance is COSINE
    x = embeddings.detach().cpu().double()
    x = unit(x) if is_cosine else x
    codes = labels.cpu()
    of = torch.isin(codes, centers.labels)
    of &= ~torch.isin(codes, torch.tensor(list(fitted_without), dtype=torch.int64))
    x, codes = x[of], codes[of]
    _, group = torch.unique(codes, return_inverse=True)
    sizes = torch.bincount(group)
    means = x.new_zeros(len(sizes), x.shape[1]).index_add(0, group, x) / sizes[:, None]
    within = x - means[group]
    # Equal items leave what rounding makes of their difference from their own mean.
    if not float(within.square().mean()) > 1e-24 * float(x.square().mean()):
        raise InputError(
            "embeddings must differ within some class for the relative distance, got none that do. "
            "Index several items of each class, or use another rule."
        )
    middle = x.mean(dim=0)
    of_class, of_all = (_inverse_root(rows).float() for rows in (within, x - middle))
    shift = middle.float()

    def parts(queries: Tensor, stored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = (unit(queries) if is_cosine else queries).float() - shift.to(queries.device)
        b = stored.float() - shift.to(stored.device)
        beyond = (a @ of_all.to(a)).square().sum(dim=1)
        return a @ of_class.to(a), b @ of_class.to(b), beyond

    def matrix(queries: Tensor, stored: Tensor) -> Tensor:
        a, b, beyond = parts(queries, stored)
        return (SQUARED_EUCLIDEAN.matrix(a, b) - beyond[:, None]) / len(shift)

    def paired(queries: Tensor, stored: Tensor) -> Tensor:
        a, b, beyond = parts(queries, stored)
        return (SQUARED_EUCLIDEAN.paired(a, b) - beyond) / len(shift)

    index = Index(Distance("relative mahalanobis", matrix, paired), class_names=class_names)
    index.add(centers.embeddings, labels=centers.labels, ids=centers.ids)
    return index


def _inverse_root(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """What makes the covariance of the rows, shrunk, the identity."""
    covariance = rows.T @ rows / len(rows)
    values, directions = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    turned: Tensor = directions / (values + SHRINKAGE * values.mean()).sqrt()
    return turned
