"""How a gallery is connected to Milvus, and how its collection is laid out there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlparse

from likewise._checks import check_at_least, check_choice, check_count, check_rate
from likewise.errors import InputError, InputTypeError

EXACT = ("FLAT", "GPU_BRUTE_FORCE")  # index types that look at every item
CONSISTENCY = ("Strong", "Session", "Bounded", "Eventually")
SCHEMES = ("http", "https", "tcp", "unix")  # of a server
MOST_SHARDS = 16
WAIT = 600.0  # seconds that the server may take to build or load an index, at least
RECALL = 0.99  # of an approximate index where none is asked for


@dataclass(frozen=True)
class Effort:
    """The parameter by which a search with one type of index looks at more items.

    Attributes:
        name: Its name in Milvus.
        least: The first value that is tried.
        most: The largest value that Milvus takes; for lists, as many as there are.
        first: The value until one is chosen; for lists, all of them.
        of_k: Whether it must be at least the number of neighbors.
    """

    name: str
    least: int
    most: int
    first: int
    of_k: bool


_GRAPH = Effort("ef", 16, 32768, 1024, of_k=True)
_LISTS = Effort("nprobe", 1, 65536, 65536, of_k=False)
EFFORTS: dict[str, Effort] = {
    **dict.fromkeys(("HNSW", "HNSW_SQ", "HNSW_PQ", "HNSW_PRQ"), _GRAPH),
    **dict.fromkeys(
        ("IVF_FLAT", "IVF_SQ8", "IVF_PQ", "IVF_RABITQ", "SCANN", "GPU_IVF_FLAT", "GPU_IVF_PQ"),
        _LISTS,
    ),
    "DISKANN": Effort("search_list", 16, 65535, 1024, of_k=True),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "HNSW": {"M": 16, "efConstruction": 200},
    "IVF_FLAT": {"nlist": 1024},
    "IVF_SQ8": {"nlist": 1024},
}


def is_file(uri: str) -> bool:
    """Whether Milvus Lite keeps the items in a file; by the rule of pymilvus.

    Example:
        >>> is_file("known.db"), is_file("http://host:19530")
        (True, False)
    """
    return urlparse(uri).scheme.lower() not in SCHEMES


@dataclass(frozen=True)
class Connection:
    """Where Milvus is, and how to talk to it.

    Attributes:
        uri: Address of a server, or a file ending in .db that Milvus Lite keeps.
        token: `user:password` or an API key, where the server asks for one.
        timeout: Seconds that a question may take.
        more: What `pymilvus.MilvusClient` takes beside these.
    """

    uri: str
    token: str | None = None
    timeout: float = 30.0
    more: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what no connection can be made with.

        Raises:
            InputError: a timeout of nothing, or names that are arguments already.
            InputTypeError: `more` is no mapping.
        """
        check_at_least("timeout", self.timeout, 0.001)
        if not isinstance(self.more, Mapping):
            raise InputTypeError(
                f"connection must be a dict of what MilvusClient takes, got {self.more!r}."
            )
        if told := sorted({"uri", "token", "timeout"} & self.more.keys()):
            raise InputError(f"connection must leave {told[0]} out, got it. Give it by its name.")


@dataclass(frozen=True)
class Layout:
    """How a collection is laid out; None where the caller leaves it open.

    Attributes:
        index_type: Type of the index, by Milvus's name.
        index_params: What it is built with.
        consistency: How new what a lookup sees is, by Milvus's name.
        shards: Number of channels that writes go through.
        partition_by: Metadata key by whose values the server keeps items apart.
    """

    index_type: str | None = None
    index_params: Mapping[str, Any] | None = None
    consistency: str | None = None
    shards: int | None = None
    partition_by: str | None = None

    def check(self) -> None:
        """Refuse what no collection can be laid out as.

        Raises:
            InputError: an unknown consistency, or a number of shards that Milvus does not take.
            InputTypeError: a type or a key that is no text, or parameters that are no JSON.
        """
        if self.index_type is not None and not isinstance(self.index_type, str):
            raise InputTypeError(
                f"index_type must be the name of one, such as 'HNSW', got {self.index_type!r}."
            )
        check_params("index_params", self.index_params)
        if self.consistency is not None:
            check_choice("consistency", self.consistency, CONSISTENCY)
        if self.shards is not None:
            check_count("shards", self.shards)
            if self.shards > MOST_SHARDS:
                raise InputError(
                    f"shards must be at most {MOST_SHARDS}, which Milvus takes, got {self.shards}."
                )
        if self.partition_by is not None and not isinstance(self.partition_by, str):
            raise InputTypeError(
                "partition_by must be a key of the metadata, such as 'tenant', got "
                f"{self.partition_by!r}."
            )

    def built_with(self) -> dict[str, Any]:
        """The parameters of the index."""
        if self.index_params is not None:
            return dict(self.index_params)
        return dict(_DEFAULTS.get(self.index_type or "FLAT", {}))


@dataclass(frozen=True)
class Searched:
    """How lookups search with an index that is not exact.

    Attributes:
        recall: Share of the true nearest that a lookup shall find; None for what was chosen
            before, or else `RECALL`.
        params: Search parameters as the caller gives them; None where they are chosen.
    """

    recall: float | None = None
    params: Mapping[str, Any] | None = None

    def asked(self, tuned: Any) -> float | None:
        """The recall that a lookup shall reach; None where the parameters are given."""
        if self.params is not None:
            return None
        return self.recall or (RECALL if tuned is None else tuned.asked)

    def check(self) -> None:
        """Refuse what nothing can be searched with.

        Raises:
            InputError: a recall that is no rate.
            InputTypeError: parameters that are no mapping of JSON.
        """
        if self.recall is not None:
            check_rate("recall", self.recall)
        check_params("search_params", self.params)


def check_params(name: str, params: object) -> None:
    """Refuse parameters that cannot be passed on.

    Raises:
        InputTypeError: they are no mapping with strings for keys, or JSON cannot hold them.
    """
    if params is None:
        return
    if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
        raise InputTypeError(f"{name} must be a dict with names for keys, got {params!r}.")
    try:
        json.dumps(dict(params), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{name} must hold what JSON can, got {params!r}.") from error
