"""A loss of a batch that several processes share, so that their gradients add up to its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise._shares import Share, everything, parted
from likewise.training.processes import Processes


class Parted:
    """A loss as it is called with the rows that are here: what they add to that of the batch.

    Args:
        loss: Any loss.
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss
        self.takes_pairs = bool(getattr(loss, "takes_pairs", False))

    def __call__(self, *given: Any, **named: Any) -> Tensor:
        """The part of the loss that is here; see `_shares.parted`."""
        if len(given) == 4:  # keys of the other tower are shared as well
            given = (*given[:2], *map(everything, given[2:]))
        return parted(self.loss, *given, **named)


def share(processes: Processes, rows: Sequence[int], views: int) -> Share | None:
    """How a batch is shared, by the number of its rows on each process; None by one process."""
    if processes.count == 1:
        return None

    def gather(here: Tensor) -> Tensor:
        gathered: Tensor = _Gathered.apply(here, rows, processes)  # type: ignore[no-untyped-call]
        return gathered

    return Share(
        processes=processes.count,
        first=sum(rows[: processes.rank]),
        rows=rows[processes.rank],
        total=sum(rows),
        views=views,
        gather=gather,
        add=processes.add,
    )


def facts_of_all(
    steps: dict[str, Tensor], shares: Tensor, processes: Processes
) -> dict[str, Tensor]:
    """What the steps of all processes tell, from what those of this one do.

    Parts of a loss add up, the smallest is the smallest of all, and of what else there is the mean
    counts by rows.

    Args:
        steps: A number of each step, by its name.
        shares: Part of the rows of each step that is here.
        processes: The processes.
    """
    told: dict[str, Tensor] = {}
    for name, numbers in steps.items():
        last = name.rpartition("/")[2]
        if last == "loss":
            told[name] = processes.add(numbers)
        elif last.startswith("smallest_"):
            told[name] = processes.least(numbers)
        elif last.startswith("largest_"):
            told[name] = processes.most(numbers)
        else:
            told[name] = processes.add(numbers * shares)
    for name in told:
        of, _, last = name.rpartition("gap")
        if not last and not of.endswith("mean_") and f"{of}smallest_negative" in told:
            told[name] = told[f"{of}smallest_negative"] - told[f"{of}largest_positive"]
    return told


class _Gathered(torch.autograd.Function):
    """The rows of all processes; backward, each has the sum of what all processes ask of its own.

    A process of a larger share has one row more, so all send as many as that.
    """

    @staticmethod
    def forward(ctx: Any, here: Tensor, rows: Sequence[int], processes: Processes) -> Tensor:
        ctx.processes, ctx.rows = processes, rows
        sent = here.to(torch.uint8) if here.dtype == torch.bool else here
        missing = max(rows) - len(here)
        if missing:
            sent = torch.cat([sent, sent.new_zeros(missing, *sent.shape[1:])])
        every = processes.stacked(sent)
        parts = [part[:count] for part, count in zip(every, rows, strict=True)]
        return torch.cat(parts).to(here.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        wide = slopes.to(torch.promote_types(slopes.dtype, torch.float32))
        whole = ctx.processes.add(wide).to(slopes.dtype)
        first = sum(ctx.rows[: ctx.processes.rank])
        return whole[first : first + ctx.rows[ctx.processes.rank]], None, None
