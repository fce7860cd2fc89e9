"""How a command ends: its exit status, and the one sentence about what went wrong.

The class of an exception decides, never its text. What the caller can mend ends in a sentence;
anything else is a fault of ours and keeps its traceback.
"""

import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from types import FrameType
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand

from likewise.cli.console import (
    CALLERS_MISTAKE,
    OUR_FAULT,
    READER_GONE,
    STOPPED,
    ReaderGone,
    interrupts,
    say,
    write_out,
)
from likewise.errors import InputError, MissingExtra

# What the library calls an argument that a command calls otherwise; the first that it has.
_ALSO = {
    "csv_path": ("pairs", "source"),
    "data": ("source", "sources"),
    "items": ("source", "sources", "files"),
    "leave_out": ("holds_for",),
    "tracker": ("track",),
    "path": ("model", "out", "source", "gallery"),
    "source": ("sources",),
}


class Command(TyperCommand):
    """A command that ends in a sentence where the caller can mend what went wrong."""

    def invoke(self, ctx: Any) -> Any:
        """What the command returns; exits with its status where it fails."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            raise typer.Exit(stopped()) from None
        except Exception as error:
            if interrupts:
                raise typer.Exit(stopped()) from None
            if hasattr(error, "format_message"):  # click's own words about options
                raise
            raise typer.Exit(exit_status(error, self._names())) from error

    def _names(self) -> dict[str, str]:
        """What the command line calls each argument of this command, and its options themselves."""
        own = {}
        for each in self.params:
            if isinstance(each, TyperArgument):
                own[str(each.name)] = each.metavar or str(each.name).upper()
            else:
                own[str(each.name)] = own[str(each.name).rstrip("_")] = max(
                    each.opts or each.secondary_opts, key=len
                )
                own |= {option: option for option in (*each.opts, *each.secondary_opts)}
        also = {
            theirs: own[ours]
            for theirs, candidates in _ALSO.items()
            for ours in reversed(candidates)
            if ours in own
        }
        return also | own


def run(app: Callable[..., Any]) -> int:
    """Run the command line; its exit status."""
    _open_streams()
    interrupts.clear()
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    if sys.stdout is None:  # before the work rather than after it
        say("likewise: standard output must be open for the answer, got it closed.")
        return CALLERS_MISTAKE
    try:
        with warnings.catch_warnings():
            # Pillow's own words before our sentence about LIKEWISE_MAX_PIXELS.
            warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
            warnings.showwarning = lambda message, *_: say(f"likewise: {message}")
            status = app(standalone_mode=False)
        write_out("")
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return stopped()
    except SystemExit:  # click's own way out of a pipe that nobody reads
        return READER_GONE
    except Exception as error:
        if interrupts:
            return stopped()
        if hasattr(error, "format_message"):
            say(f"likewise: {error.format_message()}")
            return CALLERS_MISTAKE
        return exit_status(error, {})


def _interrupted(number: int, frame: FrameType | None) -> None:
    # Code in C that is being imported may make another exception of the one raised here, or none.
    interrupts.append(number)
    signal.default_int_handler(number, frame)


def stopped() -> int:
    """Say that the user stopped the command; its status."""
    say("likewise: stopped.")
    return STOPPED


def exit_status(error: Exception, names: Mapping[str, str]) -> int:
    """Say on standard error what went wrong; 2 for what the caller can mend, 1 for our fault.

    Args:
        error: what was raised.
        names: what the command line calls arguments of the library.
    """
    if isinstance(error, ReaderGone):
        return READER_GONE
    told = _sentence(error, names)
    if told is not None:
        say(f"likewise: {told}")
        return CALLERS_MISTAKE
    say("likewise: this is a fault of ours. Please report it with the lines below.")
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
    return OUR_FAULT


def _sentence(error: Exception, names: Mapping[str, str]) -> str | None:
    """What the caller has to mend; None if that is nothing."""
    if isinstance(error, InputError):
        argument = names.get(error.argument or "", error.argument)
        remedy = error.remedy
        if error.command is not None and _is_offered(error.command, names):
            remedy = error.command
        return " ".join(part for part in (argument, error.sentence, remedy) if part)
    if isinstance(error, MissingExtra):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and _is_required(error.name):
        return (
            f"{error.name} must be installed for this command, got no module {error.name!r}. Use "
            "pip install likewise without --no-deps; what answers without torch is likewise serve "
            "over an exported folder."
        )
    if isinstance(error, _out_of_memory()):
        return (
            "memory must be enough for what was asked, got too little. Use fewer items, smaller "
            "images (--image-size of train), or a machine with more memory."
        )
    if isinstance(error, OSError):
        if not error.strerror:
            return str(error) or f"files must be readable and writable, got {type(error).__name__}."
        where = f" {os.fsdecode(error.filename)!r}" if error.filename else ""
        return f"file{where} must be readable and writable, got: {error.strerror}."
    return None


def _is_offered(remedy: str, names: Mapping[str, str]) -> bool:
    """Whether the command has the options that a remedy names; of another one, it names that."""
    asked = set(re.findall(r"--[a-z][a-z-]*", remedy))
    return "likewise " in remedy or not names or asked <= set(names)


def _is_required(module: str | None) -> bool:
    """Whether likewise asks for the package of a module, which --no-deps leaves out."""
    try:
        asked = metadata.requires("likewise") or []
    except metadata.PackageNotFoundError:
        return False
    needed = [re.split(r"[^\w.-]", each)[0] for each in asked if "extra ==" not in each]
    return module in {name.replace("-", "_") for name in needed}


def _out_of_memory() -> tuple[type[BaseException], ...]:
    torch = sys.modules.get("torch")  # which raises only where it is loaded
    return (MemoryError,) if torch is None else (MemoryError, torch.cuda.OutOfMemoryError)


def _open_streams() -> None:
    """Streams that take every character, and none of our files in the place of a closed one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
