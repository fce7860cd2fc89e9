"""What `fit` tells of each epoch, and when it speaks up."""

import math
import warnings
from dataclasses import dataclass, field

COLLAPSED = 0.01  # spread below which embeddings have become one point for all purposes


@dataclass(frozen=True)
class History:
    """One record per epoch, in order: epoch, loss, seconds, learning_rate and the loss's facts."""

    records: list[dict[str, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, float]:
        return self.records[index]


def check_healthy(record: dict[str, float], earlier: list[dict[str, float]]) -> None:
    """Refuse a loss that is not finite, and warn once of embeddings that became one point.

    Raises:
        ValueError: the loss is NaN or infinite.
    """
    if not math.isfinite(record["loss"]):
        raise ValueError(
            f"loss must stay finite, got {record['loss']} in epoch {record['epoch']}. "
            "Lower learning_rate, or look for extreme values in the data."
        )
    if _collapsed(record) and not any(map(_collapsed, earlier)):
        warnings.warn(
            f"All embeddings have become nearly one point (spread {record['spread']:.2g} in epoch "
            f"{record['epoch']}): the encoder tells nothing apart any more. Lower learning_rate, "
            "or choose an easier miner.",
            stacklevel=3,
        )


def _collapsed(record: dict[str, float]) -> bool:
    return record.get("spread", 1.0) < COLLAPSED
