"""What each endpoint does: a request in, an answer out."""

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from torch import nn

import likewise
from likewise.model import SimilarityModel
from likewise.model.folders import MANIFEST
from likewise.model.trials import PAIRS, check_candidates
from likewise.service import bodies
from likewise.service.answering import Answerer, Decided, taken_by
from likewise.service.asking import (
    as_json,
    as_picture,
    facts_of,
    idempotency_of,
    limits_of,
    query_of,
    with_items,
    with_new_items,
)
from likewise.service.enrolling import Writer, digest_of
from likewise.service.items import Reader
from likewise.service.jobs import label_of
from likewise.service.openapi import Served
from likewise.service.questions import MOST_CLASSES, Questions
from likewise.service.refusals import Refusal
from likewise.service.settings import Settings
from likewise.service.unknowns import Queue
from likewise.service.watching import Watch

LOOKED_AGAIN = 1.0  # seconds between two looks at the folder of the model
SAVED = 10.0  # seconds between two writes of what was seen
_log = logging.getLogger("likewise.service")
_T = TypeVar("_T")


class Routes(Questions):
    """Answers requests over one model.

    A model that was calibrated again, while it is served, is followed within about a second: every
    answer is of its operating points before or after.

    Args:
        model: Is asked.
        settings: Say what is allowed.
        folder: Folder of the saved model; None for one that was made in this process.
        keep: A folder for unknowns, and for what was seen; None to keep none.
        writes: Whether known items may be changed.
        again: Opens the saved model once more; None to follow no change.
    """

    answerer: Answerer

    def __init__(
        self,
        model: SimilarityModel,
        settings: Settings,
        *,
        folder: Path | None = None,
        keep: Path | None = None,
        writes: bool = False,
        again: Callable[[], SimilarityModel] | None = None,
    ) -> None:
        self.folder, self._again = folder, again
        self._stamp = None if folder is None else _stamp(folder)
        reader = Reader(
            taken_by(model),
            settings,
            lambda: self.model.index.dimension,
            queries=None if model.query_encoder is None else taken_by(model, queries=True),
        )
        self.writer = Writer(model, is_open=writes)
        answerer = Answerer(model, self.writer.lock, _version(folder))
        super().__init__(reader, answerer, settings)
        self.queue = (
            None
            if keep is None
            else Queue(keep, model, most=settings.keep_most, days=settings.keep_days)
        )
        self.watch = Watch(None if keep is None else keep / "seen.json")
        self.watch.calibrated(_marks(model))
        self.name = "model" if folder is None else folder.resolve().name
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="likewise-write")
        self.counts.gauge("likewise_items", "Known items.", lambda: len(self.model.index))
        if self.queue is not None:
            self.counts.gauge("likewise_unknowns", "Unknowns kept.", self.queue.__len__)
        self._stop = threading.Event()
        self._upkeep = threading.Thread(target=self._keep_up, name="likewise-upkeep", daemon=True)
        if again is not None or keep is not None:
            self._upkeep.start()

    @property
    def model(self) -> SimilarityModel:
        """The model that is asked."""
        return self.answerer.model

    def follow(self) -> None:
        """Take over the operating points of the model where it was saved again.

        What else was changed needs a restart, which is told in the log: another encoder or
        distance, or another gallery.
        """
        if self.folder is None or self._again is None or _stamp(self.folder) == self._stamp:
            return
        self._stamp, version = _stamp(self.folder), _version(self.folder)
        if version == self.answerer.version:
            return
        old, new = self.model, self._again()
        if _basis(old) != _basis(new):
            _log.warning("the model was saved with another encoder or gallery: start again")
            new.index.close()
            return
        new.encoder, new.query_encoder = old.encoder, old.query_encoder
        if old.gallery is not None:
            new.index.close()
            new.index = old.index
        elif not self.writer.is_open:
            self.writer.model = new
        self.watch.calibrated(_marks(new))
        self.answerer = Answerer(new, self.writer.lock, version)
        _log.info("the model was saved again and is followed", extra={"told": {"version": version}})

    def _keep_up(self) -> None:
        saved = time.monotonic()
        while not self._stop.wait(LOOKED_AGAIN):
            try:
                self.follow()
            except Exception:  # what is served stays as it was
                _log.exception("the model cannot be opened again; the one of before is served")
            if time.monotonic() - saved > SAVED:
                self.watch.save()
                saved = time.monotonic()

    def served(self, *, has_keys: bool) -> Served:
        """What the OpenAPI document tells of the service."""
        reader, made = self.reader, self.model.calibrations
        return Served(
            has_keys,
            reader.queries.kind,
            tuple(name for name, each in made.items() if each.rule != PAIRS),
            tuple(name for name, each in made.items() if each.rule == PAIRS),
            reader.queries.width,
            self.model.index.dimension,
            self.settings,
            known_takes=reader.known.kind if reader.has_two_towers else None,
            known_width=reader.known.width if reader.has_two_towers else None,
        )

    def close(self) -> None:
        """Finish what was begun; what was acknowledged is on disk before."""
        super().close()
        self._writing.shutdown(wait=True)
        self._stop.set()
        if self._upkeep.is_alive():
            self._upkeep.join()
        self.watch.save()
        if self.queue is not None:
            self.queue.close()
        self.model.index.close()

    async def match(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/match`."""
        asked = await self._read(request, content, bodies.MatchRequest, with_items)
        self._check_neighbors(asked.k)
        made = self.answerer.check_point(asked.point, pairs=False)
        if asked.candidates is not None:  # here, as a failure makes a batch be answered twice
            check_candidates(asked.candidates, made, asked.where)
        decided = await self._ask(asked)
        if not isinstance(decided, Decided):
            raise TypeError("a match must be decided")
        answers = decided.answers.answers
        self.counts.saw_matches(asked.point, answers)
        self.watch.saw_matches(asked.point, answers)
        if self.queue is not None and any(answer.label is None for answer in answers):
            await self._run(lambda: self._offer(decided))
        return as_json(decided.answers)

    def _offer(self, decided: Decided) -> None:
        if self.queue is not None:
            self.queue.offer(decided)

    async def add_items(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/items`."""
        self.writer.check_open()
        key = idempotency_of(request)
        asked = await self._read(request, content, bodies.AddRequest, with_new_items)
        digest = ""
        if key is not None:
            digest = await self._run(lambda: digest_of(asked))
            before = self.writer.repeated(key, digest)
            if before is not None:
                return as_json(before, 201)
        items = await self._ask(asked, are_queries=False)
        added = await self._write(
            lambda: self.writer.add(
                items,  # type: ignore[arg-type]
                [item.label for item in asked.items],
                [item.id for item in asked.items],
                [facts_of(item) for item in asked.items],
                key=key,
                digest=digest,
            ),
        )
        return as_json(added, 201)

    async def list_items(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/items`."""
        page = query_of(request, bodies.ItemsPage)
        return as_json(await self._run(lambda: self.writer.listed(page)))

    async def get_item(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/items/{id}`."""
        id_ = request.path_params["id"]
        return as_json(await self._run(lambda: self.writer.get(id_)))

    async def get_picture(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/items/{id}/picture`."""
        id_ = request.path_params["id"]
        return as_picture(await self._run(lambda: self.writer.picture(id_)))

    async def relabel_item(self, request: Request, content: bytes) -> Response:
        """Answer `PATCH /v1/items/{id}`."""
        id_ = request.path_params["id"]
        self.writer.check_open()
        asked = await self._read(request, content, bodies.RelabelRequest, None)
        return as_json(await self._write(lambda: self.writer.relabel(id_, asked.label)))

    async def remove_item(self, request: Request, content: bytes) -> Response:
        """Answer `DELETE /v1/items/{id}`."""
        id_ = request.path_params["id"]
        return as_json(await self._write(lambda: self.writer.remove(id_)))

    async def list_unknowns(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/unknowns`."""
        queue, page = self._queue(), query_of(request, bodies.Page)
        return as_json(await self._run(lambda: queue.listed(page)))

    async def get_unknown_picture(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/unknowns/{id}/picture`."""
        queue, id_ = self._queue(), request.path_params["id"]
        return as_picture(await self._run(lambda: queue.picture(id_)))

    async def enroll_unknown(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/unknowns/{id}/enroll`."""
        queue, id_ = self._queue(), request.path_params["id"]
        if self.reader.has_two_towers:
            raise Refusal(
                "two_towers",
                "unknown must be of the same side as known items to be enrolled, got a query of "
                "two towers. Add the known item that it should find with POST /v1/items.",
            )
        self.writer.check_open()
        asked = await self._read(request, content, bodies.EnrollRequest, None)
        return as_json(await self._write(lambda: self._enrolled(queue, id_, asked)), 201)

    def _enrolled(self, queue: Queue, id_: str, asked: bodies.EnrollRequest) -> bodies.Added:
        items, facts = queue.taken(id_)
        metadata = dict(asked.metadata)
        if facts.get("text") is not None:
            metadata.setdefault("text", facts["text"])
        # Where a crash comes between the two steps, enrolling again adds nothing twice.
        added = self.writer.add(
            items,
            [asked.label],
            [asked.id],
            [metadata],
            key=f"unknown {id_}",
            digest=digest_of(asked),
        )
        queue.remove(id_)
        return added

    async def remove_unknown(self, request: Request, content: bytes) -> Response:
        """Answer `DELETE /v1/unknowns/{id}`."""
        queue, id_ = self._queue(), request.path_params["id"]
        return as_json(await self._run(lambda: queue.remove(id_)))

    async def model_card(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/model`."""
        return as_json(await self._run(self.card))

    def card(self) -> bodies.ModelCard:
        """What is served."""
        answerer, settings = self.answerer, self.settings
        model = answerer.model
        index = model.index
        labels, names = index.labels, index.class_names
        counts = Counter(labels[labels >= 0].tolist())
        told = {str(label_of(code, names)): count for code, count in counts.items()}
        queries, known = self.reader.queries, self.reader.known
        return bodies.ModelCard(
            name=self.name,
            version=answerer.version,
            likewise=likewise.__version__,
            takes=queries.kind,
            item_shape=None if queries.shape is None else list(queries.shape),
            known_takes=known.kind,
            known_item_shape=None if known.shape is None else list(known.shape),
            encoder=_told(model.encoder, answerer.fingerprint, index.dimension),
            query_encoder=None
            if model.query_encoder is None
            else _told(model.query_encoder, answerer.query_fingerprint, index.dimension),
            distance=model.distance.name,
            points=[answerer.point(each) for each in model.calibrations],
            indexed=len(labels),
            classes=dict(sorted(told.items())[:MOST_CLASSES]),
            class_count=len(told),
            trained_on=model.trained_on[:MOST_CLASSES],
            writes=self.writer.is_open,
            keeps_unknowns=self.queue is not None,
            exported=False,
            limits=limits_of(settings),
        )

    async def drift(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/drift`."""
        asked = query_of(request, bodies.DriftQuery)
        made = self.answerer.check_point(asked.point, pairs=False)
        size = len(self.model.index)
        report = await self._run(
            lambda: self.watch.drift(asked.point, made, size, asked.false_alarm),
        )
        return as_json(report)

    async def _write(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, call)

    def _queue(self) -> Queue:
        if self.queue is None:
            raise Refusal(
                "not_kept",
                "unknowns must be kept to be seen, got none. Start the service with --keep DIR.",
            )
        return self.queue


def _told(encoder: nn.Module, fingerprint: str | None, dimension: int | None) -> bodies.Encoder:
    name = None
    if not isinstance(encoder, nn.Identity):
        name = str(getattr(encoder, "name", type(encoder).__name__))
    return bodies.Encoder(name=name, fingerprint=fingerprint, dimension=dimension)


def _marks(model: SimilarityModel) -> dict[str, str]:
    """A hash of each calibration, by the name of its point."""
    return {
        name: hashlib.sha256(json.dumps(made.to_dict()).encode()).hexdigest()[:12]
        for name, made in model.calibrations.items()
    }


def _basis(model: SimilarityModel) -> tuple[object, ...]:
    """What of a model cannot be changed while it is served."""
    before = [
        None if each is None else each.to_dict()
        for each in (model.preprocess, model.query_preprocess)
    ]
    return (
        model.fingerprint,
        None if model.query_encoder is None else model.query_fingerprint,
        model.distance.name,
        before,
        model.gallery is None,
        model.collection,
        model.index.key,
    )


def _stamp(folder: Path) -> tuple[int, int, int]:
    found = (folder / MANIFEST).stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _version(folder: Path | None) -> str:
    if folder is None:
        return "unsaved"
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:12]
