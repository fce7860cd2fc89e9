"""What an index asks of whatever keeps its items: memory, a folder, Milvus."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int
from torch import Tensor

from likewise.distances import Distance
from likewise.index._answers import Items
from likewise.index._durable.checksums import Integers
from likewise.index._where import Condition

NONE: Integers = np.empty(0, dtype=np.int64)


# Ids, distances and labels, as `Neighbors` has them.
Found = tuple[npt.NDArray[Any], Float[Tensor, "q k"], Int[Tensor, "q k"]]


class Given(NamedTuple):
    """Ids, and the numbers by which a store finds them."""

    ids: Sequence[int] | Sequence[str]
    keys: Integers

    @property
    def are_text(self) -> bool:
        """Whether they are strings; False of none."""
        return bool(self.ids) and isinstance(self.ids[0], str)


class Added(NamedTuple):
    """Items to be stored, checked already; one row each."""

    given: Given
    labels: Integers
    packed: Tensor  # embeddings as the store keeps them, see `_searching/storage`
    metadata: list[str]  # as JSON
    payloads: list[bytes | None]
    prints: Integers  # fingerprint in the metadata, 1 where there is one, (n, 2); (0, 2) of none


class About(Protocol):
    """What an index is made for, and what must be known of it to add items."""

    @property
    def distance(self) -> str:
        """Name of the distance."""

    @property
    def encoder(self) -> str | None:
        """Which encoder the embeddings are from."""

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None before the first."""

    @property
    def storage(self) -> str:
        """How embeddings are kept."""

    @property
    def kind(self) -> str | None:
        """Of the ids: "integers" or "strings"."""

    @property
    def next_id(self) -> int:
        """Above all integers that were ever used."""

    @property
    def batches(self) -> int:
        """How many times items were changed."""

    @property
    def key(self) -> str:
        """Random text by which the store is known; empty in memory."""


class Known(Protocol):
    """What giving ids and labels asks of the items that are there."""

    @property
    def facts(self) -> About:
        """What the index is made for."""

    @property
    def class_names(self) -> Sequence[str]:
        """The name of each label code."""

    def __len__(self) -> int: ...

    def has_labels(self) -> bool:
        """Whether any item has one."""

    def keys_for(self, ids: Sequence[Any]) -> Integers:
        """Ids as numbers of 64 bits, by which the store finds them."""

    def rows_of(self, given: Given) -> Integers:
        """The row number of each id, -1 where it is not stored."""


class View(Known, Protocol):
    """All items as of one moment. Items have row numbers, which mean nothing in another view."""

    @property
    def ids(self) -> npt.NDArray[Any]:
        """Ids in order of insertion, (n,)."""

    @property
    def embeddings(self) -> Float[Tensor, "n d"]:
        """Embeddings in order of insertion, float32."""

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Label codes in order of insertion."""

    @property
    def fingerprints(self) -> Integers:
        """The fingerprint of each item, and 1 where it has one, (n, 2)."""

    @property
    def search(self) -> tuple[str, float | None]:
        """How lookups search, and the recall measured where that is not exact."""

    def rows(self) -> Integers:
        """The row numbers of all items."""

    def nearest(self, queries: Float[Tensor, "q d"], k: int, allowed: Any) -> Found:
        """The k nearest items of each query, of those that `Store.chosen` allowed.

        Raises:
            InputError: there are fewer than k items, or none.
        """


V = TypeVar("V", bound=View)


class Store(Protocol[V]):
    """Keeps the items of one index, and gives them out as views."""

    distance: Distance

    @property
    def recall(self) -> float | None:
        """The share of the true nearest that a lookup shall find; None for exact."""

    @property
    def approximate(self) -> str:
        """What holds the items where that is less than 1."""

    @property
    def facts(self) -> About:
        """As last seen; also of a store that is closed."""

    @property
    def shown(self) -> str:
        """Where it is and what it holds, in few words."""

    def newest(self) -> V:
        """The newest items."""

    def reading(self) -> AbstractContextManager[V]:
        """The newest items, whose metadata and payloads can be read while this lasts."""

    def writing(self) -> AbstractContextManager[V]:
        """The newest items, which nobody else changes while this lasts."""

    def chosen(self, condition: Condition | None) -> tuple[V, Any]:
        """The newest items, and which of them pass a condition, for `View.nearest`.

        Raises:
            InputError: there is none, or none that has a key of the condition.
        """

    def commit(
        self,
        now: V,
        *,
        class_names: Sequence[str],
        added: Added | None = None,
        removed: Integers = NONE,
        changed: Integers = NONE,
        labels: Integers = NONE,
    ) -> None:
        """Store one batch, all of it or nothing; only within `writing`.

        Args:
            now: from `writing`.
            class_names: after it.
            added: at least one new item, in place of those removed that have their ids.
            removed: rows of `now`, each once.
            changed: rows of `now` that get other labels, each once.
            labels: these.
        """

    def settle(self) -> None:
        """Train the search, where there is something to train, and return when it is done."""

    def reserve(self, count: int) -> None:
        """Make room for `count` items in all, where the store keeps them in memory."""

    def clear(self, now: V) -> None:
        """Forget all items, of which there are some; only within `writing`."""

    def items(self, now: V, rows: Integers) -> Items:
        """What is stored in these rows; only within `reading`."""

    def metadata(self, now: V, rows: Integers | None = None) -> list[dict[str, Any]]:
        """Of these rows, or of all in order of insertion; only within `reading`."""

    def payloads(self, now: V, rows: Integers | None = None) -> list[bytes | None]:
        """Of these rows, or of all in order of insertion; only within `reading`."""

    def column(self, now: V, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """See `Index.column`; only within `reading`."""

    def bytes(self, now: V) -> int:
        """How many the items take."""

    def copied(self, *, deep: bool) -> "Store[Any]":
        """A store that holds the same and changes alone."""

    def close(self) -> None:
        """Give back what is held open."""
