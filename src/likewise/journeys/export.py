"""`export`: a model as a folder that answers without torch, compared with the model first."""

import copy
import dataclasses
import importlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

import likewise
from likewise import _tables, data
from likewise._checks import check_choice, check_exists, check_folder_target, check_rate
from likewise._files import sync_folder
from likewise.calibration import Calibration
from likewise.data.parts import paths_of
from likewise.distances import NAMED
from likewise.embedded import Embedded
from likewise.encoders import SentenceEncoder, takes_texts
from likewise.errors import ArtifactError, InputError, InputTypeError, MissingExtra
from likewise.intervals import Estimate, binomial
from likewise.journeys.calibration_items import calibrated_on, pairs_of
from likewise.journeys.measuring import measured
from likewise.model import SimilarityModel, load
from likewise.model.embedding import opened
from likewise.model.rebuilding import unwrapped
from likewise.probability import Probability
from likewise.runtime import exported, votes
from likewise.runtime.loaded import PAIRS, Runtime
from likewise.runtime.loaded import load as load_exported

PRECISIONS = ("float32", "int8")
ALLOWED = {"float32": 0.0, "int8": 0.01}  # share of decisions that may change
MOST = 10_000  # items that are compared
CHUNK = 256
LARGEST_ENCODER = 1_900_000_000  # bytes; one file of ONNX holds 2 GB
CLOSE = 1e-3  # of the largest number of an embedding; float32 stays within 1e-5
ROUNDING = 1e-5  # of a threshold, or of 1: more than that is no rounding


@dataclass(frozen=True)
class PointParity:
    """An operating point, decided by the model and by what was exported.

    Attributes:
        decisions: Decisions that were compared.
        changed: How many differ.
        largest_difference: Largest difference of distances compared with the threshold.
        raised: What was added to the threshold, so that an item exactly at it stays accepted.
    """

    decisions: int
    changed: int
    largest_difference: float
    raised: float

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        return _tables.Table("Operating point", _tables.fields(self))


@dataclass(frozen=True)
class Parity:
    """How far an exported model answers as the model it was made from.

    Attributes:
        folder: Where it is.
        precision: "float32" or "int8".
        items: Items that were compared.
        largest_difference: Largest difference of the numbers of their embeddings.
        decisions: Decisions that were compared, at all operating points.
        changed: How many of them differ.
        share: Their share, with its interval.
        allowed: The share that was allowed.
        points: The same by operating point; "lookup" is the nearest known item's class, where
            no rule was calibrated.
    """

    folder: str
    precision: str
    items: int
    largest_difference: float
    decisions: int
    changed: int
    share: Estimate
    allowed: float
    points: dict[str, PointParity] = field(default_factory=dict)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [["", "decisions", "changed", "share", "distances differ by", "raised by"]]
        rows += [
            [
                name,
                f"{each.decisions:,}",
                f"{each.changed:,}",
                str(binomial(each.changed, each.decisions)),
                f"{each.largest_difference:.2g}",
                f"{each.raised:.2g}",
            ]
            for name, each in self.points.items()
        ]
        rows.append(["in all", f"{self.decisions:,}", f"{self.changed:,}", str(self.share), "", ""])
        title = (
            f"Export in {self.precision}: {self.items:,} items, embeddings differ by at most "
            f"{self.largest_difference:.2g}"
        )
        return _tables.Table(title, rows, headings=True)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        return {**fields, "share": self.share.to_dict()}


def export(
    model: SimilarityModel | str | Path,
    out: str | Path,
    items: Any = None,
    *,
    precision: str = "float32",
    allowed: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Write a model into a folder that `likewise.runtime.load` opens without torch.

    The folder holds the encoder with its normalization as ONNX, the known items, the thresholds,
    probabilities and class names. Before it appears, the model and the folder answer the same
    items. Where more decisions change than are allowed, nothing is written.

    A calibrated threshold is the distance of the last pair it accepts, so rounding alone could
    turn that pair. In float32 each threshold is therefore raised by twice the largest difference
    seen between the two ways of computing, some 1e-7; `parity.json` tells by how much.

    Args:
        model: A model, or the folder of a saved one.
        out: A new folder.
        items: Items to compare on, as the model takes them, best those of the calibration. Of
            more than 10,000 an even choice is compared. None for those that the model was
            calibrated on, in the data that it was trained on.
        precision: "float32", or "int8" for weights of 8 bits, quantized dynamically.
        allowed: Share of decisions that may change; 0 for float32 and 0.01 for int8 if None.
        progress: Called as progress(done, total) while comparing.

    Returns:
        What the comparison found.

    Raises:
        InputError: The model decides by what the runtime does not have (a distance or a rule of
            your own, approximate search), its encoder cannot be exported, or too many decisions
            change.
        ArtifactError: The folder is in use.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed; an encoder needs them.

    Example:
        >>> import tempfile
        >>> import likewise as lw, numpy as np
        >>> model = lw.SimilarityModel(None)
        >>> ids = model.add((np.eye(3, dtype="float32"), ["cat", "dog", "owl"]))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     made = export(model, f"{place}/exported", np.eye(3, dtype="float32"))
        >>> made.changed, made.decisions
        (0, 3)
    """
    check_choice("precision", precision, PRECISIONS)
    allowed = ALLOWED[precision] if allowed is None else allowed
    check_rate("allowed", allowed)
    folder = Path(out)
    place = folder.resolve()  # what "." and a link stand for
    _check_target(folder)
    if not isinstance(model, SimilarityModel):
        model = load(model, read_only=True)
    _check_can(model, precision)
    if isinstance(items, Embedded):
        raise InputTypeError(
            "items must be as the encoder takes them, got an Embedded. Give what it was made of."
        )
    source = opened(
        calibrated_on(model) if items is None else items, model.preprocess, model.encoder
    )
    asked = _Asked.of(model, source)
    part = place.with_name(f".{place.name}.{uuid4().hex}.part")
    part.mkdir()
    try:
        of_model = model.embedded(asked.for_model)
        manifest = _written(model, part, asked, of_model, precision)
        runtime = load_exported(part)
        embeddings = _embedded(runtime, asked.for_runtime, progress)
        points, raised = _compared(model, runtime, of_model, embeddings, precision)
        found = _parity(folder, precision, allowed, of_model, embeddings, points)
        _check_parity(found, of_model)
        manifest = msgspec.structs.replace(manifest, points=raised)
        (part / exported.MANIFEST).write_bytes(exported.sealed(manifest))
        (part / "parity.json").write_bytes(exported.described(found.to_dict()))
        _put(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for point in raised.values():
        if point.warning is not None:
            warnings.warn(point.warning, stacklevel=2)
    return found


@dataclass(frozen=True)
class _Asked:
    """The items that both are asked about, as each takes them, and the shape of one."""

    for_model: Any
    for_runtime: Any  # an array, a dataset, or a list of paths or texts
    item_shape: tuple[int, ...] | None

    @classmethod
    def of(cls, model: SimilarityModel, source: Any) -> "_Asked":
        rows = np.linspace(0, len(source) - 1, min(len(source), MOST)).round().astype(int)
        if not len(rows):
            raise InputError("items must hold at least one, got none.")
        if isinstance(source, Tensor):
            some = source[torch.from_numpy(rows)]
            return cls(some, some.numpy(force=True), tuple(some.shape[1:]))
        part = data.Subset(source, rows)
        if data.is_text(source):
            return cls(part, data.items(part), None)
        shape = tuple(int(side) for side in source.item_shape)
        paths = paths_of(part)
        if paths and model.preprocess is not None:  # both then read the files as the model does
            return cls(model.preprocess.files(paths), paths, shape)
        return cls(part, part, shape)


def _check_target(folder: Path) -> None:
    check_folder_target("out", folder)
    check_exists("folder of out", folder.parent)
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(
            f"must be a new folder, got {str(folder)!r}, which holds something. Choose another "
            "name, or remove it.",
            argument="out",
        )


def _check_can(model: SimilarityModel, precision: str) -> None:
    """Refuse what the runtime would decide otherwise."""
    if model.query_encoder is not None:
        raise InputError(
            "model must have one encoder to be exported, got two towers. Encode with torch, and "
            "export a model over the vectors."
        )
    if NAMED.get(model.distance.name) != model.distance:
        raise InputError(
            f"distance must be one of {', '.join(sorted(NAMED))} to be exported, got "
            f"{model.distance.name!r}, which is your own."
        )
    for name, made in model.calibrations.items():
        if made.rule not in (*votes.RULES, PAIRS):
            raise InputError(
                f"rule must be one of {', '.join(votes.RULES)} to be exported, got {made.rule!r} "
                f"of the operating point {name!r}."
            )
    if model.index.recall not in (None, 1):
        raise InputError(
            f"index must be searched exactly to be exported, got recall={model.index.recall}. "
            "Give Index or use_gallery recall=1, and calibrate again."
        )
    if not model.has_encoder:
        if precision != "float32":
            raise InputError(
                f"must be float32 for a model without an encoder, got {precision!r}.",
                argument="precision",
            )
        return
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtra(
                f"{package} must be installed to export an encoder, got no such module. "
                'Use pip install "likewise[export]".'
            ) from error
    size = sum(weight.numel() * 4 for weight in model.encoder.parameters())
    if size > LARGEST_ENCODER:
        raise InputError(
            f"encoder must have at most {LARGEST_ENCODER:,} bytes of weights to be exported, got "
            f"{size:,}. Use a smaller one."
        )


def _written(
    model: SimilarityModel, part: Path, asked: _Asked, of_model: Embedded, precision: str
) -> exported.Manifest:
    """Write all parts and a manifest with the thresholds as they are; the manifest."""
    state = model.index.state()
    embeddings = state["embeddings"].float().numpy(force=True)
    if not len(embeddings):
        embeddings = np.empty((0, of_model.embeddings.shape[1]), np.float32)
    ids = state["ids"].tolist()
    contents = {
        "embeddings.npy": exported.packed(embeddings),
        "labels.npy": exported.packed(state["labels"].numpy(force=True)),
        exported.METADATA: exported.described(exported.Stored(ids, list(state["metadata"]))),
    }
    tokens = None
    if model.norm is not None:
        contents["cohort.npy"] = exported.packed(model.norm.cohort.float().numpy(force=True))
    if model.has_encoder:
        plain = copy.deepcopy(unwrapped(model.encoder)).cpu().float().eval()
        if takes_texts(plain):
            sentence, after = _of_texts(plain)
            graph: nn.Module = _OfTokens(sentence, after)
            tokens = sentence.tokenizing
            contents[exported.TOKENIZER] = bytes(sentence.tokenizer_file.numpy())
            names = ["input_ids", "attention_mask", *["token_type_ids"] * tokens.uses_types]
            inputs = {name: torch.ones((3, 5), dtype=torch.int64) for name in names}
        else:
            graph = _OfNumbers(plain, model.preprocess)
            inputs = {"items": torch.rand(3, *(asked.item_shape or ()))}
        contents[exported.ENCODER] = _as_onnx(graph, inputs, part / exported.ENCODER, precision)
    frame = None if model.preprocess is None else model.preprocess.framing
    for name, content in contents.items():
        (part / name).write_bytes(content)
    manifest = exported.Manifest(
        format=exported.FORMAT,
        likewise=likewise.__version__,
        precision="int8" if precision == "int8" else "float32",
        encoder=model.fingerprint,
        item_shape=None if asked.item_shape is None else list(asked.item_shape),
        frame=None if frame is None else msgspec.convert(frame.to_dict(), exported.Frame),
        tokens=tokens,
        distance=model.distance.name,  # type: ignore[arg-type]  # checked before
        class_names=list(model.class_names),
        cohort=None if model.norm is None else model.norm.nearest,
        points={name: _point(model, name) for name in model.calibrations},
        files={name: exported.checksum(content) for name, content in contents.items()},
    )
    (part / exported.MANIFEST).write_bytes(exported.sealed(manifest))
    return manifest


def _point(model: SimilarityModel, name: str) -> exported.Point:
    made: Calibration = model.calibrations[name]
    own = model.class_thresholds.get(name)
    if own is not None:
        made = dataclasses.replace(made, guarantee=own.guarantee)
    chance = model.probabilities.get(name)
    return exported.Point(
        rule=made.rule,  # type: ignore[arg-type]  # checked before
        k=made.k,
        threshold=made.threshold,
        calibrated=made.threshold,
        goal=made.goal,
        measured=measured(made, made.guarantee, len(model.index)),
        warning=made.outgrown(len(model.index))
        if made.rule != PAIRS and len(model.index)
        else None,
        by_class={} if own is None else {str(c): t.threshold for c, t in own.classes.items()},
        chance=None if chance is None else _chance(chance),
    )


def _chance(probability: Probability) -> exported.Chance:
    fields: Mapping[str, Any] = probability.to_dict()
    kept = exported.Chance.__struct_fields__
    return msgspec.convert({name: fields[name] for name in kept}, exported.Chance)


class _OfNumbers(nn.Module):
    """Items (n, ...) in 0..1, or any numbers, to embeddings: the normalization and the encoder."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, preprocess: data.Preprocess | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalizes = preprocess is not None
        if preprocess is not None:
            shape = (1, -1, 1, 1) if len(preprocess.item_shape) == 3 else (-1,)
            self.register_buffer("mean", torch.tensor(preprocess.mean).view(shape))
            self.register_buffer("std", torch.tensor(preprocess.std).view(shape))

    def forward(self, items: Tensor) -> Tensor:
        """Embeddings (n, d)."""
        if self.normalizes:
            items = (items - self.mean) / self.std
        embeddings: Tensor = self.encoder(items)
        return embeddings.float()


class _OfTokens(nn.Module):
    """Tokens (n, l) to embeddings: a sentence encoder and what stands behind it."""

    def __init__(self, sentence: SentenceEncoder, after: list[nn.Module]) -> None:
        super().__init__()
        self.sentence = sentence
        self.after = nn.ModuleList(after)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Embeddings (n, d)."""
        embeddings = self.sentence.of_tokens(input_ids, attention_mask, token_type_ids)
        for layer in self.after:
            embeddings = layer(embeddings)
        return embeddings.float()


def _of_texts(encoder: nn.Module) -> tuple[SentenceEncoder, list[nn.Module]]:
    """The sentence encoder that an encoder begins with, and what stands behind it."""
    if isinstance(encoder, SentenceEncoder):
        return encoder, []
    if type(encoder) is nn.Sequential and len(encoder):
        sentence, after = _of_texts(encoder[0])
        return sentence, [*after, *list(encoder)[1:]]
    raise InputError(
        "encoder of texts must be a SentenceEncoder, alone or with layers behind it, to be "
        f"exported, got {type(encoder).__name__}. Encode elsewhere, and use the vectors."
    )


def _as_onnx(graph: nn.Module, inputs: dict[str, Tensor], path: Path, precision: str) -> bytes:
    """A module as ONNX with any number of items, and any length of tokens."""
    dynamic = {
        name: dict.fromkeys((0,) if name == "items" else (0, 1), torch.export.Dim.DYNAMIC)
        for name in inputs
    }
    with _quietly():
        try:
            torch.onnx.export(
                graph.eval(),
                (),
                str(path),
                kwargs=inputs,
                input_names=list(inputs),
                output_names=["embeddings"],
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0]
            encoder = getattr(graph, "encoder", graph)
            raise InputError(
                "encoder must be one that torch.onnx can export, with any number of items, got "
                f"{type(encoder).__name__}, which it cannot ({cause[:200]}). Encode with torch, "
                "and export a model over the vectors."
            ) from error
        if precision == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = path.with_suffix(".int8")
            # Unsigned, as the convolutions of ONNX Runtime on CPUs have no other.
            quantize_dynamic(str(path), str(small), weight_type=QuantType.QUInt8)
            os.replace(small, path)
    return path.read_bytes()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters of others say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _embedded(
    runtime: Runtime, items: Any, progress: Callable[[int, int], None] | None
) -> np.ndarray[Any, Any]:
    """Embeddings by the runtime, of the first item alone and of the others in parts."""
    is_plain = isinstance(items, (list, np.ndarray))
    parts, start = [], 0
    while start < len(items):
        end = 1 if start == 0 else min(start + CHUNK, len(items))
        some = items[start:end] if is_plain else data.items(items, range(start, end)).numpy()
        parts.append(runtime.embed(some))
        start = end
        if progress is not None:
            progress(start, len(items))
    return np.concatenate(parts)


def _compared(
    model: SimilarityModel,
    runtime: Runtime,
    of_model: Embedded,
    embeddings: np.ndarray[Any, Any],
    precision: str,
) -> tuple[dict[str, PointParity], dict[str, exported.Point]]:
    """Every operating point decided twice, and the points with their thresholds raised."""
    found, points = {}, dict(runtime.points)
    pairs = pairs_of(of_model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a guarantee outgrown it is told once, at the end
        for name, point in runtime.points.items():
            is_pairs = point.rule == PAIRS

            def asked(name: str = name, is_pairs: bool = is_pairs) -> Any:
                if is_pairs:
                    left, right = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
                    return runtime.verify_embedded(left, right, point=name)
                return runtime.match_embedded(embeddings, point=name)

            if is_pairs:
                sides = [of_model.take(torch.from_numpy(side)) for side in pairs.T]
                truth: Any = model.verify(*sides, point=name)
            else:
                truth = model.match(of_model, point=name)
            ours = truth.distances.numpy(force=True).astype(np.float64)
            decided = asked()
            theirs = decided.distances.astype(np.float64)
            both = np.isfinite(ours) & np.isfinite(theirs)
            difference = float(np.abs(ours - theirs)[both].max(initial=0))
            raised = 0.0
            if precision == "float32":
                raised = min(2 * difference, ROUNDING * max(1.0, abs(point.threshold)))
            if raised:
                points[name] = msgspec.structs.replace(
                    point,
                    threshold=point.threshold + raised,
                    by_class={code: limit + raised for code, limit in point.by_class.items()},
                )
                runtime.points = points
                decided = asked()
            before = (truth.same if is_pairs else truth.labels).numpy(force=True)
            changed = int((before != (decided.same if is_pairs else decided.labels)).sum())
            found[name] = PointParity(len(before), changed, difference, raised)
        if len(model.index) and all(point.rule == PAIRS for point in points.values()):
            nearest = model.lookup(of_model, k=1)
            theirs = runtime.lookup_embedded(embeddings, k=1)
            changed = int((nearest.labels.numpy() != theirs.labels).sum())
            difference = float(np.abs(nearest.distances.numpy() - theirs.distances).max())
            found["lookup"] = PointParity(len(embeddings), changed, difference, 0.0)
    return found, points


def _parity(
    folder: Path,
    precision: str,
    allowed: float,
    of_model: Embedded,
    embeddings: np.ndarray[Any, Any],
    points: dict[str, PointParity],
) -> Parity:
    decisions = sum(each.decisions for each in points.values())
    changed = sum(each.changed for each in points.values())
    return Parity(
        folder=str(folder),
        precision=precision,
        items=len(of_model),
        largest_difference=float(np.abs(of_model.embeddings.numpy() - embeddings).max(initial=0)),
        decisions=decisions,
        changed=changed,
        share=binomial(changed, decisions),
        allowed=allowed,
        points=points,
    )


def _check_parity(found: Parity, of_model: Embedded) -> None:
    if found.changed > found.allowed * found.decisions:
        raise InputError(
            f"exported model must change at most {found.allowed:.2%} of the decisions, got "
            f"{found.changed} of {found.decisions:,} changed. Nothing was written.",
            remedy="Allow more with allowed=, or use precision='float32'.",
            command="Allow more with --allow, or use --precision float32.",
        )
    largest = float(of_model.embeddings.abs().max())
    if found.precision == "float32" and not found.largest_difference <= CLOSE * largest:
        raise InputError(
            "exported encoder must give the embeddings of the model, got one that differs by "
            f"{found.largest_difference:.3g}. Nothing was written; encode with torch."
        )


def _put(part: Path, folder: Path) -> None:
    """Give the whole folder its name, in one step."""
    for file in part.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    sync_folder(part)
    if folder.exists():
        folder.rmdir()
    os.rename(part, folder)
    sync_folder(folder.parent)
