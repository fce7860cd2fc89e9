"""Open sets: is a guaranteed rate of unknowns let in kept, and what does it cost?

    python examples/open_set.py mnist             five seeds: 8 classes indexed, 2 never
    python examples/open_set.py fashion-mnist     the same
    python examples/open_set.py omniglot          10 alphabets indexed, 10 never
    python examples/open_set.py mnist --summary   the tables, from the runs that are finished

Guarantee: of unknowns, that is of queries whose class is not indexed, at most 1% (0.1%) are
accepted, with a confidence of 0.95: `at_most_false_accepts(rate, confidence=0.95)`. It is made for
new items of unknowns such as it was calibrated on. How unknowns of other classes fare is
measured as well, and not guaranteed.

MNIST and Fashion-MNIST. All 70,000 images. The seed draws the classes: the encoder is trained on 6;
the index holds 100 images of each of these and of 2 that were not trained on; 2 are never indexed.
Of these, each in turn is the unknown that calibrates, with half of its images: its other half
tests the guarantee, and all images of the other class are unknowns of a new class.

Omniglot. The encoder is trained on the 964 characters of the background set. The seed draws 10 of
the 20 evaluation alphabets: 5 drawings of each of their characters are indexed. The other 10 are
unknowns, calibrated on by 14 of the 20 drawings of each character, tested by the other 6. Each of
these alphabets in turn is left out of calibration, and is then the unknown of new classes.

Where no threshold keeps the guarantee, calibration refuses. Such a turn counts as one that rejects
all: no unknown is let in, and every known query is missed.

Items trained on, indexed, calibrated on and tested are apart. A run is one seed, its numbers the
means over its turns; each finished run is kept in --out and not run again. Nothing was chosen by
these numbers: network, loss and augmentation are those of `mnist_unseen_digits.py`.
"""

import argparse
import io
import json
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import likewise as lw
from likewise.calibration import calibrate_matching
from likewise.evaluation import evaluate_open_set
from likewise.matching import decide

DATA = ("mnist", "fashion-mnist", "omniglot")
RATES = (0.01, 0.001)
CONFIDENCE = 0.95
NOTHING = -1.0  # a threshold that accepts nothing, no distance being negative
AUGMENT = lw.augment.Augment(degrees=10, translate=0.08, scale=(0.9, 1.1), shear=8)
BATCHES = {"mnist": 600, "fashion-mnist": 600, "omniglot": 1000}
BATCH = {"mnist": (16, 8), "fashion-mnist": (16, 8), "omniglot": (32, 4)}  # classes, items of each


class Task(NamedTuple):
    """What is trained on, indexed and asked about; the classes are coded alike in all parts."""

    train: lw.data.Dataset
    made: Any  # the same with classes made by turning and mirroring
    gallery: lw.data.Dataset
    known: tuple[lw.data.Dataset, lw.data.Dataset]  # queries that calibrate, that test
    unknowns: tuple[lw.data.Dataset, lw.data.Dataset]
    turns: dict[str, list[int]]  # unknown classes left out of calibration in each turn, by name


class Queries(NamedTuple):
    """What matching would judge by, and the truth."""

    distances: Tensor
    labels: Tensor
    truth: Tensor
    known: Tensor

    def keep(self, rows: Tensor) -> "Queries":
        """Some of them."""
        return Queries(*(part[rows] for part in self))


def ten_classes(name: str, seed: int) -> Task:
    """MNIST or Fashion-MNIST, 6 classes trained, 2 indexed all the same, 2 never indexed."""
    data = lw.data.load(name)
    parts = lw.data.split_open_set(
        data, trained=6, known=2, unknown=2, shares=(0.4, 0.1, 0.25, 0.25), seed=seed
    )
    indexed = torch.unique(parts.gallery.labels).tolist()
    never = sorted(set(range(10)) - set(indexed))

    def each(part: lw.data.Dataset, count: int) -> lw.data.Subset:
        return lw.data.sample_items(
            lw.data.choose_classes(part, indexed), per_class=count, seed=seed
        )

    # Half of the garments are their own mirror images; digits are mirrored as well.
    made = parts.train if name == "fashion-mnist" else lw.augment.make_flipped_classes(parts.train)
    return Task(
        parts.train,
        lw.augment.make_rotated_classes(made),
        each(parts.gallery, 100),
        (each(parts.calibrate, 500), each(parts.test, 1000)),
        (
            lw.data.choose_classes(parts.calibrate, never),
            lw.data.choose_classes(parts.test, never),
        ),
        {data.class_names[code]: [code] for code in never},
    )


def read_omniglot(part: str) -> lw.data.ArrayDataset:
    """Drawings as ink from 0 to 1, (1, 28, 28); a class is "alphabet/character"."""
    from PIL import Image

    path = Path(os.environ.get("LIKEWISE_DATA", "../shared/data")) / "omniglot" / f"{part}.zip"
    with zipfile.ZipFile(path) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".png"))
        drawings = [
            Image.open(io.BytesIO(packed.read(name)))
            .convert("L")
            .resize((28, 28), Image.Resampling.BOX)
            for name in names
        ]
    ink = 1 - torch.from_numpy(np.stack([np.asarray(d) for d in drawings])).float() / 255
    return lw.data.ArrayDataset(ink[:, None], ["/".join(name.split("/")[1:3]) for name in names])


def alphabets(seed: int) -> Task:
    """Omniglot, 10 of the evaluation alphabets indexed and 10 not."""
    train, data = read_omniglot("images_background"), read_omniglot("images_evaluation")
    alphabet_of = [name.split("/")[0] for name in data.class_names]
    drawn = np.random.default_rng(seed).permutation(sorted(set(alphabet_of))).tolist()

    def characters(alphabets: Sequence[str]) -> list[int]:
        return [code for code, alphabet in enumerate(alphabet_of) if alphabet in alphabets]

    known, never = characters(drawn[:10]), characters(drawn[10:])
    # Of 20 drawings of a known character 5 are indexed, 10 calibrate, 5 test.
    parts = lw.data.split_open_set(
        data, trained=[], known=known, unknown=never, shares=(0.05, 0.25, 0.49, 0.21), seed=seed
    )
    return Task(
        train,
        lw.augment.make_rotated_classes(train),
        parts.gallery,
        (
            lw.data.choose_classes(parts.calibrate, known),
            lw.data.choose_classes(parts.test, known),
        ),
        (
            lw.data.choose_classes(parts.calibrate, never),
            lw.data.choose_classes(parts.test, never),
        ),
        {alphabet: characters([alphabet]) for alphabet in drawn[10:]},
    )


def train_encoder(name: str, task: Task, preprocess: lw.data.Preprocess, seed: int) -> Any:
    """As in the hello world, for fewer batches."""
    torch.manual_seed(seed)
    encoder = lw.encoders.ConvEncoder(
        task.train.item_shape,
        layers=(32, "pool", 64, "pool", 128, "pool"),
        pool_before_norm=True,
        embedding_dim=64,
    )
    classes, items = BATCH[name]
    lw.fit(
        encoder,
        lw.losses.MultiSimilarityLoss(),
        task.made,
        epochs=4,
        batches=BATCHES[name] // 4,
        classes_per_batch=classes,
        items_per_class=items,
        learning_rate=3e-3,
        weight_decay=1e-4,
        preprocess=preprocess.apply,
        augment=AUGMENT,
        callbacks=[
            lambda record, _: print(f"  {record['epoch']:.0f} {record['loss']:.4f}", flush=True)
        ],
        seed=seed,
    )
    return encoder


def run(name: str, seed: int) -> dict[str, Any]:
    """Train once; then calibrate and judge in every turn."""
    task = alphabets(seed) if name == "omniglot" else ten_classes(name, seed)
    preprocess = lw.data.Preprocess.fit(task.train)
    started = time.process_time()
    encoder = train_encoder(name, task, preprocess, seed)
    seconds = time.process_time() - started

    index = lw.Index()
    index.add(
        lw.encode(encoder, task.gallery, preprocess=preprocess.apply), labels=task.gallery.labels
    )

    def asked(data: lw.data.Dataset, known: bool) -> Queries:
        embeddings = lw.encode(encoder, data, preprocess=preprocess.apply)
        labels, distances = decide(index.lookup(embeddings, k=1))
        return Queries(distances, labels, data.labels, torch.full((len(data),), known))

    def both(known: lw.data.Dataset, unknowns: lw.data.Dataset) -> Queries:
        pair = asked(known, True), asked(unknowns, False)
        return Queries(*(torch.cat(parts) for parts in zip(*pair, strict=True)))

    calibrating, testing = (both(*parts) for parts in zip(task.known, task.unknowns, strict=True))
    trained = set() if name == "omniglot" else set(torch.unique(task.train.labels).tolist())
    turns = []
    for left_out, codes in task.turns.items():
        new = torch.tensor(codes)
        chosen_on = calibrating.keep(~torch.isin(calibrating.truth, new))
        judged_on = testing.keep(~torch.isin(testing.truth, new))
        of_new = torch.cat([q.distances[torch.isin(q.truth, new)] for q in (calibrating, testing)])
        for guaranteed in RATES:
            threshold = guaranteed_threshold(chosen_on, guaranteed, len(index))
            found = evaluate_open_set(*judged_on, threshold=threshold)
            accepted = int((of_new.double() <= threshold).sum())
            missed = {int(code): share.value for code, share in found.per_class.items()}
            turns.append(
                {
                    "guaranteed": guaranteed,
                    "left_out": left_out,
                    "threshold": threshold,
                    "calibrated_on": int((~chosen_on.known).sum()),
                    "tested_on": found.unknown_total,
                    "false_positive_rate": found.false_positive_rate.to_dict(),
                    "new_classes": lw.intervals.binomial(accepted, len(of_new)).to_dict(),
                    "new_items": len(of_new),
                    "false_negative_rate": found.false_negative_rate.to_dict(),
                    "known_tested_on": found.known_total,
                    "missed_trained": _mean([m for code, m in missed.items() if code in trained]),
                    "missed_untrained": _mean(
                        [m for code, m in missed.items() if code not in trained]
                    ),
                    "balanced_accuracy": found.balanced_accuracy.to_dict(),
                    "hindsight": found.false_negatives(at=guaranteed).value,
                }
            )
    known = testing.keep(testing.known)
    return {
        "data": name,
        "seed": seed,
        "training_seconds": seconds,
        "indexed_items": len(index),
        "indexed_classes": len(torch.unique(task.gallery.labels)),
        "accuracy_without_threshold": float((known.labels == known.truth).double().mean()),
        "turns": turns,
    }


def guaranteed_threshold(queries: Queries, rate: float, gallery_size: int) -> float:
    """The threshold that keeps the guarantee; `NOTHING` where none does."""
    try:
        point = calibrate_matching(
            queries.distances,
            queries.labels == queries.truth,
            queries.known,
            gallery_size=gallery_size,
            goal=lw.at_most_false_accepts(rate, confidence=CONFIDENCE),
        )
    except ValueError as error:
        print(f"refused: {error}", flush=True)
        return NOTHING
    return point.threshold


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def summary(name: str, out: Path) -> None:
    """Means over runs with 95% intervals (Student t over seeds), then every run."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob(f"{name}-*.json"))]
    if not runs:
        print(f"{name}: no finished run in {out}")
        return

    def column(guaranteed: float, key: str) -> str:
        means = [
            _mean(
                [value_of(turn[key]) for turn in run["turns"] if turn["guaranteed"] == guaranteed]
            )
            for run in runs
            if run["turns"][0][key] is not None
        ]
        if not means:
            return "-"
        return percent(lw.intervals.mean(torch.tensor(means).double(), within=(0.0, 1.0)))

    right = torch.tensor([run["accuracy_without_threshold"] for run in runs]).double()
    seconds = sum(run["training_seconds"] for run in runs) / len(runs)
    print(
        f"\n{name}: {len(runs)} seeds, {runs[0]['indexed_items']:,} items of "
        f"{runs[0]['indexed_classes']} classes indexed in the first; {seconds:.0f} s of training "
        "each; known queries whose nearest item is of their class: "
        f"{percent(lw.intervals.mean(right, within=(0.0, 1.0)))}\n"
    )
    keys = {
        "FPIR, new items of such unknowns": "false_positive_rate",
        "FPIR, unknowns of new classes": "new_classes",
        "FNIR": "false_negative_rate",
        "… classes trained on": "missed_trained",
        "… classes not trained on": "missed_untrained",
        "balanced accuracy": "balanced_accuracy",
        "least FNIR in hindsight": "hindsight",
    }
    print(f"| | {' | '.join(f'{100 * rate:g}% guaranteed' for rate in RATES)} |")
    print("|---|" + "---|" * len(RATES))
    for title, key in keys.items():
        print(f"| {title} | {' | '.join(column(rate, key) for rate in RATES)} |")
    of_rate = {
        rate: [turn for run in runs for turn in run["turns"] if turn["guaranteed"] == rate]
        for rate in RATES
    }
    refused = [
        f"{sum(t['threshold'] == NOTHING for t in turns)} of {len(turns)}"
        for turns in of_rate.values()
    ]
    print(f"| calibrations refused, so that all is rejected | {' | '.join(refused)} |")
    for title, key in list(keys.items())[:2]:
        cells = []
        for rate, turns in of_rate.items():
            values = [value_of(turn[key]) for turn in turns]
            above = sum(value > rate for value in values)
            surely = sum(turn[key]["low"] > rate for turn in turns)
            cells.append(
                f"{above} of {len(values)} ({surely} with all of its interval), "
                f"most {max(values):.2%}"
            )
        print(f"| calibrations above the guarantee: {title} | {' | '.join(cells)} |")

    print("\n| seed | left out | guaranteed | calibrated on | FPIR | of new classes | FNIR |")
    print("|---|---|---|---|---|---|---|")
    for run in runs:
        for turn in run["turns"]:
            cells = [
                percent(lw.Estimate.from_dict(turn[key]))
                for key in ("false_positive_rate", "new_classes", "false_negative_rate")
            ]
            print(
                f"| {run['seed']} | {turn['left_out']} | {100 * turn['guaranteed']:g}% | "
                f"{turn['calibrated_on']:,} | {' | '.join(cells)} |"
            )


def value_of(entry: Any) -> Any:
    """The number of an estimate that JSON holds, or of a number itself."""
    return entry["value"] if isinstance(entry, dict) else entry


def percent(estimate: lw.Estimate) -> str:
    """As "0.62% (0.31% to 0.94%)"."""
    if np.isnan(estimate.low):
        return f"{estimate.value:.2%}"
    return f"{estimate.value:.2%} ({estimate.low:.2%} to {estimate.high:.2%})"


def main() -> None:
    """Run every seed that is not finished yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument("--out", type=Path, default=Path("out/open-set"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in [] if arguments.summary else arguments.seeds:
        kept = arguments.out / f"{arguments.data}-{seed}.json"
        if not kept.exists():
            print(f"{arguments.data}, seed {seed}", flush=True)
            kept.write_text(json.dumps(run(arguments.data, seed), indent=1) + "\n")
    summary(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
