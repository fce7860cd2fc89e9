"""`likewise train`: from a source of data and words of the command line to a trained model."""

import csv
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from likewise import augment, data, distances, encoders, losses, training
from likewise._checks import check_choice, check_count, check_rate
from likewise.artifacts import SimilarityModel
from likewise.cli import console
from likewise.cli.ending import naming
from likewise.cli.journeys import is_pair_table, open_data
from likewise.errors import InputError
from likewise.evaluation.during import EvaluateEpochs, seen_and_unseen
from likewise.training.following import KeepBest, StopEarly
from likewise.training.tracking import Track

PAIR_LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "circle": losses.CircleLoss,
    "contrastive": losses.ContrastiveLoss,
    "multi-similarity": losses.MultiSimilarityLoss,
    "nt-xent": losses.NTXentLoss,
    "supervised-contrastive": losses.SupervisedContrastiveLoss,
    "triplet": losses.TripletLoss,
}
CLASS_LOSSES: dict[str, Callable[..., torch.nn.Module]] = {  # with weights of their own
    "arcface": losses.ArcFaceLoss,
    "cosface": losses.CosFaceLoss,
    "proxy-anchor": losses.ProxyAnchorLoss,
    "softmax": losses.SoftmaxLoss,
}
GIVEN_PAIRS = ("contrastive", "threshold")
MADE_CLASSES = ("none", "turned", "mirrored", "both")
CENTERS = {  # the distance that separates: 60° between unit vectors, as in the paper
    "cosine": 0.5,
    "euclidean": 1.0,
    "squared_euclidean": 1.0,
    "inner_product": -0.5,
}
ASIDE = "aside"
SCORED = ("seen_", "unseen_", "pairs_")  # what the numbers of parts that are scored begin with
FEWEST_BATCHES = 50  # per epoch
SOME = 64  # items that a trained encoder must encode before it is saved
LARGEST_MAP = 8  # pixels on a side that are left before the dense layer


def train(
    source: str,
    *,
    split: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    hold_out_classes: str | Sequence[str] | None = None,
    keep_aside: float = 0.1,
    pairs: bool = False,
    loss: str | None = None,
    distance: str = "cosine",
    margin: float | None = None,
    embedding_dim: int = 64,
    epochs: int = 10,
    batches: int | None = None,
    classes_per_batch: int | None = None,
    items_per_class: int | None = None,
    learning_rate: float = 1e-3,
    made_classes: str = "none",
    augmented: bool = True,
    workers: int = 0,
    precision: str = "float32",
    evaluate: str | None = None,
    evaluate_every: int | None = None,
    keep_best: str | None = None,
    patience: int | None = None,
    track: str | None = None,
    tracked: Path | None = None,
    device: str | None = None,
    seed: int = 0,
) -> SimilarityModel:
    """A model trained on the source, nothing indexed or calibrated yet.

    Trackers go to the folder that holds `tracked`, as a run of its name.
    """
    held_out = [hold_out_classes] if isinstance(hold_out_classes, str) else hold_out_classes or []
    known_losses = GIVEN_PAIRS if pairs else [*PAIR_LOSSES, *CLASS_LOSSES]
    loss = loss or ("contrastive" if pairs else "multi-similarity")
    check_choice("loss", loss, known_losses)
    check_choice("made_classes", made_classes, MADE_CLASSES)
    check_rate("keep_aside", keep_aside)
    if keep_aside == 1:
        raise InputError("must be below 1, got 1. Leave some to train on.", argument="keep_aside")
    compare = distances.by_name(distance)
    best, early = _following(keep_best, patience)
    if evaluate_every is not None:
        check_count("evaluate_every", evaluate_every)
    tracker = None
    if track is not None:
        where = tracked or Path("runs", "likewise")
        tracker = Track(track, folder=where.parent, run=where.name)
    if evaluate_every is not None or (keep_best or "").startswith(SCORED):
        evaluate = evaluate or ASIDE
    table = None
    apart: dict[str, data.Dataset] = {}  # labelled items that are not trained on
    seen: Any
    if pairs and is_pair_table(source):
        if held_out or made_classes != "none":
            raise InputError(
                "must be left out for a table of pairs, which has no classes, got "
                f"{', '.join(held_out) or made_classes!r}.",
                argument="hold_out_classes" if held_out else "made_classes",
            )
        seen = table = data.load_pairs(source, image_size=image_size, channels=channels)
        whole = kept = table.data
    else:
        whole = open_data(source, split, "train", image_size=image_size, channels=channels)
        data.check_trainable(whole)
        kept, unseen = _hold_out(whole, held_out, seed)
        data.check_trainable(kept)
        if keep_aside > 0:
            kept, apart["seen"] = data.split_items(kept, [1 - keep_aside, keep_aside], seed=seed)
            data.check_trainable(kept)
        if unseen is not None:
            apart["unseen"] = unseen
        seen = _with_made_classes(kept, made_classes)
        if pairs:
            seen = data.PairDataset(seen, seed=seed, fresh=True)
    torch.manual_seed(seed)
    encoder = _encoder(whole.item_shape, embedding_dim)
    if pairs:
        criterion = _given_pairs_loss(loss, margin, compare)
    else:
        criterion = _loss(loss, margin, compare, embedding_dim, len(seen.class_names))
    preprocess = data.Preprocess.fit(kept, seed=seed)
    views = augment.Augment() if augmented and _is_photo(whole.item_shape) else None
    scores = None
    if evaluate is not None:
        parts = apart if evaluate == ASIDE else _parts_of(evaluate, kept, given=table is not None)
        scores = EvaluateEpochs(
            _scorable(parts, evaluate),
            distance=compare,
            preprocess=preprocess.apply,
            every=1 if evaluate_every is None else evaluate_every,
            seed=seed,
        )
        if (keep_best or "").startswith(SCORED):
            check_choice("keep_best", keep_best, scores.names)
    callbacks = [each for each in (scores, best, early, tracker, _tell_epoch) if each is not None]
    with console.progress("training") as show, naming(by="keep_best"):
        history = training.fit(
            encoder,
            criterion,
            seen,
            epochs=epochs,
            batches=_batches(len(seen)) if batches is None else batches,
            classes_per_batch=classes_per_batch,
            items_per_class=items_per_class,
            learning_rate=learning_rate,
            preprocess=preprocess.apply,
            augment=views,
            callbacks=callbacks,
            progress=lambda epoch, batch, all_: show((epoch - 1) * all_ + batch, epochs * all_),
            workers=workers,
            device=device,
            precision=precision,
            seed=seed,
        )
    origin = {
        "data": str(source),
        "loss": loss,
        "pairs": pairs,
        "epochs": epochs,
        "seed": seed,
        "made_classes": made_classes,
        "hold_out_classes": held_out[0] if len(held_out) == 1 else held_out or None,
        "keep_aside": keep_aside,
        "items": len(kept),
        "evaluate": evaluate,
        **_selection(best, encoder, scores),
        "history": history.records,
    }
    # The last step of a training may break it, or only its evaluation mode may be broken.
    some = data.Subset(kept, range(min(len(kept), SOME)))
    encoders.encode(encoder, some, preprocess=preprocess.apply)
    model = SimilarityModel(
        encoder,
        distance=compare,
        preprocess=preprocess,
        trained=None if table is not None else kept,
        origin=origin,
    )
    if table is not None:  # its files have no classes to name
        model.trained_prints = data.fingerprints(table.data)
    return model


def _hold_out(
    whole: data.Dataset, held_out: Sequence[str], seed: int
) -> tuple[data.Dataset, data.Dataset | None]:
    if not held_out:
        return whole, None
    present = list(data.items_per_class(whole))
    share = held_out[0] if len(held_out) == 1 and held_out[0] not in present else ""
    if share.endswith("%"):
        try:
            count = round(len(present) * float(share[:-1]) / 100)
        except (ValueError, OverflowError):
            count = -1
        if not 0 < count < len(present):
            raise InputError(
                f"must leave some of {len(present)} classes and hold out some, got {share!r}. "
                "Write e.g. 40%, or names separated by commas.",
                argument="hold_out_classes",
            )
        kept, rest = data.split_by_class(whole, [len(present) - count, count], seed=seed)
        return kept, rest
    names = named_classes(held_out, present)
    if len(set(names)) == len(present):
        raise InputError(
            f"must leave some classes to train on, got all {len(present)}. Name fewer.",
            argument="hold_out_classes",
        )
    rest = data.choose_classes(whole, names)
    return data.choose_classes(whole, [name for name in present if name not in names]), rest


def named_classes(words: Sequence[str], present: Sequence[str]) -> list[str]:
    """The classes that words name: each word one class, or else a list separated by commas.

    In a list, a name that holds a comma stands in double quotes.

    Raises:
        InputError: a class is not there.

    Example:
        >>> named_classes(["oak, red", 'elm, "fir, old"'], ["oak, red", "elm", "fir, old"])
        ['oak, red', 'elm', 'fir, old']
    """
    names: list[str] = []
    for word in words:
        if word in present:
            names.append(word)
        else:
            names += _parts_of_list(word)
    absent = [name for name in names if name not in present]
    if absent or not names:
        few = ", ".join(map(repr, present[:12])) + (", …" if len(present) > 12 else "")
        raise InputError(
            f"must name classes of the data ({few}), got "
            f"{', '.join(map(repr, absent)) or 'none'}. Give the option once for each class, or "
            "names separated by commas; one that holds a comma goes in double quotes.",
            argument="hold_out_classes",
        )
    return names


def _parts_of_list(word: str) -> list[str]:
    try:
        (parts,) = csv.reader([word], skipinitialspace=True)
    except (csv.Error, ValueError):  # ends of lines, as in no list; or nothing at all
        return [word]
    return [part.strip() for part in parts]


def _following(keep_best: str | None, patience: int | None) -> tuple[Any, Any]:
    if keep_best is None:
        if patience is not None:
            raise InputError(
                f"must come with --keep-best, got {patience} alone. Say by which number.",
                argument="patience",
            )
        return None, None
    try:
        best = KeepBest(keep_best)
    except InputError:
        raise InputError(
            "must be a loss, a rate or a score, as only of these it is known which way is better, "
            f"got {keep_best!r}. Use e.g. seen_map_at_r.",
            argument="keep_best",
        ) from None
    return best, None if patience is None else StopEarly(keep_best, patience=patience)


def _parts_of(source: str, trained: data.Dataset, *, given: bool) -> Mapping[str, Any]:
    """What to score of a source: classes seen and unseen, or the pairs of a table."""
    shape = tuple(trained.item_shape)
    size: dict[str, Any] = {}
    if len(shape) == 3:
        size = {"image_size": shape[1:], "channels": shape[0]}
    if is_pair_table(source):
        pairs = data.load_pairs(source, **size)
        both = int(torch.isin(data.fingerprints(pairs.data), data.fingerprints(trained)).sum())
        if both:
            raise InputError(
                f"must be pairs of other images than those trained on, got {both} that are "
                "trained on.",
                argument="evaluate",
            )
        return {"pairs": pairs}
    if given:
        raise InputError(
            f"must be a table of pairs where pairs of a table are trained on, got {source!r}.",
            argument="evaluate",
        )
    with naming(source="evaluate"):
        items = open_data(source, None, "test", **size)
    return seen_and_unseen(items, trained)


def _scorable(parts: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The parts that have pairs of both kinds; the others are told of."""
    kept: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            if name != "pairs":
                data.check_trainable(part)
            kept[name] = part
        except InputError:
            console.say(f"{name} classes are not scored: it takes 2 of them, and 2 items of one")
    if not kept:
        raise InputError(
            f"must have 2 classes of items that are not trained on, got {source!r}. Use "
            "--keep-aside, --hold-out-classes, or other data.",
            argument="evaluate",
        )
    return kept


def _selection(
    best: KeepBest | None, encoder: torch.nn.Module, scores: EvaluateEpochs | None
) -> dict[str, Any]:
    """Give the encoder its best weights; by which number, of which epoch and on which classes."""
    if best is None:
        return {}
    with naming(by="keep_best"):
        best.restore(encoder)
    part, _, _ = best.by.partition("_")
    items = None if scores is None or part not in scores.parts else scores.parts[part].items
    on = [] if items is None or part == "pairs" else list(data.items_per_class(items))
    return {"selected_by": best.by, "selected_epoch": best.epoch, "selected_on": on}


def selection_lines(origin: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """What to know before believing numbers of these classes, if the epoch was chosen on any."""
    if str(origin.get("selected_by")).startswith("pairs_"):
        return [
            f"epoch {origin['selected_epoch']} was chosen by {origin['selected_by']} on the pairs "
            f"of {origin['evaluate']}: numbers on these pairs are flattered"
        ]
    touched = [name for name in classes if name in (origin.get("selected_on") or [])]
    if not touched:
        return []
    few = ", ".join(touched[:8]) + (", …" if len(touched) > 8 else "")
    these = "classes" if origin["selected_by"].startswith("unseen_") else "items"
    return [
        f"epoch {origin['selected_epoch']} was chosen by {origin['selected_by']} on items of "
        f"classes {few}: these {these} are no longer untouched, and numbers on them are flattered"
    ]


def _with_made_classes(kept: data.Dataset, made: str) -> Any:
    if made in ("mirrored", "both"):
        kept = augment.make_flipped_classes(kept)
    if made in ("turned", "both"):
        kept = augment.make_rotated_classes(kept)
    return kept


def _batches(items: int) -> int:
    # About one pass in batches of 128, but a small source would train for no time at all.
    return max(FEWEST_BATCHES, items // 128)


def _is_photo(shape: Sequence[int]) -> bool:
    # On a handful of pixels turning and shifting would blur away what there is.
    return len(shape) == 3 and min(shape[1:]) >= 16


def _encoder(shape: Sequence[int], embedding_dim: int) -> torch.nn.Module:
    if len(shape) != 3:
        return encoders.MLPEncoder(shape, embedding_dim=embedding_dim)
    layers: list[Any] = []
    side, width = min(shape[1:]), 32
    while True:
        layers.append(width)
        if side < LARGEST_MAP:
            break
        layers.append("pool")
        side, width = side // 2, min(2 * width, 128)
    return encoders.ConvEncoder(shape, layers=layers, embedding_dim=embedding_dim)


def _loss(
    name: str, margin: float | None, distance: distances.Distance, dim: int, class_count: int
) -> torch.nn.Module:
    if margin is not None and name not in ("contrastive", "triplet"):
        raise InputError(
            f"must be left out for {name}, got {margin}. Its default is used.", argument="margin"
        )
    if name in CLASS_LOSSES:
        return CLASS_LOSSES[name](dim, class_count)
    options: dict[str, Any] = {"distance": distance}
    if name == "multi-similarity":
        if distance.name not in CENTERS:
            raise InputError(
                f"must be one of {', '.join(CENTERS)} for multi-similarity, got {distance.name}. "
                "Use another --loss with it.",
                argument="distance",
            )
        options["center"] = CENTERS[distance.name]
    if margin is not None:
        options["margin"] = margin
    return PAIR_LOSSES[name](**options)


def _given_pairs_loss(
    name: str, margin: float | None, distance: distances.Distance
) -> torch.nn.Module:
    if name == "contrastive":
        margin = CENTERS.get(distance.name, 1.0) if margin is None else margin
        return losses.GivenPairsLoss(
            functools.partial(losses.contrastive_loss, margin=margin), distance=distance
        )
    if margin is not None:
        raise InputError(
            f"must be left out for {name}, got {margin}. It is learnt.", argument="margin"
        )
    learned = losses.LearnedThreshold(CENTERS.get(distance.name, 1.0))
    return losses.GivenPairsLoss(learned, distance=distance)


def _tell_epoch(record: dict[str, float], encoder: torch.nn.Module) -> None:
    told = [
        f"{name} {record[name]:.4g}"
        for name in record
        if name in ("loss", "active", "accuracy", "positive_distance", "negative_distance")
        or name.endswith(("_map_at_r", "pairs_roc_auc"))
    ]
    console.say(f"epoch {record['epoch']:.0f}: {', '.join(told)} ({record['seconds']:.1f} s)")
