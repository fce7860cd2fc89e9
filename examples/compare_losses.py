"""Every loss and selection rule on one data set, one encoder, equal training time.

    python examples/compare_losses.py                 all rows, three seeds; kept in --out
    python examples/compare_losses.py --only triplet  rows whose name holds this

Protocol. Fashion-MNIST. The seed draws six classes that train (their training images) and four that
do not. Judged on 250 test images of each class: retrieval among the images of the four unseen
classes, and of the six seen ones. Every loss has its defaults, the same small encoder, batches of
6 classes × 20 images, AdamW at 1e-3 with a cosine schedule, and as many batches as fit into the
same time, measured for each loss before. Nothing was tuned.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import likewise as lw
from likewise import losses, miners

SECONDS = 8.0
DIM = 64
CLASSES = 10  # codes of the whole source; six of them occur

ROWS: dict[str, Callable[[], torch.nn.Module]] = {
    "softmax": lambda: losses.SoftmaxLoss(DIM, CLASSES),
    "normalised softmax": lambda: losses.NormalizedSoftmaxLoss(DIM, CLASSES),
    "ArcFace": lambda: losses.ArcFaceLoss(DIM, CLASSES),
    "CosFace": lambda: losses.CosFaceLoss(DIM, CLASSES),
    "SphereFace": lambda: losses.SphereFaceLoss(DIM, CLASSES),
    "Proxy-NCA++": lambda: losses.ProxyNCALoss(DIM, CLASSES),
    "Proxy-Anchor": lambda: losses.ProxyAnchorLoss(DIM, CLASSES),
    "SoftTriple": lambda: losses.SoftTripleLoss(DIM, CLASSES),
    "contrastive": lambda: losses.ContrastiveLoss(),
    "contrastive, hard negatives": lambda: losses.ContrastiveLoss(miner=miners.hard_negative_pairs),
    "signal-to-noise contrastive": lambda: losses.SNRContrastiveLoss(),
    "multi-similarity": lambda: losses.MultiSimilarityLoss(),
    "circle": lambda: losses.CircleLoss(),
    "lifted structure": lambda: losses.LiftedStructureLoss(),
    "generalised lifted": lambda: losses.GeneralizedLiftedLoss(),
    "N-pairs": lambda: losses.NPairsLoss(),
    "NT-Xent": lambda: losses.NTXentLoss(),
    "supervised contrastive": lambda: losses.SupervisedContrastiveLoss(),
    "soft nearest neighbour": lambda: losses.SoftNearestNeighborLoss(),
    "sigmoid pairs": lambda: losses.SigmoidPairsLoss(),
    "triplet, all": lambda: losses.TripletLoss(),
    "triplet, all semi-hard": lambda: losses.TripletLoss(miner=miners.all_semi_hard(0.2)),
    "triplet, all, soft margin": lambda: losses.TripletLoss(margin=None),
    "triplet, batch hard": lambda: losses.TripletLoss(miner=miners.batch_hard),
    "triplet, semi-hard": lambda: losses.TripletLoss(miner=miners.semi_hard),
    "triplet, hardest negative": lambda: losses.TripletLoss(miner=miners.hardest_negative),
    "triplet, random hard": lambda: losses.TripletLoss(miner=miners.random_hard(0.2)),
    "triplet, distance-weighted": lambda: losses.TripletLoss(miner=miners.distance_weighted(DIM)),
    "angular": lambda: losses.AngularLoss(),
    "FastAP": lambda: losses.FastAPLoss(),
    "SmoothAP": lambda: losses.SmoothAPLoss(),
    "recall at k": lambda: losses.RecallAtKLoss(),
    "ranked list": lambda: losses.RankedListLoss(),
}


def run(name: str, seed: int) -> dict[str, Any]:
    """Train with one loss for the given time and judge."""
    torch.manual_seed(seed)
    whole = lw.data.load("fashion-mnist", split="train")
    six, _ = lw.data.split_by_class(whole, [6, 4], seed=seed)
    seen = set(six.labels.unique().tolist())
    test = lw.data.sample_items(
        lw.data.load("fashion-mnist", split="test"), per_class=250, seed=seed
    )
    preprocess = lw.data.Preprocess.fit(six)

    def trained(batches: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        encoder = lw.encoders.ConvEncoder(
            whole.item_shape,
            layers=(16, "pool", 32, "pool", 64, "pool"),
            pool_before_norm=True,
            embedding_dim=DIM,
        )
        lw.fit(
            encoder,
            ROWS[name](),
            six,
            epochs=1,
            batches=batches,
            classes_per_batch=6,
            items_per_class=20,
            preprocess=preprocess.apply,
            seed=seed,
        )
        return encoder

    trained(5)
    started = time.perf_counter()
    trained(40)
    batches = max(40, round(40 * SECONDS / (time.perf_counter() - started)))
    started = time.perf_counter()
    encoder = trained(batches)
    result: dict[str, Any] = {
        "loss": name,
        "seed": seed,
        "batches": batches,
        "seconds": time.perf_counter() - started,
    }
    embeddings = lw.encode(encoder, test, preprocess=preprocess.apply)
    for kind, mask in [
        ("unseen", torch.tensor([label not in seen for label in test.labels.tolist()])),
        ("seen", torch.tensor([label in seen for label in test.labels.tolist()])),
    ]:
        found = lw.evaluation.evaluate_retrieval(embeddings[mask], test.labels[mask], ks=(1,))
        result[f"{kind} MAP at R"] = found.map_at_r.value
        result[f"{kind} precision at 1"] = found.precision_at_1.value
    return result


def table(results: list[dict[str, Any]]) -> str:
    """One row per loss, best first: means over seeds with 95% intervals."""
    measures = [key for key in results[0] if " at " in key]
    rows = []
    for name in dict.fromkeys(result["loss"] for result in results):
        mine = [result for result in results if result["loss"] == name]
        cells, first = [], 0.0
        for measure in measures:
            mean = lw.intervals.mean(torch.tensor([r[measure] for r in mine]), within=(0.0, 1.0))
            first = first or mean.value
            cells.append(f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})")
        batches = sum(result["batches"] for result in mine) // len(mine)
        rows.append((first, f"| {name} | {' | '.join(cells)} | {batches} |"))
    header = f"| loss | {' | '.join(measures)} | batches |\n|{'---|' * (len(measures) + 2)}"
    return "\n".join([header, *(row for _, row in sorted(rows, reverse=True))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("out/compare_losses"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in asked.seed:
        for name in ROWS:
            if asked.only in name:
                kept = asked.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"
                if not kept.exists():
                    print(f"{name}, seed {seed}", flush=True)
                    kept.write_text(json.dumps(run(name, seed), indent=2))
                results.append(json.loads(kept.read_text()))
    print(table(results))


if __name__ == "__main__":
    main()
