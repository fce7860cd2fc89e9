"""A batch that several processes share: which of its rows are here, and how its loss is parted.

Outside of `sharing`, that is in a training of one process, each function leaves what it is given
as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Number = TypeVar("Number", int, float, Tensor)


class Share:
    """The rows of a batch that one process has.

    Args:
        processes: How many processes share the batch.
        first: Position in the batch of the first row that is here.
        rows: Rows that are here.
        total: Rows of the batch.
        views: Views that a row has; their embeddings come stacked view by view.
        gather: From the rows of a tensor that are here to those of all processes, in order and with
            a gradient.
        add: From a tensor without gradient to its sum over the processes.
    """

    def __init__(
        self,
        *,
        processes: int,
        first: int,
        rows: int,
        total: int,
        views: int,
        gather: Callable[[Tensor], Tensor],
        add: Callable[[Tensor], Tensor],
    ) -> None:
        self.processes = processes
        self.first = first
        self.rows = rows
        self.total = total
        self.views = views
        self.add = add
        self._gather = gather
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}

    def everything(self, rows: Tensor) -> Tensor:
        """The rows of the whole batch, once gathered and then kept."""
        if id(rows) not in self._gathered:
            # The key is the tensor's place in memory, so the tensor stays there.
            self._gathered[id(rows)] = rows, self._ordered(rows)
        return self._gathered[id(rows)][1]

    def _ordered(self, rows: Tensor) -> Tensor:
        # One process stacks the first view of all items, then the second.
        views = len(rows) // self.rows
        if views == 1:
            return self._gather(rows)
        by_item = rows.reshape(views, self.rows, *rows.shape[1:]).transpose(0, 1)
        return self._gather(by_item).transpose(0, 1).flatten(0, 1)

    def here(self, whole: Tensor) -> Tensor | None:
        """The rows that a tensor was gathered from; None if it was not."""
        found = (rows for rows, gathered in self._gathered.values() if gathered is whole)
        return next(found, None)

    def positions(self, count: int, device: torch.device) -> Tensor:
        """Where in the batch the rows lie that are here."""
        own = torch.arange(self.first, self.first + self.rows, device=device)
        starts = torch.arange(count // self.rows, device=device) * self.total
        return (starts[:, None] + own).flatten()


_share: Share | None = None


def current() -> Share | None:
    """The share of the batch that is being worked on; None where no other process has one."""
    return _share


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Within, losses and augmentations know that others have the rest of the batch."""
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def everything(rows: Tensor) -> Tensor:
    """The rows of the whole batch, in order."""
    return rows if _share is None else _share.everything(rows)


def positions(count: int, device: torch.device) -> Tensor:
    """Where in the batch the `count` rows lie that are here."""
    return torch.arange(count, device=device) if _share is None else _share.positions(count, device)


def counted(number: Number) -> Number:
    """A count or a sum of weights over the whole batch, by which a mean is divided."""
    if _share is None:
        return number
    if isinstance(number, Tensor):
        return _share.add(number.detach())
    total = _share.add(torch.tensor(number, dtype=torch.float64)).item()
    return type(number)(total)


def once(value: Tensor) -> Tensor:
    """What each process would add to the loss, so parted that it is added once."""
    return value if _share is None else value / _share.processes


def drawn(count: int, draw: Callable[[int], Tensor], dim: int = -1) -> Tensor:
    """Random numbers for `count` items, those that one process would draw for them.

    Args:
        count: Items.
        draw: From a number of items to random numbers, with a dimension of the items.
        dim: This dimension.
    """
    if _share is None or count != _share.rows:
        return draw(count)
    return draw(_share.total).narrow(dim, _share.first, count)


def by_rows(loss: nn.Module) -> bool:
    """Whether a loss takes rows of a batch apart, as it says itself."""
    return bool(getattr(loss, "by_rows", False))


def parted(loss: nn.Module, *given: Any, **named: Any) -> Tensor:
    """The part of a loss whose sum over the processes is the loss of the whole batch.

    A loss that is taken apart by rows is called with those that are here. Any other is computed by
    every process on the whole batch, and counts for its share.

    Args:
        loss: Any loss.
        *given: What it is called with: rows that are here, but for the third and fourth of four,
            the references and their labels, which are whole.
        **named: Rows that are here, but for what begins with "reference".
    """
    if _share is None or by_rows(loss):
        value: Tensor = loss(*given, **named)
        return value
    share = _share

    def whole(each: Any) -> Any:
        return share.everything(each) if isinstance(each, Tensor) else each

    rows = given[:2] if len(given) == 4 else given
    arguments = [*map(whole, rows), *given[len(rows) :]]
    options = {
        name: each if name.startswith("reference") else whole(each) for name, each in named.items()
    }
    with sharing(None):
        value = loss(*arguments, **options)
    return value / share.processes
