"""`likewise map`: embeddings of labelled items as a page to move about in."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from likewise.cli import console
from likewise.cli.options import Data, Device, Json, Model, Seed, Split
from likewise.errors import InputError

_NOTES = {
    "t-SNE dimension": "t-SNE: near neighbors are meaningful, distances between groups are not.",
    "UMAP dimension": "UMAP: near neighbors are meaningful, distances between groups are not.",
    "principal component": "The two directions of largest variance.",
    "embedding dimension": "The two numbers of each embedding.",
}


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
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Draw the items of DATA as the model sees them: a page to zoom, search and point at."""
    from likewise._checks import check_choice, check_count, check_file_target
    from likewise.cli import journeys
    from likewise.journeys.opening import open_fitting
    from likewise.plots.points import METHODS

    check_choice("method", method, METHODS)
    check_count("most", most, least=2)
    check_file_target("out", out)  # before the work rather than after it
    loaded = journeys.open_model(model, device)
    examples = open_fitting(loaded, source, split, default_split="test")
    with console.progress("embedding") as show:
        page = draw(
            out,
            loaded,
            examples,
            source=source,
            title=f"{Path(model).name} on {source}",
            method=method,
            most=most,
            seed=seed,
            progress=show,
        )
    shown = min(len(examples), most)
    result = {"map": str(page), "items": len(examples), "shown": shown}
    console.finish(result, [f"{shown} of {len(examples)} items: {page}"], as_json=as_json)


def draw(
    path: Path,
    model: Any,
    examples: Any,
    *,
    source: str,
    title: str,
    method: str,
    most: int,
    seed: int,
    progress: Any = None,
) -> Path:
    """Write the page of at most `most` of the examples."""
    import torch

    from likewise import data, plots
    from likewise.cli.journeys import paths_of
    from likewise.pages import thumbnails, write_map_page

    total = len(examples)
    if total < 2:
        raise InputError(f"must hold at least 2 items, got {total}. Add items.", argument="data")
    if total > most:
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most]
        examples = data.Subset(examples, chosen.sort().values)
    points, axis = plots.embedding_points(
        model.embed(examples, progress=progress), method, seed=seed
    )
    pictures = None
    if len(examples.item_shape) > 1:  # large images never lie in memory all at once
        rows = range(len(examples))
        parts = (rows[at : at + 256] for at in range(0, len(rows), 256))
        pictures = torch.cat([thumbnails(data.items(examples, part), side=64) for part in parts])
    positions = getattr(examples, "source_indices", range(len(examples)))
    names = [_within(path, source) for path in paths_of(examples)]
    note = f"{len(examples):,} of {total:,}" if len(examples) < total else f"{total:,}"
    unseen = {
        code for code, name in enumerate(examples.class_names) if name not in model.trained_on
    }
    return write_map_page(
        path,
        points,
        examples.labels,
        examples.class_names,
        items=pictures,
        names=names or [f"item {int(position)}" for position in positions],
        title=title,
        note=f"{note} items. {_NOTES[axis]}",
        unseen=unseen if model.trained_on else (),
    )


def _within(path: str, source: str) -> str:
    """A path as seen from the source, where it lies below it; a page need not tell more."""
    root = Path(source).resolve()
    root = root if root.is_dir() else root.parent
    below = Path(path).is_relative_to(root)
    return os.path.relpath(path, root) if below else str(Path(*Path(path).parts[-2:]))
