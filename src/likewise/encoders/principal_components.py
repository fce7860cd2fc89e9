"""A head fitted after training: the few directions in which embeddings vary most."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise._checks import check_count, check_embeddings, check_finite, check_same_width


class PrincipalComponents(nn.Module):
    """Embeddings in the directions along which those it was fitted on vary most (PCA).

    The dense layers behind a network's features serve the classes that it was trained on; for
    others its features themselves are often the better embedding, but they are long. This makes
    them short: `nn.Sequential(encoder.features, Normalize(), components)`. It is fitted after
    training, needs no labels, and has no weights that train.

    Args:
        mean: of the embeddings, (d,).
        directions: what the rest is multiplied by, (d, k); that of most variance first.

    Source:
        Pearson, "On Lines and Planes of Closest Fit to Systems of Points in Space", 1901. That what
        lies before the last layers serves other tasks better: Yosinski et al., "How transferable
        are features in deep neural networks?", NeurIPS 2014.

    Example:
        >>> on_a_line = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> components = PrincipalComponents.fit(on_a_line, 1)
        >>> [abs(round(x, 3)) for x in components(on_a_line).flatten().tolist()]
        [5.0, 0.0, 5.0]
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, mean: Float[Tensor, " d"], directions: Float[Tensor, "d k"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)

    @classmethod
    def fit(cls, embeddings: Float[Tensor, "n d"], dim: int) -> "PrincipalComponents":
        """The components of these embeddings, such as those of the items that were trained on.

        Args:
            embeddings: (n, d).
            dim: how many numbers are kept of the d.

        Raises:
            ValueError: if `dim` is above n or d, all embeddings are equal, or one is NaN or
                infinite.
        """
        from sklearn.decomposition import PCA  # takes a while to import

        check_embeddings(embeddings)
        check_finite(embeddings, "embeddings")
        check_count("dim", dim)
        if dim > min(embeddings.shape):
            raise ValueError(
                f"dim must be at most {min(embeddings.shape)}, got {dim}: there are "
                f"{len(embeddings)} embeddings of {embeddings.shape[1]} numbers. "
                "Give a smaller dim, or fit on more items."
            )
        rows = embeddings.detach().cpu().double()
        if bool((rows == rows[0]).all()):
            raise ValueError(
                f"embeddings must differ, got {len(rows)} equal ones. Give those of several items."
            )
        found = PCA(dim, svd_solver="full").fit(rows.numpy())
        mean, directions = torch.from_numpy(found.mean_), torch.from_numpy(found.components_.T)
        return cls(mean.float(), directions.float().contiguous()).to(embeddings.device)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The embeddings, less their mean, in these directions."""
        check_same_width(embeddings, self.directions.T, ("embeddings", "directions"))
        return (embeddings.float() - self.mean) @ self.directions
