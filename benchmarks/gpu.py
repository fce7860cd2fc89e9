"""On a GPU: losses beside pytorch-metric-learning, waits, bfloat16, encoding, chunks.

    python benchmarks/gpu.py                   everything, where there is a GPU
    python benchmarks/gpu.py --only waits      one of losses, waits, bfloat16, encode, chunks
    python benchmarks/gpu.py --device cpu      the same on a CPU, to try the script

Times are those of the device, by events, medians of steps after a warm-up. "Waits" runs each step
while torch refuses every operation for which the processor would wait for the device.
"""

import argparse
import importlib.util
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import distributed
import losses as beside
import torch
from torch import Tensor, nn

import likewise as lw
from likewise.evaluation import evaluate_retrieval

WARM_UP, STEPS = 3, 30
LONGEST = 2.0  # seconds for all steps of a loss
SEEDS = (0, 1, 2)
LARGE = 4096  # items
AT_LARGE = ("batch hard, triplet", "multi-similarity with its miner", "circle", "contrastive")
NETWORK, SIDE, PHOTOGRAPHS = "vit_small_patch16_224", 224, 2048
PART, BATCH, CHUNK = 256, 8192, 64


def milliseconds(run: Callable[[], Any], device: str) -> float:
    """The median time of a run on the device; slow ones are repeated less often."""
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < WARM_UP + STEPS and (
        len(taken) <= WARM_UP or time.perf_counter() - begun < LONGEST
    ):
        if device == "cpu":
            started = time.perf_counter()
            run()
            taken.append(1000 * (time.perf_counter() - started))
            continue
        begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begins.record()
        run()
        ends.record()
        torch.cuda.synchronize()
        taken.append(begins.elapsed_time(ends))
    return statistics.median(taken[WARM_UP:])


def step(loss: Any, points: Tensor, labels: Tensor) -> None:
    """Forward and backward."""
    loss(points, labels).backward()


def there(loss: Any, device: str) -> Any:
    """A loss on the device; the peer's with a miner are functions, which need no move."""
    return loss.to(device) if isinstance(loss, nn.Module) else loss


def batch(size: int, per_class: int, device: str) -> tuple[Tensor, Tensor]:
    """Unit vectors and labels on the device."""
    points, labels = beside.batch(size, per_class)
    return points.detach().to(device).requires_grad_(), labels.to(device)


def of_losses(device: str) -> None:
    """Forward and backward of each loss, beside the peer's: its own batch, and some large ones."""
    print("\n| loss | items | ours, ms | peer, ms | peer / ours |\n|---|---|---|---|---|")
    ratios = []
    for name, size, per_class, ours, peer in beside.cases():
        if name.startswith("graded"):  # its grades are made on the CPU
            continue
        ratios.append(row(name, size, per_class, ours(), peer(), device))
    print(f"median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")
    for name, _, _, ours, peer in beside.cases():
        if name in AT_LARGE:
            row(name, LARGE, 16, ours(), peer(), device)


def row(name: str, size: int, per_class: int, ours: Any, peer: Any, device: str) -> float:
    """Print the times of both; their ratio."""
    points, labels = batch(size, per_class, device)
    mine, theirs = (
        milliseconds(partial(step, there(loss, device), points, labels), device)
        for loss in (ours, peer)
    )
    print(f"| {name} | {size} / {per_class} | {mine:.2f} | {theirs:.2f} | {theirs / mine:.2f} |")
    return theirs / mine


@contextmanager
def not_waiting(mode: str = "error") -> Iterator[None]:
    """Refuse what waits for the device, or warn of it."""
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


def of_waits(device: str) -> None:
    """Which losses and miners wait for the device in a step, and how often a training does."""
    found, tried = {}, 0
    for name, case in distributed.cases().items():
        if case.source is not distributed.points:
            continue
        labels = distributed.points().labels.to(device)
        rng = torch.Generator().manual_seed(0)
        points = torch.randn(len(labels), distributed.DIM, generator=rng, dtype=torch.float64)
        points = points.to(device).requires_grad_()
        loss = case.loss().double().to(device)
        ids = torch.arange(len(labels), device=device)
        given = {"ids": ids} if getattr(loss, "takes_ids", False) else {}
        tried += 1
        try:
            loss(points, labels, **given).backward()
            with not_waiting():
                loss(points, labels, **given).backward()
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0][:120]
    print(f"\n{tried - len(found)} of {tried} losses and miners wait for nothing in a step")
    for name, said in found.items():
        print(f"- {name}: {said}")
    for workers in (0, 2):
        times = []
        for batches in (10, 30):
            with warnings.catch_warnings(record=True) as told, not_waiting("warn"):
                warnings.simplefilter("always")
                fitted(device, "float32", 0, batches=batches, workers=workers)
            waits = [each for each in told if "synchroniz" in str(each.message)]
            times.append(Counter(f"{Path(each.filename).name}:{each.lineno}" for each in waits))
        print(
            f"a training with {workers} workers waits {times[0].total()} times in 10 batches, "
            f"{times[1].total()} times in 30; more often in 30: {dict(times[1] - times[0])}"
        )


def fitted(
    device: str, precision: str, seed: int, batches: int = 40, epochs: int = 1, **told: Any
) -> nn.Module:
    """The small network trained on five of the ten digits that scikit-learn brings."""
    torch.manual_seed(seed)
    train = digits(lambda code: code < 5)
    encoder = lw.encoders.ConvEncoder(train.item_shape, embedding_dim=64)
    lw.fit(
        encoder,
        lw.losses.MultiSimilarityLoss(),
        train,
        epochs=epochs,
        batches=batches,
        device=device,
        precision=precision,
        seed=seed,
        progress=False,
        **told,
    )
    return encoder


def digits(kept: Callable[[Tensor], Tensor]) -> Any:
    """Some classes of the digits."""
    whole = lw.data.load("digits")
    (rows,) = torch.where(kept(whole.labels))
    items = torch.stack([whole[row][0] for row in rows.tolist()])
    return lw.data.ArrayDataset(items, whole.labels[rows], whole.class_names)


def of_bfloat16(device: str) -> None:
    """Gradients in bfloat16 beside those in float64, and trainings beside float32."""
    apart = {}
    for name, size, per_class, ours, _ in beside.cases():
        if name.startswith("graded"):
            continue
        points, labels = beside.batch(min(size, 256), min(per_class, 8))
        labels = labels % 32
        rounded = points.detach().bfloat16()
        torch.manual_seed(0)
        loss = ours()
        grads = []
        for kind in (torch.bfloat16, torch.float64):
            torch.manual_seed(0)
            here = rounded.to(device, kind, copy=True).requires_grad_()
            there(loss, device)(here, labels.to(device)).backward()
            grads.append(here.grad.double())
        apart[name] = float((grads[0] - grads[1]).norm() / grads[1].norm())
    print("\ngradients in bfloat16 less those in float64, relative (2^-8 = 0.0039):")
    for name, share in sorted(apart.items(), key=lambda item: -item[1])[:8]:
        print(f"- {name}: {share:.4f}")
    print(f"median {statistics.median(apart.values()):.4f} of {len(apart)} losses")
    print("\nMAP@R on the five digits never trained on, by seed:")
    test = digits(lambda code: code >= 5)
    for precision in ("float32", "bfloat16", "float16"):
        if device == "cpu" and precision == "float16":
            continue
        row = []
        for seed in SEEDS:
            embeddings = lw.encode(fitted(device, precision, seed, epochs=3), test)
            row.append(evaluate_retrieval(embeddings, test.labels).map_at_r.value)
        print(f"- {precision}: " + ", ".join(f"{float(each):.4f}" for each in row), flush=True)


def of_encoding(device: str, count: int = PHOTOGRAPHS) -> None:
    """`encode` of images in memory beside a plain loop with the same batches."""
    if importlib.util.find_spec("timm") is None:
        print("\nencode left out: it needs timm")
        return
    encoder = lw.encoders.by_name(f"timm:{NETWORK}", pretrained=False).eval()
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    print("\n| encode | ours, images/s | a loop, images/s | ratio | largest difference |")
    print("|---|---|---|---|---|")
    for kind in (torch.float32, torch.bfloat16):
        network = encoder.to(device, kind)
        given = images.to(kind)

        def ours(network: nn.Module = network, given: Tensor = given) -> Tensor:
            return lw.encode(network, given, batch_size=PART)

        @torch.inference_mode()
        def loop(network: nn.Module = network, given: Tensor = given) -> Tensor:
            return torch.cat([network(part.to(device)).float().cpu() for part in given.split(PART)])

        far = float((ours() - loop()).abs().max())
        pace: dict[str, list[float]] = {"ours": [], "loop": []}
        for _ in range(5):
            for name, run in (("ours", ours), ("loop", loop)):
                started = time.perf_counter()
                run()
                pace[name].append(count / (time.perf_counter() - started))
        ours_pace, loop_pace = (statistics.median(each) for each in pace.values())
        print(
            f"| {NETWORK}, {str(kind)[6:]} | {ours_pace:,.0f} | {loop_pace:,.0f} "
            f"| {ours_pace / loop_pace:.2f} | {far:.1e} |",
            flush=True,
        )


def of_chunks(device: str) -> None:
    """Memory and time of a large batch in chunks, beside the plain step."""
    rng = torch.Generator().manual_seed(0)
    train = lw.data.ArrayDataset(
        torch.rand(BATCH, 1, 28, 28, generator=rng), torch.arange(BATCH // 8).repeat_interleave(8)
    )
    print(
        "\n| batch | chunk | precision | peak, MB | s of 5 steps | weights less the first row's |"
    )
    print("|---|---|---|---|---|---|")
    first = None
    for chunk, precision in ((None, "float32"), (CHUNK, "float32"), (1024, "bfloat16")):
        torch.manual_seed(0)
        encoder = lw.encoders.ConvEncoder((1, 28, 28), norm=None)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        lw.fit(
            encoder,
            lw.losses.MultiSimilarityLoss(),
            train,
            epochs=1,
            batches=5,
            classes_per_batch=BATCH // 8,
            items_per_class=8,
            chunk=chunk,
            device=device,
            precision=precision,
            progress=False,
        )
        took = time.perf_counter() - started
        peak = 0 if device == "cpu" else torch.cuda.max_memory_allocated() / 1e6
        weights = torch.cat([each.detach().flatten() for each in encoder.parameters()])
        first = weights if first is None else first
        apart = float((weights - first).norm() / first.norm())
        print(f"| {BATCH:,} | {chunk} | {precision} | {peak:,.0f} | {took:.1f} | {apart:.1e} |")


SECTIONS = {
    "losses": of_losses,
    "waits": of_waits,
    "bfloat16": of_bfloat16,
    "encode": of_encoding,
    "chunks": of_chunks,
}


def main() -> None:
    """Print the sections."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    if asked.device != "cpu" and not torch.cuda.is_available():
        parser.exit(0, "no GPU here: nothing was measured\n")
    which = torch.cuda.get_device_name() if asked.device != "cpu" else "CPU"
    print(f"{which}, torch {torch.__version__}")
    warnings.filterwarnings("ignore", module="pytorch_metric_learning")
    for section in SECTIONS if asked.only is None else [asked.only]:
        SECTIONS[section](asked.device)


if __name__ == "__main__":
    main()
