"""The command line: `likewise COMMAND`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 2 the caller's mistake, 1 a fault of ours."""
    try:  # imports take a while, in which it may be stopped
        from likewise.cli.waiting import sleep_where_others_compute, spent

        before = spent()
        from likewise.cli.commands import run

        sleep_where_others_compute(before)  # PyTorch is loaded later
        status = run()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
