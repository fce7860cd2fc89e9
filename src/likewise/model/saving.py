"""What stands in the folder of a saved model, written and read."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn

import likewise
from likewise import data as sources
from likewise import distances as known
from likewise.calibration import Calibration, ClassThresholds, CrossFit
from likewise.calibration.cross_fit import TENSORS
from likewise.distances import Distance
from likewise.errors import ArtifactError, InputError
from likewise.index import Gallery, Index, MilvusGallery
from likewise.matching import RULES, Rule
from likewise.model import rebuilding
from likewise.model.folders import (
    UNREADABLE,
    Folder,
    Fresh,
    Part,
    damaged,
    read_folder,
    write_folder,
)
from likewise.model.merging import ENCODER, Kept, Units, merged
from likewise.model.trials import PAIRS
from likewise.normalization import AdaptiveNorm
from likewise.probability import Probability

LARGEST_TEXT = 1 << 31  # bytes of ids and metadata
LARGEST_TENSORS = 1 << 36  # bytes of embeddings

_INDEX, _ORIGIN, _SEEN = "the index", "the origin", "the items calibrated on"
_FILES = {
    ENCODER: (
        "encoder.safetensors",
        "trained.safetensors",
        "cohort.safetensors",
        "cross_fit.safetensors",
        "queries.safetensors",
    ),
    _INDEX: ("index.safetensors", "index.json"),
    _SEEN: ("calibrated.safetensors",),
}
_FIELDS = {
    ENCODER: (
        "encoder",
        "layouts",
        "distance",
        "preprocess",
        "reading",
        "trained_on",
        "cohort",
        "cross_fit",
        "queries",
    ),
    _INDEX: ("gallery",),
    _ORIGIN: ("origin",),
}
_BY_POINT = ("calibrations", "class_thresholds", "probabilities")

_Text = Annotated[str, msgspec.Meta(pattern="^[^\0\ud800-\udfff]+\\Z")]  # what a path can be
_Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | str


@dataclass
class Contents:
    """All that a saved model is made of."""

    encoder: nn.Module
    distance: Distance
    preprocess: sources.Preprocess | None
    origin: dict[str, Any]
    trained_on: list[str]
    trained_prints: Tensor
    calibrated_prints: Tensor
    index: Index
    place: "Place | None"
    calibrations: dict[str, Calibration]
    class_thresholds: dict[str, ClassThresholds]
    probabilities: dict[str, Probability]
    norm: AdaptiveNorm | None
    reading: sources.Reading
    cross_fit: CrossFit | None = None
    query_encoder: nn.Module | None = None
    query_preprocess: sources.Preprocess | None = None
    rules: dict[str, Rule] = field(default_factory=dict)


class Place(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where a gallery is: as seen from the model's folder, and from anywhere.

    In Milvus that is the address of the server, or a file, and the collection there. What a
    lookup in a folder shall find, `Gallery` does not keep.
    """

    absolute: _Text
    relative: _Text | None = None
    key: str | None = None
    collection: _Text | None = None
    recall: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    approximate: Literal["IVF", "HNSW", "RaBitQ"] = "IVF"

    def found(self, folder: Path) -> str | None:
        """The gallery's path, the one beside the model first; None where neither is one."""
        if not MilvusGallery.is_file(self.absolute):
            return self.absolute  # whether a server answers, only asking it tells
        is_there = Gallery.is_at if self.collection is None else os.path.exists
        beside = None if self.relative is None else os.path.realpath(folder / self.relative)
        places = [place for place in (beside, self.absolute) if place is not None]
        return next((place for place in places if is_there(place)), None)


class _Framing(msgspec.Struct, forbid_unknown_fields=True):
    height: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    width: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    crop: float
    mode: str
    interpolation: str
    fill: Annotated[list[float], msgspec.Meta(max_length=1 << 10)]


class _Preprocess(msgspec.Struct, forbid_unknown_fields=True):
    item_shape: list[Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]]
    mean: list[float]
    std: list[float]
    framing: _Framing | None


class _Cohort(msgspec.Struct, forbid_unknown_fields=True):
    nearest: Annotated[int, msgspec.Meta(ge=2, le=(1 << 63) - 1)]


class _Queries(msgspec.Struct, forbid_unknown_fields=True):
    """The tower of queries, where known items have another."""

    encoder: rebuilding.Described
    layouts: dict[str, list[int]]
    preprocess: _Preprocess | None


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    likewise: str
    key: str
    encoder: rebuilding.Described
    layouts: dict[str, list[int]]
    distance: str
    preprocess: _Preprocess | None
    reading: dict[Literal["text", "label", "vectors", "path_column", "id"], str]
    trained_on: list[str]
    cohort: _Cohort | None
    cross_fit: list[str] | None
    queries: _Queries | None
    origin: dict[str, Any]
    gallery: Place | None
    calibrations: dict[str, dict[str, Any]]
    class_thresholds: dict[str, dict[str, Any]]
    probabilities: dict[str, dict[str, Any]]


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    ids: list[_Id]
    metadata: list[dict[str, Any]]
    next_id: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    class_names: list[str]
    storage: str
    recall: float | None
    approximate: str = "IVF"
    payloads: list[str | None] | None = None  # base64


def write(contents: Contents, path: str | Path, kept: dict[str, Kept]) -> Path:
    """Write a model into a folder, all or nothing; the folder.

    Args:
        contents: The model.
        path: The folder.
        kept: By folder what the model last had in common with it; brought up to date.

    Raises:
        ArtifactError: see `SimilarityModel.save`.
    """
    folder, place = Path(path), os.path.realpath(path)
    manifest, parts = _described(contents, folder)
    own = _as_json(manifest)

    common = None

    def together(older: Folder | None) -> tuple[dict[str, Any], Mapping[str, Fresh | Part]]:
        nonlocal common
        ours = _units(own, {name: fresh.part for name, fresh in parts.items()}, folder)
        older = older if older is None or _is_whole(older) else None
        base = kept.get(place)
        if older is not None:
            lineage = older.manifest["key"]
            found = next((known for known in kept.values() if known.key == lineage), None)
            if found is None and base is not None:
                raise _changed(folder, "all of it")
            base = found
        common = Kept(os.urandom(16).hex(), ours)
        if older is None or base is None:
            return {**own, "key": common.key}, parts
        common = Kept(base.key, ours)
        return _joined({**own, "key": base.key}, parts, older, base.units, ours)

    def written() -> None:
        if common is not None:
            kept[place] = common

    write_folder(folder, together, written)
    return folder


def read(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    query_encoder: nn.Module | None = None,
    distance: Distance | None = None,
    rules: Mapping[str, Rule] | None = None,
    without_encoder: bool = False,
) -> tuple[Contents, Kept]:
    """What `write` wrote into a folder, the gallery not opened; see `likewise.load`."""

    def contents(folder: Folder) -> tuple[Contents, Kept]:
        try:
            return _read(folder, (encoder, query_encoder), distance, rules or {}, without_encoder)
        except ArtifactError:
            raise
        except (InputError, *UNREADABLE) as error:
            raise damaged(folder.path, f"a description ({error})") from error

    return read_folder(Path(path), contents)


def _described(contents: Contents, folder: Path) -> tuple[dict[str, Any], dict[str, Fresh]]:
    # What is in a gallery is on disk already.
    kept = contents.index if contents.place is None else Index(contents.distance)
    state = kept.state()
    state["ids"] = state["ids"].tolist()
    tensors = {name: state.pop(name) for name in ("embeddings", "labels")}
    described = rebuilding.describe(contents.encoder)
    place = contents.place
    if place is not None:
        is_file = MilvusGallery.is_file(place.absolute)
        relative = _relative(place.absolute, folder) if is_file else None
        place = msgspec.structs.replace(place, relative=relative)
    manifest = {
        "likewise": likewise.__version__,
        "encoder": msgspec.to_builtins(described),
        "layouts": rebuilding.layouts(contents.encoder),
        "distance": contents.distance.name,
        "preprocess": None if contents.preprocess is None else contents.preprocess.to_dict(),
        "reading": contents.reading.columns,
        "trained_on": contents.trained_on,
        "cohort": None if contents.norm is None else {"nearest": contents.norm.nearest},
        "cross_fit": None if contents.cross_fit is None else list(contents.cross_fit.class_names),
        "queries": None,
        "origin": contents.origin,
        "gallery": None if place is None else msgspec.to_builtins(place),
        "calibrations": {name: made.to_dict() for name, made in contents.calibrations.items()},
        "class_thresholds": {
            name: made.to_dict() for name, made in contents.class_thresholds.items()
        },
        "probabilities": {name: made.to_dict() for name, made in contents.probabilities.items()},
    }
    parts = {
        "encoder.safetensors": rebuilding.packed(rebuilding.weights(contents.encoder)),
        "trained.safetensors": rebuilding.packed({"prints": contents.trained_prints}),
        "calibrated.safetensors": rebuilding.packed({"prints": contents.calibrated_prints}),
        "index.safetensors": rebuilding.packed(tensors),
        "index.json": json.dumps(state).encode(),
    }
    if contents.query_encoder is not None:
        reads = contents.query_preprocess
        manifest["queries"] = {
            "encoder": msgspec.to_builtins(rebuilding.describe(contents.query_encoder)),
            "layouts": rebuilding.layouts(contents.query_encoder),
            "preprocess": None if reads is None else reads.to_dict(),
        }
        found = rebuilding.weights(contents.query_encoder)
        parts["queries.safetensors"] = rebuilding.packed(found)
    if contents.norm is not None:
        parts["cohort.safetensors"] = rebuilding.packed({"cohort": contents.norm.cohort.float()})
    if contents.cross_fit is not None:
        parts["cross_fit.safetensors"] = rebuilding.packed(contents.cross_fit.tensors())
    for name, content in parts.items():
        most = LARGEST_TEXT if name.endswith(".json") else LARGEST_TENSORS
        if len(content) > most:
            raise ArtifactError(
                f"{name} must have at most {most:,} bytes, got {len(content):,}. Keep the known "
                "items in a gallery, with use_gallery."
            )
    return manifest, {name: Fresh.of(name, content) for name, content in parts.items()}


def _as_json(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as it will be read: texts for keys, lists for tuples."""
    try:
        return dict(json.loads(json.dumps(manifest)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"origin must hold what JSON can, got other values ({error}). Keep plain numbers, "
            "texts, lists and dicts in it."
        ) from error


def _is_whole(older: Folder) -> bool:
    try:
        msgspec.convert(older.manifest, _Manifest)
    except UNREADABLE:
        return False
    return True


def _point(name: str) -> str:
    return f"the calibration {name!r}"


def _units(manifest: Mapping[str, Any], files: Mapping[str, Part], folder: Path) -> Units:
    """What of a model can be changed by itself, so that two can be compared."""
    units: Units = {
        name: [
            [manifest.get(key) for key in _FIELDS.get(name, ())],
            [files[file].sha256 for file in _FILES.get(name, ()) if file in files],
        ]
        for name in (ENCODER, _INDEX, _ORIGIN, _SEEN)
    }
    gallery = manifest.get("gallery")
    if gallery is not None:  # a folder that was moved with its gallery is unchanged
        place = msgspec.convert(gallery, Place)
        searched = [place.recall, place.approximate]
        units[_INDEX][0] = [place.found(folder) or place.absolute, place.collection, *searched]
    for kind in _BY_POINT:
        for point, made in manifest[kind].items():
            units.setdefault(_point(point), {})[kind] = made
    return units


def _joined(
    own: dict[str, Any],
    parts: Mapping[str, Fresh],
    older: Folder,
    base: Units,
    ours: Units,
) -> tuple[dict[str, Any], Mapping[str, Fresh | Part]]:
    """The manifest and the parts that hold the changes of both.

    Raises:
        ArtifactError: both changed the same.
    """
    theirs = _units(older.manifest, older.files, older.path)
    parts = dict(parts)
    if ours[_SEEN] != base[_SEEN] != theirs[_SEEN] != ours[_SEEN]:  # never in each other's way
        name = "calibrated.safetensors"
        (seen,) = _tensors(older, name, prints=(torch.int64, 1))
        mine = rebuilding.unpacked(parts[name].content)["prints"]
        both = torch.unique(torch.cat([seen, mine]))
        parts[name] = Fresh.of(name, rebuilding.packed({"prints": both}))
        base = base | {_SEEN: theirs[_SEEN]}
    try:
        from_us = merged(base, ours, theirs)
    except InputError as error:
        raise _changed(older.path, str(error)) from error
    manifest = dict(own)
    files: dict[str, Fresh | Part] = {}
    for unit in (ENCODER, _INDEX, _ORIGIN, _SEEN):
        if not from_us[unit]:
            manifest |= {name: older.manifest[name] for name in _FIELDS.get(unit, ())}
        there: Mapping[str, Fresh | Part] = parts if from_us[unit] else older.files
        files |= {name: there[name] for name in _FILES.get(unit, ()) if name in there}
    for kind in _BY_POINT:
        manifest[kind] = {
            point: made
            for points, is_ours in ((older.manifest[kind], False), (own[kind], True))
            for point, made in points.items()
            if from_us[_point(point)] is is_ours
        }
    return manifest, files


def _read(
    folder: Folder,
    given: tuple[nn.Module | None, nn.Module | None],
    distance: Distance | None,
    rules: Mapping[str, Rule],
    without_encoder: bool,
) -> tuple[Contents, Kept]:
    manifest = msgspec.convert(folder.manifest, _Manifest)

    def tower(described: rebuilding.Described, layouts: dict[str, list[int]], side: str) -> Any:
        file = f"{side}.safetensors"
        if without_encoder and described.class_ != "Identity":  # which needs nothing
            stored = rebuilding.unpacked(folder.part(file, LARGEST_TENSORS))
            return rebuilding.LeftOut(described, stored)
        return _encoder(folder, described, layouts, given[side == "queries"], side).eval()

    made = tower(manifest.encoder, manifest.layouts, "encoder")
    compared = _distance(manifest.distance, distance)
    queries = manifest.queries
    if queries is None and given[1] is not None:
        raise ArtifactError(
            f"query_encoder must be left out for {str(folder.path)!r}, got one. It has one "
            "encoder for queries and known items."
        )
    norm = None
    if manifest.cohort is not None:
        (cohort,) = _tensors(folder, "cohort.safetensors", cohort=(torch.float32, 2))
        norm = AdaptiveNorm(cohort, compared, nearest=manifest.cohort.nearest)
    cross_fit = None
    if manifest.cross_fit is not None:
        kinds = {name: (kind, 1) for name, kind in TENSORS.items()}
        tensors = _tensors(folder, "cross_fit.safetensors", **kinds)
        cross_fit = CrossFit.from_tensors(
            manifest.cross_fit, dict(zip(TENSORS, tensors, strict=True))
        )
    (trained,) = _tensors(folder, "trained.safetensors", prints=(torch.int64, 1))
    (calibrated,) = _tensors(folder, "calibrated.safetensors", prints=(torch.int64, 1))
    calibrations = {
        name: Calibration.from_dict(made) for name, made in manifest.calibrations.items()
    }
    contents = Contents(
        encoder=made,
        distance=compared,
        preprocess=_preprocess(manifest.preprocess),
        origin=manifest.origin,
        trained_on=manifest.trained_on,
        trained_prints=trained,
        calibrated_prints=calibrated,
        index=_index(folder, compared),
        place=manifest.gallery,
        calibrations=calibrations,
        class_thresholds={
            name: ClassThresholds.from_dict(made)
            for name, made in manifest.class_thresholds.items()
        },
        probabilities={
            name: Probability.from_dict(made) for name, made in manifest.probabilities.items()
        },
        norm=norm,
        reading=sources.Reading.from_columns(manifest.reading),  # type: ignore[arg-type]
        cross_fit=cross_fit,
        query_encoder=None
        if queries is None
        else tower(queries.encoder, queries.layouts, "queries"),
        query_preprocess=None if queries is None else _preprocess(queries.preprocess),
        rules=_rules(calibrations, rules),
    )
    return contents, Kept(manifest.key, _units(folder.manifest, folder.files, folder.path))


def _preprocess(values: _Preprocess | None) -> sources.Preprocess | None:
    if values is None:
        return None
    if not all(map(math.isfinite, [*values.mean, *values.std])):
        raise InputError("mean and std must be finite")
    return sources.Preprocess.from_dict(msgspec.to_builtins(values))


def _encoder(
    folder: Folder,
    described: rebuilding.Described,
    layouts: dict[str, list[int]],
    given: nn.Module | None,
    side: str,
) -> nn.Module:
    argument = "query_encoder" if side == "queries" else "encoder"
    if given is None and described.own:
        command = (
            "Use --encoder-from package.module:callable, which makes a module of the same "
            "architecture."
        )
        if side == "queries":
            command = f"Use Python: load(path, {argument}=...)."
        raise ArtifactError(
            f"{argument} must be given for a model with an encoder of the user's own, "
            f"{described.class_}.",
            remedy=f"Use load(path, {argument}=...) with a module of the same architecture.",
            command=command,
        )
    made = rebuilding.rebuild(described) if given is None else given
    content = folder.part(f"{side}.safetensors", rebuilding.most_bytes(made))
    stored = rebuilding.unpacked(content)
    try:
        rebuilding.fill(made, stored, layouts)
    except InputError as error:
        raise ArtifactError(
            f"{argument} must be of the architecture that was saved in {str(folder.path)!r}, got "
            f"{type(made).__name__} with other weights. Build it with the same arguments."
        ) from error
    return rebuilding.unwrapped(made) if given is None else made


def _distance(name: str, given: Distance | None) -> Distance:
    if given is None and name not in known.NAMED:
        raise ArtifactError(
            f"distance must be given for a model with a distance of the user's own, {name!r}. "
            "Use load(path, distance=...)."
        )
    if given is not None and given.name != name:
        raise ArtifactError(
            f"distance must be the one the model was made with, {name!r}, got {given.name!r}."
        )
    return known.by_name(name) if given is None else given


def _rules(calibrations: Mapping[str, Calibration], given: Mapping[str, Rule]) -> dict[str, Rule]:
    for made in calibrations.values():
        if made.rule not in RULES and made.rule != PAIRS and made.rule not in given:
            raise ArtifactError(
                f"rules must hold {made.rule!r}, a rule of the user's own that the model was "
                f"calibrated for, got {', '.join(sorted(given)) or 'none'}. "
                f"Use load(path, rules={{{made.rule!r}: ...}})."
            )
    return dict(given)


def _index(folder: Folder, distance: Distance) -> Index:
    embeddings, labels = _tensors(
        folder, "index.safetensors", embeddings=(torch.float32, 2), labels=(torch.int64, 1)
    )
    try:
        state = msgspec.convert(json.loads(folder.part("index.json", LARGEST_TEXT)), _Index)
    except (ValueError, RecursionError) as error:
        raise damaged(folder.path, "index.json") from error
    values = {"embeddings": embeddings, "labels": labels, **msgspec.structs.asdict(state)}
    return Index.from_state(distance, values)


def _tensors(folder: Folder, name: str, **kinds: tuple[torch.dtype, int]) -> list[Tensor]:
    """The tensors of a part, each of its type and its number of dimensions."""
    found = rebuilding.unpacked(folder.part(name, LARGEST_TENSORS))
    if found.keys() != kinds.keys() or any(
        (found[key].dtype, found[key].ndim) != kind for key, kind in kinds.items()
    ):
        raise damaged(folder.path, name)
    return [found[key] for key in kinds]


def _relative(place: str, folder: Path) -> str | None:
    try:
        return Path(os.path.relpath(place, os.path.realpath(folder))).as_posix()
    except ValueError:  # on another drive
        return None


def _changed(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"path must be a folder in which others have not changed the same, got {str(folder)!r}, "
        f"in which {what} was changed since this model was loaded or saved. Load it again and "
        "repeat the change, or save to another folder."
    )
