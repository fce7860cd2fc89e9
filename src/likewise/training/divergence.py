"""Divergence: an epoch whose numbers stop being finite ends the training and is undone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from likewise.errors import InputError

WATCHED = ("embeddings", "loss", "gradients")


class Guard:
    """Watches the steps of one epoch, and undoes the epoch if a number is NaN or infinite.

    A loss that selects pairs by comparing distances can be an ordinary number where every
    embedding is NaN, so embeddings and gradients are watched besides the loss. What a step shows
    stays on the device: nothing waits for it before the epoch is over.

    Args:
        modules: Modules that are trained. Their weights and buffers are copied to the CPU, frozen
            weights excepted.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._weights = [
            weight for module in modules for weight in module.parameters() if weight.requires_grad
        ]
        self._all = [*self._weights, *(each for module in modules for each in module.buffers())]
        self._before = [each.detach().to("cpu", copy=True) for each in self._all]
        self._seen: dict[str, list[Tensor]] = {name: [] for name in WATCHED}
        self._skipped: set[int] = set()

    @torch.no_grad()
    def see(self, embeddings: Sequence[Tensor], loss: Tensor) -> None:
        """Look at a step between the backward pass and the optimizer's."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        dense = [each.coalesce().values() if each.is_sparse else each for each in gradients]
        # A sum and a norm are finite where all their terms are, and cost less than looking at
        # each. They overflow only above 1e19, where Adam's squares have overflowed as well.
        lengths = [each.float() for each in torch._foreach_norm(dense)] if dense else []
        total = torch.stack(lengths).sum() if lengths else loss.new_zeros(())
        points = [each.sum(dtype=torch.float32) for each in embeddings]
        whole = torch.stack(points).sum() if len(points) > 1 else points[0]
        for name, number in zip(WATCHED, (whole, loss.detach(), total), strict=True):
            self._seen[name].append(number)

    def skip(self) -> None:
        """Do not count the last step, which a gradient scaler skipped; see `check`."""
        self._skipped.add(len(self._seen["loss"]) - 1)

    @torch.no_grad()
    def check(
        self, epoch: int, everywhere: Callable[[Tensor], Tensor] = lambda finite: finite
    ) -> None:
        """Undo the epoch if a number of it is not finite.

        Skipped steps count only where every step was skipped.

        Args:
            epoch: Number of the epoch.
            everywhere: From what is finite here (1) or not (0) to what is in all processes.

        Raises:
            InputError: a number is not finite; the sentence names the first batch.
        """
        finite = torch.stack(
            [torch.stack(column).float().flatten() for column in self._seen.values()]
        ).isfinite()
        finite = everywhere(finite.cpu().to(torch.uint8)).bool()
        if len(self._skipped) < finite.shape[1]:
            finite[:, sorted(self._skipped)] = True
        broken = ~finite.all(dim=0)
        if broken.any():
            first = int(broken.int().argmax())
            name = WATCHED[int((~finite[:, first]).int().argmax())]
            where = f"batch {first + 1} of epoch {epoch}"
            if int(broken.sum()) > 1:
                where += f", the first of {int(broken.sum())} such batches"
        elif not bool(everywhere(torch.tensor(not self._weights_broke()).to(torch.uint8))):
            name, where = "weights", f"epoch {epoch}"
        else:
            return
        for each, before in zip(self._all, self._before, strict=True):
            each.copy_(before)
        raise InputError(
            f"{name} must stay finite, got NaN or infinity in {where}. "
            "Lower learning_rate, or look for extreme values in the data and its augmentation; "
            f"the weights are those from before epoch {epoch}."
        )

    def _weights_broke(self) -> bool:
        pairs = [
            (now, before)
            for now, before in zip(self._all, self._before, strict=True)
            if now.is_floating_point()
        ]
        if not pairs:
            return False
        finite = torch.stack([now.isfinite().all() for now, _ in pairs]).tolist()
        # A buffer may hold infinity for good, as the mask of an attention does.
        return any(
            not fine and bool(before.isfinite().all())
            for fine, (_, before) in zip(finite, pairs, strict=True)
        )
