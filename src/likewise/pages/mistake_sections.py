"""What the report of an evaluation shows of mistakes: confused classes, odd pairs, each class."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from likewise import data
from likewise.data.parts import paths_of
from likewise.distances import Distance
from likewise.embedded import Embedded
from likewise.evaluation import RetrievalResult
from likewise.evaluation.mistakes import (
    FoundPairs,
    confused_classes,
    farthest_right,
    nearest_others,
    nearest_wrong,
)
from likewise.model.trials import translated
from likewise.pages.shown_items import Pictures
from likewise.pages.writing import Section
from likewise.plots.mistake_sheets import confused_classes as draw_confused
from likewise.plots.mistake_sheets import labeled_pairs

SHEET = 9  # pairs on a sheet
MOST_CLASSES = 50  # rows of the table
_PAIRS = (
    ("The nearest pairs of two classes", nearest_wrong),
    ("The farthest pairs of one class", farthest_right),
)


def sections(
    examples: Embedded,
    pictures: Pictures,
    retrieval: RetrievalResult | None,
    class_names: Sequence[str],
    *,
    distance: Distance,
    threshold: float | None,
    trained_on: Sequence[str],
) -> list[Section]:
    """The mistakes among the examples, and how well each class is found.

    Args:
        examples: items that were evaluated.
        pictures: Pictures of them.
        retrieval: what came out of all items; None where no class has two.
        class_names: Names of the class codes of `retrieval`.
        distance: compares.
        threshold: Threshold of verification, if it is calibrated.
        trained_on: names of the classes that were trained on.
    """
    if len(examples) < 2:
        return []
    labels = translated(examples, class_names)
    nearest = nearest_others(examples.embeddings, distance=distance)
    answers = labels[nearest.items[:, 1]]
    is_text = data.is_text(examples.source)
    figures: list[Any] = []
    if not is_text:
        figures = _figures(examples, pictures, labels, class_names, nearest, distance, threshold)
    wrong = int((answers != labels).sum())
    text = (
        f"The nearest other item of {wrong:,} of {len(labels):,} items is of another class. "
        "In the sheets of pairs an item stands once. Look here first for wrong labels."
    )
    mistakes = [Section("Mistakes", text, figures=figures)]
    if is_text:
        mistakes += _texts(examples, labels, class_names, distance)
    if retrieval is None:
        return mistakes
    table = _table(trained_on, retrieval, labels, answers, class_names)
    shown = len(table) - 1
    classes = len(torch.unique(retrieval.query_labels))
    order = "" if shown == classes else f" The {shown} hardest of {classes} classes."
    told = f"Each item as a query for the others of its class, hardest class first.{order}"
    return [*mistakes, Section("Retrieval, class by class", told, table=table)]


def _texts(
    examples: Embedded,
    labels: Int[Tensor, " n"],
    class_names: Sequence[str],
    distance: Distance,
) -> list[Section]:
    """The pairs that the sheets show of images, in words."""
    found = []
    for title, find in _PAIRS:
        pairs = find(examples.embeddings, labels, SHEET, distance=distance)
        rows: list[Sequence[Any]] = [["a", "class", "b", "class", "distance"]]
        for pair, far in zip(pairs.items, pairs.distances.tolist(), strict=True):
            left, right = data.items(examples.source, examples.rows[pair].tolist())
            one, other = labels[pair].tolist()
            rows.append([left, class_names[one], right, class_names[other], f"{far:.4f}"])
        if len(rows) > 1:
            found.append(Section(title, table=rows))
    return found


def _figures(
    examples: Embedded,
    pictures: Pictures,
    labels: Int[Tensor, " n"],
    class_names: Sequence[str],
    nearest: FoundPairs,
    distance: Distance,
    threshold: float | None,
) -> list[Any]:
    paths = paths_of(examples)

    def shown(found: FoundPairs) -> tuple[Tensor, Tensor, list[tuple[str, str]] | None]:
        items = [pictures(side) for side in found.items.T.tolist()]
        named = [(paths[a], paths[b]) for a, b in found.items.tolist()] if paths else None
        return items[0], items[1], named

    figures: list[Any] = []
    for title, find in _PAIRS:
        found = find(examples.embeddings, labels, SHEET, distance=distance)
        if len(found.items):
            left, right, names = shown(found)
            figures.append(
                labeled_pairs(
                    left,
                    right,
                    found.distances,
                    labels[found.items],
                    class_names,
                    threshold=threshold,
                    names=names,
                    title=title,
                )
            )
    confused = confused_classes(labels[nearest.items[:, 1]], labels, nearest.distances)
    if confused:
        rows = torch.cat([each.examples for each in confused])
        taken = FoundPairs(nearest.items[rows], nearest.distances[rows])
        left, right, names = shown(taken)
        figures.append(
            draw_confused(confused, left, right, taken.distances, class_names, names=names)
        )
    return figures


def _table(
    trained_on: Sequence[str],
    retrieval: RetrievalResult,
    labels: Int[Tensor, " n"],
    answers: Int[Tensor, " n"],
    class_names: Sequence[str],
) -> list[Sequence[Any]]:
    of_class = retrieval.per_class("precision_at_1", "map_at_r")
    first = {code: scores["precision_at_1"] for code, scores in of_class.items()}
    whole = {code: scores["map_at_r"] for code, scores in of_class.items()}
    sizes = torch.bincount(retrieval.query_labels).tolist()
    taken_for: dict[int, str] = {}
    for each in confused_classes(answers, labels, most=len(labels), examples=0):
        words = f"{class_names[each.answer]} ({each.count} of {each.queries})"
        taken_for.setdefault(each.truth, words)
    hardest = sorted(first, key=lambda code: (first[code].value, whole[code].value, code))
    rows: list[Sequence[Any]] = [
        ["class", "trained on", "queries", "precision at 1", "MAP at R", "most often taken for"]
    ]
    for code in hardest[:MOST_CLASSES]:
        name = class_names[code]
        seen = "yes" if name in trained_on else "no"
        rows.append(
            [name, seen, sizes[code], first[code], whole[code], taken_for.get(code, "none")]
        )
    return rows
