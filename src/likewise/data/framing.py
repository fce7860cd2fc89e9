"""Framing: how images of any size are brought to one size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from likewise._checks import check_choice, check_count, check_number
from likewise._pixels import INTERPOLATIONS, decoded_at, framed, resized_to, start
from likewise.errors import InputError

MODES = ("squash", "center", "border")


@dataclass(frozen=True)
class Framing:
    """A size, and how images are resized and cropped to it; `image_size=` takes one.

    Images are resized to the size divided by `crop`, and the center of that is kept. The modes
    are those of timm: "squash" resizes both sides, "center" resizes the shorter side and keeps
    the proportions, "border" resizes the longer side and fills what is missing.

    Args:
        height: Pixels of a column.
        width: Pixels of a row.
        crop: Share of each side that is kept after resizing, above 0 and at most 1.
        mode: "squash", "center" or "border".
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", "box" or "hamming"; all but
            "nearest" are antialiased.
        fill: Color of a border in 0..1, one number per channel or one for all.

    Raises:
        InputError: A value is out of its range.

    Example:
        >>> Framing(224, 224, crop=0.875, mode="center").resized_to(300, 400)
        (256, 341)
    """

    height: int
    width: int
    crop: float = 1.0
    mode: str = "squash"
    interpolation: str = "bilinear"
    fill: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        check_count("height", self.height)
        check_count("width", self.width)
        check_number("crop", self.crop)
        if not 0 < self.crop <= 1:
            raise InputError(f"crop must be above 0 and at most 1, got {self.crop}. Use 1 for all.")
        check_choice("mode", self.mode, MODES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        object.__setattr__(self, "fill", tuple(float(value) for value in self.fill))
        if not self.fill or not all(0 <= value <= 1 for value in self.fill):
            raise InputError(f"fill must be colors in 0..1, got {self.fill}. Use (0.5,) for gray.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what comes out."""
        return self.height, self.width

    @property
    def decoded_at(self) -> tuple[int, int]:
        """The least (height, width) that a larger image may be decoded at."""
        return decoded_at(self)

    def resized_to(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of a size is resized to before it is cropped."""
        return resized_to(self, height, width)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them; `from_dict` is the way back."""
        return {**asdict(self), "fill": list(self.fill)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Framing":
        """The Framing that gave these values."""
        return cls(**{**values, "fill": tuple(values["fill"])})

    def image(self, image: Image.Image) -> Image.Image:
        """A Pillow image of the size."""
        return framed(image, self)

    def tensor(self, items: Tensor) -> Tensor:
        """Floats (n, c, h, w) of the size, resized as images are or nearly so."""
        height, width = self.resized_to(items.shape[2], items.shape[3])
        if (height, width) != tuple(items.shape[2:]):
            if self.interpolation == "nearest":
                items = F.interpolate(items, (height, width), mode="nearest-exact")
            else:
                kind = "bilinear" if self.interpolation == "bilinear" else "bicubic"
                items = F.interpolate(items, (height, width), mode=kind, antialias=True)
        if (height, width) == self.size:
            return items
        top, left = start(height, self.height), start(width, self.width)
        fill = items.new_tensor((self.fill * items.shape[1])[: items.shape[1]])
        framed = fill.view(1, -1, 1, 1).repeat(len(items), 1, *self.size)
        kept = items[:, :, max(0, top) : max(0, top) + self.height, max(0, left) :]
        kept = kept[:, :, :, : self.width]
        framed[
            :,
            :,
            max(0, -top) : max(0, -top) + kept.shape[2],
            max(0, -left) : max(0, -left) + kept.shape[3],
        ] = kept
        return framed


ImageSize = int | tuple[int, int] | Framing
