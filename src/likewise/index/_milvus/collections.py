"""A gallery's two collections in Milvus: the items, and what is known of them."""

import copy
import importlib
import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise._checks import check_format
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SQUARED_EUCLIDEAN, Distance
from likewise.errors import GalleryError, MissingExtra
from likewise.index._durable.checksums import keys_of
from likewise.index._milvus.options import WAIT, Connection, Layout, is_file
from likewise.index._where import as_json

METRICS: dict[Distance, str] = {
    COSINE: "COSINE",
    EUCLIDEAN: "L2",
    SQUARED_EUCLIDEAN: "L2",
    INNER_PRODUCT: "IP",
}
MOST = 16384  # results of one search or query, and queries of one search
LONGEST = 65535  # bytes of a text
TAGS = 4096  # entries of an array
PARTITION = "partition"  # field whose hash chooses the partition of an item
_AT_ONCE = 2**24  # bytes of one message; Milvus takes 64 MB
_FORMAT = 3
_FACTS = (0, -1)  # keys, which take turns: a write that breaks off leaves the facts before it
_TUNED = -2  # key of how lookups search
# A server that comes back is found soon: by itself gRPC waits up to two minutes.
_SOON = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 2000}
_SHORT = 5.0  # seconds for what is done after a failure
_EVERYTHING, _NOTHING = "position >= 0", "position < 0"  # expressions


@dataclass(frozen=True)
class CollectionFacts:
    """What a gallery is made for, and what must not be forgotten when items go."""

    key: str  # random; by which the gallery is known
    distance: str
    encoder: str | None
    dimension: int | None = None
    kind: str | None = None  # of the ids: "integers" or "strings"
    next_id: int = 0
    next_position: int = 0
    names: int = 0  # of classes
    renamed: int = 0  # how often names were replaced, not only added
    longest: float = 0.0  # the largest norm of an embedding ever stored
    batches: int = 0
    index_type: str = "FLAT"
    index_params: dict[str, Any] = field(default_factory=dict)
    consistency: str = "Strong"
    shards: int | None = None
    partition_by: str | None = None
    format: int = _FORMAT

    @property
    def storage(self) -> str:
        """How embeddings are kept."""
        return "float32"

    @property
    def layout(self) -> Layout:
        """How the collection of items is laid out."""
        return Layout(
            self.index_type, self.index_params, self.consistency, self.shards, self.partition_by
        )


class Collections:
    """Reads and writes both collections; every failure of Milvus is one sentence.

    `<name>_facts` holds the facts at keys 0 and -1, of which the newer count, class names, by code,
    from key 1, and how lookups search at key -2. An item's key is its id, or the hash of a string;
    its position tells the order of insertion.

    Args:
        connection: Where they are.
        name: Name of the collection of items.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection, self.name = connection, name
        self.level = "Strong"  # of consistency, of what is read
        self._facts_name = f"{name}_facts"
        self._milvus = _pymilvus()
        self._errors = (self._milvus.MilvusException, importlib.import_module("grpc").RpcError)
        self._client: Any = None
        self._is_loaded = False
        with self._sentences():
            self._client = self._milvus.MilvusClient(
                uri=connection.uri,
                token=connection.token or "",
                timeout=connection.timeout,
                **{"grpc_options": _SOON, **connection.more},
            )

    @property
    def uri(self) -> str:
        """Where they are."""
        return self.connection.uri

    def read_at(self, level: str) -> "Collections":
        """The same, reading at a level of consistency."""
        same = copy.copy(self)
        same.level = level
        return same

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def facts(self) -> CollectionFacts:
        """What is known of the gallery."""
        with self._sentences() as client:
            if not self._is_loaded:
                client.load_collection(self._facts_name, timeout=self._long)
                self._is_loaded = True
        found = self._query(self._facts_name, f"key in {[*_FACTS]}", ["value"])
        try:
            values = max((json.loads(row["value"]) for row in found), key=_batches_of)
            check_format(f"collection {self.name!r}", values["format"], _FORMAT, GalleryError)
            return CollectionFacts(**values)
        except GalleryError:
            raise
        except (ValueError, TypeError, LookupError) as error:
            raise GalleryError(
                f"collection must be a gallery, got {self.name!r}, whose facts cannot be read: "
                f"{error}. Choose another name."
            ) from error

    def put_facts(self, facts: CollectionFacts) -> None:
        """Remember these in place of those before."""
        with self._sentences():
            self._put_values(_FACTS[facts.batches % 2], [json.dumps(asdict(facts))])

    def tuned(self) -> dict[str, Any] | None:
        """How lookups search, as it was put here; None where it was not, or cannot be read."""
        found = self._query(self._facts_name, f"key == {_TUNED}", ["value"])
        with suppress(ValueError, LookupError):
            values: dict[str, Any] = json.loads(found[0]["value"])
            return values
        return None

    def put_tuned(self, values: Mapping[str, Any]) -> None:
        """Remember how lookups search."""
        with self._sentences():
            self._put_values(_TUNED, [json.dumps(values)])

    def has_facts(self) -> bool:
        """Whether there is a gallery, all of whose beginning was written."""
        with self._sentences() as client:
            if not client.has_collection(self._facts_name):
                return False
            client.load_collection(self._facts_name, timeout=self._long)
        return bool(self._query(self._facts_name, f"key in {[*_FACTS]}", ["key"]))

    def has_begun(self) -> bool:
        """Whether a gallery was begun, be it without facts yet."""
        with self._sentences() as client:
            return bool(client.has_collection(self._facts_name))

    def make_facts(self) -> None:
        """Make the collection of facts, if it is not there."""
        fields = [("key", "INT64"), ("value", "VARCHAR"), ("unused", "FLOAT_VECTOR")]
        with self._sentences() as client:
            if not client.has_collection(self._facts_name):
                self._make(self._facts_name, fields, "unused", 2, "L2", Layout())

    def names(self, count: int) -> list[str]:
        """The first `count` class names."""
        found: dict[int, str] = {}
        for start in range(1, count + 1, MOST):
            stop = min(start + MOST, count + 1)
            expression = f"key >= {start} and key < {stop}"
            rows = self._query(self._facts_name, expression, ["value"], limit=MOST)
            found |= {row["key"]: row["value"] for row in rows}
        return [found[code + 1] for code in range(count)]

    def put_names(self, first: int, names: Sequence[str]) -> None:
        """Remember the names of the codes from `first` on."""
        with self._sentences():
            for start in range(0, len(names), 100):
                self._put_values(1 + first + start, names[start : start + 100])

    def make_items(self, dimension: int, metric: str, layout: Layout) -> None:
        """Make the empty collection of items, in place of one that was not begun to be used."""
        fields = [
            ("key", "INT64"),
            ("position", "INT64"),
            ("label", "INT64"),
            ("text", "VARCHAR"),  # the id, if it is a string
            ("metadata", "VARCHAR"),  # as JSON, exactly as it was
            ("tags", "ARRAY"),  # hashes of its keys with their values, which filters ask for
            ("payload", "VARCHAR"),
            ("embedding", "FLOAT_VECTOR"),
        ]
        if layout.partition_by is not None:
            fields.append((PARTITION, "INT64"))
        with self._sentences() as client:
            if client.has_collection(self.name):
                client.drop_collection(self.name)
            # Milvus knows no vectors of one number.
            self._make(self.name, fields, "embedding", max(2, dimension), metric, layout)

    def has_items(self) -> bool:
        """Whether there is a collection of items, which is then ready for use."""
        with self._sentences() as client:
            is_there = bool(client.has_collection(self.name))
            if is_there:
                client.load_collection(self.name, timeout=self._long)
            return is_there

    def reindex(self, metric: str, layout: Layout) -> None:
        """Build another index of the embeddings, in place of the one that is there."""
        with self._sentences() as client:
            client.release_collection(self.name)
            for name in self._client.list_indexes(self.name, field_name="embedding"):
                client.drop_index(self.name, name)
            self._index("embedding", metric, layout)
            client.load_collection(self.name, timeout=self._long)

    def settle(self) -> None:
        """Return when all items are in the index, and that is loaded."""
        with self._sentences() as client:
            client.flush(self.name, timeout=self._long)
            end = time.monotonic() + self._long
            while self._pending():
                if time.monotonic() > end:
                    raise GalleryError(
                        f"index must be built within {self._long:g} seconds, got one that is not. "
                        "Wait again, or give a longer timeout."
                    )
                time.sleep(0.2)
            # What is searched follows what is built.
            client.load_collection(self.name, timeout=self._long)
            if not is_file(self.uri):  # Milvus Lite loads at once, and never says so
                self._client.refresh_load(self.name, timeout=self._long)

    def count(self, expression: str = "") -> int:
        """How many items there are."""
        return int(self._query(self.name, expression, ["count(*)"])[0]["count(*)"])

    def put(self, rows: Sequence[dict[str, Any]], *, replace: bool) -> None:
        """Store rows; with `replace` also over those that have their keys.

        Where a server misplaces what is upserted, those are removed first, message by message.
        """
        bytes_of = [4 * len(r["embedding"]) + len(r["metadata"]) + len(r["payload"]) for r in rows]
        parts = np.cumsum([size + 100 for size in bytes_of]) // _AT_ONCE
        is_apart = replace and bool(rows) and PARTITION in rows[0] and self._misplaces
        with self._sentences() as client:
            # To repeat an insert of which nothing was heard could store its items twice.
            once = partial(client.insert, timeout=None, retry_times=0)
            write = client.upsert if replace and not is_apart else once
            for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(parts)) + 1):
                if is_apart:
                    self.remove([rows[at]["key"] for at in part])
                write(self.name, [rows[at] for at in part])

    def remove(self, keys: Sequence[int], *, soon: bool = False) -> None:
        """Forget the items of these keys; `soon` gives up soon where nothing answers."""
        timeout = min(_SHORT, self.connection.timeout) if soon else self.connection.timeout
        with self._sentences() as client:
            for expression in _among(keys):
                client.delete(self.name, filter=expression, timeout=timeout)

    def rows(self, keys: Sequence[int], fields: Sequence[str]) -> dict[int, dict[str, Any]]:
        """What is stored, by key; keys that are not there are left out."""
        found: dict[int, dict[str, Any]] = {}
        for expression in _among(keys):
            rows = self._query(self.name, expression, fields)
            found |= {row["key"]: row for row in rows}
        return found

    def everything(self, fields: Sequence[str], facts: CollectionFacts) -> list[dict[str, Any]]:
        """All rows, in the order of insertion."""
        return [row for rows in self.windows(fields, facts) for row in rows]

    def windows(
        self, fields: Sequence[str], facts: CollectionFacts
    ) -> Iterator[list[dict[str, Any]]]:
        """All rows, in the order of insertion, some thousands at a time."""
        step = max(1, min(MOST, _AT_ONCE // (4 * (facts.dimension or 1))))
        for start in range(0, facts.next_position, step):
            yield self._window(start, start + step, ["position", *fields])

    def at(self, positions: Sequence[int], fields: Sequence[str]) -> list[dict[str, Any]]:
        """The rows at these positions, of those that are there."""
        return self._query(self.name, f"position in {[*positions]}", fields, limit=MOST)

    def nearest(
        self,
        queries: npt.NDArray[np.float32],
        fields: Sequence[str],
        count: int,
        expression: str,
        params: Mapping[str, Any],
    ) -> list[list[dict[str, Any]]]:
        """For each query the `count` rows that Milvus finds nearest, nearest first."""
        with self._sentences() as client:
            found = client.search(
                self.name,
                data=list(queries),
                anns_field="embedding",
                limit=count,
                filter=expression,
                output_fields=[*fields],
                search_params={"params": dict(params)},
                consistency_level=self.level,
            )
            # A server before 2.4 does not tell what the key is called, and pymilvus says "id".
            return [[{"key": _key_of(hit), **hit["entity"]} for hit in hits] for hits in found]

    def _window(self, start: int, stop: int, fields: Sequence[str]) -> list[dict[str, Any]]:
        expression = f"position >= {start} and position < {stop}"
        rows = self._query(self.name, expression, fields, limit=MOST)
        if len(rows) == MOST and stop - start > 1:  # several writers gave out these positions
            middle = (start + stop) // 2
            return self._window(start, middle, fields) + self._window(middle, stop, fields)
        return sorted(rows, key=lambda row: (row["position"], row["key"]))

    def _put_values(self, first: int, values: Sequence[str]) -> None:
        rows = [
            {"key": key, "value": value, "unused": [0.0, 0.0]}
            for key, value in enumerate(values, first)
        ]
        self._client.upsert(self._facts_name, rows, timeout=self.connection.timeout)

    def _query(
        self, name: str, expression: str, fields: Sequence[str], **more: Any
    ) -> list[dict[str, Any]]:
        with self._sentences() as client:
            rows: list[dict[str, Any]] = client.query(
                name,
                filter=expression,
                output_fields=[*fields],
                consistency_level=self.level,
                **more,
            )
            return rows

    @cached_property
    def _misplaces(self) -> bool:
        """Whether an upsert puts items into partitions where no lookup seeks them."""
        with self._sentences() as client:
            told = re.search(r"(\d+)\.(\d+)", str(client.get_server_version()))
        # Below 2.4 it is hashed by its id instead: github.com/milvus-io/milvus/issues/30607.
        return told is None or (int(told[1]), int(told[2])) < (2, 4)

    @property
    def _long(self) -> float:
        return max(WAIT, self.connection.timeout)

    def _pending(self) -> bool:
        """Whether an index of the embeddings is still being built."""
        told = [
            self._client.describe_index(self.name, index_name=name, timeout=self.connection.timeout)
            for name in self._client.list_indexes(self.name, field_name="embedding")
        ]
        return any(int(one.get("pending_index_rows") or 0) > 0 for one in told)

    def _make(
        self,
        name: str,
        fields: Sequence[tuple[str, str]],
        vector: str,
        dimension: int,
        metric: str,
        layout: Layout,
    ) -> None:
        types = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        of_kind: dict[str, dict[str, Any]] = {
            "INT64": {},
            "VARCHAR": {"max_length": LONGEST},
            "ARRAY": {"element_type": types.INT64, "max_capacity": TAGS},
            "FLOAT_VECTOR": {"dim": dimension},
        }
        for each, kind in fields:
            place = {"is_primary": each == "key", "is_partition_key": each == PARTITION}
            schema.add_field(each, types[kind], **place, **of_kind[kind])
        more = {} if layout.shards is None else {"num_shards": layout.shards}
        level = layout.consistency or "Strong"  # seen by whoever asks next, as in other stores
        client = _Asking(self._client, self.connection.timeout)
        client.create_collection(name, schema=schema, consistency_level=level, **more)
        try:
            self._index(vector, metric, layout, of=name)
            for each, index in (("position", "STL_SORT"), ("tags", "INVERTED")):
                if each in dict(fields):
                    self._index_of_values(name, each, index)
            client.load_collection(name, timeout=self._long)
        except self._errors:  # a refused index leaves no half of a collection
            with suppress(*self._errors):
                client.drop_collection(name)
            raise

    def _index(self, vector: str, metric: str, layout: Layout, of: str | None = None) -> None:
        indexes = self._client.prepare_index_params()
        indexes.add_index(
            vector,
            index_type=layout.index_type or "FLAT",
            metric_type=metric,
            params=layout.built_with(),
        )
        # There is nothing to wait for: the collection is empty, or `settle` waits.
        timeout = self.connection.timeout
        self._client.create_index(of or self.name, indexes, sync=False, timeout=timeout)

    def _index_of_values(self, name: str, values: str, index_type: str) -> None:
        """So that filters look at few rows; a server that has no such index looks at all."""
        indexes = self._client.prepare_index_params()
        indexes.add_index(values, index_type=index_type)
        with suppress(self._milvus.MilvusException):
            timeout = self.connection.timeout
            self._client.create_index(name, indexes, sync=False, timeout=timeout)

    @contextmanager
    def _sentences(self) -> Iterator[Any]:
        try:
            yield None if self._client is None else _Asking(self._client, self.connection.timeout)
        except self._errors as error:
            raise GalleryError(
                f"uri must lead to a Milvus server that does what it is asked, got {self.uri!r}: "
                f"{_words_of(error)}. Look whether the server runs and uri and token are right."
            ) from error


class _Asking:
    """A client of Milvus whose every call has a timeout, if it is not given another."""

    def __init__(self, client: Any, timeout: float) -> None:
        self._client, self._timeout = client, timeout

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(getattr(self._client, name), timeout=self._timeout)


def _batches_of(values: Any) -> int:
    return int(values["batches"])


def _key_of(hit: Mapping[str, Any]) -> int:
    return int(hit["key"] if "key" in hit else hit["id"])


def _words_of(error: Any) -> str:
    """What the server or the line says of itself, on one line."""
    told = getattr(error, "message", None)
    if told is None:  # an error of gRPC
        told = f"{error.code().name}, {error.details()}" if hasattr(error, "code") else str(error)
    return " ".join(str(told).split()).rstrip(".")


def tags_of(values: Mapping[str, str]) -> list[int]:
    """One number of 64 bits per key with its value as JSON."""
    return [tag for key, value in values.items() for tag in _tags(key, [value])]


def filter_of_tags(key: str, values: Sequence[str]) -> str:
    """The expression that leaves the items which have one of the values, given as JSON."""
    return f"array_contains_any(tags, {_tags(key, values)})" if values else _NOTHING


def partition_of(key: str, values: Mapping[str, Any]) -> int:
    """The number that chooses an item's partition, from its metadata; 0 without the key."""
    return _tags(key, [as_json(values[key])])[0] if key in values else 0


def filter_of_partitions(key: str, values: Collection[str]) -> str:
    """The expression that limits a search to the partitions of these values, given as JSON."""
    return f"{PARTITION} in {_tags(key, sorted(values))}"


def filter_of_parts(word: str, parts: Sequence[str]) -> str:
    """The expression of which all parts, at least one ("or"), or none ("not") must hold."""
    if word == "not":
        return f"not ({parts[0]})"
    if not parts:
        return _EVERYTHING if word == "and" else _NOTHING
    return f" {word} ".join(f"({part})" for part in parts)


def _tags(key: str, values: Sequence[str]) -> list[int]:
    texts = [f"{key}\0{value}".encode() for value in values]
    return [int(tag) for tag in keys_of(texts)]


def _among(keys: Sequence[int]) -> Iterator[str]:
    for start in range(0, len(keys), 1000):
        yield f"key in {[*keys[start : start + 1000]]}"


def _pymilvus() -> Any:
    try:
        pymilvus = importlib.import_module("pymilvus")
        # It writes the traceback of each error, which our sentence tells, to standard error.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        return pymilvus
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"pymilvus must be installed for a gallery in Milvus, got no module {error.name!r}. "
            'Use pip install "likewise[milvus]".'
        ) from error
