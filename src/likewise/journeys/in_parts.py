"""The road of every journey over many items: read, encode, and write part after part."""

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from likewise import _tables
from likewise import data as sources
from likewise._checks import check_count
from likewise._parts import Plan, Writer, is_parts, pyarrow, read_plan, rows_for
from likewise.data.attempts import Ask, Attempt, attempt, attempts
from likewise.data.images import ImageFiles
from likewise.data.parts import Subset, ids_of
from likewise.encoders.encoding import fitting_batch
from likewise.errors import InputError
from likewise.model import SimilarityModel

Progress = Callable[[int, int], None]
SAMPLED = 64  # items whose numbers tell whether data are the same as before
SHOWN = 80  # characters of a text that is named


@dataclass(frozen=True)
class Written:
    """What a folder of parts holds of one shard at the end of a run.

    Attributes:
        folder: Where the parts are.
        rows: Rows of this shard, those that failed among them.
        failed: Rows that have a sentence in place of an answer.
        there_before: Rows that stood there when this run began.
        damaged: Files that were written again, as their bytes were not those written.
        counts: How many rows have which answer; of what is answered with one word.
        told: Rows whose truth the data tell; None where they tell none.
        right: Count of answers among them that are right. An item of no known class is answered
            rightly by unknown.
        told_unknown: Rows among those told whose class is not known; None where that is no matter.
        right_unknown: Count of answers among these that are right.
    """

    folder: Path
    rows: int
    failed: int
    there_before: int = 0
    damaged: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    told: int | None = None
    right: int | None = None
    told_unknown: int | None = None
    right_unknown: int | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "folder": str(self.folder)}


@dataclass
class Read:
    """What was read and encoded of one dataset for one part.

    Attributes:
        rows: Rows of the dataset that were asked for.
        errors: a sentence for each of these, or None.
        embeddings: Embeddings of the others, (g, d).
        prints: their fingerprints, (g,), where these were asked for.
    """

    rows: list[int] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    printed: list[Tensor] = field(default_factory=list)

    @property
    def embeddings(self) -> Tensor:
        """(g, d)."""
        return torch.cat(self.made) if self.made else torch.empty(0, 0)

    @property
    def prints(self) -> Tensor:
        """(g,)."""
        return torch.cat(self.printed) if self.printed else torch.empty(0, dtype=torch.int64)

    @property
    def good(self) -> np.ndarray[Any, Any]:
        """Which rows have an embedding."""
        return np.array([error is None for error in self.errors], dtype=bool)


Encode = Callable[[int, Any], tuple[Tensor, Tensor | None]]  # side, items -> embeddings, prints


def written(
    out: str | Path,
    plan: Plan,
    sides: Sequence[Any],
    asks_of: Callable[[range], list[Ask]],
    encode: Encode,
    table_of: Callable[[range, Mapping[int, Read]], Any],
    *,
    shard: int = 0,
    workers: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    truth: tuple[str, str] | None = None,
    counted: str | None = None,
    known: Collection[str] | None = None,
    **options: Any,
) -> Written:
    """Read, encode and write every part of a shard that is not there yet.

    Args:
        out: Folder of the parts.
        plan: What it is to hold.
        sides: The datasets that are read.
        asks_of: Which of their rows the rows of a part need.
        encode: Embeddings of items of a side, and their fingerprints if they are wanted.
        table_of: The rows of a part as a `pyarrow.Table`, from what was read of each side. It has a
            column error.
        shard: Which share of the parts is written.
        workers: Processes that read items.
        resume: Whether parts may be there.
        progress: Called as progress(done, total), of the items that are to be read now.
        truth: Columns of the answer and of the truth.
        counted: A column of which each value is counted.
        known: The classes that can be answered; an item of another one is to be answered null.
        options: How Parquet keeps the rows.
    """
    check_count("workers", workers, least=0)
    pyarrow("pyarrow.parquet")  # before the work rather than after it
    with Writer(out, plan, shard=shard, resume=resume) as writer, _each_warning_once():
        own = [len(plan.rows(number)) for number in plan.numbers(shard)]
        left = sum(len(plan.rows(number)) for number in writer.missing)
        todo = [(number, ask) for number in writer.missing for ask in asks_of(plan.rows(number))]
        total = sum(len(ask.rows) for _, ask in todo)
        reading = attempts(sides, [ask for _, ask in todo], workers=workers) if todo else ()
        read: dict[int, Read] = {}
        done, any_yet = 0, writer.is_begun
        for at, ((number, ask), found) in enumerate(zip(todo, reading, strict=True)):
            side = read.setdefault(ask.side, Read())
            any_yet = _take(side, ask, found, encode, any_yet=any_yet) or any_yet
            if at + 1 == len(todo) or todo[at + 1][0] != number:
                writer.put(number, table_of(plan.rows(number), read), **options)
                read = {}
            done += len(ask.rows)
            if progress is not None:
                progress(done, total)
        return Written(
            writer.folder,
            sum(own),
            there_before=sum(own) - left,
            damaged=writer.damaged,
            **_counted(writer.files(), truth, counted, known),
        )


def plan_for(
    out: str | Path,
    kind: str,
    items: int,
    facts: Mapping[str, Any],
    *,
    part_rows: int | None,
    shards: int = 1,
) -> Plan:
    """The plan of a folder; one that was begun keeps the size of its parts."""
    if part_rows is not None:
        check_count("part_rows", part_rows)
    check_count("shards", shards)
    if items < 1:
        raise InputError("items must hold at least one item, got none.")
    if part_rows is None and is_parts(out):
        part_rows = read_plan(out).part_rows
    return Plan(kind, items, part_rows or rows_for(items), shards, facts)


def check_no_cache(model: SimilarityModel) -> None:
    """Refuse a cache beside parts, which hold what was done themselves."""
    if model.cache is not None:
        raise InputError(
            "must be left out where parts are written, which hold what was done.",
            argument="cache",
        )


def asks_in_order(source: Any, encoder: nn.Module, side: int = 0) -> Callable[[range], list[Ask]]:
    """What reads the rows of a part from a source, as many at once as its encoder is given."""
    size = batch_for(source, encoder)
    return lambda rows: [
        Ask(side, range(start, min(start + size, rows.stop)))
        for start in range(rows.start, rows.stop, size)
    ]


def batch_for(source: Any, encoder: nn.Module) -> int:
    """How many items are read at once."""
    return fitting_batch(source, next(encoder.parameters(), torch.empty(0)).device)


def digest_of(source: Any, *more: Any) -> str:
    """By which data are known to be those of before: their files, texts, ids and labels.

    Of numbers a few items tell. What stands in the files is not looked at.
    """
    digest = hashlib.sha256(str(len(source)).encode())
    whole = source.data if isinstance(source, Subset) else source
    if isinstance(whole, ImageFiles):
        rows = source.source_indices.tolist() if isinstance(source, Subset) else None
        paths = whole.paths if rows is None else [whole.paths[row] for row in rows]
        _add(digest, paths)
    elif isinstance(source, Tensor):
        digest.update(source[_sample(len(source))].cpu().numpy().tobytes())
    elif sources.is_text(source):
        _add(digest, sources.items(source))
    else:
        found = attempt(source, _sample(len(source))).items
        digest.update(found.numpy().tobytes() if isinstance(found, Tensor) else b"")
    labels = getattr(source, "labels", None)
    if labels is not None:
        digest.update(labels.numpy().tobytes())
        _add(digest, getattr(source, "class_names", ()))
    own = ids_of(source)
    _add(digest, () if own is None else map(str, own))
    for each in more:
        digest.update(str(each).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def names_for(source: Any) -> Callable[[Sequence[int]], list[str]]:
    """What some rows are called: by id, by file, by the start of the text, or by number."""
    own = ids_of(source)
    if own is not None:
        return lambda rows: [str(own[row]) for row in rows]
    if (paths := paths_for(source)) is not None:
        return paths
    if not isinstance(source, Tensor) and sources.is_text(source):
        return lambda rows: [
            text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
            for text in sources.items(source, list(rows))
        ]
    return lambda rows: [f"item {row}" for row in rows]


def paths_for(source: Any) -> Callable[[Sequence[int]], list[str]] | None:
    """The files of some rows, in their real folders; None of what comes from no files."""
    whole = source.data if isinstance(source, Subset) else source
    if not isinstance(whole, ImageFiles):
        return None
    real = lru_cache(maxsize=4096)(os.path.realpath)  # of a folder: of each file it takes long
    at = source.source_indices if isinstance(source, Subset) else None

    def paths(rows: Sequence[int]) -> list[str]:
        found = rows if at is None else at[list(rows)].tolist()
        split = (os.path.split(whole.paths[row]) for row in found)
        return [os.path.join(real(folder), name) for folder, name in split]

    return paths


def plain(text: str | None) -> str | None:
    """Text that UTF-8 can hold; the bytes of some file names come as halves of characters."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def class_of_each(source: Any) -> list[str | None]:
    """The class of each item by its name, as text that UTF-8 can hold; None for unlabeled."""
    if (labels := getattr(source, "labels", None)) is None:
        return [None] * len(source)
    names = [*map(plain, source.class_names), None]
    return [names[code] for code in labels.tolist()]


def spread(values: Any, good: np.ndarray[Any, Any], kind: Any) -> Any:
    """Values of the good rows as an Arrow array of all rows, null in the others."""
    arrow = pyarrow()
    if isinstance(values, Tensor):
        values = values.numpy()
    if good.all():
        return arrow.array(values, kind)
    if isinstance(values, np.ndarray):
        whole = np.zeros(len(good), dtype=values.dtype)
        whole[good] = values
        return arrow.array(whole, kind, mask=~good)
    left = iter(values)
    return arrow.array([next(left) if is_good else None for is_good in good.tolist()], kind)


def _take(side: Read, ask: Ask, found: Attempt, encode: Encode, *, any_yet: bool) -> bool:
    """Encode what was read, and keep it with the sentences of the rest; whether anything was."""
    failures = dict(found.failures)
    places = [place for place in range(len(ask.rows)) if place not in failures]
    made = []
    if places:
        try:
            made = [encode(ask.side, found.items)]
        except InputError as error:
            # One item may be the reason, as one whose embedding is not finite.
            for at, place in enumerate(places):
                try:
                    made.append(encode(ask.side, found.items[at : at + 1]))
                except InputError as own:
                    failures[place] = str(own)
            if not made and not any_yet:  # no item suits the encoder
                raise error from None
    side.rows += ask.rows
    side.errors += [failures.get(place) for place in range(len(ask.rows))]
    for embeddings, prints in made:
        side.made.append(embeddings)
        if prints is not None:
            side.printed.append(prints)
    return bool(made)


def _counted(
    files: Sequence[Path],
    truth: tuple[str, str] | None,
    counted: str | None,
    known: Collection[str] | None,
) -> dict[str, Any]:
    """What the rows of all files say together."""
    compute, parquet = pyarrow("pyarrow.compute"), pyarrow("pyarrow.parquet")
    columns = list(dict.fromkeys(filter(None, ["error", counted, *(truth or ())])))
    failed, told, right, others, rejected = 0, 0, 0, 0, 0
    names = None if known is None else pyarrow().array([plain(name) for name in known], "string")
    counts: dict[str, int] = {}
    for file in files:
        with parquet.ParquetFile(file) as opened:
            table = opened.read(columns=columns)
        is_good = compute.is_null(table["error"])
        table = table.filter(is_good)
        failed += len(is_good) - len(table)
        if counted is not None:
            for entry in compute.value_counts(table[counted]).to_pylist():
                name = _word(entry["values"])
                counts[name] = counts.get(name, 0) + entry["counts"]
        if truth is not None:
            has_truth = table.filter(compute.is_valid(table[truth[1]]))
            told += len(has_truth)
            same = compute.equal(has_truth[truth[0]], has_truth[truth[1]])
            right += _count_true(compute, compute.fill_null(same, False))
            if names is not None:
                is_other = compute.invert(compute.is_in(has_truth[truth[1]], value_set=names))
                is_null = compute.is_null(has_truth[truth[0]])
                others += _count_true(compute, is_other)
                rejected += _count_true(compute, compute.and_(is_other, is_null))
    found: dict[str, Any] = {"failed": failed}
    found["counts"] = dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
    if truth is None:
        return found
    found |= {"told": told, "right": right + rejected}
    return found if known is None else found | {"told_unknown": others, "right_unknown": rejected}


def _count_true(compute: Any, values: Any) -> int:
    return compute.sum(compute.cast(values, "int64")).as_py() or 0


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "same" if value else "different"
    return "unknown" if value is None else str(value)


def _sample(count: int) -> list[int]:
    return sorted({count * at // SAMPLED for at in range(SAMPLED)})


def _add(digest: Any, texts: Any) -> None:
    for text in texts:
        digest.update(str(text).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """What is warned of for every part is said once."""
    told: set[str] = set()
    show = warnings.showwarning

    def once(message: Warning | str, *rest: Any, **named: Any) -> None:
        if str(message) not in told:
            told.add(str(message))
            show(message, *rest, **named)

    warnings.showwarning = once
    try:
        yield
    finally:
        warnings.showwarning = show
