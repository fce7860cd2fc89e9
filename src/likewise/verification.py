"""Siamese models that compare two items, and a threshold fitted to known pairs."""

import contextlib
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from likewise import metrics
from likewise._checks import check_choice
from likewise.calibration import Calibration, Goal, Guarantee, best_accuracy, calibrate, goal_name
from likewise.data import GivenPairs, Subset
from likewise.distances import COSINE, Distance
from likewise.encoders import SiameseNet, encode
from likewise.errors import InputError
from likewise.losses import LearnedThreshold

__all__ = ["DistanceSiamese", "ThresholdSiamese", "pair_distances", "validate_pairs"]

CHUNK = 1 << 16  # pairs compared at once


class DistanceSiamese(nn.Module):
    """From two sides to their distances, through one encoder, with gradient.

    Args:
        encoder: any module from a batch of items to embeddings (n, d).
        distance: how the sides are compared.

    Example:
        >>> a, b = torch.rand(2, 4, 10)
        >>> DistanceSiamese(nn.Linear(10, 2))(a, b).shape
        torch.Size([4])
    """

    def __init__(self, encoder: nn.Module, *, distance: Distance = COSINE) -> None:
        super().__init__()
        self.encoder = encoder
        self.distance = distance

    def forward(
        self, a: Shaped[Tensor, "p ..."], b: Shaped[Tensor, "p ..."]
    ) -> Float[Tensor, " p"]:
        """How far a[i] is from b[i]."""
        return self.distance.paired(*SiameseNet(self.encoder)(a, b))


class ThresholdSiamese(nn.Module):
    """From two sides to logits, through one encoder and a learnable threshold.

    Cross entropy of the logits with `same.long()` trains encoder and threshold together. `fit`
    does so through a loss that has the same threshold: GivenPairsLoss(siamese.threshold,
    distance=siamese.distance) on pairs, ThresholdLoss(siamese.threshold,
    distance=siamese.distance) on balanced batches. Or train the encoder with any loss, and
    then `fit_threshold`.

    Args:
        encoder: any module from a batch of items to embeddings (n, d).
        threshold: to start with, or one that a loss has.
        distance: how the sides are compared.

    Example:
        >>> from likewise.data import ArrayDataset, PairDataset
        >>> points = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(6, 1)
        >>> points += torch.arange(12)[:, None] / 100
        >>> siamese = ThresholdSiamese(nn.Identity())
        >>> pairs = PairDataset(ArrayDataset(points, list(range(2)) * 6))
        >>> float(siamese.fit_threshold(pairs).accuracy)
        1.0
        >>> siamese.verify(points[:2], points[2:4])
        tensor([True, True])
    """

    def __init__(
        self,
        encoder: nn.Module,
        threshold: float | LearnedThreshold = 0.5,
        *,
        distance: Distance = COSINE,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.distance = distance
        if not isinstance(threshold, LearnedThreshold):
            threshold = LearnedThreshold(threshold)
        self.threshold = threshold

    def forward(
        self, a: Shaped[Tensor, "p ..."], b: Shaped[Tensor, "p ..."]
    ) -> Float[Tensor, "p 2"]:
        """Logits of being different and of being the same."""
        return self.threshold.logits(self.distance.paired(*SiameseNet(self.encoder)(a, b)))

    @torch.no_grad()
    def verify(
        self,
        a: Shaped[Tensor, "p ..."],
        b: Shaped[Tensor, "p ..."],
        *,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> Bool[Tensor, " p"]:
        """Whether a[i] and b[i] are the same, as inference sees them, on the CPU."""
        if len(a) != len(b):
            raise InputError(
                f"b must have as many items as a, {len(a)}, got {len(b)}. "
                "Row i of both belongs together."
            )
        sides = encode(self.encoder, torch.cat([a, b]), preprocess=preprocess).chunk(2)
        return self.distance.paired(*sides) <= float(self.threshold)

    @torch.no_grad()
    def fit_threshold(
        self,
        pairs: GivenPairs,
        goal: Goal = best_accuracy,
        *,
        leave_out: str | None = "items",
        batch_size: int = 256,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> Calibration:
        """Set the threshold to the one that suits these pairs best, and tell what it costs.

        Exact over every distinct distance; each item is encoded once. Use other pairs than
        those that the encoder was trained on.

        Args:
            pairs: with their truth.
            goal: what the threshold is chosen for, see `likewise.calibration`.
            leave_out: what the intervals leave out, one at a time: "items", or "classes", as
                for claims about new classes; a goal with a confidence then holds for new ones. None
                takes pairs as independent, as where there are fewer than 10 items.
            batch_size: items encoded at once.
            preprocess: applied to every batch, as the encoder's input needs it.

        Raises:
            InputError: What `calibrate` refuses; the threshold then stays as it was.
        """
        items = None
        if leave_out is not None:
            check_choice("leave_out", leave_out, ("classes", "items"))
            items = pairs.data.labels[pairs.pairs] if leave_out == "classes" else pairs.pairs
        distances = pair_distances(
            self.encoder,
            pairs,
            distance=self.distance,
            batch_size=batch_size,
            preprocess=preprocess,
        )
        chosen = calibrate(distances, pairs.same, goal=goal, items=items)
        self.threshold.value.fill_(chosen.threshold)
        return chosen


def pair_distances(
    encoder: nn.Module,
    pairs: GivenPairs,
    *,
    distance: Distance = COSINE,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, " p"]:
    """The distance of every pair, as inference sees it, on the CPU; each item is encoded once.

    Args:
        encoder: any module from a batch of items to embeddings (n, d).
        pairs: positions in a dataset, such as `PairDataset` and `GivenPairs` have.
        distance: how the sides are compared.
        batch_size: items encoded at once.
        preprocess: applied to every batch, as the encoder's input needs it.
    """
    positions, rows = np.unique(pairs.pairs.numpy(), return_inverse=True)
    embeddings = encode(
        encoder, Subset(pairs.data, positions), batch_size=batch_size, preprocess=preprocess
    )
    chunks = torch.split(torch.from_numpy(rows.reshape(-1, 2)), CHUNK)
    return torch.cat([distance.paired(*embeddings[chunk.T]) for chunk in chunks])


def validate_pairs(
    pairs: GivenPairs,
    *,
    distance: Distance = COSINE,
    goal: Goal = best_accuracy,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[dict[str, float], nn.Module], None]:
    """A callback for `fit` that judges the encoder on these pairs after each epoch.

    It adds to the record the area under the ROC, `validation/roc_auc`, and of the threshold
    that is best for the goal on these pairs `validation/threshold` and `validation/accuracy`;
    both are nan where no threshold reaches the goal.

    Args:
        pairs: with their truth, none of them trained on.
        distance: The distance of the loss.
        goal: what the threshold is chosen for; one without a confidence.
        batch_size: items encoded at once.
        preprocess: Function of a batch; see `fit`.

    Example:
        >>> from likewise import fit
        >>> from likewise.data import ArrayDataset, PairDataset
        >>> from likewise.losses import GivenPairsLoss
        >>> points = ArrayDataset(torch.randn(40, 5), list(range(4)) * 10)
        >>> pairs, others = PairDataset(points, seed=0), PairDataset(points, seed=1)
        >>> validate = validate_pairs(others, distance=GivenPairsLoss().distance)
        >>> history = fit(nn.Linear(5, 2), GivenPairsLoss(), pairs, epochs=1, callbacks=[validate])
        >>> 0 <= history[0]["validation/roc_auc"] <= 1
        True
    """
    if isinstance(goal, Guarantee):
        raise InputError(
            f"goal must do without a confidence in validation, got {goal_name(goal)}. "
            "Keep the guarantee when training is over, with fit_threshold."
        )

    def validate(record: dict[str, float], encoder: nn.Module) -> None:
        between = pair_distances(
            encoder, pairs, distance=distance, batch_size=batch_size, preprocess=preprocess
        )
        counts = metrics.sweep(between, pairs.same)
        record["validation/roc_auc"] = metrics.roc_auc(counts)
        threshold = accuracy = math.nan
        with contextlib.suppress(ValueError):  # an epoch that misses the goal ends no training
            at = goal(counts)
            threshold, accuracy = float(counts.thresholds[at]), float(counts.accuracy[at])
        record["validation/threshold"] = threshold
        record["validation/accuracy"] = accuracy

    return validate
