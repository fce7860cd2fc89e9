"""Intervals for new classes: each part of the classes left out, as queries and as references."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import intervals
from likewise.evaluation.retrieval.estimating import FROM_FIRST, scores_of
from likewise.evaluation.retrieval.nearest import Nearest
from likewise.intervals import Estimate

MOST_PARTS = 100


class LeftOut:
    """Sums of scores over all queries, and over those that are left without each part.

    Args:
        parts: which part each class belongs to, (c,).
        query_class: class numbers of all counted queries, (q,).
    """

    def __init__(self, parts: Int[Tensor, " c"], query_class: Int[Tensor, " q"]) -> None:
        self.parts, self.query_class = parts, query_class
        self._sizes = query_class.bincount(minlength=len(parts))
        self._sums: dict[int, Tensor] = {}

    def add(
        self, near: Nearest, chunk: Int[Tensor, " n"], total: Int[Tensor, " n"], ks: Sequence[int]
    ) -> None:
        """Take in the queries `chunk`, whose numbers of relevant references are `total`."""
        of_query = self.query_class[chunk]
        ranks = max(int(total.max()), *ks)
        for part in range(-1, int(self.parts.max()) + 1):
            kept = self.parts[of_query] != part
            classes = _without(near.classes[kept], self.parts != part, ranks)
            rank = near.rank[kept]
            if part >= 0:
                rank = rank - near.closer[kept, part]
            relevant = classes == of_query[kept, None]
            scores = torch.stack([*scores_of(relevant, total[kept], rank, ks).values()], dim=1)
            weighed = scores / self._sizes[of_query[kept], None]
            before = self._sums.get(part, 0)
            self._sums[part] = before + torch.stack([scores.sum(dim=0), weighed.sum(dim=0)])

    def estimates(self, names: Sequence[str]) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        """Micro and macro means of every score, by name; the rank is the last."""
        sums = torch.stack([self._sums[part] for part in sorted(self._sums)])
        kept = torch.stack([self.parts != part for part in sorted(self._sums)])
        queries, classes = (
            (kept * sizes).sum(dim=1, keepdim=True) for sizes in (self._sizes, self._sizes > 0)
        )
        micro, macro = (
            dict(zip(names, self._over_parts(means), strict=True))
            for means in (sums[:, 0] / queries, sums[:, 1] / classes)
        )
        return micro, macro

    def without(self, names: Sequence[str]) -> dict[str, Float[Tensor, " p"]]:
        """The mean of every score without each part, by name."""
        parts = [part for part in sorted(self._sums) if part >= 0]
        sums = torch.stack([self._sums[part][0] for part in parts])
        kept = torch.stack([self.parts != part for part in parts])
        queries = (kept * self._sizes).sum(dim=1, keepdim=True)
        return dict(zip(names, (sums / queries).T, strict=True))

    def _over_parts(self, means: Float[Tensor, "p s"]) -> list[Estimate]:
        ranges = [intervals.A_RATE] * (means.shape[1] - 1) + [FROM_FIRST]
        return [
            intervals.from_left_out(
                float(column[0]), column[1:], groups=len(self.parts), within=within
            )
            for column, within in zip(means.T, ranges, strict=True)
        ]


def _without(
    near: Int[Tensor, "n depth"], keep: Bool[Tensor, " c"], ranks: int
) -> Int[Tensor, "n ranks"]:
    """The classes of the nearest references that are left, as many in every row."""
    keep = F.pad(keep, (0, 1), value=True)  # what has no class stays
    kept = keep.index_select(0, near.flatten()).view_as(near)
    kept &= kept.cumsum(dim=1, dtype=torch.int32) <= ranks
    return near[kept].view(-1, ranks)
