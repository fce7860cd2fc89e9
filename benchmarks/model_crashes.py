"""What a saved model is after kills, and with several processes that save and load it at once.

    python benchmarks/model_crashes.py [--rounds N] [--loads N] [--kills N] [--seed S]

Prints a table. `unloadable`, `false damage`, `lost updates`, `mixed` and `locked out` must be 0.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import likewise as lw
from likewise.calibration import calibrate
from likewise.model import ArtifactError

BAD = ("unloadable", "false damage", "lost updates", "mixed", "locked out", "tracebacks")
FILES = 7  # of a model that was saved twice unchanged, with its lock
DISTANCES = torch.linspace(0, 1, 40)


def made_model(number: int = 0) -> lw.SimilarityModel:
    """A small model; its first weight and its origin both tell a number."""
    torch.manual_seed(0)
    model = lw.SimilarityModel(lw.encoders.MLPEncoder((4,), hidden=(64,), embedding_dim=8))
    return numbered(model, number)


def numbered(model: lw.SimilarityModel, number: int) -> lw.SimilarityModel:
    with torch.no_grad():
        next(model.encoder.parameters()).view(-1)[0] = number
    model.origin = {"number": number}
    return model


def number_of(model: lw.SimilarityModel) -> int | None:
    """The number of a model; None where its parts tell two."""
    number = int(next(model.encoder.parameters()).view(-1)[0])
    return number if model.origin["number"] == number else None


def forked(work: Callable[[], int]) -> int:
    """The id of a process that ends with the status that `work` gives."""
    child = os.fork()
    if not child:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ---------------------------------------------------------------- two processes


def change(model: lw.SimilarityModel, what: str, who: int) -> None:
    """As a command would, one part of the model."""
    if what == "index":
        model.index.add(torch.rand(2, 8), labels=[f"class of {who}"] * 2)
    elif what == "calibrate":
        shared = random.Random(who).random()
        model.calibrations["pairs"] = calibrate(DISTANCES + shared, DISTANCES < 0.5)
    else:
        model.calibrations[f"own {who}"] = calibrate(DISTANCES + who, DISTANCES < 0.3)


def is_there(model: lw.SimilarityModel, what: str, who: int) -> bool:
    wanted = made_model()
    change(wanted, what, who)
    if what == "index":
        return f"class of {who}" in model.class_names
    return all(model.calibrations.get(name) == made for name, made in wanted.calibrations.items())


def two_processes(rounds: int, folder: Path, seed: int = 0) -> Counter[str]:
    """Both load one model, change a part each, and save at about the same moment."""
    counts: Counter[str] = Counter()
    for round_ in range(rounds):
        rng = random.Random(f"{seed} {round_}")
        changes = [rng.choice(["index", "calibrate", "own point"]) for _ in range(2)]
        waits = [rng.random() * 0.006 for _ in range(2)]
        shutil.rmtree(folder, ignore_errors=True)
        made_model().save(folder)
        # Neither saves before both have loaded: else one would rightly build on the other.
        loaded, go = os.pipe(), os.pipe()

        def work(who: int) -> int:
            mine = lw.load(folder)
            change(mine, changes[who], who)  # noqa: B023
            os.write(loaded[1], b"!")  # noqa: B023
            os.close(loaded[1])  # noqa: B023
            os.read(go[0], 1)  # noqa: B023
            time.sleep(waits[who])  # noqa: B023
            try:
                mine.save(folder)
            except ArtifactError:
                return 1
            return 0

        children = [forked(lambda who=who, work=work: work(who)) for who in range(2)]
        os.close(loaded[1])  # so that a child that ends before is not waited for
        for _ in children:
            os.read(loaded[0], 1)
        os.write(go[1], b"!!")
        statuses = [ended(child) for child in children]
        for end in (loaded[0], *go):
            os.close(end)
        counts["saved"] += statuses.count(0)
        counts["refused"] += statuses.count(1)
        counts["tracebacks"] += sum(status not in (0, 1) for status in statuses)
        if changes[0] == changes[1] != "own point":
            counts["lost updates"] += statuses.count(0) > 1
        try:
            found = lw.load(folder)
        except ArtifactError:
            counts["unloadable"] += 1
            continue
        for who, status in enumerate(statuses):
            counts["lost updates"] += status == 0 and not is_there(found, changes[who], who)
    return counts


def threads(seconds: float, folder: Path) -> Counter[str]:
    """Four threads save four models into one folder again and again."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    models = [made_model(who) for who in range(4)]

    def work(model: lw.SimilarityModel) -> None:
        try:
            while time.monotonic() < end:
                model._kept.clear()  # each replaces what the others saved
                model.save(folder)
                counts["saved"] += 1
        except Exception as error:
            print(repr(error), file=sys.stderr)
            counts["tracebacks"] += 1

    running = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    counts["mixed"] += number_of(lw.load(folder)) is None
    return counts


# ---------------------------------------------------------------- readers and kills


def readers(loads: int, folder: Path) -> Counter[str]:
    """One process saves without a pause while this one loads."""
    counts: Counter[str] = Counter()
    shutil.rmtree(folder, ignore_errors=True)
    model = made_model()
    model.save(folder)
    parent = os.getpid()

    def work() -> int:
        number = 0
        while os.getppid() == parent:
            number += 1
            numbered(model, number).save(folder)
        return 0

    child = forked(work)
    seen = set()
    for _ in range(loads):
        try:
            number = number_of(lw.load(folder))
        except ArtifactError:
            counts["false damage"] += 1
            continue
        counts["loads"] += 1
        counts["mixed"] += number is None
        seen.add(number)
    os.kill(child, signal.SIGKILL)
    ended(child)
    counts["different models seen"] = len(seen)
    return counts


def kills(rounds: int, folder: Path, *, over_older: bool, seed: int = 0) -> Counter[str]:
    """kill -9 at a random moment of a save into a new folder, or over an older model."""
    counts: Counter[str] = Counter()
    model, changed = made_model(1), made_model(2)
    started = time.perf_counter()
    model.save(folder)
    shutil.rmtree(folder)
    lasts = time.perf_counter() - started
    for round_ in range(rounds):
        wait = random.Random(f"{seed} {round_}").random() * 1.5 * lasts
        if not over_older or round_ % 10 == 0:
            shutil.rmtree(folder, ignore_errors=True)
        if over_older:
            model.save(folder)
        reading, writing = os.pipe()

        def work(writing: int = writing) -> int:
            os.write(writing, b"!")
            changed._kept.clear()
            changed.save(folder)
            return 0

        child = forked(work)
        os.read(reading, 1)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        counts["killed" if ended(child) == -9 else "ended before"] += 1
        os.close(reading)
        os.close(writing)
        there = (folder / "model.json").exists()
        counts["left half a first save"] += not there and folder.exists()
        if there:
            try:
                number = number_of(lw.load(folder))
                counts["mixed"] += number not in ((1, 2) if over_older else (2,))
                counts["the newer one"] += number == 2
            except ArtifactError:
                counts["unloadable"] += 1
        model._kept.clear()
        try:
            model.save(folder)
            model.save(folder)
        except ArtifactError:
            counts["locked out"] += 1
            continue
        counts["mixed"] += number_of(lw.load(folder)) != 1
        counts["left over"] += len(os.listdir(folder)) - FILES
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of two processes that save")
    parser.add_argument("--loads", type=int, default=5_000, help="while another saves")
    parser.add_argument("--kills", type=int, default=100, help="of a first save, and over an older")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="likewise-models-") as name:
        folder = Path(name)
        runs: dict[str, Callable[[], Counter[str]]] = {
            "two processes save": lambda: two_processes(
                options.rounds, folder / "two", options.seed
            ),
            "four threads save": lambda: threads(5.0, folder / "threads"),
            "loads during saves": lambda: readers(options.loads, folder / "read"),
            "kill -9 in a first save": lambda: kills(
                options.kills, folder / "first", over_older=False, seed=options.seed
            ),
            "kill -9 over an older model": lambda: kills(
                options.kills, folder / "over", over_older=True, seed=options.seed
            ),
        }
        for name, run in runs.items():
            started = time.perf_counter()
            counts = run()
            bad = {key: counts.pop(key, 0) for key in (*BAD, "left over")}
            wrong += sum(bad.values())
            shown = ", ".join(f"{value} {key}" for key, value in counts.items())
            told = ", ".join(f"{value} {key}" for key, value in bad.items())
            seconds = time.perf_counter() - started
            print(f"{name:28s}{shown}; {told}; {seconds:.0f} s", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
