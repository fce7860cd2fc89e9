"""What each endpoint does over an exported model; what it cannot do has no method here."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

import likewise
from likewise.runtime import Runtime
from likewise.runtime.exported import MANIFEST, checksum
from likewise.runtime.loaded import PAIRS
from likewise.service import bodies
from likewise.service.asking import as_json, limits_of, query_of, with_items
from likewise.service.exported_answering import ExportedAnswerer, taken_by
from likewise.service.items import Reader
from likewise.service.jobs import label_of, shown_metadata
from likewise.service.openapi import Served
from likewise.service.questions import MOST_CLASSES, Questions
from likewise.service.refusals import Refusal
from likewise.service.settings import Settings


class ExportedRoutes(Questions):
    """Answers requests over an exported model, without torch.

    Args:
        runtime: Is asked.
        settings: Say what is allowed.
        folder: The folder of the exported model.
    """

    answerer: ExportedAnswerer

    def __init__(self, runtime: Runtime, settings: Settings, *, folder: Path) -> None:
        reader = Reader(taken_by(runtime), settings, lambda: runtime.dimension)
        super().__init__(reader, ExportedAnswerer(runtime), settings)
        self.runtime = runtime
        self.name = folder.resolve().name
        self.version = checksum((folder / MANIFEST).read_bytes())[:12]
        self.counts.gauge("likewise_items", "Known items.", lambda: len(runtime.labels))
        self._rows = {str(id_): row for row, id_ in enumerate(runtime.ids.tolist())}

    def served(self, *, has_keys: bool) -> Served:
        """What the OpenAPI document tells of the service."""
        takes, points = self.reader.known, self.runtime.points
        return Served(
            has_keys,
            takes.kind,
            tuple(name for name, each in points.items() if each.rule != PAIRS),
            tuple(name for name, each in points.items() if each.rule == PAIRS),
            takes.width,
            self.runtime.dimension,
            self.settings,
            exported=True,
        )

    async def match(self, request: Request, content: bytes) -> Response:
        """Answer `POST /v1/match`."""
        asked = await self._read(request, content, bodies.MatchRequest, with_items)
        self._check_neighbors(asked.k)
        self.answerer.check_point(asked.point, pairs=False)
        decided: Any = await self._ask(asked)
        self.counts.saw_matches(asked.point, decided.answers)
        return as_json(decided)

    async def list_items(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/items`."""
        page = query_of(request, bodies.ItemsPage)
        return as_json(await self._run(lambda: self._listed(page)))

    async def get_item(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/items/{id}`."""
        return as_json(self._item(self._row(request.path_params["id"])))

    async def model_card(self, request: Request, content: bytes) -> Response:
        """Answer `GET /v1/model`."""
        return as_json(await self._run(self.card))

    def card(self) -> bodies.ModelCard:
        """What is served."""
        runtime, manifest = self.runtime, self.runtime.manifest
        counts = Counter(runtime.labels[runtime.labels >= 0].tolist())
        told = {str(label_of(code, runtime.class_names)): many for code, many in counts.items()}
        takes = self.reader.known
        shape = None if takes.shape is None else list(takes.shape)
        return bodies.ModelCard(
            name=self.name,
            version=self.version,
            likewise=likewise.__version__,
            takes=takes.kind,
            item_shape=shape,
            known_takes=takes.kind,
            known_item_shape=shape,
            encoder=bodies.Encoder(
                name=None if manifest.encoder is None else f"ONNX, {manifest.precision}",
                fingerprint=manifest.encoder,
                dimension=runtime.dimension,
            ),
            query_encoder=None,
            distance=manifest.distance,
            points=[
                self.answerer.check_point(name, pairs=each.rule == PAIRS)
                for name, each in runtime.points.items()
            ],
            indexed=len(runtime.labels),
            classes=dict(sorted(told.items())[:MOST_CLASSES]),
            class_count=len(told),
            trained_on=[],
            writes=False,
            keeps_unknowns=False,
            exported=True,
            limits=limits_of(self.settings),
        )

    def _listed(self, page: bodies.ItemsPage) -> bodies.KnownItems:
        rows = np.arange(len(self.runtime.labels))
        if isinstance(page.label, str):
            names = self.runtime.class_names
            codes = {label_of(code, names): code for code in set(self.runtime.labels.tolist())}
            rows = rows[self.runtime.labels == codes.get(page.label, -2)]
        total = len(rows)
        if isinstance(page.before, str):
            rows = rows[rows < self._row(page.before)]
        chosen = rows[::-1][: page.limit].tolist()
        items = [self._item(row) for row in chosen]
        more = len(rows) > len(chosen)
        return bodies.KnownItems(items, total, items[-1].id if more and items else None)

    def _item(self, row: int) -> bodies.KnownItem:
        runtime = self.runtime
        id_ = runtime.ids[row].item()
        label = label_of(int(runtime.labels[row]), runtime.class_names)
        return bodies.KnownItem(str(id_), label, shown_metadata(runtime.metadata[id_]), False)

    def _row(self, id_: str) -> int:
        row = self._rows.get(id_)
        if row is None:
            raise Refusal(
                "not_found", f"item must be known, got the id {id_[:80]!r}, which is not."
            )
        return row

    async def _ask(self, asked: Any, *, are_queries: bool = True) -> object:
        self.answerer.check(asked)
        return await super()._ask(asked, are_queries=are_queries)
