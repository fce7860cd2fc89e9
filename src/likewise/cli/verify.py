"""What `likewise verify` tells of pairs."""

from typing import Any

from likewise.cli.answers import MOST_LINES, Answer, cut
from likewise.cli.console import columns
from likewise.evaluation import VerificationResult
from likewise.journeys.verify import Pairs, verification_numbers
from likewise.model import Verified


def answer(
    pairs: Pairs, decided: Verified, judged: VerificationResult | None, prior: float | None
) -> Answer:
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
    if decided.probabilities is not None and prior is not None:
        result["prior"] = prior
        lines.append(f"probabilities hold where {prior:.3g} of such pairs are the same (--prior)")
    if pairs.same is not None:
        accuracy = float((decided.same == pairs.same).double().mean())
        result["accuracy"] = accuracy
        lines.append(f"accuracy {accuracy:.4f}")
    if judged is not None:
        result |= judged.to_dict()
        lines += columns([[name, str(value)] for name, value in verification_numbers(judged)])
    return result, lines
