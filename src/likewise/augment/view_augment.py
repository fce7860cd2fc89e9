"""Random changes to images that are strong enough to learn from without labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from likewise import _shares
from likewise._checks import check_at_least, check_rate
from likewise.augment.augmenting import (
    LUMA,
    Augment,
    check_images,
    check_range,
    coordinates,
    per_image,
    sample,
)
from likewise.errors import InputError

FULL_JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
NARROWEST_BLUR = 0.3  # pixels; a narrower one mixes no neighbor in


@dataclass(frozen=True)
class ViewAugment:
    """Randomly changed copies of a batch of images, two of which still show the same item.

    A window of another shape and size is enlarged to the whole image and mirrored; most copies
    get other colors, some lose them, some are blurred, some turned to negatives above one half.
    Called with images (n, c, h, w) in 0..1, on any device, it returns as many, of the same shape
    and dtype. Every image draws its own changes, from `generator` or PyTorch's global one.

    The defaults are SimSiam's, which are MoCo v2's and, but for the size of the windows, those of
    SimCLR on small images. Two differences: windows are cut from the image as it was loaded, and
    the four changes of color have one order. Images without 3 channels change in brightness and
    contrast only; `for_gray` suits drawings and letters.

    Args:
        crop: smallest and largest share of the area that a window keeps.
        ratio: smallest and largest width of a window by its height, as shares of the image's.
        flip: whether half of the copies are mirrored left to right.
        jitter: strength of the colors' change; at 1 brightness, contrast and saturation change
            by up to 0.8, the hue by up to 0.2.
        jitter_rate: share of the copies with other colors.
        gray_rate: share of the copies without colors.
        blur: largest standard deviation of the blur, as a share of the shorter side.
        blur_rate: share of the copies that are blurred.
        solarize_rate: share of the copies whose values above one half are turned to 1 − value;
            Barlow Twins and VICReg use 0.1 on average.

    Raises:
        InputError: an argument is out of its range, or, when called, the images are not
            (n, c, h, w).
        InputTypeError: when called with images that are not floating point.

    Source:
        Chen, Kornblith, Norouzi & Hinton, "A Simple Framework for Contrastive Learning of Visual
        Representations", ICML 2020, appendix A; the numbers of Chen & He, "Exploring Simple
        Siamese Representation Learning", CVPR 2021, section 3.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> ViewAugment()(images).shape
        torch.Size([8, 3, 32, 32])
    """

    crop: Sequence[float] = (0.2, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    flip: bool = True
    jitter: float = 0.5
    jitter_rate: float = 0.8
    gray_rate: float = 0.2
    blur: float = 2 / 224
    blur_rate: float = 0.5
    solarize_rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_range("crop", self.crop, 1)
        check_range("ratio", self.ratio, 10)
        for name in ("jitter", "blur"):
            check_at_least(name, getattr(self, name), 0)
        if self.jitter > 1:
            raise InputError(f"jitter must be at most 1, got {self.jitter}.")
        for name in ("jitter_rate", "gray_rate", "blur_rate", "solarize_rate"):
            check_rate(name, getattr(self, name))

    @classmethod
    def for_gray(cls) -> "ViewAugment":
        """The changes for gray images, such as drawings and letters: larger windows, no mirror.

        A mirrored letter is another one, and a small window of a drawing holds little of it.
        """
        return cls(crop=(0.4, 1.0), flip=False, gray_rate=0.0)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """The changed images."""
        check_images(images)
        if len(images) == 0:
            return images.clone()
        source = generator.device if generator is not None else torch.device("cpu")
        drawn = _shares.drawn(
            len(images), lambda count: torch.rand(9, count, generator=generator, device=source)
        ).to(images.device)
        window, colors = drawn[:4], drawn[5:]
        # Half precision would place pixels coarsely.
        changed = images.float() if images.element_size() < 4 else images
        if self.flip:
            changed = torch.where(per_image(drawn[4] < 0.5), changed.flip(-1), changed)
        changed = self._window(changed, *window)
        is_color = images.shape[1] == 3
        if self.jitter and self.jitter_rate:
            others = _still(**_jitter(self.jitter, is_color))(changed, generator)
            changed = torch.where(per_image(colors[0] < self.jitter_rate), others, changed)
        if self.gray_rate and is_color:
            gray = (changed * changed.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
            changed = torch.where(per_image(colors[1] < self.gray_rate), gray, changed)
        widest = self.blur * min(images.shape[2:])
        if widest >= NARROWEST_BLUR and self.blur_rate:
            others = _still(blur=widest)(changed, generator)
            changed = torch.where(per_image(colors[2] < self.blur_rate), others, changed)
        if self.solarize_rate:
            others = torch.where(changed >= 0.5, 1 - changed, changed)
            changed = torch.where(per_image(colors[3] < self.solarize_rate), others, changed)
        return changed.to(images.dtype)

    def _window(self, images: Tensor, area: Tensor, shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        low, high = (torch.tensor(value).log() for value in self.ratio)
        ratio = (low + shape * (high - low)).exp()
        area = self.crop[0] + area * (self.crop[1] - self.crop[0])
        across, down = ((area * by).sqrt().clamp(max=1)[:, None] for by in (ratio, 1 / ratio))
        # Where the window's pixels lie in the image, whose sides run from -1 to 1.
        columns = (2 * x[:, None] - 1) * (1 - across) + across * coordinates(width, images)
        rows = (2 * y[:, None] - 1) * (1 - down) + down * coordinates(height, images)
        places = torch.stack(
            [
                columns[:, None, :].expand(-1, height, -1),
                rows[:, :, None].expand(-1, -1, width),
            ],
            dim=1,
        )
        return sample(images, places, "border")


def _still(**changes: Any) -> Augment:
    """Changes that move no pixel."""
    return Augment(degrees=0.0, translate=0.0, scale=(1.0, 1.0), **changes)


def _jitter(strength: float, is_color: bool) -> dict[str, float]:
    names = FULL_JITTER if is_color else ("brightness", "contrast")
    return {name: strength * FULL_JITTER[name] for name in names}
