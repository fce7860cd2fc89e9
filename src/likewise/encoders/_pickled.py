"""Weights in pickled files (.pth, .pt, .bin), read as data; no other module reads such files."""

from pathlib import Path

import torch
from torch import Tensor

from likewise._checks import check_exists
from likewise.errors import InputError

SUFFIXES = (".pth", ".pt", ".bin")


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote, by name and in their order.

    torch reads it with `weights_only`: whatever is no tensor or plain value is refused unread.

    Raises:
        InputError: the file holds something else, or is damaged.
        FileNotFoundError: there is no such file.
    """
    check_exists("weights", path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # its parsers raise whatever a file makes them meet
        raise InputError(
            f"weights must be a file of tensors only, got {str(path)!r}. Save state_dict() alone, "
            "best as .safetensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not (
        isinstance(found, dict)
        and found
        and all(isinstance(name, str) for name in found)
        and all(isinstance(value, Tensor) for value in found.values())
    ):
        raise InputError(
            f"weights must be tensors by name, got something else in {str(path)!r}. "
            "Save state_dict() alone."
        )
    return dict(found)
