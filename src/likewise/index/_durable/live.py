"""A gallery's folder and its items in memory, kept the same."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from likewise.errors import GalleryError
from likewise.index._durable import mapped
from likewise.index._durable.checksums import (
    Integers,
    keys_of,
    part_checksums,
    relabelled,
    row_checksums,
    total,
)
from likewise.index._durable.facts import Facts
from likewise.index._durable.snapshot import Columns, Snapshot
from likewise.index._durable.store import Chunk, Store
from likewise.index._searching.storage import dimension

NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Additions:
    """Items to be stored, checked already."""

    ids: list[int] | list[str]
    labels: list[int]
    packed: Tensor  # embeddings as they are kept, see `_storage`
    metadata: list[str | None]  # as JSON
    payloads: list[bytes | None]


class Live:
    """The one place where folder and memory change: first the folder, then the memory.

    A thread that writes holds `lock`. Others look things up in `current`, which is put in place
    whole, so they see whole batches only. Where the folder is read only, another process may
    write it; `reading` takes in what it wrote.

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
        self.lock = threading.RLock()
        self._searching = threading.Lock()
        self.current: Snapshot
        self.store = Store(folder, read_only=read_only, made_for=made_for, names=names)
        try:
            with self.store.reading():
                self._open(self.store.facts(), may_map)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the files back; nothing can be read or written any more."""
        with self.lock:
            if self.is_open and self.store.may_write:
                self._map()
            self.is_open = False
            self.store.close()

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """The newest items, which the folder has exactly as well while this lasts."""
        with self.lock:
            self._check_open()
            if self.read_only:
                self.store.refresh(self.current.facts.batches)
            with self.store.reading():
                self._catch_up()
                yield self.current

    @contextmanager
    def writing(self) -> Iterator[Snapshot]:
        """The newest items, which nobody else changes while this lasts."""
        with self.lock:
            self._check_open()
            if self.read_only:
                raise GalleryError(
                    f"gallery must be opened for writing, got {str(self.folder)!r} with "
                    "read_only=True. Open it with Gallery(path)."
                )
            if not self.store.may_write:
                raise GalleryError(
                    f"gallery must be written by the process that opened it, got "
                    f"{str(self.folder)!r} in a process forked from that. Open it again here, "
                    "after the other has closed it."
                )
            with self.store.reading():
                self._catch_up()  # where the last batch was interrupted after it was stored
            yield self.current

    @contextmanager
    def searching(self, *, with_folder: bool) -> Iterator[Snapshot]:
        """The newest items, whose `search` nobody else uses while this lasts.

        One search at a time: it uses all cores, and remembers how far it has come.

        Args:
            with_folder: hold the folder at these items meanwhile.
        """
        # Whoever takes both locks takes this one last.
        if with_folder or self.read_only:
            with self.reading() as snapshot, self._searching:
                yield snapshot
            return
        with self._searching:
            self._check_open()
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
        new_moved = relabelled(old_moved, before.labels.numpy()[changed], labels)
        chunk, rows = (None, iter(())) if added is None else _rows(facts, added)
        new = NONE if chunk is None else chunk.checksums
        facts = replace(
            _with_ids(facts, added),
            items=facts.items - len(gone) + len(new),
            total=(facts.total - total(old_gone) - total(old_moved) + total(new_moved) + total(new))
            % 2**64,
            names=len(class_names),
            next_position=facts.next_position + len(new),
            batches=facts.batches + 1,
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
        self._take_in(
            facts, class_names, removed, changed, labels, [] if chunk is None else [chunk]
        )
        self.store.acknowledge(facts)

    def compact(self) -> None:
        """Give space that is not used back to the disk."""
        facts = self.current.facts
        facts = replace(facts, batches=facts.batches + 1, logged_since=facts.batches + 1)
        self.store.compact(facts)
        self.current = replace(self.current, facts=facts)
        self.store.acknowledge(facts)

    def _take_in(
        self,
        facts: Facts,
        class_names: Sequence[str],
        removed: Integers,
        changed: Integers,
        labels: Integers,
        added: Sequence[Chunk],
    ) -> None:
        with self._searching if len(removed) else nullcontext():
            if facts.dimension != self.current.facts.dimension:
                self._columns = Columns(facts, self._recall)
            if len(changed):
                self._columns.relabel(changed, labels)
            if len(removed):
                self._columns.remove(removed)
            for chunk in added:
                self._columns.append(chunk)
            self.current = self._columns.snapshot(facts, class_names)

    def _open(self, facts: Facts, may_map: bool) -> None:
        arrays = mapped.read_mapped(self.folder, facts) if may_map else None
        if arrays is None:
            self._load(facts)
        else:
            self._columns = Columns(facts, self._recall, arrays)
            self.current = self._columns.snapshot(facts, self.store.names(facts.names))

    def _map(self) -> None:
        # What is mapped is of a batch that is acknowledged, and whole.
        now = getattr(self, "current", None)  # none yet where opening failed
        if now is not None and len(now) >= mapped.LEAST:
            mapped.write_mapped(self.folder, now)

    def _load(self, facts: Facts) -> None:
        columns = Columns(facts, self._recall)
        sum_ = last = 0
        for chunk in self.store.rows(facts):
            if not (np.diff(chunk.positions, prepend=last - 1) > 0).all():
                raise self.store.damaged("rows are out of order")
            last = int(chunk.positions[-1]) + 1
            sum_ += total(chunk.checksums)
            columns.append(chunk)
        snapshot = columns.snapshot(facts, self.store.names(facts.names))
        if len(snapshot) != facts.items or sum_ % 2**64 != facts.total:
            raise self.store.damaged(
                f"there are {len(snapshot)} rows in place of {facts.items}, or others"
            )
        self._columns, self.current = columns, snapshot

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
        self._take_in(facts, names, gone, known.rows_at(there), labels, new)
        return True

    def _check_open(self) -> None:
        if not self.is_open:
            raise GalleryError(
                f"gallery must be open, got {str(self.folder)!r}, which was closed. "
                "Open it again with Gallery(path)."
            )


def _rows(facts: Facts, added: Additions) -> tuple[Chunk, Iterator[tuple[Any, ...]]]:
    positions = np.arange(len(added.ids), dtype=np.int64) + facts.next_position
    is_text = isinstance(added.ids[0], str)
    texts = [str(id_).encode() for id_ in added.ids] if is_text else None
    keys = keys_of(added.ids if texts is None else texts)
    labels = np.array(added.labels, dtype=np.int64)
    metadata = part_checksums([None if m is None else m.encode() for m in added.metadata])
    payloads = part_checksums(added.payloads)
    embeddings = added.packed.numpy()
    checksums = row_checksums(positions, keys, labels, metadata, payloads, embeddings)
    content, width = memoryview(embeddings.tobytes()), embeddings[0].nbytes
    rows = zip(
        positions.tolist(),
        added.ids,
        added.labels,
        metadata.tolist(),
        payloads.tolist(),
        checksums.tolist(),
        (content[at : at + width] for at in range(0, len(content), width)),
        added.metadata,
        added.payloads,
        strict=True,
    )
    return Chunk(positions, keys, texts, labels, embeddings, checksums), rows


def _with_ids(facts: Facts, added: Additions | None) -> Facts:
    if added is None:
        return facts
    is_text = isinstance(added.ids[0], str)
    numbers = [id_ for id_ in added.ids if isinstance(id_, int)]
    return replace(
        facts,
        kind="strings" if is_text else "integers",
        next_id=max(facts.next_id, max(numbers, default=-1) + 1),
        dimension=dimension(added.packed),
    )
