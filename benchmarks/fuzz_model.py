"""What loading makes of mutated model folders: bent JSON, tensors, bytes, and odd files.

    python benchmarks/fuzz_model.py [--cases N] [--seed S]

Each case alters a copy of one saved model, then loads it and asks it for decisions in a forked
process. "sealed" kinds write fresh checksums, as whoever forges a folder would. Prints a table.
Errors other than the ones of likewise, hangs, and unsealed changes that alter a decision without
an error must all be 0; a forged folder may decide otherwise.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import likewise as lw
from likewise.errors import InputError

PATIENCE = 10.0  # seconds for one case
BAD = ("other error", "hang", "changed unseen", "killed")
NASTY = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**13, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "pool", "\0", "\ud800", "../x", "/dev/zero", "nearest"),
    *([], [[]], [0], [1] * 50, ["x"], {}, {"": {}}, {"a": 1}),
]


def made_model() -> lw.SimilarityModel:
    """A small model with all that a folder can hold but a gallery."""
    torch.manual_seed(0)
    digits = lw.data.load("digits", split="train")
    encoder = lw.encoders.ConvEncoder((1, 8, 8), layers=(4, "pool", 8), embedding_dim=8)
    preprocess = lw.data.Preprocess.fit(digits)
    few = lw.data.sample_items(digits, per_class=20, seed=5)
    unit = nn.Sequential(encoder.features, lw.encoders.Normalize())
    long = lw.encode(unit, few, preprocess=preprocess.apply)
    components = lw.encoders.PrincipalComponents.fit(long, 8)
    model = lw.SimilarityModel(
        nn.Sequential(encoder.features, lw.encoders.Normalize(), components),
        distance=lw.distances.EUCLIDEAN,
        preprocess=preprocess,
        trained=lw.data.sample_items(digits, per_class=5, seed=1),
        origin={"data": "digits", "history": [{"epoch": 1, "loss": 0.5}]},
    )
    model.use_cohort(few, nearest=20)
    model.add(lw.data.sample_items(digits, per_class=4, seed=2))
    model.calibrate(digits, k=3, per_class=True, fewest=10)
    model.calibrate(digits, rule="pairs", per_item=1.0)
    return model


def decisions(folder: Path) -> str:
    """What a model says of some items, in one text."""
    test = lw.data.items(lw.data.load("digits", split="test"), range(12))
    model = lw.load(folder)
    matches = model.match(test)
    pairs = model.verify(test[:6], test[6:])
    said = [
        matches.labels.tolist(),
        matches.distances.tolist(),
        matches.probabilities.tolist(),
        matches.neighbors.ids.tolist(),
        model.index.metadata(matches.neighbors.ids[:, 0]),
        pairs.same.tolist(),
        pairs.distances.tolist(),
        pairs.probabilities.tolist(),
        [model.class_names, model.trained_on, model.origin, model.index.summary().to_dict()],
        [made.to_dict() for made in model.calibrations.values()],
        [model.trained_prints.tolist(), model.calibrated_prints.tolist()],
    ]
    said[8][3].pop("lookup_seconds")
    return json.dumps(said)


# ---------------------------------------------------------------- mutations


def walk(value, path=()):
    """Every place of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(child, (*path, key))


def bent(value, rng: random.Random):
    """The value with one place changed, removed, added to, or nested deeply."""
    places = [path for path in walk(value) if path]
    # Long lists of numbers would take nearly all of the draws.
    rare = [path for path in places if len(path) < 4 or not isinstance(path[-1], int)] or places
    path = rng.choice(rare if rng.random() < 0.8 else places)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, how = path[-1], rng.random()
    if how < 0.6:
        holder[key] = rng.choice(NASTY)
    elif how < 0.7:
        del holder[key]
    elif how < 0.8 and isinstance(holder, dict):
        holder[rng.choice(["", "more", str(key) + "x"])] = rng.choice(NASTY)
    elif how < 0.9:
        old = holder[key]
        numbers = isinstance(old, int | float) and not isinstance(old, bool)
        holder[key] = old * rng.choice([-1, 2, 1000, 10**30]) if numbers else [old]
    else:
        deep = holder[key]
        for _ in range(rng.choice([5, 100, 900])):
            deep = [deep] if rng.random() < 0.5 else {"parts": deep}
        holder[key] = deep
    return value


def parts_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name != "model.lock")


def seal(folder: Path, manifest: dict) -> None:
    """Write a manifest with a fresh checksum."""
    manifest.pop("checksum", None)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    whole = {"checksum": hashlib.sha256(text.encode()).hexdigest(), **manifest}
    (folder / "model.json").write_text(json.dumps(whole))


def seal_part(folder: Path, name: str, content: bytes) -> None:
    """Replace a part, and name its fresh checksum in the manifest."""
    manifest = json.loads((folder / "model.json").read_text())
    entry = manifest["files"][name]
    (folder / entry["file"]).write_bytes(content)
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    seal(folder, manifest)


def flip(folder: Path, rng: random.Random) -> None:
    file = rng.choice(parts_of(folder))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(folder: Path, rng: random.Random) -> None:
    file = rng.choice(parts_of(folder))
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))] + b"\0" * rng.choice([0, 0, 5000]))


def swap(folder: Path, rng: random.Random) -> None:
    file = rng.choice(parts_of(folder))
    content = bytearray(file.read_bytes())
    size = rng.choice([1, 4, 32])
    a, b = (rng.randrange(max(1, len(content) - size)) for _ in range(2))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    file.write_bytes(content)


def swap_files(folder: Path, rng: random.Random) -> None:
    a, b = rng.sample(parts_of(folder), 2)
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def odd_file(folder: Path, rng: random.Random) -> None:
    file = rng.choice(parts_of(folder))
    content = file.read_bytes()
    file.unlink()
    kind = rng.choice(["pipe", "folder", "zero", "random", "self", "socket", "gone", "sparse"])
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(folder)  # the path of a socket must be short
            listener.bind(file.name)
            os.chdir(here)
    elif kind == "sparse":
        file.write_bytes(content)
        os.truncate(file, 1 << 40)
    elif kind != "gone":
        targets = {"zero": "/dev/zero", "random": "/dev/urandom", "self": file.name}
        file.symlink_to(targets[kind])


def json_unsealed(folder: Path, rng: random.Random) -> None:
    file = rng.choice([file for file in parts_of(folder) if file.suffix == ".json"])
    file.write_text(json.dumps(bent(json.loads(file.read_text()), rng)))


def manifest_sealed(folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    seal(folder, bent(manifest, rng))


def encoder_sealed(folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    which = rng.choice(["encoder", "layouts", "files", "cohort", "preprocess", "gallery"])
    if which == "gallery":
        places = ["/", "/dev", str(folder), "x" * 5000, "/proc/self/fd", "\ud800", "a\0b", ""]
        manifest["gallery"] = rng.choice(
            [{"absolute": rng.choice(places), "relative": rng.choice([None, *places])}, "/tmp", 3]
        )
    else:
        manifest[which] = bent({"it": manifest[which]}, rng).get("it")
    seal(folder, manifest)


def index_sealed(folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    file = folder / manifest["files"]["index.json"]["file"]
    text = json.dumps(bent(json.loads(file.read_text()), rng))
    seal_part(folder, "index.json", text.encode())


def head_sealed(folder: Path, rng: random.Random) -> None:
    """Another head for a file of tensors."""
    manifest = json.loads((folder / "model.json").read_text())
    name = rng.choice([name for name in manifest["files"] if name.endswith(".safetensors")])
    content = (folder / manifest["files"][name]["file"]).read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, body = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.7:
        head = json.dumps(bent(json.loads(head), rng)).encode()
        length = len(head)
    else:
        length = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
    seal_part(folder, name, length.to_bytes(8, "little") + head + body)


def bytes_sealed(folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / "model.json").read_text())
    name = rng.choice(list(manifest["files"]))
    content = bytearray((folder / manifest["files"][name]["file"]).read_bytes())
    for _ in range(rng.choice([1, 3, 50])):
        content[rng.randrange(len(content))] = rng.choice([0, 0x7F, 0xFF, rng.randrange(256)])
    seal_part(folder, name, bytes(content))


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "a flipped bit": flip,
    "cut": cut,
    "swapped bytes": swap,
    "swapped files": swap_files,
    "pipes, devices, folders, links, holes": odd_file,
    "bent JSON": json_unsealed,
    "bent manifest, sealed": manifest_sealed,
    "bent encoder, gallery, files, sealed": encoder_sealed,
    "bent index.json, sealed": index_sealed,
    "bent heads of tensors, sealed": head_sealed,
    "other bytes, sealed": bytes_sealed,
}


# ---------------------------------------------------------------- cases


def outcome(folder: Path, expected: str, *, sealed: bool) -> tuple[str, str]:
    """What a forked process makes of a folder, and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        # OpenMP's threads do not outlive a fork: with more than one, a child waits for ever.
        torch.set_num_threads(1)
        try:
            os.close(reading)
            _tell(writing, folder, expected, sealed)
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], PATIENCE)
    told = os.read(reading, 1 << 16).decode("utf-8", "replace") if ready else "hang\n"
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    what, _, said = (told or "killed\n").partition("\n")
    return what, said


def _tell(writing: int, folder: Path, expected: str, sealed: bool) -> None:
    warnings.simplefilter("ignore")
    try:
        found = decisions(folder)
        what = "as before" if found == expected else ("forged" if sealed else "changed unseen")
        said = ""
    except InputError as error:
        what, said = "refused", str(error)
    except BaseException:
        what, said = "other error", traceback.format_exc()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    os.write(writing, f"{what}\n{peak}\n{said}"[:60_000].encode("utf-8", "replace"))


def fuzz(cases: int, seed: int, folder: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """By kind how many cases came to which outcome, with the peak of memory in MB; the bad ones."""
    original = made_model().save(folder / "original")
    expected = decisions(original)
    table: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    bad = []
    for case in range(cases):
        kind = list(KINDS)[case % len(KINDS)]
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        KINDS[kind](copy, random.Random(f"{seed} {case}"))
        what, said = outcome(copy, expected, sealed="sealed" in kind)
        peak, _, said = said.partition("\n")
        table[kind][what] += 1
        table[kind]["peak MB"] = max(table[kind]["peak MB"], int(peak or 0))
        if what in BAD:
            bad.append(f"case {case}, {kind}: {what}\n{said}")
    return table, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="likewise-fuzz-") as folder:
        table, bad = fuzz(options.cases, options.seed, Path(folder))
    names = ["refused", "as before", "forged", *BAD, "peak MB"]
    print(f"{'':38s}" + "".join(f"{name:>15s}" for name in names))
    for kind, counts in table.items():
        print(f"{kind:38s}" + "".join(f"{counts[name]:15d}" for name in names))
    total = sum(sum(counts.values()) - counts["peak MB"] for counts in table.values())
    print(f"{total} folders in {time.perf_counter() - started:.0f} s, seed {options.seed}")
    for case in bad:
        print(case, file=sys.stderr)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
