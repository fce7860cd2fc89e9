"""The command that compares two models: `compare`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from likewise.cli import console
from likewise.cli.options import Data, Device, Json, Seed, Split


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
def compare(
    model_a: Annotated[str, typer.Argument(metavar="MODEL_A", help="Folder of a saved model.")],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="Folder of another.")],
    source: Data,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write a page with both side by side."),
    ] = None,
    holds_for: Annotated[
        str, typer.Option(help="New items or new classes: what the verdict is for.")
    ] = "items",
    split: Split = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Which of two models is ahead, on items that neither was trained on or has indexed."""
    from likewise._checks import check_file_target
    from likewise.cli import comparison, journeys

    if report is not None:
        check_file_target("report", report)
    names = comparison.names_of(model_a, model_b)
    loaded = journeys.open_model(model_a, device), journeys.open_model(model_b, device)
    with console.warnings_as_lines(), console.progress("comparing") as show:
        found = comparison.compared(
            names, loaded, source, split=split, holds_for=holds_for, seed=seed, progress=show
        )
    result, lines = comparison.answer(found)
    if report is not None:
        written = comparison.page(report, found, source=source, seed=seed)
        result["report"] = str(written)
        lines.append(f"report: {written}")
    console.finish(result, lines, as_json=as_json)
