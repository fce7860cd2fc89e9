"""What a model answers to `verify` and `evaluate`."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from likewise.evaluation import MatchingResult, RetrievalResult, VerificationResult
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
