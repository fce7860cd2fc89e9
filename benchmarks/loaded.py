"""A machine that others use: steps alone, and while another process uses one of its cores.

    python benchmarks/loaded.py

OpenMP's threads spin while they wait for each other, and wait long for one whose core is taken.
Each row takes the settings in turn, each in a process of its own, with and without a process that
computes on the last core.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    "threads spin": {},
    "threads sleep (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread (OMP_NUM_THREADS=1)": {"OMP_NUM_THREADS": "1"},
}
WORK = ("all triplets, 512 items", "an epoch of training")


def triplets() -> float:
    """Milliseconds of a step, forward and backward."""
    import torch
    import torch.nn.functional as F

    import likewise as lw

    points = F.normalize(torch.randn(512, 64)).requires_grad_()
    labels, loss = torch.arange(512) // 16, lw.losses.TripletLoss()
    taken = []
    for _ in range(25):
        started = time.perf_counter()
        loss(points, labels).backward()
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken[5:])


def epoch() -> float:
    """Seconds of an epoch of 1,280 images."""
    import torch

    import likewise as lw

    torch.manual_seed(0)
    data = lw.data.ArrayDataset(torch.rand(1280, 1, 32, 32), torch.arange(1280) % 40)
    encoder = lw.encoders.ConvEncoder((1, 32, 32))
    started = time.perf_counter()
    lw.fit(encoder, lw.losses.TripletLoss(), data, epochs=1)
    return time.perf_counter() - started


def burn() -> None:
    """Use the last core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    while True:
        pass


def once(work: str, setting: dict[str, str], busy: bool) -> float:
    """One figure, from a process of its own."""
    other = multiprocessing.Process(target=burn, daemon=True)
    if busy:
        other.start()
        time.sleep(0.2)
    command = [sys.executable, __file__, "--only", work]
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **setting}
    )
    if busy:
        other.terminate()
        other.join()
    return float(told.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=WORK, help="print one figure")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.only:
        print(triplets() if asked.only == WORK[0] else epoch())
        return
    print(f"{'':26s}{'':42s}{'alone':>10s}{'beside one':>12s}")
    for work in WORK:
        found: dict[tuple[str, bool], list[float]] = {}
        for _ in range(asked.rounds):
            for name, setting in SETTINGS.items():
                for busy in (False, True):
                    found.setdefault((name, busy), []).append(once(work, setting, busy))
        for name in SETTINGS:
            alone, beside = (statistics.median(found[name, busy]) for busy in (False, True))
            unit = "ms" if work == WORK[0] else "s"
            print(f"{work:26s}{name:42s}{alone:7.1f} {unit:2s}{beside:9.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
