"""The training loop: `fit`."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Sampler

from likewise import _workers
from likewise._checks import check_at_least, check_choice, check_count, check_positive
from likewise._devices import chosen_device, need_not_wait
from likewise._shares import everything, sharing
from likewise.augment.presets import draws_by_item
from likewise.data import (
    BalancedStream,
    Stream,
    ViewDataset,
    WithIds,
    is_stream,
)
from likewise.encoders import takes_texts
from likewise.encoders.encoding import check_suits
from likewise.errors import InputError
from likewise.training import settings
from likewise.training.batch_norm import averaged, synchronized
from likewise.training.batches import (
    DividedStream,
    StreamLoader,
    batch_loss,
    default_batches,
    label_facts,
    whole,
)
from likewise.training.checkpoints import Checkpoint, go_on
from likewise.training.chunks import Chunks
from likewise.training.divergence import Guard
from likewise.training.gathering import Parted, facts_of_all, share
from likewise.training.history import History, check_healthy
from likewise.training.processes import (
    Divided,
    Processes,
    is_known_to_all,
    known_to_all,
    placed,
    told_count,
)
from likewise.training.schedules import Schedule, cosine
from likewise.training.suiting import PerSide, as_changes, of_side, per_side, suited
from likewise.training.telling import AfterBatch, telling
from likewise.training.validation import Validation

Callback = Callable[[dict[str, float], nn.Module], bool | None]
ACCELERATES_DEVICE = "ACCELERATE_TORCH_DEVICE"
STREAMED = 100  # batches per epoch of a stream
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # ours and Accelerate's


def fit(
    encoder: nn.Module,
    loss: nn.Module,
    data: Any,
    *,
    epochs: int,
    classes_per_batch: int | None = None,
    items_per_class: int | None = None,
    batches: int | None = None,
    batch_sampler: Sampler[list[int]] | None = None,
    learning_rate: float = 1e-3,
    loss_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    schedule: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    preprocess: PerSide = None,
    augment: Any = None,
    augment_after: int = 0,
    clip_gradients: float | None = None,
    chunk: int | None = None,
    validation: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: AfterBatch | bool = True,
    workers: int = 0,
    device: str | None = None,
    precision: str = "float32",
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> History:
    """Train the encoder, in place, and tell how each epoch went.

    Each epoch is a number of balanced batches. On every batch: items are augmented and
    preprocessed on the training device, encoded, and compared by the loss. The global random
    state is left as it was found, and the same seed on the same machine gives the same encoder.
    Afterwards encoder and loss are back on the devices they came from, in evaluation mode.

    A loss with `takes_ids`, such as a memory, is also given the positions of the items in `data`
    as ids. On a `ViewDataset` all views of a batch are encoded at once and stacked, and labels
    and ids repeated. On pairs (`PairDataset`, `GivenPairs`) the loss is called as
    loss(a, b, same), as `losses.GivenPairsLoss` is, and on triplets (`TripletDataset`,
    `GivenTriplets`) as loss(anchor, positive, negative).
    A `SiameseNet` or `TripletNet` gets the sides; any other encoder gets them stacked.

    Under torchrun or `accelerate launch` the processes train together what one would train: they
    share each batch, which is drawn as by one, gather embeddings and labels with gradient, and add
    up gradients. Each ends with the same encoder. Callbacks, progress and checkpoints are left to
    the first one; see `training.is_first_process`.

    On `CrossPairs`, whose sides may be of different kinds, an `encoders.TwoTowers` trains both of
    its encoders. A loss of given pairs is called as above, any other as
    loss(a, labels of a, b, labels of b), as `losses.MultipleNegativesLoss` takes queries and keys.

    Args:
        encoder: any module from a batch of items to embeddings (n, d).
        loss: called as loss(embeddings, labels). Weights of its own are trained as well.
        data: a dataset with labels, such as `likewise.data.load` gives, any that
            `likewise.data.as_dataset` takes, or one of pairs, triplets or views over it. Its
            `set_epoch`, if it has one, is called with 0, 1, ... A stream, which only can be gone
            through, is trained on in balanced batches through a buffer of 10,000 items, and may be
            larger than memory; for another buffer give a `likewise.data.BalancedStream`. Records
            then tell how many classes were seen.
        epochs: how many.
        classes_per_batch: P. All classes, but at most 16, if None.
        items_per_class: K. As many as make a batch of about 128 items, at least 4, if None.
        batches: per epoch; about one pass over the data if None, 100 of a stream.
        batch_sampler: draws the batches instead of BalancedBatchSampler (of
            ShuffledBatchSampler, 64 at a time, where there are no classes to balance).
        learning_rate: the highest, reached when the schedule is 1. Adam, or AdamW with
            weight_decay.
        loss_learning_rate: Rate of the loss's own weights; `learning_rate` if None.
        schedule: the learning rate's factor at a share of the training in [0, 1]; `cosine()`
            if None.
        optimizer: used as it is instead of our own; it must hold the loss's weights too.
        preprocess: applied to every batch, as the encoder's input needs it. For pairs it may be
            a tuple of two functions, one for each side; None leaves a side as it is.
        augment: applied to every batch of items before preprocess. A transform of torchvision or
            albumentations is applied to each image alone; see `augment.as_batch_change`. A tuple
            is taken as for preprocess.
        augment_after: how many epochs go without augmentation first.
        clip_gradients: Largest norm of all gradients together; larger ones are scaled down to it.
            The record then holds `gradient_norm`, the mean norm before. None clips nothing.
        chunk: Items that are encoded at once, so that a large batch needs the memory of a small
            one: each chunk is encoded, the loss sees the whole batch, and each is encoded again
            with the same random numbers for its gradient. Takes up to half as long again. The
            gradient is that of the whole batch, but dropout draws other numbers than without
            chunks, and a batch norm normalizes each chunk by itself; see `training.Chunks`. Items
            are augmented and preprocessed before, all together. None encodes batches whole.
        validation: Data as `data` takes it that is not trained on. After each epoch the record
            gets `validation_loss`: the mean loss in evaluation mode over about one pass, in the
            same batches each time, without augmentation. It also gets what the loss tells of
            them, such as `validation_accuracy` of a softmax. A loss with weights for each class
            needs classes that it has weights for.
        callbacks: called as callback(record, encoder) after each epoch, the encoder in
            evaluation mode; may add numbers to the record, and returns True to stop. One with
            `state_dict` and `load_state_dict` is kept in the checkpoint, one with `finish` has
            it called when the training ends, however it ends.
        progress: True shows a bar with the time that is left, and a line for each epoch, where
            standard error is a terminal, and in a notebook. False shows nothing. A function is
            called as progress(epoch, batch, batches) after each batch.
        workers: processes that load data; 0 loads in this one.
        device: "cpu", "cuda", "cuda:1" or "mps"; the GPU, else the CPU, if None.
        precision: "float32", or "bfloat16" or "float16" for mixed precision.
        seed: Seed of the batches, the augmentation, dropout.
        checkpoint: folder that is written after every epoch, and from which a training that was
            interrupted goes on, to the same encoder as without the interruption. Needs the same
            arguments and data, which are compared; only `workers`, `device`, `progress` and
            callbacks without a state may differ. Callbacks are called for the epochs to come
            only, but those with a state get it back. A finished training is read from it and not
            repeated. Random numbers must come from torch. To start another training from these
            weights, use `load_weights`.

    Returns:
        One record per epoch.

    Raises:
        ConnectionError: another process of the training failed.
        InputError: an argument is out of range, the data cannot train, an optimizer leaves out
            weights of the loss, processes differ in arguments or batches, or the checkpoint is
            damaged, in use, or of another training. Also if embeddings, loss, gradients or weights
            stop being finite; encoder and loss then have the weights from before that epoch.

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
    check_count("workers", workers, 0)
    if clip_gradients is not None:
        check_positive("clip_gradients", clip_gradients)
    _check_something_learns(encoder, loss)
    encoded = whole if chunk is None else Chunks(chunk, encoder)
    streamed: BalancedStream | None = None
    if isinstance(data, BalancedStream) or is_stream(data):
        _check_streamable(loss, batch_sampler, workers, checkpoint)
        streamed = _as_streamed(data, classes_per_batch, items_per_class, batches, seed)
        first = streamed.first(1)[0]
        check_suits(takes_texts(encoder), [first] if isinstance(first, str) else None)
    else:
        data = suited(data, encoder, loss)
    if validation is not None:
        with _said_of_validation():
            validation = suited(validation, encoder, loss)
    preprocess = per_side("preprocess", preprocess, data)
    change = as_changes(per_side("augment", augment, data))
    accelerator = _accelerator(device, precision)
    ours = optimizer is None
    if optimizer is None:
        optimizer = _optimizer(encoder, loss, learning_rate, loss_learning_rate, weight_decay)
    elif loss_learning_rate is not None:
        raise InputError(
            f"loss_learning_rate must be left out with an optimizer, got {loss_learning_rate}. "
            "Give the optimizer a group of its own for the loss's weights."
        )
    _check_optimizer_holds(loss, optimizer)
    if batch_sampler is None and streamed is None:
        batch_sampler = default_batches(
            data,
            classes_per_batch=classes_per_batch,
            items_per_class=items_per_class,
            batches=batches,
            seed=seed,
        )
    # Workers copy the data when they start, so they start anew where each epoch changes it. With
    # a checkpoint too, as random numbers of a worker could not be brought back.
    lasting = workers > 0 and checkpoint is None and not hasattr(data, "set_epoch")
    generator = torch.Generator()
    processes = Processes()
    loader: Any
    divided: Divided | DividedStream | None = None
    if streamed is not None and processes.count > 1:
        loader = divided = DividedStream(streamed, accelerator.device, processes)
    elif streamed is not None:
        loader = StreamLoader(streamed, accelerator.device)
    else:
        divided = Divided(batch_sampler, processes) if processes.count > 1 else None
        loader = _workers.loader(
            WithIds(data) if getattr(loss, "takes_ids", False) else data,
            workers=workers,
            batch_sampler=batch_sampler if divided is None else divided,
            persistent_workers=lasting,
            generator=generator,
        )
    steps = max(1, epochs * len(loader))
    factor = cosine() if schedule is None else schedule
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(min(1.0, (step + 1) / steps))
    )
    training: dict[str, Any] = {}
    if checkpoint is not None:
        training = {
            "epochs": epochs,
            "batches": len(loader),
            "seed": seed,
            "precision": precision,
            "loss": settings.module(loss),
            "encoder": settings.module(encoder),
            "learning_rate": float(learning_rate) if ours else None,
            "loss_learning_rate": settings.described(loss_learning_rate),
            "weight_decay": float(weight_decay) if ours else None,
            "optimizer": None if ours else settings.optimizer(optimizer),
            "schedule": settings.schedule(factor),
            "batch_sampler": None if batch_sampler is None else settings.sampler(batch_sampler),
            "data": settings.dataset(data, workers),
            "preprocess": settings.described(preprocess),
            "augment": settings.described(augment),
            "augment_after": augment_after,
            "clip_gradients": None if clip_gradients is None else float(clip_gradients),
            "chunk": chunk,
            "validation": None if validation is None else settings.dataset(validation, workers),
        }
    homes = _device_of(encoder), _device_of(loss)
    loss.to(accelerator.device)
    ready = accelerator.prepare
    if processes.count > 1:  # Accelerate would divide batches and average gradients its own way
        ready = partial(placed, device=accelerator.device)
        encoder_there = accelerator.prepare_model(encoder, evaluation_mode=True)
        optimizer_there = accelerator.prepare_optimizer(optimizer)
    else:
        encoder_there, optimizer_there = accelerator.prepare(encoder, optimizer)
    loader_there = loader if streamed is not None else ready(loader)
    run = _Run(
        encoder_there,
        optimizer_there,
        loader_there,
        loss,
        scheduler,
        accelerator,
        clip_gradients,
        encoded,
        processes,
        divided,
        data.views if isinstance(data, ViewDataset) else 1,
    )
    own_chance = processes.with_own_chance(encoder_there)
    records: list[dict[str, float]] = []
    cuda = [_index(accelerator.device)] if accelerator.device.type == "cuda" else []
    kept: Checkpoint | None = None
    stopped = begun = False
    try:
        validated = None
        if validation is not None:
            with _said_of_validation():
                validated = Validation(
                    validation,
                    preprocess=preprocess,
                    first_id=len(data) if getattr(loss, "takes_ids", False) else None,
                    classes_per_batch=classes_per_batch,
                    items_per_class=items_per_class,
                    seed=seed,
                    workers=workers,
                    prepare=ready,
                    devices=cuda,
                    encoded=encoded,
                )
        with (
            torch.random.fork_rng(devices=cuda),
            telling(progress if processes.leads else _quiet(progress), epochs) as told,
            synchronized(nn.Identity() if chunk is not None else encoder_there, loss, processes),
        ):
            torch.manual_seed(seed)
            processes.agree(
                epochs=epochs,
                batches=len(loader),
                seed=seed,
                items=None if streamed is not None else len(data),
                weights=sum(each.numel() for each in (*encoder.parameters(), *loss.parameters())),
            )
            if checkpoint is not None:
                parts = {
                    "encoder": encoder,
                    "loss": loss,
                    "optimizer": optimizer,
                    "scheduler": scheduler,
                    "batch_sampler": batch_sampler,
                }
                if accelerator.scaler is not None:
                    parts["scaler"] = accelerator.scaler
                parts |= _with_state(callbacks)
                where = checkpoint

                def resumed() -> tuple[list[dict[str, float]], bool, Any]:
                    nonlocal kept
                    kept = Checkpoint(where, parts, training, cuda)
                    found, was_stopped = kept.resume()
                    return found, was_stopped, kept.state() if processes.count > 1 else None

                records, stopped, state = processes.lead(resumed)
                if not processes.leads:
                    go_on(state, parts, cuda)
            processes.alike(encoder, loss)
            begun = True
            for epoch in range(len(records) + 1, epochs + 1):
                if stopped:
                    break
                key = seed * 1_000_003 + epoch + processes.rank * 2**40
                generator.manual_seed(key % 2**63)
                loader_there.set_epoch(epoch - 1)
                views = change if epoch > augment_after else None
                record: dict[str, float] = {
                    "epoch": epoch,
                    **_epoch(run, views, preprocess, epoch, told.batch),
                }
                encoder.eval()
                if chunk is not None:
                    averaged(encoder, processes)

                def judged(record: dict[str, float] = record) -> tuple[dict[str, float], bool]:
                    if validated is not None:
                        record |= validated(run.encoder, loss)
                    if streamed is not None:
                        record["classes_seen"] = len(streamed.class_names)
                    check_healthy(record, records)
                    encoder.eval()
                    answers = [callback(record, encoder) for callback in callbacks]
                    told.epoch(record)
                    if kept is not None:
                        kept.save([*records, record], stopped=any(answers))
                    return record, any(answers)

                record, stopped = processes.lead(judged)
                records.append(record)
            if processes.count > 1:
                followed = list(_with_state(callbacks).values())
                states = processes.lead(lambda: [each.state_dict() for each in followed])
                for each, state in zip(followed, states, strict=True):
                    if not processes.leads:
                        each.load_state_dict(state)
    except BaseException as error:
        # What is refused before the first epoch is refused by all.
        if not (is_known_to_all(error) or (isinstance(error, InputError) and not begun)):
            processes.leave()
        raise
    finally:
        processes.close()
        for hook in own_chance:
            hook.remove()
        # Mixed precision wraps the encoder's forward; what comes back is the encoder as it was.
        accelerator.unwrap_model(run.encoder, keep_fp32_wrapper=False)
        encoder.to(homes[0]).eval()
        loss.to(homes[1]).eval()
        if kept is not None:
            kept.close()
        for callback in callbacks if processes.leads else ():
            if hasattr(callback, "finish"):
                callback.finish()
    return History(records)


def _as_streamed(
    data: Any,
    classes_per_batch: int | None,
    items_per_class: int | None,
    batches: int | None,
    seed: int,
) -> BalancedStream:
    if isinstance(data, BalancedStream):
        given = (classes_per_batch, items_per_class, batches)
        if given != (None, None, None):
            raise InputError(
                "classes_per_batch, items_per_class and batches must be left out for a "
                f"BalancedStream, which has them, got {given}."
            )
        return data
    return BalancedStream(
        data if isinstance(data, Stream) else Stream(data),
        classes_per_batch=classes_per_batch,
        items_per_class=items_per_class,
        batches=STREAMED if batches is None else batches,
        seed=seed,
    )


def _check_streamable(loss: nn.Module, batch_sampler: Any, workers: int, checkpoint: Any) -> None:
    for name, value in (
        ("batch_sampler", batch_sampler),
        ("workers", workers or None),
        ("checkpoint", checkpoint),
    ):
        if value is not None:
            raise InputError(
                f"must be left out for a stream, got {value!r}. Give a dataset with a length, or "
                "leave it out.",
                argument=name,
            )
    if getattr(loss, "takes_ids", False):
        raise InputError(
            f"loss must take no ids for a stream, whose items have none, got {type(loss).__name__}."
        )


class _Run(NamedTuple):
    encoder: nn.Module
    optimizer: torch.optim.Optimizer
    loader: Any
    loss: nn.Module
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Any
    clip_gradients: float | None
    encoded: Callable[..., Any]
    processes: Processes
    divided: Divided | DividedStream | None
    views: int


def _epoch(
    run: _Run,
    augment: PerSide,
    preprocess: PerSide,
    epoch: int,
    progress: AfterBatch | None,
) -> dict[str, float]:
    started = time.perf_counter()
    run.encoder.train()
    run.loss.train()
    batches = len(run.loader)
    learning_rate = float(run.scheduler.get_last_lr()[0])
    guard = Guard(run.encoder, run.loss)
    processes = run.processes
    told: list[dict[str, Tensor]] = []
    shares: list[float] = []  # of each batch, the part of its rows that is here

    def prepare(items: Any, side: int) -> Any:
        change, apply = of_side(augment, side), of_side(preprocess, side)
        if change is not None:
            with nullcontext() if draws_by_item(change) else processes.own_chance():
                items = change(items)
        return items if apply is None else apply(items)

    number = 0
    weights = [*run.encoder.parameters(), *run.loss.parameters()]
    here = processes.batches(_workers.batches(run.loader), run.divided)
    for number, (batch, rows) in enumerate(here, start=1):
        with sharing(share(processes, rows, run.views)):
            compare: Any = run.loss if processes.count == 1 else Parted(run.loss)
            value, labels, embeddings = batch_loss(
                run.encoder, compare, batch, prepare, run.encoded
            )
            labels = None if labels is None else everything(labels)
        if not value.requires_grad:
            raise known_to_all(
                InputError(
                    f"loss must have a gradient, got {type(run.loss).__name__} without one. "
                    "Compare by a distance that changes with the embeddings, not by one that "
                    "counts."
                )
            )
        run.optimizer.zero_grad()
        run.accelerator.backward(value)
        processes.add_gradients(weights)
        guard.see(embeddings, value)
        norm: dict[str, Tensor] = {}
        if run.clip_gradients is not None:
            norm["gradient_norm"] = run.accelerator.clip_grad_norm_(weights, run.clip_gradients)
        run.optimizer.step()
        run.scheduler.step()
        # Numbers stay on the device until the epoch is over, so that no step waits for it.
        classes = {} if labels is None else label_facts(labels)
        if getattr(run.optimizer, "step_was_skipped", False):
            guard.skip()
        else:
            facts = getattr(run.loss, "facts", {})
            told.append({"loss": value.detach(), **norm, **classes, **facts})
            shares.append(rows[processes.rank] / max(sum(rows), 1))
        if progress is not None:
            progress(epoch, number, batches)
    if not number:
        raise known_to_all(
            InputError(
                f"batch_sampler must give at least one batch per epoch, got none in epoch {epoch}. "
                "Give one that can be gone through again."
            )
        )
    try:
        guard.check(epoch, processes.least)
    except InputError as error:
        raise known_to_all(error) from None
    return {
        **_means(told, shares, processes),
        "learning_rate": learning_rate,
        "seconds": time.perf_counter() - started,
    }


def _means(
    told: list[dict[str, Tensor]], shares: list[float], processes: Processes
) -> dict[str, float]:
    # In float64, where no sum of float32 numbers overflows.
    steps = {
        name: torch.stack([facts[name].float() for facts in told]).cpu().double()
        for name in told[0]
    }
    if processes.count > 1:
        steps = facts_of_all(steps, torch.tensor(shares, dtype=torch.float64), processes)
    return {name: float(numbers.mean()) for name, numbers in steps.items()}


def _quiet(progress: AfterBatch | bool) -> AfterBatch | bool:
    """What a process shows that does not lead; what is no progress at all is refused as ever."""
    return False if callable(progress) or isinstance(progress, bool) else progress


@contextmanager
def _said_of_validation() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise type(error)(f"validation: {error}") from error


def _with_state(callbacks: Sequence[Callback]) -> dict[str, Any]:
    kept = [c for c in callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]
    return {f"callback {n} ({type(c).__name__})": c for n, c in enumerate(kept, start=1)}


def _accelerator(device: str | None, precision: str) -> Any:
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.state import AcceleratorState

    check_choice("precision", precision, PRECISIONS)
    chosen = chosen_device(device)
    if precision == "float16" and chosen == "cpu":
        raise InputError(
            "must not be float16 on a CPU, got float16. Use bfloat16.", argument="precision"
        )
    # Accelerate keeps device and precision of a process's first run for all later ones.
    AcceleratorState._reset_state(reset_partial_state=True)
    told = os.environ.get(ACCELERATES_DEVICE)
    if told_count() == 1:  # several share out the GPUs by themselves
        os.environ[ACCELERATES_DEVICE] = chosen  # the only way to name one of several GPUs to it
    try:
        # Of several processes it makes a group on CPUs only where it is told that there is no GPU.
        accelerator = Accelerator(
            cpu=chosen == "cpu",
            mixed_precision=PRECISIONS[precision],
            dataloader_config=DataLoaderConfiguration(non_blocking=need_not_wait(chosen)),
        )
    finally:
        if told is None:
            os.environ.pop(ACCELERATES_DEVICE, None)
        else:
            os.environ[ACCELERATES_DEVICE] = told
    met = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if told_count() != met:
        raise InputError(
            f"LOCAL_RANK must tell which of {told_count()} processes this is, got none. "
            "Start them with torchrun or accelerate launch."
        )
    return accelerator


def _optimizer(
    encoder: nn.Module,
    loss: nn.Module,
    learning_rate: float,
    loss_learning_rate: float | None,
    weight_decay: float,
) -> torch.optim.Optimizer:
    check_at_least("weight_decay", weight_decay, 0)
    groups: list[dict[str, Any]] = [{"params": list(encoder.parameters())}]
    own = list(loss.parameters())
    if loss_learning_rate is not None:
        check_positive("loss_learning_rate", loss_learning_rate)
        if not own:
            raise InputError(
                "loss_learning_rate must be for a loss with weights of its own, got "
                f"{type(loss).__name__}, which has none. Leave it out."
            )
        groups.append({"params": own, "lr": loss_learning_rate})
    else:
        groups[0]["params"] += own
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=True)


def _check_something_learns(encoder: nn.Module, loss: nn.Module) -> None:
    weights = [*encoder.parameters(), *loss.parameters()]
    if not any(weight.requires_grad for weight in weights):
        raise InputError(
            f"encoder must have weights that can be trained, got {type(encoder).__name__} with "
            f"{'none that is not frozen' if weights else 'no weights at all'}. "
            'Use trainable="partial", or add a layer, as embedding_dim= does.'
        )


def _check_optimizer_holds(loss: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    # A proxy loss owns weights. Left out of the optimizer they silently never learn.
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    forgotten = sum(weight.numel() for weight in loss.parameters() if id(weight) not in held)
    if forgotten:
        raise InputError(
            f"optimizer must hold the weights of {type(loss).__name__}, got one without "
            f"{forgotten} of them, which would never learn. "
            "Build it with [*encoder.parameters(), *loss.parameters()]."
        )


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _device_of(module: nn.Module) -> torch.device:
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))
