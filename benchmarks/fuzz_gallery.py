"""Galleries that somebody else changed: bytes, pages, facts with right checksums, SQL, odd files.

    python benchmarks/fuzz_gallery.py [--tries N] [--seed S]

Each try changes a whole gallery once, and then opens, reads, searches, checks, repairs and reads
it again in a process of its own. Prints a table by kind of change. These columns must be 0:
`another error`, which is no `GalleryError` or other `InputError`; `too long`, 10 s of computing
or a minute in all; `too large`, more than 1 GB; and `other answers`, without an error though no
checksum was recomputed.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faiss
import torch

from likewise.distances import EUCLIDEAN
from likewise.errors import InputError
from likewise.index import Gallery, GalleryReport, check_gallery, repair_gallery
from likewise.index._durable import mapped

SECONDS, PATIENCE, BYTES = 10, 60, 2**30
VERDICTS = ["refused", "the same", "other answers", "another error", "too long", "too large"]
ODD = [
    *(None, True, -1, 0, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**70, 1.5, "", "x", "strings"),
    *("integers", "int8", "float16", "manhattan", [], {}, [1], {"a": 1}, "é" * 100, 10**12),
]


def made(folder: Path, seed: int) -> Path:
    """A gallery of one of several kinds."""
    path = folder / f"base {seed}"
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(seed))
    ids = [f"é{n * 7919 % 1000}" for n in range(60)] if seed % 2 else None
    storage = ["float32", "float16", "int8"][seed % 3]
    with Gallery(path, distance=EUCLIDEAN, storage=storage, encoder="e") as gallery:
        gallery.add(
            rows,
            ids=ids,
            labels=["a", "b", "c"] * 20,
            metadata=[{"n": n} for n in range(60)],
            payloads=[bytes(9) if n % 2 else None for n in range(60)],
        )
        gallery.remove(gallery.ids[5:9])
        gallery.relabel(gallery.ids[:2], ["d", "a"])
    return path


def answers(path: Path, *, read_only: bool) -> str:
    """Everything that a gallery answers."""
    with Gallery(path, read_only=read_only) as gallery:
        queries = torch.zeros(2, gallery.dimension or 1)
        ids = gallery.ids
        count = min(5, len(ids))
        found = [
            gallery.lookup(queries, k=count),
            gallery.lookup(queries, k=count, where={"n": {">=": 3}}),
        ]
        told = gallery.summary()
        return repr(
            (
                *(ids.tolist(), gallery.labels.tolist(), gallery.embeddings.tolist()),
                *(gallery.class_names, gallery.metadata(ids), gallery.payloads(ids)),
                *(
                    (each.ids.tolist(), each.labels.tolist(), each.distances.tolist())
                    for each in found
                ),
                *(told.items, told.items_per_class, told.dimension, told.distance),
            )
        )


# Changes. Each gives back whether a checksum was recomputed.


def change_bytes(path: Path, rng: random.Random) -> bool:
    file = rng.choice(files(path))
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 3, 50])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    file.write_bytes(content)
    return False


def change_pages(path: Path, rng: random.Random) -> bool:
    file = rng.choice(files(path))
    content = bytearray(file.read_bytes())
    pages = max(1, len(content) // 4096)
    one, other = rng.randrange(pages) * 4096, rng.randrange(pages) * 4096
    fill = rng.choice([content[other : other + 4096], bytes(4096), rng.randbytes(4096)])
    content[one : one + 4096] = fill
    file.write_bytes(content)
    return False


def change_length(path: Path, rng: random.Random) -> bool:
    file = rng.choice(files(path))
    content = file.read_bytes()
    at = rng.randrange(len(content))
    file.write_bytes(rng.choice([content[:at], content + rng.randbytes(at), content[at:], b""]))
    return False


def change_order(path: Path, rng: random.Random) -> bool:
    one, other = rng.sample(files(path), 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    if rng.random() < 0.5:
        other.write_bytes(content)
    else:
        other.unlink()
    return False


def change_facts(path: Path, rng: random.Random) -> bool:
    text = changed_facts(rng, path)
    places = rng.choice(["database", "acknowledged", "mapped", "all", "all"])
    if places in ("database", "all"):
        with closed(path) as database:
            database.execute(
                "UPDATE facts SET value = CAST(? AS TEXT), checksum = ?", (text, zlib.crc32(text))
            )
    if places in ("acknowledged", "all"):
        slot = struct.pack("<8sII", b"likewise", len(text), zlib.crc32(text)) + text
        (path / "gallery.acknowledged").write_bytes(slot.ljust(4096, b"\0") * 2)
    file = path / "gallery.vectors"
    if places in ("mapped", "all") and file.exists():
        content = file.read_bytes()
        (length,) = struct.unpack("<I", content[:4])
        head = json.loads(content[8 : 8 + length])
        head[0] = text.decode(errors="replace")
        if rng.random() < 0.5:
            head[rng.choice([1, 2])] = rng.choice([ODD, [2**62] * 6, [-1] * 6, [], "x", None])
        new = json.dumps(head).encode()
        head_bytes = struct.pack("<II", len(new), zlib.crc32(new)) + new
        file.write_bytes(head_bytes.ljust(8192, b"\0")[:8192] + content[8192:])
    return True


def changed_facts(rng: random.Random, path: Path) -> bytes:
    with closed(path) as database:
        ((text,),) = database.execute("SELECT value FROM facts").fetchall()
    facts = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        facts[rng.choice([*facts, "unknown"])] = rng.choice(ODD)
    if rng.random() < 0.1:
        facts.pop(rng.choice([*facts]))
    deep = b"[" * 5000
    text = json.dumps(facts, ensure_ascii=False).encode()
    return rng.choice([text] * 8 + [deep, b"", b"\xff\xfe", b"null"])[:4000]


def change_sql(path: Path, rng: random.Random) -> bool:
    huge = rng.choice([2**62, -(2**62), 2**31])
    statements = [
        "DROP TABLE names",
        "CREATE TABLE more (x)",
        "CREATE TRIGGER t AFTER INSERT ON items BEGIN DELETE FROM items; END",
        "CREATE VIEW v AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) "
        "SELECT x FROM c",
        "CREATE INDEX i ON items (id)",
        "DELETE FROM items WHERE position % 3 = 0",
        "DELETE FROM facts",
        "INSERT INTO facts VALUES ('{}', 0)",
        "UPDATE facts SET value = x'00ff'",
        "UPDATE items SET id = NULL WHERE position = 3",
        "UPDATE items SET id = x'ff' WHERE position = 3",
        "UPDATE items SET id = 1.5 WHERE position = 3",
        f"UPDATE items SET position = {huge} WHERE position = 3",
        f"UPDATE items SET label = {huge} WHERE position = 3",
        "UPDATE items SET label = 'x' WHERE position = 3",
        "UPDATE items SET embedding = zeroblob(5000000) WHERE position = 3",
        "UPDATE items SET embedding = NULL",
        "UPDATE items SET embedding = 5 WHERE position = 3",
        "UPDATE items SET metadata = 'not json' WHERE position = 3",
        "UPDATE items SET metadata = x'ff'",
        "UPDATE items SET fingerprint = 7 WHERE position = 3",
        "UPDATE items SET fingerprint = x'ff'",
        "UPDATE items SET checksum = NULL WHERE position = 3",
        "UPDATE items SET checksum = 1e300 WHERE position = 3",
        "UPDATE items SET payload_checksum = 'x' WHERE position = 3",
        "UPDATE names SET name = NULL WHERE code = 1",
        "UPDATE names SET name = 5",
        f"UPDATE names SET code = {huge} WHERE code = 1",
        f"INSERT INTO changes VALUES ({huge}, {huge}, {huge})",
        "INSERT INTO changes VALUES ('x', NULL, x'00')",
    ]
    with closed(path) as database:
        for statement in rng.sample(statements, rng.choice([1, 1, 2])):
            try:
                database.execute(statement)
            except sqlite3.Error:
                continue  # the first of two has taken away what this one needs
    for name in ["gallery.vectors"] * (rng.random() < 0.8):  # else it stands in for the rows
        (path / name).unlink(missing_ok=True)
    return False


def change_rows(path: Path, rng: random.Random) -> bool:
    """Metadata with a right checksum that is not what a gallery writes."""
    part = rng.choice([b"[1]", b"not json", b"[" * 5000, b'{"n": NaN}', b"\xff", b"null"])
    position = rng.randrange(60)
    with closed(path) as database:
        ((before,),) = database.execute(
            "SELECT checksum FROM items WHERE position = ?", (position,)
        ).fetchall() or [(0,)]
        database.execute(
            "UPDATE items SET metadata = ?, metadata_checksum = ?, checksum = ? WHERE position = ?",
            (
                part.decode(errors="surrogateescape")
                if rng.random() < 0.5 and part[:1] != b"\xff"
                else part,
                zlib.crc32(part),
                before,
                position,
            ),
        )
    (path / "gallery.vectors").unlink(missing_ok=True)
    return True


def change_files(path: Path, rng: random.Random) -> bool:
    name = rng.choice(
        [
            *("gallery.sqlite", "gallery.sqlite-wal", "gallery.sqlite-shm", "gallery.lock"),
            *("gallery.sqlite-journal", "gallery.acknowledged", "gallery.vectors"),
            *("gallery.vectors.part", "gallery.lock-journal"),
        ]
    )
    file = path / name
    file.unlink(missing_ok=True)
    kind = rng.choice(["pipe", "zero", "random", "folder", "nowhere", "circle", "sparse", "socket"])
    if kind == "pipe":
        os.mkfifo(file)
    elif kind in ("zero", "random"):
        file.symlink_to("/dev/zero" if kind == "zero" else "/dev/urandom")
    elif kind == "folder":
        file.mkdir()
    elif kind == "nowhere":
        file.symlink_to(path / "is not there")
    elif kind == "circle":
        file.symlink_to(file)
    elif kind == "sparse":
        with file.open("wb") as opened:
            opened.truncate(2**40)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            os.chdir(path)  # the name of a socket must be short
            listening.bind(name)
    return False


CHANGES: dict[str, Callable[[Path, random.Random], bool]] = {
    "bytes": change_bytes,
    "pages": change_pages,
    "cuts": change_length,
    "swaps": change_order,
    "facts": change_facts,
    "SQL": change_sql,
    "rows": change_rows,
    "files": change_files,
}


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.stat().st_size)


class closed:
    """A database of a gallery that is closed at the end, and written."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path / "gallery.sqlite", isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        return self.connection

    def __exit__(self, *error: object) -> None:
        self.connection.close()


def used(path: Path, expected: str, is_forged: bool) -> str:
    """The verdict on a changed gallery."""
    verdict = "the same"
    for step in (
        lambda: answers(path, read_only=True),
        lambda: answers(path, read_only=False),
        lambda: check_gallery(path),
        lambda: repair_gallery(path),
        lambda: answers(path, read_only=False),
    ):
        try:
            said = step()
        except InputError:
            verdict = "refused"
            continue
        if isinstance(said, GalleryReport) and not said.is_whole:
            verdict = "refused"
        if isinstance(said, str) and said != expected and verdict != "refused" and not is_forged:
            return "other answers"
    return verdict


def tried(path: Path, change: str, seed: int, expected: str) -> tuple[str, str]:
    """Change, use and judge a gallery in a process of its own: the verdict, and what was said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # OpenMP's threads do not outlive a fork: with more than one, a child waits for ever.
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        os.close(reading)
        said = "another error"
        try:
            is_forged = CHANGES[change](path, random.Random(seed))
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            computed = int(time.process_time()) + SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (computed, computed + 5))
            said = used(path, expected, is_forged)
        except MemoryError:
            said = "too large\n" + traceback.format_exc()
        except BaseException:
            said = "another error\n" + traceback.format_exc()
        os.write(writing, said.encode()[-60000:])
        os._exit(0)
    os.close(writing)
    ends = time.monotonic() + PATIENCE
    done, status = 0, 0
    while not done and time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not done or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        os.close(reading)
        return "too long", ""
    with open(reading, "rb") as pipe:
        said = pipe.read() or b"another error\nkilled"
    verdict, _, more = said.decode().partition("\n")
    return verdict, more


def fuzzed(folder: Path, tries: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often each change came to each verdict, and what was said of the bad ones."""
    mapped.LEAST = 1  # these galleries are small, and shall have the file that is mapped, too
    bases = [made(folder, number) for number in range(6)]
    expected = [answers(base, read_only=True) for base in bases]
    counts: Counter[tuple[str, str]] = Counter()
    bad = []
    for number in range(tries):
        change = list(CHANGES)[number % len(CHANGES)]
        base = random.Random(f"{seed} {number}").randrange(len(bases))
        path = folder / "changed"
        shutil.copytree(bases[base], path)
        verdict, said = tried(path, change, seed * 10**6 + number, expected[base])
        counts[change, verdict] += 1
        if verdict not in ("refused", "the same"):
            bad.append(f"{change} {seed} {number}: {verdict}\n{said}")
        shutil.rmtree(path)
    return counts, bad


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts, bad = fuzzed(Path(folder), options.tries, options.seed)
    for each in bad[:10]:
        print(each)
    print("| change | tries | " + " | ".join(VERDICTS) + " |")
    print("|---" * (2 + len(VERDICTS)) + "|")
    for change in CHANGES:
        row = [counts[change, verdict] for verdict in VERDICTS]
        print(f"| {change} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    total = [sum(counts[change, verdict] for change in CHANGES) for verdict in VERDICTS]
    print(f"| all | {sum(total)} | " + " | ".join(map(str, total)) + " |")
    raise SystemExit(bool(sum(total[2:])))


if __name__ == "__main__":
    main()
