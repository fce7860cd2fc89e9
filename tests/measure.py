"""How much of the processor each test takes: which of them `make test` leaves to `make test-all`.

`make durations` runs everything with this file as a plugin and writes tests/slow.txt: the tests,
all their parameters together, that take more than `MOST` seconds with the fixtures they set up.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

MOST = 1.5
PROJECT = Path(__file__).parents[1]
MEASURED = PROJECT / "out" / "durations.jsonl"
SLOW = PROJECT / "tests" / "slow.txt"


def spent() -> float:
    """Seconds of the processor that this process and the processes it waited for took."""
    user, system, their_user, their_system, _ = os.times()
    return user + system + their_user + their_system


def pytest_configure(config):
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.unlink(missing_ok=True)


def pytest_runtest_logstart(nodeid, location):
    pytest_runtest_logfinish.before = spent()


def pytest_runtest_logfinish(nodeid, location):
    took = spent() - pytest_runtest_logfinish.before
    with MEASURED.open("a") as file:
        file.write(json.dumps([nodeid, round(took, 3)]) + "\n")


def totals(measured):
    """Seconds of each test with all its parameters, most first."""
    seconds = Counter()
    for line in measured.read_text().splitlines():
        name, took = json.loads(line)
        seconds[name.split("[")[0]] += took
    return seconds.most_common()


def main():
    measured = totals(MEASURED)
    slow = sorted(name for name, took in measured if took > MOST)
    SLOW.write_text("".join(f"{name}\n" for name in slow))
    left = sum(took for name, took in measured if took <= MOST)
    sys.stdout.write(
        f"{len(slow)} of {len(measured)} tests are slow; the others take {left:.0f} s\n"
    )


if __name__ == "__main__":
    main()
