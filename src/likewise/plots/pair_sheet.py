"""Pictures of pairs of items, and which pairs are worth a look."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from likewise._checks import check_count, check_finite, check_same
from likewise.errors import InputError
from likewise.plots._sheet import GAP, LINE, Sheet, check_names, short_name, some, verdict
from likewise.plots.style import (
    INK,
    MARGIN,
    MUTED,
    WIDTH,
    check_items,
    draw_item,
    number,
    styled,
    value_limits,
)

_SEAM = 0.06  # inches between the two items of a pair
_BETWEEN = 0.2  # and between two pairs


@styled
def pairs(
    items_a: Float[Tensor, "p ..."],
    items_b: Float[Tensor, "p ..."],
    distances: Float[Tensor, " p"] | None = None,
    same: Bool[Tensor, " p"] | None = None,
    threshold: float | None = None,
    *,
    probabilities: Float[Tensor, " p"] | None = None,
    names: Sequence[tuple[str, str]] | None = None,
    title: str | None = None,
    most: int = 12,
) -> Figure:
    """Pairs side by side, with their distance, the verdict at the threshold, and the truth.

    A verdict that agrees with the truth has green frames and ✓, one that does not red frames
    and ✗. Without a threshold only distance and truth are told, without truth only the verdict.
    A single pair is drawn large.

    Args:
        items_a: images (c, h, w) or (h, w), clipped to 0..1, or vectors (d,).
        items_b: the other side of each pair.
        distances: one per pair; None tells the truth alone.
        same: the truth.
        threshold: with distances, a pair is accepted as the same if its distance is at most this.
        probabilities: Probabilities that the pair is the same, 0 to 1.
        names: one name for each side of each pair.
        title: Title of the picture; by default how many pairs there are.
        most: pairs drawn, the first ones; `worst_pairs` gives an order.

    Raises:
        InputError: if the sizes do not fit each other, or items are neither images nor vectors.

    Example:
        >>> faces = torch.rand(2, 1, 8, 8)
        >>> figure = pairs(faces[:1], faces[1:], torch.tensor([0.3]), threshold=0.5)
        >>> figure.get_suptitle()
        '1 pair and its distance'
    """
    check_items(items_a, "items_a")
    check_items(items_b, "items_b")
    count = len(items_a) if distances is None else len(distances)
    if len(items_a) != count or len(items_b) != count:
        raise InputError(
            f"items_a and items_b must hold {count} items, one per pair, "
            f"got {len(items_a)} and {len(items_b)}. Give both sides of every pair."
        )
    if threshold is not None and distances is None:
        raise InputError(
            f"threshold must be left out without distances, got {threshold}. Give distances."
        )
    if count == 0:
        raise InputError("distances must hold at least one pair, got none. Draw pairs first.")
    if same is not None:
        check_same(same, count)
    if probabilities is not None and len(probabilities) != count:
        raise InputError(f"probabilities must have {count} entries, got {len(probabilities)}.")
    check_names(names, count, "names", "pair")
    check_count("most", most)
    drawn = min(count, most)

    columns = min(2, drawn)
    width = (WIDTH - 2 * MARGIN - (columns - 1) * _BETWEEN) / columns
    side = (width - _SEAM) / 2
    lines = (distances is not None) + (threshold is not None or same is not None)
    lines += (probabilities is not None) + (names is not None)
    tall = side * min(1.0, max(_aspect(items_a), _aspect(items_b)))
    row_height = tall + lines * LINE + 1.5 * GAP
    height = -(-drawn // columns) * row_height + MARGIN
    note = "" if threshold is None else f"Accepted as the same: distance ≤ {number(threshold)}."
    if title is None:
        many = f"{some(drawn, count)} pairs"
        title = "1 pair" if count == 1 else many
        if distances is not None:
            title += " and its distance" if count == 1 else " with their distances"
    sheet = Sheet(height, title, note, width=WIDTH)
    limits = value_limits(items_a[:drawn], items_b[:drawn])
    for position in range(drawn):
        row, column = divmod(position, columns)
        lefts = [MARGIN + column * (width + _BETWEEN) + shift for shift in (0.0, side + _SEAM)]
        top = row * row_height - (side - tall)  # wide images stand at the bottom of their box
        truth = None if same is None else bool(same[position])
        # Compared as tensors, in their own precision, as matching does.
        said = None
        if threshold is not None and distances is not None:
            said = bool(distances[position] <= threshold)
        color, mark = verdict(None if truth is None or said is None else truth == said)
        for items, left in zip((items_a, items_b), lefts, strict=True):
            draw_item(sheet.box(left, top, side), items[position], limits, frame=color)
        words: list[tuple[str, str]] = []
        if distances is not None:
            told = f"{mark}distance {number(float(distances[position]))}"
            words.append((told, color if mark else INK))
        if said is not None or truth is not None:
            words.append((_sentence(said, truth), INK))
        if probabilities is not None:
            words.append((f"probability of same {float(probabilities[position]):.3f}", INK))
        sheet.words(lefts[0], top + side, words, width=width)
        if names is not None:
            for name, left in zip(names[position], lefts, strict=True):
                below = top + side + len(words) * LINE
                sheet.words(left, below, [(short_name(name, side), MUTED)], width=side + 0.02)
    return sheet.figure


def worst_pairs(
    distances: Float[Tensor, " p"], same: Bool[Tensor, " p"], threshold: float, k: int
) -> Int[Tensor, " k"]:
    """Positions of the k pairs to look at first: the most confident mistakes, then the least sure.

    How confident a verdict is: the share of the pairs with that verdict that are no farther
    from the threshold. The closest of all accepted pairs and the farthest of all rejected ones
    have 1, so that wrong accepts and wrong rejects compare, whatever the unit of the distance.
    Mistakes come first, by falling confidence; right verdicts follow, by rising confidence. Of
    equal ones the first in the data comes first.

    Args:
        distances: one per pair.
        same: whether the pair truly belongs together.
        threshold: a pair is accepted if its distance is at most this.
        k: how many positions; of fewer pairs all.

    Raises:
        InputError: if a distance is NaN or infinite, or `same` has another shape.

    Example:
        >>> distances = torch.tensor([0.1, 0.2, 0.3, 0.8, 0.9])
        >>> same = torch.tensor([True, False, True, False, True])
        >>> worst_pairs(distances, same, 0.5, 3).tolist()
        [4, 1, 2]
    """
    check_same(same, len(distances))
    check_finite(distances, "distances")
    check_count("k", k)
    accepted = distances <= threshold
    accepts, rejects = int(accepted.sum()), int((~accepted).sum())
    ordered = distances.sort().values
    closer = torch.searchsorted(ordered, distances).double()
    as_close = torch.searchsorted(ordered, distances, right=True).double()
    confidence = torch.where(
        accepted, (accepts - closer) / max(accepts, 1), (as_close - accepts) / max(rejects, 1)
    )
    return torch.where(accepted == same, -confidence, confidence).argsort(
        descending=True, stable=True
    )[:k]


def _aspect(items: Tensor) -> float:
    """Height of an image by its width; 1 for vectors."""
    return items.shape[-2] / max(items.shape[-1], 1) if items.ndim > 2 else 1.0


def _sentence(said: bool | None, truth: bool | None) -> str:
    words = {True: "same", False: "different"}
    parts = [] if said is None else [f"verdict {words[said]}"]
    parts += [] if truth is None else [f"truth {words[truth]}"]
    return ", ".join(parts)
