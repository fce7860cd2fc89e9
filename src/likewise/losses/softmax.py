"""Plain softmax classification over the training classes, the baseline of metric learning."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from likewise._checks import check_count, check_embeddings, check_labels


class SoftmaxLoss(nn.Module):
    """Cross entropy of a linear layer from embeddings to the training classes.

    The layer's weights belong to the loss: `fit` trains them along with the encoder. What it
    learns sits in the embeddings, the layer itself is not used afterwards. After each call
    `facts` holds the share of the batch that the layer classifies rightly.

    Args:
        embedding_dim: d, the width of the embeddings.
        class_count: how many codes there are; labels run from 0 to class_count − 1.

    Example:
        >>> import torch
        >>> loss = SoftmaxLoss(embedding_dim=8, class_count=10)
        >>> loss(torch.zeros(4, 8), torch.tensor([1, 2, 3, 4])).ndim
        0
    """

    def __init__(self, embedding_dim: int, class_count: int) -> None:
        super().__init__()
        check_count("embedding_dim", embedding_dim)
        check_count("class_count", class_count, 2)
        self.classify = nn.Linear(embedding_dim, class_count)
        self.facts: dict[str, Tensor] = {}

    def forward(
        self,
        embeddings: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        reference_ids: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross entropy; references play no part, since classes are compared, not items."""
        check_embeddings(embeddings)
        check_labels(labels, len(embeddings))
        count = self.classify.out_features
        # Only where looking does not wait for the device; elsewhere CUDA itself refuses.
        if (
            labels.device.type == "cpu"
            and len(labels)
            and not 0 <= labels.min() <= labels.max() < count
        ):
            raise ValueError(
                f"labels must lie in 0..{count - 1}, got {int(labels.min())}..{int(labels.max())}. "
                "Make the loss with class_count=len(data.class_names)."
            )
        logits = self.classify(embeddings)
        with torch.no_grad():
            self.facts = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits.float(), labels)
