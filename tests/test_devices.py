import os

import pytest
import torch

from likewise._devices import chosen_device, need_not_wait
from likewise.errors import InputError
from likewise.training.loop import _accelerator


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one with that many GPUs, and with a Mac's or not."""

    def of(gpus, mps=False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return of


@pytest.mark.parametrize(
    ("gpus", "mps", "asked", "chosen"),
    [
        *((0, False, None, "cpu"), (2, False, None, "cuda"), (0, True, None, "cpu")),
        *((2, False, "cpu", "cpu"), (2, False, "cuda", "cuda"), (2, False, "cuda:1", "cuda:1")),
        *((0, True, "mps", "mps"), (1, False, torch.device("cuda", 0), "cuda:0")),
    ],
)
def test_a_device_goes_by_its_name(machine, gpus, mps, asked, chosen):
    machine(gpus, mps)
    assert chosen_device(asked) == chosen


@pytest.mark.parametrize(
    ("gpus", "asked", "sentence"),
    [
        (1, "cuda:1", r"must be one this machine has \(cpu, cuda, cuda:0\), got 'cuda:1'"),
        (0, "cuda", r"must be one this machine has \(cpu\), got 'cuda'. Use device='cpu'"),
        (0, "mps", r"must be one this machine has \(cpu\), got 'mps'"),
        (1, "gpu", r"must be cpu, cuda, cuda:N or mps, got 'gpu'"),
        (1, 0, r"must be cpu, cuda, cuda:N or mps, got 0"),
        (1, "cuda:", r"must be cpu, cuda, cuda:N or mps, got 'cuda:'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, gpus, asked, sentence):
    machine(gpus)
    with pytest.raises(InputError, match="^device " + sentence):
        chosen_device(asked)


def test_accelerate_takes_the_gpu_that_was_named_and_forgets_it(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert _accelerator("cuda:1", "float32").device == torch.device("cuda:1")
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "cpu"
    machine(0)
    assert _accelerator(None, "float32").device == torch.device("cpu")


def test_only_copies_to_cuda_are_not_waited_for():
    told = {name: need_not_wait(name) for name in ("cpu", "mps", "cuda", "cuda:1")}
    assert told == {"cpu": False, "mps": False, "cuda": True, "cuda:1": True}
    assert need_not_wait(torch.device("cuda", 0))
