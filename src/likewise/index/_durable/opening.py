"""Opening a gallery: what is asked for meets what the folder was made for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from likewise._checks import check_choice, check_count, check_rate
from likewise.distances import COSINE, NAMED, Distance
from likewise.errors import GalleryError, InputError, InputTypeError
from likewise.index._durable.connection import DATABASE
from likewise.index._durable.damage import check_regular, is_there
from likewise.index._durable.facts import Facts, last_acknowledged
from likewise.index._durable.live import Live
from likewise.index._given import check_storable
from likewise.index._searching.storage import STORAGES
from likewise.index._snapshots import Snapshot

_LONGEST_NAME = 500  # of an encoder; it has to fit beside the other facts


@dataclass(frozen=True)
class Asked:
    """What a caller says a gallery is, or shall be, made for."""

    distance: Distance | None
    encoder: str | None
    dimension: int | None
    storage: str | None
    class_names: Sequence[str]


def opened(folder: Path, asked: Asked, *, recall: float | None, read_only: bool) -> Live:
    """The gallery in `folder`; a new one where none is, unless it is to be read only.

    Raises:
        TypeError, ValueError: no gallery can be made for what is asked.
        GalleryError: the folder holds something else, or a gallery that was made for something
            else, is damaged, in use or cannot be written.
    """
    _check_asked(asked)
    if recall is not None:
        check_rate("recall", recall)
    check_regular(folder)
    holds_gallery = is_gallery(folder)
    if read_only and not holds_gallery:
        raise GalleryError(
            f"must be the folder of a gallery, got {str(folder)!r}.",
            argument="path",
            remedy="Open it without read_only=True to make one.",
            command="Make one with likewise index MODEL DATA --gallery FOLDER.",
        )
    if not holds_gallery:
        _check_free(folder)
    facts = Facts(
        key=uuid4().hex,
        distance=(asked.distance or COSINE).name,
        encoder=asked.encoder,
        dimension=asked.dimension,
        storage=asked.storage or "float32",  # type: ignore[arg-type]  # one of them, as checked
        names=len(asked.class_names),
    )
    made_for = None if read_only else facts
    live = Live(
        folder, read_only=read_only, made_for=made_for, names=asked.class_names, recall=recall
    )
    try:
        _check_contract(folder, live.current, asked)
    except BaseException:
        live.close()
        raise
    return live


def is_gallery(folder: Path) -> bool:
    """Whether `folder` holds a gallery, whole or not.

    Raises:
        GalleryError: that may not be known.
    """
    return is_there(folder, DATABASE) or last_acknowledged(folder) is not None


def _check_asked(asked: Asked) -> None:
    if asked.distance is not None and asked.distance not in NAMED.values():
        raise InputTypeError(
            f"distance must be one of likewise.distances, got {asked.distance!r}. A folder can "
            "only name a distance; use Index for one of your own."
        )
    if asked.encoder is not None:
        check_encoder(asked.encoder)
    if asked.dimension is not None:
        check_count("dimension", asked.dimension)
    if asked.storage is not None:
        check_choice("storage", asked.storage, STORAGES)
    if len(set(asked.class_names)) != len(asked.class_names):
        raise InputError(f"class_names must all differ, got {list(asked.class_names)}.")
    check_storable([], asked.class_names)


def check_encoder(encoder: object) -> None:
    """Refuse what no gallery can name its encoder by.

    Raises:
        InputTypeError: it is no text.
        InputError: it is too long, or cannot be stored.
    """
    if not isinstance(encoder, str):
        raise InputTypeError(
            f"encoder must be text, got {encoder!r}. Use the encoder's fingerprint."
        )
    if len(encoder) > _LONGEST_NAME:
        raise InputError(
            f"encoder must have at most {_LONGEST_NAME} characters, got {len(encoder)}. "
            "Use a fingerprint."
        )
    check_storable([encoder], [])


def _check_contract(folder: Path, now: Snapshot, asked: Asked) -> None:
    facts, names = now.facts, list(asked.class_names)
    pairs: list[tuple[str, object, object]] = [
        ("distance", facts.distance, asked.distance and asked.distance.name),
        ("encoder", facts.encoder, asked.encoder),
        ("dimension", facts.dimension, asked.dimension if facts.dimension else None),
        ("storage", facts.storage, asked.storage),
        ("class_names", list(now.class_names[: len(names)]), names or None),
    ]
    for name, made, given in pairs:
        if given is not None and given != made:
            raise GalleryError(
                f"{name} must be {made!r}, as the gallery {str(folder)!r} was made with, got "
                f"{given!r}. Leave it out, or make another gallery."
            )


def _check_free(folder: Path) -> None:
    # Whoever was killed while making a gallery may have left a first file of it.
    if folder.exists() and not (
        folder.is_dir() and all(file.name.startswith("gallery.") for file in folder.iterdir())
    ):
        raise GalleryError(
            f"path must be a new folder or a gallery, got {str(folder)!r}, which is something "
            "else. Choose another name."
        )
