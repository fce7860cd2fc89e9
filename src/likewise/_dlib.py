"""dlib and the weights that a package brings for it: the extra "faces"."""

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from likewise.errors import MissingExtra

LANDMARKS = "shape_predictor_5_face_landmarks.dat"
NETWORK = "dlib_face_recognition_resnet_model_v1.dat"


@functools.cache
def dlib() -> Any:
    """The module.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module("dlib")
    except ModuleNotFoundError as error:
        raise _missing("dlib") from error


def weights_at(name: str) -> Path:
    """The file of some weights.

    Raises:
        MissingExtra: The package that brings it is not installed.
    """
    # Its __init__ needs a part of setuptools that is gone; only the files are wanted.
    found = importlib.util.find_spec("face_recognition_models")
    if found is None or not found.submodule_search_locations:
        raise _missing("face_recognition_models")
    return Path(found.submodule_search_locations[0]) / "models" / name


def _missing(module: str) -> MissingExtra:
    return MissingExtra(
        "dlib-bin and face-recognition-models must be installed for faces, got no module "
        f'{module!r}. Use pip install "likewise[faces]".'
    )
