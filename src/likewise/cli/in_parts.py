"""What commands that write parts check and tell."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from likewise.cli import console
from likewise.cli.answers import right_line
from likewise.errors import InputError

MOST_COUNTS = 20  # answers that are counted in a line; --json has all


def asked(out: Path | None, *, beside: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Options of parts, by their names; refused without --out, as options beside it are with it."""
    if out is None and (given := [name for name, value in options.items() if value]):
        raise InputError("must come with --out, got none.", argument=given[0])
    if out is not None and (given := [name for name, value in beside.items() if value is not None]):
        raise InputError("must be left out with --out, got both.", argument=given[0])
    return options


def write(
    journey: Callable[..., Any],
    *given: Any,
    doing: str,
    as_json: bool,
    what: str = "answers",
    **options: Any,
) -> None:
    """Write parts by a journey, with its progress, and tell what stands in their folder."""
    with console.warnings_as_lines(), console.progress(doing) as show:
        written = journey(*given, progress=show, **options)
    lines = [f"{written.rows:,} {what} in {written.folder}"]
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
        unknown = (written.right_unknown or 0, written.told_unknown or 0)
        lines.append(right_line("right", written.right, written.told, *unknown))
    console.finish(written.to_dict(), lines, as_json=as_json)
