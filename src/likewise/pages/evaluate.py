"""The report of an evaluation: which numbers and pictures stand on the page, and in what order."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise import data, plots
from likewise.calibration import Calibration
from likewise.embedded import Embedded
from likewise.errors import InputError
from likewise.intervals import Estimate
from likewise.journeys.opening import open_fitting
from likewise.model import Evaluation, SimilarityModel
from likewise.model.trials import PAIRS, all_names, labeled, translated
from likewise.pages import mistake_sections
from likewise.pages.shown_items import Pictures
from likewise.pages.writing import Section, write_page

MOST_POINTS = 1500  # in the embedding map; t-SNE of more takes longer than the rest together
MOST_COMPARED = 5000  # in search of mistakes, each item with each
SHEET_QUERIES = 6
SHEET_NEIGHBORS = 5


def evaluation_page(
    path: str | Path,
    model: SimilarityModel,
    found: Evaluation,
    *,
    title: str | None = None,
    source: str | None = None,
) -> Path:
    """Write the report of what `model.evaluate` found; only the items shown are read again.

    Args:
        path: Path of the page.
        model: what was evaluated.
        found: what came out.
        title: Title of the page.
        source: Name of the examples, for the foot of the page.
    """
    unit = f"{model.distance.name} distance"
    examples = found.examples
    few = _sample(labeled(examples), MOST_COMPARED)
    pictures = Pictures(few)
    names = all_names(model.class_names, examples)
    of_pairs = model.calibrations.get(PAIRS)
    sections = [
        *_matching(model, few, pictures, found),
        _verification(model, found, unit),
        _retrieval(found),
        *_baseline(found),
        *mistake_sections.sections(
            few,
            pictures,
            found.retrieval,
            names,
            distance=model.compared_by,
            threshold=None if of_pairs is None else of_pairs.threshold,
            trained_on=model.trained_on,
        ),
        *_map(few, model.trained_on, source),
        *_training(model),
        Section(
            "Data",
            f"{len(examples) + found.left_out} items were given, of which {found.left_out} were "
            "left out because the model was trained on them or holds them in its index. "
            f"{found.calibrated_on} of the others were calibrated on."
            + (f" {found.unlabeled} without a label were left out." if found.unlabeled else ""),
            figures=[plots.items_per_class(_given(examples))],
        ),
    ]
    settings = {
        **({} if source is None else {"evaluated on": source}),
        **{f"trained: {k}": v for k, v in model.origin.items() if k != "history" and v is not None},
        "distance": model.distance.name,
        "indexed items": len(model.index),
        **{f"calibrated for {rule}": _goal(made) for rule, made in model.calibrations.items()},
    }
    if title is None:
        title = "Evaluation" if source is None else f"Evaluation on {source}"
    return write_page(
        path, title=title, facts=_facts(model, found), sections=sections, settings=settings
    )


def _goal(made: Calibration) -> str:
    through = made.measured_through
    return made.goal if through is None else f"{made.goal}, measured through {through}"


def _facts(model: SimilarityModel, found: Evaluation) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = []
    if found.matching is not None:
        matching = found.matching
        facts += [
            ("matching accuracy", matching.accuracy),
            ("accuracy, classes trained on", matching.accuracy_seen),
            ("accuracy, classes never trained on", matching.accuracy_unseen),
            ("answered unknown", matching.unknown_share),
        ]
    facts += [
        (label, getattr(result, name))
        for label, result, name in (
            ("verification, area under ROC", found.verification, "roc_auc"),
            ("verification, equal error rate", found.verification, "equal_error_rate"),
            ("retrieval, precision at 1", found.retrieval, "precision_at_1"),
        )
        if result is not None
    ]
    for rule, made in model.calibrations.items():
        facts.append((f"threshold for {rule}", f"{made.threshold:.4g}"))
    return [(label, value) for label, value in facts if value is not None]


def _baseline(found: Evaluation) -> list[Section]:
    baseline = found.baseline
    if baseline is None:
        return []
    rows: list[list[Any]] = [["measure", "this model", baseline.name, "difference"]]
    rows += [[name, d.a, d.b, d.difference] for name, d in baseline.comparison.measures.items()]
    verdict = baseline.verdict[0].upper() + baseline.verdict[1:]
    return [Section(f"Beside {baseline.name}", f"{verdict}.", table=rows)]


def _given(examples: Embedded) -> dict[str, int]:
    """Items by class, with those that were not encoded as they are known."""
    whole = examples.source if examples.skipped else examples
    return data.items_per_class(whole)


def _matching(
    model: SimilarityModel, examples: Embedded, pictures: Pictures, found: Evaluation
) -> list[Section]:
    matching, matches = found.matching, found.matches
    if matching is None or matches is None:
        return []
    names = (
        *("precision", "identification_rate", "f1"),
        *("negative_predictive_value", "accuracy_unknown"),
    )
    rows: list[Sequence[Any]] = [["", "value"]]
    rows += [[name.replace("_", " "), getattr(matching, name)] for name in names]
    figures: list[Any] = [plots.confusion(matching)]
    sheet = _neighbor_sheet(model, examples, pictures, matches.threshold)
    if sheet is not None:
        figures.append(sheet)
    per_class: list[Sequence[Any]] = [["class", "trained on", "accuracy"]]
    per_class += [
        [name, "yes" if name in model.trained_on else "no", value]
        for name, value in matching.per_class.items()
    ]
    text = (
        f"Each of {matching.queries} items was matched with {len(model.index)} indexed items by "
        f"the rule {matches.rule}; an answer counts when its distance is at most "
        f"{matches.threshold:.4g}, and is unknown otherwise."
    )
    return [
        Section("Matching", text, figures=figures, table=rows),
        Section("Matching, class by class", table=per_class),
    ]


def _verification(model: SimilarityModel, found: Evaluation, unit: str) -> Section:
    result = found.verification
    if result is None:
        return Section(
            "Verification",
            "There are no pairs of both kinds: it takes two items of a class, and two classes.",
        )
    rows: list[Sequence[Any]] = [["", "value"]]
    rows += [
        ["area under ROC", result.roc_auc],
        ["average precision", result.average_precision],
        ["equal error rate", result.equal_error_rate],
        *[
            [f"true accepts at {far:.1%} false", result.true_accept_rate(far)]
            for far in (0.01, 0.001)
        ],
    ]
    if result.at_threshold is not None:
        rows += [
            [f"{name.replace('_', ' ')} at the threshold", value]
            for name, value in result.at_threshold.items()
        ]
    rows += [["least detection cost", result.min_detection_cost()]]
    rows += [
        [name.replace("_", " "), value] for name, value in (result.of_probability or {}).items()
    ]
    text = (
        f"{result.same_total} pairs of the same class and {result.different_total} of different "
        "classes were drawn among the items. The intervals leave out items, for pairs share them."
    )
    if PAIRS not in model.calibrations:
        text += " The model is not calibrated for verification, so no threshold is drawn."
    figures = [
        plots.distance_histogram(
            result.distances, result.same, result.threshold, distance_name=unit
        ),
        plots.threshold_curves(result.sweep, result.threshold, distance_name=unit),
        plots.roc(result.sweep),
        plots.det(result.sweep),
    ]
    if result.probability is not None:
        chances = result.probability.of(result.distances)
        error = (result.of_probability or {}).get("expected_calibration_error")
        figures.append(plots.reliability(chances, result.same, calibration_error=error))
    return Section("Verification", text, figures=figures, table=rows)


def _retrieval(found: Evaluation) -> Section:
    result = found.retrieval
    if result is None:
        return Section("Retrieval", "No class has two items, so there is nothing to find.")
    rows: list[Sequence[Any]] = [["", "value"]]
    rows += [
        ["R-precision", result.r_precision],
        ["MAP at R", result.map_at_r],
        ["mean reciprocal rank", result.mean_reciprocal_rank],
        *[[f"{name} rank of the nearest right one", rank] for name, rank in result.rank.items()],
    ]
    for k in result.recall_at_k:
        rows += [
            [f"recall at {k}", result.recall_at_k[k]],
            [f"share found at {k}", result.share_found_at_k[k]],
            [f"precision at {k}", result.precision_at_k[k]],
            [f"nDCG at {k}", result.ndcg_at_k[k]],
        ]
    text = (
        f"Each of {result.queries} items was a query for the others of its class among all that "
        f"were evaluated; {result.left_out} had none and were left out."
    )
    return Section("Retrieval", text, table=rows)


def _map(examples: Embedded, trained_on: Sequence[str], source: str | None) -> list[Section]:
    if len(examples) < 2:
        return []
    kept = _chosen(len(examples), MOST_POINTS)
    labels = examples.labels[kept]
    points, axis = plots.embedding_points(examples.embeddings[kept])
    unseen = [c for c, name in enumerate(examples.class_names) if name not in trained_on]
    figure = plots.embedding_map(
        points, labels, examples.class_names, axis_title=axis, unseen=unseen
    )
    text = f"{len(labels)} of the items. Hollow marks are classes that were never trained on."
    if source is not None:
        text += (
            "\n\nTo move about in the map, with a picture of each item: "
            f"likewise map MODEL {source} --out map.html"
        )
    return [Section("Embeddings", text, figures=[figure])]


def _training(model: SimilarityModel) -> list[Section]:
    history = model.origin.get("history")
    if not history:
        return []
    seconds = sum(record["seconds"] for record in history)
    text = f"Trained on {', '.join(model.trained_on)} for {len(history)} epochs in {seconds:.0f} s."
    return [Section("Training", text, figures=[plots.training_curves(history)])]


def _neighbor_sheet(
    model: SimilarityModel, examples: Embedded, pictures: Pictures, threshold: float
) -> Any:
    if data.is_text(examples.source):
        return None
    chosen = _chosen(len(examples), SHEET_QUERIES)
    few = examples.take(chosen)
    k = min(SHEET_NEIGHBORS, len(model.index))
    found = model.lookup(few, k=k)
    kept = {
        id_: picture
        for ids, row in zip(found.ids.tolist(), found.payloads, strict=True)
        for id_, picture in zip(ids, row, strict=True)
        if picture is not None
    }
    ids, place = np.unique(found.ids, return_inverse=True)
    near = (
        data.stack_pictures([data.decode_picture(kept[id_]) for id_ in ids.tolist()])
        if len(kept) == len(ids)
        else _indexed_items(model, ids.tolist())
    )
    if near is None:
        return None
    names = all_names(model.class_names, few)
    return plots.neighbors(
        pictures(chosen.tolist()),
        near[torch.from_numpy(place.reshape(found.ids.shape))],
        found,
        names,
        query_labels=translated(few, names),
        threshold=threshold,
    )


def _indexed_items(model: SimilarityModel, ids: Sequence[Any]) -> Tensor | None:
    """The indexed items themselves, read again from where they came from; None if they are gone."""
    facts = model.index.metadata(ids)
    try:
        if all("path" in fact for fact in facts) and model.preprocess is not None:
            return model.preprocess.read([fact["path"] for fact in facts])
        sources = {fact["source"] for fact in facts}
        if len(sources) != 1:
            return None
        whole = open_fitting(model, sources.pop(), "all", default_split="all")
        row_of = {print_: row for row, print_ in enumerate(data.fingerprints(whole).tolist())}
        found: Tensor = data.items(whole, [row_of[fact["fingerprint"]] for fact in facts])
        return found
    except (KeyError, InputError, OSError):
        return None


def _sample(examples: Embedded, most: int) -> Embedded:
    return examples if len(examples) <= most else examples.take(_chosen(len(examples), most))


def _chosen(count: int, most: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]


def shown(estimate: Estimate | None) -> str:
    """An estimate as a line of text has it."""
    if estimate is None:
        return "none to judge"
    return f"{estimate.value:.4f}" if math.isnan(estimate.low) else f"{estimate:.4f}"
