"""The command that cuts aligned faces out of photographs: `faces`."""

from pathlib import Path
from typing import Annotated

import typer

from likewise.cli import console
from likewise.cli.options import Json

MOST_TOLD = 5  # failures that are told in lines; --json and the list have all


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
def faces(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PHOTOGRAPHS",
            help="Folder of photographs, mostly one folder for each person; or one photograph.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the faces.")],
    size: Annotated[int, typer.Option(help="Pixels of a side of a face.")] = 112,
    padding: Annotated[
        float,
        typer.Option(
            help="Share of the side that is added around: 0 goes from the forehead to the chin, "
            "0.25 shows hair and shoulders as well."
        ),
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that find faces.")] = 0,
    as_json: Json = False,
) -> None:
    """Cut the largest face out of each photograph, upright and with the eyes always in one place.

    The faces lie in DIR as the photographs lie in PHOTOGRAPHS, so that train, index and the others
    take DIR as DATA. Photographs without a face, or that cannot be read, are listed in its
    failures.csv. A face is made anew only where its photograph or a setting changed.
    """
    from likewise.data.aligned_faces import FAILURES, align_faces

    with console.warnings_as_lines(), console.progress("finding faces") as show:
        found = align_faces(source, out, size=size, padding=padding, workers=workers, progress=show)
    lines = [f"{found.made + found.kept:,} faces in {found.folder}"]
    if found.kept:
        lines[0] += f"; {found.kept:,} were there before"
    if found.failures:
        listed = found.folder / FAILURES
        lines.append(f"{len(found.failures):,} photographs without a face, listed in {listed}:")
        lines += [f"  {path}: {reason}" for path, reason in found.failures[:MOST_TOLD]]
        if len(found.failures) > MOST_TOLD:
            lines.append(f"  and {len(found.failures) - MOST_TOLD:,} more")
    console.finish(found.to_dict(), lines, as_json=as_json)
