"""A head fitted after training: what differs within classes counts for less."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import check_embeddings, check_finite, check_labels, check_positive
from likewise.encoders._projection import Projection
from likewise.encoders.heads import Normalize
from likewise.errors import InputError


class Whitening(Projection):
    """Embeddings of unit length in which all directions vary alike within a class (WCCN).

    A direction along which items of one class differ much says little about the class; here it is
    made shorter. It is fitted after training, and has no weights that train. Put it behind the
    encoder: `nn.Sequential(encoder, whitening)`.

    Args:
        mean: Mean of the embeddings, (d,).
        directions: what the rest is multiplied by, (d, k).

    Source:
        Hatch, Kajarekar & Stolcke, "Within-Class Covariance Normalization for SVM-based Speaker
        Recognition", Interspeech 2006. Dehak et al., "Front-End Factor Analysis for Speaker
        Verification", 2011, use it with the cosine.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(50) % 5
        >>> centers, noise = torch.randn(5, 2, generator=rng), torch.randn(50, 1, generator=rng)
        >>> embeddings = torch.cat([centers[labels], 9 * noise], dim=1)
        >>> whitening = Whitening.fit(embeddings, labels)
        >>> bool(whitening.directions[2].abs().max() < whitening.directions[0].abs().max())
        True
    """

    @classmethod
    def fit(
        cls,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        *,
        shrinkage: float = 0.1,
    ) -> "Whitening":
        """The whitening of these embeddings, such as those of the items that were trained on.

        To the covariance within classes comes shrinkage · (mean of its eigenvalues) · identity. The
        inverse root of that is what embeddings less their mean are multiplied by.

        Args:
            embeddings: (n, d).
            labels: their classes, (n,).
            shrinkage: above 0; a large one leaves directions as they are.

        Raises:
            InputError: if no two items of a class differ, for NaN or infinity, or a shrinkage
                of 0 or below.
        """
        check_embeddings(embeddings)
        check_finite(embeddings, "embeddings")
        check_labels(labels, len(embeddings))
        check_positive("shrinkage", shrinkage)
        # On a GPU the sums of index_add would depend on the order of threads.
        x = embeddings.detach().cpu().double()
        _, group = torch.unique(labels.cpu(), return_inverse=True)
        sizes = torch.bincount(group)
        centers = x.new_zeros(len(sizes), x.shape[1]).index_add(0, group, x) / sizes[:, None]
        rest = x - centers[group]
        values, directions = torch.linalg.eigh(rest.T @ rest / len(x))
        values = values.clamp(min=0)
        # Equal items leave what rounding makes of their difference from their own mean.
        if not float(values.mean()) > 1e-24 * float(x.square().mean()):
            raise InputError(
                "embeddings must differ within some class, got none that do. "
                "Give several items of each class."
            )
        turned = directions / (values + shrinkage * values.mean()).sqrt()
        return cls(x.mean(dim=0).float(), turned.float()).to(embeddings.device)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The whitened embeddings, of unit length."""
        white: Tensor = Normalize()(super().forward(embeddings))
        return white
