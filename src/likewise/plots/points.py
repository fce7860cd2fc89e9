"""Points on a plane for embeddings of any dimension."""

import importlib
import warnings

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from likewise._checks import check_choice, check_count, check_embeddings, check_finite
from likewise.errors import InputError, MissingExtra

METHODS = ("auto", "pca", "t-sne", "umap")
_FEWEST_TSNE, _LARGEST_TSNE = 50, 5000  # t-SNE takes minutes beyond
_FEWEST_UMAP = 4
_LARGEST_SEED = 2**32 - 1
_LEAST_SPREAD = 1e-15  # squares of less vanish in float32, and t-SNE crashes


def embedding_points(
    embeddings: Float[Tensor, "n d"], method: str = "auto", seed: int = 0
) -> tuple[Float[Tensor, "n 2"], str]:
    """Points (n, 2) on a plane for the embeddings, and what one axis of it is called.

    Two-dimensional embeddings stay as they are, whatever the method. "pca" keeps the two
    directions of largest variance; "t-sne" and "umap" keep neighbors together, but their
    distances between groups mean nothing; "auto" is t-SNE from 50 to 5,000 points, otherwise PCA.
    Where rows are equal up to 1e-15, t-SNE has nothing to start from: then it is PCA, too.

    Embeddings that are to share a plane, such as those of train and test, must be given together:
    `points, axis = embedding_points(torch.cat([train, test]))`, and then
    `points.split([len(train), len(test)])`.

    Args:
        embeddings: one per row.
        method: "auto", "pca", "t-sne" or "umap"; the last needs
            `pip install "likewise[umap]"`.
        seed: Seed of t-SNE and UMAP, 0 to 2**32 - 1; the same seed gives the same points on one
            machine.

    Raises:
        InputError: with fewer than two embeddings of d ≠ 2 dimensions (four for UMAP), or values
            that are not finite, or another seed.
        MissingExtra: for "umap" without its package.

    Source:
        Van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 2008 (scikit-learn's, started
        from PCA). McInnes, Healy & Melville, "UMAP", 2018 (umap-learn's).

    Example:
        >>> points, axis = embedding_points(torch.eye(4), "pca")
        >>> points.shape, axis
        (torch.Size([4, 2]), 'principal component')
    """
    check_embeddings(embeddings)
    check_choice("method", method, METHODS)
    check_finite(embeddings, "embeddings")
    check_count("seed", seed, least=0, remedy="Use e.g. seed=0.")
    if seed > _LARGEST_SEED:
        raise InputError(f"seed must be at most {_LARGEST_SEED}, got {seed}. Use e.g. seed=0.")
    n, d = embeddings.shape
    values = embeddings.detach().cpu().float()
    if d == 2:
        return values, "embedding dimension"
    least = _FEWEST_UMAP if method == "umap" else 2
    if n < least:
        raise InputError(f"embeddings must hold at least {least} rows, got {n}. Add items.")
    # t-SNE needs two directions to start from.
    wide = values if d > 1 else torch.cat([values, torch.zeros_like(values)], dim=1)
    if method == "umap":
        return torch.from_numpy(_umap(wide.numpy(), seed)).float(), "UMAP dimension"
    spread = float((values - values[0]).abs().max())
    if spread == 0:
        return torch.zeros(n, 2), "principal component"
    wanted = method == "t-sne" or (method == "auto" and _FEWEST_TSNE <= n <= _LARGEST_TSNE)
    if wanted and spread > _LEAST_SPREAD:
        from sklearn.manifold import TSNE

        tsne = TSNE(perplexity=min(30.0, (n - 1) / 3), init="pca", random_state=seed)
        return torch.from_numpy(tsne.fit_transform(wide.numpy())).float(), "t-SNE dimension"
    # Not sklearn's PCA: it gives one component only for n = 2 rows or d = 1.
    centered = values.double() - values.double().mean(dim=0)
    _, _, directions = torch.linalg.svd(centered, full_matrices=False)
    points = torch.zeros(n, 2, dtype=torch.float64)
    points[:, : min(2, len(directions))] = centered @ directions[:2].T
    return points.float(), "principal component"


def _umap(values: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    # It warns of TensorFlow, of few neighbors and of its own seed: nothing the caller can mend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            umap = importlib.import_module("umap")
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"umap-learn must be installed for method 'umap', got no module {error.name!r}. "
                'Use pip install "likewise[umap]".'
            ) from error
        neighbors = min(15, len(values) - 1)
        # The spectral start needs more items than neighbors.
        start = "spectral" if len(values) > 2 * neighbors else "random"
        made = umap.UMAP(n_neighbors=neighbors, init=start, random_state=seed, n_jobs=1)
        return np.asarray(made.fit_transform(values), dtype=np.float32)
