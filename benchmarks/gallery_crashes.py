"""What a gallery is after crashes: kill -9, flipped bytes, full and read-only disks, many readers.

    python benchmarks/gallery_crashes.py [--rounds N] [--seconds S]

Prints a table. `wrong` counts galleries that opened with anything but what was acknowledged,
`tracebacks` everything that was no sentence; both must be 0.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import torch

from likewise.distances import EUCLIDEAN
from likewise.index import Gallery, GalleryError, check_gallery, repair_gallery
from likewise.index._durable import mapped

DIMENSION = 16
NOBODY = 65534


class Model:
    """What a gallery must hold after so many steps of a script that a seed decides."""

    def __init__(self, seed: int, *, size: int = 60, text: bool = False) -> None:
        self.seed, self.size, self.text = seed, size, text
        self.steps, self.items = 0, {}  # id -> (embedding, label, metadata, payload)

    def step(self, gallery=None) -> None:
        """Do the next step here, and in the gallery, if one is given, before that."""
        random_ = random.Random(f"{self.seed} {self.steps}")
        verb = random_.choice(["add"] * 5 + ["upsert", "remove", "relabel"])
        if len(self.items) > 40 * self.size:
            verb = "remove"
        stored = list(self.items)
        some = random_.sample(stored, min(len(stored), random_.randint(1, self.size)))
        labels = [random_.randint(-1, 9) for _ in range(2 * self.size)]
        if verb in ("add", "upsert"):
            numbers = range(self.steps * 1000, self.steps * 1000 + self.size)
            ids = [f"item {n * 7919 % 100_003} {n}" if self.text else n for n in numbers]
            ids = [*some, *ids] if verb == "upsert" else ids
            rows = np.random.default_rng(self.seed + self.steps).normal(size=(len(ids), DIMENSION))
            embeddings = torch.from_numpy(rows.astype(np.float32))
            metadata = [{"n": i, "step": self.steps} if i % 3 else {} for i in range(len(ids))]
            payloads = [random_.randbytes(i % 7 * 40) if i % 2 else None for i in range(len(ids))]
            labels = labels[: len(ids)]
            if gallery is not None:
                getattr(gallery, verb)(
                    embeddings, labels=labels, ids=ids, metadata=metadata, payloads=payloads
                )
            for id_ in some if verb == "upsert" else []:
                del self.items[id_]
            values = zip(embeddings.tolist(), labels, metadata, payloads, strict=True)
            self.items.update(zip(ids, map(list, values), strict=True))
        elif verb == "remove" and some:
            if gallery is not None:
                gallery.remove(some)
            for id_ in some:
                del self.items[id_]
        elif some:
            if gallery is not None:
                gallery.relabel(some, labels[: len(some)])
            for id_, label in zip(some, labels, strict=False):
                self.items[id_][1] = label
        self.steps += 1

    def differs(self, gallery: Gallery) -> str:
        """What is not in the gallery as it is here; empty if nothing."""
        ids = gallery.ids.tolist()
        if ids != list(self.items):
            return f"ids: {len(ids)} there, {len(self.items)} acknowledged"
        values = list(self.items.values())
        if gallery.embeddings.tolist() != [value[0] for value in values]:
            return "embeddings"
        if gallery.labels.tolist() != [value[1] for value in values]:
            return "labels"
        if gallery.metadata(ids) != [value[2] for value in values]:
            return "metadata"
        if gallery.payloads(ids) != [value[3] for value in values]:
            return "payloads"
        if ids:
            at = len(ids) // 2
            found = gallery.lookup(gallery.embeddings[at : at + 1], k=1)
            if found.ids.tolist() != [[ids[at]]]:
                return "lookup"
        return ""


def forked(work) -> int:
    """Run `work` in a child process, and give back its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def write_forever(folder: Path, model: Model, acknowledged: int) -> None:
    with Gallery(folder, distance=EUCLIDEAN) as gallery:
        os.write(acknowledged, b"o")
        while True:
            model.step(gallery)
            os.write(acknowledged, b"s")


def kill_rounds(rounds: int, folder: Path, *, seed: int = 0) -> Counter:
    """SIGKILL at a random moment; then the gallery must be as after the last step it told of."""
    counts, random_ = Counter(rounds=rounds), random.Random(seed)
    model = Model(seed)
    for round_ in range(rounds):
        if round_ % 25 == 0:
            shutil.rmtree(folder, ignore_errors=True)
            model = Model(seed + round_, text=round_ % 50 == 25)
        read, write = os.pipe()
        child = forked(lambda model=model, write=write: write_forever(folder, model, write))
        os.close(write)
        if random_.random() < 0.9:  # else it may be killed while it opens or makes the gallery
            os.read(read, 1)
        time.sleep(random_.random() ** 2 * 0.4)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b""
        while part := os.read(read, 65536):
            told += part
        os.close(read)
        for _ in range(told.count(b"s")):
            model.step()
        counts["acknowledged steps"] += told.count(b"s")
        with Gallery(folder, distance=EUCLIDEAN) as gallery:
            if model.differs(gallery):
                model.step()  # the one that was stored, but killed before it could be told
                counts["one step ahead"] += 1
                if difference := model.differs(gallery):
                    counts["wrong"] += 1
                    print("kill:", round_, difference, file=sys.stderr)
    return counts


def made(folder: Path, model: Model, steps: int, *, state: str) -> None:
    """A gallery after some steps: closed, mapped as large ones are, or left by a killed writer."""

    def work() -> None:
        mapped.LEAST = 1 if state == "mapped" else 2**16
        with Gallery(folder, distance=EUCLIDEAN, class_names=()) as gallery:
            for _ in range(steps):
                model.step(gallery)
            if state == "killed":
                os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(work), 0)
    for _ in range(steps):
        model.step()


def damage_rounds(
    rounds: int,
    folder: Path,
    *,
    is_torn: bool = False,
    seed: int = 0,
    states: Sequence[str] = ("closed", "mapped", "killed"),
) -> dict:
    """In each file one byte flipped, or its end cut off: exactly what was, or one sentence."""
    table = {}
    for state in states:
        whole = folder / f"whole-{state}"
        model = Model(seed + 5, size=20)
        made(whole, model, 12, state=state)
        for file in sorted(whole.iterdir()):
            size = file.stat().st_size
            if size == 0:
                continue
            random_ = random.Random(f"{seed} {file.name}")
            counts = Counter(rounds=rounds)
            for round_ in range(rounds):
                copy = folder / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(whole, copy)
                at = random_.randrange(min(size, 4096) if round_ % 8 == 0 else size)
                with (copy / file.name).open("r+b") as damaged:
                    if is_torn:
                        damaged.truncate(at)
                    else:
                        damaged.seek(at)
                        byte = damaged.read(1)[0] ^ (1 << random_.randrange(8))
                        damaged.seek(at)
                        damaged.write(bytes([byte]))
                counts[opened(copy, model, read_only=round_ % 2 == 1)] += 1
                counts[repaired(copy, model)] += 1
            name = file.name.removeprefix("gallery.")
            table[f"{'torn' if is_torn else 'flipped'}: {name}, {state}"] = counts
    return table


def opened(folder: Path, model: Model, *, read_only: bool) -> str:
    """How a gallery fares that may be damaged."""
    try:
        with Gallery(folder, read_only=read_only) as gallery:
            difference = model.differs(gallery)
            if difference:
                print("damaged:", folder, difference, file=sys.stderr)
            return "wrong" if difference else "exact"
    except GalleryError:
        return "sentence"
    except Exception as error:
        print("damaged:", repr(error), file=sys.stderr)
        return "tracebacks"


def repaired(folder: Path, model: Model) -> str:
    """How it fares after a repair: items that are there must be as they were."""
    try:
        report = repair_gallery(folder)
        with Gallery(folder, read_only=True) as gallery:
            ids = gallery.ids.tolist()
            metadata = gallery.metadata(ids)
            for row, id_ in enumerate(ids):
                embedding, label, known, _ = model.items.get(id_, [None] * 4)
                same = (gallery.embeddings[row].tolist(), int(gallery.labels[row]))
                is_as_it_was = same == (embedding, label) and metadata[row] in (known, {})
                # Where the last batches are lost, an item may be as it was before them.
                if not is_as_it_was and not any("missing" in text for text in report.problems):
                    print("repaired:", folder, id_, report, file=sys.stderr)
                    return "repaired wrong"
        return "" if report.is_whole else "repaired"
    except GalleryError as error:
        return "not repaired" if "is lost in both" in str(error) else "tracebacks"
    except Exception as error:
        print("repaired:", repr(error), file=sys.stderr)
        return "tracebacks"


def full_rounds(rounds: int, folder: Path, *, seed: int = 0) -> dict:
    """Files that must not grow beyond a random size, and a disk that is full: nothing is lost."""
    table, random_ = {}, random.Random(seed)
    for kind in ("file size", "disk"):
        counts = Counter(rounds=rounds)
        disk = folder / "disk"
        disk.mkdir(exist_ok=True)
        if kind == "disk" and not mounted(disk):
            table["full: disk (no right to mount one)"] = Counter(rounds=0)
            continue
        for round_ in range(rounds):
            for old in disk.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            room = int(2 ** random_.uniform(14, 19))
            if kind == "disk":
                (disk / "ballast").write_bytes(bytes(2**20 - room))
            counts[until_full(disk / "gallery", room if kind == "file size" else None, round_)] += 1
        if kind == "disk":
            subprocess.run(["umount", disk], check=True)
        table[f"full: {kind}"] = counts
    return table


def mounted(disk: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "likewise", str(disk)]
    return subprocess.run(command, capture_output=True).returncode == 0


def until_full(folder: Path, limit: int | None, seed: int) -> str:
    """Write until that is refused, then go on looking things up, then open again."""
    read, write = os.pipe()
    model = Model(seed, size=15)

    def work() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        told = b"t"
        try:
            with Gallery(folder, distance=EUCLIDEAN) as gallery:
                for _ in range(400):
                    try:
                        model.step(gallery)
                    except GalleryError:
                        told = b"w" if model.differs(gallery) else b"r"
                        break
                    os.write(write, b"s")
        except GalleryError:
            told = b"r"
        except BaseException as error:
            print("full:", repr(error), file=sys.stderr)
        os.write(write, told)

    child = forked(work)
    os.close(write)
    told = b""
    while part := os.read(read, 65536):
        told += part
    os.close(read)
    os.waitpid(child, 0)
    if not told.endswith(b"r"):
        return "wrong" if told.endswith(b"w") else "tracebacks"
    after = Model(seed, size=15)
    for _ in range(told.count(b"s")):
        after.step()
    ballast = folder.parent / "ballast"
    ballast.unlink(missing_ok=True)
    try:
        with Gallery(folder, distance=EUCLIDEAN) as gallery:
            if after.differs(gallery):
                return "wrong"
            after.step(gallery)
        return "exact"
    except Exception as error:
        print("full:", repr(error), file=sys.stderr)
        return "tracebacks"


def read_only_rounds(rounds: int, folder: Path, *, seed: int = 0) -> dict:
    """A folder that cannot be written: refused for writing, read exactly or refused."""
    table = {}
    for state in ("closed", "killed"):
        counts = Counter(rounds=rounds)
        for round_ in range(rounds):
            target = folder / "read-only"
            subprocess.run(["rm", "-rf", target], check=True)
            model = Model(seed + round_, size=5)
            made(target, model, 3 + round_ % 5, state=state)
            for file in target.iterdir():
                file.chmod(0o444)
            target.chmod(0o555)
            child = forked(lambda target=target, model=model: _without_rights(target, model))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            counts[{0: "exact", 3: "sentence", 4: "wrong"}.get(code, "tracebacks")] += 1
            target.chmod(0o755)
        table[f"read-only: {state}"] = counts
    return table


def _without_rights(folder: Path, model: Model) -> None:
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        Gallery(folder)
        os._exit(4)
    except GalleryError:
        pass
    code = {"exact": 0, "sentence": 3, "wrong": 4}.get(opened(folder, model, read_only=True), 5)
    os._exit(code)


def readers_round(seconds: float, folder: Path, *, readers: int = 8) -> Counter:
    """One process writes whole batches, others look up: each batch is there whole, or not."""
    size, counts = 50, Counter()
    with Gallery(folder, distance=EUCLIDEAN, dimension=4) as gallery:
        gallery.add(torch.full((size, 4), -1.0), labels=[0] * size)
    end = time.monotonic() + seconds
    read, write = os.pipe()

    def look(number: int) -> None:
        random_, seen, wrong, newest = random.Random(number), 0, 0, 0
        with Gallery(folder, read_only=True) as gallery:
            while time.monotonic() < end:
                at = max(-1, newest - random_.randrange(8))
                found = gallery.lookup(torch.full((1, 4), float(at)), k=size)
                near = found.distances[0] == 0
                labels = found.labels[0][near].unique()
                wrong += int(near.sum()) not in (0, size) or len(labels) > 1
                newest = max(newest, len(gallery) // size + 2)
                wrong += len(gallery) % size != 0
                seen += 1
        os.write(write, f"{seen} {wrong} {newest}\n".encode())

    children = [forked(lambda number=number: look(number)) for number in range(readers)]
    os.close(write)
    batches, random_ = 0, random.Random(0)
    with Gallery(folder) as gallery:
        stop, seen, wrong = threading.Event(), [0], [0]

        def look_in_thread() -> None:
            while not stop.is_set():
                found = gallery.lookup(torch.full((1, 4), float(batches)), k=size)
                wrong[0] += int((found.distances[0] == 0).sum()) not in (0, size)
                seen[0] += 1

        threads = [threading.Thread(target=look_in_thread) for _ in range(2)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            batches += 1
            ids = gallery.add(torch.full((size, 4), float(batches)), labels=[batches] * size)
            if random_.random() < 0.3:
                gallery.relabel(ids, [batches + 1_000_000] * size)
            if random_.random() < 0.3:
                gallery.remove(ids)
        stop.set()
        for thread in threads:
            thread.join()
        counts["batches"], counts["lookups in threads"] = batches, seen[0]
        counts["wrong"] += wrong[0]
    told = b""
    while part := os.read(read, 65536):
        told += part
    os.close(read)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    counts["tracebacks"] = sum(code != 0 for code in codes)
    for line in told.decode().splitlines():
        lookups, wrong_, _ = map(int, line.split())
        counts["lookups"] += lookups
        counts["wrong"] += wrong_
    if not check_gallery(folder).is_whole:
        counts["wrong"] += 1
    return counts


def main() -> None:
    kinds = ["killed", "flipped", "torn", "full", "read-only", "readers"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each kind (kill -9: half more)")
    parser.add_argument("--seconds", type=float, default=60, help="that readers read")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="likewise-crashes-"))
    folder.chmod(0o755)
    rounds = options.rounds
    runs = {
        "killed": lambda: {"kill -9": kill_rounds(rounds * 3 // 2, folder / "killed")},
        "flipped": lambda: damage_rounds(rounds, folder / "flipped"),
        "torn": lambda: damage_rounds(rounds, folder / "torn", is_torn=True),
        "full": lambda: full_rounds(rounds, folder),
        "read-only": lambda: read_only_rounds(rounds, folder),
        "readers": lambda: {"1 writer, 8 readers": readers_round(options.seconds, folder / "read")},
    }
    for kind in options.only:
        started = time.perf_counter()
        for name, counts in runs[kind]().items():
            bad = {key: counts.pop(key, 0) for key in ("wrong", "tracebacks", "repaired wrong")}
            shown = ", ".join(f"{value} {key}" for key, value in counts.items() if key)
            print(f"{name:34s}{shown};", ", ".join(f"{value} {key}" for key, value in bad.items()))
        print(f"{kind}: {time.perf_counter() - started:.0f} s", flush=True)
    subprocess.run(["rm", "-rf", folder], check=True)


if __name__ == "__main__":
    main()
