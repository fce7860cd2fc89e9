"""Centers of the training classes: weights that a batch meets, all of them or a share."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from likewise import _shares
from likewise._checks import (
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
    check_positive,
    check_rate,
    check_same_width,
    free_to_look,
)
from likewise.distances import COSINE
from likewise.errors import InputError
from likewise.losses._shown import shown
from likewise.losses.facts import (
    FEW,
    Told,
    as_numpy,
    batch_mean_over,
    facts_of,
    mean_over,
    relative_spread,
    spread,
)
from likewise.masks import UNLABELED


class ToCenters(NamedTuple):
    """A batch compared with the centers of c classes, those of one class side by side."""

    distances: Float[Tensor, "n c k"]  # cosine distances to each of the k centers of a class
    own: Int[Tensor, " n"]  # the column of the item's own class; -1 of an unlabeled item
    centers: Float[Tensor, "c k d"]
    labeled: Bool[Tensor, " n"] | None  # which items have a class; None if known to be all

    @property
    def nearest(self) -> Float[Tensor, "n c"]:
        """The distance to the nearest center of each class."""
        if self.distances.shape[2] == 1:
            return self.distances.squeeze(2)
        return self.distances.amin(dim=2)

    @property
    def is_own(self) -> Bool[Tensor, "n c"]:
        """Whether the column is that of the item's own class."""
        columns = torch.arange(self.distances.shape[1], device=self.own.device)
        return self.own[:, None] == columns[None, :]

    def shown(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The value; NaN if a number of an unlabeled item, which costs nothing, is not finite."""
        return value if self.labeled is None else shown(value, self.distances, self.centers)

    def at_own(self, values: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """The value at the item's own class; at any class for an unlabeled item."""
        own = self.own if self.labeled is None else self.own.clamp(min=0)
        return values.gather(1, own[:, None]).squeeze(1)


class ClassCenters(nn.Module):
    """`per_class` centers for each class, compared with a batch when called.

    With a share below 1 a call in training compares with the batch's own classes and randomly
    drawn others, as many as make the share, but at least as many as the batch has items: a
    number known beforehand. In evaluation mode all classes take part. What is drawn depends on
    the seed and on the number of draws before, which `state_dict` keeps.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.
        per_class: how many centers a class has.
        share: Share of the classes that a call in training compares with.
        seed: Seed of the classes drawn.

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
        """The batch compared with the centers that take part."""
        check_embeddings(embeddings)
        labeled = labeled_codes(labels, len(embeddings), self.class_count)
        labels = labels.long()
        every = _shares.everything(labels) if self.training and self.share < 1 else labels
        size = max(math.ceil(self.share * self.class_count), len(every))
        if self.training and size < self.class_count:
            classes = self._draw(every, size)
            own = torch.searchsorted(classes, labels).masked_fill_(labels == UNLABELED, UNLABELED)
            centers = self.weight[classes]
        else:
            own, centers = labels, self.weight
        return ToCenters(_distances(embeddings, centers), own, centers, labeled)

    def distances(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c k"]:
        """Cosine distances to all centers."""
        check_embeddings(embeddings)
        return _distances(embeddings, self.weight)

    @torch.no_grad()
    def begin_at(self, embeddings: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> None:
        """Put the centers where the items of their classes are, before an encoder trains further.

        Centers at random would first pull a pretrained encoder away from what it knows. Each
        center becomes the mean direction of its class; of several, each that of every K-th item.
        Centers without an item stay as they are, and so do all for items with label -1.

        Args:
            embeddings: What the encoder makes of some items of each class.
            labels: Their class codes.

        Raises:
            InputError: Wrong shapes, a width or a label that the centers do not have, or
                embeddings that are not finite.

        Example:
            >>> centers = ClassCenters(embedding_dim=2, class_count=2)
            >>> centers.begin_at(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 0]))
            >>> centers.weight.tolist()
            [[[0.0, 1.0]], [[1.0, 0.0]]]
        """
        check_embeddings(embeddings)
        check_finite(embeddings, "embeddings")
        labeled = labeled_codes(labels, len(embeddings), self.class_count)
        count, each, width = self.weight.shape
        rows = self.weight.view(count * each, width)
        check_same_width(rows, embeddings, ("centers", "embeddings"))
        units = F.normalize(embeddings.detach().double(), dim=1).cpu()
        codes = labels.long().cpu()
        if labeled is not None:
            units, codes = units[labeled.cpu()], codes[labeled.cpu()]
        order = codes.sort(stable=True).indices
        codes, units = codes[order], units[order]
        first = torch.searchsorted(codes, codes)
        place = codes * each + (torch.arange(len(codes)) - first) % each
        sums = torch.zeros(count * each, width, dtype=torch.float64).index_add_(0, place, units)
        has_items = sums.norm(dim=1) > 0
        means = F.normalize(sums, dim=1)[has_items]
        rows[has_items.to(rows.device)] = means.to(rows)

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
        own = 2.0 * (labels != UNLABELED)
        lots.scatter_reduce_(0, labels.clamp(min=0), own, "amax")
        return lots.topk(size).indices.sort().values


def _distances(
    embeddings: Float[Tensor, "n d"], centers: Float[Tensor, "c k d"]
) -> Float[Tensor, "n c k"]:
    rows = centers.flatten(0, 1)
    check_same_width(rows, embeddings, ("centers", "embeddings"))
    return COSINE.matrix(embeddings, rows).view(len(embeddings), *centers.shape[:2])


def labeled_codes(labels: Tensor, count: int, class_count: int) -> Tensor | None:
    """Which items have a label, or None if all are known to.

    Refuses anything but an integer tensor of shape (count,): codes below class_count, or -1.

    Codes are only looked at where that does not wait for the device; CUDA itself refuses others.
    """
    check_labels(labels, count)
    if not count:
        return None
    if not free_to_look(labels):
        return labels != UNLABELED
    codes = labels.numpy()
    least, most = int(codes.min()), int(codes.max())
    if least < UNLABELED or most >= class_count:
        raise InputError(
            f"labels must lie in 0..{class_count - 1}, got {least}..{most}. "
            "Make the loss with class_count=len(data.class_names); -1 stands for unlabeled."
        )
    return None if least > UNLABELED else labels != UNLABELED


def mean_cross_entropy(
    logits: Float[Tensor, "n c"],
    own: Int[Tensor, " n"],
    labeled: Bool[Tensor, " n"] | None,
    weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of −log softmax at the own columns; 0 if none is labeled, where torch has no number."""
    if weights is not None:
        costs = F.cross_entropy(logits, own, ignore_index=UNLABELED, reduction="none")
        return weighted_mean(costs, labeled, weights)
    if labeled is None and _shares.current() is None:
        return F.cross_entropy(logits, own) if len(logits) else logits.sum()
    total = F.cross_entropy(logits, own, ignore_index=UNLABELED, reduction="sum")
    return total / _shares.counted((own != UNLABELED).sum()).clamp(min=1)


def weighted_mean(
    costs: Float[Tensor, " n"],
    labeled: Bool[Tensor, " n"] | None,
    weights: Float[Tensor, " n"] | None,
) -> Float[Tensor, ""]:
    """Mean over the labeled items, by their weights if given; 0 if there are none."""
    if weights is None:
        return batch_mean_over(costs, labeled)
    if weights.shape != costs.shape:
        raise InputError(
            f"weights must have shape {tuple(costs.shape)}, one per item, got "
            f"{tuple(weights.shape)}. Index the weights of the classes by the labels."
        )
    shares = weights.to(costs.dtype) if labeled is None else weights.to(costs.dtype) * labeled
    # Divided beforehand, where no gradient passes.
    total = _shares.counted(shares.sum()).clamp(min=torch.finfo(costs.dtype).tiny)
    return (shares / total * costs).sum()


@torch.no_grad()
def center_facts(
    embeddings: Float[Tensor, "n d"], nearest: Float[Tensor, "n c"], compared: ToCenters
) -> Mapping[str, Tensor]:
    """The share of items nearest to their own class, mean distances to centers, and the spread.

    For a small batch on a CPU they are made when first read.
    """
    labeled, nearest = compared.labeled, nearest.detach()
    if free_to_look(nearest):
        if nearest.numel() + embeddings.numel() > FEW:
            return _looked_at(embeddings, nearest, compared.own, labeled)
        # Both may be changed in place before the facts are read.
        kept, own = embeddings.detach().clone(), compared.own.clone()
        return Told(lambda: _looked_at(kept, nearest, own, labeled))
    right = nearest.argmin(dim=1) == compared.own
    to_own = compared.at_own(nearest)
    to_others = nearest.sum(dim=1) - to_own
    return {
        "accuracy": mean_over(right, labeled),
        "positive_distance": mean_over(to_own, labeled),
        "negative_distance": mean_over(to_others, labeled) / (nearest.shape[1] - 1),
        "spread": spread(embeddings),
    }


def _looked_at(
    embeddings: Tensor, nearest: Tensor, codes: Tensor, labeled: Tensor | None
) -> dict[str, Tensor]:
    distances, own = as_numpy(nearest), codes.numpy()
    if labeled is not None:
        distances, own = distances[labeled.numpy()], own[labeled.numpy()]
    count = max(len(own), 1)
    # NaN and infinity show in the facts.
    with np.errstate(all="ignore"):
        of_own = float(distances[np.arange(len(own)), own].sum())
        of_others = (float(distances.sum()) - of_own) / (distances.shape[1] - 1)
    hits = np.count_nonzero(distances.argmin(axis=1) == own)
    told = [hits / count, of_own / count, of_others / count, relative_spread(embeddings)]
    names = ("accuracy", "positive_distance", "negative_distance", "spread")
    return facts_of(names, told, nearest.dtype)
