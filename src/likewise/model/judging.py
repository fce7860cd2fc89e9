"""What a model is calibrated to and how well it does, from comparisons whose truth is known."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from likewise import data as sources
from likewise.calibration import (
    Calibration,
    ClassThresholds,
    GivenUnknowns,
    Goal,
    calibrate,
    calibrate_matching,
    calibrate_per_class,
)
from likewise.data import fingerprints
from likewise.errors import InputError
from likewise.evaluation import (
    VerificationResult,
    evaluate_matching,
    evaluate_retrieval,
    evaluate_verification,
)
from likewise.model.results import Evaluation
from likewise.model.trials import (
    PAIRS,
    Trials,
    all_names,
    labeled,
    translated,
    warn_of_spelling,
)

if TYPE_CHECKING:
    from likewise.model.similarity_model import SimilarityModel


MANY = 0.5  # a share of unknowns accepted that is warned of


def calibrated(
    trials: Trials,
    *,
    goal: Goal | None,
    rule: str,
    k: int,
    given: GivenUnknowns | None = None,
) -> Calibration:
    """The calibration for a rule; its intervals leave out items."""
    if trials.known is None:
        return calibrate(trials.distances, trials.same, goal=goal, items=trials.items, rule=PAIRS)
    return calibrate_matching(
        trials.distances,
        trials.same,
        trials.known,
        gallery_size=trials.gallery_size or 0,
        goal=goal,
        items=trials.items.flatten(),
        classes=trials.classes,
        guarantee_for=trials.guarantee_for,
        kind=trials.kind,
        growth=trials.growth,
        given=given,
        rule=rule,
        k=k,
    )


def warn_of_many(chosen: Calibration, *, stacklevel: int) -> None:
    """Warn if most unknowns are accepted."""
    rate = chosen.false_positive_rate
    if rate is not None and rate.value > MANY:
        warnings.warn(
            f"{rate.value:.0%} of the unknowns are accepted by the goal {chosen.goal}. Use "
            "balanced(), or at_most_false_accepts(rate), where there may be unknowns.",
            stacklevel=stacklevel,
        )


def calibrated_per_class(
    trials: Trials, *, goal: Goal | None, rule: str, k: int, fewest: int
) -> ClassThresholds:
    """Thresholds by class for a rule; intervals leave out items."""
    if trials.known is None or trials.labels is None:
        raise InputError("per_class must be for a matching rule, got pairs. Name a rule.")
    return calibrate_per_class(
        trials.distances,
        trials.same,
        trials.known,
        trials.labels,
        gallery_size=trials.gallery_size or 0,
        goal=goal,
        fewest=fewest,
        items=trials.items.flatten(),
        classes=trials.classes,
        guarantee_for=trials.guarantee_for,
        kind=trials.kind,
        growth=trials.growth,
        rule=rule,
        k=k,
    )


def evaluate(
    model: "SimilarityModel",
    data: sources.Dataset,
    *,
    point: str,
    per_item: float,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    """See `SimilarityModel.evaluate`."""
    all_new = model.new_items(data)
    new = labeled(all_new)
    names = all_names(model, data)
    truth = translated(new, names)
    embeddings = model.embed(new, progress=progress)
    matching = matches = None
    if len(model.index):
        warn_of_spelling(model, new)
        matches = model.match_embeddings(embeddings, point=point)
        matching = evaluate_matching(
            matches,
            truth,
            indexed_classes=sorted(set(model.index.labels.tolist()) - {-1}),
            seen_classes=[names.index(name) for name in model.trained_on if name in names],
            class_names=names,
        )
    verification = retrieval = None
    sizes = sources.items_per_class(new)
    if max(sizes.values()) > 1:
        retrieval = evaluate_retrieval(embeddings, truth, distance=model.compared_by)
        if len(sizes) > 1:
            pairs = sources.PairDataset(new, per_item=per_item, seed=seed)
            verification = _verification(model, embeddings, pairs)
    return Evaluation(
        items=len(new),
        left_out=len(data) - len(all_new),
        unlabeled=len(all_new) - len(new),
        calibrated_on=int(torch.isin(fingerprints(new), model.calibrated_prints).sum()),
        matching=matching,
        matches=matches,
        verification=verification,
        retrieval=retrieval,
    )


def _verification(
    model: "SimilarityModel", embeddings: Float[Tensor, "n d"], pairs: sources.PairDataset
) -> VerificationResult:
    left, right = pairs.pairs.T
    known_threshold = model.calibrations.get(PAIRS)
    return evaluate_verification(
        model.compared_by.paired(embeddings[left], embeddings[right]),
        pairs.same,
        threshold=None if known_threshold is None else known_threshold.threshold,
        items=pairs.pairs,
        probability=model.probabilities.get(PAIRS),
    )
