"""Items in a collection of Milvus."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import COSINE, Distance, by_name
from likewise.errors import GalleryError, InputError, InputTypeError
from likewise.index._answers import Items
from likewise.index._asked import Asked
from likewise.index._durable.checksums import Integers
from likewise.index._given import (
    check_apart,
    check_enough,
    check_same_text,
    lasting_keys,
    prints_of,
    whole_prints,
)
from likewise.index._milvus.collections import (
    METRICS,
    MOST,
    PARTITION,
    CollectionFacts,
    Collections,
    filter_of_partitions,
    filter_of_parts,
    filter_of_tags,
)
from likewise.index._milvus.options import EXACT, Connection, Layout, Searched
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
from likewise.index._milvus.tuning import Tuned, params_for, tuned
from likewise.index._store import NONE, Added, Found, Given
from likewise.index._where import Condition, Test, as_json, folded, unknown_key


class CollectionView:
    """The items as of the facts that were read; what is asked of it is fetched then.

    Row numbers are given out to the items that were asked for.

    Args:
        facts: Facts of the gallery.
        class_names: likewise.
        collections: where the items are.
        searched: How lookups search, where the caller says so.
        tuned: How they search, where it was measured.
    """

    def __init__(
        self,
        facts: CollectionFacts,
        class_names: Sequence[str],
        collections: Collections,
        searched: Searched,
        tuned: Tuned | None,
    ) -> None:
        self.facts = facts
        self.class_names = tuple(class_names)
        self.collections = collections
        self.keys: list[int] = []  # by row number
        self._searched, self._tuned = searched, tuned

    def __len__(self) -> int:
        return self.count

    @property
    def search(self) -> tuple[str, float | None]:
        """How lookups search, and the recall measured where that is not exact."""
        if self.facts.index_type in EXACT:
            return "exact", None
        params = params_for(self.facts, self._searched, self._tuned, 1)
        told = "".join(f", {name} {value}" for name, value in params.items())
        of = f"{self.facts.index_type} of Milvus{told}"
        if self._tuned is None:
            return f"{of}, not measured", None
        return of, self._tuned.recall

    @cached_property
    def count(self) -> int:
        """How many items there are."""
        return 0 if self.facts.dimension is None else self.collections.count()

    @property
    def ids(self) -> npt.NDArray[Any]:
        """Ids in order of insertion, (n,)."""
        ids = ids_in(self.everything(["text"]))
        ids.flags.writeable = False
        return ids

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32."""
        return embeddings_in(self.everything(["embedding"]), self.facts.dimension or 0)

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion."""
        return labels_in(self.everything(["label"]))

    @property
    def fingerprints(self) -> Integers:
        """The fingerprint of each item, and 1 where it has one, (n, 2)."""
        metadata = [json.loads(row["metadata"]) for row in self.everything(["metadata"])]
        return whole_prints(prints_of(metadata, len(metadata)), len(metadata))

    def rows(self) -> Integers:
        """The row numbers of all items."""
        first = len(self.keys)
        self.keys += [row["key"] for row in self.everything(["text"])]
        return np.arange(first, len(self.keys))

    def has_labels(self) -> bool:
        """Whether any item has one."""
        return self.facts.dimension is not None and self.collections.count("label >= 0") > 0

    def keys_for(self, ids: Sequence[Any]) -> Integers:
        """Ids as numbers of 64 bits, which are the keys of their items."""
        return lasting_keys(ids)

    def rows_of(self, given: Given) -> Integers:
        """The row number of each id, -1 where it is not stored."""
        ids, keys = given.ids, given.keys.tolist()
        rows = np.full(len(ids), -1, dtype=np.int64)
        facts = self.facts
        if not ids or facts.dimension is None or given.are_text != (facts.kind == "strings"):
            return rows
        found = self.collections.rows(keys, ["text"])
        number_of = {key: len(self.keys) + n for n, key in enumerate(found)}
        self.keys += number_of
        there = [at for at, key in enumerate(keys) if key in found]
        rows[there] = [number_of[keys[at]] for at in there]
        if given.are_text:
            texts = [found[keys[at]]["text"] for at in there]
            check_same_text([ids[at] for at in there], texts)
        return rows

    def fetched(self, rows: Integers | None, fields: Sequence[str]) -> list[dict[str, Any]]:
        """These fields of some rows, or of all in order of insertion.

        Raises:
            GalleryError: somebody removed an item meanwhile.
        """
        if rows is None:
            return self.everything(fields)
        keys = [self.keys[row] for row in rows.tolist()]
        found = self.collections.rows(keys, fields) if keys else {}
        if len(found) < len(set(keys)):
            raise GalleryError(
                f"gallery must have one writer at a time, got {self.collections.name!r}, of which "
                "an item was removed while it was read. Read it again."
            )
        return [found[key] for key in keys]

    def everything(self, fields: Sequence[str]) -> list[dict[str, Any]]:
        """All rows, in the order of insertion."""
        if self.facts.dimension is None:
            return []
        return self.collections.everything(fields, self.facts)

    def nearest(self, queries: Float[Tensor, "q d"], k: int, allowed: str) -> Found:
        """The k nearest items of each query, of those that an expression of Milvus leaves."""
        if k > MOST:
            raise InputError(
                f"k must be at most {MOST}, which Milvus finds at once, got {k}. Ask for fewer."
            )
        facts = self.facts
        found = nearest(
            self.collections,
            by_name(facts.distance),
            queries,
            k,
            expression=None if facts.dimension is None else allowed,
            longest=facts.longest,
            has_strings=facts.kind == "strings",
            params=lambda count: params_for(facts, self._searched, self._tuned, count),
        )
        # To count is another question to Milvus, so it is asked only where it may matter.
        if len(queries) == 0 or bool(found[1].isinf().any()):
            check_enough(k, len(self))
        return found


class InMilvus:
    """The facts as they were last read, and the two collections behind them.

    Facts are written before the items that they count, so that no id and no position is given
    out twice, whatever breaks in between.

    Args:
        connection: see `Collections`.
        collection: Collection of the items.
        asked: what the gallery is made for, if it is there, and else shall be.
        layout: How the collection is laid out; likewise.
        searched: How lookups search.
    """

    approximate = "IVF"  # of an index in memory with the items; Milvus has types of its own

    def __init__(
        self,
        connection: Connection,
        collection: str,
        asked: Asked,
        layout: Layout,
        searched: Searched,
    ) -> None:
        self.name = collection
        self._searched = searched
        self._tuned: Tuned | None = None
        self.names: list[str] = []
        self._renamed = -1  # what the names were read at
        self._lock = threading.RLock()
        self._collections: Collections | None = Collections(connection, collection)
        try:
            if not self.collections.has_facts():
                self._begin(asked, layout)
            self.facts = self._refreshed(self.collections)
            _check_layout(layout, self.facts, collection)
            self._tuned = Tuned.of(self.collections.tuned(), self.facts, searched)
            if self.facts.dimension is not None and not self.collections.has_items():
                raise GalleryError(
                    f"collection must be whole, got {collection!r}, of which only "
                    f"{collection + '_facts'!r} is there. Drop that, and add the items again."
                )
            asked.check_is(self.facts, self.names, collection)
            self.distance: Distance = by_name(self.facts.distance)
        except BaseException:
            self.close()
            raise

    @property
    def recall(self) -> float | None:
        """The share of the true nearest that a lookup shall find; None for exact."""
        if self.facts.index_type in EXACT:
            return None
        return self._searched.asked(self._tuned)

    @property
    def shown(self) -> str:
        """Where it is and what it holds, in few words."""
        return f"{self.name!r}, {self.facts.distance}, dimension {self.facts.dimension}"

    @property
    def collections(self) -> Collections:
        """Both, while the gallery is open."""
        if self._collections is None:
            raise GalleryError(
                "gallery must be open, got one that was closed. "
                "Open it again with MilvusGallery(uri, collection=...)."
            )
        return self._collections

    def close(self) -> None:
        """Give the connection back."""
        if self._collections is not None:
            self._collections.close()
            self._collections = None

    def newest(self) -> CollectionView:
        """The newest items, whatever process wrote them, as new as the consistency has it."""
        return self._view(self.collections.read_at(self.facts.consistency))

    @contextmanager
    def reading(self) -> Iterator[CollectionView]:
        """The newest items."""
        yield self.newest()

    @contextmanager
    def writing(self) -> Iterator[CollectionView]:
        """The newest items, which no other thread changes while this lasts."""
        with self._lock:
            yield self._view(self.collections)

    def reindex(self, layout: Layout) -> None:
        """Build another index of the embeddings, in place of the one that is there."""
        with self.writing() as now:
            kept = replace(
                now.facts,
                index_type=layout.index_type or "FLAT",
                index_params=layout.built_with(),
            )
            self._forget_tuned()  # what was measured is of the other index
            if kept.dimension is not None:
                metric = METRICS[self.distance]
                try:
                    self.collections.reindex(metric, kept.layout)
                except GalleryError:
                    with suppress(GalleryError):
                        self.collections.reindex(metric, now.facts.layout)
                    raise
            self._remember(kept, now.class_names)

    def _forget_tuned(self) -> None:
        self.collections.put_tuned({})
        self._tuned = None

    def settle(self) -> None:
        """Return when all items are in the index, and how that is searched is measured."""
        with self._lock:
            now = self._view(self.collections)
            if now.facts.index_type in EXACT or now.facts.dimension is None:
                return
            self.collections.settle()
            if self._tuned is not None and len(now) <= 2 * self._tuned.items:
                return
            found = tuned(self.collections, now.facts, self.distance, self._searched, len(now))
            if found is not None:
                self.collections.put_tuned(found.to_dict())
                self._tuned = found

    def chosen(self, condition: Condition | None) -> tuple[CollectionView, str]:
        """The newest items, and the expression of Milvus that leaves those that pass."""
        now = self.newest()
        if condition is None:
            return now, ""
        check_enough(1, len(now))
        return now, _expression(now, condition)

    def commit(
        self,
        now: CollectionView,
        *,
        class_names: Sequence[str],
        added: Added | None = None,
        removed: Integers = NONE,
        changed: Integers = NONE,
        labels: Integers = NONE,
    ) -> None:
        """Store one batch."""
        check_length("class_names", class_names)
        fields = EVERYTHING if now.facts.partition_by is None else [*EVERYTHING, PARTITION]
        relabeled = [
            {**row, "tags": list(row["tags"]), "label": label}
            for row, label in zip(now.fetched(changed, fields), labels.tolist(), strict=True)
        ]
        gone = {now.keys[row] for row in removed.tolist()}
        if added is None:
            self._remember(now.facts, class_names)
        else:
            self._put(now, added, class_names, is_replacing=len(removed) > 0)
            gone -= set(added.given.keys.tolist())
        if relabeled:
            self.collections.put(relabeled, replace=True)
        if gone:
            self.collections.remove(sorted(gone))

    def reserve(self, count: int) -> None:
        """Milvus keeps the items, so there is no room to make."""

    def clear(self, now: CollectionView) -> None:
        """Forget all items."""
        if now.facts.index_type not in EXACT:
            self._forget_tuned()  # others will come
        self._remember(now.facts, now.class_names)
        dimension = now.facts.dimension or 1
        self.collections.make_items(dimension, METRICS[self.distance], now.facts.layout)

    def items(self, now: CollectionView, rows: Integers) -> Items:
        """What is stored in these rows."""
        found = now.fetched(rows, ["label", "text", "embedding", "metadata"])
        return Items(
            ids=ids_in(found),
            embeddings=embeddings_in(found, now.facts.dimension or 0),
            labels=labels_in(found),
            metadata=[json.loads(row["metadata"]) for row in found],
        )

    def metadata(self, now: CollectionView, rows: Integers | None = None) -> list[dict[str, Any]]:
        """Of these rows, or of all."""
        return [json.loads(row["metadata"]) for row in now.fetched(rows, ["metadata"])]

    def payloads(self, now: CollectionView, rows: Integers | None = None) -> list[bytes | None]:
        """Of these rows, or of all."""
        return [payload_in(row) for row in now.fetched(rows, ["payload"])]

    def column(self, now: CollectionView, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """Values under a key, and the labels."""
        found = now.everything(["metadata", "label"])
        return [json.loads(row["metadata"]).get(key) for row in found], labels_in(found)

    def bytes(self, now: CollectionView) -> int:
        """Of the vectors; Milvus tells no more."""
        return 4 * (now.facts.dimension or 0) * len(now)

    def copied(self, *, deep: bool) -> "InMilvus":
        """No collection can change alone and be the same."""
        raise InputTypeError(
            f"index must be in memory to be copied, got the collection {self.name!r}. "
            "Use Index.from_state(index.distance, index.state())."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputTypeError(
            f"index must be in memory or in a folder to be pickled, got the collection "
            f"{self.name!r}, an open connection. Open it where it is used, with MilvusGallery."
        )

    def _put(
        self, now: CollectionView, added: Added, names: Sequence[str], *, is_replacing: bool
    ) -> None:
        facts, (ids, keys), embeddings = now.facts, added.given, added.packed
        is_text = added.given.are_text
        if is_text:
            check_apart(keys)
        rows = rows_of(added, facts.next_position, facts.partition_by)
        dimension = embeddings.shape[1]
        if facts.dimension is None:
            self.collections.make_items(dimension, METRICS[self.distance], facts.layout)
        after = replace(
            facts,
            dimension=dimension,
            kind="strings" if is_text else "integers",
            next_id=facts.next_id if is_text else max(facts.next_id, int(keys.max()) + 1),
            next_position=facts.next_position + len(ids),
            longest=max(facts.longest, float(torch.linalg.vector_norm(embeddings, dim=1).max())),
        )
        self._remember(after, names)
        try:
            self.collections.put(rows, replace=is_replacing)
        except GalleryError:
            if not is_replacing:
                with suppress(GalleryError):
                    self.collections.remove(keys.tolist(), soon=True)
            raise

    def _remember(self, facts: CollectionFacts, class_names: Sequence[str]) -> None:
        """Write facts of one batch more, and class names that are new."""
        names, kept, renamed = list(class_names), len(self.names), facts.renamed
        if names[:kept] != self.names:
            kept, renamed = 0, facts.renamed + 1
        self.collections.put_names(kept, names[kept:])
        facts = replace(facts, names=len(names), renamed=renamed, batches=facts.batches + 1)
        self.collections.put_facts(facts)
        self.facts, self.names, self._renamed = facts, names, renamed

    def _view(self, collections: Collections) -> CollectionView:
        facts = self._refreshed(collections)
        return CollectionView(facts, self.names, collections, self._searched, self._tuned)

    def _refreshed(self, collections: Collections) -> CollectionFacts:
        """The newest facts, which another process may have written."""
        facts = collections.facts()
        if (facts.names, facts.renamed) != (len(self.names), self._renamed):
            self.names, self._renamed = collections.names(facts.names), facts.renamed
        self.facts = facts
        return facts

    def _begin(self, asked: Asked, layout: Layout) -> None:
        # A beginning that was interrupted has its collection of facts, with none in it.
        has_items = self.collections.has_items()
        if has_items and not self.collections.has_begun():
            raise GalleryError(
                f"collection must be new or a gallery, got {self.name!r}, which is "
                "something else. Choose another name."
            )
        if has_items and self.collections.count():
            raise GalleryError(
                f"collection must be whole, got {self.name!r}, which holds items whose facts are "
                "gone. Drop it and its facts, and add the items again."
            )
        distance, names = asked.distance or COSINE, asked.class_names
        facts = CollectionFacts(
            uuid4().hex,
            distance.name,
            asked.encoder,
            asked.dimension,
            names=len(names),
            index_type=layout.index_type or "FLAT",
            index_params=layout.built_with(),
            consistency=layout.consistency or "Strong",
            shards=layout.shards,
            partition_by=layout.partition_by,
        )
        self.collections.make_facts()
        if asked.dimension is not None:
            self.collections.make_items(asked.dimension, METRICS[distance], facts.layout)
        self.collections.put_names(0, names)
        self.collections.put_facts(facts)


def open_collection(
    connection: Connection, collection: str, asked: Asked, layout: Layout, searched: Searched
) -> InMilvus:
    """The gallery in a collection; a new one where none is.

    Raises:
        InputError: no gallery can be made for what is asked.
        GalleryError: nothing answers, or the gallery was made for something else.
        MissingExtra: pymilvus is not installed.
    """
    if not isinstance(collection, str) or not re.fullmatch(
        r"[A-Za-z_][A-Za-z0-9_]{0,199}", collection
    ):
        raise InputError(
            "collection must be letters, digits and underscores, at most 200, and not begin with "
            f"a digit, got {collection!r}. Milvus takes no others."
        )
    distance = asked.distance
    name = distance.name if isinstance(distance, Distance) else repr(distance)
    asked.check(
        METRICS,
        InputError(
            "distance must be one that Milvus knows, "
            f"{', '.join(known.name for known in METRICS)}, got {name}. Use Gallery for others."
        ),
    )
    check_length("class_names", asked.class_names)
    connection.check()
    layout.check()
    searched.check()
    return InMilvus(connection, collection, asked, layout, searched)


def _check_layout(asked: Layout, facts: CollectionFacts, place: str) -> None:
    """Refuse a gallery that is laid out in another way.

    Raises:
        GalleryError: it is.
    """
    for name, made in vars(facts.layout).items():
        given = getattr(asked, name)
        if given is not None and given != made:
            remedy = "reindex it" if name.startswith("index") else "make another gallery"
            raise GalleryError(
                f"{name} must be {made!r}, as the gallery {place!r} was made with, got {given!r}. "
                f"Leave it out, or {remedy}."
            )


def _expression(now: CollectionView, condition: Condition) -> str:
    """What leaves the items that pass a lookup's `where`, for Milvus to search among.

    Milvus keeps a hash of each key with its value. A range becomes the values in it, for
    which all metadata is fetched. Where the condition fixes what partitions are chosen by, the
    expression names them, and Milvus looks at no others.

    Raises:
        InputError: a key that no item has.
    """
    by = now.facts.partition_by
    needed = _needed(condition, by)
    values: dict[str, dict[str, Any]] | None = None  # key -> value as JSON -> value

    def read() -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for row in now.everything(["metadata"]):
            for key, value in json.loads(row["metadata"]).items():
                found.setdefault(key, {})[as_json(value)] = value
        return found

    def within(expression: str) -> str:
        if by is None or not needed:
            return expression
        return filter_of_parts("and", [filter_of_partitions(by, needed), expression])

    def is_there(expression: str) -> bool:
        cheapest_first = dict.fromkeys([within(expression), expression])
        return any(now.collections.count(each) for each in cheapest_first)

    def of_test(test: Test) -> str:
        nonlocal values
        among = sorted(test.among)
        expression = filter_of_tags(test.key, among)
        if not test.limits and among and is_there(expression):
            return expression
        # Whether any item has the key, no hash tells.
        values = read() if values is None else values
        if test.key not in values:
            raise unknown_key(test.key, set(values))
        there = values[test.key].items()
        return filter_of_tags(test.key, [t for t, value in there if test.holds(value, t)])

    return within(folded(condition, of_test, filter_of_parts))


def _needed(condition: Condition, key: str | None) -> frozenset[str] | None:
    """The values under a key, as JSON, of which an item that passes has one; None for any."""

    def of_test(test: Test) -> frozenset[str] | None:
        return test.among if test.key == key and not test.limits else None

    def join(word: str, parts: list[frozenset[str] | None]) -> frozenset[str] | None:
        told = [part for part in parts if part is not None]
        if word == "and" and told:
            return frozenset.intersection(*told)
        if word == "or" and told and len(told) == len(parts):
            return frozenset.union(*told)
        return None

    return folded(condition, of_test, join)
