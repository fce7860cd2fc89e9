"""Distillation: distances within a batch become alike to those of a teacher's embeddings."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import (
    check_embeddings,
    check_finite,
    check_labels,
    check_positive,
    free_to_look,
)
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses.facts import Told, mean_where, spread


def distillation_loss(
    distances: Float[Tensor, "n m"],
    teacher: Float[Tensor, "n m"],
    counted: Bool[Tensor, "n m"],
    *,
    temperature: float,
) -> Float[Tensor, " n"]:
    """T² Σ p log(p / q) of each anchor: p = softmax(−d_teacher / T), q = softmax(−d / T).

    The softmax runs over the counted references of the anchor. Without any the cost is 0.

    Args:
        distances: Distances from every anchor to every reference; smaller is closer.
        teacher: Distances of the same pairs that the teacher gives; for similarities, 1 − s or −s.
        counted: Which pairs count.
        temperature: T; the smaller, the more the nearest references count.

    Source:
        Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2;
        over candidates instead of classes: Lin, Yang & Lin, "In-Batch Negatives for Knowledge
        Distillation with Tightly-Coupled Teachers", RepL4NLP 2021.
    """
    lowest = torch.finfo(distances.dtype).min
    known, learned = (
        (apart.to(distances.dtype) * (-1 / temperature)).masked_fill(~counted, lowest)
        for apart in (teacher.detach(), distances)
    )
    costs = F.kl_div(
        learned.log_softmax(dim=1), known.log_softmax(dim=1), reduction="none", log_target=True
    )
    return torch.where(counted, costs, 0).sum(dim=1) * temperature**2


class DistillationLoss(nn.Module):
    """Mean of `distillation_loss` over the items of a batch, beside a teacher's embeddings of them.

    A small encoder learns from a large one which items are alike, of any width and distance. Labels
    play no part, so unlabeled items teach too. Add it to another loss with `Sum`, or use it alone.
    After each call `facts` holds the mean distance of student and of teacher, and the spread.

    Args:
        teacher: Embeddings that the teacher gives the training items, by their position in the
            data, (N, t): `lw.encode(teacher, data)`. `fit` passes the positions as ids. Validation
            items come after the training items.
        temperature: In the unit of the distance; the smaller, the more the nearest items count.
        distance: Distance of the student's embeddings.
        teacher_distance: Distance of the teacher's.

    Raises:
        InputError: When called without ids, or with one that the teacher does not know.

    Source:
        As `distillation_loss`. On one query with its candidates, the value of DistillKLDivLoss in
        sentence-transformers.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> loss, ids = DistillationLoss(teacher), torch.arange(3)
        >>> alike, other = teacher @ torch.ones(2, 3).triu(), torch.eye(3)
        >>> loss(alike, ids, ids=ids) < loss(other, ids, ids=ids)
        tensor(True)
    """

    by_rows = True  # so that processes may share a batch
    takes_ids = True
    teacher: Tensor

    def __init__(
        self,
        teacher: Float[Tensor, "N t"],
        *,
        temperature: float = 0.05,
        distance: Distance = COSINE,
        teacher_distance: Distance = COSINE,
    ) -> None:
        super().__init__()
        check_embeddings(teacher, "teacher")
        check_finite(teacher, "teacher")
        check_positive("temperature", temperature)
        # The data can be embedded again, so no checkpoint needs to hold them.
        self.register_buffer("teacher", teacher.detach(), persistent=False)
        self.temperature = temperature
        self.distance = distance
        self.teacher_distance = teacher_distance
        self.facts: Mapping[str, Tensor] = {}

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Float[Tensor, "m d"] | None = None,
        reference_labels: Int[Tensor, " m"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        reference_ids: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over the items; 0 for fewer than two. Items with one id are no pair."""
        check_embeddings(embeddings)
        own = self._positions(ids, len(embeddings), "ids")
        others, known = embeddings, own
        if references is None:
            others, known = map(_shares.everything, (embeddings, own))
        else:
            check_embeddings(references, "references")
            others = references
            known = self._positions(reference_ids, len(references), "reference_ids")
        distances = self.distance.matrix(embeddings, others)
        teacher = self.teacher_distance.matrix(self.teacher[own], self.teacher[known])
        counted = own[:, None] != known
        costs = distillation_loss(distances, teacher, counted, temperature=self.temperature)
        apart, kept = distances.detach(), embeddings.detach().clone()
        self.facts = Told(
            lambda: {
                "student_distance": mean_where(apart, counted),
                "teacher_distance": mean_where(teacher, counted),
                "spread": spread(kept),
            }
        )
        count = max(_shares.counted(len(costs)), 1)
        return shown(costs.sum() / count, distances, embeddings)

    def _positions(self, ids: Tensor | None, count: int, name: str) -> Tensor:
        if ids is None:
            raise InputError(
                f"{name} must be the positions of the items in the data, got none. `fit` gives "
                "them; pass them in a loop of your own."
            )
        check_labels(ids, count, name)
        if (
            free_to_look(ids)
            and count
            and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.teacher)
        ):
            raise InputError(
                f"{name} must be between 0 and {len(self.teacher) - 1}, got {int(ids.min())} to "
                f"{int(ids.max())}. Embed all of the training data with the teacher."
            )
        return ids.long()
