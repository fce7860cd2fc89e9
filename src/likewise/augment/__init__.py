"""Random changes to images that keep their class, and fixed ones that make new classes."""

from likewise.augment.augmenting import Augment, views
from likewise.augment.made_classes import MadeClasses, make_flipped_classes, make_rotated_classes
from likewise.augment.presets import as_batch_change, by_name
from likewise.augment.view_augment import ViewAugment

__all__ = [
    "Augment",
    "MadeClasses",
    "ViewAugment",
    "as_batch_change",
    "by_name",
    "make_flipped_classes",
    "make_rotated_classes",
    "views",
]
