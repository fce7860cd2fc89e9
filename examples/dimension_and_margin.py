"""Does an embedding of 2 numbers look worse than one of 8 because its margin is too small?

    python examples/dimension_and_margin.py             every dimension with every margin, 5 seeds
    python examples/dimension_and_margin.py --summary   table and figure, from the finished runs

The question that the Fashion-MNIST notebook leaves open. It trains a siamese network on pairs with
a contrastive loss of margin 2, draws 8 numbers through t-SNE and 2 numbers directly, likes 8
better, and supposes that the margin must grow with the dimension. Here pictures do not decide.

Protocol. Pixels are read from a CSV, label first, as there: 5,000 training images (500 of each
class, drawn by seed), and all 10,000 test images to judge. The notebook's network (convolutions of
4, 4, pool, 8, 8, pool, 1 channels, then a dense layer) is trained for 10 epochs of one fresh pair
per image, batches of 128, Adam 1e-3. Scores: accuracy of the five nearest training images
(majority), and the area under the ROC of 100,000 test pairs. Nothing is chosen by them.
"""

import argparse
import itertools
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import likewise as lw

DIMENSIONS = (2, 8, 32)
MARGINS = (0.5, 1.0, 2.0, 4.0)
SEEDS = range(5)
SCORES = {"nearest_five": "accuracy of the five nearest", "roc_auc": "area under ROC of pairs"}
DRAWN = (("2 numbers, drawn directly", 2, 2.0), ("8 numbers, through t-SNE", 8, 2.0))


def table(part: str, out: Path) -> Path:
    """Fashion-MNIST as a CSV: label first, then 784 pixels from 0 to 255."""
    path = out / f"fashion-mnist-{part}.csv"
    if not path.exists():
        data = lw.data.load("fashion-mnist", split=part)
        pixels = (lw.data.items(data).flatten(1) * 255).round().byte().numpy()
        rows = np.column_stack([data.labels.numpy().astype(np.uint8), pixels])
        header = ",".join(["label", *(f"pixel{n}" for n in range(1, 785))])
        np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")
    return path


def train(data: lw.data.Dataset, dimension: int, margin: float, seed: int) -> Any:
    """The notebook's network, trained on pairs with a contrastive loss."""
    torch.manual_seed(seed)
    encoder = lw.encoders.ConvEncoder(
        data.item_shape,
        layers=(4, 4, "pool", 8, 8, "pool", 1),
        embedding_dim=dimension,
        normalize=False,
    )
    pairs = lw.data.PairDataset(data, per_item=1.0, seed=seed, fresh=True)
    lw.fit(
        encoder,
        lw.losses.GivenPairsLoss(partial(lw.losses.contrastive_loss, margin=margin)),
        pairs,
        epochs=10,
        batch_sampler=lw.samplers.ShuffledBatchSampler(len(pairs), batch_size=128, seed=seed),
        optimizer=torch.optim.Adam(encoder.parameters(), lr=1e-3),
        schedule=lambda _: 1.0,
        seed=seed,
    )
    return encoder


def run(out: Path, dimension: int, margin: float, seed: int) -> dict[str, Any]:
    """One training and its scores."""
    whole, test = lw.data.load(table("train", out)), lw.data.load(table("test", out))
    data = lw.data.sample_items(whole, per_class=500, seed=seed)
    started = time.perf_counter()
    encoder = train(data, dimension, margin, seed)
    seconds = time.perf_counter() - started
    known, asked = lw.encode(encoder, data), lw.encode(encoder, test)
    index = lw.Index(lw.distances.EUCLIDEAN)
    index.add(known, labels=data.labels)
    named, _ = lw.matching.decide(index.lookup(asked, k=5), "majority")
    pairs = lw.data.PairDataset(test, per_item=10.0, seed=0)
    left, right = pairs.pairs.T
    distances = lw.distances.EUCLIDEAN.paired(asked[left], asked[right])
    result = {
        "dimension": dimension,
        "margin": margin,
        "seed": seed,
        "seconds": seconds,
        "nearest_five": float((named == test.labels).double().mean()),
        "roc_auc": lw.metrics.roc_auc(lw.metrics.sweep(distances, pairs.same)),
        "mean_norm": float(asked.norm(dim=1).mean()),
    }
    if seed == 0 and (dimension, margin) in [drawn[1:] for drawn in DRAWN]:
        few = lw.data.sample_items(test, per_class=150, seed=0)
        points, axis = lw.plots.embedding_points(lw.encode(encoder, few))
        title = next(name for name, *drawn in DRAWN if tuple(drawn) == (dimension, margin))
        figure = lw.plots.embedding_map(points, few.labels, few.class_names, axis_title=axis)
        lw.plots.save(figure, out / f"map-{title.split()[0]}-numbers.png")
    return result


def summary(out: Path, dimensions: list[int]) -> None:
    """One table per score, and both as a figure: a line per dimension over the margins."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("run-*.json"))]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, (score, title) in zip(panels, SCORES.items(), strict=True):
        print(f"\n{title}\n| numbers | {' | '.join(f'margin {m:g}' for m in MARGINS)} |")
        print("|---|" + "---|" * len(MARGINS))
        for place, dimension in enumerate(dimensions):
            cells = []
            for margin in MARGINS:
                values = [
                    r[score] for r in runs if (r["dimension"], r["margin"]) == (dimension, margin)
                ]
                cells.append(
                    lw.intervals.mean(torch.tensor(values, dtype=torch.float64), within=(0, 1))
                )
            print(f"| {dimension} | {' | '.join(map(str, cells))} |")
            middle = np.array([cell.value for cell in cells])
            reach = np.abs(np.array([[cell.low, cell.high] for cell in cells]).T - middle)
            axes.errorbar(
                np.array(MARGINS) * (0.97 + 0.03 * place), middle, reach, capsize=3,
                linestyle=("-", "--", ":")[place], marker="os^"[place], 
                label=f"{dimension} numbers",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(MARGINS, [f"{margin:g}" for margin in MARGINS])
        axes.set(xlabel="margin", title=title)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(out / "dimension_and_margin.png", dpi=120)


def main() -> None:
    """Run every cell that is not finished yet, seed by seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument("--dimensions", nargs="+", type=int, default=list(DIMENSIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("out/dimension-and-margin"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.summary:
        for seed, dimension, margin in itertools.product(
            arguments.seeds, arguments.dimensions, MARGINS
        ):
            kept = arguments.out / f"run-{dimension}-{margin:g}-{seed}.json"
            if not kept.exists():
                result = run(arguments.out, dimension, margin, seed)
                print(json.dumps(result), flush=True)
                kept.write_text(json.dumps(result, indent=1) + "\n")
    summary(arguments.out, arguments.dimensions)


if __name__ == "__main__":
    main()
