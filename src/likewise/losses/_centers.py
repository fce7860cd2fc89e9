"""Centres of the training classes: weights that a batch meets, all of them or a share."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from likewise._checks import (
    check_count,
    check_embeddings,
    check_labels,
    check_positive,
    check_rate,
    check_same_width,
)
from likewise.errors import InputError
from likewise.losses.facts import spread


class ToCenters(NamedTuple):
    """A batch compared with the centres of c classes, those of one class side by side."""

    distances: Float[Tensor, "n c k"]  # cosine distances to each of the k centres of a class
    own: Int[Tensor, " n"]  # the column of the item's own class
    centers: Float[Tensor, "c k d"]

    @property
    def nearest(self) -> Float[Tensor, "n c"]:
        """The distance to the nearest centre of each class."""
        if self.distances.shape[2] == 1:
            return self.distances.squeeze(2)
        return self.distances.amin(dim=2)

    @property
    def is_own(self) -> Bool[Tensor, "n c"]:
        """Whether the column is that of the item's own class."""
        columns = torch.arange(self.distances.shape[1], device=self.own.device)
        return self.own[:, None] == columns[None, :]


class ClassCenters(nn.Module):
    """`per_class` centres for each class, compared with a batch when called.

    With a share below 1 a call in training compares with the batch's own classes and randomly
    drawn others, as many as make the share, but at least as many as the batch has items: a
    number known beforehand. In evaluation mode all classes take part. What is drawn depends on
    the seed and on the number of draws before, which `state_dict` keeps.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        per_class: how many centres a class has.
        share: of the classes that a call in training compares with.
        seed: of the classes drawn.

    Source:
        The share: An et al., "Partial FC: Training 10 Million Identities on a Single Machine",
        ICCV workshops 2021, section 3.3.
    """

    def __init__(
        self,
        embedding_dim: int,
        class_count: int,
        *,
        per_class: int = 1,
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("embedding_dim", embedding_dim)
        check_count("class_count", class_count, 2)
        check_count("centers_per_class", per_class)
        check_rate("class_share", share)
        check_positive("class_share", share)
        check_count("seed", seed, least=0)
        self.class_count = class_count
        self.share = share
        self.seed = seed
        self.draws = 0
        # About unit length, so that one learning rate suits every width.
        self.weight = nn.Parameter(
            torch.randn(class_count, per_class, embedding_dim) / math.sqrt(embedding_dim)
        )

    def forward(self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> ToCenters:
        """The batch compared with the centres that take part."""
        check_embeddings(embeddings)
        check_codes(labels, len(embeddings), self.class_count)
        labels = labels.long()
        size = max(math.ceil(self.share * self.class_count), len(labels))
        if self.training and size < self.class_count:
            classes = self._draw(labels, size)
            own = torch.searchsorted(classes, labels)
            centers = self.weight[classes]
        else:
            own, centers = labels, self.weight
        distances = _cosine_distances(embeddings, centers.flatten(0, 1))
        return ToCenters(
            distances.view(len(embeddings), *centers.shape[:2]),
            own,
            centers,
        )

    def get_extra_state(self) -> Tensor:
        """How often classes were drawn."""
        return torch.tensor(self.draws)

    def set_extra_state(self, state: Any) -> None:
        """Go on drawing where the state was taken."""
        self.draws = int(state)

    @torch.no_grad()
    def _draw(self, labels: Tensor, size: int) -> Tensor:
        generator = torch.Generator(labels.device)
        key = np.random.SeedSequence((self.seed, self.draws)).generate_state(1, np.uint32)
        generator.manual_seed(int(key[0]))
        self.draws += 1
        lots = torch.rand(self.class_count, device=labels.device, generator=generator)
        # Lots lie below 1, so that the batch's own classes are always drawn.
        return lots.index_fill_(0, labels, 2.0).topk(size).indices.sort().values


def _cosine_distances(a: Tensor, b: Tensor) -> Tensor:
    check_same_width(a, b, ("centers", "embeddings"))
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        distances: Tensor = _Cosine.apply(a.to(dtype), b.to(dtype))  # type: ignore[no-untyped-call]
    return distances


class _Cosine(torch.autograd.Function):
    """`COSINE.matrix` in half the steps: between a batch and few centres, steps are what costs.

    The gradient of a zero row is zero, where 1 / length would pass the largest float16.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        lengths = [torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a, b)]
        lengths = [x.masked_fill_(x == 0, torch.inf) for x in lengths]
        units = [x / length for x, length in zip((a, b), lengths, strict=True)]
        ctx.save_for_backward(*units, *lengths)
        distances: Tensor = (units[0] @ units[1].T).neg_().add_(1).clamp_(min=0)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, *lengths = ctx.saved_tensors
        return (
            _across(slopes @ b, a, lengths[0]) if ctx.needs_input_grad[0] else None,
            _across(slopes.T @ a, b, lengths[1]) if ctx.needs_input_grad[1] else None,
        )


def _across(pull: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    # Only what is across the vector turns it.
    along = torch.linalg.vecdot(pull, unit)[:, None]
    turning: Tensor = torch.addcmul(pull.neg_(), along, unit).div_(length)
    return turning


def check_codes(labels: Tensor, count: int, class_count: int) -> None:
    """Refuse anything but an integer tensor of shape (count,) with codes below class_count.

    Codes are only looked at where that does not wait for the device; CUDA itself refuses others.
    """
    check_labels(labels, count)
    if labels.device.type != "cpu" or not count:
        return
    least, most = (int(code) for code in labels.aminmax())
    if least < 0 or most >= class_count:
        raise InputError(
            f"labels must lie in 0..{class_count - 1}, got {least}..{most}. "
            "Make the loss with class_count=len(data.class_names)."
        )


def mean_cross_entropy(logits: Float[Tensor, "n c"], own: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean of −log softmax at the own columns; 0 for no items, where torch has no number."""
    return F.cross_entropy(logits, own) if len(logits) else logits.sum()


@torch.no_grad()
def center_facts(
    embeddings: Float[Tensor, "n d"], nearest: Float[Tensor, "n c"], compared: ToCenters
) -> dict[str, Tensor]:
    """The share of items nearest to their own class, mean distances to centres, and the spread."""
    nearest = nearest.detach()
    size, count = nearest.shape
    right = (nearest.argmin(dim=1) == compared.own).sum()
    to_own = nearest.gather(1, compared.own[:, None]).sum()
    return {
        "accuracy": right / max(size, 1),
        "positive_distance": to_own / max(size, 1),
        "negative_distance": (nearest.sum() - to_own) / max(size * (count - 1), 1),
        "spread": spread(embeddings),
    }
