"""Encoders that do not train: their features, once for each item, and the heads behind them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likewise import data, encoders
from likewise._devices import chosen_device
from likewise.distances import Distance
from likewise.encoders.naming import new_head
from likewise.evaluation import evaluate_retrieval
from likewise.evaluation.comparison import compare
from likewise.intervals import FEWEST_GROUPS
from likewise.journeys.choosing import Start
from likewise.journeys.recipe import Recipe
from likewise.model import embed
from likewise.training import is_first_process

FOLDS = 3  # of classes, each held out once
FEWEST_CLASSES = 6  # two for each fold
LEVEL = 0.05  # of all tests together
FEATURES = "features"  # the folder of a checkpoint that keeps them
SHRINKAGE = 10.0  # of a whitening: few classes tell little about the directions of many
TRIED = ("whitening", "linear")
Progress = Callable[[int, int], None]
Trained = Callable[[nn.Module, data.Dataset], Any]


@dataclass(frozen=True)
class Features:
    """Turns datasets of items into datasets of what a frozen encoder makes of them.

    With `cache`, a folder, they are found there again after an interruption.
    """

    encoder: nn.Module
    preprocess: data.Preprocess | None
    device: str
    progress: Progress | None = None
    workers: int = 0
    cache: Path | None = None
    done: dict[int, tuple[data.Dataset, data.Dataset]] = field(default_factory=dict, repr=False)

    def of(self, items: data.Dataset) -> data.Dataset:
        """The features of a dataset, in memory, with its labels and class names; made once."""
        if id(items) in self.done:
            return self.done[id(items)][1]
        home = next((weight.device for weight in self.encoder.parameters()), torch.device("cpu"))
        self.encoder.to(self.device)
        told: dict[str, Any] = {"progress": self.progress, "workers": self.workers}
        if self.cache is not None and not isinstance(self.encoder, nn.Identity):
            found = embed(self.encoder, items, self.preprocess, cache=self.cache, **told).embeddings
        else:
            apply = None if self.preprocess is None else self.preprocess.apply
            found = encoders.encode(self.encoder, items, preprocess=apply, **told)
        self.encoder.to(home)
        features = data.ArrayDataset(found, items.labels, list(items.class_names))
        self.done[id(items)] = (items, features)  # kept, so that no other gets its id
        return features

    def of_any(self, items: Any) -> Any:
        """As `of`, for given pairs too."""
        if isinstance(items, data.GivenPairs):
            return data.GivenPairs(self.of(items.data), items.pairs, items.same)
        return self.of(items)


def features_by(
    start: Start,
    *,
    device: str | None,
    progress: Progress | bool,
    workers: int,
    checkpoint: str | Path | None,
) -> Features:
    """What makes features of items, by an encoder that does not train; arguments as `train`'s."""
    return Features(
        start.body,
        start.preprocess,
        chosen_device(device),
        progress if callable(progress) else None,
        workers,
        None if checkpoint is None or not is_first_process() else Path(checkpoint) / FEATURES,
    )


@dataclass(frozen=True)
class Trial:
    """What heads did on held-out classes of the training data.

    Attributes:
        head: The head to use; None for the frozen encoder alone.
        line: The choice in one sentence.
    """

    head: str | None
    line: str


def head_for(
    recipe: Recipe, features: data.Dataset | data.PairDataset | data.GivenPairs
) -> nn.Module:
    """The head of a recipe for features, or for pairs of them: fitted already, or to be trained."""
    if isinstance(features, (data.PairDataset, data.GivenPairs)):
        features = features.data
    (width,) = features.item_shape
    name = recipe.head or "linear"
    if name == "whitening":
        labeled = features.labels >= 0
        rows = data.items(features)[labeled]
        return encoders.Whitening.fit(rows, features.labels[labeled], shrinkage=SHRINKAGE)
    torch.manual_seed(recipe.seed)
    return new_head(name, width, recipe.embedding_dim)


def tried(recipe: Recipe, features: data.Dataset, distance: Distance, fit: Trained) -> Trial:
    """Whether a head is ahead of the frozen encoder on classes that it was not trained on.

    The classes are divided in three, and each third is held out once. A head is used only if its
    MAP@R over all of these is ahead in a paired test, adjusted for the number of heads; of
    several, the best.

    Args:
        recipe: The choices for heads that are trained; `recipe.head` alone is tried if given.
        features: What the encoder makes of the training items.
        distance: How they are compared.
        fit: Trains a head on features, in place.
    """
    counts = data.items_per_class(features)
    if sum(count > 1 for count in counts.values()) < FEWEST_CLASSES:
        return Trial(None, f"frozen encoder kept: fewer than {FEWEST_CLASSES} classes to try on")
    candidates: tuple[str, ...] = TRIED if recipe.head is None else (recipe.head,)
    if recipe.embedding_dim is not None:  # a whitening has as many numbers as the features
        candidates = tuple(name for name in candidates if name != "whitening") or ("linear",)
    scores: dict[str, list[torch.Tensor]] = {name: [] for name in ("frozen", *candidates)}
    labels = []
    for rest, held in data.fold_by_class(features, FOLDS, seed=recipe.seed):
        items = data.items(held)
        for name, found in scores.items():
            embeddings = items
            if name != "frozen":
                head = head_for(dataclasses.replace(recipe, head=name), rest)
                if name != "whitening":
                    fit(head, rest)
                embeddings = encoders.encode(head, items)
            judged = evaluate_retrieval(embeddings, held.labels, distance=distance, ks=(1,))
            found.append(judged.per_query["map_at_r"])
        labels.append(judged.query_labels)
    told, ahead = [], {}
    base = torch.cat(scores["frozen"])
    for name in candidates:
        difference = compare(
            {"map_at_r": torch.cat(scores[name])},
            {"map_at_r": base},
            labels=torch.cat(labels),
            classes_as_sample=len(counts) >= FEWEST_GROUPS,
        ).measures["map_at_r"]
        chance = min(1.0, difference.p_value * len(candidates))
        told.append(f"{name} {difference.a.value:.3f} (p = {chance:.2g})")
        if difference.difference.value > 0 and chance < LEVEL:
            ahead[name] = difference.a.value
    best = max(ahead, key=lambda name: ahead[name]) if ahead else None
    what = "frozen encoder kept" if best is None else f"head {best} kept behind the frozen encoder"
    line = f"{what}: MAP@R on held-out classes frozen {float(base.mean()):.3f}, {', '.join(told)}"
    return Trial(best, line)
