"""`likewise train`: words of the command line become a recipe, and its training is told of."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import typer

import likewise as lw
from likewise import data
from likewise.cli import console
from likewise.cli.answers import Answer
from likewise.errors import InputError, naming
from likewise.journeys.opening import is_pair_table, open_data
from likewise.journeys.train import ASIDE, selection_notes
from likewise.model import SimilarityModel
from likewise.training.tracking import Track


def train(
    source: str,
    choices: Mapping[str, Any],
    *,
    split: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    hold_out_classes: Sequence[str] = (),
    evaluate: str | None = None,
    track: str | None = None,
    tracked: Path | None = None,
    workers: int = 0,
    device: str | None = None,
) -> SimilarityModel:
    """`likewise.train` on a source, told of as it goes.

    Trackers go to the folder that holds `tracked`, as a run of its name.
    """
    callbacks: list[Any] = [tell_epoch]
    if track is not None:
        where = tracked or Path("runs", "likewise")
        callbacks.insert(0, Track(track, folder=where.parent, run=where.name))
    recipe = lw.Recipe.from_dict(choices)
    given: Any
    if recipe.pairs and is_pair_table(source):
        given = data.load_pairs(source, image_size=image_size, channels=channels)
        shape, present = given.data.item_shape, []
        if hold_out_classes:
            recipe = lw.Recipe.from_dict({**choices, "hold_out_classes": list(hold_out_classes)})
    else:
        given = open_data(source, split, image_size=image_size, channels=channels)
        shape = given.item_shape
        present = list(data.items_per_class(given))
        if hold_out_classes:
            held = held_out(hold_out_classes, present)
            recipe = lw.Recipe.from_dict({**choices, "hold_out_classes": held})
    scored: Any = evaluate
    if evaluate not in (None, ASIDE):
        scored = _opened_like(shape, evaluate)
    with console.warnings_as_lines(), console.progress("training") as show:
        return lw.train(
            given,
            recipe,
            evaluate=scored,
            callbacks=callbacks,
            progress=show,
            workers=workers,
            device=device,
            name=source,
            scored_on=evaluate,
            tell=console.say,
        )


def choices_of(ctx: typer.Context, recipe: Path | None) -> dict[str, Any]:
    """The choices of a recipe: those of its file, and before them the options that were given."""
    choices = {} if recipe is None else lw.Recipe.read(recipe).to_dict()
    for field in dataclasses.fields(lw.Recipe):
        value = ctx.params.get(field.name)
        source = ctx.get_parameter_source(field.name)
        was_given = source is not None and source.name != "DEFAULT"
        if field.name == "hold_out_classes" or value is None:
            continue
        if was_given or field.name not in choices:
            choices[field.name] = str(value) if isinstance(value, StrEnum) else value
    folds = choices.get("cross_fit")
    if isinstance(folds, str) and folds.isdecimal() and len(folds) < 9:
        choices["cross_fit"] = int(folds)
    return choices


def answer(model: SimilarityModel, folder: Path, source: str) -> Answer:
    """What came of a training, and what to do next."""
    history = model.origin["history"]
    seconds = sum(record["seconds"] for record in history)
    of = f"of {len(model.trained_on)} classes" if model.trained_on else "in pairs"
    after = f"index {folder} {source} --per-class 20"
    if model.origin["recipe"]["pairs"]:
        after = f"calibrate {folder} {'OTHER_PAIRS.csv' if not model.trained_on else source}"
    chosen = {key: model.origin[key] for key in model.origin if key.startswith("selected_")}
    lines = [
        f"trained on {model.origin['items']} items {of}, {len(history)} epochs in {seconds:.1f} s",
        *([f"kept the encoder of epoch {chosen['selected_epoch']}"] if chosen else []),
        *selection_notes(model.origin, chosen.get("selected_on", [])),
        f"model saved in {folder}; next: likewise {after}",
    ]
    result = {
        "model": str(folder),
        "recipe": model.origin["recipe"],
        "trained_on": model.trained_on,
        "history": history,
        **chosen,
    }
    return result, lines


def held_out(words: Sequence[str], present: Sequence[str]) -> float | tuple[str, ...]:
    """The share of classes that words such as 40% ask for, or else the classes they name."""
    (share, *more) = words
    if more or share in present or not share.endswith("%"):
        return tuple(named_classes(words, present))
    try:
        part = float(share[:-1]) / 100
    except ValueError:
        part = -1.0
    if not 0 < part < 1:
        raise InputError(
            f"must leave some of {len(present)} classes and hold out some, got {share!r}. "
            "Write e.g. 40%, or names separated by commas.",
            argument="hold_out_classes",
        )
    return part


def named_classes(words: Sequence[str], present: Sequence[str]) -> list[str]:
    """The classes that words name: each word one class, or else a list separated by commas.

    In a list, a name that holds a comma stands in double quotes.

    Raises:
        InputError: a class is not there.

    Example:
        >>> named_classes(["oak, red", 'elm, "fir, old"'], ["oak, red", "elm", "fir, old"])
        ['oak, red', 'elm', 'fir, old']
    """
    names: list[str] = []
    for word in words:
        if word in present:
            names.append(word)
        else:
            names += _parts_of_list(word)
    absent = [name for name in names if name not in present]
    if absent or not names:
        few = ", ".join(map(repr, present[:12])) + (", …" if len(present) > 12 else "")
        raise InputError(
            f"must name classes of the data ({few}), got "
            f"{', '.join(map(repr, absent)) or 'none'}. Give the option once for each class, or "
            "names separated by commas; one that holds a comma goes in double quotes.",
            argument="hold_out_classes",
        )
    return names


def _parts_of_list(word: str) -> list[str]:
    try:
        (parts,) = csv.reader([word], skipinitialspace=True)
    except (csv.Error, ValueError):  # ends of lines, as in no list; or nothing at all
        return [word]
    return [part.strip() for part in parts]


def _opened_like(shape: Sequence[int], source: str | None) -> Any:
    """What to score, its images of the shape of those trained on."""
    size: dict[str, Any] = {}
    if len(shape) == 3:
        size = {"image_size": tuple(shape[1:]), "channels": shape[0]}
    with naming(source="evaluate"):
        if is_pair_table(str(source)):
            return data.load_pairs(str(source), **size)
        return open_data(str(source), default_split="test", **size)


def tell_epoch(record: dict[str, float], encoder: torch.nn.Module) -> None:
    """One line for each epoch."""
    told = [
        f"{name} {record[name]:.4g}"
        for name in record
        if name in ("loss", "active", "accuracy", "positive_distance", "negative_distance")
        or name.endswith(("_map_at_r", "pairs_roc_auc"))
    ]
    console.say(f"epoch {record['epoch']:.0f}: {', '.join(told)} ({record['seconds']:.1f} s)")
