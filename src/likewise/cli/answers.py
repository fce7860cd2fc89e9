"""Results of the library as JSON documents and as lines to read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from likewise.calibration import Calibration
from likewise.cli.console import columns, without
from likewise.data.parts import label_names
from likewise.evaluation import Baseline
from likewise.index import Neighbors
from likewise.matching import UNKNOWN, Matches
from likewise.model import Evaluation, SimilarityModel

Answer = tuple[dict[str, Any], list[str]]
NONE = "none: items are embeddings made elsewhere"
MOST_LINES = 20  # of a long list; --json has all


def neighbors(model: SimilarityModel, found: Neighbors, names: Sequence[str]) -> Answer:
    """The neighbors of each query."""
    entries, lines = [], []
    for row, name in enumerate(names):
        facts = model.index.metadata(found.ids[row])
        near = [
            {
                "id": found.ids[row, column].item(),
                "label": _name(model, int(found.labels[row, column])),
                "distance": float(found.distances[row, column]),
                **{key: fact[key] for key in ("path", "text", "source") if key in fact},
            }
            for column, fact in enumerate(facts)
        ]
        entries.append({"query": name, "neighbors": near})
        table = [
            [
                str(n["label"]),
                f"{n['distance']:.4f}",
                f"id {n['id']}",
                str(n.get("path", n.get("text", ""))),
            ]
            for n in near
        ]
        lines += [name, *(f"  {line}" for line in columns(table))]
    return {"queries": entries}, cut(lines, MOST_LINES * (found.labels.shape[1] + 1))


def matches(model: SimilarityModel, decided: Matches, names: Sequence[str], items: Any) -> Answer:
    """The class of each query, and how many of them are right where that is known."""
    labels = [None if code == UNKNOWN else _name(model, code) for code in decided.labels.tolist()]
    distances = decided.distances.tolist()
    chances = [None] * len(labels)
    if decided.probabilities is not None:
        chances = decided.probabilities.tolist()
    entries = [
        {"query": name, "label": label, "distance": distance, "probability": chance}
        for name, label, distance, chance in zip(names, labels, distances, chances, strict=True)
    ]
    table = [
        [entry["query"], entry["label"] or "unknown", f"{entry['distance']:.4f}"]
        for entry in entries[:MOST_LINES]
    ]
    sets = decided.candidates
    if sets is not None:
        entries = [{**e, "candidates": each} for e, each in zip(entries, sets.names, strict=True)]
        table = [[*row, words] for row, words in zip(table, sets.words[:MOST_LINES], strict=True)]
    lines = columns(table)
    if len(entries) > MOST_LINES:
        lines.append(f"… and {len(entries) - MOST_LINES} more; --json gives all")
    counts = Counter(label or "unknown" for label in labels)
    lines.append("in all: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    result: dict[str, Any] = {"threshold": decided.threshold, "rule": decided.rule}
    if sets is not None:
        counted = {"level": sets.level, "limit": sets.limit, "rests_on": sets.rests_on}
        result["candidates"] = counted
        sizes = sets.sizes
        lines.append(
            f"candidates: {float(sizes.double().mean()):.1f} classes on average, none (unknown) "
            f"for {int((sizes == 0).sum())} of {len(sets)}; {sets.rests_on}"
        )
    if hasattr(items, "labels"):
        known = set(model.index.summary().items_per_class)
        told = [(a, b) for a, b in zip(labels, label_names(items), strict=True) if b is not None]
        right = [a == (b if b in known else None) for a, b in told]
        result["named_rightly"] = sum(right) / len(told) if told else None
        if told:
            others = [each for each, (_, b) in zip(right, told, strict=True) if b not in known]
            lines.append(
                right_line("named rightly", sum(right), len(told), sum(others), len(others))
            )
    return {**result, "queries": entries}, lines


def right_line(title: str, right: int, told: int, unknown: int, others: int) -> str:
    """How many answers are right; an item of no known class is answered rightly by unknown.

    Example:
        >>> right_line("right", 9, 12, 3, 4)
        'right: 9 of 12 (75.00%); of the 4 of no known class 3 were answered unknown'
    """
    line = f"{title}: {right:,} of {told:,} ({right / told:.2%})"
    if others:
        line += f"; of the {others:,} of no known class {unknown:,} were answered unknown"
    return line


def calibration_lines(name: str, made: Calibration) -> list[str]:
    """A threshold with what it costs; in matching the unknowns accepted come first."""
    first = f"{name}: accept at distance <= {made.threshold:.4g} ({made.goal})"
    if made.false_positive_rate is None:
        lines = [
            f"{first}: F1 {made.f1:.4f}, true accepts {made.true_accept_rate:.4f}, false accepts "
            f"{made.false_accept_rate:.4f}, on {made.same_total} same and {made.different_total} "
            "different"
        ]
    else:
        lines = [
            first,
            f"  unknowns accepted (FPIR) {made.false_positive_rate}",
            f"  knowns missed or confused (FNIR) {made.false_negative_rate}",
            *(f"  {judged}" for judged in made.unknowns),
        ]
        if len(made.unknowns) > 1:
            each = ", ".join(
                f"{one.threshold:.4g} by {'real' if one.kind == 'given' else one.kind} unknowns"
                for one in made.unknowns
            )
            lines.append(f"  the stricter of {each}")
    if made.measured_through is not None:
        lines.append(f"  measured through {made.measured_through}")
    return lines + ([] if made.guaranteed is None else [f"  guaranteed: {made.guaranteed}"])


def evaluation_lines(found: Evaluation) -> list[str]:
    """The headline numbers of an evaluation."""
    lines = columns([[name, str(value)] for name, value in found.headline()])
    lines += missing_lines(found)
    if found.baseline is not None:
        lines += baseline_lines(found.baseline)
    said = f"{found.items} items"
    if found.left_out:
        said += f"; {found.left_out} more left out, trained on or in the index"
    if found.calibrated_on:
        said += f"; {found.calibrated_on} were calibrated on, so the rates look too good"
    return [*lines, said]


def baseline_lines(found: Baseline) -> list[str]:
    """The model beside a baseline, measure by measure, and the verdict."""
    rows = [["", "this model", found.name, "difference"]]
    rows += [
        [f"  {name}", f"{one.a}", f"{one.b}", f"{one.difference}"]
        for name, one in found.comparison.measures.items()
    ]
    return [f"beside {found.name}, on {found.on}", *columns(rows), found.verdict]


def missing_lines(found: Evaluation) -> list[str]:
    """What could not be judged, and why, a line each."""
    lines = []
    if found.verification is None:
        lines.append("verification: no pairs of both kinds (two items of a class, and two classes)")
    if found.retrieval is None:
        lines.append("retrieval: no class with two items")
    return lines


def summary(model: SimilarityModel) -> Answer:
    """What a model is made of."""
    weights = sum(weight.numel() for weight in model.encoder.parameters())
    labels = Counter(_name(model, code) for code in model.index.labels.tolist())
    result = {
        "encoder": (_called(model.encoder) if model.has_encoder else None),
        "weights": weights,
        "query_encoder": None if model.query_encoder is None else _called(model.query_encoder),
        "distance": model.distance.name,
        "preprocess": None if model.preprocess is None else model.preprocess.to_dict(),
        "reading": model.reading.columns,
        "trained_on": model.trained_on,
        "indexed": len(model.index),
        "indexed_per_class": dict(labels),
        "gallery": model.gallery,
        "calibrations": {
            point: without(made.to_dict(), "sample", "known")
            for point, made in model.calibrations.items()
        },
        "origin": model.origin,
    }
    rows = [
        ["encoder", f"{result['encoder']}, {weights:,} weights" if model.has_encoder else NONE],
        *([] if model.query_encoder is None else [["queries", _called(model.query_encoder)]]),
        ["distance", model.distance.name],
        ["trained on", ", ".join(model.trained_on) or _unnamed(model)],
        ["indexed", f"{len(model.index)} items of {len(labels)} classes"],
    ]
    if model.preprocess is not None:
        rows.append(["items", " × ".join(map(str, model.preprocess.item_shape))])
    for what, column in model.reading.columns.items():
        rows.append([f"column of {what.removesuffix('_column')}", column])
    if model.gallery is not None:
        rows.append(["gallery", model.gallery])
    for point, made in model.calibrations.items():
        through = made.measured_through
        told = made.goal if through is None else f"{made.goal}; measured through {through}"
        rows.append([f"threshold for {point}", f"{made.threshold:.4g} ({told})"])
    if "decided" in model.origin:
        rows.append(["head", model.origin["decided"]])
    for choice, value in model.origin.get("recipe", {}).items():
        rows.append([f"recipe: {choice}", str(value)])
    return result, columns(rows)


def _called(encoder: nn.Module) -> str:
    """What an encoder goes by."""
    return str(getattr(encoder, "name", type(encoder).__name__))


def _unnamed(model: SimilarityModel) -> str:
    if model.origin.get("recipe", {}).get("labels", True):
        return "not told"
    return f"{model.origin['items']} items without their labels"


def _name(model: SimilarityModel, code: int) -> str | None:
    if code == UNKNOWN:
        return None
    return model.class_names[code] if code < len(model.class_names) else str(code)


def cut(lines: list[str], most: int, count: int | None = None) -> list[str]:
    """The first lines, and how many more there are of `count`, or of those given."""
    more = (len(lines) if count is None else count) - most
    return lines if more <= 0 else [*lines[:most], f"… and {more} more lines; --json gives all"]
