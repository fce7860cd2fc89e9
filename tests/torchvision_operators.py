"""Lets timm be imported where torchvision's compiled part does not load: a CPU build of torch."""

import importlib.util
import sys

import torch

_FRAGMENT = torch.library.Library("torchvision", "FRAGMENT")  # operators live as long as it does


def have_timm():
    """Whether timm is there; declares the two operators that torchvision asks for if they are not.

    Only their names matter: nothing that encoders do computes them.
    """
    if importlib.util.find_spec("timm") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]  # half imported
        for operator in ("nms", "qnms"):
            _FRAGMENT.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    return True
