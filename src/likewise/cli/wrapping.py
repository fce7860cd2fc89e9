"""The command that makes a model over embeddings made elsewhere: `wrap`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from likewise.cli import console
from likewise.cli.options import DistanceName, GalleryFolder, Json


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
def wrap(
    source: Annotated[
        str,
        typer.Argument(
            metavar="VECTORS", help="A .parquet, .feather, .arrow, .jsonl, .npz or .npy file."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    id_: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id", metavar="COLUMN", help="The column of ids; numbers if left out."),
    ] = None,
    label: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="COLUMN",
            help="The column of labels; default label, class, target, category or species.",
        ),
    ] = None,
    metadata: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="COLUMN",
            help='Kept with each item; may be given again. "*": all other columns.',
        ),
    ] = None,
    vectors: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="COLUMN", help="The column of vectors, if there are several."),
    ] = None,
    labels: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="The labels of an .npy, one in a line."),
    ] = None,
    distance: Annotated[
        DistanceName, typer.Option(help="How embeddings are compared.")
    ] = DistanceName.COSINE,
    gallery: GalleryFolder = None,
    as_json: Json = False,
) -> None:
    """Make a model of embeddings that were made elsewhere; nothing is trained."""
    from likewise.journeys.wrap import wrap as wrapped

    with console.progress("wrapping") as show:
        model = wrapped(
            source,
            out,
            id=id_,
            label=label,
            metadata=metadata or (),
            vectors=vectors,
            labels=labels,
            distance=str(distance),
            gallery=gallery,
            progress=show,
        )
    count, classes = len(model.index), len(model.class_names)
    where = "" if model.gallery is None else f", in the gallery {model.gallery}"
    lines = [
        f"{count:,} items of {classes} classes, {model.index.dimension} numbers each{where}",
        f"model saved in {out}; next: likewise calibrate {out} LABELED",
    ]
    result = {
        "model": str(out),
        "items": count,
        "classes": classes,
        "dimension": model.index.dimension,
        "gallery": model.gallery,
    }
    console.finish(result, lines, as_json=as_json)
