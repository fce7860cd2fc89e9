"""Items as requests bring them, made into what the model encodes."""

import io
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from likewise._pixels import Frame, TooManyPixels, plain_pixels, reading, upright
from likewise.service.bodies import Item
from likewise.service.refusals import Refusal
from likewise.service.settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # what a browser or a camera makes
LARGE = 4_000_000  # pixels of an image that is decoded alone, for the memory it takes
Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Takes:
    """What a model takes.

    Attributes:
        kind: "image", "text" or "vector".
        shape: Shape of one item, where it is of numbers and known.
        frame: How images are brought to one size; None for what is no image.
        encodes: Whether items are encoded; else they are embeddings already.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    frame: Frame | None = None
    encodes: bool = True


@dataclass(frozen=True)
class Ready:
    """One item, decoded: what the encoder takes, or an embedding.

    Attributes:
        given: Numbers or a text for the encoder; None for an embedding.
        embedding: Given as one; None for what is to be encoded.
    """

    given: Numbers | str | None
    embedding: Numbers | None


class Reader:
    """Decodes items for one model.

    Args:
        takes: What an item is.
        settings: Say how large one may be.
        dimension: Tells the length of an embedding, if it is known.
    """

    def __init__(
        self, takes: Takes, settings: Settings, dimension: Callable[[], int | None]
    ) -> None:
        self.settings, self.dimension = settings, dimension
        self.takes, self.item_shape = takes.kind, takes.shape
        self._frame, self._encodes = takes.frame, takes.encodes
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
            return Ready(None, self._numbers(item.embedding, self.dimension(), name))
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
        if not self._encodes:
            return Ready(None, numbers)
        shaped = numbers if self.item_shape is None else numbers.reshape(self.item_shape)
        return Ready(shaped, None)

    def _image(self, content: bytes, name: str) -> Numbers:
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
            with reading(name, io.BytesIO(content), FORMATS, name) as image:
                check(*image.size)
                whole = upright(image, name, channels, self._frame)
                pixels = plain_pixels(whole, channels, self._frame)
            return pixels.astype(np.float32) / np.float32(255)
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

    def _numbers(self, values: object, width: int | None, name: str) -> Numbers:
        numbers = np.array(values, dtype=np.float64)
        if width is not None and len(numbers) != width:
            raise Refusal("invalid", f"{name} must hold {width} numbers, got {len(numbers)}.")
        if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
            raise Refusal("invalid", f"{name} must hold finite numbers of float32, got others.")
        return numbers.astype(np.float32)
