"""Pictures of items: a contact sheet, neighbors of queries, augmented views."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from likewise._checks import check_count, check_labels
from likewise.errors import InputError
from likewise.index import Neighbors
from likewise.plots._sheet import CELL, GAP, LINE, Sheet, check_names, short_name, some, verdict
from likewise.plots.style import (
    INK,
    MARGIN,
    MUTED,
    check_items,
    draw_item,
    name_of,
    number,
    styled,
    value_limits,
)

_FIRST_GAP = 0.2  # more room beside the first column: it is what the rest is compared with
_HEADING = LINE + 0.06


@styled
def contact_sheet(
    items: Float[Tensor, "n ..."],
    names: Sequence[str] | None = None,
    *,
    title: str | None = None,
    columns: int = 8,
    most: int = 48,
) -> Figure:
    """Items side by side, row by row, in their order.

    Args:
        items: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,).
        names: one word below each item, e.g. its class.
        title: Title of the sheet; by default how many items there are.
        columns: items in a row.
        most: items drawn, the first ones.

    Raises:
        InputError: without any item, or if they are neither images nor vectors.

    Example:
        >>> import torch
        >>> contact_sheet(torch.rand(60, 8, 8)).get_suptitle()
        '48 of 60 items'
    """
    check_items(items, "items")
    check_names(names, len(items), "names", "item")
    check_count("columns", columns)
    check_count("most", most)
    if not len(items):
        raise InputError("items must hold at least one item, got none.")
    drawn = min(len(items), most)
    columns = min(columns, drawn)
    row_height = CELL + GAP + (0.0 if names is None else LINE)
    height = -(-drawn // columns) * row_height + MARGIN
    if title is None:
        title = f"{some(drawn, len(items))} item{'s' * (len(items) != 1)}"
    sheet = Sheet(height, title, width=max(3.6, columns * (CELL + GAP) - GAP + 2 * MARGIN))
    limits = value_limits(items[:drawn])
    for position in range(drawn):
        row, column = divmod(position, columns)
        left, top = MARGIN + column * (CELL + GAP), row * row_height
        draw_item(sheet.box(left, top), items[position], limits)
        if names is not None:
            sheet.words(left, top + CELL, [(short_name(names[position]), INK)])
    return sheet.figure


@styled
def neighbors(
    query_items: Float[Tensor, "q ..."] | None,
    neighbor_items: Float[Tensor, "q k ..."],
    found: Neighbors,
    class_names: Sequence[str],
    *,
    query_labels: Int[Tensor, " q"] | None = None,
    threshold: float | None = None,
    query_names: Sequence[str] | None = None,
    most: int = 12,
) -> Figure:
    """One row per query: the query, then its neighbors, nearest first, with label and distance.

    A neighbor of the query's class has a green frame and ✓, one of another class a red frame
    and ✗; without a query label (or with -1, unknown) there are no marks. Neighbors beyond the
    threshold are faded, their frame dashed. Missing neighbors (distance inf) are left blank.

    Args:
        query_items: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,); None draws
            the number of each query instead.
        neighbor_items: what `found` found, in the same order.
        found: labels and distances of the neighbors.
        class_names: Names of the label codes.
        query_labels: true codes, -1 where not known.
        threshold: a neighbor is accepted if its distance is at most this.
        query_names: one word on each query, e.g. a file name.
        most: rows drawn; the title says how many there are.

    Raises:
        InputError: if the sizes do not fit each other, or items are neither images nor vectors.
    """
    if query_items is not None:
        check_items(query_items, "query_items")
    check_items(neighbor_items, "neighbor_items", extra=2)
    queries, k = found.labels.shape
    given = queries if query_items is None else len(query_items)
    if given != queries or neighbor_items.shape[:2] != (queries, k):
        raise InputError(
            f"query_items and neighbor_items must hold {queries} queries and {k} neighbors each, "
            f"as found does, got {given} and {tuple(neighbor_items.shape[:2])}. "
            "Fetch the items by found.ids."
        )
    if query_labels is not None:
        check_labels(query_labels, queries, "query_labels")
    check_names(query_names, queries, "query_names", "query")
    check_count("most", most)
    rows = min(queries, most)

    note = [] if query_labels is None else ["✓ same class as the query, ✗ another."]
    if threshold is not None:
        note.append(f"Faded and dashed: beyond the threshold {number(threshold)}, not accepted.")
    row_height = CELL + 2 * LINE + GAP + 0.02
    height = _HEADING + rows * row_height + MARGIN
    title = _title(rows, queries, "query and its" if queries == 1 else "queries and their", k)
    sheet = Sheet(height, title, " ".join(note), width=_width(k + 1))
    seen = [neighbor_items[:rows], *([] if query_items is None else [query_items[:rows]])]
    limits = value_limits(*seen)
    for column, heading in enumerate(["query", *(_ordinal(rank) for rank in range(1, k + 1))]):
        sheet.words(_left(column), 0.0, [(heading, MUTED)])

    for row in range(rows):
        top = _HEADING + row * row_height
        truth = -1 if query_labels is None else int(query_labels[row])
        if query_items is None:
            sheet.words(_left(0), top + CELL / 2 - LINE / 2, [(f"query {row}", MUTED)])
        else:
            draw_item(sheet.box(_left(0), top), query_items[row], limits)
        words = [] if truth < 0 else [(name_of(truth, class_names), INK)]
        if query_names is not None:
            words.append((short_name(query_names[row]), MUTED))
        sheet.words(_left(0), top + CELL, words)
        for rank in range(k):
            label, distance = int(found.labels[row, rank]), float(found.distances[row, rank])
            if distance == float("inf"):
                continue
            accepted = threshold is None or bool(found.distances[row, rank] <= threshold)
            color, mark = verdict(None if min(truth, label) < 0 else truth == label)
            left = _left(rank + 1)
            item = neighbor_items[row, rank]
            draw_item(sheet.box(left, top), item, limits, frame=color, faded=not accepted)
            name = name_of(label, class_names) if label >= 0 else "no label"
            words = [
                (mark + name, color if mark else INK),
                (number(distance), INK if accepted else MUTED),
            ]
            sheet.words(left, top + CELL, words)
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
        InputError: if the sizes do not fit each other, or items are neither images nor vectors.
    """
    check_items(original_items, "original_items")
    check_items(views, "views", extra=2)
    count, per_item = views.shape[:2]
    if len(original_items) != count:
        raise InputError(
            f"views must hold views of {len(original_items)} items, as original_items does, "
            f"got {count}. Stack them with torch.stack(views, dim=1)."
        )
    check_names(names, count, "names", "item")
    check_count("most", most)
    rows = min(count, most)
    row_height = CELL + GAP + (0.0 if names is None else LINE)
    height = _HEADING + rows * row_height + MARGIN
    noun = f"{per_item} augmented view{'s' * (per_item != 1)}"
    title = f"{noun} of {some(rows, count)} item{'s' * (count != 1)}"
    sheet = Sheet(height, title, width=_width(per_item + 1))
    limits = value_limits(original_items[:rows], views[:rows])
    for column in range(per_item + 1):
        sheet.words(_left(column), 0.0, [(f"view {column}" if column else "original", MUTED)])
    for row in range(rows):
        top = _HEADING + row * row_height
        draw_item(sheet.box(_left(0), top), original_items[row], limits, frame=INK)
        for column in range(per_item):
            draw_item(sheet.box(_left(column + 1), top), views[row, column], limits)
        if names is not None:
            sheet.words(_left(0), top + CELL, [(str(names[row]), MUTED)])
    return sheet.figure


def _left(column: int) -> float:
    return MARGIN + column * (CELL + GAP) + (_FIRST_GAP - GAP) * (column > 0)


def _width(columns: int) -> float:
    # Never so narrow that the title would break into many lines.
    return max(3.6, _left(columns - 1) + CELL + MARGIN)


def _ordinal(rank: int) -> str:
    if rank == 1:
        return "nearest"
    ending = "th" if 11 <= rank % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def _title(rows: int, queries: int, nouns: str, k: int) -> str:
    nearest = "nearest neighbor" if k == 1 else f"{k} nearest neighbors"
    return f"{some(rows, queries)} {nouns} {nearest}"
