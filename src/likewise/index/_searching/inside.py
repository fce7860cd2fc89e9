"""What holds rows inside FAISS: lists by the nearest center, or a graph of near rows."""

from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.index._searching.scan import best_products

KINDS = ("IVF", "HNSW", "RaBitQ")
PER_LIST = 40  # rows to train each list's center on
ROUNDS = 5  # of k-means; more change recall by less than a probe more
FEW = 20  # queries; below, FAISS finds the nearest lists sooner than we hand them over
BITS = 4  # a number in RaBitQ
NEIGHBORS = 16  # of a row in a graph; twice that at its bottom
BUILD = 80  # rows kept in sight while one is put into a graph
MOST_KEPT = 4096  # in sight while one is looked up


class Inside(Protocol):
    """Rows inside FAISS, by the order in which they were added."""

    kind: str
    index: Any  # FAISS's own

    @property
    def is_mapped(self) -> bool:
        """Whether the rows are in a file, and nothing can be put there without reading it."""

    def unmap(self) -> None:
        """Take rows that are in a file into memory."""

    @property
    def most(self) -> int:
        """The greatest effort that pays."""

    def told(self, effort: int) -> str:
        """What it is, and how hard it searches, in few words."""

    def beyond(self, k: int) -> int:
        """How many candidates are looked at beyond k, as few bits change the order of some."""

    def next_effort(self, effort: int) -> int:
        """The next greater effort that is worth a try; the first after 0."""

    def add(self, rows: Float[Tensor, "n d"], first: int) -> None:
        """Put rows behind those there are; `first` is the number of the first."""

    def search(
        self, queries: Float[Tensor, "q d"], count: int, effort: int, selector: Any
    ) -> Int[Tensor, "q c"]:
        """Numbers of about the nearest rows, -1 where there are no more; of those selected."""


class Lists:
    """Rows by their nearest center (FAISS's IVF), in 8 bits a number, or in RaBitQ's few.

    Args:
        kind: "IVF" or "RaBitQ".
        index: FAISS's index.
        centers: Centers of its lists.
    """

    def __init__(self, kind: str, index: Any, centers: Float[Tensor, "c d"]) -> None:
        import faiss

        self.kind, self.index, self.centers = kind, index, centers
        self._is_product = index.metric_type == faiss.METRIC_INNER_PRODUCT
        self._offsets = None if self._is_product else centers.square().sum(dim=1) / -2

    @classmethod
    def trained(
        cls, kind: str, training: Float[Tensor, "n d"], lists: int, *, is_product: bool
    ) -> "Lists":
        """Empty lists, with centers and codes that fit the rows given."""
        import faiss

        library: Any = faiss  # its hints do not know all that we call
        centers = _centers(training, lists)
        d = training.shape[1]
        metric = library.METRIC_INNER_PRODUCT if is_product else library.METRIC_L2
        quantizer = (library.IndexFlatIP if is_product else library.IndexFlatL2)(d)
        quantizer.add(centers.numpy())
        if kind == "RaBitQ":
            index = library.IndexIVFRaBitQ(quantizer, d, lists, metric, True, BITS)
        else:
            eight = library.ScalarQuantizer.QT_8bit
            index = library.IndexIVFScalarQuantizer(quantizer, d, lists, eight, metric)
        quantizer.this.disown()  # the index frees it
        index.own_fields = True
        of_training = nearest_center(training, centers)  # a name: FAISS only sees where it lies
        index.train_encoder(
            len(training), *(library.swig_ptr(part.numpy()) for part in (training, of_training))
        )
        index.is_trained = True
        return cls(kind, index, centers)

    @classmethod
    def read(cls, kind: str, index: Any) -> "Lists":
        """Lists that were kept."""
        centers = index.quantizer.reconstruct_n(0, index.nlist)
        return cls(kind, index, torch.from_numpy(centers))

    @property
    def most(self) -> int:
        """A quarter of the lists."""
        return max(1, len(self.centers) // 4)

    def told(self, effort: int) -> str:
        """How many lists, and how many are looked into."""
        return f"{self.kind}, {len(self.centers):,} lists, {effort} probed"

    def beyond(self, k: int) -> int:
        """Few for 8 bits; as many again, and more, for less."""
        return 6 if self.kind == "IVF" else k + 20

    def next_effort(self, effort: int) -> int:
        """One list more, or a quarter of them."""
        return max(effort + 1, effort * 5 // 4)

    def add(self, rows: Float[Tensor, "n d"], first: int) -> None:
        """Put rows into their lists."""
        import faiss

        self.unmap()
        into = nearest_center(rows, self.centers)
        ids = first + torch.arange(len(rows))
        parts = (faiss.swig_ptr(part.numpy()) for part in (rows, ids, into))
        self.index.add_core(len(rows), *parts, None)

    def search(
        self, queries: Float[Tensor, "q d"], count: int, effort: int, selector: Any
    ) -> Int[Tensor, "q c"]:
        """Numbers of the nearest rows in the nearest lists."""
        import faiss

        library: Any = faiss
        more = {} if selector is None else {"sel": selector}
        if self.kind == "RaBitQ":
            parameters = library.IVFRaBitQSearchParameters(nprobe=effort, **more)
        else:
            parameters = library.SearchParametersIVF(nprobe=effort, **more)
        asked = len(queries)
        found = torch.empty(asked, count, dtype=torch.int64)
        apart = torch.empty(asked, count)
        x, far, ids = (library.swig_ptr(part.numpy()) for part in (queries, apart, found))
        if asked < FEW:
            self.index.search_c(asked, x, count, far, ids, parameters)
        else:
            # FAISS's own way to the lists takes longer than a product.
            nearest, values = self._nearest_lists(queries, effort)
            lists, reached = (library.swig_ptr(part.numpy()) for part in (nearest, values))
            self.index.search_preassigned_c(
                asked, x, count, lists, reached, far, ids, False, parameters
            )
        return found

    @property
    def is_mapped(self) -> bool:
        """Whether the lists are in a file, and nothing can be put into them."""
        import faiss

        return isinstance(faiss.downcast_InvertedLists(self.index.invlists), _on_disk())

    def unmap(self) -> None:
        """Take lists that are in a file into memory."""
        import faiss

        if self.is_mapped:
            library: Any = faiss
            mapped = library.downcast_InvertedLists(self.index.invlists)
            held = library.ArrayInvertedLists(self.index.nlist, self.index.code_size)
            kind = library.InvertedLists.SUBSET_TYPE_ID_RANGE
            mapped.copy_subset_to(held, kind, 0, 2**62)
            held.this.disown()  # the index frees it
            self.index.replace_invlists(held, True)

    def _nearest_lists(self, queries: Tensor, probes: int) -> tuple[Tensor, Tensor]:
        """Which lists, nearest first, and how near in FAISS's measure."""
        values, at = best_products(queries, self.centers, probes, offsets=self._offsets)
        values, order = values.sort(dim=1, descending=True)
        if not self._is_product:
            values = queries.square().sum(dim=1, keepdim=True) - 2 * values
        return at.gather(1, order), values.contiguous()


class Graph:
    """Rows in a graph of their neighbors (FAISS's HNSW), in 8 bits a number.

    Args:
        index: FAISS's index.
    """

    kind = "HNSW"
    is_mapped = False

    def __init__(self, index: Any) -> None:
        self.index = index

    def unmap(self) -> None:
        """A graph is always in memory."""

    @classmethod
    def trained(cls, training: Float[Tensor, "n d"], *, is_product: bool) -> "Graph":
        """An empty graph, with codes that fit the rows given."""
        import faiss

        library: Any = faiss
        metric = library.METRIC_INNER_PRODUCT if is_product else library.METRIC_L2
        eight = library.ScalarQuantizer.QT_8bit
        index = library.IndexHNSWSQ(training.shape[1], eight, NEIGHBORS, metric)
        index.hnsw.efConstruction = BUILD
        index.train(training.numpy())
        return cls(index)

    @property
    def most(self) -> int:
        """Above, the exact search is as fast."""
        return MOST_KEPT

    def told(self, effort: int) -> str:
        """How many rows are kept in sight."""
        return f"HNSW, ef {effort}"

    def beyond(self, k: int) -> int:
        """8 bits change the order of few."""
        return 6

    def next_effort(self, effort: int) -> int:
        """A third more."""
        return 16 if effort == 0 else effort * 4 // 3

    def add(self, rows: Float[Tensor, "n d"], first: int) -> None:
        """Put rows into the graph, which numbers them itself."""
        self.index.add(rows.numpy())

    def search(
        self, queries: Float[Tensor, "q d"], count: int, effort: int, selector: Any
    ) -> Int[Tensor, "q c"]:
        """Numbers of the nearest rows that a walk through the graph meets."""
        import faiss

        library: Any = faiss
        more = {} if selector is None else {"sel": selector}
        parameters = library.SearchParametersHNSW(efSearch=max(effort, count), **more)
        _, found = self.index.search(queries.numpy(), count, params=parameters)
        return torch.from_numpy(found)


def _on_disk() -> Any:
    import faiss

    library: Any = faiss
    return library.OnDiskInvertedLists


def nearest_center(rows: Float[Tensor, "n d"], centers: Float[Tensor, "c d"]) -> Int[Tensor, " n"]:
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
        nearest = nearest_center(rows, centers)
        sizes = nearest.bincount(minlength=count)
        sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
        centers = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero().squeeze(1)
        centers[empty] = rows[len(rows) - len(empty) :]
    return centers


def selector_of(may: Tensor) -> tuple[Any, Any]:
    """FAISS's selector of the rows that `may` marks, and what it reads, to be held meanwhile."""
    import faiss

    library: Any = faiss
    octets = torch.nn.functional.pad(may, (0, -len(may) % 8)).view(-1, 8).byte()
    bits = (octets << torch.arange(8, dtype=torch.uint8)).sum(dim=1).byte().numpy()
    return library.IDSelectorBitmap(len(bits), library.swig_ptr(bits)), bits


def written(inside: Inside) -> bytes:
    """As FAISS writes it."""
    import faiss

    library: Any = faiss
    inside.unmap()  # else FAISS writes where the lists are, not what is in them
    return np.asarray(library.serialize_index(inside.index)).tobytes()


def read_inside(kind: str, path: str) -> Inside:
    """What `written` gave, from the beginning of a file; lists stay there and are mapped."""
    import faiss

    library: Any = faiss
    flags = 0 if kind == "HNSW" else library.IO_FLAG_MMAP
    index = library.read_index(path, flags)
    return Graph(index) if kind == "HNSW" else Lists.read(kind, index)
