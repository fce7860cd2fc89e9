"""Seconds and decodes per file of whole commands, in an older tree and in this one.

    git worktree add ../older COMMIT
    python benchmarks/road.py ../older/src [--photos 320] [--width 1600] [--height 1200]

Generates JPEG photos, trains a small model with the tree in question, and runs `index`, `calibrate`
and `evaluate --report` on them, each in a process of its own, in which decodes are counted. Of a
machine that does other work as well, compare the seconds of the processor.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SOURCE = Path(__file__).parent.parent / "src"
CLASSES = 8


def photos(folder: Path, count: int, width: int, height: int) -> Path:
    """Photos of coarse noise, a color for each class, in one folder for each."""
    rng = np.random.default_rng(0)
    colors = np.random.default_rng(1).integers(60, 195, (CLASSES, 3))
    for number in range(count):
        noise = rng.normal(0, 45, (400 * height // width, 400, 3)) + colors[number % CLASSES]
        photo = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((width, height))
        path = folder / f"class {number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=90)
    return folder


def serve(arguments: list[str]) -> None:
    """Run one command and print how often each file was decoded."""
    from likewise import cli
    from likewise.data import images

    counts: Counter[str] = Counter()
    really = images._open

    def counted(path: Any, *rest: Any, **named: Any) -> Any:
        counts[str(path)] += 1
        return really(path, *rest, **named)

    images._open = counted
    sys.argv = ["likewise", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
    print("\n" + json.dumps(dict(counts)))


def ran(environment: dict[str, str], *arguments: Any) -> tuple[float, float, str]:
    """Seconds on the clock, those of the processor, and decodes of a command."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--serve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    counts = json.loads(done.stdout.splitlines()[-1]).values()
    told = f"{sum(counts)} of {len(counts)} files, at most {max(counts)}"
    return time.perf_counter() - started, processor, told


def measured(
    source: Path, folder: Path, data: Path, kept: str | None
) -> dict[str, tuple[Any, ...]]:
    """By command: seconds and decodes in one tree."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    if kept is not None:
        environment["LIKEWISE_MAX_KEPT"] = kept
    found = {}
    model = folder / "model"
    commands: dict[str, list[Any]] = {
        "train": [data, "--out", model, "--epochs", 1, "--batches", 2, "--image-size", 32],
        "index": [model, data, "--per-class", 5],
        "calibrate": [model, data],
        "evaluate --report": [model, data, "--report", folder / "report.html"],
    }
    commands["train"] += ["--keep-aside", 0.3]
    for name, arguments in commands.items():
        found[name] = ran(environment, name.split()[0], *arguments)
        clock, processor, told = found[name]
        print(f"{source}: {name} {clock:.1f} s, {processor:.1f} s, {told}", file=sys.stderr)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("older", type=Path)
    parser.add_argument("--photos", type=int, default=320)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--height", type=int, default=1200)
    parser.add_argument("--kept", help="LIKEWISE_MAX_KEPT, such as 0: no decoded image is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = photos(Path(place) / "photos", options.photos, options.width, options.height)
        tables = []
        for number, source in enumerate((options.older.resolve(), SOURCE.resolve())):
            folder = Path(place) / str(number)
            folder.mkdir()
            tables.append(measured(source, folder, data, options.kept))
    print("| command | before, s (processor) | now, s | times faster | decodes before | now |")
    print("|---|---|---|---|---|---|")
    older, newer = tables
    for name, (clock, processor, told) in older.items():
        now, less, fewer = newer[name]
        ratios = f"{clock / now:.1f} ({processor / less:.1f})"
        print(
            f"| `{name}` | {clock:.1f} ({processor:.1f}) | {now:.1f} ({less:.1f}) | {ratios} "
            f"| {told} | {fewer} |"
        )


if __name__ == "__main__":
    main()
