"""Batches of a DataLoader whose worker processes hand on what the caller can mend.

Torch keeps the class and the text of what a worker met, and makes an exception of both anew: its
sentence is then somewhere in a traceback.
"""

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from likewise.errors import InputError, MissingExtra


@dataclass(frozen=True)
class _Failed:
    """What stands in the place of a batch that could not be read."""

    error: Exception


class _Handing(TorchDataset[Any]):
    """A dataset that hands on what the caller can mend as if it were a batch."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        try:
            if getattr(self.data, "__getitems__", None) is not None:
                return self.data.__getitems__(indices)
            return [self.data[index] for index in indices]
        except (InputError, OSError, MemoryError, MissingExtra) as error:
            plain = _plain(error)
            plain.add_note("".join(traceback.format_exception(error)))
            return _Failed(plain)


def loader(
    data: Any, *, workers: int, collate: Callable[[Any], Any] = default_collate, **options: Any
) -> DataLoader[Any]:
    """A DataLoader; its batches come from `batches`."""
    if workers == 0:
        return DataLoader(data, collate_fn=collate, **options)
    collate = functools.partial(_collate, collate)
    return DataLoader(_Handing(data), num_workers=workers, collate_fn=collate, **options)


def batches(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader; raises what a worker met as it would be raised without workers."""
    for batch in loader:
        if isinstance(batch, _Failed):
            raise batch.error
        yield batch


def _collate(collate: Callable[[Any], Any], batch: Any) -> Any:
    return batch if isinstance(batch, _Failed) else collate(batch)


def _plain(error: Exception) -> Exception:
    """The same as the nearest class that is known on the other side, whatever its own takes."""
    if isinstance(error, InputError):
        kind = next(
            each for each in type(error).__mro__ if each.__module__ == InputError.__module__
        )
        return kind(  # type: ignore[no-any-return]
            error.sentence, argument=error.argument, remedy=error.remedy, command=error.command
        )
    if isinstance(error, OSError):
        if error.errno is None:
            return OSError(str(error))
        return OSError(error.errno, error.strerror, error.filename)
    return MemoryError(str(error)) if isinstance(error, MemoryError) else MissingExtra(str(error))
