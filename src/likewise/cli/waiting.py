"""How threads wait for each other, decided before PyTorch is loaded.

OpenMP's threads spin at the end of every parallel step. That is quickest on idle cores. Where
another process uses one of them, the thread on that core comes late to every step, and the others
spin meanwhile: a step of a few milliseconds takes hundreds. Threads that sleep instead cost about
a third more alone, so they are chosen only on a machine that others use.
"""

import os
from pathlib import Path
from typing import NamedTuple

STATISTICS = Path("/proc/stat")
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SHARE = 0.3  # of one core, above which others count as using the machine
LEAST_SECONDS = 0.05  # the kernel counts in steps of 0.01


class Spent(NamedTuple):
    """Seconds of computing so far on the cores this process may use."""

    by_all: float
    by_us: float
    at: float  # seconds since the machine started


def spent() -> Spent | None:
    """What was computed so far, or None where the system does not say."""
    try:
        lines = STATISTICS.read_text(encoding="ascii").splitlines()
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    rows = [line.split() for line in lines if line.partition(" ")[0] in cores]
    # user, nice, system, then idle and waiting for the disk, then interrupts and other machines.
    busy = sum(int(number) for row in rows for number in (*row[1:4], *row[6:9]))
    times = os.times()
    return Spent(busy / per_second, times.user + times.system, times.elapsed)


def others_compute(before: Spent | None, after: Spent | None) -> bool:
    """Whether other processes used a part of our cores between two readings."""
    if before is None or after is None or after.at - before.at < LEAST_SECONDS:
        return False
    theirs = (after.by_all - before.by_all) - (after.by_us - before.by_us)
    return theirs > SHARE * (after.at - before.at)


def sleep_where_others_compute(before: Spent | None) -> None:
    """Make OpenMP's threads sleep rather than spin if others use the cores; the user's word holds.

    Args:
        before: A reading from the start of the command.
    """
    if not any(name in os.environ for name in SETTINGS) and others_compute(before, spent()):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
