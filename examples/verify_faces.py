"""Verification of faces of people never trained on: AT&T, 40 people with 10 photographs each.

    python examples/verify_faces.py                20 people train, 20 others judge, ten folds
    python examples/verify_faces.py --three        37 train, 3 judge, ten splits; the first is the
                                                   seed's (people 5, 6, 7)
    python examples/verify_faces.py --summary      the tables, from the runs that are finished
    python examples/verify_faces.py --methods face-network --save MODEL
                                                   a method as one model, for `likewise verify`

Protocol. No person who is judged is trained on, and nothing is chosen by looking at them. The ten
folds are five random halvings, each used both ways. For the people held out:

- verification: area under the ROC and equal error rate over all pairs of their photographs, and
  accuracy on as many different pairs as there are same ones, at a threshold fitted to people of the
  training part alone;
- one-shot: each photograph is named by the nearest of one photograph per person; each of a
  person's ten serves in turn.

Six methods. "pixels": Euclidean distance of the images. "seed": network, contrastive loss and
schedule of the one-shot face notebook (three convolutions, 80,000 → 500 → 500 → 5; margin 2, Adam
5e-4, 100 epochs of pairs, batches of 64), its threshold fitted on its training people. "likewise":
five small convolutional encoders, trained with a multi-similarity loss on augmented images, their
embeddings of ten slightly moved and mirrored views averaged, side by side with the pixels
themselves; distances are normalized against a cohort, the training people (AS-norm). Its threshold
is fitted on 30% of the training people by encoders trained on the other 70%, to whom those 30% were
as new as people held out are to the final ones. "pretrained": EfficientNet-Lite0, trained on
ImageNet, on each photograph and its mirror image. Whether its features are whitened, the weight of
the pixels beside them, and AS-norm are chosen by two halvings of the training people of a fold.
"together": three trained encoders, that network and the pixels side by side; their weights are
chosen in the same way. "face-network": dlib's network for faces on aligned faces; nothing but the
threshold is fitted. It needs `pip install "likewise[faces]"`.
The recipe of "likewise" was settled on people 1 to 20 alone, ten
of whom trained and ten judged. Each finished run is kept in --out and not run again.
"""

import argparse
import functools
import io
import itertools
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import likewise as lw
from likewise.data.faces import largest
from likewise.encoders import FaceEncoder, OverViews, SideBySide, Whitening
from likewise.normalization import AdaptiveNorm

HOME = Path(os.environ.get("LIKEWISE_DATA", "../shared/data")) / "att-faces" / "att_faces.zip"
FEATURES = Path("out/verify-faces/features.safetensors")
VIEW_FEATURES = FEATURES.with_name("features-of-views.safetensors")
FACE_FEATURES = FEATURES.with_name("features-of-faces.safetensors")
Embed = Callable[[lw.data.Dataset], Tensor]
Method = tuple[Embed, lw.distances.Distance]  # what compares two photographs
Made = Callable[[tuple[Any, ...], list[str]], Method]  # of a choice and of people

LAYERS = (16, "pool", 32, "pool", 64, "pool", 128, "pool")
AUGMENT = lw.augment.Augment(
    degrees=15,
    translate=0.1,
    scale=(0.85, 1.15),
    shear=8,
    flip=True,
    brightness=0.15,
    contrast=0.15,
    fill="border",
)
ENCODERS = 5
WEIGHT = 2.0  # of the pixels, next to five embeddings of unit length
NEAREST = 0.6  # share of the cohort that a distance is compared with
FEW = 3  # encoders beside the pretrained network; one where a choice is made
QUARTER = 4  # of the sides of what the pretrained network sees, the others see
# Of "together": whether features are whitened, weights of the trained and of the pixels, AS-norm.
CHOICES = list(itertools.product((False, True), (0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (None, NEAREST)))


def photographs(size: tuple[int, int]) -> lw.data.ArrayDataset:
    """All 400 photographs (1, height, width), labeled with their people."""
    images, people = [], []
    with zipfile.ZipFile(HOME) as archive:
        for name in archive.namelist():
            if name.endswith(".pgm"):
                image = Image.open(io.BytesIO(archive.read(name)))
                images.append(np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)))
                people.append(name.split("/")[0])
    return lw.data.ArrayDataset(np.stack(images)[:, None], people)


def halves(fold: int) -> tuple[list[str], list[str]]:
    """People who train and people who judge, twenty each."""
    people = np.random.default_rng(fold // 2).permutation([f"s{n}" for n in range(1, 41)])
    first, second = sorted(people[:20]), sorted(people[20:])
    return (first, second) if fold % 2 == 0 else (second, first)


def all_but_three(fold: int) -> tuple[list[str], list[str]]:
    """37 people who train and three who judge."""
    people = [f"s{n}" for n in range(1, 41)]
    drawn = np.random.default_rng(fold).permutation(people)[:3]
    three = ["s5", "s6", "s7"] if fold == 0 else sorted(drawn)
    return [person for person in people if person not in three], three


def pixels(train: list[str], seed: int) -> tuple[Method, float, dict[str, Any]]:
    """Nothing is learned but the threshold."""
    faces = photographs((56, 46))

    def embed(data: lw.data.Dataset) -> Tensor:
        return lw.data.items(data).flatten(1)

    method = embed, lw.distances.EUCLIDEAN
    return method, threshold_on(method, lw.data.choose_classes(faces, train)), {}


def seed_network(train: list[str], seed: int) -> tuple[Method, float, dict[str, Any]]:
    """The notebook's network, loss and schedule."""
    people = lw.data.choose_classes(photographs((100, 100)), train)
    torch.manual_seed(seed)
    encoder = lw.encoders.ConvEncoder(
        (1, 100, 100),
        layers=(4, 8, 8),
        padding="reflect",
        norm_after_activation=True,
        dropout=0.2,
        hidden=(500, 500),
        embedding_dim=5,
        normalize=False,
    )
    loss = lw.losses.GivenPairsLoss(partial(lw.losses.contrastive_loss, margin=2.0))
    pairs = lw.data.PairDataset(people, per_item=1.0, seed=seed, fresh=True)
    history = lw.fit(
        encoder,
        loss,
        pairs,
        epochs=100,
        optimizer=torch.optim.Adam(encoder.parameters(), lr=5e-4, fused=True),
        schedule=lambda _: 1.0,
        seed=seed,
    )
    method = partial(lw.encode, encoder), lw.distances.EUCLIDEAN
    facts = {"last_loss": history.records[-1]["loss"]}
    return method, threshold_on(method, people), facts


def likewise(train: list[str], seed: int) -> tuple[Method, float, dict[str, Any]]:
    """Encoders, pixels and a cohort; the threshold from people new to other such encoders."""
    model, made = trained_on(lw.data.choose_classes(photographs((56, 46)), train), seed)
    return (model.embed, model.compared_by), made.threshold, {}


def trained_on(people: lw.data.Dataset, seed: int) -> tuple[lw.SimilarityModel, lw.Calibration]:
    """The model, and the calibration of one that was trained without 30% of the people."""
    names = list(lw.data.items_per_class(people))
    drawn = [str(name) for name in np.random.default_rng(seed).permutation(names)]
    cut = round(0.7 * len(drawn))
    inner = train_encoders(lw.data.choose_classes(people, drawn[:cut]), seed)
    found = balanced_pairs(
        (inner.embed, inner.compared_by), lw.data.choose_classes(people, drawn[cut:])
    )
    return train_encoders(people, seed), lw.calibrate(*found, goal=lw.best_accuracy)


def pretrained(train: list[str], seed: int) -> tuple[Method, float, dict[str, Any]]:
    """A network for photographs; halves of the training people choose what goes with it."""
    faces = photographs((56, 46))
    pixels, features = unit_pixels(faces), photograph_features()

    def made(choice: tuple[Any, ...], people: list[str]) -> Method:
        is_white, weight, nearest = choice
        cohort = lw.data.choose_classes(faces, people)
        found = features
        if is_white:
            some = features[cohort.source_indices]
            found = Whitening.fit(some, cohort.labels, shrinkage=1.0)(features).detach()
        return compared(torch.cat([found, weight * pixels], dim=1), cohort, nearest)

    choices = itertools.product((False, True), (0.0, 0.5, 1.0), (None, NEAREST))
    best, found = chosen(train, seed, choices, made)
    return made(best, train), found.threshold, {"chosen": list(best)}


def together(train: list[str], seed: int) -> tuple[Method, float, dict[str, Any]]:
    """Trained encoders beside the pretrained network and the pixels, all over views."""
    made = together_on(train, seed)
    best, found = chosen(train, seed, CHOICES, made)
    return made(best, train), found.threshold, {"chosen": list(best)}


def together_on(train: list[str], seed: int) -> Made:
    """What makes a method of a choice and of people; encoders train once for all choices."""
    faces, features = large_photographs(), view_features()
    small = pooled(faces)
    pixels, read = unit_pixels(small), reading_small(small)

    @functools.cache
    def whitened(people: tuple[str, ...]) -> Tensor:
        some = lw.data.choose_classes(faces, people)
        fitted = Whitening.fit(features[some.source_indices], some.labels, shrinkage=1.0)
        return fitted(features).detach()

    @functools.cache
    def trained(people: tuple[str, ...]) -> Tensor:
        count = FEW if len(people) == len(train) else 1
        encoders = encoders_over_views(lw.data.choose_classes(small, people), read, seed, count)
        return lw.encode(SideBySide(encoders), small, preprocess=read.apply) / count**0.5

    def made(choice: tuple[Any, ...], people: list[str]) -> Method:
        is_white, of_trained, of_pixels, nearest = choice
        parts = [whitened(tuple(people)) if is_white else features, of_pixels * pixels]
        if of_trained:
            parts.append(of_trained * trained(tuple(people)))
        return compared(torch.cat(parts, dim=1), lw.data.choose_classes(faces, people), nearest)

    return made


def compared(whole: Tensor, cohort: lw.data.Subset, nearest: float | None) -> Method:
    """Embeddings of all photographs, compared by their cosine, perhaps against a cohort."""
    if nearest is None:
        return lambda data: whole[data.source_indices], lw.distances.COSINE
    known = whole[cohort.source_indices]
    norm = AdaptiveNorm(known, lw.distances.COSINE, nearest=round(nearest * len(known)))
    return lambda data: whole[data.source_indices], norm.as_distance()


def chosen(
    train: list[str],
    seed: int,
    choices: Iterable[tuple[Any, ...]],
    made: Made,
) -> tuple[tuple[Any, ...], lw.Calibration]:
    """The choice that is best on people of the training part, and its threshold on some of them.

    Twice the people are drawn into 12, of whom a method is made, and others, who judge it.
    """
    faces = photographs((56, 46))
    splits = []
    for draw in range(2):
        drawn = [str(name) for name in np.random.default_rng(100 * seed + draw).permutation(train)]
        splits.append((drawn[:12], lw.data.choose_classes(faces, drawn[12:])))
    scores = {}
    for choice in choices:
        told = [judged(made(choice, people), others, 0.0) for people, others in splits]
        scores[choice] = sum(each["roc_auc"] + each["one_shot"] for each in told)
    best = max(scores, key=lambda choice: scores[choice])
    people, others = splits[0]
    pairs = balanced_pairs(made(best, people), others)
    return best, lw.calibrate(*pairs, goal=lw.best_accuracy)


def large_photographs() -> lw.data.ArrayDataset:
    """The photographs at twice their size, as the pretrained network gets them."""
    return photographs((224, 184))


def pooled(faces: lw.data.Dataset) -> lw.data.ArrayDataset:
    """The same photographs with a quarter of the pixels on a side."""
    small = nn.functional.avg_pool2d(lw.data.items(faces), QUARTER)
    return lw.data.ArrayDataset(small, faces.labels, faces.class_names)


def pretrained_over_views() -> tuple[nn.Module, lw.data.Preprocess]:
    """The pretrained network over an image and its mirror, and how it reads large photographs."""
    shape = large_photographs().item_shape
    encoder = lw.encoders.by_name("timm:tf_efficientnet_lite0", item_shape=shape, train="none")
    settings = {**encoder.preprocess_settings, "framing": None}
    return OverViews(encoder, pixels=0), lw.data.Preprocess(**settings)


def reading_small(small: lw.data.Dataset) -> lw.data.Preprocess:
    """How small photographs are read: as large ones are, so that one model holds all parts."""
    _, read = pretrained_over_views()
    return lw.data.Preprocess(small.item_shape, read.mean, read.std)


def view_features() -> Tensor:
    """Unit features of every large photograph and its mirror image; kept in a file."""
    if not VIEW_FEATURES.exists():
        views, read = pretrained_over_views()
        found = lw.encode(views, large_photographs(), batch_size=20, preprocess=read.apply)
        VIEW_FEATURES.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": found}, VIEW_FEATURES)
    return load_file(VIEW_FEATURES)["x"]


def unit_pixels(faces: lw.data.Dataset) -> Tensor:
    """The pixels of photographs less their mean, of unit length."""
    images = lw.data.items(faces)
    return nn.functional.normalize((images - images.mean(dim=(1, 2, 3), keepdim=True)).flatten(1))


def photograph_features() -> Tensor:
    """Unit features of every photograph and its mirror image, averaged; kept in a file."""
    file = FEATURES
    if not file.exists():
        encoder = lw.encoders.by_name("timm:tf_efficientnet_lite0", train="none")
        read = lw.data.Preprocess(**encoder.preprocess_settings)
        images = lw.data.items(photographs((112, 92)))
        sides = []
        for side in (images, images.flip(-1)):
            large = nn.functional.interpolate(side, size=224, mode="bicubic", antialias=True)
            color = large.clamp(0, 1).expand(-1, 3, -1, -1)
            sides.append(nn.functional.normalize(lw.encode(encoder, color, preprocess=read.apply)))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": nn.functional.normalize(sides[0] + sides[1])}, file)
    return load_file(file)["x"]


def face_network(train: list[str], seed: int) -> tuple[Method, float, dict[str, Any]]:
    """A network that was trained on faces; only the threshold is fitted here."""
    features = face_features()

    def embed(data: lw.data.Dataset) -> Tensor:
        return features[data.source_indices]

    method = embed, lw.distances.EUCLIDEAN
    return method, threshold_on(method, lw.data.choose_classes(photographs((56, 46)), train)), {}


def aligned_photographs() -> lw.data.ArrayDataset:
    """The faces of all photographs; where none is found, what is there in most of them."""
    faces, find = photographs((112, 92)), lw.data.DlibFaces()
    images = [Image.fromarray(item) for item in (255 * lw.data.items(faces)[:, 0]).byte().numpy()]
    found = [largest(find(image)) for image in images]
    seen = [face for face in found if face is not None]
    left, right = (
        np.mean([getattr(face, eye) for face in seen], axis=0).tolist()
        for eye in ("left_eye", "right_eye")
    )
    usual = lw.data.Face((0, 0, 92, 112), tuple(left), tuple(right))
    print(f"faces found in {len(seen)} of {len(found)} photographs", flush=True)
    cut = [
        np.asarray((face or usual).aligned(image, size=200, padding=0.1))
        for image, face in zip(images, found, strict=True)
    ]
    return lw.data.ArrayDataset(np.stack(cut)[:, None], faces.labels, faces.class_names)


def face_features() -> Tensor:
    """Embeddings of every photograph by the network for faces; kept in a file."""
    if not FACE_FEATURES.exists():
        found = lw.encode(FaceEncoder(), aligned_photographs())
        FACE_FEATURES.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": found}, FACE_FEATURES)
    return load_file(FACE_FEATURES)["x"]


METHODS = {
    "pixels": pixels,
    "seed": seed_network,
    "likewise": likewise,
    "pretrained": pretrained,
    "together": together,
    "face-network": face_network,
}


SAVED = ("likewise", "together", "face-network")


def train_encoders(people: lw.data.Dataset, seed: int) -> lw.SimilarityModel:
    """Encoders trained on `people`, over views, next to the pixels; `people` are the cohort."""
    preprocess = lw.data.Preprocess.fit(people)
    encoders = encoders_over_views(people, preprocess, seed)
    model = lw.SimilarityModel(
        SideBySide(
            [*encoders, centered_pixels(people.item_shape)], weights=[1.0] * ENCODERS + [WEIGHT]
        ),
        preprocess=preprocess,
        trained=people,
    )
    model.use_cohort(people, nearest=round(NEAREST * len(people)))
    return model


def encoders_over_views(
    people: lw.data.Dataset, preprocess: lw.data.Preprocess, seed: int, count: int = ENCODERS
) -> list[nn.Module]:
    """Small encoders, each trained on `people` from another start."""
    encoders: list[nn.Module] = []
    for number in range(count):
        torch.manual_seed(ENCODERS * seed + number)
        encoder = lw.encoders.ConvEncoder(
            people.item_shape, layers=LAYERS, pool_before_norm=True, embedding_dim=64
        )
        lw.fit(
            encoder,
            lw.losses.MultiSimilarityLoss(),
            people,
            epochs=5,
            batches=60,
            classes_per_batch=10,
            items_per_class=6,
            learning_rate=2e-3,
            weight_decay=1e-4,
            preprocess=preprocess.apply,
            augment=AUGMENT,
            seed=ENCODERS * seed + number,
        )
        encoders.append(OverViews(encoder))
    return encoders


def centered_pixels(item_shape: Sequence[int]) -> nn.Module:
    """An encoder that gives the pixels less their mean."""
    return nn.Sequential(nn.LayerNorm(tuple(item_shape), elementwise_affine=False), nn.Flatten())


def saved(method: str, folder: Path, seed: int = 0) -> None:
    """A method as one model with what it learns from the training people of the first fold.

    The threshold for pairs is that of the method, which was fitted on training people.
    """
    train = halves(0)[0]
    if method == "face-network":
        encoder = FaceEncoder()
        reading = lw.data.Preprocess(**encoder.preprocess_settings)
        model = lw.SimilarityModel(encoder, distance=lw.distances.EUCLIDEAN, preprocess=reading)
        people = lw.data.choose_classes(photographs((56, 46)), train)
        compared_by, _, _ = face_network(train, seed)
        made = lw.calibrate(*balanced_pairs(compared_by, people), goal=lw.best_accuracy)
    elif method == "together":
        best, made = chosen(train, seed, CHOICES, together_on(train, seed))
        model = one_model(best, lw.data.choose_classes(large_photographs(), train), seed)
    else:
        model, made = trained_on(lw.data.choose_classes(photographs((56, 46)), train), seed)
    model.calibrations[made.rule] = made
    model.save(folder)


def one_model(choice: tuple[Any, ...], people: lw.data.Subset, seed: int) -> lw.SimilarityModel:
    """What "together" compares by, as one encoder and a cohort."""
    is_white, of_trained, of_pixels, nearest = choice
    views, read = pretrained_over_views()
    parts, weights = [views], [1.0]
    if is_white:
        features = lw.encode(views, people, preprocess=read.apply)
        whitening = Whitening.fit(features, people.labels, shrinkage=1.0)
        parts = [nn.Sequential(views, whitening)]
    small = pooled(people)
    if of_trained:
        encoders = encoders_over_views(small, reading_small(small), seed, FEW)
        parts += [nn.Sequential(nn.AvgPool2d(QUARTER), each) for each in encoders]
        weights += [of_trained / FEW**0.5] * FEW
    if of_pixels:
        parts.append(nn.Sequential(nn.AvgPool2d(QUARTER), centered_pixels(small.item_shape)))
        weights.append(of_pixels)
    model = lw.SimilarityModel(SideBySide(parts, weights=weights), preprocess=read, trained=people)
    if nearest is not None:
        model.use_cohort(people, nearest=round(nearest * len(people)))
    return model


def threshold_on(method: Method, people: lw.data.Dataset) -> float:
    """The most accurate threshold on as many different pairs as there are same ones."""
    distances, same = balanced_pairs(method, people)
    return lw.calibrate(distances, same, goal=lw.best_accuracy).threshold


def balanced_pairs(method: Method, people: lw.data.Dataset) -> tuple[Tensor, Tensor]:
    """All pairs of one person, and as many of two."""
    embed, distance = method
    embeddings = embed(people)
    drawn = lw.data.PairDataset(people, per_item=9.0, seed=0)  # 45 same pairs per 10 photographs
    left, right = drawn.pairs.T
    return distance.paired(embeddings[left], embeddings[right]), drawn.same


def judged(method: Method, people: lw.data.Dataset, threshold: float) -> dict[str, float]:
    """The numbers of the protocol at the top, on people held out."""
    embed, distance = method
    embeddings, labels = embed(people), people.labels
    distances = distance.matrix(embeddings, embeddings)
    rows, columns = torch.triu_indices(len(labels), len(labels), offset=1)
    counts = lw.metrics.sweep(distances[rows, columns], labels[rows] == labels[columns])
    drawn, same = balanced_pairs(method, people)
    photos = torch.stack([(labels == person).nonzero()[:, 0] for person in labels.unique()])
    right = []
    for column in range(photos.shape[1]):
        known = photos[:, column]
        asked = photos[:, [other for other in range(photos.shape[1]) if other != column]].flatten()
        nearest = known[distances[asked][:, known].argmin(dim=1)]
        right.append((labels[nearest] == labels[asked]).double().mean())
    return {
        "roc_auc": lw.metrics.roc_auc(counts),
        "equal_error_rate": lw.metrics.equal_error_rate(counts),
        "accuracy": float(((drawn <= threshold) == same).double().mean()),
        "one_shot": float(torch.stack(right).mean()),
    }


def run(method: str, three: bool, fold: int) -> dict[str, Any]:
    """One method on one fold."""
    train, held_out = (all_but_three if three else halves)(fold)
    started = time.perf_counter()
    made, threshold, facts = METHODS[method](train, fold)
    seconds = time.perf_counter() - started
    size = (100, 100) if method == "seed" else (56, 46)
    people = lw.data.choose_classes(photographs(size), held_out)
    numbers = judged(made, people, threshold)
    return {"method": method, "fold": fold, "seconds": seconds, **numbers, **facts}


def summary(out: Path) -> None:
    """Both tables, mean and 95% interval (Student t) over the folds."""
    columns = ("roc_auc", "equal_error_rate", "accuracy", "one_shot")
    for split in ("halves", "three"):
        print(f"\n{split}\n| method | folds | {' | '.join(columns)} | seconds |")
        print("|---|---|" + "---|" * (len(columns) + 1))
        for method in METHODS:
            runs = [json.loads(p.read_text()) for p in sorted(out.glob(f"{split}-{method}-*.json"))]
            if not runs:
                continue
            cells = [
                lw.intervals.mean(
                    torch.tensor([r[name] for r in runs], dtype=torch.float64), within=(0, 1)
                )
                for name in columns
            ]
            seconds = sum(r["seconds"] for r in runs) / len(runs)
            row = " | ".join(map(str, cells))
            print(f"| {method} | {len(runs)} | {row} | {seconds:.0f} |")


def main() -> None:
    """Run what is asked for, one fold after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--three", action="store_true", help="37 people train, 3 judge")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--folds", nargs="+", type=int, default=range(10))
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="MODEL",
        help="save the one method named, likewise, together or face-network, as one model",
    )
    parser.add_argument("--out", type=Path, default=Path("out/verify-faces"))
    arguments = parser.parse_args()
    if arguments.save is not None:
        if len(arguments.methods) != 1 or arguments.methods[0] not in SAVED:
            parser.error(f"--save must come with --methods and one of {', '.join(SAVED)}")
        saved(arguments.methods[0], arguments.save)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    split = "three" if arguments.three else "halves"
    if not arguments.summary:
        for fold in arguments.folds:
            for method in arguments.methods:
                kept = arguments.out / f"{split}-{method}-{fold}.json"
                if not kept.exists():
                    result = run(method, arguments.three, fold)
                    print(json.dumps(result), flush=True)
                    kept.write_text(json.dumps(result, indent=1) + "\n")
    summary(arguments.out)


if __name__ == "__main__":
    main()
