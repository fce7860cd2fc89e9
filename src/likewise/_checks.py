"""Argument checks whose sentences say what must hold, what came, and what to do."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from likewise.errors import InputError, InputTypeError


def free_to_look(values: Tensor) -> bool:
    """Whether numbers may decide what is done: only where that does not wait for the device."""
    return values.device.type == "cpu"


def is_finite_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; JSON also has larger ones."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def check_embeddings(embeddings: object, name: str = "embeddings") -> None:
    """Refuse anything but a floating, finite tensor of shape (n, d)."""
    if not isinstance(embeddings, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(embeddings).__name__}. "
            "Use torch.as_tensor(...)."
        )
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise InputError(
            f"{name} must have shape (n, d) with d >= 1, got {tuple(embeddings.shape)}. "
            "Flatten other dimensions first, e.g. with .flatten(1)."
        )
    if not embeddings.is_floating_point():
        raise InputTypeError(
            f"{name} must be floating point, got {embeddings.dtype}. Use .float()."
        )


def check_finite(values: Tensor, name: str) -> None:
    """Refuse NaN and infinity. Waits for the device, so not for use inside a training step."""
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(
            f"{name} must be finite, got {bad} NaN or infinite of {values.numel()} values. "
            "Look for a diverged training run or a broken input."
        )


def check_same_width(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Refuse two sets of embeddings of different dimension."""
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{names[1]} must have as many dimensions as {names[0]}, {a.shape[1]}, "
            f"got {b.shape[1]}. Encode both with the same encoder."
        )


def check_labels(labels: object, count: int, name: str = "labels") -> None:
    """Refuse anything but an integer tensor of shape (count,)."""
    if not isinstance(labels, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(labels).__name__}. Use torch.as_tensor(...)."
        )
    if labels.shape != (count,):
        raise InputError(
            f"{name} must have shape ({count},), one per item, got {tuple(labels.shape)}. "
            "Use .flatten() if it holds one label per item already."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputTypeError(f"{name} must be integers, got {labels.dtype}. Use labels.long().")


def check_same(same: object, count: int, name: str = "same") -> None:
    """Refuse anything but a boolean tensor of shape (count,); True is "the same"."""
    if not isinstance(same, Tensor):
        raise InputTypeError(
            f"{name} must be a torch tensor, got {type(same).__name__}. Use torch.as_tensor(...)."
        )
    if same.shape != (count,):
        raise InputError(
            f"{name} must have shape ({count},), one per pair, got {tuple(same.shape)}. "
            "A shape such as (n, 1) would compare every pair with every other."
        )
    if same.dtype != torch.bool:
        raise InputTypeError(
            f"{name} must be boolean, True for the same, got {same.dtype}. "
            "Use `value == 1`, or `value == 0` if your 1 means different."
        )


def check_at_least(name: str, value: float, least: float, remedy: str = "") -> None:
    """Refuse a number below `least`, or one that is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InputTypeError(f"{name} must be a number, got {value!r}.")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}.{_after(remedy)}")


def check_count(name: str, value: object, least: int = 1, remedy: str = "") -> None:
    """Refuse anything but a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be a whole number, got {value!r}.")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}.{_after(remedy)}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"{name} must be a number, got {value!r}.")
    if not value > 0 or math.isinf(value):
        raise InputError(f"{name} must be a finite number above 0, got {value}.")


def check_rate(name: str, value: float) -> None:
    """Refuse a number outside [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"{name} must be a number, got {value!r}.")
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be between 0 and 1, got {value}.")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a word that is not among `choices`."""
    known = sorted(choices)
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def check_exists(name: str, path: Path) -> None:
    """Refuse a path at which there is nothing."""
    if not path.exists():
        raise FileNotFoundError(f"{name} must exist, got {str(path)!r}. Check the spelling.")


def check_file_target(name: str, path: Path) -> None:
    """Refuse a path that no file can be written to: without a name, a folder, or in none."""
    if not path.name or path.is_dir():
        raise InputError(
            f"{name} must be a file, got the folder {str(path)!r}. Add the name of the file."
        )
    check_exists(f"folder of {name}", path.parent)
    if not path.parent.is_dir():
        raise InputError(
            f"folder of {name} must be a folder, got the file {str(path.parent)!r}. "
            "Choose another place."
        )


def check_folder_target(name: str, path: Path) -> None:
    """Refuse a path that is a file, or lies in one."""
    places = (path, *path.parents)
    file = next((p for p in places if (p.exists() or p.is_symlink()) and not p.is_dir()), None)
    if file is not None:
        got = (
            f"the file {str(path)!r}"
            if file == path
            else f"{str(path)!r} in the file {file.name!r}"
        )
        raise InputError(f"{name} must be a folder, got {got}. Name another.")


def _after(remedy: str) -> str:
    return f" {remedy}" if remedy else ""
