"""The processes of one training: what they tell each other, and how one that fails lets others go.

All of it does nothing where there is one process.
"""

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Sampler

from likewise._devices import need_not_wait
from likewise.errors import InputError, MissingExtra

Result = TypeVar("Result")
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PATIENCE = timedelta(days=30)  # with which processes wait while the first one evaluates
_left: list[int] = []  # the ranks that this process had where it ended the connection
FEW = 1 << 12  # numbers that all have sooner by sending each other theirs than by a ring
BUCKET = 1 << 23  # gradients, in numbers, that are added up at once


def told_count() -> int:
    """How many processes torch, torchrun, `accelerate launch` or MPI say that there are.

    Raises:
        InputError: They say several, but not how to reach each other.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if _left:
        raise InputError(
            "fit must be called in processes that reach each other, got one whose connection ended "
            "with a training that failed. Start all processes anew."
        )
    told = max(("WORLD_SIZE", *MPI_SIZES), key=_number)
    count = _number(told)
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT"]
    if told in MPI_SIZES:
        needed = [told.replace("SIZE", "RANK"), "MASTER_ADDR"]
    missing = [name for name in needed if name not in os.environ]
    if count > 1 and missing:
        raise InputError(
            f"{told} must come with {', '.join(missing)}, got {count} processes that do not know "
            "of each other. Start them with torchrun or accelerate launch, or leave it out."
        )
    return count


def _number(name: str) -> int:
    told = os.environ.get(name, "")
    return int(told) if told.isdecimal() else 1


class Processes:
    """The processes that train together, as one of them sees them.

    What one process alone meets, another would wait for in vain. So what may fail in one is either
    done by the first, which tells the others how it ended (`lead`), or told before each step
    (`batches`). Whatever fails otherwise ends the connection, and with it the others (`leave`).

    Attributes:
        count: How many there are.
        rank: Which one this is; the first is 0.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized()
        self.count = dist.get_world_size() if several else 1
        self.rank = dist.get_rank() if several else 0
        # Messages go over the CPU, so that no device is waited for.
        self._control: Any = None
        if self.count > 1:
            self._control = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes, evaluates, and says how it goes."""
        return self.rank == 0

    def close(self) -> None:
        """Give back what only this training needed."""
        if self._control is not None:
            dist.destroy_process_group(self._control)
            self._control = None

    def leave(self) -> None:
        """End the connection, so that others do not wait for this process."""
        if self.count > 1 and dist.is_initialized():
            _left.append(self.rank)
            self._control = None
            dist.destroy_process_group()

    def lead(self, act: Callable[[], Result]) -> Result:
        """What the first process gets from `act`, which only it calls, on every process.

        Raises:
            Exception: What it met; on the others, the same if it is the caller's mistake.
        """
        if self.count == 1:
            return act()
        answer: list[Any] = [None]
        failed: BaseException | None = None
        if self.leads:
            try:
                answer = [("done", act())]
            except BaseException as error:
                failed, answer = error, [_told(error)]
        with _reached():
            dist.broadcast_object_list(answer, src=0, group=self._control)
        if failed is not None:
            failed.__dict__["is_known_to_all"] = True
            raise failed
        kind, value = answer[0]
        if kind == "done":
            return value  # type: ignore[no-any-return]
        raise known_to_all(_raised(kind, value))

    def agree(self, **named: Any) -> None:
        """Refuse a training that is not the same on all processes.

        Raises:
            InputError: A value differs.
        """
        if self.count == 1:
            return
        told: list[Any] = [None] * self.count
        with _reached():
            dist.all_gather_object(told, named, group=self._control)
        for rank, others in enumerate(told):
            for name, value in told[0].items():
                if others[name] != value:
                    raise known_to_all(
                        InputError(
                            f"{name} must be the same in every process, got {value} in process 0 "
                            f"and {others[name]} in process {rank}. Start all alike."
                        )
                    )

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count == 1:
            return values
        if values.numel() <= FEW:
            return self.stacked(values).sum(dim=0, dtype=values.dtype)
        return self._reduced(values, dist.ReduceOp.SUM)

    def least(self, values: Tensor) -> Tensor:
        """The smallest over all processes, number by number."""
        return self._reduced(values, dist.ReduceOp.MIN) if self.count > 1 else values

    def most(self, values: Tensor) -> Tensor:
        """The largest over all processes, number by number."""
        return self._reduced(values, dist.ReduceOp.MAX) if self.count > 1 else values

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        with _reached():
            dist.all_reduce(total, how, group=self._group(total))
        return total

    def stacked(self, values: Tensor) -> Tensor:
        """The values of each process, one after the other along a new first dimension."""
        every = [torch.empty_like(values) for _ in range(self.count)]
        with _reached():
            dist.all_gather(every, values.detach().contiguous(), group=self._group(values))
        return torch.stack(every)

    def _group(self, values: Tensor) -> Any:
        # NCCL sends nothing that lies on the CPU.
        is_there = values.device.type == "cpu" and dist.get_backend() != "gloo"
        return self._control if is_there else None

    def numbers(self, *own: int) -> list[list[int]]:
        """Whole numbers of each process, over the CPU."""
        mine = torch.tensor(own)
        every = [torch.empty_like(mine) for _ in range(self.count)]
        with _reached():
            dist.all_gather(every, mine, group=self._control)
        return [each.tolist() for each in every]

    def alike(self, *modules: nn.Module) -> None:
        """Give modules the weights and buffers that they have on the first process."""
        if self.count == 1:
            return
        with torch.no_grad(), _reached():
            for module in modules:
                for each in (*module.parameters(), *module.buffers()):
                    if not each.numel():
                        continue
                    there = each.detach().contiguous()
                    # As bytes, since a backend may not know each kind of number.
                    dist.broadcast(there.flatten().view(torch.uint8), src=0)
                    each.copy_(there)

    def add_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Put the sum over all processes in the place of each gradient.

        A weight that has none on any process is left without, as an optimizer then passes it over.
        """
        if self.count == 1:
            return
        # One that encoder and loss share comes once.
        learning = [weight for weight in dict.fromkeys(weights) if weight.requires_grad]
        used = torch.tensor([weight.grad is not None for weight in learning], dtype=torch.uint8)
        used = self.stacked(used).amax(dim=0)
        groups: dict[Any, list[Tensor]] = {}
        for weight, is_used in zip(learning, used.tolist(), strict=True):
            if not is_used:
                continue
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            elif weight.grad.is_sparse:
                weight.grad = weight.grad.to_dense()
            groups.setdefault((weight.grad.dtype, weight.grad.device), []).append(weight.grad)
        waiting = []
        with _reached():
            for gradients in groups.values():
                for some in _buckets(gradients):
                    flat = torch.cat([each.flatten() for each in some])
                    waiting.append((dist.all_reduce(flat, async_op=True), flat, some))
            for work, flat, some in waiting:
                work.wait()
                parts = torch.split(flat, [each.numel() for each in some])
                for gradient, part in zip(some, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))

    def batches(self, loader: Iterable[Any], drawn: Any) -> Iterator[Any]:
        """The shares of batches that are loaded here, each with the rows of all processes.

        Args:
            loader: Gives this process's shares.
            drawn: What divides the batches, such as `Divided`; None on one process.

        Yields:
            A batch and the number of its rows on each process.

        Raises:
            InputError: Processes drew different batches.
            ConnectionError: Another process could not load its share.
        """
        if self.count == 1:
            yield from ((batch, [0]) for batch in loader)
            return
        iterator = iter(loader)
        while True:
            batch, failed = None, None
            try:
                # What is read alike by all must be drawn alike.
                with self.own_chance() if drawn.reads_apart else nullcontext():
                    batch = next(iterator, None)
            except BaseException as error:
                failed = error
            rows = 0 if batch is None else rows_of(batch)
            of_whole = 0 if batch is None else drawn.of_next()
            every = self.numbers(-1 if failed is not None else rows, of_whole, _random_key())
            if failed is not None:
                raise known_to_all(failed)
            for rank, (there, *_) in enumerate(every):
                if there < 0:
                    raise known_to_all(
                        ConnectionError(
                            f"process {rank} of this training could not load its share of a "
                            "batch; its own message says why."
                        )
                    )
            if len({whole for _, whole, _ in every}) > 1 or len({n > 0 for n, *_ in every}) > 1:
                raise known_to_all(InputError(drawn.unlike))
            if batch is None:
                return
            if len({key for *_, key in every}) > 1:  # one drew more often than another
                torch.manual_seed(every[0][2])
            yield batch, [there for there, *_ in every]

    @contextmanager
    def own_chance(self) -> Iterator[None]:
        """Within, random numbers of torch are this process's own; all go on alike afterwards.

        What is drawn depends on the common state, and so comes again where that is brought back. If
        nothing was drawn, the common state stays as it was.
        """
        if self.count == 1:
            yield
            return
        common = _random_states()
        key = _random_key()
        torch.manual_seed(key * 2**16 + 1 + self.rank)
        begun = _random_states()
        try:
            yield
        finally:
            after = _random_states()
            if all(map(torch.equal, begun, after)):
                _set_random_states(common)
            else:
                torch.manual_seed(key * 2**16)

    def with_own_chance(self, encoder: nn.Module) -> list[Any]:
        """Let dropout and the like differ from process to process; handles that end it."""
        if self.count == 1:
            return []
        within: list[Any] = []

        def before(*_: Any) -> None:
            within.append(self.own_chance())
            within[-1].__enter__()

        def after(*_: Any) -> None:
            within.pop().__exit__(None, None, None)

        return [
            encoder.register_forward_pre_hook(before),
            encoder.register_forward_hook(after, always_call=True),
        ]


class Divided(Sampler[list[int]]):
    """The share that one process has of each batch of a sampler: neighbors, as even as can be.

    Args:
        sampler: Draws whole batches, the same ones in every process.
        processes: The processes.

    Raises:
        InputError: When gone through, if a batch has fewer items than there are processes.
    """

    reads_apart = True
    unlike = (
        "batch_sampler must draw the same batches in every process, got others in some. Let its "
        "random numbers come from a seed."
    )

    def __init__(self, sampler: Any, processes: Processes) -> None:
        self.drawing = sampler
        self.processes = processes
        self._drawn: deque[int] = deque()

    def __len__(self) -> int:
        return len(self.drawing)

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler, and one within it, as Accelerate does."""
        for each in (self.drawing, getattr(self.drawing, "sampler", None)):
            tell = getattr(each, "set_epoch", None)
            if tell is not None:
                tell(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        self._drawn.clear()
        for whole in self.drawing:
            rows = list(whole)
            # A loader with workers draws ahead, so what was drawn waits for its batch.
            self._drawn.append(zlib.crc32(torch.tensor(rows).numpy().tobytes()))
            yield rows[share_of(len(rows), self.processes)]

    def of_next(self) -> int:
        """A checksum of the whole batch that the next loaded one belongs to."""
        return self._drawn.popleft()


def share_of(rows: int, processes: Processes) -> slice:
    """Which rows of a batch are this process's: the first ones have one more where it must be.

    Raises:
        InputError: There are fewer rows than processes.
    """
    if rows < processes.count:
        raise InputError(
            f"batches must hold at least one item for each of {processes.count} processes, got "
            f"one of {rows}. Draw larger batches, or start fewer processes."
        )
    each, more = divmod(rows, processes.count)
    first = processes.rank * each + min(processes.rank, more)
    return slice(first, first + each + (processes.rank < more))


def placed(loader: Any, device: torch.device) -> Any:
    """A loader whose batches come on the device, and are not divided again."""
    from accelerate.data_loader import prepare_data_loader

    return prepare_data_loader(
        loader,
        device=device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        non_blocking=need_not_wait(device),
    )


def is_first_process() -> bool:
    """Whether this process is the one that writes; also where it is the only one.

    After `fit` on several processes each has the same encoder, and one is enough to save it.

    Example:
        >>> is_first_process()
        True
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    ranks = ("RANK", *(name.replace("SIZE", "RANK") for name in MPI_SIZES))
    told = [os.environ[name] for name in ranks if name in os.environ]
    return _number("WORLD_SIZE") * max(map(_number, MPI_SIZES)) == 1 or told[:1] in ([], ["0"])


def rows_of(batch: Any) -> int:
    """How many items, pairs or triplets a batch holds."""
    items = batch[0]
    if isinstance(items, tuple) and hasattr(batch, "ids"):  # items with their labels, and ids
        items = items[0]
    if isinstance(items, Tensor) or isinstance(items[0], str):
        return len(items)
    return len(items[0])


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    some: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if some and size + gradient.numel() > BUCKET:
            yield some
            some, size = [], 0
        some.append(gradient)
        size += gradient.numel()
    if some:
        yield some


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


def _random_key() -> int:
    """A number that stands for where the random numbers are."""
    key = 0
    for state in _random_states():
        key = zlib.crc32(state.numpy().tobytes(), key)
    return key


def _set_random_states(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


@contextmanager
def _reached() -> Iterator[None]:
    """Within, a process that is gone is told of in a sentence."""
    try:
        yield
    except RuntimeError as error:  # of torch's backends, which have no class for it
        raise ConnectionError(
            "another process of this training ended; its own message says why."
        ) from error


def _told(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, InputError):
        parts = {
            name: getattr(error, name) for name in ("sentence", "argument", "remedy", "command")
        }
        kinds = (each.__name__ for each in type(error).__mro__ if each.__module__ == _ERRORS)
        return next(kinds), parts
    if isinstance(error, MissingExtra):
        return "MissingExtra", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "KeyboardInterrupt", ""
    return "other", type(error).__name__


def _raised(kind: str, value: Any) -> BaseException:
    from likewise import errors

    if kind == "KeyboardInterrupt":
        return KeyboardInterrupt()
    if kind == "MissingExtra":
        return MissingExtra(value)
    if kind == "other":
        return ConnectionError(
            f"process 0 of this training ended with {value}; its own message says more."
        )
    given = dict(value)
    made: BaseException = getattr(errors, kind)(given.pop("sentence"), **given)
    return made


_ERRORS = InputError.__module__


def known_to_all(error: BaseException) -> BaseException:
    """The error, marked as one that every process raises."""
    error.__dict__["is_known_to_all"] = True
    return error


def is_known_to_all(error: BaseException) -> bool:
    """Whether every process raises for the same reason, so that none waits for this one."""
    return bool(getattr(error, "is_known_to_all", False))
