"""`likewise train`: words of the command line become a recipe, and its training is told of."""

import dataclasses
import shlex
import shutil
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
from likewise.journeys.choosing import open_for_training, stream_for_training
from likewise.journeys.frozen import FEATURES
from likewise.journeys.opening import PLAIN, is_pair_table, named_classes, open_data, parts_of_list
from likewise.journeys.scoring import ASIDE, selection_notes
from likewise.journeys.train_towers import open_for_towers
from likewise.model import SimilarityModel
from likewise.training import is_first_process
from likewise.training.checkpoints import MANIFEST, load_checkpoint
from likewise.training.telling import epoch_line
from likewise.training.tracking import Track

INDEXED = 20  # items of each class, as the next command proposes
_OPTIONS = {"train": "train_", "labels": "use_labels"}  # where the command has the name already


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
    buffer: int | None = None,
    device: str | None = None,
    reading: data.Reading = PLAIN,
    checkpoint: Path | None = None,
    weights: Path | None = None,
) -> tuple[SimilarityModel, int]:
    """`likewise.train` on a source, told of as it goes; and the items of its smallest class.

    Trackers go to the folder that holds `tracked`, as a run of its name. What is not counted
    before the training, as a stream, has 0 items.
    """
    fewest = 0
    is_new = checkpoint is not None and not (checkpoint / MANIFEST).is_file()
    callbacks: list[Any] = [tell_epoch]
    if track is not None:
        where = tracked or Path("runs", "likewise")
        callbacks.insert(0, Track(track, folder=where.parent, run=where.name))
    recipe = lw.Recipe.from_dict(choices)
    given: Any
    if recipe.towers is not None:
        _check_of_towers(
            buffer=buffer,
            split=split,
            evaluate=evaluate,
            hold_out_classes=hold_out_classes or None,
            **reading.given,
        )
        given = open_for_towers(source, recipe, image_size=image_size, channels=channels)
    elif buffer is not None:
        given = stream_for_training(
            source, recipe, split=split, image_size=image_size, channels=channels, reading=reading
        )
        names = tuple(name for word in hold_out_classes for name in parts_of_list(word))
        if names:
            recipe = dataclasses.replace(recipe, hold_out_classes=names)
    elif recipe.pairs and is_pair_table(source):
        given = data.load_pairs(
            source, image_size=image_size, channels=channels, texts=reading.text is not None
        )
        present = []
        if hold_out_classes:
            recipe = dataclasses.replace(recipe, hold_out_classes=tuple(hold_out_classes))
    else:
        given, recipe = open_for_training(
            source,
            recipe,
            split=split,
            image_size=image_size,
            channels=channels,
            weights=weights,
            reading=reading,
        )
        counts = data.items_per_class(given)
        present, fewest = list(counts), min(counts.values(), default=0)
        if hold_out_classes:
            held = held_out(hold_out_classes, present)
            recipe = dataclasses.replace(recipe, hold_out_classes=held)
    scored: Any = evaluate
    if evaluate not in (None, ASIDE) and buffer is None:
        scored = _opened_like(
            given.data if isinstance(given, data.GivenPairs) else given, evaluate, reading
        )
    try:
        with console.warnings_as_lines(), console.progress("training") as show:
            model = lw.train(
                given,
                recipe,
                evaluate=scored,
                callbacks=callbacks,
                progress=show,
                workers=workers,
                buffer=buffer,
                device=device,
                name=source,
                scored_on=evaluate,
                reading=reading,
                checkpoint=checkpoint,
                weights=weights,
                tell=console.say,
            )
        return model, fewest
    except KeyboardInterrupt:
        if checkpoint is not None and is_first_process():
            tell_kept(checkpoint, recipe.epochs)
        raise
    except InputError:
        if is_new and checkpoint is not None and is_first_process():
            forget(checkpoint)  # as what was refused cannot go on
        raise


def checkpoint_of(out: Path, *, resume: bool) -> Path:
    """Where a training is kept until its model is saved in `out`.

    Raises:
        InputError: one is kept there that is not to be resumed, or the other way around.
    """
    place = out.parent / f"{out.name}.checkpoint"
    if not is_first_process():  # which may be ahead, and have begun to write
        return place
    is_there = (place / MANIFEST).is_file() or (place / FEATURES).is_dir()
    if is_there and not resume:
        raise InputError(
            f"must go on with the training that was interrupted, kept in {str(place)!r}, got no "
            "word of it. Add it, or remove that folder.",
            argument="resume",
        )
    if resume and not is_there:
        raise InputError(
            f"must be left out unless a training was interrupted, got none in {str(place)!r}.",
            argument="resume",
        )
    return place


def tell_kept(checkpoint: Path, epochs: int) -> None:
    """Say which epoch of a training that was interrupted is kept."""
    state = load_checkpoint(checkpoint)
    done = 0 if state is None else len(state["records"])
    if done:
        console.say(
            f"likewise: {done} of {epochs} epochs are kept in {checkpoint}; go on with --resume"
        )
    elif any((checkpoint / FEATURES).rglob("*.safetensors")):
        console.say(f"likewise: the features are kept in {checkpoint}; go on with --resume")
    else:
        forget(checkpoint)
        console.say("likewise: no epoch was finished, so nothing is kept")


def forget(checkpoint: Path) -> None:
    """Remove what was kept of a training."""
    shutil.rmtree(checkpoint, ignore_errors=True)


def choices_of(ctx: typer.Context, recipe: Path | None) -> dict[str, Any]:
    """The choices of a recipe: those of its file, and before them the options that were given."""
    choices = {} if recipe is None else lw.Recipe.read(recipe).to_dict()
    for field in dataclasses.fields(lw.Recipe):
        option = _OPTIONS.get(field.name, field.name)
        value = ctx.params.get(option)
        source = ctx.get_parameter_source(option)
        was_given = source is not None and source.name != "DEFAULT"
        if field.name == "hold_out_classes" or value is None:
            continue
        if was_given or field.name not in choices:
            choices[field.name] = str(value) if isinstance(value, StrEnum) else value
    if isinstance(choices.get("towers"), str):
        choices["towers"] = tuple(name.strip() for name in choices["towers"].split(","))
    folds = choices.get("cross_fit")
    if isinstance(folds, str) and folds.isdecimal() and len(folds) < 9:
        choices["cross_fit"] = int(folds)
    return choices


def answer(model: SimilarityModel, folder: Path, source: str, fewest: int) -> Answer:
    """What came of a training, and what to do next.

    Where each class has more than `INDEXED` items, that many are to be indexed, and the rest can
    be calibrated on.
    """
    history = model.origin["history"]
    seconds = sum(record["seconds"] for record in history)
    recipe = model.origin["recipe"]
    is_of_pairs = recipe["pairs"] or "towers" in recipe
    of = "in pairs" if is_of_pairs else f"of {len(model.trained_on)} classes"
    if not recipe["labels"]:
        of = "without their labels"
    model_words, source_words = shlex.quote(str(folder)), shlex.quote(source)
    after = f"index {model_words} {source_words}"
    if fewest > INDEXED:
        after += f" --per-class {INDEXED}"
    if "towers" in recipe:
        after = f"index {model_words} KNOWN"
    elif recipe["pairs"]:
        after = f"calibrate {model_words} "
        after += source_words if model.trained_on else "OTHER_PAIRS.csv"
    chosen = {key: model.origin[key] for key in model.origin if key.startswith("selected_")}
    encoder = recipe.get("encoder") or " and ".join(recipe.get("towers", ["small"]))
    trained = (
        f"trained on {model.origin['items']} items {of}, {len(history)} epochs in {seconds:.1f} s"
    )
    if not history:
        trained = f"encoder {encoder} as it is"
        trained += (
            f", behind it a head that was fitted to {model.origin['items']} items {of}"
            if model.trained_on
            else ": nothing was trained"
        )
    lines = [
        trained,
        *([f"kept the encoder of epoch {chosen['selected_epoch']}"] if chosen else []),
        *selection_notes(model.origin, chosen.get("selected_on", [])),
        f"model saved in {folder}; next: likewise {after}",
    ]
    result = {
        "model": str(folder),
        "recipe": recipe,
        **({"decided": model.origin["decided"]} if "decided" in model.origin else {}),
        "baselines": model.origin["baselines"],
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


def _opened_like(trained: data.Dataset, source: str | None, reading: data.Reading) -> Any:
    """What to score, its images of the shape of those trained on, and read as they are."""
    size: dict[str, Any] = {}
    if len(trained.item_shape) == 3:
        channels, *sides = trained.item_shape
        size = {"image_size": data.framing_of(trained) or tuple(sides), "channels": channels}
    with naming(source="evaluate"):
        if is_pair_table(str(source)):
            return data.load_pairs(str(source), texts=data.is_text(trained), **size)
        return open_data(str(source), default_split="test", reading=reading, **size)


def _check_of_towers(**options: Any) -> None:
    """Refuse options that a table of pairs across two sides has no use for."""
    for name, value in options.items():
        if value:
            raise InputError(
                f"must be left out with --towers, got {value!r}. Its table has the columns a, b.",
                argument=name,
            )


def tell_epoch(record: dict[str, float], encoder: torch.nn.Module) -> None:
    """One line for each epoch."""
    console.say(epoch_line(record))
