"""Every loss and selection rule on one data set, one encoder, equal training time.

    python examples/compare_losses.py                 all rows, five seeds; kept in --out
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
    "normalized softmax": lambda: losses.NormalizedSoftmaxLoss(DIM, CLASSES),
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
    "generalized lifted": lambda: losses.GeneralizedLiftedLoss(),
    "N-pairs": lambda: losses.NPairsLoss(),
    "NT-Xent": lambda: losses.NTXentLoss(),
    "supervised contrastive": lambda: losses.SupervisedContrastiveLoss(),
    "soft nearest neighbor": lambda: losses.SoftNearestNeighborLoss(),
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
    """One row per loss, best first: means over seeds, and what sets it apart with an interval.

    Which classes a seed holds out moves all losses alike, so the second column is taken within each
    seed: the loss less the mean of all losses.
    """
    measures = [key for key in results[0] if " at " in key]
    first = measures[0]
    seeds = sorted({result["seed"] for result in results})
    usual = {
        seed: torch.tensor([r[first] for r in results if r["seed"] == seed]).mean()
        for seed in seeds
    }
    rows = []
    for name in dict.fromkeys(result["loss"] for result in results):
        mine = [result for result in results if result["loss"] == name]
        means = {m: sum(result[m] for result in mine) / len(mine) for m in measures}
        apart = lw.intervals.mean(torch.tensor([r[first] - usual[r["seed"]] for r in mine]))
        cells = [
            f"{means[first]:.3f}",
            f"{apart.value:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})",
            *(f"{means[measure]:.3f}" for measure in measures[1:]),
            str(sum(result["batches"] for result in mine) // len(mine)),
        ]
        rows.append((means[first], f"| {name} | {' | '.join(cells)} |"))
    titles = ["loss", first, "above the mean of all, 95%", *measures[1:], "batches"]
    header = f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"
    return "\n".join([header, *(row for _, row in sorted(rows, reverse=True))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, nargs="*", default=[0, 1, 2, 3, 4])
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
