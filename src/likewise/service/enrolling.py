"""Changes to known items: one after the other, on disk before they are acknowledged."""

import hashlib
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import torch

from likewise.embedded import Embedded
from likewise.errors import GalleryError, InputError
from likewise.index import Index
from likewise.model import SimilarityModel
from likewise.service import bodies
from likewise.service.jobs import HIDDEN, label_of, shown_metadata
from likewise.service.refusals import Refusal

KEY = "idempotency"  # under which an item's metadata tell the request that added it


class Writer:
    """Adds, relabels and removes known items.

    Args:
        model: Whose index is in a gallery, and open for writing; else nothing can be changed.
        is_open: Whether it is.
    """

    def __init__(self, model: SimilarityModel, *, is_open: bool) -> None:
        self.model, self.is_open = model, is_open
        self.lock = threading.RLock()
        self._added: dict[str, tuple[str, list[Any]]] = {}  # by key: digest of the request, ids
        self._integers = len(model.index) > 0 and model.index.ids.dtype.kind == "i"
        if is_open:
            self._remember()

    @property
    def index(self) -> Index:
        """The known items."""
        return self.model.index

    def add(
        self,
        items: Embedded,
        labels: Sequence[str | None],
        ids: Sequence[str | None],
        metadata: Sequence[Mapping[str, Any]],
        *,
        key: str | None = None,
        digest: str = "",
    ) -> bodies.Added:
        """Add items, all of them or none; they are on disk then.

        With a key, a request that was carried out before is not carried out again: the key is
        kept with the items, in the same write.

        Args:
            items: With fingerprints and pictures.
            labels: Theirs.
            ids: Theirs; None for the next ones.
            metadata: Kept with them.
            key: The idempotency key.
            digest: Digest of the request, so that a key is not used for another one.

        Raises:
            Refusal: There is no place to keep them, an id is taken, or the key was for another
                request.
            InputError: The items do not fit those that are there.
        """
        self.check_open()
        for each in metadata:
            if used := sorted(set(each) & set(HIDDEN)):
                raise Refusal("invalid", f"metadata must leave {used[0]} free, got it in use.")
        with self.lock:
            if key is not None and (before := self.repeated(key, digest)) is not None:
                return before
            mark = {} if key is None else {KEY: _mark(key, digest)}
            facts = [{**each, **mark} for each in metadata]
            given = self._ids(ids)
            names = list(dict.fromkeys(label for label in labels if label is not None))
            known = self.index.class_names
            codes: list[int] = []
            if not known and bool((self.index.labels >= 0).any()):
                codes, names = [_code(label) for label in labels], []
                added = self.index.add(
                    items.embeddings,
                    labels=codes,
                    ids=given,
                    metadata=[
                        {**each, "fingerprint": print_}
                        for each, print_ in zip(facts, items.fingerprints.tolist(), strict=True)
                    ],
                    payloads=items.pictures,
                )
            else:
                codes = [-1 if label is None else names.index(label) for label in labels]
                whole = Embedded(
                    items.embeddings,
                    torch.tensor(codes, dtype=torch.int64),
                    names,
                    items.fingerprints,
                    items.rows,
                    pictures=items.pictures,
                )
                added = self.model.add(whole, ids=given, metadata=facts)
            stored = added.tolist()
            self._integers = added.dtype.kind == "i"
            if key is not None:
                self._added[_hashed(key)] = (digest, stored)
            return bodies.Added([str(id_) for id_ in stored], len(self.index), False)

    def repeated(self, key: str, digest: str) -> bodies.Added | None:
        """What was answered to a request with this key; None if there was none.

        Raises:
            Refusal: The key was used for another request.
        """
        # Kept is a hash, which nobody can choose to look like another.
        key = _hashed(key)
        before = self._added.get(key)
        if before is None:
            return None
        if before[0] != digest:
            raise Refusal(
                "key_reused",
                "Idempotency-Key must be new for a new request, got one that was used for another.",
            )
        return bodies.Added([str(id_) for id_ in before[1]], len(self.index), True)

    def relabel(self, id_: str, label: str | None) -> bodies.KnownItem:
        """Give an item another label; what it is then."""
        self.check_open()
        with self.lock:
            stored = self.known(id_)
            if not self.index.class_names and bool((self.index.labels >= 0).any()):
                self.index.relabel([stored], [_code(label)])
            else:
                self.index.relabel([stored], None if label is None else [label])
            return self.get(id_)

    def remove(self, id_: str) -> bodies.Removed:
        """Take an item out."""
        self.check_open()
        with self.lock:
            removed = self.index.remove([self.known(id_)])
            return bodies.Removed(removed, len(self.index))

    def get(self, id_: str) -> bodies.KnownItem:
        """A known item."""
        with self.lock:
            stored = self.known(id_)
            found = self.index.get([stored])
            (payload,) = self.index.payloads([stored])
            return bodies.KnownItem(
                str(stored),
                label_of(int(found.labels[0]), self.index.class_names),
                shown_metadata(found.metadata[0]),
                payload is not None,
            )

    def picture(self, id_: str) -> bytes:
        """The small picture of an item."""
        with self.lock:
            (payload,) = self.index.payloads([self.known(id_)])
        if payload is None:
            raise Refusal("not_found", f"item {id_!r} must have a picture, got one without.")
        return payload

    def listed(self, page: bodies.ItemsPage) -> bodies.KnownItems:
        """Some items, newest first."""
        label, before = page.label, page.before
        with self.lock:
            ids, labels, names = self.index.ids, self.index.labels, self.index.class_names
            rows = np.arange(len(ids))
            if isinstance(label, str):
                code = names.index(label) if label in names else _code_or_none(label)
                rows = rows[(labels == (-2 if code is None else code)).numpy()]
            total = len(rows)
            if isinstance(before, str):
                at = np.flatnonzero(ids == self.known(before))
                rows = rows[rows < int(at[0])]
            chosen = rows[::-1][: page.limit]
            asked = ids[chosen].tolist()
            facts = self.index.metadata(asked) if asked else []
            payloads = self.index.payloads(asked) if asked else []
        items = [
            bodies.KnownItem(
                str(id_), label_of(code, names), shown_metadata(fact), payload is not None
            )
            for id_, code, fact, payload in zip(
                asked, labels[chosen.copy()].tolist(), facts, payloads, strict=True
            )
        ]
        more = len(rows) > len(chosen)
        return bodies.KnownItems(items, total, items[-1].id if more and items else None)

    def known(self, id_: str) -> Any:
        """An id as it is stored.

        Raises:
            Refusal: No item has it.
        """
        stored: Any = id_
        if self._integers:
            stored = int(id_) if _is_whole(id_) else ""
        if stored != "" and len(self.index) and self._has(stored):
            return stored
        raise Refusal("not_found", f"item must be known, got the id {id_[:80]!r}, which is not.")

    def check_open(self) -> None:
        """Refuse to write where there is no place for it."""
        if not self.is_open:
            raise Refusal(
                "read_only",
                "gallery must be open for writing, got none. Start the service with "
                "--gallery DIR, and without --read-only.",
            )

    def _has(self, stored: Any) -> bool:
        try:
            self.index.metadata([stored])
        except GalleryError:
            raise
        except InputError:  # for an id that can be one, only that it is not there
            return False
        return True

    def _ids(self, ids: Sequence[str | None]) -> list[Any] | None:
        integers = len(self.index) > 0 and self._integers
        if all(id_ is None for id_ in ids):
            if len(self.index) and not integers:
                return [uuid.uuid4().hex for _ in ids]
            return None
        if any(id_ is None for id_ in ids) and (integers or not len(self.index)):
            raise Refusal("invalid", "items must have ids all or none, got some without.")
        if integers:
            if odd := [id_ for id_ in ids if id_ is None or not _is_whole(id_)]:
                raise Refusal(
                    "invalid",
                    f"id must be a whole number, as those of known items are, got {odd[0]!r}.",
                )
            given: list[Any] = [int(str(id_)) for id_ in ids]
        else:
            given = [uuid.uuid4().hex if id_ is None else id_ for id_ in ids]
        if taken := [id_ for id_ in given if len(self.index) and self._has(id_)]:
            raise Refusal(
                "id_taken",
                f"id must be new, got {str(taken[0])!r}, which an item has. Remove that one first.",
            )
        return given

    def _remember(self) -> None:
        marks, _ = self.index.column(KEY)
        ids = self.index.ids.tolist() if any(marks) else []
        for mark, id_ in zip(marks, ids, strict=False):
            if isinstance(mark, str) and mark.count(":") == 1:
                key, digest = mark.split(":")
                self._added.setdefault(key, (digest, []))[1].append(id_)


def digest_of(request: msgspec.Struct) -> str:
    """By which a request is known again."""
    return hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:32]


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _mark(key: str, digest: str) -> str:
    return f"{_hashed(key)}:{digest}"


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _code_or_none(label: str) -> int | None:
    return int(label) if _is_whole(label) else None


def _code(label: str | None) -> int:
    """A label of an index whose classes have no names."""
    code = -1 if label is None else _code_or_none(label)
    if code is None:
        raise Refusal(
            "invalid", f"label must be a whole number, as those of known items are, got {label!r}."
        )
    return code
