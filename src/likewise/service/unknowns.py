"""The queue of unknowns: items that matched nothing, kept for somebody to look at."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.embedded import Embedded
from likewise.index import Gallery
from likewise.model import SimilarityModel
from likewise.service import bodies
from likewise.service.answering import Decided, embedded_of
from likewise.service.refusals import Refusal

FLUSHED = 0.5  # seconds between two writes
PRUNED = 60.0  # seconds between two looks at the age
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _New:
    """An unknown that is not on disk yet."""

    id: str
    embedding: Float[Tensor, " d"]
    facts: dict[str, Any]
    picture: bytes | None


class Queue:
    """Unknown items in a folder, newest last; limited in number and age.

    They are written by a thread of their own, so that answers do not wait for the disk: a kill may
    lose those of the last half second.

    Args:
        folder: Where they are kept, made if it is not there.
        model: Model that matched them.
        most: How many are kept; the oldest go first.
        days: For how long.
    """

    def __init__(self, folder: Path, model: SimilarityModel, *, most: int, days: float) -> None:
        self.most, self.seconds = most, days * 86_400
        folder.mkdir(parents=True, exist_ok=True)
        self.gallery = Gallery(
            folder / "unknowns", distance=model.distance, encoder=model.query_fingerprint
        )
        self._new: deque[_New] = deque()
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._is_open = True
        self._pruned = 0.0
        prints, there, _ = self.gallery.fingerprints()
        kept = self.gallery.ids[there.numpy()].tolist() if bool(there.any()) else []
        self._ids: dict[int, str] = dict(zip(prints[there].tolist(), kept, strict=True))
        self._thread = threading.Thread(target=self._run, name="likewise-unknowns", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self.gallery) + len(self._new)

    def offer(self, decided: Decided) -> None:
        """Keep the unknowns of an answer, which then tells their ids.

        An item that is there already is not kept a second time, and has the id of the first.
        """
        answers = decided.answers.answers
        rows = [row for row, answer in enumerate(answers) if answer.label is None]
        if not rows:
            return
        found = embedded_of([decided.ready[row] for row in rows], decided.embeddings[rows])
        now = time.time()
        for at, row in enumerate(rows):
            answer, print_ = answers[row], int(found.fingerprints[at])
            given = decided.ready[row].given
            with self._lock:
                answer.unknown_id = self._ids.get(print_)
                if answer.unknown_id is not None:
                    continue
                answer.unknown_id = f"{int(now * 1000):012x}{uuid.uuid4().hex[:12]}"
                self._ids[print_] = answer.unknown_id
                facts = {
                    "fingerprint": print_,
                    "time": now,
                    "distance": answer.distance,
                    "threshold": answer.threshold,
                    "point": decided.point,
                    "nearest": answer.neighbors[0].label if answer.neighbors else None,
                    "text": given if isinstance(given, str) else None,
                }
                picture = None if found.pictures is None else found.pictures[at]
                if len(self._new) == self.most:
                    self._ids.pop(self._new.popleft().facts["fingerprint"])
                self._new.append(_New(answer.unknown_id, found.embeddings[at], facts, picture))

    def listed(self, page: bodies.Page) -> bodies.Unknowns:
        """Some of them, newest first."""
        before = page.before
        self.flush()
        with self._lock:
            ids = sorted(self.gallery.ids.tolist(), reverse=True) if len(self.gallery) else []
            total = len(ids)
            if isinstance(before, str):
                ids = [id_ for id_ in ids if id_ < before]
            asked = ids[: page.limit]
            facts = self.gallery.metadata(asked) if asked else []
            pictures = self.gallery.payloads(asked) if asked else []
        told = [
            _told(id_, fact, picture)
            for id_, fact, picture in zip(asked, facts, pictures, strict=True)
        ]
        return bodies.Unknowns(told, total, asked[-1] if len(ids) > len(asked) else None)

    def picture(self, id_: str) -> bytes:
        """The small picture of one."""
        self.flush()
        with self._lock:
            self._check(id_)
            (payload,) = self.gallery.payloads([id_])
        if payload is None:
            raise Refusal("not_found", f"unknown {id_!r} must have a picture, got one without.")
        return payload

    def taken(self, id_: str) -> tuple[Embedded, dict[str, Any]]:
        """One, as it can be added to known items, with what is known of it."""
        self.flush()
        with self._lock:
            self._check(id_)
            found = self.gallery.get([id_])
            pictures = self.gallery.payloads([id_])
        (facts,) = found.metadata
        rows = torch.zeros(1, dtype=torch.int64)
        items = Embedded(
            found.embeddings,
            torch.full_like(rows, -1),
            [],
            torch.tensor([facts["fingerprint"]]),
            rows,
            pictures=pictures,
        )
        return items, facts

    def remove(self, id_: str) -> bodies.Removed:
        """Take one out of the queue."""
        self.flush()
        with self._lock:
            self._check(id_)
            self._forget([id_])
            return bodies.Removed(1, len(self.gallery))

    def flush(self) -> None:
        """Write what is new, and let go of what is too old or too many."""
        with self._lock:
            new = list(self._new)
            if new:
                self.gallery.add(
                    torch.stack([each.embedding for each in new]),
                    ids=[each.id for each in new],
                    metadata=[each.facts for each in new],
                    payloads=[each.picture for each in new],
                )
                self._new.clear()
            now = time.time()
            if not len(self.gallery) or not (new or now - self._pruned > PRUNED):
                return
            self._pruned = now
            ids = self.gallery.ids.tolist()
            oldest = f"{int((now - self.seconds) * 1000):012x}"
            gone = [id_ for at, id_ in enumerate(ids) if id_ < oldest or at < len(ids) - self.most]
            if gone:
                self._forget(gone)

    def close(self) -> None:
        """Write what is left, and end."""
        self._is_open = False
        self._wake.set()
        self._thread.join()
        self.flush()
        self.gallery.close()

    def _forget(self, ids: Sequence[str]) -> None:
        for facts in self.gallery.metadata(ids):
            self._ids.pop(facts["fingerprint"], None)
        self.gallery.remove(ids)

    def _check(self, id_: str) -> None:
        if not len(self.gallery) or id_ not in set(self.gallery.ids.tolist()):
            raise Refusal(
                "not_found", f"unknown must be in the queue, got the id {id_[:80]!r}, which is not."
            )

    def _run(self) -> None:
        while self._is_open:
            self._wake.wait(FLUSHED)
            try:
                self.flush()
            except Exception:  # a full disk must not end the thread, nor the service
                _log.exception("unknowns cannot be written; they stay in memory")


def _told(id_: str, facts: dict[str, Any], picture: bytes | None) -> bodies.Unknown:
    told = {name: facts.get(name) for name in ("distance", "nearest", "text")}
    return bodies.Unknown(
        id=id_,
        time=facts["time"],
        threshold=facts["threshold"],
        point=facts["point"],
        picture=picture is not None,
        **told,
    )
