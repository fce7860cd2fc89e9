"""Answers and embeddings in parts: kills, memory, and time beside `encode`.

    python benchmarks/parts.py answers --items 100000 --kills 20
    python benchmarks/parts.py embed --items 200000 --shards 4 --kills 30
    python benchmarks/parts.py memory --items 100000
    python benchmarks/parts.py time --items 20000 --rounds 5
    python benchmarks/parts.py shards --items 20000 --shards 4 --rounds 5 --larger

Items are PNG files of 28 × 28, made from Fashion-MNIST, all different; some cannot be read.

`answers` and `embed` run the commands of the command line in processes of their own, kill them with
SIGKILL at random moments, and start them again with `--resume`. In the end every item must have one
row, with what an uninterrupted run says of it: files of parts are named by their checksum, so equal
names are equal bytes. `memory` is the peak of a process that answers a tenth of the items beside
that of one that answers all. `time` takes `encode` and each journey in turn on the same files; a
ratio is processor time of `encode` by that of the journey. `shards` takes `embed` in a process of
one thread for each shard and one `encode` of two threads in turn, by the clock: nothing else may
run. It needs Fashion-MNIST in $LIKEWISE_DATA, and `likewise[tables]`.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from PIL import Image

import likewise as lw
from likewise import cli
from likewise.journeys.answers import lookup_parts, match_parts
from likewise.journeys.embed import add_parts, embed_parts

PART_ROWS = 1000
UNREADABLE = 20  # of all items
SIDE = 28


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("what", choices=list(WHAT))
    asked.add_argument("--items", type=int, default=20_000)
    asked.add_argument("--kills", type=int, default=20)
    asked.add_argument("--shards", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--workers", type=int, default=0)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--larger", action="store_true", help="time, shards: the encoder of train")
    asked.add_argument("--folder", type=Path, help="Where files are made and kept.")
    given = asked.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="parts-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        WHAT[given.what](given, folder)
    finally:
        if given.folder is None:
            shutil.rmtree(folder)


def answers(given: argparse.Namespace, folder: Path) -> None:
    """One process answers all items, and is killed."""
    files, model = made_files(folder, given.items), made_model(folder)
    out = fresh(folder / "answers")
    command = [*("match", model, files, "--out", out), *options(given)]
    random_ = random.Random(given.seed)
    kills, runs = 0, 0
    while True:
        runs += 1
        before = len(parts_in(out))
        child = start(command)
        if kills < given.kills and killed(child, out, random_, before):
            kills += 1
            continue
        check(ended(child) == 0, "a run ended otherwise than well")
        if kills >= given.kills or not run_again(out, command):
            break
    report("answers", given, out, kills, runs)
    whole = fresh(folder / "answers-whole")
    command[4] = whole
    check(ended(start(command)) == 0, "the uninterrupted run ended otherwise than well")
    check(parts_in(whole) == parts_in(out), "parts differ from those of an uninterrupted run")
    print("the same bytes as an uninterrupted run")


def embed(given: argparse.Namespace, folder: Path) -> None:
    """A process for each shard, of which one at a time is killed."""
    files, model = made_files(folder, given.items), made_model(folder)
    out = fresh(folder / "embedded")
    commands = [
        [*("embed", model, files, "--out", out, "--shard", f"{shard}/{given.shards}")]
        for shard in range(given.shards)
    ]
    commands = [[*command, *options(given)] for command in commands]
    random_ = random.Random(given.seed)
    started = time.perf_counter()
    running = {shard: start(command) for shard, command in enumerate(commands)}
    kills = runs = 0
    while running:
        time.sleep(random_.uniform(0.0, 2.0) if kills < given.kills else 0.2)
        for shard, child in list(running.items()):
            if (status := ended(child, wait=False)) is not None:
                check(status == 0, f"shard {shard} ended otherwise than well")
                del running[shard]
        if running and kills < given.kills:
            shard = random_.choice(list(running))
            os.killpg(running[shard], signal.SIGKILL)
            if ended(running[shard]) == signal.SIGKILL:
                kills += 1
            runs += 1
            running[shard] = start(commands[shard])
    print(f"{time.perf_counter() - started:.0f} s in all, on {os.cpu_count()} cores")
    report("embed", given, out, kills, runs + given.shards)
    gallery = fresh(folder / "gallery")
    with lw.Gallery(gallery, encoder=lw.load(model).fingerprint) as opened:
        before = time.process_time()
        count = add_parts(opened, out)
        spent = time.process_time() - before
        check(count == len(opened) == given.items - UNREADABLE, "items of the gallery")
    print(f"imported into a gallery: {count:,} items, {count / spent:,.0f} per CPU second")


def memory(given: argparse.Namespace, folder: Path) -> None:
    """The peak of a fresh process, for a tenth of the items and for all."""
    files, model = made_files(folder, given.items), made_model(folder)
    for what in ("match", "embed"):
        peaks = []
        for count in (given.items // 10, given.items):
            out = fresh(folder / "memory")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peaks.append(pool.apply(peak_of, (what, model, files, out, count)))
        print(
            f"{what}: {given.items // 10:,} items {peaks[0]:.0f} MB, {given.items:,} items "
            f"{peaks[1]:.0f} MB above what the libraries take"
        )


def peak_of(what: str, path: Path, files: Path, out: Path, count: int) -> float:
    """Megabytes at the peak of answering `count` items, above those before."""
    torch.set_num_threads(1)
    model = lw.load(path)
    data = lw.data.load(files, image_size=SIDE, channels=1)
    items = lw.data.Subset(data, range(count))
    before = resident("VmRSS")
    run = match_parts if what == "match" else embed_parts
    run(model, items, out, part_rows=PART_ROWS)
    return resident("VmHWM") - before


def times(given: argparse.Namespace, folder: Path) -> None:
    """Each journey beside `encode`, in turn."""
    files = made_files(folder, given.items)
    model = lw.load(made_model(folder, larger=given.larger))
    torch.set_num_threads(1)
    opened = partial(readable, files)
    out = folder / "timed"
    journeys: dict[str, Callable[[], object]] = {
        "match": lambda: match_parts(model, opened(), fresh(out)),
        "lookup": lambda: lookup_parts(model, opened(), fresh(out)),
        "embed": lambda: embed_parts(model, opened(), fresh(out)),
    }

    def encoded() -> object:
        return lw.encode(model.encoder, opened(), preprocess=model.preprocess.apply)

    encoded()  # what is loaded when first used counts for neither
    for name, journey in journeys.items():
        journey()
        ratios, rates = [], []
        for round_ in range(given.rounds):
            pair = [encoded, journey] if round_ % 2 else [journey, encoded]
            spent = {}
            for run in pair:
                before = sum(os.times()[:4])
                run()
                spent[run] = sum(os.times()[:4]) - before
            ratios.append(spent[encoded] / spent[journey])
            rates.append(len(opened()) / spent[journey])
        print(
            f"{name}: {statistics.median(ratios):.3f} of encode ({min(ratios):.3f} to "
            f"{max(ratios):.3f} in {given.rounds} rounds), "
            f"{statistics.median(rates):,.0f} items per CPU second"
        )


def shards(given: argparse.Namespace, folder: Path) -> None:
    """A process for each shard beside one `encode` of two threads, by the clock, in turn."""
    files, model = made_files(folder, given.items), made_model(folder, larger=given.larger)
    ratios = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(seconds_of_encode, (model, files))  # loads what is loaded when first used
        for _ in range(given.rounds):
            out = fresh(folder / "timed")
            alone = pool.apply(seconds_of_encode, (model, files))
            started = time.perf_counter()
            running = [
                start(
                    [*("embed", model, files, "--out", out, "--shard", f"{shard}/{given.shards}")]
                )
                for shard in range(given.shards)
            ]
            check(not any(ended(child) for child in running), "a shard ended otherwise than well")
            ratios.append(alone / (time.perf_counter() - started))
    print(
        f"{given.shards} shards: {statistics.median(ratios):.3f} of encode ({min(ratios):.3f} to "
        f"{max(ratios):.3f} in {given.rounds} rounds), {alone:.1f} s of encode in the last"
    )


def seconds_of_encode(path: Path, files: Path) -> float:
    """Seconds by the clock of `encode` on two threads, of the files that can be read."""
    torch.set_num_threads(2)
    model = lw.load(path)
    started = time.perf_counter()
    lw.encode(model.encoder, readable(files), preprocess=model.preprocess.apply)
    return time.perf_counter() - started


def readable(files: Path) -> lw.data.ImageFiles:
    """The image files that can be read."""
    sources = sorted(map(str, files.glob("*/*.png")))[UNREADABLE:]
    return lw.data.ImageFiles(sources, [0] * len(sources), image_size=SIDE, channels=1)


def made_files(folder: Path, count: int) -> Path:
    """Folders of image files, by class, all different; the first of them cannot be read."""
    out = folder / f"files-{count}"
    if (out / "done").exists():
        return out / "images"
    data = lw.data.load("fashion-mnist")
    pixels = (data._items[:, 0] if hasattr(data, "_items") else lw.data.items(data)[:, 0]).numpy()
    pixels = pixels.astype(np.uint8)
    for code in range(len(data.class_names)):
        (out / "images" / f"class{code}").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for row in range(count):
        image = pixels[row % len(pixels)].copy()
        image[rng.integers(0, SIDE, 4), rng.integers(0, SIDE, 4)] = rng.integers(0, 256, 4)
        code = int(data.labels[row % len(pixels)])
        Image.fromarray(image).save(out / "images" / f"class{code}" / f"{row:07d}.png")
    files = sorted((out / "images").glob("*/*.png"))
    for file in files[:UNREADABLE]:
        file.write_bytes(file.read_bytes()[:40])
    (out / "done").touch()
    return out / "images"


def made_model(folder: Path, *, larger: bool = False) -> Path:
    """A convolutional encoder with 1,000 known items and a threshold; it is not trained.

    The small one takes about as long as reading its items, so that nothing hides behind it.
    """
    path = folder / ("larger" if larger else "small")
    if path.exists():
        return path
    torch.manual_seed(0)
    layers = {} if larger else {"layers": (8, "pool", 16, "pool")}
    encoder = lw.encoders.ConvEncoder((1, SIDE, SIDE), embedding_dim=64, **layers)
    preprocess = lw.data.Preprocess((1, SIDE, SIDE), (0.286,), (0.353,))
    model = lw.SimilarityModel(encoder, preprocess=preprocess)
    data = lw.data.load("fashion-mnist", split="test")
    names = [f"class{code}" for code in data.labels.tolist()]
    known, aside = lw.data.split_items(data, [0.1, 0.9])
    for rows, take in ((known, model.add), (aside, model.calibrate)):
        chosen = rows.source_indices[:1000].tolist()
        labels = [names[row] for row in chosen]
        take(lw.data.ArrayDataset(lw.data.items(data, chosen), labels))
    return model.save(path)


def options(given: argparse.Namespace) -> list[str]:
    return ["--part-rows", str(PART_ROWS), "--workers", str(given.workers), "--resume", "--json"]


def start(command: Sequence[object]) -> int:
    """Run a command in a fork of this process, which has the libraries; its id."""
    child = os.fork()
    with contextlib.suppress(OSError):  # by either, whichever is first
        os.setpgid(child, child)  # so that workers are killed too
    if child:
        return child
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["likewise", *map(str, command)]
    try:
        cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(99)  # or a fork would go on as its parent, and remove the folder


def killed(child: int, out: Path, random_: random.Random, before: int) -> bool:
    """Kill a run at a random moment; False if it had ended by then.

    Most kills come after it has written something, so that there is work to lose; some earlier.
    """
    if random_.random() < 0.8:
        while len(parts_in(out)) == before and ended(child, wait=False) is None:
            time.sleep(0.01)
    time.sleep(random_.uniform(0.0, 1.5))
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return ended(child) == signal.SIGKILL


_statuses: dict[int, int] = {}


def ended(child: int, *, wait: bool = True) -> int | None:
    """How a run ended, the number of its signal if it was killed; None while it goes on."""
    if child not in _statuses:
        found, status = os.waitpid(child, 0 if wait else os.WNOHANG)
        if not found:
            return None
        killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        _statuses[child] = killed_by or os.WEXITSTATUS(status)
    return _statuses[child]


def run_again(out: Path, command: Sequence[object]) -> bool:
    """Take some parts away where a run was quicker than the kills, so that there is work left."""
    for name in sorted(parts_in(out))[::2]:
        (out / name).unlink()
    return True


def report(what: str, given: argparse.Namespace, out: Path, kills: int, runs: int) -> None:
    rows: list[int] = []
    failed = 0
    for file in sorted(out.glob("part-*.parquet")):
        table = parquet.ParquetFile(file).read(["row", "error"])
        rows += table["row"].to_pylist()
        failed += len(table) - table["error"].null_count
    check(rows == list(range(given.items)), "rows are not there once each")
    check(failed == UNREADABLE, f"{failed} rows failed, not {UNREADABLE}")
    check(not list(out.glob(".*.part")), "a half written file was left")
    print(
        f"{what}: {given.items:,} items, {kills} kills in {runs} runs: every row once, "
        f"{failed} failures are rows, {len(parts_in(out))} parts"
    )


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"wrong: {what}")


def parts_in(out: Path) -> set[str]:
    return {file.name for file in out.glob("part-*.parquet")} if out.exists() else set()


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    return out


def resident(name: str) -> float:
    """Megabytes that this process has (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return int(line.split()[1]) / 1024


WHAT = {"answers": answers, "embed": embed, "memory": memory, "time": times, "shards": shards}


if __name__ == "__main__":
    main()
