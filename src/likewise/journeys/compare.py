"""Two models on the same items: `compare_models` and its verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from likewise import _tables, data
from likewise._checks import check_choice
from likewise.data.pairs import draw_pairs
from likewise.embedded import Embedded
from likewise.encoders import takes_texts
from likewise.errors import InputError
from likewise.evaluation import (
    RetrievalResult,
    VerificationResult,
    evaluate_retrieval,
    evaluate_verification,
)
from likewise.evaluation.comparison import (
    Comparison,
    Difference,
    compare,
    together,
)
from likewise.intervals import FEWEST_GROUPS
from likewise.journeys.opening import PLAIN, open_fitting
from likewise.journeys.scoring import selection_notes
from likewise.matching import UNKNOWN
from likewise.model import SimilarityModel
from likewise.model.trials import LEAVE_OUT, PAIRS, labeled

RETRIEVAL = ("precision_at_1", "r_precision", "map_at_r")
PER_ITEM = 10.0  # pairs drawn per item, as `SimilarityModel.evaluate` draws them
POINT = "nearest"


@dataclass(frozen=True, eq=False)
class Judged:
    """One model on the items that are new to both."""

    retrieval: RetrievalResult
    verification: VerificationResult
    right: Bool[Tensor, " n"] | None  # of matching; None unless indexed and calibrated

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html


@dataclass(frozen=True, eq=False)
class Compared:
    """Two models on the same items."""

    names: tuple[str, str]
    models: tuple[SimilarityModel, SimilarityModel]
    judged: tuple[Judged, Judged]
    items: Embedded  # by the first model
    left_out: int
    holds_for: str
    comparison: Comparison
    biased: list[str]  # what is too good, and why, a line each
    seed: int  # of the pairs that were drawn

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        return self.comparison._table()

    @property
    def without_intervals(self) -> list[str]:
        """Why intervals are missing, in a line; empty where there are items or classes enough.

        Items are the queries of retrieval and matching, of which any two have an interval.
        """
        classes = len(data.items_per_class(self.items))
        count = classes if self.holds_for == "classes" else len(self.items)
        if count >= FEWEST_GROUPS:
            return []
        of = "" if self.holds_for == "classes" else " of verification"
        return [
            f"no intervals{of}: {count} {self.holds_for} are new to both, fewer than "
            f"{FEWEST_GROUPS}"
        ]

    @property
    def smaller_is_better(self) -> set[str]:
        """Names of the measures of which less is better."""
        return {name for name, one in self.comparison.measures.items() if one.smaller_is_better}


def names_of(first: str, second: str) -> tuple[str, str]:
    """What two models go by: the names of their folders, or their paths where these are alike.

    Raises:
        InputError: if they are the same folder.
    """
    if Path(first).resolve() == Path(second).resolve():
        raise InputError(f"MODEL_B must be another folder than MODEL_A, got {second!r} for both.")
    names = Path(first).resolve().name, Path(second).resolve().name
    return names if names[0] != names[1] else (first, second)


def compare_models(
    names: tuple[str, str],
    models: tuple[SimilarityModel, SimilarityModel],
    source: str,
    *,
    split: str | None,
    holds_for: str,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    reading: data.Reading = PLAIN,
) -> Compared:
    """Both models judged on the items of a source that are new to both.

    Raises:
        InputError: no labeled item is new to both, or they form no pairs of both kinds.
    """
    check_choice("holds_for", holds_for, LEAVE_OUT)
    for model in models:
        model.check_one_tower("a comparison")
    wholes = _opened(models, source, split, reading)

    def show(turn: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(turn * total + done, 2 * total)

    first = models[0].embedded(wholes[0], only_new=True, progress=show(0))
    # What is new to the first is all that the second need read.
    rest = data.Subset(wholes[1], first.rows)
    second = models[1].embedded(rest, only_new=True, progress=show(1)) if len(rest) else first
    total, left_out = len(wholes[0]), len(wholes[0]) - len(second)
    if left_out == total:
        raise InputError(
            f"DATA must hold items that neither model was trained on or has indexed, got "
            f"{total} without any. Keep some aside."
        )
    parts = [labeled(part) for part in (first.take(second.rows), second)]
    labels = parts[0].labels
    of_classes = holds_for == "classes"
    pairs = draw_pairs(labels.numpy(), PER_ITEM, (seed,))
    match = all(len(model.index) and POINT in model.calibrations for model in models)
    judged = [
        _judged(model, part, pairs, of_classes=of_classes, match=match)
        for model, part in zip(models, parts, strict=True)
    ]
    a, b = judged
    found = {
        "retrieval": compare(
            a.retrieval, b.retrieval, measures=RETRIEVAL, classes_as_sample=of_classes, names=names
        ),
        "verification": compare(a.verification, b.verification, names=names),
    }
    if a.right is not None and b.right is not None:
        found["matching"] = compare(
            {"accuracy": a.right.double()},
            {"accuracy": b.right.double()},
            labels=labels,
            classes_as_sample=of_classes,
            names=names,
        )
    return Compared(
        names,
        models,
        (a, b),
        parts[0],
        left_out,
        holds_for,
        together(found),
        [
            f"{name}: {line}"
            for name, model, part in zip(names, models, parts, strict=True)
            for line in _biases(model, part)
        ],
        seed,
    )


def _opened(
    models: Sequence[SimilarityModel], source: str, split: str | None, reading: data.Reading
) -> list[data.Dataset]:
    """The source as each model reads it; opened once where both read it alike."""
    found: dict[Any, data.Dataset] = {}
    ways = [
        (
            model.preprocess and tuple(model.preprocess.item_shape),
            takes_texts(model.encoder),
            tuple(sorted(model.reading.columns.items())),
        )
        for model in models
    ]
    for model, way in zip(models, ways, strict=True):
        if way not in found:
            found[way] = open_fitting(model, source, split, default_split="test", reading=reading)
    return [found[way] for way in ways]


def _biases(model: SimilarityModel, items: Embedded) -> list[str]:
    lines = selection_notes(model.origin, list(data.items_per_class(items)))
    seen = int(torch.isin(items.fingerprints, model.calibrated_prints).sum())
    if seen:
        lines.append(f"{seen} of the items were calibrated on, which biases its thresholds")
    return lines


def _judged(
    model: SimilarityModel,
    items: Embedded,
    pairs: tuple[Int[Tensor, "p 2"], Bool[Tensor, " p"]],
    *,
    of_classes: bool,
    match: bool,
) -> Judged:
    calibration = model.calibrations.get(PAIRS)
    right = None
    if match:
        right = _right(model, items, model.match(items, point=POINT).labels)
    positions, same = pairs
    left, far = items.embeddings[positions.T]
    return Judged(
        retrieval=evaluate_retrieval(
            items.embeddings,
            items.labels,
            distance=model.compared_by,
            ks=(1,),
            classes_as_sample=of_classes,
        ),
        verification=evaluate_verification(
            model.compared_by.paired(left, far),
            same,
            threshold=None if calibration is None else calibration.threshold,
            items=items.labels[positions] if of_classes else positions,
        ),
        right=right,
    )


def _right(
    model: SimilarityModel, items: Embedded, answers: Int[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """Whether each item is given its class, or UNKNOWN where that is not indexed."""
    indexed = set(model.index.labels.tolist())
    codes = {name: code for code, name in enumerate(model.class_names) if code in indexed}
    truth = torch.tensor([codes.get(name, UNKNOWN) for name in items.class_names])
    return answers == truth[items.labels]


def comparison_table(found: Compared) -> list[Sequence[Any]]:
    """One row for each measure: both values, their difference, and who is ahead."""
    a, b = found.names
    header = ["", a, b, f"{a} − {b}", "p", "p adjusted", "ahead"]
    rows = [_row(name, one, found.names) for name, one in found.comparison.measures.items()]
    return [header, *rows]


def _row(name: str, one: Difference, names: Sequence[str]) -> list[Any]:
    ahead = "–" if one.ahead is None else names[one.ahead]
    chances = [_chance(p) for p in (one.p_value, one.adjusted_p_value)]
    return [name.replace("_", " "), one.a, one.b, one.difference, *chances, ahead]


def _chance(p: float) -> str:
    if p != p:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
