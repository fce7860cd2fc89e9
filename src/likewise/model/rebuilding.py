"""Encoders as descriptions, and built again from them; their weights, and their fingerprint.

A description names classes of this table and their arguments, nested where modules hold others.
Reading one runs no code but the constructors named here.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_args

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from likewise.data import Preprocess
from likewise.encoders import (
    Backbone,
    ConvEncoder,
    FaceEncoder,
    GeneralizedMeanPool1d,
    GeneralizedMeanPool2d,
    MLPEncoder,
    Normalize,
    OverViews,
    PrincipalComponents,
    SelectOutput,
    SentenceEncoder,
    SideBySide,
    Truncate,
    Whitening,
    WithFeatures,
)
from likewise.errors import ArtifactError, InputError

MOST_MODULES = 10_000
MOST_VALUES = 1_000  # in the arguments of one module
_HEADER = 1 << 20  # bytes that the names and shapes of some weights take, and 1 KiB for each

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
Whole = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=1 << 31)]
Sizes = Size | list[Size]
Wholes = Whole | list[Whole]


class Described(msgspec.Struct, forbid_unknown_fields=True, rename={"class_": "class"}):
    """A module: its class, its arguments, and the modules it was made of, by name.

    `own` marks a class of the user's, which cannot be built from a description.
    """

    class_: str
    config: dict[str, Any] = {}
    parts: list[tuple[str, "Described"]] = []
    own: bool = False


class _Kind(NamedTuple):
    fields: dict[str, Any]  # arguments with their types
    read: Callable[[Any], Mapping[str, Any]]  # from a module
    make: Callable[..., nn.Module]


def _by_config(make: Callable[..., nn.Module], **fields: Any) -> _Kind:
    return _Kind(fields, lambda module: module.config, make)


def _by_attributes(make: Callable[..., nn.Module], **fields: Any) -> _Kind:
    def read(module: nn.Module) -> dict[str, Any]:
        values = {name: getattr(module, name) for name in fields}
        if "bias" in values:  # the argument says whether there is one
            values["bias"] = values["bias"] is not None
        return values

    return _Kind(fields, read, make)


def _pooling(make: type[GeneralizedMeanPool1d] | type[GeneralizedMeanPool2d]) -> _Kind:
    def read(module: Any) -> dict[str, Any]:
        # A learned p is among the weights; infinity is not JSON.
        learnable = isinstance(module.p, nn.Parameter)
        return {"p": 3.0 if learnable else str(module.p), "learnable": learnable, "eps": module.eps}

    def made(*, p: float | str, learnable: bool, eps: float) -> nn.Module:
        return make(float(p), learnable=learnable, eps=eps)

    return _Kind({"p": float | str, "learnable": bool, "eps": float}, read, made)


def _projection(make: type[Whitening] | type[PrincipalComponents]) -> _Kind:
    def read(module: Any) -> dict[str, Any]:
        return dict(zip(("dim", "kept"), module.directions.shape, strict=True))

    def made(*, dim: int, kept: int) -> nn.Module:
        return make(torch.empty(dim), torch.empty(dim, kept))

    return _Kind({"dim": Size, "kept": Size}, read, made)


_Dense = TypedDict("_Dense", {"in": Size, "out": Size, "bias": bool, "activation": str})


_NORM = {"eps": float, "momentum": float | None, "affine": bool, "track_running_stats": bool}
_CONVOLUTION = {
    "in_channels": Size,
    "out_channels": Size,
    "kernel_size": Sizes,
    "stride": Sizes,
    "padding": Wholes | str,
    "dilation": Sizes,
    "groups": Size,
    "bias": bool,
    "padding_mode": str,
}
_DROPOUT = {"p": float, "inplace": bool}
_KINDS: dict[type[nn.Module], _Kind] = {
    Backbone: _by_config(
        Backbone,
        name=str,
        trainable=str,
        cut=str | None,
        channels=Annotated[int, msgspec.Meta(ge=1, le=1024)],
        image_size=list[Annotated[int, msgspec.Meta(ge=1, le=4096)]],
        embedding_dim=Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] | None,
        normalize=bool,
        pooling=Literal["average", "max", "gem"] | msgspec.UnsetType,
    ),
    ConvEncoder: _by_config(
        ConvEncoder,
        input_shape=list[Size],
        layers=list[Size | Literal["pool"]],
        kernel_size=Sizes,
        padding=str,
        activation=str,
        norm=str | list[str | None] | None,
        pool_before_norm=bool,
        norm_after_activation=bool,
        dropout=float,
        pooling=str,
        hidden=list[Size],
        embedding_dim=Size,
        normalize=bool,
    ),
    MLPEncoder: _by_config(
        MLPEncoder,
        input_shape=list[Size],
        hidden=list[Size],
        embedding_dim=Size,
        activation=str,
        norm=str | None,
        dropout=float,
        normalize=bool,
    ),
    SentenceEncoder: _by_config(
        SentenceEncoder,
        architecture=str,
        settings=dict[str, Any],
        pooling=list[str],
        max_length=Size | None,
        lower_case=bool,
        prompt=str,
        dense=list[_Dense],
        normalize=bool,
        uses_types=bool,
        padding=tuple[Whole, str, Literal["left", "right"]],
        tokenizer_bytes=Annotated[int, msgspec.Meta(ge=0, le=1 << 28)],
        trainable=str,
    ),
    FaceEncoder: _by_attributes(FaceEncoder, weights=str),
    GeneralizedMeanPool1d: _pooling(GeneralizedMeanPool1d),
    GeneralizedMeanPool2d: _pooling(GeneralizedMeanPool2d),
    Normalize: _by_attributes(Normalize),
    Truncate: _by_attributes(Truncate, dim=Size, normalize=bool),
    PrincipalComponents: _projection(PrincipalComponents),
    Whitening: _projection(Whitening),
    nn.AdaptiveAvgPool2d: _by_attributes(nn.AdaptiveAvgPool2d, output_size=Sizes),
    nn.AdaptiveMaxPool2d: _by_attributes(
        nn.AdaptiveMaxPool2d, output_size=Sizes, return_indices=bool
    ),
    nn.AvgPool2d: _by_attributes(
        nn.AvgPool2d, kernel_size=Sizes, stride=Sizes, padding=Wholes, ceil_mode=bool
    ),
    nn.BatchNorm1d: _by_attributes(nn.BatchNorm1d, num_features=Size, **_NORM),
    nn.BatchNorm2d: _by_attributes(nn.BatchNorm2d, num_features=Size, **_NORM),
    nn.Conv1d: _by_attributes(nn.Conv1d, **_CONVOLUTION),
    nn.Conv2d: _by_attributes(nn.Conv2d, **_CONVOLUTION),
    nn.Dropout: _by_attributes(nn.Dropout, **_DROPOUT),
    nn.Dropout2d: _by_attributes(nn.Dropout2d, **_DROPOUT),
    nn.ELU: _by_attributes(nn.ELU, alpha=float, inplace=bool),
    nn.Flatten: _by_attributes(nn.Flatten, start_dim=Whole, end_dim=Whole),
    nn.GELU: _by_attributes(nn.GELU, approximate=str),
    nn.Identity: _by_attributes(nn.Identity),
    nn.LayerNorm: _by_attributes(
        nn.LayerNorm, normalized_shape=list[Size], eps=float, elementwise_affine=bool, bias=bool
    ),
    nn.LeakyReLU: _by_attributes(nn.LeakyReLU, negative_slope=float, inplace=bool),
    nn.Linear: _by_attributes(nn.Linear, in_features=Size, out_features=Size, bias=bool),
    nn.MaxPool2d: _by_attributes(
        nn.MaxPool2d,
        kernel_size=Sizes,
        stride=Sizes,
        padding=Wholes,
        dilation=Sizes,
        return_indices=bool,
        ceil_mode=bool,
    ),
    nn.PReLU: _by_attributes(nn.PReLU, num_parameters=Size),
    nn.ReLU: _by_attributes(nn.ReLU, inplace=bool),
    nn.Sigmoid: _by_attributes(nn.Sigmoid),
    nn.SiLU: _by_attributes(nn.SiLU, inplace=bool),
    nn.Tanh: _by_attributes(nn.Tanh),
}
_HOLDERS: dict[type[nn.Module], dict[str, Any]] = {
    nn.Sequential: {},
    OverViews: {"pixels": Whole, "mirrored": bool},
    SelectOutput: {"key": Whole | str},
    SideBySide: {"weights": list[float]},
    WithFeatures: {"weight": float},
}
_ONLY_PART: dict[type[nn.Module], str] = {
    OverViews: "encoder",
    SelectOutput: "module",
    WithFeatures: "encoder",
}
_CLASSES = {known.__name__: known for known in (*_KINDS, *_HOLDERS)}


class LeftOut(nn.Module):
    """In the place of an encoder that was not built: its class and its weights, to be told of.

    Args:
        described: The encoder's description.
        stored: Its tensors by name.
    """

    def __init__(self, described: Described, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.name = described.class_
        self.own = described.own
        self.stored = nn.ParameterList(
            nn.Parameter(value, requires_grad=False)
            for of, value in stored.items()
            if value.is_floating_point() and not of.endswith(("running_mean", "running_var"))
        )

    def forward(self, items: Tensor) -> Tensor:
        """Refuse."""
        raise ArtifactError(f"encoder must be built to embed, got {self.name} left out. Load it.")


def unwrapped(encoder: nn.Module) -> nn.Module:
    """The module inside of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while (inner := _wrapped(encoder)) is not None:
        encoder = encoder.get_submodule(inner)
    return encoder


def describe(encoder: nn.Module) -> Described:
    """The description of an encoder, by which it can be built again unless it is `own`."""
    plain = unwrapped(encoder)
    found = _described(plain)
    if found is None or not _is_true(found, plain):
        return Described(type(plain).__name__, own=True)
    return found


def rebuild(described: Described) -> nn.Module:
    """The module of a description, its weights without memory where that can be.

    Raises:
        ArtifactError: it needs a package that is not installed.
        InputError: the arguments are none that the class takes.
    """
    with torch.device("meta"):
        return _rebuilt(described, iter(range(MOST_MODULES)))


def weights(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights by the names that they have in the unwrapped encoder."""
    found = {name: value for name, value in _state(encoder).items() if value is not None}
    for name, value in found.items():
        if not isinstance(value, Tensor) or is_lazy(value):
            raise ArtifactError(
                f"encoder must have tensors only for its state, got {type(value).__name__} for "
                f"{name!r}. Call it once, or keep the rest elsewhere."
            )
        if value.dtype not in _STORED:
            raise ArtifactError(
                f"encoder must have weights of a type that can be stored, got {value.dtype} for "
                f"{name!r}. Convert it."
            )
    return {name: value.detach() for name, value in found.items()}


def packed(named: Mapping[str, Tensor]) -> bytes:
    """Tensors as a safetensors file; what shares memory is stored for each name."""
    seen: set[int] = set()
    stored = {}
    for name, value in named.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        stored[name] = tensor.clone() if storage in seen or not whole else tensor
        seen.add(storage)
    return safetensors.torch.save(stored)


def unpacked(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is none.
    """
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"content must be a whole safetensors file, got one that is not: {error}."
        ) from error


def layouts(encoder: nn.Module) -> dict[str, list[int]]:
    """Strides of the weights that do not lie in memory row by row; other ones sum otherwise."""
    return {
        name: list(value.stride())
        for name, value in weights(encoder).items()
        if value.stride() != _row_by_row(value.shape) and _is_dense(value.shape, value.stride())
    }


def most_bytes(encoder: nn.Module) -> int:
    """What the file of the encoder's weights can have at most."""
    numbers = [value.numel() for value in _state(encoder).values() if isinstance(value, Tensor)]
    return 8 * sum(numbers) + 1024 * len(numbers) + _HEADER


def fill(
    encoder: nn.Module, stored: Mapping[str, Tensor], strides: Mapping[str, Sequence[int]]
) -> None:
    """Give the encoder weights, with their types and in their layouts.

    Raises:
        InputError: the weights are those of another architecture.
    """
    there = _state(encoder)
    if there.keys() != stored.keys() or not strides.keys() <= stored.keys():
        raise InputError("the weights have other names")
    laid = {}
    for name, value in stored.items():
        if value.shape != there[name].shape or _kind(value) != _kind(there[name]):
            raise InputError(f"{name} is of another shape or kind")
        if name in strides:
            if not _is_dense(value.shape, strides[name]):
                raise InputError(f"{name} has strides that leave gaps")
            value = torch.empty_strided(value.shape, strides[name], dtype=value.dtype).copy_(value)
        laid[name] = value
    if any(value.is_meta for value in there.values()):
        encoder.load_state_dict(laid, assign=True)
        return
    for name, value in laid.items():
        # Not copied into: that would keep the type, and the layout, of a fresh one. Weights that
        # are one tensor under two names stay one.
        there[name].data = value.to(there[name].device)


def encoder_fingerprint(encoder: nn.Module) -> str:
    """By which an encoder is known again: a hash of its class, its arguments and its weights."""
    plain = unwrapped(encoder)
    found = _described(plain)
    config = getattr(plain, "config", None)
    if found is not None and type(plain) not in (Backbone, ConvEncoder, MLPEncoder):
        config = msgspec.to_builtins(found)
    digest = hashlib.sha256(type(plain).__name__.encode())
    digest.update(json.dumps(config, sort_keys=True, default=lambda value: None).encode())
    for name, weight in sorted(weights(encoder).items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def embedding_fingerprint(encoder: nn.Module, preprocess: Preprocess | None) -> str:
    """By which embeddings are known to be of one kind: the encoder's, with what is done before it.

    Example:
        >>> embedding_fingerprint(nn.Identity(), None) == embedding_fingerprint(nn.Identity(), None)
        True
    """
    before = None if preprocess is None else preprocess.to_dict()
    made_by = json.dumps([encoder_fingerprint(encoder), before])
    return hashlib.sha256(made_by.encode()).hexdigest()[:32]


_STORED = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
}


def _wrapped(module: nn.Module) -> str | None:
    """The name under which a wrapper holds the module that it wraps."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "module"
    # Its class, of torch._dynamo, takes a second to import.
    return "_orig_mod" if type(module).__name__ == "OptimizedModule" else None


def _state(encoder: nn.Module) -> dict[str, Any]:
    prefixes = {}
    for path, module in encoder.named_modules(remove_duplicate=False):
        if (inner := _wrapped(module)) is not None:
            before = f"{path}." if path else ""
            prefixes[f"{before}{inner}."] = before
    state = {}
    for name, value in encoder.state_dict(keep_vars=True).items():
        for prefix in sorted(prefixes, key=len, reverse=True):
            if name.startswith(prefix):
                name = prefixes[prefix] + name[len(prefix) :]
        state[name] = value
    return state


def _described(module: nn.Module) -> Described | None:
    module = unwrapped(module)
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    name = type(module).__name__
    if type(module) in _HOLDERS:
        config = {field: getattr(module, field) for field in _HOLDERS[type(module)]}
        parts = [(of, _described(child)) for of, child in module.named_children()]
        if len(parts) < len(module._modules):  # one module in two places
            return None
        kept = [(of, part) for of, part in parts if part is not None]
        return Described(name, config, kept) if len(kept) == len(parts) else None
    if type(module) not in _KINDS:
        return None
    config = dict(_KINDS[type(module)].read(module))
    return Described(name, {field: _listed(value) for field, value in config.items()})


def _is_true(described: Described, module: nn.Module) -> bool:
    """Whether a description gives the module's structure, which may have been changed since."""
    if _holds_pretrained(described):
        return True
    try:
        made = rebuild(_read_back(described))
    except (InputError, msgspec.ValidationError):
        return False
    return list(_structure(made)) == list(_structure(module)) and {
        name: value.shape for name, value in _state(made).items()
    } == {name: getattr(value, "shape", None) for name, value in _state(module).items()}


def _read_back(described: Described) -> Described:
    return msgspec.json.decode(msgspec.json.encode(described), type=Described)


def _structure(module: nn.Module, path: str = "") -> Iterator[tuple[str, str, str]]:
    module = unwrapped(module)
    yield path, type(module).__name__, module.extra_repr()
    for name, child in module.named_children():
        yield from _structure(child, f"{path}.{name}")


def _holds_pretrained(described: Described) -> bool:
    """Whether other packages make part of it, which takes too long to make for a comparison."""
    return described.class_ in (Backbone.__name__, SentenceEncoder.__name__) or any(
        _holds_pretrained(part) for _, part in described.parts
    )


def _rebuilt(described: Described, left: Iterator[int]) -> nn.Module:
    known = _CLASSES.get(described.class_)
    if known is None or described.own or next(left, None) is None:
        raise InputError(f"class must be one of this library's, got {described.class_!r}.")
    arguments = _arguments(known, described.config)
    if known in _KINDS:
        if described.parts:
            raise InputError(f"{described.class_} must have no parts, got some.")
        return _made(_KINDS[known].make, arguments)
    parts = [(name, _rebuilt(part, left)) for name, part in described.parts]
    if len({name for name, _ in parts}) < len(parts) or not all(
        name and "." not in name for name, _ in parts
    ):
        raise InputError("parts must have names of their own, got others.")
    if known in _ONLY_PART:
        if [name for name, _ in parts] != [_ONLY_PART[known]]:
            raise InputError(f"{known.__name__} must have one part, got others.")
        return _made(functools.partial(known, parts[0][1]), arguments)
    if known is SideBySide:
        if [name for name, _ in parts] != [str(number) for number in range(len(parts))]:
            raise InputError("parts must be numbered, got others.")
        return _made(functools.partial(known, [part for _, part in parts]), arguments)
    sequence = nn.Sequential()
    for name, part in parts:
        if hasattr(sequence, name):
            raise InputError(f"parts must have names that are free, got {name!r}.")
        sequence.add_module(name, part)
    return sequence


def _made(make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        # Both build some networks by looking at numbers, or with buffers that are not saved.
        if make in (Backbone, SentenceEncoder):
            with torch.device("cpu"):
                return make(**arguments)
        return make(**arguments)
    except ImportError as error:  # a backbone without timm
        raise ArtifactError(str(error)) from error
    except InputError:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        # Torch has its own words for what its layers do not take, and for sizes beyond memory.
        raise InputError(f"the arguments do not fit together: {error}") from error


def _arguments(known: type[nn.Module], config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a description, each of the type that the class takes."""
    values = sum(len(value) if isinstance(value, list) else 1 for value in config.values())
    if values > MOST_VALUES:
        raise InputError(f"a module must have at most {MOST_VALUES} arguments, got {values}.")
    try:
        read = msgspec.convert(config, _schema(known.__name__))
    except msgspec.ValidationError as error:
        raise InputError(
            f"the arguments of {known.__name__} are of other types: {error}"
        ) from error
    found = {name: getattr(read, name) for name in read.__struct_fields__}
    found = {name: value for name, value in found.items() if value is not msgspec.UNSET}
    if any(isinstance(value, float) and not math.isfinite(value) for value in found.values()):
        raise InputError(f"the arguments of {known.__name__} must be finite, got others.")
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }


@functools.cache
def _schema(name: str) -> type[msgspec.Struct]:
    known = _CLASSES[name]
    fields = _HOLDERS[known] if known in _HOLDERS else _KINDS[known].fields
    # An argument that came later may be left out; such stand last.
    listed: list[Any] = [
        (each, kind, msgspec.UNSET) if msgspec.UnsetType in get_args(kind) else (each, kind)
        for each, kind in fields.items()
    ]
    return msgspec.defstruct(name, listed, forbid_unknown_fields=True)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.dtype == torch.bool


def _row_by_row(shape: Sequence[int]) -> tuple[int, ...]:
    return torch.empty(tuple(shape), device="meta").stride()


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the strides give each entry a place of its own, and leave none between."""
    if len(strides) != len(shape) or any(not 0 < stride <= 1 << 62 for stride in strides):
        return False
    step = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
