"""Augmentations by name, and those of other libraries as changes of a batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise import _shares
from likewise._checks import check_choice
from likewise.augment.augmenting import Augment
from likewise.augment.view_augment import ViewAugment
from likewise.errors import InputError

NAMES = ("none", "light", "photos", "strong", "views")
Change = Callable[[Tensor], Tensor]


def by_name(name: str) -> Augment | ViewAugment | None:
    """The changes that a name stands for; None for "none".

    ==========  ================================================================================
    "light"     turned, shifted and scaled a little: for drawings, letters, small images
    "photos"    a window of at least 40% of the area, mirrored, brightness, contrast and colors
    "strong"    "photos" with a window of at least 20%, stronger colors, turned, blurred, erased
    "views"     `ViewAugment`: those of SimSiam and SimCLR, for training without labels
    ==========  ================================================================================

    Raises:
        InputError: another name.

    Example:
        >>> by_name("photos").flip, by_name("none")
        (True, None)
    """
    check_choice("augment", name, NAMES)
    if name == "views":
        return ViewAugment()
    if name == "light":
        return Augment()
    if name == "photos":
        return Augment(
            degrees=0.0,
            translate=0.0,
            scale=(1.0, 1.0),
            crop=(0.4, 1.0),
            flip=True,
            brightness=0.3,
            contrast=0.3,
            saturation=0.3,
            hue=0.03,
        )
    if name == "strong":
        return Augment(
            degrees=15.0,
            translate=0.0,
            scale=(0.9, 1.1),
            crop=(0.2, 1.0),
            flip=True,
            brightness=0.5,
            contrast=0.5,
            saturation=0.5,
            hue=0.08,
            blur=1.0,
            erase=0.2,
            fill="reflection",
        )
    return None


def fitted(augment: Augment | ViewAugment, channels: int) -> Augment | ViewAugment:
    """The same without changes of color for images that have none; views as for gray images."""
    if channels == 3:
        return augment
    if isinstance(augment, ViewAugment):
        return ViewAugment.for_gray()
    return Augment(**{**vars(augment), "saturation": 0.0, "hue": 0.0})


def as_batch_change(augment: Any) -> Change:
    """A change of a batch of images (n, c, h, w), of whatever makes changes.

    A transform of torchvision is called for each image alone, so that each is changed in its own
    way, and one of albumentations likewise, with arrays (h, w, c). Anything else is a change of
    the batch already, and comes back as it is. Random numbers of torchvision come from torch;
    albumentations has its own, which its `set_random_seed` sets.

    Raises:
        InputError: when called, if a changed image has another shape.
    """
    library = type(augment).__module__.split(".")
    if library[0] == "albumentations":
        return _EachImage(augment, _by_array)
    if library[:2] == ["torchvision", "transforms"]:
        return _EachImage(augment, _by_tensor)
    return augment  # type: ignore[no-any-return]


def draws_by_item(change: Any) -> bool:
    """Whether a change draws for each item what it would draw beside any other items.

    So processes that share a batch draw what one process would.

    Example:
        >>> draws_by_item(Augment()), draws_by_item(torch.rand_like)
        (True, False)
    """
    if isinstance(change, _EachImage):
        return change.change is _by_tensor
    return isinstance(change, (Augment, ViewAugment))


class _EachImage:
    """A batch, each image of which is changed alone, by random numbers of its own."""

    def __init__(self, augment: Any, change: Callable[[Any, Tensor], Tensor]) -> None:
        self.augment = augment
        self.change = change

    def __call__(self, images: Tensor) -> Tensor:
        seeds = _shares.drawn(len(images), lambda count: torch.randint(2**62, (count,)))
        changed = []
        for image, seed in zip(images, seeds.tolist(), strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                new = self.change(self.augment, image)
            if new.shape != image.shape:
                raise InputError(
                    f"augment must keep the shape of an image, {tuple(image.shape)}, got "
                    f"{tuple(new.shape)}. Crop and resize to it."
                )
            changed.append(new.to(images))
        return torch.stack(changed)


def _by_tensor(augment: Any, image: Tensor) -> Tensor:
    new = augment(image)
    if not isinstance(new, Tensor):
        raise InputError(
            f"augment must return a tensor for a tensor, got {type(new).__name__}. "
            "Leave ToPILImage out."
        )
    return new


def _by_array(augment: Any, image: Tensor) -> Tensor:
    array = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    new = augment(image=array)["image"]
    if isinstance(new, Tensor):  # where ToTensorV2 comes last
        return new
    values = torch.from_numpy(np.ascontiguousarray(new))
    if values.dtype == torch.uint8:
        values = values.float() / 255
    return (values[..., None] if values.ndim == 2 else values).permute(2, 0, 1)
