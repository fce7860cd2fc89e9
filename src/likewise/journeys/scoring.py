"""How a training is judged as it goes, beside baselines, and by what its best epoch was chosen."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from likewise import data, distances
from likewise._checks import check_choice
from likewise.errors import InputError, naming
from likewise.evaluation.baseline import RAW_INPUT, Baseline, compare_with_baseline
from likewise.evaluation.during import EvaluateEpochs, seen_and_unseen
from likewise.journeys import frozen
from likewise.journeys.dividing import Parts
from likewise.journeys.recipe import SCORED, Recipe
from likewise.model import embed
from likewise.training.following import KeepBest

ASIDE = "aside"


def scores_of(
    evaluate: Any,
    parts: Parts,
    recipe: Recipe,
    distance: distances.Distance,
    preprocess: data.Preprocess | None,
    features: frozen.Features | None,
) -> EvaluateEpochs:
    """What scores each epoch, on other data or on the items kept apart.

    Raises:
        InputError: Nothing of it can be scored, or it was trained on.
    """
    kept = parts.kept
    asked: Mapping[str, Any]
    if isinstance(evaluate, str) and evaluate == ASIDE:
        asked = parts.apart
    elif isinstance(evaluate, data.GivenPairs):
        both = torch.isin(data.fingerprints(evaluate.data), data.fingerprints(kept)).sum()
        if both:
            raise InputError(
                f"must be pairs of other images than those trained on, got {int(both)} that are "
                "trained on.",
                argument="evaluate",
            )
        asked = {"pairs": evaluate}
    elif isinstance(parts.seen, data.GivenPairs):
        raise InputError(
            "must be pairs where pairs are trained on, got labeled items.",
            argument="evaluate",
            remedy="Use data.load_pairs.",
            command="Give a table of pairs.",
        )
    else:
        asked = seen_and_unseen(evaluate, kept) if recipe.labels else {"unseen": evaluate}
    scorable = {
        part: items for part, items in asked.items() if part == "pairs" or _has_pairs(items)
    }
    for part in asked.keys() - scorable.keys():
        warnings.warn(
            f"{part} classes are not scored: it takes 2 of them, and 2 items of one.", stacklevel=4
        )
    if not scorable:
        raise InputError(
            "must have 2 classes of items that are not trained on, got none.",
            argument="evaluate",
            remedy="Raise keep_aside, name hold_out_classes, or give other data.",
            command="Use --keep-aside, --hold-out-classes, or other data.",
        )
    if features is not None:
        scorable = {part: features.of_any(items) for part, items in scorable.items()}
    scores = EvaluateEpochs(
        scorable,
        distance=distance,
        preprocess=None if preprocess is None or features is not None else preprocess.apply,
        every=recipe.evaluate_every or 1,
        seed=recipe.seed,
    )
    if (recipe.keep_best or "").startswith(SCORED):
        check_choice("keep_best", recipe.keep_best, scores.names)
    return scores


def _has_pairs(items: data.Dataset) -> bool:
    counts = torch.unique(items.labels[items.labels >= 0], return_counts=True)[1]
    return len(counts) >= 2 and bool((counts >= 2).any())


def baselines(
    encoder: nn.Module,
    unseen: data.Dataset,
    distance: distances.Distance,
    preprocess: data.Preprocess | None,
    *,
    before: Tensor | None,
    raw: bool,
) -> list[Baseline]:
    """An encoder, or a head on features, beside what it has to be ahead of on new classes.

    Args:
        encoder: What learned.
        unseen: Items of classes that it was not trained on, or their features.
        distance: What embeddings are compared by.
        preprocess: How it reads the items.
        before: What a pretrained encoder gave for them; None if there is none.
        raw: Whether the items themselves are a baseline too.
    """
    found = embed(encoder, unseen, preprocess, keep_raw=raw)
    made = [
        compare_with_baseline(found.embeddings, rows, unseen.labels, distance=distance, name=name)
        for name, rows in ((RAW_INPUT, found.raw), ("the frozen encoder", before))
        if rows is not None
    ]
    return [each for each in made if each is not None]


def restored(
    best: KeepBest | None, module: nn.Module, scores: EvaluateEpochs | None = None
) -> dict[str, Any]:
    """Give a module the weights of its best epoch, if that was kept; say how it was chosen.

    Returns:
        The number that the epoch was chosen by, the epoch, and the classes it was judged on.
    """
    if best is None:
        return {}
    with naming(by="keep_best"):
        best.restore(module)
    part, _, _ = best.by.partition("_")
    items = None if scores is None or part not in scores.parts else scores.parts[part].items
    on = [] if items is None or part == "pairs" else list(data.items_per_class(items))
    return {"selected_by": best.by, "selected_epoch": best.epoch, "selected_on": on}


def selection_notes(origin: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """What biases numbers on these classes, a sentence each: the best epoch was chosen on them."""
    if str(origin.get("selected_by")).startswith("pairs_"):
        return [
            f"epoch {origin['selected_epoch']} was chosen by {origin['selected_by']} on the pairs "
            f"of {origin['evaluate']}: numbers on these pairs are biased upward"
        ]
    touched = [name for name in classes if name in (origin.get("selected_on") or [])]
    if not touched:
        return []
    few = ", ".join(touched[:8]) + (", …" if len(touched) > 8 else "")
    what = "classes" if origin["selected_by"].startswith("unseen_") else "items"
    return [
        f"epoch {origin['selected_epoch']} was chosen by {origin['selected_by']} on items of "
        f"classes {few}: these {what} are no longer untouched, and numbers on them are biased "
        "upward"
    ]
