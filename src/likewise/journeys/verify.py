"""Two items, or the pairs of a table: are they the same, and how well are they judged?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from likewise.data.cross_tables import read_cross_table
from likewise.data.pair_tables import read_pair_table
from likewise.embedded import Embedded
from likewise.encoders import takes_texts
from likewise.errors import InputError
from likewise.evaluation import VerificationResult, evaluate_verification
from likewise.journeys.opening import known_embeddings
from likewise.model import SimilarityModel, Verified

FARS = (0.1, 0.01, 0.001)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Image files, texts or ids, which of them are compared, and the truth if a table tells it."""

    sides: list[str]
    names: list[str]
    positions: Int[Tensor, "p 2"]
    same: Bool[Tensor, " p"] | None


def read(
    model: SimilarityModel, sides: Sequence[str], table: Path | None, *, unchecked: bool = False
) -> Pairs:
    """The pairs to verify: two items, or those of a table.

    Items are texts for a model over texts, ids of known items for one without an encoder, and
    image files for any other. With `unchecked` these are looked for only when they are read.

    Raises:
        InputError: neither, both, or a table that is none of pairs.
    """
    if table is None:
        if len(sides) != 2:
            raise InputError(
                f"FILE_A FILE_B must be two items, got {len(sides)}. Or give --pairs pairs.csv."
            )
        return Pairs(list(sides), list(sides), torch.tensor([[0, 1]]), None)
    if sides:
        raise InputError("pairs must come alone, got two items as well. Give either.")
    if model.query_encoder is not None:
        texts = (takes_texts(model.query_encoder), takes_texts(model.encoder))
        across = read_cross_table(table, texts=texts, unchecked=unchecked)
        positions = torch.tensor(across.pairs) + torch.tensor([0, len(across.a)])
        same = None if across.same is None else torch.tensor(across.same)
        names = [*across.names_a, *across.names_b]
        return Pairs([*across.a, *across.b], names, positions, same)
    what = "files" if model.has_encoder else "ids"
    what = "texts" if takes_texts(model.encoder) else what
    rows = read_pair_table(table, what=what, unchecked=unchecked)
    same = None if rows.same is None else torch.tensor(rows.same)
    return Pairs(rows.sides, rows.names, torch.tensor(rows.pairs), same)


def judge(
    model: SimilarityModel,
    pairs: Pairs,
    *,
    point: str,
    threshold: float | None,
    prior: float | None,
    progress: Callable[[int, int], None],
) -> Verified:
    """The verdicts; every item is read once."""
    if model.query_encoder is not None:
        sides = [_embedded(model, pairs, side, progress) for side in (0, 1)]
        return model.verify(*sides, point=point, threshold=threshold, prior=prior)
    if model.has_encoder:
        items = model.embedded(pairs.sides, progress=progress)
    else:
        items = model.embedded(known_embeddings(model, pairs.sides), progress=progress)
    left, right = (items.take(side) for side in pairs.positions.T)
    return model.verify(left, right, point=point, threshold=threshold, prior=prior)


def _embedded(
    model: SimilarityModel, pairs: Pairs, side: int, progress: Callable[[int, int], None]
) -> Embedded:
    """One side of pairs across two towers, a row for each pair."""
    rows, place = torch.unique(pairs.positions[:, side], return_inverse=True)
    items = [pairs.sides[row] for row in rows.tolist()]
    return model.embedded(items, queries=side == 0, progress=progress).take(place)


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
