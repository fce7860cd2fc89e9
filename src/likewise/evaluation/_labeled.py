"""Which items have a label: evaluation leaves the others out, and counts them."""

from jaxtyping import Bool
from torch import Tensor

from likewise._checks import check_labels
from likewise.errors import InputError


def labeled(labels: Tensor, count: int, name: str = "labels") -> Bool[Tensor, " n"]:
    """Where labels are class codes, and not the -1 of unlabeled items, (n,).

    Raises:
        InputError: for labels of another shape or below -1, or if no item is labeled.
        InputTypeError: for labels that are no integers.
    """
    check_labels(labels, count, name)
    if count == 0:
        raise InputError(f"{name} must hold at least one item, got none. Give items.")
    if int(labels.min()) < -1:
        raise InputError(
            f"{name} must be class codes of at least 0, or -1 for unlabeled items, got "
            f"{int(labels.min())}. Give items of no indexed class a code of their own."
        )
    found: Bool[Tensor, " n"] = labels >= 0
    if not bool(found.any()):
        raise InputError(
            f"{name} must be known for at least one item, got {count} unlabeled ones (-1). "
            "Label some first."
        )
    return found


def kept(mask: Bool[Tensor, " n"], *columns: Tensor) -> tuple[Tensor, ...]:
    """These rows of each column; the columns themselves where all rows are kept."""
    if bool(mask.all()):
        return columns
    return tuple(column[mask.to(column.device)] for column in columns)
