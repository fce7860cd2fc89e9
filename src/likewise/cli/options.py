"""Arguments and options that several commands share."""

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a saved model.")]
NewModel = Annotated[Path, typer.Option("--out", help="Folder for the model.")]
Unknowns = Annotated[
    Optional[str],  # noqa: UP045  typer reads this at run time
    typer.Option(
        metavar="DATA",
        help="Real unknowns, for matching: they give a second threshold, and the stricter of "
        "both is kept.",
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, mnist, fashion-mnist, cifar-10, cifar-100, omniglot, imagenette, lfw, "
        "cub-200-2011, cars196, stanford-online-products, in-shop, inaturalist-2018, a folder of "
        "images or of idx files, a table (.csv, .tsv, .jsonl, .parquet, .feather, .arrow), an .npz "
        "or an .npy.",
    ),
]
Split = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="train, val, test or all, where the data has parts; of in-shop also query or gallery."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything drawn at random.")]
Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="cpu, cuda, cuda:1 or mps; the GPU, else the CPU, if left out."),
]
EncoderFrom = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="MODULE:CALLABLE",
        help="For a model with an encoder of your own: package.module:callable, which makes it. "
        "Its code runs.",
    ),
]
GalleryFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--gallery",
        help="Keep known items in this folder, which lasts, instead of within the model; the "
        "model remembers it.",
    ),
]
Milvus = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="URI",
        help="Keep known items in Milvus instead, at http://host:19530 or in a file ending in .db; "
        "the model remembers it. A token is read from LIKEWISE_MILVUS_TOKEN.",
    ),
]
Collection = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="NAME", help="The collection there; made if it is not there."),
]
MilvusIndex = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="TYPE",
        help="Index of a new collection: FLAT, which is exact, HNSW, IVF_FLAT or any other that "
        "the server knows. What those miss, calibrate measures.",
        show_default="FLAT",
    ),
]
MilvusPartitionBy = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="KEY",
        help="Metadata key by whose values a new collection keeps items in partitions. A lookup "
        "that asks for one value searches only its partition.",
    ),
]
Recall = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        metavar="SHARE",
        help="Share of the nearest that lookups in the gallery find, such as 0.99: from 50,000 "
        "items on they are then many times as fast. The model keeps it.",
        show_default="1, all",
    ),
]
Cache = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Keep embeddings in this folder: items that did not change are not encoded again.",
    ),
]
Point = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The operating point, as it was named when calibrating."),
]
Rule = Annotated[str, typer.Option(help="The matching rule, calibrated before.")]
Threshold = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Used instead of the calibrated one."),
]


_PARTS = "Parts (with --out)"
PartsFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--out",
        metavar="DIR",
        rich_help_panel=_PARTS,
        help="Write answers into Parquet parts in this folder as they come, for any number of "
        "items; one that cannot be read has a row with its error.",
    ),
]
Workers = Annotated[
    int, typer.Option(min=0, rich_help_panel=_PARTS, help="Processes that read items.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=_PARTS,
        help="Go on in a folder where a run was interrupted, with the same options.",
    ),
]
PartRows = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1,
        rich_help_panel=_PARTS,
        metavar="ROWS",
        show_default="4,096; more where there would be over 10,000 parts",
        help="Rows of a part, which is what an interruption costs.",
    ),
]

_READING = "How DATA is read"
Id = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--id",
        metavar="COLUMN",
        rich_help_panel=_READING,
        help="The column of a table with ids of its items; without, they are numbered.",
    ),
]
Label = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--label",
        "--label-column",
        metavar="COLUMN",
        rich_help_panel=_READING,
        help="The column of a table with labels; default label, class, target, category or "
        "species.",
    ),
]
Vectors = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=_READING,
        help="The column of a table with lists of numbers, if there are several, or a pattern of "
        'columns of numbers, as "v*".',
    ),
]
Labels = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FILE", rich_help_panel=_READING, help="The labels of an .npy, one in a line."
    ),
]
_READS: dict[str, Any] = {
    "text": Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="COLUMN", rich_help_panel=_READING, help="The column of a table with texts."
        ),
    ],
    "label": Label,
    "vectors": Vectors,
    "path_column": Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="COLUMN",
            rich_help_panel=_READING,
            help="The column of a table that names image files; default path, file, filename, "
            "image or image_path.",
        ),
    ],
    "labels": Labels,
    "skip_unreadable": Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            rich_help_panel=_READING,
            help="Leave out image files that cannot be read, and name them.",
        ),
    ],
}


def _reads(options: dict[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What gives a command these options; it gets them together, as its `reading`."""

    def decorator(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def reading_command(**arguments: Any) -> None:
            from likewise.data.reading import Reading

            reading = Reading(**{name: arguments.pop(name) for name in options})
            command(**arguments, reading=reading)

        own = inspect.signature(command)
        parameters = [each for name, each in own.parameters.items() if name != "reading"]
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name == "skip_unreadable" else None,
                annotation=kind,
            )
            for name, kind in options.items()
        ]
        signature = own.replace(parameters=parameters)
        reading_command.__signature__ = signature  # type: ignore[attr-defined]
        return reading_command

    return decorator


reads_data = _reads(_READS)
reads_data_with_ids = _reads({**_READS, "id": Id})


class Loss(StrEnum):
    """Losses by name; two with --towers, `threshold` with pairs, and four with --no-labels only."""

    ARCFACE = "arcface"
    BARLOW_TWINS = "barlow-twins"
    CIRCLE = "circle"
    CONTRASTIVE = "contrastive"
    COSFACE = "cosface"
    MULTI_SIMILARITY = "multi-similarity"
    MULTIPLE_NEGATIVES = "multiple-negatives"
    NORMALIZED_SOFTMAX = "normalized-softmax"
    NT_XENT = "nt-xent"
    PROXY_ANCHOR = "proxy-anchor"
    SIGMOID_PAIRS = "sigmoid-pairs"
    SIMCLR = "simclr"
    SIMSIAM = "simsiam"
    SOFTMAX = "softmax"
    SUPERVISED_CONTRASTIVE = "supervised-contrastive"
    THRESHOLD = "threshold"
    TRIPLET = "triplet"
    VICREG = "vicreg"


class Augment(StrEnum):
    """How images are changed while training."""

    NONE = "none"
    LIGHT = "light"
    PHOTOS = "photos"
    STRONG = "strong"
    VIEWS = "views"


class MadeClasses(StrEnum):
    """Classes made from those of the data."""

    NONE = "none"
    TURNED = "turned"
    MIRRORED = "mirrored"
    BOTH = "both"


class DistanceName(StrEnum):
    """Distances by name."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    SQUARED_EUCLIDEAN = "squared_euclidean"
    MANHATTAN = "manhattan"
    INNER_PRODUCT = "inner_product"
    SNR = "snr"


class Trained(StrEnum):
    """What of an encoder trains."""

    NONE = "none"
    HEAD = "head"
    LAST = "last"
    ALL = "all"


class Head(StrEnum):
    """Layers behind a pretrained encoder."""

    NONE = "none"
    LINEAR = "linear"
    MLP = "mlp"
    WHITENING = "whitening"


class Pooling(StrEnum):
    """What makes features of a network's maps or tokens."""

    AVERAGE = "average"
    MAX = "max"
    GEM = "gem"


class Projection(StrEnum):
    """What becomes of the layers behind the encoder."""

    DROP = "drop"
    KEEP = "keep"
    NONE = "none"


class Precision(StrEnum):
    """Number types of training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
