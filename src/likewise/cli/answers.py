"""Results of the library as JSON documents and as lines to read."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from likewise.artifacts import Evaluation, SimilarityModel, Verified
from likewise.cli.console import columns
from likewise.evaluation import evaluate_verification
from likewise.index import Neighbors
from likewise.intervals import Estimate
from likewise.matching import UNKNOWN, Matches

Answer = tuple[dict[str, Any], list[str]]
MOST_LINES = 20  # of a long list; --json has all


def neighbors(model: SimilarityModel, found: Neighbors, names: Sequence[str]) -> Answer:
    """The neighbours of each query."""
    entries, lines = [], []
    for row, name in enumerate(names):
        facts = model.index.metadata(found.ids[row])
        near = [
            {
                "id": found.ids[row, column].item(),
                "label": _name(model, int(found.labels[row, column])),
                "distance": float(found.distances[row, column]),
                **{key: fact[key] for key in ("path", "source") if key in fact},
            }
            for column, fact in enumerate(facts)
        ]
        entries.append({"query": name, "neighbors": near})
        table = [
            [str(n["label"]), f"{n['distance']:.4f}", f"id {n['id']}", str(n.get("path", ""))]
            for n in near
        ]
        lines += [name, *(f"  {line}" for line in columns(table))]
    return {"queries": entries}, _cut(lines, MOST_LINES * (found.labels.shape[1] + 1))


def matches(model: SimilarityModel, decided: Matches, names: Sequence[str], items: Any) -> Answer:
    """The class of each query, and how many of them are right where that is known."""
    labels = [None if code == UNKNOWN else _name(model, code) for code in decided.labels.tolist()]
    distances = decided.distances.tolist()
    entries = [
        {"query": name, "label": label, "distance": distance}
        for name, label, distance in zip(names, labels, distances, strict=True)
    ]
    table = [
        [entry["query"], entry["label"] or "unknown", f"{entry['distance']:.4f}"]
        for entry in entries[:MOST_LINES]
    ]
    lines = columns(table)
    if len(entries) > MOST_LINES:
        lines.append(f"… and {len(entries) - MOST_LINES} more; --json gives all")
    counts = Counter(label or "unknown" for label in labels)
    lines.append("in all: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    result: dict[str, Any] = {"threshold": decided.threshold, "rule": decided.rule}
    if hasattr(items, "labels"):
        truth = [items.class_names[code] for code in items.labels.tolist()]
        right = sum(a == b for a, b in zip(labels, truth, strict=True))
        result["named_rightly"] = right / len(truth)
        lines.append(f"named rightly: {right} of {len(truth)} ({right / len(truth):.2%})")
    return {**result, "queries": entries}, lines


def read_pairs(
    files: Sequence[str], table: Path | None
) -> tuple[list[str], list[str], Tensor | None]:
    """Both sides of the pairs to verify, and the truth if a table tells it.

    Raises:
        ValueError: neither two files nor a table, or a table without the columns it needs.
    """
    if table is None:
        if len(files) != 2:
            raise ValueError(
                f"FILE_A FILE_B must be two images, got {len(files)}. Or give --pairs pairs.csv."
            )
        return [files[0]], [files[1]], None
    if files:
        raise ValueError("pairs must come alone, got files as well. Give either.")
    with table.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    if not rows or not {"a", "b"} <= rows[0].keys():
        raise ValueError(
            f"pairs must be a .csv with columns a and b and at least one row, got {str(table)!r}."
        )
    left = [str(table.parent / row["a"]) for row in rows]
    right = [str(table.parent / row["b"]) for row in rows]
    if "same" not in rows[0]:
        return left, right, None
    for number, row in enumerate(rows, start=2):
        if row["same"] not in ("0", "1"):
            raise ValueError(
                f"same must be 1 for the same or 0 for different, got {row['same']!r} in line "
                f"{number} of {str(table)!r}."
            )
    return left, right, torch.tensor([row["same"] == "1" for row in rows])


def verdicts(
    decided: Verified, left: Sequence[str], right: Sequence[str], truth: Tensor | None
) -> Answer:
    """The verdict on each pair, and how well they do where the truth is known."""
    entries = [
        {"a": a, "b": b, "distance": distance, "same": same}
        for a, b, distance, same in zip(
            left, right, decided.distances.tolist(), decided.same.tolist(), strict=True
        )
    ]
    table = [
        [
            entry["a"],
            entry["b"],
            f"{entry['distance']:.4f}",
            "same" if entry["same"] else "different",
        ]
        for entry in entries
    ]
    lines = [*_cut(columns(table), MOST_LINES), f"threshold {decided.threshold:.4f}"]
    result: dict[str, Any] = {"threshold": decided.threshold, "pairs": entries}
    if truth is not None:
        right_ones = float((decided.same == truth).double().mean())
        result["accuracy"] = right_ones
        lines.append(f"accuracy {right_ones:.4f}")
        if bool(truth.any()) and not bool(truth.all()):
            judged = evaluate_verification(decided.distances, truth, threshold=decided.threshold)
            result |= judged.to_dict()
            lines += [
                f"area under ROC {judged.roc_auc}",
                f"equal error rate {judged.equal_error_rate}",
            ]
    return result, lines


def evaluation_lines(found: Evaluation) -> list[str]:
    """The headline numbers of an evaluation."""
    rows: list[tuple[str, Estimate | None]] = []
    if found.matching is not None:
        matching = found.matching
        rows += [
            ("matching accuracy", matching.accuracy),
            ("  classes trained on", matching.accuracy_seen),
            ("  classes never trained on", matching.accuracy_unseen),
            ("  classes not indexed", matching.accuracy_unknown),
            ("  answered unknown", matching.unknown_share),
            ("  precision", matching.precision),
            ("  recall", matching.recall),
            ("  F1", matching.f1),
            ("  negative predictive value", matching.negative_predictive_value),
        ]
    verification = found.verification
    rows += [
        ("verification area under ROC", verification.roc_auc),
        ("  average precision", verification.average_precision),
        ("  equal error rate", verification.equal_error_rate),
        ("  true accepts at 1% false", verification.true_accept_rate(0.01)),
    ]
    if verification.at_threshold is not None:
        rows.append(("  accuracy at the threshold", verification.at_threshold["accuracy"]))
    retrieval = found.retrieval
    rows += [
        ("retrieval precision at 1", retrieval.precision_at_1),
        ("  R-precision", retrieval.r_precision),
        ("  MAP at R", retrieval.map_at_r),
    ]
    lines = columns([[name, str(value)] for name, value in rows if value is not None])
    said = f"{found.items} items"
    if found.left_out:
        said += f"; {found.left_out} more left out, trained on or in the index"
    if found.calibrated_on:
        said += f"; {found.calibrated_on} were calibrated on, which flatters the threshold"
    return [*lines, said]


def summary(model: SimilarityModel) -> Answer:
    """What a model is made of."""
    weights = sum(weight.numel() for weight in model.encoder.parameters())
    labels = Counter(_name(model, code) for code in model.index.labels.tolist())
    result = {
        "encoder": type(model.encoder).__name__,
        "weights": weights,
        "distance": model.distance.name,
        "preprocess": None if model.preprocess is None else model.preprocess.to_dict(),
        "trained_on": model.trained_on,
        "indexed": len(model.index),
        "indexed_per_class": dict(labels),
        "calibrations": {rule: made.to_dict() for rule, made in model.calibrations.items()},
        "origin": model.origin,
    }
    rows = [
        ["encoder", f"{result['encoder']}, {weights:,} weights"],
        ["distance", model.distance.name],
        ["trained on", ", ".join(model.trained_on) or "not told"],
        ["indexed", f"{len(model.index)} items of {len(labels)} classes"],
    ]
    if model.preprocess is not None:
        rows.append(["items", " × ".join(map(str, model.preprocess.item_shape))])
    for rule, made in model.calibrations.items():
        rows.append([f"threshold for {rule}", f"{made.threshold:.4g} ({made.goal})"])
    return result, columns(rows)


def _name(model: SimilarityModel, code: int) -> str | None:
    if code == UNKNOWN:
        return None
    return model.class_names[code] if code < len(model.class_names) else str(code)


def _cut(lines: list[str], most: int) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"… and {len(lines) - most} more lines; --json gives all"]
