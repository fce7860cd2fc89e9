"""What the heads that are fitted after training have in common."""

from jaxtyping import Float
from torch import Tensor, nn

from likewise._checks import check_embeddings
from likewise.errors import InputError


def signed(directions: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Directions whose largest entry is positive, as either way along one is as good."""
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return directions * largest.sign()


class Projection(nn.Module):
    """Embeddings less a mean, in some directions; nothing of it trains."""

    mean: Tensor
    directions: Tensor

    def __init__(self, mean: Float[Tensor, " d"], directions: Float[Tensor, "d k"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        # In the layout of a loaded one: another multiplies in another order.
        self.register_buffer("directions", directions.contiguous())

    def forward(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The embeddings, less the mean, in the directions."""
        check_embeddings(embeddings)
        if embeddings.shape[1] != len(self.mean):
            raise InputError(
                f"embeddings must have {len(self.mean)} dimensions, as those it was fitted on, got "
                f"{embeddings.shape[1]}. Use the encoder that it was fitted behind."
            )
        return (embeddings.float() - self.mean) @ self.directions
