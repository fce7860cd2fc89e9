"""Pictures of mistakes: pairs with their classes, and classes taken for others."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from likewise._checks import check_count
from likewise.errors import InputError
from likewise.plots._sheet import GAP, LINE, Sheet, check_names, short_name, some, verdict
from likewise.plots.style import (
    INK,
    MARGIN,
    MUTED,
    NEUTRAL,
    WIDTH,
    WRONG,
    check_items,
    draw_item,
    name_of,
    number,
    styled,
    value_limits,
)

_IN_ROW = 3  # pairs
_BETWEEN = 0.18  # inches between two pairs
_SEAM = 0.06  # and between the two items of a pair
_PAIR = (WIDTH - 2 * MARGIN - (_IN_ROW - 1) * _BETWEEN) / _IN_ROW
_SIDE = (_PAIR - _SEAM) / 2
_HEADING = LINE + 0.08


class Confused(Protocol):
    """What `confused_classes` reads of a pair of classes."""

    @property
    def truth(self) -> int:
        """Code of the true class."""

    @property
    def answer(self) -> int:
        """Code of the class that was answered."""

    @property
    def count(self) -> int:
        """How often that was."""

    @property
    def queries(self) -> int:
        """Queries of the true class."""

    @property
    def examples(self) -> Int[Tensor, " e"]:
        """Positions of such queries."""


@styled
def labeled_pairs(
    items_a: Float[Tensor, "p ..."],
    items_b: Float[Tensor, "p ..."],
    distances: Float[Tensor, " p"],
    labels: Int[Tensor, "p 2"],
    class_names: Sequence[str],
    *,
    threshold: float | None = None,
    names: Sequence[tuple[str, str]] | None = None,
    title: str | None = None,
    most: int = 12,
) -> Figure:
    """Pairs side by side in the order given, each item with its class, each pair with its distance.

    With a threshold, a pair of one class that is accepted, or of two that is not, has green
    frames and ✓; any other has red ones and ✗.

    Args:
        items_a: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,).
        items_b: the other side of each pair.
        distances: one per pair.
        labels: class codes of both sides, (p, 2).
        class_names: Names of the label codes.
        threshold: a pair is accepted as the same if its distance is at most this.
        names: one name for each side of each pair.
        title: Title of the picture; by default how many pairs there are.
        most: pairs drawn, the first ones.

    Raises:
        InputError: without any pair, if the sizes do not fit each other, or items are neither
            images nor vectors.

    Example:
        >>> import torch
        >>> items, labels = torch.rand(2, 1, 8, 8), torch.tensor([[0, 1]])
        >>> figure = labeled_pairs(items[:1], items[1:], torch.tensor([0.1]), labels, ["a", "b"])
        >>> figure.get_suptitle()
        '1 pair and its distance'
    """
    count = _check_pairs(items_a, items_b, distances, names)
    if labels.shape != (count, 2):
        raise InputError(
            f"labels must have shape ({count}, 2), both classes of every pair, "
            f"got {tuple(labels.shape)}."
        )
    check_count("most", most)
    drawn = min(count, most)
    if title is None:
        many = f"{some(drawn, count)} pairs with their distances"
        title = "1 pair and its distance" if count == 1 else many
    note = "" if threshold is None else f"Accepted as the same: distance ≤ {number(threshold)}."
    row_height = _row_height(items_a, items_b, 2 + (names is not None))
    sheet = Sheet(-(-drawn // _IN_ROW) * row_height + MARGIN, title, note, width=WIDTH)
    limits = value_limits(items_a[:drawn], items_b[:drawn])
    for position in range(drawn):
        row, column = divmod(position, _IN_ROW)
        a, b = labels[position].tolist()
        # Compared as tensors, in their own precision, as matching does.
        accepted = None if threshold is None else bool(distances[position] <= threshold)
        color, mark = verdict(None if accepted is None else accepted == (a == b))
        _pair(
            sheet,
            (column, row * row_height),
            (items_a[position], items_b[position]),
            limits,
            color,
            f"{mark}distance {number(float(distances[position]))}",
            (name_of(a, class_names), name_of(b, class_names)),
            None if names is None else names[position],
        )
    return sheet.figure


@styled
def confused_classes(
    confused: Sequence[Confused],
    items_a: Float[Tensor, "p ..."],
    items_b: Float[Tensor, "p ..."],
    distances: Float[Tensor, " p"],
    class_names: Sequence[str],
    *,
    names: Sequence[tuple[str, str]] | None = None,
    title: str = "Classes taken for others, most often first",
) -> Figure:
    """One row per two classes: how often one was taken for the other, and examples.

    An example is a query, and beside it what it was taken for.

    Args:
        confused: from `evaluation.confused_classes`, with at most 3 examples each.
        items_a: the queries of all examples, in the order of `confused`: images (c, h, w) or
            (h, w), clipped to 0..1, or vectors (d,).
        items_b: what each was taken for.
        distances: Distances of each query from that.
        class_names: Names of the class codes.
        names: one name for both items of each example.
        title: Title of the picture.

    Raises:
        InputError: without any example, if the sizes do not fit each other, or items are neither
            images nor vectors.
    """
    count = _check_pairs(items_a, items_b, distances, names)
    told = [len(each.examples) for each in confused]
    if sum(told) != count or max(told) > _IN_ROW:
        raise InputError(
            f"confused must have {count} examples, as items_a has, and at most {_IN_ROW} each, "
            f"got {told}. Pass the items of the examples in the same order."
        )
    row_height = _HEADING + _row_height(items_a, items_b, 1 + (names is not None))
    note = "Each query stands left of the nearest item, whose class it was given."
    sheet = Sheet(len(confused) * row_height + MARGIN, title, note, width=WIDTH)
    limits = value_limits(items_a, items_b)
    position = 0
    for row, each in enumerate(confused):
        classes = name_of(each.truth, class_names), name_of(each.answer, class_names)
        share = f"{each.count:,} of {each.queries:,} ({each.count / each.queries:.0%})"
        width = WIDTH - 2 * MARGIN
        heading = f"{_brief(classes[0])} taken for {_brief(classes[1])}: {share}"
        sheet.words(MARGIN, row * row_height, [(heading, INK)], width=width)
        for column in range(len(each.examples)):
            _pair(
                sheet,
                (column, row * row_height + _HEADING),
                (items_a[position], items_b[position]),
                limits,
                WRONG,
                f"distance {number(float(distances[position]))}",
                None,
                None if names is None else names[position],
            )
            position += 1
    return sheet.figure


def _pair(
    sheet: Sheet,
    place: tuple[int, float],
    items: tuple[Tensor, Tensor],
    limits: tuple[float, float],
    color: str,
    line: str,
    classes: tuple[str, str] | None,
    names: tuple[str, str] | None,
) -> None:
    column, top = place
    left = MARGIN + column * (_PAIR + _BETWEEN)
    above = _SIDE * (1 - min(1.0, max(map(_aspect, items))))
    for side, item in enumerate(items):
        x = left + side * (_SIDE + _SEAM)
        # Wide images stand at the bottom of their box.
        draw_item(sheet.box(x, top - above, _SIDE), item, limits, frame=color)
        words = [] if classes is None else [(short_name(classes[side], _SIDE), INK)]
        words += [] if names is None else [(short_name(names[side], _SIDE), MUTED)]
        sheet.words(x, top - above + _SIDE + LINE, words, width=_SIDE + 0.02)
    below = top - above + _SIDE
    sheet.words(left, below, [(line, INK if color == NEUTRAL else color)], width=_PAIR)


def _row_height(items_a: Tensor, items_b: Tensor, lines: int) -> float:
    tall = _SIDE * min(1.0, max(_aspect(items_a[0]), _aspect(items_b[0])))
    return tall + lines * LINE + 1.5 * GAP


def _aspect(item: Tensor) -> float:
    """Height of an image by its width; 1 for vectors."""
    return item.shape[-2] / max(item.shape[-1], 1) if item.ndim > 1 else 1.0


def _brief(name: str) -> str:
    return short_name(name, 1.3)


def _check_pairs(
    items_a: Tensor,
    items_b: Tensor,
    distances: Tensor,
    names: Sequence[tuple[str, str]] | None,
) -> int:
    check_items(items_a, "items_a")
    check_items(items_b, "items_b")
    count = len(distances)
    if len(items_a) != count or len(items_b) != count:
        raise InputError(
            f"items_a and items_b must hold {count} items, as distances does, "
            f"got {len(items_a)} and {len(items_b)}. Give both sides of every pair."
        )
    if count == 0:
        raise InputError("distances must hold at least one pair, got none.")
    check_names(names, count, "names", "pair")
    return count
