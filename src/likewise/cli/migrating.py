"""The command that gives a model another encoder, and its known items with it: `migrate`."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from likewise.cli import console
from likewise.cli.options import Device, EncoderFrom, Json, Unknowns, reads_data_with_ids
from likewise.errors import InputError


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
@reads_data_with_ids
def migrate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|GALLERY",
            help="Folder of the model to change; or a gallery, which NEW_MODEL then answers from.",
        ),
    ],
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NEW_MODEL", help="Folder of the model with the new encoder."),
    ] = None,
    items: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="DATA",
            show_default="their texts or files, as indexed",
            help="The known items, to be encoded anew.",
        ),
    ] = None,
    mapped_on: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--map",
            metavar="DATA",
            help="The known items are gone: fit a map from old to new embeddings on these.",
        ),
    ] = None,
    aside: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="DATA",
            show_default="what the model was calibrated on, in the data it was trained on",
            help="Labeled items to calibrate and to compare both models on.",
        ),
    ] = None,
    unknowns: Unknowns = None,
    allow: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            show_default="any", help="Share of decisions that may change; else nothing is switched."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do all but the switch, and tell what would change.")
    ] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Put the model of before the last migration back.")
    ] = False,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Change the encoder of a model and keep its known items, in one step and with a way back.

    The known items are encoded into a new gallery, thresholds are calibrated again, and both models
    decide on the same items. Then MODEL is replaced in one step. After a kill the same command goes
    on where it was.
    """
    from likewise.errors import naming
    from likewise.journeys.migrate import migrate as migrated
    from likewise.journeys.migrate import take_back

    if back:
        if to is not None:
            raise InputError("--back must come without --to, got both. Give either.")
        changed = take_back(model)
        line = f"{model} is the model of before" + ("" if changed else ", as it was already")
        console.finish({"model": str(model), "back": changed}, [line], as_json=as_json)
        return
    if to is None:
        raise InputError("must be given, got none.", argument="to")
    from likewise.cli import journeys
    from likewise.index import Gallery

    new = journeys.open_model(to, device, encoder_from=encoder_from)
    before = None
    if not Gallery.is_at(model):
        before = journeys.open_model(str(model), device, encoder_from=encoder_from)
    with (
        console.warnings_as_lines(),
        console.progress("encoding") as show,
        naming(mapped_on="--map", allowed="--allow"),
    ):
        done = migrated(
            model,
            to if before is None else new,
            items=items,
            mapped_on=mapped_on,
            aside=aside,
            unknowns=unknowns,
            allowed=allow,
            switch=not dry_run,
            before=before,
            reading=reading,
            progress=show,
        )
    console.finish(done.to_dict(), lines_of(done), as_json=as_json)


def lines_of(done: Any) -> list[str]:
    """A migration in words."""
    lines = [*repr(done).splitlines()]
    points = done.points.values()
    if any(each.right is not None and each.threshold_after is not None for each in points):
        lines.append(
            "the new thresholds were chosen on the same items, which favors them a little; "
            "likewise evaluate tells how the new model does on others"
        )
    if done.mapped_by is not None:
        told = done.mapped_by
        lines.append(
            f"map: {told['method']} on {told['items']:,} items, mean distance from the true "
            f"embedding {told['loss']['value']:.3g} (different items are {told['apart']:.3g} apart)"
        )
    place = "the model's folder" if done.gallery is None else f"the gallery {done.gallery}"
    if done.switched:
        lines.append(f"switched: {done.model} answers with the new encoder, from {place}")
        lines.append(f"back with: likewise migrate {done.model} --back")
    else:
        lines.append(f"nothing was switched; the new items are in {place}")
    return lines
