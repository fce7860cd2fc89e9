"""`likewise verify`: two images, or the pairs of a table, and the page about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from likewise import plots
from likewise.artifacts import SimilarityModel, Verified
from likewise.cli.answers import MOST_LINES, Answer, cut
from likewise.cli.console import columns
from likewise.data.pair_tables import read_pair_table
from likewise.errors import InputError
from likewise.evaluation import VerificationResult, evaluate_verification
from likewise.intervals import FEWEST_GROUPS
from likewise.pages import Section, write_page

FARS = (0.1, 0.01, 0.001)
SHEET = 12  # pairs drawn on a page


@dataclass(frozen=True, eq=False)
class Pairs:
    """Image files, which of them are compared, and the truth if a table tells it."""

    paths: list[str]
    names: list[str]
    positions: Int[Tensor, "p 2"]
    same: Bool[Tensor, " p"] | None


def read(files: Sequence[str], table: Path | None) -> Pairs:
    """The pairs to verify: two files, or those of a table.

    Raises:
        InputError: neither, both, or a table that is none of pairs.
    """
    if table is None:
        if len(files) != 2:
            raise InputError(
                f"FILE_A FILE_B must be two images, got {len(files)}. Or give --pairs pairs.csv."
            )
        return Pairs(list(files), list(files), torch.tensor([[0, 1]]), None)
    if files:
        raise InputError("pairs must come alone, got files as well. Give either.")
    rows = read_pair_table(table)
    same = None if rows.same is None else torch.tensor(rows.same)
    return Pairs(rows.paths, rows.names, torch.tensor(rows.pairs), same)


def judge(
    model: SimilarityModel,
    pairs: Pairs,
    *,
    point: str,
    threshold: float | None,
    prior: float | None,
    progress: Callable[[int, int], None],
) -> Verified:
    """The verdicts; every file is read once."""
    left, right = model.embed(pairs.paths, progress=progress)[pairs.positions.T]
    distances = model.compared_by.paired(left, right)
    return model.judge(distances, point=point, threshold=threshold, prior=prior)


def evaluated(
    model: SimilarityModel, pairs: Pairs, decided: Verified, point: str
) -> VerificationResult | None:
    """How well the verdicts do; None without a truth of both kinds."""
    if pairs.same is None or bool(pairs.same.all()) or not bool(pairs.same.any()):
        return None
    return evaluate_verification(
        decided.distances,
        pairs.same,
        threshold=decided.threshold,
        items=pairs.positions,
        probability=model.probabilities.get(point),
    )


def answer(pairs: Pairs, decided: Verified, judged: VerificationResult | None) -> Answer:
    """The verdict on each pair, and how well they do where the truth is known."""
    names = [[pairs.names[row] for row in pair] for pair in pairs.positions.tolist()]
    distances, same = decided.distances.tolist(), decided.same.tolist()
    chances = [None] * len(names)
    if decided.probabilities is not None:
        chances = decided.probabilities.tolist()
    entries = [
        {"a": a, "b": b, "distance": distance, "same": verdict, "probability": chance}
        for (a, b), distance, verdict, chance in zip(names, distances, same, chances, strict=True)
    ]
    table = [
        [
            str(entry["a"]),
            str(entry["b"]),
            f"{entry['distance']:.4f}",
            "same" if entry["same"] else "different",
            *([] if entry["probability"] is None else [f"{entry['probability']:.1%} the same"]),
        ]
        for entry in entries[: MOST_LINES + 1]
    ]
    lines = [*cut(columns(table), MOST_LINES, len(entries)), f"threshold {decided.threshold:.4f}"]
    result: dict[str, Any] = {"threshold": decided.threshold, "pairs": entries}
    if pairs.same is not None:
        accuracy = float((decided.same == pairs.same).double().mean())
        result["accuracy"] = accuracy
        lines.append(f"accuracy {accuracy:.4f}")
    if judged is not None:
        result |= judged.to_dict()
        lines += columns([[name, str(value)] for name, value in _numbers(judged)])
    return result, lines


def picture(model: SimilarityModel, pairs: Pairs, decided: Verified, path: Path) -> Path:
    """Draw the pairs, with their truth the worst mistakes first."""
    return plots.save(_sheet(model, pairs, decided, _order(pairs, decided)), path)


def page(
    path: Path,
    model: SimilarityModel,
    pairs: Pairs,
    decided: Verified,
    judged: VerificationResult | None,
    *,
    source: str,
) -> Path:
    """Write the report of a table of pairs."""
    unit = f"{model.compared_by.name} distance"
    accepted = int(decided.same.sum())
    facts: list[tuple[str, Any]] = [
        ("pairs", len(decided.same)),
        ("judged the same", accepted),
        ("threshold", f"{decided.threshold:.4g}"),
    ]
    sections = []
    if judged is not None:
        facts += _numbers(judged)[:3]
        table: list[Sequence[Any]] = [["", "value"], *map(list, _numbers(judged))]
        figures: list[Any] = [
            plots.distance_histogram(
                judged.distances, judged.same, judged.threshold, distance_name=unit
            ),
            plots.threshold_curves(judged.sweep, judged.threshold, distance_name=unit),
            plots.roc(judged.sweep),
            plots.det(judged.sweep),
        ]
        text = (
            f"{judged.same_total} pairs of the table are the same and {judged.different_total} "
            "are different. "
        )
        if len(pairs.paths) < FEWEST_GROUPS:
            text += f"There are no intervals, as there are fewer than {FEWEST_GROUPS} images."
        else:
            text += "The intervals leave out items, for pairs share them."
        if judged.probability is not None:
            share = float(judged.same.double().mean())
            chances = judged.probability.of(judged.distances, prior=share)
            figures.append(plots.reliability(chances, judged.same))
            text += (
                " The reliability of the probabilities is shown at the share of same pairs "
                f"in this table, {share:.3g}."
            )
        sections.append(Section("Verification", text, figures=figures, table=table))
    chosen = _order(pairs, decided)
    shown = min(SHEET, len(chosen))
    if pairs.same is None:
        text = f"The {shown} pairs nearest to the threshold."
    else:
        wrong = int((decided.same != pairs.same).sum())
        text = f"{wrong} verdicts are wrong. The worst mistakes come first, then the least sure."
    sections.append(Section("Pairs", text, figures=[_sheet(model, pairs, decided, chosen)]))
    settings = {"pairs of": source, "distance": model.distance.name}
    if "pairs" in model.calibrations:
        settings["calibrated for"] = model.calibrations["pairs"].goal
    title = f"Pairs of {Path(source).name}"
    return write_page(path, title=title, facts=facts, sections=sections, settings=settings)


def _numbers(judged: VerificationResult) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("accuracy at the threshold", (judged.at_threshold or {}).get("accuracy")),
        ("area under ROC", judged.roc_auc),
        ("equal error rate", judged.equal_error_rate),
        ("average precision", judged.average_precision),
        *((f"true accepts at {far:.1%} false", judged.true_accept_rate(far)) for far in FARS),
        ("detection cost, least", judged.min_detection_cost()),
        *((name.replace("_", " "), value) for name, value in (judged.of_probability or {}).items()),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _order(pairs: Pairs, decided: Verified) -> Int[Tensor, " k"]:
    """Which pairs to look at: worst mistakes first; without truth those nearest the threshold."""
    if pairs.same is not None:
        return plots.worst_pairs(decided.distances, pairs.same, decided.threshold, SHEET)
    return (decided.distances.double() - decided.threshold).abs().argsort(stable=True)[:SHEET]


def _sheet(model: SimilarityModel, pairs: Pairs, decided: Verified, chosen: Tensor) -> Any:
    if model.preprocess is None:
        raise InputError("model must have a preprocess to read image files, got one without.")
    positions = pairs.positions[chosen]
    left, right = (
        model.preprocess.read([pairs.paths[row] for row in side]) for side in positions.T.tolist()
    )
    return plots.pairs(
        left,
        right,
        decided.distances[chosen],
        None if pairs.same is None else pairs.same[chosen],
        decided.threshold,
        probabilities=None if decided.probabilities is None else decided.probabilities[chosen],
        names=[(pairs.names[a], pairs.names[b]) for a, b in positions.tolist()],
        most=SHEET,
    )
