"""Two towers: questions and the names of their intents, photographs and the names of their classes.

Each draw takes some classes to train on and the others to judge on, so that no name that is looked
up was trained on. Encoders are frozen, so each item is encoded once; a linear head learns on each
side. Two tables:

Questions (CLINC150): 100 intents to train on, 50 unseen. The share of questions whose nearest name
is right, among the 50 unseen names and among all 150. Last column: the area under ROC of pairs of
unseen questions, the same intent or not, by the tower of questions alone.

Photographs (photos-50): 25 classes to train on, 25 unseen. The share of photographs whose nearest
name is right, or among the nearest five, of the 25 unseen names.

Rows: `chance`; `frozen`, the sentence encoder on both sides; `untrained`, random heads; then heads
trained by a loss. Intervals leave out classes, or are over the draws where there are several. What
is done is kept in the folder given, so that an interrupted run goes on.

    python examples/two_towers.py OUT
    python examples/two_towers.py OUT --draws 1 --questions 20
"""

import argparse
import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import likewise as lw
from likewise.encoders.naming import PHOTOGRAPHS
from likewise.evaluation import evaluate_verification
from likewise.intervals import mean

SENTENCES = "sentence:all-MiniLM-L6-v2"
BASE = lw.Recipe(towers=("none", "none"))
RECIPES = {
    "multiple negatives": replace(BASE, loss="multiple-negatives"),
    "sigmoid pairs": replace(BASE, loss="sigmoid-pairs"),
}
ROWS = ("chance", "frozen", "untrained", *RECIPES)


class Items:
    """What the frozen encoders make of one task: items, the names of their classes, and both."""

    def __init__(self, x: torch.Tensor, codes: torch.Tensor, texts: torch.Tensor) -> None:
        self.x, self.codes, self.texts = x, codes, texts

    def pairs(self, classes: torch.Tensor) -> lw.data.CrossPairs:
        """Each item of these classes with the name of its class."""
        rows = torch.isin(self.codes, classes).nonzero().flatten()
        sides = [
            lw.data.ArrayDataset(each, [-1] * len(each), [])
            for each in (self.x[rows], self.texts[classes])
        ]
        place = torch.full((len(self.texts),), -1)
        place[classes] = torch.arange(len(classes))
        pairs = torch.stack([torch.arange(len(rows)), place[self.codes[rows]]], dim=1)
        return lw.data.CrossPairs(*sides, pairs)


def kept(file: Path, make: Callable[[], dict[str, torch.Tensor]]) -> Items:
    """The tensors of a file, made first if it is not there."""
    if not file.exists():
        part = file.with_suffix(".part")
        save_file({name: each.contiguous() for name, each in make().items()}, part)
        part.rename(file)
    return Items(**load_file(file))


def spoken(name: str) -> str:
    """A class name as people write it."""
    return name.replace("_", " ").lower()


def questions(out: Path, most: int) -> Items:
    """CLINC150 without the questions of no intent, and no more than `most` of each intent."""
    home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
    raw = json.loads((home / "clinc150" / "data_full.json").read_text())
    of: dict[str, list[str]] = {}
    for text, intent in raw["train"] + raw["val"] + raw["test"]:
        of.setdefault(intent, []).append(text)
    names = sorted(of)

    def make() -> dict[str, torch.Tensor]:
        encoder = lw.encoders.by_name(SENTENCES)
        texts = [text for name in names for text in of[name][:most]]
        codes = [code for code, name in enumerate(names) for _ in of[name][:most]]
        named = lw.encode(encoder, list(map(spoken, names)))
        return {"x": lw.encode(encoder, texts), "codes": torch.tensor(codes), "texts": named}

    return kept(out / f"questions-{most}.safetensors", make)


def photographs(out: Path) -> Items:
    """photos-50, by the pretrained network that `likewise train` takes for photographs."""
    home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))

    def make() -> dict[str, torch.Tensor]:
        folder = out / "photos"
        with zipfile.ZipFile(home / "photos-50" / "photos_50_classes.zip") as files:
            files.extractall(folder)
        read = lw.data.Preprocess(**lw.encoders.preprocess_of(PHOTOGRAPHS))
        items = lw.data.load(folder, image_size=read.framing, channels=3)
        x = lw.encode(lw.encoders.by_name(PHOTOGRAPHS), items, preprocess=read.apply)
        named = lw.encode(lw.encoders.by_name(SENTENCES), list(map(spoken, items.class_names)))
        return {"x": x, "codes": items.labels, "texts": named}

    return kept(out / "photographs.safetensors", make)


def untrained(pairs: lw.data.CrossPairs, seed: int) -> tuple[nn.Module, nn.Module]:
    """Heads as they are drawn."""
    torch.manual_seed(seed)
    (a,), (b,) = pairs.a.item_shape, pairs.b.item_shape
    return nn.Linear(a, min(a, b)), nn.Linear(b, min(a, b))


def trained(pairs: lw.data.CrossPairs, recipe: lw.Recipe, seed: int) -> lw.SimilarityModel:
    """A model of two heads."""
    return lw.train(pairs, replace(recipe, seed=seed), device="cpu", progress=False)


def judged(
    items: Items, row: str, classes: int, seed: int, *, of_items: bool
) -> dict[str, list[float]]:
    """Numbers of one row and draw, each with its interval over the unseen classes."""
    drawn = torch.randperm(len(items.texts), generator=torch.Generator().manual_seed(seed))
    seen, unseen = drawn[:classes].sort().values, drawn[classes:].sort().values
    asked = torch.isin(items.codes, unseen)
    truth = items.codes[asked]
    pairs = items.pairs(seen)
    if row == "chance":
        a: nn.Module = nn.Identity()
        b: nn.Module = nn.Identity()
    elif row == "frozen":
        a, b = nn.Identity(), nn.Identity()
    elif row == "untrained":
        a, b = untrained(pairs, seed)
    else:
        model = trained(pairs, RECIPES[row], seed)
        assert model.query_encoder is not None  # noqa: S101
        a, b = model.query_encoder, model.encoder
    found: dict[str, list[float]] = {}
    if row == "chance":
        for name, count in (("top 1", len(unseen)), ("top 1 of all", len(items.texts))):
            found[name] = [1 / count] * 3
        found["top 5"] = [5 / len(unseen)] * 3
        found["pairs"] = [0.5] * 3
        return found
    queries, names = lw.encode(a, items.x[asked]), lw.encode(b, items.texts)
    distances = lw.distances.COSINE.matrix(queries, names)
    among = distances[:, unseen]
    place = torch.searchsorted(unseen, truth)
    rank = (among < among.gather(1, place[:, None])).sum(dim=1)
    whole = (distances < distances.gather(1, truth[:, None])).sum(dim=1)
    for name, hits in (("top 1", rank < 1), ("top 5", rank < 5), ("top 1 of all", whole < 1)):
        shares = torch.stack([hits[truth == code].double().mean() for code in unseen])
        told = mean(shares, within=(0.0, 1.0))
        found[name] = [told.value, told.low, told.high]
    if of_items:
        drawn_pairs = lw.data.PairDataset(lw.data.ArrayDataset(queries, truth), 2.0, seed=seed)
        compared = lw.distances.COSINE.paired(*queries[drawn_pairs.pairs.T])
        auc = evaluate_verification(compared, drawn_pairs.same, items=truth[drawn_pairs.pairs])
        found["pairs"] = [auc.roc_auc.value, auc.roc_auc.low, auc.roc_auc.high]
    return found


def result(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, made first if it is not there."""
    if not file.exists():
        part = file.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.rename(file)
    return dict(json.loads(file.read_text()))


def told(values: list[list[float]]) -> str:
    """A share in percent with its interval: over classes of one draw, or over the draws."""
    value, low, high = values[0]
    if len(values) > 1:
        whole = mean(torch.tensor([each[0] for each in values]), within=(0.0, 1.0))
        value, low, high = whole.value, whole.low, whole.high
    if math.isnan(low):  # chance, which needs no draw
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def table(title: str, columns: dict[str, str], rows: dict[str, list[dict[str, Any]]]) -> None:
    """One table."""
    print(f"\n{title}\n")
    print("| | " + " | ".join(columns.values()) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row, draws in rows.items():
        print(
            f"| {row} | " + " | ".join(told([one[key] for one in draws]) for key in columns) + " |"
        )


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--questions", type=int, default=150, help="Of each intent.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tasks = {
        f"questions-{options.questions}": (
            lambda: questions(options.out, options.questions),
            100,
            "Questions, and the names of 50 unseen intents",
            {
                "top 1": "right of 50, %",
                "top 1 of all": "right of 150, %",
                "pairs": "pairs of questions, area under ROC, %",
            },
        ),
        "photographs": (
            lambda: photographs(options.out),
            25,
            "Photographs, and the names of 25 unseen classes",
            {"top 1": "right of 25, %", "top 5": "among 5 of 25, %"},
        ),
    }
    for task, (opened, classes, title, columns) in tasks.items():
        items = opened()
        is_text = "pairs" in columns
        rows = {}
        for row in ROWS:
            if row == "frozen" and not is_text:
                continue  # its two encoders have no space in common
            rows[row] = [
                result(
                    options.out / f"{task}-{row.replace(' ', '-')}-{draw}.json",
                    lambda row=row, draw=draw, items=items, classes=classes, is_text=is_text: (
                        judged(items, row, classes, draw, of_items=is_text)
                    ),
                )
                for draw in range(options.draws)
            ]
        table(title, columns, rows)


if __name__ == "__main__":
    main()
