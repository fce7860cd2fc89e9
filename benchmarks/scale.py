"""Bytes and seconds of the processor for each part of a large gallery, carried on to 10⁹ items.

    python benchmarks/scale.py [--items 1000000] [--images 20000]

Vectors of 64 numbers around 2,000 centers, and images of 28 × 28 in files through the small
encoder. Every part is measured in a process of its own at a tenth of the items and at all of them.
Seconds that grow from one to the other as n^p are told for more items by that power, at least 1 but
for a query; bytes in proportion. Shards divide images and vectors, so that processor time and bytes
are those of all together. It needs Fashion-MNIST in $LIKEWISE_DATA, and `likewise[tables]`.
"""

import argparse
import gc
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index import drawn
from parts import fresh, made_files, made_model, resident

import likewise as lw
from likewise.journeys.embed import add_parts, embed_parts

MORE = (10**6, 10**7, 10**8, 10**9)
QUERIES = 200


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--items", type=int, default=1_000_000)
    asked.add_argument("--images", type=int, default=20_000)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        measured: dict[str, list[tuple[int, float]]] = {}
        for share in (10, 1):
            told(measured, given.images // share, in_process(images, folder, given.images // share))
            told(measured, given.items // share, in_process(gallery, folder, given.items // share))
            for kind in ("exact", "IVF", "RaBitQ", "HNSW"):
                found = in_process(searched, given.items // share, kind)
                told(measured, given.items // share, found)
    print("| part | measured | grows as | " + " | ".join(f"{n:.0e}" for n in MORE) + " |")
    print("|---" * (len(MORE) + 3) + "|")
    for name, found in measured.items():
        if "recall" in name:
            continue  # which was asked for, and is told above
        (few, small), (many, large) = found
        power = math.log(large / small) / math.log(many / few)
        power = 1.0 if "bytes" in name else max(power, 0.0 if "a query" in name else 1.0)
        more = [shown(name, large * (n / many) ** power) for n in MORE]
        row = (name, f"{shown(name, large)} at {many:,}", f"n^{power:.2f}", *more)
        print("| " + " | ".join(row) + " |")


def told(measured: dict[str, list[tuple[int, float]]], count: int, found: dict[str, float]) -> None:
    for name, value in found.items():
        measured.setdefault(name, []).append((count, value))
        print(f"  {count:>9,} {name}: {shown(name, value)}", flush=True)


def shown(name: str, value: float) -> str:
    """Bytes or seconds with a prefix."""
    if "recall" in name:
        return f"{value:.3f}"
    units = ("B", "kB", "MB", "GB", "TB") if "bytes" in name else ("s", "h")
    if units[0] == "B":
        step = min(int(math.log10(max(value, 1)) // 3), len(units) - 1)
        return f"{value / 1000**step:.3g} {units[step]}"
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.3g} s" if value < 7200 else f"{value / 3600:,.3g} h"


def in_process(call: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, given)


def spent(call: Callable[[], object]) -> float:
    """Seconds of the processor."""
    before = time.process_time()
    call()
    return time.process_time() - before


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def images(folder: Path, count: int) -> dict[str, float]:
    """Reading and embedding image files, into parts."""
    torch.set_num_threads(1)
    files, model = made_files(folder, count), lw.load(made_model(folder, larger=True))
    items = lw.data.load(files, image_size=28, channels=1)
    out = fresh(folder / "embedded")
    seconds = spent(lambda: embed_parts(model, items, out))
    return {
        "images read and embedded, seconds": seconds,
        "parts of images, with paths, bytes": float(size_of(out)),
    }


def gallery(folder: Path, count: int) -> dict[str, float]:
    """Vectors into parts, parts into a gallery, and the gallery opened again."""
    torch.set_num_threads(1)
    out, place = fresh(folder / "vectors"), fresh(folder / "gallery")
    names = np.array([f"class {at}" for at in range(1000)])
    source = lw.data.load((drawn(count, 1), names[np.arange(count) % 1000].tolist()))
    found = {
        "vectors into parts, seconds": spent(
            lambda: embed_parts(lw.SimilarityModel(None), source, out)
        )
    }
    found["parts of vectors, bytes"] = float(size_of(out))
    with lw.Gallery(place) as opened:
        found["parts into a gallery, seconds"] = spent(lambda: add_parts(opened, out))
    found["a gallery on disk, bytes"] = float(size_of(place))
    return found | in_process_again(place)


def in_process_again(place: Path) -> dict[str, float]:
    """Opening, in a fork that has the libraries but none of the rows."""
    gc.collect()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before = resident("VmRSS")
        opened: list[lw.Gallery] = []
        seconds = spent(lambda: opened.append(lw.Gallery(place, read_only=True)))
        query = drawn(1, 2)
        seconds += spent(lambda: opened[0].lookup(query, k=1))
        os.write(writer, f"{seconds} {1e6 * max(resident('VmRSS') - before, 0.1)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    seconds, taken = map(float, os.read(reader, 100).split())
    return {
        "a gallery opened, and its first lookup, seconds": seconds,
        "a gallery opened, in memory, bytes": taken,
    }


def searched(count: int, kind: str) -> dict[str, float]:
    """Preparing a search in memory, and a query."""
    torch.set_num_threads(1)
    rows, queries = drawn(count, 1), drawn(QUERIES, 3)
    known = lw.Index() if kind == "exact" else lw.Index(recall=0.95, approximate=kind)
    known.add(rows, labels=torch.arange(count) % 1000)
    del rows
    gc.collect()
    before = resident("VmRSS")

    def prepare() -> None:
        known.lookup(queries[:1], k=10)
        known.wait()
        known.lookup(queries[:1], k=10)

    seconds = spent(prepare)
    found = {
        f"{kind} search prepared, seconds": seconds,
        f"{kind} search, above the rows, bytes": 1e6 * max(resident("VmRSS") - before, 0.1),
    }
    each = spent(lambda: [known.lookup(query[None], k=10) for query in queries]) / QUERIES
    found[f"{kind} search, a query, seconds"] = each
    recall = known.searched_by.recall
    return found if recall is None else found | {f"{kind} search, recall": recall}


if __name__ == "__main__":
    main()
