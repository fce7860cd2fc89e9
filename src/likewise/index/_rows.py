"""A tensor that grows at its end."""

from torch import Tensor


class Rows:
    """Rows that take others behind them in amortised constant time.

    What `view` returned stays as it was: appending writes behind it, keeping makes a new tensor.

    Args:
        rows: the first; `rows` itself is kept, not a copy, where there is no more `room`.
        room: for so many rows in all, before others must be copied to make some.
    """

    def __init__(self, rows: Tensor, *, room: int = 0) -> None:
        self._buffer = rows
        self._count = len(rows)
        if room > len(rows):
            self._buffer = rows.new_empty(room, *rows.shape[1:])
            self._buffer[: len(rows)] = rows

    def __len__(self) -> int:
        return self._count

    @property
    def view(self) -> Tensor:
        """The rows, sharing memory; not to be written to."""
        return self._buffer[: self._count]

    def append(self, rows: Tensor) -> None:
        """Copy `rows` behind those there are."""
        count = self._count + len(rows)
        if count > len(self._buffer):
            room = max(count, 2 * len(self._buffer))
            grown = self._buffer.new_empty(room, *self._buffer.shape[1:])
            grown[: self._count] = self.view
            self._buffer = grown
        self._buffer[self._count : count] = rows
        self._count = count

    def keep(self, chosen: Tensor) -> None:
        """Leave only the rows that `chosen`, one boolean each, marks."""
        self._buffer = self.view[chosen]
        self._count = len(self._buffer)
