"""The command that compares two models: `compare`."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from likewise.cli import console
from likewise.cli.options import Cache, Data, Device, EncoderFrom, Json, Seed, Split, reads_data


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
@reads_data
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
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Which of two models is ahead, on items that neither was trained on or has indexed."""
    from likewise._checks import check_file_target
    from likewise.cli import journeys
    from likewise.journeys.compare import compare_models, names_of

    if report is not None:
        check_file_target("report", report)
    names = names_of(model_a, model_b)
    loaded = (
        journeys.open_model(model_a, device, cache=cache, encoder_from=encoder_from),
        journeys.open_model(model_b, device, cache=cache, encoder_from=encoder_from),
    )
    with console.warnings_as_lines(), console.progress("comparing") as show:
        found = compare_models(
            names,
            loaded,
            source,
            split=split,
            holds_for=holds_for,
            seed=seed,
            progress=show,
            reading=reading,
        )
    result, lines = answer(found)
    if report is not None:
        from likewise.pages import report as write_report

        written = write_report(found, report, source=source)
        result["report"] = str(written)
        lines.append(f"report: {written}")
    console.finish(result, lines, as_json=as_json)


def answer(found: Any) -> tuple[dict[str, Any], list[str]]:
    """The table and the verdict."""
    from likewise.journeys.compare import comparison_table

    rows = [[str(cell) for cell in row] for row in comparison_table(found)]
    result = {
        "items": len(found.items),
        "left_out": found.left_out,
        "holds_for": found.holds_for,
        "biased": found.biased,
        **found.comparison.to_dict(),
    }
    said = f"{len(found.items)} items new to both models"
    if found.left_out:
        said += f"; {found.left_out} more left out, trained on or in an index"
    if found.judged[0].right is None:
        said += "; no matching, for which both must be indexed and calibrated"
    verdict, notes = found.comparison.verdict, [*found.biased, *found.without_intervals]
    return result, [*console.columns(rows), said, *notes, f"for new {found.holds_for}:", verdict]
