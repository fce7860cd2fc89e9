"""What a gallery knows of itself, and the file that tells which batch was acknowledged last."""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from likewise._checks import check_format
from likewise._files import sync_folder, write_whole
from likewise.distances import NAMED
from likewise.errors import GalleryError, InputError

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

FORMAT = 2  # of the folder; raised when an older likewise could not read it
ACKNOWLEDGED = "gallery.acknowledged"
_SLOT = 4096  # a torn write of one copy leaves the other whole
_HEAD = struct.Struct("<8sII")  # mark, length of the text, its checksum
_MARK = b"likewise"


class Facts(msgspec.Struct, frozen=True):
    """What a gallery is made for and, after each batch, what it holds."""

    key: str  # random; files of two galleries are told apart by it; empty for an index in memory
    distance: str
    encoder: str | None
    dimension: Annotated[int, msgspec.Meta(ge=1, le=2**24)] | None = None
    storage: Literal["float32", "float16", "int8"] = "float32"  # of the embeddings
    kind: Literal["integers", "strings"] | None = None  # of the ids
    next_id: Annotated[int, msgspec.Meta(ge=0)] = 0
    next_position: Count = 0
    items: Count = 0
    total: int = 0  # the sum of the checksums of all rows
    names: Count = 0  # of classes
    batches: Count = 0  # committed so far
    logged_since: Count = 0  # batches before this one left no log of their changes
    format: int = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(msgspec.structs.asdict(self), ensure_ascii=False)

    @classmethod
    def of_text(cls, text: bytes, place: Path) -> "Facts":
        """The inverse of `text`.

        Args:
            text: What was written.
            place: Folder of the gallery.

        Raises:
            GalleryError: it is of another format.
            InputError: it is none.
        """
        try:
            told = msgspec.json.decode(text, type=dict[str, object])
            written = told.get("format", FORMAT)
            check_format(f"gallery {str(place)!r}", written, FORMAT, GalleryError)
            facts = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"facts must be those of a gallery, got {error}.") from error
        is_sound = (
            told.keys() == {*cls.__struct_fields__}
            and facts.distance in NAMED
            and facts.items <= facts.next_position
            and facts.next_id <= 2**63
            and 0 <= facts.total < 2**64
            and (not facts.items or None not in (facts.dimension, facts.kind))
        )
        if not is_sound:
            raise InputError("facts must fit together, got some that do not.")
        return facts


def create_acknowledged(folder: Path, facts: Facts) -> None:
    """Write both copies."""
    write_whole(folder / ACKNOWLEDGED, _slot(facts) * 2)
    sync_folder(folder)


def acknowledge(folder: Path, facts: Facts) -> None:
    """Write the older of the two copies over, and wait until it is on disk."""
    with (folder / ACKNOWLEDGED).open("r+b", buffering=0) as file:
        file.seek(facts.batches % 2 * _SLOT)
        file.write(_slot(facts))
        os.fsync(file.fileno())


def last_acknowledged(folder: Path) -> Facts | None:
    """The newer of the copies that are whole; None if neither is.

    Raises:
        GalleryError: they are of another format.
    """
    try:
        with (folder / ACKNOWLEDGED).open("rb") as file:
            content = file.read(2 * _SLOT)
    except OSError:
        return None
    found = [_facts(content[start : start + _SLOT], folder) for start in (0, _SLOT)]
    return max((facts for facts in found if facts), key=lambda facts: facts.batches, default=None)


def _slot(facts: Facts) -> bytes:
    text = facts.text().encode()
    return (_HEAD.pack(_MARK, len(text), zlib.crc32(text)) + text).ljust(_SLOT, b"\0")


def _facts(slot: bytes, folder: Path) -> Facts | None:
    try:
        mark, length, checksum = _HEAD.unpack(slot[: _HEAD.size])
        text = slot[_HEAD.size : _HEAD.size + length]
        whole = mark == _MARK and zlib.crc32(text) == checksum
        return Facts.of_text(text, folder) if whole else None
    except GalleryError:
        raise
    except (struct.error, InputError):
        return None
