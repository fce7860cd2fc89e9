"""Embeddings of any number of items as Parquet parts, and back: `embed_parts`, `embedded_parts`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise import data as sources
from likewise import distances
from likewise._parts import Parts, pyarrow
from likewise.data.embedded_parts import EMBED, PartRows, part_rows, read_embedded
from likewise.data.parts import ids_of
from likewise.embedded import Embedded
from likewise.errors import InputError
from likewise.index import Gallery, Index, WrittenMetadata
from likewise.journeys.in_parts import (
    Progress,
    Read,
    Written,
    asks_in_order,
    check_no_cache,
    class_of_each,
    digest_of,
    paths_for,
    plain,
    plan_for,
    spread,
    written,
)
from likewise.model import SimilarityModel
from likewise.model.embedding import opened
from likewise.model.rebuilding import embedding_fingerprint

COLUMNS = ("id", "label", "class", "embedding", "metadata", "fingerprint", "row", "error")
OPTIONS: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": ["class"],
}  # numbers do not become smaller


def embed_parts(
    model: SimilarityModel,
    items: Any,
    out: str | Path,
    *,
    shard: int = 0,
    shards: int = 1,
    queries: bool = False,
    place: str | Path | None = None,
    workers: int = 0,
    resume: bool = False,
    part_rows: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Embeddings of any number of items, as Parquet parts in a folder.

    Parts are written as they come, each whole or not at all. After a kill at any moment the same
    call with `resume` goes on, and every item has one row in the end. Several processes or
    machines share the work where each has a shard of its own; their folders may be one, or be
    copied together. An item that cannot be read has a row with the sentence of its error.

    A row has these columns: id (that of the table, or the position), label (a code, -1 for
    unlabeled), class (its name), embedding, metadata (JSON), fingerprint (of the item), row (the
    position in `items`) and error. The plan of the folder holds the fingerprint of encoder and
    preprocessing, by which parts of another encoder are refused.

    Args:
        model: Has the encoder.
        items: A dataset, image files, numbers (n, ...) or texts.
        out: The folder; made if it is not there.
        shard: Which share this call writes, from 0.
        shards: How many there are.
        queries: Side of two towers; see `SimilarityModel.embed`.
        place: Where the items are from, such as their folder; kept as their source.
        workers: Processes that read items; 0 reads in this one.
        resume: Go on in a folder that holds parts of this shard. Items and model must be those of
            before.
        part_rows: Rows of a part, which is what a kill can cost; by default 4,096 or more.
        progress: Called as progress(done, total), of the items that are left.

    Raises:
        InputError: The folder holds something else, or parts that are not to be resumed.
        MissingExtra: pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> model = lw.SimilarityModel(None)
        >>> data = lw.data.load((torch.eye(3), ["a", "b", "b"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = [embed_parts(model, data, folder, shard=i, shards=2) for i in (0, 1)]
        ...     found = embedded_parts(folder, model)
        >>> [each.rows for each in done], found.labels
        ([3, 0], tensor([0, 1, 1]))
    """
    check_no_cache(model)
    encoder, preprocess = model.tower(queries=queries)
    source = opened(items, preprocess, encoder)
    of_text = not isinstance(source, Tensor) and sources.is_text(source)
    own, names, paths = ids_of(source), list(getattr(source, "class_names", ())), paths_for(source)
    if own is not None and len(set(own)) < len(own):
        raise InputError(
            "must name a column whose ids all differ, got some more than once.", argument="id"
        )
    are_text = own is not None and not all(isinstance(each, int) for each in own)
    labels = getattr(source, "labels", None)
    codes = torch.full((len(source),), -1) if labels is None else labels.long()
    classes = class_of_each(source)
    origin = {} if place is None else {"source": str(place)}
    facts = {
        "encoder": embedding_fingerprint(encoder, preprocess),
        "gallery_encoder": None if queries else model.fingerprint,
        "distance": model.distance.name,
        "class_names": names,
        "data": digest_of(source, json.dumps(origin)),
    }

    def encode(side: int, batch: Any) -> tuple[Tensor, Tensor]:
        found = model.embedded(batch, queries=queries)
        return found.embeddings, found.fingerprints

    def facts_of(rows: range) -> list[dict[str, Any]]:
        if paths is not None:
            return [{**origin, "path": path} for path in paths(rows)]
        if of_text:
            return [{**origin, "text": text} for text in sources.items(source, list(rows))]
        return [origin] * len(rows)

    def table_of(rows: range, read: Mapping[int, Read]) -> Any:
        arrow, found = pyarrow(), read[0]
        good = found.good
        width = found.embeddings.shape[1]
        ends = np.concatenate([[0], np.cumsum(good) * width])
        flat = arrow.array(found.embeddings.numpy().ravel(), arrow.float32())
        prints = np.zeros(len(good), dtype=np.int64)
        prints[good] = found.prints.numpy()
        told = [
            json.dumps({**each, "fingerprint": number} if is_good else each)
            for each, number, is_good in zip(
                facts_of(rows), prints.tolist(), good.tolist(), strict=True
            )
        ]
        ids = list(rows) if own is None else own[rows.start : rows.stop]
        text = arrow.string()
        columns = [
            arrow.array(map(str, ids), text) if are_text else arrow.array(ids, arrow.int64()),
            arrow.array(codes[rows.start : rows.stop].numpy(), arrow.int64()),
            arrow.array(classes[rows.start : rows.stop], text),
            arrow.ListArray.from_arrays(
                arrow.array(ends, arrow.int32()), flat, mask=arrow.array(~good)
            ),
            arrow.array(told, text),
            spread(found.prints, good, arrow.int64()),
            arrow.array(np.arange(rows.start, rows.stop), arrow.int64()),
            arrow.array(map(plain, found.errors), text),
        ]
        return arrow.table(columns, names=list(COLUMNS))

    return written(
        out,
        plan_for(
            out,
            EMBED,
            len(source),
            facts,
            part_rows=part_rows,
            shards=shards,
        ),
        [source],
        asks_in_order(source, encoder),
        encode,
        table_of,
        shard=shard,
        workers=workers,
        resume=resume,
        progress=progress,
        **OPTIONS,
    )


def embedded_parts(
    folder: str | Path, model: SimilarityModel, *, queries: bool = False
) -> Embedded:
    """The items of parts that `embed_parts` wrote, as if the model had just embedded them.

    Items that could not be read are left out, and a warning counts them. Memory holds the
    embeddings of all items, and the rows of one part besides.

    Args:
        folder: The parts, complete.
        model: Model that made them.
        queries: Side of two towers; see `SimilarityModel.embed`.

    Raises:
        InputError: Another encoder or another preprocessing made them; parts are missing, or
            damaged.
    """
    parts = Parts(folder, [EMBED])
    own = embedding_fingerprint(*model.tower(queries=queries))
    if own != parts.plan.facts["encoder"]:
        raise InputError(
            f"must be of the encoder and the preprocessing of the model, {own!r}, got "
            f"{str(folder)!r}, which is of {parts.plan.facts['encoder']!r}. Embed the items with "
            "this model.",
            argument="parts",
        )
    return read_embedded(folder)


def add_parts(
    index: Index, folder: str | Path, *, replace: bool = False, progress: Progress | None = None
) -> int:
    """Take the items of parts into an index, a gallery or Milvus, part by part; how many came.

    Rows go from Arrow into the store by whole columns. Items that could not be read are left out.
    Where it is interrupted, doing it again with `replace` completes it.

    Args:
        index: Has the distance of the model that made the parts. One that knows its encoder must
            have the same.
        folder: The parts, complete.
        replace: Replace items whose id is there already; otherwise they are refused.
        progress: Called as progress(done, total) after each part.

    Raises:
        InputError: Another encoder made the parts, or they were compared by another distance; an
            id is there already; parts are missing, or damaged.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> model = lw.SimilarityModel(None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = embed_parts(model, lw.data.load((torch.eye(3), ["a", "b", "b"])), folder)
        ...     index = lw.Index()
        ...     add_parts(index, folder)
        3
        >>> index.class_names, index.labels
        (['a', 'b'], tensor([0, 1, 1]))
    """
    parts = Parts(folder, [EMBED])
    facts = parts.plan.facts
    # In memory an index is told of no encoder, and neither is a new gallery.
    is_open = index.encoder is None and (type(index) is Index or not len(index))
    for what, theirs, its in (
        ("encoder", facts["gallery_encoder"], index.encoder),
        ("distance", facts["distance"], index.distance.name),
    ):
        if theirs != its and not (what == "encoder" and is_open):
            raise InputError(
                f"must be of the {what} of the gallery, {its!r}, got {str(folder)!r}, which is of "
                f"{theirs!r}. Embed the items with the model of the gallery.",
                argument="parts",
            )
    index.name_classes(facts["class_names"])
    put = index.upsert if replace else index.add
    count = 0
    for number, rows in enumerate(part_rows(parts)):
        if len(rows):
            put(
                rows.embeddings,
                ids=rows.ids,
                labels=_labels_for(index, rows, facts["class_names"]),
                metadata=WrittenMetadata(rows.metadata, rows.prints),
            )
            count += len(rows)
        if progress is not None:
            progress(parts.plan.rows(number).stop, parts.plan.items)
    return count


def parts_into_gallery(
    folder: str | Path,
    gallery: str | Path,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """As `add_parts`, into a gallery, which is made for the parts if it is not there.

    Returns:
        How many items came ("imported"), and how many there are ("items").
    """
    facts = Parts(folder, [EMBED]).plan.facts
    is_new = not Gallery.is_at(gallery)
    distance = distances.by_name(facts["distance"]) if is_new else None
    encoder = facts["gallery_encoder"] if is_new else None
    with Gallery(gallery, distance=distance, encoder=encoder) as opened_there:
        count = add_parts(opened_there, folder, replace=replace, progress=progress)
        return {"imported": count, "items": len(opened_there)}


def _labels_for(index: Index, rows: PartRows, names: Sequence[str]) -> Any:
    """Labels as the index takes them: codes where its names are those of the parts, else names."""
    labels = rows.labels
    if not bool((labels >= 0).any()):
        return None
    known = index.class_names
    if known[: len(names)] == list(names):
        return labels
    codes = {name: code for code, name in enumerate(known)}
    there = torch.tensor([codes.get(name, -1) for name in names])
    used = torch.unique(labels[labels >= 0])
    if bool((there[used] >= 0).all()):
        return torch.where(labels >= 0, there[labels.clamp(min=0)], -1)
    return [None if code < 0 else names[code] for code in labels.tolist()]
