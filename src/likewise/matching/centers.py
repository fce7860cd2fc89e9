"""Class centers of a gallery, to be looked up as its items are."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise._checks import as_tensors, check_embeddings, check_finite, check_labels
from likewise.distances import COSINE, Distance
from likewise.errors import InputError
from likewise.index import Index


def class_centers(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    distance: Distance = COSINE,
    class_names: Sequence[str] = (),
) -> Index:
    """An index of one item per class: the mean of its embeddings, with the class code for an id.

    With the cosine distance, where lengths do not matter, embeddings are scaled to length 1
    first. Made again when the gallery changes. `match(centers.lookup(queries, k=1), threshold,
    rule="center")` then decides.

    Args:
        embeddings: Embeddings of the gallery's items.
        labels: their class codes; items with -1 are left out.
        distance: The distance of the gallery.
        class_names: The class names of the gallery.

    Raises:
        InputError: no item has a label; wrong shapes; NaN or infinity.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0]])
        >>> centers = class_centers(embeddings, torch.tensor([4, 4, 7]))
        >>> centers.ids.tolist(), centers.lookup(torch.tensor([[1.0, 0.4]]), k=1).labels.tolist()
        ([4, 7], [[4]])
    """
    embeddings, labels = as_tensors(embeddings=embeddings, labels=labels)
    check_embeddings(embeddings)
    check_labels(labels, len(embeddings))
    check_finite(embeddings, "embeddings")
    labeled = labels >= 0
    if not bool(labeled.any()):
        raise InputError(
            f"labels must be known for at least one item, got {len(labels)} items without. "
            "Label the gallery first."
        )
    rows = embeddings.detach()[labeled].double()
    if distance is COSINE:
        rows = torch.nn.functional.normalize(rows, dim=1)
    codes, row = torch.unique(labels[labeled], return_inverse=True)
    # A sum by index_add_ would depend on the order of threads on a GPU.
    rows, row, codes = rows.cpu(), row.cpu(), codes.cpu()
    total = torch.zeros(len(codes), rows.shape[1], dtype=torch.float64).index_add_(0, row, rows)
    centers = total / row.bincount(minlength=len(codes))[:, None]
    index = Index(distance, class_names=class_names)
    index.add(centers, labels=codes, ids=codes)
    return index
