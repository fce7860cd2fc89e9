"""Published retrieval benchmarks, each judged as papers report it, in one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from likewise import data
from likewise.data.framing import ImageSize
from likewise.data.loading import benchmark_of
from likewise.distances import COSINE, Distance
from likewise.encoders import encode
from likewise.errors import InputError, InputTypeError
from likewise.evaluation.retrieval import RetrievalResult, evaluate_retrieval


def evaluate_benchmark(
    encoder: nn.Module | Callable[[Any], Tensor],
    source: str | Path,
    *,
    preprocess: data.Preprocess | Callable[[Tensor], Tensor] | None = None,
    image_size: ImageSize | None = None,
    channels: int | None = None,
    distance: Distance = COSINE,
    classes_as_sample: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> RetrievalResult:
    """The retrieval of an encoder on a published benchmark, by that benchmark's own protocol.

    =========================  ====================================  =======================
    source                     queries and what they search          `recall_at_k`
    =========================  ====================================  =======================
    cub-200-2011, cars196      the test classes, each item the rest  1, 2, 4, 8
    stanford-online-products   the test classes, each item the rest  1, 10, 100, 1000
    in-shop                    the queries, the gallery              1, 10, 20, 30
    inaturalist-2018           the test species, each item the rest  1, 4, 16, 32
    =========================  ====================================  =======================

    These papers' Recall@k is the hit rate, `recall_at_k`. MAP@R and R-precision are there too. An
    incomplete copy leaves out the ranks that some query has no references for.

    Args:
        encoder: any module from a batch of images to embeddings; or a function from a dataset to
            embeddings (n, d), such as `SimilarityModel.embed`.
        source: the name of the benchmark, found or downloaded as `data.load` does it, or its
            folder.
        preprocess: applied to each batch before the encoder. A `data.Preprocess`, such as
            `SimilarityModel.preprocess`, also says how images are read. A function that is given
            as encoder does its own.
        image_size: Size as `data.load` takes it; a `data.Preprocess` sets it.
        channels: Channels as `data.load` takes them; a `data.Preprocess` sets them.
        distance: what is compared.
        classes_as_sample: intervals for new classes instead of new queries.
        batch_size: items encoded at once, as by `encode`.
        progress: called with (items done, items in all) of each part that is encoded.
        workers: processes that fetch images.

    Raises:
        InputError: the source is no such benchmark, or its folder is damaged.
        FileNotFoundError: it is not there, or an image is missing.
        InputTypeError: the encoder is neither a module nor a function, or gives no tensor.

    Source:
        Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, for
        the first three; Liu et al., "DeepFashion", CVPR 2016; Brown et al., "Smooth-AP", ECCV 2020,
        for iNaturalist.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> lines = ["image_id class_id super_class_id path"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(4):
        ...         Image.new("L", (8, 8), 60 * i).save(f"{folder}/{i}.png")
        ...         lines.append(f"{i} {i // 2} 1 {i}.png")
        ...     for name in ("Ebay_train.txt", "Ebay_test.txt"):
        ...         _ = Path(folder, name).write_text("\\n".join(lines))
        ...     found = evaluate_benchmark(nn.Flatten(), folder)
        >>> found.queries, list(found.recall_at_k)
        (4, [1])
    """
    if not callable(encoder):
        raise InputTypeError(
            "encoder must be a torch module, or a function from a dataset to embeddings, got "
            f"{type(encoder).__name__}. Use e.g. model.embed."
        )
    benchmark = benchmark_of(source)
    if isinstance(preprocess, data.Preprocess):
        if len(preprocess.item_shape) != 3:
            raise InputError(
                f"preprocess must be one of images, got one of items {preprocess.item_shape}."
            )
        channels, height, width = preprocess.item_shape
        image_size = preprocess.framing or (height, width)
    apply = preprocess.apply if isinstance(preprocess, data.Preprocess) else preprocess

    def embedded(part: str) -> tuple[Tensor, Tensor]:
        items = data.load(source, split=part, image_size=image_size, channels=channels)
        if not isinstance(encoder, nn.Module):
            return encoder(items), items.labels
        made = encode(
            encoder,
            items,
            batch_size=batch_size,
            preprocess=apply,
            progress=progress,
            workers=workers,
        )
        return made, items.labels

    embeddings, labels = embedded("query" if benchmark.has_gallery else "test")
    references, reference_labels = embedded("gallery") if benchmark.has_gallery else (None, None)
    seen = len(embeddings) - 1 if references is None else len(references)
    return evaluate_retrieval(
        embeddings,
        labels,
        distance=distance,
        references=references,
        reference_labels=reference_labels,
        ks=[k for k in benchmark.ks if k <= seen] or [1],
        classes_as_sample=classes_as_sample,
    )
