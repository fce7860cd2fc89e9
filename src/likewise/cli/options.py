"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a saved model.")]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, mnist, fashion-mnist, omniglot, imagenette, lfw, a folder of class folders, "
        "a folder of idx files, a .csv or .tsv, or an .npz with x and y.",
    ),
]
Split = Annotated[
    Optional[str],  # noqa: UP045  typer reads this at run time
    typer.Option(help="train, val, test or all, where the data has parts."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything drawn at random.")]
Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="cpu or cuda; the best there is if left out."),
]
GalleryFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--gallery",
        help="Keep known items in this folder, which lasts, instead of within the model; the "
        "model remembers it.",
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


class Loss(StrEnum):
    """Losses by name; `threshold` with --pairs only."""

    ARCFACE = "arcface"
    CIRCLE = "circle"
    CONTRASTIVE = "contrastive"
    COSFACE = "cosface"
    MULTI_SIMILARITY = "multi-similarity"
    NT_XENT = "nt-xent"
    PROXY_ANCHOR = "proxy-anchor"
    SOFTMAX = "softmax"
    SUPERVISED_CONTRASTIVE = "supervised-contrastive"
    THRESHOLD = "threshold"
    TRIPLET = "triplet"


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


class Precision(StrEnum):
    """Number types of training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
