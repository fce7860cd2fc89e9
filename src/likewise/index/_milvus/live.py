"""What a gallery in Milvus is made for and holds, as all its verbs need it."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from likewise._checks import check_count
from likewise.distances import COSINE, Distance, by_name
from likewise.errors import GalleryError, InputError, InputTypeError
from likewise.index._entries import Rows, Values, checked_rows, label_codes, plain_ids, positions_of
from likewise.index._given import check_storable
from likewise.index._milvus.collections import (
    METRICS,
    CollectionFacts,
    Collections,
    filter_of_parts,
    filter_of_tags,
)
from likewise.index._milvus.rows import check_length, keys, kind_of
from likewise.index._where import Condition, Test, as_json, folded, unknown_key


class MilvusLive:
    """The facts as they were last read, and the two collections behind them.

    Facts are written before the items that they count, so that no id and no position is given
    out twice, whatever breaks in between.

    Args:
        uri: see `Collections`.
        collection: of the items.
        token: see `Collections`.
        distance: see `MilvusGallery`, as are all others.
    """

    def __init__(
        self,
        uri: str,
        collection: str,
        token: str | None,
        *,
        distance: Distance | None,
        encoder: str | None,
        dimension: int | None,
        class_names: Sequence[str],
    ) -> None:
        _check_collection(collection)
        _check_asked(distance, encoder, dimension, class_names)
        self.name = collection
        self.names: list[str] = []
        self._lock = threading.RLock()
        self._collections: Collections | None = Collections(uri, collection, token)
        try:
            if not self.collections.has_facts():
                self._begin(distance or COSINE, encoder, dimension, class_names)
            self.facts = self.refresh()
            if self.facts.dimension is not None and not self.collections.has_items():
                raise GalleryError(
                    f"collection must be whole, got {collection!r}, of which only "
                    f"{collection + '_facts'!r} is there. Drop that, and add the items again."
                )
            self._check_contract(distance, encoder, dimension, class_names)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        if self._collections is not None:
            self._collections.close()
            self._collections = None

    @property
    def collections(self) -> Collections:
        """Both, while the gallery is open."""
        if self._collections is None:
            raise GalleryError(
                "gallery must be open, got one that was closed. "
                "Open it again with MilvusGallery(uri, collection=...)."
            )
        return self._collections

    @property
    def distance(self) -> Distance:
        """What "near" means."""
        return by_name(self.facts.distance)

    @contextmanager
    def writing(self) -> Iterator[CollectionFacts]:
        """The newest facts, which no other thread changes while this lasts."""
        with self._lock:
            yield self.refresh()

    def refresh(self) -> CollectionFacts:
        """The newest facts, which another process may have written."""
        facts = self.collections.facts()
        if facts.names != len(self.names):
            self.names = self.collections.names(facts.names)
        self.facts = facts
        return facts

    def count(self) -> int:
        """How many items there are."""
        return 0 if self.facts.dimension is None else self.collections.count()

    def everything(self, fields: Sequence[str]) -> list[dict[str, Any]]:
        """All rows, in the order of insertion."""
        facts = self.refresh()
        return [] if facts.dimension is None else self.collections.everything(fields, facts)

    def found(self, ids: Sequence[Any], fields: Sequence[str]) -> dict[Any, dict[str, Any]]:
        """What is stored of `ids`, by id."""
        if not ids or self.facts.dimension is None or self.facts.kind != kind_of(ids):
            return {}
        key_of = dict(zip(ids, keys(ids).tolist(), strict=True))
        rows = self.collections.rows(list(key_of.values()), ["text", *fields])
        found = {id_: rows[key] for id_, key in key_of.items() if key in rows}
        for id_, row in found.items():
            if isinstance(id_, str) and row["text"] != id_:
                raise InputError(
                    f"ids must differ in their 64-bit hashes, got {id_!r}, whose is that of "
                    f"{row['text']!r}. Use another id."
                )
        return found

    def rows(self, ids: Values, fields: Sequence[str]) -> dict[Any, dict[str, Any]]:
        """What is stored under `ids`, by id, in their order.

        Raises:
            InputError: an id that is not stored.
        """
        plain = plain_ids(ids)
        found = self.found(plain, fields)
        positions_of(cast(Values, plain), dict.fromkeys(found, 0))  # refuses unknown ones
        return {id_: found[id_] for id_ in plain}

    def other_kind(self, given: Sequence[Any]) -> dict[Any, int]:
        """An id that no item has, of the kind they have, where `given` is of another kind."""
        kind = self.facts.kind
        if not given or kind in (None, kind_of(given)) or self.count() == 0:
            return {}
        return {"" if kind == "strings" else -1: 0}

    def next_ids(self, count: int) -> list[int]:
        """The next integers above all ever used."""
        if self.facts.kind == "strings" and self.count():
            raise InputError(
                "ids must be given where those in the index are strings, got None. "
                "Pass ids=, one new string per item."
            )
        return list(range(self.facts.next_id, self.facts.next_id + count))

    def codes(self, labels: Values | None, count: int) -> tuple[list[int], list[str]]:
        """The code of each label, and all class names with the new ones behind."""

        def has_codes() -> bool:
            return self.facts.dimension is not None and self.collections.count("label >= 0") > 0

        return label_codes(labels, count, self.names, has_codes=has_codes)

    def expression(self, condition: Condition) -> str:
        """What leaves the items that pass a lookup's `where`, for Milvus to search among.

        Milvus keeps a hash of each key with its value. A range becomes the values in it, for
        which all metadata is fetched.

        Raises:
            InputError: a key that no item has.
        """
        values: dict[str, dict[str, Any]] | None = None  # key -> value as JSON -> value

        def read() -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for row in self.everything(["metadata"]):
                for key, value in json.loads(row["metadata"]).items():
                    found.setdefault(key, {})[as_json(value)] = value
            return found

        def of_test(test: Test) -> str:
            nonlocal values
            among = sorted(test.among)
            expression = filter_of_tags(test.key, among)
            if not test.limits and among and self.collections.count(expression):
                return expression
            # Whether any item has the key, no hash tells.
            values = read() if values is None else values
            if test.key not in values:
                raise unknown_key(test.key, set(values))
            there = values[test.key].items()
            return filter_of_tags(test.key, [t for t, value in there if test.holds(value, t)])

        return folded(condition, of_test, filter_of_parts)

    def put(
        self,
        ids: Sequence[Any],
        embeddings: Float[Tensor, "n d"],
        rows: Sequence[dict[str, Any]],
        names: Sequence[str],
        *,
        is_replacing: bool,
    ) -> None:
        """Store at least one item."""
        facts, dimension = self.facts, embeddings.shape[1]
        if facts.dimension is None:
            self.collections.make_items(dimension, METRICS[self.distance])
        numbers = [id_ for id_ in ids if isinstance(id_, int)]
        norms = torch.linalg.vector_norm(embeddings, dim=1)
        after = replace(
            facts,
            dimension=dimension,
            kind=kind_of(ids),
            next_id=max(facts.next_id, max(numbers, default=-1) + 1),
            next_position=facts.next_position + len(ids),
            longest=max(facts.longest, float(norms.max())),
        )
        self.remember(after, names)
        try:
            self.collections.put(rows, replace=is_replacing)
        except GalleryError:
            if not is_replacing:
                with suppress(GalleryError):
                    self.collections.remove(keys(ids).tolist())
            raise

    def remember(self, facts: CollectionFacts, names: Sequence[str] | None = None) -> None:
        """Write facts of one batch more, and class names beyond those there are."""
        names = self.names if names is None else list(names)
        self.collections.put_names(len(self.names), names[len(self.names) :])
        facts = replace(facts, names=len(names), batches=facts.batches + 1)
        self.collections.put_facts(facts)
        self.facts, self.names = facts, names

    def checked(self, embeddings: Rows, name: str) -> Float[Tensor, "n d"]:
        """Embeddings as they are stored: float32 on the CPU."""
        return checked_rows(name, embeddings, self.facts.dimension)

    def check_enough(self, k: int) -> None:
        """Refuse a lookup in nothing, or of more than there is."""
        count = self.count()
        if count == 0:
            raise InputError(
                "index must hold at least one item before a lookup, got 0. "
                "Add some with index.add(embeddings, labels=labels)."
            )
        if k > count:
            raise InputError(
                f"k must be at most {count}, the number of items in the index, got {k}. "
                "Ask for fewer, or add more items."
            )

    def _begin(
        self,
        distance: Distance,
        encoder: str | None,
        dimension: int | None,
        class_names: Sequence[str],
    ) -> None:
        # A beginning that was interrupted has its collection of facts, with none in it.
        if self.collections.has_items() and not self.collections.has_begun():
            raise GalleryError(
                f"collection must be new or a gallery, got {self.name!r}, which is "
                "something else. Choose another name."
            )
        facts = CollectionFacts(distance.name, encoder, dimension, names=len(class_names))
        self.collections.make_facts()
        if dimension is not None:
            self.collections.make_items(dimension, METRICS[distance])
        self.collections.put_names(0, class_names)
        self.collections.put_facts(facts)

    def _check_contract(
        self,
        distance: Distance | None,
        encoder: str | None,
        dimension: int | None,
        class_names: Sequence[str],
    ) -> None:
        facts = self.facts
        pairs: list[tuple[str, object, object]] = [
            ("distance", facts.distance, distance and distance.name),
            ("encoder", facts.encoder, encoder),
            ("dimension", facts.dimension, dimension if facts.dimension else None),
            ("class_names", self.names[: len(class_names)], list(class_names) or None),
        ]
        for name, made, given in pairs:
            if given is not None and given != made:
                raise GalleryError(
                    f"{name} must be {made!r}, as the gallery {self.name!r} was made "
                    f"with, got {given!r}. Leave it out, or make another gallery."
                )


def _check_collection(name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise InputError(
            "collection must be letters, digits and underscores, at most 200, and not begin with "
            f"a digit, got {name!r}. Milvus takes no others."
        )


def _check_asked(
    distance: Distance | None,
    encoder: str | None,
    dimension: int | None,
    class_names: Sequence[str],
) -> None:
    if distance is not None and distance not in METRICS:
        name = distance.name if isinstance(distance, Distance) else repr(distance)
        raise InputError(
            "distance must be one that Milvus knows, "
            f"{', '.join(known.name for known in METRICS)}, got {name}. Use Gallery for others."
        )
    if encoder is not None and not isinstance(encoder, str):
        raise InputTypeError(
            f"encoder must be text, got {encoder!r}. Use the encoder's fingerprint."
        )
    if dimension is not None:
        check_count("dimension", dimension)
    if len(set(class_names)) != len(class_names):
        raise InputError(f"class_names must all differ, got {list(class_names)}.")
    check_storable([encoder or ""], class_names)
    check_length("encoder", [2 * (encoder or "")])  # it has to fit beside the other facts
    check_length("class_names", class_names)
