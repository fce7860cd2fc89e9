"""`backbone`: networks of timm, with pretrained weights, as encoders."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise._checks import check_choice, check_count
from likewise.encoders._timm import (
    created,
    cut_at,
    framing_of,
    near,
    settings_of,
    unpooled,
    unsuited,
    weights_of_file,
    weights_of_hub,
)
from likewise.encoders.heads import GeneralizedMeanPool1d, Normalize, describe
from likewise.errors import InputError

POOLINGS = ("average", "max", "gem")


def backbone(
    name: str = "resnet34",
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    trainable: str = "full",
    cut: str | None = None,
    channels: int = 3,
    image_size: int | Sequence[int] | None = None,
    embedding_dim: int | None = None,
    normalize: bool = True,
    pooling: str | None = None,
) -> "Backbone":
    """A `Backbone` with pretrained weights.

    They come from the file given, else from timm's home on the Hugging Face hub, and what was
    fetched once is kept. The first layer is made to fit other than three channels by timm, which
    for gray images adds the weights of the colors up. Needs `pip install "likewise[backbones]"`.

    Args:
        name: Name of the network; all but the next two are the arguments of `Backbone`.
        pretrained: False for random weights.
        weights: a file with weights of this network, with a classifier or without: .safetensors,
            or .pth, which is read as data only.
        trainable: what of the network trains.
        cut: where the network ends.
        channels: Channels of the images.
        image_size: Size of the images.
        embedding_dim: size of an embedding.
        normalize: whether embeddings have unit length.
        pooling: What makes features of maps or tokens.

    Raises:
        InputError: if an argument is out of its range, or the file holds other weights.
        FileNotFoundError: if there is no such file, or pretrained weights cannot be fetched.
        MissingExtra: if timm is not installed, or its torchvision cannot load.

    Example:
        >>> encoder = backbone(  # doctest: +SKIP
        ...     "resnet18", pretrained=False, image_size=32, trainable="frozen", embedding_dim=16
        ... )
        >>> encoder(torch.rand(5, 3, 32, 32)).shape  # doctest: +SKIP
        torch.Size([5, 16])
    """
    encoder = Backbone(
        name,
        trainable=trainable,
        cut=cut,
        channels=channels,
        image_size=image_size,
        embedding_dim=embedding_dim,
        normalize=normalize,
        pooling=pooling,
    )
    _, *size = encoder.preprocess_settings["item_shape"]
    if weights is not None:
        loaded = weights_of_file(name, channels, size, Path(weights))
    elif pretrained:
        loaded = weights_of_hub(name, channels, size)
    else:
        return encoder
    # What was cut off, and the classifier, are left over.
    missing = encoder.network.load_state_dict(loaded, strict=False).missing_keys
    if missing:
        raise InputError(
            f"weights must be complete for {name}, got none for {', '.join(missing[:3])}. "
            "Use pretrained=False."
        )
    return encoder


class Backbone(nn.Module):
    """Embeddings (n, d) of images (n, c, h, w) from a network of timm, with random weights.

    `backbone` gives one with pretrained weights. The classifier is left out; what is left of the
    network gives features, pooled in the network's own way, or as `pooling` says. With `cut` it
    ends at the node named, and what follows is gone: of maps comes the mean over the pixels, of
    tokens the mean over all, unless `pooling` says otherwise. Then come a linear layer to
    `embedding_dim`, if that is given, and the scaling to unit length.

    The part of the network that does not train is always in evaluation mode: after `train()` too
    its batch norms keep their statistics and nothing is dropped out. `config` holds the arguments
    as JSON-able values: `Backbone(**encoder.config)` has the same architecture.

    Args:
        name: a name of `timm.list_models()`, alone or with the tag of its weights.
        trainable: what of the network trains; the linear layer always does. "full" for all of it,
            "frozen" for nothing. "partial" for what follows the last stage but one, stages being
            what timm lists in `feature_info`: `layer4` of a ResNet, the last block of a vision
            transformer. Or a module's name: that module, and all that the network lists after it.
        cut: a module, as "layer3" of a ResNet, or any other node that torch.fx finds. Maps must
            have their channels where timm says that the whole network has them, mostly first.
        channels: Channels of the images.
        image_size: (height, width) of the images, or one number for both; by default that of the
            pretrained weights. Other sizes are refused.
        embedding_dim: size of an embedding; by default as many as the network gives features.
        normalize: whether embeddings have unit length.
        pooling: What makes features of maps or tokens: "average", "max" or "gem", the generalized
            mean with the power 3, which listens more to large values; see `GeneralizedMeanPool1d`.
            It comes last, also where a network has a norm behind its own pooling. Class tokens,
            which stand before those of the patches, are left out, though not with `cut`. None for
            the network's own way.

    Attributes:
        network: what of timm's network is used.
        embedding_dim: size of an embedding.
        preprocess_settings: item shape, mean, std and framing (crop share and mode, interpolation)
            that the pretrained weights were made with, for
            `likewise.data.Preprocess(**encoder.preprocess_settings)`. Gray images have the mean
            over the colors.

    Raises:
        InputError: if an argument is out of its range, or does not suit the network.
        MissingExtra: if timm is not installed, or its torchvision cannot load.
    """

    def __init__(
        self,
        name: str,
        *,
        trainable: str = "full",
        cut: str | None = None,
        channels: int = 3,
        image_size: int | Sequence[int] | None = None,
        embedding_dim: int | None = None,
        normalize: bool = True,
        pooling: str | None = None,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        if pooling is not None:
            check_choice("pooling", pooling, POOLINGS)
        if embedding_dim is not None:
            check_count("embedding_dim", embedding_dim)
        self.preprocess_settings = settings_for(name, channels, image_size)
        _, *size = self.preprocess_settings["item_shape"]
        self.config: dict[str, Any] = {
            "name": name,
            "trainable": trainable,
            "cut": cut,
            "channels": channels,
            "image_size": list(size),
            "embedding_dim": embedding_dim,
            "normalize": normalize,
            # Left out where it is not chosen, so that models saved before it was there stay alike.
            **({} if pooling is None else {"pooling": pooling}),
        }
        network = created(name, channels, size, num_classes=0).eval()
        self._pooling, self._before_patches = pooling, 0
        if pooling is not None and cut is None:
            unpooled(network, name, pooling)
            self._before_patches = getattr(network, "num_prefix_tokens", 0)
        self._generalized = GeneralizedMeanPool1d()
        stages = [stage["module"] for stage in getattr(network, "feature_info", None) or []]
        self._pixels = (1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else (2, 3)
        self.network = network if cut is None else cut_at(network, name, cut)
        self._kept = _hold(self.network, _first_trained(self.network, name, trainable, stages))
        features = self._count_features()
        self.embedding_dim = features if embedding_dim is None else embedding_dim
        self.head = nn.Sequential(
            *([] if embedding_dim is None else [nn.Linear(features, embedding_dim)]),
            *([Normalize()] if normalize else []),
        )
        self.train()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Embeddings of a batch of images."""
        expected = self.preprocess_settings["item_shape"]
        if tuple(images.shape[1:]) != expected:
            raise InputError(
                f"images must have shape (n, {', '.join(map(str, expected))}), "
                f"got {tuple(images.shape)}. Resize them, or build the encoder with their size."
            )
        return self.head(self._pooled(self.network(images)))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Backbone":
        """Training or evaluation mode, except for the part that does not train."""
        super().train(mode)
        for name in self._kept:
            self.network.get_submodule(name).training = False
        return self

    def _pooled(self, features: Tensor) -> Float[Tensor, "n d"]:
        if self._pooling is not None:
            return self._pooled_as_chosen(features)
        if features.ndim == 4:
            return features.mean(dim=self._pixels)
        return features.mean(dim=1) if features.ndim == 3 else features

    def _pooled_as_chosen(self, features: Tensor) -> Float[Tensor, "n d"]:
        if features.ndim == 4:
            places = features.movedim(self._pixels, (2, 3)).flatten(2)
        elif features.ndim == 3:
            places = features[:, self._before_patches :].transpose(1, 2)
        else:
            raise InputError(
                f"pooling must be left out for {self.config['name']}, which gives no maps and no "
                f"tokens, got {self._pooling!r}."
            )
        if self._pooling == "gem":
            return self._generalized(places)  # type: ignore[no-any-return]
        return places.amax(dim=2) if self._pooling == "max" else places.mean(dim=2)

    def _count_features(self) -> int:
        """How many features the network gives, from a black image."""
        name, cut = self.config["name"], self.config["cut"]
        images = torch.zeros(1, *self.preprocess_settings["item_shape"])
        try:
            with torch.no_grad():
                found = self.network(images)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise unsuited(name, self.config["channels"], self.config["image_size"]) from error
        if not isinstance(found, Tensor) or found.ndim not in (2, 3, 4) or len(found) != 1:
            told = tuple(found.shape) if isinstance(found, Tensor) else describe(found)
            raise InputError(
                f"cut must name a node of {name} with features, maps or tokens of each image, "
                f"got {cut!r} with {told}. Name a module."
            )
        return self._pooled(found).shape[1]


def settings_for(
    name: str, channels: int = 3, image_size: int | Sequence[int] | None = None
) -> dict[str, Any]:
    """How images are read for a network of timm; see `Backbone.preprocess_settings`."""
    settings = settings_of(name)
    size = _sides(settings.input_size[1:] if image_size is None else image_size)
    return {
        "item_shape": (channels, *size),
        "mean": _per_channel(settings.mean, channels),
        "std": _per_channel(settings.std, channels),
        "framing": framing_of(settings, size),
    }


def _first_trained(
    network: nn.Module, name: str, trainable: str, stages: Sequence[str]
) -> str | None:
    """The module from which on the network trains; "" for all of it, None for nothing."""
    modules = [module for module, _ in network.named_modules()]
    if trainable == "full":
        return ""
    if trainable == "frozen":
        return None
    if trainable != "partial":
        if trainable in modules[1:]:
            return trainable
        raise InputError(
            f"trainable must be full, partial, frozen or a module of {name}, got {trainable!r}."
            f"{near(trainable, modules[1:])}"
        )
    present = [stage for stage in stages if stage in modules]
    if len(present) < 2:
        raise InputError(
            f"trainable must name a module of {name}, which has no two stages, got 'partial'."
            f"{near(trainable, modules[1:])}"
        )
    before = present[-2]
    after: list[str] = modules[modules.index(before) + 1 :]
    return next(module for module in after if not module.startswith(f"{before}."))


def _hold(network: nn.Module, first: str | None) -> list[str]:
    """Stop what is listed before a module from training; the modules to keep in evaluation."""
    modules = [module for module, _ in network.named_modules()]
    before = modules if first is None else modules[: modules.index(first)]
    for module in before:
        for parameter in network.get_submodule(module).parameters(recurse=False):
            parameter.requires_grad_(False)
    # A module that holds the first trains in part.
    return [
        module
        for module in before
        if first is None or (module and not first.startswith(f"{module}."))
    ]


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or deviations of as many channels, as timm makes weights of as many."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(itertools.islice(itertools.cycle(values), channels))


def _sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2:
        raise InputError(f"image_size must be (height, width) or one number, got {image_size}.")
    for side in sides:
        check_count("image_size", side)
    return sides[0], sides[1]
