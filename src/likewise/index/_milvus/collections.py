"""A gallery's two collections in Milvus: the items, and what is known of them."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from likewise._checks import check_format
from likewise.distances import COSINE, EUCLIDEAN, INNER_PRODUCT, SQUARED_EUCLIDEAN, Distance
from likewise.errors import GalleryError, MissingExtra
from likewise.index._durable.checksums import keys_of

METRICS: dict[Distance, str] = {
    COSINE: "COSINE",
    EUCLIDEAN: "L2",
    SQUARED_EUCLIDEAN: "L2",
    INNER_PRODUCT: "IP",
}
MOST = 16384  # results of one search or query, and queries of one search
LONGEST = 65535  # bytes of a text
TAGS = 4096  # entries of an array
_AT_ONCE = 2**24  # bytes of one message; Milvus takes 64 MB
_FORMAT = 2
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
    format: int = _FORMAT

    @property
    def storage(self) -> str:
        """How embeddings are kept."""
        return "float32"


class Collections:
    """Reads and writes both collections; every failure of Milvus is one sentence.

    `<name>_facts` holds the facts at key 0 and class names, by code, from key 1. An item's key is
    its id, or the hash of a string; its position tells the order of insertion.

    Args:
        uri: Address of a server, or a file ending in .db that Milvus Lite keeps.
        name: Name of the collection of items.
        token: `user:password` or an API key, where the server asks for one.
    """

    def __init__(self, uri: str, name: str, token: str | None) -> None:
        self.uri, self.name = uri, name
        self._facts_name = f"{name}_facts"
        self._milvus = _pymilvus()
        self._client: Any = None
        self._is_loaded = False
        with self._sentences():
            self._client = self._milvus.MilvusClient(uri=uri, token=token or "")

    def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def facts(self) -> CollectionFacts:
        """What is known of the gallery."""
        with self._sentences() as client:
            if not self._is_loaded:
                client.load_collection(self._facts_name)
                self._is_loaded = True
            found = client.query(self._facts_name, filter="key == 0", output_fields=["value"])
        try:
            values = json.loads(found[0]["value"])
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
            self._put_values(0, [json.dumps(asdict(facts))])

    def has_facts(self) -> bool:
        """Whether there is a gallery, all of whose beginning was written."""
        with self._sentences() as client:
            if not client.has_collection(self._facts_name):
                return False
            client.load_collection(self._facts_name)
            return bool(client.query(self._facts_name, filter="key == 0", output_fields=["key"]))

    def has_begun(self) -> bool:
        """Whether a gallery was begun, be it without facts yet."""
        with self._sentences() as client:
            return bool(client.has_collection(self._facts_name))

    def make_facts(self) -> None:
        """Make the collection of facts, if it is not there."""
        fields = [("key", "INT64"), ("value", "VARCHAR"), ("unused", "FLOAT_VECTOR")]
        with self._sentences() as client:
            if not client.has_collection(self._facts_name):
                self._make(self._facts_name, fields, "unused", 2, "L2")

    def names(self, count: int) -> list[str]:
        """The first `count` class names."""
        with self._sentences() as client:
            found: dict[int, str] = {}
            for start in range(1, count + 1, MOST):
                stop = min(start + MOST, count + 1)
                rows = client.query(
                    self._facts_name,
                    filter=f"key >= {start} and key < {stop}",
                    output_fields=["value"],
                    limit=MOST,
                )
                found |= {row["key"]: row["value"] for row in rows}
        return [found[code + 1] for code in range(count)]

    def put_names(self, first: int, names: Sequence[str]) -> None:
        """Remember the names of the codes from `first` on."""
        with self._sentences():
            for start in range(0, len(names), 100):
                self._put_values(1 + first + start, names[start : start + 100])

    def make_items(self, dimension: int, metric: str) -> None:
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
        with self._sentences() as client:
            if client.has_collection(self.name):
                client.drop_collection(self.name)
            # Milvus knows no vectors of one number.
            self._make(self.name, fields, "embedding", max(2, dimension), metric)

    def has_items(self) -> bool:
        """Whether there is a collection of items, which is then ready for use."""
        with self._sentences() as client:
            is_there = bool(client.has_collection(self.name))
            if is_there:
                client.load_collection(self.name)
            return is_there

    def count(self, expression: str = "") -> int:
        """How many items there are."""
        with self._sentences() as client:
            found = client.query(self.name, filter=expression, output_fields=["count(*)"])
            return int(found[0]["count(*)"])

    def put(self, rows: Sequence[dict[str, Any]], *, replace: bool) -> None:
        """Store rows; with `replace` also over those that have their keys."""
        bytes_of = [4 * len(r["embedding"]) + len(r["metadata"]) + len(r["payload"]) for r in rows]
        parts = np.cumsum([size + 100 for size in bytes_of]) // _AT_ONCE
        with self._sentences() as client:
            write = client.upsert if replace else client.insert
            for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(parts)) + 1):
                write(self.name, [rows[at] for at in part])

    def remove(self, keys: Sequence[int]) -> None:
        """Forget the items of these keys."""
        with self._sentences() as client:
            for expression in _among(keys):
                client.delete(self.name, filter=expression)

    def rows(self, keys: Sequence[int], fields: Sequence[str]) -> dict[int, dict[str, Any]]:
        """What is stored, by key; keys that are not there are left out."""
        found: dict[int, dict[str, Any]] = {}
        with self._sentences() as client:
            for expression in _among(keys):
                rows = client.query(self.name, filter=expression, output_fields=[*fields])
                found |= {row["key"]: row for row in rows}
        return found

    def everything(self, fields: Sequence[str], facts: CollectionFacts) -> list[dict[str, Any]]:
        """All rows, in the order of insertion."""
        step = max(1, min(MOST, _AT_ONCE // (4 * (facts.dimension or 1))))
        found: list[dict[str, Any]] = []
        for start in range(0, facts.next_position, step):
            found += self._window(start, start + step, ["position", *fields])
        return found

    def nearest(
        self,
        queries: npt.NDArray[np.float32],
        fields: Sequence[str],
        count: int,
        expression: str,
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
            )
            return [[{"key": hit["key"], **hit["entity"]} for hit in hits] for hits in found]

    def _window(self, start: int, stop: int, fields: Sequence[str]) -> list[dict[str, Any]]:
        with self._sentences() as client:
            rows: list[dict[str, Any]] = client.query(
                self.name,
                filter=f"position >= {start} and position < {stop}",
                output_fields=[*fields],
                limit=MOST,
            )
        if len(rows) == MOST and stop - start > 1:  # several writers gave out these positions
            middle = (start + stop) // 2
            return self._window(start, middle, fields) + self._window(middle, stop, fields)
        return sorted(rows, key=lambda row: (row["position"], row["key"]))

    def _put_values(self, first: int, values: Sequence[str]) -> None:
        rows = [
            {"key": key, "value": value, "unused": [0.0, 0.0]}
            for key, value in enumerate(values, first)
        ]
        self._client.upsert(self._facts_name, rows)

    def _make(
        self,
        name: str,
        fields: Sequence[tuple[str, str]],
        vector: str,
        dimension: int,
        metric: str,
    ) -> None:
        types = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        more: dict[str, dict[str, Any]] = {
            "INT64": {},
            "VARCHAR": {"max_length": LONGEST},
            "ARRAY": {"element_type": types.INT64, "max_capacity": TAGS},
            "FLOAT_VECTOR": {"dim": dimension},
        }
        for field, kind in fields:
            schema.add_field(field, types[kind], is_primary=field == "key", **more[kind])
        # What was written is seen by whoever asks next, as in the other stores.
        self._client.create_collection(name, schema=schema, consistency_level="Strong")
        indexes = self._client.prepare_index_params()
        indexes.add_index(vector, index_type="FLAT", metric_type=metric)
        if "lite" not in self._client.get_server_version():  # it has no index for arrays
            for field in sorted({"tags", "position"} & {field for field, _ in fields}):
                indexes.add_index(field, index_type="INVERTED")
        # There is nothing to wait for: the collection is empty.
        self._client.create_index(name, indexes, sync=False)
        self._client.load_collection(name)

    @contextmanager
    def _sentences(self) -> Iterator[Any]:
        try:
            yield self._client
        except self._milvus.MilvusException as error:
            raise GalleryError(
                f"uri must lead to a Milvus server that does what it is asked, got {self.uri!r}: "
                f"{error.message}. Look whether the server runs and uri and token are right."
            ) from error


def tags_of(values: Mapping[str, str]) -> list[int]:
    """One number of 64 bits per key with its value as JSON."""
    return [tag for key, value in values.items() for tag in _tags(key, [value])]


def filter_of_tags(key: str, values: Sequence[str]) -> str:
    """The expression that leaves the items which have one of the values, given as JSON."""
    return f"array_contains_any(tags, {_tags(key, values)})" if values else _NOTHING


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
        return importlib.import_module("pymilvus")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"pymilvus must be installed for a gallery in Milvus, got no module {error.name!r}. "
            'Use pip install "likewise[milvus]".'
        ) from error
