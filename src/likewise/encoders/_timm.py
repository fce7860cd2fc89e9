"""What backbones ask of timm: settings, networks, weights, cutting; imported when used."""

import difflib
import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from likewise._checks import check_exists
from likewise.encoders._pickled import SUFFIXES, read_pickled
from likewise.encoders._torchvision import retried
from likewise.errors import InputError, InputTypeError, MissingExtra


def _timm() -> Any:
    try:
        return retried(lambda: importlib.import_module("timm"))
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"timm must be installed for backbones, got no module {error.name!r}. "
            'Use pip install "likewise[backbones]".'
        ) from error
    except Exception as error:  # torchvision fails in many ways, depending on versions
        raise MissingExtra(
            f"torchvision must be built for the installed torch, {torch.__version__}, "
            f"got: {error}. Install both from one place, for a CPU with "
            "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu."
        ) from error


def settings_of(name: str) -> Any:
    """What timm knows about the network and its pretrained weights."""
    timm = _timm()
    if not isinstance(name, str):
        raise InputTypeError(f"name must be a name of timm.list_models(), got {name!r}.")
    try:
        # Names with a prefix would send timm to the network, or to a folder.
        if timm.is_model(name):
            return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError:  # a tag that is not there
        pass
    names = [*timm.list_models(), *timm.list_models(pretrained=True)]
    raise InputError(
        f"name must be one of timm.list_models(), got {name!r}.{near(name, names)} "
        "A newer timm may know more."
    )


def framing_of(settings: Any, size: Sequence[int]) -> dict[str, Any]:
    """How images are brought to a size for these weights, as the arguments of `data.Framing`."""
    height, width = size
    known = settings.interpolation
    return {
        "height": height,
        "width": width,
        "crop": settings.crop_pct or 0.875,  # what timm takes where nothing is said
        "mode": settings.crop_mode or "center",
        "interpolation": "bicubic" if known in (None, "", "random") else known,
        "fill": [float(value) for value in settings.mean],
    }


def created(name: str, channels: int, size: Sequence[int], **options: Any) -> nn.Module:
    """The network, made by timm."""
    # Others take images of any size and know no such argument.
    fixed = {"img_size": tuple(size)} if settings_of(name).fixed_input_size else {}
    try:
        network = _timm().create_model(name, in_chans=channels, **fixed, **options)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise unsuited(name, channels, size) from error
    return network  # type: ignore[no-any-return]


def unsuited(name: str, channels: int, size: Sequence[int]) -> InputError:
    """The sentence for images that a network does not take."""
    return InputError(
        f"channels and image_size must suit {name}, got {channels} and {tuple(size)}. "
        "Leave them out for those of its pretrained weights."
    )


def weights_of_file(
    name: str, channels: int, size: Sequence[int], path: Path
) -> Mapping[str, Tensor]:
    """All weights of the network, from a file of them with or without a classifier's.

    Those of a pickled file may have other names, if their order and their shapes are the network's.
    """
    if path.suffix in SUFFIXES:
        return _weights_of_pickled(name, channels, size, path)
    if path.suffix != ".safetensors":
        raise InputError(
            f"weights must be a .safetensors, {', '.join(SUFFIXES)} file, got {str(path)!r}. "
            "Save them with safetensors.torch.save_file."
        )
    check_exists("weights", path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"weights must be a whole .safetensors file, got {str(path)!r}. Copy it again."
        ) from error
    known = settings_of(name).classifier
    classifier = known if isinstance(known, str) else next(iter(known or ()), "")
    # With as many classes as the file has, timm loads strictly: no weight missing, none left over.
    classes = shapes.get(f"{classifier}.weight", [0])[0]
    source = {"file": str(path), "num_classes": classes, "label_offset": 0}
    try:
        network = created(name, channels, size, pretrained=True, pretrained_cfg_overlay=source)
    except Exception as error:  # besides missing ones, timm's converters stumble in their own ways
        raise InputError(
            f"weights must be those of {name} for {channels} channels and images of {size}, "
            f"got others in {str(path)!r}. Name the network that they were saved from."
        ) from error
    return network.state_dict()


def _weights_of_pickled(
    name: str, channels: int, size: Sequence[int], path: Path
) -> Mapping[str, Tensor]:
    stored = read_pickled(path)
    expected = created(name, 3, size, num_classes=0).state_dict()
    if len(stored) > len(expected):  # with a classifier, which comes last
        classes = list(stored.values())[-1].shape[:1]
        expected = created(name, 3, size, num_classes=next(iter(classes), 1)).state_dict()
    by_name = expected.keys() == stored.keys()
    values = [stored[key] for key in expected] if by_name else list(stored.values())
    shapes = [value.shape for value in expected.values()]
    if [value.shape for value in values] != shapes:
        raise InputError(
            f"weights must be those of {name}, or have its shapes in its order, got others in "
            f"{str(path)!r}. Name the network that they were saved from."
        )
    found = dict(zip(expected, values, strict=True))
    first = f"{settings_of(name).first_conv}.weight"
    if channels != 3 and first in found:  # as timm does it with weights of its own
        found[first] = _timm().models.adapt_input_conv(channels, found[first])
    return found


def weights_of_hub(name: str, channels: int, size: Sequence[int]) -> Mapping[str, Tensor]:
    """All weights of the network, as the Hugging Face hub or its cache has them."""
    if not settings_of(name).has_weights:
        raise InputError(
            f"name must be of a network with pretrained weights, got {name!r}. "
            "Use pretrained=False, or one of timm.list_models(pretrained=True)."
        )
    try:
        return created(name, channels, size, pretrained=True).state_dict()
    except Exception as error:  # no network, no such file, a broken one: each of its own kind
        raise FileNotFoundError(
            f"pretrained weights of {name} must be on this machine or be fetched from "
            f"huggingface.co, got {type(error).__name__}. Fetch them once with a network, or give "
            "weights= a .safetensors file, or use pretrained=False."
        ) from error


def unpooled(network: Any, name: str, pooling: str) -> None:
    """Take off a network's own pooling, so that it gives maps or tokens."""
    try:
        network.reset_classifier(0, global_pool="")
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"pooling must be left out for {name}, whose own one cannot be taken off, got "
            f"{pooling!r}."
        ) from error


def cut_at(network: nn.Module, name: str, cut: str) -> nn.Module:
    """The network up to a node; what comes after is gone."""
    models = _timm().models
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the graphs of both modes differ, see below
            _, nodes = models.get_graph_node_names(network)
    except Exception as error:  # tracing fails where code looks at values, in any way
        raise InputError(
            f"cut must be None for {name}, which torch.fx cannot follow, got {cut!r}."
        ) from error
    names = dict.fromkeys(
        ".".join(node.split(".")[:depth])
        for node in nodes
        for depth in range(1, node.count(".") + 2)
    )
    if cut not in names:
        raise InputError(f"cut must name a node of {name}, got {cut!r}.{near(cut, names)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dual = models.create_feature_extractor(network, {cut: cut})
    # One graph for both modes: batch norm and dropout are modules and know the mode themselves.
    (output,) = [node for node in dual.eval_graph.nodes if node.op == "output"]
    output.args = (output.args[0][cut],)
    return torch.fx.GraphModule(dual, dual.eval_graph, type(network).__name__)


def near(name: object, names: Iterable[str]) -> str:
    """The names most like a wrong one, as the end of a sentence."""
    found = difflib.get_close_matches(str(name), list(names), n=5, cutoff=0.5)
    return f" Near it: {', '.join(found)}." if found else ""
