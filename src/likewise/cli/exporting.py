"""The command that writes a model as a folder that answers without torch: `export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from likewise.cli import console
from likewise.cli.options import EncoderFrom, GalleryFolder, Json, Model, Split, reads_data


class Target(StrEnum):
    """What a model is exported to."""

    ONNX = "onnx"


class ExportPrecision(StrEnum):
    """Number types of an exported encoder."""

    FLOAT32 = "float32"
    INT8 = "int8"


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
@reads_data
def export(
    model: Model,
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="DATA",
            show_default="what the model was calibrated on, in the data it was trained on",
            help="Items to compare the decisions on, best those of the calibration.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="A new folder.")] = Path("exported"),
    to: Annotated[
        Target, typer.Option("--to", help="onnx: for ONNX Runtime, without torch.")
    ] = Target.ONNX,
    precision: Annotated[
        ExportPrecision,
        typer.Option(help="int8: weights of 8 bits, smaller, other decisions."),
    ] = ExportPrecision.FLOAT32,
    allow: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            show_default="0 for float32, 0.01 for int8",
            help="Share of the decisions that may change; else nothing is written.",
        ),
    ] = None,
    gallery: GalleryFolder = None,
    split: Split = None,
    encoder_from: EncoderFrom = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Write a model as a folder that answers without torch, with decisions compared first.

    The folder holds the encoder, the known items, thresholds, probabilities and class names, and
    parity.json, which tells how far it answers as the model does.
    """
    from likewise.cli import journeys
    from likewise.errors import naming
    from likewise.journeys.export import export as exported
    from likewise.journeys.opening import open_fitting

    loaded = journeys.open_model(model, "cpu", gallery, encoder_from=encoder_from)
    items = None
    if source is not None:
        items = open_fitting(loaded, source, split, default_split="test", reading=reading)
    with console.warnings_as_lines(), console.progress("comparing") as show, naming(items="DATA"):
        found = exported(loaded, out, items, precision=str(precision), allowed=allow, progress=show)
    lines = [
        f"{found.changed:,} of {found.decisions:,} decisions on {found.items:,} items changed",
        f"embeddings differ by at most {found.largest_difference:.2g}",
        f"exported to {to} in {out}; next: likewise serve {out}, or in Python "
        f"likewise.runtime.load({str(out)!r})",
    ]
    console.finish({"folder": str(out), **found.to_dict()}, lines, as_json=as_json)
