"""How long `likewise --help` and `import likewise` take, next to `import torch` alone.

Fresh processes, in turn, after one round that is not counted; medians and their ratio to torch's.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 9
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import likewise": [sys.executable, "-c", "import likewise"],
    "import likewise, then use fit": [sys.executable, "-c", "import likewise; likewise.fit"],
    "likewise --help": [str(Path(sys.executable).parent / "likewise"), "--help"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(ROUNDS + 1):
        for name, command in COMMANDS.items():
            once = seconds(command)
            if round_:
                taken[name].append(once)
    torch_ = statistics.median(taken["import torch"])
    print(f"{'':32s}{'median':>9s}{'of torch':>10s}")
    for name, all_ in taken.items():
        median = statistics.median(all_)
        print(f"{name:32s}{median:7.2f} s{median / torch_:10.0%}")


if __name__ == "__main__":
    main()
