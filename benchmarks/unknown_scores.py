"""How well do matching rules tell unknown intents from known ones, by frozen sentence embeddings?

    python benchmarks/unknown_scores.py OUT           CLINC150, all-MiniLM-L6-v2, 5 draws
    python benchmarks/unknown_scores.py OUT --draws 20

Each draw takes 120 of 150 intents as known: 20 questions of each are indexed, 10 calibrate, 10 are
asked about. Of the 30 unknown intents all are asked about. "area" is that under the ROC of the
rule's distance, "right" the share of known questions whose class is right before any threshold,
"accepted" the share of unknown questions accepted at the threshold for 5% that the model chooses on
the known intents, and "found" the share of known ones accepted and right at it. "fitted with" is
`relative` where that threshold is chosen by a distance that is fitted to the items' own class too.
Embeddings are made once, and kept in OUT.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import likewise as lw
from likewise.calibration import at_most_false_accepts
from likewise.matching import lookup_without_own_class, relative_centers
from likewise.metrics import roc_auc, sweep

KNOWN, EACH, INDEXED, ASIDE = 120, 40, 20, 10


def embeddings(out: Path) -> tuple[Tensor, Tensor]:
    """Of 40 questions of each intent, with class codes."""
    file = out / "clinc150.pt"
    if not file.exists():
        home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
        pairs = json.loads((home / "clinc150" / "data_full.json").read_text())["train"]
        intents = sorted({intent for _, intent in pairs})
        texts = {intent: [text for text, of in pairs if of == intent][:EACH] for intent in intents}
        encoder = lw.encoders.by_name("sentence:all-MiniLM-L6-v2")
        found = lw.encode(
            encoder, lw.data.TextDataset([t for each in texts.values() for t in each])
        )
        torch.save(found, file)
    return torch.load(file), torch.arange(150).repeat_interleave(EACH)


def drawn(x: Tensor, y: Tensor, seed: int) -> dict[str, list[float]]:
    """By row: area, right, accepted, found."""
    rng = np.random.default_rng([seed, 16])
    classes = rng.permutation(150)
    rows: dict[str, list[int]] = {"index": [], "aside": [], "known": []}
    for code in classes[:KNOWN]:
        own = rng.permutation(np.flatnonzero(y.numpy() == code)).tolist()
        rows["index"] += own[:INDEXED]
        rows["aside"] += own[INDEXED : INDEXED + ASIDE]
        rows["known"] += own[INDEXED + ASIDE :]
    unknown = x[torch.isin(y, torch.from_numpy(classes[KNOWN:]))]

    def part(name: str) -> tuple[Tensor, list[str]]:
        return x[rows[name]], [f"c{code}" for code in y[rows[name]].tolist()]

    model = lw.SimilarityModel(None)
    model.add(lw.data.load(part("index")))
    items, truth = part("known")
    found = {}
    for rule in ("nearest", "center", "relative"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aside = lw.data.load(part("aside"))
            made = model.calibrate(aside, rule=rule, goal=at_most_false_accepts(0.05))
        limits = {rule: made.threshold}
        if rule == "relative":
            limits["fitted with"] = fitted_with(model, aside)
        known, others = (model.match(each, threshold=1e9, rule=rule) for each in (items, unknown))
        gaps = torch.cat([known.distances, others.distances])
        area = roc_auc(sweep(gaps, torch.arange(len(gaps)) < len(items)))
        right = torch.tensor([a == b for a, b in zip(known.names, truth, strict=True)])
        for row, limit in limits.items():
            accepted = float((others.distances <= limit).double().mean())
            inside = float((right & (known.distances <= limit)).double().mean())
            found[row] = [float(area), float(right.double().mean()), accepted, inside]
    return found


def fitted_with(model: lw.SimilarityModel, aside: lw.data.Dataset) -> float:
    """The threshold at which 5% of the items are accepted without the center of their class."""
    index, items = model.index, model.embedded(aside)
    centers = relative_centers(index.embeddings, index.labels, distance=index.distance)
    codes = torch.tensor([index.class_names.index(name) for name in items.class_names])
    near = lookup_without_own_class(
        items.embeddings, codes[items.labels], centers, distance=centers.distance
    )
    return float(near.distances.quantile(0.05 * (KNOWN - 1) / KNOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    x, y = embeddings(asked.out)
    draws = [drawn(x, y, seed) for seed in range(asked.draws)]
    print(f"{'':12s}    area   right accepted   found")
    for row in draws[0]:
        each = np.array([draw[row] for draw in draws])
        print(f"{row:12s}" + "".join(f"{value:8.3f}" for value in each.mean(axis=0)))


if __name__ == "__main__":
    main()
