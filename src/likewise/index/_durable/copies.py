"""Galleries copied while they are in use, and galleries put into one."""

import shutil
import sqlite3
import uuid
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np

from likewise._checks import check_choice
from likewise._files import sync_folder
from likewise.errors import GalleryError, InputError
from likewise.index._durable.connection import DATABASE, connect
from likewise.index._durable.contract import Facts, create_acknowledged
from likewise.index._durable.damage import damaged, sentence
from likewise.index._durable.database import FACTS, Database
from likewise.index._durable.folder import InFolder
from likewise.index._searching.storage import pack
from likewise.index._snapshots import Snapshot
from likewise.index._store import NONE, Added, Given


def backup(folder: Path, path: Path) -> Path:
    """Copy the gallery in `folder` into the new folder `path`, which appears whole or not at all.

    Through a connection of its own, so that others read and write meanwhile.

    Raises:
        GalleryError: the folder is there already, or cannot be written.
    """
    if path.exists():
        raise GalleryError(
            f"path must be a new folder, got {str(path)!r}, which is there. Choose another name."
        )
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        with closing(connect(folder, read_only=True)[0]) as source:
            with closing(sqlite3.connect(part / DATABASE)) as target:
                source.backup(target)
                ((text, checksum),) = target.execute(FACTS).fetchall()
        if zlib.crc32(text.encode()) != checksum:
            raise damaged(folder, "what it says of itself is not what was written")
        create_acknowledged(part, Facts.of_text(text.encode(), folder))
        part.rename(path)
        sync_folder(path.parent)
    except (sqlite3.Error, OSError) as error:
        raise sentence(path, error, writing=True) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return path


def merge(
    store: InFolder, here: Snapshot, other: Database, there: Snapshot, on_conflict: str | None
) -> int:
    """Take the items of `there` into `store`, in one batch; gives back how many came.

    Args:
        store: Store of the gallery that grows.
        here: its items.
        other: Store of the other gallery.
        there: the items of that.
        on_conflict: "keep", "replace", or None to refuse.

    Raises:
        InputError: the galleries do not fit together, or an id is in both.
    """
    if on_conflict is not None:
        check_choice("on_conflict", on_conflict, ["keep", "replace"])
    _check_alike(here, there)
    ids = there.ids_at(np.arange(len(there))).tolist()
    given = Given(ids, here.keys_for(ids))
    rows = here.rows_of(given)
    clashes = np.flatnonzero(rows >= 0)
    if len(clashes) and on_conflict is None:
        more = f" and {len(clashes) - 1} more" if len(clashes) > 1 else ""
        raise InputError(
            f"ids must be in one of the galleries only, got {ids[clashes[0]]!r}{more} in both. "
            'Use on_conflict="keep" or on_conflict="replace".'
        )
    coming = np.flatnonzero(rows < 0) if on_conflict == "keep" else np.arange(len(there))
    if not len(coming):
        return 0
    names = list(here.class_names)
    codes = there.labels.numpy()[coming]
    if there.class_names:
        code_of = {name: code for code, name in enumerate(names)}
        new = [code_of.setdefault(name, len(code_of)) for name in there.class_names]
        names = list(code_of)
        codes = np.append(np.array(new), -1)[codes]  # -1 stays -1
    positions = there.positions[coming].tolist()
    texts = other.parts("metadata", positions)
    added = Added(
        given=Given([ids[row] for row in coming.tolist()], given.keys[coming]),
        labels=codes,
        packed=pack(there.embeddings[coming], here.facts.storage),
        metadata=["{}" if text is None else text.decode() for text in texts],
        payloads=other.parts("payload", positions),
        prints=there.fingerprints[coming],
    )
    gone = rows[clashes] if on_conflict == "replace" else NONE
    store.commit(here, class_names=names, added=added, removed=gone)
    return len(coming)


def _check_alike(here: Snapshot, there: Snapshot) -> None:
    for name in ("distance", "encoder", "dimension", "kind"):
        ours, theirs = getattr(here.facts, name), getattr(there.facts, name)
        is_open = name in ("dimension", "kind") and not (len(here) and len(there))
        if ours != theirs and not (is_open and None in (ours, theirs)):
            shown = "ids" if name == "kind" else name
            raise InputError(
                f"other must have the {shown} of this gallery, {ours!r}, got {theirs!r}. "
                "Only galleries of the same encoder can be merged."
            )
    if len(here) and len(there) and bool(here.class_names) != bool(there.class_names):
        raise InputError(
            "other must have class names where this gallery has, and none where it has none, got "
            f"{len(there.class_names)} and {len(here.class_names)}. Relabel one of them first."
        )
