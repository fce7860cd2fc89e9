"""What cut embeddings are worth: retrieval on their first d numbers, for several d."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from likewise import _tables
from likewise._checks import as_tensors, check_count, check_embeddings
from likewise.encoders import Truncate
from likewise.errors import InputError
from likewise.evaluation._plain import plain
from likewise.evaluation.comparison import Difference, compare
from likewise.evaluation.retrieval import RetrievalResult, evaluate_retrieval

FEWEST = 8  # down to which the width is halved unless widths are given
MEASURES = ("precision_at_1", "map_at_r")


@dataclass(frozen=True, eq=False)
class DimensionsResult:
    """Retrieval by the number of dimensions kept, each beside the full width on the same queries.

    Attributes:
        results: By width, widest first, the `RetrievalResult`. Its `precision_at_1` is the accuracy
            of the nearest neighbor.
        differences: By width, without the widest, the `Difference` of "precision_at_1" and of
            "map_at_r" from the widest, paired over queries. Their adjusted p-values hold for the
            two measures of one width.
    """

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    results: dict[int, RetrievalResult]
    differences: dict[int, dict[str, Difference]]

    def _table(self) -> _tables.Table:
        rows = [("dimensions", "accuracy", "less", "MAP@R", "less")]
        for width, result in self.results.items():
            less = self.differences.get(width, {})  # the widest has none
            one, other = (f"{less[name].difference}" if name in less else "" for name in MEASURES)
            rows.append((f"{width}", f"{result.precision_at_1}", one, f"{result.map_at_r}", other))
        return _tables.Table("Retrieval on the first dimensions", rows, headings=True)

    def to_dict(self) -> dict[str, object]:
        """All numbers, ready for JSON; the widths become text."""
        return {
            "results": {str(width): each.to_dict() for width, each in self.results.items()},
            "differences": plain(
                {
                    width: {name: each.to_dict() for name, each in less.items()}
                    for width, less in self.differences.items()
                }
            ),
        }


def evaluate_dimensions(
    embeddings: Float[Tensor, "q d"],
    labels: Int[Tensor, " q"],
    dims: Iterable[int] | None = None,
    *,
    references: Float[Tensor, "m d"] | None = None,
    normalize: bool = True,
    **options: Any,
) -> DimensionsResult:
    """How well distance finds items of the same class by the first numbers of the embeddings.

    Every width is judged by `evaluate_retrieval` on the same queries, and compared with the widest
    by `compare`. Embeddings that were trained with `losses.MatryoshkaLoss` lose little; others
    lose more.

    Args:
        embeddings: Queries, (q, d).
        labels: Class codes of the queries, -1 for unlabeled, (q,).
        dims: Widths; d, d/2, d/4, ... down to 8 if None. The widest is what others are compared
            with.
        references: Items to be found, (m, d); they are cut too.
        normalize: Whether cut embeddings are scaled to unit length, as `encoders.Truncate` does.
        **options: What else `evaluate_retrieval` takes, such as `distance`, `reference_labels` or
            `classes_as_sample`, which asks for intervals for new classes.

    Raises:
        InputError: A width is above d or comes twice, and what `evaluate_retrieval` refuses.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[3.0, 0.1], [3.0, -0.1], [-3.0, 0.1], [-3.0, -0.1]])
        >>> found = evaluate_dimensions(embeddings, torch.tensor([0, 0, 1, 1]), [2, 1])
        >>> print(found.results[1].precision_at_1)
        1.000 [0.398, 1.000]
    """
    embeddings, references = as_tensors(embeddings=embeddings, references=references)
    check_embeddings(embeddings)
    if references is not None:
        check_embeddings(references, "references")
    width = embeddings.shape[1]
    widths = _halves(width) if dims is None else sorted(dims, reverse=True)
    for dim in widths:
        check_count("dims", dim)
    if not widths or widths[0] > width or len(set(widths)) < len(widths):
        raise InputError(
            f"dims must be different widths of at most {width}, got {widths}. Give e.g. "
            f"{_halves(width)}."
        )

    results = {}
    for dim in widths:
        cut = Truncate(dim, normalize=normalize)
        others = None if references is None else cut(references)
        results[dim] = evaluate_retrieval(cut(embeddings), labels, references=others, **options)
    sample = bool(options.get("classes_as_sample"))
    full = results[widths[0]]
    differences = {
        dim: compare(result, full, measures=MEASURES, classes_as_sample=sample).measures
        for dim, result in results.items()
        if result is not full
    }
    return DimensionsResult(results, differences)


def _halves(width: int) -> list[int]:
    widths = [width]
    while widths[-1] // 2 >= FEWEST:
        widths.append(widths[-1] // 2)
    return widths
