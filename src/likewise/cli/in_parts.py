"""What commands that write parts check and tell."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likewise.cli import console
from likewise.errors import InputError

MOST_COUNTS = 20  # answers that are counted in a line; --json has all


def refuse_without_out(out: Path | None, given: Mapping[str, Any]) -> None:
    """Refuse options of parts where none are written; they are given by their names."""
    asked = [name for name, value in given.items() if value]
    if out is None and asked:
        raise InputError("must come with --out, got none.", argument=asked[0])


def refuse_beside_out(out: Path | None, given: Mapping[str, Any]) -> None:
    """Refuse options that cannot go with parts."""
    asked = [name for name, value in given.items() if value is not None]
    if out is not None and asked:
        raise InputError("must be left out with --out, got both.", argument=asked[0])


def finish(written: Any, *, what: str, as_json: bool, shard: str | None = None) -> None:
    """Tell what stands in a folder of parts, a `Written`."""
    of = "" if shard is None else f" of shard {shard}"
    lines = [f"{written.rows:,} {what}{of} in {written.folder}"]
    if written.there_before:
        lines[0] += f"; {written.there_before:,} were there before"
    if written.failed:
        lines.append(f"{written.failed:,} could not be read: see the column error")
    if written.damaged:
        lines.append(f"{written.damaged:,} damaged files were written again")
    if written.counts:
        first = list(written.counts.items())[:MOST_COUNTS]
        more = len(written.counts) - len(first)
        said = ", ".join(f"{name} {count:,}" for name, count in first)
        lines.append(f"in all: {said}" + (f", and {more} more; --json gives all" if more else ""))
    if written.told:
        lines.append(
            f"right: {written.right:,} of {written.told:,} ({written.right / written.told:.2%})"
        )
    console.finish(written.to_dict(), lines, as_json=as_json)
