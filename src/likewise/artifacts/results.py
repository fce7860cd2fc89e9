"""What a model answers to `verify` and `evaluate`."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from likewise import _tables
from likewise.evaluation import MatchingResult, RetrievalResult, VerificationResult
from likewise.intervals import Estimate
from likewise.matching import Matches


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
    """What `SimilarityModel.evaluate` found on `items` items.

    `matching` is None without an index, `verification` where the items form no pairs of both kinds,
    and `retrieval` where no class has two of them.
    """

    items: int
    left_out: int  # items that are indexed or were trained on
    unlabeled: int  # items left out as they have no label
    calibrated_on: int  # items among those evaluated that a threshold was calibrated on
    matching: MatchingResult | None
    matches: Matches | None
    verification: VerificationResult | None
    retrieval: RetrievalResult | None

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
        }
