"""Random changes to images that keep their class, and fixed ones that make new classes."""

from likewise.augment.classes import MadeClasses, make_flipped_classes, make_rotated_classes
from likewise.augment.images import Augment, views
from likewise.augment.presets import as_batch_change, by_name

__all__ = [
    "Augment",
    "MadeClasses",
    "as_batch_change",
    "by_name",
    "make_flipped_classes",
    "make_rotated_classes",
    "views",
]
