"""Encoders made of encoders: several side by side, and one over several views of an image."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise._checks import check_count, check_positive
from likewise.errors import InputError, InputTypeError


class SideBySide(nn.Module):
    """The embeddings of several encoders next to each other, each of unit length times its weight.

    With the cosine distance, pairs are then as far apart as their weighted mean over the encoders,
    by the squares of the weights.

    Args:
        encoders: Modules from a batch of items to embeddings, at least one.
        weights: One for each encoder, above 0; 1 for each if None.

    Raises:
        InputError: There is no encoder, one twice, or another number of weights.
        InputTypeError: One is no module.

    Example:
        >>> both = SideBySide([nn.Flatten(), nn.Linear(4, 2)], weights=[1.0, 2.0])
        >>> embeddings = both(torch.rand(3, 4)).detach()
        >>> embeddings.shape, [round(float(part.norm()), 3) for part in embeddings[0].split([4, 2])]
        (torch.Size([3, 6]), [1.0, 2.0])
    """

    def __init__(
        self, encoders: Sequence[nn.Module], *, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not len(encoders):
            raise InputError("encoders must hold at least one encoder, got none.")
        if len(set(map(id, encoders))) < len(encoders):
            raise InputError("encoders must be different, got one twice. Give it a larger weight.")
        given = [1.0] * len(encoders) if weights is None else list(weights)
        if len(given) != len(encoders):
            raise InputError(
                f"weights must be one for each of {len(encoders)} encoders, got {len(given)}."
            )
        for number, (encoder, weight) in enumerate(zip(encoders, given, strict=True)):
            if not isinstance(encoder, nn.Module):
                raise InputTypeError(
                    f"encoders must be torch modules, got {type(encoder).__name__}."
                )
            check_positive("weights", weight)
            self.add_module(str(number), encoder)
        self.weights = [float(weight) for weight in given]

    def forward(self, items: Tensor) -> Float[Tensor, "n d"]:
        """Embeddings of a batch of items."""
        parts = zip(self.children(), self.weights, strict=True)
        return torch.cat(
            [weight * nn.functional.normalize(each(items), dim=1) for each, weight in parts], dim=1
        )

    def extra_repr(self) -> str:
        """The weights."""
        return f"weights={self.weights}"


class OverViews(nn.Module):
    """The mean embedding of an image and of slightly moved copies of it, scaled to unit length.

    The image is moved up, down, left and right; its border is repeated where it moved away. Takes
    five times as long as the encoder alone, or ten with mirror images.
    With `pixels=0` nothing is moved, and only the mirror image counts beside the image.

    Args:
        encoder: A module from a batch of images to embeddings.
        pixels: Pixels by which the copies are moved; 0 for no moved copies.
        mirrored: Whether the mirror image and its copies count as well.

    Example:
        >>> steady = OverViews(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
        >>> image = torch.rand(1, 1, 8, 8)
        >>> bool(torch.allclose(steady(image), steady(image.flip(-1)), atol=1e-6))
        True
    """

    def __init__(self, encoder: nn.Module, *, pixels: int = 2, mirrored: bool = True) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise InputTypeError(f"encoder must be a torch module, got {type(encoder).__name__}.")
        # Without either there would be nothing but the encoder.
        check_count("pixels", pixels, 0 if mirrored else 1)
        self.encoder = encoder
        self.pixels = pixels
        self.mirrored = mirrored

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Embeddings of a batch of images."""
        if images.ndim != 4:
            raise InputError(f"images must have shape (n, c, h, w), got {tuple(images.shape)}.")
        embeddings = [self.encoder(view) for view in self._views(images)]
        return nn.functional.normalize(torch.stack(embeddings).sum(dim=0), dim=1)

    def extra_repr(self) -> str:
        """The settings."""
        return f"pixels={self.pixels}, mirrored={self.mirrored}"

    def _views(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        far, middle = 2 * self.pixels, self.pixels
        moved = []
        for side in (images, images.flip(-1)) if self.mirrored else (images,):
            if not self.pixels:
                moved.append(side)
                continue
            wide = nn.functional.pad(side, (middle,) * 4, mode="replicate")
            for down, right in (
                (middle, middle),
                (0, middle),
                (far, middle),
                (middle, 0),
                (middle, far),
            ):
                moved.append(wide[..., down : down + height, right : right + width])
        return moved
