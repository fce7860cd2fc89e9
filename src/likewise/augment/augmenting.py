"""Random changes to a batch of images that keep what they show."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from likewise import _shares
from likewise._checks import check_at_least, check_choice, check_count, check_rate
from likewise.errors import InputError, InputTypeError

_BORDERS = ("border", "reflection")
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness, ITU-R BT.601


class _Draws(NamedTuple):
    """A number in 0..1 per image for each change, drawn whether or not the change is asked for.

    So turning one change on or off leaves the others as they were.
    """

    angle: Float[Tensor, " n"]
    zoom: Float[Tensor, " n"]
    shear: Float[Tensor, " n"]
    shift_x: Float[Tensor, " n"]
    shift_y: Float[Tensor, " n"]
    crop: Float[Tensor, " n"]
    crop_x: Float[Tensor, " n"]
    crop_y: Float[Tensor, " n"]
    flip: Float[Tensor, " n"]
    brightness: Float[Tensor, " n"]
    contrast: Float[Tensor, " n"]
    saturation: Float[Tensor, " n"]
    hue: Float[Tensor, " n"]
    blur: Float[Tensor, " n"]
    noise: Float[Tensor, " n"]
    erase_area: Float[Tensor, " n"]
    erase_shape: Float[Tensor, " n"]
    erase_x: Float[Tensor, " n"]
    erase_y: Float[Tensor, " n"]


@dataclass(frozen=True)
class Augment:
    """Randomly changed copies of a batch of images, which still show the same things.

    Called with images (n, c, h, w) in 0..1, on any device, it returns as many, of the same shape
    and dtype. Every image draws its own changes, uniformly within the limits given here; 0, None
    or False turns a change off. Mirroring comes first, then geometry in one bilinear resampling,
    color, blur, noise, erasing. Color and noise clip their results to 0..1.

    Numbers are drawn from `generator`, or else from PyTorch's global one, which
    `torch.manual_seed` sets; images on another device draw the same. Turning one change on or off
    leaves the others as they were.

    Any function from batch to batch may stand in its place, kornia's augmentations too.

    Args:
        degrees: turned by at most this, either way.
        translate: shifted by at most this share of the height and of the width, either way.
        scale: smallest and largest magnification.
        shear: sheared along the width by at most this many degrees, either way.
        crop: smallest and largest share of the area kept by a window that is then enlarged to the
            whole image; None keeps all.
        flip: whether half of the images are mirrored left to right.
        brightness: values are multiplied by 1 − this to 1 + this.
        contrast: likewise for the difference to the image's mean.
        saturation: likewise for the difference to gray; images with 3 channels only.
        hue: turned by at most this share of the color wheel, either way; 3 channels only.
        blur: largest standard deviation of a Gaussian blur, in pixels.
        noise: largest standard deviation of Gaussian noise.
        erase: largest share of the area painted over, by a rectangle of sides 1:2 to 2:1.
        fill: value outside the image and of erased rectangles; or "border" or "reflection" to
            repeat or mirror the image, with erased rectangles 0.

    Raises:
        InputError: if an argument is out of its range, or, when called, the images are not
            (n, c, h, w) or have the wrong number of channels.
        InputTypeError: when called with images that are not floating point.

    Source:
        Erasing: Zhong, Zheng, Kang, Li & Yang, "Random Erasing Data Augmentation", AAAI 2020;
        here one color, and every image gets a rectangle.

    Example:
        >>> images = torch.rand(8, 1, 28, 28)
        >>> Augment(degrees=15, noise=0.1)(images).shape
        torch.Size([8, 1, 28, 28])
    """

    degrees: float = 10.0
    translate: float = 0.1
    scale: Sequence[float] = (0.9, 1.1)
    shear: float = 0.0
    crop: Sequence[float] | None = None
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    fill: float | str = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name, most in (("degrees", 180), ("shear", 80), ("hue", 0.5)):
            _check_between(name, getattr(self, name), 0, most)
        for name in ("translate", "brightness", "contrast", "saturation", "erase"):
            check_rate(name, getattr(self, name))
        for name in ("blur", "noise"):
            check_at_least(name, getattr(self, name), 0)
        check_range("scale", self.scale, 10)
        if self.crop is not None:
            check_range("crop", self.crop, 1)
        if isinstance(self.fill, str):
            check_choice("fill", self.fill, _BORDERS)
        else:
            check_rate("fill", self.fill)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """The changed images."""
        check_images(images)
        if (self.saturation or self.hue) and images.shape[1] != 3:
            raise InputError(
                "images must have 3 channels where saturation or hue is changed, "
                f"got {images.shape[1]}. Use brightness and contrast for gray images."
            )
        if len(images) == 0:
            return images.clone()
        source = generator.device if generator is not None else torch.device("cpu")
        kinds = len(_Draws._fields)
        numbers = _shares.drawn(
            len(images),
            lambda count: torch.rand(kinds, count, generator=generator, device=source),
        )
        noise_seed = torch.randint(2**63 - 1, (), generator=generator, device=source)
        draws = _Draws(*numbers.to(images.device))
        # Half precision would place pixels coarsely.
        changed = images.float() if images.element_size() < 4 else images
        if self.flip:
            changed = torch.where(per_image(draws.flip < 0.5), changed.flip(-1), changed)
        if self._moves():
            changed = self._move(changed, draws)
        changed = self._recolor(changed, draws)
        if self.blur:
            changed = _blur(changed, self.blur * draws.blur, largest=self.blur)
        if self.noise:
            changed = _add_noise(changed, self.noise * draws.noise, int(noise_seed))
        if self.erase:
            changed = self._erase(changed, draws)
        return changed.to(images.dtype)

    def _moves(self) -> bool:
        return bool(
            self.degrees or self.translate or self.shear or self.crop or tuple(self.scale) != (1, 1)
        )

    def _move(self, images: Tensor, draws: _Draws) -> Tensor:
        height, width = images.shape[-2:]
        angle = _either_way(draws.angle, math.radians(self.degrees))
        slant = _either_way(draws.shear, math.radians(self.shear)).tan()
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([cos, cos * slant - sin, sin, sin * slant + cos], dim=-1).view(-1, 2, 2)
        turn = turn / _between(draws.zoom, *self.scale).view(-1, 1, 1)
        # The grid's coordinates run from -1 to 1 along either side, so turning in them would
        # distort images that are not square.
        turn = turn * turn.new_tensor([[1, height / width], [width / height, 1]])
        shift = torch.stack([draws.shift_x, draws.shift_y], dim=-1)
        shift = _either_way(shift, 2 * self.translate)[..., None]
        side = _between(draws.crop, *(self.crop or (1, 1))).sqrt().view(-1, 1, 1)
        center = torch.stack([draws.crop_x, draws.crop_y], dim=-1)[..., None]
        center = _either_way(center, 1.0) * (1 - side)
        turn, offset = turn * side, turn @ center + shift
        columns, rows = coordinates(width, images), coordinates(height, images)[:, None]
        # What affine_grid computes, several times faster on a CPU: (n, 2, h, w), x before y.
        source = turn[:, :, 0, None, None] * columns + turn[:, :, 1, None, None] * rows
        source = source + offset[..., None]
        if isinstance(self.fill, str):
            return sample(images, source, self.fill)
        # Not padding_mode="zeros": it mixes the outside into the edges of a window inside.
        outside = source.abs().amax(dim=1, keepdim=True) > 1
        return sample(images, source, "border").masked_fill(outside, self.fill)

    def _recolor(self, images: Tensor, draws: _Draws) -> Tensor:
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            return images
        if self.brightness:
            images = images * _factor(draws.brightness, self.brightness)
        if self.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = mean + (images - mean) * _factor(draws.contrast, self.contrast)
        if self.saturation:
            gray = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
            images = gray + (images - gray) * _factor(draws.saturation, self.saturation)
        images = images.clamp(0, 1)
        if self.hue:
            from kornia.enhance import adjust_hue

            images = adjust_hue(images, _either_way(draws.hue, 2 * math.pi * self.hue))
        return images

    def _erase(self, images: Tensor, draws: _Draws) -> Tensor:
        area = self.erase * draws.erase_area
        shape = 2 ** _either_way(draws.erase_shape, 1.0)  # height : width, as shares
        across = _inside(images.shape[-1], (area / shape).sqrt(), draws.erase_x)
        down = _inside(images.shape[-2], (area * shape).sqrt(), draws.erase_y)
        erased = (down[:, :, None] & across[:, None, :])[:, None]
        return images.masked_fill(erased, 0.0 if isinstance(self.fill, str) else self.fill)


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        InputError: they are not (n, c, h, w).
        InputTypeError: they are not floating point.
    """
    if images.ndim != 4:
        raise InputError(
            f"images must have shape (n, c, h, w), got {tuple(images.shape)}. "
            "Vectors and sequences need a function of your own in place of Augment."
        )
    if not images.is_floating_point():
        raise InputTypeError(
            f"images must be floating point in 0..1, got {images.dtype}. "
            "Use images.float() / 255 for bytes."
        )


def views(
    augmentation: Callable[[Tensor], Tensor], items: Float[Tensor, "n ..."], count: int
) -> Float[Tensor, "v n ..."]:
    """`count` augmented copies of a batch, (count, n, ...), for looking at them.

    Args:
        augmentation: from a batch to a batch, e.g. an `Augment`.
        items: the batch.
        count: how many copies.

    Raises:
        InputError: if count is below 1.

    Example:
        >>> views(Augment(), torch.rand(3, 1, 8, 8), count=5).shape
        torch.Size([5, 3, 1, 8, 8])
    """
    check_count("count", count)
    return torch.stack([augmentation(items) for _ in range(count)])


def sample(images: Tensor, source: Float[Tensor, "n 2 h w"], padding_mode: str) -> Tensor:
    """Images at places (x, y) of sides that run from -1 to 1, by bilinear interpolation."""
    grid = source.permute(0, 2, 3, 1).to(images.dtype)
    return F.grid_sample(images, grid, padding_mode=padding_mode, align_corners=False)


def coordinates(size: int, like: Tensor) -> Float[Tensor, " size"]:
    """Middles of the pixels along a side that runs from -1 to 1."""
    return (2 * torch.arange(size, device=like.device) + 1) / size - 1


def _blur(images: Tensor, deviation: Float[Tensor, " n"], largest: float) -> Tensor:
    from kornia.filters import gaussian_blur2d

    size = 2 * math.ceil(3 * largest) + 1
    # Narrower than this changes nothing, and kornia before 0.9 divides by a width of 0.
    deviations = deviation.clamp(min=0.05).to(images.dtype)[:, None].expand(-1, 2)
    # Kornia's own border, reflection, fails where the kernel is wider than the image.
    blurred: Tensor = gaussian_blur2d(images, (size, size), deviations, border_type="replicate")
    return blurred


def _add_noise(images: Tensor, deviation: Float[Tensor, " n"], seed: int) -> Tensor:
    # Drawn where the images are: there are as many numbers as pixels.
    source = torch.Generator(images.device).manual_seed(seed)

    def draw(count: int) -> Tensor:
        shape = (count, *images.shape[1:])
        return torch.randn(shape, generator=source, device=images.device, dtype=images.dtype)

    noise = _shares.drawn(len(images), draw, dim=0)
    return (images + noise * per_image(deviation)).clamp(0, 1)


def _inside(size: int, share: Float[Tensor, " n"], where: Float[Tensor, " n"]) -> Tensor:
    """Which of `size` pixels lie in a window of that share of them, (n, size)."""
    length = (share * size).clamp(max=size)[:, None]
    start = where[:, None] * (size - length)
    centers = torch.arange(size, device=share.device) + 0.5
    return (start <= centers) & (centers < start + length)


def _between(draws: Tensor, low: float, high: float) -> Tensor:
    return low + draws * (high - low)


def _either_way(draws: Tensor, most: float) -> Tensor:
    return (2 * draws - 1) * most


def _factor(draws: Float[Tensor, " n"], most: float) -> Float[Tensor, "n 1 1 1"]:
    return per_image(1 + _either_way(draws, most))


def per_image(values: Shaped[Tensor, " n"]) -> Shaped[Tensor, "n 1 1 1"]:
    """A value of each image beside all its pixels."""
    return values.view(-1, 1, 1, 1)


def _check_between(name: str, value: float, least: float, most: float) -> None:
    check_at_least(name, value, least)
    if value > most:
        raise InputError(f"{name} must be at most {most}, got {value}.")


def check_range(name: str, values: Sequence[float], most: float) -> None:
    """Refuse what is no smallest and largest number above 0."""
    if len(values) != 2 or not 0 < values[0] <= values[1] <= most:
        raise InputError(
            f"{name} must be a smallest and a largest number above 0 and at most {most}, "
            f"got {tuple(values)}."
        )
