"""Training: `fit` runs the loop, callbacks look on after each epoch."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from likewise._checks import check_choice, check_count, check_positive, check_rate
from likewise.data import Dataset, check_trainable
from likewise.samplers import BalancedBatchSampler

Schedule = Callable[[float], float]
Callback = Callable[[dict[str, float], nn.Module], bool | None]
COLLAPSED = 0.01  # spread below which embeddings have become one point for all purposes


@dataclass(frozen=True)
class History:
    """One record per epoch, in order: epoch, loss, seconds, learning_rate and the loss's facts."""

    records: list[dict[str, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, float]:
        return self.records[index]


def constant(progress: float) -> float:
    """A schedule that leaves the learning rate alone."""
    return 1.0


def cosine(warm_up: float = 0.05) -> Schedule:
    """A schedule: up in a straight line for a share of the training, then a half cosine to zero.

    Source:
        Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
        equation 5, one cycle. Warm-up: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """

    check_rate("warm_up", warm_up)

    def factor(progress: float) -> float:
        if progress < warm_up:
            return progress / warm_up
        left = max(1 - warm_up, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / left))

    return factor


def fit(
    encoder: nn.Module,
    loss: nn.Module,
    data: Dataset,
    *,
    epochs: int,
    classes_per_batch: int | None = None,
    items_per_class: int | None = None,
    batches: int | None = None,
    batch_sampler: Sampler[list[int]] | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    augment_after: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: Callable[[int, int, int], None] | None = None,
    workers: int = 0,
    device: str | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> History:
    """Train the encoder, in place, and tell how each epoch went.

    Each epoch is a number of balanced batches. On every batch: items are augmented and
    preprocessed on the training device, encoded, and compared by the loss. The global random
    state is left as it was found, and the same seed on the same machine gives the same encoder.
    Afterwards encoder and loss are back on the devices they came from, in evaluation mode.

    Args:
        encoder: any module from a batch of items to embeddings (n, d).
        loss: called as loss(embeddings, labels). Weights of its own are trained as well.
        data: a dataset with labels, such as `likewise.data.load` gives.
        epochs: how many.
        classes_per_batch: P. All classes, but at most 16, if None.
        items_per_class: K. As many as make a batch of about 128 items, at least 4, if None.
        batches: per epoch; about one pass over the data if None.
        batch_sampler: draws the batches instead of BalancedBatchSampler.
        learning_rate: the highest, reached when the schedule is 1. Adam, or AdamW with
            weight_decay.
        schedule: the learning rate's factor at a share of the training in [0, 1]; `cosine()`
            if None.
        optimizer: used as it is instead of our own; it must hold the loss's weights too.
        preprocess: applied to every batch, as the encoder's input needs it.
        augment: applied to every batch of items before preprocess.
        augment_after: how many epochs go without augmentation first.
        callbacks: called as callback(record, encoder) after each epoch, the encoder in
            evaluation mode; may add numbers to the record, and returns True to stop.
        progress: called as progress(epoch, batch, batches) after each batch.
        workers: processes that load data; 0 loads in this one.
        device: "cpu" or "cuda"; the best there is if None.
        precision: "float32", or "bfloat16" or "float16" for mixed precision.
        seed: of the batches, the augmentation, dropout.

    Returns:
        One record per epoch.

    Raises:
        ValueError: an argument is out of range, the data cannot train, an optimizer leaves out
            weights of the loss, or the loss stops being finite.

    Example:
        >>> import torch
        >>> from likewise import data, losses
        >>> points = data.load((torch.randn(40, 5), torch.arange(40) % 4))
        >>> history = fit(torch.nn.Linear(5, 2), losses.TripletLoss(), points, epochs=2)
        >>> [record["epoch"] for record in history.records]
        [1, 2]
    """
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)
    accelerator = _accelerator(device, precision)
    if optimizer is None:
        weights = [*encoder.parameters(), *loss.parameters()]
        optimizer = torch.optim.AdamW(
            weights, lr=learning_rate, weight_decay=weight_decay, fused=True
        )
    _check_optimizer_holds(loss, optimizer)
    if batch_sampler is None:
        check_trainable(data)
        batch_sampler = _balanced(data, classes_per_batch, items_per_class, batches, seed)
    loader: DataLoader[Any] = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=batch_sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    steps = epochs * len(loader)
    factor = cosine() if schedule is None else schedule
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(min(1.0, (step + 1) / steps))
    )
    homes = _device_of(encoder), _device_of(loss)
    loss.to(accelerator.device)
    encoder_there, optimizer_there, loader_there = accelerator.prepare(encoder, optimizer, loader)
    run = _Run(encoder_there, optimizer_there, loader_there, loss, scheduler, accelerator)
    records: list[dict[str, float]] = []
    cuda = [torch.cuda.current_device()] if accelerator.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            for epoch in range(1, epochs + 1):
                views = augment if epoch > augment_after else None
                record: dict[str, float] = {
                    "epoch": epoch,
                    **_epoch(run, views, preprocess, epoch, progress),
                }
                _check_healthy(record, already=any(map(_collapsed, records)))
                records.append(record)
                encoder.eval()
                answers = [callback(record, encoder) for callback in callbacks]
                if any(answers):
                    break
    finally:
        # Mixed precision wraps the encoder's forward; what comes back is the encoder as it was.
        accelerator.unwrap_model(run.encoder, keep_fp32_wrapper=False)
        encoder.to(homes[0]).eval()
        loss.to(homes[1]).eval()
    return History(records)


PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # ours and Accelerate's


class _Run(NamedTuple):
    encoder: nn.Module
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]
    loss: nn.Module
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Any


def _epoch(
    run: _Run,
    augment: Callable[[Tensor], Tensor] | None,
    preprocess: Callable[[Tensor], Tensor] | None,
    epoch: int,
    progress: Callable[[int, int, int], None] | None,
) -> dict[str, float]:
    started = time.perf_counter()
    run.encoder.train()
    run.loss.train()
    batches = len(run.loader)
    learning_rate = float(run.scheduler.get_last_lr()[0])
    told: list[dict[str, Tensor]] = []
    for number, (items, labels) in enumerate(run.loader, start=1):
        if augment is not None:
            items = augment(items)
        if preprocess is not None:
            items = preprocess(items)
        value = run.loss(run.encoder(items), labels)
        run.optimizer.zero_grad()
        run.accelerator.backward(value)
        run.optimizer.step()
        run.scheduler.step()
        # Numbers stay on the device until the epoch is over, so that no step waits for it.
        told.append({"loss": value.detach(), **getattr(run.loss, "facts", {})})
        if progress is not None:
            progress(epoch, number, batches)
    means = {name: torch.stack([facts[name].float() for facts in told]).mean() for name in told[0]}
    return {
        **{name: float(mean) for name, mean in means.items()},
        "learning_rate": learning_rate,
        "seconds": time.perf_counter() - started,
    }


def _accelerator(device: str | None, precision: str) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check_choice("precision", precision, PRECISIONS)
    cuda = torch.cuda.is_available()
    if device not in (None, "cpu", "cuda"):
        raise ValueError(
            f"device must be cpu or cuda, got {device!r}. "
            "Choose one of several GPUs with CUDA_VISIBLE_DEVICES."
        )
    if device == "cuda" and not cuda:
        raise ValueError("device must be one this machine has, got 'cuda'. Use device='cpu'.")
    if precision == "float16" and (device == "cpu" or not cuda):
        raise ValueError("precision must not be float16 on a CPU, got float16. Use bfloat16.")
    # Accelerate keeps device and precision of a process's first run for all later ones.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=PRECISIONS[precision])


def _balanced(
    data: Dataset,
    classes_per_batch: int | None,
    items_per_class: int | None,
    batches: int | None,
    seed: int,
) -> BalancedBatchSampler:
    classes = len(torch.unique(data.labels))
    if classes_per_batch is None:
        classes_per_batch = min(classes, 16)
    if items_per_class is None:
        items_per_class = max(4, 128 // classes_per_batch)
    return BalancedBatchSampler(
        data.labels,
        classes_per_batch=classes_per_batch,
        items_per_class=items_per_class,
        batches=batches,
        seed=seed,
    )


def _check_optimizer_holds(loss: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    # A proxy loss owns weights. Left out of the optimizer they silently never learn.
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    forgotten = sum(weight.numel() for weight in loss.parameters() if id(weight) not in held)
    if forgotten:
        raise ValueError(
            f"optimizer must hold the weights of {type(loss).__name__}, got one without "
            f"{forgotten} of them, which would never learn. "
            "Build it with [*encoder.parameters(), *loss.parameters()]."
        )


def _check_healthy(record: dict[str, float], *, already: bool) -> None:
    if not math.isfinite(record["loss"]):
        raise ValueError(
            f"loss must stay finite, got {record['loss']} in epoch {record['epoch']}. "
            "Lower learning_rate, or look for extreme values in the data."
        )
    if _collapsed(record) and not already:
        warnings.warn(
            f"All embeddings have become nearly one point (spread {record['spread']:.2g} in epoch "
            f"{record['epoch']}): the encoder tells nothing apart any more. Lower learning_rate, "
            "or choose an easier miner.",
            stacklevel=3,
        )


def _collapsed(record: dict[str, float]) -> bool:
    return record.get("spread", 1.0) < COLLAPSED


def _device_of(module: nn.Module) -> torch.device:
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))
