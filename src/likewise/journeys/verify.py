"""Two images, or the pairs of a table: are they the same, and how well are they judged?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from likewise.data.pair_tables import read_pair_table
from likewise.errors import InputError
from likewise.evaluation import VerificationResult, evaluate_verification
from likewise.model import SimilarityModel, Verified

FARS = (0.1, 0.01, 0.001)


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
    files = model.embedded(pairs.paths, progress=progress)
    left, right = (files.take(side) for side in pairs.positions.T)
    return model.verify(left, right, point=point, threshold=threshold, prior=prior)


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


def verification_numbers(judged: VerificationResult) -> list[tuple[str, Any]]:
    """The numbers to tell of verified pairs, by name."""
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
