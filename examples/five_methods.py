"""The five methods of siamese-triplet on one scale, and a sixth recipe beside them.

    python examples/five_methods.py                       five seeds, short; 2 and 64 numbers
    python examples/five_methods.py --schedule recorded   the recorded one: one seed, 2 numbers
    python examples/five_methods.py --schedule validation what the sixth recipe was chosen by
    python examples/five_methods.py --summary             the tables, from the finished runs
    python examples/five_methods.py --plot                the 2-d embeddings of all methods

That project trains MNIST and Fashion-MNIST embeddings of two numbers in five ways, and ends with
the wish for "a metric that is comparable between approaches". Here network, normalization,
optimizers, margins and batches are those of its notebooks:

- softmax: a linear layer behind 2-d features, batches of 256, Adam 1e-2;
- siamese: random pairs, ½d² and ½max(0, 1 − d)², 128 pairs, Adam 1e-3;
- triplet: random triplets, max(0, d²ₐₚ − d²ₐₙ + 1), 128 triplets, Adam 1e-3;
- online contrastive: 10 classes × 25, all positive pairs and as many nearest negatives, Adam 1e-3;
- online triplet: 10 × 25, for each positive pair a random negative that costs something, Adam 1e-3
  with weight decay 1e-4;
- likewise: a recipe of this library, in about the time of the fastest of the five. Loss, made
  classes and augmentation were chosen among CANDIDATES on parts of Fashion-MNIST's training images
  (--schedule validation), never on test images, and for each dimension and protocol apart; for
  classes held out on other draws of six and four classes. There the dense layers are left off
  after training, and the embedding is the principal components of what comes before them.

Recorded schedule: 20 epochs of 60,000 images, pairs or triplets, a tenth of the learning rate after
8 and after 16. Short schedule: 120,000 images through the network for every method, whether alone,
in pairs or in triplets; the learning rate falls after the same shares, 40% and 80%.

Protocol. All classes: trained on all training images; accuracy of the nearest of 10,000 training
images (1,000 of each class, the same for all), by the 10,000 test images; area under the ROC and
equal error rate of 50,000 test pairs, half of them same; MAP@R among the test images. Held out: the
seed draws six classes that train and four whose test images are judged, 4,000, among themselves:
precision at 1 stands for accuracy, and there are 20,000 pairs. Embeddings are compared by their
Euclidean distance; softmax has as its embedding what its last layer reads. The seed draws weights,
batches, classes, pairs. With six classes, online batches are 6 × 42.

Every run is kept in --out and not run again; a run that was stopped goes on. Several processes
share the work. Each uses one core: set OMP_NUM_THREADS=1.
"""

import argparse
import fcntl
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import likewise as lw
from likewise import losses, miners
from likewise.evaluation.comparison import compare, compare_runs
from likewise.plots.embedding_maps import embedding_maps

EUCLIDEAN, SQUARED = lw.distances.EUCLIDEAN, lw.distances.SQUARED_EUCLIDEAN
MEAN_AND_STD = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}
FIVE = ("softmax", "siamese", "triplet", "online contrastive", "online triplet")
OURS = "likewise"
IMAGES = 120_000  # through the network in a short run
BATCH = 250  # images of an online batch, about
WIDE = 64  # numbers in training and of the first reduction; fewer are a second reduction
COLUMNS = {
    "nearest": "1-NN accuracy",
    "roc_auc": "AUC",
    "equal_error_rate": "EER",
    "map_at_r": "MAP@R",
}
# What the notebooks print after the last epoch (the online triplet loss of Fashion-MNIST after the
# last but one): mean training loss, and of softmax the test accuracy.
RECORDED_LOSS = {
    "mnist": (0.0058, 0.0004, 0.0018, 0.0009, 0.1939),
    "fashion-mnist": (0.1475, 0.0120, 0.0462, 0.0308, 0.7912),
}
RECORDED_ACCURACY = {"mnist": 0.9904, "fashion-mnist": 0.9072}

Runs = dict[int, dict[str, Any]]  # what was found, by seed


class Job(NamedTuple):
    """One training and its judgment."""

    data: str
    schedule: str
    held_out: bool
    dim: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        classes = "held-out" if self.held_out else "all"
        method = self.method.replace(",", "").replace(" ", "-")
        return f"{self.data}-{self.schedule}-{classes}-{self.dim}d-{method}-{self.seed}"


def step(progress: float) -> float:
    """StepLR(8, 0.1) of 20 epochs, at a share of the training."""
    return 1.0 if progress <= 0.4 else 0.1 if progress <= 0.8 else 0.01


class Recipe(NamedTuple):
    """What is trained and how."""

    encoder: nn.Module
    loss: nn.Module
    data: Any  # items, pairs or triplets
    size: int  # items, pairs or triplets of a batch
    sides: int = 1  # images of each
    balanced: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: lw.training.Schedule = step
    augment: lw.augment.Augment | None = None
    reduced: bool = False  # see `Candidate`
    share: float = 1.0  # of the images that the five see, where each takes longer


def parts(job: Job) -> tuple[Any, Any]:
    """The images that train, and those that judge."""
    train, test = (lw.data.load(job.data, split=part) for part in ("train", "test"))
    if job.schedule == "validation" and job.held_out:
        train, test = lw.data.split_by_class(train, [6, 4], seed=100 + job.seed)
        test = lw.data.sample_items(test, per_class=1000, seed=job.seed)
    elif job.schedule == "validation":
        train, test = lw.data.split_items(train, [5 / 6, 1 / 6], seed=job.seed)
    elif job.held_out:
        train, _ = lw.data.split_by_class(train, [6, 4], seed=job.seed)
        _, test = lw.data.split_by_class(test, [6, 4], seed=job.seed)
    if job.held_out:  # codes of the classes that train only, for softmax has an output per code
        names = [train.class_names[code] for code in train.labels.tolist()]
        train = lw.data.ArrayDataset(lw.data.items(train), names)
    return train, test


def network(dim: int) -> nn.Module:
    """Their EmbeddingNet."""
    return lw.encoders.ConvEncoder(
        (1, 28, 28),
        layers=(32, "pool", 64, "pool"),
        kernel_size=5,
        padding="valid",
        activation="prelu",
        norm=None,
        # They pool behind the PReLU. As long as its slope is at least 0 that is the same function,
        # with the same gradient, in twice the time; `train` keeps the least slope of a run.
        pool_before_norm=True,
        hidden=(256, 256),
        embedding_dim=dim,
        normalize=False,
    )


def half(mine: miners.TripletMiner) -> miners.TripletMiner:
    """The miner, each positive pair in one order only: their 3,000 of a batch, not 6,000."""
    return lambda distances, same, different: mine(distances, same.triu(), different)


def recipe(job: Job, data: Any) -> Recipe:
    """What the method trains on the data."""
    torch.manual_seed(job.seed)
    classes, encoder = len(data.class_names), network(job.dim)
    items = round(BATCH / classes) * classes
    if job.method == "softmax":
        loss = losses.SoftmaxLoss(job.dim, classes)
        # Their classifier reads the embedding through one more PReLU, and so do their pictures.
        return Recipe(nn.Sequential(encoder, nn.PReLU()), loss, data, 256, learning_rate=1e-2)
    if job.method == "siamese":
        cost = partial(losses.contrastive_loss, margin=1.0, halved=True)
        pairs = lw.data.PairDataset(data, per_item=1.0, seed=job.seed, fresh=True)
        return Recipe(encoder, losses.GivenPairsLoss(cost), pairs, 128, sides=2)
    if job.method == "triplet":
        hinge = partial(losses.triplet_loss, margin=1.0)
        triplets = lw.data.TripletDataset(data, per_item=1.0, seed=job.seed, fresh=True)
        given = losses.GivenTripletsLoss(hinge, distance=SQUARED)
        return Recipe(encoder, given, triplets, 128, sides=3)
    if job.method == "online contrastive":
        contrastive = losses.ContrastiveLoss(margin=1.0, miner=miners.hard_negative_pairs)
        return Recipe(encoder, contrastive, data, items, balanced=True)
    if job.method == "online triplet":
        triplet = losses.TripletLoss(
            margin=1.0, distance=SQUARED, miner=half(miners.random_hard(1.0))
        )
        return Recipe(encoder, triplet, data, items, balanced=True, weight_decay=1e-4)
    return ours(job, data)


class Candidate(NamedTuple):
    """A loss tried for the sixth recipe."""

    make: Callable[[int, int], nn.Module]  # from dimension and number of classes
    unit: bool = True  # length of the embeddings
    turned: bool = False  # images turned by quarters are classes of their own
    augment: lw.augment.Augment | None = None
    # Dense layers serve the training alone; the embedding is what comes before them, reduced.
    reduced: bool = False


def normalized(dim: int, classes: int) -> nn.Module:
    """Softmax of cosines."""
    return losses.NormalizedSoftmaxLoss(dim, classes, temperature=0.1)


def all_triplets(dim: int, classes: int) -> nn.Module:
    """All triplets of a batch, squared distances."""
    return losses.TripletLoss(margin=1.0, distance=SQUARED)


def supervised(dim: int, classes: int) -> nn.Module:
    """Supervised contrastive."""
    return losses.SupervisedContrastiveLoss()


def multi_similarity(dim: int, classes: int) -> nn.Module:
    """Multi-similarity."""
    return losses.MultiSimilarityLoss()


MOVED = lw.augment.Augment(translate=0.08, scale=(0.9, 1.1), flip=True)
CANDIDATES = {
    "semi-hard triplets": Candidate(lambda *_: losses.TripletLoss(miner=miners.semi_hard)),
    "supervised contrastive": Candidate(supervised),
    "normalized softmax": Candidate(normalized),
    "normalized softmax, turned, moved": Candidate(normalized, turned=True, augment=MOVED),
    "normalized softmax, moved, reduced": Candidate(normalized, augment=MOVED, reduced=True),
    "normalized softmax, turned, moved, reduced": Candidate(
        normalized, turned=True, augment=MOVED, reduced=True
    ),
    "multi-similarity, turned, moved, reduced": Candidate(
        multi_similarity, turned=True, augment=MOVED, reduced=True
    ),
    "softmax, batch norm": Candidate(losses.SoftmaxLoss, unit=False),
    "all triplets": Candidate(all_triplets, unit=False),
    "soft nearest neighbor": Candidate(lambda *_: losses.SoftNearestNeighborLoss(), unit=False),
}
# By whether classes are held out, and whether there is room. Of classes trained on, two numbers are
# better left free, for on a circle there is little room. For classes held out one recipe serves
# both: what lies before the dense layers was better than what they make of it.
CHOSEN = {
    (False, False): "all triplets",
    (False, True): "supervised contrastive",
    (True, False): "normalized softmax, turned, moved, reduced",
    (True, True): "normalized softmax, turned, moved, reduced",
}


def candidate(job: Job) -> str:
    """Which of the candidates the sixth is, or what the method is called."""
    return CHOSEN[job.held_out, job.dim > 2] if job.method == OURS else job.method


def ours(job: Job, data: Any) -> Recipe:
    """The sixth: three small convolutions with batch norm, a cosine schedule, the loss chosen."""
    chosen = CANDIDATES[candidate(job)]
    if chosen.turned:
        data = lw.augment.make_rotated_classes(data)
    classes = len(data.class_names)
    dim = WIDE if chosen.reduced else job.dim
    encoder = lw.encoders.ConvEncoder(
        (1, 28, 28),
        layers=(16, "pool", 48, "pool", 96, "pool"),
        pool_before_norm=True,
        hidden=(256,),
        embedding_dim=dim,
        normalize=chosen.unit,
    )
    return Recipe(
        encoder,
        chosen.make(dim, classes),
        data,
        round(BATCH / classes) * classes,
        balanced=True,
        learning_rate=2e-3,
        schedule=lw.training.cosine(),
        augment=chosen.augment,
        reduced=chosen.reduced,
        share=0.92,
    )


def reduced(encoder: nn.Module, data: Any, dim: int, preprocess: Any) -> nn.Module:
    """What the convolutions give, at unit length, in the directions in which it varies most."""
    found = nn.Sequential(encoder.get_submodule("features"))
    some = lw.data.sample_items(data, per_class=1000, seed=0)
    for size in dict.fromkeys((max(WIDE, dim), dim)):
        found.append(lw.encoders.Normalize())
        points = lw.encode(found, some, preprocess=preprocess)
        found.append(lw.encoders.PrincipalComponents.fit(points, size))
    return found


def train(job: Job, data: Any, folder: Path | None) -> tuple[Recipe, list[dict[str, float]], int]:
    """The recipe, trained, a record per epoch, and how many images went through the network."""
    made = recipe(job, data)
    images = made.size * made.sides
    if job.schedule == "recorded":
        epochs, batches = 20, int(made.share * len(made.data) // made.size)
    else:
        epochs, batches = 4, int(made.share * IMAGES // images // 4)
    if made.balanced:
        classes = len(made.data.class_names)
        sampler: Any = lw.samplers.BalancedBatchSampler(
            made.data.labels,
            classes_per_batch=classes,
            items_per_class=made.size // classes,
            batches=batches,
            seed=job.seed,
        )
    else:
        sampler = lw.samplers.ShuffledBatchSampler(
            len(made.data), batch_size=made.size, batches=batches, seed=job.seed
        )
    weights = [*made.encoder.parameters(), *made.loss.parameters()]
    slopes = [m.weight for m in made.encoder.modules() if isinstance(m, nn.PReLU)]
    slopes = slopes[:2]  # only these two come after the pool here and before it there
    clock = [time.process_time()]

    def look(record: dict[str, float], encoder: nn.Module) -> None:
        record["core_seconds"] = time.process_time() - clock[0]
        record["least_slope"] = min((float(slope.detach().min()) for slope in slopes), default=0.0)
        clock[0] = time.process_time()

    history = lw.fit(
        made.encoder,
        made.loss,
        made.data,
        epochs=epochs,
        batch_sampler=sampler,
        optimizer=torch.optim.Adam(weights, made.learning_rate, weight_decay=made.weight_decay),
        schedule=made.schedule,
        preprocess=preprocessing(job),
        augment=made.augment,
        callbacks=[look],
        device="cpu",
        seed=job.seed,
        checkpoint=folder,
    )
    if made.reduced:
        started, core_started = time.perf_counter(), time.process_time()
        short = reduced(made.encoder, data, job.dim, preprocessing(job))
        made = made._replace(encoder=short)
        history.records[-1]["seconds"] += time.perf_counter() - started
        history.records[-1]["core_seconds"] += time.process_time() - core_started
    return made, history.records, epochs * batches * images


def preprocessing(job: Job) -> Any:
    """Their normalization."""
    mean, std = MEAN_AND_STD[job.data]
    return lw.data.Preprocess((1, 28, 28), mean=(mean,), std=(std,)).apply


def judge(job: Job, made: Recipe, data: Any, test: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The four numbers as estimates, and what is kept of single images."""
    encode = partial(lw.encode, made.encoder, preprocess=preprocessing(job))
    points = encode(test)
    found = lw.evaluation.evaluate_retrieval(points, test.labels, distance=EUCLIDEAN, ks=(1,))
    pairs = lw.data.PairDataset(test, per_item=5.0, seed=job.seed)
    distances = EUCLIDEAN.paired(*(points[side] for side in pairs.pairs.T))
    verified = lw.evaluation.evaluate_verification(distances, pairs.same, items=pairs.pairs)
    numbers: dict[str, Any] = {
        "roc_auc": verified.roc_auc,
        "equal_error_rate": verified.equal_error_rate,
        "map_at_r": found.map_at_r,
    }
    kept = {"points": points, "labels": test.labels, "map_at_r": found.per_query["map_at_r"]}
    if job.held_out:
        kept["nearest"] = found.per_query["precision_at_1"]
        numbers["nearest"] = found.precision_at_1
    else:
        gallery = lw.data.sample_items(data, per_class=1000, seed=0)
        kept |= {"gallery_points": encode(gallery), "gallery_labels": gallery.labels}
        index = lw.Index(EUCLIDEAN)
        index.add(kept["gallery_points"], labels=gallery.labels)
        right = index.lookup(points, k=1).labels[:, 0] == test.labels
        kept["nearest"] = right.double()
        numbers["nearest"] = lw.intervals.binomial(int(right.sum()), len(right))
        if job.method == "softmax":
            with torch.no_grad():
                right = made.loss.classify(points).argmax(dim=1) == test.labels  # type: ignore[operator]
            numbers["classifier"] = lw.intervals.binomial(int(right.sum()), len(right))
    if job.dim > 2:  # nobody draws these
        kept = {name: kept[name] for name in ("nearest", "map_at_r")}
    return {name: number.to_dict() for name, number in numbers.items()}, kept


def run(job: Job, out: Path) -> dict[str, Any]:
    """Train and judge; what is found is kept in `out`."""
    data, test = parts(job)
    made, records, images = train(job, data, out / job.name)
    numbers, kept = judge(job, made, data, test)
    result = {
        **job._asdict(),
        "candidate": candidate(job),
        "images": images,
        "seconds": sum(record["seconds"] for record in records),
        "core_seconds": sum(record["core_seconds"] for record in records),
        "least_slope": min(record["least_slope"] for record in records),
        "losses": [record["loss"] for record in records],
        "numbers": numbers,
    }
    save_file(
        {name: value.contiguous() for name, value in kept.items()}, out / f"{job.name}.safetensors"
    )
    part = out / f"{job.name}.part"
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.rename(out / f"{job.name}.json")
    shutil.rmtree(out / job.name, ignore_errors=True)
    return result


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone may make it; the lock ends with its process."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    path.unlink(missing_ok=True)


def mean(runs: Runs, column: str) -> lw.Estimate:
    """Over seeds with Student's t; of a single run its own interval."""
    if len(runs) == 1:
        return lw.Estimate.from_dict(runs[min(runs)]["numbers"][column])
    values = [found["numbers"][column]["value"] for found in runs.values()]
    return lw.intervals.mean(torch.tensor(values, dtype=torch.float64), within=(0.0, 1.0))


def percent(estimate: lw.Estimate) -> str:
    """Value and interval, in percent."""
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    # Two seeds with the same value leave no interval.
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def gains(one: Runs, other: Runs, out: Path) -> list[str]:
    """One less the other in every column, paired by seed, or by query where there is one seed.

    The p-values are adjusted for the columns being several (Holm).
    """
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) > 1:
        values = [
            {
                column: [runs[seed]["numbers"][column]["value"] for seed in seeds]
                for column in COLUMNS
            }
            for runs in (one, other)
        ]
        measures = compare_runs(*values).measures
    elif seeds:
        names = [
            Job(*(runs[seeds[0]][field] for field in Job._fields)).name for runs in (one, other)
        ]
        kept = [load_file(out / f"{name}.safetensors") for name in names]
        scores = [{column: part[column] for column in ("nearest", "map_at_r")} for part in kept]
        measures = compare(*scores).measures
    else:
        measures = {}
    cells = [measures.get(column) for column in COLUMNS]
    return [
        "" if cell is None else f"{percent(cell.difference)}, p {chance(cell.adjusted_p_value)}"
        for cell in cells
    ]


def chance(p: float) -> str:
    """A p-value behind its sign."""
    return "< 1e-9" if p < 1e-9 else f"= {p:.2g}"


def summary(out: Path, schedule: str, seeds: Sequence[int] | None) -> None:
    """A table for each data set, dimension and protocol: means over seeds, then what ours gains."""
    every = [json.loads(path.read_text()) for path in sorted(out.glob(f"*-{schedule}-*.json"))]
    every = [found for found in every if seeds is None or found["seed"] in seeds]
    if schedule == "recorded":
        losses_table(every)
    tables: dict[Any, dict[str, Runs]] = {}
    for found in every:
        table = tables.setdefault((found["data"], found["dim"], found["held_out"]), {})
        table.setdefault(found["method"], {})[found["seed"]] = found
    for (data, dim, held_out), runs in sorted(tables.items()):
        print(f"\n{data}, {dim} numbers, {'held out' if held_out else 'all'} classes, {schedule}\n")
        print(f"| | {' | '.join(COLUMNS.values())} | seconds | seeds |")
        print("|---|" + "---|" * (len(COLUMNS) + 2))
        for method in sorted(
            runs, key=lambda name: FIVE.index(name) if name in FIVE else len(FIVE)
        ):
            mine = runs[method]
            cells = [percent(mean(mine, column)) for column in COLUMNS]
            seconds = sum(found["core_seconds"] for found in mine.values()) / len(mine)
            cells += [f"{seconds:.0f}", str(len(mine))]
            print(f"| {method} | {' | '.join(cells)} |")
        for method in FIVE:
            if OURS in runs and method in runs:
                cells = gains(runs[OURS], runs[method], out)
                print(f"| {OURS} − {method} | {' | '.join(cells)} | | |")


def losses_table(every: Sequence[dict[str, Any]]) -> None:
    """What the notebooks printed, and what came out here."""
    print("\n| | loss of the last epoch, recorded | here | classifier, recorded | here |")
    print("|---|---|---|---|---|")
    for found in every:
        data, method = found["data"], found["method"]
        if method in FIVE and not found["held_out"]:
            loss = RECORDED_LOSS[data][FIVE.index(method)]
            cells = [f"{loss:.4f}", f"{found['losses'][-1]:.4f}", "", ""]
            if method == "softmax":
                cells[2:] = [
                    f"{100 * RECORDED_ACCURACY[data]:.2f}",
                    percent(mean({0: found}, "classifier")),
                ]
            print(f"| {data}, {method}, {found['dim']} numbers | {' | '.join(cells)} |")


def plot(out: Path, schedule: str, data: str, path: Path) -> None:
    """A row per method: its embeddings of 10,000 training and of the test images, on one scale."""
    maps = {}
    for method in (*FIVE, OURS):
        file = out / f"{Job(data, schedule, False, 2, method, 0).name}.safetensors"
        if not file.exists():
            continue
        kept = load_file(file)
        maps[f"{method}, train"] = kept["gallery_points"], kept["gallery_labels"]
        maps[f"{method}, test"] = kept["points"], kept["labels"]
    class_names = lw.data.load(data, split="test").class_names
    lw.plots.save(embedding_maps(maps, class_names, shared="row"), path)


def main() -> None:
    """Run what is not finished yet, seed by seed, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=MEAN_AND_STD, default=list(MEAN_AND_STD))
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*FIVE, OURS, *CANDIDATES],
        metavar="METHOD",
        help="all six, or the candidates on validation",
    )
    parser.add_argument("--dims", nargs="+", type=int, help="2 64; only 2 where recorded")
    parser.add_argument("--seeds", nargs="+", type=int, help="0 to 4; only 0 where recorded")
    parser.add_argument("--schedule", choices=("short", "recorded", "validation"), default="short")
    parser.add_argument(
        "--held-out", choices=("no", "only", "both"), help="both; no where recorded"
    )
    parser.add_argument("--summary", action="store_true", help="only print the tables, of --seeds")
    parser.add_argument("--plot", action="store_true", help="only draw docs/five_methods_DATA.png")
    parser.add_argument("--out", type=Path, default=Path("out/five-methods"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.plot:
        for data in asked.data:
            name = f"five_methods_{data.replace('-', '_')}.png"
            plot(asked.out, asked.schedule, data, Path("docs") / name)
        return
    for job in [] if asked.summary else jobs(asked):
        with claimed(asked.out / f"{job.name}.lock") as mine:
            if mine and not finished(job, asked.out):
                result = run(job, asked.out)
                numbers = {name: round(n["value"], 4) for name, n in result["numbers"].items()}
                print(job.name, f"{result['core_seconds']:.0f} s", numbers, flush=True)
    summary(asked.out, asked.schedule, asked.seeds)


def finished(job: Job, out: Path) -> bool:
    """Whether the run is kept, and of the recipe that is chosen now."""
    kept = out / f"{job.name}.json"
    return kept.exists() and json.loads(kept.read_text()).get("candidate") == candidate(job)


def jobs(asked: argparse.Namespace) -> list[Job]:
    """What is asked for and not finished, seed by seed, with an estimate of its time."""
    recorded, validation = asked.schedule == "recorded", asked.schedule == "validation"
    held_out = {"no": [False], "only": [True], "both": [False, True]}
    wanted = [
        Job(data, asked.schedule, held, dim, method, seed)
        for seed, held, data, dim, method in itertools.product(
            asked.seeds or ([0] if recorded or validation else range(5)),
            held_out[asked.held_out or ("no" if recorded else "both")],
            asked.data,
            asked.dims or ([2] if recorded else [2, 64]),
            asked.methods or ([*CANDIDATES] if validation else [*FIVE, OURS]),
        )
    ]
    open_jobs = [job for job in wanted if not finished(job, asked.out)]
    hours = sum(core_seconds(job) for job in open_jobs) / 3600
    print(f"{len(open_jobs)} runs to do, about {hours:.1f} hours of one core", flush=True)
    return open_jobs


def core_seconds(job: Job) -> float:
    """About what a run takes, on one core of the machine this was written on."""
    sides = {"siamese": 2, "triplet": 3}.get(job.method, 1)
    images = (
        sides * 20 * (36_000 if job.held_out else 60_000) if job.schedule == "recorded" else IMAGES
    )
    return images / 2600 + (3 if job.held_out else 10)


if __name__ == "__main__":
    main()
