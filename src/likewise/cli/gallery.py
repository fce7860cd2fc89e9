"""The commands of `likewise gallery`: what is in one, whether it is whole, copies of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from likewise.cli import console
from likewise.cli.options import Json, Model

# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
app = typer.Typer(
    help="Galleries: known items in a folder that lasts.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folder = Annotated[Path, typer.Argument(metavar="GALLERY", help="Folder of a gallery.")]


@app.command()
def info(gallery: Folder, as_json: Json = False) -> None:
    """What a gallery holds."""
    from likewise.index import Gallery

    _check_there(gallery)
    with Gallery(gallery, read_only=True) as opened:
        told = opened.summary().to_dict()
    rows = [
        ["items", f"{told['items']:,} of {told['classes']} classes"],
        ["embeddings", f"{told['dimension']} numbers, {told['storage']}, {told['distance']}"],
        ["encoder", told["encoder"] or "not told"],
        ["on disk", f"{told['bytes'] / 1e6:,.1f} MB, {told['batches']} batches"],
    ]
    console.finish(told, console.columns(rows), as_json=as_json)


@app.command()
def check(gallery: Folder, as_json: Json = False) -> None:
    """Whether every byte is as it was written; status 2 if not. Changes nothing."""
    from likewise.index import check_gallery

    _report(check_gallery(gallery), as_json)


@app.command()
def repair(gallery: Folder, as_json: Json = False) -> None:
    """Keep every item that is whole, and the damaged files in a folder beside."""
    from likewise.index import repair_gallery

    found = repair_gallery(gallery)
    lines = [f"{found.items:,} items are whole, {found.lost:,} are lost"]
    if found.damaged_copy is not None:
        lines.append(f"the files as they were: {found.damaged_copy}")
    console.finish(found.to_dict(), lines, as_json=as_json)


@app.command()
def export(
    gallery: Folder,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet file to write.")],
    as_json: Json = False,
) -> None:
    """Write all items, with embeddings and metadata, into a Parquet file."""
    from likewise.index import Gallery, write_parquet

    _check_there(gallery)
    with Gallery(gallery, read_only=True) as opened:
        write_parquet(opened, out)
        count = len(opened)
    console.finish(
        {"items": count, "file": str(out)}, [f"{count:,} items in {out}"], as_json=as_json
    )


@app.command("import")
def import_(
    gallery: Folder,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|PARTS",
            help="A .parquet file of items, or the folder that likewise embed wrote.",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace items whose id is there already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add the items of a Parquet file, or of parts; the gallery is made if it is not there.

    Parts are taken in one after another. Where that was interrupted, --replace completes it.
    """
    from likewise import distances
    from likewise.data.embedded_parts import is_embedded
    from likewise.index import Gallery, read_parquet

    if is_embedded(source):
        from likewise.journeys.embed import parts_into_gallery

        with console.progress("importing") as show:
            told = parts_into_gallery(source, gallery, replace=replace, progress=show)
        lines = [f"{told['imported']:,} items came; the gallery holds {told['items']:,}"]
        console.finish(told, lines, as_json=as_json)
        return
    columns = read_parquet(source)
    count = len(columns.ids)
    asked: dict[str, Any] = {"encoder": columns.encoder}
    if columns.distance is not None:
        asked["distance"] = distances.by_name(columns.distance)
    if not gallery.exists():
        asked["class_names"] = columns.class_names
    with Gallery(gallery, **asked) as opened:
        put = opened.upsert if replace else opened.add
        put(
            columns.embeddings,
            ids=columns.ids,
            labels=_labels(columns),
            metadata=columns.metadata,
            payloads=columns.payloads,
        )
        total = len(opened)
    lines = [f"{count:,} items came; the gallery holds {total:,}"]
    console.finish({"imported": count, "items": total}, lines, as_json=as_json)


@app.command()
def adopt(
    gallery: Folder,
    model: Model,
    as_json: Json = False,
) -> None:
    """Say that the encoder of MODEL made the embeddings of a gallery that does not tell."""
    from likewise.model import load

    _check_there(gallery)
    loaded = load(model)
    adopted = loaded.use_gallery(gallery, adopt=True)
    count = len(adopted)
    adopted.close()
    result = {"gallery": str(gallery), "encoder": loaded.fingerprint, "items": count}
    console.finish(result, [f"{count:,} items are of the encoder of {model}"], as_json=as_json)


@app.command()
def compact(gallery: Folder, as_json: Json = False) -> None:
    """Give the space of removed items back to the disk."""
    from likewise.index import Gallery

    _check_there(gallery)
    before = _bytes(gallery)
    with Gallery(gallery) as opened:
        opened.compact()
    after = _bytes(gallery)
    lines = [f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after"]
    console.finish({"bytes_before": before, "bytes": after}, lines, as_json=as_json)


@app.command()
def backup(
    gallery: Folder,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the copy.")],
    as_json: Json = False,
) -> None:
    """Copy a gallery into a new folder, while it may be in use."""
    from likewise.index import Gallery

    _check_there(gallery)
    with Gallery(gallery, read_only=True) as opened:
        written = opened.backup(out)
    console.finish({"backup": str(written)}, [f"copied to {written}"], as_json=as_json)


def _check_there(gallery: Path) -> None:
    from likewise._checks import check_exists

    check_exists("gallery", gallery)


def _labels(columns: Any) -> Any:
    """Labels of imported items as a gallery takes them: names, None for unlabeled; or codes."""
    names = columns.class_names
    if not names:
        return columns.labels
    labels = [None if code < 0 else names[code] for code in columns.labels.tolist()]
    return labels if any(label is not None for label in labels) else None


def _bytes(gallery: Path) -> int:
    return sum(file.stat().st_size for file in gallery.iterdir() if file.is_file())


def _report(found: Any, as_json: bool) -> None:
    lines = [f"{found.items:,} items are whole"]
    if not found.is_whole:
        lines += found.problems
        lines.append(f"recover what is whole with: likewise gallery repair {found.path}")
    console.finish({**found.to_dict(), "whole": found.is_whole}, lines, as_json=as_json)
    if not found.is_whole:
        raise typer.Exit(console.CALLERS_MISTAKE)
