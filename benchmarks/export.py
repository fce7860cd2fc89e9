"""Export: decisions that change, throughput beside torch, and the time of a first match.

    python benchmarks/export.py [FAMILY …] [--items N] [--int8] [--threads N]

A family is none, small, timm or sentence. Each model decides on N items (10,000): float32 must
change no decision; with --int8 the share of changed decisions is told with its interval. `none` are
digits as vectors, drawn again with noise; `small` a network trained on such digits; `timm`
EfficientNet-Lite0 over photos-50, each photograph cut and turned anew until there are N; `sentence`
all-MiniLM-L6-v2 over the questions of CLINC150. Throughput is items per second of processor time,
torch and runtime taking turns. Data are looked for in the folder that LIKEWISE_DATA names, by
default ../shared/data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

import likewise as lw

HOME = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
FAMILIES = ("none", "small", "timm", "sentence")
TURNS, TIMED = 5, 512
FIRST = """
import sys, time
started = time.process_time()
import likewise.runtime
import numpy as np
runtime = likewise.runtime.load(sys.argv[1], threads=1)
runtime.match(np.load(sys.argv[2]), threshold=0.1)
print(time.process_time() - started)
"""
TORCH = (
    "import time; started = time.process_time(); import torch; print(time.process_time() - started)"
)


def digits(count: int, seed: int, flat: bool) -> tuple[torch.Tensor, list[str]]:
    """Digits drawn with repeats, each with noise of its own."""
    source = lw.data.load("digits")
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(source), size=count)
    items = lw.data.items(source, rows)
    items = items + 0.1 * torch.from_numpy(rng.normal(size=tuple(items.shape))).float()
    names = [source.class_names[code] for code in source.labels[torch.from_numpy(rows)].tolist()]
    return (items.flatten(1) if flat else items.clamp(0, 1)), names


def photographs(count: int, place: Path) -> Path:
    """Photographs of photos-50, each cut and mirrored anew, in a folder per class."""
    with zipfile.ZipFile(HOME / "photos-50" / "photos_50_classes.zip") as files:
        files.extractall(place / "whole")
    paths = sorted((place / "whole").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    for number in range(count):
        path = paths[number % len(paths)]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if number >= len(paths):
            wide, tall = (int(side * rng.uniform(0.6, 0.95)) for side in image.size)
            left, top = rng.integers(image.width - wide + 1), rng.integers(image.height - tall + 1)
            image = image.crop((left, top, left + wide, top + tall))
            image = ImageOps.mirror(image) if rng.random() < 0.5 else image
        folder = place / "made" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:05d}.jpg", quality=90)
    return place / "made"


def made(family: str, count: int, place: Path) -> tuple[lw.SimilarityModel, Any, Any]:
    """A calibrated model, the items to compare on, and some to time, as both take them."""
    if family in ("none", "small"):
        flat = family == "none"
        encoder = None
        if not flat:
            source = lw.data.load("digits", split="train")
            encoder = lw.encoders.ConvEncoder(source.item_shape, embedding_dim=32)
            lw.fit(encoder, lw.losses.MultiSimilarityLoss(), source, epochs=3, seed=0)
        model = lw.SimilarityModel(encoder)
        model.add(digits(1000, 1, flat))
        items = digits(count, 2, flat)
        timed: Any = items[0][:TIMED].numpy()
    elif family == "timm":
        encoder = lw.encoders.by_name("timm:tf_efficientnet_lite0")
        preprocess = lw.data.Preprocess(**encoder.preprocess_settings)
        model = lw.SimilarityModel(encoder, preprocess=preprocess)
        model.cache = place / "cache"
        items = lw.data.load(photographs(count, place), image_size=preprocess.framing, channels=3)
        model.add(lw.data.sample_items(items, per_class=10))
        timed = lw.data.items(items, range(64)).numpy()
    else:
        raw = json.loads((HOME / "clinc150" / "data_full.json").read_text())
        model = lw.SimilarityModel(lw.encoders.by_name("sentence:all-MiniLM-L6-v2"))
        model.cache = place / "cache"
        pairs = [*raw["val"], *raw["test"], *raw["oos_test"], *raw["train"]][:count]
        items = lw.data.TextDataset(*map(list, zip(*pairs, strict=True)))
        model.add(lw.data.TextDataset(*map(list, zip(*raw["train"][::30], strict=True))))
        timed = [text for text, _ in pairs[:TIMED]]
    aside = items if not isinstance(items, tuple) else (items[0][:3000], items[1][:3000])
    model.calibrate(aside)
    model.calibrate(aside, rule="pairs", per_item=2.0)
    return model, items, timed


def spent(call: Any) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def told(family: str, count: int, *, int8: bool, threads: int) -> None:
    with tempfile.TemporaryDirectory() as where, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = Path(where)
        model, items, timed = made(family, count, place)
        for precision in ("float32", "int8") if int8 and model.has_encoder else ("float32",):
            out = place / precision
            allowed = 1.0 if precision == "int8" else None
            found = lw.export(model, out, items, precision=precision, allowed=allowed)
            print(f"\n{family}, {precision}: {found}", flush=True)
            runtime = lw.runtime.load(out, threads=threads)
            given = torch.from_numpy(timed) if isinstance(timed, np.ndarray) else timed
            kept, model.cache = model.cache, None  # or torch would encode nothing
            asks = {"torch": partial(model.match, given), "runtime": partial(runtime.match, timed)}
            times: dict[str, list[float]] = {name: [] for name in asks}
            for _ in range(TURNS + 1):  # the first warms up
                for name, ask in asks.items():
                    times[name].append(spent(ask))
            model.cache = kept
            rates = {name: len(timed) / min(each[1:]) for name, each in times.items()}
            print(
                f"  match, items per second of processor time: torch {rates['torch']:,.0f}, "
                f"runtime {rates['runtime']:,.0f}, ratio {rates['runtime'] / rates['torch']:.2f}"
            )
            if precision == "float32" and isinstance(timed, np.ndarray):
                np.save(place / "one.npy", timed[:1])
                first, library = (
                    min(
                        float(
                            subprocess.run(
                                [sys.executable, "-c", code, out, place / "one.npy"],
                                capture_output=True,
                                text=True,
                                check=True,
                            ).stdout
                        )
                        for _ in range(TURNS)
                    )
                    for code in (FIRST, TORCH)
                )
                print(
                    f"  first match {first:.2f} s of processor time, import torch {library:.2f} s, "
                    f"ratio {first / library:.2f}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # Python 3.11 looks for the empty list among the choices, too.
    parser.add_argument("families", nargs="*", metavar="FAMILY", choices=[*FAMILIES, []])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for family in given.families or FAMILIES:
        told(family, given.items, int8=given.int8, threads=given.threads)


if __name__ == "__main__":
    main()
