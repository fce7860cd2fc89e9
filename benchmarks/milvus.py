"""A Milvus server on loopback beside FAISS: loading, recall, queries a second, and kills.

    LIKEWISE_MILVUS_PYTHON=V/bin/python python benchmarks/milvus.py --items 1000000
    LIKEWISE_MILVUS_PYTHON=V/bin/python python benchmarks/milvus.py --kills 50

V is an environment with the package `milvus`, see `tests/milvus_servers.py`. The first loads
vectors of 64 numbers around 2,000 centers into Milvus, measures HNSW, and builds FLAT of the same
items; the indexes in this process hold the same. The second kills the server while it writes,
starts it again, and compares what is there with what was acknowledged.
"""

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import likewise as lw
from likewise.distances import COSINE, EUCLIDEAN
from likewise.index import GalleryError, Index, MilvusGallery
from likewise.index._searching.exact import ExactSearch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))
from index import drawn

from milvus_servers import Server

K, QUERIES, PART = 10, 500, 50_000
ROUNDS, BATCH = 5, 100


def say(*words: Any) -> None:
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measured(sides: dict[str, Any], queries: torch.Tensor, limits: torch.Tensor) -> None:
    """Recall at 10 of fresh queries, and queries a second, one by one and 100 at once, in turns."""
    recall, single, many = {}, {name: [] for name in sides}, {name: [] for name in sides}
    for name, index in sides.items():
        found = index.lookup(queries, k=K)
        recall[name] = float((found.distances <= limits).float().mean())
    for round_ in range(ROUNDS):
        for name, index in sides.items():
            some = queries[round_ * BATCH : (round_ + 1) * BATCH]
            single[name] += [timed(partial(index.lookup, q, k=K)) for q in some[:20]]
            many[name].append(timed(partial(index.lookup, some, k=K)) / BATCH)
    for name, index in sides.items():
        one, each = sorted(single[name]), sorted(many[name])
        middle, best = one[len(one) // 2], each[len(each) // 2]
        say(
            f"{name:18} {index.searched_by}: recall {recall[name]:.4f} of {len(queries)} others; "
            f"one by one {1 / middle:,.0f} a second (median {1e3 * middle:.2f} ms, worst "
            f"{1e3 * one[-1]:.1f}), {BATCH} at once {1 / best:,.0f} a second"
        )


def added(index: Any, rows: torch.Tensor) -> None:
    for part in rows.split(PART):
        index.add(part)


def compare(count: int) -> None:
    rows, queries = drawn(count, 1), drawn(QUERIES, 2)
    truth, _ = ExactSearch(COSINE).nearest(queries, rows, K)
    limits = truth[:, -1:] + 1e-6
    ours: dict[str, Any] = {}
    for name, options in {
        "FAISS IVF": {"recall": 0.99},
        "FAISS RaBitQ": {"recall": 0.99, "approximate": "RaBitQ"},
        "FAISS HNSW": {"recall": 0.99, "approximate": "HNSW"},
        "in memory, exact": {},
    }.items():
        ours[name] = Index(COSINE, **options)
        loading = timed(partial(added, ours[name], rows))
        say(f"{name:18} loaded in {loading:.1f} s, ready in {timed(ours[name].wait):.1f} s more")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        say(f"server ready after {server.start():.1f} s")
        try:
            with MilvusGallery(
                server.uri,
                collection="items",
                index_type="HNSW",
                recall=0.99,
                consistency="Bounded",
                timeout=300.0,
            ) as one:
                load(one, rows, queries, limits, ours)
        finally:
            server.stop()


def load(
    one: MilvusGallery,
    rows: torch.Tensor,
    queries: torch.Tensor,
    limits: torch.Tensor,
    ours: dict[str, Any],
) -> None:
    started = time.perf_counter()
    for at, part in enumerate(rows.split(PART), 1):
        one.add(part)
        if at % 5 == 0:
            say(f"{at * PART:,} added, {at * PART / (time.perf_counter() - started):,.0f} a second")
    taken = time.perf_counter() - started
    say(f"Milvus loaded in {taken:.1f} s, {len(rows) / taken:,.0f} items a second")
    say(f"Milvus HNSW built and measured in {timed(one.wait):.1f} s more")
    measured({"Milvus HNSW": one, **ours}, queries, limits)
    say(f"Milvus FLAT in place of it in {timed(lambda: (one.reindex('FLAT'), one.wait())):.1f} s")
    measured({"Milvus FLAT": one}, queries, limits)


class Writer:
    """Writes items until the server is gone, and knows what was acknowledged.

    An item is its id and its version, which give its embedding.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.known: dict[int, int] = {}  # id -> version, as acknowledged
        self.open: dict[int, tuple[int | None, int | None]] = {}  # of what nothing was heard
        self.next = 0
        self.acknowledged = 0

    def write(self, one: MilvusGallery) -> None:
        """Until Milvus fails."""
        for turn in itertools.count():
            if turn % 3 == 0 or len(self.known) < 50:
                ids = list(range(self.next, self.next + 20))
                self.next += 20
                self._do(partial(one.add, vectors(ids, 0), ids=ids), ids, 0)
            elif turn % 3 == 1:
                ids = self.random.sample(sorted(self.known), 5)
                after = max(self.known[id_] for id_ in ids) + 1
                self._do(partial(one.upsert, vectors(ids, after), ids=ids), ids, after)
            else:
                ids = self.random.sample(sorted(self.known), 3)
                self._do(partial(one.remove, ids), ids, None)

    def _do(self, verb: Callable[[], Any], ids: list[int], after: int | None) -> None:
        self.open = {id_: (self.known.get(id_), after) for id_ in ids}
        verb()
        self.settle(dict.fromkeys(ids, after))
        self.acknowledged += 1

    def settle(self, found: dict[int, int | None]) -> None:
        for id_, version in found.items():
            self.known.pop(id_, None)
            if version is not None:
                self.known[id_] = version
        self.open = {}


def vectors(ids: list[int], version: int) -> torch.Tensor:
    return torch.tensor([[float(id_), float(version), 1.0, 0.0] for id_ in ids])


def kills(count: int, seed: int) -> None:
    lost = torn = other = twice = refused = 0
    kept = {"old": 0, "new": 0, "part": 0}
    writer = Writer(seed)
    waited = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        server.start()
        try:
            one = opened(server)
            for turn in range(count):
                timer = threading.Timer(writer.random.uniform(0.3, 3.0), server.kill)
                timer.start()
                try:
                    writer.write(one)
                except GalleryError:
                    refused += 1
                timer.join()
                one.close()
                server.start()
                started = time.monotonic()
                one = opened(server)
                there = {
                    id_: int(row[1]) if row[0] == id_ else -1
                    for id_, row in zip(one.ids.tolist(), one.embeddings.tolist(), strict=True)
                }
                twice += len(one) - len(there)
                waited.append(time.monotonic() - started)
                for id_, version in writer.known.items():
                    if id_ not in writer.open and there.get(id_) != version:
                        lost += 1
                        say("  lost", id_, "version", version, "found", there.get(id_))
                other += len(there.keys() - writer.known.keys() - writer.open.keys())
                states = [
                    "old"
                    if there.get(id_) == old
                    else "new"
                    if there.get(id_) == new
                    else "neither"
                    for id_, (old, new) in writer.open.items()
                ]
                torn += states.count("neither")
                if states:
                    kept["part" if len(set(states)) > 1 else states[0]] += 1
                writer.known = dict(there)
                writer.open = {}
                if (turn + 1) % 2 == 0:
                    say(
                        f"{turn + 1} kills, {writer.acknowledged} batches acknowledged, "
                        f"{len(there)} items; lost {lost}, not asked for {other}, twice {twice}"
                    )
            one.close()
        finally:
            server.stop()
    say(
        f"{count} kills: {writer.acknowledged} batches acknowledged; items lost or other than "
        f"acknowledged {lost}, back though removed {other}, counted twice {twice}; the batch that "
        f"was under way was there {kept['new']} times, not there {kept['old']}, in part "
        f"{kept['part']}, its items neither as before nor as asked {torn}; failures told in one "
        f"sentence {refused}; ready for questions {sorted(waited)[len(waited) // 2]:.1f} s after "
        f"the server says it is healthy (worst {max(waited):.1f})"
    )


def opened(server: Server, seconds: float = 120) -> MilvusGallery:
    end = time.monotonic() + seconds
    while True:
        try:
            one = MilvusGallery(
                server.uri, collection="items", distance=EUCLIDEAN, dimension=4, timeout=10.0
            )
            len(one)
            return one
        except GalleryError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    say("likewise", lw.__version__, "threads", torch.get_num_threads())
    if asked.items:
        compare(asked.items)
    if asked.kills:
        kills(asked.kills, asked.seed)
