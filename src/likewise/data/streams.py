"""Labeled items that come one after another: streams, and balanced batches drawn from them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from likewise._checks import as_floats, as_tensor, check_count
from likewise.data.datasets import ArrayDataset, Batch, stored_items
from likewise.data.framing import ImageSize
from likewise.data.images import check_channels, check_image_size, pixels_of
from likewise.data.limits import max_kept
from likewise.data.saved_datasets import SavedDataset, is_saved_dataset, saved_parts
from likewise.data.shards import TarShards, is_shards
from likewise.data.tables import LABEL_NAMES
from likewise.data.texts import TEXT_SHAPE, TextDataset
from likewise.errors import InputError, InputTypeError

BUFFER = 10_000  # items
ITEM_NAMES = ("image", "img", "text", "embedding", "vector")


class Stream(IterableDataset[tuple[Any, str | None]]):
    """Items with the names of their labels, one after another, from whatever gives them.

    The source is any iterable: torch's IterableDataset, a streamed Hugging Face dataset,
    `TarShards`. It gives (item, label) or dicts; an item is a tensor, an array, a Pillow image or
    a text, and a label a string, an integer (-1 is unlabeled) or None. It is gone through again
    for as long as a training takes, so it must not be a generator.

    Args:
        source: what gives the items.
        item: the key of the item in a dict; image, img, text, embedding or vector if None.
        label: the key of the label; label, class, target, category or species if None.
        image_size: (height, width) or one number for both; Pillow images are resized to it. A
            `Framing` also says how.
        channels: 1 for gray, 3 for color; as the first image is if None.

    Raises:
        InputTypeError: the source is no iterable, or gives something else.
        InputError: an item of another shape than the first.

    Example:
        >>> class Points(IterableDataset):
        ...     def __iter__(self):
        ...         yield from ((torch.full((2,), float(i)), "ab"[i % 2]) for i in range(4))
        >>> [label for _, label in Stream(Points())]
        ['a', 'b', 'a', 'b']
    """

    def __init__(
        self,
        source: Any,
        *,
        item: str | None = None,
        label: str | None = None,
        image_size: ImageSize | None = None,
        channels: int | None = None,
    ) -> None:
        if not hasattr(source, "__iter__") or isinstance(source, (str, bytes)):
            raise InputTypeError(
                f"source must be an iterable of items, got {type(source).__name__}."
            )
        if isinstance(source, Iterator):
            raise InputTypeError(
                f"source must be an iterable that can be gone through again, got "
                f"{type(source).__name__}. Put it into a class with __iter__."
            )
        check_channels(channels)
        self.source = source
        self.item = item
        self.label = label
        self.image_size = check_image_size(image_size)
        self.channels = channels
        self._names = _class_names(source, label)
        self._shape: tuple[int, ...] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Tell the source which pass begins, if it asks for that."""
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Any, str | None]]:
        for position, sample in enumerate(self.source):
            item, label = self._read(sample)
            shape = TEXT_SHAPE if isinstance(item, str) else tuple(item.shape)
            if self._shape is None:
                self._shape = shape
            if shape != self._shape:
                raise InputError(
                    f"items of the stream must have the shape of the first, {self._shape}, got "
                    f"{shape} for item {position}.",
                    remedy="Give image_size= to resize images.",
                    command="Give --image-size to resize images.",
                )
            yield item, label

    def _read(self, sample: Any) -> tuple[Any, str | None]:
        if isinstance(sample, dict):
            key = _key(sample, self.item, ITEM_NAMES, "item")
            told = self.label or next((name for name in LABEL_NAMES if name in sample), None)
            label = None if told is None else sample[_key(sample, told, (), "label")]
            item = sample[key]
        elif isinstance(sample, (tuple, list)) and len(sample) == 2:
            item, label = sample
        else:
            item, label = sample, None
        return self._item(item), self._name(label)

    def _item(self, item: Any) -> Any:
        if isinstance(item, str):
            return item
        if isinstance(item, Image.Image):
            pixels = pixels_of(item, channels=self.channels, image_size=self.image_size)
            self.channels = self.channels or pixels.shape[0]
            return pixels
        tensor = as_tensor(item, "items of the stream")
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            raise InputTypeError(
                "items of the stream must be tensors, arrays, images or texts, got "
                f"{type(item).__name__}. Let it give (item, label), or dicts."
            )
        return as_floats(stored_items(tensor[None]))[0]

    def _name(self, label: Any) -> str | None:
        if isinstance(label, (Tensor, np.generic)):
            label = label.item()
        if label is None or (type(label) is int and label == -1):
            return None
        if type(label) is int:
            return self._names[label] if label < len(self._names) else str(label)
        if isinstance(label, str):
            return label
        raise InputTypeError(
            f"labels of the stream must be strings or integers, got {type(label).__name__}."
        )


def open_stream(
    source: Any,
    *,
    split: str | None = None,
    item: str | None = None,
    label: str | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
) -> Stream:
    """A source as a stream, of which nothing is kept.

    Args:
        source: .tar shards, as "train-{00..15}.tar", a folder that Hugging Face's `save_to_disk`
            wrote, or anything that `Stream` takes.
        split: "train", "val" or "test", for a folder that has them; train if None.
        item: Key of the item, as in `Stream`, like the next arguments.
        label: the key of the label.
        image_size: the size that images are resized to.
        channels: 1 for gray, 3 for color.

    Raises:
        InputError: a path that is none of these, or arguments for a `Stream`, which has them.
        FileNotFoundError: a shard is not there.
    """
    if isinstance(source, Stream):
        if (split, item, label, image_size, channels) != (None,) * 5:
            raise InputError(
                "source must be no Stream with split, item, label, image_size or channels, got "
                "one. Give them to the Stream."
            )
        return source
    given = source
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if is_shards(source) and split is None:
            given = TarShards(source)
        elif is_saved_dataset(path):
            parts = saved_parts(path)
            given = SavedDataset(path, split or ("train" if "train" in parts else None))
        else:
            raise InputError(
                "must be .tar shards, or a folder that save_to_disk of Hugging Face datasets "
                f"wrote, to be gone through as a stream, got {str(source)!r}"
                + (f" with the split {split!r}." if is_shards(source) else "."),
                argument="source",
                remedy="Read it with lw.data.load.",
                command="Leave --buffer out.",
            )
    return Stream(given, item=item, label=label, image_size=image_size, channels=channels)


def is_stream(data: Any) -> bool:
    """Whether data can only be gone through: it is iterable, without a length or positions."""
    if isinstance(data, IterableDataset):
        return True
    return hasattr(data, "__iter__") and not (
        hasattr(data, "__getitem__") or isinstance(data, (Tensor, np.ndarray, str, dict, set))
    )


def collected(stream: Stream) -> ArrayDataset | TextDataset:
    """All items of a stream in memory, as a dataset.

    Raises:
        InputError: there are none, or more than `limits.max_kept` bytes of them.
    """
    items: list[Any] = []
    labels: list[str | None] = []
    room = max_kept()
    for item, label in stream:
        room -= len(item) if isinstance(item, str) else item.nbytes
        if room < 0:
            raise InputError(
                f"data must fit into memory here, {max_kept():,} bytes, got a stream of more than "
                f"{len(items)} items. Give a part of it, train with a buffer, or set "
                "LIKEWISE_MAX_KEPT to allow more."
            )
        items.append(item)
        labels.append(label)
    if not items:
        raise InputError("data must hold at least one item, got an empty stream.")
    names = sorted({label for label in labels if label is not None})
    code_of: dict[str | None, int] = {name: code for code, name in enumerate(names)}
    codes = [code_of.get(label, -1) for label in labels]
    if isinstance(items[0], str):
        return TextDataset(items, codes, names)
    return ArrayDataset(torch.stack(items), codes, names)


class Labeled(Protocol):
    """What gives items with the names of their labels, as `Stream` does."""

    def __iter__(self) -> Iterator[tuple[Any, str | None]]:
        """Each item with its label."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Learn which pass begins."""
        ...


class BalancedStream:
    """Balanced batches from a stream that may be larger than memory, through a buffer.

    The buffer holds `buffer` items. Each batch is drawn from it: P of the classes that have two
    items in it, K items of each or as many as there are. What was drawn is replaced by what comes
    next, so a stream is best shuffled, and one that is sorted by class needs a buffer that holds
    several. At its end the stream begins anew, and what is left of the pass before may then meet
    itself. A stream that fits into the buffer is kept there.

    Attributes:
        class_names: names of the classes seen so far, in the order in which they came.

    Args:
        stream: items with labels, a `Stream` or one like it; unlabeled ones are passed over.
        classes_per_batch: P, at most; 16 if None.
        items_per_class: K; as many as make a batch of about 128, at least 4, if None.
        batches: how many an epoch has.
        buffer: items held.
        seed: Seed of the choice.
    """

    def __init__(
        self,
        stream: Labeled,
        *,
        classes_per_batch: int | None = None,
        items_per_class: int | None = None,
        batches: int,
        buffer: int = BUFFER,
        seed: int = 0,
    ) -> None:
        check_count("buffer", buffer, least=2)
        check_count("batches", batches)
        self.stream = stream
        self.classes_per_batch = 16 if classes_per_batch is None else classes_per_batch
        check_count("classes_per_batch", self.classes_per_batch, least=2)
        if items_per_class is None:
            items_per_class = max(4, 128 // self.classes_per_batch)
        check_count("items_per_class", items_per_class, least=2)
        self.items_per_class = items_per_class
        self.batches = batches
        self.buffer = buffer
        self.class_names: list[str] = []
        self._code_of: dict[str, int] = {}
        self._rng = np.random.default_rng(seed)
        self._held: dict[int, list[Any]] = {}
        self._count = 0
        self._passes = 0
        self._whole = False  # all of the stream is held
        self._ahead: Iterator[tuple[Any, str | None]] | None = None

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.batches):
            self._fill()
            yield self._draw()

    def first(self, count: int) -> list[Any]:
        """Some of the items in the buffer, which is filled first."""
        self._fill()
        items = [item for held in self._held.values() for item in held]
        chosen = self._rng.permutation(len(items))[:count]
        return [items[at] for at in chosen.tolist()]

    def _fill(self) -> None:
        while not self._whole and self._count < self.buffer:
            if self._ahead is None:
                self.stream.set_epoch(self._passes)
                self._ahead, self._came = iter(self.stream), 0
                self._passes += 1
            try:
                item, label = next(self._ahead)
            except StopIteration:
                self._end()
                continue
            if label is None:
                continue
            code = self._code_of.setdefault(label, len(self.class_names))
            if code == len(self.class_names):
                self.class_names.append(label)
            self._held.setdefault(code, []).append(item)
            self._count += 1
            self._came += 1

    def _end(self) -> None:
        self._ahead = None
        if not self._came:
            raise InputError(
                "data must hold labeled items in every pass, got a stream with none "
                f"in pass {self._passes}. Let it begin anew with each __iter__, and give labels."
            )
        self._whole = self._passes == 1 and self._came == self._count  # nothing was drawn yet

    def _draw(self) -> Batch:
        fit = [code for code, items in self._held.items() if len(items) > 1]
        if len(fit) < 2:
            raise InputError(
                f"data must mix classes, got a stream of which {self._count} items in a row hold "
                f"{len(fit)} with 2 items or more. Shuffle it, or raise buffer."
            )
        chosen = self._rng.permutation(len(fit))[: self.classes_per_batch].tolist()
        items: list[Any] = []
        codes: list[int] = []
        for code in (fit[at] for at in chosen):
            held = self._held[code]
            order = self._rng.permutation(len(held))[: self.items_per_class].tolist()
            items += [held[at] for at in order]
            codes += [code] * len(order)
            if not self._whole:
                for at in sorted(order, reverse=True):
                    held[at] = held[-1]
                    held.pop()
                self._count -= len(order)
        stacked = items if isinstance(items[0], str) else torch.stack(items)
        return Batch(stacked, torch.tensor(codes))


def _key(sample: dict[str, Any], asked: str | None, usual: Sequence[str], what: str) -> str:
    found = asked if asked is not None else next((n for n in usual if n in sample), None)
    if found is None or found not in sample:
        raise InputError(
            f"must be a key of what the stream gives ({', '.join(map(str, sample))}), got "
            f"{asked or 'none'}.",
            argument=what,
        )
    return found


def _class_names(source: Any, label: str | None) -> list[str]:
    """Names of integer labels, where a Hugging Face dataset or a list `classes` tells them."""
    features = getattr(source, "features", None)
    if isinstance(features, dict):
        for key in [label] if label is not None else LABEL_NAMES:
            names = getattr(features.get(key), "names", None)
            if isinstance(names, (list, tuple)):
                return list(map(str, names))
    known = getattr(source, "class_names", getattr(source, "classes", None))
    return list(map(str, known)) if isinstance(known, (list, tuple)) else []
