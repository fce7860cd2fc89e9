"""`likewise map`: embeddings of labeled items as a page to move about in."""

from pathlib import Path
from typing import Annotated, Any

import typer

from likewise.cli import console
from likewise.cli.options import (
    Cache,
    Data,
    Device,
    EncoderFrom,
    Json,
    Model,
    Seed,
    Split,
    reads_data,
)


@reads_data
def map_(
    model: Model,
    source: Data,
    out: Annotated[Path, typer.Option(help="The page, e.g. map.html.")],
    method: Annotated[
        str,
        typer.Option(help="auto, pca, t-sne or umap; the last by the extra umap."),
    ] = "auto",
    most: Annotated[int, typer.Option(help="Items shown; of more, a random choice.")] = 2000,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Draw the items of DATA as the model sees them: a page to zoom, search and point at."""
    import torch

    from likewise._checks import check_choice, check_count, check_file_target
    from likewise.cli import journeys
    from likewise.data import Subset
    from likewise.journeys.opening import open_fitting
    from likewise.pages.map import map_page
    from likewise.plots.points import METHODS

    check_choice("method", method, METHODS)
    check_count("most", most, least=2)
    check_file_target("out", out)  # before the work rather than after it
    loaded = journeys.open_model(model, device, cache=cache, encoder_from=encoder_from)
    whole = open_fitting(loaded, source, split, default_split="test", reading=reading, queries=True)
    total = len(whole)
    few = whole
    if total > most:
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most]
        few = Subset(whole, chosen.sort().values)
    with console.progress("embedding") as show:
        examples = loaded.embedded(few, queries=True, progress=show)
    page = map_page(
        out,
        examples,
        source=source,
        title=f"{Path(model).name} on {source}",
        method=method,
        seed=seed,
        total=total,
        trained_on=loaded.trained_on,
    )
    shown = len(examples)
    result = {"map": str(page), "items": total, "shown": shown}
    console.finish(result, [f"{shown} of {total} items: {page}"], as_json=as_json)
