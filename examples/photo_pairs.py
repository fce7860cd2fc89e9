"""Pair matching on photographs with a pretrained network: is this the same kind of thing?

    python examples/photo_pairs.py                     five seeds, and their table
    python examples/photo_pairs.py --summary           the table, from the seeds that are finished

`journey` is the pair-matching notebook in fifteen lines: threshold only; cross entropy, which
trains head and threshold together; contrastive, and then the threshold. EfficientNet-Lite0 stays
frozen, and each photograph is encoded once. What trains is a linear head behind it, which at first
keeps the features as they are.

Protocol. photos-50: 50 kinds of things, 30 photographs of each. A seed draws 25 classes and 70% of
their photographs to train on. Pairs are judged of the other photographs of these classes, and of
all photographs of the 25 other classes. Ten pairs per photograph, half of them of one class.
Settings are the notebook's: squared Euclidean distance of unit vectors, margin 1, 5 epochs of
batches of 64, Adam at a constant 1e-4. Nothing is chosen by the pairs that are judged. Features and
finished seeds are kept in --out.
"""

import argparse
import json
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import likewise as lw
from likewise.encoders.naming import PHOTOGRAPHS, new_head
from likewise.verification import ThresholdSiamese, pair_distances

Pairs = lw.data.PairDataset
DISTANCE = lw.distances.SQUARED_EUCLIDEAN
METHODS = ("threshold only", "cross entropy", "contrastive")
NEW = ("new photographs", "new classes")
COLUMNS = ("accuracy", "roc_auc", "equal_error_rate")


def journey(method: str, train: Pairs, judged: dict[str, Pairs], seed: int) -> dict[str, Any]:
    """What a method does on the judged pairs, each part of them."""
    torch.manual_seed(seed)
    head = new_head("linear", train.data.item_shape[0])
    siamese = ThresholdSiamese(head, lw.losses.LearnedThreshold(1.0, scale=1.0), distance=DISTANCE)
    cost = siamese.threshold if method == "cross entropy" else contrastive_cost
    loss = lw.losses.GivenPairsLoss(cost, distance=DISTANCE)
    if method != "threshold only":
        adam = torch.optim.Adam([*head.parameters(), *loss.parameters()], lr=1e-4)
        lw.fit(head, loss, train, epochs=5, optimizer=adam, schedule=lambda _: 1.0, seed=seed)
    if method != "cross entropy":
        siamese.fit_threshold(train)
    apart = {part: pair_distances(head, each, distance=DISTANCE) for part, each in judged.items()}
    judge = partial(lw.evaluation.evaluate_verification, threshold=float(siamese.threshold))
    return {part: judge(apart[part], each.same) for part, each in judged.items()}


def contrastive_cost(distances: Tensor, same: Tensor) -> Tensor:
    """Linear in the squared distance, margin 1."""
    return torch.where(same, distances, (1 - distances).clamp(min=0))


def photographs(out: Path) -> tuple[lw.data.Dataset, lw.data.Dataset]:
    """All photographs, and their features with the same labels."""
    if not (out / "photos").exists():
        home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
        with zipfile.ZipFile(home / "photos-50" / "photos_50_classes.zip") as files:
            files.extractall(out / "photos")
    read = lw.data.Preprocess(**lw.encoders.preprocess_of(PHOTOGRAPHS))
    photos = lw.data.load(out / "photos", image_size=read.framing, channels=3)
    kept = out / "features.safetensors"
    if not kept.exists():
        encoder = lw.encoders.by_name(PHOTOGRAPHS, train="none")
        save_file({"x": lw.encode(encoder, photos, preprocess=read.apply)}, kept)
    return photos, lw.data.ArrayDataset(load_file(kept)["x"], photos.labels, photos.class_names)


def drawn(items: lw.data.Dataset, seed: int) -> tuple[lw.data.Dataset, dict[str, lw.data.Dataset]]:
    """What a seed trains on, and what it judges."""
    classes, others = lw.data.split_by_class(items, [25, 25], seed=seed)
    train, aside = lw.data.split_items(classes, [0.7, 0.3], seed=seed)
    return train, dict(zip(NEW, (aside, others), strict=True))


def run(out: Path, seed: int) -> list[dict[str, Any]]:
    """All methods of a seed, judged both ways; the pictures of the first seed are kept."""
    photos, features = photographs(out)
    pairs = partial(Pairs, per_item=10.0, seed=seed)
    train, parts = drawn(features, seed)
    judged = {part: pairs(items) for part, items in parts.items()}
    rows = []
    for method in METHODS:
        for part, result in journey(method, pairs(train), judged, seed).items():
            right = (result.distances <= result.threshold) == result.same
            numbers = {"roc_auc": result.roc_auc, "equal_error_rate": result.equal_error_rate}
            told = {name: each.value for name, each in numbers.items()}
            accuracy = float(right.double().mean())
            rows.append({"method": method, "part": part, "accuracy": accuracy, **told})
            if seed == 0 and part == NEW[1]:
                lw.plots.save(lw.show(result), out / f"{method.replace(' ', '-')}.png")
    if seed == 0:
        shown, asked = drawn(photos, seed)[1][NEW[1]], judged[NEW[1]]
        lw.plots.save(
            lw.show(lw.data.GivenPairs(shown, asked.pairs, asked.same)), out / "pairs.png"
        )
    return rows


def summary(out: Path) -> None:
    """Mean and 95% interval (Student t) over seeds, and differences paired by seed."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("seed-*.json"))]
    mean = partial(lw.intervals.mean, confidence=0.95)

    def values(method: str, part: str, column: str) -> Tensor:
        rows = [r for run in runs for r in run if (r["method"], r["part"]) == (method, part)]
        return torch.tensor([row[column] for row in rows], dtype=torch.float64)

    for part in NEW:
        print(f"\n{part}, {len(runs)} seeds\n\n| | {' | '.join(COLUMNS)} |\n|---|---|---|---|")
        for method in METHODS:
            cells = [str(mean(values(method, part, name), within=(0, 1))) for name in COLUMNS]
            print(f"| {method} | {' | '.join(cells)} |")
        for more, less in ((1, 0), (2, 0), (1, 2)):
            a, b = METHODS[more], METHODS[less]
            cells = [str(mean(values(a, part, n) - values(b, part, n))) for n in COLUMNS]
            print(f"| {a} − {b} | {' | '.join(cells)} |")


def main() -> None:
    """Run every seed that is not finished yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--summary", action="store_true", help="only print the table")
    parser.add_argument("--out", type=Path, default=Path("out/photo-pairs"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in [] if arguments.summary else arguments.seeds:
        kept = arguments.out / f"seed-{seed}.json"
        if not kept.exists():
            kept.write_text(json.dumps(run(arguments.out, seed), indent=1) + "\n")
    summary(arguments.out)


if __name__ == "__main__":
    main()
