"""Hello world: train on six MNIST digits, then recognize all ten.

    python examples/mnist_unseen_digits.py                  five seeds, the protocol of TensorFlow
                                                            Similarity's hello world
    python examples/mnist_unseen_digits.py --default        the same, trained by the default recipe
    python examples/mnist_unseen_digits.py --strict         six classes train, two others
                                                            calibrate, the last two test, five draws
    python examples/mnist_unseen_digits.py --strict-default the same, trained by the default recipe
    python examples/mnist_unseen_digits.py --settings       how the settings were chosen

Protocol. The encoder is trained on the training images of the digits 2, 3, 1, 7, 9, 6 alone. The
index holds 20 training images of each of the ten digits. The threshold is calibrated (k = 1, best
F1) on 1,000 other training images, none of them trained on or indexed. Then all 10,000 test images
are matched; an image is right if it gets its own digit, and wrong if it gets another or none.

Settings were chosen without any image of the other four digits: train on four of the six digits,
judge on the other two (`--settings`). Each finished run is kept in --out and not run again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import likewise as lw

DIGITS = ["2", "3", "1", "7", "9", "6"]
SETTINGS: dict[str, Any] = {"steps": 2000, "learning_rate": 3e-3, "classes": 16, "items": 8}
AUGMENT = lw.augment.Augment(degrees=10, translate=0.08, scale=(0.9, 1.1), shear=8)


def train(part: Any, seed: int, steps: int = SETTINGS["steps"]) -> tuple[Any, float]:
    """An encoder trained on the digits of `part`, and how many seconds that took.

    Every digit turned by quarters and mirrored is a new class, so six digits make 48.
    """
    preprocess = lw.data.Preprocess.fit(part)
    many = lw.augment.make_rotated_classes(lw.augment.make_flipped_classes(part))
    torch.manual_seed(seed)
    encoder = lw.encoders.ConvEncoder(
        part.item_shape,
        layers=(32, "pool", 64, "pool", 128, "pool"),
        pool_before_norm=True,
        embedding_dim=64,
    )
    started = time.perf_counter()
    lw.fit(
        encoder,
        lw.losses.MultiSimilarityLoss(),
        many,
        epochs=8,
        batches=steps // 8,
        classes_per_batch=SETTINGS["classes"],
        items_per_class=SETTINGS["items"],
        learning_rate=SETTINGS["learning_rate"],
        weight_decay=1e-4,
        preprocess=preprocess.apply,
        augment=AUGMENT,
        callbacks=[
            lambda record, _: print(f"  {record['epoch']:.0f} {record['loss']:.4f}", flush=True)
        ],
        seed=seed,
    )
    seconds = time.perf_counter() - started
    return lw.SimilarityModel(encoder, preprocess=preprocess), seconds


def train_by_default(part: Any, seed: int) -> tuple[Any, float]:
    """As `train`, by the default recipe; the folds of its cross-fit change no embedding."""
    started = time.perf_counter()
    model = lw.train(part, lw.Recipe(cross_fit="off", keep_aside=0, seed=seed), progress=False)
    return model, time.perf_counter() - started


def default(seed: int) -> dict[str, Any]:
    """One run of the protocol at the top by the default recipe."""
    return hello_world(seed, train_by_default)


def hello_world(seed: int, train: Any = train) -> dict[str, Any]:
    """One run of the protocol at the top."""
    whole = lw.data.load("mnist", split="train")
    test = lw.data.load("mnist", split="test")
    # Set aside first what is indexed and calibrated on, so that none of it is trained on.
    aside = lw.data.sample_items(whole, per_class=120, seed=seed)
    examples = lw.data.sample_items(aside, per_class=20, seed=seed)
    used = set(aside.source_indices.tolist())
    rest = lw.data.Subset(whole, [i for i in range(len(whole)) if i not in used])
    model, seconds = train(lw.data.choose_classes(rest, DIGITS), seed)
    model.add(examples)
    model.trained_on = DIGITS
    usual = model.calibrate(aside, point="default")  # leaves out the 200 that are indexed
    by_default = model.evaluate(test, point="default", per_item=1.0).matching
    chosen = model.calibrate(aside, goal=lw.best_f1)
    found = model.evaluate(test, per_item=1.0).matching
    # As TensorFlow Similarity counts: each of the 1,000 is of a known class.
    known = model.embedded(aside, only_new=True)
    labels, distances = lw.matching.decide(model.index.lookup(known.embeddings, k=1))
    as_there = lw.calibrate(distances, labels == known.labels, goal=lw.best_f1)
    return {
        "seed": seed,
        "training_seconds": seconds,
        "default_goal_accuracy": by_default.accuracy.value,
        "default_goal_fpir": usual.false_accept_rate.value,
        "calibration_f1": as_there.f1_tensorflow_similarity.value,
        "calibration_items": len(known),
        "threshold": chosen.threshold,
        "accuracy": found.accuracy.value,
        "seen": found.accuracy_seen.value,
        "unseen": found.accuracy_unseen.value,
        "unknown_share": found.unknown_share.value,
        **{f"digit {name}": share.value for name, share in found.per_class.items()},
    }


def strict_default(seed: int) -> dict[str, Any]:
    """As `strict`, by the default recipe."""
    return strict(seed, train_by_default)


def strict(seed: int, train: Any = train) -> dict[str, Any]:
    """Six classes train, two others calibrate, the last two test; which is drawn by the seed.

    The index holds 20 images of each of the six classes and of the two that are asked about, so
    that there is something to be mistaken for. Then the last two are asked about where they are in
    no index, at a threshold for 5% of unknowns accepted, from the two that calibrate.
    """
    whole = lw.data.load("mnist", split="train")
    test = lw.data.load("mnist", split="test")
    parts = lw.data.split_by_class(whole, [6, 2, 2], seed=seed)
    six, two, last = ([part.class_names[c] for c in part.labels.unique()] for part in parts)
    aside = lw.data.sample_items(whole, per_class=520, seed=seed)
    examples = lw.data.sample_items(aside, per_class=20, seed=seed)
    used = set(aside.source_indices.tolist())
    rest = lw.data.Subset(whole, [i for i in range(len(whole)) if i not in used])
    model, seconds = train(lw.data.choose_classes(rest, six), seed)

    def with_index(classes: list[str]) -> lw.SimilarityModel:
        fresh = lw.SimilarityModel(model.encoder, preprocess=model.preprocess)
        fresh.add(lw.data.choose_classes(examples, classes))
        return fresh

    aside_of_two = lw.data.choose_classes(aside, two)
    chosen = with_index([*six, *two]).calibrate(aside_of_two, goal=lw.best_f1)
    testing = with_index([*six, *last])
    testing.calibrations["nearest"] = chosen
    asked = lw.data.choose_classes(test, last)
    found = testing.evaluate(asked, per_item=1.0).matching
    without = with_index([*six, *two])
    without.calibrate(aside_of_two, goal=lw.at_most_false_accepts(0.05))
    accepted = (without.match(asked).labels != lw.UNKNOWN).float().mean()
    return {
        "seed": seed,
        "training_seconds": seconds,
        "calibrated_on": " ".join(two),
        "tested_on": " ".join(last),
        "calibration_f1": chosen.f1_tensorflow_similarity.value,
        "accuracy": found.accuracy.value,
        "unknown_share": found.unknown_share.value,
        "unknowns_accepted_of_5_percent": float(accepted),
    }


def settings(seed: int) -> dict[str, Any]:
    """Train on four of the six digits, judge on all six with the other two unseen."""
    whole = lw.data.choose_classes(lw.data.load("mnist", split="train"), DIGITS)
    held_out = (["2", "3"], ["1", "7"], ["9", "6"])[seed % 3]
    steps = (600, 1200, 2400)[seed // 3]
    aside = lw.data.sample_items(whole, per_class=420, seed=seed)
    used = set(aside.source_indices.tolist())
    rest = lw.data.Subset(whole.data, [i for i in whole.source_indices.tolist() if i not in used])
    four = [name for name in DIGITS if name not in held_out]
    model, seconds = train(lw.data.choose_classes(rest, four), seed, steps)
    model.trained_on = four
    model.add(lw.data.sample_items(aside, per_class=20, seed=seed))
    model.calibrate(aside, goal=lw.best_f1)
    found = model.evaluate(aside, per_item=1.0).matching
    return {
        "seed": seed,
        "steps": steps,
        "held_out": " ".join(held_out),
        "training_seconds": seconds,
        "accuracy": found.accuracy.value,
        "unseen": found.accuracy_unseen.value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, nargs="*", help="which seeds; all if left out")
    parser.add_argument("--out", type=Path, default=Path("out/mnist_unseen_digits"))
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--default", action="store_true")
    parser.add_argument("--strict-default", action="store_true")
    parser.add_argument("--settings", action="store_true")
    asked = parser.parse_args()
    run = hello_world
    for other in (strict, strict_default, settings, default):
        if getattr(asked, other.__name__):
            run = other
    asked.out.mkdir(parents=True, exist_ok=True)
    results = []
    seeds = asked.seed or range(9 if asked.settings else 5)
    for seed in seeds:
        kept = asked.out / f"{run.__name__}-{seed}.json"
        if not kept.exists():
            print(f"{run.__name__}, seed {seed}", flush=True)
            kept.write_text(json.dumps(run(seed), indent=2))
        results.append(json.loads(kept.read_text()))
        print(
            " ".join(
                f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}"
                for k, v in results[-1].items()
            )
        )
    if asked.settings:
        return
    print(f"\nmean of {len(results)} seeds, 95% interval (Student t):")
    for name, value in results[0].items():
        if isinstance(value, float):
            most = float("inf") if name == "training_seconds" else 1.0
            values = torch.tensor([result[name] for result in results])
            mean = lw.intervals.mean(values, within=(0.0, most))
            print(f"{name:24s} {mean.value:.4f} [{mean.low:.4f}, {mean.high:.4f}]")


if __name__ == "__main__":
    main()
