"""What `fit` shows while it trains: a bar, and a line for each epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from likewise import _progress
from likewise.errors import InputTypeError

AfterBatch = Callable[[int, int, int], None]
NAMES = (
    *("loss", "validation_loss", "active", "accuracy", "validation_accuracy"),
    *("positive_distance", "negative_distance"),
)
ENDINGS = ("_map_at_r", "pairs_roc_auc")


class Told(NamedTuple):
    """What to call after each batch, if anything, and after each epoch."""

    batch: AfterBatch | None
    epoch: Callable[[dict[str, float]], None]


@contextmanager
def telling(progress: AfterBatch | bool, epochs: int) -> Iterator[Told]:
    """A bar where `progress` is True and somebody can see it; else what `progress` is.

    Raises:
        InputTypeError: It is neither a function nor True or False.
    """
    if not (callable(progress) or isinstance(progress, bool)):
        raise InputTypeError(
            f"progress must be True, False or a function, got {type(progress).__name__}. "
            "Use False to show nothing."
        )
    if callable(progress):
        yield Told(progress, lambda record: None)
    elif progress and _progress.visible():
        with _progress.bar("training") as bar:

            def after_batch(epoch: int, batch: int, batches: int) -> None:
                bar((epoch - 1) * batches + batch, epochs * batches)

            yield Told(after_batch, lambda record: bar.say(epoch_line(record)))
    else:
        yield Told(None, lambda record: None)


def epoch_line(record: dict[str, float]) -> str:
    """An epoch in one line.

    Example:
        >>> epoch_line({"epoch": 2, "loss": 0.25, "validation_loss": 0.5, "seconds": 1.0})
        'epoch 2: loss 0.25, validation_loss 0.5 (1.0 s)'
    """
    names = [*NAMES, *(name for name in record if name.endswith(ENDINGS))]
    told = [f"{name} {record[name]:.4g}" for name in names if name in record]
    return f"epoch {record['epoch']:.0f}: {', '.join(told)} ({record['seconds']:.1f} s)"
