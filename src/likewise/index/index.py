"""Known items by stable ids, and the nearest of them to any query, over any store."""

import base64
import binascii
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_choice, check_count
from likewise.distances import COSINE, Distance
from likewise.errors import InputError, InputTypeError
from likewise.index._answers import (
    Items,
    Neighbors,
    SearchedBy,
    Summary,
    per_class,
    percentiles,
)
from likewise.index._durable.checksums import Integers
from likewise.index._given import (
    LARGEST_ID,
    Emptied,
    Rows,
    Values,
    Where,
    check_class_names,
    check_distance,
    checked_payloads,
    checked_rows,
    codes_of,
    ids_to_add,
    ids_to_put,
    metadata_texts,
    prints_of,
    rows_of_all,
)
from likewise.index._in_memory import InMemory
from likewise.index._searching.storage import STORAGES, pack
from likewise.index._store import NONE, Added, Given, Known, Store, View
from likewise.index._where import parsed

Self = TypeVar("Self", bound="Index")
KINDS_OF = ("storage", "recall", "approximate")  # what a state may leave out


class Index:
    """Labeled embeddings by stable ids, and the nearest of them to any query.

    `Index(...)` keeps them in memory, `Gallery(path)` in a folder that lasts, and
    `MilvusGallery(uri, collection=...)` in Milvus; all have the verbs of this class.

    Items stand in order of insertion. Every call either does all that it was asked to, or
    raises and changes nothing. The dimension is set by the first items and stays; embeddings
    of another encoder belong into another index.

    Any number of threads may read and write one index. Each call reads the items as of one moment;
    writers take turns. To read several attributes of an index in memory as of one moment, use
    `state()` or a `copy.copy(index)`, which shares memory with the index but changes alone. After
    a fork both processes have such an index each; fork while no other thread uses it.

    Args:
        distance: what "near" means. COSINE, EUCLIDEAN, SQUARED_EUCLIDEAN and INNER_PRODUCT are
            searched by matrix products, MANHATTAN by FAISS, any other by its own `matrix`, in
            chunks. Either way the answers are those of a full sort by its `paired`.
        class_names: names of label codes 0, 1, … where they are fixed beforehand, as a
            dataset's are. Names seen for the first time in `add` go behind them.
        recall: the share of the true nearest that a lookup shall find, such as 0.99: from
            50,000 items on they are then searched by an approximate index, which is trained in
            the background and never returns what was removed. Without, always exact.
        approximate: Kind of approximate index: "IVF", lists by nearest center with 8 bits a
            number; "RaBitQ", such lists with about 4 bits; or "HNSW", a graph, which takes longest
            to train and finds soonest.
        storage: "float32", or "float16" or "int8" for half or about a quarter of the memory;
            then embeddings come back, and are compared, as rounded to that.

    Example:
        >>> import torch
        >>> index = Index()
        >>> index.add(torch.eye(3), labels=["cat", "dog", "cat"])
        array([0, 1, 2])
        >>> found = index.lookup(torch.tensor([[1.0, 0.1, 0.0]]), k=2)
        >>> found.ids
        array([[0, 1]])
        >>> [index.class_names[label] for label in found.labels[0]]
        ['cat', 'dog']
    """

    def __init__(
        self,
        distance: Distance = COSINE,
        *,
        class_names: Sequence[str] = (),
        recall: float | None = None,
        approximate: str = "IVF",
        storage: str = "float32",
    ) -> None:
        check_distance(distance)
        check_class_names(class_names)
        check_choice("storage", storage, STORAGES)
        self._start(
            InMemory(distance, class_names, recall=recall, approximate=approximate, storage=storage)
        )

    def _start(self, store: Store[Any]) -> None:
        self._store = store
        self._seconds: deque[float] = deque(maxlen=1000)  # of recent lookups

    def close(self) -> None:
        """Give back files or a connection. Nothing is lost without it.

        The folder of a gallery stays locked until then; and a writer of many items leaves a file
        that the next opening maps instead of reading rows.
        """
        self._store.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __copy__(self) -> "Index":
        return self._copied(deep=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Index":
        return self._copied(deep=True)

    def __len__(self) -> int:
        return len(self._store.newest())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store.shown})"

    @property
    def distance(self) -> Distance:
        """What "near" means."""
        return self._store.distance

    @property
    def recall(self) -> float | None:
        """The share of the true nearest that a lookup shall find; None for exact."""
        return self._store.recall

    @property
    def approximate(self) -> str:
        """Kind of approximate index, where a recall is given."""
        return self._store.approximate

    @property
    def storage(self) -> str:
        """How embeddings are kept."""
        return self._store.facts.storage

    @property
    def encoder(self) -> str | None:
        """Which encoder the embeddings are from, as a gallery was told; None in memory."""
        return self._store.facts.encoder

    @property
    def key(self) -> str:
        """Random text by which a gallery and copies of it are known; empty in memory."""
        return self._store.facts.key

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first item."""
        dimension: int | None = self._store.newest().facts.dimension
        return dimension

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Ids in order of insertion, int64 or strings, (n,)."""
        ids: np.ndarray[Any, Any] = self._store.newest().ids
        return ids

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32. Shared memory: read, do not write."""
        embeddings: Tensor = self._store.newest().embeddings
        return embeddings

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion, -1 unlabeled. Shared memory: read, do not write."""
        labels: Tensor = self._store.newest().labels
        return labels

    @property
    def class_names(self) -> list[str]:
        """The name of each label code; empty where labels are plain integers."""
        return list(self._store.newest().class_names)

    def add(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        labels: Values | None = None,
        ids: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, and give back their ids; in a gallery they are then on disk.

        Args:
            embeddings: (n, d) or a single vector (d,), of floating point: a tensor, a NumPy array
                (memory-mapped too) or lists of numbers. Kept as float32 on the CPU.
            labels: one per item: codes >= 0, -1 for unlabeled, or class names (None for
                unlabeled). Without, no item has a label.
            ids: one per item, new and distinct: integers >= 0, or non-empty strings, the same
                kind throughout the index. Without, the next integers above all ever used.
            metadata: one dict per item, of what JSON can hold; given back as JSON has it, so
                a tuple comes back as a list. Without, empty ones. An integer of 64 bits under
                "fingerprint" is found again fast, see `fingerprints`. In Milvus at most 65,535
                bytes and 4,096 keys.
            payloads: bytes that belong to each item, such as a thumbnail, or None. In Milvus at
                most 49,149 bytes.

        Returns:
            The ids, (n,).

        Raises:
            InputError: wrong shapes or numbers of things, NaN or infinity, another dimension
                than the stored items have, an id that is taken, a label without a name.
            InputTypeError: ids or labels of mixed or other kinds, metadata that JSON cannot hold,
                payloads that are not bytes.
            GalleryError: it could not be written; then nothing was. (Milvus takes messages of
                16 MB; where the line breaks between two of them, `add` takes back what it
                stored, as far as it can, and `upsert` and `relabel` must be called again.)
        """
        with self._store.writing() as now:
            rows = checked_rows("embeddings", embeddings, now.facts.dimension)
            given = ids_to_add(now, ids, len(rows))
            return self._put(now, rows, given, labels, metadata, payloads, NONE)

    def reserve(self, count: int) -> None:
        """Make room for `count` items in all, where it is known before they are added in parts.

        Adding beyond the room copies what is there, which for a moment takes its memory twice;
        within it nothing is copied. Removing items gives the room back.

        Raises:
            MemoryError: there is less memory.

        Example:
            >>> import torch
            >>> index = Index()
            >>> index.reserve(30)
            >>> for part in torch.randn(3, 10, 8):
            ...     _ = index.add(part)
            >>> len(index)
            30
        """
        check_count("count", count)
        self._store.reserve(count)

    def upsert(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        ids: Values,
        labels: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
    ) -> np.ndarray[Any, Any]:
        """Store items, in place of those that have their ids; arguments and errors as in `add`.

        A replaced item keeps nothing of what it was, and stands behind all others.

        Example:
            >>> import torch
            >>> index = Index()
            >>> _ = index.add(torch.eye(2), ids=["a", "b"], labels=[0, 1])
            >>> index.upsert(torch.ones(2, 2), ids=["a", "c"], labels=[5, 6]).tolist()
            ['a', 'c']
            >>> index.ids.tolist(), index.labels.tolist()
            (['b', 'a', 'c'], [1, 5, 6])
        """
        with self._store.writing() as now:
            rows = checked_rows("embeddings", embeddings, now.facts.dimension)
            given, gone = ids_to_put(now, ids, len(rows))
            return self._put(now, rows, given, labels, metadata, payloads, gone)

    def replace(
        self,
        embeddings: Float[Tensor, "n d"] | Rows,
        *,
        labels: Values | None = None,
        ids: Values | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        payloads: Sequence[bytes | None] | None = None,
        class_names: Sequence[str] = (),
    ) -> np.ndarray[Any, Any]:
        """Store items in place of all that are there, in one step, and give back their ids.

        Whoever looks meanwhile finds all old or all new items; in Milvus, for a moment, both.
        Arguments and errors are as in `add`. Ids may be those of items that go.

        Args:
            embeddings: Rows as `add` takes them, of the same dimension as before.
            labels: Labels as `add` takes them.
            ids: Ids as `add` takes them, but of either kind.
            metadata: Metadata as `add` takes it.
            payloads: Payloads as `add` takes them.
            class_names: names of label codes 0, 1, … from now on. Other names in `labels` go
                behind them.

        Example:
            >>> import torch
            >>> index = Index()
            >>> _ = index.add(torch.eye(2), labels=["cat", "dog"])
            >>> index.replace(torch.eye(2)[:1], labels=["owl"]).tolist()
            [2]
            >>> index.ids.tolist(), index.class_names
            ([2], ['owl'])
        """
        check_class_names(class_names)
        with self._store.writing() as now:
            rows = checked_rows("embeddings", embeddings, now.facts.dimension)
            emptied = Emptied(now, class_names)
            given = ids_to_add(emptied, ids, len(rows))
            gone = now.rows()
            return self._put(now, rows, given, labels, metadata, payloads, gone, among=emptied)

    def relabel(self, ids: Values, labels: Values | None) -> int:
        """Give items other labels, and give back how many were asked for.

        Labels are as in `add`, and None unlabels all; of an id given twice the last counts.

        Raises:
            InputError: an id that is not stored, wrong labels; then nothing is changed.
            GalleryError: it could not be written.
        """
        with self._store.writing() as now:
            rows = rows_of_all(now, ids)
            codes, names = codes_of(now, labels, len(rows))
            last = dict(zip(rows.tolist(), codes.tolist(), strict=True))
            if last:
                changed, new = (np.array(list(part)) for part in (last.keys(), last.values()))
                self._store.commit(now, class_names=names, changed=changed, labels=new)
            return len(rows)

    def name_classes(self, class_names: Sequence[str]) -> bool:
        """Name label codes 0, 1, … anew while there is no item; whether there was none.

        Raises:
            InputError: two names are alike; then nothing is changed.

        Example:
            >>> import torch
            >>> index = Index()
            >>> index.name_classes(["cat", "dog"])
            True
            >>> _ = index.add(torch.eye(2), labels=["dog", "cat"])
            >>> index.labels.tolist(), index.name_classes(["dog", "cat"])
            ([1, 0], False)
        """
        check_class_names(class_names)
        with self._store.writing() as now:
            is_free = not len(now)
            if is_free and list(class_names) != list(now.class_names):
                self._store.commit(now, class_names=tuple(class_names))
            return is_free

    def remove(self, ids: Values) -> int:
        """Forget items, and give back how many. Their ids are not handed out again.

        An id given twice counts once.

        Raises:
            InputError: an id that is not stored; then nothing is removed.
            GalleryError: it could not be written.
        """
        with self._store.writing() as now:
            gone = np.unique(rows_of_all(now, ids))
            if len(gone):
                self._store.commit(now, class_names=now.class_names, removed=gone)
            return len(gone)

    def clear(self) -> int:
        """Forget all items, and give back how many. Dimension and class names stay."""
        with self._store.writing() as now:
            count = len(now)
            if count:
                self._store.clear(now)
            return count

    def get(self, ids: Values) -> Items:
        """What is stored under each of `ids`, in their order.

        Raises:
            InputError: an id that is not stored.
            GalleryError: what is stored is damaged, or Milvus does not answer.
        """
        with self._store.reading() as now:
            return self._store.items(now, rows_of_all(now, ids))

    def metadata(self, ids: Values) -> list[dict[str, Any]]:
        """The metadata stored under each of `ids`, in their order; raises as `get`."""
        with self._store.reading() as now:
            return self._store.metadata(now, rows_of_all(now, ids))

    def payloads(self, ids: Values) -> list[bytes | None]:
        """The payload stored under each of `ids`, in their order; raises as `get`."""
        with self._store.reading() as now:
            return self._store.payloads(now, rows_of_all(now, ids))

    def column(self, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """What each item's metadata has under a key, None without, and the labels.

        Both in order of insertion, as of one moment. Values are kept, so that asking again reads
        only the metadata of items that came since; Milvus is asked for all each time.

        Example:
            >>> import torch
            >>> index = Index()
            >>> _ = index.add(torch.eye(2), labels=[3, 4], metadata=[{"year": 1999}, {}])
            >>> index.column("year")
            ([1999, None], tensor([3, 4]))
        """
        if not isinstance(key, str):
            raise InputTypeError(f"key must be text, got {key!r}.")
        with self._store.reading() as now:
            return self._store.column(now, key)

    def fingerprints(self) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"], Int[Tensor, " n"]]:
        """The fingerprint in each item's metadata, whether there is one, and the labels.

        All in order of insertion, as of one moment. They are kept as numbers, so nothing is read
        (but of Milvus, which is asked for all). Shared memory: read, do not write.

        Example:
            >>> import torch
            >>> index = Index()
            >>> _ = index.add(torch.eye(2), labels=[3, 4], metadata=[{"fingerprint": 7}, {}])
            >>> index.fingerprints()
            (tensor([7, 0]), tensor([ True, False]), tensor([3, 4]))
        """
        now = self._store.newest()
        prints = torch.from_numpy(now.fingerprints)
        return prints[:, 0], prints[:, 1] > 0, now.labels

    @torch.no_grad()
    def lookup(
        self, queries: Float[Tensor, "q d"] | Rows, *, k: int = 5, where: Where | None = None
    ) -> Neighbors:
        """The k nearest stored items of each query.

        Distances are those of `distance.paired`, whatever found the items: equal vectors are
        exactly 0 apart in Euclidean distance, and thresholds hold for every way of searching.
        The query is the first argument of the distance, the item the second.

        Args:
            queries: embeddings from the same encoder, (q, d) or (d,), as in `add`.
            k: how many; at most `len(self)`, and at most 16,384 in Milvus.
            where: which items may be found, by their metadata: a value for each key, a list of
                values, or operators, such as `{"camera": "front", "year": {">=": 2000}}`.
                Operators are `==`, `in`, `<`, `<=`, `>` and `>=`; numbers compare with numbers,
                strings with strings. `{"or": [...]}`, `{"and": [...]}` and `{"not": {...}}` hold
                further dicts. Where fewer than k items pass, rows are padded. In Milvus a range
                fetches the metadata of all items.

        Raises:
            InputError: the index is empty, k is larger than it, queries of another dimension
                or not finite, a key in `where` that no item has, an operator that does not exist.
            InputTypeError: `where` is not a mapping with strings for keys, or JSON cannot hold it.
            GalleryError: a gallery is closed, damaged, or Milvus does not answer.

        Example:
            >>> import torch
            >>> from likewise.distances import EUCLIDEAN
            >>> index = Index(EUCLIDEAN)
            >>> _ = index.add(torch.tensor([[0.0], [3.0]]), labels=[7, 8], ids=["a", "b"])
            >>> found = index.lookup(torch.tensor([[1.0]]), k=2)
            >>> found.ids.tolist(), found.distances.tolist(), found.labels.tolist()
            ([['a', 'b']], [[1.0, 2.0]], [[7, 8]])
            >>> _ = index.upsert([[0.0], [3.0]], ids=["a", "b"], metadata=[{"year": 1999}, {}])
            >>> index.lookup([1.0], k=2, where={"year": {">=": 1990, "<": 2000}}).ids.tolist()
            [['a', '']]
        """
        started = time.perf_counter()
        now, allowed = self._store.chosen(None if where is None else parsed(where))
        asked = checked_rows("queries", queries, now.facts.dimension)
        check_count("k", k)
        ids, distances, labels = now.nearest(asked, k, allowed)
        self._seconds.append(time.perf_counter() - started)
        return Neighbors(ids, distances, labels, now.class_names, self)

    def summary(self) -> Summary:
        """What the index holds, how it searches and how long recent lookups took, in numbers."""
        now = self._store.newest()
        labels, (search, recall) = now.labels, now.search
        return Summary(
            items=len(labels),
            **per_class(labels, now.class_names),
            dimension=now.facts.dimension,
            distance=now.facts.distance,
            encoder=now.facts.encoder,
            search=search,
            measured_recall=recall,
            bytes=self._store.bytes(now),
            lookup_seconds=percentiles(self._seconds),
            storage=now.facts.storage,
            batches=now.facts.batches,
        )

    @property
    def searched_by(self) -> SearchedBy:
        """How lookups search now: exactly, or approximately with the recall measured.

        Example:
            >>> str(Index().searched_by)
            'exact search'
        """
        return SearchedBy(*self._store.newest().search)

    def wait(self) -> None:
        """Train the approximate index, if the items ask for it; then no answer depends on timing.

        Without `recall`, and with fewer than 50,000 items, there is nothing to train.

        Raises:
            GalleryError: a gallery is closed.
        """
        self._store.settle()

    def state(self) -> dict[str, Any]:
        """Everything but the distance, in plain arrays and lists, to be saved.

        `Index.from_state` is the inverse. Payloads are there, in base64, if any item has one.
        """
        with self._store.reading() as now:
            payloads = self._store.payloads(now)
            state = {
                "embeddings": now.embeddings,
                "labels": now.labels,
                "ids": now.ids,
                "metadata": self._store.metadata(now),
                "next_id": now.facts.next_id,
                "class_names": list(now.class_names),
                "storage": now.facts.storage,
                "recall": self.recall,
                "approximate": self._store.approximate,
            }
        if any(payload is not None for payload in payloads):
            state["payloads"] = [
                None if payload is None else base64.b64encode(payload).decode()
                for payload in payloads
            ]
        return state

    @staticmethod
    def from_state(distance: Distance, state: Mapping[str, Any]) -> "Index":
        """The index that `state` was taken from, in memory.

        Args:
            distance: the one that index was made with.
            state: from `Index.state`; checked as `add` checks, as it may come from a file.

        Raises:
            InputError: a part is missing, or the parts do not fit together.
        """
        parts = {"embeddings", "labels", "ids", "metadata", "next_id", "class_names"}
        if missing := sorted(parts - state.keys()):
            raise InputError(f"state must hold {', '.join(sorted(parts))}, got no {missing[0]}.")
        kind = {name: state[name] for name in KINDS_OF if name in state}
        index = Index(distance, class_names=state["class_names"], **kind)
        store: InMemory = index._store  # type: ignore[assignment]
        embeddings = state["embeddings"]
        if not isinstance(embeddings, Tensor):  # one of an index without a dimension has no columns
            embeddings = checked_rows("embeddings", embeddings, None)
        if len(embeddings):
            given = {name: state[name] for name in ("labels", "ids", "metadata")}
            index.add(embeddings, payloads=_decoded(state.get("payloads")), **given)
        check_count("next_id", state["next_id"], store.facts.next_id)
        if state["next_id"] > LARGEST_ID + 1:
            raise InputError(f"next_id must be at most {LARGEST_ID + 1}, got a larger number.")
        store.go_on(state["next_id"], embeddings.shape[1] or None)
        return index

    def _put(
        self,
        now: View,
        embeddings: Tensor,
        given: Given,
        labels: Values | None,
        metadata: Sequence[Mapping[str, Any]] | None,
        payloads: Sequence[bytes | None] | None,
        gone: Integers,
        among: Known | None = None,
    ) -> np.ndarray[Any, Any]:
        count = len(given.ids)
        codes, names = codes_of(now if among is None else among, labels, count)
        texts = metadata_texts(metadata, count)
        parts = checked_payloads(payloads, count)
        if not count and among is None:
            return given.keys
        added = None
        if count:
            packed = pack(embeddings, now.facts.storage)
            added = Added(given, codes, packed, texts, parts, prints_of(metadata, count))
        # What may fail comes before the commit.
        given_back = np.array(given.ids) if given.are_text else given.keys.copy()
        self._store.commit(now, class_names=names, added=added, removed=gone)
        return given_back

    def _copied(self, *, deep: bool) -> "Index":
        copied = Index.__new__(type(self))
        copied._start(self._store.copied(deep=deep))
        copied._seconds.extend(self._seconds)
        return copied


def _decoded(payloads: Any) -> list[bytes | None] | None:
    """Payloads as `Index.state` has them.

    Raises:
        InputError: one is no base64.
    """
    if payloads is None:
        return None
    try:
        return [
            None if each is None else base64.b64decode(each, validate=True) for each in payloads
        ]
    except (binascii.Error, TypeError, ValueError) as error:
        raise InputError(f"payloads must be base64 or None, got others: {error}.") from error
