"""The picture at the top of README.md: photographs looked up among known things.

Twelve classes of photos-50 are known by nine photographs each; six others of each calibrate the
threshold at 5% false accepts. The first new photograph of three known classes and of two others is
looked up. Nothing is trained: the encoder is pretrained, and stays as it is.

    python examples/matches.py OUT

Photographs, cropped and shrunk: F.-F. Li, M. Andreeto, M. A. Ranzato, P. Perona, Caltech 101, 2022,
https://doi.org/10.22002/D1.20086, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).
"""

import argparse
import os
import zipfile
from pathlib import Path

import torch

import likewise as lw
from likewise.encoders.naming import PHOTOGRAPHS

KNOWN = (
    *("anchor", "bonsai", "buddha", "camera", "chair", "cup", "elephant", "electric_guitar"),
    *("euphonium", "ewer", "grand_piano", "gramophone"),
)
ASKED = ("camera", "chair", "elephant", "dragonfly", "helicopter")
SHOWN = 160  # pixels on a side


def unpacked(out: Path) -> Path:
    """The photographs, unpacked into a folder once."""
    folder = out / "photos"
    if not folder.exists():
        home = Path(os.environ.get("LIKEWISE_DATA", "../shared/data"))
        with zipfile.ZipFile(home / "photos-50" / "photos_50_classes.zip") as files:
            files.extractall(folder)
    return folder


def pictures(files: list[Path]) -> torch.Tensor:
    """The middle of each photograph, (n, 3, SHOWN, SHOWN)."""
    shown = lw.data.Framing(SHOWN, SHOWN, mode="center")
    data = lw.data.ImageFiles(files, [0] * len(files), image_size=shown, channels=3)
    return lw.data.items(data)


def main(out: Path) -> None:
    photos = unpacked(out)
    files = [photos / name / f"image_{at:04d}.jpg" for name in KNOWN for at in range(1, 16)]
    labels = [name for name in KNOWN for _ in range(1, 16)]
    recipe = lw.Recipe(encoder=PHOTOGRAPHS, train="none", cross_fit="off")
    framing = lw.data.Framing.from_dict(lw.encoders.preprocess_of(PHOTOGRAPHS)["framing"])
    known = lw.data.ImageFiles(files, labels, image_size=framing, channels=3)
    model = lw.train(known, recipe)
    indexed, aside = lw.data.split_items(known, [0.6, 0.4], seed=0)
    model.add(indexed)
    model.calibrate(aside, goal=lw.at_most_false_accepts(0.05))

    asked = [photos / name / "image_0016.jpg" for name in ASKED]
    matches = model.match([str(file) for file in asked])
    found = model.lookup([str(file) for file in asked], k=4)
    rows = [pictures([Path(each["path"]) for each in row]) for row in found.metadata]
    figure = lw.plots.neighbors(
        pictures(asked),
        torch.stack(rows),
        found,
        model.class_names,
        threshold=matches.threshold,
        query_names=list(ASKED),
    )
    figure.savefig(out / "matches.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the photographs and the picture")
    main(parser.parse_args().out)
