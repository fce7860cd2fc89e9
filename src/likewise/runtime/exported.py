"""The folder of an exported model: what stands in it, written once and read with care."""

import hashlib
import io
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from likewise._arguments import check_format
from likewise._files import read_regular
from likewise._tokens import Tokenizing
from likewise.errors import ArtifactError, InputError
from likewise.runtime.measured import Measured

FORMAT = 2
MANIFEST = "export.json"
ENCODER, TOKENIZER, METADATA = "encoder.onnx", "tokenizer.json", "items.json"
_Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
_Distance = Literal["cosine", "euclidean", "inner_product", "manhattan", "snr", "squared_euclidean"]


class Frame(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How image files are brought to one size; see `data.Framing`."""

    height: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    width: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    crop: Annotated[float, msgspec.Meta(gt=0, le=1)]
    mode: Literal["squash", "center", "border"]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    fill: Annotated[list[float], msgspec.Meta(min_length=1, max_length=1 << 10)]


class Chance(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The probability by the distance; see `likewise.probability.Probability`."""

    method: Literal["logistic", "isotonic"]
    prior: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    distances: Annotated[list[float], msgspec.Meta(min_length=1)]
    log_likelihood_ratios: list[float]


class Point(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An operating point: a rule and what it accepts.

    `calibrated` is the threshold as it was calibrated, and `threshold` the one that is used, which
    lies above it by as much as the two ways of computing differ.
    """

    rule: Literal["center", "majority", "nearest", "weighted", "pairs"]
    k: _Size | None
    threshold: float
    calibrated: float
    goal: str
    measured: Measured
    warning: str | None  # where the gallery has outgrown the guarantee
    by_class: dict[str, float] = {}
    chance: Chance | None = None


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All that is no array."""

    format: int
    likewise: str
    precision: Literal["float32", "int8"]
    encoder: str | None  # its fingerprint; None where items are embeddings already
    item_shape: list[_Size] | None  # None for texts
    frame: Frame | None
    tokens: Tokenizing | None
    distance: _Distance
    class_names: list[str]
    cohort: Annotated[int, msgspec.Meta(ge=2)] | None
    points: dict[str, Point]
    files: dict[str, str]  # the SHA-256 of each


class Stored(msgspec.Struct, forbid_unknown_fields=True):
    """Ids and metadata of the known items."""

    ids: list[int | str]
    metadata: list[dict[str, Any]]


def described(content: Any) -> bytes:
    """Plain values, or a struct, as JSON to read."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1)


def sealed(manifest: Manifest) -> bytes:
    """A manifest as JSON to read, with the checksum of all that it says."""
    whole = msgspec.json.decode(msgspec.json.encode(manifest))  # as a reader will find it
    return described({"checksum": _checksum_of(whole), **whole})


def packed(array: npt.NDArray[Any]) -> bytes:
    """An array as an .npy, without pickles."""
    written = io.BytesIO()
    np.save(written, np.ascontiguousarray(array), allow_pickle=False)
    return written.getvalue()


def _checksum_of(manifest: dict[str, Any]) -> str:
    return checksum(msgspec.json.encode(manifest, order="sorted"))


def checksum(content: bytes) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def is_exported(folder: str | Path) -> bool:
    """Whether a folder says that it is an exported model, whole or not."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """What the folder says of itself.

    Raises:
        ArtifactError: it is no exported model, or one of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"must be the folder of an exported model, got {str(folder)!r}, which holds no "
            f"{MANIFEST}. Make one with likewise export.",
            argument="folder",
        )
    content = read_regular(path)
    try:
        written = msgspec.json.decode(content)
        if isinstance(written, dict):
            check_format(f"exported model {str(folder)!r}", written.get("format"), FORMAT)
            if written.pop("checksum", None) != _checksum_of(written):
                raise damaged(folder, MANIFEST)
        return msgspec.convert(written, Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(folder, MANIFEST) from error


def read_part(folder: Path, manifest: Manifest, name: str) -> bytes:
    """A file of the folder, which must be the one that was written."""
    try:
        content = read_regular(folder / name)
    except (OSError, InputError) as error:
        raise damaged(folder, name) from error
    if checksum(content) != manifest.files.get(name):
        raise damaged(folder, name)
    return content


def read_array(folder: Path, manifest: Manifest, name: str, kind: type) -> npt.NDArray[Any]:
    """An array of the folder, of float32 (n, d) or int64 (n,)."""
    content = read_part(folder, manifest, name)
    try:
        array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise damaged(folder, name) from error
    if array.dtype != kind or array.ndim != (2 if kind is np.float32 else 1):
        raise damaged(folder, name)
    return array


def read_stored(folder: Path, manifest: Manifest) -> Stored:
    """The ids and the metadata of the folder."""
    try:
        return msgspec.json.decode(read_part(folder, manifest, METADATA), type=Stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(folder, METADATA) from error


def damaged(folder: Path, name: str) -> ArtifactError:
    """What is said of a folder of which a file is not as it was written."""
    return ArtifactError(
        f"exported model {str(folder)!r} must be whole, got one whose {name} is missing, changed "
        "or cut off. Export it again."
    )
