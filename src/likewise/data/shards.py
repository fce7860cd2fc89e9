"""WebDataset tar shards: samples of files of one name, read without unpickling anything."""

import io
import json
import re
import tarfile
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from likewise._files import open_regular
from likewise.data.images import image_in, is_image_name
from likewise.errors import InputError, MissingFileError

LARGEST = 1 << 28  # bytes of one file in a shard
_LABELS = ("cls", "label")
_TEXTS = ("txt", "text")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 100_000  # shards


class TarShards(IterableDataset[tuple[Any, Any]]):
    """Items with labels from tar files in the layout of WebDataset, one after another.

    The files of a sample have one name and differ behind its first dot, and follow each other:
    an image, an .npy or a .txt is the item; a .cls, a .label, or "label" in a .json its label.
    A .txt beside an image or an array is its label too. All else is passed over: pickles and
    torch files are never read, and an .npy that holds objects is refused.

    Args:
        shards: the tar files in order: paths, or patterns such as "train-{000..015}.tar".

    Raises:
        FileNotFoundError: a shard is not there.
        InputError: there is none, or when read: a shard or a file in it is damaged.
    """

    def __init__(self, shards: str | Path | Sequence[str | Path]) -> None:
        given = [shards] if isinstance(shards, (str, Path)) else list(shards)
        self.shards = [path for each in given for path in _expanded(str(each))]
        if not self.shards:
            raise InputError("shards must name at least one tar file, got none.")
        for path in self.shards:
            if not path.exists():
                raise MissingFileError(
                    f"must name tar files that exist, got {str(path)!r}.", argument="shards"
                )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for path in self.shards:
            for name, files in _samples(path):
                sample = _sample(f"{path}/{name}", files)
                if sample is not None:
                    yield sample


def is_shards(source: str | Path) -> bool:
    """Whether a source names tar shards."""
    return str(source).lower().endswith(".tar")


def _expanded(pattern: str) -> list[Path]:
    found = _RANGE.search(pattern)
    if found is None:
        return [Path(pattern).expanduser()]
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < _MOST:
        raise InputError(
            f"shards must run from a smaller to a larger number, got {found[0]!r}.",
        )
    numbers = range(int(first), int(last) + 1)
    names = (
        f"{pattern[: found.start()]}{n:0{len(first)}d}{pattern[found.end() :]}" for n in numbers
    )
    return [path for name in names for path in _expanded(name)]


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files of each sample by what follows the first dot of their names."""
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r|") as shard:
            name = ""
            files: dict[str, bytes] = {}
            for member in shard:
                folder, _, last = member.name.rpartition("/")
                stem, dot, suffix = last.partition(".")
                if not member.isreg() or not dot or not stem:
                    continue
                if member.size > LARGEST:
                    raise InputError(
                        f"{member.name!r} in {str(path)!r} must have at most {LARGEST:,} bytes, "
                        f"got {member.size:,}. Make it smaller."
                    )
                whole = f"{folder}/{stem}" if folder else stem
                if whole != name and files:
                    yield name, files
                    files = {}
                content = shard.extractfile(member)
                name, files[suffix.lower()] = whole, b"" if content is None else content.read()
            if files:
                yield name, files
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"{str(path)!r} must be a whole tar file, got one that cannot be read ({error})."
        ) from error


def _sample(name: str, files: dict[str, bytes]) -> tuple[Any, Any] | None:
    """An item with its label; None where there is no item."""
    items = [key for key in files if is_image_name(f"x.{key}") or key == "npy"]
    texts = [key for key in files if key in _TEXTS]
    label: Any = None
    told = next((key for key in (*_LABELS, *(texts if items else ())) if key in files), None)
    if told is not None:
        text = _text(name, told, files[told]).strip()
        label = int(text) if told == "cls" and re.fullmatch(r"-?\d{1,18}", text) else text
    elif "json" in files:
        try:
            found = json.loads(files["json"])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{f'{name}.json'!r} must be JSON, got something else.") from error
        label = found.get("label") if isinstance(found, dict) else None
    if items:
        return _item(f"{name}.{items[0]}", items[0], files[items[0]]), label
    return (_text(name, texts[0], files[texts[0]]), label) if texts else None


def _text(name: str, suffix: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{f'{name}.{suffix}'!r} must be text in UTF-8, got something else."
        ) from error


def _item(name: str, suffix: str, content: bytes) -> Any:
    if suffix != "npy":
        return image_in(content, name)
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, tokenize.TokenError, MemoryError) as error:
        raise InputError(
            f"{name!r} must be a whole plain array, got a damaged or a pickled one; pickles are "
            "never loaded."
        ) from error
