"""A network that was trained on faces, as an encoder of aligned faces."""

import functools
import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise import _dlib
from likewise._files import read_regular
from likewise.errors import InputError

SIDE = 200  # pixels of a side, of which the network sees 150
# Middle and half side of what the network wants, in shares of a face with a padding of 0.1.
_CENTER, _HALF = (0.5, 0.6060), 0.3747
_CHIP = 150


class FaceEncoder(nn.Module):
    """Embeddings (n, 128) of aligned faces, by dlib's network; `pip install "likewise[faces]"`.

    A residual network of 29 layers, trained by Davis King on three million faces (CC0). It computes
    on the CPU and does not train. Faces must be aligned with `align_faces(..., padding=0.1)`; 200
    pixels (`size=200`) are what it was made for. Compare embeddings by the Euclidean distance.

    A saved model holds the sha256 of the weights, which come with the extra.

    Args:
        weights: Sha256 of the weights, as a saved model has it; by default any are taken.

    Attributes:
        preprocess_settings: Arguments of `likewise.data.Preprocess` for files of such faces.

    Raises:
        MissingExtra: A package of the extra is not installed.
        InputError: The weights that are installed are others.

    Example:
        >>> encoder = FaceEncoder()  # doctest: +SKIP
        >>> encoder(torch.rand(2, 1, 200, 200)).shape  # doctest: +SKIP
        torch.Size([2, 128])
    """

    embedding_dim = 128

    def __init__(self, *, weights: str | None = None) -> None:
        super().__init__()
        _, self.weights = _network()
        if weights not in (None, self.weights):
            raise InputError(
                f"weights must be those that are installed, of sha256 {self.weights[:12]}…, got "
                f"{weights!r}. Install the version of face-recognition-models that was used."
            )
        self.preprocess_settings: dict[str, Any] = {
            "item_shape": (3, SIDE, SIDE),
            "mean": (0.0,) * 3,
            "std": (1.0,) * 3,
        }

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 128"]:
        """Embeddings of a batch of faces, gray or color in 0..1."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise InputError(
                f"images must have shape (n, 1 or 3, h, w), got {tuple(images.shape)}. "
                "Make them with align_faces."
            )
        if not len(images):
            return images.new_empty(0, self.embedding_dim)
        chips = _chips(images.detach().float().cpu().expand(-1, 3, -1, -1))
        network, _ = _network()
        found = np.array(network.compute_face_descriptor(list(chips)), dtype=np.float32)
        return torch.from_numpy(found).to(images.device)


def _chips(images: Tensor) -> "np.ndarray[Any, Any]":
    """The part of aligned faces that the network wants, (n, 150, 150, 3) bytes."""
    if max(images.shape[2:]) > SIDE:  # a grid alone takes single pixels
        images = nn.functional.interpolate(
            images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )
    (x, y), half = _CENTER, _HALF
    # Both in -1..1 over the image, as torch has it.
    theta = torch.tensor([[2 * half, 0.0, 2 * x - 1], [0.0, 2 * half, 2 * y - 1]])
    grid = nn.functional.affine_grid(
        theta.expand(len(images), 2, 3), [len(images), 3, _CHIP, _CHIP], align_corners=False
    )
    seen = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (seen * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@functools.cache
def _network() -> tuple[Any, str]:
    """The network and the sha256 of its weights; once for each process."""
    path = _dlib.weights_at(_dlib.NETWORK)
    dlib = _dlib.dlib()
    sha256 = hashlib.sha256(read_regular(path)).hexdigest()
    return dlib.face_recognition_model_v1(str(path)), sha256
