"""Is this tree as fast as an older one? Both run the same work in turn, in two processes.

    git worktree add ../older COMMIT
    python benchmarks/before_after.py ../older/src [--pairs 10] [--only NAME] [--threads 2]

Each pair times the older tree and this one (in the other order every second time) and divides the
two: above 1 this tree is faster. Prints the median of the ratios and its 95% interval, from the
order of the ratios (for ten pairs: the second and the ninth). With one thread the time is that
of the processor, which other work disturbs less.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Work = Callable[[], Any]
SOURCE = Path(__file__).parent.parent / "src"
LOSSES: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "all triplets": ("TripletLoss", {}, (512, 16)),
    "semi-hard triplets": ("TripletLoss", {"miner": "all_semi_hard"}, (512, 16)),
    "batch hard": ("TripletLoss", {"miner": "batch_hard"}, (1024, 16)),
    "soft-margin triplets": ("TripletLoss", {"margin": None}, (512, 16)),
    "multi-similarity": ("MultiSimilarityLoss", {}, (1024, 16)),
    "NT-Xent": ("NTXentLoss", {}, (256, 8)),
    "circle": ("CircleLoss", {}, (1024, 16)),
    "contrastive": ("ContrastiveLoss", {}, (1024, 16)),
    "supervised contrastive": ("SupervisedContrastiveLoss", {}, (1024, 16)),
    "angular": ("AngularLoss", {}, (512, 16)),
    "ArcFace": ("ArcFaceLoss", {"dim": 64, "classes": 32}, (512, 16)),
    "CosFace": ("CosFaceLoss", {"dim": 64, "classes": 32}, (512, 16)),
    "FastAP": ("FastAPLoss", {}, (512, 16)),
    "generalized lifted": ("GeneralizedLiftedLoss", {}, (512, 16)),
    "NCA": ("SoftNearestNeighborLoss", {}, (512, 16)),
    "softmax": ("SoftmaxLoss", {"dim": 64, "classes": 32}, (512, 16)),
    "N-pairs": ("NPairsLoss", {}, (512, 16)),
    "Proxy-Anchor": ("ProxyAnchorLoss", {"dim": 64, "classes": 32}, (512, 16)),
    "Proxy-NCA": ("ProxyNCALoss", {"dim": 64, "classes": 32}, (512, 16)),
    "ranked list": ("RankedListLoss", {}, (512, 16)),
    "signal-to-noise": ("SNRContrastiveLoss", {}, (512, 16)),
    "SmoothAP": ("SmoothAPLoss", {}, (512, 16)),
    "SoftTriple": ("SoftTripleLoss", {"dim": 64, "classes": 32}, (512, 16)),
    "SphereFace": ("SphereFaceLoss", {"dim": 64, "classes": 32}, (512, 16)),
    "threshold consistency": ("ThresholdConsistencyLoss", {}, (512, 16)),
}


# ---- the work, imported from whichever tree the process was started on


def loss_step(name: str, size: tuple[int, int]) -> Work:
    import torch

    from likewise import losses, miners

    torch.manual_seed(0)
    kind, given, _ = LOSSES[name]
    given = dict(given)
    if "miner" in given:
        given["miner"] = getattr(miners, given["miner"])
        if given["miner"] is getattr(miners, "all_semi_hard", None):
            given["miner"] = given["miner"](0.2)
    if "dim" in given:
        loss = getattr(losses, kind)(given["dim"], size[0] // size[1])
    else:
        loss = getattr(losses, kind)(**given)
    labels = torch.arange(size[0]) % (size[0] // size[1])
    middles = torch.randn(size[0] // size[1], 64)
    items = torch.nn.functional.normalize(torch.randn(size[0], 64) + middles[labels])
    items.requires_grad_()

    def step() -> None:
        items.grad = None
        loss(items, labels).backward()

    return step


def rows(count: int, width: int = 64, seed: int = 0) -> Any:
    import torch

    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=rng))


@functools.cache
def stored_index(count: int) -> Any:
    import likewise as lw
    from likewise.distances import COSINE

    index = lw.Index(COSINE)
    index.add(rows(count), labels=np.arange(count) % 1000)
    return index


def lookups(count: int, batch: int) -> Work:
    queries = rows(batch, seed=1)
    return lambda: stored_index(count).lookup(queries, k=10)


def adding_one_by_one() -> Work:
    import likewise as lw
    from likewise.distances import COSINE

    items = rows(300)

    def add() -> None:
        index = lw.Index(COSINE)
        for i in range(len(items)):
            index.add(items[i : i + 1], labels=[i])

    return add


def adding_one_to_many() -> Work:
    items = rows(20_000, seed=2)
    taken: Iterator[int] = iter(range(len(items)))

    def add() -> None:
        i = next(taken)
        stored_index(100_000).add(items[i : i + 1], labels=[i])

    return add


def adding_many() -> Work:
    import likewise as lw
    from likewise.distances import COSINE

    items, labels = rows(50_000), np.arange(50_000) % 1000
    return lambda: lw.Index(COSINE).add(items, labels=labels)


def gallery_batches() -> Work:
    from likewise.distances import COSINE
    from likewise.index import Gallery

    folder = tempfile.mkdtemp()
    gallery = Gallery(Path(folder) / "gallery", distance=COSINE)
    items = rows(1000)
    taken: Iterator[int] = iter(range(10**9))

    def add() -> None:
        start = next(taken) * 1000
        gallery.add(items, ids=range(start, start + 1000))

    return add


def matches() -> Work:
    import likewise as lw

    queries = rows(1000, seed=3)
    return lambda: lw.match(stored_index(10_000).lookup(queries, k=5), 0.5)


def pair_distances() -> tuple[Any, Any]:
    import torch

    rng = torch.Generator().manual_seed(0)
    same = torch.rand(300_000, generator=rng) < 0.5
    spread = torch.randn(300_000, generator=rng)
    return torch.where(same, 0.7 + 0.3 * spread, 1.5 + 0.4 * spread).clamp(0, 4), same


def calibration() -> Work:
    import likewise as lw

    distances, same = pair_distances()
    return lambda: lw.calibrate(distances, same)


def verification() -> Work:
    from likewise import evaluation

    distances, same = pair_distances()
    distances, same = distances[:20_000], same[:20_000]
    return lambda: evaluation.evaluate_verification(distances, same)


def retrieval() -> Work:
    import torch

    from likewise import evaluation

    items, labels = rows(5000), torch.arange(5000) % 250
    return lambda: evaluation.evaluate_retrieval(items, labels)


def epoch() -> Work:
    import likewise as lw

    data = lw.data.load("digits", split="train")
    encoder = lw.encoders.ConvEncoder((1, 8, 8))
    loss = lw.losses.MultiSimilarityLoss()
    return lambda: lw.fit(encoder, loss, data, epochs=1, seed=0)


def encoding() -> Work:
    import torch

    import likewise as lw

    encoder, items = lw.encoders.ConvEncoder((1, 28, 28)), torch.rand(5000, 1, 28, 28)
    return lambda: lw.encode(encoder, items)


def saving() -> Work:
    import likewise as lw

    data = lw.data.load("digits", split="train")
    encoder = lw.encoders.MLPEncoder((1, 8, 8))
    model = lw.SimilarityModel(encoder, preprocess=lw.data.Preprocess.fit(data))
    model.add(data)
    folder = Path(tempfile.mkdtemp())
    taken: Iterator[int] = iter(range(10**9))

    def save_and_load() -> None:
        path = folder / f"model-{next(taken)}"
        model.save(path)
        lw.load(path)

    return save_and_load


def matching_one() -> Work:
    import likewise as lw

    data = lw.data.load("digits", split="train")
    encoder = lw.encoders.ConvEncoder((1, 8, 8))
    model = lw.SimilarityModel(encoder, preprocess=lw.data.Preprocess.fit(data))
    model.add(lw.data.sample_items(data, per_class=60, seed=0))
    model.calibrate(data, rule="nearest")
    item = data[0][0]
    return lambda: model.match(item[None])


def all_work() -> dict[str, Callable[[], Work]]:
    work: dict[str, Callable[[], Work]] = {}
    for name, (_, _, size) in LOSSES.items():
        work[f"{name}, {size[0]}/{size[1]}"] = functools.partial(loss_step, name, size)
        work[f"{name}, 64/8"] = functools.partial(loss_step, name, (64, 8))
    for count, batch in ((1000, 1), (100_000, 1), (100_000, 1000)):
        work[f"lookup of {batch:,} in {count:,}"] = functools.partial(lookups, count, batch)
    return work | {
        "Index.add, one by one from empty": adding_one_by_one,
        "Index.add, one to 100,000": adding_one_to_many,
        "Index.add, 50,000 at once": adding_many,
        "Gallery.add, 1,000 at once": gallery_batches,
        "match of 1,000 in 10,000": matches,
        "model.match, one item": matching_one,
        "calibrate, 300,000 pairs": calibration,
        "evaluate_verification, 20,000 pairs": verification,
        "evaluate_retrieval, 5,000 items": retrieval,
        "fit, one epoch of digits": epoch,
        "encode, 5,000 items": encoding,
        "save and load": saving,
    }


# ---- two processes in turn


def serve() -> None:
    """Answer each `[name, times]` with seconds per time, or null where the tree lacks the work."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work, made = all_work(), {}
    clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    for line in sys.stdin:
        name, times = json.loads(line)
        try:
            if name not in made:
                made[name] = work[name]()
            started = clock()
            for _ in range(times):
                made[name]()
            answer = (clock() - started) / times
        except (AttributeError, TypeError, ImportError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            answer = None
        print(json.dumps(answer), file=answers, flush=True)


def started(source: Path, threads: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--serve"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def asked(process: subprocess.Popen[str], name: str, times: int) -> float | None:
    asking, told = process.stdin, process.stdout
    if asking is None or told is None:
        raise RuntimeError("the process was started without pipes")
    asking.write(json.dumps([name, times]) + "\n")
    asking.flush()
    return json.loads(told.readline())


def median_interval(ratios: list[float]) -> tuple[float, float]:
    """The 95% interval of a median: order statistics, by the binomial distribution."""
    rank = int(stats.binom(len(ratios), 0.5).ppf(0.025))
    return sorted(ratios)[max(rank - 1, 0)], sorted(ratios)[len(ratios) - max(rank, 1)]


def row(older: Any, newer: Any, name: str, pairs: int) -> str:
    warm = [asked(older, name, 2), asked(newer, name, 2)]
    if None in warm:
        return f"| {name} | not in both trees | | |"
    times = max(1, min(200, int(0.15 / max(warm))))
    ratios, before, after = [], [], []
    for pair in range(pairs):
        if pair % 2:
            b, a = asked(newer, name, times), asked(older, name, times)
        else:
            a, b = asked(older, name, times), asked(newer, name, times)
        ratios.append(a / b)
        before.append(a)
        after.append(b)
    low, high = median_interval(ratios)
    old, new = statistics.median(before) * 1e3, statistics.median(after) * 1e3
    sign = "" if low > 0.95 else " **slower**" if high < 1 else " unclear"
    ratio = statistics.median(ratios)
    return f"| {name} | {old:.2f} | {new:.2f} | {ratio:.2f} ({low:.2f} to {high:.2f}){sign} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("older", nargs="?", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.older is None:
        parser.error("name the source folder of the older tree")
    older, newer = (started(path.resolve(), options.threads) for path in (options.older, SOURCE))
    print("| work | before, ms | now, ms | before / now (95% interval) |\n|---|---|---|---|")
    for name in all_work():
        if options.only in name:
            print(row(older, newer, name, options.pairs), flush=True)
    for process in (older, newer):
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
