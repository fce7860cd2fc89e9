"""How fast a durable gallery is added to and opened, and how much memory it takes.

    python benchmarks/gallery.py [--items N] [--folder F]

Each batch of 1,000 is on disk before the next. A gallery is opened in a process of its own, once
from its rows and once by mapping the file that closing leaves beside them. Prints two tables.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import faiss
import numpy as np
import torch

from likewise.distances import NAMED
from likewise.index import Gallery

DIMENSION = 64
BATCH = 1000
VECTORS = "gallery.vectors"


def added(folder: Path, items: int, *, kind: str, distance: str) -> str:
    """A row of the first table; the gallery stays in `folder`."""
    generator = np.random.default_rng(0)
    seconds, busy = [], []
    with Gallery(folder, distance=NAMED[distance]) as gallery:
        for start in range(0, items, BATCH):
            rows = torch.from_numpy(generator.standard_normal((BATCH, DIMENSION), dtype=np.float32))
            ids = range(start, start + BATCH)
            if kind == "strings":
                ids = [str(uuid.UUID(bytes=generator.bytes(16))) for _ in ids]
            before, before_busy = time.perf_counter(), time.process_time()
            gallery.add(rows, ids=ids)
            seconds.append(time.perf_counter() - before)
            busy.append(time.process_time() - before_busy)
        size = gallery.summary().bytes
        before = time.perf_counter()
    closing = time.perf_counter() - before
    middle, late = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return (
        f"| {kind}, {distance} | {items / sum(seconds):,.0f} | {items / sum(busy):,.0f} | "
        f"{middle:.1f} / {late:.1f} / {max(seconds) * 1e3:.0f} | {size / 1e6:.0f} | "
        f"{closing:.2f} |"
    )


def opened(folder: Path) -> dict:
    """Seconds and memory, above that of the imports, up to the answer to a first query."""
    # What any first product or search takes, whatever is stored, counts as imported.
    faiss.knn(np.zeros((1, 4), "f4"), np.zeros((30, 4), "f4"), 2)
    torch.mm(torch.ones(50, 50), torch.ones(50, 50))
    first, start, busy = memory(), time.perf_counter(), time.process_time()
    with Gallery(folder, read_only=True) as gallery:
        opening = time.perf_counter() - start
        gallery.lookup(torch.ones(1, DIMENSION), k=10)
        answer, busy = time.perf_counter() - start, time.process_time() - busy
        now, vectors = memory(), len(gallery) * DIMENSION * 4
    shares = {name: (now[name] - first[name]) / vectors for name in now}
    return {"open": opening, "answer": answer, "busy": busy, **shares}


def memory() -> dict[str, int]:
    """Bytes of this process: now, at most so far, and those it does not share with a file."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    names = {"now": "VmRSS", "most": "VmHWM", "own": "RssAnon"}
    return {name: int(lines[key].split()[0]) * 1024 for name, key in names.items()}


def opening_row(name: str, folder: Path) -> str:
    command = [sys.executable, __file__, "--open", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return (
        f"| {name} | {found['open']:.2f} | {found['answer']:.2f} | {found['busy']:.2f} | "
        f"{found['now']:.2f} | {found['most']:.2f} | {found['own']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the disk is that shall be measured")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(opened(options.open)))
        return
    folder = Path(tempfile.mkdtemp(prefix="likewise-gallery-", dir=options.folder))
    adding = [
        "| ids, distance | items/s | items per busy s | ms a batch, median / 99% / most | MB | "
        "closing s |",
        "|---|---|---|---|---|---|",
    ]
    opening = [
        "| ids, distance, way | open s | first answer s | busy s | memory now, of the vectors | "
        "at most | not shared |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, distance in (
        ("integers", "euclidean"),
        ("integers", "cosine"),
        ("strings", "euclidean"),
    ):
        path = folder / f"{kind}-{distance}"
        adding.append(added(path, options.items, kind=kind, distance=distance))
        print(adding[-1], file=sys.stderr, flush=True)
        if (path / VECTORS).exists():
            opening.append(opening_row(f"{kind}, {distance}, mapped", path))
            (path / VECTORS).unlink()
        opening.append(opening_row(f"{kind}, {distance}, from rows", path))
        shutil.rmtree(path)
    shutil.rmtree(folder)
    print(f"{options.items:,} items of {DIMENSION}, load {os.getloadavg()[0]:.1f}\n")
    print("\n".join([*adding, "", *opening]))


if __name__ == "__main__":
    main()
