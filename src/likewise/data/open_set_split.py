"""Parts of a dataset for an open set: trained, known and unknown classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from likewise._checks import check_count
from likewise.data.datasets import ArrayDataset, Dataset
from likewise.data.parts import Subset, choose_classes, class_codes, split_items
from likewise.errors import InputError, InputTypeError

Classes = int | Sequence[str] | Sequence[int]
"""How many classes to draw, or which: class names, or codes."""


class OpenSetParts(NamedTuple):
    """Parts of one dataset, no item in two of them.

    The classes of `gallery` are the known ones. `calibrate` and `test` hold other items of
    these, and items of unknown classes, the same ones in both.
    """

    train: Subset  # for the encoder
    gallery: Subset  # to be indexed
    calibrate: Subset  # to choose thresholds on
    test: Subset  # to judge on
    new_unknowns: Subset  # to judge on as well: unknown classes that `calibrate` has not seen


def split_open_set(
    data: Dataset,
    *,
    trained: Classes,
    known: Classes,
    unknown: Classes,
    new_unknown: Classes = 0,
    shares: Sequence[float] = (0.4, 0.2, 0.2, 0.2),
    index_trained: bool = True,
    seed: int = 0,
) -> OpenSetParts:
    """Parts for training, gallery, calibration and test that share no item, by one call.

    Every class is of one kind, with all its items. Those of a trained class are dealt out to
    train, gallery, calibrate and test; those of a known class to the last three; those of an
    unknown class to calibrate and test; those of a new unknown class all go to new_unknowns.
    Each class is dealt out by itself, as `split_items` does, in proportion to those `shares`
    that apply, and has an item in each of its parts. Items keep their order. Classes that are
    neither drawn nor named are left out, and so are unlabeled items (-1).

    Args:
        data: what to split; every item is in it once.
        trained: classes that the encoder learns from.
        known: classes that it does not learn from, and that are indexed.
        unknown: classes that are never indexed.
        new_unknown: classes that are never indexed either, nor calibrated on.
        shares: Shares of train, gallery, calibrate and test, above 0, adding up to 1.
        index_trained: else all items of the trained classes go to train, as where the encoder
            comes from elsewhere.
        seed: same seed, same parts.

    Raises:
        InputTypeError: classes that are neither a number nor a list.
        InputError: a class named twice or not there, more classes than there are, no class to
            index, a class with fewer items than it has parts, wrong shares, or an item that is
            in the data twice.

    Example:
        >>> data = ArrayDataset(np.eye(40), list("abcd") * 10)
        >>> parts = split_open_set(data, trained=["a"], known=["b"], unknown=["c"], new_unknown=1)
        >>> [len(part) for part in parts]
        [4, 6, 10, 10, 10]
        >>> sorted(set(parts.gallery.labels.tolist())), sorted(set(parts.test.labels.tolist()))
        ([0, 1], [0, 1, 2])
    """
    portions = np.asarray(shares, dtype=np.float64)
    if portions.shape != (4,) or not (portions > 0).all() or abs(portions.sum() - 1) > 1e-6:
        raise InputError(
            "shares must be 4 numbers above 0 that add up to 1, of train, gallery, calibrate and "
            f"test, got {list(shares)}. Use e.g. [0.4, 0.2, 0.2, 0.2]."
        )
    _check_once(data)
    asked = {"trained": trained, "known": known, "unknown": unknown, "new_unknown": new_unknown}
    kinds = _draw(data, asked, seed)
    if not (kinds["known"] or (index_trained and kinds["trained"])):
        raise InputError("known must name or count at least one class to index, got none.")
    parts_of = {
        "trained": [0, 1, 2, 3] if index_trained else [0],
        "known": [1, 2, 3],
        "unknown": [2, 3],
        "new_unknown": [4],
    }
    labels = data.labels.numpy()
    # Only labels matter here; positions in it are positions in the data, whatever that is.
    numbered = ArrayDataset(torch.zeros(len(data), 1), data.labels, data.class_names)
    part_of = np.full(len(data), -1)
    for kind, classes in kinds.items():
        rows, parts = np.flatnonzero(np.isin(labels, classes)), parts_of[kind]
        _check_enough(kind, data, rows, len(parts))
        portion = portions[parts] if len(parts) > 1 else np.ones(1)
        pieces = split_items(Subset(numbered, rows), list(portion / portion.sum()), seed=seed)
        for part, piece in zip(parts, pieces, strict=True):
            part_of[piece.source_indices.numpy()] = part
    return OpenSetParts(*(Subset(data, np.flatnonzero(part_of == part)) for part in range(5)))


def _draw(data: Dataset, asked: dict[str, Classes], seed: int) -> dict[str, list[int]]:
    """The codes of each kind; no class is of two."""
    for kind, classes in asked.items():
        if isinstance(classes, str):
            raise InputTypeError(f"{kind} must be a number or a list of classes, got {classes!r}.")
    named = {
        kind: list(dict.fromkeys(choose_classes(data, classes).labels.tolist())) if classes else []
        for kind, classes in asked.items()
        if not isinstance(classes, int)
    }
    taken = [code for codes in named.values() for code in codes]
    if twice := [code for code in taken if taken.count(code) > 1]:
        kinds = [kind for kind, codes in named.items() if twice[0] in codes]
        raise InputError(
            f"{kinds[1]} must name other classes than {kinds[0]}, "
            f"got {data.class_names[twice[0]]!r} in both."
        )
    free = np.setdiff1d(class_codes(data), taken)
    drawn: list[int] = np.random.default_rng(seed).permutation(free).tolist()
    counts = {kind: count for kind, count in asked.items() if isinstance(count, int)}
    for kind, count in counts.items():
        check_count(kind, count, least=0)
    if sum(counts.values()) > len(drawn):
        raise InputError(
            f"{', '.join(counts)} must add up to at most {len(drawn)}, the classes that are not "
            f"named, got {' + '.join(map(str, counts.values()))}. "
            "Use smaller counts or data of more classes."
        )
    for kind, count in counts.items():
        named[kind], drawn = drawn[:count], drawn[count:]
    return {kind: named[kind] for kind in asked}


def _check_enough(kind: str, data: Dataset, rows: "np.ndarray", parts: int) -> None:
    codes, counts = np.unique(data.labels.numpy()[rows], return_counts=True)
    if len(counts) and counts.min() < parts:
        scarce = codes[counts.argmin()]
        raise InputError(
            f"{kind} must be classes of at least {parts} items, one for each of their parts, got "
            f"{data.class_names[scarce]!r} with {counts.min()}. Leave small classes out with "
            "choose_classes."
        )


def _check_once(data: Dataset) -> None:
    if isinstance(data, Subset) and len(torch.unique(data.source_indices)) < len(data):
        raise InputError(
            "data must hold every item once, got a part that repeats some. "
            "Two parts could share them."
        )
