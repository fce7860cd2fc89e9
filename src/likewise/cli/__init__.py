"""The command line: `likewise COMMAND`."""

from likewise.cli.commands import main

__all__ = ["main"]
