"""Items read for one pass, with a sentence for each that cannot be read."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from likewise import _workers
from likewise.data.datasets import fetch
from likewise.data.images import ImageFiles
from likewise.data.parts import Subset
from likewise.errors import InputError


class Attempt(NamedTuple):
    """What could be read of some items.

    Attributes:
        items: Items that could be read, stacked, or a list of texts; None if none could.
        failures: a sentence for each of the others, by its place among the rows asked for.
    """

    items: Any
    failures: dict[int, str]


class Ask(NamedTuple):
    """Rows of one of several datasets, read together."""

    side: int
    rows: Sequence[int]


def attempts(sides: Sequence[Any], asks: Sequence[Ask], *, workers: int = 0) -> Iterator[Attempt]:
    """What could be read of each of `asks`, in order, by as many processes as asked for.

    Args:
        sides: Datasets, or items (n, ...).
        asks: Which rows of which of them.
        workers: Processes that read; 0 reads in this one.

    Example:
        >>> from likewise.data.datasets import ArrayDataset
        >>> data = ArrayDataset(torch.eye(3), [0, 1, 2])
        >>> [found.items.shape[0] for found in attempts([data], [Ask(0, [2, 0]), Ask(0, [1])])]
        [2, 1]
    """
    loader = _workers.loader(
        _Asked([unkept(side) for side in sides], asks),
        workers=workers,
        batch_size=1,
        collate=_as_it_is,
        generator=torch.Generator(),  # otherwise each loader draws from the global one
    )
    yield from _workers.batches(loader)


def attempt(data: Any, rows: Sequence[int]) -> Attempt:
    """The items of some rows; where one cannot be read, the others, and its sentence.

    Example:
        >>> files = ImageFiles(["none.png"], [-1], image_size=8, channels=1)
        >>> attempt(files, [0]).failures
        {0: "image 'none.png' must exist, got no such file. Check the path."}
    """
    try:
        return Attempt(_fetched(data, rows), {})
    except (InputError, OSError):
        if len(rows) == 1:
            return _one(data, rows[0])
    found = [_one(data, row) for row in rows]
    failures = {place: one.failures[0] for place, one in enumerate(found) if one.failures}
    read = [one.items for one in found if not one.failures]
    if not read:
        return Attempt(None, failures)
    if isinstance(read[0], Tensor):
        return Attempt(torch.cat(read), failures)
    return Attempt([text for texts in read for text in texts], failures)


def unkept(data: Any) -> Any:
    """Data of which nothing that was decoded stays in memory, as for a single pass."""
    if isinstance(data, ImageFiles):
        return data.unkept()
    if isinstance(data, Subset) and isinstance(data.data, ImageFiles):
        return Subset(data.data.unkept(), data.source_indices)
    return data


def sentence_of(error: InputError | OSError) -> str:
    """What is wrong with a file or an item, in a sentence."""
    if isinstance(error, InputError) or not error.strerror:
        return str(error)
    return f"file {error.filename!r} must be readable, got: {error.strerror}."


class _Asked(TorchDataset[Attempt]):
    def __init__(self, sides: Sequence[Any], asks: Sequence[Ask]) -> None:
        self.sides, self.asks = sides, asks

    def __len__(self) -> int:
        return len(self.asks)

    def __getitems__(self, indices: Sequence[int]) -> Attempt:
        side, rows = self.asks[indices[0]]
        return attempt(self.sides[side], rows)


def _one(data: Any, row: int) -> Attempt:
    try:
        return Attempt(_fetched(data, [row]), {})
    except (InputError, OSError) as error:
        return Attempt(None, {0: sentence_of(error)})


def _fetched(data: Any, rows: Sequence[int]) -> Any:
    if isinstance(data, Tensor):
        return data[rows.start : rows.stop] if isinstance(rows, range) else data[list(rows)]
    return fetch(data, list(rows)).items


def _as_it_is(batch: Attempt) -> Attempt:
    return batch
