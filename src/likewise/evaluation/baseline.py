"""Is an encoder ahead of a baseline, such as the raw input, on the same items?"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise.data.pairs import draw_pairs
from likewise.distances import COSINE, Distance
from likewise.evaluation.comparison import Comparison, compare, together
from likewise.evaluation.during import rows_of_each
from likewise.evaluation.retrieval import evaluate_retrieval
from likewise.evaluation.verifying import evaluate_verification
from likewise.intervals import FEWEST_GROUPS

RAW_INPUT = "raw input"
MODEL = "this model"
MOST_COMPARED = 2000  # items; each is compared with each, in as many numbers as an image has
NUMBERS = 1 << 20  # of one side of the pairs that are compared at once
_OF_RETRIEVAL = ("map_at_r", "precision_at_1", "r_precision")
_OF_PAIRS = ("roc_auc", "equal_error_rate")
DECISIVE = "retrieval map_at_r"


@dataclass(frozen=True)
class Baseline:
    """An encoder beside a baseline on the same items.

    Attributes:
        name: What the baseline is, such as "raw input".
        items: How many were compared.
        classes: Number of their classes.
        are_new: Whether the encoder was trained on none of these classes.
        comparison: Both, measure by measure, with paired intervals.
    """

    name: str
    items: int
    classes: int
    are_new: bool
    comparison: Comparison

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [("measure", MODEL, self.name, "difference")]
        rows += [
            (name, f"{one.a}", f"{one.b}", f"{one.difference}")
            for name, one in self.comparison.measures.items()
        ]
        return _tables.Table(f"Beside {self.name}, on {self.on}", rows, headings=True)

    @property
    def on(self) -> str:
        """The items, in words."""
        kind = "never trained on" if self.are_new else "trained on"
        return f"{self.items:,} items of {self.classes:,} classes {kind}"

    @property
    def helped(self) -> bool | None:
        """Whether the encoder is ahead on MAP@R; False if behind, None if neither is shown."""
        ahead = self.comparison.measures[DECISIVE].ahead
        return None if ahead is None else ahead == 0

    @property
    def verdict(self) -> str:
        """In one sentence, whether training helped here."""
        gap = self.comparison.measures[DECISIVE].difference
        said = f"the difference of MAP@R is {gap}, on {self.on}"
        if self.helped:
            return f"ahead of {self.name}: {said}"
        if self.helped is None:
            return f"training did not help here: level with {self.name}, as {said}"
        return f"training did not help here: {self.name} is ahead, as {said}"

    def to_dict(self) -> dict[str, Any]:
        """All numbers and the verdict, ready for JSON."""
        return {
            "name": self.name,
            "items": self.items,
            "classes": self.classes,
            "are_new": self.are_new,
            "verdict": self.verdict,
            "measures": self.comparison.to_dict()["measures"],
        }


def compare_with_baseline(
    embeddings: Float[Tensor, "n d"],
    baseline: Float[Tensor, "n b"],
    labels: Int[Tensor, " n"],
    *,
    distance: Distance = COSINE,
    name: str = RAW_INPUT,
    are_new: bool = True,
    per_item: float = 10.0,
    seed: int = 0,
) -> Baseline | None:
    """Retrieval and verification of embeddings beside those of a baseline, paired.

    Each item is looked up among the others, and the same pairs are drawn for both. From ten
    classes on the intervals of retrieval are for new classes, with fewer for new items of the same
    classes. Of more than 2,000 items, 2,000 are drawn, some of each class.

    Args:
        embeddings: What the encoder makes of the items.
        baseline: What the items are otherwise, such as `Embedded.raw`.
        labels: Class codes; items labeled -1 are left out.
        distance: What compares both.
        name: What the baseline is called.
        are_new: Whether the encoder was trained on none of these classes.
        per_item: Pairs drawn per item.
        seed: Seed of the items and pairs drawn.

    Returns:
        None where there are no two classes, or no class with two items.

    Example:
        >>> labels = torch.arange(40) % 4
        >>> raw = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> learned = torch.eye(4)[labels] + 0.1 * raw[:, :4]
        >>> compare_with_baseline(learned, raw, labels).helped
        True
    """
    rows = (labels >= 0).nonzero().flatten()
    if len(rows) > MOST_COMPARED:
        rows = rows[rows_of_each(labels[rows], MOST_COMPARED, seed)]
    labels = labels[rows]
    counts = torch.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or int(counts.max()) < 2:
        return None
    pairs, same = draw_pairs(labels.numpy(), per_item, (seed,))
    scores, verified = [], []
    for each in (embeddings[rows].float(), baseline[rows].float()):
        judged = evaluate_retrieval(each, labels, distance=distance, ks=(1,))
        scores.append({measure: judged.per_query[measure] for measure in _OF_RETRIEVAL})
        some = torch.split(pairs, max(1, NUMBERS // each.shape[1]))
        apart = torch.cat([distance.paired(*each[few.T]) for few in some])
        verified.append(evaluate_verification(apart, same, items=pairs))
    names = (MODEL, name)
    comparison = together(
        {
            "retrieval": compare(
                *scores,
                names=names,
                labels=judged.query_labels,
                classes_as_sample=len(counts) >= FEWEST_GROUPS,
            ),
            "verification": compare(*verified, names=names, measures=_OF_PAIRS),
        }
    )
    return Baseline(name, len(rows), len(counts), are_new, comparison)
