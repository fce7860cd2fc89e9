"""The page about a table of pairs, and the picture of pairs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from likewise import plots
from likewise.errors import InputError
from likewise.evaluation import VerificationResult
from likewise.intervals import FEWEST_GROUPS
from likewise.journeys.verify import Pairs, verification_numbers
from likewise.model import SimilarityModel, Verified
from likewise.pages.writing import Section, write_page

SHEET = 12  # pairs drawn on a page


def pairs_picture(model: SimilarityModel, pairs: Pairs, decided: Verified, path: Path) -> Path:
    """Draw the pairs, with their truth the worst mistakes first."""
    return plots.save(_sheet(model, pairs, decided, _order(pairs, decided)), path)


def pairs_page(
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
        facts += verification_numbers(judged)[:3]
        table: list[Sequence[Any]] = [["", "value"], *map(list, verification_numbers(judged))]
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
        if len(pairs.sides) < FEWEST_GROUPS:
            text += f"There are no intervals, as there are fewer than {FEWEST_GROUPS} items."
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
    if model.preprocess is None or model.query_encoder is not None:
        sections.append(Section("Pairs", text, table=_table(pairs, decided, chosen)))
    else:
        sections.append(Section("Pairs", text, figures=[_sheet(model, pairs, decided, chosen)]))
    settings = {"pairs of": source, "distance": model.distance.name}
    if "pairs" in model.calibrations:
        settings["calibrated for"] = model.calibrations["pairs"].goal
    title = f"Pairs of {Path(source).name}"
    return write_page(path, title=title, facts=facts, sections=sections, settings=settings)


def _order(pairs: Pairs, decided: Verified) -> Int[Tensor, " k"]:
    """Which pairs to look at: worst mistakes first; without truth those nearest the threshold."""
    if pairs.same is not None:
        return plots.worst_pairs(decided.distances, pairs.same, decided.threshold, SHEET)
    return (decided.distances.double() - decided.threshold).abs().argsort(stable=True)[:SHEET]


def _table(pairs: Pairs, decided: Verified, chosen: Tensor) -> list[Sequence[Any]]:
    """The pairs in words, where there is nothing to draw."""
    rows: list[Sequence[Any]] = [["a", "b", "distance", "verdict", "truth"]]
    for pair in chosen.tolist():
        a, b = (pairs.names[side] for side in pairs.positions[pair].tolist())
        truth = "" if pairs.same is None else ("different", "same")[int(pairs.same[pair])]
        verdict = ("different", "same")[int(decided.same[pair])]
        rows.append([a, b, f"{float(decided.distances[pair]):.4f}", verdict, truth])
    return rows


def _sheet(model: SimilarityModel, pairs: Pairs, decided: Verified, chosen: Tensor) -> Any:
    model.check_one_tower("a picture of pairs")
    if model.preprocess is None:
        raise InputError(
            "must be for a model over images, got one of texts or vectors. Use --report.",
            argument="picture",
        )
    positions = pairs.positions[chosen]
    rows, place = torch.unique(positions, return_inverse=True)
    pictures = model.preprocess.read([pairs.sides[row] for row in rows.tolist()])
    left, right = pictures[place.T]
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
