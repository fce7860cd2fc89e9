"""Search that is exact for small galleries and nearly so, but much faster, for large ones."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_choice, check_rate
from likewise.distances import COSINE, INNER_PRODUCT, Distance, unit
from likewise.index._growing import GrowingArray
from likewise.index._searching.exact import BY_PRODUCT, ExactSearch, chunks, ranked_by
from likewise.index._searching.inside import (
    KINDS,
    PER_LIST,
    Graph,
    Inside,
    Lists,
    selector_of,
)
from likewise.index._searching.storage import unpack

EXACT_UP_TO = 50_000  # rows; below, an exact lookup takes a few ms and training does not pay
STEP = 2**14  # rows that go into the lists at once
SAMPLE = 500  # rows looked up to measure recall
SAMPLE_K = 10


class Search:
    """The k rows nearest to each query: exactly, or with the recall that was asked for.

    From `EXACT_UP_TO` rows on and where `recall` is given, rows are kept in about 4√n lists by
    their nearest center, with 8 bits a number (FAISS's IVF) or RaBitQ's 4, and a query looks only
    into the nearest lists; or in a graph (HNSW), of which a query walks a part. How many lists, or
    how large a part, is chosen on a sample so that the recall asked for is reached.
    `distance.paired` ranks what is found, so distances are exact. New rows go in at the next
    lookup; when the rows have doubled, it is trained anew. Training runs in a thread of its own.
    Until the first is done, and where the recall needs more than a quarter of the lists, search is
    exact.

    After `wait`, answers depend only on the rows and the calls, not on timing.

    Args:
        distance: cosine, Euclidean, squared Euclidean or inner product; any other is searched
            exactly.
        recall: the share of the true 10 nearest that shall be found, on average; None for exact.
        approximate: what holds rows for that: "IVF", "HNSW" or "RaBitQ".
    """

    def __init__(
        self, distance: Distance, *, recall: float | None = None, approximate: str = "IVF"
    ) -> None:
        if recall is not None:
            check_rate("recall", recall)
        check_choice("approximate", approximate, KINDS)
        self._approximate = approximate
        self._distance = distance
        self._exact = ExactSearch(distance)
        self._recall = recall if distance in BY_PRODUCT and recall != 1 else None
        self._lock = threading.Lock()
        self._lists: Trained | None = None
        self._builder: threading.Thread | None = None
        self._built: Trained | BaseException | None = None
        self._tried = 0  # rows for which a build was begun
        self._is_retired = False  # the lists are those of other rows now

    @property
    def kind(self) -> str:
        """How most rows are searched."""
        lists = self._lists
        if lists is None or not lists.effort:
            return "exact"
        return lists.inside.told(lists.effort)

    @property
    def measured_recall(self) -> float | None:
        """On a sample of stored rows, against exact search; None where all is exact."""
        return self._lists.recall if self._lists is not None and self._lists.effort else None

    @property
    def trained(self) -> int:
        """How many rows are in the lists."""
        return self._lists.rows if self._lists is not None and self._lists.effort else 0

    def kept(self, kept: Bool[Tensor, " n"]) -> "Search":
        """The search of the rows that `kept` marks.

        This one stays that of all rows, but gives its lists away: it is exact from now on.
        """
        self.wait()
        search = Search(self._distance, recall=self._recall, approximate=self._approximate)
        search._exact = self._exact.kept(kept)
        with self._lock:
            lists, self._lists, self._is_retired = self._lists, None, True
        if lists is not None:
            lists.keep(kept)
            if 2 * lists.alive >= len(lists.now):  # else mostly holes; start again
                search._lists, search._tried = lists, self._tried
        return search

    def wait(self) -> None:
        """Return when no training runs any more."""
        while (builder := self._builder) is not None:
            builder.join()
            with self._lock:
                self._take_over()

    @contextmanager
    def trained_lists(self) -> Iterator["Trained | None"]:
        """What was trained, to be kept; meanwhile nothing is looked up or put in."""
        with self._lock:
            yield self._lists

    def take(self, lists: "Trained", stored: Tensor) -> None:
        """Search by what was trained before, of rows of which these are the first or all."""
        recall = self._recall
        if recall is None or self._approximate != lists.inside.kind:
            return
        if lists.asked != recall:
            generator = torch.Generator().manual_seed(0)
            sample = torch.randperm(lists.rows, generator=generator)[:SAMPLE]
            lists.tune(stored, sample, recall)
        with self._lock:
            self._lists, self._tried = lists, lists.trained_on

    def ready(self, stored: Tensor) -> None:
        """Train, if the rows ask for it, and return when that is done."""
        self._caught_up(stored)
        self.wait()
        self._caught_up(stored)  # what came behind the rows that it was trained on

    def nearest(
        self,
        queries: Float[Tensor, "q d"],
        stored: Tensor,
        k: int,
        allowed: Bool[Tensor, " n"] | None = None,
    ) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """Distances and positions, nearest first; see `ExactSearch.nearest`."""
        lists = self._caught_up(stored)
        few = allowed is not None and int(allowed.sum()) < EXACT_UP_TO
        if lists is None or few or k + lists.inside.beyond(k) > EXACT_UP_TO or not len(queries):
            return self._exact.nearest(queries, stored, k, allowed)
        size = len(stored)
        with self._lock:  # FAISS must not add while it searches
            is_retired = self._is_retired
            if not is_retired:
                rows = min(lists.rows, size)
                proposed = lists.propose(queries, k + lists.inside.beyond(k), allowed, rows)
        if is_retired:
            return self._exact.nearest(queries, stored, k, allowed)
        padded = bool((proposed < 0).any())
        distances, positions = ranked_by(self._distance, queries, stored, proposed, padded=padded)
        distances, positions = distances[:, :k], positions[:, :k]
        if rows < size:
            late, behind = self._exact.nearest(queries, stored, k, allowed, first=rows)
            distances, order = torch.cat([distances, late], dim=1).sort(dim=1, stable=True)
            positions = torch.cat([positions, behind], dim=1).gather(1, order)
            distances, positions = distances[:, :k], positions[:, :k]
        # Lists that hold too few that are allowed must not hide the others.
        if padded and len(short := (positions[:, -1] < 0).nonzero().squeeze(1)):
            distances, positions = distances.clone(), positions.clone()
            distances[short], positions[short] = self._exact.nearest(
                queries[short], stored, k, allowed
            )
        return distances, positions

    def _caught_up(self, stored: Tensor) -> "Trained | None":
        count = len(stored)
        if self._recall is None or count < EXACT_UP_TO:
            return None
        with self._lock:
            if self._is_retired:
                return None
            self._take_over()
            size = EXACT_UP_TO
            while 2 * size <= count:
                size *= 2
            if self._builder is None and size > self._tried:
                self._tried = size
                self._begin(stored, size)
            lists = self._lists
            if lists is None or not lists.effort:
                return None
            if not (lists.inside.is_mapped and count - lists.rows < STEP):
                lists.add(stored)
            return lists

    def _begin(self, stored: Tensor, size: int) -> None:
        recall, kind = self._recall, self._approximate

        def work() -> None:
            built: Trained | BaseException
            try:
                built = Trained.of(self._distance, stored, size, float(recall or 0), kind)
            except BaseException as error:  # the next lookup raises it
                built = error
            self._built = built

        # Not a daemon: Python waits for it at its end, rather than tear torch away from it.
        self._builder = threading.Thread(target=work, name="likewise-index-build")
        self._builder.start()

    def _take_over(self) -> None:
        if self._builder is None or self._builder.is_alive():
            return
        built, self._builder, self._built = self._built, None, None
        if isinstance(built, BaseException):
            raise built
        if built is not None:
            self._lists = built


class Trained:
    """Rows inside FAISS, where each stands now, and how hard they are searched.

    Args:
        distance: decides.
        inside: What holds the rows.
        now: Where each row that ever went in stands now, -1 if it is gone.
        rows: Number of the stored rows that are in it; they are the first.
        trained_on: For how many rows it was trained.
    """

    def __init__(
        self,
        distance: Distance,
        inside: Inside,
        now: np.ndarray[Any, Any] | None = None,
        *,
        rows: int = 0,
        trained_on: int,
    ) -> None:
        self._distance = distance
        self.inside = inside
        self._now = GrowingArray(np.empty(0, dtype=np.int64) if now is None else now)
        self.rows, self.trained_on = rows, trained_on
        self.alive = int((self._now.view >= 0).sum())
        self.effort, self.recall, self.asked = 0, 1.0, 0.0

    @classmethod
    def of(
        cls, distance: Distance, stored: Tensor, size: int, recall: float, kind: str
    ) -> "Trained":
        """The first `size` rows inside FAISS, searched as hard as the recall takes."""
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(size, generator=generator)
        lists = 2 ** round(torch.tensor(4 * size**0.5).log2().item())
        lists = max(1, min(lists, size // PER_LIST))
        training = prepared(distance, stored[order[: lists * PER_LIST]])
        is_product = distance is INNER_PRODUCT
        inside: Inside
        if kind == "HNSW":
            inside = Graph.trained(training, is_product=is_product)
        else:
            inside = Lists.trained(kind, training, lists, is_product=is_product)
        made = cls(distance, inside, trained_on=size)
        made.add(stored[:size])
        made.tune(stored[:size], order[-SAMPLE:], recall)
        return made

    @property
    def now(self) -> Int[Tensor, " n"]:
        """Where each row that ever went in stands now; -1 if it is gone."""
        return torch.from_numpy(self._now.view)

    def add(self, stored: Tensor) -> None:
        """Put in the rows behind those there are."""
        for rows in chunks(stored[self.rows :], 64, 64 * STEP):
            self.inside.add(prepared(self._distance, rows), len(self.now))
            self._now.append(np.arange(self.rows, self.rows + len(rows)))
            self.rows += len(rows)
            self.alive += len(rows)

    def keep(self, kept: Bool[Tensor, " n"]) -> None:
        """Renumber; what is gone is never proposed again."""
        kept = kept[: self.rows]
        new = torch.where(kept, kept.cumsum(0) - 1, -1)
        now = torch.where(self.now >= 0, new[self.now.clamp(min=0)], -1)
        self._now = GrowingArray(now.numpy())
        self.rows = self.alive = int(kept.sum())

    def propose(
        self,
        queries: Tensor,
        count: int,
        allowed: Tensor | None,
        rows: int,
        effort: int | None = None,
    ) -> Int[Tensor, "q c"]:
        """Positions of about the nearest rows before `rows`, -1 where there are no more."""
        queries = prepared(self._distance, queries)
        is_whole = self.alive == len(self.now)
        selector = bits = None
        if allowed is not None or not is_whole or rows < self.rows:
            may = (self.now >= 0) & (self.now < rows)
            if allowed is not None:
                may &= allowed[self.now.clamp(min=0, max=len(allowed) - 1)]
            selector, bits = selector_of(may)
        found = self.inside.search(queries, count, effort or self.effort, selector)
        del bits  # which FAISS read until here
        return found if is_whole else torch.where(found >= 0, self.now[found.clamp(min=0)], -1)

    def tune(self, stored: Tensor, sample: Tensor, asked: float) -> None:
        """Choose how hard to search, and measure the recall of it; 0 where exact search is due."""
        self.asked = asked
        queries = unpack(stored[sample])
        k = min(SAMPLE_K, len(stored) - 1)
        truth, _ = ExactSearch(self._distance).nearest(queries, stored, k + 1)
        more = self.inside.beyond(k + 1)
        effort = self.inside.next_effort(0)
        while effort <= self.inside.most:
            proposed = self.propose(queries, k + 1 + more, None, self.rows, effort)
            found, _ = ranked_by(self._distance, queries, stored, proposed, padded=True)
            # An item finds itself, which proves nothing; equal distances are as good.
            hits = (found[:, : k + 1] <= truth[:, -1:]).sum(dim=1).clamp(max=k + 1) - 1
            shares = hits.clamp(min=0) / k
            recall = float(shares.mean())
            unsure = 2 * float(shares.std()) / len(shares) ** 0.5
            if recall - unsure >= asked:
                self.effort, self.recall = effort, recall
                return
            effort = self.inside.next_effort(effort)
        self.effort, self.recall = 0, 1.0


def prepared(distance: Distance, rows: Tensor) -> Float[Tensor, "n d"]:
    """Rows as FAISS holds them."""
    rows = unpack(rows)
    if distance is COSINE:
        rows = unit(rows)
    return rows.contiguous()
