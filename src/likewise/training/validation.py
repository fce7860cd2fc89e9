"""The loss and its facts on data not trained on, over the same batches after every epoch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from likewise import _workers
from likewise.data import (
    CrossPairs,
    Dataset,
    GivenPairs,
    GivenTriplets,
    IdBatch,
    ViewDataset,
    WithIds,
)
from likewise.training.batches import batch_loss, default_batches, has_classes, whole
from likewise.training.suiting import PerSide, of_side


class Validation:
    """Called with the encoder and the loss after an epoch: what the record gets.

    That is the mean loss over its batches, `validation_loss`, and the mean of each fact that the
    loss tells, such as `validation_accuracy`.

    The batches are drawn once, as `fit` draws them by default. Where the data has fewer classes
    than a batch of the training, all of them are in a batch.

    Args:
        data: Anything that `fit` takes.
        preprocess: Applied to every batch.
        first_id: Ids count from here, above those of the training data; None for no ids.
        prepare: Puts a loader on the training device.
        devices: CUDA devices whose random state is left as it was, besides the CPU's.
        encoded: Called as encoded(encoder, *inputs) for embeddings.

    Raises:
        InputError: The data holds no two classes, or nothing that is the same.
    """

    def __init__(
        self,
        data: Dataset | CrossPairs | GivenPairs | GivenTriplets | ViewDataset,
        *,
        preprocess: PerSide,
        first_id: int | None,
        classes_per_batch: int | None,
        items_per_class: int | None,
        seed: int,
        workers: int,
        prepare: Callable[[Any], Any],
        devices: list[int],
        encoded: Callable[..., Any] = whole,
    ) -> None:
        if not has_classes(data):
            classes_per_batch = items_per_class = None
        elif classes_per_batch is not None:
            labels = torch.as_tensor(data.labels)
            classes_per_batch = min(classes_per_batch, len(torch.unique(labels[labels >= 0])))
        drawn = default_batches(
            data,
            classes_per_batch=classes_per_batch,
            items_per_class=items_per_class,
            batches=None,
            seed=seed,
        )
        self._preprocess = preprocess
        self._first_id = first_id
        self._seed = seed
        self._devices = devices
        self._encoded = encoded
        self._generator = torch.Generator()
        self._loader = prepare(
            _workers.loader(
                data if first_id is None else WithIds(data),  # type: ignore[arg-type]
                workers=workers,
                batch_sampler=list(drawn),
                generator=self._generator,
            )
        )

    @torch.no_grad()
    def __call__(self, encoder: nn.Module, loss: nn.Module) -> dict[str, float]:
        """The numbers in evaluation mode; random state and facts of training stay as they are."""
        encoder.eval()
        loss.eval()
        self._generator.manual_seed(self._seed)
        before = [(part, part.facts) for part in loss.modules() if "facts" in vars(part)]
        told: list[dict[str, Tensor]] = []
        with torch.random.fork_rng(devices=self._devices):
            for batch in _workers.batches(self._loader):
                if isinstance(batch, IdBatch) and self._first_id is not None:
                    batch = batch._replace(ids=batch.ids + self._first_id)
                step = batch_loss(encoder, loss, batch, self._prepared, self._encoded)
                # Read before the next batch, which makes others of them.
                told.append({"loss": step.loss, **getattr(loss, "facts", {})})
        for part, facts in before:
            part.facts = facts
        return {
            f"validation_{name}": float(
                torch.stack([each[name].float() for each in told]).double().mean()
            )
            for name in told[0]
        }

    def _prepared(self, items: Any, side: int) -> Any:
        apply = of_side(self._preprocess, side)
        return items if apply is None else apply(items)
