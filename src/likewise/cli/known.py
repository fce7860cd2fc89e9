"""The commands about known items: `index`, `remove`, `lookup`, `match`."""

from typing import Annotated, Optional

import typer

from likewise.cli import console
from likewise.cli.options import Cache, Data, Device, GalleryFolder, Json, Model, Point, Seed, Split

# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
Sources = Annotated[list[str], typer.Argument(metavar="FILE…|DATA", help="Images, or one DATA.")]


def index(
    model: Model,
    source: Data,
    per_class: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="So many examples of each class, drawn by seed; all if left out."),
    ] = None,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Add examples of known things to the model's index, or to a gallery; each of them once."""
    from likewise.cli import journeys

    loaded = journeys.open_model(model, device, gallery, writing=True, cache=cache)
    told = journeys.index(loaded, source, split, per_class, seed)
    loaded.save(model)
    place = "the index" if loaded.gallery is None else f"the gallery {loaded.gallery}"
    there = f", {told['already_there']} were there already" if told["already_there"] else ""
    lines = [f"added {told['added']} items{there}; {place} holds {len(loaded.index)}"]
    if told["as_another_class"]:
        lines.append(
            f"{told['as_another_class']} of those added are there as another class too: remove "
            "what is wrong"
        )
    if told["added"] and any(made.rule != "pairs" for made in loaded.calibrations.values()):
        lines.append("thresholds were calibrated before: calibrate again")
    result = {**told, "indexed": len(loaded.index), "gallery": loaded.gallery}
    console.finish(result, lines, as_json=as_json)


def remove(
    model: Model,
    ids: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="ID…", help="Ids of items, as lookup tells them."),
    ] = None,
    class_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--class", help="All items of this class instead."),
    ] = None,
    gallery: GalleryFolder = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Take items out of the model's index, or out of its gallery."""
    from likewise.cli import journeys

    loaded = journeys.open_model(model, device, gallery, writing=True)
    removed = journeys.remove(loaded, ids or [], class_name)
    loaded.save(model)
    lines = [f"removed {removed} items; {len(loaded.index)} are left"]
    console.finish({"removed": removed, "indexed": len(loaded.index)}, lines, as_json=as_json)


def lookup(
    model: Model,
    sources: Sources,
    k: Annotated[int, typer.Option("-k", help="Neighbors of each.")] = 5,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """The k indexed items that are most like each given one."""
    from likewise.cli import answers, journeys

    loaded = journeys.open_model(model, device, gallery, cache=cache)
    items, names = journeys.queries(loaded, sources, split)
    found = loaded.lookup(items, k=k)
    console.finish(*answers.neighbors(loaded, found, names), as_json=as_json)


def match(
    model: Model,
    sources: Sources,
    point: Point = None,
    rule: Annotated[str, typer.Option(help="The matching rule, calibrated before.")] = "nearest",
    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Used instead of a calibrated one."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbors, with --threshold.")] = 1,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Which known class each item is, or that it is unknown."""
    from likewise.cli import answers, journeys

    loaded = journeys.open_model(model, device, gallery, cache=cache)
    items, names = journeys.queries(loaded, sources, split)
    with console.warnings_as_lines(), console.progress("matching") as show:
        decided = loaded.match(
            items, point=point or rule, threshold=threshold, rule=rule, k=k, progress=show
        )
    console.finish(*answers.matches(loaded, decided, names, items), as_json=as_json)
