"""Datasets whose turned or mirrored images are classes of their own."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from likewise._checks import check_choice
from likewise.errors import InputError
from likewise.masks import UNLABELED


class LabeledData(Protocol):
    """What `MadeClasses` asks of a dataset; every dataset of `likewise.data` has it."""

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Code of every item."""
        ...

    @property
    def class_names(self) -> list[str]:
        """Name of every code."""
        ...

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        ...

    def __len__(self) -> int:
        """How many items."""
        ...

    def __getitems__(self, indices: Sequence[int], /) -> list[Any]:
        """One batch (items, labels) in a list."""
        ...


class MadeClasses(Dataset[tuple[Tensor, int]]):
    """A dataset whose items appear once for each transform, each time as another class.

    With c classes, transform t makes class t × c + code of every class, named by its format
    applied to the old name; items come in the order of `data`, one transform after the other. They
    are fetched from `data` and transformed when asked for, a batch at a time. The first transform
    should be the identity, so that the old classes keep their codes. Unlabeled items (-1) are
    transformed too and stay unlabeled.

    A class that a transform maps to itself or to another class (a turned 0 is a 0, a turned 6 is
    a 9) would become two classes that look alike, which nothing can learn to tell apart. Name
    such classes in `except_classes`.

    Args:
        data: a dataset of `likewise.data`.
        transforms: functions from items (n, ...) to items of the same shape.
        names: for each transform, the name of the new class, where {} stands for the old one.
        except_classes: names of classes that only the first transform is used for; the classes
            they would make stay empty.

    Raises:
        InputError: if there are not as many names as transforms, a class to leave out is not in the
            data, or, when fetched, a transform changes the shape.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(torch.rand(6, 1, 8, 8), ["a", "a", "b", "b", "o", "o"])
        >>> made = MadeClasses(data, [torch.clone, torch.neg], ["{}", "{} inverted"], ["o"])
        >>> len(made), made.class_names[3:5]
        (10, ['a inverted', 'b inverted'])
    """

    def __init__(
        self,
        data: LabeledData,
        transforms: Sequence[Callable[[Tensor], Tensor]],
        names: Sequence[str],
        except_classes: Collection[str] = (),
    ) -> None:
        if len(names) != len(transforms) or len(names) == 0:
            raise InputError(
                f"names must hold one name for each of the {len(transforms)} transforms, at least "
                f"one, got {len(names)}."
            )
        for name in except_classes:
            check_choice("except_classes", name, data.class_names)
        self.data = data
        self.transforms = tuple(transforms)
        self.class_names = [name.format(old) for name in names for old in data.class_names]
        self.item_shape = data.item_shape
        left_out = [code for code, name in enumerate(data.class_names) if name in except_classes]
        changing = ~torch.isin(data.labels, torch.tensor(left_out, dtype=torch.int64))
        positions = [torch.arange(len(data))] + [changing.nonzero()[:, 0]] * (len(transforms) - 1)
        self._positions = torch.cat(positions)
        self._transform_of = torch.repeat_interleave(torch.tensor([len(p) for p in positions]))
        old = data.labels[self._positions]
        made = old + self._transform_of * len(data.class_names)
        self.labels = torch.where(old == UNLABELED, UNLABELED, made)

    def __len__(self) -> int:
        """How many items, counted once for each transform."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One item and the code of its class."""
        (batch,) = self.__getitems__([index])
        return batch.items[0], int(batch.labels[0])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items at `indices` and their labels, as one Batch in a list."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        (batch,) = self.data.__getitems__(self._positions[chosen].tolist())
        items = torch.empty_like(batch.items)
        for number, transform in enumerate(self.transforms):
            mine = self._transform_of[chosen] == number
            if mine.any():
                made = transform(batch.items[mine])
                if made.shape[1:] != items.shape[1:]:
                    raise InputError(
                        f"transforms must keep the shape of an item, {tuple(items.shape[1:])}, "
                        f"got {tuple(made.shape[1:])} from transforms[{number}]. "
                        "Quarter turns need square images."
                    )
                items[mine] = made
        # Rebuilt from the batch itself, so that this module needs nothing of `likewise.data`.
        return [batch._replace(items=items, labels=self.labels[chosen])]


def make_rotated_classes(
    data: LabeledData,
    turns: Sequence[int] = (0, 1, 2, 3),
    *,
    except_classes: Collection[str] = (),
) -> MadeClasses:
    """The images of `data` turned by quarter turns, each turn of a class being a class of its own.

    Class code of turn t is code + position of t in `turns` × number of classes, named like
    "3 turned 90°" (counter-clockwise).

    Args:
        data: a dataset of images (c, h, w).
        turns: numbers of quarter turns; the first must be 0.
        except_classes: classes that look like themselves, or like others, when turned; see
            `MadeClasses`.

    Raises:
        InputError: if turns do not start with 0, repeat or leave 0..3, the items are no images, or
            images that are not square would be turned by 90° or 270°.

    Example:
        >>> from likewise.data import ArrayDataset
        >>> data = ArrayDataset(torch.rand(4, 1, 8, 8), [3, 3, 4, 4])
        >>> turned = make_rotated_classes(data, turns=(0, 1))
        >>> turned.class_names, turned.labels.tolist()
        (['3', '4', '3 turned 90°', '4 turned 90°'], [0, 0, 1, 1, 2, 2, 3, 3])
    """
    turns = tuple(turns)
    if turns[:1] != (0,) or len(set(turns)) < len(turns) or not set(turns) <= {0, 1, 2, 3}:
        raise InputError(f"turns must be 0 and then others of 1, 2, 3, each once, got {turns}.")
    height, width = _image_size(data)
    if height != width and {1, 3} & set(turns):
        raise InputError(
            f"turns must be 0 or 2 for images that are not square, got {turns} for "
            f"{height} x {width}. Load them with a square image_size for the others."
        )
    return MadeClasses(
        data,
        [functools.partial(torch.rot90, k=turn, dims=(-2, -1)) for turn in turns],
        [f"{{}} turned {90 * turn}°" if turn else "{}" for turn in turns],
        except_classes,
    )


def make_flipped_classes(data: LabeledData, *, except_classes: Collection[str] = ()) -> MadeClasses:
    """The images of `data` and their mirror images, which are classes of their own ("b mirrored").

    For characters, where left and right matter.

    Args:
        data: a dataset of images (c, h, w).
        except_classes: classes that look like themselves, or like others, when mirrored.

    Raises:
        InputError: if the items are no images, or a class to leave out is not in the data.
    """
    _image_size(data)
    return MadeClasses(
        data,
        [torch.clone, functools.partial(torch.flip, dims=(-1,))],
        ["{}", "{} mirrored"],
        except_classes,
    )


def _image_size(data: LabeledData) -> tuple[int, int]:
    if len(data.item_shape) != 3:
        raise InputError(
            f"data must hold images (c, h, w), got items of shape {tuple(data.item_shape)}."
        )
    return data.item_shape[1], data.item_shape[2]
