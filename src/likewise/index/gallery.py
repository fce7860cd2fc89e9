"""The index that stays on disk."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import Distance, by_name
from likewise.errors import GalleryError
from likewise.index._durable.checksums import Integers
from likewise.index._durable.copies import backup, merge
from likewise.index._durable.live import Additions
from likewise.index._durable.opening import Asked, check_encoder, is_gallery, opened
from likewise.index._entries import Rows, Values, Where, check_filled, check_k, metadata_texts
from likewise.index._given import (
    Given,
    check_text,
    checked_embeddings,
    checked_payloads,
    chunk_of,
    codes_of,
    ids_to_add,
    ids_to_put,
    rows_of_all,
)
from likewise.index._searching.storage import pack, unpack
from likewise.index._snapshots import NONE, Snapshot
from likewise.index._summary import Summary, per_class, percentiles
from likewise.index._where import Column, Filters, parsed
from likewise.index.memory import Items, Neighbors


class Gallery:
    """Labeled embeddings by stable ids in a folder, and the nearest of them to any query.

    When a verb that writes returns, what it wrote is on disk; when it raises or the process is
    killed, all of it is there or nothing. A folder with an altered byte is opened with exactly
    what was written, or refused with one sentence.

    Any number of threads may read and write one gallery: each call reads the items as of one
    moment, and writers take turns. One process at a time may write, and others may read what it
    wrote. A fork of the process is refused; open the gallery in the child.

    Args:
        path: a folder, made if it is not there.
        distance: what "near" means, one of `likewise.distances`. For a new gallery COSINE by
            default; for one that is there, its own, and any other is refused.
        encoder: says which encoder the embeddings are from, e.g. its fingerprint. Kept with a
            new gallery; an older one refuses another.
        dimension: of the embeddings; without, that of the first.
        class_names: names of label codes 0, 1, … of a new gallery. Names seen for the first time
            in `add` go behind them.
        recall: the share of the true nearest that a lookup shall find, see `Index`. Without,
            always exact. Not kept with the gallery.
        storage: of a new gallery: "float32", by default, or "float16" or "int8", see `Index`.
        read_only: look things up in a gallery that another process may write.

    Raises:
        GalleryError: the folder holds something else, is damaged, is being written by another
            process, cannot be written, or was made for another encoder, distance or dimension.

    Example:
        >>> import tempfile, torch
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Gallery(folder.name) as gallery:
        ...     gallery.add(torch.eye(3), labels=["cat", "dog", "cat"])
        array([0, 1, 2])
        >>> with Gallery(folder.name) as gallery:
        ...     found = gallery.lookup(torch.tensor([[1.0, 0.1, 0.0]]), k=2)
        ...     [gallery.class_names[label] for label in found.labels[0]]
        ['cat', 'dog']
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        distance: Distance | None = None,
        encoder: str | None = None,
        dimension: int | None = None,
        class_names: Sequence[str] = (),
        recall: float | None = None,
        storage: str | None = None,
        read_only: bool = False,
    ) -> None:
        self.path = Path(path)
        asked = Asked(distance, encoder, dimension, storage, class_names)
        self._live = opened(self.path, asked, recall=recall, read_only=read_only)
        self._filters = Filters()
        self._columns: dict[str, Column] = {}
        self._seconds: deque[float] = deque(maxlen=1000)  # of recent lookups

    def close(self) -> None:
        """Give the files back. Nothing is lost without it, but the folder stays locked.

        A writer of many items leaves a file that the next opening maps instead of reading rows.
        """
        self._live.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._live.newest())

    def __repr__(self) -> str:
        facts = self._live.current.facts
        return (
            f"Gallery({str(self.path)!r}, {facts.distance}, {facts.items} items, "
            f"dimension {facts.dimension})"
        )

    @property
    def distance(self) -> Distance:
        """What "near" means."""
        return by_name(self._live.current.facts.distance)

    @property
    def encoder(self) -> str | None:
        """Which encoder the embeddings are from, as the gallery was told."""
        return self._live.current.facts.encoder

    def adopt(self, encoder: str) -> None:
        """Say which encoder made embeddings that were stored without a word of it.

        It is not checked: only whoever made them knows.

        Args:
            encoder: its fingerprint, `SimilarityModel.fingerprint`.

        Raises:
            GalleryError: another encoder is told already, or it could not be written.
        """
        check_encoder(encoder)
        with self._live.writing() as snapshot:
            told = snapshot.facts.encoder
            if told not in (None, encoder):
                raise GalleryError(
                    f"gallery must be of no told encoder to be adopted, got {str(self.path)!r}, "
                    f"which is of {told!r}. Add its items anew, through the model."
                )
            if told is None:
                self._live.adopt(encoder)

    @property
    def key(self) -> str:
        """Random text by which the gallery and copies of it are known, wherever they are."""
        return self._live.current.facts.key

    @staticmethod
    def is_at(path: str | Path) -> bool:
        """Whether there is a gallery, whole or not, in the folder at `path`."""
        return is_gallery(Path(path))

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first item."""
        return self._live.newest().facts.dimension

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Ids in order of insertion, int64 or strings, (n,)."""
        return self._live.newest().ids

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32. Shared memory: read, do not write."""
        return self._live.newest().embeddings

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion, -1 unlabeled. Shared memory: read, do not write."""
        return self._live.newest().labels

    @property
    def class_names(self) -> list[str]:
        """The name of each label code; empty where labels are plain integers."""
        return list(self._live.newest().class_names)

    def add(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        labels: Values | None = None,
        ids: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, and give back their ids; what is given back is on disk.

        Args:
            embeddings: (n, d) or a single vector (d,), of floating point: a tensor, a NumPy array
                (memory-mapped too) or lists of numbers. Kept as float32.
            labels: one per item: codes >= 0, -1 for unlabeled, or class names (None for
                unlabeled). Without, no item has a label.
            ids: one per item, new and distinct: integers >= 0, or non-empty strings, the same
                kind throughout. Without, the next integers above all ever used.
            metadata: one dict per item, of what JSON can hold. Without, empty ones.
            payloads: bytes that belong to each item, such as a thumbnail, or None.

        Returns:
            The ids, (n,).

        Raises:
            InputError: wrong shapes or numbers of things, NaN or infinity, another dimension,
                an id that is taken, a label without a name.
            InputTypeError: ids or labels of mixed or other kinds, metadata that JSON cannot hold,
                payloads that are not bytes.
            GalleryError: it could not be written; then nothing was.
        """
        with self._live.writing() as snapshot:
            rows = checked_embeddings(embeddings, "embeddings", snapshot)
            added = ids_to_add(snapshot, ids, len(rows))
            return self._put(snapshot, rows, added, labels, metadata, payloads, NONE)

    def upsert(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        ids: Values,
        labels: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items in place of those that have their ids, in one step.

        What was replaced stands at the end and keeps nothing of before. Otherwise as `add`.
        """
        with self._live.writing() as snapshot:
            rows = checked_embeddings(embeddings, "embeddings", snapshot)
            added, gone = ids_to_put(snapshot, ids, len(rows))
            return self._put(snapshot, rows, added, labels, metadata, payloads, gone)

    def remove(self, ids: Values) -> int:
        """Forget items, and give back how many. Their ids are not handed out again.

        An id given twice counts once.

        Raises:
            InputError: an id that is not stored, or it could not be written; then nothing is
                removed.
        """
        with self._live.writing() as snapshot:
            gone = np.unique(rows_of_all(snapshot, ids))
            if len(gone):
                self._live.commit(class_names=snapshot.class_names, removed=gone)
            return len(gone)

    def clear(self) -> int:
        """Forget all items, and give back how many. Dimension and class names stay."""
        with self._live.writing() as snapshot:
            if len(snapshot):
                everything = np.arange(len(snapshot))
                self._live.commit(class_names=snapshot.class_names, removed=everything)
            return len(snapshot)

    def relabel(self, ids: Values, labels: Values) -> int:
        """Give items other labels, and give back how many were asked for.

        Args:
            ids: of stored items.
            labels: one per id, as in `add`; of an id given twice the last counts.

        Raises:
            InputError: an id that is not stored, wrong labels, or it could not be written; then
                nothing is changed.
        """
        with self._live.writing() as snapshot:
            rows = rows_of_all(snapshot, ids)
            codes, names = codes_of(snapshot, labels, len(rows))
            last = dict(zip(rows.tolist(), codes, strict=True))
            if last:
                changed = np.array(list(last), dtype=np.int64)
                given = np.array(list(last.values()), dtype=np.int64)
                self._live.commit(class_names=names, changed=changed, labels=given)
            return len(rows)

    def get(self, ids: Values) -> Items:
        """What is stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
            GalleryError: what is stored is damaged.
        """
        with self._live.reading() as snapshot:
            rows = rows_of_all(snapshot, ids)
            return Items(
                ids=snapshot.ids_at(rows),
                embeddings=unpack(snapshot.packed[rows]),
                labels=snapshot.labels[rows],
                metadata=self._live.store.metadata(snapshot.positions[rows]),
            )

    def metadata(self, ids: Values) -> list[dict[str, Any]]:
        """The metadata stored under each of `ids`, in their order; raises as `get`."""
        with self._live.reading() as snapshot:
            positions = snapshot.positions[rows_of_all(snapshot, ids)]
            return self._live.store.metadata(positions)

    def column(self, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """What each item's metadata has under a key, None without, and the labels.

        As `Index.column`; the first time reads the metadata of all items.
        """
        with self._live.reading() as snapshot:
            column = self._columns.setdefault(key, Column(key))
            return column.of(snapshot, self._live.store.metadata_at), snapshot.labels

    def payloads(self, ids: Values) -> list[bytes | None]:
        """The payload stored under each of `ids`, in their order; raises as `get`."""
        with self._live.reading() as snapshot:
            positions = snapshot.positions[rows_of_all(snapshot, ids)]
            return self._live.store.parts("payload", positions.tolist())

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
            k: how many; at most `len(self)`.
            where: which items may be found, by their metadata: a value for each key, a list of
                values, or operators, such as `{"camera": "front", "year": {">=": 2000}}`.
                Operators are `==`, `in`, `<`, `<=`, `>` and `>=`; numbers compare with numbers,
                strings with strings. `{"or": [...]}`, `{"and": [...]}` and `{"not": {...}}` hold
                further dicts. Where fewer than k items pass, rows are padded.

        Raises:
            InputError: the gallery is empty, k is larger than it, queries of another dimension
                or not finite, a key in `where` that no item has, an operator that does not exist.
            InputTypeError: `where` is not a mapping with strings for keys, or JSON cannot hold it.
            GalleryError: the gallery is closed, or what another process wrote is damaged.
        """
        started = time.perf_counter()
        if where is None:
            snapshot, allowed = self._live.newest(), None
        else:
            condition = parsed(where)
            with self._live.reading() as snapshot:
                check_filled(len(snapshot))
                texts = self._live.store.metadata_at
                allowed = torch.from_numpy(self._filters.mask(snapshot, condition, texts))
        check_filled(len(snapshot))
        asked = checked_embeddings(queries, "queries", snapshot)
        check_k(k, len(snapshot))
        distances, rows = snapshot.search.nearest(asked, snapshot.packed, k, allowed)
        labels = torch.where(rows < 0, -1, snapshot.labels[rows])
        self._seconds.append(time.perf_counter() - started)
        return Neighbors(snapshot.ids_at(rows.numpy()), distances, labels)

    def summary(self) -> Summary:
        """What the gallery holds and how long recent lookups took."""
        snapshot = self._live.newest()
        return Summary(
            items=len(snapshot),
            **per_class(snapshot.labels, snapshot.class_names),
            dimension=snapshot.facts.dimension,
            distance=snapshot.facts.distance,
            encoder=snapshot.facts.encoder,
            search=snapshot.search.kind,
            measured_recall=snapshot.search.measured_recall,
            bytes=sum(file.stat().st_size for file in self.path.iterdir()),
            lookup_seconds=percentiles(self._seconds),
            storage=snapshot.facts.storage,
            batches=snapshot.facts.batches,
        )

    def wait(self) -> None:
        """Return when the approximate index, if one is being trained, is in use."""
        self._live.newest().search.wait()

    def backup(self, path: str | Path) -> Path:
        """Copy the gallery as of now into a new folder, while it is in use; gives that back.

        Raises GalleryError where the folder is there already or cannot be written.
        """
        self._live.newest()
        return backup(self.path, Path(path))

    def compact(self) -> None:
        """Give space that removed items left back to the disk.

        Raises GalleryError where there is no room for the copy that this takes.
        """
        with self._live.writing():
            self._live.compact()

    def merge(self, other: "Gallery", *, on_conflict: str | None = None) -> int:
        """Take in the items of another gallery in one step, and give back how many came.

        Labels meet by class name; where neither gallery has names, by code.

        Args:
            other: of the same distance, dimension, encoder and kind of ids.
            on_conflict: where an id is in both, "keep" the item that is here or "replace" it;
                without, refuse.

        Raises:
            InputError: the galleries do not fit together, or an id is in both.
            GalleryError: it could not be written; then nothing came.
        """
        with self._live.writing() as here, other._live.reading() as there:
            return merge(self._live, here, other._live.store, there, on_conflict)

    def _put(
        self,
        snapshot: Snapshot,
        embeddings: Tensor,
        given: Given,
        labels: Values | None,
        metadata: Sequence[Mapping[str, Any]] | None,
        payloads: Sequence[bytes | None] | None,
        gone: Integers,
    ) -> np.ndarray[Any, Any]:
        codes, names = codes_of(snapshot, labels, len(given.ids))
        texts = [
            None if text == "{}" else text for text in metadata_texts(metadata, len(given.ids))
        ]
        parts = checked_payloads(payloads, len(given.ids))
        check_text(names[len(snapshot.class_names) :])
        if not given.ids:
            return np.empty(0, dtype=np.int64)
        packed = pack(embeddings, snapshot.facts.storage)
        added = Additions(given.ids, chunk_of(snapshot, given, codes, packed), texts, parts)
        given_back = np.array(given.ids)  # what may fail comes before the commit
        self._live.commit(class_names=names, added=added, removed=gone)
        return given_back
