"""Folders of Parquet parts: rows written as they come, each part whole or not there at all.

A folder holds a plan, which says how many rows there will be and how they are dealt out, and one
file for each part that is done. Part n always holds the same rows, and the name of its file holds
the sha256 of its bytes, so one renaming puts a part with its checksum in place. What is missing
after a kill is what has no file; so every row is there exactly once, however often it was killed.
"""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from likewise._arguments import check_count, check_exists
from likewise._files import Lock, read_regular, sync_folder, write_whole
from likewise.errors import InputError, MissingExtra

FORMAT = 1
ROWS = 4096  # in a part
MOST_PARTS = 10_000  # of more items a part has more rows
_PLAN = "_plan.json"  # readers of Parquet folders pass over names that begin with _ or .
_LONGEST_PLAN = 1 << 26
_PART = re.compile(r"part-(\d{8})-([0-9a-f]{64})\.parquet")
_UNFINISHED = re.compile(r"\.part-(\d{8})-[0-9a-f]{64}\.parquet\.[0-9a-f]{32}\.part")
_PATIENCE = 30.0  # seconds; a plan is written in a moment


@dataclass(frozen=True)
class Plan:
    """What a folder of parts is to hold; every process that writes into it has the same.

    Args:
        kind: What the rows are, such as "match" or "embed".
        items: Rows in all.
        part_rows: Rows of a part; the last may have fewer.
        shards: Processes or machines that share the parts.
        facts: What else must be the same for all parts, as JSON can hold it.

    Example:
        >>> plan = Plan("embed", 10, 4, shards=2)
        >>> [plan.rows(number) for number in plan.numbers(0)], plan.numbers(1)
        ([range(0, 4), range(8, 10)], range(1, 3, 2))
    """

    kind: str
    items: int
    part_rows: int
    shards: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Parts in all."""
        return -(-self.items // self.part_rows)

    def rows(self, number: int) -> range:
        """The rows of a part."""
        return range(number * self.part_rows, min(self.items, (number + 1) * self.part_rows))

    def numbers(self, shard: int) -> range:
        """The parts of a shard: every n-th of n shards, so that all have equally many."""
        return range(shard, self.count, self.shards)


def rows_for(items: int) -> int:
    """Rows of a part by default: 4,096, and more where there would be over 10,000 parts."""
    return max(ROWS, -(-items // MOST_PARTS))


def is_parts(path: str | Path) -> bool:
    """Whether a folder holds parts, or is to hold some."""
    return (Path(path) / _PLAN).is_file()


def read_plan(folder: str | Path) -> Plan:
    """The plan of a folder of parts.

    Raises:
        InputError: there is none, it is damaged, or of another version.
    """
    path = Path(folder) / _PLAN
    check_exists("parts", Path(folder))
    if not path.is_file():
        raise InputError(
            f"must be a folder of parts that likewise wrote, got {str(folder)!r}.",
            argument="parts",
        )
    try:
        told = json.loads(read_regular(path, _LONGEST_PLAN))
        is_whole = told.pop("sha256") == _digest(told)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        is_whole = False
    if is_whole and told.get("format") != FORMAT:
        raise InputError(
            f"{str(path)!r} must be of format {FORMAT}, got {told.get('format')!r}. "
            "Read it with the likewise that wrote it."
        )
    kinds = {"kind": str, "items": int, "part_rows": int, "shards": int, "facts": dict}
    if not is_whole or not all(type(told.get(name)) is kind for name, kind in kinds.items()):
        raise InputError(
            f"{str(path)!r} must be as likewise wrote it, got a damaged file. "
            "Write the parts into a new folder."
        )
    return Plan(**{name: told[name] for name in kinds})


class Writer:
    """The parts of one shard, as one process writes them.

    Args:
        folder: Made if it is not there.
        plan: What the folder is to hold; a folder that holds something else is refused.
        shard: Which share of the parts is written here, from 0.
        resume: Whether parts of this shard may be there.

    Attributes:
        missing: Numbers of the parts that are yet to be written.
        damaged: Count of files that were removed, as their bytes were not those written.
        is_begun: Whether the folder held a part, of any shard.

    Raises:
        InputError: the folder holds something else, or parts that are not to be resumed; or
            another process writes this shard.
        OSError: it cannot be written.
    """

    def __init__(
        self, folder: str | Path, plan: Plan, *, shard: int = 0, resume: bool = False
    ) -> None:
        check_count("shard", shard, least=0)
        if shard >= plan.shards:
            raise InputError(
                f"must be below {plan.shards}, the number of shards, got {shard}.",
                argument="shard",
            )
        self.folder, self.plan, self.shard = Path(folder), plan, shard
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"must be a folder, got the file {str(folder)!r}.", argument="out")
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / ".plan.lock", patience=_PATIENCE):
            _keep_plan(self.folder, plan)
        self._lock = _locked(self.folder / f".shard-{shard}-of-{plan.shards}.lock")
        try:
            self.damaged = 0
            self.missing = self._found_missing(resume=resume)
        except BaseException:
            self._lock.release()
            raise

    def _found_missing(self, *, resume: bool) -> list[int]:
        own = self.plan.numbers(self.shard)
        found = _files_of(self.folder)
        self.is_begun = bool(found)
        there = {n: files for n, files in found.items() if n in own}
        if there and not resume:
            raise InputError(
                f"must be new, got {str(self.folder)!r}, which holds {len(there)} of {len(own)} "
                "parts.",
                argument="out",
                remedy="Go on with resume=True, or choose another folder.",
                command="Go on with --resume, or choose another folder.",
            )
        for name in os.listdir(self.folder):
            if (unfinished := _UNFINISHED.fullmatch(name)) and int(unfinished[1]) in own:
                (self.folder / name).unlink(missing_ok=True)  # of a process that was killed
        whole = set()
        for number, files in there.items():
            for file in files:
                if number not in whole and _is_whole(file):
                    whole.add(number)
                else:
                    file.unlink()
                    self.damaged += 1
        return [number for number in own if number not in whole]

    def put(self, number: int, table: Any, **options: Any) -> Path:
        """Write a part in one step, and give back its file.

        Args:
            number: One of `missing`.
            table: Its rows, a `pyarrow.Table`.
            options: How Parquet keeps them, as `pyarrow.parquet.write_table` takes it.

        Raises:
            OSError: it cannot be written, as on a full disk; then it is not there.
        """
        sink = pyarrow().BufferOutputStream()
        pyarrow("pyarrow.parquet").write_table(table, sink, write_page_checksum=True, **options)
        content = sink.getvalue().to_pybytes()
        name = f"part-{number:08d}-{hashlib.sha256(content).hexdigest()}.parquet"
        path = self.folder / name
        write_whole(path, content)
        sync_folder(self.folder)
        return path

    def files(self) -> list[Path]:
        """The files of this shard, in order."""
        found = _files_of(self.folder)
        return [found[number][0] for number in self.plan.numbers(self.shard) if number in found]

    def close(self) -> None:
        """Let another process write this shard."""
        self._lock.release()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Parts:
    """A folder of parts that is complete, to be read.

    Args:
        folder: What one `Writer`, or one for each shard, wrote.
        kinds: What the rows may be.

    Attributes:
        plan: what it holds.
        files: one for each part, in order.

    Raises:
        InputError: it is no such folder, rows are of another kind, or parts are missing.
    """

    def __init__(self, folder: str | Path, kinds: Sequence[str]) -> None:
        self.folder, self.plan = Path(folder), read_plan(folder)
        if self.plan.kind not in kinds:
            raise InputError(
                f"must hold parts of {' or '.join(kinds)}, got {str(folder)!r}, which holds those "
                f"of {self.plan.kind}.",
                argument="parts",
            )
        found = _files_of(self.folder)
        missing = [number for number in range(self.plan.count) if number not in found]
        if missing:
            shards = sorted({number % self.plan.shards for number in missing})
            of = ", ".join(f"{shard}/{self.plan.shards}" for shard in shards[:8])
            raise InputError(
                f"must be complete, got {str(folder)!r} with {self.plan.count - len(missing)} of "
                f"{self.plan.count} parts; missing are some of shard {of}.",
                argument="parts",
                remedy="Write them with resume=True.",
                command="Write them with the same likewise command and --resume.",
            )
        self.files = [found[number][0] for number in range(self.plan.count)]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Each part as a `pyarrow.Table`, checked against its sha256.

        Raises:
            InputError: a file is damaged, or was removed meanwhile.
        """
        for number, file in enumerate(self.files):
            content = read_regular(file)
            rows = self.plan.rows(number)
            if hashlib.sha256(content).hexdigest() == _sha256_of(file):
                reader = pyarrow().BufferReader(content)
                table = pyarrow("pyarrow.parquet").read_table(reader, columns=columns)
                if len(table) == len(rows):
                    yield table
                    continue
            raise InputError(
                f"{str(file)!r} must have the bytes that were written, got others.",
                remedy="Write it again with resume=True.",
                command="Write it again with the same likewise command and --resume.",
            )


def pyarrow(name: str = "pyarrow") -> Any:
    """The library, or a part of it, which is an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"pyarrow must be installed for parts, got no module {error.name!r}. "
            'Use pip install "likewise[tables]".'
        ) from error


def _keep_plan(folder: Path, plan: Plan) -> None:
    """Write the plan of a new folder, or refuse one that was begun otherwise."""
    if not (folder / _PLAN).exists():
        if others := [name for name in os.listdir(folder) if not name.startswith(".")]:
            raise InputError(
                f"must be an empty folder, got {str(folder)!r}, which holds {others[0]!r}. "
                "Choose another.",
                argument="out",
            )
        told = {"format": FORMAT, **asdict(plan)}
        content = json.dumps({**told, "sha256": _digest(told)}, indent=1, default=str)
        write_whole(folder / _PLAN, content.encode())
        return
    begun = read_plan(folder)
    own = {**asdict(plan), **plan.facts}
    theirs = {**asdict(begun), **begun.facts}
    for name in [name for name in own | theirs if name != "facts"]:
        # As JSON gives it back: tuples are lists there.
        ours = json.loads(json.dumps(own.get(name), default=str))
        if ours != theirs.get(name):
            raise InputError(
                f"must be begun with the same {name.replace('_', ' ')}, got {str(folder)!r}, which "
                f"was begun with {_short(theirs.get(name))} where this has {_short(ours)}. "
                "Give what was given then, or choose another folder.",
                argument="out",
            )


def _locked(path: Path, *, patience: float = 0.0) -> Lock:
    try:
        return Lock(path, patience=patience)
    except BlockingIOError as error:
        raise InputError(
            f"must be written by one process for each shard, got {str(path.parent)!r}, which "
            "another writes now. Wait for it, or choose another folder.",
            argument="out",
        ) from error


def _files_of(folder: Path) -> dict[int, list[Path]]:
    """The files of each part, of which there should be one."""
    found: dict[int, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        if part := _PART.fullmatch(name):
            found.setdefault(int(part[1]), []).append(folder / name)
    return found


def _sha256_of(file: Path) -> str:
    found = _PART.fullmatch(file.name)
    return found[2] if found else ""


def _is_whole(file: Path) -> bool:
    return hashlib.sha256(read_regular(file)).hexdigest() == _sha256_of(file)


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
