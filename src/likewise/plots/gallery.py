"""Pictures of items: neighbours of queries, pairs, augmented views."""

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from likewise._checks import check_count, check_labels, check_same
from likewise.index import Neighbors
from likewise.plots._style import (
    INK,
    MARGIN,
    MUTED,
    NEUTRAL,
    NOTE_SIZE,
    RIGHT,
    WIDTH,
    WRONG,
    canvas,
    check_items,
    draw_item,
    fit,
    fit_middle,
    line_height,
    name_of,
    number,
    styled,
    value_limits,
)

_CELL = 0.82  # inches, the side of an item
_GAP = 0.14
_FIRST_GAP = 0.2  # more room beside the first column: it is what the rest is compared with
_TEXT_WIDTH = _CELL + _GAP - 0.03
_LINE = line_height(NOTE_SIZE)
_HEADING = _LINE + 0.06
_IMAGE_SUFFIXES = {"png", "jpg", "jpeg", "bmp", "pgm"}


@styled
def neighbors(
    query_items: Float[Tensor, "q ..."],
    neighbor_items: Float[Tensor, "q k ..."],
    found: Neighbors,
    class_names: Sequence[str],
    *,
    query_labels: Int[Tensor, " q"] | None = None,
    threshold: float | None = None,
    query_names: Sequence[str] | None = None,
    most: int = 12,
) -> Figure:
    """One row per query: the query, then its neighbours, nearest first, with label and distance.

    A neighbour of the query's class has a green frame and ✓, one of another class a red frame
    and ✗; without a query label (or with -1, unknown) there are no marks. Neighbours beyond the
    threshold are faded, their frame dashed. Missing neighbours (distance inf) are left blank.

    Args:
        query_items: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,).
        neighbor_items: what `found` found, in the same order.
        found: labels and distances of the neighbours.
        class_names: of the label codes.
        query_labels: true codes, -1 where not known.
        threshold: a neighbour is accepted if its distance is at most this.
        query_names: one word on each query, e.g. a file name.
        most: rows drawn; the title says how many there are.

    Raises:
        ValueError: if the sizes do not fit each other, or items are neither images nor vectors.
    """
    check_items(query_items, "query_items")
    check_items(neighbor_items, "neighbor_items", extra=2)
    queries, k = found.labels.shape
    if len(query_items) != queries or neighbor_items.shape[:2] != (queries, k):
        raise ValueError(
            f"query_items and neighbor_items must hold {queries} queries and {k} neighbors each, "
            f"as found does, got {len(query_items)} and {tuple(neighbor_items.shape[:2])}. "
            "Fetch the items by found.ids."
        )
    if query_labels is not None:
        check_labels(query_labels, queries, "query_labels")
    _check_names(query_names, queries, "query_names", "query")
    check_count("most", most)
    rows = min(queries, most)

    note = [] if query_labels is None else ["✓ same class as the query, ✗ another."]
    if threshold is not None:
        note.append(f"Faded and dashed: beyond the threshold {number(threshold)}, not accepted.")
    row_height = _CELL + 2 * _LINE + _GAP + 0.02
    height = _HEADING + rows * row_height + MARGIN
    title = _title(rows, queries, "query and its" if queries == 1 else "queries and their", k)
    sheet = _Sheet(height, title, " ".join(note), width=_width(k + 1))
    limits = value_limits(query_items[:rows], neighbor_items[:rows])
    for column, heading in enumerate(["query", *(_ordinal(rank) for rank in range(1, k + 1))]):
        sheet.words(_left(column), 0.0, [(heading, MUTED)])

    for row in range(rows):
        top = _HEADING + row * row_height
        truth = -1 if query_labels is None else int(query_labels[row])
        draw_item(sheet.box(_left(0), top), query_items[row], limits)
        words = [] if truth < 0 else [(name_of(truth, class_names), INK)]
        if query_names is not None:
            words.append((_short_name(query_names[row]), MUTED))
        sheet.words(_left(0), top + _CELL, words)
        for rank in range(k):
            label, distance = int(found.labels[row, rank]), float(found.distances[row, rank])
            if distance == float("inf"):
                continue
            accepted = threshold is None or bool(found.distances[row, rank] <= threshold)
            color, mark = _verdict(None if min(truth, label) < 0 else truth == label)
            left = _left(rank + 1)
            item = neighbor_items[row, rank]
            draw_item(sheet.box(left, top), item, limits, frame=color, faded=not accepted)
            name = name_of(label, class_names) if label >= 0 else "no label"
            words = [
                (mark + name, color if mark else INK),
                (number(distance), INK if accepted else MUTED),
            ]
            sheet.words(left, top + _CELL, words)
    return sheet.figure


@styled
def pairs(
    items_a: Float[Tensor, "p ..."],
    items_b: Float[Tensor, "p ..."],
    distances: Float[Tensor, " p"],
    same: Bool[Tensor, " p"] | None = None,
    threshold: float | None = None,
    *,
    names: Sequence[tuple[str, str]] | None = None,
    most: int = 12,
) -> Figure:
    """Pairs side by side, with their distance, the verdict at the threshold, and the truth.

    A verdict that agrees with the truth has green frames and ✓, one that does not red frames
    and ✗. Without a threshold only distance and truth are told, without truth only the verdict.

    Args:
        items_a: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,).
        items_b: the other side of each pair.
        distances: one per pair.
        same: the truth.
        threshold: a pair is accepted as the same if its distance is at most this.
        names: one name for each side of each pair.
        most: pairs drawn; the title says how many there are.

    Raises:
        ValueError: if the sizes do not fit each other, or items are neither images nor vectors.
    """
    check_items(items_a, "items_a")
    check_items(items_b, "items_b")
    count = len(distances)
    if len(items_a) != count or len(items_b) != count:
        raise ValueError(
            f"items_a and items_b must hold {count} items, one per distance, "
            f"got {len(items_a)} and {len(items_b)}. Give both sides of every pair."
        )
    if same is not None:
        check_same(same, count)
    _check_names(names, count, "names", "pair")
    check_count("most", most)
    drawn = min(count, most)

    side, seam = 1.08, 0.06
    lines = 1 + (threshold is not None or same is not None) + (names is not None)
    columns = min(2, drawn)
    row_height = side + lines * _LINE + 1.5 * _GAP
    height = -(-drawn // columns) * row_height + MARGIN
    note = "" if threshold is None else f"Accepted as the same: distance ≤ {number(threshold)}."
    title = (
        "1 pair and its distance"
        if count == 1
        else f"{_some(drawn, count)} pairs with their distances"
    )
    sheet = _Sheet(height, title, note, width=WIDTH)
    limits = value_limits(items_a[:drawn], items_b[:drawn])
    for position in range(drawn):
        row, column = divmod(position, columns)
        lefts = [MARGIN + column * 2.42 + shift for shift in (0.0, side + seam)]
        top = row * row_height
        truth = None if same is None else bool(same[position])
        distance = float(distances[position])
        # Compared as tensors, in their own precision, as matching does.
        said = None if threshold is None else bool(distances[position] <= threshold)
        color, mark = _verdict(None if truth is None or said is None else truth == said)
        for items, left in zip((items_a, items_b), lefts, strict=True):
            draw_item(sheet.box(left, top, side), items[position], limits, frame=color)
        words = [(f"{mark}distance {number(distance)}", color if mark else INK)]
        if said is not None or truth is not None:
            words.append((_sentence(said, truth), INK))
        sheet.words(lefts[0], top + side, words, width=2 * side + seam)
        if names is not None:
            for name, left in zip(names[position], lefts, strict=True):
                below = top + side + len(words) * _LINE
                sheet.words(left, below, [(_short_name(name, side), MUTED)], width=side + 0.02)
    return sheet.figure


@styled
def augmented_views(
    original_items: Float[Tensor, "n ..."],
    views: Float[Tensor, "n v ..."],
    *,
    names: Sequence[str] | None = None,
    most: int = 12,
) -> Figure:
    """One row per item: the original, then its augmented views.

    Args:
        original_items: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,).
        views: v views of each, as the encoder would see them.
        names: one word on each item, e.g. its class.
        most: rows drawn.

    Raises:
        ValueError: if the sizes do not fit each other, or items are neither images nor vectors.
    """
    check_items(original_items, "original_items")
    check_items(views, "views", extra=2)
    count, per_item = views.shape[:2]
    if len(original_items) != count:
        raise ValueError(
            f"views must hold views of {len(original_items)} items, as original_items does, "
            f"got {count}. Stack them with torch.stack(views, dim=1)."
        )
    _check_names(names, count, "names", "item")
    check_count("most", most)
    rows = min(count, most)
    row_height = _CELL + _GAP + (0.0 if names is None else _LINE)
    height = _HEADING + rows * row_height + MARGIN
    noun = f"{per_item} augmented view{'s' * (per_item != 1)}"
    title = f"{noun} of {_some(rows, count)} item{'s' * (count != 1)}"
    sheet = _Sheet(height, title, width=_width(per_item + 1))
    limits = value_limits(original_items[:rows], views[:rows])
    for column in range(per_item + 1):
        sheet.words(_left(column), 0.0, [(f"view {column}" if column else "original", MUTED)])
    for row in range(rows):
        top = _HEADING + row * row_height
        draw_item(sheet.box(_left(0), top), original_items[row], limits, frame=INK)
        for column in range(per_item):
            draw_item(sheet.box(_left(column + 1), top), views[row, column], limits)
        if names is not None:
            sheet.words(_left(0), top + _CELL, [(str(names[row]), MUTED)])
    return sheet.figure


class _Sheet:
    """A figure on which boxes and words stand where they are put.

    Places are in inches, from the left edge and down from the end of the title strip.
    """

    def __init__(self, height: float, title: str, note: str = "", *, width: float) -> None:
        self.figure = canvas(height, title, note, width=width, arrange=False)
        self._height = height

    def box(self, left: float, top: float, side: float = _CELL) -> Axes:
        width, total = self.figure.get_size_inches()
        bottom = self._height - top - side
        return self.figure.add_axes((left / width, bottom / total, side / width, side / total))

    def words(
        self, left: float, top: float, lines: Sequence[tuple[str, str]], width: float = _TEXT_WIDTH
    ) -> None:
        """Lines of (text, colour), one below the other, cut to `width`."""
        total_width, total = self.figure.get_size_inches()
        for row, (text, color) in enumerate(lines):
            y = self._height - top - 0.05 - row * _LINE
            self.figure.text(
                left / total_width,
                y / total,
                fit(text, width, NOTE_SIZE),
                color=color,
                fontsize=NOTE_SIZE,
                va="top",
            )


def _left(column: int) -> float:
    return MARGIN + column * (_CELL + _GAP) + (_FIRST_GAP - _GAP) * (column > 0)


def _width(columns: int) -> float:
    # Never so narrow that the title would break into many lines.
    return max(3.6, _left(columns - 1) + _CELL + MARGIN)


def _verdict(agrees: bool | None) -> tuple[str, str]:
    """Frame colour and mark; a mark too, as red and green look alike to some."""
    if agrees is None:
        return NEUTRAL, ""
    return (RIGHT, "✓ ") if agrees else (WRONG, "✗ ")


def _sentence(said: bool | None, truth: bool | None) -> str:
    words = {True: "same", False: "different"}
    parts = [] if said is None else [f"verdict {words[said]}"]
    parts += [] if truth is None else [f"truth {words[truth]}"]
    return ", ".join(parts)


def _ordinal(rank: int) -> str:
    if rank == 1:
        return "nearest"
    ending = "th" if 11 <= rank % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def _short_name(name: object, width: float = _TEXT_WIDTH) -> str:
    """Of an image's path the bare file name; of a long name both ends."""
    word = str(name).rstrip("/").rpartition("/")[2]
    stem, dot, suffix = word.rpartition(".")
    if dot and suffix.lower() in _IMAGE_SUFFIXES:
        word = stem
    return fit_middle(word, width, NOTE_SIZE)


def _some(drawn: int, count: int) -> str:
    return f"{drawn} of {count}" if drawn < count else str(count)


def _title(rows: int, queries: int, nouns: str, k: int) -> str:
    nearest = "nearest neighbor" if k == 1 else f"{k} nearest neighbors"
    return f"{_some(rows, queries)} {nouns} {nearest}"


def _check_names(names: Sequence[object] | None, count: int, argument: str, noun: str) -> None:
    if names is not None and len(names) != count:
        raise ValueError(
            f"{argument} must have {count} entries, one per {noun}, got {len(names)}. "
            "Leave it out if there are no names."
        )
