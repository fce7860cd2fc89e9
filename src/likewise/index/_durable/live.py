"""A gallery's folder and its items in memory, kept the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from likewise.distances import by_name
from likewise.errors import GalleryError
from likewise.index._durable import mapped
from likewise.index._durable.checksums import (
    Integers,
    part_checksums,
    relabeled,
    row_checksums,
    total,
)
from likewise.index._durable.facts import Facts
from likewise.index._durable.store import Store
from likewise.index._snapshots import NONE, Chunk, Held, Snapshot, facts_after


@dataclass(frozen=True, eq=False)
class Additions:
    """Items to be stored, checked already."""

    ids: list[int] | list[str]
    chunk: Chunk  # without checksums
    metadata: list[str | None]  # as JSON
    payloads: list[bytes | None]


class Live:
    """The one place where folder and memory change: first the folder, then the memory.

    A thread that writes holds `lock`. Others look things up in `current`, which is put in place
    whole, so they see whole batches only. Where the folder is read only, another process may
    write it; `reading` takes in what it wrote. A fork of the process may use none of it.

    Args:
        folder: of the gallery.
        read_only: see `Store`.
        made_for: see `Store`.
        names: see `Store`.
        recall: see `Search`.
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
        may_map: bool = True,
    ) -> None:
        self._recall = recall
        self.folder = folder
        self.read_only = read_only
        self.is_open = True
        self.held: Held
        self.store = Store(folder, read_only=read_only, made_for=made_for, names=names)
        try:
            with self.store.reading():
                self._open(self.store.facts(), may_map)
        except BaseException:
            self.store.close()
            raise

    @property
    def current(self) -> Snapshot:
        """The items as they were last seen, by whatever thread."""
        return self.held.current

    def close(self) -> None:
        """Give the files back; nothing can be read or written any more."""
        if not self.store.is_of_this_process:  # another thread may have held the lock meanwhile
            self.is_open = False
            return
        with self.held.lock:
            if self.is_open and not self.read_only:
                self._map()
            self.is_open = False
            self.store.close()

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """The newest items, which the folder has exactly as well while this lasts."""
        self._check_open()
        with self.held.lock:
            self._check_open()
            if self.read_only:
                self.store.refresh(self.current.facts.batches)
            with self.store.reading():
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
            with self.store.reading():
                self._catch_up()  # where the last batch was interrupted after it was stored
            yield self.current

    def newest(self) -> Snapshot:
        """The newest items."""
        if self.read_only:
            with self.reading() as snapshot:
                return snapshot
        self._check_open()
        return self.current

    def commit(
        self,
        *,
        class_names: Sequence[str],
        added: Additions | None = None,
        removed: Integers = NONE,
        changed: Integers = NONE,
        labels: Integers = NONE,
    ) -> None:
        """Store one batch; on failure nothing is changed.

        Args:
            class_names: after it.
            added: new items.
            removed: rows of the current snapshot.
            changed: rows of the current snapshot that get other labels.
            labels: these.
        """
        before = self.current
        facts = before.facts
        gone = before.positions[removed]
        moved = before.positions[changed]
        with self.store.reading():
            old_gone = self.store.checksums(gone)
            old_moved = self.store.checksums(moved)
        new_moved = relabeled(old_moved, before.labels.numpy()[changed], labels)
        chunk, rows = (None, iter(())) if added is None else _rows(added)
        new = NONE if chunk is None else chunk.checksums
        facts = replace(
            facts_after(facts, added=chunk, removed=len(gone)),
            total=(facts.total - total(old_gone) - total(old_moved) + total(new_moved) + total(new))
            % 2**64,
            names=len(class_names),
        )
        self.store.commit(
            facts,
            removed=gone.tolist(),
            rows=rows,
            labels=zip(labels.tolist(), new_moved.tolist(), moved.tolist(), strict=True),
            names=class_names[len(before.class_names) :],
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
        self.store.acknowledge(facts)

    def adopt(self, encoder: str) -> None:
        """Say which encoder made the embeddings."""
        facts = facts_after(self.current.facts, added=None, removed=0)
        facts = replace(facts, encoder=encoder)
        names = self.current.class_names
        self.store.commit(facts, removed=[], rows=iter(()), labels=iter(()), names=(), changes=[])
        self.held.take_in(facts, names)
        self.store.acknowledge(facts)

    def compact(self) -> None:
        """Give space that is not used back to the disk."""
        facts = self.current.facts
        facts = replace(facts, batches=facts.batches + 1, logged_since=facts.batches + 1)
        self.store.compact(facts)
        self.held.take_in(facts, self.current.class_names)
        self.store.acknowledge(facts)

    def _open(self, facts: Facts, may_map: bool) -> None:
        empty = replace(facts, items=0)
        self.held = Held(empty, (), by_name(facts.distance), recall=self._recall)
        arrays = mapped.read_mapped(self.folder, facts) if may_map else None
        if arrays is None:
            self._load(facts)
        else:
            self.held.restart(facts, self.store.names(facts.names), arrays=arrays)

    def _map(self) -> None:
        # What is mapped is of a batch that is acknowledged, and whole.
        if len(self.current) >= mapped.LEAST:
            mapped.write_mapped(self.folder, self.current)

    def _load(self, facts: Facts) -> None:
        self.held.restart(facts, self.store.names(facts.names), self._all(facts))

    def _all(self, facts: Facts) -> Iterator[Chunk]:
        # Whoever takes them fails with this, and keeps what was there before.
        sum_ = last = count = 0
        for chunk in self.store.rows(facts):
            if not (np.diff(chunk.positions, prepend=last - 1) > 0).all():
                raise self.store.damaged("rows are out of order")
            last = int(chunk.positions[-1]) + 1
            count += len(chunk.positions)
            sum_ += total(chunk.checksums)
            yield chunk
        if count != facts.items or sum_ % 2**64 != facts.total:
            raise self.store.damaged(f"there are {count} rows in place of {facts.items}, or others")
        if last > facts.next_position:
            raise self.store.damaged("positions are given out that it does not know of")

    def _catch_up(self) -> None:
        # Only what changed since is read, and checked by the sum of all checksums.
        facts, known = self.store.facts(), self.current.facts
        if facts.batches == known.batches:
            return
        same = (facts.dimension, facts.kind) == (known.dimension, known.kind)
        if not same or facts.logged_since > known.batches or not self._caught_up(facts):
            self._load(facts)

    def _caught_up(self, facts: Facts) -> bool:
        known = self.current
        before: dict[int, int] = {}
        for position, checksum in self.store.changes(known.facts.batches):
            before.setdefault(position, checksum)
        positions = np.fromiter(before, dtype=np.int64, count=len(before))
        held = known.rows_at(positions) >= 0
        positions, rows = positions[held], known.rows_at(positions)[held]
        old = np.fromiter(before.values(), dtype=np.int64, count=len(before))[held]
        left = list(self.store.rows(facts, within=np.sort(positions).tolist()))
        new = list(self.store.rows(facts, after=known.facts.next_position - 1))
        now = sum(total(chunk.checksums) for chunk in left + new)
        count = sum(len(chunk.positions) for chunk in left + new)
        if (known.facts.total - total(old) + now) % 2**64 != facts.total or (
            len(known) - len(rows) + count != facts.items
        ):
            return False
        there = np.concatenate([NONE, *(chunk.positions for chunk in left)])
        labels = np.concatenate([NONE, *(chunk.labels for chunk in left)])
        gone = rows[~np.isin(positions, there)]
        names = self.store.names(facts.names)
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
        if not self.store.is_of_this_process:
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


def _rows(added: Additions) -> tuple[Chunk, Iterator[tuple[Any, ...]]]:
    chunk = added.chunk
    metadata = part_checksums([None if m is None else m.encode() for m in added.metadata])
    payloads = part_checksums(added.payloads)
    embeddings = chunk.embeddings
    checksums = row_checksums(
        chunk.positions, chunk.keys, chunk.labels, metadata, payloads, embeddings
    )
    content, width = memoryview(embeddings.tobytes()), embeddings[0].nbytes
    rows = zip(
        chunk.positions.tolist(),
        added.ids,
        chunk.labels.tolist(),
        metadata.tolist(),
        payloads.tolist(),
        checksums.tolist(),
        (content[at : at + width] for at in range(0, len(content), width)),
        added.metadata,
        added.payloads,
        strict=True,
    )
    return replace(chunk, checksums=checksums), rows
