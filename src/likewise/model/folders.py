"""Folders that are replaced in one step, and read only when every byte is as it was written."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from likewise._checks import check_format
from likewise._files import Lock, read_regular, sync_folder, write_whole
from likewise.errors import ArtifactError, InputError

MANIFEST = "model.json"
LOCK = "model.lock"
FORMAT = 4  # of the folder; raised when an older likewise could not read it
LARGEST_MANIFEST = 1 << 25  # bytes; as Python objects some 20 times as much
PATIENCE = 60.0  # seconds to wait for others that save, or to read between their saves

# What converting a value to a schema raises, that of a text which no encoding has among them.
UNREADABLE = (msgspec.ValidationError, RecursionError, UnicodeEncodeError)

_PARTS = "calibrated|cohort|cross_fit|encoder|index|queries|trained"
_STEM = rf"(?:{_PARTS})-[0-9a-f]{{12}}\.(?:json|safetensors)"
_PART = re.compile(_STEM)
_TEMPORARY = re.compile(rf"\.(?:model\.json|{_STEM})\.[0-9a-f]+\.part")
_T = TypeVar("_T")


class Part(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file beside the manifest; its name begins with what it is and ends its own checksum."""

    file: Annotated[str, msgspec.Meta(pattern=rf"^{_STEM}\Z")]  # so never outside of the folder
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Fresh:
    """A part to be written."""

    part: Part
    content: bytes

    @classmethod
    def of(cls, name: str, content: bytes) -> "Fresh":
        """The part called e.g. "index.json", with a name of its own."""
        checksum = hashlib.sha256(content).hexdigest()
        stem, suffix = name.split(".", 1)
        return cls(Part(f"{stem}-{checksum[:12]}.{suffix}", checksum, len(content)), content)


@dataclass(frozen=True)
class Folder:
    """A manifest as it was read, and the files that it names."""

    path: Path
    content: bytes
    manifest: dict[str, Any]
    files: dict[str, Part]

    def part(self, name: str, limit: int) -> bytes:
        """The content of a file, of at most `limit` bytes, if it is what was written.

        Raises:
            ArtifactError: it is missing, no regular file, truncated, altered or too large.
        """
        if name not in self.files:
            raise damaged(self.path, name)
        part = self.files[name]
        try:
            if part.bytes > limit:
                raise damaged(self.path, part.file)
            content = read_regular(self.path / part.file, part.bytes)
        except (InputError, OSError) as error:
            raise damaged(self.path, part.file) from error
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise damaged(self.path, part.file)
        return content


def check_target(path: Path) -> None:
    """Refuse a path where saving would fall on something that is no model.

    Raises:
        ArtifactError: it is a file, or a folder that holds something else.
    """
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"path must be a folder, got the file {str(path)!r}.")
    if path.is_dir() and not _is_model(path):
        # A first save that was killed leaves parts and no manifest.
        names = [file.name for file in path.iterdir()]
        known = all(_is_part(name) or name == LOCK for name in names)
        if not known and not _is_model(path):  # which another may have saved meanwhile
            raise ArtifactError(
                f"must be a new folder or an older model, got {str(path)!r}, which holds "
                "something else. Choose another name.",
                argument="path",
            )


def write_folder(
    path: Path,
    contents: Callable[[Folder | None], tuple[Mapping[str, Any], Mapping[str, "Fresh | Part"]]],
    written: Callable[[], None],
) -> None:
    """Write the parts and then the manifest that names them, all or nothing.

    One thread of one process at a time. Part files carry the start of their checksum in their
    name, so a new save never touches the files of an old one. Putting the manifest in place is
    the single step that makes the new model the one that is there. The files of the model before
    stay until the next save, for those who have read its manifest already.

    Args:
        path: The folder.
        contents: From the model that is there, None if there is no whole one, to the manifest and
            the parts: new ones, or files that are to stay. Called with the lock held.
        written: Called when the new model is the one that is there, with the lock held.

    Raises:
        ArtifactError: the folder holds something else, cannot be written, or is being written
            by another for longer than a minute.
    """
    check_target(path)
    made: list[Path] = []
    try:
        is_new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        with Lock(path / LOCK, patience=PATIENCE):
            older = _older(path)
            manifest, parts = contents(older)
            files = {}
            for name, part in parts.items():
                files[name] = part.part if isinstance(part, Fresh) else part
                target = path / files[name].file
                if isinstance(part, Fresh) and not _holds(target, part.content):
                    made.append(target)
                    write_whole(target, part.content)
            sync_folder(path)
            write_whole(path / MANIFEST, _sealed(manifest, files))
            made.clear()  # they are named now
            written()
            sync_folder(path)
            if is_new:
                sync_folder(path.parent)
            kept = [*files.values(), *({} if older is None else older.files).values()]
            _clean(path, {part.file for part in kept})
    except BlockingIOError as error:
        raise ArtifactError(
            f"path must be a folder that nobody else is writing, got {str(path)!r}, which has "
            f"been locked for {PATIENCE:.0f} seconds. Save again when the other has ended."
        ) from error
    except OSError as error:
        cause = error.__cause__ or error
        raise ArtifactError(
            f"path must be a folder that can be written, got {str(path)!r}: "
            f"{getattr(cause, 'strerror', None) or cause}. An older model there is as it was."
        ) from error
    finally:
        for file in made:
            file.unlink(missing_ok=True)


def read_folder(path: Path, read: Callable[[Folder], _T]) -> _T:
    """What `read` makes of a folder that `write_folder` wrote.

    Where another process replaced the model meanwhile, so that a part was gone, it is called
    again with the new one.

    Raises:
        ArtifactError: there is no such folder, another likewise wrote it, or a file of it is
            missing, truncated or altered.
    """
    end = time.monotonic() + PATIENCE
    while True:
        content = _manifest(path)
        try:
            return read(_opened(path, content))
        except ArtifactError:
            if time.monotonic() > end or _manifest(path) == content:
                raise


def damaged(path: Path, file: str) -> ArtifactError:
    """The sentence for a file that is not what was written."""
    return ArtifactError(
        f"model must be whole, got {str(path)!r}, in which {file} is missing or damaged. "
        "Copy it again, or train anew."
    )


def _manifest(path: Path) -> bytes:
    try:
        return read_regular(path / MANIFEST, LARGEST_MANIFEST)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        if isinstance(error, InputError):
            raise damaged(path, MANIFEST) from error
        from likewise.runtime.exported import is_exported  # slow, and only needed here

        if is_exported(path):
            raise ArtifactError(
                f"must be a folder saved by likewise, got {str(path)!r}, which holds an export.",
                argument="path",
                remedy="Use likewise.runtime.load, or give the model that was exported.",
                command="Use likewise serve, likewise.runtime.load in Python, or the model that "
                "was exported.",
            ) from error
        raise ArtifactError(
            f"must be a folder saved by likewise, got {str(path)!r} without {MANIFEST}.",
            argument="path",
            remedy="Make one with SimilarityModel.save, or with `likewise train`.",
            command="Make one with likewise train DATA --out FOLDER.",
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"path must be a folder that can be read, got {str(path)!r}: {error.strerror}. "
            "Look at its permissions."
        ) from error


def _opened(path: Path, content: bytes) -> Folder:
    try:
        manifest = json.loads(content)
        written = manifest["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(path, MANIFEST) from error
    check_format(f"model {str(path)!r}", written, FORMAT)
    try:
        if manifest.pop("checksum", None) != _checksum(manifest):
            raise damaged(path, MANIFEST)
        files = msgspec.convert(manifest.pop("files", None), dict[str, Part])
    except UNREADABLE as error:
        raise damaged(path, MANIFEST) from error
    del manifest["format"]
    return Folder(path, content, manifest, files)


def _sealed(manifest: Mapping[str, Any], files: Mapping[str, Part]) -> bytes:
    # Read back, so that the checksum is of what a reader will find: texts for keys, no tuples.
    whole = {"format": FORMAT, **manifest, "files": msgspec.to_builtins(files)}
    whole = json.loads(json.dumps(whole))
    text = json.dumps({"checksum": _checksum(whole), **whole}, indent=2).encode()
    if len(text) > LARGEST_MANIFEST:
        raise ArtifactError(
            f"model must describe itself in at most {LARGEST_MANIFEST:,} bytes, got {len(text):,}. "
            "Keep less in origin."
        )
    return text


def _checksum(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _holds(file: Path, content: bytes) -> bool:
    try:
        return read_regular(file, len(content)) == content
    except (InputError, OSError):
        return False


def _older(path: Path) -> Folder | None:
    """The model that is there; None where there is none, or none that can be read."""
    try:
        return _opened(path, _manifest(path))
    except ArtifactError:
        return None


def _is_model(path: Path) -> bool:
    try:
        manifest = json.loads(read_regular(path / MANIFEST, LARGEST_MANIFEST))
        return "format" in manifest and "likewise" in manifest
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _is_part(name: str) -> bool:
    return bool(_PART.fullmatch(name) or _TEMPORARY.fullmatch(name))


def _clean(path: Path, kept: set[str]) -> None:
    """Remove parts that no manifest of now or just before names, and what killed saves left."""
    for name in os.listdir(path):
        if _is_part(name) and name not in kept:
            (path / name).unlink(missing_ok=True)
