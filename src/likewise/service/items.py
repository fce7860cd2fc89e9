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
    """What an encoder takes.

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

    @property
    def width(self) -> int | None:
        """Numbers of one item, where it is of numbers and known."""
        return None if self.shape is None else math.prod(self.shape)


@dataclass(frozen=True)
class Ready:
    """One item, decoded: what the encoder takes, or an embedding.

    Attributes:
        given: Numbers or a text for the encoder; None for an embedding.
        embedding: Given as one; None for what is to be encoded.
        is_query: Whether the query tower encodes it; False without two towers.
    """

    given: Numbers | str | None
    embedding: Numbers | None
    is_query: bool = False


class Reader:
    """Decodes items for one model.

    Args:
        known: What a known item is.
        settings: Say how large one may be.
        dimension: Tells the length of an embedding, if it is known.
        queries: What a query is, with two towers; None where the same encoder takes both.
    """

    def __init__(
        self,
        known: Takes,
        settings: Settings,
        dimension: Callable[[], int | None],
        *,
        queries: Takes | None = None,
    ) -> None:
        self.settings, self.dimension = settings, dimension
        self.known, self.queries = known, queries or known
        self.has_two_towers = queries is not None
        self._large = threading.Lock()

    def check_count(self, items: Sequence[object]) -> None:
        """Refuse more items than allowed."""
        most = self.settings.most_items
        if len(items) > most:
            raise Refusal(
                "too_large", f"items must be at most {most:,}, got {len(items):,}. Ask twice."
            )

    def read(self, item: Item, name: str = "item", *, is_query: bool = False) -> Ready:
        """One item, decoded.

        Args:
            item: From a request.
            name: What a sentence about it calls it.
            is_query: Side of two towers.

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
        takes = self.queries if is_query else self.known
        by_queries = is_query and self.has_two_towers
        if kind != takes.kind:
            asked = "this model"
            if self.has_two_towers:
                asked = f"a {'query' if is_query else 'known item'} of this model"
            raise Refusal(
                "invalid", f"{name} must be of the kind {takes.kind} for {asked}, got {kind}."
            )
        if isinstance(item.image, bytes):
            return Ready(self._image(item.image, takes, name), None, by_queries)
        if isinstance(item.text, str):
            return Ready(self._text(item.text, name), None, by_queries)
        numbers = self._numbers(item.vector, takes.width, name)
        if not takes.encodes:
            return Ready(None, numbers)
        shaped = numbers if takes.shape is None else numbers.reshape(takes.shape)
        return Ready(shaped, None, by_queries)

    def _image(self, content: bytes, takes: Takes, name: str) -> Numbers:
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

        channels = 3 if takes.shape is None else takes.shape[0]
        try:
            with reading(name, io.BytesIO(content), FORMATS, name) as image:
                check(*image.size)
                whole = upright(image, name, channels, takes.frame)
                pixels = plain_pixels(whole, channels, takes.frame)
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
