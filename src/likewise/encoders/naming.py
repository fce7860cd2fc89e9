"""`by_name`: encoders by name, with their weights, their head, and how they read their items."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from likewise._checks import check_choice, check_count
from likewise.encoders import _finding
from likewise.encoders.backbones import Backbone, backbone, settings_for
from likewise.encoders.networks import ConvEncoder, MLPEncoder
from likewise.encoders.sentences import sentence_encoder
from likewise.errors import InputError, InputTypeError

TRAINED = ("none", "head", "last", "all")
HEADS = ("none", "linear", "mlp")
PHOTOGRAPHS = f"timm:{_finding.PHOTOGRAPHS}"
WIDTHS = (32, 64, 128)  # channels of the convolutions; the last of all that follow
SMALLEST_MAP = 4  # pixels on a side, from which on nothing is pooled
_TRAINABLE = {"none": "frozen", "head": "frozen", "last": "partial", "all": "full"}


def by_name(
    name: str,
    *,
    item_shape: Sequence[int] | None = None,
    train: str | None = None,
    head: str = "none",
    embedding_dim: int | None = None,
    weights: str | Path | None = None,
    pretrained: bool = True,
    tell: Callable[[str], None] | None = None,
    pooling: str | None = None,
) -> nn.Module:
    """The encoder of a name, ready to encode, to train, and to be saved in a model.

    ===================  ======================================================================
    name                 what it encodes
    ===================  ======================================================================
    "small"              Items of any fixed shape, by a small network that must be trained.
    "timm:NAME"          Images, by any network of timm; `pip install "likewise[backbones]"`.
    "sentence:NAME"      Texts, by a sentence encoder in the layout of Hugging Face, from a folder
                         or by its name on the hub; `pip install "likewise[text]"`.
    "none"               Vectors that other software made; they pass through.
    ===================  ======================================================================

    Pretrained weights of timm come from the file given, from a package that ships them, from the
    cache of the Hugging Face hub, or from the hub, in this order. `preprocess_of` tells how the
    encoder reads its items. `likewise train --encoder` calls this.

    Args:
        name: The encoder.
        item_shape: Shape of one item. Needed for "small", and for a head behind "none"; images
            for "timm:..." have the size of the pretrained weights by default.
        train: What trains: "none", "head", "last" (the last stage and the head) or "all". By
            default "all" of "small", and nothing but a head of the others.
        head: Layers behind a pretrained encoder: "none", "linear", or "mlp" with one hidden layer.
        embedding_dim: Numbers per embedding; by default 64 for "small", and for others as many as
            the encoder gives features. Fewer need a head.
        weights: File with weights of the network, .safetensors or .pth.
        pretrained: False for random weights.
        tell: Called with a line before anything is fetched.
        pooling: Pooling of a network of timm: "average", "max" or "gem"; None for its own. See
            `Backbone`.

    Returns:
        A module from a batch of items to embeddings (n, d) of unit length; of "none" as they are.

    Raises:
        InputError: The name is not known, or the arguments do not fit it or each other.
        FileNotFoundError: The weights are not on this machine and cannot be fetched.
        MissingExtra: A package is missing; the sentence names the extra.

    Example:
        >>> import torch
        >>> by_name("small", item_shape=(1, 28, 28)).config["embedding_dim"]
        64
        >>> by_name("none", item_shape=(384,), head="linear", embedding_dim=32)(
        ...     torch.rand(5, 384)
        ... ).shape
        torch.Size([5, 32])
    """
    kind, _, rest = parsed(name)
    check_choice("head", head, HEADS)
    if train is not None:
        check_choice("train", train, TRAINED)
    if embedding_dim is not None:
        check_count("embedding_dim", embedding_dim)
    if pooling is not None and kind != "timm":
        raise InputError(
            f"must be left out for {name!r}, got {pooling!r}. It is for networks of timm.",
            argument="pooling",
        )
    if kind == "small":
        _check_small(train, head, weights)
        if item_shape is None:
            raise InputError(
                "item_shape must be given for the encoder small, got none. Use data.item_shape."
            )
        return small(item_shape, embedding_dim or 64)
    if head == "none" and train == "head":
        raise InputError(
            "train must be none without a head, got 'head'.",
            remedy='Use head="linear".',
            command="Add --head linear.",
        )
    trainable = _TRAINABLE[train or "none"]
    body: nn.Module
    features: int | None
    if kind == "sentence":
        if weights is not None:
            raise InputError("weights must be in the folder of a sentence encoder, got a file.")
        body = sentence_encoder(rest, trainable=trainable, pretrained=pretrained, tell=tell)
        features = body.embedding_dim
    elif kind == "none":
        if weights is not None or train in ("last", "all"):
            raise InputError(
                "encoder must have weights for train='last' or 'all', or weights=, got 'none'. "
                "Use a head."
            )
        body, features = nn.Identity(), _width(item_shape, head)
    else:
        body, features = _of_timm(rest, item_shape, trainable, weights, pretrained, tell, pooling)
    if head == "none":
        if embedding_dim not in (None, features):
            raise InputError(
                f"must be left out without a head, got {embedding_dim}.",
                argument="embedding_dim",
                remedy='Use head="linear".',
                command="Add --head linear.",
            )
        return body
    return nn.Sequential(body, new_head(head, features, embedding_dim))


def parsed(name: str) -> tuple[str, str, str]:
    """The kind of an encoder's name, and what stands behind it.

    Raises:
        InputError: There is no such kind.
    """
    if not isinstance(name, str):
        raise InputTypeError(f"must be a text, got {name!r}.", argument="encoder")
    kind, colon, rest = name.partition(":")
    if (kind, colon) in (("small", ""), ("none", "")) or (kind in ("timm", "sentence") and rest):
        return kind, colon, rest
    raise InputError(
        f"must be small, timm:NAME, sentence:NAME-OR-FOLDER or none, got {name!r}.",
        argument="encoder",
    )


def small(item_shape: Sequence[int], embedding_dim: int = 64) -> nn.Module:
    """The small network for items of a shape.

    Images get convolutions and pools until at most 4 pixels are left on the shorter side, all other
    items a dense network.

    Example:
        >>> small((1, 28, 28)).config["layers"]
        [32, 'pool', 64, 'pool', 128, 'pool']
    """
    if len(item_shape) != 3:
        return MLPEncoder(item_shape, embedding_dim=embedding_dim)
    layers: list[Any] = []
    side = min(item_shape[1:])
    for number in itertools.count():
        layers.append(WIDTHS[min(number, len(WIDTHS) - 1)])
        if side > SMALLEST_MAP:
            layers.append("pool")
            side //= 2
        if side <= SMALLEST_MAP and number:  # two at least
            break
    return ConvEncoder(
        item_shape, layers=layers, pool_before_norm=True, embedding_dim=embedding_dim
    )


def new_head(head: str, features: int | None, embedding_dim: int | None = None) -> nn.Module:
    """The layers behind an encoder, "linear" or "mlp", from features to unit length.

    A linear head keeps the features at first as far as its size allows: its weights start
    orthogonal. A hidden layer has as many units as there are features.
    """
    features = features or 1
    made = MLPEncoder(
        (features,),
        hidden=() if head == "linear" else (features,),
        embedding_dim=embedding_dim or features,
        norm=None,
    )
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return made


def preprocess_of(
    name: str, *, channels: int = 3, image_size: Sequence[int] | int | None = None
) -> dict[str, Any] | None:
    """How an encoder by name reads images, as the arguments of `likewise.data.Preprocess`.

    None where nothing of the name tells: the small network is normalized by its training data,
    and vectors pass as they are.
    """
    kind, _, rest = parsed(name)
    return settings_for(rest, channels, image_size) if kind == "timm" else None


def missing(name: str, weights: str | Path | None = None) -> str | None:
    """Why the weights of an encoder by name cannot be had, in one line; None where they can be."""
    kind, _, rest = parsed(name)
    return _finding.missing_weights(rest) if kind == "timm" and weights is None else None


def _of_timm(
    name: str,
    item_shape: Sequence[int] | None,
    trainable: str,
    weights: str | Path | None,
    pretrained: bool,
    tell: Callable[[str], None] | None,
    pooling: str | None,
) -> tuple[Backbone, int]:
    if item_shape is not None and len(item_shape) != 3:
        raise InputError(
            f"encoder must fit items of shape {tuple(item_shape)}, got 'timm:{name}', which is for "
            "images. Use small or none."
        )
    if weights is None and pretrained:
        weights = _finding.local_weights(name)
        if weights is None and tell is not None:
            _finding.tell_of_fetching(name, tell)
    made = backbone(
        name,
        pretrained=pretrained,
        weights=weights,
        trainable=trainable,
        channels=3 if item_shape is None else item_shape[0],
        image_size=None if item_shape is None else item_shape[1:],
        pooling=pooling,
    )
    return made, made.embedding_dim


def _width(item_shape: Sequence[int] | None, head: str) -> int | None:
    if item_shape is None:
        if head == "none":
            return None
        raise InputError(
            "item_shape must be given for a head behind vectors, got none. Use data.item_shape."
        )
    if len(item_shape) != 1:
        raise InputError(
            f"encoder must fit items of shape {tuple(item_shape)}, got 'none', which is for "
            "vectors. Use small."
        )
    return item_shape[0]


def _check_small(train: str | None, head: str, weights: object) -> None:
    if train not in (None, "all"):
        raise InputError(
            f"must be all for the encoder small, which is not pretrained, got {train!r}.",
            argument="train",
        )
    if head != "none":
        raise InputError(
            f"must be none for the encoder small, which has one, got {head!r}.", argument="head"
        )
    if weights is not None:
        raise InputError("weights must be left out for the encoder small, got some.")
