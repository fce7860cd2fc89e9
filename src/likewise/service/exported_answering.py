"""Answers of an exported model to match, lookup, verify and embed, in batches and without torch."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from likewise.runtime import Neighbors, Runtime
from likewise.runtime.exported import Point
from likewise.runtime.inputs import framing_of
from likewise.runtime.loaded import PAIRS
from likewise.service import bodies
from likewise.service.items import Numbers, Takes
from likewise.service.jobs import (
    Job,
    fields_of,
    label_of,
    shown_metadata,
    verify_answers,
)
from likewise.service.refusals import Refusal, not_exported


class ExportedAnswerer:
    """Answers jobs of any kind in batches.

    Args:
        runtime: Answers.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._points = {name: _told(name, made) for name, made in runtime.points.items()}

    def answer(self, jobs: Sequence[Job]) -> list[object]:
        """One answer per job."""
        embeddings = self._embeddings(jobs)
        ends = list(itertools.accumulate(len(job.ready) for job in jobs))
        parts = np.split(embeddings, ends[:-1])
        answers: list[object] = [None] * len(jobs)
        searches: list[int] = []
        for at, (job, part) in enumerate(zip(jobs, parts, strict=True)):
            if isinstance(job.asked, (bodies.MatchRequest, bodies.LookupRequest)):
                searches.append(at)
            elif isinstance(job.asked, bodies.VerifyRequest):
                answers[at] = self._verified(job.asked, part)
            else:
                answers[at] = bodies.Embeddings(part.tolist(), self.runtime.manifest.encoder)
        if searches:
            asked, sides = [jobs[at].asked for at in searches], [parts[at] for at in searches]
            for at, answer in zip(searches, self._searched(asked, sides), strict=True):
                answers[at] = answer
        return answers

    def check(self, asked: Any) -> None:
        """Refuse what only a model with its own folder can answer."""
        for name in ("where", "candidates"):
            if getattr(asked, name, None) is not None:
                raise not_exported(name)

    def check_point(self, name: str, *, pairs: bool) -> bodies.OperatingPoint:
        """The operating point that a request names.

        Raises:
            Refusal: There is none of its name or of its kind.
        """
        known = [n for n, made in self._points.items() if (made.rule == PAIRS) == pairs]
        if name in known:
            return self._points[name]
        if not known:
            raise Refusal(
                "not_calibrated",
                f"model must be calibrated for {'pairs' if pairs else 'matching'} before it is "
                "exported, got no operating point. Calibrate it, and export it again.",
            )
        raise Refusal("invalid", f"point must be one of {', '.join(sorted(known))}, got {name!r}.")

    def _embeddings(self, jobs: Sequence[Job]) -> Numbers:
        items = [one for job in jobs for one in job.ready]
        by_shape: dict[object, list[int]] = defaultdict(list)
        rows: list[Any] = [one.embedding for one in items]
        for at, one in enumerate(items):
            if one.given is not None:
                by_shape["text" if isinstance(one.given, str) else one.given.shape].append(at)
        for kind, places in by_shape.items():
            given: Any = [items[at].given for at in places]
            made = self.runtime.embed(given if kind == "text" else np.stack(given))
            for at, row in zip(places, made, strict=True):
                rows[at] = row
        widths = {len(row) for row in rows}
        if len(widths) > 1:
            raise Refusal("invalid", f"embeddings must be of one length, got {sorted(widths)}.")
        return np.stack(rows)

    def _searched(self, asked: Sequence[Any], parts: Sequence[Numbers]) -> list[object]:
        size = len(self.runtime.labels)
        if not size:
            raise Refusal("too_few_items", "model must hold items, got none. Export one with some.")
        wanted = [min(each.k, size) for each in asked]
        shown: list[list[list[bodies.Neighbor]]] = [[[] for _ in part] for part in parts]
        if most := max(wanted):
            found = self.runtime.lookup_embedded(np.concatenate(parts), k=most)
            rows = iter(self._shown(found))
            shown = [
                [near[:k] for near in itertools.islice(rows, len(part))]
                for part, k in zip(parts, wanted, strict=True)
            ]
        decided: dict[int, list[bodies.MatchAnswer]] = {}
        together: dict[str, list[int]] = defaultdict(list)
        for at, each in enumerate(asked):
            if isinstance(each, bodies.MatchRequest):
                together[each.point].append(at)
        for name, places in together.items():
            needed = self.check_point(name, pairs=False).k or 1
            if needed > size:
                raise Refusal(
                    "too_few_items",
                    f"model must hold at least {needed} items for this operating point, got "
                    f"{size}.",
                )
            whole = self.runtime.match_embedded(
                np.concatenate([parts[at] for at in places]), point=name
            )
            fields = iter(fields_of(whole))
            for at in places:
                decided[at] = [bodies.MatchAnswer(*next(fields), near) for near in shown[at]]
        return [
            bodies.MatchAnswers(decided[at], self.check_point(each.point, pairs=False))
            if isinstance(each, bodies.MatchRequest)
            else bodies.LookupAnswers([bodies.LookupAnswer(near) for near in shown[at]])
            for at, each in enumerate(asked)
        ]

    def _shown(self, found: Neighbors) -> list[list[bodies.Neighbor]]:
        """The neighbors of every item, as they are told."""
        return [
            [
                bodies.Neighbor(
                    str(id_),
                    label_of(code, found.class_names),
                    distance,
                    shown_metadata(found.known.get(id_, {})),
                )
                for id_, code, distance in zip(ids, codes, distances, strict=True)
            ]
            for ids, codes, distances in zip(
                found.ids.tolist(), found.labels.tolist(), found.distances.tolist(), strict=True
            )
        ]

    def _verified(self, asked: bodies.VerifyRequest, sides: Numbers) -> bodies.VerifyAnswers:
        point = self.check_point(asked.point, pairs=True)
        left, right = np.split(sides, 2)
        decided = self.runtime.verify_embedded(left, right, point=asked.point, prior=asked.prior)
        return bodies.VerifyAnswers(verify_answers(decided), point)


def taken_by(runtime: Runtime) -> Takes:
    """What an exported model takes."""
    manifest = runtime.manifest
    if manifest.tokens is not None:
        return Takes("text")
    shape = tuple(manifest.item_shape or ()) or None
    if manifest.encoder is None:
        width = runtime.dimension
        return Takes("vector", shape if width is None else (width,), encodes=False)
    if shape is not None and len(shape) == 3 and shape[0] in (1, 3):
        return Takes("image", shape, framing_of(shape, manifest.frame))
    return Takes("vector", shape)


def _told(name: str, made: Point) -> bodies.OperatingPoint:
    measured = msgspec.structs.asdict(made.measured)
    return bodies.OperatingPoint(name, made.rule, made.k, made.threshold, made.goal, **measured)
