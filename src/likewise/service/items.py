"""Items as requests bring them, made into what the model encodes."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from msgspec import UNSET
from torch import Tensor

from likewise.data.framing import Framing
from likewise.data.images import decode_image
from likewise.data.limits import TooManyPixels
from likewise.encoders import takes_texts
from likewise.model import SimilarityModel
from likewise.service.bodies import Item
from likewise.service.refusals import Refusal
from likewise.service.settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # what a browser or a camera makes
LARGE = 4_000_000  # pixels of an image that is decoded alone, for the memory it takes


@dataclass(frozen=True)
class Ready:
    """One item, decoded: what the encoder takes, or an embedding.

    Attributes:
        given: A tensor or a text for the encoder; None for an embedding.
        embedding: Given as one; None for what is to be encoded.
    """

    given: Tensor | str | None
    embedding: Float[Tensor, " d"] | None


class Reader:
    """Decodes items for one model.

    Args:
        model: Says what an item is.
        settings: Say how large one may be.
    """

    def __init__(self, model: SimilarityModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.takes, self.item_shape = kind_of(model)
        self._framing: Framing | None = None
        if self.takes == "image" and model.preprocess is not None:
            _, height, width = model.preprocess.item_shape
            self._framing = model.preprocess.framing or Framing(height, width)
        self._large = threading.Lock()

    def check_count(self, items: Sequence[object]) -> None:
        """Refuse more items than allowed."""
        most = self.settings.most_items
        if len(items) > most:
            raise Refusal(
                "too_large", f"items must be at most {most:,}, got {len(items):,}. Ask twice."
            )

    def read(self, item: Item, name: str = "item") -> Ready:
        """One item, decoded.

        Args:
            item: From a request.
            name: What a sentence about it calls it.

        Raises:
            Refusal: It is too large, or not what the model takes.
            InputError: It cannot be read.
        """
        kinds = ("image", "text", "vector", "embedding")
        given = [kind for kind in kinds if getattr(item, kind) is not UNSET]
        if len(given) != 1:
            raise Refusal(
                "invalid",
                f"{name} must hold exactly one of {', '.join(kinds)}, got "
                f"{' and '.join(given) or 'none'}.",
            )
        (kind,) = given
        if kind == "embedding":
            return Ready(None, self._numbers(item.embedding, self._dimension(), name))
        if kind != self.takes:
            raise Refusal(
                "invalid", f"{name} must be of the kind {self.takes} for this model, got {kind}."
            )
        if isinstance(item.image, bytes):
            return Ready(self._image(item.image, name), None)
        if isinstance(item.text, str):
            return Ready(self._text(item.text, name), None)
        width = None if self.item_shape is None else math.prod(self.item_shape)
        numbers = self._numbers(item.vector, width, name)
        if not self.model.has_encoder:
            return Ready(None, numbers)
        return Ready(numbers if self.item_shape is None else numbers.view(self.item_shape), None)

    def _dimension(self) -> int | None:
        return self.model.index.dimension

    def _image(self, content: bytes, name: str) -> Float[Tensor, "c h w"]:
        most, large = self.settings.most_pixels, False

        def check(width: int, height: int) -> None:
            nonlocal large
            if width * height > most:
                raise Refusal(
                    "too_large",
                    f"{name} must have at most {most:,} pixels, got {width} x {height}. Resize it.",
                )
            large = width * height > LARGE
            if large:
                self._large.acquire()

        channels = 3 if self.item_shape is None else self.item_shape[0]
        try:
            return decode_image(
                content,
                name,
                channels=channels,
                image_size=self._framing,
                formats=FORMATS,
                check=check,
            )
        except TooManyPixels:
            raise Refusal(
                "too_large", f"{name} must have at most {most:,} pixels, got more. Resize it."
            ) from None
        finally:
            if large:
                self._large.release()

    def _text(self, text: str, name: str) -> str:
        most = self.settings.most_characters
        if len(text) > most:
            raise Refusal(
                "too_large",
                f"{name} must have at most {most:,} characters, got {len(text):,}. Shorten it.",
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refusal("invalid", f"{name} must be Unicode, got half a character.") from None
        return text

    def _numbers(self, values: object, width: int | None, name: str) -> Float[Tensor, " d"]:
        numbers = np.array(values, dtype=np.float64)
        if width is not None and len(numbers) != width:
            raise Refusal("invalid", f"{name} must hold {width} numbers, got {len(numbers)}.")
        if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
            raise Refusal("invalid", f"{name} must hold finite numbers of float32, got others.")
        return torch.from_numpy(numbers.astype(np.float32))


def kind_of(model: SimilarityModel) -> tuple[str, tuple[int, ...] | None]:
    """What a model takes, "image", "text" or "vector", and the shape of one item if it is known.

    Example:
        >>> import likewise as lw
        >>> kind_of(lw.SimilarityModel(None))
        ('vector', None)
    """
    if takes_texts(model.encoder):
        return "text", None
    if not model.has_encoder:
        dimension = model.index.dimension
        return "vector", None if dimension is None else (dimension,)
    if model.preprocess is None:
        return "vector", None
    shape = tuple(model.preprocess.item_shape)
    is_image = len(shape) == 3 and shape[0] in (1, 3)
    return ("image" if is_image else "vector"), shape
