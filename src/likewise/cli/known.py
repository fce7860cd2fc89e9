"""The commands about known items: `index`, `remove`, `lookup`, `match`."""

import dataclasses
from typing import Annotated, Any, Optional

import typer

from likewise.cli import console
from likewise.cli.options import (
    Cache,
    Collection,
    Data,
    Device,
    EncoderFrom,
    GalleryFolder,
    Json,
    Milvus,
    MilvusIndex,
    MilvusPartitionBy,
    Model,
    PartRows,
    PartsFolder,
    Point,
    Recall,
    Resume,
    Rule,
    Seed,
    Split,
    Threshold,
    Workers,
    reads_data_with_ids,
)

# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
Sources = Annotated[
    list[str], typer.Argument(metavar="FILE…|DATA", help="Images, texts, or one DATA.")
]


@reads_data_with_ids
def index(
    model: Model,
    source: Data,
    per_class: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Number of examples of each class, drawn by seed; all if left out."),
    ] = None,
    keep_pictures: Annotated[
        bool,
        typer.Option(
            "--keep-pictures",
            help="Keep a small picture of each image, for reports and for neighbors.",
        ),
    ] = False,
    classes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only these, separated by commas; may be given again."),
    ] = None,
    except_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--except", help="All classes but these."),
    ] = None,
    gallery: GalleryFolder = None,
    milvus: Milvus = None,
    collection: Collection = None,
    milvus_index: MilvusIndex = None,
    milvus_partition_by: MilvusPartitionBy = None,
    recall: Recall = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Put the data in place of all known items, in one step."),
    ] = False,
    sync: Annotated[
        bool,
        typer.Option(
            "--sync",
            help="Follow the data: add what is new, remove what is gone, relabel what moved.",
        ),
    ] = False,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Add examples of known things to the model's index, or to a gallery; each of them once."""
    from likewise import data
    from likewise.cli import journeys
    from likewise.errors import InputError
    from likewise.journeys.index import index as indexed
    from likewise.journeys.opening import of_classes, open_fitting

    if sync and (replace or per_class is not None):
        other = "--replace" if replace else "--per-class"
        raise InputError(f"--sync must come without {other}, got both. Give either.")
    way = "replace" if replace else "sync" if sync else "add"
    loaded = journeys.open_model(
        model,
        device,
        gallery,
        writing=True,
        cache=cache,
        encoder_from=encoder_from,
        milvus=milvus,
        collection=collection,
        milvus_index=milvus_index,
        milvus_partition_by=milvus_partition_by,
        recall=recall,
    )
    examples = open_fitting(loaded, source, split, default_split="train", reading=reading)
    if classes or except_:
        examples = of_classes(examples, classes or (), except_ or ())
    if per_class is not None:
        examples = data.sample_items(examples, per_class=per_class, seed=seed)
    with console.progress("indexing") as show:
        told = indexed(
            loaded, examples, way=way, source=source, keep_pictures=keep_pictures, progress=show
        )
    keeps_search = loaded.gallery is not None and loaded.collection is None
    if recall is not None or (keeps_search and loaded.index.recall is not None):
        loaded.index.wait()  # else each later command would train the search
    loaded.save(model)
    place = "the index" if loaded.gallery is None else f"the gallery {loaded.gallery}"
    if loaded.collection is not None:
        place = f"{loaded.collection} of Milvus at {loaded.gallery}"
    parts = [f"added {told.added} {'item' if told.added == 1 else 'items'}"]
    if told.already_there:
        parts.append(f"{told.already_there} were there already")
    if way == "sync":
        parts += [f"relabeled {told.relabeled}", f"moved {told.moved}"]
    if told.changed:
        parts.append(f"changed {told.changed}")
    if way != "add":
        parts.append(f"removed {told.removed}")
    lines = [f"{', '.join(parts)}; {place} holds {len(loaded.index)}"]
    if told.as_another_class:
        lines.append(
            f"{told.as_another_class} of those added are there as another class too: remove "
            "what is wrong"
        )
    unlabeled = int((examples.labels < 0).sum())
    if told.has_changed and unlabeled and loaded.class_names:
        lines.append(
            f"{unlabeled} of {len(examples)} items have no class: where one is the nearest, match "
            "answers unknown"
        )
    if recall is not None:
        lines.append(f"lookups by {loaded.index.searched_by}")
    if (told.has_changed or recall is not None) and any(
        made.rule != "pairs" for made in loaded.calibrations.values()
    ):
        lines.append("thresholds were calibrated before: calibrate again")
    result = {**told.to_dict(), "indexed": len(loaded.index), "gallery": loaded.gallery}
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


@reads_data_with_ids
def lookup(
    model: Model,
    sources: Sources,
    k: Annotated[int, typer.Option("-k", help="Neighbors of each.")] = 5,
    out: PartsFolder = None,
    workers: Workers = 0,
    resume: Resume = False,
    part_rows: PartRows = None,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """The k indexed items that are most like each given one."""
    from likewise.cli import answers, in_parts, journeys

    how = in_parts.asked(
        out, beside={"cache": cache}, workers=workers, resume=resume, part_rows=part_rows
    )
    loaded = journeys.open_model(model, device, gallery, cache=cache, encoder_from=encoder_from)
    if out is not None:
        from likewise.journeys.answers import lookup_parts

        items, names = _unread(loaded, sources, split, reading)
        how.update(k=k, names=names)
        in_parts.write(lookup_parts, loaded, items, out, doing="looking up", as_json=as_json, **how)
        return
    items, names = journeys.queries(loaded, sources, split, reading)
    found = loaded.lookup(items, k=k)
    console.finish(*answers.neighbors(loaded, found, names), as_json=as_json)


@reads_data_with_ids
def match(
    model: Model,
    sources: Sources,
    point: Point = None,
    rule: Rule = "nearest",
    threshold: Threshold = None,
    k: Annotated[int, typer.Option("-k", help="Neighbors, with --threshold.")] = 1,
    candidates: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="LEVEL",
            help="Also list the classes that each item may be of. For known items the list holds "
            "the right class at least this often, e.g. 0.95; an empty list means unknown.",
        ),
    ] = None,
    out: PartsFolder = None,
    workers: Workers = 0,
    resume: Resume = False,
    part_rows: PartRows = None,
    gallery: GalleryFolder = None,
    split: Split = None,
    cache: Cache = None,
    seed: Seed = 0,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Which known class each item is, or that it is unknown."""
    from likewise.cli import answers, in_parts, journeys

    how = in_parts.asked(
        out, beside={"cache": cache}, workers=workers, resume=resume, part_rows=part_rows
    )
    loaded = journeys.open_model(model, device, gallery, cache=cache, encoder_from=encoder_from)
    question: dict[str, Any] = {
        "point": point or rule,
        "threshold": threshold,
        "rule": rule,
        "k": k,
        "candidates": candidates,
    }
    if out is not None:
        from likewise.journeys.answers import match_parts

        items, names = _unread(loaded, sources, split, reading)
        how.update(names=names, **question)
        in_parts.write(match_parts, loaded, items, out, doing="matching", as_json=as_json, **how)
        return
    items, names = journeys.queries(loaded, sources, split, reading)
    with console.warnings_as_lines(), console.progress("matching") as show:
        decided = loaded.match(items, progress=show, **question)
    console.finish(*answers.matches(loaded, decided, names, items), as_json=as_json)


def _unread(
    model: Any, sources: list[str], split: str | None, reading: Any
) -> tuple[Any, list[str] | None]:
    """Items to be answered in parts, and their names if they were named one by one.

    Files that a table names are looked for when they are read, as one that is not there is a row.
    """
    from likewise.cli import journeys

    reading = dataclasses.replace(reading, unchecked=True)
    items, names = journeys.queries(model, sources, split, reading, naming_all=False)
    return items, names or None
