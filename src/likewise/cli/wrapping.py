"""The command that makes a model over embeddings made elsewhere: `wrap`."""

from typing import Annotated, Optional

import typer

from likewise.cli import console
from likewise.cli.options import (
    DistanceName,
    GalleryFolder,
    Id,
    Json,
    Label,
    Labels,
    NewModel,
    Recall,
    Vectors,
)


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
def wrap(
    source: Annotated[
        str,
        typer.Argument(
            metavar="VECTORS",
            help="A .csv, .tsv, .parquet, .feather, .arrow, .jsonl, .npz or .npy file.",
        ),
    ],
    out: NewModel,
    id_: Id = None,
    label: Label = None,
    metadata: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="COLUMN",
            help='Kept with each item; may be given again. "*": all other columns.',
        ),
    ] = None,
    vectors: Vectors = None,
    labels: Labels = None,
    distance: Annotated[
        DistanceName, typer.Option(help="How embeddings are compared.")
    ] = DistanceName.COSINE,
    gallery: GalleryFolder = None,
    recall: Recall = None,
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
            recall=recall,
            progress=show,
        )
    count, classes = len(model.index), len(model.class_names)
    where = "" if model.gallery is None else f", in the gallery {model.gallery}"
    of = f"of {classes} classes" if classes else "without classes"
    after = f"calibrate {out} LABELED" if classes else f"lookup {out} VECTORS"
    lines = [
        f"{count:,} items {of}, {model.index.dimension} numbers each{where}",
        *([] if recall is None else [f"lookups by {model.index.searched_by}"]),
        f"model saved in {out}; next: likewise {after}",
    ]
    result = {
        "model": str(out),
        "items": count,
        "classes": classes,
        "dimension": model.index.dimension,
        "gallery": model.gallery,
    }
    console.finish(result, lines, as_json=as_json)
