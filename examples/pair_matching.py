"""Pair matching on Fashion-MNIST: threshold only, cross entropy, or contrastive and a threshold?

    python examples/pair_matching.py                    946 training, 392 validation pairs, 5 seeds
    python examples/pair_matching.py --pairs 5000      the same with enough pairs
    python examples/pair_matching.py --held-out         judged on classes held out
    python examples/pair_matching.py --summary          the table, from the runs that are finished

The recipe of the pair-matching notebook. An encoder is first trained as a classifier; its last
layer is dropped, embeddings get unit length and are compared by their squared Euclidean distance.
Then, on pairs (half of them same):

- threshold only: the most accurate threshold on the training pairs, exact over every distance;
- cross entropy: encoder and threshold trained together, logits d − t and t − d;
- contrastive: the encoder trained with d for same and max(0, 1 − d) for different pairs, then the
  threshold as in the first.

Both trainings take 5 epochs of batches of 64 with Adam at a constant 1e-4, as there.

Protocol. The classifier is trained on 6,000 training images; pairs are drawn from 20,000 others.
Validation pairs, as many as the notebook's 392 or with --pairs a fifth of those for training, and
20,000 test pairs come from the test images. With --held-out, classifier and training pairs see six
classes only and everything is judged on pairs of the other four. The seed draws images, classes,
pairs, weights. Nothing is chosen by the validation or the test pairs: the settings are the
notebook's. Each finished run is kept in --out and not run again.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import likewise as lw

DISTANCE = lw.distances.SQUARED_EUCLIDEAN
METHODS = ("threshold only", "cross entropy", "contrastive")
COLUMNS = ("validation_accuracy", "accuracy", "roc_auc", "equal_error_rate")


def contrastive_cost(distances: Tensor, same: Tensor) -> Tensor:
    """The notebook's: linear in the squared distance, margin 1."""
    return torch.where(same, distances, (1 - distances).clamp(min=0))


def classifier(data: lw.data.Dataset, preprocess: lw.data.Preprocess, seed: int) -> Any:
    """An encoder trained by softmax over classes; the loss keeps the last layer."""
    torch.manual_seed(seed)
    encoder = lw.encoders.ConvEncoder(
        data.item_shape,
        layers=(32, "pool", 64, "pool", 128, "pool"),
        pool_before_norm=True,
        embedding_dim=64,
    )
    loss = lw.losses.NormalizedSoftmaxLoss(64, len(data.class_names))
    lw.fit(encoder, loss, data, epochs=5, batches=60, preprocess=preprocess.apply, seed=seed)
    return encoder


def run(seed: int, pairs: int, held_out: bool) -> list[dict[str, Any]]:
    """All three methods from one classifier, on the same pairs."""
    train, test = (lw.data.load("fashion-mnist", split=part) for part in ("train", "test"))
    if held_out:
        drawn = np.random.default_rng(seed).permutation(train.class_names)
        train = lw.data.choose_classes(train, sorted(drawn[:6]))
        test = lw.data.choose_classes(test, sorted(drawn[6:]))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    for_classifier = lw.data.Subset(train, order[:6000])
    for_pairs = lw.data.Subset(train, order[6000:26000])
    preprocess = lw.data.Preprocess.fit(for_classifier)
    encoder = classifier(for_classifier, preprocess, seed)
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}

    def drawn_pairs(data: lw.data.Dataset, count: int, seed: int) -> lw.data.PairDataset:
        return lw.data.PairDataset(data, per_item=count / len(data), seed=seed)

    training = drawn_pairs(for_pairs, pairs, seed)
    validation = drawn_pairs(test, 392 if pairs == 946 else pairs // 5, 1000 + seed)
    testing = drawn_pairs(test, 20_000, 2000 + seed)

    results = []
    for method in METHODS:
        encoder.load_state_dict(weights)
        learned = lw.losses.LearnedThreshold(1.0, scale=1.0)
        model = lw.verification.ThresholdSiamese(encoder, learned, distance=DISTANCE)
        started = time.perf_counter()
        loss: nn.Module | None = None
        if method == "cross entropy":
            loss = lw.losses.GivenPairsLoss(learned, distance=DISTANCE)
        elif method == "contrastive":
            loss = lw.losses.GivenPairsLoss(contrastive_cost, distance=DISTANCE)
        if loss is not None:
            weights_of = [*encoder.parameters(), *loss.parameters()]
            lw.fit(
                encoder,
                loss,
                training,
                epochs=5,
                optimizer=torch.optim.Adam(weights_of, lr=1e-4),
                schedule=lambda _: 1.0,
                preprocess=preprocess.apply,
                seed=seed,
            )
        if method != "cross entropy":
            model.fit_threshold(training, goal=lw.best_accuracy, preprocess=preprocess.apply)
        seconds = time.perf_counter() - started
        numbers = {}
        for name, judged in (("validation_", validation), ("", testing)):
            embeddings = lw.encode(encoder, judged.data, preprocess=preprocess.apply)
            left, right = judged.pairs.T
            distances = DISTANCE.paired(embeddings[left], embeddings[right])
            counts = lw.metrics.sweep(distances, judged.same)
            accepted = distances.double() <= learned.value.item()
            numbers |= {
                f"{name}accuracy": float((accepted == judged.same).double().mean()),
                f"{name}roc_auc": lw.metrics.roc_auc(counts),
                f"{name}equal_error_rate": lw.metrics.equal_error_rate(counts),
            }
        results.append(
            {
                "method": method,
                "seed": seed,
                "threshold": learned.value.item(),
                "seconds": seconds,
                **numbers,
            }
        )
    return results


def summary(out: Path) -> None:
    """A table per protocol: mean and 95% interval (Student t) over seeds, and the differences."""
    mean = partial(lw.intervals.mean, confidence=0.95)
    for path in sorted({file.name.rsplit("-", 1)[0] for file in out.glob("*.json")}):
        files = sorted(out.glob(f"{path}-*.json"))
        runs = [json.loads(file.read_text()) for file in files]
        print(f"\n{path}, {len(runs)} seeds\n| | {' | '.join(COLUMNS)} | threshold | seconds |")
        print("|---|" + "---|" * (len(COLUMNS) + 2))

        def values(method: str, column: str, runs: list[Any] = runs) -> Tensor:
            rows = [next(r for r in run if r["method"] == method) for run in runs]
            return torch.tensor([row[column] for row in rows], dtype=torch.float64)

        for method in METHODS:
            cells = [str(mean(values(method, name), within=(0, 1))) for name in COLUMNS]
            rest = [f"{values(method, name).mean():.3f}" for name in ("threshold", "seconds")]
            print(f"| {method} | {' | '.join([*cells, *rest])} |")
        for better, worse in [
            ("cross entropy", "threshold only"),
            ("contrastive", "threshold only"),
            ("cross entropy", "contrastive"),
        ]:
            gain = [str(mean(values(better, n) - values(worse, n))) for n in COLUMNS]
            print(f"| {better} − {worse} | {' | '.join(gain)} | | |")


def main() -> None:
    """Run every seed that is not finished yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=946, help="training pairs")
    parser.add_argument("--held-out", action="store_true", help="judge on classes held out")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument("--out", type=Path, default=Path("out/pair-matching"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    classes = "held-out" if arguments.held_out else "all-classes"
    for seed in [] if arguments.summary else arguments.seeds:
        kept = arguments.out / f"{classes}-{arguments.pairs}-{seed}.json"
        if not kept.exists():
            results = run(seed, arguments.pairs, arguments.held_out)
            print(json.dumps(results), flush=True)
            kept.write_text(json.dumps(results, indent=1) + "\n")
    summary(arguments.out)


if __name__ == "__main__":
    main()
