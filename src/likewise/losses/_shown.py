"""What is not finite in a batch shows in its loss, whatever the loss selects."""

import math

from jaxtyping import Float
from torch import Tensor

from likewise._checks import free_to_look


def shown(
    value: Float[Tensor, ""], distances: Float[Tensor, "..."], embeddings: Float[Tensor, "n d"]
) -> Float[Tensor, ""]:
    """The value; NaN, with a gradient of NaN, if a distance is NaN or infinite.

    A comparison with NaN is false, so whatever selects by comparing passes it over, and a hinge
    makes 0 of an infinite distance. Then the loss would look healthy while the gradient is not.
    Nothing waits for the device.

    Args:
        value: Value of the loss.
        distances: Distances that it was made from.
        embeddings: looked at instead where there are no distances.
    """
    numbers = (distances if distances.numel() else embeddings).detach()
    # Where looking is free, a finite sum tells the same in fewer steps.
    if not numbers.numel() or (free_to_look(numbers) and math.isfinite(numbers.sum())):
        return value
    least, most = numbers.aminmax()
    return value * ((least - least) + (most - most)).add_(1)
