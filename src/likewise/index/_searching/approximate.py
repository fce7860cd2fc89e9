"""Search that is exact for small galleries and nearly so, but much faster, for large ones."""

import threading
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import check_rate
from likewise.distances import COSINE, INNER_PRODUCT, Distance, unit
from likewise.index._growing import GrowingArray
from likewise.index._searching.exact import BY_PRODUCT, ExactSearch, chunks, ranked_by
from likewise.index._searching.scan import best_products
from likewise.index._searching.storage import dimension, unpack

EXACT_UP_TO = 50_000  # rows; below, an exact lookup takes a few ms and training does not pay
STEP = 2**14  # rows that go into the lists at once
PER_LIST = 40  # rows to train each list's center on
ROUNDS = 5  # of k-means; more change recall by less than a probe more
FEW = 20  # queries; below, FAISS finds the nearest lists sooner than we hand them over
MORE = 6  # candidates beyond k; 8 bits change the order of few
SAMPLE = 500  # rows looked up to measure recall
SAMPLE_K = 10


class Search:
    """The k rows nearest to each query: exactly, or with the recall that was asked for.

    From `EXACT_UP_TO` rows on and where `recall` is given, rows are kept in about 4√n lists by
    their nearest center, with 8 bits a number (FAISS's IVF), and a query looks only into the
    nearest lists; how many is chosen on a sample so that the recall asked for is reached.
    `distance.paired` ranks what is found, so distances are exact. New rows go into the lists at
    the next lookup; when the rows have doubled, new lists are trained. Training runs in a thread
    of its own. Until the first is done, and where the recall needs more than a quarter of the
    lists, search is exact.

    After `wait`, answers depend only on the rows and the calls, not on timing.

    Args:
        distance: cosine, Euclidean, squared Euclidean or inner product; any other is searched
            exactly.
        recall: the share of the true 10 nearest that shall be found, on average; None for exact.
    """

    def __init__(self, distance: Distance, *, recall: float | None = None) -> None:
        if recall is not None:
            check_rate("recall", recall)
        self._distance = distance
        self._exact = ExactSearch(distance)
        self._recall = recall if distance in BY_PRODUCT and recall != 1 else None
        self._lock = threading.Lock()
        self._lists: _Lists | None = None
        self._builder: threading.Thread | None = None
        self._built: _Lists | BaseException | None = None
        self._tried = 0  # rows for which a build was begun
        self._is_retired = False  # the lists are those of other rows now

    @property
    def kind(self) -> str:
        """How most rows are searched."""
        lists = self._lists
        if lists is None or not lists.probes:
            return "exact"
        return f"IVF, {len(lists.centers):,} lists, {lists.probes} probed"

    @property
    def measured_recall(self) -> float | None:
        """On a sample of stored rows, against exact search; None where all is exact."""
        return self._lists.recall if self._lists is not None and self._lists.probes else None

    @property
    def trained(self) -> int:
        """How many rows are in the lists."""
        return self._lists.rows if self._lists is not None and self._lists.probes else 0

    def kept(self, kept: Bool[Tensor, " n"]) -> "Search":
        """The search of the rows that `kept` marks.

        This one stays that of all rows, but gives its lists away: it is exact from now on.
        """
        self.wait()
        search = Search(self._distance, recall=self._recall)
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

    def ready(self, stored: Tensor) -> None:
        """Train, if the rows ask for it, and return when that is done."""
        self._caught_up(stored)
        self.wait()

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
        if lists is None or few or k + MORE > EXACT_UP_TO or not len(queries):
            return self._exact.nearest(queries, stored, k, allowed)
        size = len(stored)
        with self._lock:  # FAISS must not add while it searches
            is_retired = self._is_retired
            if not is_retired:
                rows = min(lists.rows, size)
                proposed = lists.propose(queries, k + MORE, allowed, rows)
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

    def _caught_up(self, stored: Tensor) -> "_Lists | None":
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
            if lists is None or not lists.probes:
                return None
            lists.add(stored)
            return lists

    def _begin(self, stored: Tensor, size: int) -> None:
        recall = self._recall

        def work() -> None:
            built: _Lists | BaseException
            try:
                built = _Lists(self._distance, stored, size, float(recall or 0))
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


class _Lists:
    """Rows by their nearest center, in 8 bits a number, and how many lists to look into."""

    def __init__(self, distance: Distance, stored: Tensor, size: int, recall: float) -> None:
        import faiss  # takes 0.2 s, and only large galleries need it

        self._distance = distance
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(size, generator=generator)
        lists = 2 ** round(torch.tensor(4 * size**0.5).log2().item())
        lists = max(1, min(lists, size // PER_LIST))
        training = self._prepared(stored[order[: lists * PER_LIST]])
        self.centers = _centers(training, lists)
        self._is_product = distance is INNER_PRODUCT
        self._offsets = None if self._is_product else self.centers.square().sum(dim=1) / -2
        d, metric = dimension(stored), faiss.METRIC_INNER_PRODUCT
        self._quantizer = (faiss.IndexFlatIP if self._is_product else faiss.IndexFlatL2)(d)
        self._quantizer.add(self.centers.numpy())
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            self._quantizer,
            d,
            lists,
            faiss.ScalarQuantizer.QT_8bit,
            metric if self._is_product else faiss.METRIC_L2,
        )
        of_training = _nearest_center(
            training, self.centers
        )  # a name, as FAISS only sees where it lies
        self._index.train_encoder(
            len(training), *(faiss.swig_ptr(part.numpy()) for part in (training, of_training))
        )
        self._index.is_trained = True
        self.rows = 0
        self._now = GrowingArray(np.empty(0, dtype=np.int64))
        self.alive = 0
        self.add(stored[:size])
        self.probes, self.recall = self._tuned(stored[:size], order[-SAMPLE:], recall)

    def _prepared(self, rows: Tensor) -> Float[Tensor, "n d"]:
        rows = unpack(rows)
        if self._distance is COSINE:
            rows = unit(rows)
        return rows.contiguous()

    @property
    def now(self) -> Int[Tensor, " n"]:
        """Where each row that ever went in stands now; -1 if it is gone."""
        return torch.from_numpy(self._now.view)

    def add(self, stored: Tensor) -> None:
        """Put the rows behind those there are into their lists."""
        import faiss

        for rows in chunks(stored[self.rows :], 64, 64 * STEP):
            prepared = self._prepared(rows)
            into = _nearest_center(prepared, self.centers)
            ids = len(self.now) + torch.arange(len(rows))
            self._index.add_core(
                len(rows),
                *(faiss.swig_ptr(part.numpy()) for part in (prepared, ids, into)),
                None,
            )
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
        probes: int | None = None,
    ) -> Int[Tensor, "q c"]:
        """Positions of about the nearest rows before `rows`, -1 where there are no more."""
        import faiss

        library: Any = faiss  # its hints do not know all that we call

        queries = self._prepared(queries)
        probes = probes or self.probes
        parameters = library.SearchParametersIVF(nprobe=probes)
        is_whole = self.alive == len(self.now)
        if allowed is not None or not is_whole or rows < self.rows:
            may = (self.now >= 0) & (self.now < rows)
            if allowed is not None:
                may &= allowed[self.now.clamp(min=0, max=len(allowed) - 1)]
            octets = torch.nn.functional.pad(may, (0, -len(may) % 8)).view(-1, 8).byte()
            bits = (octets << torch.arange(8, dtype=torch.uint8)).sum(dim=1).byte().numpy()
            selector = library.IDSelectorBitmap(len(bits), library.swig_ptr(bits))
            parameters = library.SearchParametersIVF(nprobe=probes, sel=selector)
        asked = len(queries)
        found = torch.empty(asked, count, dtype=torch.int64)
        apart = torch.empty(asked, count)
        x, far, ids = (library.swig_ptr(part.numpy()) for part in (queries, apart, found))
        if asked < FEW:
            self._index.search_c(asked, x, count, far, ids, parameters)
        else:
            # FAISS's own way to the lists takes longer than a product.
            nearest, values = self._nearest_lists(queries, probes)
            lists, reached = (library.swig_ptr(part.numpy()) for part in (nearest, values))
            self._index.search_preassigned_c(
                asked, x, count, lists, reached, far, ids, False, parameters
            )
        return found if is_whole else torch.where(found >= 0, self.now[found.clamp(min=0)], -1)

    def _nearest_lists(self, queries: Tensor, probes: int) -> tuple[Tensor, Tensor]:
        """Which lists, nearest first, and how near in FAISS's measure."""
        values, at = best_products(queries, self.centers, probes, offsets=self._offsets)
        values, order = values.sort(dim=1, descending=True)
        if not self._is_product:
            values = queries.square().sum(dim=1, keepdim=True) - 2 * values
        return at.gather(1, order), values.contiguous()

    def _tuned(self, stored: Tensor, sample: Tensor, asked: float) -> tuple[int, float]:
        """How many lists to look into, and the recall that gives; 0 where too many are needed."""
        queries = unpack(stored[sample])
        k = min(SAMPLE_K, len(stored) - 1)
        truth, _ = ExactSearch(self._distance).nearest(queries, stored, k + 1)
        most = max(1, len(self.centers) // 4)
        probes = 1
        while probes <= most:
            proposed = self.propose(queries, k + 1 + MORE, None, self.rows, probes)
            found, _ = ranked_by(self._distance, queries, stored, proposed, padded=True)
            # An item finds itself, which proves nothing; equal distances are as good.
            hits = (found[:, : k + 1] <= truth[:, -1:]).sum(dim=1).clamp(max=k + 1) - 1
            shares = hits.clamp(min=0) / k
            recall = float(shares.mean())
            unsure = 2 * float(shares.std()) / len(shares) ** 0.5
            if recall - unsure >= asked:
                return probes, recall
            probes = max(probes + 1, probes * 5 // 4)
        return 0, 1.0


def _nearest_center(rows: Float[Tensor, "n d"], centers: Float[Tensor, "c d"]) -> Int[Tensor, " n"]:
    """Which center is nearest to each row."""
    offsets = centers.square().sum(dim=1) / -2
    nearest = torch.empty(len(rows), dtype=torch.int64)
    step = max(1, 2**20 // len(centers))
    # Fresh memory for each product leaves holes that the process keeps: 2 GB of a million rows.
    room = rows.new_empty(step, len(centers))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        products = torch.addmm(offsets, part, centers.T, out=room[: len(part)])
        torch.argmax(products, dim=1, out=nearest[start : start + step])
    return nearest


def _centers(rows: Float[Tensor, "n d"], count: int) -> Float[Tensor, "c d"]:
    """k-means from the first rows; a center that loses all its rows takes one of the others."""
    centers = rows[:count].clone()
    for _ in range(ROUNDS):
        nearest = _nearest_center(rows, centers)
        sizes = nearest.bincount(minlength=count)
        sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
        centers = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero().squeeze(1)
        centers[empty] = rows[len(rows) - len(empty) :]
    return centers
