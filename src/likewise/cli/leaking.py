"""The command that finds items which data hold twice, or share with other data: `leaks`."""

from typing import Annotated, Any, Optional

import typer

from likewise.cli import console
from likewise.cli.options import Cache, Data, Device, EncoderFrom, Json, Split, reads_data
from likewise.errors import InputError


# Nothing heavy is imported up here: `likewise --help` must not wait for torch.
@reads_data
def leaks(
    source: Data,
    other: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="OTHER", help="Data that should share no item with DATA."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="MODEL",
            help="Also find near-duplicates: items that this model sees at most --within apart.",
        ),
    ] = None,
    within: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Largest distance of near-duplicates, in the distance of the model."),
    ] = None,
    most: Annotated[int, typer.Option(help="Pairs shown; --json has all.")] = 20,
    split: Split = None,
    other_split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Part of OTHER, as --split is of DATA."),
    ] = None,
    image_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Side that images are resized to.",
            show_default="the size that all of DATA have, else 64",
        ),
    ] = None,
    cache: Cache = None,
    encoder_from: EncoderFrom = None,
    device: Device = None,
    as_json: Json = False,
    *,
    reading: Any,
) -> None:
    """Find items that stand twice in DATA, or in DATA and in OTHER, and the classes both have.

    Items are the same that are equal in every value as they are read; with --model also those that
    look alike to it, such as a copy of another size.
    """
    from likewise._checks import check_count
    from likewise.cli import journeys
    from likewise.journeys.shared_items import find_leaks, open_to_compare

    check_count("most", most)
    if (model is None) != (within is None):  # before the work rather than after it
        given, missing = ("--within", "model") if model is None else ("--model", "within")
        raise InputError(f"must be given with {given}, got none.", argument=missing)
    for name, value in (("cache", cache), ("encoder_from", encoder_from), ("device", device)):
        if value is not None and model is None:
            raise InputError(f"must come with --model, got {str(value)!r} alone.", argument=name)
    if other is None and other_split is not None:
        raise InputError(
            f"must come with OTHER, got {other_split!r} alone.", argument="other_split"
        )
    loaded = None
    if model is not None:
        loaded = journeys.open_model(model, device, cache=cache, encoder_from=encoder_from)
    with console.warnings_as_lines():
        parts = open_to_compare(
            source,
            other,
            split=split,
            other_split=other_split,
            image_size=image_size,
            model=loaded,
            reading=reading,
        )
    with console.warnings_as_lines(), console.progress("embedding") as show:
        found = find_leaks(
            *parts,
            model=loaded,
            within=within,
            names=(_name(source, split), _name(str(other), other_split)),
            progress=show,
        )
    rows = [
        [a, a_label, b, b_label, f"{distance:.4g}"]
        for a, a_label, b, b_label, distance in found.rows(most)
    ]
    lines = found.headline()
    if rows:
        lines += console.columns([["item", "label", "same as", "label", "distance"], *rows])
    if len(found.pairs) > len(rows):
        lines.append(f"and {len(found.pairs) - len(rows):,} more pairs")
    console.finish(found.to_dict(), lines, as_json=as_json)


def _name(source: str, split: str | None) -> str:
    return source if split is None else f"{source}, {split}"
