"""Items in a folder that lasts, and in memory, kept the same."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Bool, Int
from msgspec.structs import replace
from torch import Tensor

from likewise.distances import COSINE, NAMED, by_name
from likewise.errors import GalleryError, InputTypeError
from likewise.index._answers import Items
from likewise.index._asked import Asked
from likewise.index._durable import kept, mapped
from likewise.index._durable.checksums import (
    Integers,
    part_checksums,
    relabeled,
    row_checksums,
    total,
)
from likewise.index._durable.connection import DATABASE
from likewise.index._durable.contract import Facts, last_acknowledged
from likewise.index._durable.damage import check_regular, is_there
from likewise.index._durable.database import Database
from likewise.index._given import check_enough, whole_prints
from likewise.index._snapshots import Chunk, Held, Snapshot, chunk_of, facts_after
from likewise.index._store import NONE, Added
from likewise.index._where import Column, Condition, Filters


class InFolder:
    """The one place where folder and memory change: first the folder, then the memory.

    A thread that writes holds `lock`. Others look things up in `current`, which is put in place
    whole, so they see whole batches only. Where the folder is read only, another process may
    write it; `reading` takes in what it wrote. A fork of the process may use none of it.

    Args:
        folder: Folder of the gallery.
        read_only: see `Database`.
        made_for: see `Database`.
        names: see `Database`.
        recall: see `Search`.
        approximate: likewise.
        may_map: open by mapping the file beside the database; else every row is read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool,
        made_for: Facts | None = None,
        names: Sequence[str] = (),
        recall: float | None = None,
        approximate: str = "IVF",
        may_map: bool = True,
    ) -> None:
        self.recall = recall
        self.approximate = approximate
        self.folder = folder
        self.read_only = read_only
        self.is_open = True
        self.held: Held
        self._filters = Filters()
        self._columns: dict[str, Column] = {}
        self.database = Database(folder, read_only=read_only, made_for=made_for, names=names)
        try:
            with self.database.reading():
                facts = self.database.facts()
                self.distance = by_name(facts.distance)
                self._open(facts, may_map)
        except BaseException:
            self.database.close()
            raise

    @property
    def current(self) -> Snapshot:
        """The items as they were last seen, by whatever thread."""
        return self.held.current

    @property
    def facts(self) -> Facts:
        """What the gallery is made for and holds, as last seen."""
        return self.held.current.facts

    @property
    def shown(self) -> str:
        """Where it is and what it holds, in few words."""
        facts = self.facts
        told = f"{facts.distance}, {facts.items} items, dimension {facts.dimension}"
        return f"{str(self.folder)!r}, {told}"

    def close(self) -> None:
        """Give the files back; nothing can be read or written any more."""
        if not self.database.is_of_this_process:  # another thread may have held the lock meanwhile
            self.is_open = False
            return
        with self.held.lock:
            if self.is_open and not self.read_only:
                self._map()
            self.is_open = False
            self.database.close()

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """The newest items, which the folder has exactly as well while this lasts."""
        self._check_open()
        with self.held.lock:
            self._check_open()
            if self.read_only:
                self.database.refresh(self.current.facts.batches)
            with self.database.reading():
                self._catch_up()
                yield self.current

    @contextmanager
    def writing(self) -> Iterator[Snapshot]:
        """The newest items, which nobody else changes while this lasts."""
        self._check_open()
        with self.held.lock:
            self._check_open()
            if self.read_only:
                raise GalleryError(
                    f"gallery must be opened for writing, got {str(self.folder)!r} with "
                    "read_only=True. Open it with Gallery(path)."
                )
            with self.database.reading():
                self._catch_up()  # where the last batch was interrupted after it was stored
            yield self.current

    def newest(self) -> Snapshot:
        """The newest items."""
        if self.read_only:
            with self.reading() as snapshot:
                return snapshot
        self._check_open()
        return self.current

    def chosen(self, condition: Condition | None) -> tuple[Snapshot, Bool[Tensor, " n"] | None]:
        """The newest items, and which of them pass."""
        if condition is None:
            return self.newest(), None
        with self.reading() as now:
            check_enough(1, len(now))
            mask = self._filters.mask(now.positions, condition, self.database.metadata_at)
            return now, torch.from_numpy(mask)

    def commit(
        self,
        now: Snapshot,
        *,
        class_names: Sequence[str],
        added: Added | None = None,
        removed: Integers = NONE,
        changed: Integers = NONE,
        labels: Integers = NONE,
    ) -> None:
        """Store one batch; on failure nothing is changed."""
        facts = now.facts
        gone = now.positions[removed]
        moved = now.positions[changed]
        with self.database.reading():
            old_gone = self.database.checksums(gone)
            old_moved = self.database.checksums(moved)
        new_moved = relabeled(old_moved, now.labels.numpy()[changed], labels)
        chunk, rows = (None, iter(())) if added is None else _rows(facts.next_position, added)
        new = NONE if chunk is None else chunk.checksums
        facts = replace(
            facts_after(facts, added=chunk, removed=len(gone)),
            total=(facts.total - total(old_gone) - total(old_moved) + total(new_moved) + total(new))
            % 2**64,
            names=len(class_names),
        )
        kept = len(now.class_names)
        if tuple(class_names[:kept]) != now.class_names:
            kept = 0
        self.database.commit(
            facts,
            removed=gone.tolist(),
            rows=rows,
            labels=zip(labels.tolist(), new_moved.tolist(), moved.tolist(), strict=True),
            names=class_names[kept:],
            changes=[
                *zip(gone.tolist(), old_gone.tolist(), strict=True),
                *zip(moved.tolist(), old_moved.tolist(), strict=True),
            ],
        )
        self.held.take_in(
            facts,
            class_names,
            removed=removed,
            changed=changed,
            labels=labels,
            added=[] if chunk is None else [chunk],
        )
        self.database.acknowledge(facts)

    def reserve(self, count: int) -> None:
        """Make room in memory for `count` items in all."""
        self._check_open()
        self.held.reserve(count)

    def clear(self, now: Snapshot) -> None:
        """Forget all items."""
        self.commit(now, class_names=now.class_names, removed=np.arange(len(now)))

    def items(self, now: Snapshot, rows: Integers) -> Items:
        """What is stored in these rows."""
        return now.items(rows, self.metadata(now, rows))

    def metadata(self, now: Snapshot, rows: Integers | None = None) -> list[dict[str, Any]]:
        """Of these rows, or of all."""
        return self.database.metadata(now.positions if rows is None else now.positions[rows])

    def payloads(self, now: Snapshot, rows: Integers | None = None) -> list[bytes | None]:
        """Of these rows, or of all."""
        positions = now.positions if rows is None else now.positions[rows]
        return self.database.parts("payload", positions.tolist())

    def column(self, now: Snapshot, key: str) -> tuple[list[Any], Int[Tensor, " n"]]:
        """Values under a key, kept for the next time, and the labels."""
        column = self._columns.setdefault(key, Column(key))
        return column.of(now.positions, self.database.metadata_at), now.labels

    def bytes(self, now: Snapshot) -> int:
        """Of the files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def copied(self, *, deep: bool) -> "InFolder":
        """No folder can change alone and be the same."""
        raise InputTypeError(
            f"index must be in memory to be copied, got the gallery {str(self.folder)!r}. "
            "Use its backup(path)."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _reopened, (os.path.realpath(self.folder), self.recall, self.approximate)

    def adopt(self, encoder: str) -> None:
        """Say which encoder made the embeddings."""
        facts = replace(facts_after(self.facts, added=None, removed=0), encoder=encoder)
        names = self.current.class_names
        self.database.commit(facts)
        self.held.take_in(facts, names)
        self.database.acknowledge(facts)

    def compact(self) -> None:
        """Give space that is not used back to the disk."""
        facts = self.current.facts
        facts = replace(facts, batches=facts.batches + 1, logged_since=facts.batches + 1)
        self.database.compact(facts)
        self.held.take_in(facts, self.current.class_names)
        self.database.acknowledge(facts)

    def _open(self, facts: Facts, may_map: bool) -> None:
        empty = replace(facts, items=0)
        self.held = Held(empty, (), self.distance, recall=self.recall, approximate=self.approximate)
        arrays = mapped.read_mapped(self.folder, facts) if may_map else None
        if arrays is None:
            self._load(facts)
        else:
            self.held.restart(facts, self.database.names(facts.names), arrays=arrays)
        if self.recall is not None:
            kept.read_kept(self.folder, self.current)

    def settle(self) -> None:
        """Train the search, where there is something to train, and leave it in the folder."""
        self.newest().train()
        if not self.read_only:
            with self.writing() as now:
                kept.write_kept(self.folder, now)

    def _map(self) -> None:
        # What is mapped is of a batch that is acknowledged, and whole.
        kept.write_kept(self.folder, self.current)
        if len(self.current) >= mapped.LEAST:
            mapped.write_mapped(self.folder, self.current)

    def _load(self, facts: Facts) -> None:
        self.held.restart(facts, self.database.names(facts.names), self._all(facts))

    def _all(self, facts: Facts) -> Iterator[Chunk]:
        # Whoever takes them fails with this, and keeps what was there before.
        sum_ = last = count = 0
        for chunk in self.database.rows(facts):
            if not (np.diff(chunk.positions, prepend=last - 1) > 0).all():
                raise self.database.damaged("rows are out of order")
            last = int(chunk.positions[-1]) + 1
            count += len(chunk.positions)
            sum_ += total(chunk.checksums)
            yield chunk
        if count != facts.items or sum_ % 2**64 != facts.total:
            raise self.database.damaged(
                f"there are {count} rows in place of {facts.items}, or others"
            )
        if last > facts.next_position:
            raise self.database.damaged("positions are given out that it does not know of")

    def _catch_up(self) -> None:
        # Only what changed since is read, and checked by the sum of all checksums.
        facts, known = self.database.facts(), self.current.facts
        if facts.batches == known.batches:
            return
        same = (facts.dimension, facts.kind) == (known.dimension, known.kind)
        if not same or facts.logged_since > known.batches or not self._caught_up(facts):
            self._load(facts)

    def _caught_up(self, facts: Facts) -> bool:
        known = self.current
        before: dict[int, int] = {}
        for position, checksum in self.database.changes(known.facts.batches):
            before.setdefault(position, checksum)
        positions = np.fromiter(before, dtype=np.int64, count=len(before))
        held = known.rows_at(positions) >= 0
        positions, rows = positions[held], known.rows_at(positions)[held]
        old = np.fromiter(before.values(), dtype=np.int64, count=len(before))[held]
        left = list(self.database.rows(facts, within=np.sort(positions).tolist()))
        new = list(self.database.rows(facts, after=known.facts.next_position - 1))
        now = sum(total(chunk.checksums) for chunk in left + new)
        count = sum(len(chunk.positions) for chunk in left + new)
        if (known.facts.total - total(old) + now) % 2**64 != facts.total or (
            len(known) - len(rows) + count != facts.items
        ):
            return False
        there = np.concatenate([NONE, *(chunk.positions for chunk in left)])
        labels = np.concatenate([NONE, *(chunk.labels for chunk in left)])
        gone = rows[~np.isin(positions, there)]
        names = self.database.names(facts.names)
        self.held.take_in(
            facts,
            names,
            removed=gone,
            changed=known.rows_at(there),
            labels=labels,
            added=new,
        )
        return True

    def _check_open(self) -> None:
        if not self.database.is_of_this_process:
            raise GalleryError(
                f"gallery must be used by the process that opened it, got {str(self.folder)!r} in "
                "a fork of it. Open the gallery in the child, with read_only=True while its parent "
                "has it open for writing."
            )
        if not self.is_open:
            raise GalleryError(
                f"gallery must be open, got {str(self.folder)!r}, which was closed. "
                "Open it again with Gallery(path)."
            )


def open_folder(folder: Path, asked: Asked, *, read_only: bool) -> InFolder:
    """The gallery in `folder`; a new one where none is, unless it is to be read only.

    Raises:
        InputError: no gallery can be made for what is asked.
        GalleryError: the folder holds something else, or a gallery that was made for something
            else, is damaged, in use or cannot be written.
    """
    asked.check(
        list(NAMED.values()),
        InputTypeError(
            f"distance must be one of likewise.distances, got {asked.distance!r}. A folder can "
            "only name a distance; use Index for one of your own."
        ),
    )
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
    store = InFolder(
        folder,
        read_only=read_only,
        made_for=None if read_only else facts,
        names=asked.class_names,
        recall=asked.recall,
        approximate=asked.approximate,
    )
    try:
        asked.check_is(store.facts, store.current.class_names, str(folder))
    except BaseException:
        store.close()
        raise
    return store


def _reopened(folder: str, recall: float | None, approximate: str) -> InFolder:
    # What was pickled may still be written where it comes from.
    asked = Asked(recall=recall, approximate=approximate)
    return open_folder(Path(folder), asked, read_only=True)


def is_gallery(folder: Path) -> bool:
    """Whether `folder` holds a gallery, whole or not.

    Raises:
        GalleryError: it cannot be told whether there is one.
    """
    return is_there(folder, DATABASE) or last_acknowledged(folder) is not None


def _check_free(folder: Path) -> None:
    # Whoever was killed while making a gallery may have left a first file of it.
    if folder.exists() and not (
        folder.is_dir() and all(file.name.startswith("gallery.") for file in folder.iterdir())
    ):
        raise GalleryError(
            f"path must be a new folder or a gallery, got {str(folder)!r}, which is something "
            "else. Choose another name."
        )


def _rows(first: int, added: Added) -> tuple[Chunk, Iterator[tuple[Any, ...]]]:
    chunk = chunk_of(first, added)
    texts = [None if text == "{}" else text for text in added.metadata]
    metadata = part_checksums([None if text is None else text.encode() for text in texts])
    payloads = part_checksums(added.payloads)
    embeddings, prints = chunk.embeddings, whole_prints(chunk.prints, len(texts))
    checksums = row_checksums(
        chunk.positions, chunk.keys, chunk.labels, metadata, payloads, prints, embeddings
    )
    content, width = memoryview(embeddings.tobytes()), embeddings[0].nbytes
    rows = zip(
        chunk.positions.tolist(),
        added.given.ids,
        chunk.labels.tolist(),
        metadata.tolist(),
        payloads.tolist(),
        checksums.tolist(),
        (value if there else None for value, there in prints.tolist()),
        (content[at : at + width] for at in range(0, len(content), width)),
        texts,
        added.payloads,
        strict=True,
    )
    return chunk._replace(checksums=checksums), rows
