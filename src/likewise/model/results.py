"""What a model answers to `verify` and `evaluate`, and how it comes about."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables
from likewise import data as sources
from likewise.data.pairs import draw_pairs
from likewise.distances import Distance
from likewise.embedded import Embedded
from likewise.evaluation import (
    Baseline,
    MatchingResult,
    RetrievalResult,
    VerificationResult,
    compare_with_baseline,
    evaluate_matching,
    evaluate_retrieval,
    evaluate_verification,
)
from likewise.index import Gallery, Index
from likewise.intervals import Estimate
from likewise.matching import Matches
from likewise.model.trials import all_names, labeled, translated
from likewise.probability import Probability


@dataclass(frozen=True, eq=False)
class Verified:
    """Whether each pair is the same: distance <= threshold.

    `probabilities` that a pair is the same are there if the model was calibrated for pairs.
    """

    distances: Float[Tensor, " p"]
    same: Bool[Tensor, " p"]
    threshold: float
    probabilities: Float[Tensor, " p"] | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        most = _tables.MOST_ROWS
        shown = zip(self.distances[:most], self.same[:most], strict=True)
        rows = [("pair", "distance", "same", "probability")]
        for row, (distance, same) in enumerate(shown):
            chance = "" if self.probabilities is None else f"{float(self.probabilities[row]):.3f}"
            said = "same" if same else "different"
            rows.append((str(row), f"{float(distance):.4g}", said, chance))
        accepted = f"{int(self.same.sum()):,} of {len(self.same):,} pairs the same"
        title = f"Verified: {accepted} at the threshold {self.threshold:.4g}"
        return _tables.Table(title, rows, headings=True, more=max(0, len(self.same) - most))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `SimilarityModel.evaluate` found on `items` items, which are the labeled `examples`.

    `matching` is None without an index, `verification` where the items form no pairs of both kinds,
    and `retrieval` where no class has two of them. `baseline` is the raw input beside the model on
    the classes never trained on, or on all if there are none; None where it was not kept, as of
    more than 20,000 items.
    """

    items: int
    left_out: int  # items that are indexed or were trained on
    unlabeled: int  # items left out as they have no label
    calibrated_on: int  # items among those evaluated that a threshold was calibrated on
    matching: MatchingResult | None
    matches: Matches | None
    verification: VerificationResult | None
    retrieval: RetrievalResult | None
    examples: Embedded  # all that are neither indexed nor trained on
    baseline: Baseline | None = None

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        counts = "left_out", "unlabeled", "calibrated_on"
        rows = [(name, str(value)) for name, value in self.headline()]
        rows += [(name.replace("_", " "), f"{getattr(self, name):,}") for name in counts]
        return _tables.Table(f"Evaluation of {self.items:,} items", rows)

    def headline(self) -> list[tuple[str, Estimate]]:
        """The numbers to look at first, by name; those of a part are indented."""
        rows: list[tuple[str, Estimate | None]] = []
        if self.matching is not None:
            matching = self.matching
            rows += [
                ("matching accuracy", matching.accuracy),
                ("  classes trained on", matching.accuracy_seen),
                ("  classes never trained on", matching.accuracy_unseen),
                ("  classes not indexed", matching.accuracy_unknown),
                ("  answered unknown", matching.unknown_share),
                ("  precision", matching.precision),
                ("  identification rate", matching.identification_rate),
                ("  F1", matching.f1),
                ("  negative predictive value", matching.negative_predictive_value),
            ]
        verification = self.verification
        if verification is not None:
            rows += [
                ("verification area under ROC", verification.roc_auc),
                ("  average precision", verification.average_precision),
                ("  equal error rate", verification.equal_error_rate),
                ("  true accepts at 1% false", verification.true_accept_rates.get(0.01)),
                ("  accuracy at the threshold", (verification.at_threshold or {}).get("accuracy")),
            ]
        retrieval = self.retrieval
        if retrieval is not None:
            rows += [
                ("retrieval precision at 1", retrieval.precision_at_1),
                ("  R-precision", retrieval.r_precision),
                ("  MAP at R", retrieval.map_at_r),
            ]
        return [(name, value) for name, value in rows if value is not None]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON; None for what could not be judged."""
        judged = {
            "matching": self.matching,
            "verification": self.verification,
            "retrieval": self.retrieval,
        }
        return {
            "items": self.items,
            "left_out": self.left_out,
            "unlabeled": self.unlabeled,
            "calibrated_on": self.calibrated_on,
            **{name: None if one is None else one.to_dict() for name, one in judged.items()},
            "baseline": None if self.baseline is None else self.baseline.to_dict(),
        }


def verified(
    distances: Float[Tensor, " p"],
    threshold: float,
    *,
    probability: Probability | None = None,
    prior: float | None = None,
) -> Verified:
    """Whether pairs with these distances are the same, by a threshold.

    Args:
        distances: One per pair.
        threshold: Accepts what is at most as far.
        probability: Gives the probability of each pair to be the same, if there is one.
        prior: Share of such pairs that are the same, for the probabilities; 0.5 if None.
    """
    return Verified(
        distances=distances,
        # In float64: comparing float32 with a number would first round that number to float32.
        same=distances.double() <= threshold,
        threshold=threshold,
        probabilities=None if probability is None else probability.of(distances, prior=prior),
    )


def evaluated(
    examples: Embedded,
    index: Index | Gallery,
    matches: Matches | None,
    *,
    distance: Distance,
    per_item: float = 10.0,
    seed: int = 0,
    trained_on: Sequence[str] = (),
    calibrated_prints: Int[Tensor, " c"] | None = None,
    threshold: float | None = None,
    probability: Probability | None = None,
) -> Evaluation:
    """Matching, verification of drawn pairs, and retrieval, of embedded items that are new.

    Args:
        examples: Items that are neither indexed nor trained on; those without a label are left
            out.
        index: The known items.
        matches: What matching answered for the labeled ones; None if nothing is indexed.
        distance: Compares items, for verification and retrieval.
        per_item: Pairs drawn per item.
        seed: Seed of the pairs.
        trained_on: Names of the classes that were trained on.
        calibrated_prints: Fingerprints of the items that a threshold was calibrated on.
        threshold: Threshold of verification, if it is calibrated.
        probability: Probability of verification, if it is calibrated.
    """
    new = labeled(examples)
    names = all_names(index.class_names, new)
    truth = translated(new, names)
    matching = verification = retrieval = None
    if matches is not None:
        matching = evaluate_matching(
            matches,
            truth,
            indexed_classes=sorted(set(index.labels.tolist()) - {-1}),
            seen_classes=[names.index(name) for name in trained_on if name in names],
            class_names=names,
        )
    sizes = sources.items_per_class(new)
    if max(sizes.values()) > 1:
        retrieval = evaluate_retrieval(new.embeddings, truth, distance=distance)
        if len(sizes) > 1:
            pairs, same = draw_pairs(new.labels.numpy(), per_item, (seed,))
            left, right = new.embeddings[pairs.T]
            verification = evaluate_verification(
                distance.paired(left, right),
                same,
                threshold=threshold,
                items=pairs,
                probability=probability,
            )
    seen = torch.empty(0, dtype=torch.int64) if calibrated_prints is None else calibrated_prints
    return Evaluation(
        items=len(new),
        left_out=examples.skipped,
        unlabeled=len(examples) - len(new),
        calibrated_on=int(torch.isin(new.fingerprints, seen).sum()),
        matching=matching,
        matches=matches,
        verification=verification,
        retrieval=retrieval,
        examples=examples,
        baseline=beside_raw_input(
            new, distance=distance, trained_on=trained_on, per_item=per_item, seed=seed
        ),
    )


def beside_raw_input(
    new: Embedded,
    *,
    distance: Distance,
    trained_on: Sequence[str] = (),
    per_item: float = 10.0,
    seed: int = 0,
) -> Baseline | None:
    """The raw input beside the embeddings, on the classes never trained on, or else on all."""
    if new.raw is None:
        return None
    beside = functools.partial(
        compare_with_baseline,
        new.embeddings,
        new.raw,
        distance=distance,
        per_item=per_item,
        seed=seed,
    )
    trained = set(trained_on)
    is_new = torch.tensor([name not in trained for name in new.class_names])
    found = beside(new.labels.where(is_new[new.labels], -1))
    return beside(new.labels, are_new=False) if found is None else found
