"""What a command says: results on standard output, progress and messages on standard error."""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

CALLERS_MISTAKE = 2
OUR_FAULT = 1


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"{message}\n")


def finish(result: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """The result on standard output, as one JSON document or as lines to read."""
    text = json.dumps(result, indent=2, allow_nan=False) if as_json else "\n".join(lines)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while the work goes on; called with (done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What the library warns of, as lines on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                say(f"likewise: {warning.message}")


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A dict without one of its entries, which is of no use to a reader."""
    return {key: value for key, value in fields.items() if key != name}


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def exit_status(error: BaseException) -> int:
    """Say on standard error what went wrong; 2 for the caller's mistake, 1 for a fault of ours.

    The library's sentences all say what an argument must be, which tells them from accidents.
    """
    expected = isinstance(error, (ValueError, OSError)) or (
        isinstance(error, (TypeError, ImportError)) and " must " in str(error)
    )
    if expected:
        say(f"likewise: {_sentence(error)}")
        return CALLERS_MISTAKE
    say("likewise: this is a fault of ours. Please report it with the lines below.")
    say("".join(traceback.format_exception(error)))
    return OUR_FAULT


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" {os.fspath(error.filename)!r}" if error.filename else ""
        return f"file{where} must be readable and writable, got: {error.strerror}."
    text = str(error).strip()
    if "Original Traceback" in text:  # what a DataLoader's worker process met
        text = text.splitlines()[-1].partition("Error: ")[2]
    return " ".join(text.split())
