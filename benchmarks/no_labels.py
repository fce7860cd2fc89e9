"""Training without labels beside lightly's SimCLR: k-NN accuracy, three seeds, paired intervals.

    python benchmarks/no_labels.py [--epochs 30] [--device cuda] [--out no_labels.json]

Both train the same small network, from the same weights, with the same projection head's sizes, on
the same items, views, batch size, steps and schedule. Ours is `likewise.train` with
`Recipe(labels=False)`; theirs is a plain loop over lightly's `NTXentLoss` and
`SimCLRProjectionHead`, as lightly's own example has it. Temperature 0.5 on both sides.

Judged by the share of test items whose nearest training item has their label: Fashion-MNIST (5,000
training items, 2,000 test items, drawn once) and photos-50 at 64 pixels (every third photograph of
a class is a test item). The interval of the difference is that of a mean over test items,
each with its mean over the seeds. Needs lightly:
`pip install --no-deps lightly==1.6.0 lightly-utils`.
"""

import argparse
import importlib
import json
import math
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import likewise as lw
from likewise import data
from likewise.augment.presets import fitted
from likewise.encoders._torchvision import retried
from likewise.encoders.naming import small
from likewise.journeys.recipe import VIEW_LOSSES

HOME = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
SEEDS, BATCH, HIDDEN, COMPARED, RATE = (0, 1, 2), 128, 512, 128, 1e-3


def fashion(items: int, seed: int = 0) -> tuple[data.Dataset, data.Dataset]:
    """Some of Fashion-MNIST to train on, and some to judge on."""
    parts = []
    for split, count in (("train", items), ("test", 2000)):
        whole = data.load(HOME / "fashion-mnist", split=split)
        rows = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[:count]
        parts.append(_read(data.Subset(whole, rows.tolist())))
    return parts[0], parts[1]


def photographs(side: int) -> tuple[data.Dataset, data.Dataset]:
    """Two thirds of the photographs of each class, and the others."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(HOME / "photos-50" / "photos_50_classes.zip") as files:
            files.extractall(folder)
        whole = data.load(folder, image_size=side, channels=3)
        test = torch.zeros(len(whole), dtype=torch.bool)
        for code in whole.labels.unique():
            test[(whole.labels == code).nonzero().flatten()[::3]] = True
        kept, judged = (rows.nonzero().flatten().tolist() for rows in (~test, test))
        return _read(data.Subset(whole, kept)), _read(data.Subset(whole, judged))


def _read(part: data.Dataset) -> data.Dataset:
    names = part.class_names
    return data.ArrayDataset(data.items(part), part.labels.tolist(), names)


def ours(train: data.Dataset, loss: str, epochs: int, seed: int, device: str) -> Any:
    recipe = lw.Recipe(
        labels=False,
        encoder="small",
        loss=loss,
        epochs=epochs,
        batches=len(train) // BATCH,
        keep_aside=0.0,
        seed=seed,
    )
    return lw.train(train, recipe, device=device, progress=False)


def theirs(train: data.Dataset, epochs: int, seed: int, device: str) -> lw.SimilarityModel:
    """SimCLR of lightly: the loop of its example, with our network and views."""
    retried(lambda: importlib.import_module("torchvision"))  # lightly needs it, compiled or not
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    torch.manual_seed(seed)
    encoder = small(train.item_shape, 64).to(device)
    head = SimCLRProjectionHead(64, HIDDEN, COMPARED).to(device)
    preprocess = data.Preprocess.fit(train, seed=seed)
    named = lw.augment.by_name("views")
    views = fitted(named, train.item_shape[0])
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=RATE)
    batches = len(train) // BATCH
    steps = epochs * batches
    factor = lw.training.cosine()
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(min(1.0, (step + 1) / steps))
    )
    criterion = NTXentLoss(temperature=0.5)
    whole = data.items(train)
    for _ in range(epochs):
        order = torch.randperm(len(whole))
        for batch in order[: batches * BATCH].split(BATCH):
            items = whole[batch].to(device)
            both = torch.cat([preprocess.apply(views(items)) for _ in range(2)])
            loss = criterion(*head(encoder(both)).chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return lw.SimilarityModel(encoder.eval().cpu(), preprocess=preprocess)


def untrained(train: data.Dataset, seed: int) -> lw.SimilarityModel:
    torch.manual_seed(seed)
    return lw.SimilarityModel(
        small(train.item_shape, 64).eval(), preprocess=data.Preprocess.fit(train, seed=seed)
    )


def right(model: lw.SimilarityModel, train: data.Dataset, test: data.Dataset) -> Tensor:
    """Which test items have the label of their nearest training item."""
    distances = model.distance.matrix(model.embed(test), model.embed(train))
    return (train.labels[distances.argmin(dim=1)] == test.labels).double().cpu()


def estimated(values: Tensor) -> list[float]:
    """Mean of the items' values with its 95% interval, normal."""
    mean, half = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(len(values))
    return [round(number, 4) for number in (mean, mean - half, mean + half)]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--epochs", type=int, default=30)
    words.add_argument("--photo-epochs", type=int, default=100)
    words.add_argument("--device", default="cpu")
    words.add_argument("--items", type=int, default=5000)
    words.add_argument("--side", type=int, default=64)
    words.add_argument("--only", nargs="+", default=VIEW_LOSSES)
    words.add_argument("--seeds", type=int, default=len(SEEDS))
    words.add_argument("--out", type=Path, default=Path("no_labels.json"))
    given = words.parse_args()
    told: dict[str, Any] = {}
    for name, read, epochs in (
        ("fashion-mnist", lambda: fashion(given.items), given.epochs),
        ("photos-50", lambda: photographs(given.side), given.photo_epochs),
    ):
        train, test = read()
        rows: dict[str, list[Tensor]] = {}
        for seed in range(given.seeds):
            made = {
                "untrained": untrained(train, seed),
                "lightly simclr": theirs(train, epochs, seed, given.device),
                **{loss: ours(train, loss, epochs, seed, given.device) for loss in given.only},
            }
            for row, model in made.items():
                rows.setdefault(row, []).append(right(model, train, test))
        means = {row: torch.stack(values).mean(dim=0) for row, values in rows.items()}
        told[name] = {
            row: {
                "accuracy": estimated(values),
                "by_seed": [round(float(each.mean()), 4) for each in rows[row]],
                "less_lightly": estimated(values - means["lightly simclr"]),
                "less_untrained": estimated(values - means["untrained"]),
            }
            for row, values in means.items()
        }
        given.out.write_text(json.dumps(told, indent=1))
        for row, numbers in told[name].items():
            print(name, row, numbers, flush=True)


if __name__ == "__main__":
    main()
