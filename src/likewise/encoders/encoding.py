"""`encode`: embeddings of many items, as inference sees them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import default_collate

from likewise import _workers
from likewise._checks import as_floats, as_tensor, check_count, check_finite
from likewise.encoders.heads import describe
from likewise.errors import InputError, InputTypeError


class Items(Protocol):
    """A map-style dataset, of `likewise.data` or any other."""

    def __len__(self) -> int:
        """How many items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One item, or a tuple that starts with it."""
        ...


# Modules that some call of `encode` has in eval mode now, by their id: the module, how many calls
# use it, and the mode that it is given back in. Encoders may share submodules.
_in_use: dict[int, tuple[nn.Module, int, bool]] = {}
_modes = threading.Lock()


def encode(
    encoder: nn.Module,
    inputs: Tensor | np.ndarray | Items,
    *,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Float[Tensor, "n d"]:
    """Embeddings (n, d) of n items, float32 on the CPU, as inference sees them.

    Items go to the device and the dtype of the encoder's first parameter, whatever the type of
    their numbers; bytes of images (uint8 of two dimensions or more) are read as 0..1. Only codes,
    int32 or int64 for an encoder with an `nn.Embedding`, stay whole.
    Dropout and batch statistics are off during the call. Every submodule is left in the mode it
    was found in and no random number is drawn, so encoding between two training steps changes
    nothing. Several threads may encode with one encoder, or with encoders that share submodules:
    these stay in eval mode until the last of the calls ends. Do not train or call `train()` in one
    thread while another encodes.

    Args:
        encoder: any module from a batch (n, ...) to embeddings (n, d).
        inputs: items (n, ...) as a tensor, an array, also memory-mapped, or a list; or a map-style
            dataset of items or (items, labels). For Pillow images see `data.as_items`.
        batch_size: items encoded at once; the results agree to rounding whatever it is.
        preprocess: applied to each batch on the encoder's device, e.g. `Preprocess.apply`.
        progress: called with (items done, items in all) after each batch.
        workers: processes that fetch items of a dataset; 0 fetches them in this one.

    Raises:
        InputError: if there is no item, or the embeddings are not (n, d) or not finite.
        InputTypeError: if the encoder is no module or returns no tensor, or the inputs are neither
            a tensor nor a dataset.

    Example:
        >>> encode(nn.Linear(10, 2), torch.rand(5, 10), batch_size=2).shape
        torch.Size([5, 2])
    """
    return encode_chosen(
        encoder,
        inputs,
        batch_size=batch_size,
        preprocess=preprocess,
        progress=progress,
        workers=workers,
    )


@torch.no_grad()
def encode_chosen(
    encoder: nn.Module,
    inputs: Tensor | np.ndarray | Items,
    choose: Callable[[Tensor], Tensor] | None = None,
    *,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Float[Tensor, "n d"]:
    """As `encode`, of the items that `choose` gives back of each batch; (0, 0) if it gives none.

    Every batch is read once, in order, and `choose` sees it as it is read, before the preprocess.
    What it gives back is encoded in full batches.

    Example:
        >>> items = torch.arange(6.0)[:, None]
        >>> encode_chosen(nn.Identity(), items, lambda batch: batch[batch[:, 0] > 3]).flatten()
        tensor([4., 5.])
    """
    if not isinstance(encoder, nn.Module):
        raise InputTypeError(f"encoder must be a torch module, got {type(encoder).__name__}.")
    check_count("batch_size", batch_size)
    check_count("workers", workers, least=0)
    if isinstance(inputs, (list, tuple)):
        inputs = as_tensor(inputs, "inputs")
    elif hasattr(inputs, "__array__") and not isinstance(inputs, (Tensor, np.ndarray)):
        inputs = np.asarray(inputs)
    total = _length(inputs)
    takes_codes = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in encoder.modules())
    first = next(encoder.parameters(), torch.empty(0))
    embeddings: list[Tensor] = []
    waiting: list[Tensor] = []
    done = 0
    with _evaluating(encoder):
        for batch in _batches(inputs, batch_size, workers):
            done += len(batch)
            chosen, full = batch, len(batch)
            if choose is not None:
                chosen = torch.cat([*waiting, choose(batch)])
                full = len(chosen) if done == total else len(chosen) // batch_size * batch_size
                waiting = [chosen[full:]]
            for items in torch.split(chosen[:full], batch_size) if full else ():
                items = items.to(first.device)
                if preprocess is not None:
                    items = preprocess(items)
                is_code = takes_codes and items.dtype in (torch.int32, torch.int64)
                if not (is_code or items.is_floating_point() or items.is_complex()):
                    items = as_floats(items)
                if items.is_floating_point():
                    items = items.to(first.dtype)
                outputs = encoder(items)
                _check_outputs(outputs, len(items))
                embeddings.append(outputs.float().cpu())
            if progress is not None:
                progress(done, total)
    result = torch.cat(embeddings) if embeddings else torch.empty(0, 0)
    check_finite(result, "embeddings")
    return result


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode while this lasts, in whatever thread, and then as it was."""
    modules = list(encoder.modules())
    with _modes:
        for module in modules:
            _, users, mode = _in_use.get(id(module), (module, 0, module.training))
            _in_use[id(module)] = (module, users + 1, mode)
    try:
        with _modes:
            if any(module.training for module in modules):  # else others brought it there
                encoder.eval()
        yield
    finally:
        with _modes:
            for module in modules:
                _, users, mode = _in_use.pop(id(module))
                if users > 1:
                    _in_use[id(module)] = (module, users - 1, mode)
                else:
                    module.training = mode


def _length(inputs: Tensor | np.ndarray | Items) -> int:
    unsuited = isinstance(inputs, (list, tuple, dict, str))
    if unsuited or not (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")):
        raise InputTypeError(
            f"inputs must be numbers (n, ...) or a map-style dataset, got {type(inputs).__name__}. "
            "Give a tensor, an array, or what lw.data.load gives."
        )
    if isinstance(inputs, (Tensor, np.ndarray)) and inputs.ndim == 0:
        raise InputError("inputs must have shape (n, ...), got a single number.")
    if len(inputs) == 0:
        raise InputError("inputs must hold at least one item, got none.")
    return len(inputs)


def _batches(
    inputs: Tensor | np.ndarray | Items, batch_size: int, workers: int
) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield from torch.split(inputs, batch_size)
        return
    if isinstance(inputs, np.ndarray):  # a part at a time, as it may be a file of any size
        for start in range(0, len(inputs), batch_size):
            yield as_tensor(inputs[start : start + batch_size], "inputs")
        return
    loader = _workers.loader(
        inputs,
        workers=workers,
        batch_size=batch_size,
        collate=_collate,
        generator=torch.Generator(),  # otherwise each loader draws from the global one
    )
    for batch in _workers.batches(loader):
        items = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(items, Tensor):
            raise InputTypeError(
                "inputs must give tensors, or tensors with labels, for a batch, "
                f"got {describe(items)}. Wrap the dataset so that it gives the items to encode."
            )
        yield items


def _collate(samples: list[Any]) -> Any:
    sample = samples[0] if samples else None
    item = sample[0] if isinstance(sample, (tuple, list)) and len(sample) else sample
    if not isinstance(item, (Tensor, np.ndarray, int, float, np.number)):
        raise InputTypeError(
            f"inputs must give tensors or arrays, got {describe(item)}. Wrap the dataset so that "
            "it gives the items to encode; lw.data.as_inputs(dataset) does so for images."
        )
    return default_collate(samples)


def _check_outputs(outputs: object, count: int) -> None:
    if not isinstance(outputs, Tensor):
        raise InputTypeError(
            f"encoder must return one tensor, got {describe(outputs)}. "
            "Choose one output with SelectOutput(encoder, key)."
        )
    if outputs.ndim != 2 or len(outputs) != count:
        raise InputError(
            f"encoder must return shape ({count}, d) for {count} items, "
            f"got {tuple(outputs.shape)}. End it with a pooling or nn.Flatten()."
        )
