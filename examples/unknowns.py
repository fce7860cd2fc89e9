"""How many unknowns are accepted, where only items of known classes were there to calibrate on?

    python examples/unknowns.py                       frozen encoders, all data sets, 200 draws
    python examples/unknowns.py mnist --draws 20      one data set
    python examples/unknowns.py mnist --trained       trained encoders, 10 draws, 60 s each at most
    python examples/unknowns.py --summary             the tables, from the draws that are finished

The goal is 5%. Each draw divides the classes into known and unknown ones; of the known classes some
items are indexed, some calibrate and some are asked about. Unknown classes are only asked about.

Frozen encoders: pixels (at most 28 x 28), the pretrained network for photographs, and a text's
TF-IDF in 128 principal components. Trained: the default recipe on the known classes, three
epochs, with cross-fit, on the indexed items and on half of those that would calibrate;
photographs at 32 pixels. Each draw is kept in --out and not run again.

"common" is the best single threshold for all draws: it accepts 5% of the unknowns of all draws
together. It sees the unknowns, so no method can be asked to do better. "before" is what was the
default until 0.1: the best F1, with wrong neighbors of known queries as the only mistakes, and
"before, 5%" the same for at most 5% false accepts. "left out" judges each calibrated item without
its own class; "cross-fit" by encoders that were not trained on its class.
"""

import argparse
import json
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

import likewise as lw
from likewise.calibration import at_most_false_accepts, balanced, best_f1
from likewise.encoders.naming import PHOTOGRAPHS
from likewise.index import Index
from likewise.matching import decide, lookup_without_own_class
from likewise.metrics import sweep

RATE = 0.05
DATA = {  # classes known and unknown, and items of each
    "digits": (6, 4, 150),
    "mnist": (6, 4, 150),
    "fashion-mnist": (6, 4, 150),
    "omniglot": (60, 60, 20),
    "att-faces": (26, 14, 10),
    "photos-50": (30, 20, 30),
    "clinc150": (120, 30, 40),
}
NONE = -1e9  # a threshold that accepts nothing
LIMIT = 60  # seconds of a training


class Parts(NamedTuple):
    """Embeddings and class codes of one draw."""

    gallery: tuple[Tensor, Tensor]
    calibrate: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    unknown: Tensor


def items_of(name: str, folder: Path, with_training: bool) -> tuple[Tensor, Tensor]:
    """Items (n, ...) in [0, 1] or embeddings of text or photographs, and class codes."""
    if name == "clinc150":
        return texts(folder / name / "data_full.json")
    rng = np.random.default_rng(0)
    if name == "att-faces":
        return images(folder / name / "att_faces.zip", image_size=28, channels=1)
    if name == "photos-50":
        file = folder / name / "photos_50_classes.zip"
        if with_training:
            return images(file, image_size=32, channels=3)
        encoder = lw.encoders.by_name(PHOTOGRAPHS)
        preprocess = lw.data.Preprocess(**encoder.preprocess_settings)
        read = lw.encoders.preprocess_of(PHOTOGRAPHS)
        framing = lw.data.Framing.from_dict(read["framing"])
        items, labels = images(file, image_size=framing, channels=3)
        return lw.encode(encoder, items, preprocess=preprocess.apply), labels
    if name == "omniglot":
        whole = lw.data.load(name, split="test", image_size=28)
    else:
        whole = lw.data.load(name, split="train")
    rows = []
    for code in torch.unique(whole.labels).tolist():
        (own,) = torch.where(whole.labels == code)
        rows += rng.permutation(own.numpy())[: DATA[name][2]].tolist()
    return torch.stack([whole[row][0].float() for row in rows]), whole.labels[rows]


def images(file: Path, **framed: Any) -> tuple[Tensor, Tensor]:
    """Images of a zip file with a folder for each class, and class codes."""
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(file) as packed:
            packed.extractall(place)
        whole = lw.data.load(place, **framed)
        return torch.stack([whole[row][0] for row in range(len(whole))]), whole.labels


def texts(file: Path) -> tuple[Tensor, Tensor]:
    """Questions as TF-IDF of words, in 128 principal components."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    pairs = json.loads(file.read_text())["train"]
    intents = sorted({intent for _, intent in pairs})
    kept: dict[str, list[str]] = {intent: [] for intent in intents}
    for text, intent in pairs:
        if len(kept[intent]) < DATA["clinc150"][2]:
            kept[intent].append(text)
    labels = [code for code, intent in enumerate(intents) for _ in kept[intent]]
    counted = TfidfVectorizer(sublinear_tf=True).fit_transform(
        [each for texts in kept.values() for each in texts]
    )
    reduced = TruncatedSVD(128, random_state=0).fit_transform(counted)
    return torch.from_numpy(reduced).float(), torch.tensor(labels)


def drawn(name: str, labels: Tensor, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of each part, and the known classes of a draw."""
    rng = np.random.default_rng([seed, 16])
    classes = rng.permutation(torch.unique(labels).numpy())
    first, then, _ = DATA[name]
    known, unknown = np.split(classes[: first + then], [first])
    rows: dict[str, list[int]] = {"gallery": [], "calibrate": [], "test": [], "unknown": []}
    for code in known:
        own = rng.permutation(torch.where(labels == int(code))[0].numpy()).tolist()
        indexed = min(20, len(own) * 2 // 5)
        aside = (len(own) - indexed) // 2
        rows["gallery"] += own[:indexed]
        rows["calibrate"] += own[indexed : indexed + aside]
        rows["test"] += own[indexed + aside :]
    rows["unknown"] = torch.where(torch.isin(labels, torch.from_numpy(unknown)))[0].tolist()
    return {part: torch.tensor(own) for part, own in rows.items()}, torch.from_numpy(known)


def halves(labels: Tensor, rows: Tensor, seed: int) -> dict[str, Tensor]:
    """Some items of each class to train on besides the indexed ones, and as many to calibrate."""
    rng = np.random.default_rng([seed, 17])
    found: dict[str, list[int]] = {"train": [], "calibrate": []}
    for code in torch.unique(labels[rows]):
        own = rng.permutation(rows[labels[rows] == code].numpy()).tolist()
        found["train"] += own[: len(own) // 2]
        found["calibrate"] += own[len(own) // 2 :]
    return {part: torch.tensor(own) for part, own in found.items()}


def parted(embeddings: Tensor, labels: Tensor, rows: dict[str, Tensor]) -> Parts:
    """The parts of a draw, embedded."""
    pairs = {part: (embeddings[own], labels[own]) for part, own in rows.items()}
    return Parts(pairs["gallery"], pairs["calibrate"], pairs["test"], pairs["unknown"][0])


def judged(parts: Parts, fit: Any = None, names: Any = None) -> dict[str, Any]:
    """By method the threshold, the share of unknowns accepted and the share of knowns right."""
    index = Index(lw.distances.COSINE)
    index.add(parts.gallery[0], labels=parts.gallery[1])
    items, truth = parts.calibrate
    labels, near = decide(index.lookup(items, k=1))
    right = labels == truth
    own = lookup_without_own_class(items, truth, index, distance=lw.distances.COSINE, k=1)
    left_out = decide(own)[1]
    count = len(torch.unique(parts.gallery[1]))
    goals = {
        f"{RATE:.0%}": at_most_false_accepts(RATE),
        "cautious": at_most_false_accepts(RATE, cautious=True),
        "balanced": balanced(),
    }
    limits = {
        "before": chosen(best_f1, near, right, torch.ones_like(right)),
        "before, 5%": chosen(at_most_false_accepts(RATE), near, right, torch.ones_like(right)),
    }
    # An unknown meets more classes in use: one more than here, or all folds instead of all but one.
    sources = {"left out": (left_out.double(), count / (count - 1))}
    if fit is not None:
        sources["cross-fit"] = (fit.carried(near), fit.folds / (fit.folds - 1))
    for source, (unknown, growth) in sources.items():
        together = torch.cat([near.double(), unknown])
        known = torch.arange(len(together)) < len(near)
        same = torch.cat([right, torch.zeros(len(unknown), dtype=torch.bool)])
        for goal, what in goals.items():
            limits[f"{source}, {goal}"] = chosen(what, together, same, known, growth)
    test_labels, test_near = decide(index.lookup(parts.test[0], k=1))
    test_right = test_near[test_labels == parts.test[1]].double()
    unknown = decide(index.lookup(parts.unknown, k=1))[1].double()
    found = {
        name: [
            float((unknown <= limit).double().mean()),
            float((test_right <= limit).sum()) / len(test_near),
        ]
        for name, limit in limits.items()
    }
    levels = torch.linspace(0, 1, 201, dtype=torch.float64)
    return {
        "found": found,
        "unknown": unknown.quantile(levels).tolist(),
        "right": test_right.quantile(levels).tolist(),
        "hits": len(test_right) / len(test_near),
    }


def chosen(goal: Any, distances: Tensor, same: Tensor, known: Tensor, growth: float = 1.0) -> float:
    """The threshold of a goal; one that accepts nothing where it is refused."""
    if bool(same.all()):  # as it was: without a mistake nothing was refused
        return float(distances.max())
    try:
        counts = sweep(distances, same, known=known, growth=growth)
        return float(counts.thresholds[goal(counts)])
    except ValueError:
        return NONE


def trained(items: Tensor, labels: Tensor, rows: dict[str, Tensor], seed: int) -> Any:
    """An encoder trained on the known classes by the default recipe, with its cross-fit."""
    own = torch.cat([rows["gallery"], rows["train"]])
    data = lw.data.load((items[own].numpy(), [f"{code}" for code in labels[own].tolist()]))
    recipe = lw.Recipe(epochs=3, seed=seed)
    started = time.monotonic()
    model = lw.train(data, recipe)
    return model, time.monotonic() - started


def run(name: str, folder: Path, out: Path, draws: int, with_training: bool) -> None:
    """All draws of a data set that are not there yet."""
    kind = "trained" if with_training else "frozen"
    file = out / f"{kind}-{name}.json"
    done = json.loads(file.read_text()) if file.exists() else {}
    if len(done) >= draws:
        return
    items, labels = items_of(name, folder, with_training)
    flat = items.flatten(1)
    for seed in range(draws):
        if str(seed) in done:
            continue
        rows, _ = drawn(name, labels, seed)
        if with_training:
            rows = {**rows, **halves(labels, rows["calibrate"], seed)}
            model, seconds = trained(items, labels, rows, seed)
            result = judged(parted(model.embed(items), labels, rows), model.cross_fit)
            result["seconds"] = seconds
        else:
            result = judged(parted(flat, labels, rows))
        done[str(seed)] = result
        if with_training or seed % 20 == 19 or seed == draws - 1:
            file.write_text(json.dumps(done))


def common(draws: list[dict[str, Any]]) -> list[list[float]]:
    """By draw what the one threshold does that accepts 5% of the unknowns of all draws."""
    limit = float(np.quantile(np.concatenate([draw["unknown"] for draw in draws]), RATE))
    return [
        [
            float(np.mean(np.array(draw["unknown"]) <= limit)),
            float(np.mean(np.array(draw["right"]) <= limit)) * draw["hits"],
        ]
        for draw in draws
    ]


def summary(out: Path) -> None:
    """A table for each kind of encoder."""
    for kind in ("frozen", "trained"):
        files = {name: out / f"{kind}-{name}.json" for name in DATA}
        runs = {n: list(json.loads(f.read_text()).values()) for n, f in files.items() if f.exists()}
        if not runs:
            continue
        print(f"\n{kind}: share of unknowns accepted [95% interval of the mean over draws]; draws")
        print("above 10%; knowns right\n")
        print(
            "| method | "
            + " | ".join(f"{n}, {len(d)} draws" for n, d in runs.items())
            + " | mean |"
        )
        print("|---|" + "---|" * (len(runs) + 1))
        methods = {m: None for draws in runs.values() for m in draws[0]["found"]}
        for method in [*methods, "common"]:
            cells, means = [], []
            for draws in runs.values():
                found = common(draws) if method == "common" else [d["found"][method] for d in draws]
                accepted, right = np.array(found).T
                half = student.ppf(0.975, len(accepted) - 1) * accepted.std(ddof=1)
                half /= np.sqrt(len(accepted))
                means.append(accepted.mean())
                cells.append(
                    f"{accepted.mean():.3f} [{max(0, accepted.mean() - half):.3f}, "
                    f"{accepted.mean() + half:.3f}]; {np.mean(accepted > 0.1):.0%}; "
                    f"{right.mean():.3f}"
                )
            print(f"| {method} | " + " | ".join(cells) + f" | {np.mean(means):.3f} |")


def main() -> None:
    """Run what was asked for, then the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="data sets; all if left out")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/unknowns"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
    draws = options.draws or (10 if options.trained else 200)
    if not options.summary:
        for name in options.data or DATA:
            run(name, folder, options.out, draws, options.trained)
            print(name, time.strftime("%H:%M:%S"), flush=True)
    summary(options.out)


if __name__ == "__main__":
    main()
