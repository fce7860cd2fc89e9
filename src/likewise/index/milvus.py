"""The gallery in Milvus, for when one machine is outgrown."""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import check_count
from likewise.distances import Distance
from likewise.errors import InputError
from likewise.index._answers import Items, Neighbors
from likewise.index._entries import Rows, Values, Where, metadata_texts, new_ids, plain_ids
from likewise.index._given import check_storable, checked_payloads
from likewise.index._milvus.collections import METRICS, MOST
from likewise.index._milvus.live import MilvusLive
from likewise.index._milvus.rows import (
    EVERYTHING,
    check_length,
    embeddings_in,
    ids_in,
    labels_in,
    payload_in,
    rows_of,
)
from likewise.index._milvus.search import nearest
from likewise.index._summary import Summary, per_class, percentiles
from likewise.index._where import parsed


class MilvusGallery:
    """Labeled embeddings by stable ids in Milvus, and the nearest of them to any query.

    The verbs and answers of `Gallery`: Milvus proposes candidates by a flat search, and
    `distance.paired` ranks them, equals in the order of insertion. Only where more than 16,384
    items are as near as the k-th, which of them come first is left to Milvus.

    Every verb sees what was written before it, by whatever process. One process at a time may
    write; several may where each gives ids and class names of its own. A verb that writes stores
    its items in messages of 16 MB: where the connection breaks between two of them, `add` takes
    back what it stored, as far as it can, and `upsert` and `relabel` are to be called again.

    Args:
        uri: of a server or cluster, `http://host:19530`; or a file ending in .db, which Milvus
            Lite keeps and serves on loopback as long as this process lives.
        collection: name of the gallery there. A second collection, of that name and `_facts`,
            holds class names and what the gallery is made for.
        distance: COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN or INNER_PRODUCT, which Milvus knows. For
            a new gallery COSINE by default; for one that is there, its own, and any other is
            refused.
        encoder: says which encoder the embeddings are from; as in `Gallery`.
        dimension: of the embeddings; without, that of the first.
        class_names: names of label codes 0, 1, … of a new gallery. Names seen for the first time
            in `add` go behind them.
        token: `user:password` or an API key, where the server asks for one.

    Raises:
        GalleryError: nothing answers at `uri`, or the gallery was made for another encoder,
            distance or dimension.
        MissingExtra: pymilvus is not installed.
    """

    def __init__(
        self,
        uri: str | Path,
        *,
        collection: str,
        distance: Distance | None = None,
        encoder: str | None = None,
        dimension: int | None = None,
        class_names: Sequence[str] = (),
        token: str | None = None,
    ) -> None:
        self._live = MilvusLive(
            str(uri),
            collection,
            token,
            distance=distance,
            encoder=encoder,
            dimension=dimension,
            class_names=class_names,
        )
        self._seconds: deque[float] = deque(maxlen=1000)  # of recent lookups

    def close(self) -> None:
        """Give the connection back. What was written stays."""
        self._live.close()

    def __enter__(self) -> "MilvusGallery":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        self._live.refresh()
        return self._live.count()

    def __repr__(self) -> str:
        facts = self._live.facts
        return f"MilvusGallery({self._live.name!r}, {facts.distance}, dimension {facts.dimension})"

    @property
    def distance(self) -> Distance:
        """What "near" means."""
        return self._live.distance

    @property
    def encoder(self) -> str | None:
        """Which encoder the embeddings are from, as the gallery was told."""
        return self._live.facts.encoder

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first item."""
        return self._live.refresh().dimension

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Ids in order of insertion, int64 or strings, (n,). Fetches them all."""
        ids = ids_in(self._live.everything(["text"]))
        ids.flags.writeable = False
        return ids

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32. Fetches them all."""
        rows = self._live.everything(["embedding"])
        return embeddings_in(rows, self._live.facts.dimension or 0)

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion, -1 unlabeled. Fetches them all."""
        return labels_in(self._live.everything(["label"]))

    @property
    def class_names(self) -> list[str]:
        """The name of each label code; empty where labels are plain integers."""
        self._live.refresh()
        return list(self._live.names)

    def add(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        labels: Values | None = None,
        ids: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, and give back their ids.

        Args:
            embeddings: (n, d) or a single vector (d,), of floating point: a tensor, a NumPy array
                (memory-mapped too) or lists of numbers. Kept as float32.
            labels: one per item: codes >= 0, -1 for unlabeled, or class names (None for
                unlabeled). Without, no item has a label.
            ids: one per item, new and distinct: integers >= 0, or non-empty strings, the same
                kind throughout. Without, the next integers above all ever used.
            metadata: one dict per item, of what JSON can hold, at most 65,535 bytes and 4,096
                keys. Without, empty ones.
            payloads: bytes that belong to each item, at most 49,149, or None.

        Returns:
            The ids, (n,).

        Raises:
            InputError: wrong shapes or numbers of things, NaN or infinity, another dimension,
                an id that is taken, a label without a name, more than Milvus can hold.
            InputTypeError: ids or labels of mixed or other kinds, metadata that JSON cannot hold,
                payloads that are not bytes.
            GalleryError: it could not be written.
        """
        with self._live.writing():
            rows = self._live.checked(embeddings, "embeddings")
            given = self._live.next_ids(len(rows)) if ids is None else plain_ids(ids)
            there = dict.fromkeys(self._live.found(given, []), 0)
            added = new_ids(given, len(rows), {**self._live.other_kind(given), **there})
            return self._put(rows, added, labels, metadata, payloads)

    def upsert(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        ids: Values,
        labels: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items in place of those that have their ids.

        What was replaced stands at the end, and keeps nothing of before.
        """
        with self._live.writing():
            rows = self._live.checked(embeddings, "embeddings")
            given = plain_ids(ids)
            added = new_ids(given, len(rows), self._live.other_kind(given))
            self._live.found(given, [])  # refuses a string whose hash is another's
            return self._put(rows, added, labels, metadata, payloads, is_replacing=True)

    def remove(self, ids: Values) -> int:
        """Forget items, and give back how many. Their ids are not handed out again.

        An id given twice counts once.

        Raises:
            InputError: an id that is not stored; then nothing is removed.
            GalleryError: it could not be written.
        """
        with self._live.writing() as facts:
            gone = self._live.rows(ids, [])
            if gone:
                self._live.remember(facts)
                self._live.collections.remove([row["key"] for row in gone.values()])
            return len(gone)

    def clear(self) -> int:
        """Forget all items, and give back how many. Dimension and class names stay."""
        with self._live.writing() as facts:
            count = self._live.count()
            if count and facts.dimension is not None:
                self._live.remember(facts)
                self._live.collections.make_items(facts.dimension, METRICS[self.distance])
            return count

    def relabel(self, ids: Values, labels: Values | None) -> int:
        """Give stored items other labels, and give back how many there were.

        Args:
            ids: of the items, each once.
            labels: one per id, as in `add`; None for unlabeled.

        Raises:
            InputError: an id that is not stored or is given twice, a label without a name.
            GalleryError: it could not be written.
        """
        with self._live.writing() as facts:
            plain = plain_ids(ids)
            found = self._live.rows(ids, EVERYTHING)
            new_ids(plain, len(plain), {})  # refuses one that is there twice
            codes, names = self._live.codes(labels, len(plain))
            check_storable([], names)
            check_length("class_names", names)
            if found:
                self._live.remember(facts, names)
                rows = [
                    {**row, "tags": list(row["tags"]), "label": code}
                    for row, code in zip(found.values(), codes, strict=True)
                ]
                self._live.collections.put(rows, replace=True)
            return len(plain)

    def get(self, ids: Values) -> Items:
        """What is stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        rows = self._read(ids, ["label", "text", "embedding", "metadata"])
        return Items(
            ids=ids_in(rows),
            embeddings=embeddings_in(rows, self._live.facts.dimension or 0),
            labels=labels_in(rows),
            metadata=[json.loads(row["metadata"]) for row in rows],
        )

    def metadata(self, ids: Values) -> list[dict[str, Any]]:
        """The metadata stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        return [json.loads(row["metadata"]) for row in self._read(ids, ["metadata"])]

    def column(self, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """What each item's metadata has under a key, None without, and the labels.

        As `Index.column`, but fetches the metadata of all items each time.
        """
        found = self.get(self.ids)
        return [facts.get(key) for facts in found.metadata], found.labels

    def payloads(self, ids: Values) -> list[bytes | None]:
        """The payload stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        return [payload_in(row) for row in self._read(ids, ["payload"])]

    @torch.no_grad()
    def lookup(
        self,
        queries: Float[Tensor, "q d"] | Rows,
        *,
        k: int = 5,
        where: Where | None = None,
    ) -> Neighbors:
        """The k nearest stored items of each query, equal distances in the order of insertion.

        Args:
            queries: embeddings from the same encoder, (q, d) or (d,), as in `add`.
            k: how many, at most `len(self)` and at most 16,384.
            where: which items may be found, by their metadata: a value for each key, a list of
                values, or operators, such as `{"camera": "front", "year": {">=": 2000}}`.
                Operators are `==`, `in`, `<`, `<=`, `>` and `>=`; numbers compare with numbers,
                strings with strings. `{"or": [...]}`, `{"and": [...]}` and `{"not": {...}}` hold
                further dicts. Where fewer than k items pass, rows are padded.
                A range fetches the metadata of all items.

        Raises:
            InputError: the gallery is empty, k is larger than it, queries of another dimension
                or not finite, a key in `where` that no item has, an operator that does not exist.
            InputTypeError: `where` is not a mapping with strings for keys, or JSON cannot hold it.
            GalleryError: Milvus does not answer.
        """
        started = time.perf_counter()
        condition = None if where is None else parsed(where)
        facts = self._live.refresh()
        asked = self._live.checked(queries, "queries")
        check_count("k", k)
        if k > MOST:
            raise InputError(
                f"k must be at most {MOST}, which Milvus finds at once, got {k}. Ask for fewer."
            )
        expression = None if facts.dimension is None else ""
        if condition is not None:
            self._live.check_enough(k)
            expression = self._live.expression(condition)
        found = nearest(
            self._live.collections,
            self.distance,
            asked,
            k,
            expression=expression,
            longest=facts.longest,
            has_strings=facts.kind == "strings",
        )
        if len(asked) == 0 or bool(found.distances.isinf().any()):
            self._live.check_enough(k)
        self._seconds.append(time.perf_counter() - started)
        return replace(found, class_names=self._live.names, index=self)

    def summary(self) -> Summary:
        """What the gallery holds and how long recent lookups took; fetches all labels."""
        labels = self.labels
        facts = self._live.facts
        return Summary(
            items=len(labels),
            dimension=facts.dimension,
            distance=facts.distance,
            encoder=facts.encoder,
            search="exact",
            measured_recall=None,
            bytes=4 * (facts.dimension or 0) * len(labels),  # of the vectors; Milvus tells no more
            lookup_seconds=percentiles(self._seconds),
            storage="float32",
            batches=facts.batches,
            **per_class(labels, self._live.names),
        )

    def _read(self, ids: Values, fields: Sequence[str]) -> list[dict[str, Any]]:
        self._live.refresh()
        plain = plain_ids(ids)
        found = self._live.rows(plain, fields)
        return [found[id_] for id_ in plain]

    def _put(
        self,
        embeddings: Tensor,
        ids: list[int] | list[str],
        labels: Values | None,
        metadata: Sequence[Mapping[str, Any]] | None,
        payloads: Sequence[bytes | None] | None,
        *,
        is_replacing: bool = False,
    ) -> np.ndarray[Any, Any]:
        codes, names = self._live.codes(labels, len(ids))
        texts = metadata_texts(metadata, len(ids))
        parts = checked_payloads(payloads, len(ids))
        check_storable(ids, names)
        check_length("class_names", names)
        first = self._live.facts.next_position
        rows = rows_of(ids, codes, embeddings, texts, parts, first)
        if not rows:
            return np.empty(0, dtype=np.int64)
        self._live.put(ids, embeddings, rows, names, is_replacing=is_replacing)
        return np.array(ids)
