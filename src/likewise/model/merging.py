"""Two changes of one saved model: both kept where they touch different parts of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from likewise.errors import InputError

Units = dict[str, Any]  # by name what of a model changes as a whole, as JSON has it
ENCODER = "the encoder"  # with all that embeds and compares; every other unit rests on it


class Kept(NamedTuple):
    """What a model last had in common with a folder: whose lineage, and each unit."""

    key: str
    units: Units


def merged(base: Units, ours: Units, theirs: Units) -> dict[str, bool]:
    """By unit whether it is to be taken from ours, False for theirs; a unit may be missing.

    Args:
        base: What both come from.
        ours: What one makes of it.
        theirs: What another made of it meanwhile.

    Raises:
        InputError: both changed the same; the sentence is that unit's name.

    Example:
        >>> base = {ENCODER: 1, "the index": 1}
        >>> merged(base, {ENCODER: 1, "the index": 2}, {ENCODER: 1, "the index": 1, "more": 1})
        {'the encoder': True, 'the index': True, 'more': False}
    """
    names = dict.fromkeys([*ours, *theirs, *base])
    we_changed = [name for name in names if _differ(name, ours, base)]
    they_changed = [name for name in names if _differ(name, theirs, base)]
    for name in we_changed:
        if name in they_changed and _differ(name, ours, theirs):
            raise InputError(name)
    # What rests on one encoder would meet another.
    if we_changed and they_changed and _differ(ENCODER, ours, theirs):
        raise InputError(ENCODER)
    return {name: name in we_changed or name not in they_changed for name in names}


_MISSING = object()


def _differ(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a.get(name, _MISSING) != b.get(name, _MISSING))
