"""`encode`: embeddings of many items, as inference sees them."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import IterableDataset, default_collate

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


LARGEST_BATCH = 256
_CPU_NUMBERS = 1 << 20  # in a batch on a CPU: 6 photographs of 224 pixels a side
_NO_PARAMETER = torch.empty(0)  # tells the device and type of an encoder that has none

# Modules that some call of `encode` has in eval mode now, by their id: the module, how many calls
# use it, and the mode that it is given back in. Encoders may share submodules.
_in_use: dict[int, tuple[nn.Module, int, bool]] = {}
_modes = threading.Lock()


def encode(
    encoder: nn.Module,
    inputs: Tensor | np.ndarray | Items | Sequence[str],
    *,
    batch_size: int | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Float[Tensor, "n d"]:
    """Embeddings (n, d) of n items, float32 on the CPU, as inference sees them.

    Items go to the device and the dtype of the encoder's first parameter, whatever the type of
    their numbers; bytes of images (uint8 of two dimensions or more) are read as 0..1. Only codes,
    int32 or int64 for an encoder with an `nn.Embedding`, stay whole.
    An encoder of texts is called with a list of strings; see `takes_texts`.
    Dropout and batch statistics are off during the call. Every submodule is left in the mode it
    was found in and no random number is drawn, so encoding between two training steps changes
    nothing. Several threads may encode with one encoder, or with encoders that share submodules:
    these stay in eval mode until the last of the calls ends. Do not train or call `train()` in one
    thread while another encodes.

    Args:
        encoder: any module from a batch (n, ...) to embeddings (n, d).
        inputs: items (n, ...) as a tensor, an array, also memory-mapped, or a list; or a map-style
            dataset of items or (items, labels), or torch's IterableDataset of such. For Pillow
            images see `data.as_items`. Texts are a list of strings, or a dataset of such.
        batch_size: items encoded at once; the results agree to rounding whatever it is. By default
            256, and fewer of large items on a CPU, where large batches take memory and time.
        preprocess: applied to each batch on the encoder's device, e.g. `Preprocess.apply`.
        progress: called with (items done, items in all) after each batch.
        workers: processes that fetch items of a dataset; 0 fetches them in this one.

    Raises:
        InputError: if there is no item, or the embeddings are not (n, d) or not finite.
        InputTypeError: if the encoder is no module or returns no tensor, the inputs are neither
            a tensor nor a dataset, or one of encoder and inputs is for texts and the other not.

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
    inputs: Tensor | np.ndarray | Items | Sequence[str],
    choose: Callable[[Any], Any] | None = None,
    *,
    batch_size: int | None = None,
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
    if batch_size is not None:
        check_count("batch_size", batch_size)
    check_count("workers", workers, least=0)
    if isinstance(inputs, (list, tuple)) and not _are_texts(inputs):
        inputs = as_tensor(inputs, "inputs")
    elif hasattr(inputs, "__array__") and not isinstance(inputs, (Tensor, np.ndarray)):
        inputs = np.asarray(inputs)
    total = _length(inputs)
    modules = _modules_of(encoder)
    of_texts = _some_take_texts(modules)
    embeddings: list[Tensor] = []
    waiting: list[Any] = []
    done = 0
    own = (weight for module in modules for weight in module._parameters.values())
    first = next((weight for weight in own if weight is not None), _NO_PARAMETER)
    batch_size = batch_size or fitting_batch(inputs, first.device)
    with _evaluating(modules):
        for batch in _batches(inputs, batch_size, workers):
            check_suits(of_texts, batch)
            done += len(batch)
            chosen, full = batch, len(batch)
            if choose is not None:
                chosen = _joined([*waiting, choose(batch)])
                full = len(chosen) if done == total else len(chosen) // batch_size * batch_size
                waiting = [chosen[full:]]
            for start in range(0, full, batch_size):
                items = chosen[start : min(start + batch_size, full)]
                outputs = encoder(
                    items if of_texts else _prepared(items, first, preprocess, modules)
                )
                _check_outputs(outputs, len(items))
                embeddings.append(outputs.float().cpu())
            if progress is not None:
                progress(done, done if total is None else total)
    if not done:
        raise InputError("inputs must hold at least one item, got an empty stream.")
    result = torch.cat(embeddings) if embeddings else torch.empty(0, 0)
    check_finite(result, "embeddings")
    return result


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [text for part in parts for text in part]


def _prepared(
    items: Tensor,
    like: Tensor,
    preprocess: Callable[[Tensor], Tensor] | None,
    modules: Sequence[nn.Module],
) -> Tensor:
    """A batch on the device and of the dtype of a parameter, preprocessed."""
    items = items.to(like.device)
    if preprocess is not None:
        items = preprocess(items)
    is_code = items.dtype in (torch.int32, torch.int64) and any(
        isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in modules
    )
    if not (is_code or items.is_floating_point() or items.is_complex()):
        items = as_floats(items)
    return items.to(like.dtype) if items.is_floating_point() else items


def takes_texts(encoder: nn.Module) -> bool:
    """Whether an encoder takes texts: it, or a module in it, has a true attribute `takes_texts`.

    It is then called with a list of strings, and does with them what its network needs.

    Example:
        >>> class Lengths(nn.Module):
        ...     takes_texts = True
        ...     def forward(self, texts):
        ...         return torch.tensor([[float(len(text)), 1.0] for text in texts])
        >>> takes_texts(nn.Sequential(Lengths(), nn.Linear(2, 2))), takes_texts(nn.Linear(2, 2))
        (True, False)
        >>> encode(Lengths(), ["a", "four"])
        tensor([[1., 1.],
                [4., 1.]])
    """
    return _some_take_texts(_modules_of(encoder))


def _modules_of(encoder: nn.Module) -> list[nn.Module]:
    """As `encoder.modules()`, which makes names too and takes three times as long."""
    found: dict[nn.Module, None] = {}

    def visit(module: nn.Module) -> None:
        found[module] = None
        for child in module._modules.values():
            if child is not None and child not in found:
                visit(child)

    visit(encoder)
    return list(found)


def _some_take_texts(modules: Sequence[nn.Module]) -> bool:
    # A module takes long to find that it lacks an attribute; its class tells it once for all.
    silent = {
        kind
        for kind in {type(module) for module in modules}
        if kind.__getattr__ is nn.Module.__getattr__ and not hasattr(kind, "takes_texts")
    }
    return any(
        getattr(module, "takes_texts", False) is True
        for module in modules
        if type(module) not in silent or "takes_texts" in vars(module)
    )


def check_suits(of_texts: bool, items: Any, name: str = "items") -> None:
    """Refuse texts for an encoder of numbers, and numbers for one of texts.

    Raises:
        InputTypeError: they do not suit.
    """
    if of_texts == _are_texts(items):
        return
    wanted, got = ("texts", "numbers") if of_texts else ("numbers", "texts")
    raise InputTypeError(
        f"{name} must be {wanted} for this encoder, got {got}. "
        + ("Give a list of strings." if of_texts else "Use an encoder that takes texts.")
    )


def _are_texts(items: Any) -> bool:
    return isinstance(items, (list, tuple)) and bool(items) and isinstance(items[0], str)


def fitting_batch(inputs: Any, device: torch.device) -> int:
    """The default batch size: on a CPU, batches of photographs outgrow caches and the heap."""
    shape: tuple[int, ...] = getattr(inputs, "item_shape", getattr(inputs, "shape", (0,))[1:])
    if device.type != "cpu":
        return LARGEST_BATCH
    return max(1, min(LARGEST_BATCH, _CPU_NUMBERS // max(1, math.prod(shape))))


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """An encoder's modules in eval mode while this lasts, in any thread, and then as they were."""
    with _modes:
        if not _in_use and not any(module.training for module in modules):
            modules = []  # no other call has brought one there, so none has to be brought back
        for module in modules:
            _, users, mode = _in_use.get(id(module), (module, 0, module.training))
            _in_use[id(module)] = (module, users + 1, mode)
    try:
        with _modes:
            if any(module.training for module in modules):  # else others brought it there
                modules[0].eval()
        yield
    finally:
        with _modes:
            for module in modules:
                _, users, mode = _in_use.pop(id(module))
                if users > 1:
                    _in_use[id(module)] = (module, users - 1, mode)
                elif module.training != mode:  # setting an attribute of a module is slow
                    module.training = mode


def _length(inputs: Any) -> int | None:
    if isinstance(inputs, Tensor) and inputs.ndim and len(inputs):
        return len(inputs)
    if isinstance(inputs, IterableDataset):
        return None
    unsuited = isinstance(inputs, (list, tuple, dict, str)) and not _are_texts(inputs)
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


def _batches(inputs: Any, batch_size: int, workers: int) -> Iterator[Any]:
    if isinstance(inputs, Tensor):
        yield from torch.split(inputs, batch_size)
        return
    if _are_texts(inputs):
        for start in range(0, len(inputs), batch_size):
            yield list(inputs[start : start + batch_size])
        return
    if isinstance(inputs, IterableDataset):
        stream = iter(inputs)
        while samples := list(itertools.islice(stream, batch_size)):
            batch = _collate([s[0] if isinstance(s, (tuple, list)) else s for s in samples])
            yield batch
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
        is_items = _are_texts(batch) or not isinstance(batch, (tuple, list))
        items = batch if is_items else batch[0]
        if not (isinstance(items, Tensor) or _are_texts(items)):
            raise InputTypeError(
                "inputs must give tensors or texts, with labels or without, for a batch, "
                f"got {describe(items)}. Wrap the dataset so that it gives the items to encode."
            )
        yield items


def _collate(samples: list[Any]) -> Any:
    sample = samples[0] if samples else None
    item = sample[0] if isinstance(sample, (tuple, list)) and len(sample) else sample
    if _are_texts(item) and len(samples) == 1:  # a whole batch, as `__getitems__` gives it
        return item
    if isinstance(item, str):
        return [each if isinstance(each, str) else each[0] for each in samples]
    if not isinstance(item, (Tensor, np.ndarray, int, float, np.number)):
        raise InputTypeError(
            f"inputs must give tensors, arrays or texts, got {describe(item)}. Wrap the dataset so "
            "that it gives the items to encode; lw.data.as_inputs(dataset) does so for images."
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
