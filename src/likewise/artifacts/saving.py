"""What stands in the folder of a saved model, written and read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import nn

import likewise
from likewise import data as sources
from likewise import distances as known
from likewise.artifacts.folders import damaged, read_folder, write_folder
from likewise.calibration import Calibration
from likewise.distances import Distance
from likewise.encoders import Backbone, ConvEncoder, MLPEncoder
from likewise.errors import ArtifactError
from likewise.index import Index
from likewise.probability import Probability

if TYPE_CHECKING:
    from likewise.artifacts.model import SimilarityModel

REBUILT = {encoder.__name__: encoder for encoder in (Backbone, ConvEncoder, MLPEncoder)}


def save(model: "SimilarityModel", path: str | Path) -> Path:
    """Write the model into a folder, all or nothing; the folder.

    Items in a gallery stay there: the folder only tells where it is.

    An older model there is replaced in one step at the very end, so that a full disk or a
    crash leaves it as it was. Nothing is pickled.

    Raises:
        ArtifactError: the folder holds something else, or cannot be written.
    """
    # What is in a gallery is on disk already.
    kept = model.index if isinstance(model.index, Index) else Index(model.distance)
    state = kept.state()
    state["ids"] = state["ids"].tolist()
    tensors = {name: state.pop(name).contiguous() for name in ("embeddings", "labels")}
    weights = {name: weight.contiguous() for name, weight in model.encoder.state_dict().items()}
    manifest = {
        "likewise": likewise.__version__,
        "encoder": {
            "class": type(model.encoder).__name__,
            "config": getattr(model.encoder, "config", None),
        },
        "distance": model.distance.name,
        "preprocess": None if model.preprocess is None else model.preprocess.to_dict(),
        "trained_on": model.trained_on,
        "origin": model.origin,
        "calibrations": {rule: made.to_dict() for rule, made in model.calibrations.items()},
        "probabilities": {point: made.to_dict() for point, made in model.probabilities.items()},
        "gallery": model.gallery,
    }
    parts = {
        "encoder.safetensors": safetensors.torch.save(weights),
        "index.safetensors": safetensors.torch.save(
            {**tensors, "trained": model.trained_prints, "calibrated": model.calibrated_prints}
        ),
        "index.json": json.dumps(state).encode(),
    }
    write_folder(Path(path), manifest, parts)
    return Path(path)


def load(
    path: str | Path, *, encoder: nn.Module | None = None, distance: Distance | None = None
) -> "SimilarityModel":
    """The model that `SimilarityModel.save` wrote into a folder.

    Its embeddings are bit-equal to those of the model that was saved. Encoders and distances of
    this library are rebuilt; no code from the folder is ever run.

    Args:
        path: the folder.
        encoder: a module of the architecture that was saved, if it is not one of this library's;
            it receives the saved weights.
        distance: the distance that was used, if it is not one of this library's.

    Raises:
        ArtifactError: the folder is no model, is damaged, was written by a newer likewise, or
            needs an encoder or a distance that was not given.
    """
    # The model calls `save`, so it can be imported only once both modules are there.
    from likewise.artifacts.model import SimilarityModel

    folder = Path(path)
    manifest, parts = read_folder(folder)
    try:
        weights = safetensors.torch.load(parts["encoder.safetensors"])
        tensors = safetensors.torch.load(parts["index.safetensors"])
        model = SimilarityModel(
            _rebuilt(manifest["encoder"], encoder),
            distance=_distance(manifest["distance"], distance),
            preprocess=manifest["preprocess"]
            and sources.Preprocess.from_dict(manifest["preprocess"]),
            origin=manifest["origin"],
        )
        model.trained_on = manifest["trained_on"]
        model.trained_prints = tensors.pop("trained")
        model.calibrated_prints = tensors.pop("calibrated")
        model.index = Index.from_state(model.distance, tensors | json.loads(parts["index.json"]))
        model.calibrations = {
            rule: Calibration.from_dict(made) for rule, made in manifest["calibrations"].items()
        }
        model.probabilities = {
            point: Probability.from_dict(made) for point, made in manifest["probabilities"].items()
        }
        model.gallery = manifest["gallery"]
    except ArtifactError:
        raise
    except ImportError as error:  # a backbone without timm
        raise ArtifactError(str(error)) from error
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise damaged(folder, "a description") from error
    try:
        model.encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"encoder must be of the architecture that was saved in {str(folder)!r}, got "
            f"{type(model.encoder).__name__} with other weights. Build it with the same arguments."
        ) from error
    model.encoder.eval()
    return model


def _rebuilt(described: Mapping[str, Any], given: nn.Module | None) -> nn.Module:
    if given is not None:
        return given
    name = described["class"]
    if name not in REBUILT:
        raise ArtifactError(
            f"encoder must be given for a model with an encoder of the user's own, {name}. "
            "Use load(path, encoder=...) with a module of the same architecture."
        )
    return REBUILT[name](**described["config"])


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
