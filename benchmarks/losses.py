"""Losses and miners beside pytorch-metric-learning: forward and backward on the same batch.

    python benchmarks/losses.py            the table of times
    python benchmarks/losses.py --small    batches of 32 to 512 items
    python benchmarks/losses.py --growth   time and memory from 256 to 8,192 items, with a plot

Each row takes both in turn, so that a machine which slows down slows both, and gives medians and
their ratio. The distances are part of the time on both sides. Embeddings are unit vectors.
"""

import argparse
import importlib.util
import math
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

LEAST_SECONDS = 2.0  # per row
SMALL = [(32, 4, 64), (64, 8, 64), (64, 4, 128), (128, 8, 64), (256, 8, 128), (512, 16, 128)]
Case = tuple[str, int, int, Callable[[], Any], Callable[[], Any]]


def batch(size: int, per_class: int, dim: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    points = F.normalize(torch.randn(size, dim, generator=rng)).requires_grad_()
    return points, torch.arange(size) // per_class


def step(loss: Any, points: torch.Tensor, labels: torch.Tensor) -> float:
    points.grad = None
    started = time.perf_counter()
    loss(points, labels).backward()
    return time.perf_counter() - started


def with_miner(loss: Any, miner: Any) -> Any:
    """A loss of the peer's fed by a miner of the peer's."""
    return lambda points, labels: loss(points, labels, miner(points, labels))


def cases(dim: int = 64) -> list[Case]:
    """Name, items, items per class, ours, and the peer's."""
    from pytorch_metric_learning import distances, losses, miners, reducers

    ours = lw.losses
    euclidean = distances.LpDistance(normalize_embeddings=False)
    classes = 512 // 16
    weighted = {"num_classes": classes, "embedding_size": dim}
    weights = torch.rand(classes, generator=torch.Generator().manual_seed(0)) + 0.5
    plain = {"margin": 0.2, "distance": euclidean}

    def triplets(miner: Any) -> Any:
        return with_miner(losses.TripletMarginLoss(**plain), miner)

    def semi_hard() -> Any:
        return miners.TripletMarginMiner(type_of_triplets="semihard", **plain)

    return [
        (
            "all triplets",
            *(512, 16),
            lambda: ours.TripletLoss(margin=0.2),
            lambda: losses.TripletMarginLoss(**plain),
        ),
        (
            "all semi-hard triplets",
            *(512, 16),
            lambda: ours.TripletLoss(margin=0.2, miner=lw.miners.all_semi_hard(0.2)),
            lambda: triplets(semi_hard()),
        ),
        (
            "batch hard, triplet",
            *(1024, 16),
            lambda: ours.TripletLoss(margin=0.2, miner=lw.miners.batch_hard),
            lambda: triplets(miners.BatchHardMiner(distance=euclidean)),
        ),
        (
            "multi-similarity with its miner",
            *(1024, 16),
            lambda: ours.MultiSimilarityLoss(),
            lambda: with_miner(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()),
        ),
        ("NT-Xent", 256, 8, lambda: ours.NTXentLoss(), lambda: losses.NTXentLoss()),
        ("circle", 1024, 16, lambda: ours.CircleLoss(), lambda: losses.CircleLoss()),
        (
            "contrastive",
            *(1024, 16),
            lambda: ours.ContrastiveLoss(squared=False),
            lambda: losses.ContrastiveLoss(distance=euclidean),
        ),
        (
            "supervised contrastive",
            *(1024, 16),
            lambda: ours.SupervisedContrastiveLoss(),
            lambda: losses.SupConLoss(),
        ),
        ("angular", 512, 16, lambda: ours.AngularLoss(), lambda: losses.AngularLoss()),
        (
            "ArcFace",
            *(512, 16),
            lambda: ours.ArcFaceLoss(dim, classes),
            lambda: losses.ArcFaceLoss(**weighted),
        ),
        (
            "ArcFace, sub-centers",
            *(512, 16),
            lambda: ours.ArcFaceLoss(dim, classes, centers_per_class=3),
            lambda: losses.SubCenterArcFaceLoss(**weighted),
        ),
        (
            "ArcFace, class weights",
            *(512, 16),
            lambda: ours.ClassWeighted(ours.ArcFaceLoss(dim, classes), weights),
            lambda: losses.ArcFaceLoss(**weighted, reducer=reducers.ClassWeightedReducer(weights)),
        ),
        (
            "CosFace",
            *(512, 16),
            lambda: ours.CosFaceLoss(dim, classes),
            lambda: losses.CosFaceLoss(**weighted),
        ),
        ("FastAP", 512, 16, lambda: ours.FastAPLoss(), lambda: losses.FastAPLoss()),
        (
            "generalized lifted",
            *(512, 16),
            lambda: ours.GeneralizedLiftedLoss(),
            lambda: losses.GeneralizedLiftedStructureLoss(distance=euclidean),
        ),
        (
            "lifted structure",
            *(128, 8),  # at 512 / 16 the peer needs more than 24 GB
            lambda: ours.LiftedStructureLoss(),
            lambda: losses.LiftedStructureLoss(distance=euclidean),
        ),
        (
            "soft nearest neighbor (NCA)",
            *(512, 16),
            lambda: ours.SoftNearestNeighborLoss(),
            lambda: losses.NCALoss(),
        ),
        (
            "normalized softmax",
            *(512, 16),
            lambda: ours.NormalizedSoftmaxLoss(dim, classes),
            lambda: losses.NormalizedSoftmaxLoss(**weighted),
        ),
        (
            "margin",
            *(512, 16),
            lambda: ours.MarginLoss(),
            lambda: losses.MarginLoss(learn_beta=True, distance=euclidean),
        ),
        (
            "margin, distance-weighted",
            *(512, 16),
            lambda: ours.MarginLoss(miner=lw.miners.distance_weighted(dim)),
            lambda: with_miner(
                losses.MarginLoss(learn_beta=True, distance=euclidean),
                miners.DistanceWeightedMiner(),
            ),
        ),
        (
            "contrastive, pair margin",
            *(512, 16),
            lambda: ours.ContrastiveLoss(
                squared=False, average="active", miner=lw.miners.pair_margin(1.2, 1.5)
            ),
            lambda: with_miner(
                losses.ContrastiveLoss(distance=euclidean),
                miners.PairMarginMiner(1.2, 1.5, distance=euclidean),
            ),
        ),
        (
            "intra-pair variance",
            *(512, 16),
            lambda: ours.IntraPairVarianceLoss(),
            lambda: losses.IntraPairVarianceLoss(),
        ),
        (
            "tuplet margin",
            *(128, 8),  # at 512 / 16 one matrix of the peer's takes 8 GB
            lambda: ours.TupletMarginLoss(),
            lambda: losses.TupletMarginLoss(),
        ),
        *graded(),
        ("N-pairs", 512, 16, lambda: ours.NPairsLoss(), lambda: losses.NPairsLoss()),
        (
            "Proxy-Anchor",
            *(512, 16),
            lambda: ours.ProxyAnchorLoss(dim, classes),
            lambda: losses.ProxyAnchorLoss(**weighted),
        ),
        (
            "Proxy-NCA",
            *(512, 16),
            lambda: ours.ProxyNCALoss(dim, classes),
            lambda: losses.ProxyNCALoss(**weighted),
        ),
        (
            "ranked list",
            *(512, 16),
            lambda: ours.RankedListLoss(),
            lambda: losses.RankedListLoss(margin=0.4, Tn=10),
        ),
        (
            "signal-to-noise contrastive",
            *(512, 16),
            lambda: ours.SNRContrastiveLoss(),
            lambda: losses.SignalToNoiseRatioContrastiveLoss(),
        ),
        ("SmoothAP", 512, 16, lambda: ours.SmoothAPLoss(), lambda: losses.SmoothAPLoss()),
        (
            "SoftTriple",
            *(512, 16),
            # The peer's has no regularizer.
            lambda: ours.SoftTripleLoss(dim, classes, regularizer=0),
            lambda: losses.SoftTripleLoss(**weighted),
        ),
        (
            "SphereFace",
            *(512, 16),
            lambda: ours.SphereFaceLoss(dim, classes),
            lambda: losses.SphereFaceLoss(**weighted),
        ),
        (
            "threshold consistency",
            *(512, 16),
            lambda: ours.ThresholdConsistencyLoss(),
            lambda: losses.ThresholdConsistentMarginLoss(),
        ),
    ]


def graded() -> list[Case]:
    """Graded pairs beside sentence-transformers, where that is installed: half the items a side."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return []
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    def of_sides(loss: Any) -> Any:
        def call(points: torch.Tensor, labels: torch.Tensor) -> Any:
            a, b = points.chunk(2)
            return loss(a, b, torch.linspace(0, 1, len(a)))

        return call

    def peer(a: torch.Tensor, b: torch.Tensor, grades: torch.Tensor) -> Any:
        return CoSENTLoss(None).compute_loss_from_embeddings([a, b], grades)

    return [
        (
            "graded pairs (CoSENT)",
            *(512, 16),
            lambda: of_sides(lw.losses.GradedPairsLoss()),
            lambda: of_sides(peer),
        )
    ]


def selections() -> None:
    """Our selection rules on siamese-triplet's own batch; its own code takes 600 to 4,560 ms."""
    points, labels = batch(250, 25)
    distances = lw.distances.EUCLIDEAN.matrix(points, points).detach()
    masks = lw.masks.masks(labels)
    rules = {
        "all triplets": lw.losses.TripletLoss(margin=1.0),
        "random hard": lw.miners.random_hard(1.0),
        "semi-hard": lw.miners.semi_hard,
        "semi-hard, random": lw.miners.random_semi_hard(1.0),
        "hardest negative": lw.miners.hardest_negative,
    }
    print(
        "\nselection from 10 classes x 25 items, given the distances (all triplets: the whole step)"
    )
    for name, rule in rules.items():
        taken = []
        for _ in range(60):
            started = time.perf_counter()
            if isinstance(rule, torch.nn.Module):
                rule(points, labels).backward()
            else:
                rule(distances, *masks)
            taken.append(time.perf_counter() - started)
        print(f"{name:34s}{1000 * statistics.median(taken[10:]):10.2f} ms")


def compare(case: Case) -> None:
    name, size, per_class, make_ours, make_peer = case
    points, labels = batch(size, per_class)
    mine, peer = make_ours(), make_peer()
    step(mine, points, labels)
    step(peer, points, labels)
    ours: list[float] = []
    theirs: list[float] = []
    while len(theirs) < 5 or sum(ours) + sum(theirs) < LEAST_SECONDS:
        # A quick step is taken several times, so that both sides have enough of them.
        theirs.append(step(peer, points, labels))
        ours.extend(step(mine, points, labels) for _ in range(3))
    ours_ms, peer_ms = (1000 * statistics.median(side) for side in (ours, theirs))
    print(
        f"{name:34s}{size:6d} /{per_class:3d}{ours_ms:10.2f} ms{peer_ms:10.1f} ms"
        f"{peer_ms / ours_ms:9.2f} x",
        flush=True,
    )


def pace(loss: Any, points: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """Seconds of computing a step, which other work on the machine does not add to."""
    started = time.process_time()
    for _ in range(steps):
        step(loss, points, labels)
    return (time.process_time() - started) / steps


def small(only: str, pairs: int) -> None:
    """Both sides in turn on small batches, on one thread: times, ratio and its 95% interval."""
    torch.set_num_threads(1)
    print(f"1 thread, torch {torch.__version__}; medians of {pairs} pairs, facts included")
    for size, per_class, dim in SMALL:
        for name, _, _, make_ours, make_peer in cases(dim):
            # At 256 items the peer takes 12 s for a step of NT-Xent, 25 s of lifted structure.
            slow = ("NT-Xent", "lifted structure", "tuplet margin")
            if only not in name or (size > 64 and name in slow):
                continue
            points, labels = batch(size, per_class, dim)
            sides = make_ours(), make_peer()
            once = [min(pace(side, points, labels, 1) for _ in range(2)) for side in sides]
            steps = [max(1, round(0.01 / seconds)) for seconds in once]
            enough = 3 if max(once) > 0.1 else pairs
            taken = [
                [
                    pace(side, points, labels, count)
                    for side, count in zip(sides, steps, strict=True)
                ]
                for _ in range(enough)
            ]
            ours, theirs = (statistics.median(side) for side in zip(*taken, strict=True))
            low, ratio, high = interval([theirs / ours for ours, theirs in taken])
            print(
                f"{name:34s}{size:6d} /{per_class:3d} d{dim:4d}{1000 * ours:9.2f} ms"
                f"{1000 * theirs:10.2f} ms{ratio:9.2f} x  [{low:.2f}, {high:.2f}]",
                flush=True,
            )


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median with the order statistics that hold it in 95 of 100 cases."""
    ordered = sorted(ratios)
    count = len(ordered)
    # The largest k with P(Binomial(n, 1/2) < k) at most 2.5%.
    tail, below = 0.0, 0
    while (tail := tail + math.comb(count, below) / 2**count) <= 0.025:
        below += 1
    low = max(below - 1, 0)
    return ordered[low], statistics.median(ordered), ordered[-1 - low]


def memory(name: str, size: int, per_class: int, dim: int) -> tuple[float, float]:
    """Seconds and peak MB of one step above what stood before it, in this process."""
    points, labels = batch(size, per_class, dim)
    (make,) = [case[3] for case in cases() if case[0] == name]
    loss = make()
    step(loss, *batch(64, 8, dim))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = step(loss, points, labels)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return seconds, peak


def alone(name: str, size: int, per_class: int, dim: int) -> tuple[float, float]:
    """The same in a process of its own, whose peak nothing else has raised before."""
    command = [sys.executable, __file__, "--memory", name, str(size), str(per_class), str(dim)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(told[0]), float(told[1])


def growth(picture: Path) -> None:
    """Time and memory of one step from 256 to 8,192 items, with the slope on log axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    sizes = [256, 512, 1024, 2048, 4096, 8192]
    for name in ("all triplets", "multi-similarity with its miner", "NT-Xent", "contrastive"):
        found = [alone(name, size, 16, 64) for size in sizes]
        slopes = [math.log2(found[-1][which] / found[-3][which]) / 2 for which in (0, 1)]
        print(f"{name:34s}", *(f"{s:7.2f} s {mb:6.0f} MB" for s, mb in found))
        print(
            f"{'':34s} from 2,048 on: time grows as n^{slopes[0]:.2f}, memory as n^{slopes[1]:.2f}"
        )
        for panel, which in zip(panels, (0, 1), strict=True):
            panel.plot(sizes, [pair[which] for pair in found], marker="o", label=name)
    for panel, title in zip(panels, ("seconds", "peak MB above the start"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="items in the batch", title=title)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", nargs=4, metavar=("NAME", "SIZE", "PER_CLASS", "DIM"))
    parser.add_argument("--growth", type=Path, nargs="?", const=Path("out/growth.png"))
    parser.add_argument("--small", type=int, nargs="?", const=11, metavar="PAIRS")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_metric_learning")
    if asked.memory:
        name, *numbers = asked.memory
        print(*memory(name, *map(int, numbers)))
        return
    if asked.small:
        small(asked.only, asked.small)
        return
    if asked.growth:
        asked.growth.parent.mkdir(parents=True, exist_ok=True)
        growth(asked.growth)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians, in turn")
    for case in cases():
        if asked.only in case[0]:
            compare(case)
    if not asked.only:
        selections()
        print()
        for name, size, per_class, dim in [
            ("all triplets", 4096, 64, 128),
            ("NT-Xent", 512, 16, 64),
        ]:
            seconds, peak = alone(name, size, per_class, dim)
            what = f"{name}, {size:,} items, {per_class} per class, d = {dim}"
            print(f"{what}: {seconds:.2f} s, {peak:.0f} MB above the start")


if __name__ == "__main__":
    main()
