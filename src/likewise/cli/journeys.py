"""What the commands on a saved model do, one function each, from arguments to results."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import likewise as lw
from likewise import calibration, data
from likewise._checks import check_choice, check_exists
from likewise._devices import chosen_device
from likewise.cli import console
from likewise.data.images import is_image_name
from likewise.data.loading import FILES, NAMES
from likewise.encoders import takes_texts
from likewise.errors import InputError, InputTypeError, naming
from likewise.journeys import opening
from likewise.journeys.opening import PLAIN, is_pair_table, names_of, open_pairs
from likewise.masks import UNLABELED
from likewise.model import SimilarityModel
from likewise.model.trials import LEAVE_OUT, check_some_indexed

TOKEN = "LIKEWISE_MILVUS_TOKEN"


def open_model(
    path: str,
    device: str | None,
    gallery: Path | None = None,
    *,
    cache: Path | None = None,
    writing: bool = False,
    encoder_from: str | None = None,
    milvus: str | None = None,
    collection: str | None = None,
    milvus_index: str | None = None,
    milvus_partition_by: str | None = None,
    recall: float | None = None,
) -> SimilarityModel:
    """A saved model with its encoder on the device asked for, and its gallery if it has one.

    What Milvus asks for before it lets anybody in is in the environment, as `TOKEN`: words of a
    command can be read by others.
    """
    if (milvus is None) != (collection is None):
        raise InputError(
            f"must come with {'--milvus' if milvus is None else '--collection'}, got none.",
            argument="collection" if milvus is None else "milvus",
        )
    if milvus is not None and gallery is not None:
        raise InputError("must be left out with --gallery, got both.", argument="milvus")
    of_milvus = {"milvus_index": milvus_index, "milvus_partition_by": milvus_partition_by}
    for name, value in of_milvus.items():
        if value is not None and milvus is None:
            raise InputError("must come with --milvus, got none.", argument=name)
    token = os.environ.get(TOKEN)
    if gallery is not None and not writing:
        check_exists("gallery", gallery)
    encoder = None
    if encoder_from is not None:
        # Of two models that are compared, one may have an encoder of the library's.
        left_out = lw.load(path, gallery=gallery, read_only=True, token=token, without_encoder=True)
        if isinstance(left_out.index, lw.Gallery):
            left_out.index.close()
        if getattr(left_out.encoder, "own", False):
            encoder = made_encoder(encoder_from)
    model = lw.load(path, gallery=gallery, read_only=not writing, encoder=encoder, token=token)
    if milvus is not None and collection is not None:
        model.use_milvus(
            milvus,
            collection=collection,
            token=token,
            index_type=milvus_index,
            partition_by=milvus_partition_by,
            recall=recall,
        )
    elif recall is not None:
        _look_up_with(model, recall, token)
    for encoder in (model.encoder, model.query_encoder):
        if encoder is not None:
            encoder.to(chosen_device(device))
    model.cache = cache
    return model


def _look_up_with(model: SimilarityModel, recall: float, token: str | None) -> None:
    """Let the gallery that a model uses already find this share of the nearest."""
    if model.gallery is None:
        raise InputError("must come with --gallery or --milvus, got none.", argument="recall")
    if model.collection is None:
        model.use_gallery(model.gallery, recall=recall)
    else:
        model.use_milvus(model.gallery, collection=model.collection, token=token, recall=recall)


def made_encoder(place: str) -> torch.nn.Module:
    """What the callable of a place such as package.module:callable makes.

    The module is imported as Python does it, and from the current folder; its code runs. A place
    is never read from a saved model.

    Raises:
        InputError: there is no such callable, or it fails.
        InputTypeError: it makes no torch module.
    """
    module, _, name = place.partition(":")
    if not (module and name.isidentifier()):
        raise InputError(
            f"must be package.module:callable, got {place!r}.", argument="encoder_from"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever the user's own code raises
        raise InputError(
            f"must be a callable that makes the encoder, got {place!r}, which fails with "
            f"{type(error).__name__}: {error}.",
            argument="encoder_from",
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise InputTypeError(
            f"must make a torch module, got {place!r}, which makes {type(made).__name__}.",
            argument="encoder_from",
        )
    return made


def open_items(model: SimilarityModel, source: str, split: str | None, **asked: Any) -> Any:
    """Data, or what was embedded of it; what was left out of parts is a line on standard error."""
    with console.warnings_as_lines():
        return opening.open_items(model, source, split, **asked)


def remove(model: SimilarityModel, ids: Sequence[str], class_name: str | None) -> int:
    """Take items out of the index, by their ids or by their class; how many."""
    index = model.index
    if (class_name is None) == (not ids):
        raise InputError(
            f"ID must be given, or --class, and not both, got {' '.join(ids) or 'none'}."
        )
    if class_name is not None:
        check_choice("class_name", class_name, model.class_names)
        return index.remove(
            index.ids[(index.labels == model.class_names.index(class_name)).numpy()]
        )
    if index.ids.dtype.kind == "i":
        for id_ in ids:
            if not id_.isdecimal() or len(id_) > len(str(2**63)):
                raise InputError(f"ID must be a whole number, as those indexed are, got {id_!r}.")
        return index.remove([int(id_) for id_ in ids])
    return index.remove(list(ids))


def calibrate(
    model: SimilarityModel,
    source: str,
    *,
    split: str | None,
    goal: str | None,
    rule: str | None,
    k: int,
    point: str | None = None,
    per_class: bool = False,
    leave_out: str | None = None,
    unknowns: str | None = None,
    for_gallery_of: int | None = None,
    seed: int,
    reading: data.Reading = PLAIN,
) -> dict[str, calibration.Calibration]:
    """By operating point: for one rule, or for matching (if anything is indexed) and for pairs."""
    with naming(**dict.fromkeys(("rate", "confidence", "precision", "recall", "prior"), "goal")):
        chosen = None if goal is None else calibration.parse_goal(goal)
    examples: Any
    if is_pair_table(source):
        examples = open_pairs(model, source)
        rules = [rule or "pairs"]
    else:
        examples = open_items(
            model, source, split, default_split="train", reading=reading, queries=True
        )
        also = ["pairs"] if model.query_encoder is None else []  # which come across both sides
        rules = [rule] if rule else (["nearest"] if len(model.index) else []) + also
        if not rules:
            raise InputError(
                "model must have known items for matching, got none. Index some, or calibrate on "
                "a table of pairs."
            )
    if per_class and rules == ["pairs"]:
        raise InputError("per-class must come with a rule for matching, got pairs. Index items.")
    if point is not None and rule is None:
        raise InputError(
            f"must come with --rule, got {point!r} alone. Say what it is for.", argument="point"
        )
    if leave_out is not None:
        check_choice("leave_out", leave_out, LEAVE_OUT)
    if rules == ["pairs"] and (unknowns is not None or for_gallery_of is not None):
        raise InputError(
            "must come with something indexed, or a rule for matching, got pairs.",
            argument="for_gallery_of" if unknowns is None else "unknowns",
        )
    real = None
    if unknowns is not None:
        with naming(source="unknowns"):
            real = open_items(model, unknowns, split, default_split="train", queries=True)
    made = {}
    with console.warnings_as_lines(), console.progress("calibrating") as show:
        if len(rules) > 1:  # each item is read once for both
            check_some_indexed(model.index, examples)
            examples = model.embedded(examples, queries=True, only_new=True, progress=show)
        for each in rules:
            made[point or each] = model.calibrate(
                examples,
                goal=chosen,
                rule=each,
                k=k,
                point=point,
                per_class=per_class and each != "pairs",
                leave_out=leave_out,
                unknowns=None if each == "pairs" else real,
                for_gallery_of=None if each == "pairs" else for_gallery_of,
                seed=seed,
                progress=show,
            )
    return made


def queries(
    model: SimilarityModel,
    sources: Sequence[str],
    split: str | None,
    reading: data.Reading = PLAIN,
    *,
    naming_all: bool = True,
) -> tuple[Any, list[str]]:
    """The items to ask about, and a name for each: image files, texts, or one source of data.

    Without `naming_all` the items of a source have no names yet, as there may be millions.
    """
    encoder, preprocess = model.tower(queries=True)
    if takes_texts(encoder):
        if len(sources) > 1 or not (sources[0] in NAMES or Path(sources[0]).exists()):
            return list(sources), list(sources)
    elif all(map(_is_image_file, sources)):
        if preprocess is None:
            raise InputError(
                "must be vectors for a model without an encoder, got image files.",
                argument="sources",
            )
        files = list(sources)
        if reading.skip_unreadable:
            unlabeled = [UNLABELED] * len(files)
            with console.warnings_as_lines():
                skipping = data.ImageFiles(files, unlabeled, None, 8, 3, skip_unreadable=True)
            files = skipping.paths
        return files, files
    if len(sources) > 1:
        raise InputError(
            f"FILE must be image files, or one source of data, got {' '.join(sources)}."
        )
    examples = open_items(
        model, sources[0], split, default_split="test", reading=reading, queries=True
    )
    return examples, names_of(examples) if naming_all else []


def _is_image_file(source: str) -> bool:
    """Whether a source is one image: by its name, or as a file that is no table."""
    path = Path(source)
    return is_image_name(path) or (path.is_file() and path.suffix.lower() not in FILES)
