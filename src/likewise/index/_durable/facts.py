"""What a gallery knows of itself, and the file that tells which batch was acknowledged last."""

import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from likewise._files import sync_folder, write_whole
from likewise.errors import InputError

FORMAT = 1  # of the folder; raised when an older likewise could not read it
ACKNOWLEDGED = "gallery.acknowledged"
_SLOT = 4096  # a torn write of one copy leaves the other whole
_HEAD = struct.Struct("<8sII")  # mark, length of the text, its checksum
_MARK = b"likewise"


@dataclass(frozen=True)
class Facts:
    """What a gallery is made for and, after each batch, what it holds."""

    key: str  # random; files of two galleries are told apart by it
    distance: str
    encoder: str | None
    dimension: int | None = None
    storage: str = "float32"  # of the embeddings
    kind: str | None = None  # of the ids: "integers" or "strings"
    next_id: int = 0
    next_position: int = 0
    items: int = 0
    total: int = 0  # the sum of the checksums of all rows
    names: int = 0  # of classes
    batches: int = 0  # committed so far
    logged_since: int = 0  # batches before this one left no log of their changes
    format: int = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def of_text(cls, text: bytes) -> "Facts":
        """The inverse of `text`.

        Raises:
            InputError: it is none, or of another format.
        """
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise InputError(f"format {values['format']} is not {FORMAT}")
        return cls(**values)


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
    """The newer of the copies that are whole; None if neither is."""
    try:
        content = (folder / ACKNOWLEDGED).read_bytes()
    except OSError:
        return None
    found = [_facts(content[start : start + _SLOT]) for start in (0, _SLOT)]
    return max((facts for facts in found if facts), key=lambda facts: facts.batches, default=None)


def _slot(facts: Facts) -> bytes:
    text = facts.text().encode()
    return (_HEAD.pack(_MARK, len(text), zlib.crc32(text)) + text).ljust(_SLOT, b"\0")


def _facts(slot: bytes) -> Facts | None:
    try:
        mark, length, checksum = _HEAD.unpack(slot[: _HEAD.size])
        text = slot[_HEAD.size : _HEAD.size + length]
        whole = mark == _MARK and zlib.crc32(text) == checksum
        return Facts.of_text(text) if whole else None
    except (struct.error, ValueError, TypeError, KeyError):
        return None
