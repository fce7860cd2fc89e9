"""`embed`: items read once, with embeddings and fingerprints from the same reading."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from likewise import data as sources
from likewise._checks import as_floats
from likewise.data.fingerprints import item_fingerprints
from likewise.data.parts import paths_of
from likewise.data.texts import are_texts
from likewise.embedded import Embedded
from likewise.encoders import BesideRawInput, takes_texts, tf_idf
from likewise.encoders.encoding import check_suits, encode_chosen
from likewise.errors import InputError, InputTypeError
from likewise.model.caching import Cache, content_of, content_of_text

MOST_RAW = 20_000  # items whose raw input is kept: 240 MB of images in color
Progress = Callable[[int, int], None]
Preprocess = sources.Preprocess | Callable[[Tensor], Tensor] | None
Keep = Callable[[Int[Tensor, " m"], Int[Tensor, " m"]], Bool[Tensor, " m"]]


def embed(
    encoder: nn.Module,
    source: Any,
    preprocess: Preprocess = None,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    workers: int = 0,
    skip: Int[Tensor, " s"] | None = None,
    keep_pictures: bool = False,
    keep_raw: bool = False,
    cache: str | Path | None = None,
) -> Embedded:
    """Items read and encoded once: embeddings, labels, fingerprints and where each item stands.

    Each batch is read once; fingerprints are those of `data.fingerprints`, embeddings those of
    `encode`. `SimilarityModel.calibrate`, `evaluate`, `match` and the rest take the result
    wherever they take items.

    Args:
        encoder: Any module from a batch of preprocessed items to embeddings (n, d).
        source: A dataset, numbers (n, ...), images, a list of image paths, or one of texts for an
            encoder that takes them.
        preprocess: A `data.Preprocess`, which also says how image files are read; or any function
            of a batch; or None.
        batch_size: Items encoded at once; the results agree to rounding whatever it is. By
            default as for `encode`.
        progress: Called as progress(done, total) after each batch.
        workers: Processes that fetch items of a dataset; 0 fetches them in this one.
        skip: Fingerprints of items to leave out. They are read, but not encoded.
        keep_pictures: Keep a small picture of each image, in `pictures`. All are then read,
            whatever the cache holds.
        keep_raw: Keep the items without any learning, in `raw`, to compare the encoder with.
        cache: A folder that keeps results for the next call. What is kept there is found by the
            encoder's class, settings and weights, the preprocessing, and the content of each file
            (or the numbers of each item), so an item that did not change is not encoded again, and
            a file not even decoded. Code of your own that changes is not noticed. A folder that
            cannot be written, as on a full disk, is told by one warning. Of up to 20,000 image
            files the raw input is kept too, 12 kB for an image in color, so that a later
            `keep_raw` need not read them again.

    Returns:
        The items in the order of the source, those to skip left out.

    Raises:
        InputError: The items do not fit the preprocess, or there are none.
        InputTypeError: The source is neither numbers, images nor a dataset.
        OSError: The folder of the cache cannot be made.

    Example:
        >>> import likewise as lw
        >>> digits = lw.data.load("digits", split="test")
        >>> found = embed(lw.encoders.MLPEncoder(digits.item_shape), digits)
        >>> found
        Embedded: 447 items of 64 numbers
          classes  10
        >>> bool((found.fingerprints == lw.data.fingerprints(digits)).all())
        True
    """

    def keep(rows: Tensor, prints: Tensor) -> Tensor:
        return (
            torch.ones(len(rows), dtype=torch.bool) if skip is None else ~torch.isin(prints, skip)
        )

    return embed_kept(
        encoder,
        opened(source, preprocess, encoder),
        preprocess,
        keep,
        batch_size=batch_size,
        progress=progress,
        workers=workers,
        keep_pictures=keep_pictures,
        keep_raw=keep_raw,
        cache=cache,
    )


def opened(items: Any, preprocess: Preprocess, encoder: nn.Module) -> Any:
    """A tensor (n, ...) or a dataset of whatever a caller gives as items.

    A list of strings is texts for an encoder that takes texts, and else image files.

    Raises:
        InputError: They do not fit the preprocess, or the encoder, which may be none.
        InputTypeError: They are no items, or are texts where the encoder takes none.
    """
    # `encode` refuses a tensor for an encoder of texts at once; to look twice takes long for one.
    of_texts = not isinstance(items, Tensor) and takes_texts(encoder)
    if isinstance(items, (str, Path)):
        what = "text" if of_texts else "path"
        raise InputTypeError(
            f"items must be a list of {what}s, got one {what}. Use [{str(items)!r}]."
        )
    if of_texts and are_texts(items):
        return sources.TextDataset(items)
    found = _numbers(items, preprocess)
    check_suits(of_texts, [""] if sources.is_text(found) else None)
    shape = tuple(found.shape[1:] if isinstance(found, Tensor) else found.item_shape)
    if isinstance(encoder, nn.Identity) and len(shape) != 1:
        raise InputError(
            f"items must be embeddings (n, d) for a model without an encoder, got items of "
            f"shape {shape}. Encode them first, with what made the others."
        )
    return found


def _numbers(items: Any, preprocess: Preprocess) -> Any:
    shape = framing = None
    if isinstance(preprocess, sources.Preprocess):
        shape, framing = tuple(preprocess.item_shape), preprocess.framing
    if isinstance(items, (list, tuple)) and any(isinstance(i, (str, Path)) for i in items):
        if not isinstance(preprocess, sources.Preprocess):
            raise InputError(
                "must be a tensor or a dataset for a model without preprocess, got paths.",
                argument="items",
                remedy="Make the model with preprocess=data.Preprocess.fit(dataset).",
                command="Use a model that likewise train made.",
            )
        return preprocess.files(items)
    found = sources.as_inputs(items, shape, framing)
    if shape is not None:
        given = tuple(found.shape[1:] if isinstance(found, Tensor) else found.item_shape)
        if given != shape:
            raise InputError(
                f"must have shape {shape}, which this model was made for, got {given}.",
                argument="items",
                remedy="Load them with image_size= and channels= to fit.",
                command="Give data of the kind that it was trained on.",
            )
    return found


def embed_kept(
    encoder: nn.Module,
    source: Any,
    preprocess: Preprocess,
    keep: Keep,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    workers: int = 0,
    keep_pictures: bool = False,
    keep_raw: bool = False,
    cache: str | Path | None = None,
) -> Embedded:
    """As `embed`, of what is `opened`, for the items that `keep(rows, fingerprints)` is true of."""
    total = len(source)
    prints = torch.zeros(total, dtype=torch.int64)
    is_kept = torch.zeros(total, dtype=torch.bool)
    is_fresh = torch.ones(total, dtype=torch.bool)  # read now, and then also encoded
    of_texts = sources.is_text(source)
    keep_pictures = keep_pictures and not of_texts
    files = [] if cache is None or keep_pictures else paths_of(source)
    # A cache has both, lest a command that asks for raw input reads the files of another again.
    if keep_raw or (files and len(files) <= MOST_RAW and not isinstance(encoder, nn.Identity)):
        shape = source.shape[1:] if isinstance(source, Tensor) else source.item_shape
        encoder = BesideRawInput(encoder, shape)
    store = None if cache is None or keep_pictures else Cache(cache, encoder, preprocess, source)
    contents: list[bytes] = [content_of(path) for path in files]
    if store is not None and files:
        there, prints = store.fingerprints(contents)
        rows = there.nonzero().flatten()
        is_kept[rows] = keep(rows, prints[rows])
        is_fresh = ~(there & (~is_kept | store.has_embeddings(contents)))
    reading = is_fresh.nonzero().flatten()
    pictures: list[bytes | None] = []
    done = 0

    def choose(batch: Any) -> Any:
        nonlocal done
        rows = reading[done : done + len(batch)]
        done += len(batch)
        values = batch
        if not of_texts:
            values = as_floats(batch) if isinstance(source, Tensor) else batch.float()
        prints[rows] = item_fingerprints(values)
        is_kept[rows] = keep(rows, prints[rows])
        wanted = is_kept[rows]
        if store is not None and not files:
            given = [content_of_text(item) if of_texts else content_of(item) for item in batch]
            contents.extend(given)
            wanted = wanted & ~store.has_embeddings(given)
        is_fresh[rows] = wanted
        if of_texts:
            return list(itertools.compress(batch, wanted.tolist()))
        if keep_pictures:
            pictures.extend(sources.encode_pictures(batch[wanted.to(batch.device)]))
        return batch[wanted.to(batch.device)]

    made = torch.empty(0, 0)
    if len(reading) or not total:
        part = source if len(reading) == total else sources.Subset(source, reading)
        made = encode_chosen(
            encoder,
            part,
            choose,
            batch_size=batch_size,
            preprocess=preprocess.apply
            if isinstance(preprocess, sources.Preprocess)
            else preprocess,
            progress=progress,
            workers=workers,
        )
    elif progress is not None:
        progress(total, total)
    kept = is_kept.nonzero().flatten()
    embeddings = made
    if store is not None:
        embeddings = store.completed(contents, prints, kept, is_fresh, made)
    raw = None
    if isinstance(encoder, BesideRawInput):
        width = encoder.raw.embedding_dim
        raw, embeddings = embeddings[:, :width], embeddings[:, width:].contiguous()
        raw = None if not keep_raw else tf_idf(raw) if of_texts else raw
    labels = getattr(source, "labels", None)
    labels = torch.full((total,), -1) if labels is None else labels.long()
    return Embedded(
        embeddings,
        labels[kept],
        list(getattr(source, "class_names", ())),
        prints[kept],
        kept,
        source,
        total - len(kept),
        pictures if keep_pictures else None,
        raw,
    )
