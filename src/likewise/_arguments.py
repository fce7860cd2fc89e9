"""Checks of plain arguments, numbers, words and paths, which need nothing but Python."""

import math
import sys
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

from likewise.errors import ArtifactError, InputError, InputTypeError, MissingFileError


def first_of(words: Iterable[str]) -> str:
    """The first twelve words for a sentence, and a sign that there are more; "none" of none."""
    words = list(words)
    return (", ".join(words[:12]) or "none") + (", …" if len(words) > 12 else "")


def is_finite_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; JSON also has larger ones."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def check_at_least(name: str, value: float, least: float, remedy: str = "") -> None:
    """Refuse a number below `least`, or one that is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InputTypeError(f"must be a number, got {value!r}.", argument=name)
    if value < least:
        raise InputError(f"must be at least {least}, got {value}.", argument=name, remedy=remedy)


def check_count(name: str, value: object, least: int = 1, remedy: str = "") -> None:
    """Refuse anything but a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"must be a whole number, got {value!r}.", argument=name)
    if value < least:
        raise InputError(f"must be at least {least}, got {value}.", argument=name, remedy=remedy)


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"must be a number, got {value!r}.", argument=name)
    if not value > 0 or math.isinf(value):
        raise InputError(f"must be a finite number above 0, got {value}.", argument=name)


def check_number(name: str, value: object) -> None:
    """Refuse anything but a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's are, tensors are not
        raise InputTypeError(f"{name} must be a number, got {value!r}. Use float(...).")
    if not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value}.")


def check_rate(name: str, value: float) -> None:
    """Refuse a number outside [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"must be a number, got {value!r}.", argument=name)
    if not 0 <= value <= 1:
        raise InputError(f"must be between 0 and 1, got {value}.", argument=name)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a word that is not among `choices`."""
    known = tuple(choices)
    if value not in known:
        listed = ", ".join(sorted(known))
        raise InputError(f"must be one of {listed}, got {value!r}.", argument=name)


def check_exists(name: str, path: Path) -> None:
    """Refuse a path at which there is nothing."""
    if not path.exists():
        raise MissingFileError(f"must exist, got {str(path)!r}. Check the spelling.", argument=name)


def check_format(
    what: str, written: object, read: int, error: type[InputError] = ArtifactError
) -> None:
    """Refuse what another version of likewise saved in another format.

    Args:
        what: Name of the kind of thing, and where it is.
        written: Number of the format it says it has.
        read: Number of the only format that this version reads.
        error: Class of what is raised.
    """
    if written != read:
        raise error(
            f"{what} must be of format {read}, got format {written!r}, which another version of "
            "likewise wrote. Read it with that version, or make it anew."
        )


def check_file_target(name: str, path: Path) -> None:
    """Refuse a path that no file can be written to: without a name, a folder, or in none."""
    if not path.name or path.is_dir():
        raise InputError(
            f"must be a file, got the folder {str(path)!r}. Add the name of the file.",
            argument=name,
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
        raise InputError(f"must be a folder, got {got}. Name another.", argument=name)
