"""An array that grows at its end."""

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNED = 64  # bytes


class GrowingArray:
    """Rows that take others behind them in amortized constant time.

    What `view` returned stays as it was: appending writes behind it, keeping makes a new array.

    Args:
        rows: the first; kept themselves, not a copy, where there is no more `room`.
        room: Number of rows that fit before all must be copied to make room.
    """

    def __init__(self, rows: npt.NDArray[Any], *, room: int = 0) -> None:
        self._buffer = rows
        self._count = len(rows)
        self.reserve(room)

    def __len__(self) -> int:
        return self._count

    @property
    def view(self) -> npt.NDArray[Any]:
        """The rows, sharing memory; not to be written to."""
        return self._buffer[: self._count]

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Copy `rows` behind those there are."""
        count = self._count + len(rows)
        if count > len(self._buffer):
            self.reserve(max(count, 2 * len(self._buffer)))
        self._buffer[self._count : count] = rows
        self._count = count

    def reserve(self, room: int) -> None:
        """Make room for `room` rows in all."""
        if room > len(self._buffer):
            grown = self._empty(room)
            grown[: self._count] = self.view
            self._buffer = grown

    def keep(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Leave only the rows that `chosen`, one boolean each, marks."""
        (at,) = chosen.nonzero()
        kept = self._empty(len(at))
        self.view.take(at, axis=0, out=kept, mode="clip")  # another mode makes a second copy
        self._buffer, self._count = kept, len(at)

    def _empty(self, count: int) -> npt.NDArray[Any]:
        # Memory that begins at such an address makes torch's products fast.
        shape = count, *self._buffer.shape[1:]
        size = math.prod(shape) * self._buffer.itemsize
        if size > sys.maxsize - ALIGNED:  # where NumPy speaks of a dimension
            raise MemoryError(f"{size} bytes")
        room = np.empty(size + ALIGNED, dtype=np.uint8)
        start = -room.ctypes.data % ALIGNED
        return room[start : start + size].view(self._buffer.dtype).reshape(shape)
