"""Training on several processes: is it that of one, and what does it cost?

    python benchmarks/distributed.py equal        every loss and miner on 1, 2 and 4 processes
    python benchmarks/distributed.py equal NAME   only those whose name begins so
    python benchmarks/distributed.py throughput   2 processes of 1 thread beside 1 of 2 threads
    python benchmarks/distributed.py cost         cost of losses on 1 to 8 simulated processes

`equal` trains from the same weights, in float64, with three steps of AdamW on the same uneven
batches, and tells the largest relative difference of any tensor of encoder, loss, running
statistics and memory from those of one process. "rows" says that a process computes the loss of its
rows against the whole batch, "whole" that it computes all of it.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  # before the forks
import torch
from torch import Tensor, nn

import likewise as lw
from likewise import _shares, data, losses, miners
from likewise._shares import Share, by_rows
from likewise.augment import Augment, make_rotated_classes
from likewise.distances import COSINE, SQUARED_EUCLIDEAN

DIM, CLASSES, WIDTH = 6, 7, 9
SIDE = 8  # of images
LIMIT = 1e-6
PROCESSES = (1, 2, 4)
SIZES = (9, 8, 7, 6, 5, 3, 2)  # items of each class, so that batches are uneven


class Net(nn.Module):
    """A small network in float64, with or without batch normalization."""

    def __init__(self, width: int, normalized: bool) -> None:
        super().__init__()
        self.first = nn.Linear(width, 16, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(16, dtype=torch.float64) if normalized else nn.Identity()
        self.last = nn.Linear(16, DIM, dtype=torch.float64)

    def forward(self, items: Tensor) -> Tensor:
        """Embeddings."""
        hidden = self.norm(self.first(items.flatten(1).double()))
        embeddings: Tensor = self.last(torch.tanh(hidden))
        return embeddings


def points() -> data.ArrayDataset:
    """Vectors of classes of several sizes."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(SIZES))
    middles = torch.randn(CLASSES, WIDTH, generator=rng)
    items = middles[labels] + torch.randn(len(labels), WIDTH, generator=rng)
    return data.ArrayDataset(items, labels, [str(code) for code in range(CLASSES)])


def images() -> data.ArrayDataset:
    """Images of the same classes."""
    rng = torch.Generator().manual_seed(1)
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(SIZES))
    return data.ArrayDataset(
        torch.rand(len(labels), 1, SIDE, SIDE, generator=rng),
        labels,
        [str(code) for code in range(CLASSES)],
    )


class Case:
    """A loss, the data it learns from, and further arguments of `fit`."""

    def __init__(
        self,
        loss: Callable[[], nn.Module],
        source: Callable[[], Any] = points,
        encoder: Callable[[nn.Module], nn.Module] = lambda net: net,
        width: int = WIDTH,
        **told: Any,
    ) -> None:
        self.loss = loss
        self.source = source
        self.encoder = encoder
        self.width = width
        self.told = told


def of_miners() -> dict[str, Case]:
    """Losses of triplets and of pairs with each miner."""
    euclidean: dict[str, Any] = {
        "all triplets": miners.all_triplets,
        "all semi-hard": miners.all_semi_hard(1.0),
        "batch hard": miners.batch_hard,
        "easy positive": miners.batch_easy_hard("easy", "semi_hard"),
        "hardest negative": miners.hardest_negative,
        "semi-hard": miners.semi_hard,
        "random hard": miners.random_hard(1.0),
        "random semi-hard": miners.random_semi_hard(1.0),
        "distance weighted": miners.distance_weighted(DIM),
        "angular": miners.angular(30.0),
        "within a range": miners.within_range(miners.batch_hard, negative=(0.2, 9.0)),
    }
    pairs: dict[str, Any] = {
        "all pairs": miners.all_pairs,
        "multi-similarity": miners.multi_similarity(0.3),
        "pair margin": miners.pair_margin(0.1, 3.0),
        "balanced": miners.balanced_positive_pairs(),
        "hard negative": miners.hard_negative_pairs,
    }
    told = {
        f"triplet, {name}": Case(partial(losses.TripletLoss, margin=1.0, miner=miner))
        for name, miner in euclidean.items()
    }
    return told | {
        f"contrastive, {name}": Case(partial(losses.ContrastiveLoss, margin=3.0, miner=miner))
        for name, miner in pairs.items()
    }


def cases() -> dict[str, Case]:
    """Every loss and miner."""
    each: dict[str, Case] = of_miners()
    made: dict[str, Callable[[], nn.Module]] = {
        "triplet, swap": partial(losses.TripletLoss, margin=1.0, swap=True),
        "triplet, soft": partial(losses.TripletLoss, margin=None),
        "triplet, all averaged": partial(losses.TripletLoss, average="all"),
        "triplet, squared": partial(losses.TripletLoss, distance=SQUARED_EUCLIDEAN),
        "contrastive, kinds": partial(losses.ContrastiveLoss, margin=3.0, average="kind"),
        "contrastive, active": partial(losses.ContrastiveLoss, margin=3.0, average="active"),
        "SNR contrastive": partial(losses.SNRContrastiveLoss, mean_weight=0.1),
        "multi-similarity": losses.MultiSimilarityLoss,
        "circle": partial(losses.CircleLoss, gamma=4.0),
        "NT-Xent": partial(losses.NTXentLoss, temperature=0.3),
        "supervised contrastive": losses.SupervisedContrastiveLoss,
        "soft nearest neighbor": losses.SoftNearestNeighborLoss,
        "lifted structure": losses.LiftedStructureLoss,
        "generalized lifted": losses.GeneralizedLiftedLoss,
        "N-pairs": partial(losses.NPairsLoss, length_weight=0.1),
        "angular": losses.AngularLoss,
        "ranked list": losses.RankedListLoss,
        "fast AP": losses.FastAPLoss,
        "smooth AP": partial(losses.SmoothAPLoss, temperature=0.1),
        "recall at k": partial(losses.RecallAtKLoss, ks=(1, 2), temperature=0.1),
        "sigmoid pairs": losses.SigmoidPairsLoss,
        "threshold": losses.ThresholdLoss,
        "threshold consistency": losses.ThresholdConsistencyLoss,
        "tuplet margin": partial(losses.TupletMarginLoss, scale=8.0),
        "intra-pair variance": losses.IntraPairVarianceLoss,
        "margin": partial(losses.MarginLoss, nu=0.1),
        "margin, of classes": partial(losses.MarginLoss, class_count=CLASSES),
        "softmax": partial(losses.SoftmaxLoss, DIM, CLASSES),
        "normalized softmax": partial(losses.NormalizedSoftmaxLoss, DIM, CLASSES),
        "normalized softmax, share": partial(
            losses.NormalizedSoftmaxLoss, DIM, 40, class_share=0.5
        ),
        "ArcFace": partial(losses.ArcFaceLoss, DIM, CLASSES),
        "CosFace": partial(losses.CosFaceLoss, DIM, CLASSES),
        "SphereFace": partial(losses.SphereFaceLoss, DIM, CLASSES),
        "proxy NCA": partial(losses.ProxyNCALoss, DIM, CLASSES),
        "proxy NCA, original": partial(losses.ProxyNCALoss, DIM, CLASSES, own_below=False),
        "proxy anchor": partial(losses.ProxyAnchorLoss, DIM, CLASSES),
        "soft triple": partial(losses.SoftTripleLoss, DIM, CLASSES, centers_per_class=2),
        "class weights, softmax": lambda: losses.ClassWeighted(
            losses.SoftmaxLoss(DIM, CLASSES), torch.arange(1.0, CLASSES + 1)
        ),
        "class weights, triplet": lambda: losses.ClassWeighted(
            losses.TripletLoss(margin=1.0), torch.arange(1.0, CLASSES + 1)
        ),
        "sum": lambda: losses.Sum(
            losses.TripletLoss(margin=1.0),
            (0.5, losses.ProxyAnchorLoss(DIM, CLASSES)),
            (0.1, losses.LiftedStructureLoss()),
            (2.0, losses.MultiSimilarityLoss()),
        ),
        "Matryoshka": lambda: losses.MatryoshkaLoss(losses.MultiSimilarityLoss(), (DIM, 3)),
        "memory": lambda: losses.CrossBatchMemory(
            losses.ContrastiveLoss(margin=3.0), embedding_dim=DIM, size=25
        ),
        "memory, together": lambda: losses.CrossBatchMemory(
            losses.TripletLoss(margin=1.0), embedding_dim=DIM, size=25, together=True
        ),
        "memory, copies": lambda: losses.CrossBatchMemory(
            losses.MultiSimilarityLoss(), embedding_dim=DIM, size=60, copies=True
        ),
        "memory, whole": lambda: losses.CrossBatchMemory(
            losses.LiftedStructureLoss(), embedding_dim=DIM, size=25
        ),
        "distillation": lambda: losses.DistillationLoss(
            data.items(points())[:, :5].double(), temperature=0.5
        ),
        "sum with distillation": lambda: losses.Sum(
            losses.TripletLoss(margin=1.0),
            losses.DistillationLoss(data.items(points())[:, :5].double(), temperature=0.5),
        ),
    }
    each |= {name: Case(loss) for name, loss in made.items()}
    pairs = partial(data.PairDataset, points(), seed=0)
    rows = {"batch_sampler": partial(lw.samplers.ShuffledBatchSampler, batch_size=11, batches=3)}
    each["given pairs"] = Case(losses.GivenPairsLoss, pairs, **rows)
    each["given pairs, siamese"] = Case(
        lambda: losses.GivenPairsLoss(losses.LearnedThreshold(1.0)),
        pairs,
        lw.encoders.SiameseNet,
        **rows,
    )
    each["graded pairs"] = Case(losses.GradedPairsLoss, graded, **rows)
    each["given triplets"] = Case(
        partial(losses.GivenTripletsLoss),
        partial(data.TripletDataset, points(), seed=0),
        lw.encoders.TripletNet,
        **rows,
    )
    views = {"SimCLR": losses.SimCLRLoss, "VICReg": losses.VICRegLoss}
    views["Barlow twins"] = losses.BarlowTwinsLoss
    # A predictor of its own for each training.
    views["SimSiam"] = lambda: losses.SimSiamLoss(nn.Linear(DIM, DIM, dtype=torch.float64))
    changed = {"augment": Augment(noise=0.2, blur=1.0), "width": SIDE * SIDE, **rows}
    for name, loss in views.items():
        each[f"{name} on views"] = Case(
            partial(lambda made: losses.OnViews(made()), loss),
            lambda: data.ViewDataset(images()),
            **changed,
        )
    each["NT-Xent on views"] = Case(
        losses.NTXentLoss, lambda: data.ViewDataset(images()), **changed
    )
    each["memory on views"] = Case(
        lambda: losses.CrossBatchMemory(losses.NTXentLoss(), embedding_dim=DIM, size=50),
        lambda: data.ViewDataset(images()),
        **changed,
    )
    for symmetric in (False, True):
        each[f"multiple negatives, towers{', both ways' * symmetric}"] = Case(
            partial(losses.MultipleNegativesLoss, symmetric=symmetric),
            crossed,
            lambda net: lw.encoders.TwoTowers(net, Net(WIDTH, False)),
            **rows,
        )
    each["given pairs, towers"] = Case(
        losses.GivenPairsLoss,
        partial(crossed, same=False),
        lambda net: lw.encoders.TwoTowers(net, Net(WIDTH, False)),
        **rows,
    )
    each["augmented images"] = Case(
        losses.MultiSimilarityLoss,
        images,
        width=SIDE * SIDE,
        augment=Augment(noise=0.2, blur=1.0, erase=0.2),
    )
    each["made classes"] = Case(
        losses.MultiSimilarityLoss,
        lambda: make_rotated_classes(images()),
        width=SIDE * SIDE,
        augment=Augment(),
    )
    each["hierarchical batches"] = Case(
        losses.MultiSimilarityLoss,
        batch_sampler=lambda _: lw.samplers.HierarchicalBatchSampler(
            points().labels,
            points().labels % 3,
            super_classes_per_batch=2,
            classes_per_super_class=2,
            items_per_class=3,
            batches=3,
        ),
    )
    each["a stream"] = Case(losses.MultiSimilarityLoss, streamed, batches=None)
    each["clipped gradients"] = Case(losses.MultiSimilarityLoss, clip_gradients=0.05)
    return each


def graded() -> Any:
    """Pairs with grades."""
    rng = torch.Generator().manual_seed(3)
    first = torch.randint(sum(SIZES), (50,), generator=rng)
    pairs = torch.stack([first, (first + 1 + torch.arange(50) % 20) % sum(SIZES)], dim=1)
    return data.GradedPairs(points(), pairs, torch.randint(5, (50,), generator=rng).float())


def crossed(same: bool = True) -> Any:
    """Pairs of two datasets."""
    count = sum(SIZES)
    pairs = torch.stack([torch.arange(count), torch.arange(count).roll(0 if same else 1)], dim=1)
    truth = None if same else torch.arange(count) % 3 == 0
    return data.CrossPairs(points(), points(), pairs, truth)


def streamed() -> Any:
    """A stream of the points."""
    source = points()
    items = [(item, str(int(label))) for item, label in source]
    return data.BalancedStream(
        data.Stream(items), buffer=40, classes_per_batch=3, items_per_class=4, batches=3, seed=0
    )


def trained(case: Case, normalized: bool, **told: Any) -> tuple[dict[str, Tensor], Any, float]:
    """All tensors after three steps, the records, and how far the weights moved."""
    torch.manual_seed(7)
    encoder = case.encoder(Net(case.width, normalized))
    loss = case.loss().double()
    before = [each.detach().clone() for each in encoder.parameters()]
    source = case.source()
    arguments: dict[str, Any] = {"batches": 3, **case.told, **told}
    if "batch_sampler" in arguments:
        size = len(source) if hasattr(source, "__len__") else 0
        arguments["batch_sampler"] = arguments["batch_sampler"](size)
        arguments["batches"] = None
    elif arguments["batches"] is not None:
        arguments |= {"classes_per_batch": 4, "items_per_class": 4}
    history = lw.fit(
        encoder,
        loss,
        source,
        **{"epochs": 1, **arguments},
        learning_rate=0.01,
        weight_decay=0.1,
        schedule=lw.training.constant,
        progress=False,
        device="cpu",
    )
    moved = max(
        float((now.detach() - then).abs().max())
        for now, then in zip(encoder.parameters(), before, strict=True)
    )
    state = {f"encoder {name}": value for name, value in encoder.state_dict().items()}
    state |= {f"loss {name}": value for name, value in loss.state_dict().items()}
    return state, history.records, moved


def work(begins: str, folder: Path) -> None:
    """What each process of `equal` does; the first writes what came."""
    results: dict[str, Any] = {}
    for name, case in cases().items():
        if not name.startswith(begins):
            continue
        for normalized in (False, True):
            started = time.perf_counter()
            state, records, moved = trained(case, normalized)
            results[f"{name}{' (batch norm)' * normalized}"] = {
                "state": state,
                "loss": records[-1]["loss"],
                "moved": moved,
                "by_rows": by_rows(case.loss()),
                "seconds": time.perf_counter() - started,
            }
    if lw.training.is_first_process():
        torch.save(results, folder / "results.pt")


def started(processes: int, act: Callable[..., None], *given: Any, threads: int = 1) -> None:
    """Do something in several processes that torchrun would start; one alone knows of no others.

    They are forks, since importing takes longer than training here.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank: int) -> None:
        torch.set_num_threads(threads)
        if processes > 1:
            os.environ |= {
                "OMP_NUM_THREADS": str(threads),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        act(*given)

    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=run, args=(rank,)) for rank in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise SystemExit(f"{processes} processes failed")


def equal(begins: str) -> None:
    """The table of differences; its last line says whether all are below the limit."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for count in PROCESSES:
            folder = Path(place) / str(count)
            folder.mkdir()
            started(count, work, begins, folder)
            found[count] = torch.load(folder / "results.pt", weights_only=False)
        more = resumed(Path(place)) if not begins else {}
    print(f"{'loss, miner, data':44} road   " + "  ".join(f"{n} processes" for n in PROCESSES[1:]))
    worst = 0.0
    for name, one in found[1].items():
        apart = [difference(one["state"], found[count][name]["state"]) for count in PROCESSES[1:]]
        told = [abs(found[count][name]["loss"] - one["loss"]) for count in PROCESSES[1:]]
        if not one["moved"] > 1e-3:
            raise SystemExit(f"{name} did not learn")
        if max(told) > 1e-5 * max(1.0, abs(one["loss"])):
            raise SystemExit(f"{name}: another loss is told, by {max(told):.1e}")
        worst = max(worst, *apart)
        road = "rows " if one["by_rows"] else "whole"
        print(f"{name:44} {road}  " + "  ".join(f"{each:11.1e}" for each in apart))
    for name, apart_from in more.items():
        worst = max(worst, apart_from)
        print(f"{name:44}        {apart_from:11.1e}")
    print(f"largest {worst:.1e}: {'equal' if worst <= LIMIT else 'NOT EQUAL'} within {LIMIT:.0e}")
    if worst > LIMIT:
        raise SystemExit(1)


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest relative difference of any tensor."""
    apart = [
        float((one[name].double() - other[name].double()).norm())
        / max(float(one[name].double().norm()), 1e-6)
        for name in one
    ]
    return max(apart)


def interrupted(folder: Path, stop: bool, path: Path) -> None:
    """A training of two epochs of a memory, stopped in the second or gone on to its end."""

    def interrupt(record: dict[str, float], encoder: nn.Module) -> None:
        if stop and record["epoch"] == 2:
            raise KeyboardInterrupt

    try:
        state, _, _ = trained(
            cases()["memory"], True, epochs=2, checkpoint=folder, callbacks=[interrupt]
        )
    except KeyboardInterrupt:
        return
    if lw.training.is_first_process():
        torch.save(state, path)


def resumed(place: Path) -> dict[str, float]:
    """Trainings that were interrupted on some processes and went on on others."""
    whole = place / "whole.pt"
    started(1, interrupted, place / "checkpoint", False, whole)
    expected = torch.load(whole)
    apart = {}
    for before, after in ((2, 2), (2, 1), (1, 4), (4, 2)):
        folder, path = place / f"checkpoint-{before}-{after}", place / f"{before}-{after}.pt"
        started(before, interrupted, folder, True, path)
        started(after, interrupted, folder, False, path)
        name = f"interrupted on {before}, went on on {after}"
        apart[name] = difference(expected, torch.load(path))
    return apart


def speed(path: Path) -> None:
    """Images per second of the small encoder, told by the first process."""
    labels = torch.arange(4096) % 64
    rng = torch.Generator().manual_seed(0)
    shown = data.ArrayDataset(torch.rand(4096, 1, 28, 28, generator=rng), labels)
    torch.manual_seed(0)
    encoder = lw.encoders.ConvEncoder((1, 28, 28), embedding_dim=64)
    seconds = []
    lw.fit(
        encoder,
        losses.MultiSimilarityLoss(),
        shown,
        epochs=4,
        batches=20,
        classes_per_batch=16,
        items_per_class=8,
        progress=False,
        device="cpu",
        callbacks=[lambda record, _: seconds.append(record["seconds"])],
    )
    if lw.training.is_first_process():
        path.write_text(json.dumps(20 * 128 / statistics.median(seconds[1:])))


def throughput(times: int = 5) -> None:
    """Both in turn, so that a machine which slows down slows both."""
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        for _ in range(times):
            speeds = []
            for processes, threads in ((1, 2), (2, 1)):
                path = Path(place) / "speed"
                started(processes, speed, path, threads=threads)
                speeds.append(json.loads(path.read_text()))
            ratios.append(speeds[1] / speeds[0])
            print(
                f"1 process of 2 threads {speeds[0]:8.0f} images/s, 2 of 1 thread "
                f"{speeds[1]:8.0f}, ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f}")


def simulated(processes: int, rows: int, here: Tensor, labels: Tensor) -> Share:
    """What the first of several processes sees, the rows of the others being there already."""

    def gather(mine: Tensor) -> Tensor:
        rest = here if mine.is_floating_point() else labels
        return torch.cat([mine, rest[rows:].to(mine.dtype)])

    return Share(
        processes=processes,
        first=0,
        rows=rows,
        total=rows * processes,
        views=1,
        gather=gather,
        add=lambda count: count * processes,
    )


def cost(rows: int = 256, width: int = 64, times: int = 7) -> None:
    """Processor time of a loss on one process, whose own rows stay as many; with a plot."""
    made: dict[str, nn.Module] = {
        "triplet": losses.TripletLoss(margin=0.5),
        "multi-similarity": losses.MultiSimilarityLoss(),
        "NT-Xent": losses.NTXentLoss(),
        "smooth AP": losses.SmoothAPLoss(distance=COSINE, most=7),
        "lifted structure (whole)": losses.LiftedStructureLoss(),
    }
    counts = (1, 2, 3, 4, 6, 8)
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in made}
    for count in counts:
        rng = torch.Generator().manual_seed(0)
        every = nn.functional.normalize(torch.randn(rows * count, width, generator=rng))
        labels = torch.arange(rows * count) // 8
        for name, loss in made.items():
            taken = []
            for _ in range(times):
                mine = every[:rows].clone().requires_grad_()
                begun = time.process_time()
                with _shares.sharing(simulated(count, rows, every, labels)):
                    value = _shares.parted(loss, mine, labels[:rows])
                value.backward()
                taken.append(time.process_time() - begun)
            found[name].append(statistics.median(taken[1:]))
    print(f"{rows} rows on each process; milliseconds of processor time, forward and backward")
    print(f"{'processes':26}" + "".join(f"{count:9}" for count in counts))
    for name, seconds in found.items():
        print(f"{name:26}" + "".join(f"{1000 * each:9.1f}" for each in seconds))
    _plot(counts, found)


def _plot(counts: tuple[int, ...], found: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, seconds in found.items():
        axes.plot(counts, [each / seconds[0] for each in seconds], marker="o", label=name)
    axes.plot(counts, counts, color="black", linestyle="--", label="local × global")
    axes.plot(counts, [count**2 for count in counts], color="gray", linestyle=":", label="global²")
    axes.set_xlabel("processes, each with as many rows")
    axes.set_ylabel("cost of the loss per process, by that of one")
    axes.set_yscale("log", base=2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set_yticks([2**at for at in range(7)], [str(2**at) for at in range(7)])
    axes.legend(fontsize=8)
    figure.tight_layout()
    path = Path(__file__).parents[1] / "docs" / "processes_growth.png"
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["equal", "throughput", "cost"])
    parser.add_argument("rest", nargs="*")
    told = parser.parse_args()
    if told.what == "equal":
        equal(" ".join(told.rest))
    elif told.what == "throughput":
        throughput()
    else:
        cost()


if __name__ == "__main__":
    main()
