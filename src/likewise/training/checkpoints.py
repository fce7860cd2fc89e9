"""Checkpoints: where a training stands, kept whole as safetensors and JSON."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from likewise._checks import check_folder_target
from likewise._files import write_whole
from likewise.errors import InputError, InputTypeError
from likewise.training.settings import differences

MANIFEST = "checkpoint.json"
LOCK = "checkpoint.lock"
MOST_NAMED = 3  # differences in one sentence
FORMAT = 1  # raised when an older likewise could not read it


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state of numbers, text, lists, dicts and tensors; an older one stays until it is.

    The tensors' file carries the start of its checksum in its name. Putting the manifest in
    place is the single step that makes the new state the one that is there.

    Raises:
        InputTypeError: something in the state is none of these.
        OSError: the folder cannot be written to.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    plain = _pack(state, "", tensors)
    content = save(tensors)
    checksum = hashlib.sha256(content).hexdigest()
    name = f"checkpoint-{checksum[:12]}.safetensors"
    manifest = {"format": FORMAT, "file": name, "sha256": checksum, "state": plain}
    folder.mkdir(parents=True, exist_ok=True)
    older = _named_file(folder)
    write_whole(folder / name, content)
    write_whole(folder / MANIFEST, json.dumps(manifest).encode())
    if older is not None and older != name:
        (folder / older).unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state in the folder, None if there is none yet.

    Raises:
        InputError: a file is missing, truncated or altered, or a newer likewise wrote it.
    """
    from safetensors.torch import load

    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        written = manifest["format"]
        if written != FORMAT:
            raise InputError(f"format {written}")
        # Only the bare name counts: a manifest must not reach outside of its folder.
        content = (folder / Path(manifest["file"]).name).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise InputError("another checksum")
        state: dict[str, Any] = _unpack(manifest["state"], load(content))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"checkpoint must be a whole folder of format {FORMAT}, got {str(folder)!r} with a "
            f"file missing, damaged or of another format ({error}). Remove it to begin anew."
        ) from error
    return state


class Checkpoint:
    """A training's parts with what brings them back, in a folder that is locked until `close`.

    Args:
        folder: made when first saved.
        parts: everything with `state_dict` and `load_state_dict` that training changes.
        settings: what must be the same to go on, as plain values.
        devices: CUDA devices whose random states count, besides the CPU's.
    """

    def __init__(
        self,
        folder: str | Path,
        parts: Mapping[str, Any],
        settings: Mapping[str, Any],
        devices: list[int],
    ) -> None:
        self.folder = Path(folder)
        check_folder_target("checkpoint", self.folder)
        self.parts = parts
        self.settings = dict(settings)
        self.devices = devices
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise InputError(
                    f"{name} must have state_dict and load_state_dict for a checkpoint, got "
                    f"{type(part).__name__} without. Give it both, or leave checkpoint out."
                )
        self._lock = _lock(self.folder)

    def save(self, records: list[dict[str, float]], *, stopped: bool) -> None:
        """Keep where everything stands after an epoch."""
        save_checkpoint(
            self.folder,
            {
                "settings": self.settings,
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "random": torch.get_rng_state(),
                "random_cuda": [torch.cuda.get_rng_state(device) for device in self.devices],
                "records": records,
                "stopped": stopped,
            },
        )

    def resume(self) -> tuple[list[dict[str, float]], bool]:
        """Bring everything back, if there is a state: the records, and whether it had stopped.

        Raises:
            InputError: the state is of another training, or damaged.
        """
        state = load_checkpoint(self.folder)
        if state is None:
            return [], False
        if "loss" not in state["settings"]:
            raise self._other("no word of its loss and data, as an older likewise wrote it")
        different = list(differences(state["settings"], self.settings))
        if different:
            more = f" and {len(different) - MOST_NAMED} more" * (len(different) > MOST_NAMED)
            raise self._other(f"{', '.join(different[:MOST_NAMED])}{more}")
        if state["parts"].keys() != self.parts.keys():
            either = state["parts"].keys() ^ self.parts.keys()
            raise self._other(f"{', '.join(sorted(either))} on one side only")
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state["parts"][name])
            except (RuntimeError, KeyError, ValueError) as error:
                raise self._other(f"another {name} ({str(error).splitlines()[0]})") from error
            if isinstance(part, torch.optim.Optimizer):
                _lay_out(part)
        torch.set_rng_state(state["random"])
        for device, random in zip(self.devices, state["random_cuda"], strict=False):
            torch.cuda.set_rng_state(random, device)
        return state["records"], state["stopped"]

    def state(self) -> dict[str, Any]:
        """What other processes of the training need to go on, besides weights and buffers."""
        names = self.parts.keys() - {"encoder"}
        return {
            "parts": {
                name: self.parts[name].state_dict() for name in names if "callback" not in name
            },
            "random": torch.get_rng_state(),
            "random_cuda": [torch.cuda.get_rng_state(device) for device in self.devices],
        }

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.close()

    def _other(self, difference: str) -> InputError:
        return InputError(
            f"checkpoint must be of this training, got {str(self.folder)!r} with {difference}. "
            "Train as before; or give another folder, and start from these weights with "
            "training.load_weights(checkpoint, encoder)."
        )


def go_on(state: Mapping[str, Any], parts: Mapping[str, Any], devices: list[int]) -> None:
    """Bring parts to where `Checkpoint.state` says that they stand in another process."""
    for name, kept in state["parts"].items():
        parts[name].load_state_dict(kept)
        if isinstance(parts[name], torch.optim.Optimizer):
            _lay_out(parts[name])
    torch.set_rng_state(state["random"])
    for device, random in zip(devices, state["random_cuda"], strict=False):
        torch.cuda.set_rng_state(random, device)


def load_weights(checkpoint: str | Path, encoder: nn.Module, loss: nn.Module | None = None) -> None:
    """Give an encoder, and a loss, the weights that a checkpoint of `fit` holds.

    Use it to begin another training, with another loss, learning rate or data, where the one in
    the folder ended. Nothing else is taken from it: no optimizer state, no random state. The
    folder is only read, and no code in it runs.

    Args:
        checkpoint: Folder that `fit(checkpoint=...)` wrote.
        encoder: Changed in place; it must have the weights' names and shapes.
        loss: Changed in place too, if given.

    Raises:
        InputError: There is no checkpoint, it is damaged, or its weights do not fit. Then
            nothing was changed.

    Example:
        >>> import tempfile
        >>> import likewise as lw
        >>> points = lw.data.load((torch.randn(40, 5), torch.arange(40) % 4))
        >>> first, second = nn.Linear(5, 2), nn.Linear(5, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = lw.fit(first, lw.losses.TripletLoss(), points, epochs=1, checkpoint=folder)
        ...     lw.training.load_weights(folder, second)
        >>> torch.equal(first.weight, second.weight)
        True
    """
    state = load_checkpoint(Path(checkpoint))
    if state is None or "parts" not in state:
        raise InputError(
            f"checkpoint must be a folder that fit(checkpoint=...) wrote, got {str(checkpoint)!r}. "
            "Weights that KeepBest wrote are read by its restore."
        )
    given = {"encoder": encoder} if loss is None else {"encoder": encoder, "loss": loss}
    for name, module in given.items():
        kept, wanted = state["parts"][name], module.state_dict()
        different = [
            key
            for key in dict.fromkeys([*wanted, *kept])
            if getattr(kept.get(key), "shape", None) != getattr(wanted.get(key), "shape", None)
        ]
        if different:
            raise InputError(
                f"{name} must have the weights of the checkpoint, got a {type(module).__name__} "
                f"with {different[0]!r} of another shape or on one side only. "
                "Build it as for that training."
            )
    for name, module in given.items():
        module.load_state_dict(state["parts"][name])


def _lock(folder: Path) -> sqlite3.Connection | None:
    """What no other process holds until this one closes it or ends; None where nothing locks.

    SQLite's own lock of an empty database, which is the same on every system.
    """
    held: sqlite3.Connection | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sqlite3.connect(
            folder / LOCK, timeout=0, isolation_level=None, check_same_thread=False
        )
        held.execute("PRAGMA journal_mode = MEMORY")  # no file that a kill would leave behind
        held.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.OperationalError) as error:
        if held is not None:
            held.close()
        # A finished training may lie in a folder that is read-only, or on a disk without locks.
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
            return None
        raise InputError(
            f"checkpoint must be of one training at a time, got {str(folder)!r}, which another "
            "process writes to. Wait for it, or give another folder."
        ) from error
    return held


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    # Fused optimizers pair the numbers of a weight with those of its state as they lie in memory,
    # and a file has them row by row, whatever the weight has.
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _named_file(folder: Path) -> str | None:
    try:
        return Path(json.loads((folder / MANIFEST).read_bytes())["file"]).name
    except (OSError, ValueError, TypeError, KeyError):
        return None


# JSON has no tensors and no keys but text, so these are put into dicts of one key each.
def _pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        # A copy, since safetensors refuses tensors that share memory, as tied weights do.
        tensors[path] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {
            "items": [[key, _pack(value, f"{path}/{key}", tensors)] for key, value in tree.items()]
        }
    if isinstance(tree, (list, tuple)):
        return [_pack(value, f"{path}/{i}", tensors) for i, value in enumerate(tree)]
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise InputTypeError(
        f"{path} must be numbers, text, lists, dicts or tensors for a checkpoint, "
        f"got {type(tree).__name__}. Keep it out of the state_dict."
    )


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(value, tensors) for value in tree]
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        return {key: _unpack(value, tensors) for key, value in tree["items"]}
    return tree
