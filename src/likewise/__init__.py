"""Similarity learning: train, index, calibrate, match, verify, evaluate.

The names below are loaded when first used, so that `import likewise` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from likewise import (
        augment,
        calibration,
        data,
        distances,
        drift,
        embedded,
        encoders,
        errors,
        evaluation,
        index,
        intervals,
        journeys,
        losses,
        masks,
        matching,
        metrics,
        miners,
        model,
        normalization,
        pages,
        plots,
        probability,
        runtime,
        samplers,
        service,
        sklearn,
        training,
        verification,
    )
    from likewise.calibration import (
        Calibration,
        at_least_precision,
        at_least_recall,
        at_most_false_accepts,
        balanced,
        best_accuracy,
        best_f1,
        calibrate,
        equal_error,
        least_cost,
    )
    from likewise.embedded import Embedded
    from likewise.encoders import encode
    from likewise.errors import ArtifactError, GalleryError, InputError
    from likewise.index import Gallery, Index, Neighbors
    from likewise.intervals import Estimate
    from likewise.journeys.export import export
    from likewise.journeys.hub import from_pretrained, push_to_hub
    from likewise.journeys.migrate import migrate
    from likewise.journeys.recipe import Recipe
    from likewise.journeys.train import train
    from likewise.journeys.wrap import wrap
    from likewise.matching import UNKNOWN, Matches, match
    from likewise.model import BatchEmbedder, SimilarityModel, embed, load
    from likewise.pages import report
    from likewise.plots import show
    from likewise.training import History, fit

__version__ = "1.0.0rc1"

__all__ = [
    "UNKNOWN",
    "ArtifactError",
    "BatchEmbedder",
    "Calibration",
    "Embedded",
    "Estimate",
    "Gallery",
    "GalleryError",
    "History",
    "Index",
    "InputError",
    "Matches",
    "Neighbors",
    "Recipe",
    "SimilarityModel",
    "at_least_precision",
    "at_least_recall",
    "at_most_false_accepts",
    "augment",
    "balanced",
    "best_accuracy",
    "best_f1",
    "calibrate",
    "calibration",
    "data",
    "distances",
    "drift",
    "embed",
    "embedded",
    "encode",
    "encoders",
    "equal_error",
    "errors",
    "evaluation",
    "export",
    "fit",
    "from_pretrained",
    "index",
    "intervals",
    "journeys",
    "least_cost",
    "load",
    "losses",
    "masks",
    "match",
    "matching",
    "metrics",
    "migrate",
    "miners",
    "model",
    "normalization",
    "pages",
    "plots",
    "probability",
    "push_to_hub",
    "report",
    "runtime",
    "samplers",
    "service",
    "show",
    "sklearn",
    "train",
    "training",
    "verification",
    "wrap",
]

_MODULE_OF = {  # the other names of __all__ are modules themselves
    "UNKNOWN": "matching",
    "ArtifactError": "errors",
    "BatchEmbedder": "model",
    "Calibration": "calibration",
    "Embedded": "embedded",
    "Estimate": "intervals",
    "Gallery": "index",
    "GalleryError": "errors",
    "History": "training",
    "Index": "index",
    "InputError": "errors",
    "Matches": "matching",
    "Neighbors": "index",
    "Recipe": "journeys.recipe",
    "SimilarityModel": "model",
    "at_least_precision": "calibration",
    "at_least_recall": "calibration",
    "at_most_false_accepts": "calibration",
    "balanced": "calibration",
    "best_accuracy": "calibration",
    "best_f1": "calibration",
    "calibrate": "calibration",
    "embed": "model",
    "encode": "encoders",
    "equal_error": "calibration",
    "export": "journeys.export",
    "fit": "training",
    "from_pretrained": "journeys.hub",
    "least_cost": "calibration",
    "load": "model",
    "match": "matching",
    "migrate": "journeys.migrate",
    "push_to_hub": "journeys.hub",
    "report": "pages",
    "show": "plots",
    "train": "journeys.train",
    "wrap": "journeys.wrap",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"likewise.{_MODULE_OF[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"likewise.{name}")
    raise AttributeError(f"module 'likewise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
