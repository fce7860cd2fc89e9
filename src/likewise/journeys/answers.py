"""Answers to any number of items as Parquet parts: to match, to look up, to verify."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise._parts import pyarrow
from likewise.data.attempts import Ask
from likewise.embedded import Embedded
from likewise.errors import InputError
from likewise.index import Neighbors, name_of
from likewise.journeys.in_parts import (
    Progress,
    Read,
    Written,
    asks_in_order,
    batch_for,
    check_no_cache,
    class_of_each,
    digest_of,
    names_for,
    plain,
    plan_for,
    spread,
    written,
)
from likewise.journeys.opening import known_embeddings
from likewise.journeys.verify import Pairs
from likewise.metrics.priors import check_prior
from likewise.model import SimilarityModel
from likewise.model.embedding import opened
from likewise.model.rebuilding import embedding_fingerprint
from likewise.model.trials import PAIRS

OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["label", "truth"],
}  # of Parquet


def match_parts(
    model: SimilarityModel,
    items: Any,
    out: str | Path,
    *,
    point: str = "nearest",
    threshold: float | None = None,
    rule: str = "nearest",
    k: int = 1,
    candidates: float | None = None,
    names: Sequence[str] | None = None,
    workers: int = 0,
    resume: bool = False,
    part_rows: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Which known class each of any number of items is, as Parquet parts in a folder.

    Parts are written as they come, each whole or not at all. After a kill at any moment the same
    call with `resume` goes on, and every item has one row in the end. An item that cannot be read
    has a row with the sentence of its error.

    A row has these columns: row (the position in `items`), query (its name), label (null for
    unknown), distance, probability (null where none was calibrated), candidates (where asked for),
    truth (where the items have labels) and error (null for an answer).

    Args:
        model: Has known items and a calibration; see `SimilarityModel.match`.
        items: Items as `SimilarityModel.match` takes them; image files are read a batch at a time.
        out: The folder; made if it is not there.
        point: Operating point, as for `SimilarityModel.match`.
        threshold: Used instead of the calibrated one.
        rule: The rule, with a threshold.
        k: Neighbors, with a threshold.
        candidates: Level of the classes that each item may be of.
        names: What each item is called; by default its id, file or text.
        workers: Processes that read items; 0 reads in this one.
        resume: Go on in a folder that holds parts. Items, model, known items and arguments must be
            those of before.
        part_rows: Rows of a part, which is what a kill can cost; by default 4,096 or more.
        progress: Called as progress(done, total), of the items that are left.

    Raises:
        InputError: The folder holds something else, or parts that are not to be resumed, and what
            `SimilarityModel.match` refuses.
        MissingExtra: pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> digits = lw.data.load("digits", split="train")
        >>> model = lw.SimilarityModel(lw.encoders.MLPEncoder(digits.item_shape))
        >>> ids = model.add(lw.data.sample_items(digits, per_class=5))
        >>> test = lw.data.load("digits", split="test")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = match_parts(model, test, folder, threshold=0.1, part_rows=100)
        ...     again = match_parts(model, test, folder, threshold=0.1, resume=True)
        >>> done.rows, done.failed, again.there_before
        (447, 0, 447)
    """

    def decide(embeddings: Tensor) -> Any:
        return model.match(
            _as_embedded(embeddings),
            point=point,
            threshold=threshold,
            rule=rule,
            k=k,
            candidates=candidates,
        )

    _check(model, decide)
    bound = model.calibrations[point] if threshold is None else None
    facts = {
        "threshold": model.calibrations[point].threshold if threshold is None else float(threshold),
        "rule": rule if bound is None else bound.rule,
        "k": k if bound is None else bound.k or k,
        "candidates": candidates,
        "calibration": None if bound is None else _calibration(model, point),
    }
    source = _opened(model, items)
    has_truth = _has_truth(source)

    def columns(good: np.ndarray[Any, Any], embeddings: Tensor) -> dict[str, Any]:
        arrow = pyarrow()
        text = arrow.string()
        made = None if not len(embeddings) else decide(embeddings)
        empty = torch.empty(0)
        chances = None if made is None else made.probabilities
        codes = np.full(len(good), -1)
        if made is not None:
            codes[good] = made.labels.numpy()
        table = {
            "label": _names_of(codes, model.class_names),
            "distance": spread(empty if made is None else made.distances, good, arrow.float32()),
            "probability": arrow.nulls(len(good), arrow.float32())
            if chances is None
            else spread(chances.float(), good, arrow.float32()),
        }
        if candidates is not None:
            sets = [] if made is None or made.candidates is None else made.candidates.names
            table["candidates"] = spread(sets, good, arrow.list_(text))
        return table

    return _answered(
        "match",
        model,
        source,
        out,
        facts,
        columns,
        names=names,
        workers=workers,
        resume=resume,
        part_rows=part_rows,
        progress=progress,
        truth=("label", "truth") if has_truth else None,
        counted="label",
        known=model.index.summary().items_per_class,
    )


def lookup_parts(
    model: SimilarityModel,
    items: Any,
    out: str | Path,
    *,
    k: int = 5,
    where: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    workers: int = 0,
    resume: bool = False,
    part_rows: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """The k known items that are most like each of any number of items, as Parquet parts.

    All is as for `match_parts`, but for the columns: row, query, ids, labels (null for an
    unlabeled item) and distances, each a list with the nearest first, truth and error.

    Args:
        model: Has known items.
        items: Items as `SimilarityModel.lookup` takes them.
        out: The folder.
        k: Neighbors of each.
        where: See `SimilarityModel.lookup`.
        names: Names of the items, as for `match_parts`; so are the arguments after it.
        workers: Processes that read items.
        resume: Go on in a folder that holds parts.
        part_rows: Rows of a part.
        progress: Called as progress(done, total).

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> model = lw.SimilarityModel(None)
        >>> ids = model.add((torch.eye(3), ["a", "b", "b"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lookup_parts(model, torch.eye(3)[:2], folder, k=2).rows
        2
    """

    def look_up(embeddings: Tensor) -> Neighbors:
        return model.index.lookup(embeddings, k=k, where=where)

    _check(model, look_up)

    def columns(good: np.ndarray[Any, Any], embeddings: Tensor) -> dict[str, Any]:
        arrow = pyarrow()
        of_id = arrow.string() if model.index.ids.dtype.kind == "U" else arrow.int64()
        found = None if not len(embeddings) else look_up(embeddings)
        ids = codes = distances = np.empty((0, 0))
        if found is not None:
            ids, codes, distances = found.ids, found.labels.numpy(), found.distances.numpy()
        flat = {
            "ids": arrow.array(ids.ravel(), of_id),
            "labels": _names_of(codes.ravel(), model.class_names),
            "distances": arrow.array(distances.ravel(), arrow.float32()),
        }
        return {name: _lists(values, good, ids.shape[1]) for name, values in flat.items()}

    return _answered(
        "lookup",
        model,
        _opened(model, items),
        out,
        {"k": k, "where": None if where is None else repr(sorted(where.items()))},
        columns,
        names=names,
        workers=workers,
        resume=resume,
        part_rows=part_rows,
        progress=progress,
    )


def verify_parts(
    model: SimilarityModel,
    pairs: Pairs,
    out: str | Path,
    *,
    point: str = PAIRS,
    threshold: float | None = None,
    prior: float | None = None,
    workers: int = 0,
    resume: bool = False,
    part_rows: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Whether each of any number of pairs is the same, as Parquet parts in a folder.

    All is as for `match_parts`, but for the columns: row, a, b, distance, same, probability, truth
    (where the table tells it) and error, which names both items if neither can be read. An item
    is read once for each part that it is in.

    Args:
        model: Is calibrated for pairs.
        pairs: From `journeys.verify.read`.
        out: The folder.
        point: Operating point, as for `SimilarityModel.verify`; so are threshold and prior.
        threshold: Used instead of the calibration.
        prior: Share of such pairs that are the same.
        workers: Processes that read, as for `match_parts`; so are the arguments after it.
        resume: Go on in a folder that holds parts.
        part_rows: Rows of a part.
        progress: Called as progress(done, total), of the items that are left to read.
    """
    check_no_cache(model)
    limit = model.limit_of_pairs(point, threshold)
    if prior is not None:
        check_prior(prior)
    towers = model.query_encoder is not None
    if not model.has_encoder:
        sides = [opened(known_embeddings(model, pairs.sides), model.preprocess, model.encoder)]
    else:
        sides = [
            opened(pairs.sides, preprocess, encoder)
            for encoder, preprocess in [model.tower(queries=towers and q) for q in (True, False)]
        ][: 1 + towers]
    size = [
        batch_for(source, model.tower(queries=towers and not side)[0])
        for side, source in enumerate(sides)
    ]
    positions = pairs.positions.numpy()

    def asks_of(rows: range) -> list[Ask]:
        part = positions[rows.start : rows.stop]
        needed = [np.unique(part[:, 0]), np.unique(part[:, 1])] if towers else [np.unique(part)]
        return [
            Ask(side, each[start : start + size[side]].tolist())
            for side, each in enumerate(needed)
            for start in range(0, len(each), size[side])
        ]

    def encode(side: int, items: Any) -> tuple[Tensor, None]:
        return model.embed(items, queries=towers and side == 0), None

    def table_of(rows: range, read: Mapping[int, Read]) -> Any:
        arrow = pyarrow()
        part = positions[rows.start : rows.stop]
        both = [read[0], read[1 if towers else 0]]
        places = [np.searchsorted(np.array(one.rows), part[:, at]) for at, one in enumerate(both)]
        errors = [
            " ".join(dict.fromkeys(filter(None, each))) or None
            for each in zip(
                *(
                    [one.errors[place] for place in of.tolist()]
                    for one, of in zip(both, places, strict=True)
                ),
                strict=True,
            )
        ]
        good = np.array([error is None for error in errors], dtype=bool)
        made = None
        if good.any():
            left, right = (
                _as_embedded(one.embeddings[(np.cumsum(one.good) - 1)[of[good]]])
                for one, of in zip(both, places, strict=True)
            )
            made = model.verify(left, right, point=point, threshold=threshold, prior=prior)
        chances = None if made is None else made.probabilities
        empty = torch.empty(0)
        names = [[plain(pairs.names[at]) for at in part[:, side].tolist()] for side in (0, 1)]
        columns = {
            "row": arrow.array(np.arange(rows.start, rows.stop), arrow.int64()),
            "a": arrow.array(names[0], arrow.string()),
            "b": arrow.array(names[1], arrow.string()),
            "distance": spread(empty if made is None else made.distances, good, arrow.float32()),
            "same": spread(empty.bool() if made is None else made.same, good, arrow.bool_()),
            "probability": arrow.nulls(len(good), arrow.float32())
            if chances is None
            else spread(chances.float(), good, arrow.float32()),
        }
        if pairs.same is not None:
            truth = pairs.same[rows.start : rows.stop]
            columns["truth"] = arrow.array(truth.numpy(), arrow.bool_())
        columns["error"] = arrow.array(map(plain, errors), arrow.string())
        return arrow.table(columns)

    truth = b"" if pairs.same is None else pairs.same.numpy().tobytes()
    facts = {
        "encoder": _encoders(model),
        "distance": _compared_by(model),
        "threshold": limit,
        "point": point,
        "prior": prior,
        "calibration": _calibration(model, point),
        "data": _json_digest(
            [pairs.names, hashlib.sha256(positions.tobytes() + truth).hexdigest()]
        ),
    }
    return written(
        out,
        plan_for(out, "verify", len(positions), facts, part_rows=part_rows),
        sides,
        asks_of,
        encode,
        table_of,
        workers=workers,
        resume=resume,
        progress=progress,
        truth=None if pairs.same is None else ("same", "truth"),
        counted="same",
        compression="zstd",
        use_dictionary=["a", "b"],
    )


def _answered(
    kind: str,
    model: SimilarityModel,
    source: Any,
    out: str | Path,
    facts: Mapping[str, Any],
    columns_of: Callable[[np.ndarray[Any, Any], Tensor], dict[str, Any]],
    *,
    names: Sequence[str] | None,
    part_rows: int | None,
    resume: bool,
    **rest: Any,
) -> Written:
    """Write the answers to each item, which need its embedding alone."""
    encoder, _ = model.tower(queries=True)
    if names is not None and len(names) != len(source):
        raise InputError(
            f"must hold one for each item, {len(source)}, got {len(names)}.", argument="names"
        )
    named = names_for(source)
    truths = class_of_each(source) if _has_truth(source) else None
    all_facts = {
        "encoder": _encoders(model),
        "distance": _compared_by(model),
        **facts,
        "known_items": _known(model),
        "searched": [model.index.recall, model.index.approximate],
        "data": digest_of(source, *(() if names is None else names)),
    }
    if model.collection is None:
        model.index.wait()  # or the first parts would be answered by what stands in meanwhile

    def encode(side: int, items: Any) -> tuple[Tensor, None]:
        return model.embed(items, queries=True), None

    def table_of(rows: range, read: Mapping[int, Read]) -> Any:
        arrow = pyarrow()
        called = named(rows) if names is None else list(names[rows.start : rows.stop])
        columns = {
            "row": arrow.array(np.arange(rows.start, rows.stop), arrow.int64()),
            "query": arrow.array(map(plain, called), arrow.string()),
            **columns_of(read[0].good, read[0].embeddings),
        }
        if truths is not None:
            columns["truth"] = arrow.array(truths[rows.start : rows.stop], arrow.string())
        columns["error"] = arrow.array(map(plain, read[0].errors), arrow.string())
        return arrow.table(columns)

    return written(
        out,
        plan_for(out, kind, len(source), all_facts, part_rows=part_rows),
        [source],
        asks_in_order(source, encoder),
        encode,
        table_of,
        resume=resume,
        **OPTIONS,
        **rest,
    )


def _opened(model: SimilarityModel, items: Any) -> Any:
    """Items, or a dataset of embeddings in the place of items that were embedded before."""
    encoder, preprocess = model.tower(queries=True)
    if isinstance(items, Embedded):
        raise InputError(
            "must be items that are yet to be read, got an Embedded, which is in memory already.",
            argument="items",
            remedy="Use model.match.",
            command="Leave --out out.",
        )
    return opened(items, preprocess, encoder)


def _has_truth(source: Any) -> bool:
    labels = getattr(source, "labels", None)
    return labels is not None and bool((labels >= 0).any())


def _as_embedded(embeddings: Tensor) -> Embedded:
    rows = torch.arange(len(embeddings))
    return Embedded(embeddings, torch.full_like(rows, -1), [], rows, rows)


def _names_of(codes: np.ndarray[Any, Any], class_names: Sequence[str]) -> Any:
    """The class of each code by its name, null for -1, as an Arrow array."""
    arrow = pyarrow()
    known, places = np.unique(codes, return_inverse=True)
    names = [plain(name_of(code, class_names, "")) for code in known.astype(int).tolist()]
    return arrow.array(names, arrow.string()).take(arrow.array(places, mask=codes < 0))


def _lists(flat: Any, good: np.ndarray[Any, Any], width: int) -> Any:
    """A list of `width` values for each good row, null for the others."""
    arrow = pyarrow()
    ends = np.concatenate([[0], np.cumsum(good) * width])
    offsets = arrow.array(ends, arrow.int32())
    return arrow.ListArray.from_arrays(offsets, flat, mask=arrow.array(~good))


def _check(model: SimilarityModel, ask: Callable[[Tensor], Any]) -> None:
    """Ask about one vector, so that a wrong question is refused before there is a folder for it."""
    check_no_cache(model)
    with warnings.catch_warnings(action="ignore"):
        ask(torch.ones(1, model.index.dimension or 1))


def _calibration(model: SimilarityModel, point: str) -> str:
    """By which what was calibrated is known to be that of before."""
    kept = (model.calibrations, model.class_thresholds, model.probabilities)
    return _json_digest([one[point].to_dict() for one in kept if point in one])


def _encoders(model: SimilarityModel) -> list[str]:
    towers = [model.tower(queries=queries) for queries in (True, False)]
    return list(dict.fromkeys(embedding_fingerprint(*tower) for tower in towers))


def _compared_by(model: SimilarityModel) -> str:
    """By which distances are known to be those of before."""
    norm = model.norm
    if norm is None:
        return model.compared_by.name
    cohort = hashlib.sha256(norm.cohort.float().numpy(force=True).tobytes()).hexdigest()[:16]
    return f"{model.compared_by.name}, {norm.nearest} of {cohort}"


def _known(model: SimilarityModel) -> str:
    """By which the known items are known to be those of before."""
    index = model.index
    prints, there, labels = index.fingerprints()
    digest = hashlib.sha256(index.ids.tobytes())
    for part in (prints, there, labels):
        digest.update(part.numpy().tobytes())
    digest.update(json.dumps(model.class_names).encode())
    return f"{len(index)} items, {digest.hexdigest()[:16]}"


def _json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
