"""Which batches `fit` draws, and what encoder and loss make of one."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import Sampler

from likewise._checks import check_count
from likewise._devices import need_not_wait
from likewise.data import (
    BalancedStream,
    Batch,
    CrossBatch,
    CrossPairs,
    Dataset,
    GivenPairs,
    GivenTriplets,
    IdBatch,
    Subset,
    ViewBatch,
    ViewDataset,
    check_trainable,
)
from likewise.encoders import SiameseNet, TripletNet, TwoTowers
from likewise.errors import InputError
from likewise.samplers import BalancedBatchSampler, ShuffledBatchSampler
from likewise.training.processes import Processes, share_of

SIDES_PER_BATCH = 64  # pairs, triplets or items in views, if no batch_sampler says otherwise


def default_batches(
    data: Dataset | CrossPairs | GivenPairs | GivenTriplets | ViewDataset,
    *,
    classes_per_batch: int | None,
    items_per_class: int | None,
    batches: int | None,
    seed: int,
) -> Sampler[list[int]]:
    """Balanced batches of items; shuffled ones of pairs, triplets and items that are classes.

    Balanced ones hold labeled items only; a warning tells how many others there are.

    Raises:
        InputError: the data cannot train, or classes are asked for where there are none.
    """
    if not has_classes(data):
        if classes_per_batch is not None or items_per_class is not None:
            raise InputError(
                "classes_per_batch and items_per_class must be left out for "
                f"{type(data).__name__}, got {classes_per_batch} and {items_per_class}. "
                "Set the size with batch_sampler=ShuffledBatchSampler(...)."
            )
        size = min(SIDES_PER_BATCH, len(data))
        return ShuffledBatchSampler(len(data), batch_size=size, batches=batches, seed=seed)
    labels = torch.as_tensor(data.labels)
    rows = (labels >= 0).nonzero().flatten()
    check_trainable(Subset(data, rows))  # type: ignore[arg-type]  # views have labels, and no more is read
    classes = len(torch.unique(labels[rows]))
    if classes_per_batch is None:
        classes_per_batch = min(classes, 16)
    check_count("classes_per_batch", classes_per_batch)
    if items_per_class is None:
        items_per_class = max(4, 128 // classes_per_batch)
    return BalancedBatchSampler(
        data.labels,
        classes_per_batch=classes_per_batch,
        items_per_class=items_per_class,
        batches=batches,
        seed=seed,
    )


def has_classes(
    data: Dataset | CrossPairs | GivenPairs | GivenTriplets | ViewDataset,
) -> TypeGuard[Dataset | ViewDataset]:
    """Whether batches can be balanced over classes."""
    views_only = isinstance(data, ViewDataset) and data.items_are_classes
    return not (isinstance(data, (CrossPairs, GivenPairs, GivenTriplets)) or views_only)


class StreamLoader:
    """The batches of a stream on a device, with what `fit` asks of a loader besides."""

    def __init__(self, stream: BalancedStream, device: torch.device) -> None:
        self.stream = stream
        self.device = device

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        yield from map(self.placed, self.stream)

    def placed(self, batch: Batch) -> Batch:
        """A batch on the device."""
        items, labels = batch
        at_once = need_not_wait(self.device)
        there = items.to(self.device, non_blocking=at_once) if isinstance(items, Tensor) else items
        return Batch(there, labels.to(self.device, non_blocking=at_once))

    def set_epoch(self, epoch: int) -> None:
        """Nothing, as a stream goes on where it was."""


class DividedStream(StreamLoader):
    """The share that one process has of each batch of a stream, all of which every process reads.

    Args:
        stream: The stream, which gives the same items in every process.
        device: Device of the batches.
        processes: The processes.
    """

    reads_apart = False
    unlike = (
        "data must be the same stream in every process, got other classes in some. Give each the "
        "whole stream, in one order: fit divides its batches."
    )

    def __init__(self, stream: BalancedStream, device: torch.device, processes: Processes) -> None:
        super().__init__(stream, device)
        self.processes = processes
        self._drawn = 0

    def __iter__(self) -> Iterator[Batch]:
        for items, labels in self.stream:
            names = [self.stream.class_names[code] for code in labels.tolist()]
            self._drawn = zlib.crc32("\0".join(names).encode(), zlib.crc32(labels.numpy().data))
            mine = share_of(len(labels), self.processes)
            yield self.placed(Batch(items[mine], labels[mine]))

    def of_next(self) -> int:
        """A checksum of the labels of the whole batch that came last."""
        return self._drawn


class Step(NamedTuple):
    """What encoder and loss make of a batch."""

    loss: Tensor
    labels: Tensor | None
    embeddings: Sequence[Tensor]


def whole(encoder: nn.Module, *inputs: Any) -> Any:
    """What an encoder gives for a batch, all of it at once."""
    return encoder(*inputs)


def batch_loss(
    encoder: nn.Module,
    loss: nn.Module,
    batch: Any,
    prepare: Callable[[Any, int], Any],
    encoded: Callable[..., Any] = whole,
) -> Step:
    """The loss of a batch of any dataset of ours, its embeddings, and its labels if any.

    Items (n, ...) with labels: loss(embeddings, labels), with ids where the batch has them.
    Views: the same, of all views stacked. Two sides: loss(a, b, same). Three sides:
    loss(anchor, positive, negative). Pairs of two datasets: loss(a, b, same) for a loss of given
    pairs, else loss(a, labels of a, b, labels of b). Items are prepared by prepare(items, side),
    and encoded by encoded(encoder, *inputs).
    """
    options: dict[str, Tensor] = {}
    if isinstance(batch, IdBatch):
        batch, options["ids"] = batch
    items, labels = batch[:2]
    if isinstance(items, Tensor) or isinstance(items[0], str):
        embeddings = encoded(encoder, prepare(items, 0))
        return Step(loss(embeddings, labels, **options), labels, (embeddings,))
    sides = [prepare(items, side) for side, items in enumerate(items)]
    if not isinstance(encoder, TwoTowers):
        _check_one_kind(encoder, sides)
    if isinstance(encoder, (SiameseNet, TripletNet, TwoTowers)):
        embeddings = seen = encoded(encoder, *sides)
    else:
        stacked = encoded(encoder, _joined(sides))
        embeddings, seen = stacked.split([len(side) for side in sides]), (stacked,)
    if isinstance(batch, ViewBatch):
        labels = labels.repeat(len(sides))
        options = {name: ids.repeat(len(sides)) for name, ids in options.items()}
        return Step(loss(torch.cat(embeddings), labels, **options), labels, seen)
    if isinstance(batch, CrossBatch):
        (a, b), (labels_a, labels_b) = embeddings, labels
        if getattr(loss, "takes_pairs", False):
            return Step(loss(a, b, batch.same), None, seen)
        return Step(loss(a, labels_a, b, labels_b), None, seen)
    if len(sides) == 2:
        return Step(loss(*embeddings, labels), None, seen)
    return Step(loss(*embeddings), None, seen)


def _check_one_kind(encoder: nn.Module, sides: Sequence[Any]) -> None:
    """Refuse sides of two kinds, which one encoder cannot take in one call."""
    kinds = {tuple(side.shape[1:]) if isinstance(side, Tensor) else "texts" for side in sides}
    if len(kinds) > 1:
        told = " and ".join(sorted(map(str, kinds)))
        raise InputError(
            f"data must have sides of one kind for {type(encoder).__name__}, got {told}. For pairs "
            "use encoders.TwoTowers(a, b), with an encoder for each side."
        )


def _joined(sides: Sequence[Any]) -> Any:
    if isinstance(sides[0], Tensor):
        return torch.cat(list(sides))
    return [text for side in sides for text in side]


@torch.no_grad()
def label_facts(labels: Int[Tensor, " n"]) -> dict[str, Tensor]:
    """Number of classes in a batch, and mean number of items of each; −1 is no class.

    Example:
        >>> label_facts(torch.tensor([3, 1, 3, 3]))
        {'classes': tensor(2.), 'items_per_class': tensor(2.)}
    """
    ordered = labels.sort().values
    labeled = ordered >= 0
    first = torch.ones_like(labeled)
    first[1:] = ordered[1:] != ordered[:-1]
    classes = (first & labeled).sum()
    return {
        "classes": classes.float(),
        "items_per_class": labeled.sum() / classes.clamp(min=1).float(),
    }
