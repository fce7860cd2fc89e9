"""The command that asks whether a model still sees items as when it was calibrated: `drift`."""

from typing import Annotated, Any

import typer

from likewise.cli import console
from likewise.cli.options import (
    Cache,
    Data,
    Device,
    EncoderFrom,
    GalleryFolder,
    Json,
    Model,
    Split,
    reads_data,
)


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
@reads_data
def drift(
    model: Model,
    source: Data,
    false_alarm: Annotated[
        float,
        typer.Option(help="Chance of an alarm where nothing has changed, by operating point."),
    ] = 0.01,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Tell whether the model still sees items as when it was calibrated, and what to do.

    DATA are items of today, with labels or without. Labels make the comparison fair, and tell
    which known classes lose items to others. Nothing is written.
    """
    from likewise.cli import journeys
    from likewise.errors import naming
    from likewise.journeys.drift import find_drift

    loaded = journeys.open_model(model, device, gallery, cache=cache, encoder_from=encoder_from)
    items = journeys.open_items(
        loaded, source, split, default_split="test", reading=reading, queries=True
    )
    with console.warnings_as_lines(), console.progress("encoding") as show, naming(items="DATA"):
        found = find_drift(loaded, items, false_alarm=false_alarm, progress=show)
    again = "calibrate again" if found.calibrate_again else "no need to calibrate again"
    console.finish(
        found.to_dict(), [*repr(found).splitlines(), *found.advice, again], as_json=as_json
    )
