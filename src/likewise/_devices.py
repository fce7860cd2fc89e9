"""The device that computes: a name, checked against what this machine has."""

import re

import torch

from likewise.errors import InputError


def need_not_wait(device: str | torch.device) -> bool:
    """Whether a copy to a device may go on while more is asked for: to CUDA alone it is safe."""
    return torch.device(device).type == "cuda"


def chosen_device(device: str | None) -> str:
    """A device by its name, such as "cuda:1"; the current GPU, else the CPU, if None.

    A Mac's GPU is used on request only: `mps` lacks operations that some losses need.
    """
    gpus = torch.cuda.device_count()
    if device is None:
        return "cuda" if gpus else "cpu"
    asked = str(device)
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", asked):
        raise InputError(
            f"must be cpu, cuda, cuda:N or mps, got {device!r}.",
            argument="device",
            remedy="Leave it out for the best there is.",
        )
    there = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{at}" for at in range(gpus))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if asked not in there:
        raise InputError(
            f"must be one this machine has ({', '.join(there)}), got {asked!r}.",
            argument="device",
            remedy="Use device='cpu'.",
            command="Use --device cpu.",
        )
    return asked
