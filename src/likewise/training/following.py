"""Callbacks of `fit` that follow one number of the records: keep the best encoder, stop early."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from likewise._checks import check_at_least, check_count, check_folder_target
from likewise.errors import InputError
from likewise.training.checkpoints import load_checkpoint, save_checkpoint
from likewise.training.processes import is_first_process

HIGHER = (
    *("accuracy", "f1", "identification_rate", "map", "precision", "recall", "roc_auc"),
    "true_accept_rate",
    *("ami", "ndcg", "nmi", "reciprocal_rank"),  # before "rank", which it ends with
)
LOWER = ("error_rate", "false_accept_rate", "false_reject_rate", "loss", "rank")


class KeepBest:
    """Keeps the weights that the encoder had after the epoch with the best number.

    A number that is missing or not finite is no candidate, nor is one of an epoch whose loss is
    not finite; of equal ones the earliest is kept. A training begins anew at epoch 1; one that
    goes on from a checkpoint of `fit` brings what was kept with it. Weights of the loss are not
    kept.

    Args:
        by: name of a number in the records, such as "loss", or "unseen_map_at_r" where
            `evaluation.EvaluateEpochs` comes before it among the callbacks.
        higher_is_better: known from the name for the losses, rates and scores of this library.
        first_epoch: earlier ones do not count; by then the number must have come up.
        folder: where the best weights are also written whenever there are better ones, as
            safetensors and JSON.

    Attributes:
        by: the number.
        epoch: the best one, None before there is any.
        value: the number it had.

    Raises:
        InputError: the direction is neither given nor known; or, when called, the number has
            not come up.

    Example:
        >>> import torch
        >>> encoder, best = torch.nn.Linear(2, 1), KeepBest("loss")
        >>> for epoch, loss in enumerate([0.5, 0.2, 0.3], start=1):
        ...     _ = torch.nn.init.constant_(encoder.weight, epoch)
        ...     best({"epoch": epoch, "loss": loss}, encoder)
        >>> best.restore(encoder)
        >>> best.epoch, encoder.weight.tolist()
        (2, [[2.0, 2.0]])
    """

    def __init__(
        self,
        by: str,
        *,
        higher_is_better: bool | None = None,
        first_epoch: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        self._number = _Number(by, higher_is_better, first_epoch)
        self.by = by
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            check_folder_target("folder", self.folder)
        self.epoch: int | None = None
        self.value: float | None = None
        self._weights: dict[str, Tensor] | None = None

    def __call__(self, record: dict[str, float], encoder: nn.Module) -> None:
        """Keep the encoder's weights if this record is the best so far."""
        if record["epoch"] == 1:
            self.epoch = self.value = self._weights = None
        value = self._number.of(record)
        if value is None or not self._number.gains(value, self.value):
            return
        self.epoch, self.value = int(record["epoch"]), value
        self._weights = {
            name: weight.detach().cpu().clone() for name, weight in encoder.state_dict().items()
        }
        self._write()

    def restore(self, encoder: nn.Module) -> None:
        """Give the encoder its best weights; without a training, those in the folder.

        Raises:
            InputError: nothing was kept, or it is of another encoder.
        """
        if self._weights is None and not self._number.names and self.folder is not None:
            written = load_checkpoint(self.folder)
            if written is not None:
                self.load_state_dict(written)
        if self._weights is None:
            raise InputError(
                f"must be a number that was finite after some epoch, got {self.by!r}, "
                f"which never was. There were {self._number.those_that_came()}.",
                argument="by",
            )
        try:
            encoder.load_state_dict(self._weights)
        except RuntimeError as error:
            raise InputError(
                f"encoder must be the one that was trained, got a {type(encoder).__name__} whose "
                "weights differ in name or shape. Build it as for training."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """What was kept, for a checkpoint."""
        kept = {"epoch": self.epoch, "value": self.value, "weights": self._weights}
        return {**self._number.state_dict(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            InputError: it followed another number.
        """
        self._number.load_state_dict(state)
        self.epoch, self.value, self._weights = state["epoch"], state["value"], state["weights"]
        # An epoch that a crash cut off may have written weights that are to come again.
        self._write()

    def _write(self) -> None:
        if self.folder is not None and self._weights is not None and is_first_process():
            save_checkpoint(self.folder, self.state_dict())


class StopEarly:
    """Stops the training once a number has not become better for a while.

    Better is by more than `least_gain` than the best before it. Epochs without the number do not
    count. A number that is NaN or infinite, or comes with such a loss, counts as one without a
    gain. A training begins anew at epoch 1; one that goes on
    from a checkpoint of `fit` has waited as long as before.

    Args:
        by: Name of the number; see `KeepBest`.
        patience: after how many numbers in a row without a gain.
        least_gain: gains up to this one do not count.
        higher_is_better: Direction of the number; see `KeepBest`.
        first_epoch: First epoch that counts; see `KeepBest`.

    Raises:
        InputError: What `KeepBest` refuses; or, when called, the number never was finite for as
            long as the patience lasts.

    Example:
        >>> stop, encoder = StopEarly("loss", patience=2), nn.Linear(2, 1)
        >>> losses = [0.5, 0.2, 0.3, 0.2]
        >>> [stop({"epoch": i, "loss": loss}, encoder) for i, loss in enumerate(losses, start=1)]
        [False, False, False, True]
    """

    def __init__(
        self,
        by: str,
        *,
        patience: int,
        least_gain: float = 0.0,
        higher_is_better: bool | None = None,
        first_epoch: int = 1,
    ) -> None:
        check_count("patience", patience)
        check_at_least("least_gain", least_gain, 0)
        self._number = _Number(by, higher_is_better, first_epoch)
        self.patience = patience
        self.least_gain = least_gain
        self._best: float | None = None
        self._waited = 0

    def __call__(self, record: dict[str, float], encoder: nn.Module) -> bool:
        """Whether to stop after this record."""
        if record["epoch"] == 1:
            self._best, self._waited = None, 0
        value = self._number.of(record)
        if value is None:
            return False
        if self._number.gains(value, self._best, self.least_gain):
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self._waited >= self.patience and self._best is None:
            raise InputError(
                f"by must be a number that is finite after some epoch, got {self._number.by!r}, "
                f"which was NaN or infinite {self._waited} times in a row. There were "
                f"{self._number.those_that_came()}."
            )
        return self._waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """How long it has waited, for a checkpoint."""
        return {**self._number.state_dict(), "best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            InputError: it followed another number.
        """
        self._number.load_state_dict(state)
        self._best, self._waited = state["best"], state["waited"]


class _Number:
    """The number that is followed: where it comes up, and whether higher is better."""

    def __init__(self, by: str, higher_is_better: bool | None, first_epoch: int) -> None:
        if not isinstance(by, str) or not by:
            raise InputError(f"by must be the name of a number, got {by!r}. Try 'loss'.")
        check_count("first_epoch", first_epoch)
        self.by = by
        self.higher_is_better = _direction(by) if higher_is_better is None else higher_is_better
        self.first_epoch = first_epoch
        self.names: list[str] = []  # all that came up since the training began

    def of(self, record: Mapping[str, float]) -> float | None:
        """The number of a record that counts, None where there is none."""
        if record["epoch"] == 1:
            self.names = []
        self.names = sorted({*self.names, *record} - {"epoch"})
        if record["epoch"] < self.first_epoch:
            return None
        # Not a moment later: a name that is misspelled must not cost a whole training.
        if self.by not in self.names:
            raise InputError(
                f"must be a number that came up by epoch {record['epoch']:.0f}, got "
                f"{self.by!r}. There were {self.those_that_came()}; one that comes up later "
                "needs first_epoch=.",
                argument="by",
            )
        if self.by not in record:
            return None
        # No number of an epoch counts whose loss is not finite, whatever it says.
        return float(record[self.by]) if math.isfinite(record.get("loss", 0.0)) else math.nan

    def gains(self, value: float, best: float | None, least: float = 0.0) -> bool:
        """Whether a value is better than the best by more than `least`."""
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        return (value - best if self.higher_is_better else best - value) > least

    def those_that_came(self) -> str:
        return ", ".join(self.names) or "none"

    def state_dict(self) -> dict[str, Any]:
        return {"by": self.by, "higher_is_better": self.higher_is_better, "names": self.names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        before = state["by"], state["higher_is_better"]
        if before != (self.by, self.higher_is_better):
            which = "highest" if before[1] else "lowest"
            raise InputError(f"it followed the {which} {before[0]}")
        self.names = list(state["names"])


def _direction(by: str) -> bool:
    # "unseen_precision_at_5" and "triplet/loss" are a precision and a loss.
    plain = "_" + re.sub(r"_at_(\d+|r)$", "", by).replace("/", "_")
    for names, higher_is_better in ((HIGHER, True), (LOWER, False)):
        if any(plain.endswith(f"_{name}") for name in names):
            return higher_is_better
    raise InputError(
        f"higher_is_better must be given for {by!r}, whose name does not tell, got None. "
        "Say True or False."
    )
