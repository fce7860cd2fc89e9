"""`BatchEmbedder`: a saved model as a function of a batch, for Ray, Spark and Dask."""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likewise import data as sources
from likewise._devices import chosen_device
from likewise._files import read_regular
from likewise.data.attempts import sentence_of
from likewise.data.images import decode_image, pixels_of
from likewise.embedded import Embedded
from likewise.encoders import takes_texts
from likewise.errors import ArtifactError, InputError, InputTypeError
from likewise.model.rebuilding import embedding_fingerprint
from likewise.model.similarity_model import SimilarityModel, load

COLUMN = "item"
MANIFEST = "model.json"

_NUMBERS = {
    *map(np.dtype, ("f2", "f4", "f8", "u1", "i1", "i2", "i4", "i8", "?")),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64),
}

# One model for each folder in a process, however many copies of its embedder come by pickle.
_loaded: dict[tuple[str, str, str], SimilarityModel] = {}
_loading = threading.Lock()


class BatchEmbedder:
    """Embeddings of a batch of arrays, by a saved model; it can be pickled.

    What is pickled is the path alone, with the checksum of the model there. Each process loads the
    model once, when it is first called, and refuses another one that has taken its place.

    A batch is a dict of arrays, as `ray.data` gives it; then column `item` is taken out and three
    are added: embedding (n, d) float32, fingerprint (n,) int64 and error (n,), "" for none. An item
    that cannot be read has its sentence there, and NaN for an embedding. All other columns stay.

    A batch may also be the items alone, as an array or a list; then the embeddings come back, and
    an item that cannot be read is refused.

    Items are numbers (n, ...), the bytes of image files, arrays of images of any size (uint8), or
    strings: texts for an encoder of texts, and else image files.

    Args:
        path: Folder of a saved model, where every process can read it.
        column: The column with the items.
        queries: Side of two towers; see `SimilarityModel.embed`.
        device: Name, such as "cuda:1"; the GPU, else the CPU, of the process that embeds if None.

    Attributes:
        fingerprint: Fingerprint of encoder and preprocessing, as parts of `likewise embed` have it.

    Raises:
        ArtifactError: there is no model; when called, also that it is another one now.
        InputError: when called: the batch has no such column.

    Example:
        >>> import copy, tempfile
        >>> import likewise as lw
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = lw.SimilarityModel(lw.encoders.MLPEncoder((4,), embedding_dim=8)).save(folder.name)
        >>> embedder = copy.deepcopy(BatchEmbedder(folder.name))  # as Ray sends one
        >>> embedder(np.zeros((3, 4))).shape
        (3, 8)
        >>> found = embedder({"item": np.zeros((3, 4)), "name": np.array(["a", "b", "c"])})
        >>> sorted(found)
        ['embedding', 'error', 'fingerprint', 'name']
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | Path,
        *,
        column: str = COLUMN,
        queries: bool = False,
        device: str | None = None,
    ) -> None:
        self.path = os.path.realpath(path)
        self.column = column
        self.queries = queries
        self.device = device
        self._sha256 = _sha256(self.path)

    def __call__(self, batch: Any) -> Any:
        """The batch with its embeddings, or the embeddings of items alone."""
        model = self._model()
        if not isinstance(batch, Mapping):
            found, errors = self._embedded(model, batch)
            if refused := next(filter(None, errors), None):
                raise InputError(refused)
            return found.embeddings.numpy()
        if self.column not in batch:
            raise InputError(
                f"batch must have the column {self.column!r}, got {', '.join(map(str, batch))}. "
                "Give BatchEmbedder(path, column=...)."
            )
        found, errors = self._embedded(model, batch[self.column])
        good = np.array([not error for error in errors], dtype=bool)
        width = found.embeddings.shape[1]
        embeddings = np.full((len(errors), width), np.nan, dtype=np.float32)
        prints = np.zeros(len(errors), dtype=np.int64)
        embeddings[good], prints[good] = found.embeddings.numpy(), found.fingerprints.numpy()
        rest = {name: values for name, values in batch.items() if name != self.column}
        return {
            **rest,
            "embedding": embeddings,
            "fingerprint": prints,
            "error": np.array(errors, dtype=str),
        }

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder and the preprocessing."""
        return embedding_fingerprint(*self._model().tower(queries=self.queries))

    def _embedded(self, model: SimilarityModel, values: Any) -> tuple[Embedded, list[str]]:
        """The items that could be read, embedded, and for each item its sentence, or ""."""
        if not len(values):
            return _nothing(model, self.queries), []
        encoder, preprocess = model.tower(queries=self.queries)
        of_texts = takes_texts(encoder)
        plain = isinstance(values, (np.ndarray, Tensor)) and values.dtype in _NUMBERS
        if plain or of_texts:
            try:
                items = list(map(str, values)) if of_texts else _own(values)
                return model.embedded(items, queries=self.queries), [""] * len(values)
            except InputError:
                if of_texts:
                    raise
        # One after another, as one of them may be the reason.
        errors, made = [], []
        shape = None if preprocess is None else tuple(preprocess.item_shape)
        waiting: list[Tensor] = []
        for value in values:
            try:
                item = _item(value, preprocess)
                shape = shape or tuple(item.shape)
                if tuple(item.shape) != shape:
                    raise InputError(
                        f"items must have shape {shape}, got {tuple(item.shape)}. Resize them."
                    )
                if plain:
                    made.append(model.embedded(item[None], queries=self.queries))
                else:
                    waiting.append(item)
                errors.append("")
            except (InputError, OSError) as error:
                errors.append(sentence_of(error))
        if waiting:
            made = [model.embedded(torch.stack(waiting), queries=self.queries)]
        if not made:
            if len(values) > 1:
                raise InputError(errors[0])
            return _nothing(model, self.queries), errors
        return _joined(made), errors

    def _model(self) -> SimilarityModel:
        device = chosen_device(self.device)
        key = (self.path, self._sha256, device)
        with _loading:
            if key not in _loaded:
                if _sha256(self.path) != self._sha256:
                    raise ArtifactError(
                        f"path must hold the model that it held, got {self.path!r}, where another "
                        "has taken its place. Make a new BatchEmbedder."
                    )
                model = load(self.path, read_only=True)
                model.index.close()  # nothing is looked up
                for encoder in (model.encoder, model.query_encoder):
                    if encoder is not None:
                        encoder.to(device)
                _loaded[key] = model
            return _loaded[key]


def _sha256(path: str) -> str:
    try:
        return hashlib.sha256(read_regular(Path(path) / MANIFEST)).hexdigest()
    except OSError as error:
        raise ArtifactError(
            f"path must be the folder of a saved model, got {path!r}. Save one with model.save."
        ) from error


def _own(values: np.ndarray[Any, Any] | Tensor) -> Any:
    """The same, in memory that torch may share; Ray's is read-only."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        return values.copy()
    return values


def _item(value: Any, preprocess: sources.Preprocess | None) -> Tensor:
    """One item as numbers of the shape that the encoder takes."""
    if not isinstance(value, (bytes, bytearray, str, np.ndarray, Sequence)):
        raise InputTypeError(
            f"items must be arrays, bytes of image files or strings, got {type(value).__name__}."
        )
    if not isinstance(value, (bytes, bytearray, str)):
        array = np.asarray(value)
        is_image = array.dtype == np.uint8 and array.ndim in (2, 3)
        if is_image and preprocess is not None and len(preprocess.item_shape) == 3:
            if array.shape != tuple(preprocess.item_shape):
                return pixels_of(Image.fromarray(array), **_size(preprocess))
            return torch.from_numpy(_own(array)).float() / 255
        return torch.as_tensor(_own(array), dtype=torch.float32)
    if preprocess is None or len(preprocess.item_shape) != 3:
        raise InputError(
            f"items must be numbers for this model, got {type(value).__name__}, as of images."
        )
    if isinstance(value, str):
        return sources.items(preprocess.files([value]))[0]  # type: ignore[no-any-return]
    return decode_image(bytes(value), "item of the batch", **_size(preprocess))


def _size(preprocess: sources.Preprocess) -> dict[str, Any]:
    channels, height, width = preprocess.item_shape
    return {"channels": channels, "image_size": preprocess.framing or (height, width)}


def _nothing(model: SimilarityModel, queries: bool) -> Embedded:
    """No items, whose embeddings are as wide as any."""
    encoder, preprocess = model.tower(queries=queries)
    width = getattr(encoder, "embedding_dim", None) or model.index.dimension
    if width is None and preprocess is not None:
        width = model.embed(torch.zeros(1, *preprocess.item_shape), queries=queries).shape[1]
    none = torch.empty(0, dtype=torch.int64)
    return Embedded(torch.empty(0, width or 0), none, [], none, none)


def _joined(made: list[Embedded]) -> Embedded:
    embeddings, prints = (
        torch.cat([getattr(each, name) for each in made]) for name in ("embeddings", "fingerprints")
    )
    rows = torch.arange(len(prints))
    return Embedded(embeddings, torch.full_like(rows, -1), [], prints, rows)
