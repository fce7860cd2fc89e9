"""`load`: an exported model, opened to answer match, verify and lookup."""

import importlib
import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from likewise._arguments import check_choice, check_count
from likewise._tokens import Tokenizing, as_texts, opened_tokenizer, token_batches
from likewise.errors import ArtifactError, InputError, InputTypeError, MissingExtra
from likewise.runtime import vectors, votes
from likewise.runtime.answers import (
    UNKNOWN,
    Codes,
    Matches,
    Neighbors,
    Numbers,
    Verified,
    Wide,
)
from likewise.runtime.exported import (
    ENCODER,
    TOKENIZER,
    Chance,
    Manifest,
    Point,
    damaged,
    read_array,
    read_manifest,
    read_part,
    read_stored,
)
from likewise.runtime.inputs import batches

PAIRS = "pairs"


def load(folder: str | Path, *, threads: int | None = None) -> "Runtime":
    """The model that `likewise.export` wrote into a folder, without torch.

    Args:
        folder: The folder.
        threads: Threads that encode; by default as many as there are cores.

    Raises:
        ArtifactError: it is no exported model, is damaged, or another version wrote it.
        MissingExtra: ONNX Runtime, or for texts tokenizers, is not installed.

    Example:
        >>> import tempfile
        >>> import likewise as lw, numpy as np
        >>> model = lw.SimilarityModel(None)
        >>> ids = model.add((np.eye(3, dtype="float32"), ["cat", "dog", "owl"]))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     made = lw.export(model, f"{place}/exported", np.eye(3, dtype="float32"))
        ...     runtime = lw.runtime.load(f"{place}/exported")
        >>> runtime.match([[0.9, 0.1, 0.0]], threshold=0.1).names
        ['cat']
    """
    if threads is not None:
        check_count("threads", threads)
    place = Path(folder)
    manifest = read_manifest(place)
    embeddings = read_array(place, manifest, "embeddings.npy", np.float32)
    labels = read_array(place, manifest, "labels.npy", np.int64)
    stored = read_stored(place, manifest)
    if not len(embeddings) == len(labels) == len(stored.ids) == len(stored.metadata):
        raise damaged(place, "list of items")
    cohort = None
    if manifest.cohort is not None:
        of_cohort = read_array(place, manifest, "cohort.npy", np.float32)
        if len(of_cohort) < manifest.cohort:
            raise damaged(place, "cohort.npy")
        cohort = vectors.Cohort(of_cohort, manifest.cohort)
    session = tokenizer = None
    if manifest.encoder is not None:
        session = _session(read_part(place, manifest, ENCODER), threads)
    if manifest.tokens is not None:
        content = read_part(place, manifest, TOKENIZER)
        tokenizer = opened_tokenizer(content, manifest.tokens.max_length)
    return Runtime(
        manifest,
        embeddings=embeddings,
        labels=labels,
        ids=np.array(stored.ids, dtype=None if stored.ids else np.int64),
        metadata=stored.metadata,
        cohort=cohort,
        session=session,
        tokenizer=tokenizer,
    )


class Runtime:
    """An exported model: `match`, `verify` and `lookup` as those of `SimilarityModel`.

    `load` makes it. It may be used by several threads at once. Nothing of it can be changed:
    items are added, and thresholds chosen, with the model, which is then exported again.

    Attributes:
        manifest: All that the folder says of itself.
        embeddings: Embeddings of the known items, (n, d).
        labels: Their class codes, (n,).
        ids: Their ids, (n,).
        metadata: Their metadata, by id.
        class_names: Names of the class codes.
        points: The operating points by name.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        embeddings: Numbers,
        labels: Codes,
        ids: np.ndarray[Any, Any],
        metadata: list[dict[str, Any]],
        cohort: vectors.Cohort | None,
        session: Any,
        tokenizer: Any,
    ) -> None:
        self.manifest = manifest
        self.embeddings, self.labels, self.ids = embeddings, labels, ids
        self.class_names = list(manifest.class_names)
        self.points = dict(manifest.points)
        self.metadata = dict(zip(ids.tolist(), metadata, strict=True))
        self._cohort, self._session, self._tokenizer = cohort, session, tokenizer

    def __repr__(self) -> str:
        points = ", ".join(self.points) or "none"
        return f"Runtime: {len(self.labels):,} known items, operating points: {points}"

    def embed(self, items: Any) -> Numbers:
        """Embeddings (n, d), float32, of numbers, images, image files or texts.

        Args:
            items: What the encoder takes: an array (n, ...) or lists of numbers; Pillow images,
                paths or the bytes of image files; or a list of texts. One item of the right shape
                is taken too.
        """
        manifest = self.manifest
        if manifest.tokens is not None:
            return self._embedded_texts(items, manifest.tokens)
        parts = [np.empty((0, self.embeddings.shape[1]), np.float32)]
        for batch in batches(items, manifest.item_shape or (), manifest.frame):
            found = batch if self._session is None else self._run({"items": batch})
            parts.append(found)
        return np.concatenate(parts[1:] or parts)

    def lookup(self, items: Any, *, k: int = 5) -> Neighbors:
        """The k nearest known items of each item, nearest first."""
        return self.lookup_embedded(self.embed(items), k=k)

    def match(
        self,
        items: Any,
        *,
        point: str = "nearest",
        threshold: float | None = None,
        rule: str = "nearest",
        k: int = 1,
    ) -> Matches:
        """Which class each item is, or UNKNOWN, at an operating point or by a threshold.

        Args:
            items: Items; see `embed`.
            point: An operating point, by its name; it brings its rule and k.
            threshold: Used instead of an operating point.
            rule: How neighbors decide under a threshold: nearest, majority, weighted or center.
            k: How many decide under a threshold.
        """
        bound = self._bound(point, threshold)  # refuses before the work rather than after it
        if isinstance(bound, Point) and bound.warning is not None:
            warnings.warn(bound.warning, stacklevel=2)
        return self.match_embedded(
            self.embed(items), point=point, threshold=threshold, rule=rule, k=k
        )

    def verify(
        self,
        a: Any,
        b: Any,
        *,
        point: str = PAIRS,
        threshold: float | None = None,
        prior: float | None = None,
    ) -> Verified:
        """Whether a[i] and b[i] are the same, by a threshold or else by an operating point.

        Args:
            a: Items of one side; see `embed`.
            b: The other sides, as many.
            point: An operating point for pairs, by its name.
            threshold: Used instead of it.
            prior: Share of such pairs that are the same, for the probabilities; that of the
                calibration if None.
        """
        self._bound(point, threshold)
        return self.verify_embedded(
            self.embed(a), self.embed(b), point=point, threshold=threshold, prior=prior
        )

    def lookup_embedded(self, embeddings: Numbers, *, k: int = 5) -> Neighbors:
        """As `lookup`, of embeddings (q, d) that `embed` made."""
        return self._neighbors(embeddings, self.embeddings, self.labels, self.ids, k)

    def match_embedded(
        self,
        embeddings: Numbers,
        *,
        point: str = "nearest",
        threshold: float | None = None,
        rule: str = "nearest",
        k: int = 1,
    ) -> Matches:
        """As `match`, of embeddings (q, d) that `embed` made; a guarantee outgrown is not told."""
        bound = self._bound(point, threshold)
        made = bound if isinstance(bound, Point) else None
        if made is not None:
            if made.rule == PAIRS:
                raise InputError(
                    f"must be one for matching, got {point!r}, for pairs.", argument="point"
                )
            rule, k = made.rule, made.k or k
        check_choice("rule", rule, votes.RULES)
        neighbors = self._deciding(embeddings, rule, k)
        labels, distances = votes.decided(rule, neighbors.labels, neighbors.distances)
        limit = bound.threshold if isinstance(bound, Point) else bound
        limits = None
        if made is not None and made.by_class:
            limits = np.array(
                [made.by_class.get(str(code), limit) for code in labels.tolist()], np.float64
            )
        chances = None
        if made is not None and made.chance is not None:
            voted = labels != UNKNOWN
            chances = np.zeros(len(labels))
            chances[voted] = _probability(made.chance, distances[voted], made.chance.prior)
        # In float64: comparing float32 with a number would first round that number to float32.
        accepted = distances.astype(np.float64) <= (limit if limits is None else limits)
        return Matches(
            np.where(accepted, labels, UNKNOWN), distances, neighbors, limit, rule, limits, chances
        )

    def verify_embedded(
        self,
        a: Numbers,
        b: Numbers,
        *,
        point: str = PAIRS,
        threshold: float | None = None,
        prior: float | None = None,
    ) -> Verified:
        """As `verify`, of embeddings (n, d) that `embed` made."""
        bound = self._bound(point, threshold)
        made = bound if isinstance(bound, Point) else self.points.get(point)
        if made is not None and made.rule != PAIRS:
            raise InputError(
                f"must be one for pairs, got {point!r}, for {made.rule}.", argument="point"
            )
        if len(a) != len(b):
            raise InputError(f"b must hold as many items as a, {len(a)}, got {len(b)}.")
        if prior is not None and not 0 < prior < 1:
            raise InputError(f"must be above 0 and below 1, got {prior}.", argument="prior")
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)  # as a model's embeddings are
        far = vectors.paired(self.manifest.distance, a, b)
        if self._cohort is not None:
            of_a = vectors.facts(self.manifest.distance, self._cohort, a)
            of_b = vectors.facts(self.manifest.distance, self._cohort, b, second=True)
            far = vectors.normalized(far, of_a, of_b)
        distances = far.astype(np.float32)
        limit = bound.threshold if isinstance(bound, Point) else bound
        chances = None
        if made is not None and made.chance is not None:
            chances = _probability(made.chance, distances, prior or made.chance.prior)
        return Verified(distances, distances.astype(np.float64) <= limit, limit, chances)

    def _deciding(self, embeddings: Numbers, rule: str, k: int) -> Neighbors:
        """What a rule decides by, their distances normalized where there is a cohort."""
        if rule == "center":
            rows, codes = self._centers
            return self._neighbors(embeddings, rows, codes, codes, k, norm=self._cohort)
        return self._neighbors(
            embeddings, self.embeddings, self.labels, self.ids, k, norm=self._cohort
        )

    @property
    def dimension(self) -> int | None:
        """Length of an embedding; None for a model over vectors that knows no item."""
        width = self.embeddings.shape[1]
        return width if len(self.embeddings) or width else None

    @cached_property
    def _prepared(self) -> vectors.Prepared:
        return vectors.prepared(self.manifest.distance, self.embeddings)

    @cached_property
    def _centers(self) -> tuple[Numbers, Codes]:
        if not (self.labels >= 0).any():
            raise InputError("labels must be known for at least one item, got items without.")
        return vectors.class_centers(self.manifest.distance, self.embeddings, self.labels)

    def _neighbors(
        self,
        queries: Numbers,
        stored: Numbers,
        labels: Codes,
        ids: np.ndarray[Any, Any],
        k: int,
        *,
        norm: vectors.Cohort | None = None,
    ) -> Neighbors:
        check_count("k", k)
        if not len(stored):
            raise InputError(
                "model must hold at least one known item before a lookup, got 0. Add some to the "
                "model, and export it again."
            )
        if k > len(stored):
            raise InputError(
                f"must be at most {len(stored)}, the number of known items, got {k}.", argument="k"
            )
        queries = np.asarray(queries, np.float32)  # as a model's embeddings are
        distance = self.manifest.distance
        ready = (lambda: self._prepared) if stored is self.embeddings else None
        distances, rows = vectors.nearest(distance, queries, stored, k, ready)
        if norm is not None and len(queries):
            at, place = np.unique(rows, return_inverse=True)
            of_items = vectors.facts(distance, norm, stored[at], second=True)
            of_queries = vectors.facts(distance, norm, queries)
            place = place.reshape(rows.shape)
            far = vectors.normalized(
                distances.astype(np.float64),
                vectors.Facts(of_queries.mean[:, None], of_queries.spread[:, None]),
                vectors.Facts(of_items.mean[place], of_items.spread[place]),
            ).astype(np.float32)
            order = np.argsort(far, axis=1, kind="stable")
            distances = np.take_along_axis(far, order, axis=1)
            rows = np.take_along_axis(rows, order, axis=1)
        known = self.metadata if ids is self.ids else {}
        return Neighbors(ids[rows], distances, labels[rows], self.class_names, known)

    def _bound(self, point: str, threshold: float | None) -> float | Point:
        if threshold is not None:
            if math.isnan(threshold):
                raise InputError("must be a number, got nan.", argument="threshold")
            return float(threshold)
        if point not in self.points:
            made = ", ".join(sorted(self.points)) or "none"
            raise InputError(
                f"must be one of the exported operating points, {made}, got {point!r}. Calibrate "
                "the model for it and export it again, or give a threshold.",
                argument="point",
            )
        return self.points[point]

    def _embedded_texts(self, items: Any, how: Tokenizing) -> Numbers:
        if not isinstance(items, (list, tuple)):
            raise InputTypeError(f"items must be a list of texts, got {type(items).__name__}.")
        texts = as_texts(items)
        found = np.empty((len(texts), self.embeddings.shape[1]), np.float32)
        for rows, inputs in token_batches(self._tokenizer, texts, how):
            found[rows] = self._run(dict(inputs))
        return found

    def _run(self, inputs: dict[str, Any]) -> Numbers:
        (embeddings,) = self._session.run(["embeddings"], inputs)
        return np.asarray(embeddings, dtype=np.float32)


def _session(content: bytes, threads: int | None) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtra(
            "onnxruntime must be installed to run an encoder, got no such module. "
            'Use pip install "likewise[export]", or onnxruntime alone where torch is not wanted.'
        ) from error
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class for each of many reasons
        raise ArtifactError(
            "encoder must be a graph that this ONNX Runtime reads, got one that it refuses "
            f"({type(error).__name__}). Use the version it was exported with, or a later one."
        ) from error


def _probability(chance: Chance, distances: Numbers, prior: float) -> Wide:
    """As `likewise.probability.Probability.of`."""
    at = distances.astype(np.float64)
    knots, values = np.array(chance.distances), np.array(chance.log_likelihood_ratios)
    ratio = np.interp(at, knots, values)
    if chance.method == "logistic" and len(knots) > 1:
        ratio = values[0] + (at - knots[0]) * ((values[-1] - values[0]) / (knots[-1] - knots[0]))
    odds = ratio + math.log(prior) - math.log1p(-prior)
    with np.errstate(over="ignore"):
        chances: Wide = 1 / (1 + np.exp(-odds))
    return chances
