"""`show`: a picture of any result, in one line."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from likewise import data
from likewise.calibration import Calibration, ClassThresholds
from likewise.data.images import read_image
from likewise.errors import InputError, InputTypeError
from likewise.evaluation import (
    Comparison,
    MatchingResult,
    OpenSetResult,
    RetrievalResult,
    VerificationResult,
)
from likewise.index import Neighbors
from likewise.intervals import Estimate
from likewise.matching import Matches
from likewise.metrics import Sweep
from likewise.plots.comparison import differences, estimates
from likewise.plots.confusions import confusion
from likewise.plots.contact_sheet import contact_sheet, neighbors
from likewise.plots.curves import roc, threshold_curves
from likewise.plots.histograms import distance_histogram
from likewise.plots.identification import fnir_curve
from likewise.plots.pair_sheet import pairs
from likewise.plots.training_curves import training_curves
from likewise.training import History

SHOWN = (
    "a History, a Calibration, a Sweep, Neighbors, Matches, what verify gives, pairs, a batch or "
    "a dataset, an evaluation or another result with numbers, or histories, sweeps or numbers by "
    "name"
)
READ_SIDE = 96  # pixels of a neighbor that is read from its file


@runtime_checkable
class _Judged(Protocol):
    """What `SimilarityModel.verify` gives."""

    distances: Tensor
    same: Tensor
    threshold: float
    probabilities: Tensor | None


@runtime_checkable
class _Evaluated(Protocol):
    """What `SimilarityModel.evaluate` gives."""

    items: int

    def headline(self) -> list[tuple[str, Estimate]]: ...


def show(shown: Any, *, queries: Any = None, items: Any = None, most: int | None = None) -> Figure:
    """A picture of a result, which a notebook shows by itself.

    ======================================  ====================================================
    shown                                   picture
    ======================================  ====================================================
    `History`, its records, or by name      training curves
    `Calibration`                           distances of its pairs with the threshold; those of
                                            `sample` where no sweep was kept
    `Sweep`; several by name                precision, recall and F1 by threshold; ROC curves
    `Neighbors`, `Matches`                  the queries beside what was found
    what `verify` gives, with `items`       the pairs with their verdict
    `PairDataset`, `GivenPairs`             the pairs with their truth
    a dataset, (items, labels), a tensor    a contact sheet
    `MatchingResult`                        the confusion of classes
    `VerificationResult`                    distances of same and of different pairs
    `OpenSetResult`                         known missed against unknowns accepted
    `Comparison`                            differences with their intervals
    an evaluation, any result with numbers  the numbers with their intervals
    ======================================  ====================================================

    Args:
        shown: The result.
        queries: For neighbors and matches, the items that were looked up: a tensor, or a dataset,
            whose labels then mark what is right.
        items: For neighbors and matches, the items found, (q, k, ...); by default the pictures
            kept with them (`add(..., keep_pictures=True)`), or else the files that their
            metadata names by "path", as long as these are there. For verified pairs, both sides
            (a, b), or `GivenPairs`, whose truth is then told.
        most: Rows, pairs or items drawn.

    Returns:
        The figure; `plots.save` writes it to a file.

    Raises:
        InputTypeError: It is none of these.
        InputError: There are no pictures to draw.

    Example:
        >>> import likewise as lw
        >>> show(lw.History([{"epoch": 1, "loss": 0.4}, {"epoch": 2, "loss": 0.2}])).get_suptitle()
        'Training, 2 epochs'
        >>> show(lw.data.load("digits", split="test")).get_suptitle()
        '48 of 447 items'
    """
    limit: dict[str, Any] = {} if most is None else {"most": most}
    if isinstance(shown, History):
        return training_curves(shown.records)
    if isinstance(shown, ClassThresholds):
        shown = shown.everywhere
    if isinstance(shown, Calibration):
        return _calibration(shown)
    if isinstance(shown, Sweep):
        return threshold_curves(shown)
    if isinstance(shown, (Neighbors, Matches)):
        return _neighbors(shown, queries, items, limit)
    if isinstance(shown, data.GivenPairs):
        (a, b), same = _first_pairs(shown, 12 if most is None else most)
        return pairs(a, b, same=same, title=_count(len(same), len(shown), "pairs"), **limit)
    if isinstance(shown, MatchingResult):
        return confusion(shown)
    if isinstance(shown, VerificationResult):
        return distance_histogram(shown.distances, shown.same, shown.threshold)
    if isinstance(shown, _Judged):
        return _verified(shown, items, limit)
    if isinstance(shown, OpenSetResult):
        return fnir_curve(shown.sweep, threshold=shown.threshold)
    if isinstance(shown, Comparison):
        return _comparison(shown, limit)
    if isinstance(shown, _Evaluated):
        numbers = {name.strip(): one for name, one in shown.headline()}
        return estimates(numbers, title=f"Evaluation of {shown.items:,} items", **limit)
    if isinstance(shown, Mapping) and shown:
        return _by_name(shown, limit)
    if isinstance(shown, list) and shown and all(isinstance(each, Mapping) for each in shown):
        return training_curves(shown)
    if dataclasses.is_dataclass(shown) and not isinstance(shown, type):
        # Ranks are no shares, and would need an axis of their own.
        left_out = ("rank", "macro") if isinstance(shown, RetrievalResult) else ()
        numbers = _numbers(shown, left_out)
        if numbers:
            return estimates(numbers, title=type(shown).__name__, **limit)
    if _holds_items(shown):
        return _sheet(shown, limit)
    raise InputTypeError(f"shown must be {SHOWN}, got {type(shown).__name__}.")


def _calibration(made: Calibration) -> Figure:
    if made.sweep is None:
        if not made.sample:
            raise InputError(
                "calibration must have kept its distances, got one without. "
                "Calibrate with keep_sweep=True."
            )
        return distance_histogram(torch.tensor(made.sample), None, made.threshold)
    counts = made.sweep
    of_kinds = [
        counts.thresholds.repeat_interleave(n) for n in (counts.same_at, counts.different_at)
    ]
    same = torch.cat([torch.full((len(part),), n == 0) for n, part in enumerate(of_kinds)])
    return distance_histogram(torch.cat(of_kinds), same, made.threshold)


def _neighbors(
    shown: Neighbors | Matches, queries: Any, items: Any, limit: dict[str, Any]
) -> Figure:
    found = shown.neighbors if isinstance(shown, Matches) else shown
    most = limit.get("most", 12)
    threshold = shown.threshold if isinstance(shown, Matches) else None
    pictures = _found_pictures(found, most) if items is None else _tensor(items, most)
    names = list(found.class_names) or list(map(str, range(int(found.labels.max()) + 1)))
    truth = None
    if hasattr(queries, "labels"):
        names = list(dict.fromkeys([*names, *queries.class_names]))
        rows = [
            names.index(queries.class_names[code]) if code >= 0 else -1
            for code in queries.labels[:most].tolist()
        ]
        truth = torch.tensor(rows)
    first = Neighbors(found.ids[:most], found.distances[:most], found.labels[:most])
    return neighbors(
        None if queries is None else _tensor(queries, most),
        pictures,
        first,
        names,
        query_labels=truth,
        threshold=threshold,
        most=most,
    )


def _found_pictures(found: Neighbors, most: int) -> Tensor:
    """The pictures kept with the first queries' neighbors, or those read from their files."""
    first = dataclasses.replace(
        found, ids=found.ids[:most], distances=found.distances[:most], labels=found.labels[:most]
    )
    drawn: list[Tensor | None] = []
    for payloads, facts in zip(first.payloads, first.metadata, strict=True):
        for payload, fact in zip(payloads, facts, strict=True):
            drawn.append(_picture(payload, fact))
    known = [each for each in drawn if each is not None]
    if not known:
        raise InputError(
            "neighbors must have pictures to be shown, got none. Give items=, or keep them with "
            "add(..., keep_pictures=True)."
        )
    blank = torch.ones_like(known[0])
    stacked = data.stack_pictures([blank if each is None else each for each in drawn])
    return stacked.reshape(*first.labels.shape, *stacked.shape[1:])


def _picture(payload: bytes | None, fact: Mapping[str, Any]) -> Tensor | None:
    if payload is not None:
        return data.decode_picture(payload)
    path = fact.get("path")
    if isinstance(path, str) and Path(path).is_file():
        return read_image(path, channels=3, image_size=(READ_SIDE, READ_SIDE))
    return None


def _verified(judged: _Judged, items: Any, limit: dict[str, Any]) -> Figure:
    if items is None:
        raise InputError(
            "items must be given to show verified pairs, got none. Give both sides, items=(a, b)."
        )
    truth = None
    if isinstance(items, data.GivenPairs):
        (a, b), truth = _first_pairs(items, limit.get("most", 12))
    else:
        a, b = (_tensor(side, limit.get("most", 12)) for side in items)
    count = len(a)
    return pairs(
        a,
        b,
        judged.distances[:count],
        truth,
        judged.threshold,
        probabilities=None if judged.probabilities is None else judged.probabilities[:count],
        title=_count(count, len(judged.distances), "pairs with their distances"),
        **limit,
    )


def _comparison(shown: Comparison, limit: dict[str, Any]) -> Figure:
    return differences(
        {name: one.difference for name, one in shown.measures.items()},
        names=shown.names,
        ahead={name: one.ahead for name, one in shown.measures.items()},
        smaller_is_better={n for n, one in shown.measures.items() if one.smaller_is_better},
        **limit,
    )


def _by_name(shown: Mapping[Any, Any], limit: dict[str, Any]) -> Figure:
    if all(isinstance(each, History) for each in shown.values()):
        return training_curves({name: each.records for name, each in shown.items()})
    if all(isinstance(each, Sweep) for each in shown.values()):
        return roc(shown)
    if all(isinstance(each, Estimate) for each in shown.values()):
        return estimates({str(name): each for name, each in shown.items()}, **limit)
    kinds = sorted({type(each).__name__ for each in shown.values()})
    raise InputTypeError(f"shown must be {SHOWN}, got a dict of {', '.join(kinds)}.")


def _numbers(shown: Any, left_out: Sequence[str]) -> dict[str, Estimate]:
    """The estimates among the fields of a result, by the names to show."""
    found: dict[str, Estimate] = {}
    for field in dataclasses.fields(shown):
        if field.name in left_out:
            continue
        each, name = getattr(shown, field.name), field.name.replace("_", " ")
        if isinstance(each, Estimate):
            found[name] = each
        elif isinstance(each, Mapping) and all(isinstance(one, Estimate) for one in each.values()):
            found |= {f"{name.removesuffix(' k')} {key}": one for key, one in each.items()}
    return found


def _holds_items(shown: Any) -> bool:
    is_pair = isinstance(shown, tuple) and len(shown) == 2 and isinstance(shown[0], Tensor)
    return isinstance(shown, Tensor) or is_pair or hasattr(shown, "__getitem__")


def _sheet(shown: Any, limit: dict[str, Any]) -> Figure:
    if isinstance(shown, Tensor):
        return contact_sheet(shown, **limit)
    if not (isinstance(shown, tuple) or hasattr(shown, "labels")):
        raise InputTypeError(f"shown must be {SHOWN}, got {type(shown).__name__}.")
    labeled = data.as_dataset(shown)
    most = limit.get("most", 48)
    first = range(min(len(labeled), most))
    codes = labeled.labels[: len(first)].tolist()
    names = ["" if code < 0 else str(labeled.class_names[code]) for code in codes]
    title = _count(len(first), len(labeled), "items")
    return contact_sheet(data.items(labeled, first), names, title=title, **limit)


def _first_pairs(given: data.GivenPairs, most: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    batch = given.__getitems__(range(min(len(given), most)))[0]
    return batch.items, batch.same


def _tensor(items: Any, most: int) -> Tensor:
    if isinstance(items, Tensor):
        return items[:most]
    if hasattr(items, "labels"):
        found: Tensor = data.items(items, range(min(len(items), most)))
        return found
    return torch.as_tensor(items)[:most]


def _count(drawn: int, count: int, nouns: str) -> str:
    return f"{drawn} of {count:,} {nouns}" if drawn < count else f"{count:,} {nouns}"
