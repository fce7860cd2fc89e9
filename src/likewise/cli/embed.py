"""The command that writes embeddings as Parquet parts: `embed`."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from likewise.cli.options import (
    Data,
    Device,
    EncoderFrom,
    Json,
    Model,
    PartRows,
    Resume,
    Split,
    Workers,
    reads_data_with_ids,
)
from likewise.errors import InputError

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
@reads_data_with_ids
def embed(
    model: Model,
    source: Data,
    out: Annotated[Path, typer.Option(metavar="PARTS", help="Folder for the Parquet parts.")],
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Write share I of N, counted from 0, as one of N processes or machines.",
        ),
    ] = "0/1",
    workers: Workers = 0,
    resume: Resume = False,
    part_rows: PartRows = None,
    queries: Annotated[
        bool,
        typer.Option("--queries", help="Of two towers: embed queries instead of known items."),
    ] = False,
    split: Split = None,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Embed any number of items into Parquet parts, written as they come.

    Each part appears whole or not at all, so after a kill at any moment --resume goes on exactly.
    An item that cannot be read has a row with its error. `likewise gallery import` takes the parts
    into a gallery; calibrate, evaluate, match, lookup and drift take them as DATA.
    """
    import dataclasses

    from likewise.cli import in_parts, journeys
    from likewise.journeys.embed import embed_parts
    from likewise.journeys.index import place_of
    from likewise.journeys.opening import open_fitting

    number, count = _shard(shard)
    loaded = journeys.open_model(model, device, encoder_from=encoder_from)
    items = open_fitting(
        loaded,
        source,
        split,
        default_split="train",
        reading=dataclasses.replace(reading, unchecked=True),
        queries=queries,
    )
    in_parts.write(
        embed_parts,
        loaded,
        items,
        out,
        doing="embedding",
        what="items" if count == 1 else f"items of shard {number}/{count}",
        as_json=as_json,
        shard=number,
        shards=count,
        queries=queries,
        place=place_of(source),
        workers=workers,
        resume=resume,
        part_rows=part_rows,
    )


def _shard(text: str) -> tuple[int, int]:
    found = _SHARD.fullmatch(text.strip())
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 <= number < count:
        raise InputError(
            f"must be I/N with I from 0 to N - 1, such as 0/4, got {text!r}.", argument="shard"
        )
    return number, count
