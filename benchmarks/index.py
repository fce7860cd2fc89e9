"""Lookups beside raw FAISS and a tiled matrix product, in one run; d = 64, k = 10.

    python benchmarks/index.py             the tables
    python benchmarks/index.py --growth    time and memory from 10,000 to 1,000,000 items, a plot

All sides of a row take turns, so that a machine which slows down slows all of them; single queries
25 at a time, the first five not counted. Medians, and the ratio of the raw library's time to ours
(above 1: ours is faster). Embeddings are unit vectors
around 2,000 centers.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F

import likewise as lw
from likewise.distances import COSINE
from likewise.index._searching.approximate import Search
from likewise.index._searching.exact import ExactSearch
from likewise.index._searching.inside import Lists
from likewise.matching import decide

K, DIM, CENTERS = 10, 64, 2000
TILE = 65536  # columns of the tiled matrix product
ONE_BY_ONE = {"warm": 5, "calls": 20}  # of single queries in one turn

# Lookups and matches a second of TensorFlow Similarity 0.18 with 200 items indexed, measured on
# such a machine; it forms the whole matrix again at every call.
PEER_LOOKUPS, PEER_MATCHES = 710, 570


def drawn(count: int, seed: int) -> torch.Tensor:
    centers = torch.randn(CENTERS, DIM, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(seed)
    own = centers[torch.randint(0, CENTERS, (count,), generator=rng)]
    return F.normalize(own + 0.5 * torch.randn(count, DIM, generator=rng))


def tiled(queries: torch.Tensor, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest by matrix products with a top-k each, and one over those."""
    values, positions = [], []
    for start in range(0, len(stored), TILE):
        best = (queries @ stored[start : start + TILE].T).topk(K, dim=1)
        values.append(best.values)
        positions.append(best.indices + start)
    best = torch.cat(values, dim=1).topk(K, dim=1)
    return best.values, torch.cat(positions, dim=1).gather(1, best.indices)


def in_turn(
    sides: dict[str, Callable[[], Any]], rounds: int, *, warm: int = 0, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call: `warm` that do not count and `calls` that do, in each turn of a side.

    After a turn of one library its threads wait for more work for a while, and take the cores
    from the next; for calls of a millisecond or less that would be most of the time.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, side in sides.items():
            for call in range(warm + calls):
                started = time.perf_counter()
                side()
                if round_ and call >= warm:
                    taken[name].append(time.perf_counter() - started)
    return taken


def exact(size: int, batch: int, rounds: int) -> None:
    stored, queries = drawn(size, 1), drawn(batch, 2)
    ours, raw = ExactSearch(COSINE), faiss.IndexFlatIP(DIM)
    raw.add(stored.numpy())
    taken = in_turn(
        {
            "ours": lambda: ours.nearest(queries, stored, K),
            "FAISS flat": lambda: raw.search(queries.numpy(), K),
            "tiled": lambda: tiled(queries, stored),
        },
        rounds,
        **(ONE_BY_ONE if batch == 1 else {}),
    )
    ms = {name: 1000 * statistics.median(times) for name, times in taken.items()}
    print(
        f"exact {size:9,d} items, batch {batch:5,d}:",
        *(f"{name} {value:10.2f} ms" for name, value in ms.items()),
        f"  FAISS/ours {ms['FAISS flat'] / ms['ours']:5.2f}",
        f"  tiled/ours {ms['tiled'] / ms['ours']:5.2f}",
        flush=True,
    )


def recall(found: torch.Tensor, truth: torch.Tensor) -> float:
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()


def approximate(size: int, singles: int, rounds: int) -> None:
    """Ours beside IVF-flat with the same lists, and with as many probes as our recall needs."""
    stored, queries = drawn(size, 1), drawn(1000, 2)
    ours = Search(COSINE, recall=0.99)
    started = time.perf_counter()
    ours.nearest(queries[:1], stored, K)
    ours.wait()
    ours.nearest(queries[:1], stored, K)
    built = time.perf_counter() - started
    truth = ExactSearch(COSINE).nearest(queries, stored, K)[1]
    reached = recall(ours.nearest(queries, stored, K)[1], truth)
    raw, probes, raw_recall = _raw(ours, stored, queries, truth, reached)
    print(
        f"approximate {size:,} items: {ours.kind}, built in {built:.0f} s, recall told "
        f"{ours.measured_recall:.4f}, of other queries {reached:.4f}; raw IVF-flat, {probes} "
        f"probed, recall {raw_recall:.4f}",
        flush=True,
    )
    taken = in_turn(
        {
            "ours": lambda: ours.nearest(queries, stored, K),
            "raw": lambda: raw.search(queries.numpy(), K),
        },
        rounds,
    )
    ms = {name: 1000 * statistics.median(times) for name, times in taken.items()}
    print(
        f"  batch 1,000: ours {ms['ours']:.1f} ms, raw {ms['raw']:.1f} ms, "
        f"raw/ours {ms['raw'] / ms['ours']:.2f}",
        flush=True,
    )
    asked = {name: itertools.cycle(queries.split(1)) for name in ("raw", "ours")}
    taken = in_turn(
        {
            "raw": lambda: raw.search(next(asked["raw"]).numpy(), K),
            "ours": lambda: ours.nearest(next(asked["ours"]), stored, K),
        },
        singles // ONE_BY_ONE["calls"],
        **ONE_BY_ONE,
    )
    at = {name: 1000 * np.percentile(times, [50, 99]) for name, times in taken.items()}
    print(
        f"  batch 1: ours p50 {at['ours'][0]:.2f}, p99 {at['ours'][1]:.2f} ms; "
        f"raw p50 {at['raw'][0]:.2f}, p99 {at['raw'][1]:.2f} ms; raw/ours p50 "
        f"{at['raw'][0] / at['ours'][0]:.2f}, ours/raw p99 {at['ours'][1] / at['raw'][1]:.2f}",
        flush=True,
    )


def _raw(
    ours: Search, stored: torch.Tensor, queries: torch.Tensor, truth: torch.Tensor, least: float
) -> tuple[Any, int, float]:
    # Our centers, as training them again would take minutes and change nothing.
    lists = ours._lists
    if lists is None or not isinstance(lists.inside, Lists):
        raise RuntimeError("nothing was trained")
    quantizer = faiss.IndexFlatL2(DIM)
    quantizer.add(lists.inside.centers.numpy())
    raw = faiss.IndexIVFFlat(quantizer, DIM, len(lists.inside.centers), faiss.METRIC_L2)
    for rows in stored.split(2**17):
        raw.add(rows.numpy())
    for probes in range(1, len(lists.inside.centers)):
        raw.nprobe = probes
        found = torch.from_numpy(raw.search(queries.numpy(), K)[1])
        if (reached := recall(found, truth)) >= least or probes > 64:
            break
    return raw, probes, reached


def peer(rounds: int) -> None:
    stored, queries = drawn(100_000, 1), drawn(1000, 2)
    index = lw.Index(COSINE, recall=0.99)
    index.add(stored, labels=torch.arange(len(stored)) % 100)
    index.lookup(queries[:1], k=5)
    index.wait()
    truth = ExactSearch(COSINE).nearest(queries, stored, 5)[1]
    reached = recall(torch.from_numpy(index.lookup(queries, k=5).ids), truth)
    taken = in_turn(
        {
            "lookups": lambda: index.lookup(queries, k=5),
            "matches": lambda: decide(index.lookup(queries, k=1), "nearest"),
        },
        rounds,
    )
    rate = {name: len(queries) / statistics.median(times) for name, times in taken.items()}
    print(
        f"100,000 items, batches of 1,000, recall {reached:.4f}: "
        f"{rate['lookups']:,.0f} lookups/s = {rate['lookups'] / PEER_LOOKUPS:.0f} x, "
        f"{rate['matches']:,.0f} matches/s = {rate['matches'] / PEER_MATCHES:.0f} x "
        "TensorFlow Similarity's with 200 items",
        flush=True,
    )


def collapsed(size: int) -> None:
    """A lookup where rounding is as large as the distances, beside an ordinary one."""
    galleries = {"ordinary": drawn(size, 1)} | {
        f"spread {spread:g}": F.normalize(1 + spread * torch.randn(size, DIM))
        for spread in (1e-7, 1e-3)
    }
    for name, stored in galleries.items():
        for distance in (COSINE, lw.distances.EUCLIDEAN, lw.distances.INNER_PRODUCT):
            search = ExactSearch(distance)
            queries = stored[:20].clone()
            search.nearest(queries, stored, K)
            times = in_turn({"ours": partial(search.nearest, queries, stored, K)}, 3)["ours"]
            print(
                f"{size:,} items, {name}, {distance.name}: "
                f"{1000 * statistics.median(times) / len(queries):.2f} ms/query",
                flush=True,
            )


def point(kind: str, size: int) -> None:
    """Milliseconds a query in batches of 100, peak MB above the vectors, seconds to build."""
    stored, queries = drawn(size, 1), drawn(100, 2)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of making the rows
    search = Search(COSINE, recall=0.99 if kind == "approximate" else None)
    started = time.perf_counter()
    search.nearest(queries, stored, K)
    search.wait()
    search.nearest(queries, stored, K)
    built = time.perf_counter() - started
    times = in_turn({"ours": lambda: search.nearest(queries, stored, K)}, 5)["ours"]
    print(1000 * statistics.median(times) / len(queries), memory("VmHWM") - before, built)


def memory(which: str) -> float:
    """MB that this process holds (VmRSS), or held at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{which}:")[2].split()[0]) / 1024


def growth(picture: Path) -> None:
    from matplotlib.figure import Figure

    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for kind, marker in (("exact", "o"), ("approximate", "s")):
        found = []
        for size in sizes:
            command = [sys.executable, __file__, "--point", kind, str(size)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append([float(word) for word in told.split()])
            print(f"{kind} {size:9,d}: {found[-1][0]:8.3f} ms/query, {found[-1][1]:7.0f} MB more, "
                  f"{found[-1][2]:6.1f} s to the first", flush=True)  # fmt: skip
        for panel, which in zip(panels, (0, 1), strict=True):
            least = (1e-3, 1.0)[which]  # a logarithm has no 0
            panel.plot(sizes, [max(row[which], least) for row in found], marker=marker, label=kind)
    panels[1].plot(sizes, [size * DIM * 4 / 2**20 for size in sizes], "k:", label="the vectors")
    panels[0].set_title("milliseconds a query, batches of 100")
    panels[1].set_title("peak MB above the vectors")
    for panel in panels:
        panel.set(xscale="log", yscale="log", xlabel="items, 64 numbers each")
        panel.grid(alpha=0.3)
        panel.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--point", nargs=2, metavar=("KIND", "SIZE"))
    parser.add_argument("--growth", type=Path, nargs="?", const=Path("docs/index_growth.png"))
    parser.add_argument("--only", choices=("exact", "approximate", "peer", "collapsed"))
    asked = parser.parse_args()
    if asked.point:
        point(asked.point[0], int(asked.point[1]))
        return
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; medians, in turn")
    if asked.growth:
        growth(asked.growth)
        return
    if asked.only in (None, "exact"):
        for size, batch, rounds in (
            (100_000, 1, 51),
            (100_000, 1000, 9),
            (1_000_000, 1, 25),
            (1_000_000, 1000, 3),
        ):
            exact(size, batch, rounds)
    if asked.only in (None, "approximate"):
        approximate(1_000_000, 1000, 15)
    if asked.only in (None, "peer"):
        peer(15)
    if asked.only in (None, "collapsed"):
        collapsed(100_000)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
