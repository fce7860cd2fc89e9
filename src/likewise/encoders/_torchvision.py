"""Imports that load torchvision, where it was built for another torch.

timm and transformers import torchvision where it is installed. Without its compiled part that
fails for want of two operators, which no encoder of this library computes: their names are enough.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

MISSING = "operator torchvision::nms does not exist"
OPERATORS = ("nms", "qnms")
_T = TypeVar("_T")
_declared: list[Any] = []  # operators live as long as their library


def retried(load: Callable[[], _T]) -> _T:
    """What a call that imports gives; after exactly the failure above, of a second call.

    In between, the names of the missing operators are declared. Any other failure, and a second
    one of this kind, is raised as it is.
    """
    try:
        return load()
    except Exception as error:
        if _declared or not any(_is_it(each) for each in _chain(error)):
            raise
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]  # half imported
    return load()


def _is_it(error: BaseException) -> bool:
    # Torch has no type of its own for this error, so its words are all that tells it.
    return isinstance(error, RuntimeError) and str(error) == MISSING


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
