"""What `fit` tells of each epoch, and when it speaks up."""

import math
import warnings
from dataclasses import dataclass, field

from likewise import _tables

COLLAPSED = 0.01  # spread below which embeddings have become one point for all purposes
ALIKE = (
    0.05  # share by which both kinds of pairs must differ in mean distance, or nothing is learned
)
COLUMNS = 6  # of a history that is shown
PATIENCE = 5  # epochs in a row that they may not


@dataclass(frozen=True)
class History:
    """One record per epoch, in order: epoch, loss, seconds, learning_rate and the loss's facts."""

    records: list[dict[str, float]] = field(default_factory=list)

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        names = list(dict.fromkeys(name for record in self.records for name in record))
        first = [name for name in ("epoch", "loss", "validation_loss") if name in names]
        names = [*first, *(name for name in names if name not in first)][:COLUMNS]
        rows = [tuple(names)] if names else []
        rows += [
            tuple(_tables.value(each[name]) if name in each else "" for name in names)
            for each in self.records
        ]
        most = _tables.MOST_ROWS // 2
        if len(rows) > 2 * most:
            rows = [*rows[:most], ("…", *[""] * (len(names) - 1)), *rows[-most:]]
        count = len(self.records)
        return _tables.Table(f"History of {count} epoch{'s' * (count != 1)}", rows, headings=True)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, float]:
        return self.records[index]


def check_healthy(record: dict[str, float], earlier: list[dict[str, float]]) -> None:
    """Warn once of a training that tells nothing apart.

    That is where embeddings became one point; or where for five epochs in a row, positive and
    negative pairs have the same mean distance, within a twentieth. The loss then stays where the
    best constant distance puts it.
    """
    if _collapsed(record) and not any(map(_collapsed, earlier)):
        warnings.warn(
            f"All embeddings have become nearly one point (spread {record['spread']:.2g} in epoch "
            f"{record['epoch']}): the encoder tells nothing apart any more. Lower learning_rate, "
            "or choose an easier miner.",
            stacklevel=3,
        )
    latest = [*earlier, record][-PATIENCE - 1 :]
    # Only at the end of the first five, so that a long stretch is told of once.
    if len(latest) >= PATIENCE and all(map(_alike, latest[-PATIENCE:])):
        if len(latest) > PATIENCE and _alike(latest[0]):
            return
        warnings.warn(
            f"For {PATIENCE} epochs same pairs are no closer than different ones (mean distance "
            f"{record['positive_distance']:.3g} and {record['negative_distance']:.3g} in epoch "
            f"{record['epoch']}): nothing is learned. Check that labels belong to their items and "
            "that True means the same; else change learning_rate or margin.",
            stacklevel=3,
        )


def _collapsed(record: dict[str, float]) -> bool:
    return record.get("spread", 1.0) < COLLAPSED


def _alike(record: dict[str, float]) -> bool:
    positive = record.get("positive_distance", math.nan)
    negative = record.get("negative_distance", math.nan)
    # Inner products can be far from 0 altogether; a share of them would mean nothing.
    alike = min(positive, negative) > 0 and abs(negative - positive) < ALIKE * negative
    return alike and not _collapsed(record)
