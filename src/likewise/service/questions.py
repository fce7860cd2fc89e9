"""The endpoints that answer alike over any model: what is read, asked in a batch, and told."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from likewise.service import bodies
from likewise.service.asking import (
    SMALL,
    Form,
    as_json,
    is_slow,
    read_body,
    with_items,
    with_pair,
)
from likewise.service.batching import Batcher
from likewise.service.counting import Counts
from likewise.service.items import Reader
from likewise.service.jobs import Job
from likewise.service.refusals import Refusal
from likewise.service.settings import Settings

if TYPE_CHECKING:
    from likewise.service.answering import Answerer
    from likewise.service.exported_answering import ExportedAnswerer

MOST_CLASSES = 1000  # that are listed
_T = TypeVar("_T")


class Questions:
    """Answers requests that need nothing but the answers of a batch.

    Args:
        reader: Decodes items.
        answerer: Answers batches. Another may take its place while requests come.
        settings: Say what is allowed.
    """

    def __init__(
        self, reader: Reader, answerer: "Answerer | ExportedAnswerer", settings: Settings
    ) -> None:
        self.reader, self.settings = reader, settings
        self.answerer = answerer
        self.counts = Counts()
        self.is_ready = True
        # All of a batch is answered by one answerer, while another may take its place.
        self.batcher: Batcher[Job] = Batcher(
            self._prepare,
            lambda jobs: self.answerer.answer(jobs),
            most=settings.batch,
            wait=settings.wait_ms / 1000,
            is_slow=is_slow,
            told=self.counts.saw_batch,
        )
        self._slow = ThreadPoolExecutor(2, thread_name_prefix="likewise-slow")

    def close(self) -> None:
        """Finish what was begun."""
        self.batcher.close()
        self._slow.shutdown(wait=True)

    async def verify(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/verify`."""
        asked = await self._read(request, content, bodies.VerifyRequest, with_pair)
        self.answerer.check_point(asked.point, pairs=True)
        self.reader.check_count(asked.pairs)
        items = [pair.a for pair in asked.pairs] + [pair.b for pair in asked.pairs]
        names = [f"pairs[{at}].{side}" for side in "ab" for at in range(len(asked.pairs))]
        job = Job(asked, items, names, queries=len(asked.pairs))
        return as_json(await self.batcher.ask(job, len(items)))

    async def lookup(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/lookup`."""
        asked = await self._read(request, content, bodies.LookupRequest, with_items)
        self._check_neighbors(asked.k)
        return as_json(await self._ask(asked))

    async def embed(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/embed`."""
        asked = await self._read(request, content, bodies.EmbedRequest, with_items)
        return as_json(await self._ask(asked, are_queries=asked.queries))

    async def health(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/health`."""
        return as_json(bodies.Health("alive"))

    async def ready(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/ready`, which is refused before where the service is about to stop."""
        return as_json(bodies.Health("ready"))

    async def metrics(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/metrics`."""
        text = await self._run(self.counts.metrics)
        return Response(text, media_type="text/plain; version=0.0.4")

    def _prepare(self, job: Job) -> None:
        job.ready = [
            self.reader.read(item, name, is_query=at < job.queries)
            for at, (item, name) in enumerate(zip(job.items, job.names, strict=True))
        ]

    async def _ask(self, asked: Any, *, are_queries: bool = True) -> object:
        self.reader.check_count(asked.items)
        names = [f"items[{at}]" for at in range(len(asked.items))]
        job = Job(asked, asked.items, names, queries=len(names) if are_queries else 0)
        return await self.batcher.ask(job, len(names))

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._slow, call)

    async def _read(
        self, request: Request, content: bytes, kind: type[_T], form: Form | None
    ) -> _T:
        typed = request.headers.get("content-type", "")
        takes = (self.reader.queries.kind, self.reader.known.kind)
        if len(content) <= SMALL or not typed.lower().startswith("application/json"):
            return read_body(typed, content, kind, form, takes)
        return await self._run(lambda: read_body(typed, content, kind, form, takes))

    def _check_neighbors(self, k: int) -> None:
        most = self.settings.most_neighbors
        if k > most:
            raise Refusal("invalid", f"k must be at most {most}, got {k}.")
