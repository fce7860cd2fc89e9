"""Answers to match, lookup, verify and embed: many requests at once, each of one state."""

import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise.calibration import Calibration
from likewise.data.fingerprints import item_fingerprints
from likewise.data.framing import Framing
from likewise.data.pictures import encode_pictures
from likewise.embedded import Embedded
from likewise.encoders import takes_texts
from likewise.errors import InputError
from likewise.index import MilvusGallery, Neighbors
from likewise.journeys.measuring import measured
from likewise.matching import OF_CENTERS, Matches, match
from likewise.model import SimilarityModel
from likewise.model.trials import PAIRS, candidates_for, neighbors_for
from likewise.service import bodies
from likewise.service.items import Ready, Takes
from likewise.service.jobs import (
    Fields,
    Job,
    fields_of,
    label_of,
    shown_metadata,
    verify_answers,
)
from likewise.service.refusals import Refusal

TRIES = 4  # to read while nobody writes, before writers are made to wait
_T = TypeVar("_T")


@dataclass(frozen=True)
class Decided:
    """The answer to a match, and what must be known to keep its unknowns."""

    answers: bodies.MatchAnswers
    embeddings: Float[Tensor, "n d"]
    ready: Sequence[Ready]
    point: str


class Answerer:
    """Answers jobs of any kind in batches.

    Args:
        model: Answers.
        writing: Whoever changes known items holds it.
        version: Version of the saved model.
    """

    def __init__(
        self,
        model: SimilarityModel,
        writing: "threading.RLock | None" = None,
        version: str = "unsaved",
    ) -> None:
        self.model, self.version = model, version
        self.writing = writing or threading.RLock()
        self.fingerprint = model.fingerprint  # which hashes all weights
        self.query_fingerprint = (
            self.fingerprint if model.query_encoder is None else model.query_fingerprint
        )
        self._points: dict[tuple[str, int], bodies.OperatingPoint] = {}

    def answer(self, jobs: Sequence[Job]) -> list[object]:
        """One answer per job."""
        embeddings = self._embeddings([one for job in jobs for one in job.ready])
        parts = torch.split(embeddings, [len(job.ready) for job in jobs])
        answers: list[object] = [None] * len(jobs)
        searches: list[int] = []
        for at, (job, part) in enumerate(zip(jobs, parts, strict=True)):
            asked = job.asked
            if isinstance(asked, (bodies.MatchRequest, bodies.LookupRequest)):
                searches.append(at)
            elif isinstance(asked, bodies.VerifyRequest):
                answers[at] = self._verified(asked, part)
            elif isinstance(asked, bodies.EmbedRequest):
                made_by = self.query_fingerprint if asked.queries else self.fingerprint
                answers[at] = bodies.Embeddings(part.tolist(), made_by)
            else:
                answers[at] = embedded_of(job.ready, part)
        if searches:
            found = self._of_one_state(
                lambda size: self._searched(
                    [jobs[at] for at in searches], [parts[at] for at in searches], size
                )
            )
            for at, answer in zip(searches, found, strict=True):
                answers[at] = answer
        return answers

    def check_point(self, name: str, *, pairs: bool) -> Calibration:
        """The operating point that a request names.

        Raises:
            Refusal: There is none of its name or of its kind.
        """
        made = self.model.calibrations.get(name)
        if made is not None and (made.rule == PAIRS) == pairs:
            return made
        kind = "pairs" if pairs else "matching"
        known = [n for n, each in self.model.calibrations.items() if (each.rule == PAIRS) == pairs]
        if not known:
            raise Refusal(
                "not_calibrated",
                f"model must be calibrated for {kind}, got no operating point. Run likewise "
                "calibrate: the service follows.",
            )
        raise Refusal("invalid", f"point must be one of {', '.join(sorted(known))}, got {name!r}.")

    def point(self, name: str, size: int | None = None) -> bodies.OperatingPoint:
        """An operating point with what it guarantees now.

        Args:
            name: Name of the point.
            size: Known items; without it they are counted.
        """
        size = len(self.model.index) if size is None else size
        kept = self._points.get((name, size))
        if kept is None:
            if len(self._points) > 1000:
                self._points.clear()
            made = self.model.calibrations[name]
            told = measured(made, self._guarantee(name), size)
            kept = self._points[name, size] = bodies.OperatingPoint(
                name, made.rule, made.k, made.threshold, made.goal, **msgspec.structs.asdict(told)
            )
        return kept

    def _guarantee(self, name: str) -> Any:
        by_class = self.model.class_thresholds.get(name)
        return self.model.calibrations[name].guarantee if by_class is None else by_class.guarantee

    def _embeddings(self, items: Sequence[Ready]) -> Float[Tensor, "n d"]:
        alike: dict[tuple[bool, object], list[int]] = defaultdict(list)
        rows: list[Tensor | None] = [
            None if one.embedding is None else torch.from_numpy(one.embedding) for one in items
        ]
        for at, one in enumerate(items):
            if isinstance(one.given, np.ndarray):
                alike[one.is_query, one.given.shape].append(at)
            elif one.given is not None:
                alike[one.is_query, "text"].append(at)
        for (are_queries, kind), places in alike.items():
            given: Any = [items[at].given for at in places]
            if kind != "text":
                given = torch.from_numpy(np.stack(given))
            made = self.model.embed(given, queries=are_queries)
            if len(places) == len(items):
                return made
            for at, row in zip(places, made, strict=True):
                rows[at] = row
        widths = {len(row) for row in rows if row is not None}
        if len(widths) > 1:
            raise Refusal("invalid", f"embeddings must be of one length, got {sorted(widths)}.")
        return torch.stack([row for row in rows if row is not None])

    def _of_one_state(self, read: Callable[[int], _T]) -> _T:
        """What is read, given how many items are known, while nobody changes them.

        Every change puts another tensor of labels in place, so the same one before and after
        means that all that was read between is of one state.
        """
        index = self.model.index
        if isinstance(index, MilvusGallery):  # which reads everything anew at each call
            return read(len(index))
        for _ in range(TRIES):
            before = index.labels
            try:
                found = read(len(before))
            except InputError:
                if index.labels is before:
                    raise
                continue
            if index.labels is before:
                return found
        with self.writing:
            return read(len(index))

    def _searched(self, jobs: Sequence[Job], parts: Sequence[Tensor], size: int) -> list[object]:
        answers: list[object] = [None] * len(jobs)
        groups: dict[bytes, list[int]] = defaultdict(list)
        for at, job in enumerate(jobs):
            groups[msgspec.json.encode(job.asked.where)].append(at)
        for places in groups.values():
            where = jobs[places[0]].asked.where
            asked = [jobs[at] for at in places]
            rows = [parts[at] for at in places]
            for at, answer in zip(places, self._looked_up(asked, rows, size, where), strict=True):
                answers[at] = answer
        return answers

    def _looked_up(
        self,
        jobs: Sequence[Job],
        parts: Sequence[Tensor],
        size: int,
        where: Mapping[str, Any] | None,
    ) -> list[object]:
        """One lookup for all that ask among the same known items, of which there are `size`."""
        model = self.model
        if not size:
            raise Refusal("too_few_items", "gallery must hold items, got none. Add some first.")
        asked = [job.asked for job in jobs]
        wanted = [min(each.k, size) for each in asked]
        points = [
            self.check_point(each.point, pairs=False)
            if isinstance(each, bodies.MatchRequest)
            else None
            for each in asked
        ]
        alone = [made is not None and self._needs_own_lookup(made) for made in points]
        needed = [
            0 if made is None or made.rule in OF_CENTERS else (made.k or 1) for made in points
        ]
        if max(needed) > size:
            raise Refusal(
                "too_few_items",
                f"gallery must hold at least {max(needed)} items for this operating point, "
                f"got {size}.",
            )
        deciding = [0 if apart else k for k, apart in zip(needed, alone, strict=True)]
        most = max([*wanted, *deciding])
        embeddings = torch.cat(list(parts))
        found = model.index.lookup(embeddings, k=most, where=where) if most else None
        starts = [0, *itertools.accumulate(len(part) for part in parts)]
        shown = self._shown(found, starts, wanted)
        decided = self._decided(found, parts, starts, asked, points, alone, where)
        answers: list[object] = []
        for at, each in enumerate(asked):
            near = shown[starts[at] : starts[at + 1]]
            if isinstance(each, bodies.LookupRequest):
                told = bodies.LookupAnswers([bodies.LookupAnswer(one) for one in near])
                answers.append(told)
            else:
                matched = [
                    bodies.MatchAnswer(*fields, one)
                    for fields, one in zip(decided[at], near, strict=True)
                ]
                whole = bodies.MatchAnswers(matched, self.point(each.point, size))
                if each.candidates is not None:
                    self._tell_candidates(whole, each, each.candidates, parts[at])
                answers.append(Decided(whole, parts[at], jobs[at].ready, each.point))
        return answers

    def _decided(
        self,
        found: Neighbors | None,
        parts: Sequence[Tensor],
        starts: Sequence[int],
        asked: Sequence[Any],
        points: Sequence[Calibration | None],
        alone: Sequence[bool],
        where: Mapping[str, Any] | None,
    ) -> dict[int, list[Fields]]:
        """Label, distance, threshold and probability of each item; jobs of a point together."""
        together: dict[str, list[int]] = defaultdict(list)
        for at, made in enumerate(points):
            if made is not None:
                together[asked[at].point].append(at)
        decided: dict[int, list[Fields]] = {}
        for name, places in together.items():
            made = self.model.calibrations[name]
            rule, k = self.model.rules.get(made.rule, made.rule), made.k or 1
            if alone[places[0]] or found is None:
                embeddings = torch.cat([parts[at] for at in places])
                near = neighbors_for(
                    self.model.index, embeddings, norm=self.model.norm, rule=rule, k=k, where=where
                )
            else:
                rows = [row for at in places for row in range(starts[at], starts[at + 1])]
                near = _taken(found, rows, k)
            fields = iter(fields_of(self._matched(near, name, made)))
            for at in places:
                decided[at] = list(itertools.islice(fields, len(parts[at])))
        return decided

    def _tell_candidates(
        self,
        whole: bodies.MatchAnswers,
        asked: bodies.MatchRequest,
        level: float,
        embeddings: Float[Tensor, "n d"],
    ) -> None:
        made = self.model.calibrations[asked.point]
        found = candidates_for(
            self.model.index,
            embeddings,
            made,
            level,
            norm=self.model.norm,
            rule=self.model.rules.get(made.rule, made.rule),
        )
        whole.candidates_rest_on = found.rests_on
        for answer, names in zip(whole.answers, found.names, strict=True):
            answer.candidates = names

    def _needs_own_lookup(self, made: Calibration) -> bool:
        # Centers are no items, and normalizing another number of neighbors gives other answers.
        return made.rule in OF_CENTERS or self.model.norm is not None

    def _matched(self, near: Neighbors, name: str, made: Calibration) -> Matches:
        return match(
            near,
            self.model.class_thresholds.get(name, made),
            rule=self.model.rules.get(made.rule, made.rule),
            probability=self.model.probabilities.get(name),
        )

    def _shown(
        self, found: Neighbors | None, starts: Sequence[int], wanted: Sequence[int]
    ) -> list[list[bodies.Neighbor]]:
        """The neighbors of every item, as they are told."""
        if found is None or not max(wanted):
            return [[] for _ in range(starts[-1])]
        most = max(wanted)
        distances = found.distances[:, :most].tolist()
        labels = found.labels[:, :most].tolist()
        ids = found.ids[:, :most].tolist()
        counts = [k for at, k in enumerate(wanted) for _ in range(starts[at + 1] - starts[at])]
        places = [
            (row, column)
            for row, k in enumerate(counts)
            for column in range(k)
            if not math.isinf(distances[row][column])
        ]
        asked = list(dict.fromkeys(ids[row][column] for row, column in places))
        facts = dict(zip(asked, self.model.index.metadata(asked), strict=True)) if asked else {}
        told: list[list[bodies.Neighbor]] = [[] for _ in counts]
        for row, column in places:
            id_ = ids[row][column]
            told[row].append(
                bodies.Neighbor(
                    str(id_),
                    label_of(labels[row][column], found.class_names),
                    distances[row][column],
                    shown_metadata(facts[id_]),
                )
            )
        return told

    def _verified(
        self, asked: bodies.VerifyRequest, sides: Float[Tensor, "n d"]
    ) -> bodies.VerifyAnswers:
        self.check_point(asked.point, pairs=True)
        left, right = sides.view(2, len(asked.pairs), -1)
        decided = self.model.verify(
            _plain(left), _plain(right), point=asked.point, prior=asked.prior
        )
        return bodies.VerifyAnswers(verify_answers(decided), self.point(asked.point))


def _taken(found: Neighbors, rows: Sequence[int], k: int) -> Neighbors:
    if len(rows) == len(found.ids):
        ids, distances, labels = found.ids, found.distances, found.labels
    else:
        ids, distances, labels = found.ids[rows], found.distances[rows], found.labels[rows]
    return replace(found, ids=ids[:, :k], distances=distances[:, :k], labels=labels[:, :k])


def _plain(embeddings: Float[Tensor, "n d"]) -> Embedded:
    rows = torch.arange(len(embeddings))
    return Embedded(embeddings, torch.full_like(rows, -1), [], torch.zeros_like(rows), rows)


def embedded_of(ready: Sequence[Ready], embeddings: Float[Tensor, "n d"]) -> Embedded:
    """Items with fingerprints and small pictures, to be kept."""
    prints, pictures = [], []
    for one, row in zip(ready, embeddings, strict=True):
        given = torch.from_numpy(one.given) if isinstance(one.given, np.ndarray) else one.given
        given = row if given is None else given
        if isinstance(given, Tensor):
            prints.append(item_fingerprints(given[None].float()))
            pictures += encode_pictures(given[None])
        else:
            prints.append(item_fingerprints([given]))
            pictures.append(None)
    return replace(_plain(embeddings), fingerprints=torch.cat(prints), pictures=pictures)


def taken_by(model: SimilarityModel, *, queries: bool = False) -> Takes:
    """What a model takes.

    Args:
        model: The model.
        queries: Side of two towers.

    Example:
        >>> import likewise as lw
        >>> taken_by(lw.SimilarityModel(None)).kind
        'vector'
    """
    encoder, preprocess = model.tower(queries=queries)
    if takes_texts(encoder):
        return Takes("text")
    if isinstance(encoder, nn.Identity):
        dimension = model.index.dimension
        return Takes("vector", None if dimension is None else (dimension,), encodes=False)
    if preprocess is None:
        return Takes("vector")
    shape = tuple(preprocess.item_shape)
    if len(shape) == 3 and shape[0] in (1, 3):
        return Takes("image", shape, preprocess.framing or Framing(*shape[1:]))
    return Takes("vector", shape)
