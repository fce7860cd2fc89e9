"""Two models on the same items: `compare_models` and its verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from likewise import data
from likewise._checks import check_choice
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
from likewise.journeys.opening import open_fitting
from likewise.journeys.train import selection_notes
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


@dataclass(frozen=True, eq=False)
class Compared:
    """Two models on the same items."""

    names: tuple[str, str]
    models: tuple[SimilarityModel, SimilarityModel]
    judged: tuple[Judged, Judged]
    items: data.Dataset
    left_out: int
    holds_for: str
    comparison: Comparison
    biased: list[str]  # what is too good, and why, a line each

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
) -> Compared:
    """Both models judged on the items of a source that are new to both.

    Raises:
        InputError: no labeled item is new to both, or they form no pairs of both kinds.
    """
    check_choice("holds_for", holds_for, LEAVE_OUT)
    wholes = [open_fitting(model, source, split, default_split="test") for model in models]
    new = torch.stack([m.is_new(d) for m, d in zip(models, wholes, strict=True)]).all(dim=0)
    if not bool(new.any()):
        raise InputError(
            f"DATA must hold items that neither model was trained on or has indexed, got "
            f"{len(new)} without any. Keep some aside."
        )
    parts = [labeled(data.Subset(whole, new.nonzero().flatten())) for whole in wholes]
    labels = parts[0].labels
    of_classes = holds_for == "classes"
    pairs = data.PairDataset(parts[0], per_item=PER_ITEM, seed=seed)
    match = all(len(model.index) and POINT in model.calibrations for model in models)
    judged = []
    for turn, (model, part) in enumerate(zip(models, parts, strict=True)):

        def show(done: int, total: int, turn: int = turn) -> None:
            if progress is not None:
                progress(turn * total + done, 2 * total)

        judged.append(_judged(model, part, pairs, of_classes=of_classes, match=match, show=show))
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
    left_out = int((~new).sum())
    first, second = models
    return Compared(
        names,
        (first, second),
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
    )


def _biases(model: SimilarityModel, items: data.Dataset) -> list[str]:
    lines = selection_notes(model.origin, list(data.items_per_class(items)))
    seen = int(torch.isin(data.fingerprints(items), model.calibrated_prints).sum())
    if seen:
        lines.append(f"{seen} of the items were calibrated on, which biases its thresholds")
    return lines


def _judged(
    model: SimilarityModel,
    items: data.Dataset,
    pairs: data.PairDataset,
    *,
    of_classes: bool,
    match: bool,
    show: Callable[[int, int], None],
) -> Judged:
    embeddings = model.embed(items, progress=show)
    calibration = model.calibrations.get(PAIRS)
    right = None
    if match:
        answers = model.match_embeddings(embeddings, point=POINT).labels
        right = _right(model, items, answers)
    left, far = pairs.pairs.T
    return Judged(
        retrieval=evaluate_retrieval(
            embeddings,
            items.labels,
            distance=model.compared_by,
            ks=(1,),
            classes_as_sample=of_classes,
        ),
        verification=evaluate_verification(
            model.compared_by.paired(embeddings[left], embeddings[far]),
            pairs.same,
            threshold=None if calibration is None else calibration.threshold,
            items=items.labels[pairs.pairs] if of_classes else pairs.pairs,
        ),
        right=right,
    )


def _right(
    model: SimilarityModel, items: data.Dataset, answers: Int[Tensor, " n"]
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
