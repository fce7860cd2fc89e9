"""A progress bar with the time that is left: in a terminal, in a notebook, and nowhere else."""

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

REFRESH_SECONDS = 0.1  # between two drawings
NOTEBOOK_LINES = 30  # the latest that stand above a notebook's bar


class Bar(Protocol):
    """What `bar` gives: called as bar(done, total)."""

    def __call__(self, done: int, total: int) -> None: ...

    def say(self, line: str) -> None:
        """Leave a line of text above the bar."""


@contextmanager
def bar(title: str) -> Iterator[Bar]:
    """A bar on standard error, or in the cell of a notebook, while the work goes on.

    Where standard error is neither, as in a pipe, nothing is shown.
    """
    if _in_notebook():
        shown = _NotebookBar(title)
        try:
            yield shown
        finally:
            shown.end()
    elif visible():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        # Without a thread that refreshes: worker processes are forked while the bar is shown, and
        # would inherit its locks. A pipe behind standard output is left alone.
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        ) as progress:
            yield _TerminalBar(progress, title)
    else:
        yield _NoBar()


def visible() -> bool:
    """Whether `bar` shows anything."""
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None  # type: ignore[union-attr]
    return hasattr(shell, "kernel")


class _NoBar:
    def __call__(self, done: int, total: int) -> None: ...

    def say(self, line: str) -> None: ...


class _TerminalBar:
    def __init__(self, progress: Any, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)
        self._drawn = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        due = now - self._drawn >= REFRESH_SECONDS or done >= total
        self._progress.update(self._task, completed=done, total=total, refresh=due)
        if due:
            self._drawn = now

    def say(self, line: str) -> None:
        self._progress.console.out(line, highlight=False)


class _NotebookBar:
    def __init__(self, title: str) -> None:
        self._display: Any = sys.modules["IPython"].display
        self._handle: Any = None
        self._title = title
        self._lines: list[str] = []
        self._start: tuple[float, int] | None = None  # when the first was done, and how many
        self._at = (0, 0)
        self._drawn = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._start is None:
            self._start = now, done
        self._at = done, total
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._draw()

    def say(self, line: str) -> None:
        self._lines.append(line)
        self._draw()

    def end(self) -> None:
        """Take the bar away and leave the lines."""
        self._at = (0, 0)
        if self._handle is not None:
            self._draw()

    def _draw(self) -> None:
        done, total = self._at
        parts = [html.escape(line) for line in self._lines[-NOTEBOOK_LINES:]]
        if total:
            words = html.escape(f"{self._title} {done}/{total}{self._left()}")
            parts.append(f'<progress value="{done}" max="{total}"></progress> {words}')
        shown = self._display.HTML("<br>".join(parts))
        if self._handle is None:
            self._handle = self._display.display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def _left(self) -> str:
        started, before = self._start or (0.0, 0)
        done, total = self._at
        if done <= before:
            return ""
        seconds = round((time.monotonic() - started) * (total - done) / (done - before))
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
