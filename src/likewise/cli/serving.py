"""The commands of the service: `serve`, and `key` for the keys of its clients."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from likewise.cli import console
from likewise.cli.options import Device, GalleryFolder, Json, Model
from likewise.errors import InputError
from likewise.service.settings import Settings

# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
LIMITS = "Limits"


def serve(
    model: Model,
    gallery: GalleryFolder = None,
    keep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Keep unknown items here, and distances for drift."),
    ] = None,
    keys: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Ask clients for a key; likewise key makes them."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; other machines only with --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Change nothing; another process may.")
    ] = False,
    most_bytes: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Bytes of a request.")
    ] = Settings.most_bytes,
    most_bytes_waiting: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Bytes of all requests in memory.")
    ] = Settings.most_bytes_waiting,
    most_pixels: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Pixels of an image.")
    ] = Settings.most_pixels,
    most_characters: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Characters of a text.")
    ] = Settings.most_characters,
    most_items: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Items of a request.")
    ] = Settings.most_items,
    most_neighbors: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Neighbors of an item.")
    ] = Settings.most_neighbors,
    most_concurrent: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Requests worked on at once.")
    ] = Settings.most_concurrent,
    most_connections: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Open connections.")
    ] = Settings.most_connections,
    most_per_second: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            rich_help_panel=LIMITS, show_default="no limit", help="Requests of a client per second."
        ),
    ] = Settings.most_per_second,
    batch: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Items encoded together.")
    ] = Settings.batch,
    wait_ms: Annotated[
        float,
        typer.Option(
            rich_help_panel=LIMITS, help="Milliseconds a batch waits for images being decoded."
        ),
    ] = Settings.wait_ms,
    body_seconds: Annotated[
        float,
        typer.Option(rich_help_panel=LIMITS, help="Seconds in which a request must have come."),
    ] = Settings.body_seconds,
    stop_seconds: Annotated[
        float,
        typer.Option(rich_help_panel=LIMITS, help="Seconds to finish requests when told to stop."),
    ] = Settings.stop_seconds,
    keep_most: Annotated[
        int, typer.Option(rich_help_panel=LIMITS, help="Unknowns kept; the oldest go first.")
    ] = Settings.keep_most,
    keep_days: Annotated[
        float, typer.Option(rich_help_panel=LIMITS, help="Days for which unknowns are kept.")
    ] = Settings.keep_days,
    device: Device = None,
) -> None:
    """Answer over HTTP, with a page at /, until stopped; a JSON log on standard error.

    MODEL may also be a folder that likewise export wrote; torch is then not needed.
    """
    import sys

    from likewise.runtime.exported import is_exported
    from likewise.service import open_service

    settings = Settings(
        most_bytes=most_bytes,
        most_bytes_waiting=most_bytes_waiting,
        most_pixels=most_pixels,
        most_characters=most_characters,
        most_items=most_items,
        most_neighbors=most_neighbors,
        most_concurrent=most_concurrent,
        most_connections=most_connections,
        most_per_second=most_per_second,
        batch=batch,
        wait_ms=wait_ms,
        body_seconds=body_seconds,
        stop_seconds=stop_seconds,
        keep_most=keep_most,
        keep_days=keep_days,
    )
    chosen = device or "cpu"
    if not is_exported(model):  # which is served without torch
        from likewise._devices import chosen_device

        chosen = chosen_device(device)
    application = open_service(
        model,
        gallery=gallery,
        keep=keep,
        keys=keys,
        read_only=read_only,
        device=chosen,
        settings=settings,
    )
    from likewise.service import running

    listening = running.listen(host, port, has_keys=keys is not None)
    at, number = listening.getsockname()[:2]
    shown = f"[{at}]" if ":" in at else at
    console.write_out(f"http://{shown}:{number}\n")
    running.log_to(sys.stderr)
    running.serve(application, listening)


def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of keys.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the client.")],
    write: Annotated[
        bool, typer.Option("--write", help="It may change known items, not only ask.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the client's key back.")] = False,
    as_json: Json = False,
) -> None:
    """Make a key for a client of the service, and show it this once; the file keeps its hash."""
    from likewise.service import make_key, remove_key

    if remove:
        if write:
            raise InputError("--remove must come without --write, got both. Give either.")
        remove_key(file, name)
        console.finish({"removed": name}, [f"removed the key of {name}"], as_json=as_json)
        return
    scope = "write" if write else "read"
    secret = make_key(file, name, "write" if write else "read")
    console.finish({"name": name, "scope": scope, "key": secret}, [secret], as_json=as_json)
