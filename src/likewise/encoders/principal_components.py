"""A head fitted after training: the few directions in which embeddings vary most."""

import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import check_count, check_embeddings, check_finite
from likewise.encoders._projection import Projection, signed
from likewise.errors import InputError


class PrincipalComponents(Projection):
    """Embeddings in the directions along which those it was fitted on vary most (PCA).

    The dense layers behind a network's features serve the classes that it was trained on; for
    others its features themselves are often the better embedding, but they are long. This makes
    them short: `nn.Sequential(encoder.features, Normalize(), components)`. It is fitted after
    training, needs no labels, and has no weights that train. Compare by Euclidean distance: that
    is what it keeps of the long embeddings.

    Args:
        mean: Mean of the embeddings, (d,).
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

    @classmethod
    def fit(cls, embeddings: Float[Tensor, "n d"], dim: int) -> "PrincipalComponents":
        """The components of these embeddings, such as those of the items that were trained on.

        Args:
            embeddings: (n, d).
            dim: how many numbers are kept of the d.

        Raises:
            InputError: for fewer than two embeddings, NaN or infinity, or a `dim` above the number
                of directions in which they vary.
        """
        check_embeddings(embeddings)
        check_finite(embeddings, "embeddings")
        check_count("dim", dim)
        if len(embeddings) < 2:
            raise InputError(
                f"embeddings must be at least 2, got {len(embeddings)}. Give those of more items."
            )
        x = embeddings.detach().cpu().double()
        mean = x.mean(dim=0)
        values, directions = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        # Where nothing varies, rounding leaves a little that would be another in another order.
        varied = int((values > 1e-12 * x.square().mean()).sum())
        if dim > varied:
            raise InputError(
                f"dim must be at most {varied}, the directions in which these {len(x):,} "
                f"embeddings vary, got {dim}. Give a smaller one, or fit on more items."
            )
        chosen = directions.flip(1)[:, :dim]
        return cls(mean.float(), signed(chosen).float()).to(embeddings.device)
