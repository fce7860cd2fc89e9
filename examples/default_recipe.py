"""Is the default recipe ahead of doing nothing, for classes never trained on? On seven data sets.

    python examples/default_recipe.py OUT                         five draws of each data set
    python examples/default_recipe.py OUT --sets mnist --draws 2
    python examples/default_recipe.py OUT --choose                how the defaults were chosen

Each draw divides the classes in two halves: `lw.train` by the default recipe on one, judged on the
other by MAP@R, up to 2,000 items looked up among each other. Beside it stands the raw input, and
the frozen encoder where one is pretrained: photos-50 (EfficientNet-Lite0) and clinc150 (MiniLM),
for which the extras timm and text and their weights are needed. Differences are paired by draw;
intervals are 95%, Student t over the draws. Cross-fit is off, as it changes no embedding.

`--choose` trains the small network with other settings, on other draws of classes than the table
(seeds from 100 on), of the training parts alone, and prints MAP@R on the classes left out. Draws
are kept in OUT, so that an interrupted run goes on.
"""

import argparse
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

import likewise as lw

SMALL = ("digits", "mnist", "fashion-mnist", "omniglot", "att-faces")
PRETRAINED = ("photos-50", "clinc150")
PER_CLASS = 2000  # items of MNIST and Fashion-MNIST
OF_OMNIGLOT = 400  # characters
TEXTS = "sentence:all-MiniLM-L6-v2"
SETTINGS: dict[str, dict[str, Any]] = {
    "embedding alone": {"features": 0},
    "features x 1": {"features": 1.0},
    "features x 2": {"features": 2.0},
    "features x 4": {"features": 4.0},
    "features x 2, made classes": {"features": 2.0, "made_classes": "both"},
    "features x 2, rate 0.003": {"features": 2.0, "learning_rate": 3e-3},
    "features x 2, made classes, rate 0.003": {
        "features": 2.0,
        "made_classes": "both",
        "learning_rate": 3e-3,
    },
}


def home() -> Path:
    """Where the data lies."""
    return Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))


def unpacked(out: Path, name: str, archive: str) -> Path:
    """A folder with what is in an archive of images."""
    folder = out / "data" / name
    if not folder.exists():
        with zipfile.ZipFile(home() / name / archive) as files:
            files.extractall(folder)
    return folder


def source(out: Path, name: str) -> Any:
    """The labeled items of a data set, or the folder they lie in."""
    if name == "att-faces":
        return lw.data.load(unpacked(out, name, "att_faces.zip"), image_size=32, channels=1)
    if name == "photos-50":
        return unpacked(out, name, "photos_50_classes.zip")
    if name == "clinc150":
        rows = json.loads((home() / name / "data_full.json").read_text())["train"]
        return lw.data.TextDataset([text for text, _ in rows], [intent for _, intent in rows])
    if name == "digits":
        return lw.data.load(name)
    whole = lw.data.load(name, split="train", image_size=28)
    if name == "omniglot":
        characters = torch.unique(whole.labels).tolist()
        return lw.data.choose_classes(whole, characters[:: len(characters) // OF_OMNIGLOT])
    return lw.data.sample_items(whole, per_class=PER_CLASS, seed=0)


def run(out: Path, name: str, seed: int, **choices: Any) -> dict[str, Any]:
    """One draw: MAP@R on the classes left out, of the model and of each baseline."""
    encoder = TEXTS if name == "clinc150" else None
    recipe = lw.Recipe(
        encoder=encoder,
        hold_out_classes=0.5,
        evaluate_every=1000,
        cross_fit="off",
        seed=seed,
        **choices,
    )
    started = time.process_time()
    model = lw.train(source(out, name), recipe, progress=False)
    found: dict[str, Any] = {"seconds": time.process_time() - started}
    for each in model.origin["baselines"]:
        of = each["measures"]["retrieval map_at_r"]
        found["model"] = of["a"]["value"]
        found[each["name"]] = of["b"]["value"]
        found[f"verdict, {each['name']}"] = each["verdict"]
    if "decided" in model.origin:
        found["decided"] = model.origin["decided"]
    return found


def kept(out: Path, name: str, seed: int, label: str, **choices: Any) -> dict[str, Any]:
    """A draw, from the folder if it is there."""
    file = out / f"{name}-{label.replace(' ', '-').replace(',', '')}-{seed}.json"
    if not file.exists():
        found = run(out, name, seed, **choices)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1))
        part.rename(file)
        print(file.stem, {k: v for k, v in found.items() if isinstance(v, float)}, flush=True)
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def interval(values: list[float]) -> str:
    """Mean and 95% interval over the draws."""
    x = torch.tensor(values, dtype=torch.float64)
    if len(x) < 2:
        return f"{float(x.mean()):+.3f}"
    half = float(student.ppf(0.975, len(x) - 1) * x.std() / len(x) ** 0.5)
    return f"{float(x.mean()):+.3f} [{float(x.mean()) - half:+.3f}, {float(x.mean()) + half:+.3f}]"


def table(out: Path, sets: list[str], draws: int) -> None:
    """The default recipe beside each baseline."""
    print("| data | baseline | model | baseline | difference over draws | draws ahead | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in sets:
        rows = [kept(out, name, seed, "default") for seed in range(draws)]
        for baseline in ("raw input", "the frozen encoder"):
            told = [row for row in rows if baseline in row]
            if not told:
                continue
            kept_frozen = draws - len(told)  # of which no model is judged
            gaps = [row["model"] - row[baseline] if baseline in row else 0.0 for row in rows]
            mean = [sum(row[of] for row in told) / len(told) for of in ("model", baseline)]
            ahead = sum(gap > 0 for gap in gaps)
            seconds = sum(row["seconds"] for row in rows) / draws
            print(
                f"| {name} | {baseline} | {mean[0]:.3f} | {mean[1]:.3f} | {interval(gaps)} "
                f"| {ahead} of {draws}{f', frozen kept in {kept_frozen}' * (kept_frozen > 0)} "
                f"| {seconds:.0f} |"
            )
        if not any("model" in row for row in rows):
            print(f"| {name} | | | | {rows[0].get('decided')} | | |")


def choose(out: Path, sets: list[str], draws: int) -> None:
    """MAP@R of each setting, mean over the draws, on classes left out."""
    sets = [name for name in sets if name in SMALL]
    print("| setting | " + " | ".join(sets) + " | mean |")
    print("|---" * (len(sets) + 2) + "|")
    for label, choices in SETTINGS.items():
        means = []
        for name in sets:
            rows = [kept(out, name, 100 + seed, label, **choices)["model"] for seed in range(draws)]
            means.append(sum(rows) / draws)
        told = " | ".join(f"{each:.3f}" for each in (*means, sum(means) / len(means)))
        print(f"| {label} | {told} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", default=",".join((*SMALL, *PRETRAINED)))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--choose", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    (choose if asked.choose else table)(asked.out, asked.sets.split(","), asked.draws)


if __name__ == "__main__":
    main()
