"""Photographs of classes never trained on: pixels, a small network, and a pretrained one.

Five draws of 25 classes to train on and 25 others to judge on, of the 50 classes of photos-50. The
rows of the table are ways to an encoder; each is judged on the same photographs, and compared with
the frozen pretrained encoder by a paired test over the classes. What is done is kept in the folder
given, a file for each draw and row, so that an interrupted run goes on.

Rows: `pixels` of 32x32, less their mean; `small`, the network that trains from nothing, at 64x64;
`frozen`, EfficientNet-Lite0 as it is; `default`, what `likewise train` keeps of the heads that it
tries; `whitening` and `head`, always a fitted and a trained head; `last` and `whole`, the last
stage and all of the network trained, with two passes over the photographs. Seconds are those of
training, encoding included.

    python examples/photographs.py OUT
    python examples/photographs.py OUT --rows pixels,frozen,head --draws 1
"""

import argparse
import json
import os
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import likewise as lw
from likewise import data
from likewise.encoders.naming import PHOTOGRAPHS
from likewise.evaluation import evaluate_retrieval, evaluate_verification
from likewise.evaluation.comparison import compare
from likewise.matching import UNKNOWN

TWO_PASSES = {"epochs": 2, "batches": 6, "cross_fit": "off"}  # over 750 photographs
ROWS = {
    "pixels": None,
    "small": lw.Recipe(encoder="small", cross_fit="off"),
    "frozen": lw.Recipe(encoder="none", train="none"),
    "default": lw.Recipe(encoder="none"),
    "whitening": lw.Recipe(encoder="none", train="head", head="whitening"),
    "head": lw.Recipe(encoder="none", train="head", head="linear"),
    "last": lw.Recipe(encoder=PHOTOGRAPHS, train="last", **TWO_PASSES),
    "whole": lw.Recipe(encoder=PHOTOGRAPHS, train="all", **TWO_PASSES),
}
PIXELS, SMALL = 32, 64  # a side
KNOWN = 13  # of the 25 unseen classes; the others are unknown where matching is judged
PER_CLASS = 20  # known examples of each


class Source:
    """The photographs as each row takes them; what the frozen encoder gives is encoded once."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / "photos"
        if not self.folder.exists():
            home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
            with zipfile.ZipFile(home / "photos-50" / "photos_50_classes.zip") as files:
                files.extractall(self.folder)
        read = lw.encoders.preprocess_of(PHOTOGRAPHS)
        self.framing = data.Framing.from_dict(read["framing"])

    def classes(self) -> list[str]:
        """All of them, in order."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def of(self, row: str, names: list[str]) -> data.Dataset:
        """The photographs of some classes, or their features where the encoder is frozen."""
        recipe = ROWS[row]
        if recipe is not None and recipe.is_frozen:
            x, labels, classes, _ = self.features()
            return data.choose_classes(data.ArrayDataset(x, labels, classes), names)
        size: Any = PIXELS if recipe is None else SMALL if recipe.is_small else self.framing
        return data.choose_classes(data.load(self.folder, image_size=size, channels=3), names)

    def features(self) -> tuple[torch.Tensor, torch.Tensor, list[str], float]:
        """Embeddings, labels, class names, and how many seconds a photograph took."""
        file = self.out / "features.safetensors"
        whole = data.load(self.folder, image_size=self.framing, channels=3)
        if not file.exists():
            encoder = lw.encoders.by_name(PHOTOGRAPHS)
            preprocess = data.Preprocess(**encoder.preprocess_settings)
            started = time.perf_counter()
            x = lw.encode(encoder, whole, preprocess=preprocess.apply)
            took = torch.tensor((time.perf_counter() - started) / len(whole))
            save_file({"x": x, "took": took}, file)
        stored = load_file(file)
        return stored["x"], whole.labels, whole.class_names, float(stored["took"])


def drawn(names: list[str], seed: int) -> tuple[list[str], list[str]]:
    """25 classes to train on, and the 25 others."""
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    half = len(names) // 2
    return [names[row] for row in order[:half]], [names[row] for row in order[half:]]


def trained(row: str, train: data.Dataset, seed: int) -> lw.SimilarityModel:
    """The model of a row."""
    recipe = ROWS[row]
    if recipe is None:
        preprocess = data.Preprocess.fit(train)
        return lw.SimilarityModel(torch.nn.Flatten(), preprocess=preprocess, trained=train)
    return lw.train(train, replace(recipe, seed=seed), device="cpu")


def judged(model: lw.SimilarityModel, unseen: data.Dataset, seed: int) -> dict[str, Any]:
    """Retrieval, verification and matching with UNKNOWN on the unseen classes."""
    x, labels = model.embed(unseen), unseen.labels
    retrieval = evaluate_retrieval(x, labels, ks=(1,))
    pairs = data.PairDataset(unseen, per_item=10.0, seed=seed)
    a, b = pairs.pairs.T
    verification = evaluate_verification(model.distance.paired(x[a], x[b]), pairs.same)
    return {
        "recall_at_1": retrieval.precision_at_1.value,
        "map_at_r": retrieval.map_at_r.value,
        "roc_auc": verification.roc_auc.value,
        "equal_error_rate": verification.equal_error_rate.value,
        "matching_accuracy": matched(x, labels, seed),
        "per_query": retrieval.per_query["map_at_r"].tolist(),
        "labels": retrieval.query_labels.tolist(),
    }


def matched(x: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
    """Share of answers that are right: known classes by name, all others UNKNOWN.

    Half of the queries choose the threshold, where as many unknown ones are accepted as known
    ones rejected, and the other half is judged by it.
    """
    rng = torch.Generator().manual_seed(seed)
    codes = labels.unique()
    chosen = codes[torch.randperm(len(codes), generator=rng)[:KNOWN]]
    rows = torch.cat([(labels == code).nonzero().flatten()[:PER_CLASS] for code in chosen])
    index = lw.Index(lw.distances.COSINE)
    index.add(x[rows], labels=labels[rows])
    asked = torch.ones(len(x), dtype=torch.bool)
    asked[rows] = False
    found = index.lookup(x[asked], k=1)
    truth = torch.where(torch.isin(labels[asked], chosen), labels[asked], UNKNOWN)
    nearest = found.distances[:, 0]
    choosing = torch.rand(len(truth), generator=rng) < 0.5
    limits, known = nearest[choosing].sort().values, truth[choosing] != UNKNOWN
    accepted = nearest[choosing] <= limits[:, None]
    wrong = accepted[:, ~known].double().mean(dim=1)
    missed = 1 - accepted[:, known].double().mean(dim=1)
    limit = limits[(wrong - missed).abs().argmin()]
    answers = torch.where(nearest <= limit, found.labels[:, 0], UNKNOWN)
    return float((answers == truth)[~choosing].double().mean())


def result_of(source: Source, row: str, seed: int) -> dict[str, Any]:
    """One row of one draw: read if it is there, else made and written."""
    file = source.out / f"draw{seed}-{row}.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    seen, unseen = drawn(source.classes(), seed)
    train = source.of(row, seen)
    recipe = ROWS[row]
    encoding = 0.0
    if recipe is not None and recipe.is_frozen:
        encoding = len(train) * source.features()[3]
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = trained(row, train, seed)
    seconds = encoding + time.perf_counter() - started
    found = {
        "seconds": seconds,
        "decided": model.origin.get("decided"),
        **judged(model, source.of(row, unseen), seed),
    }
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(file)
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> None:
    """The means over the draws, and each row against the frozen encoder on the same queries."""
    names = (
        "recall_at_1",
        "map_at_r",
        "roc_auc",
        "equal_error_rate",
        "matching_accuracy",
        "seconds",
    )
    print(f"| {'row':9} | draws | " + " | ".join(names) + " | MAP@R − frozen |")
    print("|---" * (len(names) + 3) + "|")
    for row, draws in results.items():
        means = [sum(float(draw[name]) for draw in draws) / len(draws) for name in names]
        cells = [f"{value:.3f}" for value in means[:-1]] + [f"{means[-1]:.0f}"]
        print(f"| {row:9} | {len(draws)} | " + " | ".join(cells) + f" | {against(results, row)} |")


def against(results: dict[str, list[dict[str, Any]]], row: str) -> str:
    """The difference to the frozen encoder, and what a paired test over the classes says."""
    frozen = results.get("frozen", [])
    pairs = list(zip(results[row], frozen, strict=False))
    if row == "frozen" or not pairs:
        return "–"
    # A class counts once for each draw that it is unseen in, so the intervals are too narrow.
    labels = [torch.tensor(one["labels"]) + 1000 * number for number, (one, _) in enumerate(pairs)]
    found = compare(
        {"map_at_r": torch.tensor([v for one, _ in pairs for v in one["per_query"]])},
        {"map_at_r": torch.tensor([v for _, other in pairs for v in other["per_query"]])},
        labels=torch.cat(labels),
        classes_as_sample=True,
    ).measures["map_at_r"]
    low, high = found.difference.low, found.difference.high
    return f"{found.difference.value:+.3f} [{low:+.3f}, {high:+.3f}], p = {found.p_value:.2g}"


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = Source(options.out)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.draws):
        for name in options.rows.split(","):
            results.setdefault(name, []).append(result_of(source, name, seed))
            last = results[name][-1]
            print(f"draw {seed} {name}: MAP@R {last['map_at_r']:.3f}", flush=True)
    table(results)


if __name__ == "__main__":
    main()
