"""The command line: `likewise COMMAND`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 2 the caller's mistake, 1 a fault of ours."""
    try:
        from likewise.cli.commands import run  # takes a while, in which it may be stopped

        status = run()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
