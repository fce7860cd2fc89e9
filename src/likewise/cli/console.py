"""What a command says: results on standard output, progress and messages on standard error.

All text leaves through `say` and `finish`. What could steer a terminal leaves as visible escapes.
"""

import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from likewise import _progress
from likewise._tables import aligned
from likewise.errors import InputError

CALLERS_MISTAKE = 2
OUR_FAULT = 1
STOPPED = 130
BETWEEN = 30.0  # seconds between two lines of progress
READER_GONE = 141  # as of any program whose output nobody reads any more

interrupts: list[int] = []  # signals of Ctrl-C since the command began

# Control codes, line and paragraph ends, marks that turn the direction of writing, and halves of
# characters, as which the bytes of a file name come that are no UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def shown(text: str) -> str:
    r"""Text on one line as a terminal can be trusted with it: control codes as escapes.

    Example:
        >>> print(shown("red\x1b[2J\n"))
        red\x1b[2J\n
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ReaderGone(Exception):
    """Whoever read standard output has stopped, as `head` does."""


def say(message: str) -> None:
    """One line on standard error. That it cannot be written is no reason to stop the work."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"{shown(message)}\n")


def finish(result: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """The result on standard output, as one JSON document or as lines to read.

    Raises:
        InputError: it cannot be written, as on a full disk.
        ReaderGone: nobody reads it.
    """
    if as_json:  # its own escapes keep every character, so that it is exact
        text = json.dumps(_plain(result), indent=2, allow_nan=False)
    else:
        text = "\n".join(map(shown, lines))
    write_out(f"{text}\n")


def write_out(text: str) -> None:
    """Text on standard output, and all that waits there; raises as `finish`."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise InputError(
            f"standard output must be writable, got: {error.strerror}. The answer is lost."
        ) from error


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while the work goes on; called with (done, total).

    Where no bar can be shown, a line every half minute, with the time that is left.
    """
    told = None if _progress.visible() else _Told(title)
    with _progress.bar(shown(title)) as bar:

        def show(done: int, total: int) -> None:
            if interrupts:  # of which an import made nothing, as the work goes on
                raise KeyboardInterrupt
            bar(done, total)
            if told is not None:
                told.show(done, total)

        yield show


class _Told:
    """Progress as lines, some time apart."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.last = time.monotonic()
        self.begun: tuple[float, int, int] | None = None  # when, at which count, of how many

    def show(self, done: int, total: int) -> None:
        """Say how far the work is, if it was not said lately.

        The pace is that since the first count of this total: what came before it, as reading or
        another stage, says nothing about the rest.
        """
        now = time.monotonic()
        if self.begun is None or self.begun[2] != total or done < self.begun[1]:
            self.begun = (now, done, total)
        if now - self.last < BETWEEN or not 0 < done < total:
            return
        self.last = now
        said = f"{self.title}: {done:,} of {total:,}"
        if done > self.begun[1]:
            left = (now - self.begun[0]) / (done - self.begun[1]) * (total - done)
            said += f", about {_duration(left)} left"
        say(said)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """A dict without some entries, which are of no use to a reader."""
    return {key: value for key, value in fields.items() if key not in names}


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with aligned columns."""
    return aligned([[shown(cell) for cell in row] for row in rows])


def _plain(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
