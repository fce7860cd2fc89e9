"""Results as plain values for JSON."""

import math
from collections.abc import Mapping

from torch import Tensor

from likewise.intervals import Estimate


def plain(value: object) -> object:
    """A value of a result as JSON has it: estimates as dicts, tensors as lists, nan as None."""
    if isinstance(value, Estimate):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plain_fields(result: object, *names: str) -> dict[str, object]:
    """The named fields of a result, each as `plain` has it."""
    return {name: plain(getattr(result, name)) for name in names}
