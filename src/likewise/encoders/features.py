"""A small network's features beside its embedding, for classes that it was not trained on."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from likewise._checks import check_count, check_embeddings, check_finite, check_positive
from likewise.encoders._projection import signed
from likewise.encoders.networks import ConvEncoder, MLPEncoder
from likewise.errors import InputError, InputTypeError


class WithFeatures(nn.Module):
    """The embedding of a small network, and beside it what its dense layers made it from.

    Those are the features of a `ConvEncoder`, and the items themselves of an `MLPEncoder`.

    Both have unit length, the features times the root of their weight. By cosine distance a pair is
    then as far apart as the weighted mean of both. The last layers serve the classes that were
    trained on; for others the features keep what those layers leave out.

    Together they are many numbers, 6,336 for images of 28 pixels a side by the small network.
    `condensed` makes few of them.

    Args:
        encoder: A `ConvEncoder` or `MLPEncoder`.
        weight: Weight of the features, where the embedding has 1.

    Source:
        That what lies before the last layers serves other tasks better: Yosinski et al., "How
        transferable are features in deep neural networks?", NeurIPS 2014.

    Example:
        >>> from likewise.encoders import ConvEncoder
        >>> encoder = ConvEncoder((1, 8, 8), layers=(2, "pool"), embedding_dim=4)
        >>> WithFeatures(encoder)(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 36])
    """

    def __init__(self, encoder: ConvEncoder | MLPEncoder, *, weight: float = 2.0) -> None:
        super().__init__()
        if not isinstance(encoder, (ConvEncoder, MLPEncoder)):
            raise InputTypeError(
                f"encoder must be a ConvEncoder or MLPEncoder, got {type(encoder).__name__}."
            )
        check_positive("weight", weight)
        self.encoder = encoder
        self.weight = float(weight)

    def forward(self, items: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """Embedding and features of a batch of items."""
        features = self.encoder.features_of(items)
        embeddings = normalize(self.encoder.from_features(features), dim=1)
        return torch.cat([embeddings, self.weight**0.5 * normalize(features, dim=1)], dim=1)

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight}"


def _largest(square: Tensor, count: int) -> tuple[Tensor, Tensor]:
    # The largest eigenvalues and their vectors alone: a quarter of the time of all of them.
    from scipy.linalg import eigh

    few = [max(0, len(square) - count), len(square) - 1]
    values, vectors = map(torch.from_numpy, eigh(square.numpy(), subset_by_index=few))
    return values.flip(0), vectors.flip(1)


def condensed(embeddings: Float[Tensor, "n d"], dim: int) -> nn.Linear:
    """A linear layer to few numbers that keeps the products of these embeddings best.

    Its directions are those of the largest singular values; unlike `PrincipalComponents` it
    subtracts no mean, so that cosines stay what they were. Where there are fewer embeddings than
    `dim`, the directions left are drawn at random, across the others.

    Args:
        embeddings: Embeddings to fit on, (n, d); a few thousand, as n × n numbers are made.
        dim: Numbers that are kept of the d.

    Raises:
        InputError: NaN or infinity, or a `dim` above d.

    Example:
        >>> wide = torch.tensor([[3.0, 4.0, 0.0], [6.0, 8.0, 0.0]])
        >>> few = condensed(wide, 1)(wide).detach()
        >>> [round(float(length), 3) for length in few.abs().flatten()]
        [5.0, 10.0]
    """
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_count("dim", dim)
    width = embeddings.shape[1]
    if dim > width:
        raise InputError(
            f"dim must be at most {width}, as many numbers as the embeddings have, got {dim}."
        )
    x = embeddings.detach().cpu().double()
    # From the smaller of the two squares; d is often 6,000.
    by_rows = len(x) < width
    values, vectors = _largest(x @ x.T if by_rows else x.T @ x, dim)
    kept = int((values[:dim] > 1e-10 * values[0].clamp(min=1e-300)).sum())
    directions = vectors[:, :kept]
    if by_rows:
        directions = x.T @ (directions / values[:kept].sqrt())
    directions = signed(directions)
    if kept < dim:
        drawn = torch.randn(
            width, dim - kept, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        for _ in range(2):  # once leaves a little of them
            drawn = drawn - directions @ (directions.T @ drawn)
        directions = torch.cat([directions, torch.linalg.qr(drawn).Q], dim=1)
    layer = nn.Linear(width, dim, bias=False, device="meta")
    layer.weight = nn.Parameter(directions.T.float().contiguous(), requires_grad=False)
    return layer
