import numpy as np
import pytest
import torch

from likewise import _workers
from likewise.encoders import encode
from likewise.errors import ArtifactError, InputError, MissingExtra


class Unusual(ArtifactError):
    """One that no other process could make again."""

    def __init__(self, first, second):
        super().__init__(f"data must hold {first}, got {second}.", remedy="Look.", command="Use.")
        self.kept = lambda: None


class Raising(torch.utils.data.Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            raise self.make()
        return torch.full((2,), float(index))


def no_space():
    return OSError(28, "No space left on device", "a.png")


CASES = {
    "an input": (lambda: InputError("must be 1.", argument="k"), InputError, "k must be 1."),
    "an unusual one": (lambda: Unusual(1, 2), ArtifactError, "data must hold 1, got 2. Look."),
    "a missing file": (
        lambda: FileNotFoundError(2, "No", "b"),
        FileNotFoundError,
        "[Errno 2] No: 'b'",
    ),
    "a full disk": (no_space, OSError, "[Errno 28] No space left on device: 'a.png'"),
    "an OSError of words": (lambda: OSError("must exist"), OSError, "must exist"),
    "memory": (lambda: MemoryError("none"), MemoryError, "none"),
    "an extra": (lambda: MissingExtra("timm must be"), MissingExtra, "timm must be"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("make", "kind", "told"), CASES.values(), ids=CASES)
def test_a_mistake_in_a_worker_is_raised_as_it_is(make, kind, told, workers):
    with pytest.raises(kind) as raised:
        encode(torch.nn.Identity(), Raising(make), batch_size=2, workers=workers)
    assert str(raised.value) == told
    if isinstance(raised.value, ArtifactError):
        assert raised.value.command == "Use."
    if workers:
        assert "in __getitem__" in raised.value.__notes__[0], "the traceback is not lost"


def test_a_fault_in_a_worker_stays_what_it_is():
    with pytest.raises(ZeroDivisionError, match="Original Traceback"):
        encode(torch.nn.Identity(), Raising(lambda: ZeroDivisionError()), batch_size=2, workers=1)


def test_batches_with_workers_are_those_without():
    data = torch.utils.data.TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    both = [
        list(_workers.batches(_workers.loader(data, workers=workers, batch_size=4)))
        for workers in (0, 1)
    ]
    assert len(both[0]) == 3
    for a, b in zip(*both, strict=True):
        assert all(map(torch.equal, a, b))
    assert np.concatenate([items for items, _ in both[0]]).ravel().tolist() == list(range(10))
