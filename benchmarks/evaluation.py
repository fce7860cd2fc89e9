"""Retrieval evaluation beside pytorch-metric-learning and open-metric-learning.

    python benchmarks/evaluation.py                 the table of times, values and memory
    python benchmarks/evaluation.py --only NAME     rows whose name holds this
    python benchmarks/evaluation.py --growth FILE   15,000 to 240,000 items, with a plot

Every embedding is a query, compared with all others, by the cosine distance. Both sides in turn;
medians of as many runs as --runs says. pytorch-metric-learning gives R-precision, MAP@R and P@1;
likewise every score it has, with intervals. open-metric-learning looks up 100 neighbors, its
default, and has CMC, precision and MAP at 1, 5 and 10; it asks for numpy below 2, which the parts
that are used here do not
need, so they are put without their dependencies into a folder of their own, out/oml. Its precision
is divided by min(k, R), its MAP by the hits found, so that only CMC is compared. Memory is the
peak of a process of its own above what stood there with the data in it.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import likewise as lw

PEER = Path("out/oml")
# Without dependencies, as these would bring another numpy and torch.
PEER_PACKAGES = [
    "open-metric-learning==4.0.0",
    "antlr4-python3-runtime==4.9.3",
    "beautifulsoup4",
    "gdown",
    "omegaconf==2.3.0",
    "soupsieve",
    "validators",
]
Scores = dict[str, float]


def data(size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % classes
    centers = torch.randn(classes, 64, generator=rng)
    return F.normalize(0.5 * centers[labels] + torch.randn(size, 64, generator=rng)), labels


def ours(points: torch.Tensor, labels: torch.Tensor) -> Scores:
    found = lw.evaluation.evaluate_retrieval(points, labels, ks=(1, 5, 10))
    return {
        "P@1": float(found.precision_at_1),
        "R-precision": float(found.r_precision),
        "MAP@R": float(found.map_at_r),
        **{f"recall@{k}": float(estimate) for k, estimate in found.recall_at_k.items()},
    }


def metric_learning(points: torch.Tensor, labels: torch.Tensor) -> Scores:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    wanted = {
        "precision_at_1": "P@1",
        "r_precision": "R-precision",
        "mean_average_precision_at_r": "MAP@R",
    }
    calculator = AccuracyCalculator(
        include=tuple(wanted), k="max_bin_count", device=torch.device("cpu")
    )
    found = calculator.get_accuracy(points, labels)
    return {name: found[key] for key, name in wanted.items()}


def open_metric_learning(points: torch.Tensor, labels: torch.Tensor) -> Scores:
    from oml.functional.knn import batched_knn
    from oml.functional.metrics import calc_retrieval_metrics

    every, ks = torch.arange(len(points)), (1, 5, 10)
    _, found, truth = batched_knn(points, every, every, top_n=100, labels_gt=labels)
    scores = calc_retrieval_metrics(
        found, truth, cmc_top_k=ks, precision_top_k=ks, map_top_k=ks, verbose=False
    )
    return {f"recall@{k}": float(scores["cmc"][k]) for k in ks}


def install_peer() -> None:
    if not PEER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*pip, str(PEER), *PEER_PACKAGES], check=True)
    sys.path.append(str(PEER))


def seconds(
    run: Callable[[torch.Tensor, torch.Tensor], Scores], *given: torch.Tensor
) -> tuple[float, Scores]:
    started = time.perf_counter()
    scores = run(*given)
    return time.perf_counter() - started, scores


ROWS = [
    ("1,000 classes, pytorch-metric-learning", 60_000, 1_000, metric_learning),
    ("10 classes, pytorch-metric-learning", 60_000, 10, metric_learning),
    ("open-metric-learning", 10_000, 1_000, open_metric_learning),
]


def compare(runs: int, row: tuple[str, int, int, Any]) -> None:
    name, size, classes, peer = row
    given = data(size, classes)
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        taken, scores = seconds(ours, *given)
        mine.append(taken)
        taken, peers = seconds(peer, *given)
        theirs.append(taken)
    apart = max(abs(scores[key] - value) for key, value in peers.items())
    here, there = statistics.median(mine), statistics.median(theirs)
    print(f"{size:,} items, {name}: {here:.2f} s, the peer {there:.2f} s, {there / here:.2f} x")
    values = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
    print(f"  {values}; at most {apart:.1e} apart", flush=True)


def memory(size: int, classes: int) -> tuple[float, float]:
    """Seconds and peak MB above the data, in this process."""
    ours(*data(2000, 500))
    given = data(size, classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken, _ = seconds(ours, *given)
    return taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def alone(size: int, classes: int) -> tuple[float, float]:
    """The same in a process of its own, whose peak nothing else has raised before."""
    command = [sys.executable, __file__, "--memory", str(size), str(classes)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(told[0]), float(told[1])


def growth(picture: Path) -> None:
    """Time and memory as the items grow, with as many items a class and with as many classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    sizes = [15_000, 30_000, 60_000, 120_000, 240_000]
    found = []
    for size in sizes:
        found.append(alone(size, size // 60))
        print(
            f"{size:9,} items, 60 a class: {found[-1][0]:8.1f} s {found[-1][1]:6.0f} MB", flush=True
        )
    for panel, which, title in zip(
        panels, (0, 1), ("seconds", "peak MB above the data"), strict=True
    ):
        panel.plot(sizes, [pair[which] for pair in found], marker="o")
        panel.set(xscale="log", xlabel="items, each compared with all others", title=title)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", nargs=2, type=int, metavar=("SIZE", "CLASSES"))
    parser.add_argument("--growth", type=Path, nargs="?", const=Path("out/evaluation_growth.png"))
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_metric_learning")
    if asked.memory:
        print(*memory(*asked.memory))
        return
    if asked.growth:
        growth(asked.growth)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians, in turn")
    for row in ROWS:
        if asked.only in row[0]:
            if row[3] is open_metric_learning:
                install_peer()
            compare(asked.runs, row)
    if not asked.only:
        for classes in (1_000, 10):
            taken, peak = alone(60_000, classes)
            print(f"60,000 items, {classes:,} classes: {taken:.1f} s, {peak:.0f} MB above the data")


if __name__ == "__main__":
    main()
