"""Which encoder a training gets, its data opened as that encoder reads them, and the encoder."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from likewise import data, encoders
from likewise.data.framing import Framing, ImageSize
from likewise.data.images import check_image_size, color_sides
from likewise.data.parts import paths_of
from likewise.encoders.naming import PHOTOGRAPHS, missing, small
from likewise.errors import InputError
from likewise.journeys.opening import PLAIN, open_data
from likewise.journeys.recipe import Recipe

LARGEST_SMALL = 64  # pixels on the shorter side; color images beyond it are photographs
LOOKED_AT = 16  # files of a folder
SMALL_DIM = 64
GRAY_RATE = 3e-3  # learning rate
FEATURE_WEIGHT, MANY_CLASSES = 2.0, 50


def open_for_training(
    source: str | Path,
    recipe: Recipe,
    *,
    split: str | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    weights: str | Path | None = None,
    reading: data.Reading = PLAIN,
) -> tuple[data.Dataset, Recipe]:
    """The items of a source as the recipe's encoder reads them, and the recipe with that encoder.

    Where the recipe names no encoder, photographs get a pretrained one; see `chosen`. Images are
    then resized and cropped as its weights were made, to `image_size` where that is given.

    Args:
        source: Anything that `data.load` reads.
        recipe: The choices.
        split: Part of the data; it and the next two go to `open_data`.
        image_size: Side of the images, (height, width), or a `Framing`.
        channels: 1 for gray images, 3 for color.
        weights: File with weights of the encoder.
        reading: Which columns of a table hold what.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened = open_data(source, split, image_size=image_size, channels=channels, reading=reading)
    recipe = chosen(recipe, opened, weights=weights, sized=image_size is not None)
    framing = _framing(recipe, opened, image_size)
    if framing is not None:
        # What was told of the first opening, such as a default size, holds no more.
        return open_data(
            source, split, image_size=framing, channels=channels or 3, reading=reading
        ), recipe
    for each in told:
        warnings.warn(each.message, each.category, stacklevel=2)
    return opened, recipe


def stream_for_training(
    source: Any,
    recipe: Recipe,
    *,
    split: str | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    reading: data.Reading = PLAIN,
) -> data.Stream:
    """A source as a stream, its images as the recipe's encoder reads them.

    Args:
        source: Anything that `data.open_stream` takes; a `Stream` stays as it is.
        recipe: The choices; without an encoder it is the small network.
        split: Part of the data; it and the next two go to `data.open_stream`.
        image_size: Side of the images, (height, width), or a `Framing`.
        channels: 1 for gray images, 3 for color.
        reading: Which keys hold texts, vectors or labels.
    """
    if isinstance(source, data.Stream):
        return source
    framing = image_size
    if recipe.encoder is not None and not recipe.is_small and not isinstance(image_size, Framing):
        size = check_image_size(image_size)
        read = encoders.preprocess_of(
            recipe.encoder, image_size=None if size is None else size.size
        )
        if read is not None:
            framing, channels = Framing.from_dict(read["framing"]), channels or 3
    return data.open_stream(
        source,
        split=split,
        item=reading.text or reading.vectors,
        label=reading.label,
        image_size=framing,
        channels=channels,
    )


def _framing(recipe: Recipe, opened: data.Dataset, image_size: ImageSize | None) -> Framing | None:
    """How the recipe's encoder reads these images; None where they stay as they were opened."""
    if recipe.is_small or len(opened.item_shape) != 3 or isinstance(image_size, Framing):
        return None
    size = None if image_size is None else opened.item_shape[1:]
    if size is None and not paths_of(opened):
        return None  # of one size, which the encoder takes as it is
    read = encoders.preprocess_of(str(recipe.encoder), image_size=size)
    return None if read is None else Framing.from_dict(read["framing"])


def chosen(
    recipe: Recipe, opened: data.Dataset, *, weights: str | Path | None = None, sized: bool = True
) -> Recipe:
    """The recipe with an encoder for these items, unless it names one.

    Photographs, color images of more than 64 pixels on the shorter side, get the pretrained
    encoder. Where its weights cannot be had, a warning says what is missing, and they get the
    small network as all other items do.

    Args:
        recipe: The choices.
        opened: The items.
        weights: File with weights of the pretrained encoder.
        sized: Whether the items have the size that they are to be encoded at; otherwise the files
            tell what size they have.
    """
    if data.is_text(opened) and not recipe.labels:
        raise InputError(
            "must be images for a training without labels, got texts. Its views are changed "
            "images.",
            argument="data",
        )
    if data.is_text(opened) and not (recipe.encoder or "").startswith("sentence:"):
        raise InputError(
            f"must be sentence:NAME-OR-FOLDER for texts, got {recipe.encoder or 'none'}.",
            argument="encoder",
            remedy='Use Recipe(encoder="sentence:all-MiniLM-L6-v2"), or a folder.',
            command="Use --encoder sentence:all-MiniLM-L6-v2, or a folder.",
        )
    if recipe.encoder is not None:
        return recipe
    # Classes made by turning images would be one class for a network that was taught to ignore it.
    if not recipe.makes_classes and _are_photographs(opened, sized):
        reason = missing(PHOTOGRAPHS, weights)
        if reason is None:
            return dataclasses.replace(recipe, encoder=PHOTOGRAPHS)
        warnings.warn(f"photographs get the small network, from nothing: {reason}", stacklevel=3)
    if recipe.train not in (None, "all") or recipe.head not in (None, "none"):
        raise InputError(
            "must be named for train and head, got none: these items get the small network, all "
            "of which trains.",
            argument="encoder",
        )
    return recipe


def settled(recipe: Recipe, item_shape: Sequence[int], class_count: int) -> Recipe:
    """The recipe with what its data decides, for the small network: nothing is left to a None.

    What is chosen for gray images and for few classes was chosen on classes held out of digits,
    MNIST, Fashion-MNIST, Omniglot and faces.

    Args:
        recipe: The choices.
        item_shape: Shape of an item.
        class_count: How many classes the items have.
    """
    is_gray = recipe.learns_classes and len(item_shape) == 3 and item_shape[0] == 1
    made, rate = recipe.made_classes, recipe.learning_rate
    if made is None:
        made = "both" if is_gray and item_shape[1] == item_shape[2] else "none"
    if rate is None and is_gray:
        rate = GRAY_RATE
    held = recipe.hold_out_classes or 0.0
    trained = class_count - len(held) if isinstance(held, tuple) else class_count * (1 - held)
    return dataclasses.replace(
        recipe, made_classes=made, learning_rate=rate, features=feature_weight(recipe, trained)
    )


def feature_weight(recipe: Recipe, class_count: float) -> float:
    """Weight of the small network's features, where it is trained on that number of classes."""
    if recipe.features is not None:
        return recipe.features
    return FEATURE_WEIGHT if recipe.learns_classes and class_count < MANY_CLASSES else 0.0


def _are_photographs(opened: data.Dataset, sized: bool) -> bool:
    if len(opened.item_shape) != 3:
        return False
    channels, *sides = opened.item_shape
    paths = [] if sized else paths_of(opened)
    if not paths:
        return channels == 3 and min(sides) > LARGEST_SMALL
    step = max(1, len(paths) // LOOKED_AT)
    looks = [color_sides(path) for path in paths[::step][:LOOKED_AT]]
    large = [side > LARGEST_SMALL for _, side in looks]
    return any(color for color, _ in looks) and 2 * sum(large) > len(large)


def preprocess_for(encoder: Any, item_shape: Sequence[int]) -> data.Preprocess | None:
    """How the items of a training are read for a pretrained encoder; None for vectors."""
    settings = getattr(encoder, "preprocess_settings", None)
    if settings is None or len(item_shape) != 3:
        return None
    return data.Preprocess(**settings)


class Start(NamedTuple):
    """An encoder before it is trained: without its head and with it, and how it reads items."""

    body: nn.Module
    whole: nn.Module
    preprocess: data.Preprocess | None


def start_of(
    recipe: Recipe,
    item_shape: Sequence[int],
    weights: str | Path | None,
    tell: Callable[[str], None] | None,
) -> Start:
    """The encoder of a recipe for items of a shape."""
    torch.manual_seed(recipe.seed)
    if recipe.is_small:
        if recipe.pooling is not None:
            raise InputError(
                f"must be timm:NAME for the pooling {recipe.pooling!r}, got none: these items get "
                "the small network, which pools in its own way.",
                argument="encoder",
            )
        made = small(item_shape, recipe.embedding_dim or SMALL_DIM)
        return Start(made, made, None)
    head = "none" if recipe.is_frozen else recipe.head or "none"
    if head == "none" and recipe.embedding_dim is not None and not recipe.is_frozen:
        head = "linear"
    made = encoders.by_name(
        str(recipe.encoder),
        item_shape=item_shape,
        train="none" if recipe.is_frozen else recipe.train or "all",
        head=head,
        embedding_dim=None if head == "none" else recipe.embedding_dim,
        weights=weights,
        tell=tell,
        pooling=recipe.pooling,
    )
    body = made if head == "none" else made[0]  # type: ignore[index]
    return Start(body, made, preprocess_for(body, item_shape))
