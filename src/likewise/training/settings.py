"""What a training consists of, as plain values by which another one is told from it."""

import contextlib
import dis
import functools
import hashlib
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from likewise.data import CrossPairs, Dataset, GivenPairs, GivenTriplets, ViewDataset

MOST_VALUES = 2**22  # of items, and of any one tensor, that are looked at
FEWEST_ITEMS, MOST_ITEMS = 16, 4096
POINTS = 8  # at which a schedule is looked at
DEEPEST = 12  # levels of settings within settings
# Attributes that a training changes: of losses, those that Accelerate leaves on an encoder, and the
# tokenizer that a sentence encoder has made.
STATE = {
    *("facts", "draws", "_made"),
    *("forward", "_original_forward", "_is_accelerate_prepared"),
}
FOREIGN = (sys.stdlib_module_names | {"torch"}) - {"argparse", "types"}  # no settings in these
TORCH = set(vars(nn.Module()))
_DIGEST = "digest "


def described(value: Any, *, contents: bool = True) -> Any:
    """A value as JSON-able lists, dicts, numbers and text; equal for equal settings.

    An object is described by its type and attributes, a function by its code, defaults, and
    what it closes over. Tensors and long data appear as digests.

    Args:
        value: anything.
        contents: whether the values of tensors count; otherwise only their kind.

    Example:
        >>> described(functools.partial(round, ndigits=2))["ndigits"]
        2
    """
    return _described(value, contents, ())


def module(part: nn.Module) -> Any:
    """Layers, their settings, and names and shapes of weights, whose values do not count."""
    return _module(part, False, ())


def optimizer(given: torch.optim.Optimizer) -> dict[str, Any]:
    """Class and settings of every group; how the same numbers are computed does not count."""
    tree: dict[str, Any] = {"kind": type(given).__name__}
    how = {"params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable"}
    for number, group in enumerate(given.param_groups, start=1):
        tree[f"group {number}"] = {
            "weights": len(group["params"]),
            "lr": float(group.get("initial_lr", group["lr"])),  # a schedule changes the other
            **{name: described(value) for name, value in group.items() if name not in how},
        }
    return tree


def schedule(factor: Callable[[float], float]) -> list[float]:
    """Its factor at a few shares of the training."""
    return [float(factor(point / POINTS)) for point in range(POINTS + 1)]


def sampler(given: Sampler[list[int]]) -> dict[str, Any]:
    """Class of the sampler, and the settings that its state names."""
    state = given.state_dict() if hasattr(given, "state_dict") else {}
    settings = state.get("settings") if isinstance(state, Mapping) else None
    return {"kind": type(given).__name__, **(described(settings) if settings else {})}


def dataset(data: Any, workers: int = 0) -> dict[str, Any]:
    """How many items there are, and digests of their labels, names and values.

    All values of a small dataset count, those of evenly spaced items of a large one, and none
    where items are random. What `set_epoch` draws is left to its seed.
    """
    if isinstance(data, CrossPairs):
        return {
            "kind": "CrossPairs",
            "a": dataset(data.a, workers),
            "b": dataset(data.b, workers),
            "pairs": described(data.pairs),
            "same": described(data.same),
        }
    sides: Any = None
    base = data
    if isinstance(data, (GivenPairs, GivenTriplets, ViewDataset)):
        base = data.data
        drawn = ("pairs", "same", "triplets", "labels") if hasattr(data, "set_epoch") else ()
        left_out = {"data", "_epoch", *drawn}
        named = {name: value for name, value in vars(data).items() if name not in left_out}
        sides = {"kind": type(data).__name__, **described(named)}
    labels, names = getattr(base, "labels", None), getattr(base, "class_names", None)
    return {
        "items": len(base),
        "sides": sides,
        "labels": described(labels)
        if labels is None or isinstance(labels, (Tensor, np.ndarray))
        else _digest(*map(str, labels)),
        "class_names": None if names is None else _digest(*map(str, names)),
        "values": _values(base, workers),
    }


def differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two descriptions, as "loss margin 0.2 instead of 5.0"."""
    if isinstance(then, Mapping) and isinstance(now, Mapping) and _kind(then) == _kind(now):
        for key in dict.fromkeys([*then, *now]):
            yield from differences(then.get(key), now.get(key), f"{name} {key}".strip())
    elif then != now:
        shown = _shown(then), _shown(now)
        yield f"other {name}" if None in shown else f"{name} {shown[0]} instead of {shown[1]}"


def _described(value: Any, contents: bool, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating, np.integer, np.bool_)):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, (Tensor, np.ndarray)):
        return _tensor(torch.as_tensor(value)) if contents else type(value).__name__
    if isinstance(value, (torch.dtype, Path)):
        return str(value)
    if id(value) in above or len(above) > DEEPEST:
        return type(value).__name__
    inner = functools.partial(_described, contents=contents, above=(*above, id(value)))
    if isinstance(value, (list, tuple)):
        return [inner(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(inner(each)) for each in value)
    if isinstance(value, Mapping):
        return {str(key): inner(each) for key, each in value.items()}
    if isinstance(value, nn.Module):
        return _module(value, contents, (*above, id(value)))
    if isinstance(value, functools.partial):
        given = {str(number): each for number, each in enumerate(value.args)} | value.keywords
        return {"kind": "partial", "of": inner(value.func), **inner(given)}
    if isinstance(value, types.MethodType):
        return {"kind": value.__func__.__qualname__, "of": inner(value.__self__)}
    if isinstance(value, types.FunctionType):
        return {"kind": value.__qualname__, **inner(_of_function(value))}
    if isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
        return value.__name__
    own = {} if _origin(type(value)) in FOREIGN else getattr(value, "__dict__", {})
    return {"kind": type(value).__qualname__, **inner(own)}


def _module(part: nn.Module, contents: bool, above: tuple[int, ...]) -> Any:
    own = {
        name: value for name, value in vars(part).items() if name not in TORCH and name not in STATE
    }
    tree = {
        "kind": type(part).__qualname__,
        **_described(own, contents, above),
    }
    for name, weight in (*part._parameters.items(), *part._buffers.items()):
        if weight is None:
            tree[name] = None
        elif contents:
            tree[name] = _tensor(weight)
        else:
            frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
            tree[name] = f"{tuple(weight.shape)} {weight.dtype}{' frozen' if frozen else ''}"
    for name, child in part._modules.items():
        if child is not None and id(child) not in above:
            tree[name] = _module(child, contents, (*above, id(child)))
    return tree


def _of_function(function: types.FunctionType) -> dict[str, Any]:
    code = function.__code__
    if _origin(function) in FOREIGN:
        return {}
    found: dict[str, Any] = {
        "defaults": function.__defaults__,
        "keyword defaults": function.__kwdefaults__,
    }
    # What a function sets itself, such as a count of its calls, is no setting of it.
    set_here = {
        each.argval for each in dis.get_instructions(code) if each.opname.startswith("STORE_")
    }
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that holds nothing yet
            found[name] = cell.cell_contents
    for name in code.co_names:
        outside = function.__globals__.get(name)
        if isinstance(outside, (bool, int, float, str)):
            found[name] = outside
    found = {name: each for name, each in found.items() if name not in set_here}
    if _origin(function) != "likewise" and "site-packages" not in code.co_filename:
        found["code"] = _code(code)  # a library's function is known by name, in any release
    return found


def _origin(value: Any) -> str:
    return str(getattr(value, "__module__", "")).partition(".")[0]


def _code(code: types.CodeType) -> str:
    constants = [
        _code(each)
        if isinstance(each, types.CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    return _digest(code.co_code.hex(), *constants, *code.co_names)


def _tensor(values: Tensor) -> str:
    flat = values.detach().flatten()
    flat = flat[:: max(1, -(-flat.numel() // MOST_VALUES))].cpu().contiguous()
    return _digest(str(tuple(values.shape)), str(values.dtype), flat.view(torch.uint8).numpy())


def _digest(*parts: str | np.ndarray) -> str:
    summed = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part.tobytes()
        summed.update(len(content).to_bytes(8, "little"))
        summed.update(content)
    return f"{_DIGEST}{summed.hexdigest()[:32]}"


def _values(base: Dataset, workers: int) -> Any:
    """A digest of items and labels as a batch has them; None where they are random."""
    if not len(base):
        return None
    shape = getattr(base, "item_shape", None)
    most = MOST_ITEMS if shape is None else MOST_VALUES // max(1, math.prod(shape))
    count = min(len(base), max(FEWEST_ITEMS, min(most, MOST_ITEMS)))
    rows = torch.linspace(0, len(base) - 1, count, dtype=torch.float64).long().tolist()
    read = []
    for seed in (0, 1):
        # In a worker where there are some: a file that is open here must not be open there too.
        loader: DataLoader[Any] = DataLoader(
            base,  # type: ignore[arg-type]
            batch_sampler=[rows],
            num_workers=min(workers, 1),
            generator=torch.Generator().manual_seed(seed),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            read.append(described(next(iter(loader))))
    return read[0] if read[0] == read[1] else None


def _kind(tree: Mapping[str, Any]) -> Any:
    return tree.get("kind")


def _shown(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return None if _kind(value) is None else str(_kind(value))
    text = str(value)
    return None if text.startswith(_DIGEST) or len(text) > 60 else text
