"""Folders that are replaced in one step, and read only when every byte is as it was written."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likewise._files import write_whole
from likewise.errors import ArtifactError

MANIFEST = "model.json"
FORMAT = 1  # of the folder; raised when an older likewise could not read it


def check_target(folder: Path) -> None:
    """Refuse a path where saving would fall on something that is no model.

    Raises:
        ArtifactError: it is a file, or a folder that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"path must be a folder, got the file {str(folder)!r}.")
    if folder.is_dir() and any(folder.iterdir()) and _named_files(folder) is None:
        raise ArtifactError(
            f"must be a new folder or an older model, got {str(folder)!r}, which holds something "
            "else. Choose another name.",
            argument="path",
        )


def write_folder(folder: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
    """Write the parts and then the manifest that names them, all or nothing.

    Part files carry the start of their checksum in their name, so a new save never touches the
    files of an old one; putting the manifest in place is the single step that makes the new
    model the one that is there. Files that no manifest names any more go last.

    Raises:
        ArtifactError: the folder holds something else, or cannot be written.
    """
    check_target(folder)
    older = _named_files(folder) or set()
    made: list[Path] = []
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            checksum = hashlib.sha256(content).hexdigest()
            stem, suffix = name.split(".", 1)
            target = folder / f"{stem}-{checksum[:12]}.{suffix}"
            files[name] = {"file": target.name, "sha256": checksum}
            if not target.exists() or target.read_bytes() != content:
                made.append(target)
                write_whole(target, content)
        text = json.dumps({"format": FORMAT, **manifest, "files": files}, indent=2)
        write_whole(folder / MANIFEST, text.encode())
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        cause = error.__cause__ or error
        raise ArtifactError(
            f"path must be a folder that can be written, got {str(folder)!r}: "
            f"{getattr(cause, 'strerror', None) or cause}. An older model there is as it was."
        ) from error
    for stale in older - {entry["file"] for entry in files.values()}:
        (folder / stale).unlink(missing_ok=True)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the parts of a folder that `write_folder` wrote.

    Raises:
        ArtifactError: there is no such folder, a newer likewise wrote it, or a file of it is
            missing, truncated or altered.
    """
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"must be a folder saved by likewise, got {str(folder)!r} without {MANIFEST}.",
            argument="path",
            remedy="Make one with SimilarityModel.save, or with `likewise train`.",
            command="Make one with likewise train DATA --out FOLDER.",
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        written = manifest["format"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(folder, MANIFEST) from error
    if written != FORMAT:
        raise ArtifactError(
            f"model must be of format {FORMAT}, got {written!r} in {str(folder)!r}. "
            "Install a newer likewise to read it."
        )
    try:
        files = manifest["files"]
        expected = {name: (entry["file"], entry["sha256"]) for name, entry in files.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise damaged(folder, MANIFEST) from error
    parts = {}
    for name, (file, checksum) in expected.items():
        try:
            # Only the bare name counts: a manifest must not reach outside of its folder.
            parts[name] = (folder / Path(file).name).read_bytes()
        except (OSError, TypeError, ValueError) as error:
            raise damaged(folder, str(file)) from error
        if hashlib.sha256(parts[name]).hexdigest() != checksum:
            raise damaged(folder, file)
    return manifest, parts


def damaged(folder: Path, file: str) -> ArtifactError:
    """The sentence for a file that is not what was written."""
    return ArtifactError(
        f"model must be whole, got {str(folder)!r}, in which {file} is missing or damaged. "
        "Copy it again, or train anew."
    )


def _named_files(folder: Path) -> set[str] | None:
    """The part files that the folder's manifest names; None if it is no manifest of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if "format" not in manifest or "likewise" not in manifest:
            return None
        # Only bare names count: a manifest must not reach outside of its folder.
        return {Path(entry["file"]).name for entry in manifest["files"].values()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def encoder_fingerprint(encoder: nn.Module) -> str:
    """By which an encoder is known again: a hash of its class, its arguments and its weights."""
    digest = hashlib.sha256(type(encoder).__name__.encode())
    digest.update(json.dumps(getattr(encoder, "config", None), sort_keys=True).encode())
    for name, weight in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
